"""Warns when a schedule that counts examples will end before `fit` does."""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Mapping

import keras

from tfbatch.callbacks._steps import schedule_step
from tfbatch.loss_scaling import unwrapped
from tfbatch.schedules import LearningRateInExamples

_STOPPED: weakref.WeakKeyDictionary[keras.Model, int] = weakref.WeakKeyDictionary()
"""Models whose `fit` a `StopAfterSteps` will end, with the number of updates."""
_TOLERATED = 1.01
"""A share of updates that is no reason for a warning."""


def announce_stop(model: keras.Model, steps: int) -> None:
    """Tells the other callbacks of a `fit` that it ends after a number of updates."""
    _STOPPED[model] = steps


def forget_stop(model: keras.Model) -> None:
    """Withdraws the announcement: `fit` has ended."""
    _STOPPED.pop(model, None)


def warn_of_early_end(model: keras.Model, params: Mapping[str, int | None] | None) -> None:
    """Warns if the learning-rate schedule ends before the last update of a `fit`.

    The schedule counts every update as a whole batch, since an optimizer only counts updates. Where
    the last batch of each epoch is short it therefore runs fast: 1,000 examples in batches of 600
    are two updates an epoch, 12,000 counted examples in ten epochs instead of 10,000.

    Args:
        model: The compiled model, at the beginning of `fit`.
        params: A callback's `params`; nothing is known without its "steps".
    """
    optimizer = getattr(model, "optimizer", None)  # a callback may be driven without `fit`
    optimizer = unwrapped(optimizer)
    schedule = getattr(optimizer, "_learning_rate", None)
    epochs, steps = (params or {}).get("epochs"), (params or {}).get("steps")
    stopped = _STOPPED.get(model)
    if not isinstance(schedule, LearningRateInExamples) or not epochs or not steps or not optimizer:
        return
    if len(schedule.batch_sizes.pieces) > 1 or schedule_step(optimizer):
        return  # the batch size changes; or a training that is continued
    planned = min(epochs * steps, stopped or epochs * steps)
    reached = math.ceil(schedule.total_examples / schedule.batch_size)
    if planned <= _TOLERATED * reached:
        return
    warnings.warn(
        f"The schedule `{schedule.family}` ends after update {reached} of {planned} (epoch "
        f"{reached / steps:.1f} of {epochs}): each update counts as {schedule.batch_size} "
        "examples, even a short last batch. Give it "
        f"total_examples={planned * schedule.batch_size} (epochs x steps per epoch x batch size).",
        stacklevel=3,
    )
