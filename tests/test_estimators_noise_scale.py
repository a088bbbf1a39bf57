"""Exact algebra, every subset of a small data set, linear regression, simulated coverage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from tfbatch.errors import InputError
from tfbatch.estimators.interval import Interval, Moments, interval_of_positive_ratio
from tfbatch.estimators.noise_scale import (
    estimate_noise_scale,
    estimate_noise_scale_per_layer,
    squared_gradient_and_noise_trace,
    squared_gradient_of_data_set,
)
from tfbatch.estimators.noise_scale_stream import NoiseScaleStream

SIZES = {"small_batch_size": 4, "large_batch_size": 32}


def squares(random, *, pairs, dimensions, noise_scale, small=4, large=32):
    """Squared norms of |G|^2 = 1 / noise_scale, tr(Sigma) = 1, micro-batches of one batch."""
    gradient = math.sqrt(1 / noise_scale / dimensions)
    shape = (pairs, large // small, dimensions)
    micro = gradient + random.normal(0, math.sqrt(1 / dimensions / small), shape)
    return (micro**2).sum(-1).mean(-1), (micro.mean(1) ** 2).sum(-1)


def test_the_two_size_algebra_is_exact():
    """|G|^2 = 3 and tr(Sigma) = 50 make the squared norms 3 + 50/4 and 3 + 50/32."""
    gradient, noise = squared_gradient_and_noise_trace(3 + 50 / 4, 3 + 50 / 32, **SIZES)

    np.testing.assert_allclose([gradient, noise], [3, 50], rtol=1e-10)


def test_swapped_sizes_give_the_same():
    straight = squared_gradient_and_noise_trace(15.5, 4.5, small_batch_size=4, large_batch_size=32)
    swapped = squared_gradient_and_noise_trace(4.5, 15.5, small_batch_size=32, large_batch_size=4)

    np.testing.assert_allclose(straight, swapped, rtol=1e-12)


@pytest.mark.parametrize("sizes", [(8, 8), (0, 8), (8, -1)], ids=["equal", "zero", "negative"])
def test_sizes_that_cannot_tell_gradient_from_noise_are_refused(sizes):
    with pytest.raises(InputError, match="must differ and be >= 1"):
        squared_gradient_and_noise_trace(
            1.0, 1.0, small_batch_size=sizes[0], large_batch_size=sizes[1]
        )
    with pytest.raises(InputError, match="must differ"):
        NoiseScaleStream(decay=0.9, small_batch_size=sizes[0], large_batch_size=sizes[1])


@pytest.mark.parametrize(("small", "large"), [(1, 2), (2, 5), (3, 7)])
def test_every_subset_of_a_data_set_gives_its_trace_exactly(small, large):
    gradients = np.random.default_rng(3).normal(1, 2, (7, 3))
    mean = gradients.mean(0)
    trace = ((gradients - mean) ** 2).sum() / (7 - 1)

    def mean_square(size):
        subsets = itertools.combinations(range(7), size)
        return np.mean([(gradients[list(s)].mean(0) ** 2).sum() for s in subsets])

    gradient, noise = squared_gradient_and_noise_trace(
        mean_square(small), mean_square(large), small_batch_size=small, large_batch_size=large
    )
    corrected = squared_gradient_of_data_set(float(gradient), float(noise), num_examples=7)

    assert noise == pytest.approx(trace, rel=1e-10)
    assert gradient == pytest.approx(mean @ mean - trace / 7, rel=1e-10)
    assert corrected == pytest.approx(mean @ mean, rel=1e-10)


def test_the_mean_of_numerators_is_divided_by_the_mean_of_denominators():
    """Gradients squared 1 and 3, noises 2 and 30: 32 / 4, where the mean quotient is 6."""
    gradient, noise = np.array([1.0, 3.0]), np.array([2.0, 30.0])

    found = estimate_noise_scale(gradient + noise / 4, gradient + noise / 32, **SIZES)

    assert found.noise_scale == pytest.approx(8, rel=1e-10)
    assert (found.squared_gradient, found.noise_trace) == (pytest.approx(2), pytest.approx(16))


def linear_regression(random, count, hessian, offset, deviation):
    """Per-example gradients x (x'offset + noise) of half the squared error, x ~ N(0, hessian)."""
    x = random.normal(size=(count, len(hessian))) * np.sqrt(hessian)
    error = x @ offset + random.normal(0, deviation, count)
    return x * error[:, None]


@pytest.mark.parametrize("power", [0, 1], ids=["simple", "hessian"])
def test_linear_regression_has_its_known_noise_scale(power):
    """tr(Sigma) and G in closed form, for |g|^2 and for g'Hg; within five standard errors."""
    hessian, offset, deviation = np.array([2.0, 1.0, 0.25]), np.array([0.5, -1.0, 2.0]), 0.7
    excess = offset @ (hessian * offset) + deviation**2
    weights = hessian**power
    gradient = (weights * (hessian * offset) ** 2).sum()
    noise = gradient + excess * (weights * hessian).sum()
    random = np.random.default_rng(4)
    micro = linear_regression(random, 4000 * 32, hessian, offset, deviation)
    micro = micro.reshape(4000, 8, 4, 3).mean(2)
    small = (weights * micro**2).sum(-1).mean(1)
    large = (weights * micro.mean(1) ** 2).sum(-1)

    found = estimate_noise_scale(small, large, **SIZES)
    each = squared_gradient_and_noise_trace(small, large, **SIZES)

    for measured, single, true in [
        (found.squared_gradient, each[0], gradient),
        (found.noise_trace, each[1], noise),
    ]:
        assert abs(measured - true) < 5 * single.std() / math.sqrt(4000)
    known = 1 + excess * (weights * hessian).sum() / gradient
    assert found.noise_scale == pytest.approx(known, rel=0.05)
    assert not found.low_confidence


def test_the_factor_of_a_loss_cancels():
    """Keras's "mse" has gradients twice as large, squared norms four times."""
    small, large = squares(np.random.default_rng(5), pairs=9, dimensions=30, noise_scale=20)

    half, whole = (estimate_noise_scale(f * small, f * large, **SIZES) for f in (1, 4))

    assert whole.noise_trace == pytest.approx(4 * half.noise_trace)
    assert whole.noise_scale == pytest.approx(half.noise_scale)
    assert whole.interval.high == pytest.approx(half.interval.high)


def test_layers_add_up_but_noise_scales_do_not():
    random = np.random.default_rng(6)
    first = squares(random, pairs=20, dimensions=40, noise_scale=10)
    second = squares(random, pairs=20, dimensions=40, noise_scale=90)
    small, large = (np.stack([a, b], axis=1) for a, b in zip(first, second, strict=True))

    layers = estimate_noise_scale_per_layer(small, large, **SIZES)
    whole = estimate_noise_scale(small.sum(1), large.sum(1), **SIZES)

    assert layers[0] == estimate_noise_scale(*first, **SIZES)
    assert sum(layer.noise_trace for layer in layers) == pytest.approx(whole.noise_trace)
    assert sum(layer.squared_gradient for layer in layers) == pytest.approx(whole.squared_gradient)
    assert layers[0].noise_scale < whole.noise_scale < layers[1].noise_scale


# The interval.


@pytest.mark.quick_cases("five pairs", "noisy")
@pytest.mark.parametrize(
    ("dimensions", "noise_scale", "pairs"),
    [(3, 8, 10), (100, 16, 5), (100, 256, 8), (100, 3000, 20), (2, 400, 12)],
    ids=["few dimensions", "five pairs", "noisy", "hopeless", "noisy in two dimensions"],
)
def test_the_interval_covers_the_true_noise_scale(dimensions, noise_scale, pairs):
    """Nominal 95 % of 1,000 samples; the normal approximation costs up to three points."""
    random = np.random.default_rng(pairs)
    covered = 0
    for _ in range(1000):
        pair = squares(random, pairs=pairs, dimensions=dimensions, noise_scale=noise_scale)
        covered += noise_scale in estimate_noise_scale(*pair, **SIZES).interval

    spread = 5 * math.sqrt(0.95 * 0.05 / 1000)
    assert 0.92 - spread < covered / 1000 < 0.975 + spread


def moments(numerator, denominator, *, error=1.0, freedom=20):
    return Moments(numerator, denominator, error**2, error**2, 0.0, freedom)


def test_fiellers_interval_in_a_case_worked_by_hand():
    """t^2 = 4, unit variances, (10, 5): 21 r^2 - 100 r + 96 = 0."""
    freedom, level = 1e9, 0.9544997361
    interval = interval_of_positive_ratio(moments(10, 5, freedom=freedom), level=level)

    root = math.sqrt(100**2 - 4 * 21 * 96)
    expected = ((100 - root) / 42, (100 + root) / 42)
    assert (interval.low, interval.high) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("numerator", "denominator", "low_is_zero"),
    [(10, 1, False), (10, -1, False), (10, -9, True), (1, 1, True), (10, 0, False), (2, -2, True)],
    ids=["near 0", "below 0", "far below 0", "both near 0", "exactly 0", "a gap above 0"],
)
def test_a_denominator_near_zero_leaves_the_interval_open(numerator, denominator, low_is_zero):
    interval = interval_of_positive_ratio(moments(numerator, denominator))

    assert interval.high == math.inf
    assert (interval.low == 0) == low_is_zero
    assert not interval.bounded


def test_without_freedom_nothing_is_known():
    assert interval_of_positive_ratio(moments(10, 5, freedom=0)) == Interval(0, math.inf)


def test_a_wider_level_gives_a_wider_interval():
    narrow, wide = (
        interval_of_positive_ratio(moments(10, 9), level=level) for level in (0.5, 0.99)
    )

    assert wide.low < narrow.low < 10 / 9 < narrow.high < wide.high
    with pytest.raises(InputError, match="`level` must be > 0 and < 1"):
        interval_of_positive_ratio(moments(10, 9), level=95)


# What is not to be trusted says why.


def test_a_clear_measurement_has_no_doubts():
    pair = squares(np.random.default_rng(0), pairs=20, dimensions=500, noise_scale=30)

    found = estimate_noise_scale(*pair, **SIZES)

    assert not found.low_confidence
    assert 30 in found.interval
    assert "weak" not in str(found)


@pytest.mark.parametrize(
    ("pairs", "noise_scale", "dimensions", "doubt"),
    [
        (5, 30, 500, "5 pairs, 8 are needed"),
        (10, 1e5, 20, "squared gradient is not told from 0"),
        (10, 1e-6, 3, "noise is not told from 0"),
        (12, 60, 12, "differ by more than 4 times"),
    ],
    ids=["few pairs", "no gradient", "no noise", "wide"],
)
def test_a_weak_measurement_says_why(pairs, noise_scale, dimensions, doubt):
    pair = squares(
        np.random.default_rng(1), pairs=pairs, dimensions=dimensions, noise_scale=noise_scale
    )
    if doubt.startswith("noise"):  # the same gradient at both sizes
        pair = (pair[1] * (1 + 1e-3 * np.array([1, -1] * 5)), pair[1])

    found = estimate_noise_scale(*pair, **SIZES)

    assert found.low_confidence
    assert doubt in str(found)


def test_one_pair_gives_a_number_and_no_interval():
    found = estimate_noise_scale([1 + 8 / 4], [1 + 8 / 32], **SIZES)

    assert found.noise_scale == pytest.approx(8)
    assert found.interval == Interval(0, math.inf)
    assert found.low_confidence


@pytest.mark.parametrize(
    ("small", "large", "message"),
    [
        ([], [], "length >= 1"),
        ([1.0], [1.0, 2.0], "same length"),
        ([1.0, -1.0], [1.0, 1.0], ">= 0"),
        ([1.0, math.nan], [1.0, 1.0], "finite"),
        ([[1.0]], [[1.0]], "1 dimension"),
    ],
)
def test_squares_that_are_none_are_refused(small, large, message):
    with pytest.raises(InputError, match=message):
        estimate_noise_scale(small, large, **SIZES)


# The stream.


def stream_of(pairs, decay):
    stream = NoiseScaleStream(decay=decay, **SIZES)
    for small, large in zip(*pairs, strict=True):
        stream = stream.updated(small, large)
    return stream


def test_a_stream_weighs_numerator_and_denominator_alike():
    pairs = squares(np.random.default_rng(7), pairs=6, dimensions=4, noise_scale=200)
    gradient, noise = squared_gradient_and_noise_trace(*pairs, **SIZES)
    weights = 0.5 ** np.arange(5, -1, -1)

    found = stream_of(pairs, 0.5).estimate()

    assert found.squared_gradient == pytest.approx(weights @ gradient / weights.sum())
    assert found.noise_trace == pytest.approx(weights @ noise / weights.sum())
    assert found.count == pytest.approx(weights.sum() ** 2 / (weights @ weights))


def test_a_stream_that_hardly_decays_is_the_plain_estimate():
    pairs = squares(np.random.default_rng(8), pairs=15, dimensions=50, noise_scale=30)

    plain = estimate_noise_scale(*pairs, **SIZES)
    streamed = stream_of(pairs, 1 - 1e-9).estimate()

    assert streamed.noise_scale == pytest.approx(plain.noise_scale, rel=1e-6)
    assert streamed.interval.low == pytest.approx(plain.interval.low, rel=1e-5)
    assert streamed.interval.high == pytest.approx(plain.interval.high, rel=1e-5)


def test_a_stream_survives_negative_estimates_and_gradients_that_overflow():
    pairs = squares(np.random.default_rng(9), pairs=400, dimensions=5, noise_scale=60)
    gradient, _ = squared_gradient_and_noise_trace(*pairs, **SIZES)
    assert (gradient < 0).sum() > 20

    stream = stream_of(pairs, 0.995)
    found = stream.updated(math.inf, 1.0).updated(1.0, math.nan).estimate()

    assert found == stream.estimate()
    assert 60 in found.interval
    assert stream.pairs == 400


def test_a_stream_forgets():
    random = np.random.default_rng(10)
    early = squares(random, pairs=200, dimensions=200, noise_scale=5)
    late = squares(random, pairs=200, dimensions=200, noise_scale=50)

    found = stream_of([np.concatenate(p) for p in zip(early, late, strict=True)], 0.95).estimate()

    assert found.noise_scale == pytest.approx(50, rel=0.1)
    assert found.count == pytest.approx(1.95 / 0.05, rel=1e-3)


def test_a_stream_without_memory_has_the_last_pair_and_an_interval_without_end():
    found = stream_of([[1 + 20 / 4, 1 + 8 / 4], [1 + 20 / 32, 1 + 8 / 32]], 0.0).estimate()

    assert found.noise_scale == pytest.approx(8)
    assert found.interval == Interval(0, math.inf)
    assert found.count == 1


def test_the_interval_of_a_stream_covers_too():
    random = np.random.default_rng(11)
    covered = 0
    for _ in range(400):
        pairs = squares(random, pairs=40, dimensions=60, noise_scale=100)
        covered += 100 in stream_of(pairs, 0.9).estimate().interval

    assert abs(covered / 400 - 0.95) < 0.02 + 5 * math.sqrt(0.95 * 0.05 / 400)


def test_an_empty_stream_has_no_estimate():
    with pytest.raises(InputError, match="no pair"):
        NoiseScaleStream(decay=0.9, **SIZES).estimate()
    with pytest.raises(InputError, match="`decay` must be >= 0 and < 1"):
        NoiseScaleStream(decay=1.0, **SIZES)
