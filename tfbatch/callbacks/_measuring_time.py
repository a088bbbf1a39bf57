"""What measuring beside a running `fit` costs, and whether it can be afforded now."""

from __future__ import annotations

import time

AIM = 0.75
"""Part of the largest share that is planned with."""
LONGER = 3
"""Times its expected cost that a measurement may take without breaking the share itself."""


class MeasuringTime:
    """An account of the time of a training: what measuring took of it, tracing apart.

    Everything from `arrive` to the last `spend` after it counts as measuring, the fetching of the
    batch included, but for the time that was waited for it: training would have waited as well.

    Args:
        max_share: Largest share of the training's time.

    Attributes:
        seconds: Spent on measuring, tracing apart.
        tracing_seconds: Spent on what is done once: the program is traced.
        training_seconds: Of the training meanwhile, measuring included, tracing not.
    """

    def __init__(self, *, max_share: float):
        self._max_share = max_share
        self.seconds = self.tracing_seconds = self.training_seconds = 0.0
        self._last = 0.0

    @property
    def share(self) -> float:
        """Of the training's time."""
        return self.seconds / self.training_seconds if self.training_seconds else 0.0

    def begin(self) -> None:
        """What lay before is no training."""
        self._last = time.perf_counter()

    def arrive(self) -> None:
        """Since the last call of anything here there was training."""
        now = time.perf_counter()
        self.training_seconds += now - self._last
        self._last = now

    def wait(self, seconds: float) -> None:
        """So much of the time since `arrive` was waiting for a batch."""
        self.training_seconds += seconds
        self._last += seconds

    def spend(self, *, traced: bool = False) -> float:
        """Seconds since the last call of anything here, all of them measuring."""
        now = time.perf_counter()
        spent, self._last = now - self._last, now
        if traced:
            self.tracing_seconds += spent
        else:
            self.seconds += spent
            self.training_seconds += spent
        return spent

    def affords(self, cost: float) -> bool:
        """Whether the share would hold, with a margin, after one more measurement.

        Args:
            cost: Seconds that it is expected to take.
        """
        return self._holds(AIM * self._max_share, cost) and self._holds(
            self._max_share, LONGER * cost
        )

    def _holds(self, share: float, cost: float) -> bool:
        return self.seconds + cost <= share * (self.training_seconds + cost)
