"""What counts as learned: better than no knowledge of the inputs, beyond luck."""

import math

import numpy as np
import pytest

from tfbatch.estimators.chance_level import (
    ChanceLevel,
    absolute_error_noise,
    accuracy_noise,
    auc_noise,
    constant_accuracy,
    constant_cross_entropy,
    cross_entropy_noise,
    squared_error_noise,
)


def test_a_constant_prediction_of_equal_classes():
    assert constant_accuracy([20] * 50) == pytest.approx(1 / 50)
    assert constant_cross_entropy([20] * 50) == pytest.approx(math.log(50))


def test_a_constant_prediction_of_unequal_classes():
    assert constant_accuracy([90, 10, 0]) == 0.9
    expected = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert constant_cross_entropy([90, 10, 0]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("score", "direction", "learned"),
    [
        (1 / 50, "max", False),  # every trial predicts one class
        (0.031, "max", False),  # 3 deviations of 800 examples are 0.0148
        (0.036, "max", True),
        (math.log(50), "min", False),
        (math.log(50) - 0.004, "min", False),  # luck reaches 0.0056
        (math.log(50) - 0.007, "min", True),
    ],
)
def test_what_fifty_classes_and_800_examples_need(score, direction, learned):
    examples = 800
    if direction == "max":
        level = ChanceLevel(0.02, 1 / 50, accuracy_noise(1 / 50, examples))
    else:
        level = ChanceLevel(4.4, math.log(50), cross_entropy_noise(examples))
    assert level.beaten_by(score, direction) is learned


def test_the_stronger_reference_decides():
    level = ChanceLevel(untrained=0.4, constant=0.9)

    assert not level.beaten_by(0.85, "max")  # better than untrained, but the majority is 0.9
    assert not ChanceLevel(untrained=0.95, constant=0.9).beaten_by(0.93, "max")
    assert level.beaten_by(0.91, "max")


def test_a_reference_that_is_no_number_decides_nothing():
    assert ChanceLevel(untrained=math.nan).beaten_by(5.0, "min")
    assert not ChanceLevel(untrained=math.inf, constant=1.0).beaten_by(1.0, "min")


def test_equal_but_for_rounding_is_not_better():
    assert not ChanceLevel(untrained=3.9120230).beaten_by(3.9120229, "min")


def test_predictions_that_know_nothing_rarely_pass():
    """Random predictions of every spread on random classes and numbers; best of each kind."""
    random = np.random.default_rng(3)
    examples, passed = 400, 0
    for _ in range(150):
        classes = random.integers(0, 3, examples)
        counts = np.bincount(classes, minlength=3)
        entropy = ChanceLevel(9.9, constant_cross_entropy(counts), cross_entropy_noise(examples))
        spread = random.choice([0.01, 0.05, 0.2, 1.0])
        logits = np.log(counts / examples) + random.normal(0, spread, (examples, 3))
        log_sums = np.log(np.exp(logits).sum(axis=1))
        loss = np.mean(log_sums - logits[np.arange(examples), classes])
        targets = random.normal(0, 5, examples)
        variance = float(np.var(targets))
        error = ChanceLevel(99.0, variance, squared_error_noise(variance, examples))
        deviation = float(np.mean(np.abs(targets - np.median(targets))))
        distance = ChanceLevel(99.0, deviation, absolute_error_noise(deviation, examples))
        guess = targets.mean() + random.normal(0, spread, examples)
        passed += entropy.beaten_by(loss, "min")
        passed += error.beaten_by(float(np.mean((targets - guess) ** 2)), "min")
        passed += distance.beaten_by(float(np.mean(np.abs(targets - guess))), "min")
    assert passed <= 1


@pytest.mark.parametrize(("score", "learned"), [(0.955, True), (0.95, False), (0.94, False)])
def test_any_gain_over_a_model_that_is_good_before_training_counts(score, learned):
    level = ChanceLevel(0.95, 0.34, accuracy_noise(0.95, 400))  # luck of guesses: 0.033

    assert level.knows_before_training("max")
    assert level.beaten_by(score, "max") is learned
    assert level.without_knowledge() == 0.34


def test_an_area_under_the_curve_of_guesses_rarely_passes():
    random = np.random.default_rng(5)
    positives, negatives = 30, 70
    areas = []
    for _ in range(300):
        ranks = random.permutation(positives + negatives)[:positives] + 1
        areas.append((ranks.sum() - positives * (positives + 1) / 2) / (positives * negatives))
    level = ChanceLevel(0.5, 0.5, auc_noise(positives, negatives))

    assert np.std(areas) == pytest.approx(level.noise / 3, rel=0.15)
    assert sum(level.beaten_by(area, "max") for area in areas) <= 3


def test_noise_falls_with_the_examples():
    """Three deviations: 9 v / n, 9 e / n and 9 / (2 n), as derived in the docstrings."""
    assert squared_error_noise(2.0, 900) == pytest.approx(0.02)
    assert absolute_error_noise(2.0, 900) == pytest.approx(0.02)
    assert cross_entropy_noise(900) == pytest.approx(0.005)
