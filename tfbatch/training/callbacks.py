"""A user's own Keras callbacks in a trial: which cannot be used, and what some of them mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from tfbatch.errors import InputError
from tfbatch.training.by_value import copied

_SETS_THE_RATE = (keras.callbacks.ReduceLROnPlateau, keras.callbacks.LearningRateScheduler)


def check_callbacks(callbacks: Sequence[keras.callbacks.Callback]) -> list[str]:
    """Refuses callbacks that contradict a search, and says what others do to it.

    Args:
        callbacks: The callbacks of one trial.

    Returns:
        What a user should know, a sentence each.

    Raises:
        InputError: One is no Keras callback, sets the learning rate, or restores the best epoch.
    """
    notes = []
    for callback in callbacks:
        name = type(callback).__name__
        if not isinstance(callback, keras.callbacks.Callback):
            raise InputError(
                f"`callbacks` must be Keras callbacks, or a function that makes a list of them. "
                f"Received: {name}."
            )
        if isinstance(callback, _SETS_THE_RATE):
            raise InputError(
                f"{name} cannot be used: the learning rate and its schedule are what is searched, "
                "and an optimizer with a schedule refuses another rate. (Its patience is counted "
                "in epochs besides, which are fewer updates at a larger batch.) Leave it out; the "
                "search's `schedules` decay the rate."
            )
        if isinstance(callback, keras.callbacks.EarlyStopping):
            if callback.restore_best_weights:
                raise InputError(
                    "EarlyStopping(restore_best_weights=True) cannot be used: it would score each "
                    "trial by its best epoch, which favors noisy trials, on the split that chose "
                    "the epoch. Leave restore_best_weights out; the score is taken at the end."
                )
            notes.append(
                "EarlyStopping ends trials after unequal numbers of examples. A trial's score is "
                "its metric at its own end, its journal row has the examples that it saw, and a "
                "schedule that was cut short has not decayed: a trial that stops is not one of "
                "that length."
            )
    return notes


def as_factory(
    callbacks: Callable[[], list[keras.callbacks.Callback]]
    | Sequence[keras.callbacks.Callback]
    | None,
) -> Callable[[], list[keras.callbacks.Callback]] | None:
    """A function that makes a trial's callbacks; those given by value are copied for each trial.

    None, or no callback, is none.

    Raises:
        InputError: They are neither a function nor a sequence.
    """
    if callbacks is None or (callable(callbacks) and not isinstance(callbacks, Sequence)):
        return callbacks
    if not isinstance(callbacks, Sequence):
        raise InputError(
            "`callbacks` must be a list of Keras callbacks, or a function that makes one. "
            f"Received: {type(callbacks).__name__}."
        )
    return _Copies(list(callbacks)) if callbacks else None


class _Copies:
    """Makes copies of callbacks: one that has been used keeps its counters."""

    def __init__(self, callbacks: list[Any]):
        self._callbacks = callbacks

    def __call__(self) -> list[Any]:
        found: list[Any] = copied(self._callbacks)
        return found
