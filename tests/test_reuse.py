"""`tune --from=RUN`: trials of other hardware are taken, times are not, and nothing is trained."""

from __future__ import annotations

import json
import shutil

import pytest
from test_answer import RUNS

import tfbatch.tune
from tfbatch.answer.stored import answer_of
from tfbatch.errors import InputError
from tfbatch.run_folder.cluster_nodes import ClusterNode, write_nodes
from tfbatch.run_folder.reuse import ASSUMED, take_trials


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
