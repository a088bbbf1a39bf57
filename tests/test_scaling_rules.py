"""Every scaling rule, by the properties that all have and by the numbers of each."""

from __future__ import annotations

import math

import pytest

from tfbatch.errors import InputError
from tfbatch.optimizers import ROLE_NAMES
from tfbatch.scaling_rules import (
    SCALING_RULES,
    check_rule,
    rule_parameters,
    scaled,
    scaled_number,
)

EACH_RULE = pytest.mark.parametrize("rule", SCALING_RULES.names())
SIZES = (1, 2, 24, 32, 48, 256, 4096)

# The learning rate 0.1 at a batch size of 32, at batch sizes 8, 32, 128 and 2048.
NUMBERS = {
    "none": (0.1, 0.1, 0.1, 0.1),
    "linear": (0.025, 0.1, 0.4, 6.4),
    "square_root": (0.05, 0.1, 0.2, 0.8),
    "adam_sde": (0.05, 0.1, 0.2, 0.8),
    "half_life": (0.05, 0.1, 0.2, 0.8),
    "power": (0.1 * 0.25**0.75, 0.1, 0.1 * 4**0.75, 0.1 * 64**0.75),
    # maximum / (1 + 96 / batch size) with maximum 0.4, from 0.1 at 32
    "saturating": (0.4 / 13, 0.1, 0.4 / 1.75, 0.4 / 1.046875),
}
PARAMETERS = {"power": {"alpha": 0.75}, "saturating": {"critical_batch_size": 96}}
DECAYS = ("momentum", "first_moment", "second_moment", "weight_average")


def at(rule, learning_rate, batch_size, base=32):
    """By a rule, each of whose parameters is 0.75 where no number is given above."""
    parameters = PARAMETERS.get(rule, dict.fromkeys(rule_parameters(rule), 0.75))
    return scaled(
        rule,
        learning_rate,
        batch_size=batch_size,
        base_batch_size=base,
        parameters=parameters,
    )


def number_at(rule, role, value, batch_size, base=32):
    return scaled_number(rule, role, value, batch_size=batch_size, base_batch_size=base)


@pytest.mark.parametrize("rule", NUMBERS)
def test_a_rule_gives_its_numbers(rule):
    got = [at(rule, 0.1, size) for size in (8, 32, 128, 2048)]

    assert got == pytest.approx(NUMBERS[rule], rel=1e-12)


@EACH_RULE
def test_the_same_batch_size_changes_nothing(rule):
    assert at(rule, 0.137, 24, base=24) == 0.137
    for role in ROLE_NAMES:
        assert number_at(rule, role, 0.3, 24, base=24) == 0.3


@EACH_RULE
def test_scaling_twice_is_scaling_once(rule):
    """From 32 to a first batch size and on to a second: f(k1) of f(k2) is f(k1 k2)."""
    for first in SIZES:
        for second in SIZES:
            twice = at(rule, at(rule, 0.3, first), second, base=first)
            assert math.isclose(twice, at(rule, 0.3, second), rel_tol=1e-12)


@EACH_RULE
@pytest.mark.parametrize("role", ROLE_NAMES)
def test_scaling_a_number_twice_is_scaling_it_once(rule, role):
    for first in SIZES:
        for second in SIZES:
            twice = number_at(rule, role, number_at(rule, role, 0.99, first), second, base=first)
            assert math.isclose(
                twice, number_at(rule, role, 0.99, second), rel_tol=1e-9, abs_tol=1e-9
            )


@EACH_RULE
def test_a_larger_batch_never_gets_a_smaller_learning_rate(rule):
    rates = [at(rule, 0.3, size) for size in SIZES]

    assert rates == sorted(rates)


@EACH_RULE
def test_a_larger_batch_never_gets_a_longer_memory_or_a_larger_epsilon(rule):
    for role in (*DECAYS, "epsilon", "squared_epsilon"):
        numbers = [number_at(rule, role, 0.999, size) for size in SIZES]
        assert numbers == sorted(numbers, reverse=True)


@EACH_RULE
def test_a_rule_is_proportional_to_the_learning_rate(rule):
    assert at(rule, 0.6, 256) == pytest.approx(2 * at(rule, 0.3, 256), rel=1e-12)


@EACH_RULE
def test_a_rule_leaves_weight_decay_and_averages_alone(rule):
    """The one has a timescale of its own, in epochs; the other is a share of the training."""
    for role in ("weight_decay", "weight_average"):
        assert number_at(rule, role, 0.1, 256) == 0.1


def test_only_two_rules_change_the_optimizers_numbers():
    """At a fixed momentum the linear rule keeps the noise of the weights (Goyal et al. 2017)."""
    changing = {
        rule
        for rule in SCALING_RULES.names()
        for role in ROLE_NAMES
        if number_at(rule, role, 0.9, 64) != 0.9
    }
    assert changing == {"adam_sde", "half_life"}


@pytest.mark.parametrize(
    ("role", "value", "expected"),
    [
        ("first_moment", 0.9, 0.6),
        ("second_moment", 0.999, 0.996),
        ("epsilon", 1e-8, 5e-9),
        ("squared_epsilon", 1e-8, 2.5e-9),
        ("momentum", 0.9, 0.9),
    ],
)
def test_the_rule_of_malladi_at_four_times_the_batch(role, value, expected):
    assert number_at("adam_sde", role, value, 128) == pytest.approx(expected, rel=1e-12)


def test_adam_follows_one_path_at_every_batch_size_in_the_limit_of_the_rule():
    """Of a constant gradient plus noise, second moments over equal numbers of examples agree."""
    small = number_at("adam_sde", "second_moment", 0.999, 8)
    large = number_at("adam_sde", "second_moment", 0.999, 128)
    for examples in (1_000, 30_000):
        assert small ** (examples / 8) == pytest.approx(large ** (examples / 128), abs=2e-3)


def test_the_half_life_in_examples_stays():
    for size in SIZES:
        beta = number_at("half_life", "second_moment", 0.999, size)
        assert size * math.log(2) / -math.log(beta) == pytest.approx(22_169.6, rel=1e-5)
    assert number_at("half_life", "first_moment", 0.9, 256) == 0.9


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_the_power_rule_holds_the_rules_without_parameters(alpha):
    name = {0.0: "none", 0.5: "square_root", 1.0: "linear"}[alpha]
    for size in SIZES:
        got = scaled("power", 0.3, batch_size=size, base_batch_size=32, parameters={"alpha": alpha})
        assert got == pytest.approx(at(name, 0.3, size), rel=1e-12)


def test_the_saturating_rule_is_linear_below_and_constant_above_its_batch_size():
    tiny, huge = {"critical_batch_size": 1e9}, {"critical_batch_size": 1e-9}

    assert scaled(
        "saturating", 0.1, batch_size=64, base_batch_size=32, parameters=tiny
    ) == pytest.approx(0.2, rel=1e-6)
    assert scaled(
        "saturating", 0.1, batch_size=64, base_batch_size=32, parameters=huge
    ) == pytest.approx(0.1, rel=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0},
        {"learning_rate": math.nan},
        {"learning_rate": math.inf},
        {"batch_size": 0},
        {"batch_size": math.nan},
        {"base_batch_size": -1},
        {"base_batch_size": math.inf},
    ],
    ids=str,
)
def test_an_argument_that_is_not_positive_and_finite_is_refused(change):
    good = {"learning_rate": 0.1, "batch_size": 8, "base_batch_size": 8}

    with pytest.raises(InputError, match=r"must be finite and > 0\. Received: "):
        scaled("linear", **{**good, **change})


def test_an_unknown_rule_is_refused_with_the_closest_one():
    with pytest.raises(InputError) as caught:
        scaled("liner", 0.1, batch_size=8, base_batch_size=8)

    assert str(caught.value).startswith(
        "Unknown scaling rule `liner`. Did you mean `linear`? Available: "
    )


@pytest.mark.parametrize(
    ("rule", "parameters", "message"),
    [
        ("linear", {"alpha": 1}, r"linear has no parameter `alpha`\. It has none"),
        ("power", {"alhpa": 1}, r"no parameter `alhpa`\. Did you mean `alpha`\? Available: alpha"),
        ("power", {}, r"`alpha` of the scaling rule power must be a number >= 0\. Received: None"),
        ("power", {"alpha": -1}, r">= 0\. Received: -1"),
        ("power", {"alpha": True}, r">= 0\. Received: True"),
        ("power", {"alpha": math.nan}, r">= 0\. Received: nan"),
        ("saturating", {"critical_batch_size": "x"}, r">= 0\. Received: 'x'"),
    ],
)
def test_a_parameter_that_cannot_be_used_is_refused(rule, parameters, message):
    with pytest.raises(InputError, match=message):
        scaled(rule, 0.1, batch_size=8, base_batch_size=8, parameters=parameters)


def test_a_rule_for_second_moments_is_refused_for_an_optimizer_without():
    check_rule("adam_sde", roles={"beta_2": "second_moment"}, optimizer="adam")
    check_rule("linear", roles={"momentum": "momentum"}, optimizer="sgd")
    with pytest.raises(InputError, match=r"adam_sde is for optimizers with a second moment, which"):
        check_rule("adam_sde", roles={"momentum": "momentum"}, optimizer="sgd")


@EACH_RULE
def test_a_rule_names_its_formula_and_who_proposed_it(rule):
    module = SCALING_RULES.load(rule)

    assert module.FORMULA.startswith("learning_rate")
    assert "20" in module.SOURCE
