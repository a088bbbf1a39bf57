"""`tune --from=RUN`: trials of other hardware are taken, times are not, and nothing is trained."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
from search_fixtures import make_request_of
from test_answer import RUNS

import tfbatch.search.session
import tfbatch.tune
from tfbatch.answer.stored import answer_of
from tfbatch.errors import InputError
from tfbatch.request.execution import Execution
from tfbatch.run_folder.cluster_nodes import ClusterNode, write_nodes
from tfbatch.run_folder.folder import RunFolder, RunLock
from tfbatch.run_folder.reuse import ASSUMED, take_trials
from tfbatch.search.progress import Progress


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("reuse") / "run"
    RUNS["complete"](path)
    answer_of(path).write(path)
    (path / "step_times.json").write_text('{"device": "a GPU", "seconds": {"16": [1, 2]}}')
    (path / "wall_time.json").write_text("{}")
    (path / "fingerprint.json").write_text('{"hardware": {"accelerators": ["a GPU"]}}')
    return path


def test_the_trials_are_taken_and_the_times_stay_behind(source, tmp_path):
    said = take_trials(source, tmp_path / "here")

    here = tmp_path / "here"
    assert (here / "trials.jsonl").read_bytes() == (source / "trials.jsonl").read_bytes()
    assert answer_of(here).recommended_trial == answer_of(source).recommended_trial
    assert list((here / "weights").iterdir())
    left = {"step_times.json", "fingerprint.json"}
    assert not left & {path.name for path in here.iterdir()}
    assert json.loads((here / "wall_time.json").read_text()) == {"seconds": 0.0}
    assert "as they were scored on a GPU" in said
    assert ASSUMED in said
    assert json.loads((here / "reused.json").read_text())["said"] == said


def test_of_a_cluster_the_kinds_of_its_nodes_are_named(source, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(source, run)
    nodes = [ClusterNode(f"10.0.0.{n}", kind, 1) for n, kind in enumerate(("A", "B", "A"))]
    write_nodes(run, "A", nodes)

    assert "as they were scored on A, B. " in take_trials(run, tmp_path / "here")
    content = json.loads((tmp_path / "here" / "reused.json").read_text())
    assert [one["kind"] for one in content["nodes"]] == ["A", "B", "A"]


def test_a_second_session_takes_nothing_again(source, tmp_path):
    take_trials(source, tmp_path)
    journal = tmp_path / "trials.jsonl"
    journal.write_bytes(journal.read_bytes() + b"\n")
    before = journal.read_bytes()

    take_trials(source, tmp_path)
    assert journal.read_bytes() == before


def test_trials_that_the_run_made_since_are_not_said_to_be_taken(source, tmp_path):
    run, here = tmp_path / "run", tmp_path / "here"
    shutil.copytree(source, run)
    said = take_trials(run, here)
    journal = run / "trials.jsonl"
    before = journal.read_bytes()
    row = json.loads(before.splitlines()[-1]) | {"trial": "confirm-9"}
    journal.write_bytes(before + json.dumps(row).encode() + b"\n")

    assert take_trials(run, here) == (
        f"{said} Not taken: 1 that {run} has made since. Take them with another --run_dir."
    )
    assert (here / "trials.jsonl").read_bytes() == before


def test_what_cannot_be_taken_is_refused_and_leaves_nothing(source, tmp_path):
    RUNS["interrupted before verification"](tmp_path / "unverified")
    RUNS["complete"](tmp_path / "other")
    before = (tmp_path / "other" / "trials.jsonl").read_bytes()

    with pytest.raises(InputError, match="must be a run with a verification"):
        take_trials(tmp_path / "unverified", tmp_path / "here")
    with pytest.raises(InputError, match="needs a run folder without trials"):
        take_trials(source, tmp_path / "other")
    with pytest.raises(InputError, match="must be another folder"):
        take_trials(source, source)
    assert not (tmp_path / "here").exists()
    assert (tmp_path / "other" / "trials.jsonl").read_bytes() == before


def test_the_command_trains_nothing(source, tmp_path, monkeypatch):
    asked = []

    def run_request(request, *_, **__):
        asked.append(request)
        raise InputError("stopped here")

    monkeypatch.setattr(tfbatch.tune, "run_request", run_request)
    arguments = [f"--from={source}", f"--run_dir={tmp_path / 'here'}"]
    with pytest.raises(InputError, match="stopped here"):
        tfbatch.tune.main(arguments)
    assert [request.only_times for request in asked] == [True]
    shutil.rmtree(tmp_path / "here")
    with pytest.raises(InputError, match="leave out --overwrite"):
        tfbatch.tune.main([*arguments, "--overwrite"])
    with pytest.raises(InputError, match="`--from` makes none"):
        tfbatch.tune.main([*arguments, "--dry_run"])
    assert not (tmp_path / "here" / "trials.jsonl").exists()


class StoppedHereError(Exception):
    """Ends a run where its first worker would begin."""


def settings_of(source, path, **identity):
    """A copy of a run folder that was begun with other settings."""
    shutil.copytree(source, path)
    settings = path / "config.json"
    content = json.loads(settings.read_text())
    content["identity"] = identity
    settings.write_text(json.dumps(content))
    return path


@pytest.fixture
def opened(monkeypatch):
    """Opens a run folder; gives how its trials are run and what is said of it."""
    asked, said = [], []

    def prepared(subject, execution, code, **_):
        asked.append(execution)
        raise StoppedHereError

    class Told(Progress):
        def say(self, text):
            said.append(text)

    def begin(run_dir, *, only_times=False, **changes):
        request = make_request_of(run_dir=run_dir, **changes)
        request = dataclasses.replace(request, only_times=only_times)
        with (
            pytest.raises(StoppedHereError),
            tfbatch.search.session.open_run(
                request, None, progress=Told(None), stop_requested=bool, lock=RunLock(run_dir)
            ),
        ):
            pass
        return asked.pop(), said

    monkeypatch.setattr(tfbatch.search.session, "prepared", prepared)
    return begin


def test_what_is_left_to_the_machine_is_as_in_the_trials_that_were_taken(source, tmp_path, opened):
    """Another machine's default would be refused: the folder was begun with other settings."""
    on_gpu = settings_of(source, tmp_path / "gpu", jit_compile=True, data_on="device")
    take_trials(on_gpu, tmp_path / "here")

    found, said = opened(tmp_path / "here", execution=Execution(), only_times=True)
    assert (found.jit_compile, found.data_on) == (True, "device")
    assert said == ["As in the trials that were taken: --data_on=device --jit_compile=true."]
    asked = Execution(jit_compile=False, data_on="host")
    assert opened(tmp_path / "here", execution=asked, only_times=True)[0] == asked
    assert opened(on_gpu, execution=Execution())[0] == Execution()  # trains: it is refused below


@pytest.mark.parametrize(
    ("there", "here", "flags"),
    [
        ({"jit_compile": False}, {"jit_compile": True}, "--jit_compile=false"),
        (
            {"jit_compile": True, "data_on": "device"},
            {"jit_compile": False},
            "--data_on=device --jit_compile=true",
        ),
        ({"jit_compile": True}, {"jit_compile": True, "data_on": "device"}, "--data_on=host"),
        ({}, {"jit_compile": True}, ""),  # of a version that did not say
        ({"jit_compile": True, "seed": 1}, {"jit_compile": False, "seed": 2}, ""),
    ],
)
def test_a_run_of_another_machine_is_told_the_flags_that_continue_it(
    source, tmp_path, there, here, flags
):
    run = settings_of(source, tmp_path / "run", **there)
    with pytest.raises(InputError) as refused, RunFolder(run, identity=here, budget={}):
        pass
    said = f"it was begun, add {flags}, or" if flags else "Choose another folder with --run_dir=DIR"
    assert said in str(refused.value)


def test_other_settings_than_those_of_the_trials_taken_name_the_flags_of_that_run(source, tmp_path):
    take_trials(settings_of(source, tmp_path / "run", seed=1), tmp_path / "here")

    with (
        pytest.raises(InputError, match="seed: 1 -> 2") as refused,
        RunFolder(tmp_path / "here", identity={"seed": 2}, budget={}),
    ):
        pass
    assert "Give the flags of the run that its trials were taken from" in str(refused.value)
    assert "--overwrite" not in str(refused.value)
