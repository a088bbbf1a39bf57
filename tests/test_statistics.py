"""Exact small cases, and the coverage of the intervals by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tfbatch.errors import InputError
from tfbatch.estimators.interval import mean_and_deviation, t_half_width


def test_mean_and_sample_deviation():
    assert mean_and_deviation([1, 2, 3, 6]) == pytest.approx((3, math.sqrt(14 / 3)))


def test_one_value_has_no_deviation():
    mean, deviation = mean_and_deviation([2.5])

    assert mean == 2.5
    assert math.isnan(deviation)


def test_no_value_is_refused():
    with pytest.raises(InputError, match="At least one value is needed"):
        mean_and_deviation([])


@pytest.mark.parametrize(
    ("deviation", "count", "freedom", "level", "half"),
    [
        (1, 3, 2, 0.95, 4.302653 / math.sqrt(3)),
        (2, 4, 3, 0.95, 3.182446),
        (1, 1, 1, 0.95, 12.706205),
        (1, 5, 4, 0.99, 4.604095 / math.sqrt(5)),
        (1, 1.5, 10, 0.95, 2.228139 / math.sqrt(1.5)),
    ],
)
def test_half_widths_from_the_printed_t_table(deviation, count, freedom, level, half):
    assert t_half_width(deviation, count, freedom, level=level) == pytest.approx(half, rel=1e-6)


def test_without_freedom_the_interval_is_infinite():
    assert t_half_width(math.nan, 1, 0) == math.inf


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_interval_of_a_mean_covers_it_95_times_in_100(count):
    """4,000 samples; within five standard errors. A normal interval covers 70 to 88."""
    samples = np.random.default_rng(count).normal(3, 2, (4000, count))

    covered = 0
    for sample in samples:
        mean, deviation = mean_and_deviation(sample.tolist())
        covered += abs(mean - 3) <= t_half_width(deviation, count, count - 1)

    assert abs(covered / 4000 - 0.95) < 5 * math.sqrt(0.95 * 0.05 / 4000)


def test_the_interval_of_a_paired_difference_covers_it_95_times_in_100():
    """Four seeds that differ far more than the noise."""
    random = np.random.default_rng(9)
    covered = 0
    for _ in range(3000):
        table = random.normal(0, 10, (1, 4)) + random.normal(0, 0.5, (2, 4)) + [[0.0], [1.0]]
        mean, deviation = mean_and_deviation((table[1] - table[0]).tolist())
        covered += abs(mean - 1.0) <= t_half_width(deviation, 4, 3)

    assert abs(covered / 3000 - 0.95) < 5 * math.sqrt(0.95 * 0.05 / 3000)
