"""Divergence is judged against the training loss before training, its weights included."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
from contexts import context_of

from tfbatch.configuration import Configuration
from tfbatch.pipeline.array_data import StoredData
from tfbatch.pipeline.array_storage import store_data
from tfbatch.schema import Named
from tfbatch.training.compilation import Compilation
from tfbatch.training.evaluation import measure_untrained
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.trial import run_trial
from tfbatch.training.workload import Workload
from tfbatch.trial.outcome import TrialSpec

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(300, 4)).astype("float32")
Y = (np.arange(300) % 10 == 0).astype("int64")  # a tenth
WEIGHTS = np.where(Y == 1, 50.0, 1.0).astype("float32")


def linear(num_classes):
    """All logits 0: every example's loss is ln 2."""
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(num_classes, kernel_initializer="zeros")]
    )


def regularized(num_classes):
    """The regularizer alone adds 10 x (4 x 2) x 1^2 to a loss of ln 2."""
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(
                num_classes, kernel_initializer="ones", kernel_regularizer=keras.regularizers.L2(10)
            ),
        ]
    )


@pytest.fixture
def workload(tmp_path):
    def make(build, train, **given):
        validation = (X[:100], Y[:100], np.ones(100, "float32"))[: len(train)]
        folder = store_data(tmp_path, {"train": train, "validation": validation})
        return Workload(StoredData(folder, name="mine"), build, compilation=Compilation(**given))

    return make


def configuration(learning_rate=0.01, batch_size=10):
    return Configuration(
        batch_size=batch_size,
        base_learning_rate=learning_rate,
        base_batch_size=batch_size,
        scaling_rule=Named(name="none"),
        schedule=Named(name="constant"),
        optimizer=Named(name="sgd"),
    )


@pytest.mark.quick_cases("sample_weight")
@pytest.mark.parametrize(
    ("train", "given", "factor", "scatter"),
    [
        ((X, Y), {}, 1.0, 1.0),
        ((X, Y), {"class_weight": {0: 1.0, 1: 50.0}}, 5.9, 250.9 / 5.9**2),
        ((X, Y, WEIGHTS), {}, 5.9, 250.9 / 5.9**2),
    ],
    ids=["plain", "class_weight", "sample_weight"],
)
def test_the_training_loss_has_the_weights_that_fit_gives_it(
    workload, train, given, factor, scatter
):
    """Nine of ten weigh 1 and one weighs 50: a mean of 5.9, a mean square of 250.9."""
    made = workload(linear, train, **given)
    found = measure_untrained(context_of(ProgramCache(made)), configuration()).training_loss

    assert found is not None
    # The first 256 examples of the stream, of which 8 to 12 % are positive.
    assert found.value == pytest.approx(math.log(2) * factor, rel=1e-6 if factor == 1 else 0.2)
    assert found.judged_examples == pytest.approx(64 * scatter, rel=0.2, abs=0)


@pytest.mark.slow
def test_weights_that_validation_lacks_are_no_divergence_and_a_real_one_is_found(workload):
    made = workload(linear, (X, Y), class_weight={0: 1.0, 1: 50.0})
    programs = ProgramCache(made)
    found = measure_untrained(context_of(programs), configuration()).training_loss

    def status(learning_rate):
        spec = TrialSpec(
            trial="one",
            phase="search",
            seed=1,
            configuration=configuration(learning_rate),
            total_examples=600,
            num_examples=programs.workload.data.num_examples("train"),
            untrained_loss=found.value,
            judged_examples=found.judged_examples,
        )
        return run_trial(programs, spec).status

    assert status(0.001) == "completed"
    assert status(1000.0) == "diverged"


def test_regularization_is_in_it(workload):
    programs = ProgramCache(workload(regularized, (X, Y)))
    found = measure_untrained(context_of(programs), configuration())

    assert found.training_loss.value == pytest.approx(80 + math.log(2), rel=1e-5)
