"""Seconds and memory of a training step at several batch sizes, beside a running `fit`."""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable

import keras
import psutil
import tensorflow as tf

from tfbatch.device_memory import memory_use, peak_bytes
from tfbatch.gradients import state_restored
from tfbatch.interleaved_rounds import FEWEST_ROUNDS, Paced, first_visit, measure_round
from tfbatch.process.out_of_memory import is_out_of_memory

Step = Callable[[object], object]
"""A training step: it takes a batch, and returns tensors."""
_ROUND_SECONDS = 0.05
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


def time_steps(model: keras.Model, batch: object, batch_sizes: list[int]) -> TimedSteps:
    """Runs real training steps on repeated examples, and puts the model's whole state back.

    Weights, optimizer, moving statistics, random generators and metrics are as before. The sizes
    are timed in interleaved rounds. Where the system does not tell what memory is used, no size
    above the batch's own is tried: whether it would kill the process is unknown.

    Args:
        model: A compiled model that has been trained.
        batch: A batch of the training; its examples are repeated or left out to make the sizes.
        batch_sizes: In ascending order.
    """
    if memory_use() is None:
        batch_sizes = [size for size in batch_sizes if size <= examples_in(batch)]
    any_size = keras.tree.map_structure(
        lambda leaf: None if leaf is None else tf.TensorSpec((None, *leaf.shape[1:]), leaf.dtype),
        batch,
    )
    traced = tf.function(model.train_step, jit_compile=model.jit_compile)
    visited: list[Paced] = []
    peaks: dict[int, int] = {}
    failed = None
    with state_restored(model, weights=True):
        # One trace for all sizes; an `input_signature` could hold no None.
        step = traced.get_concrete_function(any_size)
        for size in batch_sizes:
            if _too_large(size, peaks) or (found := _visited(step, batch, size)) is None:
                failed = size
                break
            visited.append(found)
            peaks[size] = peak_bytes()
        for _ in range(FEWEST_ROUNDS):
            measure_round(visited, _ROUND_SECONDS)
    seconds = {paced.batch_size: statistics.median(paced.rounds) for paced in visited}
    return TimedSteps(seconds, peaks, failed)


def resized(batch: object, size: int) -> object:
    """The batch with its examples repeated, or cut off."""
    rows = tf.range(size) % examples_in(batch)
    return keras.tree.map_structure(
        lambda leaf: None if leaf is None else tf.gather(leaf, rows), batch
    )


def examples_in(batch: object) -> int:
    """The number of examples of a batch."""
    return int(keras.tree.flatten(batch)[0].shape[0])


def _visited(step: Step, batch: object, size: int) -> Paced | None:
    """A size whose step is traced and has been timed once; None if memory ran out."""
    try:
        return first_visit(size, functools.partial(_time, step, batch, size), most_at_once=1)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None


def _time(
    step: Step,
    batch: object,
    size: int,
    *,
    executions: int,
    warmup: int,
    at_once: int,
) -> float:
    """Seconds of a step, on a batch that no other size holds in memory meanwhile."""
    data = resized(batch, size)
    _run(step, data, warmup * at_once)
    started = time.perf_counter()
    _run(step, data, executions * at_once)
    return (time.perf_counter() - started) / (executions * at_once)


def _run(step: Step, data: object, steps: int) -> None:
    for _ in range(steps):
        outputs = step(data)
    for output in keras.tree.flatten(outputs):
        output.numpy()  # a GPU's kernels have then ended


def _too_large(size: int, peaks: dict[int, int]) -> bool:
    """On a CPU memory that runs out kills the process: what the line says is not risked."""
    if len(peaks) < 2 or tf.config.list_logical_devices("GPU"):
        return False
    (before, low), (last, high) = list(peaks.items())[-2:]
    rise = (high - low) / (last - before) * (size - last)
    return rise > _MEMORY_SHARE * float(psutil.virtual_memory().available)
