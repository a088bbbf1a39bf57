"""`with_memory_bound` around every stock oracle of KerasTuner, without a model: fake trials."""

from __future__ import annotations

import collections
import itertools

import keras_tuner
import pytest

from tfbatch.oracles import SobolOracle, with_memory_bound

SIZES = [8, 16, 32, 64, 128]
RATES = [0.1, 0.01, 0.001]
STOCK = {
    "random": (keras_tuner.oracles.RandomSearchOracle, {"max_trials": 40}),
    "bayesian": (
        keras_tuner.oracles.BayesianOptimizationOracle,
        {"max_trials": 6, "num_initial_points": 5},
    ),
    "hyperband": (keras_tuner.oracles.HyperbandOracle, {"max_epochs": 9}),
    "grid": (keras_tuner.oracles.GridSearchOracle, {}),
    "sobol": (SobolOracle, {"max_trials": 20}),
}


def space(*, with_batch_size_last):
    found = keras_tuner.HyperParameters()
    if not with_batch_size_last:
        found.Choice("batch_size", SIZES)
    found.Choice("learning_rate", RATES)
    if with_batch_size_last:
        found.Choice("batch_size", SIZES)
    return found


def search(oracle, *, wall=1e9, workers=1):
    """The values of all trials: each ends with a score, or for lack of memory from `wall` on."""
    tried, running, idle = [], collections.deque(), 0
    for _ in range(500):
        trial = oracle.create_trial(f"tuner{len(running)}")
        if trial.status == "RUNNING":
            running.append(trial)
            tried.append(dict(trial.hyperparameters.values))
        else:
            idle += trial.status == "IDLE"
        if trial.status == "STOPPED" and not running:
            return tried
        if len(running) == workers or trial.status != "RUNNING":
            ended = running.pop()
            values = ended.hyperparameters.values
            if values["batch_size"] >= wall:
                ended.status, ended.message = "FAILED", "ResourceExhaustedError: OOM"
            else:
                oracle.update_trial(ended.trial_id, {"score": values["batch_size"]})
                ended.status = "COMPLETED"
            oracle.end_trial(ended)
    raise AssertionError("the search does not end")


def make(name, tmp_path, *, bound, last):
    kind, arguments = STOCK[name]
    oracle = (with_memory_bound(kind) if bound else kind)(
        objective=keras_tuner.Objective("score", "min"),
        hyperparameters=space(with_batch_size_last=last),
        seed=3,
        **arguments,
    )
    oracle._set_project_dir(tmp_path, f"{name}-{bound}-{last}")
    return oracle


@pytest.mark.parametrize("name", STOCK)
def test_where_all_sizes_fit_the_bound_changes_nothing(name, tmp_path):
    stock = search(make(name, tmp_path, bound=False, last=True))

    assert search(make(name, tmp_path, bound=True, last=True)) == stock


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("name", STOCK)
def test_every_stock_oracle_searches_on_below_the_bound(name, last, tmp_path):
    tried = search(make(name, tmp_path, bound=True, last=last), wall=64)

    sizes = [values["batch_size"] for values in tried]
    failed = [size for size in sizes if size >= 64]
    assert all(later < earlier for earlier, later in itertools.pairwise(failed))
    below = {(v["batch_size"], v["learning_rate"]) for v in tried if v["batch_size"] < 64}
    if name in (
        "grid",
        "sobol",
        "random",
    ):  # these exhaust what is left of the space, without twins
        assert below == set(itertools.product([8, 16, 32], RATES))
        assert len(tried) == len(below) + len(failed)


def test_hyperband_fills_the_places_of_trials_that_lacked_memory_and_promotes(tmp_path):
    oracle = make("hyperband", tmp_path, bound=True, last=True)
    tried = search(oracle, wall=128)

    promoted = [values for values in tried if values["tuner/round"] > 0]
    assert promoted
    assert max(values["batch_size"] for values in promoted) < 128
    completed = sum(v["batch_size"] < 128 for v in tried if v["tuner/round"] == 0)
    assert completed >= 9  # round 0 of the largest bracket is whole


def test_an_idle_oracle_is_waited_for(tmp_path):
    """Hyperband says IDLE, without values, while a round still runs."""
    assert search(make("hyperband", tmp_path, bound=True, last=True), workers=2)


def test_where_nothing_fits_the_search_ends(tmp_path):
    for name in STOCK:
        tried = search(make(name, tmp_path / "none", bound=True, last=True), wall=8)
        assert tried[-1]["batch_size"] == 8 == min(values["batch_size"] for values in tried)


def of_a_range(tmp_path, **declared):
    """An oracle that knows that 64 does not fit, whose batch size is an `Int`."""
    space = keras_tuner.HyperParameters()
    space.Int("batch_size", 16, 256, **declared)
    oracle = with_memory_bound(keras_tuner.oracles.RandomSearchOracle)(
        objective=keras_tuner.Objective("score", "min"), hyperparameters=space, max_trials=60
    )
    oracle._set_project_dir(tmp_path, "range")
    oracle.smallest_that_failed = 64
    return oracle


@pytest.mark.parametrize("declared", [{}, {"sampling": "log"}, {"step": 2, "sampling": "log"}])
def test_a_size_of_a_range_is_moved_to_a_whole_one_of_at_most_half_the_bound(declared, tmp_path):
    """A step from 256 to 63 would lack memory as well, then that to 62, and so on."""
    moved = of_a_range(tmp_path, **declared)._moved({"batch_size": 256})["batch_size"]

    assert (moved, type(moved)) == (32, int)


def test_what_is_left_of_a_range_above_half_the_bound_comes_after_all_that_is_below(tmp_path):
    oracle = of_a_range(tmp_path)
    moved = []
    for number in range(48):
        moved.append(oracle._moved({"batch_size": 256})["batch_size"])
        trial = keras_tuner.engine.trial.Trial(oracle.get_space(), str(number))
        trial.hyperparameters.values = {"batch_size": moved[-1]}
        oracle.trials[str(number)] = trial
        oracle._record_values(trial)

    assert moved == [*range(32, 15, -1), *range(33, 64)]
