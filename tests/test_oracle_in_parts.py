"""An oracle may propose lengths, parents and a stop: rungs of successive halving as a plug-in."""

import contextlib
import dataclasses
import math
import sys
import types

import pytest
import tiny_model
from search_fixtures import (
    BASELINE,
    NUM_EXAMPLES,
    TOTAL_EXAMPLES,
    Trainer,
    finished,
    loss_of,
    make_runner,
    open_folder,
    outcome,
    trials_of,
)
from test_hparams_log import Backend

import tfbatch
from tfbatch import oracles
from tfbatch.answer.candidates import choose_candidates
from tfbatch.answer.find import find_answer
from tfbatch.answer.stored import answer_of
from tfbatch.curves_log import CurveWriter
from tfbatch.errors import InputError, SearchError
from tfbatch.exporters._trial import read_curves
from tfbatch.oracles import ORACLES, Part, Proposal, Setting, Stop
from tfbatch.request.search_config import SearchConfig
from tfbatch.run_folder.files import STATES
from tfbatch.run_folder.folder import RunFolder
from tfbatch.schema import Named
from tfbatch.search.clock import SearchClock
from tfbatch.search.kept_states import KeptStates
from tfbatch.search.loop import Search
from tfbatch.search.progress import Progress
from tfbatch.search.space import SearchSpace
from tfbatch.search.trial_runner import InterruptedTrialError
from tfbatch.trial.finished_trial import read_row
from tfbatch.trial.trials import Trials

HALVING = '''
"""Four configurations for a quarter, the best two to the half, the best one to the end."""

from typing import ClassVar

from tfbatch.oracles import OracleSettings, Part, Proposal, Stop


class Settings(OracleSettings):
    in_parts: ClassVar[bool] = True

    def make(self, hyperparameters, *, direction, seed, total_examples, premises):
        return Halving(total_examples, sign=1 if direction == "min" else -1)


class Halving:
    size = None

    def __init__(self, total, *, sign):
        self.total, self.sign, self.keep = total, sign, 2
        values = [{"base_learning_rate": rate} for rate in (0.01, 0.03, 0.1, 0.3)]
        self.rung = [Proposal(v, Part(to_examples=total // 4)) for v in values]
        self.open, self.ended = set(), []

    def propose(self, trial, *, known, bound):
        if not self.rung and not self.open:
            if not self.keep:
                return Stop("Halving has come to its end.")
            best = [p for _, p in sorted(self.ended, key=lambda end: end[0])[: self.keep]]
            stop = self.total // 2 if self.keep == 2 else None
            self.rung = [Proposal(v, Part(to_examples=stop, parent=t)) for t, v in best]
            self.ended, self.keep = [], self.keep // 2
        if not self.rung:
            return None
        proposed = self.rung.pop(0)
        assert known in (None, proposed), (known, proposed)
        self.open.add(trial)
        return proposed

    def tell(self, trial, proposal, told):
        self.open.remove(trial)
        self.ended.append((self.sign * told.score, (trial, proposal.values)))

    def forget(self, trial):
        self.open.remove(trial)
'''


@pytest.fixture
def halving(tmp_path, monkeypatch):
    """One more file in a second folder, in front of the package's own."""
    folder = tmp_path / "oracles"
    folder.mkdir()
    (folder / "halving.py").write_text(HALVING, encoding="utf-8")
    monkeypatch.setattr(oracles, "__path__", [str(folder), *oracles.__path__])
    monkeypatch.setattr(ORACLES, "_folder", folder)
    yield "halving"
    sys.modules.pop("tfbatch.oracles.halving", None)
    vars(oracles).pop("halving", None)


def config_of(oracle, **space):
    return SearchConfig.model_validate(
        {
            "description": "for tests",
            "oracle": {"name": oracle},
            "max_trials": 20,
            "space": {
                "batch_size": [32],
                "base_learning_rate": [0.01, 0.03, 0.1, 0.3],
                "learning_rate_octaves": 0.0,
                "warmup_fraction": 0.0,
                "schedules": [{"name": "constant"}],
                "optimizer": {"name": "sgd", "momentum": 0.9},
                **space,
            },
        }
    )


class PartTrainer(Trainer):
    """A loss of closed form that falls with the length, below that of any whole training."""

    def __call__(self, spec):
        spec.check()
        if spec.weights_file and spec.parent is None:
            return super().__call__(spec)
        self.ran.append(spec)
        if spec.trial == self.interrupt_at:
            return outcome(spec, status="interrupted")
        if spec.state_file:
            spec.state_file.parent.mkdir(exist_ok=True)
            spec.state_file.write_bytes(b"state of a trial" * 8)
        loss = loss_of(spec.configuration, spec.seed) - (0.9 if not spec.is_whole else 0.0)
        return dataclasses.replace(outcome(spec, loss=loss), examples=spec.end_examples)


def search(path, trainer, config, *, session=None, progress=None, clock=None):
    """One session, ended by `session` if given; the trials of the journal."""
    with open_folder(path) as folder:
        runner = make_runner(folder, trainer)
        found = Search(
            config,
            baseline=BASELINE,
            space=SearchSpace(config.space, num_examples=NUM_EXAMPLES),
            runner=runner,
            clock=clock or SearchClock(None),
            seed=7,
            untrained=2.3,
            progress=progress or Progress(None),
        )
        with contextlib.suppress(InterruptedTrialError):
            found.run(stop_requested=session or (lambda: False))
    with open_folder(path) as folder:
        return make_runner(folder, trainer).trials


def content(trials):
    return [{k: v for k, v in t.row.items() if k != "finished_at"} for t in trials]


def test_rungs_go_on_from_one_another_and_the_oracle_ends_the_search(tmp_path, halving):
    trainer, said = PartTrainer(), []
    progress = Progress(None)
    progress.say = said.append
    trials = search(tmp_path / "run", trainer, config_of(halving), progress=progress)

    ends = [
        (t.parent, t.from_examples, t.length, t.configuration.base_learning_rate) for t in trials
    ]
    quarter, half = TOTAL_EXAMPLES // 4, TOTAL_EXAMPLES // 2
    after_quarter, after_half = 640, 1280  # whole updates of 32
    assert ends[1:5] == [(None, 0, quarter, rate) for rate in (0.01, 0.03, 0.1, 0.3)]
    assert sorted(ends[5:7]) == [
        ("search-0003", after_quarter, half, 0.1),
        ("search-0004", after_quarter, half, 0.3),
    ]
    assert ends[7][1:] == (after_half, TOTAL_EXAMPLES, 0.1)
    assert trials.find(ends[7][0]).parent == "search-0003"
    assert len(trials) == 8
    assert said[-1] == "Halving has come to its end."
    assert trials[-1].seed == trials.find("search-0003").seed
    assert [t.trial for t in trials.of_full_length()] == ["baseline", "search-0007"]
    assert trainer.ran[-1].weights_file
    assert trainer.ran[-2].weights_file is None


class _Eighths:
    """One training in eight parts."""

    size = None

    def __init__(self, total):
        self.total, self.made = total, 0

    def propose(self, trial, *, known, bound):
        if self.made == 8:
            return Stop("All eight are made.")
        self.made += 1
        end = None if self.made == 8 else self.total * self.made // 8
        parent = f"search-{self.made - 1:04d}" if self.made > 1 else None
        return Proposal({"base_learning_rate": 0.1}, Part(to_examples=end, parent=parent))

    def tell(self, trial, proposal, told):
        pass


def test_a_part_takes_its_own_seconds_and_not_those_of_its_ancestors_too(tmp_path):
    """A journal has a part's seconds from the beginning of its training."""
    now = [0.0]

    class Slow(PartTrainer):
        def __call__(self, spec):
            examples = spec.end_examples - spec.from_examples
            now[0] += 100.0 * examples / TOTAL_EXAMPLES
            return dataclasses.replace(
                super().__call__(spec), seconds=100.0 * spec.end_examples / TOTAL_EXAMPLES
            )

    settings = types.SimpleNamespace(
        name="eighths", in_parts=True, make=lambda space, *, total_examples, **_: _Eighths(2400)
    )
    config = config_of("random").model_copy(update={"oracle": settings})
    config = config.model_copy(
        update={"confirmation": config.confirmation.model_copy(update={"seeds": 0})}
    )
    clock = SearchClock(220 / 60, finishing_seconds=5.0, now=lambda: now[0])
    trials = search(tmp_path / "run", Slow(), config, clock=clock)

    assert len(trials) == 9, "the baseline and all eight: 200 of 215 seconds"
    assert trials.own(trials[-1]).seconds < 20 < trials[-1].seconds


def test_a_search_in_parts_that_was_stopped_anywhere_has_the_same_journal(tmp_path, halving):
    config = config_of(halving)
    whole = search(tmp_path / "whole", PartTrainer(), config)
    for place in range(1, len(whole)):
        trainer, folder = PartTrainer(), tmp_path / f"stopped-{place}"
        search(folder, trainer, config, session=lambda n=place, t=trainer: len(t.ran) >= n)
        trainer.interrupt_at = whole[min(place + 2, len(whole) - 1)].trial
        search(folder, trainer, config)
        trainer.interrupt_at = None

        assert content(search(folder, trainer, config)) == content(whole)


def test_only_whole_trainings_of_full_length_are_compared_for_the_answer(tmp_path, halving):
    """Every part has a better score than any of them."""
    trials = search(tmp_path / "run", PartTrainer(), config_of(halving))
    assert min(trials, key=lambda t: t.score).length < TOTAL_EXAMPLES

    assert [c.key for c in choose_candidates(trials, batch_sizes=9)] == ["search-0007", "baseline"]
    answer = find_answer(trials, batch_sizes=9)
    assert answer.recommended_trial == "search-0007"
    assert answer.recommended.total_examples == TOTAL_EXAMPLES


def test_where_parts_alone_completed_the_reason_is_that_none_is_whole(tmp_path, halving):
    trainer = PartTrainer({"baseline": "error"})
    stopped = lambda: len(trainer.ran) >= 3  # noqa: E731
    trials = search(tmp_path / "run", trainer, config_of(halving), session=stopped)
    with pytest.raises(SearchError, match=r"No trial was trained to the run's length.*: 2 of 3"):
        find_answer(trials, batch_sizes=2)


def test_branches_and_short_trainings_are_not_of_full_length():
    baseline = finished("baseline", BASELINE, phase="baseline")
    row = finished("search-0001", BASELINE, loss=0.1).row
    other = {"from_examples": 0, "course_from": 0, "parent": None, "to_examples": TOTAL_EXAMPLES}
    short = read_row({**row, "total_examples": 100})
    part = read_row({**row, **other, "to_examples": 100})
    branch = read_row({**row, **other, "parent": "a", "from_examples": 90, "course_from": 90})
    last = read_row({**row, **other, "parent": "a", "from_examples": 90})

    long = read_row({**row, "total_examples": 2 * TOTAL_EXAMPLES})

    for trial in (short, part, branch, long):
        assert list(trials_of(baseline, trial).searched()) == [baseline]
        assert list(trials_of(trial).searched()) == [], "the baseline may end later"
    assert list(trials_of(baseline, last).searched()) == [baseline, last]


def test_a_longer_training_is_no_candidate_and_hides_none():
    baseline = finished("baseline", BASELINE, loss=0.5, phase="baseline")
    better = finished(
        "search-0001", BASELINE.model_copy(update={"base_learning_rate": 0.3}), loss=0.4
    )
    row = finished("search-0002", BASELINE, loss=0.1).row
    trials = trials_of(
        baseline, better, read_row({**row, "total_examples": 2 * TOTAL_EXAMPLES, "batch_size": 64})
    )

    assert [c.key for c in choose_candidates(trials, batch_sizes=9)] == ["search-0001", "baseline"]
    assert find_answer(trials, batch_sizes=9).recommended_trial == "search-0001"


def test_the_length_of_a_run_that_is_read_is_that_of_its_baseline(tmp_path):
    trainer = PartTrainer()
    with RunFolder(tmp_path, identity={"objective": "val_loss:min"}, budget={}) as folder:
        runner = make_runner(folder, trainer)
        runner.run(runner.spec("long", "search", 1, BASELINE, Part(total_examples=9999)))
        assert Trials.read(tmp_path).total_examples is None
        runner.run(runner.spec("baseline", "baseline", 1, BASELINE))

        assert [t.trial for t in Trials.read(tmp_path).searched()] == ["baseline"]


def test_a_cool_down_is_a_branch_with_the_schedule_that_it_names(tmp_path):
    trainer = PartTrainer()
    with open_folder(tmp_path) as folder:
        runner = make_runner(folder, trainer)
        trunk = BASELINE.model_copy(update={"schedule": Named(name="constant")})
        runner.run(runner.spec("trunk", "search", 3, trunk, Part(to_examples=1000)))
        cooled = trunk.model_copy(update={"schedule": Named(name="linear"), "batch_size": 64})
        part = Part(total_examples=1500, parent="trunk", schedule=Named(name="linear"))
        spec = runner.spec("cool", "search", 3, cooled, part)
        row = runner.run(spec).row
    assert (spec.from_examples, spec.course_from, spec.end_examples) == (1024, 1024, 1500)
    assert (spec.steps, spec.first_step, spec.derived.total_examples) == (8, 0, 476)
    assert {k: row[k] for k in ("parent", "from_examples", "to_examples", "course_from")} == {
        "parent": "trunk",
        "from_examples": 1024,
        "to_examples": 1500,
        "course_from": 1024,
    }
    with open_folder(tmp_path) as folder:
        again = make_runner(folder, trainer)
        assert again._spec_of(again.trials.find("cool")).identity() == spec.identity()


class CurvesTrainer(PartTrainer):
    """Writes a point in the middle and one at the end, into the folder that it is given."""

    def __call__(self, spec):
        found = super().__call__(spec)
        writer = CurveWriter(spec.log_dir)
        diverged = self.ends.get(spec.trial) == "diverged"
        for examples in ((spec.from_examples + spec.end_examples) // 2, spec.end_examples):
            writer.write(examples, {"val_loss": 9.0 if diverged else 1000 / examples})
        writer.close()
        metrics = {"val_loss": math.nan if diverged else 1000 / spec.end_examples}
        status = "diverged" if diverged else "completed"
        return dataclasses.replace(found, metrics=metrics, status=status)


def test_a_part_that_fails_has_a_row_of_its_own_and_leaves_its_parents_as_it_was(tmp_path):
    for _ in range(2):  # a second session writes the rows again
        with open_folder(tmp_path) as folder:
            runner = make_runner(folder, CurvesTrainer({"part": "diverged"}))
            first = runner.run(runner.spec("trunk", "search", 3, BASELINE, Part(to_examples=1000)))
            part = Part(to_examples=2000, parent="trunk")
            failed = runner.run(runner.spec("part", "search", 3, BASELINE, part))
        rows = Backend.of(tmp_path / "tensorboard").rows()

        assert (first.status, failed.status) == ("completed", "diverged")
        assert rows.keys() == {first.curves, failed.curves}
        assert rows[first.curves]["hparams"]["_status"] == "completed"
        (metric,) = rows[first.curves]["metricValues"]
        assert metric["value"] == pytest.approx(1000 / 1024)
        assert rows[failed.curves]["hparams"]["_status"] == "diverged"
        aside = rows[failed.curves]["metricValues"]
        assert {metric["name"]["group"] for metric in aside} == {"curves"}, "no final value"
        points = [read_curves(tmp_path / "tensorboard", one.row) for one in (first, failed)]
        # Each in one epoch, of which the later point counts.
        ends = [[point.values["val_loss"] for point in one] for one in points]
        assert ends == [[pytest.approx(1000 / 1024)], [9.0]]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Part(parent="search-9999"), r"go on from a trial that has completed\. Received: search-9"),
        (Part(to_examples=99, parent="trunk"), r"must end after it begins"),
        (Part(total_examples=0), r"at least 1, or None\. Received: to_examples=None, total_exampl"),
        (Part(to_examples=0, parent="trunk"), r"at least 1, or None\. Received: to_examples=0"),
        (Part(schedule=Named(name="linear")), r"must have a parent to branch off with a schedule"),
        (
            Part(parent="trunk", total_examples=900, schedule=Named(name="linear")),
            r"must end after it begins, .* from example 1024 to 900",
        ),
    ],
)
def test_a_part_that_cannot_be_is_refused(tmp_path, part, message):
    with open_folder(tmp_path) as folder:
        runner = make_runner(folder, PartTrainer())
        runner.run(runner.spec("trunk", "search", 3, BASELINE, Part(to_examples=1000)))
        with pytest.raises(InputError, match=message):
            runner.spec("child", "search", 3, BASELINE, part)


class AfterTheBaseline:
    """An oracle of one trial: the baseline's training with another end."""

    size = None

    def propose(self, trial, *, known, bound):
        if trial != "search-0001":
            return Stop("That is all.")
        part = Part(total_examples=4000, parent="baseline", schedule=Named(name="linear"))
        proposal = Proposal({"base_learning_rate": 0.01}, part)
        assert known in (None, proposal)
        return proposal

    def tell(self, *told):
        """All the same to it."""


def test_a_search_with_a_child_of_the_baseline_can_be_continued(tmp_path, halving, monkeypatch):
    """What was proposed follows from the journal, or is refused when it is proposed."""

    def config(schedule):
        found = config_of(halving, schedules=[schedule])
        monkeypatch.setattr(type(found.oracle), "make", lambda *_, **__: AfterTheBaseline())
        return found

    same = {"name": BASELINE.schedule.name, **BASELINE.schedule.arguments}
    trials = search(tmp_path / "same", PartTrainer(), config(same))
    assert [(t.trial, t.parent) for t in trials] == [
        ("baseline", None),
        ("search-0001", "baseline"),
    ]
    assert content(search(tmp_path / "same", PartTrainer(), config(same))) == content(trials)

    other = {"name": "cosine" if BASELINE.schedule.name != "cosine" else "constant"}
    with pytest.raises(SearchError, match="must say the schedule and warm-up of the first ances"):
        search(tmp_path / "other", PartTrainer(), config(other))


def test_no_trial_goes_on_from_one_that_a_callback_stopped(tmp_path):
    class Stopping(PartTrainer):
        def __call__(self, spec):
            return dataclasses.replace(super().__call__(spec), examples=320)

    with open_folder(tmp_path) as folder:
        runner = make_runner(folder, Stopping())
        runner.run(runner.spec("early", "search", 3, BASELINE))
        part = Part(parent="early", total_examples=2 * TOTAL_EXAMPLES, schedule=Named(name="wsd"))
        with pytest.raises(InputError, match=r"reached its end\. Received: early, .* example 320"):
            runner.spec("child", "search", 3, BASELINE, part)


def test_a_part_whose_last_update_reaches_the_end_is_whole(tmp_path):
    trainer = PartTrainer()
    with open_folder(tmp_path) as folder:
        runner = make_runner(folder, trainer)
        near = runner.spec("near", "search", 3, BASELINE, Part(to_examples=TOTAL_EXAMPLES - 1))
        part = runner.spec("part", "search", 3, BASELINE, Part(to_examples=TOTAL_EXAMPLES - 32))
        whole = runner.spec("whole", "search", 3, BASELINE)
        for spec in (near, part):
            runner.run(spec)
        assert [t.trial for t in runner.trials.searched()] == ["near"]
        assert [t.length for t in runner.trials] == [TOTAL_EXAMPLES, TOTAL_EXAMPLES - 32]

    assert near.end_examples == TOTAL_EXAMPLES > part.end_examples
    assert (near.is_whole, part.is_whole) == (True, False)
    assert near.weights_file
    assert near.identity() == whole.identity() != part.identity()


def test_nothing_is_left_of_a_parent_that_a_killed_child_trained_again(tmp_path):
    trainer = PartTrainer()
    with open_folder(tmp_path) as folder:
        runner = make_runner(folder, trainer)
        runner.run(runner.spec("trunk", "search", 3, BASELINE, Part(to_examples=640)))
        child = runner.spec("child", "search", 3, BASELINE, Part(parent="trunk"))
        left = child.parents_checkpoint_file
        left.parent.mkdir(exist_ok=True)
        left.write_bytes(b"half of it")
        runner.run(child)

    assert not left.exists()


def test_the_hparams_of_parts_tell_their_lengths_apart(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        "tfbatch.search.trial_runner.write_trial",
        lambda folder, *, values, **_: seen.update({folder.name: values}),
    )
    with open_folder(tmp_path) as folder:
        runner = make_runner(folder, PartTrainer())
        for name, part in (
            ("whole", None),
            ("first", Part(to_examples=640)),
            ("second", Part(parent="first", to_examples=1300)),
            ("branch", Part(parent="first", to_examples=1300, schedule=Named(name="linear"))),
        ):
            runner.run(runner.spec(name, "search", 3, BASELINE, part))
    with open_folder(tmp_path) as folder:
        written, _ = dict(seen), seen.clear()
        make_runner(folder, PartTrainer())
        assert seen == written, "also as they are read from the journal"

    keys = ("from_examples", "to_examples", "steps")
    assert {
        name.rpartition(", ")[2]: tuple(values[key] for key in keys)
        for name, values in seen.items()
    } == {
        "whole": (0, TOTAL_EXAMPLES, -(-TOTAL_EXAMPLES // 32)),
        "first": (0, 1300, 41),  # with the second part, which went on from it
        "branch": (640, 1300, 41),
    }
    assert any("seed 3, branch at 640, branch" in name for name in seen)


def test_an_oracle_that_proposes_parts_says_so_beforehand(tmp_path, halving, monkeypatch):
    config = config_of(halving)
    monkeypatch.setattr(type(config.oracle), "in_parts", False)
    with pytest.raises(SearchError, match="its Settings must say `in_parts"):
        search(tmp_path / "run", PartTrainer(), config)


def keep_states(folder, names):
    (folder / STATES).mkdir()
    for name in names:
        (folder / STATES / f"{name}.npz").write_bytes(bytes(100))


def left_of(folder):
    return sorted(path.stem for path in (folder / STATES).iterdir())


def test_the_oldest_states_go_where_they_take_too_much(tmp_path):
    keep_states(tmp_path, "abcd")
    (tmp_path / STATES / "partial-1-a.npz").write_bytes(bytes(100))
    kept = KeptStates(tmp_path, most_bytes=250)
    trials = [finished(name, BASELINE) for name in "abcde"]

    assert kept.prune(trials, needed={"a"}) == ["b", "c"]
    assert left_of(tmp_path) == ["a", "d"]
    assert kept.prune(trials, needed=()) == []
    assert KeptStates(tmp_path, most_bytes=0).prune(trials, needed={"d"}) == ["a"]


def test_a_trunk_stays_longer_than_what_none_goes_on_from(tmp_path):
    """Otherwise every further branch would train it again."""
    parents = {"trunk": None, "loser": None, "tip": "trunk", "branch": "trunk", "last": None}
    keep_states(tmp_path, parents)
    trials = [
        dataclasses.replace(finished(name, BASELINE), parent=parent)
        for name, parent in parents.items()
    ]
    kept = KeptStates(tmp_path, most_bytes=200)

    assert kept.prune(trials, needed=()) == ["loser", "tip", "branch"]
    assert left_of(tmp_path) == ["last", "trunk"]


def test_the_cap_of_a_run_is_kept_and_told_once(tmp_path):
    trainer, said = PartTrainer(), []
    with open_folder(tmp_path) as folder:
        runner = make_runner(folder, trainer, max_state_gb=200e-9)  # a state has 128 bytes
        runner._progress.say = said.append
        for name in ("one", "two", "three"):
            runner.run(runner.spec(name, "search", 3, BASELINE, Part(to_examples=640)))

    assert left_of(tmp_path) == ["three"]
    assert len(said) == 1
    assert "more than --max_state_gb=2e-07" in said[0]


def test_the_states_of_all_ancestors_of_a_running_trial_are_in_use(tmp_path):
    """It trains its parent again from that one's parent, if it must."""
    trainer = PartTrainer()
    with open_folder(tmp_path) as folder:
        runner = make_runner(folder, trainer)
        for name, part in (
            ("first", Part(to_examples=640)),
            ("second", Part(to_examples=1280, parent="first")),
        ):
            runner.run(runner.spec(name, "search", 3, BASELINE, part))
        runner._running["third"] = runner.spec(
            "third", "search", 3, BASELINE, Part(parent="second")
        )
        runner._states = KeptStates(tmp_path, most_bytes=0)
        other = runner.spec("other", "search", 4, BASELINE, Part(to_examples=640))
        runner._finish(other, trainer(other))

    assert left_of(tmp_path) == ["first", "second"]


def test_a_parent_whose_state_is_gone_is_announced(tmp_path):
    trainer, said = PartTrainer(), []
    with open_folder(tmp_path) as folder:
        runner = make_runner(folder, trainer)
        runner._progress.say = said.append
        runner.run(runner.spec("trunk", "search", 3, BASELINE, Part(to_examples=1000)))
        (tmp_path / STATES / "trunk.npz").unlink()
        runner.run(runner.spec("child", "search", 3, BASELINE, Part(parent="trunk")))

    assert said == [
        "child: the end state of trunk, from which it goes on, is no longer kept. It is trained "
        "again first; a larger --max_state_gb keeps more."
    ]
    assert math.isfinite(runner.trials[-1].score)


SEARCH = """
description: rungs
oracle: {name: halving}
max_trials: 9
space:
  batch_size: [32]
  base_learning_rate: [0.01, 0.03, 0.1, 0.3]
  learning_rate_octaves: 0.0
  warmup_fraction: 0.0
  schedules: [{name: cosine}]
  optimizer: {name: sgd, momentum: 0.9}
confirmation: {batch_sizes: 1, seeds: 1}
"""


@pytest.mark.slow
def test_a_search_in_parts_is_the_same_with_and_without_a_worker(tmp_path, halving):
    """For real; the last part equals the verification of a whole training but for its seed."""
    (tmp_path / "rungs.yaml").write_text(SEARCH, encoding="utf-8")
    found = []
    for workers in (0, 1):
        tfbatch.find_batch_size(
            tiny_model.build,
            "digits",
            search=str(tmp_path / "rungs.yaml"),
            trial_length="2 epochs",
            workers=workers,
            run_dir=tmp_path / f"run-{workers}",
            verbose=0,
        )
        rows = [t.row for t in Trials.read(tmp_path / f"run-{workers}")]
        measured = ("seconds", "training_seconds", "finished_at")
        found.append([{k: v for k, v in row.items() if k not in measured} for row in rows])

    assert found[0] == found[1]
    parts = [row for row in found[0] if row["phase"] == "search"]
    assert [row["to_examples"] for row in parts[:4]] == [parts[-1]["examples"] // 4] * 4
    assert parts[-1]["from_examples"] > 0
    assert (tmp_path / "run-0" / "states" / "search-0001.npz").exists()
    answer = answer_of(tmp_path / "run-0")
    assert {one.trials[0].phase for one in answer.contenders} == {"confirmation"}


class Paired:
    """Each rate with the seeds 1 and 2; then the first one goes on to the end."""

    size = None

    def __init__(self, seed=1):
        self.told = []
        self.plan = [
            Proposal({"base_learning_rate": rate}, Part(to_examples=1000), number)
            for number in (seed, 2)
            for rate in (0.1, 0.3)
        ]
        self.plan.append(Proposal({"base_learning_rate": 0.1}, Part(parent="search-0001")))

    def propose(self, trial, *, known, bound):
        if not self.plan:
            return Stop("Both rates have two seeds.")
        proposed = self.plan.pop(0)
        assert known in (None, proposed)
        return proposed

    def tell(self, trial, proposal, told):
        self.told.append((trial, told))


def test_trials_of_one_number_share_a_seed_and_the_oracle_hears_how_they_ended(
    tmp_path, halving, monkeypatch
):
    class Diverging(PartTrainer):
        def __call__(self, spec):
            ended = super().__call__(spec)
            return (
                dataclasses.replace(ended, status="diverged")
                if spec.trial == "search-0002"
                else ended
            )

    made = []

    def config(**options):
        found = config_of(halving, base_learning_rate=[0.1, 0.3])

        def make(*_, premises, **__):
            made.append((Paired(**options), premises))
            return made[-1][0]

        monkeypatch.setattr(type(found.oracle), "make", make)
        return found

    trials = search(tmp_path / "run", Diverging(), config())
    seeds = [t.seed for t in trials.of_phase("search")]
    assert seeds[0] == seeds[1] == seeds[4] != seeds[2] == seeds[3]
    told = [t for _, t in made[0][0].told]
    assert [t.status for t in told] == ["completed", "diverged"] + ["completed"] * 3
    assert [t.completed for t in told[:2]] == [True, False]
    premises = made[0][1]
    assert premises.baseline == Setting(32, 0.01, Named(name="constant"))
    assert premises.setting({"base_learning_rate": 0.3}).learning_rate == 0.3

    again = search(tmp_path / "run", Diverging(), config())
    assert content(again) == content(trials)
    assert made[1][0].told == made[0][0].told
    with pytest.raises(SearchError, match=r"must number seeds from 1 to 99, .* seed=0, Part"):
        search(tmp_path / "other", PartTrainer(), config(seed=0))
