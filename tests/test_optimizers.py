"""The contract of every file in tfbatch/optimizers."""

from __future__ import annotations

import inspect

import keras
import numpy as np
import pytest

from tfbatch.optimizers import (
    OPTIMIZERS,
    ROLE_NAMES,
    build_optimizer,
    class_of,
    keras_arguments,
    parameters_of,
    roles_of,
)
from tfbatch.scaling_rules import SCALING_RULES, check_rule
from tfbatch.schedules import LearningRateInExamples

EACH = pytest.mark.parametrize("name", OPTIMIZERS.names())


def step(optimizer, *, gradient, weight=1.0):
    """One update of one weight."""
    variable = keras.Variable([weight])
    optimizer.build([variable])
    optimizer.apply([keras.ops.convert_to_tensor([gradient])])
    return float(keras.ops.convert_to_numpy(variable)[0])


@EACH
def test_the_class_of_keras_that_the_file_names_is_built(name):
    assert type(build_optimizer(name, 0.1)) is class_of(name)
    assert class_of(name).__name__ == OPTIMIZERS.load(name).KERAS_NAME


@EACH
def test_the_file_declares_a_range_and_a_rule_that_exist(name):
    module = OPTIMIZERS.load(name)
    low, high = module.BASE_LEARNING_RATE

    assert 0 < low < high
    assert low <= module.DEFAULT_LEARNING_RATE or name == "muon"
    assert SCALING_RULES.check(module.SCALING_RULE)
    check_rule(module.SCALING_RULE, roles=roles_of(name), optimizer=name)


@EACH
def test_the_declared_parameters_and_defaults_are_those_of_keras(name):
    """But SGD's momentum, without which nobody trains, and LARS's biases, which would diverge."""
    others = {("sgd", "momentum"), ("lars", "exclude_vectors")}
    module = OPTIMIZERS.load(name)
    of_keras = inspect.signature(class_of(name)).parameters

    assert of_keras["learning_rate"].default == module.DEFAULT_LEARNING_RATE
    for key, default in module.PARAMETERS.items():
        assert default == of_keras[key].default or (name, key) in others


@EACH
def test_the_file_says_of_every_number_what_it_is(name):
    module = OPTIMIZERS.load(name)
    numbers = {key for key, default in module.PARAMETERS.items() if not isinstance(default, bool)}

    assert set(module.ROLES) == numbers
    assert set(module.ROLES.values()) <= set(ROLE_NAMES)


@EACH
def test_every_parameter_and_the_learning_rate_reach_keras(name):
    for key, default in parameters_of(name).items():
        other = not default if isinstance(default, bool) else 0.5 * (default or 0.0) + 0.01
        for value in (default, other):
            config = build_optimizer(name, 0.25, **{key: value}).get_config()
            assert config[key] == value or (key, value) == ("ema_momentum", None)
            assert config["learning_rate"] == 0.25
            assert config["use_ema"] == (key == "ema_momentum" and value is not None)


@EACH
def test_zero_turns_off_clipping_averaging_and_weight_decay(name):
    off = dict.fromkeys(("global_clipnorm", "ema_momentum"), 0.0)
    if OPTIMIZERS.load(name).PARAMETERS["weight_decay"] is None:
        off["weight_decay"] = 0.0
    config = build_optimizer(name, 0.1, **off).get_config()

    assert config["global_clipnorm"] is None
    assert config["use_ema"] is False
    assert not config["weight_decay"] or "weight_decay" not in off
    assert config == build_optimizer(name, 0.1).get_config() | {"name": config["name"]}


@EACH
def test_a_schedule_decides_the_size_of_a_step(name):
    schedule = LearningRateInExamples(
        "constant", learning_rate=0.1, batch_size=8, total_examples=80, warmup_examples=16
    )

    moved = [step(build_optimizer(name, rate), gradient=1.0) for rate in (schedule, 0.05, 0.1)]

    assert moved[0] == pytest.approx(moved[1], rel=1e-6)  # the first update of the warm-up
    assert moved[2] < moved[0] < 1


@EACH
def test_a_step_goes_down_the_gradient_and_stays_finite(name):
    optimizer = build_optimizer(name, OPTIMIZERS.load(name).BASE_LEARNING_RATE[1])
    variable = keras.Variable([[1.0, -2.0]])  # a matrix, since LARS adapts no vector
    optimizer.build([variable])

    for _ in range(50):
        optimizer.apply([2 * keras.ops.convert_to_tensor(variable)])

    after = keras.ops.convert_to_numpy(variable)
    assert np.isfinite(after).all()
    assert (after**2).sum() < 5


@EACH
def test_an_optimizer_survives_a_round_trip(name):
    before = build_optimizer(name, 0.1)

    # Not with keras.optimizers.deserialize, which does not know LAMB.
    after = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(before))

    assert after.get_config() == before.get_config()


@pytest.mark.parametrize("name", [n for n in OPTIMIZERS.names() if n != "lars"])
def test_weight_decay_is_decoupled_and_times_the_learning_rate(name):
    """A timescale in epochs rests on it. Muon leaves what is no matrix to its AdamW."""
    key = "adam_weight_decay" if name == "muon" else "weight_decay"
    optimizer = build_optimizer(name, 0.1, **{key: 0.5})

    assert step(optimizer, gradient=0.0) == pytest.approx(1 - 0.1 * 0.5, rel=1e-6)


def test_muon_decays_matrices_too():
    optimizer = build_optimizer("muon", 0.1, weight_decay=0.5)
    variable = keras.Variable([[1.0, 2.0]])
    optimizer.build([variable])
    optimizer.apply([keras.ops.zeros((1, 2))])

    assert keras.ops.convert_to_numpy(variable) == pytest.approx(np.array([[0.95, 1.9]]))


@EACH
def test_the_norm_of_all_gradients_together_is_clipped(name):
    """Two gradients of norm 5 together: clipped to 0.5 they are a tenth of what they were."""
    found = []
    for scale, clip in ((1.0, 0.5), (0.1, 0.0)):
        variables = [keras.Variable([1.0]), keras.Variable([1.0])]
        optimizer = build_optimizer(name, 0.1, global_clipnorm=clip)
        optimizer.build(variables)
        optimizer.apply([keras.ops.convert_to_tensor([g * scale]) for g in (3.0, 4.0)])
        found.append([float(keras.ops.convert_to_numpy(v)[0]) for v in variables])

    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_epsilon_stands_where_its_role_says():
    """From Keras's source: the first update with a gradient of 3 and a large epsilon of 4."""
    made = {"adam": 4.0, "nadam": 4.0, "lamb": 4.0, "rmsprop": 4.0, "adagrad": 4.0}
    moved = {n: 1 - step(build_optimizer(n, 1.0, epsilon=e), gradient=3.0) for n, e in made.items()}
    alpha = (1 - 0.999) ** 0.5 / (1 - 0.9)

    assert moved["adam"] == pytest.approx(alpha * 0.3 / (0.001**0.5 * 3 + 4.0), rel=1e-3)
    assert moved["lamb"] == pytest.approx(1.0, rel=1e-5)  # the trust ratio of a single weight of 1
    assert moved["rmsprop"] == pytest.approx(3 / (0.1 * 9 + 4.0) ** 0.5, rel=1e-5)
    assert moved["adagrad"] == pytest.approx(3 / (0.1 + 9 + 4.0) ** 0.5, rel=1e-5)


def test_sgd_is_momentum_and_adam_is_not():
    assert step(build_optimizer("sgd", 0.1), gradient=3.0) == pytest.approx(0.7)
    assert step(build_optimizer("adam", 0.1), gradient=3.0) == pytest.approx(0.9, abs=1e-5)
    nesterov = build_optimizer("sgd", 0.1, momentum=0.5, nesterov=True)
    assert step(nesterov, gradient=3.0) == pytest.approx(1 - 0.3 - 0.5 * 0.3)


def test_what_is_off_is_not_written_out():
    assert keras_arguments("sgd", {"ema_momentum": None, "global_clipnorm": 0.0}) == {
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": None,
    }
    assert keras_arguments("lion", {"ema_momentum": 0.5})["use_ema"] is True
