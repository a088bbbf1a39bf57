"""Seconds and memory of a training step at several batch sizes, beside a running `fit`."""

from __future__ import annotations

import dataclasses
import statistics
import time
from typing import Any

import keras
import psutil
import tensorflow as tf

from tfbatch.device_memory import peak_bytes
from tfbatch.gradients import untouched
from tfbatch.out_of_memory import is_out_of_memory

_ROUNDS = 5
_ROUND_SECONDS = 0.05
_MOST_STEPS = 20
_MEMORY_SHARE = 0.5


@dataclasses.dataclass(frozen=True)
class TimedSteps:
    """What was measured.

    Attributes:
        seconds: {batch size: median seconds of a training step}, without input.
        peak_bytes: {batch size: peak memory after its first step}, in ascending order.
        failed: Smallest size that ran out of the GPU's memory, or that would have taken more than
            half of what is free; None if all ran.
    """

    seconds: dict[int, float]
    peak_bytes: dict[int, int]
    failed: int | None


def time_steps(model: Any, batch: Any, batch_sizes: list[int]) -> TimedSteps:
    """Runs real training steps on repeated examples, and puts the model's whole state back.

    Weights, optimizer, moving statistics, random generators and metrics are as before. The sizes
    are timed in interleaved rounds.

    Args:
        model: A compiled model that has been trained.
        batch: A batch of the training; its examples are repeated or left out to make the sizes.
        batch_sizes: In ascending order.
    """
    any_size = keras.tree.map_structure(
        lambda leaf: None if leaf is None else tf.TensorSpec((None, *leaf.shape[1:]), leaf.dtype),
        batch,
    )
    step = tf.function(  # one trace for all sizes
        model.train_step, input_signature=[any_size], jit_compile=model.jit_compile
    )
    seconds: dict[int, list[float]] = {}
    peaks: dict[int, int] = {}
    failed = None
    with untouched(model, weights=True):
        first: dict[int, float] = {}
        for size in batch_sizes:
            if _too_large(size, peaks) or (found := _warm(step, batch, size)) is None:
                failed = size
                break
            first[size], peaks[size] = found, peak_bytes()
        for _ in range(_ROUNDS):
            for size, once in first.items():
                steps = max(1, min(_MOST_STEPS, int(_ROUND_SECONDS / once)))
                seconds.setdefault(size, []).append(_seconds(step, resized(batch, size), steps))
    return TimedSteps(
        {size: statistics.median(times) for size, times in seconds.items()}, peaks, failed
    )


def resized(batch: Any, size: int) -> Any:
    """The batch with its examples repeated, or cut off."""
    count = int(keras.tree.flatten(batch)[0].shape[0])
    rows = tf.range(size) % count
    return keras.tree.map_structure(
        lambda leaf: None if leaf is None else tf.gather(leaf, rows), batch
    )


def _warm(step: Any, batch: Any, size: int) -> float | None:
    """Seconds of the second step; the first one traces. None if memory ran out."""
    data = resized(batch, size)
    try:
        _seconds(step, data, 1)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None
    return _seconds(step, data, 1)


def _seconds(step: Any, data: Any, steps: int) -> float:
    started = time.perf_counter()
    for _ in range(steps):
        outputs = step(data)
    for output in keras.tree.flatten(outputs):
        output.numpy()  # a GPU's kernels have then ended
    return (time.perf_counter() - started) / steps


def _too_large(size: int, peaks: dict[int, int]) -> bool:
    """On a CPU memory that runs out kills the process: what the line says is not risked."""
    if len(peaks) < 2 or tf.config.list_logical_devices("GPU"):
        return False
    (before, low), (last, high) = list(peaks.items())[-2:]
    rise = (high - low) / (last - before) * (size - last)
    return rise > _MEMORY_SHARE * float(psutil.virtual_memory().available)
