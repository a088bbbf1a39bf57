"""The best constant prediction under any loss, and what luck adds: closed forms first."""

import numpy as np
import pytest

from tfbatch.estimators.constant_prediction import (
    Losses,
    best_constant,
    gain_by_luck,
    least_loss,
)

RANDOM = np.random.default_rng(4)
N = 400


def losses_of(function):
    def found(constant):
        each, slopes = function(constant)
        return Losses(float(each.mean()), slopes, each)

    return found


def cross_entropy(classes, units):
    rows = np.eye(units)[classes]

    def found(logits):
        logs = logits - np.logaddexp.reduce(logits)
        return -logs[classes], np.exp(logs) - rows

    return losses_of(found)


def squared_error(targets):
    return losses_of(lambda c: ((c - targets) ** 2, 2 * (c - targets)[:, None]))


def hinge(signs, output=lambda c: c, slope=lambda c: 1.0):
    def found(constant):
        margin = 1 - signs * output(constant[0])
        return np.maximum(margin, 0), (-signs * (margin > 0) * slope(constant[0]))[:, None]

    return losses_of(found)


def test_a_cross_entropy_has_the_shares_and_half_the_squared_deviations():
    classes = np.repeat([0, 1, 2, 3], [200, 100, 60, 40])
    loss = cross_entropy(classes, 4)
    logits = best_constant(loss, 4)

    shares = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(shares, [0.5, 0.25, 0.15, 0.1], atol=1e-3)
    assert gain_by_luck(loss, logits) == pytest.approx(9 / (2 * N), rel=0.01)
    assert gain_by_luck(loss, logits, examples=10 * N) == pytest.approx(9 / (20 * N), rel=0.01)


def test_a_squared_error_has_the_mean_and_the_variance():
    targets = RANDOM.normal(50.0, 3.0, N)
    loss = squared_error(targets)
    constant = best_constant(loss, 1)

    assert constant == pytest.approx([targets.mean()], rel=1e-4)
    assert gain_by_luck(loss, constant) == pytest.approx(9 * targets.var() / N, rel=0.15)


def test_of_two_outputs_the_one_of_more_noise_counts():
    targets = np.stack([RANDOM.normal(0, 1, N), RANDOM.normal(0, 5, N)], axis=1)

    def found(constant):
        difference = constant - targets
        return (difference**2).sum(axis=1), 2 * difference

    blocks = [slice(0, 1), slice(1, 2)]
    luck = gain_by_luck(losses_of(found), targets.mean(axis=0), blocks=blocks)
    assert luck == pytest.approx(9 * targets[:, 1].var() / N, rel=0.15)


@pytest.mark.parametrize("saturated", [False, True])
def test_a_hinge_gains_by_single_predictions_of_the_rarer_sign(saturated):
    """exp(2 * rate) = 0.7 / 0.3: 0.3 exp(2 rate) + 0.7 exp(-2 rate) = 1."""
    signs = np.repeat([1, -1], [120, 280])
    loss = hinge(signs)
    if saturated:  # its minimum is at infinity
        loss = hinge(signs, np.tanh, lambda c: 1 - np.tanh(c) ** 2)
    constant = best_constant(loss, 1)

    assert least_loss(loss, constant) == pytest.approx(0.6, abs=1e-9)
    rate = np.log(0.7 / 0.3) / 2
    assert gain_by_luck(loss, constant) == pytest.approx(9 / (2 * rate * N), rel=0.02)


def test_without_the_losses_of_examples_their_slopes_are_enough():
    targets = RANDOM.normal(0.0, 1.0, N)
    whole = squared_error(targets)

    def without(constant):
        found = whole(constant)
        return Losses(found.mean, found.slopes)

    luck = gain_by_luck(without, targets.mean(keepdims=True))
    assert luck == pytest.approx(9 * targets.var() / N, rel=0.15)


def test_a_loss_without_a_minimum_has_no_constant():
    signs = np.repeat([1.0, -1.0], [30, 10])
    assert best_constant(losses_of(lambda c: (signs * c[0], signs[:, None])), 1) is None


def test_predictions_that_know_nothing_rarely_gain_more():
    signs = np.where(RANDOM.random(N) < 0.3, 1, -1)
    loss = hinge(signs)
    least = least_loss(loss, constant := best_constant(loss, 1))
    luck = gain_by_luck(loss, constant)
    gains = []
    for _ in range(600):
        flipped = RANDOM.random(N) < RANDOM.choice([0.01, 0.03, 0.1, 0.3])
        gains.append(least - np.maximum(1 - signs * np.where(flipped, 1, -1), 0).mean())

    assert sum(gain > luck for gain in gains) <= 2
    assert max(gains) > luck / 4


def test_a_cost_that_is_lost_in_rounding_gains_nothing_by_luck():
    """A loss of one value for a batch has slopes that cancel: the search for a rate has an end."""
    slopes = RANDOM.normal(0.0, 1.0, N)[:, None]
    slopes -= slopes.mean()

    def found(constant):
        return Losses(1.0 + 1e-12 * float(constant[0] ** 2), slopes)

    assert gain_by_luck(found, np.zeros(1)) == 0.0


def test_probabilities_that_are_clipped_at_both_starts_have_a_constant():
    ones = np.repeat([0.0, 1.0], [N // 4, 3 * N // 4])

    def found(constant):
        share = np.clip(constant[0], 1e-7, 1 - 1e-7)
        each = -ones * np.log(share) - (1 - ones) * np.log(1 - share)
        inside = 1e-7 < constant[0] < 1 - 1e-7
        return each, (inside * ((1 - ones) / (1 - share) - ones / share))[:, None]

    assert best_constant(losses_of(found), 1) == pytest.approx([0.75], abs=1e-3)
