"""How long the search for the largest batch may take, over all of its processes."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable

from tfbatch.bench import Bench

SECONDS_WITHOUT_XLA = 60.0
"""By default on a GPU, where XLA does not compile the model."""
SECONDS_WITH_XLA = 150.0
"""By default, where it does: it compiles each size anew."""


@dataclasses.dataclass(frozen=True)
class Deadline:
    """When no further process is begun, and one that runs is ended.

    Attributes:
        seconds: The time from the beginning; infinite for none.
        ends: When it is over, by the clock.
        now: A clock, in seconds.
    """

    seconds: float
    ends: float
    now: Callable[[], float]

    @classmethod
    def begin(cls, seconds: float, now: Callable[[], float] = time.monotonic) -> Deadline:
        """One that begins now."""
        return cls(seconds, now() + seconds, now)

    @property
    def over(self) -> bool:
        """Whether the time is over; at once where there is none."""
        return self.now() >= self.ends


NO_DEADLINE = Deadline(math.inf, math.inf, time.monotonic)


def default_seconds(*, xla: bool) -> float:
    """The time of a search on a GPU of which nothing else was said.

    Args:
        xla: Whether XLA compiles the model.
    """
    return SECONDS_WITH_XLA if xla else SECONDS_WITHOUT_XLA


def allowed_seconds(bench: Bench) -> float:
    """What the search on a bench may take: as asked, or on a GPU the default for its model.

    A CPU's trainings are slow, and their search has always taken the time that it needs.
    """
    if bench.memory_seconds is not None:
        return bench.memory_seconds
    if bench.devices.kind == "CPU":
        return math.inf
    return default_seconds(xla=bench.model.jit_compile)
