"""Every scaling rule, by the properties that all have and by the numbers of each."""

from __future__ import annotations

import math

import pytest

from tfbatch.errors import InputError
from tfbatch.scaling_rules import SCALING_RULES, scaled

EACH_RULE = pytest.mark.parametrize("rule", SCALING_RULES.names())
RATIOS = (1 / 32, 0.5, 1.0, 1.5, 8.0, 4096.0)

# The learning rate 0.1 at a batch size of 32, at batch sizes 8, 32, 128 and 2048.
NUMBERS = {
    "none": (0.1, 0.1, 0.1, 0.1),
    "linear": (0.025, 0.1, 0.4, 6.4),
    "square_root": (0.05, 0.1, 0.2, 0.8),
}


def test_every_rule_has_its_numbers_here():
    assert set(NUMBERS) == set(SCALING_RULES.names())


@EACH_RULE
def test_a_rule_gives_its_numbers(rule):
    got = [scaled(rule, 0.1, batch_size=b, base_batch_size=32) for b in (8, 32, 128, 2048)]

    assert got == pytest.approx(NUMBERS[rule], rel=1e-12)


@EACH_RULE
def test_a_ratio_of_one_changes_nothing(rule):
    assert SCALING_RULES.load(rule).scale(0.137, 1.0) == 0.137


@EACH_RULE
def test_scaling_twice_is_scaling_by_the_product(rule):
    scale = SCALING_RULES.load(rule).scale
    for first in RATIOS:
        for second in RATIOS:
            twice = scale(scale(0.3, first), second)
            assert math.isclose(twice, scale(0.3, first * second), rel_tol=1e-12)


@EACH_RULE
def test_a_larger_batch_never_gets_a_smaller_learning_rate(rule):
    rates = [SCALING_RULES.load(rule).scale(0.3, ratio) for ratio in RATIOS]

    assert rates == sorted(rates)


@EACH_RULE
def test_a_rule_is_proportional_to_the_learning_rate(rule):
    scale = SCALING_RULES.load(rule).scale

    assert scale(0.6, 8.0) == pytest.approx(2 * scale(0.3, 8.0), rel=1e-12)


@pytest.mark.parametrize(
    "change", [{"learning_rate": 0}, {"batch_size": 0}, {"base_batch_size": -1}], ids=str
)
def test_an_argument_that_is_not_positive_is_refused(change):
    good = {"learning_rate": 0.1, "batch_size": 8, "base_batch_size": 8}

    with pytest.raises(InputError, match=r"must be > 0\. Received: "):
        scaled("linear", **{**good, **change})


def test_an_unknown_rule_is_refused_with_the_closest_one():
    with pytest.raises(InputError) as caught:
        scaled("liner", 0.1, batch_size=8, base_batch_size=8)

    assert str(caught.value) == (
        "Unknown scaling rule `liner`. Did you mean `linear`? Available: linear, none, square_root."
    )
