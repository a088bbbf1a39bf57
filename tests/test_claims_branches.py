"""Branched trainings of the court: what the runner is asked for, and what it says is read."""

from __future__ import annotations

import types
from pathlib import Path

import pytest

from tests.court_fixtures import make_workload
from tfbatch.claims import _session
from tfbatch.claims._court import Training
from tfbatch.claims._preset import PRESETS
from tfbatch.claims._session import LiveCourt
from tfbatch.configuration import Configuration
from tfbatch.errors import RunFolderError, TfbatchError
from tfbatch.search.progress import Progress
from tfbatch.trial.outcome import TrialSpec

CONFIGURATION = Configuration(batch_size=32, base_batch_size=32, base_learning_rate=0.1)
QUARTER = CONFIGURATION.model_copy(update={"base_learning_rate": 0.025})
TRUNK = Training(CONFIGURATION, 640, 3, is_trunk=True)
BRANCH = Training(QUARTER, 960, 3, parent=TRUNK)


class Runner:
    """Builds the specifications that the real one builds, and ends each at once."""

    def __init__(self, *, diverges=(), killed=()):
        self.specs, self.diverges, self.killed = {}, diverges, killed

    def spec(self, trial, phase, seed, configuration, part):
        parent = self.specs[part.parent] if part.parent else None
        spec = TrialSpec(
            trial,
            phase,
            seed,
            configuration,
            part.total_examples,
            1024,
            to_examples=part.to_examples,
            parent=parent,
            course_from=parent.end_examples if parent and part.schedule else 0,
        )
        spec.check()
        return spec

    def run_all(self, specs):
        for spec in specs:
            self.specs[spec.trial] = spec
            status = "diverged" if spec.trial in self.diverges else "completed"
            status = "killed" if spec.trial in self.killed else status
            yield types.SimpleNamespace(
                trial=spec.trial,
                status=status,
                row=spec,
                examples=spec.end_examples,
                curves=spec.trial,
                message="by a signal",
            )


def court_with(runner, monkeypatch):
    def read_curves(folder, spec):
        del folder
        ends = (spec.from_examples + 160, spec.end_examples)
        values = [{"examples": float(x), "val_loss": 1 / x} for x in ends]
        return [types.SimpleNamespace(values=one) for one in values]

    monkeypatch.setattr(_session, "read_curves", read_curves)
    return LiveCourt(
        make_workload(),
        PRESETS["tiny"],
        1,
        runner=runner,
        engine=None,
        measurements=None,
        tensorboard=Path("tensorboard"),
        objective=types.SimpleNamespace(name="val_loss", direction="min"),
        progress=Progress(None),
    )


def test_trainings_that_branch_nowhere_keep_the_names_of_older_folders():
    assert Training(CONFIGURATION, 640, 3).name == "b32-r0.1-f27f311ab4"
    names = {
        Training(CONFIGURATION, 640, 3).name,
        TRUNK.name,
        BRANCH.name,
        Training(QUARTER, 960, 3).name,
        Training(QUARTER, 960, 3, parent=Training(QUARTER, 640, 3, is_trunk=True)).name,
    }
    assert len(names) == 5


def test_a_branch_is_run_after_its_trunk_and_goes_on_where_that_one_ended(monkeypatch):
    runner = Runner()
    (run,) = court_with(runner, monkeypatch).train([BRANCH])

    trunk, branch = (runner.specs[one.name] for one in (TRUNK, BRANCH))
    assert list(runner.specs) == [TRUNK.name, BRANCH.name]
    assert trunk.end_examples == 640 < trunk.total_examples  # so that its state is kept
    assert (branch.from_examples, branch.course_from, branch.end_examples) == (640, 640, 960)
    assert branch.steps == BRANCH.own_examples // 32 == 10
    assert run.examples == (0.0, 160.0, 640.0, 800.0, 960.0)
    assert run.scores == (-1.0, -1 / 160, -1 / 640, -1 / 800, -1 / 960)


def test_what_branches_from_a_training_that_diverged_has_diverged(monkeypatch):
    runner = Runner(diverges={TRUNK.name})
    later = Training(QUARTER, 1280, 3, parent=Training(QUARTER, 960, 3, TRUNK, is_trunk=True))
    found = court_with(runner, monkeypatch).train([BRANCH, later])

    assert list(runner.specs) == [TRUNK.name]
    assert [run.diverged for run in found] == [True, True]
    assert [run.score_at(run.training.examples) for run in found] == [-1.0, -1.0]


def test_a_training_that_was_killed_is_run_once_more_and_what_branches_goes_on_from_that(
    monkeypatch,
):
    """Its row stays in the journal, and ended every later session too."""
    runner = Runner(killed={TRUNK.name})
    (run,) = court_with(runner, monkeypatch).train([BRANCH])

    again = f"{TRUNK.name}-again"
    assert list(runner.specs) == [TRUNK.name, again, BRANCH.name]
    assert runner.specs[BRANCH.name].parent.trial == again
    assert run.training == BRANCH
    assert run.examples == (0.0, 160.0, 640.0, 800.0, 960.0)


def test_what_fails_is_run_again_before_the_next_so_that_a_bug_fails_once(monkeypatch):
    other = Training(CONFIGURATION, 640, 4)
    both = {TRUNK.name, f"{TRUNK.name}-again"}
    runner = Runner(killed=both)
    with pytest.raises(TfbatchError, match="failed twice"):
        court_with(runner, monkeypatch).train([TRUNK, other])
    assert set(runner.specs) == both


def test_a_training_that_fails_twice_says_how_it_is_run_again(monkeypatch):
    runner = Runner(killed={TRUNK.name, f"{TRUNK.name}-again"})
    with pytest.raises(TfbatchError, match=r"failed twice.*by a signal.*trials\.jsonl"):
        court_with(runner, monkeypatch).train([TRUNK])


@pytest.mark.parametrize("left", [0, 1])
def test_a_training_whose_curve_is_gone_is_not_taken_for_an_untrained_model(left, monkeypatch):
    runner = Runner()
    court = court_with(runner, monkeypatch)
    whole = _session.read_curves
    monkeypatch.setattr(_session, "read_curves", lambda *arguments: whole(*arguments)[:left])

    with pytest.raises(RunFolderError, match=r"must reach its end, 640 examples.*Put the folder"):
        court.train([TRUNK])
