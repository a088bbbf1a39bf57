"""The peak of memory during training, on a GPU or of the process."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfbatch.callbacks._schedule_end import warn_of_early_end
from tfbatch.errors import InputError

_STATUS = Path("/proc/self/status")


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
        if not _gpus() and not _STATUS.exists():
            raise InputError(
                "PeakMemory needs a GPU, or Linux's /proc/self/status for the memory of the "
                "process. Received: neither. Leave the callback out on this system."
            )
        for gpu in _gpus():
            tf.config.experimental.reset_memory_stats(gpu)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Publishes."""
        held, peak = measured_bytes()
        self.memory_mb, self.peak_memory_mb = held / 1e6, peak / 1e6
        if logs is not None:
            logs["memory_mb"] = self.memory_mb
            logs["peak_memory_mb"] = self.peak_memory_mb


def measured_bytes() -> tuple[int, int]:
    """Bytes held now and at the peak: of the fullest GPU, or of this process on a CPU."""
    if gpus := _gpus():
        each = [tf.config.experimental.get_memory_info(gpu) for gpu in gpus]
        return max(m["current"] for m in each), max(m["peak"] for m in each)
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)
    held, peak = (int(lines[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return held, max(held, peak)


def _gpus() -> list[str]:
    return [f"GPU:{index}" for index in range(len(tf.config.list_logical_devices("GPU")))]
