"""What Keras logs at the end of each epoch, as curves for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras

from tfbatch.curves_log import CurveWriter
from tfbatch.training.single_values import single_values


class WriteCurves(keras.callbacks.Callback):  # type: ignore[misc]
    """Writes every metric of one value and the learning rate by the examples trained on.

    Args:
        log_dir: The training's folder.
        batch_size: Examples in one update.
        steps_per_epoch: Updates between two evaluations.
        begin: Examples of the training before this part of it.
        epochs_before: Epochs of the parts before this one, which `fit` counts too.
        end: Where it ends: the last update can be short.
    """

    only_looks = True

    def __init__(
        self,
        log_dir: Path,
        *,
        batch_size: int,
        steps_per_epoch: int,
        begin: int,
        end: int,
        epochs_before: int = 0,
    ):
        super().__init__()
        self._writer = CurveWriter(log_dir)
        self._batch_size, self._steps_per_epoch = batch_size, steps_per_epoch
        self._begin, self._end = begin, end
        self._epochs_before = epochs_before
        self._steps = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Counts the epoch's updates; several can have been made since the last call."""
        self._steps = batch + 1

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Writes the epoch; it is on disk before a checkpoint says that the epoch is over."""
        epochs = epoch - self._epochs_before
        steps = epochs * self._steps_per_epoch + self._steps
        examples = min(self._begin + steps * self._batch_size, self._end)
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self._writer.write(examples, {**single_values(logs or {}), "learning_rate": rate})

    def on_train_end(self, logs: Any = None) -> None:
        """Ends the file."""
        self._writer.close()
