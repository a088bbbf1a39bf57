"""How many trainings side by side on one device are worth it, by what they do in a second."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Mapping, Sequence

LEAST_GAIN = 0.15
"""Twice as many trainings must do so much more together: each takes memory, and longer."""


def workers_worth(
    examples_per_second: Mapping[int, float], *, least_gain: float = LEAST_GAIN
) -> int:
    """The number of trainings side by side that is worth it: 1, or doubled as long as that gains.

    A doubling that gains too little ends it, whatever larger numbers do: between two that were
    measured to gain nothing, a third one that does is more likely a disturbance.

    Args:
        examples_per_second: Of all together, by their number: 1, 2, 4, ... Those that are absent
            could not be measured.
        least_gain: The share by which each doubling must raise it.
    """
    number = 1
    while {number, 2 * number} <= examples_per_second.keys():
        needed = (1 + least_gain) * examples_per_second[number]
        if examples_per_second[2 * number] < needed:
            break
        number *= 2
    return number


@dataclasses.dataclass(frozen=True)
class Passages:
    """When a training had passed each further part of its examples.

    Attributes:
        times: Seconds on a clock that all processes of the machine share; the first one begins the
            measurement.
        examples: Between two of them.
    """

    times: tuple[float, ...]
    examples: int

    def passed(self, moment: float) -> float:
        """Examples from the first time to a moment between it and the last."""
        after = min(max(bisect.bisect_right(self.times, moment), 1), len(self.times) - 1)
        before, then = self.times[after - 1], self.times[after]
        return self.examples * (after - 1 + (moment - before) / (then - before))


@dataclasses.dataclass(frozen=True)
class Together:
    """What several trainings did while all of them were measured.

    Attributes:
        examples_per_second: Of all together.
        seconds: For how long all were measured; 0 if they never were at the same time.
    """

    examples_per_second: float
    seconds: float


def together(passages: Sequence[Passages]) -> Together:
    """The examples a second of trainings in the time that all of them share.

    What one does before the others have begun, or after they have ended, it does alone: that is
    left out.

    Args:
        passages: Of each training, with at least two times that differ.
    """
    begun = max(one.times[0] for one in passages)
    ended = min(one.times[-1] for one in passages)
    if ended <= begun:
        return Together(0.0, 0.0)
    examples = sum(one.passed(ended) - one.passed(begun) for one in passages)
    return Together(examples / (ended - begun), ended - begun)
