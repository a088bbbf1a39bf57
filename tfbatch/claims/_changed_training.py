"""Trains on changed data as a trial does, inside the process that trains."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any, cast

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfbatch.claims._changed_data import DataChange
from tfbatch.claims._claim import UntestableError
from tfbatch.errors import StoppedError
from tfbatch.pipeline.streams import (
    Stretch,
    as_tensor,
    parallel_calls,
    prefetched,
    shuffled_indices,
)
from tfbatch.pipeline.trainable_data import EVALUATION_BATCH_SIZE, check_stream
from tfbatch.process.limits import usable_memory
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.trial import Heartbeat, run_trial
from tfbatch.training.workload import Workload
from tfbatch.trial.outcome import TrialSpec

if TYPE_CHECKING:
    from tfbatch.configuration import Configuration
    from tfbatch.dataset_info.content import DataContent
    from tfbatch.dataset_info.own_data import DataDescription
    from tfbatch.pipeline.elements import InputShape
    from tfbatch.pipeline.trainable_data import Data
    from tfbatch.training.context import TaskContext

_SEED = 20_180
"""Of what is random about a change: the same for all trainings."""
_MOST_MEMORY = 0.1
"""Of what can be used, for the training split of one process."""
_KEPT_PROGRAMS = 4
_RAW = 255.0


@dataclasses.dataclass(frozen=True)
class Curve:
    """How a training went.

    Attributes:
        examples: Examples seen before each evaluation.
        values: The metric at each.
        diverged: Whether it ended because its loss grew beyond any use.
        out_of_memory: Whether it ended for lack of memory.
    """

    examples: tuple[float, ...]
    values: tuple[float, ...]
    diverged: bool
    out_of_memory: bool = False


def train_changed(
    task: TaskContext,
    *,
    configuration: Configuration,
    change: DataChange,
    examples: int,
    seed: int,
    metric: str,
    evaluated_every: int | None = None,
) -> Curve:
    """Trains as a trial of the run does, on changed data.

    Args:
        task: Model and data.
        configuration: What to train with.
        change: What is changed.
        examples: Length of the training.
        seed: Of weights and order.
        metric: What the curve is of.
        evaluated_every: Examples between two evaluations; None for a pass over the changed data.

    Raises:
        UntestableError: The data cannot be changed so, or the model does not train on it.
        StoppedError: A stop was requested.
    """
    programs = changed_programs(task, change)
    workload = programs.workload
    spec = TrialSpec(
        trial="changed data",
        phase="claims",
        seed=seed,
        configuration=configuration,
        total_examples=examples,
        num_examples=workload.data.num_examples("train"),
        replicas=workload.replicas,
        evaluated_every=evaluated_every,
    )
    watch = _Watch(metric, spec)

    def callbacks() -> list[keras.callbacks.Callback]:
        return [*(task.code.callbacks or list)(), Heartbeat(task.signs.report), watch]

    ended = run_trial(
        programs, spec, stop_requested=task.signs.stop_requested, user_callbacks=callbacks
    )
    if ended.status == "interrupted":
        raise StoppedError("the run was asked to stop")
    if ended.status not in ("completed", "diverged", "oom"):
        raise UntestableError(
            f"A training on changed data ended as {ended.status!r}: {ended.message}"
        )
    return Curve(
        tuple(watch.examples),
        tuple(watch.values),
        diverged=ended.status == "diverged",
        out_of_memory=ended.status == "oom",
    )


class _Watch(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps what is measured after each epoch."""

    only_looks = True

    def __init__(self, metric: str, spec: TrialSpec):
        super().__init__()
        self._metric, self._spec = metric, spec
        self._steps = 0
        self.examples: list[float] = []
        self.values: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Counts the epoch's updates."""
        self._steps = batch + 1

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Keeps the epoch."""
        derived = self._spec.derived
        steps = epoch * derived.steps_per_epoch + self._steps
        if self._metric in (logs or {}):
            self.examples.append(float(min(steps * derived.batch_size, self._spec.total_examples)))
            self.values.append(float(logs[self._metric]))


@functools.lru_cache(maxsize=_KEPT_PROGRAMS)
def changed_programs(task: TaskContext, change: DataChange) -> ProgramCache:
    """The process's model on changed data.

    Raises:
        UntestableError: The data cannot be changed so.
    """
    workload = task.programs.workload
    return ProgramCache(
        Workload(
            ChangedData(workload.data, change),
            workload.build_model,
            compilation=workload.compilation,
            precision=workload.precision,
            jit_compile=workload.jit_compile,
            strategy=workload.strategy,
        )
    )


class ChangedData:
    """A data set whose training split is in memory, changed.

    Args:
        data: The user's.
        change: What is changed.

    Raises:
        UntestableError: It cannot be changed so.
    """

    def __init__(self, data: Data, change: DataChange):
        self._data, self._change = data, change
        self.name = data.name
        self._inputs, targets = _in_memory(data)
        generator = np.random.default_rng(_SEED)
        order = generator.permutation(len(self._inputs))
        chosen = np.sort(order[: change.examples_of(len(order))])
        if change.imbalance > 1:
            chosen = long_tailed(classes_of(data, targets)[chosen], chosen, change.imbalance)
        self._inputs, targets = self._inputs[chosen], [part[chosen] for part in targets]
        if change.label_noise:
            targets[0] = with_wrong_labels(data, targets, change.label_noise)
        self._shift, self._scale = self._of_raw() if change.raw_inputs else (0.0, 1.0)
        self._image_size = self._resized() if change.image_scale != 1 else None
        changed = self._like_training(self._inputs)
        self._parts = [as_tensor(np.ascontiguousarray(part)) for part in (changed, *targets)]

    def _of_raw(self) -> tuple[float, float]:
        """What inputs are reduced by, and then multiplied with."""
        if self._inputs.dtype.kind != "f":
            raise UntestableError(
                f"inputs of {self._inputs.dtype} are not normalized in the first place; give floats"
            )
        low, high = float(self._inputs.min()), float(self._inputs.max())
        return low, _RAW / max(high - low, 1e-12)

    def _resized(self) -> tuple[int, int]:
        shape = self._inputs.shape[1:]
        if len(shape) != 3 or self._inputs.dtype.kind != "f":
            raise UntestableError(
                f"the inputs are no images [height, width, channels] but {list(shape)}; give images"
            )
        height, width = (max(1, round(self._change.image_scale * side)) for side in shape[:2])
        return height, width

    def _like_training(self, inputs: Any) -> Any:
        """Inputs of any split, changed as those of the training split are."""
        if self._change.raw_inputs:
            inputs = (inputs - self._shift) * self._scale
        if self._image_size is not None:
            parts = (
                [inputs[n : n + 512] for n in range(0, len(inputs), 512)]
                if isinstance(inputs, np.ndarray)
                else [inputs]
            )
            parts = [tf.image.resize(part, self._image_size, antialias=True) for part in parts]
            inputs = np.concatenate(parts) if isinstance(inputs, np.ndarray) else parts[0]
        return inputs

    @property
    def soft_labels(self) -> bool:
        """See Data."""
        return self._data.soft_labels

    @property
    def content(self) -> DataContent:
        """See Data."""
        return self._data.content

    @property
    def input_shape(self) -> InputShape:
        """See Data."""
        return cast("InputShape", tuple(self._parts[0].shape[1:]))

    @property
    def num_classes(self) -> int | None:
        """See Data."""
        return self._data.num_classes

    @property
    def splits(self) -> tuple[str, ...]:
        """See Data."""
        return self._data.splits

    def describe(self) -> DataDescription:
        """See Data."""
        return self._data.describe()

    def num_examples(self, split: str = "train") -> int:
        """See Data."""
        return int(self._parts[0].shape[0]) if split == "train" else self._data.num_examples(split)

    def training(
        self, *, batch_size: int, seed: int, num_examples: int, start: int = 0
    ) -> tf.data.Dataset:
        """See Data."""
        check_stream(self, batch_size=batch_size, seed=seed, num_examples=num_examples, start=start)
        count = self.num_examples("train")
        with tf.device("CPU:0"):
            numbers = (batch_size, seed, start, num_examples)
            stretch = Stretch(*(tf.constant(number, tf.int64) for number in numbers))
            if self._change.shuffled:
                indices = shuffled_indices(count, stretch)
            else:
                indices = tf.data.Dataset.range(start, num_examples).batch(batch_size)
                indices = indices.map(lambda position: position % count)
            stream = indices.map(
                lambda chosen: tuple(tf.gather(part, chosen) for part in self._parts),
                parallel_calls(),
            )
        steps = -((start - num_examples) // batch_size)
        stream = stream.apply(tf.data.experimental.assert_cardinality(steps))
        size = 4 * math.prod(self._parts[0].shape[1:]) * batch_size
        return prefetched(stream, batch_bytes=max(1, size))

    def evaluation(self, split: str, *, batch_size: int = EVALUATION_BATCH_SIZE) -> tf.data.Dataset:
        """See Data."""
        stream = self._data.evaluation(split, batch_size=batch_size)
        return stream.map(lambda inputs, *rest: (self._like_training(inputs), *rest))

    def raise_damage(self, split: str) -> None:
        """See Data."""
        self._data.raise_damage(split)


Array = npt.NDArray[Any]


def _in_memory(data: Data) -> tuple[Array, list[Array]]:
    """The training split as it is evaluated: not augmented, in its own order.

    Raises:
        UntestableError: It does not fit, or an example is more than one input and its targets.
    """
    spec = data.evaluation("train").element_spec
    if len(spec) < 2 or any(tf.nest.is_nested(part) for part in spec):
        raise UntestableError("only data of one input and one target can be changed")
    if any(side is None for part in spec for side in part.shape[1:]):
        raise UntestableError("only data whose examples have one shape can be changed")
    size = sum(math.prod(part.shape[1:]) * part.dtype.size for part in spec)
    size *= data.num_examples("train")
    if size > _MOST_MEMORY * usable_memory():
        raise UntestableError(
            f"changed data is held in memory, and the training split takes {size / 1e9:.1f} GB: "
            "give a part of it"
        )
    batches = [tuple(part.numpy() for part in batch) for batch in data.evaluation("train")]
    inputs, *targets = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return inputs, targets


def classes_of(data: Data, targets: list[Array]) -> npt.NDArray[np.int64]:
    """The class of each example.

    Raises:
        UntestableError: The targets are no classes.
    """
    labels, count = targets[0], data.num_classes
    if count is None or count < 2:
        raise UntestableError("the targets are no classes")
    if labels.ndim == 2 and labels.shape[1] == count:
        labels = labels.argmax(axis=1)
    return np.asarray(labels.reshape(len(labels)), np.int64)


def long_tailed(
    classes: npt.NDArray[np.int64], chosen: npt.NDArray[np.intp], imbalance: float
) -> npt.NDArray[np.intp]:
    """Fewer of each further class: `imbalance` of the first for one of the last."""
    known = np.unique(classes)
    kept = []
    for rank, label in enumerate(known):
        members = chosen[classes == label]
        share = imbalance ** (-rank / max(1, len(known) - 1))
        kept.append(members[: max(1, round(share * len(members)))])
    return np.sort(np.concatenate(kept))


def with_wrong_labels(data: Data, targets: list[Array], share: float) -> Array:
    """The targets, a share of them wrong: another class, or else that of another example."""
    generator = np.random.default_rng(_SEED + 1)
    labels = targets[0].copy()
    wrong = generator.permutation(len(labels))[: round(share * len(labels))]
    try:
        classes = classes_of(data, targets)
    except UntestableError:
        labels[wrong] = labels[np.roll(wrong, 1)]
        return labels
    count = cast(int, data.num_classes)
    other = (classes[wrong] + generator.integers(1, count, len(wrong))) % count
    if labels.ndim == 2 and labels.shape[1] == count:
        labels[wrong] = np.eye(count, dtype=labels.dtype)[other]
    else:
        labels[wrong] = other.reshape(-1, *([1] * (labels.ndim - 1)))
    return labels
