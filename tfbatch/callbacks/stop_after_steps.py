"""Ends training after an exact number of updates, also inside an epoch."""

from __future__ import annotations

from typing import Any

import keras

from tfbatch.callbacks._schedule_end import announce_stop, forget_stop
from tfbatch.callbacks._steps import CountsSteps
from tfbatch.errors import InputError


class StopAfterSteps(CountsSteps):
    """Stops `fit` after a number of updates.

    A budget in examples is rarely a whole number of epochs of equal steps. Letting the dataset run
    out instead makes Keras warn, and adds a phantom iteration to the optimizer. A model compiled
    with `steps_per_execution=k` can only be stopped between executions: after the first one that
    reaches `steps`. Where the optimizer has `gradient_accumulation_steps`, each of its micro-steps
    counts, as in the steps of `fit`.

    Example:
        ```python
        model.fit(data, epochs=9, steps_per_epoch=100, callbacks=[StopAfterSteps(850)])
        ```

    Args:
        steps: Number of updates, or of micro-steps, at least 1.

    Raises:
        InputError: `steps` is less than 1.
    """

    def __init__(self, steps: int):
        super().__init__()
        if steps < 1:
            raise InputError(f"`steps` must be >= 1. Received: {steps=}.")
        self.steps = steps
        self.seen = 0
        self._steps_before_epoch = 0

    def set_model(self, model: keras.Model) -> None:
        """Tells the other callbacks, before any of them begins, where `fit` will end."""
        super().set_model(model)
        announce_stop(model, self.steps)

    def on_train_begin(self, logs: Any = None) -> None:
        """Starts counting anew, so that the callback can be used again."""
        self.seen = 0
        self._steps_before_epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Notes where the epoch starts."""
        self._steps_before_epoch = self.seen
        self._begin_steps()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Ends training where the number is reached."""
        self.seen = self._steps_before_epoch + self._steps_of_epoch(batch)
        if self.seen >= self.steps:
            self.model.stop_training = True

    def on_train_end(self, logs: Any = None) -> None:
        """The next `fit` may be without this callback."""
        forget_stop(self.model)
