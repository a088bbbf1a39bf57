"""A user's arrays as a data set: mapped from their files, batched by index."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfbatch.dataset_info.content import DataContent
from tfbatch.dataset_info.own_data import DataDescription
from tfbatch.pipeline.array_files import Leaf, read_content, read_leaf, read_stored
from tfbatch.pipeline.device_data import DeviceForm, ShuffledBy, check_can_be_held
from tfbatch.pipeline.elements import InputShape, inputs_and_targets, leaf_names, packed
from tfbatch.pipeline.streams import (
    Stretch,
    as_tensor,
    batches_in_chunk,
    parallel_calls,
    prefetched,
    shuffled_indices,
)
from tfbatch.pipeline.trainable_data import EVALUATION_BATCH_SIZE, check_stream

Gather = Callable[[tf.Tensor], tf.Tensor]
"""Indices [batch] of examples to one leaf of a batch."""


class StoredData:
    """Arrays in a folder that `store_data` wrote, ready to be trained on.

    Examples that differ in length are padded with zeros to the longest of their batch.

    Args:
        folder: The folder.
        name: What the data is called in messages.

    Raises:
        DataError: The folder is absent or damaged.
    """

    resident = True

    def __init__(self, folder: Path, *, name: str):
        self.folder = folder
        self.name = name
        self._stored = read_stored(folder)
        self._content = read_content(folder)
        self._gathers: dict[str, list[Gather]] = {}
        self._evaluations: dict[tuple[str, int], tf.data.Dataset] = {}
        self._stream = tf.function(
            self._make_stream, input_signature=[tf.TensorSpec([5], tf.int64)], autograph=False
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process gets the folder and maps the same files."""
        return _reopen, (self.folder, self.name)

    @property
    def content(self) -> DataContent:
        """The findings of a look at the examples."""
        return self._content

    @property
    def input_shape(self) -> InputShape:
        """Shape of one input; for several inputs, the same structure of shapes.

        The first dimension of inputs that differ in length is None.
        """
        inputs, _ = inputs_and_targets(self._stored.template)
        return cast(InputShape, packed(inputs, [_shape(leaf) for leaf in self._stored.leaves]))

    @property
    def num_classes(self) -> int | None:
        """Number of classes, or None if the targets are not classes."""
        return self._stored.num_classes

    @property
    def soft_labels(self) -> bool:
        """Whether targets are one-hot rows, not class indices."""
        return self._stored.one_hot

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that there are."""
        return tuple(self._stored.splits)

    def describe(self) -> DataDescription:
        """What a process without the data must know."""
        return DataDescription(
            identity=self.folder.name,
            splits=dict(self._stored.splits),
            where=f"stored in {self.folder}, mapped into memory",
            num_classes=self.num_classes,
            class_counts=self._stored.class_counts,
            soft_labels=self.soft_labels,
            weighted_classes=self.content.weighted_classes(self.num_classes),
            notes=(*self._stored.notes, *self._content.sentences()),
            findings=self._content.sentences(),
        )

    def num_examples(self, split: str = "train") -> int:
        """Number of examples in a split."""
        return self._stored.splits[split]

    def training(
        self, *, batch_size: int, seed: int, num_examples: int, start: int = 0
    ) -> tf.data.Dataset:
        """The training stream, shuffled anew in each epoch; see PreparedData.training."""
        check_stream(self, batch_size=batch_size, seed=seed, num_examples=num_examples, start=start)
        self._leaves("train")  # mapped now: not while the stream's graph is traced
        chunk = 1 if self._variable() else batches_in_chunk(batch_size, pixels=self._values())
        with tf.device("CPU:0"):
            stream = self._stream(np.array([batch_size, chunk, seed, start, num_examples]))
        return prefetched(stream, batch_bytes=4 * self._values() * batch_size)

    def evaluation(self, split: str, *, batch_size: int = EVALUATION_BATCH_SIZE) -> tf.data.Dataset:
        """Every example of a split once, in the order in which they were given."""
        if (split, batch_size) not in self._evaluations:
            count = self.num_examples(split)
            self._leaves(split)  # mapped now: a constant made while `cut` is traced is its graph's

            def cut(low: tf.Tensor) -> Any:
                return self._batch(split, tf.range(low, tf.minimum(low + batch_size, count)))

            dataset = tf.data.Dataset.range(0, count, batch_size).map(cut, parallel_calls())
            self._evaluations[split, batch_size] = prefetched(
                dataset, batch_bytes=4 * self._values() * batch_size
            )
        return self._evaluations[split, batch_size]

    def raise_damage(self, split: str) -> None:
        """Raises a DataError if the split's files no longer have their size."""
        for number, leaf in enumerate(self._stored.leaves):
            read_leaf(self.folder, split, number, leaf, self._stored.splits[split])

    def device_form(self) -> DeviceForm:
        """What a graph needs to make the batches from a device's memory.

        Raises:
            StaysOnHostError: It cannot.
        """
        leaves, splits = self._stored.leaves, self._stored.splits
        names = leaf_names(self._stored.template)
        for name, leaf in zip(names, leaves, strict=True):
            check_can_be_held(leaf.dtype, _shape(leaf), what=name)

        def arrays(split: str) -> list[npt.NDArray[Any]]:
            return [
                read_leaf(self.folder, split, number, leaf, splits[split])
                for number, leaf in enumerate(leaves)
            ]

        def finish(
            streams: list[list[tf.Tensor]], position: tf.Tensor, keys: tf.Tensor, training: bool
        ) -> Any:
            del position, keys, training
            return packed(self._stored.template, streams[0])

        size = sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in leaves)
        return DeviceForm(
            num_examples=dict(splits),
            example_bytes=size,
            batch_bytes=size,
            arrays=arrays,
            shuffled_by=lambda seed: ShuffledBy(
                np.array([seed], np.int64), np.zeros([1, 0], np.uint64)
            ),
            finish=finish,
        )

    def _make_stream(self, sizes: tf.Tensor) -> tf.data.Dataset:
        batch_size, chunk, seed, start, stop = tf.unstack(sizes)
        indices = shuffled_indices(
            self.num_examples("train"), Stretch(batch_size * chunk, seed, start, stop)
        )
        batches = indices.map(lambda chosen: self._batch("train", chosen), parallel_calls())
        if not self._variable():
            batches = batches.rebatch(batch_size)
        steps = -((start - stop) // batch_size)
        return batches.apply(tf.data.experimental.assert_cardinality(steps))

    def _batch(self, split: str, chosen: tf.Tensor) -> Any:
        leaves = [gather(chosen) for gather in self._leaves(split)]
        return packed(self._stored.template, leaves)

    def _leaves(self, split: str) -> list[Gather]:
        if split not in self._gathers:
            count = self.num_examples(split)
            self._gathers[split] = [
                _gather_of(leaf, read_leaf(self.folder, split, number, leaf, count))
                for number, leaf in enumerate(self._stored.leaves)
            ]
        return self._gathers[split]

    def _variable(self) -> bool:
        return any(leaf.variable for leaf in self._stored.leaves)

    def _values(self) -> int:
        """Values in one example, lengths by their mean."""
        total = 0.0
        for number, leaf in enumerate(self._stored.leaves):
            length = 1.0
            if leaf.variable:
                _, lengths = read_leaf(
                    self.folder, "train", number, leaf, self._stored.splits["train"]
                )
                length = float(lengths.mean())
            total += length * math.prod(leaf.shape)
        return max(round(total), 1)


def _reopen(folder: Path, name: str) -> StoredData:
    return StoredData(folder, name=name)


def _shape(leaf: Leaf) -> tuple[int | None, ...]:
    return (None, *leaf.shape) if leaf.variable else leaf.shape


def _gather_of(leaf: Leaf, stored: Any) -> Gather:
    """How a batch of one leaf is made of the indices of its examples."""
    if leaf.dtype == "string":
        values, lengths = stored
        ends = np.cumsum(lengths)
        raw = values.tobytes()
        texts = [raw[end - n : end] for end, n in zip(ends, lengths, strict=True)]
        with tf.device("CPU:0"):
            strings = tf.constant(texts, tf.string)
        return lambda chosen: tf.gather(strings, chosen)
    if leaf.variable:
        values, lengths = stored
        with tf.device("CPU:0"):
            ragged = tf.RaggedTensor.from_row_lengths(as_tensor(values), lengths, validate=False)
        return lambda chosen: tf.gather(ragged, chosen).to_tensor()
    # As rows: a gather then copies one stretch of memory for each example.
    rows = as_tensor(stored.reshape(len(stored), -1))
    return lambda chosen: tf.reshape(tf.gather(rows, chosen), [-1, *leaf.shape])
