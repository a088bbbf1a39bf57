"""The peak of memory during training, on a GPU or of the process."""

from __future__ import annotations

import math
from typing import Any

import keras

from tfbatch.callbacks._schedule_end import warn_of_early_end
from tfbatch.device_memory import begin_peaks, memory_use
from tfbatch.errors import InputError


class PeakMemory(keras.callbacks.Callback):  # type: ignore[misc]
    """Publishes `peak_memory_mb` and `memory_mb` at the end of each epoch.

    On GPUs it is the largest peak of TensorFlow's allocators among them, since the beginning of
    `fit`. On a CPU, where TensorFlow keeps no such count, it is the peak of the process's resident
    set since the process began (VmHWM of Linux): what else the process once held counts too.
    `memory_mb` is what is held at the end of the epoch. 1 MB is 10^6 bytes.

    Example:
        ```python
        memory = tfbatch.callbacks.PeakMemory()
        model.fit(data, callbacks=[memory])
        print(memory.peak_memory_mb)
        ```

    Attributes:
        peak_memory_mb: At the end of the last epoch; NaN before the first one has ended.
        memory_mb: Held at the end of the last epoch; NaN before.

    Raises:
        InputError: At the beginning of `fit`: neither a GPU nor Linux's /proc.
    """

    only_looks = True

    def __init__(self) -> None:
        super().__init__()
        self._forget()

    def _forget(self) -> None:
        self.peak_memory_mb = math.nan
        self.memory_mb = math.nan

    def on_train_begin(self, logs: Any = None) -> None:
        """Starts the allocators' peaks anew."""
        warn_of_early_end(self.model, self.params)
        self._forget()
        if memory_use() is None:
            raise InputError(
                "PeakMemory needs a GPU, or Linux's /proc/self/status for the memory of the "
                "process. Received: neither. Leave the callback out on this system."
            )
        begin_peaks()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Publishes."""
        if found := memory_use():
            self.memory_mb, self.peak_memory_mb = found.held / 1e6, found.peak / 1e6
        if logs is not None:
            logs["memory_mb"] = self.memory_mb
            logs["peak_memory_mb"] = self.peak_memory_mb
