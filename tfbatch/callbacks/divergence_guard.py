"""Ends a training that has diverged, and says so."""

from __future__ import annotations

import math
from typing import Any

import keras

from tfbatch.callbacks._schedule_end import warn_of_early_end
from tfbatch.errors import InputError


class DivergenceGuard(keras.callbacks.Callback):  # type: ignore[misc]
    """Stops `fit` when the loss is not finite, or exceeds a multiple of the first batch's loss.

    The loss is Keras's running mean over the epoch, so that one bad batch is no divergence.
    After `fit`, `diverged` tells whether it happened and `reason` why.

    Example:
        ```python
        guard = tfbatch.callbacks.DivergenceGuard()
        model.fit(data, callbacks=[guard])
        print(guard.diverged, guard.reason)
        ```

    Args:
        factor: Multiple of the first batch's loss that counts as diverged, > 1.
        first_loss: The first batch's loss, of a training that is continued; None for a new one.
        fewest_batches: A finite loss counts as diverged only from this many batches of an epoch on,
            or at its end: the mean of a few small batches is noise.

    Raises:
        InputError: `factor` is not greater than 1, or `fewest_batches` less than 1.
    """

    def __init__(
        self, factor: float = 3.0, first_loss: float | None = None, *, fewest_batches: int = 1
    ):
        super().__init__()
        if not factor > 1:
            raise InputError(f"`factor` must be > 1. Received: {factor=}.")
        if fewest_batches < 1:
            raise InputError(f"`fewest_batches` must be >= 1. Received: {fewest_batches=}.")
        self.fewest_batches = fewest_batches
        self.factor = factor
        self.diverged = False
        self.reason = ""
        self.first_loss = first_loss
        self._given = first_loss

    def on_train_begin(self, logs: Any = None) -> None:
        """Forgets the last training."""
        warn_of_early_end(self.model, self.params)
        self.diverged = False
        self.reason = ""
        self.first_loss = self._given

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Looks at the running loss."""
        enough = batch + 1 >= self.fewest_batches
        self._check((logs or {}).get("loss"), f"after batch {batch}", enough=enough)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Looks at the validation loss too: it can overflow when the training loss does not."""
        self._check((logs or {}).get("loss"), f"after epoch {epoch + 1}", enough=True)
        value = (logs or {}).get("val_loss")
        if value is not None and not math.isfinite(value):
            self._stop(f"the validation loss is {value} after epoch {epoch + 1}")

    def _check(self, loss: float | None, when: str, *, enough: bool) -> None:
        if loss is None or self.diverged:
            return
        if not math.isfinite(loss):
            self._stop(f"the loss is {loss} {when}")
        elif self.first_loss is None:
            self.first_loss = loss
        elif enough and self.first_loss > 0 and loss > self.factor * self.first_loss:
            self._stop(
                f"the loss is {loss:.4g} {when}, over {self.factor:g} x {self.first_loss:.4g}"
            )

    def _stop(self, reason: str) -> None:
        self.diverged = True
        self.reason = reason
        self.model.stop_training = True
