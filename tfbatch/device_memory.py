"""The memory that a training takes: of the GPUs' allocators, or of this process on a CPU.

The GPUs' part has been written for those who have one; it was never run by its authors.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfbatch.process.gpus import read_gpus
from tfbatch.process.limits import usable_memory
from tfbatch.process.memory import peak_resident, resident


class MemoryUse(NamedTuple):
    """Bytes of the fullest GPU, or of this process.

    Attributes:
        held: Held now.
        peak: The most so far: of a GPU since `begin_peaks`, of the process since it began, or since
            `begin_peak_resident`.
    """

    held: int
    peak: int


def memory_use() -> MemoryUse | None:
    """What is held and was held; None with neither a GPU nor Linux's /proc."""
    if gpus := _gpus():
        each = [tf.config.experimental.get_memory_info(gpu) for gpu in gpus]
        return MemoryUse(max(m["current"] for m in each), max(m["peak"] for m in each))
    held, peak = resident(), peak_resident()
    if held is None or peak is None:
        return None
    return MemoryUse(held, max(held, peak))


def peak_bytes() -> int:
    """The peak alone; 0 where it is unknown."""
    found = memory_use()
    return 0 if found is None else found.peak


def device_budget() -> float | None:
    """Bytes of the smallest GPU, or of this machine without one; None where a GPU's are unknown.

    A limit that the program has set for a GPU counts; its driver says how large others are.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus or not tf.config.list_logical_devices("GPU"):
        return float(usable_memory())
    limits = [
        part.memory_limit
        for gpu in gpus
        for part in tf.config.get_logical_device_configuration(gpu) or []
    ]
    if limits and all(limits):
        return float(min(limits)) * 2**20
    return min((float(gpu.memory_bytes) for gpu in read_gpus().gpus), default=None)


def begin_peaks() -> None:
    """Starts the peaks of the GPUs' allocators anew, and leaves the process's as it is."""
    for gpu in _gpus():
        tf.config.experimental.reset_memory_stats(gpu)


def _gpus() -> list[str]:
    return [f"GPU:{index}" for index in range(len(tf.config.list_logical_devices("GPU")))]
