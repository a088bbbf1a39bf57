"""Lines that are there are found; where there is none, none is claimed. The knee and its range."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tfbatch.errors import InputError
from tfbatch.estimators.interval import Interval
from tfbatch.estimators.knee import find_knee
from tfbatch.estimators.step_time import fit_step_time

SIZES = np.array([8.0, 16, 32, 64, 128, 256])


def test_an_affine_step_time_is_found_exactly():
    fit = fit_step_time(SIZES, 0.004 + 0.0002 * SIZES)

    assert (fit.form, fit.fits) == ("affine", True)
    assert (fit.fixed_seconds, fit.seconds_per_example) == pytest.approx((0.004, 0.0002))
    assert fit.seconds(250) == pytest.approx(0.054)
    assert fit.misfit < 1e-9
    assert str(fit) == "4 ms + 0.2 ms * batch size (misses at most 0.0%; measured from 8 to 256)"


def test_a_saturating_step_time_is_found_exactly():
    fit = fit_step_time(SIZES, np.maximum(0.01, 0.0002 * SIZES))

    assert (fit.form, fit.fits) == ("saturating", True)
    assert (fit.fixed_seconds, fit.seconds_per_example) == pytest.approx((0.01, 0.0002))
    assert fit.seconds(16) == 0.01
    assert "max(10 ms, 0.2 ms * batch size)" in str(fit)


def test_the_floor_and_the_line_are_each_fitted_by_relative_least_squares():
    """The number nearest to 1.0 and 1.1 in relative squares is (1 + 1/1.1) / (1 + 1/1.21)."""
    fit = fit_step_time([1, 2, 400, 800], [1.0, 1.1, 40.0, 88.0], form="saturating")

    assert fit.fixed_seconds == pytest.approx((1 + 1 / 1.1) / (1 + 1 / 1.21), rel=1e-12)
    assert fit.seconds_per_example == pytest.approx(fit.fixed_seconds / 10, rel=1e-12)


@pytest.mark.parametrize("form", ["affine", "saturating"])
def test_the_order_of_the_sizes_does_not_matter(form):
    times = 0.004 + 0.0002 * SIZES
    shuffled = [3, 0, 5, 1, 4, 2]

    there = fit_step_time(SIZES, times, form=form)
    back = fit_step_time(SIZES[shuffled], times[shuffled], form=form)

    assert there == back


def test_every_size_counts_by_its_share_not_by_its_seconds():
    """Noise of 5 % in the largest step must not hide a floor of 1 % of it: 1/t^2 weights."""
    random = np.random.default_rng(0)
    sizes = 2.0 ** np.arange(12)
    floors = [
        fit_step_time(
            sizes, (0.002 + 0.0001 * sizes) * random.normal(1, 0.05, 12), form="affine"
        ).fixed_seconds
        for _ in range(200)
    ]

    assert np.mean(floors) == pytest.approx(0.002, rel=0.02)
    assert np.std(floors) < 0.04 * 0.002


def test_both_numbers_are_never_negative():
    """Convex seconds, through which a free line would have a negative floor."""
    fit = fit_step_time([10, 20, 40, 80], [0.1, 0.3, 0.8, 2.0], form="affine")

    assert fit.fixed_seconds == 0
    assert not fit.fits


@pytest.mark.parametrize(
    "times",
    [1e-3 * SIZES**1.5, 1e-3 * np.sqrt(SIZES), np.where(SIZES > 100, 4, 1) * (0.01 + 1e-4 * SIZES)],
    ids=["power 1.5", "root", "a jump out of the cache"],
)
def test_where_no_line_fits_none_is_claimed(times):
    fit = fit_step_time(SIZES, times)

    assert not fit.fits
    assert fit.misfit > 0.1
    assert "DOES NOT FIT" in str(fit)


def test_three_sizes_show_no_line_however_well_one_passes_through_them():
    times = 0.004 + 0.0002 * SIZES

    assert not fit_step_time(SIZES[:3], times[:3], form="affine").fits
    assert fit_step_time(SIZES[:4], times[:4], form="affine").fits


@pytest.mark.parametrize(("share", "fits"), [(0.08, True), (0.25, False)])
def test_the_verdict_turns_at_a_misfit_of_ten_percent(share, fits):
    times = 0.004 + 0.0002 * SIZES
    times[2] *= 1 + share

    assert fit_step_time(SIZES, times, form="affine").fits is fits


@pytest.mark.parametrize(
    ("sizes", "seconds", "message"),
    [
        ([8], [1.0], "length >= 2"),
        ([8, 8], [1.0, 2.0], "distinct"),
        ([8, 16], [1.0, 0.0], "`seconds` must be > 0"),
        ([8, 16], [1.0, math.inf], "finite"),
        ([8, 16], [1.0, 2.0, 3.0], "same length"),
        ([8, "big"], [1.0, 2.0], "must be numbers"),
    ],
)
def test_measurements_that_are_none_are_refused(sizes, seconds, message):
    with pytest.raises(InputError, match=message):
        fit_step_time(sizes, seconds)


def test_an_unknown_form_is_refused():
    with pytest.raises(InputError, match='`form` must be "affine" or "saturating"'):
        fit_step_time(SIZES, SIZES, form="cubic")


# The knee.


def test_the_knee_of_an_affine_step_time_is_nine_times_its_ratio():
    """90 % of the asymptote at 9 a / b = 90, of which 4,096 examples reach all but 0.25 %."""
    sizes = np.array([88, 90, 92, 2**20])

    knee = find_knee(sizes, [0.01 + 0.001 * sizes] * 3)

    assert knee.batch_size == 90
    assert knee.interval == Interval(90, 90)
    assert knee.agreement == 1
    assert knee.open_ended


def test_the_knee_is_where_a_flat_step_time_ends():
    knee = find_knee(SIZES, [np.maximum(0.01, 0.0002 * SIZES)])

    assert knee.batch_size == 64
    assert knee.throughput == pytest.approx(SIZES / np.maximum(0.01, 0.0002 * SIZES))


def test_a_curve_that_falls_again_is_measured_by_its_best():
    knee = find_knee([8, 16, 32, 64], [[1.0, 1.0, 1.0, 4.0]])

    assert (knee.batch_size, knee.open_ended) == (32, False)


def test_the_share_decides():
    sizes, times = [8, 16, 32], [[1.0, 1.2, 2.0]]  # 8, 13.3, 16 a second

    assert [find_knee(sizes, times, share=s).batch_size for s in (0.5, 0.83, 1.0)] == [8, 16, 32]


def test_a_slow_round_moves_nothing_as_it_slows_all_sizes():
    times = np.tile(0.01 + 0.001 * SIZES, (5, 1)) * np.array([[1], [3], [1], [0.5], [2]])

    knee = find_knee(SIZES, times)

    assert knee.agreement == 1


def test_a_single_slow_measurement_moves_nothing():
    times = np.tile(np.maximum(0.01, 0.0002 * SIZES), (5, 1))
    times[2, 3] *= 10

    assert find_knee(SIZES, times).batch_size == 64


def test_the_interval_of_the_knee_covers_it():
    """Close sizes, 5 % noise, 7 rounds: 64 is the knee without noise.

    The sizes are few, so that the coverage lies above the nominal 95 %.
    """
    sizes = np.array([32.0, 48, 64, 96, 512])
    clean = 0.004 + 0.0006 * sizes
    true = find_knee(sizes, [clean]).batch_size
    random = np.random.default_rng(0)
    found = [find_knee(sizes, clean * random.normal(1, 0.05, (7, 5))) for _ in range(100)]

    assert true == 64
    assert sum(true in knee.interval for knee in found) >= 90
    assert 0.2 < np.mean([knee.batch_size == true for knee in found]) < 0.95
    assert np.mean([knee.interval.low > 32 for knee in found]) > 0.2


@pytest.mark.parametrize(
    ("sizes", "seconds", "message"),
    [
        ([16, 8], [[1.0, 1.0]], "must ascend"),
        ([8, 16], [[1.0]], "rounds, sizes"),
        ([8, 16], [1.0, 1.0], "2 dimension"),
        ([8, 16], [[1.0, math.nan]], "finite"),
    ],
)
def test_rounds_that_are_none_are_refused(sizes, seconds, message):
    with pytest.raises(InputError, match=message):
        find_knee(sizes, seconds)


def test_the_knee_is_told_in_a_line():
    texts = [str(find_knee([8, 16, 32], [seconds])) for seconds in ([1, 1, 1.9], [1, 1, 1])]

    assert texts == [
        "16 [16, 16], in 100% of the resampled rounds; the largest size is the fastest",
        "32 [32, 32], in 100% of the resampled rounds; the largest size is the fastest; "
        "no knee: it is the largest measured size",
    ]


@pytest.mark.parametrize(
    ("seconds", "edge"),
    [([1, 1, 1.9], None), ([1, 1, 1], "largest"), ([1, 2, 4], "smallest")],
    ids=["inside", "flat", "linear"],
)
def test_a_knee_at_an_end_of_what_was_measured_is_told_apart(seconds, edge):
    assert find_knee([8, 16, 32], [seconds]).edge == edge
