"""How many trainings side by side are worth it, and what several did at the same time."""

from __future__ import annotations

import pytest

from tfbatch.estimators.side_by_side import Passages, together, workers_worth


@pytest.mark.parametrize(
    ("rates", "number"),
    [
        ({1: 100.0}, 1),
        ({1: 100.0, 2: 114.9}, 1),
        ({1: 100.0, 2: 115.1}, 2),
        ({1: 100.0, 2: 180.0, 4: 206.9}, 2),
        ({1: 100.0, 2: 180.0, 4: 207.1}, 4),
        ({1: 100.0, 2: 110.0, 4: 400.0}, 1),  # the doubling before gained too little
        ({1: 100.0, 2: 90.0}, 1),
        ({1: 100.0, 4: 400.0}, 1),  # 2 ran out of memory
        ({2: 100.0, 4: 400.0}, 1),
        ({}, 1),
    ],
)
def test_the_number_is_doubled_as_long_as_that_gains_15_percent(rates, number):
    assert workers_worth(rates) == number


def test_what_must_be_gained_can_be_given():
    assert workers_worth({1: 100.0, 2: 140.0}, least_gain=0.5) == 1
    assert workers_worth({1: 100.0, 2: 100.0}, least_gain=0.0) == 2


def test_one_training_does_what_its_clock_says():
    found = together([Passages((5.0, 6.0, 7.0, 9.0), examples=100)])
    assert (found.examples_per_second, found.seconds) == (75.0, 4.0)


def test_only_the_time_that_all_share_counts():
    """From 1 to 3 s: 2 s of 100 a second, and 2 s of 50 a second in parts of 4 s."""
    early = Passages((0.0, 1.0, 2.0, 3.0), examples=100)
    late = Passages((1.0, 5.0, 9.0), examples=200)
    found = together([early, late])
    assert found.seconds == 2.0
    assert found.examples_per_second == pytest.approx(150.0)
    assert together([late, early]) == found


def test_the_pace_within_the_shared_time_counts_and_not_that_of_the_whole():
    """Alone it did 1,000 a second, beside the other one 10 a second."""
    quick_alone = Passages((0.0, 0.01, 1.01, 2.01), examples=10)
    other = Passages((0.01, 2.01), examples=40)
    assert together([quick_alone, other]).examples_per_second == pytest.approx(30.0)


def test_trainings_that_never_ran_at_the_same_time_say_nothing():
    apart = [Passages((0.0, 1.0), examples=8), Passages((1.0, 2.0), examples=8)]
    assert together(apart).seconds == 0.0
