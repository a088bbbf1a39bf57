"""A learning rate that grows exponentially, update by update, and the loss of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from tfbatch.errors import InputError
from tfbatch.estimators.range_test import has_diverged


@keras.saving.register_keras_serializable(package="tfbatch")
class Sweep(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """rate(step) = lowest * (highest / lowest) ** ((step - begin) / (steps - 1)).

    After `hold(rate)` it is that rate, without being traced anew.

    Args:
        lowest: Rate of the first update.
        highest: Rate of the last one, and of all after it.
        steps: Number of updates.
        begin: The optimizer's iterations before the first one.
    """

    def __init__(self, lowest: float, highest: float, *, steps: int, begin: int):
        self.lowest, self.highest = lowest, highest
        self.steps, self.begin = steps, begin
        self._held = keras.Variable(0.0, dtype="float32", trainable=False, name="held_rate")

    def __call__(self, step: Any) -> Any:
        """The rate as a float32 tensor."""
        done = keras.ops.cast(step - self.begin, "float32") / (self.steps - 1)
        swept = self.lowest * (self.highest / self.lowest) ** keras.ops.clip(done, 0.0, 1.0)
        return keras.ops.where(self._held > 0, self._held, swept)

    def hold(self, rate: float) -> None:
        """Every update from now on has this rate, > 0."""
        self._held.assign(rate)

    def rate(self, index: float) -> float:
        """The rate of the update with this index, as a Python number."""
        return float(self.lowest * (self.highest / self.lowest) ** (index / (self.steps - 1)))

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {
            "lowest": self.lowest,
            "highest": self.highest,
            "steps": self.steps,
            "begin": self.begin,
        }


def loss_in(logs: Mapping[str, float] | None) -> float:
    """The loss that a training step has logged.

    Raises:
        InputError: It has logged none, as a `train_step` of a model's own may.
    """
    logs = logs or {}
    if "loss" not in logs:
        names = ", ".join(f"`{name}`" for name in logs) or "nothing"
        raise InputError(
            "A range test judges a learning rate by the `loss` that the training step logs. "
            f"Received: a `train_step` that logs {names}. Let it return, as `loss` too, the value "
            "that the swept optimizer minimizes."
        )
    return float(logs["loss"])


class SweptLosses(keras.callbacks.Callback):  # type: ignore[misc]
    """Notes the loss of each execution alone, and ends `fit` when it has diverged.

    `History` and the progress bar show the last loss too, instead of the epoch's mean.

    Attributes:
        losses: [executions] one that overflowed is not finite, and the last.
        diverged: Whether `fit` was ended for that.
    """

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []
        self.diverged = False

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Starts the running mean anew: it is then the loss of this execution alone."""
        self.model.reset_metrics()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Notes the loss."""
        self.note(loss_in(logs))
        if self.diverged:
            self.model.stop_training = True

    def note(self, loss: float) -> None:
        """Adds a loss, and judges whether they have diverged."""
        self.losses.append(loss)
        self.diverged = has_diverged(self.losses)
