"""What the choice promises, over simulated races; the whole table: benchmarks/choice.py."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from choice import Case, predictions, simulate

from tfbatch.estimators.race import EVEN

RACES = 1500
NOISES = ("equal", "unequal", "shared", "heavy")
EQUAL = (0.0, 0.0, 0.0)


def at_most(rate, *, promised):
    """Whether a rate of RACES races does not contradict a promise, by three binomial errors."""
    return rate <= promised + 3 * math.sqrt(promised * (1 - promised) / RACES)


def rates(gains, costs=(), *, estimate=False, **more):
    return simulate(Case(gains, costs, **more), races=RACES, estimate=estimate)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("seeds", [3, 5])
def test_of_equal_ones_the_baseline_is_kept_and_nothing_is_called_better(noise, seeds):
    found = rates(EQUAL, noise=noise, seeds=seeds)

    assert at_most(1 - found.kept, promised=0.05)
    assert at_most(found.wrongly_better, promised=0.025)
    assert at_most(found.worse, promised=0.025)


@pytest.mark.quick_cases("equal")
@pytest.mark.parametrize("noise", NOISES)
def test_intervals_cover_where_the_baseline_is_kept(noise):
    found = rates(EQUAL, noise=noise, estimate=True)

    assert at_most(1 - found.covered, promised=0.06)
    assert abs(found.bias) <= 0.1


@pytest.mark.quick_cases("2.0-5")
@pytest.mark.parametrize(
    ("gain", "seeds", "missed"), [(2.0, 5, 0.30), (3.0, 5, 0.04), (2.0, 10, 0.04)]
)
def test_a_true_gain_is_found(gain, seeds, missed):
    found = rates((gain, 0.0, 0.0), seeds=seeds, estimate=True)

    assert at_most(found.kept, promised=missed)
    assert abs(found.bias) <= 0.1
    assert found.width <= 1.3
    assert at_most(1 - found.covered, promised=0.06)
    assert at_most(1 - found.gain_covered, promised=0.06)


def test_the_reported_mean_is_freed_of_a_choice_among_several_good_ones():
    found = rates((2.0, 2.0, 2.0), estimate=True)

    assert found.raw_bias > 0.3, "what the choice adds"
    assert abs(found.bias) <= 0.1
    assert at_most(1 - found.covered, promised=0.06)


@pytest.mark.parametrize("noise", NOISES)
def test_an_equal_one_that_is_twice_as_fast_is_recommended_or_named(noise):
    found = rates(EQUAL, (0.5, 1.0, 1.0), noise=noise)

    assert at_most(1 - found.fast_or_named, promised=0.05)
    assert at_most(found.worse, promised=0.025)
    assert found.fast_or_n_named > 0.88, "with a number that decides as likely as not"


def test_ten_seeds_recommend_many_an_equal_one_that_is_twice_as_fast():
    found = rates(EQUAL, (0.5, 1.0, 1.0), seeds=10)

    assert found.fast > 0.35, "compared with all others: 0.07"
    assert at_most(1 - found.fast_or_named, promised=0.05)
    assert found.fast_or_n_named > 0.85


def test_a_number_of_seeds_decides_about_as_often_as_its_probability_says():
    """Over gaps that may be anything near the band: the prediction knows the scores alone."""
    found = predictions(np.linspace(-2.0, 1.0, 13), seeds=5, races=60)

    assert len(found.probability) > 400
    likely = found.probability >= EVEN
    for group in (likely, ~likely):
        stated, happened = found.probability[group].mean(), found.decided[group].mean()
        assert abs(stated - happened) < 0.1, (stated, happened)


@pytest.mark.parametrize("seeds", [5, 20])
def test_fast_ones_that_are_just_not_as_good_are_seldom_recommended(seeds):
    case = Case((-1.01,) * 3, (0.5, 0.4, 0.3), seeds=seeds, tolerance=1.0)

    assert at_most(simulate(case, races=RACES, estimate=False).worse, promised=0.025)


def test_what_replaces_the_baseline_is_seldom_far_behind_the_best():
    behind = [
        rates((0.0, gap, 0.0), (0.5, 2.0, 1.0)).behind for gap in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
    ]

    assert sum(behind) / len(behind) <= 0.05
    assert max(behind) <= 0.12


def test_the_goal_metric_never_takes_a_faster_one():
    found = rates(EQUAL, (0.1, 0.1, 0.1), costs_matter=False)

    assert at_most(1 - found.kept, promised=0.025)
