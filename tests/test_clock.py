"""The time limit of a search, by a clock that the test turns."""

from __future__ import annotations

import math

import pytest

from tfbatch.search.clock import CONFIRMATION_SHARE, FINISHING_SECONDS, SearchClock


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
    assert clock.confirmation_reserve(1000.0) == 0.0


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


@pytest.mark.parametrize(
    ("seconds", "reserve"),
    [(0.0, 0.0), (120.0, 120.0), (1e6, CONFIRMATION_SHARE * 600)],
    ids=["nothing to verify", "what it takes", "at most a share"],
)
def test_verification_keeps_the_time_that_it_will_take(seconds, reserve):
    assert SearchClock(10.0, now=Hands()).confirmation_reserve(seconds) == reserve
