"""A prepared data set: what training and evaluation ask for batches."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfbatch.dataset_info.class_balance import balance_warnings, share_warnings
from tfbatch.dataset_info.content import DataContent
from tfbatch.dataset_info.own_data import DataDescription
from tfbatch.dataset_info.recipe import SPLITS, Recipe
from tfbatch.pipeline.augmentation import (
    augmentation_keys,
    make_augment,
    make_augment_floats,
    make_mix,
)
from tfbatch.pipeline.device_data import DeviceForm, ShuffledBy, StaysOnHostError
from tfbatch.pipeline.normalization import make_normalize, make_normalize_floats
from tfbatch.pipeline.record_splits import ResidentSplit, StreamingSplit, shuffle_sizes
from tfbatch.pipeline.streams import Stretch, batches_in_chunk, parallel_calls, prefetched
from tfbatch.pipeline.trainable_data import EVALUATION_BATCH_SIZE, check_stream
from tfbatch.process.limits import usable_memory
from tfbatch.records.decoded_cache import read_split
from tfbatch.records.manifest import Manifest, read_notes
from tfbatch.records.reader import find_damage, open_records
from tfbatch.seeds import derive_seed

RESIDENT_SHARE = 0.25
"""Decoded data up to this share of the usable memory is kept resident."""


class PreparedData:
    """One data set, ready to be trained on. Splits are read when they are first asked for.

    Args:
        recipe: The data set's recipe.
        folder: Folder of its records.
        resident_share: Share of the usable memory that decoded data may take.

    Raises:
        InputError: An augmentation that is unknown, or parameters that it does not take.
        DataError: The records are absent or damaged.
    """

    def __init__(self, recipe: Recipe, folder: Path, *, resident_share: float = RESIDENT_SHARE):
        self.recipe = recipe
        self.name = recipe.name
        self.folder = folder
        self._resident_share = resident_share
        self.manifest: Manifest = open_records(folder)
        self.resident = self._decoded_bytes() <= resident_share * usable_memory()
        self._splits: dict[str, ResidentSplit | StreamingSplit] = {}
        self._evaluations: dict[tuple[str, int], tf.data.Dataset] = {}
        self._normalize = make_normalize(recipe, self.manifest.normalization)
        self._augment = make_augment(recipe)  # a misspelt one is refused now, not in each trial
        self._mix = make_mix(recipe)
        streams = 2 if self._mix else 1
        # Traced once: every size and seed is an argument, so a further stream costs milliseconds.
        self._stream = tf.function(
            self._make_stream,
            input_signature=[
                tf.TensorSpec([4], tf.int64),
                tf.TensorSpec([streams], tf.int64),
                tf.TensorSpec([streams, len(recipe.augmentation)], tf.uint64),
            ],
            autograph=False,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process gets recipe, folder and share, and maps the same decoded files."""
        return _reopen, (self.recipe, self.folder, self._resident_share)

    @property
    def content(self) -> DataContent:
        """Nothing: records are checked when they are written."""
        return DataContent()

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.recipe.features.image.shape

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that there are."""
        return tuple(self.manifest.splits)

    def describe(self) -> DataDescription:
        """What a process without the data must know."""
        reading = "resident in memory" if self.resident else "streamed from disk"
        return DataDescription(
            identity=self.folder.name,
            splits={split: self.num_examples(split) for split in SPLITS},
            where=f"records in {self.folder}; {reading}",
            num_classes=self.num_classes,
            class_counts=self.manifest.class_counts["train"],
            soft_labels=self.soft_labels,
            notes=(
                *self.notes,
                *share_warnings(self.manifest.class_counts, self.recipe.splits.carved),
                *balance_warnings(self.manifest.class_counts),
            ),
        )

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.recipe.features.label.num_classes

    @property
    def soft_labels(self) -> bool:
        """Whether labels are float32 [batch, num_classes] that sum to 1, and not int32 [batch].

        They are, in all splits, if the recipe mixes examples: for CategoricalCrossentropy.
        """
        return self._mix is not None

    def num_examples(self, split: str = "train") -> int:
        """Number of examples in a split."""
        return self.manifest.num_examples(split)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of results should know of how this data is read; often nothing."""
        notes = read_notes(self.folder)
        if scaled := self.recipe.features.image.pixel_range:
            text = f"{scaled[0]:g} to {scaled[1]:g} become 0 to 255, others are clipped"
            notes = (*notes, f"Values of images with more than 8 bits per channel: {text}.")
        if self.resident:
            return notes
        sizes = shuffle_sizes(self.manifest, "train", usable_bytes=usable_memory())
        return (*notes, sizes.note) if sizes.note else notes

    def training(
        self, *, batch_size: int, seed: int, num_examples: int, start: int = 0
    ) -> tf.data.Dataset:
        """The training stream: augmented, normalized, reshuffled in each epoch.

        The stream is continuous: batches reach over the ends of epochs, and only the very last one
        can be short. The same seed gives the same order and the same augmentation for every batch
        size. A stream with a `start` gives exactly the tail of the whole stream. The first call
        traces; a further one takes milliseconds.

        Args:
            batch_size: Examples in a batch, 1 to the number of training examples.
            seed: From 0 to 2**31 - 1.
            num_examples: Length of the whole stream, in examples.
            start: Examples to leave out at the beginning, to continue a stream.

        Returns:
            A Dataset of known cardinality with (float32 [batch, height, width, channels],
            int32 [batch]); see `soft_labels` for labels that are mixed.

        Raises:
            InputError: A batch size, a seed or a length out of range.
        """
        check_stream(self, batch_size=batch_size, seed=seed, num_examples=num_examples, start=start)
        self._split("train")  # read now: not while the stream's graph is traced
        chunk = batches_in_chunk(batch_size, pixels=math.prod(self.input_shape))
        sizes = np.array([batch_size, chunk, start, num_examples], np.int64)
        with tf.device("CPU:0"):
            stream = self._stream(sizes, *self._shuffled_by(seed))
        return self._prefetched(stream, batch_size)

    def evaluation(self, split: str, *, batch_size: int = EVALUATION_BATCH_SIZE) -> tf.data.Dataset:
        """Every example of a split once, in the order of the records, not augmented."""
        if (split, batch_size) not in self._evaluations:
            steps = -(-self.num_examples(split) // batch_size)
            dataset = self._split(split).in_order(
                batch_size=batch_size,
                finish=lambda x, y, _: (self._normalize(x), self._encode(y)),
            )
            dataset = dataset.apply(tf.data.experimental.assert_cardinality(steps))
            self._evaluations[split, batch_size] = self._prefetched(dataset, batch_size)
        return self._evaluations[split, batch_size]

    def raise_damage(self, split: str) -> None:
        """Raises the RecordError behind a failed stream, if the records are damaged."""
        damage = find_damage(self.folder, self.manifest, split)
        if damage:
            raise damage

    def device_form(self) -> DeviceForm:
        """What a graph needs to make the batches from a device's memory.

        Raises:
            StaysOnHostError: It cannot.
        """
        if not self.resident:
            raise StaysOnHostError("it is streamed from disk")
        augment = make_augment_floats(self.recipe)
        normalize = make_normalize_floats(self.recipe, self.manifest.normalization)
        mix = self._mix

        def finish(
            streams: list[list[tf.Tensor]], position: tf.Tensor, keys: tf.Tensor, training: bool
        ) -> tuple[tf.Tensor, tf.Tensor]:
            made = []
            for number, (images, labels) in enumerate(streams):
                x = tf.cast(images, tf.float32)
                x = normalize(augment(x, position, keys[number]) if training else x)
                made.append((x, self._encode(labels)))
            return mix(made[0], made[1], position, keys[0]) if mix and training else made[0]

        values = math.prod(self.input_shape)
        return DeviceForm(
            num_examples={split: self.num_examples(split) for split in self.splits},
            example_bytes=values + 8,
            batch_bytes=4 * values,
            arrays=lambda split: read_split(self.folder, self.manifest, split),
            shuffled_by=self._shuffled_by,
            finish=finish,
        )

    def _shuffled_by(self, seed: int) -> ShuffledBy:
        seeds = [seed, derive_seed(seed, "partner")] if self._mix else [seed]
        keys = np.stack([augmentation_keys(self.recipe, each) for each in seeds])
        return ShuffledBy(np.array(seeds, np.int64), keys)

    def _make_stream(self, sizes: tf.Tensor, seeds: tf.Tensor, keys: tf.Tensor) -> tf.data.Dataset:
        """The training stream but for its prefetch; see `training` for the sizes."""
        batch_size, chunk, start, stop = tf.unstack(sizes)

        mix = self._mix

        def chunks_of(stream: int) -> tf.data.Dataset:
            def finish(x: tf.Tensor, y: tf.Tensor, position: tf.Tensor) -> tuple[tf.Tensor, ...]:
                x = self._normalize(self._augment(x, position, keys[stream]))
                return (x, self._encode(y), position) if mix else (x, y)

            stretch = Stretch(batch_size * chunk, seeds[stream], start, stop)
            return self._split("train").training(stretch, finish=finish)

        chunks = chunks_of(0)
        if mix:
            chunks = tf.data.Dataset.zip(chunks, chunks_of(1)).map(
                lambda one, other: mix(one[:2], other[:2], one[2], keys[0]), parallel_calls()
            )
        batches = chunks.rebatch(batch_size)
        steps = -((start - stop) // batch_size)
        return batches.apply(tf.data.experimental.assert_cardinality(steps))

    def _encode(self, labels: tf.Tensor) -> tf.Tensor:
        return tf.one_hot(labels, self.num_classes) if self.soft_labels else labels

    def _prefetched(self, dataset: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
        return prefetched(dataset, batch_bytes=4 * math.prod(self.input_shape) * batch_size)

    def _split(self, name: str) -> ResidentSplit | StreamingSplit:
        if name not in self._splits:
            self._splits[name] = (
                ResidentSplit(*read_split(self.folder, self.manifest, name))
                if self.resident
                else StreamingSplit(self.folder, self.manifest, name)
            )
        return self._splits[name]

    def _decoded_bytes(self) -> int:
        height, width, channels = self.recipe.features.image.shape
        examples = sum(self.manifest.num_examples(split) for split in self.manifest.splits)
        return height * width * channels * examples


def _reopen(recipe: Recipe, folder: Path, resident_share: float) -> PreparedData:
    return PreparedData(recipe, folder, resident_share=resident_share)
