"""The learning rate that a callback reads or sets, of an optimizer that may hold several others."""

from __future__ import annotations

import contextlib

import keras
import numpy as np

from tfbatch.callbacks._steps import schedule_step
from tfbatch.errors import InputError
from tfbatch.loss_scaling import unwrapped
from tfbatch.schedules import LearningRateInExamples

_LOOKED_AT = 100
"""Updates, evenly spaced, at which a schedule that does not tell its peak is read."""


def optimizers_of(optimizer: keras.optimizers.Optimizer) -> list[keras.optimizers.Optimizer]:
    """Those that have a learning rate: the optimizer itself, or all that a MultiOptimizer holds.

    Args:
        optimizer: A Keras optimizer, or one that wraps another for loss scaling.
    """
    inner = unwrapped(optimizer)
    return list(getattr(inner, "optimizers", [inner]))


def has_several_rates(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether it is Keras's MultiOptimizer, or one like it, without a learning rate of its own."""
    return hasattr(unwrapped(optimizer), "optimizers")


def check_one_rate(optimizer: keras.optimizers.Optimizer, *, caller: str) -> None:
    """Refuses an optimizer without a learning rate of its own, before it is changed.

    Raises:
        InputError: It is a MultiOptimizer.
    """
    if has_several_rates(optimizer):
        raise InputError(
            f"{caller} must have a model with one learning rate to change, and several optimizers "
            f"have several learning rates. Received: {type(unwrapped(optimizer)).__name__}. "
            "Compile the model with one of its optimizers."
        )


def rate_now(optimizer: keras.optimizers.Optimizer) -> float | None:
    """The learning rate of the next update; None where there are several."""
    if has_several_rates(optimizer):
        return None
    return float(keras.ops.convert_to_numpy(unwrapped(optimizer).learning_rate))


def highest_rate(
    optimizer: keras.optimizers.Optimizer, *, so_far: float | None, updates: int = 0
) -> float | None:
    """The peak of a schedule, as far as it is known; None where there are several learning rates.

    A schedule of Keras's does not tell its peak: it is the highest that was seen, or is the
    schedule's at some of the updates to come. A number is as it was seen first.

    Args:
        optimizer: The compiled model's.
        so_far: What this has returned before in the same training; None the first time.
        updates: How many are to come; 0 where that is unknown.
    """
    inner = unwrapped(optimizer)
    rate = getattr(inner, "_learning_rate", None)
    if isinstance(rate, LearningRateInExamples):
        return rate.learning_rate
    if so_far is not None and not callable(rate):
        return so_far
    seen = [] if so_far is None else [so_far]
    with contextlib.suppress(Exception):  # the user's code, which may not go so far
        if (now := rate_now(optimizer)) is not None:
            seen.append(now)
        if updates and isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            begin = schedule_step(optimizer)
            steps = np.linspace(begin, begin + updates - 1, _LOOKED_AT, dtype=np.int64)
            for step in np.unique(steps):
                here = rate(keras.ops.convert_to_tensor(step, dtype=inner._iterations.dtype))
                seen.append(float(keras.ops.convert_to_numpy(here)))
    return max(seen, default=None)
