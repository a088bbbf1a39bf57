"""The contract of every file in tfbatch/optimizers."""

from __future__ import annotations

import inspect

import keras
import numpy as np
import pytest

from tfbatch.optimizers import OPTIMIZERS
from tfbatch.scaling_rules import SCALING_RULES
from tfbatch.schedules import LearningRateInExamples

EACH = pytest.mark.parametrize("name", OPTIMIZERS.names())


def step(optimizer, *, gradient, weight=1.0):
    """One update of one weight."""
    variable = keras.Variable([weight])
    optimizer.build([variable])
    optimizer.apply([keras.ops.convert_to_tensor([gradient])])
    return float(keras.ops.convert_to_numpy(variable)[0])


@EACH
def test_build_returns_the_class_of_keras_that_the_file_names(name):
    module = OPTIMIZERS.load(name)

    assert type(module.build(0.1)) is getattr(keras.optimizers, module.KERAS_NAME)


@EACH
def test_the_file_declares_a_range_and_a_rule_that_exist(name):
    module = OPTIMIZERS.load(name)
    low, high = module.BASE_LEARNING_RATE

    assert 0 < low < high
    assert SCALING_RULES.check(module.SCALING_RULE)


@EACH
def test_the_declared_parameters_are_those_that_build_takes(name):
    module = OPTIMIZERS.load(name)
    parameters = dict(inspect.signature(module.build).parameters)
    del parameters["learning_rate"]

    assert {key: p.default for key, p in parameters.items()} == module.PARAMETERS
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters.values())


@EACH
def test_every_parameter_and_the_learning_rate_reach_keras(name):
    module = OPTIMIZERS.load(name)
    for key, default in module.PARAMETERS.items():
        for value in (default, 0.5 * (default or 0.0) + 0.01):
            config = module.build(0.25, **{key: value}).get_config()
            assert config[key] == value
            assert config["learning_rate"] == 0.25


@EACH
def test_a_schedule_decides_the_size_of_a_step(name):
    module = OPTIMIZERS.load(name)
    schedule = LearningRateInExamples(
        "constant", learning_rate=0.1, batch_size=8, total_examples=80, warmup_examples=16
    )

    moved = [step(module.build(rate), gradient=1.0) for rate in (schedule, 0.05, 0.1)]

    assert moved[0] == pytest.approx(moved[1], rel=1e-6)  # the first update of the warm-up
    assert moved[2] < moved[0] < 1


@EACH
def test_a_step_goes_down_the_gradient_and_stays_finite(name):
    optimizer = OPTIMIZERS.load(name).build(OPTIMIZERS.load(name).BASE_LEARNING_RATE[1])
    variable = keras.Variable([1.0, -2.0])
    optimizer.build([variable])

    for _ in range(50):
        optimizer.apply([2 * keras.ops.convert_to_tensor(variable)])

    after = keras.ops.convert_to_numpy(variable)
    assert np.isfinite(after).all()
    assert (after**2).sum() < 5


@EACH
def test_an_optimizer_survives_a_round_trip(name):
    before = OPTIMIZERS.load(name).build(0.1)

    after = keras.optimizers.deserialize(keras.optimizers.serialize(before))

    assert after.get_config() == before.get_config()


@pytest.mark.parametrize("name", [n for n in OPTIMIZERS.names() if n != "adam"])
def test_weight_decay_is_decoupled_and_times_the_learning_rate(name):
    optimizer = OPTIMIZERS.load(name).build(0.1, weight_decay=0.5)

    assert step(optimizer, gradient=0.0) == pytest.approx(1 - 0.1 * 0.5, rel=1e-6)


def test_sgd_is_momentum_and_adam_is_not():
    assert step(OPTIMIZERS.load("sgd").build(0.1), gradient=3.0) == pytest.approx(0.7)
    assert step(OPTIMIZERS.load("adam").build(0.1), gradient=3.0) == pytest.approx(0.9, abs=1e-5)
