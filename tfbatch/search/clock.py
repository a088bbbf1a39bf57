"""The time a search may take: what is spent, what is kept back, what still fits."""

from __future__ import annotations

import time
from collections.abc import Callable

CONFIRMATION_SHARE = 0.4
"""At most this share of the time is kept for verification on fresh seeds."""
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

    def expired(self) -> bool:
        """Whether only the time for finishing is left: a running trial must stop."""
        return self.left < self._finishing

    def fits(self, seconds: float, *, reserve: float = 0.0) -> bool:
        """Whether something that takes this long fits before the reserve and the finish."""
        return self.left - self._finishing - reserve >= seconds

    def confirmation_reserve(self, seconds: float) -> float:
        """Seconds to keep for a verification that takes `seconds`: up to the stated share."""
        return 0.0 if self._limit is None else min(seconds, CONFIRMATION_SHARE * self._limit)
