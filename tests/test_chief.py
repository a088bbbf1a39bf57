"""A search on several machines: what the chief's board does, and three real processes."""

from __future__ import annotations

import dataclasses
import json
import math
import socket
from pathlib import Path

import keras_tuner
import pytest
from keras_tuner.engine.trial import Trial
from processes import WarmProcess

from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.schema import Named
from tfbatch.search import chief
from tfbatch.search.chief import Board, Chief, parse_address
from tfbatch.trial.outcome import Outcome, TrialSpec

SPEC = TrialSpec(
    trial="search-0001",
    phase="search",
    seed=5,
    configuration=Configuration(
        batch_size=32,
        base_learning_rate=0.1,
        schedule=Named(name="cosine", final_fraction=0.1),
        optimizer=Named(name="sgd", momentum=0.9),
    ),
    total_examples=1000,
    num_examples=1000,
    log_dir=Path("here"),
    untrained_loss=2.3,
)
OUTCOME = Outcome("diverged", {"val_loss": math.nan}, 96, 3, 1.5, 0.5, "the loss is nan", "CPU")


class Hands:
    """A clock that a test turns."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def hands():
    return Hands()


@pytest.fixture
def board(hands):
    made = Board(now=hands)
    made.announce({"model": "m"})
    return made


def take(board, worker="a"):
    board.create_trial(worker)
    board.post(worker, SPEC)
    return board.create_trial(worker)


def report(board, worker="a", outcome=OUTCOME):
    hyperparameters = keras_tuner.HyperParameters()
    hyperparameters.Fixed(chief.OUTCOME, chief.outcome_to_json(outcome))
    trial = Trial(hyperparameters, trial_id=worker, status="COMPLETED")
    board.end_trial(Trial.from_proto(trial.to_proto()))


def test_a_trial_travels_without_its_paths_and_its_outcome_comes_back_whole(board):
    trial = Trial.from_proto(take(board).to_proto())  # as through gRPC
    assert trial.status == "RUNNING"
    received = chief.spec_from_json(trial.hyperparameters.values[chief.SPEC])
    assert received == dataclasses.replace(SPEC, log_dir=None)

    report(board)
    ((spec, outcome),) = board.ended()
    assert spec is SPEC
    assert math.isnan(outcome.metrics["val_loss"])
    assert dataclasses.replace(outcome, metrics={}) == dataclasses.replace(OUTCOME, metrics={})
    assert board.ended() == []


def test_what_the_job_is_can_be_asked(board):
    space = keras_tuner.HyperParameters.from_proto(board.get_space().to_proto())
    assert json.loads(space.values[chief.JOB]) == {"model": "m"}


def test_only_workers_that_ask_and_have_nothing_to_do_are_free(board, hands):
    assert board.free() == []
    assert board.create_trial("a").status == "IDLE"
    assert board.create_trial("b").status == "IDLE"
    assert board.free() == ["a", "b"]
    board.post("a", SPEC)
    assert board.free() == ["b"]
    assert board.create_trial("a").status == "RUNNING"
    assert board.free() == ["b"]
    hands.now += 6
    assert board.free() == [], "b has stopped asking"
    report(board)
    board.create_trial("a")
    assert board.free() == ["a"]


def test_a_silent_worker_costs_its_trial_and_what_it_says_later_does_not_count(board, hands):
    take(board, "a")
    take(board, "b")
    hands.now += 59
    assert board.update_trial("b", {}).status == "RUNNING"
    hands.now += 2
    ((spec, outcome),) = board.ended()
    assert (spec.trial, outcome.status) == (SPEC.trial, "killed")
    assert "a fell silent" in outcome.message
    report(board, "a")
    assert board.ended() == []
    assert board.update_trial("a", {}).status == "STOPPED", "it is told to give the trial up"
    assert board.update_trial("b", {}).status == "RUNNING"


def test_a_trial_that_was_never_taken_is_not_waited_for(board, hands):
    board.create_trial("a")
    board.post("a", SPEC)
    hands.now += 59
    assert board.ended() == []
    hands.now += 2
    assert [outcome.status for _, outcome in board.ended()] == ["killed"]


def test_what_is_taken_back_is_told_to_its_workers(board):
    take(board, "a")
    assert board.abandon() == [SPEC]
    assert board.update_trial("a", {}).status == "STOPPED"
    assert board.abandon() == []
    board.close()
    assert board.create_trial("a").status == "STOPPED"


@pytest.mark.parametrize("address", ["", "host", "host:", ":80", "host:port", "h:0", "h:65536"])
def test_an_address_of_another_form_is_refused(address):
    with pytest.raises(InputError, match=r"`--join` must be HOST:PORT"):
        parse_address(address, flag="--join")


def test_an_address_in_use_is_refused_at_once(board):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InputError, match="cannot be listened on"):
            Chief(address, board)


PATIENT = """
import runpy
from tfbatch.search import joined
joined._WAIT_SECONDS = 1800  # until the chief listens, on the slowest machine
runpy.run_module("tfbatch.tune", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_three_processes_share_a_search_and_the_chief_has_the_journal(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    run_dir = tmp_path / "run"

    def start(name, *arguments):
        here = {"TFBATCH_RECORDS_DIR": str(tmp_path / name)}
        return WarmProcess("-c", PATIENT, "--workers=1", *arguments, environment=here)

    joined = [start(name, f"--join={address}") for name in ("first", "second")]
    leader = start(
        "chief",
        f"--chief={address}",
        f"--run_dir={run_dir}",
        *("--search=quick", "--max_trials=16", "--trial_length=8 epochs"),
        "--verification_seeds=1",
    )
    told, _ = leader.communicate()
    heard = [process.communicate()[0] for process in joined]

    assert leader.returncode == 0, told
    rows = [json.loads(line) for line in (run_dir / "trials.jsonl").read_text().splitlines()]
    names = [row["trial"] for row in rows if row["phase"] == "search"]
    assert sorted(names) == [f"search-{n:04d}" for n in range(1, 17)]
    assert {row["status"] for row in rows} == {"completed"}
    for text, process in zip(heard, joined, strict=True):
        assert process.returncode == 0, text
        assert text.count("completed in") >= 2, "it had its share"
    ran = [line.split(":")[0] for text in heard for line in text.splitlines() if "begins" in line]
    assert len(ran) == len(set(ran)) < 16
    assert {name.split("-")[0] for name in ran} == {"search"}
