"""What costs memory in a training: full steps with the real optimizer, and a validation batch.

Inputs of variable length are padded to the longest: what a batch may cost, not what a lucky one
costs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from tensorflow.python.client import device_lib  # nothing public knows a device's memory

from tfbatch.accumulation import accumulated
from tfbatch.configuration import Configuration
from tfbatch.device_memory import peak_bytes
from tfbatch.largest_batch.fresh_process import Ended, climb
from tfbatch.pipeline.trainable_data import Data
from tfbatch.process.limits import usable_memory
from tfbatch.training.class_weights import weighted_by_class
from tfbatch.training.context import TaskContext
from tfbatch.training.data_place import training_stream
from tfbatch.training.devices import device_kind
from tfbatch.training.program import held_by
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.trial import Heartbeat

STEPS = 5
"""Training steps at each size: the pipeline's buffers are full, and the heap has settled."""
_EVALUATION_STEPS = 2
_SEED = 1
Longest = tuple[tuple[int, ...], ...]
"""For each part of an element, its longest shape without the batch."""
MOST_SCANNED = 20_000
"""Examples that are looked at."""
_SCANNED_AT_ONCE = 64


def measure_training(
    task: TaskContext,
    configuration: Configuration,
    accumulation: int,
    sizes: Sequence[int],
    budget_bytes: float,
    record: Path,
) -> Ended:
    """The peak of training at growing batch sizes, and of validation after the last.

    Args:
        task: Model and data.
        configuration: What to train with; the batch size is replaced.
        accumulation: Micro-batches of an update, by `tfbatch.accumulated`; 1 for none.
        sizes: Batch sizes, all replicas together; with accumulation those of a micro-batch.
        budget_bytes: Bytes that may be used.
        record: File for what is measured.
    """
    load = TrainingLoad(task.programs, configuration, task.heartbeat, accumulation=accumulation)
    return climb(load, sizes, budget_bytes=budget_bytes, record=record, now=time.monotonic)


def measure_evaluation(
    task: TaskContext,
    configuration: Configuration,
    sizes: Sequence[int],
    budget_bytes: float,
    record: Path,
) -> Ended:
    """The peak of evaluation alone at growing batch sizes; see `measure_training`."""
    load = _Evaluation(task.programs, configuration, task.heartbeat)
    return climb(load, sizes, budget_bytes=budget_bytes, record=record, now=time.monotonic)


def measure_prediction(
    task: TaskContext,
    configuration: Configuration,
    sizes: Sequence[int],
    budget_bytes: float,
    record: Path,
) -> Ended:
    """The peak of `predict` alone at growing batch sizes; see `measure_training`."""
    load = _Prediction(task.programs, configuration, task.heartbeat)
    return climb(load, sizes, budget_bytes=budget_bytes, record=record, now=time.monotonic)


class UsableMemory(NamedTuple):
    """The memory that a process which trains may use.

    Attributes:
        device: "CPU", or the kind of the GPUs.
        size_bytes: Bytes of the process, or of the smallest GPU.
        replicas: Devices that share every batch equally.
    """

    device: str
    size_bytes: int
    replicas: int


def find_usable_memory(task: TaskContext) -> UsableMemory:
    """What a process that trains may use; the GPU's part was never run by its authors."""
    task.heartbeat()
    replicas = task.programs.workload.replicas
    if not tf.config.list_logical_devices("GPU"):
        return UsableMemory("CPU", usable_memory(), replicas)
    options = tf.compat.v1.GPUOptions(allow_growth=True)  # else it would take all
    devices = device_lib.list_local_devices(tf.compat.v1.ConfigProto(gpu_options=options))
    least = min(d.memory_limit for d in devices if d.device_type == "GPU")
    return UsableMemory(device_kind(), int(least), replicas)


class _Loaded:
    """What training and evaluation have in common."""

    def __init__(
        self,
        programs: ProgramCache,
        configuration: Configuration,
        heartbeat: Callable[[], None],
    ):
        self._programs, self._configuration = programs, configuration
        self._data = programs.workload.data
        self._alive = Heartbeat(lambda done, total, within: heartbeat())
        self._heartbeat = heartbeat

    def begin(self) -> int:
        """Finds the longest inputs, and builds the model."""
        self._longest = longest_shapes(self._data, heartbeat=self._heartbeat)
        self._model(1, steps=1)
        return peak_bytes()

    def _model(self, batch_size: int, *, steps: int) -> keras.Model:
        return self._programs.begin(
            self._configuration.model_copy(update={"batch_size": batch_size}),
            total_examples=steps * batch_size,
            seed=_SEED,
            steps_per_execution=1,
        )

    def _whole_batches(self, size: int) -> tf.data.Dataset:
        """Batches of validation without a short one."""
        whole = max(self._data.num_examples("validation") // size, 1)
        return self._data.evaluation("validation", batch_size=size).take(whole)

    def _evaluate(self, model: keras.Model, dataset: tf.data.Dataset) -> None:
        batches = lengthened(dataset.take(_EVALUATION_STEPS), self._longest)
        model.evaluate(batches, callbacks=[self._alive], verbose=0)


class TrainingLoad(_Loaded):
    """Training steps on the data's own stream, validation at the end.

    Args:
        programs: Data, model and optimizer.
        configuration: What to train with; the batch size is replaced.
        heartbeat: Called after each batch.
        validate: Whether validation follows.
        accumulation: Micro-batches of an update; 1 for none.
    """

    def __init__(
        self,
        programs: ProgramCache,
        configuration: Configuration,
        heartbeat: Callable[[], None],
        *,
        validate: bool = True,
        accumulation: int = 1,
    ):
        super().__init__(programs, configuration, heartbeat)
        self._validate, self._accumulation = validate, accumulation

    def step(self, size: int) -> int:
        """Trains on a few batches, augmented and shuffled as ever."""
        batch_size = size * self._accumulation
        self._fitted = self._model(batch_size, steps=STEPS)
        if self._accumulation > 1:
            accumulated(self._fitted, micro_batch_size=size)
        workload = self._programs.workload
        # An accumulation has a train function of its own, which takes batches of the host's.
        held = self._accumulation == 1 and held_by(self._fitted) is not None
        length = {"batch_size": batch_size, "seed": _SEED, "num_examples": STEPS * batch_size}
        if held:
            stream = training_stream(self._fitted, workload, **length)
        else:
            stream = lengthened(self._data.training(**length), self._longest)
            stream = weighted_by_class(stream, workload.class_weight)
        self._fitted.fit(
            stream,
            steps_per_epoch=STEPS,
            callbacks=[self._alive],
            shuffle=False,
            verbose=0,
        )
        return peak_bytes()

    def finish(self) -> int | None:
        """Evaluates, as every epoch of a training ends."""
        if not self._validate:
            return None
        self._evaluate(self._fitted, self._programs.workload.evaluation("validation"))
        return peak_bytes()


class _Evaluation(_Loaded):
    """Evaluation of a compiled model, its optimizer's variables in memory."""

    def step(self, size: int) -> int:
        """Evaluates a few batches."""
        self._evaluate(self._model(1, steps=1), self._whole_batches(size))
        return peak_bytes()

    def finish(self) -> int | None:
        """Nothing else."""
        return None


class _Prediction(_Loaded):
    """Prediction by a compiled model: no loss and no metrics, but outputs that are kept."""

    def step(self, size: int) -> int:
        """Predicts a few batches."""
        batches = self._whole_batches(size).take(_EVALUATION_STEPS)
        inputs = lengthened(batches, self._longest)
        self._model(1, steps=1).predict(inputs, callbacks=[self._alive], verbose=0)
        return peak_bytes()

    def finish(self) -> int | None:
        """Nothing else."""
        return None


def longest_shapes(data: Data, *, heartbeat: Callable[[], None]) -> Longest | None:
    """The longest shape of each part among the training examples; None where all are alike.

    Args:
        data: The data.
        heartbeat: Called after each batch.
    """
    examples = min(data.num_examples("train"), MOST_SCANNED)
    batch_size = min(_SCANNED_AT_ONCE, examples)
    stream = data.training(batch_size=batch_size, seed=1, num_examples=examples)
    specs = tf.nest.flatten(stream.element_spec)
    if all(None not in spec.shape.as_list()[1:] for spec in specs):
        return None
    longest = [[0] * (len(spec.shape) - 1) for spec in specs]
    for element in stream:
        heartbeat()
        parts = tf.nest.flatten(element)
        longest = [
            [max(pair) for pair in zip(found, part.shape[1:], strict=True)]
            for found, part in zip(longest, parts, strict=True)
        ]
    return tuple(tuple(shape) for shape in longest)


def lengthened(dataset: tf.data.Dataset, longest: Longest | None) -> tf.data.Dataset:
    """Pads every batch with zeros to the longest shapes."""
    if longest is None:
        return dataset

    def lengthen(*element: Any) -> Any:
        parts = tf.nest.flatten(element)
        padded = [_padded(part, shape) for part, shape in zip(parts, longest, strict=True)]
        return tf.nest.pack_sequence_as(element, padded)

    return dataset.map(lengthen)


def _padded(part: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
    if not shape:
        return part
    missing = tf.maximum(tf.constant(shape) - tf.shape(part)[1:], 0)
    after = tf.concat([[0], missing], axis=0)
    return tf.pad(part, tf.stack([tf.zeros_like(after), after], axis=1))
