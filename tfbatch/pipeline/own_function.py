"""A user's function `make_dataset(split, batch_size, seed)` as a data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfbatch.data_content import DataContent
from tfbatch.errors import DataError
from tfbatch.own_data import DataDescription
from tfbatch.pipeline.batched import values_in
from tfbatch.pipeline.batches import fixed_options, prefetched
from tfbatch.pipeline.counting import (
    FILE_NAME,
    SEED,
    Counted,
    MakeDataset,
    largest_divisor,
    make_split,
)
from tfbatch.pipeline.limits import EVALUATION_BATCH_SIZE, check_stream

_REBATCHED = (
    "`{name}` gives batches that tfbatch cuts anew, so that no batch is short at the end of an "
    "epoch: what it does to whole batches (mixing, bucketing by length) may reach over two."
)
_DROPPED = (
    "`{name}` drops the last partial batch (drop_remainder=True). For validation and test it is "
    "called with batch sizes that divide the split, so that every example counts; in training, "
    "each pass loses up to one batch. Remove `drop_remainder`: the examples are rebatched anyway."
)


class FunctionData:
    """What a user's function makes, made anew for each stream.

    Args:
        make_dataset: `make_dataset(split, batch_size, seed)` returns a tf.data.Dataset with one
            pass over the split, batched or not; None for a validation or test split that there is
            not.
        folder: Folder of its description, which `count_examples` wrote.
        name: What the data is called in messages.

    Raises:
        DataError: There is no description.
    """

    resident = False

    def __init__(self, make_dataset: MakeDataset, folder: Path, *, name: str):
        self._make_dataset = make_dataset
        self.folder = folder
        self.name = name
        try:
            text = (folder / FILE_NAME).read_text(encoding="utf-8")
            self._counted = Counted.model_validate_json(text)
        except (OSError, ValueError) as error:
            raise DataError(f"{folder / FILE_NAME} cannot be read: {error}") from error
        self._evaluations: dict[tuple[str, int], tf.data.Dataset] = {}

    @property
    def content(self) -> DataContent:
        """The findings of a look at the examples."""
        return self._counted.content

    @property
    def input_shape(self) -> Any:
        """Shape of one input; for several inputs, the same structure of shapes."""
        return _as_shapes(self._counted.input_shape)

    @property
    def num_classes(self) -> int | None:
        """Number of classes, or None if the targets are not classes."""
        return self._counted.num_classes

    @property
    def soft_labels(self) -> bool:
        """Whether targets are one-hot rows, not class indices."""
        return self._counted.one_hot

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that there are."""
        return tuple(self._counted.splits)

    def describe(self) -> DataDescription:
        """What a process without the data must know."""
        notes = [*self.content.sentences()]
        if self._counted.batched["train"]:
            notes.append(_REBATCHED.format(name=self.name))
        if self._counted.drops_remainder:
            notes.append(_DROPPED.format(name=self.name))
        return DataDescription(
            identity=self._counted.identity,
            splits=dict(self._counted.splits),
            where=f"made by {self.name} in each process",
            num_classes=self.num_classes,
            class_counts=self._counted.class_counts,
            soft_labels=self.soft_labels,
            weighted_classes=self.content.weighted_classes(self.num_classes),
            notes=tuple(notes),
        )

    def num_examples(self, split: str = "train") -> int:
        """Number of examples in a split."""
        return self._counted.splits[split]

    def training(
        self, *, batch_size: int, seed: int, num_examples: int, start: int = 0
    ) -> tf.data.Dataset:
        """The function's training data, again and again, in batches that reach over its ends.

        The order is the function's: it gets the seed. Only the very last batch can be short.
        """
        check_stream(self, batch_size=batch_size, seed=seed, num_examples=num_examples, start=start)
        made = self._made("train", batch_size, seed)
        steps = -((start - num_examples) // batch_size)
        batches = _rebatched(made.repeat(), self._counted.batched["train"], batch_size)
        batches = batches.skip(start // batch_size).take(steps)
        if num_examples % batch_size:
            batches = batches.enumerate().map(_cut_last(steps - 1, num_examples % batch_size))
        batches = batches.apply(tf.data.experimental.assert_cardinality(steps))
        return self._prefetched(batches, batch_size)

    def evaluation(self, split: str, *, batch_size: int = EVALUATION_BATCH_SIZE) -> tf.data.Dataset:
        """Every example of a split once."""
        if (split, batch_size) not in self._evaluations:
            made = self._made(split, batch_size)
            batches = _rebatched(made, self._counted.batched[split], batch_size)
            steps = -(-self.num_examples(split) // batch_size)
            batches = batches.apply(tf.data.experimental.assert_cardinality(steps))
            self._evaluations[split, batch_size] = self._prefetched(batches, batch_size)
        return self._evaluations[split, batch_size]

    def raise_damage(self, split: str) -> None:
        """Nothing is known of where a user's function reads."""

    def _made(self, split: str, batch_size: int, seed: int = SEED) -> tf.data.Dataset:
        """The function's data; for evaluation in a batch size with which it gives every example."""
        if split in self._counted.drops_remainder and split != "train":
            batch_size = largest_divisor(self.num_examples(split), at_most=batch_size)
        return make_split(self._make_dataset, split, batch_size, seed)

    def _prefetched(self, batches: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
        values = values_in(batches.element_spec, batched=True)
        return prefetched(batches, batch_bytes=4 * values * batch_size)


def _rebatched(dataset: tf.data.Dataset, batched: bool, batch_size: int) -> tf.data.Dataset:
    """Batches of exactly `batch_size` examples, but for the last."""
    dataset = dataset.with_options(fixed_options())
    shapes = [spec.shape for spec in tf.nest.flatten(dataset.element_spec)]
    variable = any(None in shape.as_list()[batched:] for shape in shapes)
    if not variable:
        return dataset.rebatch(batch_size) if batched else dataset.batch(batch_size)
    if batched:
        dataset = dataset.unbatch()
    return dataset.padded_batch(batch_size)


def _cut_last(last: int, size: int) -> Callable[..., Any]:
    def cut(step: tf.Tensor, element: Any) -> Any:
        most = tf.where(step == last, tf.constant(size, tf.int64), tf.int64.max)
        return tf.nest.map_structure(lambda part: part[:most], element)

    return cut


def _as_shapes(kept: Any) -> Any:
    if isinstance(kept, list):
        return tuple(kept)
    if set(kept) == {""}:
        return tuple(_as_shapes(part) for part in kept[""])
    return {key: _as_shapes(part) for key, part in kept.items()}
