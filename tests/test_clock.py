"""The time limit of a search, by a clock that the test turns."""

from __future__ import annotations

import math

import pytest

from tfbatch.search.clock import FINISHING_SECONDS, SearchClock, side_by_side


class Hands:
    """A monotonic clock that stands still until it is turned."""

    def __init__(self):
        self.time = 1000.0

    def __call__(self):
        return self.time


def test_without_a_limit_there_is_always_time():
    hands = Hands()
    clock = SearchClock(None, now=hands)
    hands.time += 1e9

    assert clock.left == math.inf
    assert clock.elapsed == 1e9
    assert not clock.expired()
    assert clock.fits(1e12)
    assert clock.verification_reserve([1000.0]) == 0.0


def test_time_runs_down_from_the_limit():
    hands = Hands()
    clock = SearchClock(2.0, now=hands)
    assert (clock.elapsed, clock.left) == (0.0, 120.0)

    hands.time += 50
    assert (clock.elapsed, clock.left) == (50.0, 70.0)


def test_time_of_earlier_sessions_counts():
    clock = SearchClock(2.0, spent_seconds=100.0, now=Hands())

    assert (clock.elapsed, clock.left) == (100.0, 20.0)


def test_a_limit_expires_while_there_is_still_time_to_finish():
    hands = Hands()
    clock = SearchClock(1.0, now=hands)

    hands.time += 60 - FINISHING_SECONDS
    assert not clock.expired()
    hands.time += 0.001
    assert clock.expired()


def test_only_what_ends_before_the_reserve_and_the_finish_fits():
    clock = SearchClock(1.0, now=Hands())
    free = 60 - FINISHING_SECONDS

    assert clock.fits(free)
    assert not clock.fits(free + 0.001)
    assert clock.fits(free - 20, reserve=20)
    assert not clock.fits(free - 20, reserve=20.001)


def test_a_long_finish_keeps_more_time():
    hands = Hands()
    clock = SearchClock(1.0, finishing_seconds=20.0, now=hands)

    assert clock.fits(40.0)
    assert not clock.fits(40.001)
    hands.time += 40.001
    assert clock.expired()


def test_the_first_trial_may_use_the_time_that_is_kept_for_the_end():
    hands = Hands()
    clock = SearchClock(1.0, finishing_seconds=50.0, now=hands)

    hands.time += 20
    assert clock.expired()
    assert not clock.expired(keep_finish=False)
    hands.time += 41
    assert clock.expired(keep_finish=False)


@pytest.mark.parametrize(
    ("rounds", "reserve"),
    [
        ([], 0.0),
        ([100.0, 100.0], 200.0),
        ([100.0, 100.0, 100.0], 200.0),  # 40 % of 600 s
        ([300.0, 100.0], 300.0),
        ([400.0], 0.0),
    ],
    ids=["nothing to verify", "what it takes", "whole rounds", "one round", "no round fits"],
)
def test_verification_keeps_the_time_of_whole_rounds(rounds, reserve):
    assert SearchClock(10.0, now=Hands()).verification_reserve(rounds) == reserve


@pytest.mark.parametrize(
    ("seconds", "at_once", "wall"),
    [([], 2, 0), ([5.0, 3.0], 1, 8), ([5.0, 3.0, 3.0], 2, 6), ([5.0, 3.0, 2.0], 8, 5)],
)
def test_trials_side_by_side_take_the_time_of_the_fullest_place(seconds, at_once, wall):
    assert side_by_side(seconds, at_once) == wall
