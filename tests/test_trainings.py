"""A budget in full trainings of the baseline, and what counts as one configuration."""

import dataclasses
import types

import pytest
from search_fixtures import (
    BASELINE,
    NUM_EXAMPLES,
    TOTAL_EXAMPLES,
    Trainer,
    finished,
    loss_of,
    make_config,
    make_request_of,
    make_runner,
    open_folder,
    outcome,
    runner_of,
    trials_of,
)

from tfbatch.answer.candidates import choose_candidates
from tfbatch.errors import InputError
from tfbatch.oracles import Part, Prices, Proposal
from tfbatch.search.clock import SearchClock
from tfbatch.search.loop import Search
from tfbatch.search.progress import Progress
from tfbatch.search.rehearsal import RehearsedEngine
from tfbatch.search.space import SearchSpace
from tfbatch.search.trainings import Trainings
from tfbatch.search.verification import Verification
from tfbatch.training.devices import Devices

IN_EXAMPLES = Trainings(Prices(), BASELINE, TOTAL_EXAMPLES, 10.0)
IN_SECONDS = dataclasses.replace(IN_EXAMPLES, prices=Prices({32: 0.004, 64: 0.006}))


def test_a_training_costs_its_examples_or_its_seconds():
    assert IN_EXAMPLES.of(64, TOTAL_EXAMPLES // 2) == 0.5
    # 79 updates of 4 ms, 40 of 6 ms, 20 of 12 ms: beyond the largest in proportion
    assert IN_SECONDS.of(64, TOTAL_EXAMPLES) == pytest.approx(40 * 6 / (79 * 4))
    assert IN_SECONDS.of(128, TOTAL_EXAMPLES) == pytest.approx(20 * 12 / (79 * 4))


def test_what_ancestors_trained_is_paid_once():
    trunk = dataclasses.replace(finished("trunk", BASELINE), examples=640, to_examples=640)
    rest = dataclasses.replace(
        finished("rest", BASELINE), examples=TOTAL_EXAMPLES, from_examples=640, parent="trunk"
    )
    failed = dataclasses.replace(finished("failed", BASELINE, status="oom"), examples=0)

    assert IN_EXAMPLES.of_trial(trunk) == 640 / TOTAL_EXAMPLES
    assert IN_EXAMPLES.spent([trunk, rest, failed]) == pytest.approx(1.0)


def test_parts_of_one_training_are_one_configuration():
    def child(name, parent, **changes):
        one = finished(name, BASELINE.model_copy(update=changes))
        return dataclasses.replace(one, parent=parent)

    trials = trials_of(
        finished("trunk", BASELINE),
        child("further", "trunk"),
        child("cooled", "trunk", schedule=BASELINE.schedule.model_copy(update={"name": "linear"})),
        child("larger", "further", batch_size=64),
        child("faster", "further", base_learning_rate=0.5),
        child("faster still", "faster", base_learning_rate=0.5),
    )

    assert trials.configurations() == 3  # trunk, larger, faster


def session(path, trainer, config, *, limit, verified=True, engine=None):
    """A search and its verification within a budget; the trials and the budget."""
    with open_folder(path) as folder:
        runner = runner_of(folder, engine) if engine else make_runner(folder, trainer)
        search = Search(
            config,
            baseline=BASELINE,
            space=SearchSpace(config.space, num_examples=NUM_EXAMPLES),
            runner=runner,
            clock=SearchClock(None),
            seed=7,
            untrained=9.0,
            progress=Progress(None),
            max_trainings=limit,
        )
        search.run(stop_requested=lambda: False)
        if verified:
            budget = dataclasses.replace(IN_EXAMPLES, limit=limit)
            candidates = choose_candidates(runner.trials, batch_sizes=2)
            Verification(candidates, config.confirmation, runner, seed=7, trainings=budget).run(
                SearchClock(None), stop_requested=lambda: False
            )
        return runner.trials


@pytest.mark.parametrize("limit", [1.0, 7.0, 9.5, 14.0])
def test_a_budget_is_kept_and_leaves_something_to_verify(tmp_path, limit):
    """A round has up to two candidates and the baseline twice; each trial is a training."""
    trials = session(tmp_path, Trainer(), make_config(max_trials=99), limit=limit)
    phases = [t.phase for t in trials]

    assert len(trials) <= limit
    assert phases.count("baseline") == 1
    assert phases.count("confirmation") >= (3 if limit >= 7 else 0)
    assert len(trials) > limit - 4, "a trial, or a round, would have fitted"


@pytest.mark.parametrize(("workers", "limit"), [(2, 2.0), (2, 7.0), (8, 3.0), (8, 10.0)])
def test_a_budget_is_kept_while_the_baseline_trains_beside_others(tmp_path, workers, limit):
    """Its training is paid for from its beginning on, and a round of four is kept by then."""
    engine = RehearsedEngine(
        Devices("CPU", (), workers, 1),
        lambda spec: 100.0 if spec.phase == "baseline" else 1.0,
        lambda spec: outcome(spec, loss=loss_of(spec.configuration, spec.seed)),
    )
    config = make_config(max_trials=99)
    trials = session(tmp_path, None, config, limit=limit, engine=engine)

    assert limit - 4 < len(trials) <= limit
    assert [t.phase for t in trials].count("confirmation") >= (3 if limit >= 7 else 0)


def test_a_larger_budget_goes_on(tmp_path):
    config = make_config(max_trials=99)
    few = session(tmp_path, Trainer(), config, limit=4.0, verified=False)
    again = session(tmp_path, Trainer(), config, limit=4.0, verified=False)
    more = session(tmp_path, Trainer(), config, limit=12.0, verified=False)

    assert len(few) == len(again) < len(more)
    assert more.find(few[-1].trial)


class Rungs:
    """Two trunks, each in three parts, one after the other, then a third."""

    size = None

    def __init__(self):
        self.asked = 0

    def propose(self, trial, *, known, bound):
        number, part = divmod(self.asked, 3)
        parent = f"search-{self.asked:04d}" if part else None
        stop = (640, 1280, None)[part]
        self.asked += 1
        values = {"batch_size": 16 << number, "base_learning_rate": 0.1, "warmup_fraction": 0.0}
        return Proposal({**values, "schedule": "linear"}, Part(to_examples=stop, parent=parent))

    def tell(self, trial, proposal, told):
        pass

    forget = tell


class PartTrainer(Trainer):
    """Trains what a part has, and keeps no weights."""

    def __call__(self, spec):
        spec.log_dir.mkdir(parents=True, exist_ok=True)
        return dataclasses.replace(outcome(spec), examples=spec.end_examples)


def in_rungs(most):
    make = lambda space, **_: Rungs()  # noqa: E731
    settings = types.SimpleNamespace(name="rungs", in_parts=True, make=make)
    return make_config(max_trials=most).model_copy(update={"oracle": settings})


def test_the_limit_of_trials_counts_configurations_and_is_extended(tmp_path):
    counts = [
        len(session(tmp_path, PartTrainer(), in_rungs(most), limit=99.0, verified=False))
        for most in (2, 2, 3)
    ]

    assert counts == [1 + 6, 1 + 6, 1 + 9]


@pytest.mark.parametrize("limit", [1.2, 1.9, 2.0, 2.3])
def test_a_budget_is_not_exceeded_by_a_part(tmp_path, limit):
    """Parts of 640, 640 and 1220 of 2500 examples: the last one is the dearest."""
    trials = session(tmp_path, PartTrainer(), in_rungs(9), limit=limit, verified=False)

    spent = IN_EXAMPLES.spent(trials)
    assert limit - 0.49 < spent <= limit


def test_a_budget_below_one_training_is_refused():
    for wrong in (0.5, 0.0, float("inf"), float("nan")):
        with pytest.raises(InputError, match="`max_trainings` must be >= 1"):
            make_request_of(max_trainings=wrong)
