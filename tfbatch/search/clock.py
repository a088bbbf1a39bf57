"""The time a search may take: what is spent, what is kept back, what still fits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence

VERIFICATION_SHARE = 0.4
"""At most this share of the time is kept for verification on fresh seeds ..."""
ONE_ROUND_SHARE = 0.6
"""... but one round of it may take this share: without one nothing is verified."""
FINISHING_SECONDS = 5.0
"""Kept for saving, beside what the test split is expected to take."""


class SearchClock:
    """Seconds left of a time limit.

    Args:
        max_minutes: The limit, or None.
        spent_seconds: What earlier sessions on the same run folder have used of it.
        finishing_seconds: Kept for the test split and for saving.
        now: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        max_minutes: float | None,
        *,
        spent_seconds: float = 0.0,
        finishing_seconds: float = FINISHING_SECONDS,
        now: Callable[[], float] = time.monotonic,
    ):
        self._limit = None if max_minutes is None else max_minutes * 60
        self._finishing = finishing_seconds
        self._now = now
        self._start = now() - spent_seconds

    @property
    def elapsed(self) -> float:
        """Seconds used, earlier sessions included."""
        return self._now() - self._start

    @property
    def left(self) -> float:
        """Seconds left; infinite without a limit."""
        return float("inf") if self._limit is None else self._limit - self.elapsed

    @property
    def finishing(self) -> float:
        """Seconds kept for the test split and for saving."""
        return self._finishing

    def expired(self, *, keep_finish: bool = True) -> bool:
        """Whether a running trial must stop.

        Args:
            keep_finish: Whether the time for finishing is reserved; else all of it may be used.
        """
        return self.left < (self._finishing if keep_finish else 0.0)

    def fits(self, seconds: float, *, reserve: float = 0.0) -> bool:
        """Whether something that takes this long fits before the reserve and the finish."""
        return self.left - self._finishing - reserve >= seconds

    def verification_reserve(self, rounds: Iterable[float]) -> float:
        """Seconds to keep for a verification: as many whole rounds as the stated shares allow.

        Args:
            rounds: Seconds of each round that is to come; a part of a round is of no use.
        """
        return kept_for_verification(rounds, limit=math.inf if self._limit is None else self._limit)


def kept_for_verification(rounds: Iterable[float], *, limit: float) -> float:
    """What to keep of a limit for verification: as many whole rounds as the shares allow.

    Args:
        rounds: What each round to come takes, in the unit of the limit; a part is of no use.
        limit: The limit; nothing is kept of an infinite one.
    """
    kept = 0.0
    if math.isinf(limit):
        return kept
    for number, one in enumerate(rounds):
        share = VERIFICATION_SHARE if number else ONE_ROUND_SHARE
        if kept + one > share * limit:
            break
        kept += one
    return kept


def side_by_side(seconds: Sequence[float], at_once: int) -> float:
    """Wall-clock seconds of trials that share `at_once` places, the longest first."""
    places = [0.0] * max(at_once, 1)
    for one in sorted(seconds, reverse=True):
        places[places.index(min(places))] += one
    return max(places)
