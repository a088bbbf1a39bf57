"""Oracles in a stock KerasTuner search: spread points, and a memory bound that is learned."""

from __future__ import annotations

import itertools

import keras
import keras_tuner
import numpy as np
import pytest

import tfbatch.oracles
from tfbatch.errors import InputError
from tfbatch.oracles import ScaledLearningRateOracle, SobolOracle, with_memory_bound

SIZES = [8, 16, 32, 64, 128, 256, 512, 1024]
WALL = 64
ORACLES = {
    "random": keras_tuner.oracles.RandomSearchOracle,
    "bayesian": keras_tuner.oracles.BayesianOptimizationOracle,
    "sobol": SobolOracle,
    "scaled": ScaledLearningRateOracle,
}


class OneUpdate(keras_tuner.HyperModel):
    """A model of one weight; sizes from the wall on lack memory, as TensorFlow says it."""

    def __init__(self, *, wall=np.inf, error=MemoryError):
        super().__init__()
        self.wall, self.error = wall, error
        self.tried: list[int] = []

    def build(self, hp):
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")
        model.compile(optimizer=keras.optimizers.SGD(rate), loss="mse", run_eagerly=True)
        return model

    def fit(self, hp, model, **arguments):
        size = hp.Choice("batch_size", SIZES)
        self.tried.append(size)
        if size >= self.wall:
            raise self.error(f"OOM when allocating tensor with shape[{size},1]")
        return abs(np.log2(size) - 4.0)


def search(tmp_path, oracle, hypermodel):
    tuner = keras_tuner.Tuner(
        oracle=oracle, hypermodel=hypermodel, directory=tmp_path, overwrite=True
    )
    tuner.search(verbose=0)
    return hypermodel.tried


def objective():
    return keras_tuner.Objective("default_objective", "min")


def test_sobol_points_try_every_batch_size_before_any_twice(tmp_path):
    space = keras_tuner.HyperParameters()
    space.Choice("batch_size", SIZES)
    oracle = SobolOracle(objective(), max_trials=8, hyperparameters=space, seed=3)

    assert sorted(search(tmp_path, oracle, OneUpdate())) == SIZES


def test_sobol_ends_when_a_small_space_is_exhausted(tmp_path):
    space = keras_tuner.HyperParameters()
    space.Choice("batch_size", SIZES)
    oracle = SobolOracle(
        objective(), max_trials=30, hyperparameters=space, tune_new_entries=False, seed=1
    )

    assert sorted(search(tmp_path, oracle, OneUpdate())) == SIZES


def test_a_sobol_search_is_repeated_by_its_seed(tmp_path):
    runs = [
        search(tmp_path / str(i), SobolOracle(objective(), max_trials=6, seed=seed), OneUpdate())
        for i, seed in enumerate((5, 5, 6))
    ]
    assert runs[0] == runs[1]
    for arguments in ({"max_trials": 0}, {"seed": 0}):
        with pytest.raises(InputError, match="must be >= 1"):
            SobolOracle(objective(), **arguments)


@pytest.mark.parametrize("name", ORACLES)
def test_no_size_as_large_as_one_that_lacked_memory_is_tried_again(tmp_path, name):
    space = keras_tuner.HyperParameters()
    space.Choice("batch_size", SIZES)
    oracle = with_memory_bound(ORACLES[name])(
        objective=objective(), max_trials=10, hyperparameters=space, seed=2
    )
    tried = search(tmp_path, oracle, OneUpdate(wall=WALL))

    failed = [size for size in tried if size >= WALL]
    assert failed
    assert all(later < earlier for earlier, later in itertools.pairwise(failed))
    assert oracle.smallest_that_failed == min(failed)
    assert len(oracle.get_best_trials(1)) == 1
    assert oracle.get_best_trials(1)[0].hyperparameters.get("batch_size") < WALL


def test_trap_stock_keras_tuner_ends_a_search_after_three_sizes_that_lack_memory(tmp_path):
    """What the bound is for; a KerasTuner that no longer does so needs it less."""
    space = keras_tuner.HyperParameters()
    space.Choice("batch_size", [64, 128, 256, 512])
    stock = keras_tuner.oracles.RandomSearchOracle(
        objective=objective(), max_trials=8, hyperparameters=space, seed=1
    )
    with pytest.raises(RuntimeError, match="consecutive failures"):
        search(tmp_path, stock, OneUpdate(wall=WALL))

    bounded = with_memory_bound(keras_tuner.oracles.RandomSearchOracle)(
        objective=objective(), max_trials=8, hyperparameters=space, seed=1
    )
    tried = search(tmp_path / "bounded", bounded, OneUpdate(wall=WALL))
    assert tried[-1] == min(tried) == WALL  # nothing fits: the search ends, and says no more


@pytest.mark.parametrize(
    "oracle",
    [with_memory_bound(keras_tuner.oracles.RandomSearchOracle), ScaledLearningRateOracle],
    ids=["with_memory_bound", "scaled"],
)
def test_batch_sizes_that_are_texts_are_refused(tmp_path, oracle):
    """Compared as texts, 128 would be less than 64."""
    space = keras_tuner.HyperParameters()
    space.Choice("batch_size", ["64", "128"])
    space.Float("learning_rate", 1e-3, 0.05, sampling="log")

    with pytest.raises(InputError, match=r"must be numbers: declare .*\[32, 64\].* Received: "):
        search(
            tmp_path,
            oracle(objective=objective(), max_trials=8, hyperparameters=space),
            OneUpdate(),
        )


def test_another_error_is_a_failure_as_before(tmp_path):
    oracle = with_memory_bound(keras_tuner.oracles.RandomSearchOracle)(
        objective=objective(), max_trials=8, seed=1
    )
    model = OneUpdate()
    model.fit = lambda hp, model, **_: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="consecutive failures"):
        search(tmp_path, oracle, model)
    assert oracle.smallest_that_failed is None


def test_the_bound_is_saved_with_the_oracle(tmp_path):
    make = with_memory_bound(SobolOracle)
    space = keras_tuner.HyperParameters()
    space.Choice("batch_size", SIZES)
    oracle = make(objective(), max_trials=8, hyperparameters=space)
    search(tmp_path, oracle, OneUpdate(wall=WALL))
    again = make(objective(), max_trials=8, hyperparameters=space)
    again.set_state(oracle.get_state())

    assert again.smallest_that_failed == oracle.smallest_that_failed
    with pytest.raises(InputError, match=r"must be a class derived from keras_tuner\.Oracle"):
        with_memory_bound(dict)
    assert set(tfbatch.oracles.__all__) >= {
        "ScaledLearningRateOracle",
        "SobolOracle",
        "with_memory_bound",
    }
