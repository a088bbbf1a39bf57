"""What a trial costs the directing process does not grow with the trials before it, or little."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
from search_fixtures import (
    ACCURACY,
    BASELINE,
    LOSS,
    NUM_EXAMPLES,
    Trainer,
    finished,
    loss_of,
    make_config,
    make_runner,
    make_space,
    open_folder,
    trials_of,
)
from sklearn.gaussian_process import GaussianProcessRegressor

from tfbatch.configuration import Configuration
from tfbatch.oracles import Premises, Proposal, Told, _bayesian, _many_points, _sobol, make_settings
from tfbatch.oracles._many_points import Points, lowest_bound, spread_over_ranks
from tfbatch.oracles._spread import spread_points
from tfbatch.search import answer_so_far, trial_runner
from tfbatch.search.answer_so_far import AnswerSoFar
from tfbatch.search.clock import SearchClock
from tfbatch.search.loop import Search
from tfbatch.search.progress import Progress
from tfbatch.search.space import SearchSpace

RATES = {"batch_size": [16, 32], "warmup_fraction": 0.0, "schedules": [{"name": "constant"}]}
FEW = 6
"""In place of the 128 trials up to which KerasTuner's own way is taken."""


def search(path, max_trials, *, clock=None, on_trial=lambda _: None):
    """One session, without verification; the trials."""
    config = make_config(max_trials=max_trials)
    with open_folder(path) as folder:
        runner = make_runner(folder, Trainer())
        Search(
            config,
            baseline=BASELINE,
            space=SearchSpace(config.space, num_examples=NUM_EXAMPLES),
            runner=runner,
            clock=clock or SearchClock(None),
            seed=7,
            untrained=2.3,
            progress=Progress(None),
            on_trial=on_trial,
        ).run(stop_requested=lambda: False)
        return runner.trials


def oracle_of(name, space, **parameters):
    return make_settings(name, **parameters).make(
        space.hyperparameters(), direction="min", seed=5, total_examples=1000, premises=Premises()
    )


def ask(oracle, space, count, *, first=1, known=()):
    """Values that are proposed, each told what it comes to before the next one."""
    found = []
    for number in range(first, first + count):
        before = known[number - 1] if number <= len(known) else None
        proposal = oracle.propose(
            str(number), known=Proposal(before) if before else None, bound=math.inf
        )
        assert isinstance(proposal, Proposal)
        found.append(dict(proposal.values))
        oracle.tell(str(number), proposal, Told(loss_of(space.configuration(found[-1]))))
    return found


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(_bayesian, "MOST_POINTS", FEW)
    monkeypatch.setattr(_many_points, "MOST_POINTS", FEW)


@pytest.fixture
def fits(monkeypatch):
    """How many points each Gaussian process was fitted to."""
    counts = []
    fit = GaussianProcessRegressor.fit

    def counted(process, places, values):
        counts.append(len(places))
        return fit(process, places, values)

    monkeypatch.setattr(GaussianProcessRegressor, "fit", counted)
    return counts


# The Gaussian process.


def test_of_many_trials_a_few_are_fitted_to_and_the_search_goes_on_well(few, fits):
    space = make_space(**RATES)
    found = ask(oracle_of("bayesian", space, initial_trials=8), space, 30)

    assert fits == [FEW, FEW] * (30 - 8)  # for the length, and with it
    losses = [loss_of(space.configuration(values)) for values in found]
    assert min(losses[8:]) < min(losses[:8]), "the spread points are no better"
    assert len({tuple(values.values()) for values in found}) == 30


def test_up_to_so_many_trials_keras_tuners_way_is_taken(monkeypatch):
    def refused(*_, **__):
        raise AssertionError

    monkeypatch.setattr(_bayesian, "lowest_bound", refused)
    monkeypatch.setattr(_bayesian, "MOST_POINTS", 4)
    space = make_space(**RATES)
    oracle = oracle_of("bayesian", space, initial_trials=4)
    ask(oracle, space, 5)

    with pytest.raises(AssertionError):
        ask(oracle, space, 1, first=6)


def test_a_search_of_many_trials_that_is_resumed_proposes_the_same(few):
    space = make_space(**RATES)
    whole = ask(oracle_of("bayesian", space, initial_trials=8), space, 14)
    again = ask(oracle_of("bayesian", space, initial_trials=8), space, 14, known=whole[:11])

    assert again == whole


def test_what_runs_is_not_proposed_again_and_of_many_few_are_fitted_to(few, fits, monkeypatch):
    monkeypatch.setattr(_many_points, "_MOST_OPEN", 3)
    space = make_space(**RATES)
    oracle = oracle_of("bayesian", space, initial_trials=8)
    ask(oracle, space, 8)
    fits.clear()
    found = [oracle.propose(f"open {n}", known=None, bound=math.inf) for n in range(6)]

    assert len({tuple(proposal.values.values()) for proposal in found}) == 6
    assert fits == [FEW, FEW] + [n for k in (1, 2, 3, 3, 3) for n in (FEW, FEW, FEW + k)]


def test_the_lowest_bound_is_found_and_a_failure_counts_as_the_worst():
    places = np.random.default_rng(1).uniform(size=(40, 2))
    values = ((places - [0.3, 0.7]) ** 2).sum(axis=1)
    starts = np.random.default_rng(2).uniform(size=(10, 2))

    def found(values):
        none = np.empty((0, 2))
        points = Points(places, values)
        return lowest_bound(points, none, starts, alpha=1e-4, beta=0.0, seed=(1, 1)).tolist()

    assert found(values) == pytest.approx([0.3, 0.7], abs=0.02)
    worst = np.where(values == values.max(), math.inf, values)
    assert found(np.where(values == values.max(), np.sort(values)[-2], values)) == found(worst)


def test_half_of_the_points_are_the_best_and_the_others_are_spread_over_the_ranks():
    values = np.array([9.0, 0.0, 8.0, 1.0, 7.0, 2.0, 6.0, 3.0, 5.0, 4.0])

    assert values[spread_over_ranks(values, 4)].tolist() == [9.0, 0.0, 1.0, 2.0]
    assert sorted(values[spread_over_ranks(values, 6)]) == [0.0, 1.0, 2.0, 3.0, 6.0, 9.0]
    assert spread_over_ranks(values, 10).tolist() == list(range(10))


# Sobol points.


def test_sobol_points_come_in_their_order_and_are_made_a_few_times(monkeypatch):
    made = []

    def counted(*arguments, **options):
        made.append(options["count"])
        return spread_points(*arguments, **options)

    monkeypatch.setattr(_sobol, "spread_points", counted)
    space = make_space()
    oracle = oracle_of("sobol", space)
    points = spread_points(space.hyperparameters(), count=512, seed=5)
    found = []
    for number in range(100):
        bound = 64 if 20 <= number < 40 else math.inf  # of another device
        proposal = oracle.propose(str(number), known=None, bound=bound)
        found.append(dict(proposal.values))
        rest = (p for p in points if p not in found[:-1] and p["batch_size"] < bound)
        assert found[-1] == next(rest)
        if number >= 3:  # four run at a time; some end in a way that teaches nothing
            before = Proposal(found[number - 3])
            if number % 5:
                oracle.tell(str(number - 3), before, Told(1.0))
            else:
                oracle.forget(str(number - 3))

    assert made == [256]


def test_a_sobol_oracle_that_is_reloaded_goes_on():
    space = make_space()
    first, second = (oracle_of("sobol", space) for _ in range(2))
    ask(first, space, 5)
    ask(second, space, 1)
    second._oracle.trials = dict(first._oracle.trials)
    second._oracle.set_state(copy.deepcopy(first._oracle.get_state()))

    assert ask(second, space, 3, first=6) == ask(first, space, 3, first=6)


# The run folder.


def test_a_run_that_is_opened_again_writes_only_the_rows_that_are_missing(tmp_path, monkeypatch):
    trials = search(tmp_path, 4)
    (lost,) = (tmp_path / "tensorboard" / trials[2].curves).glob("*.tfbatch_hparams")
    lost.unlink()
    (empty,) = (tmp_path / "tensorboard" / trials[3].curves).glob("*.tfbatch_hparams")
    empty.write_bytes(b"")
    written = []
    monkeypatch.setattr(trial_runner, "write_trial", lambda folder, **_: written.append(folder))
    with open_folder(tmp_path) as folder:
        make_runner(folder, Trainer())

    # The last one may be half written: the process may have been killed there.
    assert [folder.name for folder in written] == [trial.curves for trial in trials[2:]]


def test_weights_that_an_earlier_session_left_behind_are_removed(tmp_path):
    """Killed between the journal and the removal of those that are no longer the best."""
    trials = search(tmp_path, 2)
    best = trials.searched().best()
    left = next(trial for trial in trials if trial is not best)
    weights = tmp_path / "weights"
    (weights / f"{left.trial}.weights.h5").touch()
    (weights / "confirm-1.weights.h5").touch()
    best = search(tmp_path, 3).searched().best()

    kept = sorted(file.name for file in weights.iterdir())
    assert kept == ["confirm-1.weights.h5", f"{best.trial}.weights.h5"]


# What is asked after every trial.


class Hands:
    def __init__(self):
        self.time = 0.0

    def __call__(self):
        self.time += 1.0
        return self.time


def test_no_configuration_is_hashed_again_for_every_trial_that_follows(tmp_path, monkeypatch):
    """All of them were, after each trial, for what verification would take."""
    hashed = []
    identity = Configuration.identity
    monkeypatch.setattr(Configuration, "identity", lambda one: hashed.append(1) or identity(one))
    counts = []
    clock = SearchClock(1000.0, now=Hands())
    search(tmp_path, 40, clock=clock, on_trial=lambda _: counts.append(len(hashed)))

    assert counts[-1] - counts[-11] <= 1.2 * (counts[20] - counts[10])


def test_without_a_limit_nobody_asks_what_verification_would_take(tmp_path, monkeypatch):
    monkeypatch.setattr(Search, "verification_reserve", lambda search: 1 / 0)

    assert len(search(tmp_path, 3)) == 4


def test_the_sentence_on_the_best_is_made_when_its_batch_size_changes(monkeypatch):
    made = []
    sentence = answer_so_far._sentence
    monkeypatch.setattr(
        answer_so_far, "_sentence", lambda *given: made.append(1) or sentence(*given)
    )
    so_far = AnswerSoFar(Progress(None), lambda: None, margin=0.1)
    trials = [finished(f"search-{n}", BASELINE, loss=1 - n / 10) for n in range(5)]
    for count in range(1, 6):
        so_far.look(trials_of(*trials[:count]), None)

    assert made == [1]


def test_a_trial_is_replayed_with_the_memory_that_was_known_when_it_began():
    """That of 128 began before that of 64 had ended; where 32 has fitted, 16 is no wall."""
    sizes = ((64, "oom"), (32, "completed"), (128, "oom"), (16, "oom"), (8, "completed"))
    sizes += ((64, "completed"), (512, "diverged"), (32, "oom"))
    trials = [
        finished(str(n), BASELINE.model_copy(update={"batch_size": size}), status=status)
        for n, (size, status) in enumerate(sizes)
    ]
    found = trials_of(*trials).memory_walls_before()

    walls = [trials_of(*trials[:number]).memory_wall("CPU") for number in range(len(trials))]
    assert walls == [None, 64, 64, 64, 64, 64, 128, None]
    assert found == dict(zip("01234567", [None, 64, None, 64, 64, None, None, None], strict=True))


@pytest.mark.parametrize("objective", [LOSS, ACCURACY])
def test_what_is_known_of_trials_is_carried_over_to_those_with_one_more(objective):
    losses = (2.0, 1.0, 2.0, 0.5, 3.0, 0.5)
    trials = [finished(f"search-{n}", BASELINE, loss=loss) for n, loss in enumerate(losses)]
    trials[3] = finished("search-3", BASELINE, loss=0.5, phase="confirmation")
    trials[4] = finished("search-4", BASELINE, status="diverged")
    growing = trials_of(trials[0], objective=objective)
    for count, trial in enumerate(trials[1:], start=2):
        growing.ranked().clear()  # a copy
        assert len(growing.searched()) in (count - 1, count - 2)
        growing = growing.with_one_more(trial)
        anew = trials_of(*trials[:count], objective=objective)
        assert growing.ranked() == anew.ranked()
        assert list(growing.searched()) == list(anew.searched())
        assert growing.best() == anew.best()
        assert growing.searched().best() == anew.searched().best()
