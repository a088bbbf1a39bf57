"""The steps that a run takes to a target: the first evaluation from which it stays there."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tfbatch.errors import InputError
from tfbatch.estimators.vectors import check_positive, check_same_length, checked_array
from tfbatch.metric_direction import Direction


@dataclasses.dataclass(frozen=True)
class StepsToTarget:
    """One run's way to a target.

    Attributes:
        batch_size: Examples in the step.
        steps: Steps to the target; if it was not reached, the steps that were run.
        reached: Whether the target was reached; if not, the true number is above `steps`.
        at_first: Whether it was reached by the first evaluation; the true number may be below.
    """

    batch_size: int
    steps: float
    reached: bool
    at_first: bool = False

    def __post_init__(self) -> None:
        check_positive(batch_size=self.batch_size, steps=self.steps)

    def __str__(self) -> str:
        """For a table, e.g. "120" or ">500"."""
        return f"{'' if self.reached else '>'}{self.steps:.4g}"


def first_hit_that_stays(
    steps: npt.ArrayLike,
    values: npt.ArrayLike,
    *,
    batch_size: int,
    target: float,
    direction: Direction,
) -> StepsToTarget:
    """The first evaluation at the target after which the median of every three stays there.

    A metric that touches the target once and falls back has not reached it, and one evaluation
    that falls back from a target that was reached does not undo it. Two evaluations must follow a
    hit to confirm it, so evaluate twice more before stopping a run early. Between the evaluation
    before the hit and the hit itself the steps are interpolated, linearly in their logarithm.

    Args:
        steps: [evaluations] steps taken before each evaluation, ascending, > 0.
        values: [evaluations] the metric; one that is not finite never counts as reached.
        batch_size: Examples in the step.
        target: What is to be reached.
        direction: Whether a smaller ("min") or larger ("max") metric is better.

    Raises:
        InputError: Steps that do not ascend, different lengths, a target that is not finite, an
            unknown direction.
    """
    taken = checked_array(steps, name="steps")
    metric = np.asarray(values, dtype=np.float64)
    check_same_length(steps=taken, values=metric)
    if direction not in ("min", "max") or not math.isfinite(target):
        raise InputError(
            '`direction` must be "min" or "max" and `target` finite. Received: '
            f"{direction=}, {target=}."
        )
    if (np.diff(taken) <= 0).any():
        raise InputError(f"`steps` must ascend. Received: {taken.tolist()}.")
    sign = 1.0 if direction == "max" else -1.0
    ahead = np.where(np.isfinite(metric), sign * (metric - target), -math.inf)  # >= 0 at it
    index = _first_that_stays(ahead)
    if index is None:
        return StepsToTarget(batch_size, float(taken[-1]), reached=False)
    before = index - 1
    if index == 0 or not math.isfinite(ahead[before]) or ahead[before] >= 0:
        return StepsToTarget(batch_size, float(taken[index]), reached=True, at_first=index == 0)
    share = -ahead[before] / (ahead[index] - ahead[before])
    log_steps = (1 - share) * math.log(taken[before]) + share * math.log(taken[index])
    return StepsToTarget(batch_size, math.exp(log_steps), reached=True)


def _first_that_stays(ahead: np.ndarray[Any, np.dtype[np.float64]]) -> int | None:
    if len(ahead) < 3:
        return None
    windows = np.lib.stride_tricks.sliding_window_view(ahead >= 0, 3).sum(axis=1) >= 2
    stays = np.logical_and.accumulate(windows[::-1])[::-1]
    hits = np.flatnonzero(stays & (ahead[:-2] >= 0))
    return int(hits[0]) if len(hits) else None


def median_steps(runs: Sequence[StepsToTarget]) -> StepsToTarget:
    """The median over the seeds of one batch size, with runs that fell short kept as `>steps`.

    {100, 120, >500, 110, >500} has the median 120; where half of the runs or more fell short the
    median is not a number but "above" what was run: {>500, >500, >500, 100, 110} gives `>500`.

    Raises:
        InputError: No runs, or runs with different batch sizes.
    """
    sizes = {run.batch_size for run in runs}
    if len(sizes) != 1:
        raise InputError(
            "A median is over runs with one batch size, at least one run. Received: "
            f"{sorted(sizes)}."
        )
    ordered = sorted(runs, key=lambda run: (not run.reached, run.steps))
    middle = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    (size,) = sizes
    if all(run.reached for run in middle):
        shortest = min((run.steps for run in runs if not run.reached), default=math.inf)
        value = sum(run.steps for run in middle) / 2
        # A run stopped before the median says nothing about its side of it.
        return StepsToTarget(size, min(value, shortest), reached=value <= shortest)
    return StepsToTarget(size, min(r.steps for r in runs if not r.reached), reached=False)
