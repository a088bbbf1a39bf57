"""Warns when a schedule that counts examples will end before `fit` does."""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Mapping

import keras

from tfbatch.callbacks._learning_rate import optimizers_of
from tfbatch.callbacks._steps import schedule_step
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
    are two updates an epoch, 12,000 counted examples in ten epochs instead of 10,000. Where the
    optimizer has `gradient_accumulation_steps`, Keras reads the schedule at each micro-step.

    Args:
        model: The compiled model, at the beginning of `fit`.
        params: A callback's `params`; nothing is known without its "steps".
    """
    optimizer = getattr(model, "optimizer", None)  # a callback may be driven without `fit`
    epochs, steps = (params or {}).get("epochs"), (params or {}).get("steps")
    if optimizer is None or not epochs or not steps:
        return
    stopped = _STOPPED.get(model)
    planned = min(epochs * steps, stopped or epochs * steps)
    for one in optimizers_of(optimizer):
        schedule = getattr(one, "_learning_rate", None)
        if not isinstance(schedule, LearningRateInExamples):
            continue
        if len(schedule.batch_sizes.pieces) > 1 or schedule_step(one):
            continue  # the batch size changes; or a training that is continued
        reached = math.ceil(schedule.total_examples / schedule.batch_size)
        if planned <= _TOLERATED * reached:
            continue
        parts = one.gradient_accumulation_steps
        cause, mend = _of_micro_steps(parts, planned) if parts else _of_updates(schedule, planned)
        warnings.warn(
            f"The schedule `{schedule.family}` ends after {'micro-step' if parts else 'update'} "
            f"{reached} of {planned} (epoch {reached / steps:.1f} of {epochs}): {cause}. Give it "
            f"{mend}.",
            stacklevel=3,
        )


def _of_updates(schedule: LearningRateInExamples, planned: int) -> tuple[str, str]:
    """Why the schedule ends early, and what to give it."""
    size = schedule.batch_size
    return (
        f"each update counts as {size} examples, even a short last batch",
        f"total_examples={planned * size} (epochs x steps per epoch x batch size)",
    )


def _of_micro_steps(parts: int, planned: int) -> tuple[str, str]:
    """The same where Keras reads the schedule at micro-steps, whose size is that of `fit`."""
    return (
        f"Keras reads it at each of the gradient_accumulation_steps={parts} of an update, and each "
        "counts as its batch_size, even a short last one",
        "the examples of one micro-step, which are the batch size of `fit`, as batch_size, and "
        f"{planned} times as many (epochs x steps per epoch) as total_examples",
    )
