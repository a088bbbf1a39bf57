"""The search loop with a closed-form objective in place of training."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import types
from typing import Any

import pytest
from search_fixtures import (
    BASELINE,
    NUM_EXAMPLES,
    TOTAL_EXAMPLES,
    Trainer,
    finished,
    make_config,
    make_runner,
    open_folder,
    outcome,
    runner_of,
    small_derive,
)
from sklearn.gaussian_process import GaussianProcessRegressor

from tfbatch.answer.candidates import choose_candidates
from tfbatch.answer.find import find_answer
from tfbatch.configuration import Configuration
from tfbatch.errors import RunFolderError, SearchError, StoppedError
from tfbatch.oracles import KerasTunerOracle, Proposal, Told, _keras_tuner
from tfbatch.request.search_config import VerificationConfig
from tfbatch.run_folder.files import curves_name
from tfbatch.run_folder.journal import Journal
from tfbatch.search.clock import FINISHING_SECONDS, SearchClock
from tfbatch.search.loop import Search
from tfbatch.search.progress import Progress
from tfbatch.search.rehearsal import RehearsedEngine
from tfbatch.search.serial_engine import SerialEngine
from tfbatch.search.space import SearchSpace
from tfbatch.search.trial_runner import InterruptedTrialError
from tfbatch.search.verification import Verification
from tfbatch.seeds import derive_seed
from tfbatch.training.devices import Devices
from tfbatch.trial.finished_trial import read_row

UNTRAINED = 2.3
SMALL: dict[str, Any] = {"schedules": [{"name": "constant"}], "warmup_fraction": 0.0}
"""A space of two dimensions, where the Bayesian oracle is quick."""


def run(path, trainer, config, *, seed=7, clock=None, stop_requested=lambda: False, said=None):
    """One session as tfbatch.search.session runs it; returns what is in the journal after it."""
    clock, progress = clock or SearchClock(None), Progress(None)
    if said is not None:
        progress.say = said.append
    with open_folder(path) as folder:
        runner = make_runner(folder, trainer)
        search = Search(
            config,
            baseline=BASELINE,
            space=SearchSpace(config.space, num_examples=NUM_EXAMPLES),
            runner=runner,
            clock=clock,
            seed=seed,
            untrained=UNTRAINED,
            progress=progress,
        )
        try:
            search.run(stop_requested=stop_requested)
            candidates = choose_candidates(
                runner.trials, batch_sizes=config.confirmation.batch_sizes
            )
            verification = Verification(candidates, config.confirmation, runner, seed)
            verification.run(clock, stop_requested=stop_requested)
        except InterruptedTrialError:
            pass
    with open_folder(path) as folder:
        return make_runner(folder, trainer).trials


def content(trials):
    """The rows of the journal without the time of day."""
    return [{k: v for k, v in t.row.items() if k != "finished_at"} for t in trials]


def names(trials):
    return [t.trial for t in trials]


@pytest.fixture
def told(monkeypatch):
    """Every score that the oracle hears."""
    scores: list[float] = []

    class Listening(KerasTunerOracle):
        def tell(self, trial, proposal, told):
            scores.append(told.score)
            super().tell(trial, proposal, told)

    monkeypatch.setattr(_keras_tuner, "KerasTunerOracle", Listening)
    return scores


def test_a_search_is_baseline_then_trials_then_verification(tmp_path):
    trainer = Trainer()
    trials = run(tmp_path, trainer, make_config(max_trials=4))

    assert names(trials)[:5] == ["baseline", *(f"search-{n:04d}" for n in range(1, 5))]
    assert [t.phase for t in trials] == ["baseline"] + ["search"] * 4 + ["confirmation"] * 8
    assert [spec.trial for spec in trainer.ran] == names(trials)
    assert trials[0].configuration == BASELINE
    assert [t.seed for t in trials[:3]] == [
        derive_seed(7, name) for name in ("baseline", "search-0001", "search-0002")
    ]
    assert {spec.total_examples for spec in trainer.ran} == {TOTAL_EXAMPLES}


def test_a_row_says_everything_about_its_trial(tmp_path):
    trainer = Trainer()
    trial = run(tmp_path, trainer, make_config(max_trials=1))[1]
    derived = small_derive(trial.configuration)
    measured = outcome(trainer.ran[1], loss=trial.metrics["val_loss"])

    assert trial.row == {
        **trial.configuration.flat(),
        "device": "CPU",
        "trial": "search-0001",
        "phase": "search",
        "status": "completed",
        "score": measured.metrics["val_loss"],
        "metric_loss": measured.metrics["loss"],
        "metric_val_loss": measured.metrics["val_loss"],
        "metric_val_accuracy": measured.metrics["val_accuracy"],
        "learning_rate": derived.learning_rate,
        "steps": derived.steps,
        "steps_per_epoch": derived.steps_per_epoch,
        "warmup_examples": derived.warmup_examples,
        "examples": TOTAL_EXAMPLES,
        "total_examples": TOTAL_EXAMPLES,
        "seconds": 2.0,
        "training_seconds": measured.training_seconds,
        "seed": derive_seed(7, "search-0001"),
        "curves": curves_name(
            "search-0001",
            batch_size=trial.configuration.batch_size,
            learning_rate=trial.learning_rate,
            schedule=trial.configuration.schedule.name,
            seed=derive_seed(7, "search-0001"),
        ),
        "finished_at": trial.row["finished_at"],
        "message": "",
    }


@pytest.mark.parametrize("oracle", ["random", "bayesian"])
def test_the_same_seed_gives_the_same_trials_and_another_one_others(tmp_path, oracle):
    config = make_config(oracle=oracle, max_trials=4, **SMALL)
    first = content(run(tmp_path / "a", Trainer(), config))

    assert content(run(tmp_path / "b", Trainer(), config)) == first
    other = content(run(tmp_path / "c", Trainer(), config, seed=8))
    assert other != first
    assert {row["seed"] for row in other}.isdisjoint(row["seed"] for row in first)


@pytest.mark.quick_cases("random")
@pytest.mark.parametrize("oracle", ["random", "bayesian"])
def test_a_search_stopped_anywhere_continues_as_if_it_had_not_been(tmp_path, oracle):
    """Stopped twice: between two trials, and in the middle of one."""
    config = make_config(oracle=oracle, max_trials=6, **SMALL)
    uninterrupted = run(tmp_path / "whole", Trainer(), config)
    places = range(1, len(uninterrupted), 2) if oracle == "random" else (2, 5)

    for place in places:
        folder, trainer = tmp_path / f"stopped-{place}", Trainer()
        begun = trainer.ran
        first = run(folder, trainer, config, stop_requested=lambda n=place, b=begun: len(b) >= n)
        assert names(first) == names(uninterrupted)[: len(first)]
        assert place <= len(first) <= place + 2, "a round of verification is not broken off"
        trainer.interrupt_at = names(uninterrupted)[min(place + 3, len(uninterrupted) - 1)]
        second = run(folder, trainer, config)
        interrupted = trainer.interrupt_at not in names(second)
        assert interrupted or trainer.interrupt_at in names(first)
        trainer.interrupt_at = None

        assert content(run(folder, trainer, config)) == content(uninterrupted)
        ran = [spec.trial for spec in trainer.ran]
        assert sorted(set(ran)) == sorted(names(uninterrupted))
        assert len(ran) == len(uninterrupted) + interrupted, "only that trial is run again"


def test_an_interrupted_trial_leaves_nothing_behind(tmp_path):
    trainer = Trainer()
    trainer.interrupt_at = "search-0002"
    trials = run(tmp_path, trainer, make_config(max_trials=4))

    assert names(trials) == ["baseline", "search-0001"]
    assert names(trials) == [row["trial"] for row in Journal(tmp_path / "trials.jsonl").rows]
    assert list((tmp_path / "tensorboard").glob("*search-0001"))
    assert not list((tmp_path / "tensorboard").glob("*search-0002"))
    assert not (tmp_path / "weights" / "search-0002.weights.h5").exists()


def test_curves_of_a_killed_trial_are_removed_before_it_runs_again(tmp_path):
    with open_folder(tmp_path / "run") as folder:
        name = curves_name(
            "baseline",
            batch_size=32,
            learning_rate=0.01,
            schedule="constant",
            seed=derive_seed(7, "baseline"),
        )
        half = folder.tensorboard / name / "half a curve"
        half.parent.mkdir(parents=True)
        half.touch()
    run(tmp_path / "run", Trainer(), make_config(max_trials=1))

    assert not half.exists()
    assert (half.parent / "curve").exists()


def test_a_finished_search_does_nothing_when_it_is_run_again(tmp_path):
    trainer = Trainer()
    config = make_config(max_trials=3)
    first = run(tmp_path, trainer, config)
    ran = len(trainer.ran)

    assert content(run(tmp_path, trainer, config)) == content(first)
    assert len(trainer.ran) == ran


@pytest.mark.parametrize("oracle", ["random", "bayesian"])
def test_more_trials_extend_a_search(tmp_path, oracle):
    trainer = Trainer()
    for max_trials in (3, 5):
        trials = run(
            tmp_path / "a", trainer, make_config(oracle=oracle, max_trials=max_trials, **SMALL)
        )
    whole = run(tmp_path / "b", Trainer(), make_config(oracle=oracle, max_trials=5, **SMALL))

    def searched(trials):
        return content([t for t in trials if t.phase != "confirmation"])

    assert searched(trials) == searched(whole)
    assert len({spec.trial for spec in trainer.ran}) == len(trainer.ran)


def test_known_trials_cost_no_proposal_and_change_none(tmp_path, monkeypatch):
    """A resumed search fitted a Gaussian process for each known trial: 17 s for 24 of them."""
    trainer = Trainer()
    fits = []
    fit = GaussianProcessRegressor.fit
    monkeypatch.setattr(
        GaussianProcessRegressor, "fit", lambda gpr, *data: fits.append(1) or fit(gpr, *data)
    )
    counts = []
    for max_trials in (5, 5, 6):
        trials = run(
            tmp_path / "a", trainer, make_config(oracle="bayesian", max_trials=max_trials, **SMALL)
        )
        counts.append(len(fits))
        fits.clear()
    whole = run(tmp_path / "b", Trainer(), make_config(oracle="bayesian", max_trials=6, **SMALL))

    assert counts == [2, 0, 1]  # 3 of 5 are not from the Gaussian process
    searched = [content([t for t in ts if t.phase != "confirmation"]) for ts in (trials, whole)]
    assert searched[0] == searched[1]


def test_fewer_trials_than_there_are_change_nothing(tmp_path):
    trainer = Trainer()
    first = run(tmp_path, trainer, make_config(max_trials=4))
    again = run(tmp_path, trainer, make_config(max_trials=2))

    assert content(again) == content(first)


@pytest.mark.parametrize("status", ["error", "timeout", "diverged"])
def test_a_trial_that_fails_is_a_result_and_not_the_end(tmp_path, told, status):
    losses = {"baseline": 1.5, "search-0004": 4.0, "search-0006": 3.0}

    def train(spec):
        if spec.trial in losses or spec.phase == "confirmation":
            return outcome(spec, loss=losses.get(spec.trial, 1.0))
        return outcome(spec, loss=math.nan, status=status)

    trials = run(tmp_path, train, make_config(max_trials=6))[:7]

    done = "completed"
    assert [t.status for t in trials] == [done, status, status, status, done, status, done]
    assert [t.score for t in trials] == [1.5, None, None, None, 4.0, None, 3.0]
    assert trials[1].message == f"the {status} of search-0001"
    assert told == [UNTRAINED, UNTRAINED, UNTRAINED, 4.0, 4.0, 3.0]


def test_a_loss_that_is_no_number_is_a_divergence(tmp_path, told):
    def train(spec):
        return outcome(spec, loss=math.nan if spec.trial == "search-0001" else 3.0)

    trials = run(tmp_path, train, make_config(max_trials=2))

    assert (trials[1].status, trials[1].score) == ("diverged", None)
    assert math.isnan(trials[1].metrics["val_loss"])
    assert told == [3.0, 3.0]


def oom_from(wall):
    """Memory is used up at batch sizes from `wall` on."""

    def train(spec):
        fits = spec.configuration.batch_size < wall
        return outcome(spec, loss=3.0 if fits else math.nan, status="completed" if fits else "oom")

    return train


@pytest.mark.quick_cases("random")
@pytest.mark.parametrize("oracle", ["random", "bayesian"])
@pytest.mark.parametrize("wall", [32, 64])
def test_after_running_out_of_memory_no_batch_size_as_large_is_tried(tmp_path, wall, oracle):
    trials = run(tmp_path, oom_from(wall), make_config(oracle=oracle, max_trials=12))
    failed = [t for t in trials if t.status == "oom"]

    assert failed
    for earlier, later in itertools.pairwise(failed):
        assert later.configuration.batch_size < earlier.configuration.batch_size
    assert len([t for t in trials if t.phase == "search"]) == 12
    fitting = {t.configuration.batch_size for t in trials if t.status == "completed"}
    assert fitting == {size for size in (16, 32, 64) if size < wall}


def test_a_search_with_no_batch_size_that_fits_ends(tmp_path):
    trials = run(tmp_path, oom_from(16), make_config(max_trials=8))

    assert {t.status for t in trials} == {"oom"}
    assert min(t.configuration.batch_size for t in trials) == 16
    assert len(trials) <= 4


@pytest.mark.parametrize("sizes", [[32], [16, 32, 64]])
def test_a_model_too_large_for_memory_ends_no_search_at_a_size_that_has_fitted(tmp_path, sizes):
    """Its builder asks for a width, say; and a search that is stopped goes on as it would have."""
    config, ends = make_config(max_trials=6, batch_size=sizes), {"search-0002": "oom"}
    whole = run(tmp_path / "whole", Trainer(ends), config)
    for place in (3, 4, 6):
        folder, trainer = tmp_path / f"stopped-{place}", Trainer(ends)
        begun = trainer.ran
        run(folder, trainer, config, stop_requested=lambda n=place, b=begun: len(b) >= n)
        assert content(run(folder, trainer, config)) == content(whole)

    searched = [t for t in whole if t.phase == "search"]
    assert [t.status for t in searched] == ["completed", "oom"] + ["completed"] * 4


def test_the_wall_of_another_kind_of_device_does_not_count(tmp_path):
    trainer = oom_from(32)

    def elsewhere(spec):
        return dataclasses.replace(trainer(spec), device="NVIDIA H100")

    run(tmp_path, elsewhere, make_config(max_trials=4))
    trials = run(tmp_path, Trainer(), make_config(max_trials=12))

    assert 64 in [t.configuration.batch_size for t in trials[5:] if t.phase == "search"]


def test_a_killed_trial_teaches_the_oracle_nothing_and_is_not_run_again(tmp_path, told):
    ends: dict[str, Any] = {f"search-{n:04d}": "killed" for n in range(2, 7)}
    trials = run(tmp_path, Trainer(ends), make_config(max_trials=8))
    searched = [t for t in trials if t.phase == "search"]

    assert [t.status for t in searched] == ["completed"] + ["killed"] * 5 + ["completed"] * 2
    assert told == [t.score for t in searched if t.score is not None]
    run(tmp_path, trainer := Trainer(), make_config(max_trials=8))
    assert trainer.ran == []


def test_a_baseline_whose_process_was_killed_is_trained_again_without_its_line(tmp_path):
    """It is in the journal, so that later sessions have nothing to compare with."""
    config, said = make_config(max_trials=3), []
    first = run(tmp_path, Trainer({"baseline": "killed"}), config, said=said)
    assert not any("same command trains it again" in line for line in said), "it has just ended"
    run(tmp_path, Trainer(), config, said=said)
    assert any(re.search(r"Remove its line from trials\.jsonl, and the same", one) for one in said)

    journal = tmp_path / "trials.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(line for line in lines if '"trial": "baseline"' not in line))
    trials = run(tmp_path, Trainer(), config, said=said)

    assert trials.find("baseline").status == "completed"
    searched = [content([t for t in ts if t.phase == "search"]) for ts in (first, trials)]
    assert searched[0] == searched[1]
    chosen = choose_candidates(trials, batch_sizes=2)
    assert "baseline" in [candidate.key for candidate in chosen]


def test_a_failed_baseline_does_not_end_a_search(tmp_path):
    trials = run(tmp_path, Trainer({"baseline": "oom"}), make_config(max_trials=3))

    assert names(trials)[:4] == ["baseline", "search-0001", "search-0002", "search-0003"]
    chosen = choose_candidates(trials, batch_sizes=2)
    assert "baseline" not in [candidate.key for candidate in chosen]


@pytest.mark.parametrize("status", ["error", "killed", "timeout"])
def test_a_search_whose_first_three_trials_fail_ends_with_the_last_message(tmp_path, status):
    ends = dict.fromkeys(("baseline", *(f"search-{n:04d}" for n in range(1, 9))), status)
    trainer = Trainer(ends)

    message = rf"first 3 trials, .* all failed.*\({status}\):\nthe {status} of search-0002"
    with pytest.raises(SearchError, match=message):
        run(tmp_path, trainer, make_config(max_trials=8))
    assert [spec.trial for spec in trainer.ran] == ["baseline", "search-0001", "search-0002"]


def test_a_baseline_that_lacks_memory_keeps_no_hopeless_search_going(tmp_path):
    trainer = Trainer({"baseline": "oom"} | {f"search-{n:04d}": "error" for n in range(1, 21)})

    with pytest.raises(SearchError, match=r"without those that lacked memory, all failed"):
        run(tmp_path, trainer, make_config(max_trials=20))
    assert len(trainer.ran) == 4


def test_failures_beside_an_earlier_trial_that_still_runs_do_not_end_a_search(tmp_path):
    def train(spec):
        return outcome(spec, status="completed" if spec.trial == "search-0001" else "error")

    trials = run_side_by_side(
        tmp_path,
        make_config(max_trials=12),
        train,
        seconds=lambda spec: 9.5 if spec.trial == "search-0001" else 1.0,
    )

    assert trials.find("search-0001").status == "completed"
    assert len(trials) == 13


def run_side_by_side(path, config, outcome, *, seconds, workers=4):
    """The trials of a search on workers whose seconds pass on a clock of their own."""
    engine = RehearsedEngine(Devices("CPU", (), workers, 1), seconds, outcome)
    with open_folder(path) as folder:
        runner = runner_of(folder, engine)
        Search(
            config,
            baseline=BASELINE,
            space=SearchSpace(config.space, num_examples=NUM_EXAMPLES),
            runner=runner,
            clock=SearchClock(None),
            seed=7,
            untrained=UNTRAINED,
            progress=Progress(None),
        ).run(stop_requested=lambda: False)
        return runner.trials


def test_sizes_that_lack_memory_at_once_do_not_end_what_trains_beside_them(tmp_path):
    trials = run_side_by_side(
        tmp_path,
        Listed(512, 256, 128, 64, 16, 32).searched(),
        oom_from(64),
        seconds=lambda spec: 1.0 if spec.configuration.batch_size >= 64 else 100.0,
    )

    assert [t.status for t in trials] == ["oom"] * 4 + ["completed"] * 3
    assert {t.configuration.batch_size for t in trials[4:]} == {16, 32}


def test_a_search_whose_first_trials_lacked_memory_can_be_resumed(tmp_path):
    with open_folder(tmp_path) as folder:
        runner = make_runner(folder, oom_from(16))
        for number, size in enumerate((64, 64), start=1):
            other = Configuration(batch_size=size, base_learning_rate=0.1 * number)
            runner.run(runner.spec(f"search-{number:04d}", "search", number, other))
        runner.run(runner.spec("baseline", "baseline", 3, BASELINE))
    trials = run(tmp_path, Trainer(), make_config(max_trials=5, **SMALL))

    assert [t.status for t in trials[:6]] == ["oom"] * 3 + ["completed"] * 3
    assert {t.configuration.batch_size for t in trials[3:6]} == {16}


@pytest.mark.parametrize("baseline", ["completed", "error"])
def test_trials_that_fail_before_the_baseline_has_ended_do_not_end_a_search(tmp_path, baseline):
    """Whether the model can be trained at all, the baseline says."""

    def train(spec):
        return outcome(spec, status=baseline if spec.trial == "baseline" else "error")

    arguments: dict[str, Any] = {"seconds": lambda s: 9.5 if s.trial == "baseline" else 1.0}
    if baseline == "completed":
        trials = run_side_by_side(tmp_path, make_config(max_trials=40), train, **arguments)
        assert [t.status for t in trials].count("error") == 40
        return
    with pytest.raises(SearchError, match=r"first 3 trials, .*\(error\):\nthe error of baseline"):
        run_side_by_side(tmp_path, make_config(max_trials=40), train, **arguments)


def test_a_search_that_only_diverges_is_not_given_up(tmp_path):
    ends = dict.fromkeys(("baseline", *(f"search-{n:04d}" for n in range(1, 5))), "diverged")
    trials = run(tmp_path, Trainer(ends), make_config(max_trials=5))  # type: ignore[arg-type]

    assert [t.status for t in trials[:6]] == ["diverged"] * 5 + ["completed"]


def test_without_any_score_there_is_no_answer(tmp_path):
    ends = dict.fromkeys(("baseline", "search-0001"), "diverged")
    trainer = Trainer(ends)  # type: ignore[arg-type]
    run(tmp_path, trainer, make_config(max_trials=1))

    with (
        open_folder(tmp_path) as folder,
        pytest.raises(SearchError, match=r"None of 2 trials completed.*search-0001.*diverged"),
    ):
        find_answer(make_runner(folder, trainer).trials, batch_sizes=2)


def test_an_exhausted_space_ends_a_search(tmp_path):
    config = make_config(max_trials=9, batch_size=[16, 32], base_learning_rate=0.1, **SMALL)
    trials = run(tmp_path, Trainer(), config)

    searched = [t.configuration.batch_size for t in trials if t.phase == "search"]
    assert sorted(searched) == [16, 32]
    assert [t.phase for t in trials].count("confirmation") > 0


class Listed:
    """An oracle that waits for both of a rung's trials before it proposes the next rung."""

    size = None

    def __init__(self, *sizes):
        self.sizes, self.heard = sizes, []

    def propose(self, trial, *, known, bound):
        asked, told = (sum(word in heard for heard in self.heard) for word in ("ask", "tell"))
        if asked == len(self.sizes) or (asked % 2 == 0 and told < asked):
            return None
        self.heard.append(("ask", trial))
        others = {"base_learning_rate": 0.1, "warmup_fraction": 0.0, "schedule": "linear"}
        return Proposal({"batch_size": self.sizes[asked], **others})

    def tell(self, trial, proposal, told):
        self.heard.append(("tell", trial))

    def searched(self):
        make = lambda space, **_: self  # noqa: E731
        settings = types.SimpleNamespace(name="listed", in_parts=False, make=make)
        return make_config(max_trials=9).model_copy(update={"oracle": settings})


def test_an_oracle_may_wait_for_the_trials_that_run(tmp_path, monkeypatch):
    monkeypatch.setattr(SerialEngine, "free", property(lambda engine: len(engine._waiting) < 3))
    oracle = Listed(16, 32, 16, 64)
    trials = run(tmp_path, Trainer(), oracle.searched())

    sizes = [t.configuration.batch_size for t in trials if t.phase == "search"]
    assert sizes == [16, 32, 16, 64]
    one, two, three, four = (f"search-{n:04d}" for n in range(1, 5))
    first = [("ask", one), ("ask", two), ("tell", one), ("tell", two)]
    then = [("ask", three), ("ask", four), ("tell", three), ("tell", four)]
    assert oracle.heard == first + then


class WaitsForTheBaseline(Listed):
    """Says nothing before it knows what the baseline has come to."""

    def searched(self):
        def make(space, *, premises, **_):
            self.told = premises.baseline_told
            return self

        settings = types.SimpleNamespace(name="waits", in_parts=False, make=make)
        return make_config(max_trials=9).model_copy(update={"oracle": settings})

    def propose(self, trial, *, known, bound):
        self.heard_of = self.told()
        return super().propose(trial, known=known, bound=bound) if self.heard_of else None


@pytest.mark.parametrize("at_once", [1, 3])
def test_an_oracle_may_wait_for_the_baseline(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(
        SerialEngine, "free", property(lambda engine: len(engine._waiting) < at_once)
    )
    oracle = WaitsForTheBaseline(16, 64)
    trials = run(tmp_path, Trainer(), oracle.searched())

    sizes = [t.configuration.batch_size for t in trials if t.phase == "search"]
    assert sorted(sizes) == [16, 64]
    assert oracle.heard_of == Told(trials[0].score)


def test_an_oracle_that_proposes_what_does_not_fit_is_refused_by_its_name(tmp_path):
    message = r"oracle listed must propose batch sizes below 32, .*'batch_size': 64"
    with pytest.raises(SearchError, match=message):
        run(tmp_path, oom_from(32), Listed(16, 16, 64).searched())


class Hands:
    """A clock that training turns: 10 seconds a trial."""

    def __init__(self):
        self.time = 0.0

    def __call__(self):
        return self.time


def timed(hands):
    def train(spec):
        hands.time += 10
        assert spec.log_dir
        return outcome(spec, loss=Trainer()(spec).metrics["val_loss"], seconds=10)

    return train


@pytest.mark.parametrize("minutes", [1.5, 2.0, 3.0, 4.0])
def test_a_time_limit_is_kept_and_leaves_time_to_verify(tmp_path, minutes):
    hands = Hands()
    clock = SearchClock(minutes, now=hands)
    trials = run(tmp_path, timed(hands), make_config(max_trials=99), clock=clock)

    phases = [t.phase for t in trials]
    assert hands.time <= 60 * minutes - FINISHING_SECONDS
    assert hands.time > 60 * minutes - FINISHING_SECONDS - 40, "time was left unused"
    assert phases.count("search") >= 3
    assert phases.count("confirmation") >= 2


def test_after_a_decided_verification_the_time_of_its_rounds_is_kept(tmp_path):
    """A better configuration would get 3 rounds as the others had, not the 9 that were planned."""
    config = make_config(max_trials=2)
    config = config.model_copy(update={"confirmation": VerificationConfig(batch_sizes=2, seeds=9)})

    def train(spec):
        base = 0.5 if spec.configuration.batch_size == BASELINE.batch_size else 9.0
        return outcome(spec, loss=base + 1e-3 * math.sin(spec.seed), seconds=10)

    with open_folder(tmp_path) as folder:
        runner = make_runner(folder, train)
        runner.run(runner.spec("baseline", "baseline", 1, BASELINE))
        other = Configuration(batch_size=64, base_learning_rate=0.1)
        runner.run(runner.spec("search-0001", "search", 2, other))
        search = Search(
            config,
            baseline=BASELINE,
            space=SearchSpace(config.space, num_examples=NUM_EXAMPLES),
            runner=runner,
            clock=SearchClock(60.0, now=Hands()),
            seed=7,
            untrained=UNTRAINED,
            progress=Progress(None),
        )
        candidates = choose_candidates(runner.trials, batch_sizes=2)
        verification = Verification(candidates, config.confirmation, runner, seed=7)
        verification.run(SearchClock(None), stop_requested=lambda: False)

        assert len(runner.trials) == 2 + 3 * 3, "it is decided after three seeds"
        assert search.verification_reserve() == 3 * 10


@pytest.mark.parametrize("minutes", [1.0, 2.5, 3.7])
def test_time_that_is_left_after_verification_is_searched_on(tmp_path, minutes):
    """As tfbatch.search.run does: search and verify until neither adds a trial."""
    hands = Hands()
    clock = SearchClock(minutes, now=hands)
    config = make_config(max_trials=99)
    with open_folder(tmp_path) as folder:
        runner = make_runner(folder, timed(hands))
        search = Search(
            config,
            baseline=BASELINE,
            space=SearchSpace(config.space, num_examples=NUM_EXAMPLES),
            runner=runner,
            clock=clock,
            seed=7,
            untrained=UNTRAINED,
            progress=Progress(None),
        )
        count = -1
        while count < len(runner.trials):
            count = len(runner.trials)
            search.run(stop_requested=lambda: False)
            candidates = choose_candidates(runner.trials, batch_sizes=2)
            verification = Verification(candidates, config.confirmation, runner, seed=7)
            verification.run(clock, stop_requested=lambda: False)
        left = clock.left - FINISHING_SECONDS

    assert 0 <= left < 40, "a trial and its verification would have fitted"
    assert len({t.trial for t in runner.trials}) == len(runner.trials)


def test_a_limit_that_was_used_up_is_extended_by_a_larger_one(tmp_path):
    trials = []
    for minutes, spent in ((1.5, 0.0), (1.5, 80.0), (3.0, 80.0)):
        hands = Hands()
        clock = SearchClock(minutes, spent_seconds=spent, now=hands)
        trials.append(len(run(tmp_path, timed(hands), make_config(max_trials=99), clock=clock)))

    assert trials[0] == trials[1] < trials[2]


def test_the_first_trial_is_not_begun_after_a_stop(tmp_path):
    trainer = Trainer()
    trials = run(tmp_path, trainer, make_config(), stop_requested=lambda: True)

    assert list(trials) == []
    assert trainer.ran == []


def test_what_was_measured_stands_when_a_library_proposes_otherwise(tmp_path, monkeypatch):
    """The journal is the truth: a new version of KerasTuner may draw other numbers."""
    trainer = Trainer()
    config = make_config(max_trials=5)
    first = run(tmp_path, trainer, make_config(max_trials=3))
    known = []

    class Other(KerasTunerOracle):
        def __init__(self, *arguments, seed, **more):
            super().__init__(*arguments, seed=seed + 1000, **more)

        def propose(self, trial, **more):
            known.append(more["known"])
            return super().propose(trial, **more)

    monkeypatch.setattr(_keras_tuner, "KerasTunerOracle", Other)
    trials = run(tmp_path, trainer, config)

    assert content(trials[:4]) == content(first[:4])
    space = SearchSpace(config.space, num_examples=NUM_EXAMPLES)
    before = [Proposal(space.values(t.configuration)) for t in first[1:4]]
    assert known == [*before, None, None]
    assert {"search-0004", "search-0005"} <= set(names(trials))


def test_only_the_best_weights_of_the_search_are_kept_and_all_of_the_verification(tmp_path):
    trials = run(tmp_path, Trainer(), make_config(max_trials=6))
    searched = [t for t in trials if t.phase != "confirmation"]
    best = min(searched, key=lambda t: t.score or math.inf)
    kept = {p.name.removesuffix(".weights.h5") for p in (tmp_path / "weights").iterdir()}

    assert kept == {best.trial, *(t.trial for t in trials if t.phase == "confirmation")}


def test_a_journal_that_cannot_be_written_ends_the_run_and_keeps_what_is_in_it(
    tmp_path, monkeypatch
):
    append = Journal.append

    def full(journal, row):
        if row["trial"] == "search-0002":
            raise RunFolderError("the disk is full")
        append(journal, row)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "append", full)
        with pytest.raises(RunFolderError, match="the disk is full"):
            run(tmp_path, Trainer(), make_config(max_trials=3))
    whole = run(tmp_path / "whole", Trainer(), make_config(max_trials=3))

    assert content(run(tmp_path, Trainer(), make_config(max_trials=3))) == content(whole)


@pytest.mark.parametrize("key", ["phase", "score", "seconds", "message"])
def test_a_row_that_was_changed_by_hand_is_refused_by_what_it_lacks(key):
    row = {k: v for k, v in finished("search-0001", BASELINE).row.items() if k != key}

    with pytest.raises(RunFolderError, match=f"trial search-0001 in the journal has no `{key}`"):
        read_row(row)


def test_a_stop_before_any_answer_has_an_exit_code_of_its_own():
    assert StoppedError.exit_code == 130
    assert SearchError.exit_code == 5
