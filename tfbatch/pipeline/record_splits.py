"""The two ways to read one split of records: decoded in memory, or streamed from disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfbatch.pipeline.streams import (
    Finish,
    Stretch,
    as_tensor,
    parallel_calls,
    shuffled_indices,
    unfinished,
)
from tfbatch.process.limits import usable_memory
from tfbatch.records.codec import decode_batch
from tfbatch.records.manifest import Manifest

SHUFFLE_EXAMPLES = 10_000
SHUFFLE_BYTES = 256 << 20
SHUFFLE_SHARE = 1 / 16
"""A shuffle buffer has at most this many records, bytes, and so large a share of usable memory. The
bytes alone decide where there are 4 GB or more: so the order is the same on such machines.
"""
_INTERLEAVE_BYTES = 64 << 20
_CYCLE_LENGTH = _BLOCK_LENGTH = 16


class ResidentSplit:
    """One split in memory.

    Args:
        images: uint8 [examples, height, width, channels]; used where it is, see `as_tensor`.
        labels: int32 [examples].
    """

    def __init__(self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int32]):
        self._shape = images.shape[1:]
        # As rows: a gather then copies one stretch of memory for each example.
        self._rows = as_tensor(images.reshape(len(images), -1))
        self._labels = as_tensor(labels)
        self.num_examples = len(labels)

    def training(self, stretch: Stretch, *, finish: Finish = unfinished) -> tf.data.Dataset:
        """Yields `finish(images, labels, position)`; an epoch is a permutation of the split."""
        stretch = Stretch(*(tf.convert_to_tensor(number, tf.int64) for number in stretch))
        batch_size, _, start, stop = stretch

        def gather(step: tf.Tensor, chosen: tf.Tensor) -> tuple[tf.Tensor, ...]:
            images = tf.reshape(tf.gather(self._rows, chosen), [-1, *self._shape])
            return finish(images, tf.gather(self._labels, chosen), start + step * batch_size)

        indices = shuffled_indices(self.num_examples, stretch)
        dataset = indices.enumerate().map(gather, num_parallel_calls=parallel_calls())
        steps = -((start - stop) // batch_size)
        return dataset.apply(tf.data.experimental.assert_cardinality(steps))

    def in_order(self, *, batch_size: int, finish: Finish) -> tf.data.Dataset:
        """Yields `finish(images, labels, position)` of the whole split, as the records are."""

        def cut(low: tf.Tensor) -> tuple[tf.Tensor, ...]:
            rows = self._rows[low : low + batch_size]
            images = tf.reshape(rows, [-1, *self._shape])
            return finish(images, self._labels[low : low + batch_size], low)

        lows = tf.data.Dataset.range(0, self.num_examples, batch_size)
        return lows.map(cut, num_parallel_calls=parallel_calls())


@dataclass(frozen=True)
class ShuffleSizes:
    """How far records are moved when they are shuffled; they are counted as they are stored.

    Attributes:
        num_examples: Number of examples in the split.
        buffer: Number of records from which the next one is drawn.
        buffer_bytes: Bytes that they take, on average.
        cycle_length: Number of files that are read in turn.
        block_length: Number of records that are taken from a file at once.
    """

    num_examples: int
    buffer: int
    buffer_bytes: int
    cycle_length: int
    block_length: int

    @property
    def note(self) -> str | None:
        """What a buffer smaller than the split costs, in a sentence; None if it holds all."""
        if self.buffer >= self.num_examples:
            return None
        return (
            f"Training examples are streamed through a shuffle buffer of {self.buffer:,} "
            f"({self.buffer_bytes / 2**20:,.0f} MiB) of {self.num_examples:,}, from "
            f"{self.cycle_length} file(s) at once: neighbors in the records share a batch more "
            "often than by chance. Their order does not depend on the class. More memory or "
            "smaller records improve the shuffling."
        )


def shuffle_sizes(manifest: Manifest, split: str, *, usable_bytes: int) -> ShuffleSizes:
    """The sizes for a split, so that their memory is bounded whatever a record's size.

        buffer = min(num_examples, 10_000, min(256 MiB, usable_bytes / 16) / record_bytes)
        cycle_length = min(16, shards / 4)

    A parallel interleave of tf.data holds up to two blocks of three files for each of its cycle.
    Of all files at once, what lies at their ends would come last in every epoch: so at most a
    quarter of them is read in turn, and the order of the files decides when.

    Args:
        manifest: The records.
        split: Name of the split.
        usable_bytes: Memory that this process may use.
    """
    shards = manifest.splits[split]
    examples = manifest.num_examples(split)
    record_bytes = max(1, -(-sum(shard.num_bytes for shard in shards) // max(1, examples)))
    most_bytes = min(SHUFFLE_BYTES, int(usable_bytes * SHUFFLE_SHARE))
    buffer = max(1, min(examples, SHUFFLE_EXAMPLES, most_bytes // record_bytes))
    ahead = max(1, _INTERLEAVE_BYTES // (2 * 3 * record_bytes))
    cycle_length = max(1, min(_CYCLE_LENGTH, ahead, len(shards) // 4))
    return ShuffleSizes(
        num_examples=examples,
        buffer=buffer,
        buffer_bytes=buffer * record_bytes,
        cycle_length=cycle_length,
        block_length=min(_BLOCK_LENGTH, ahead // cycle_length),
    )


class StreamingSplit:
    """One split on disk.

    Args:
        folder: Folder of the records.
        manifest: Its manifest.
        split: Name of the split.
    """

    def __init__(self, folder: Path, manifest: Manifest, split: str):
        self._files = [str(folder / shard.name) for shard in manifest.splits[split]]
        self._features = manifest.features
        self.sizes = shuffle_sizes(manifest, split, usable_bytes=usable_memory())
        self.num_examples = self.sizes.num_examples

    def training(self, stretch: Stretch, *, finish: Finish = unfinished) -> tf.data.Dataset:
        """Yields `finish(images, labels, position)` of tensors of a graph.

        Files in a new order for each epoch, interleaved, then a shuffle buffer, then batches. What
        lies before the stretch in its first epoch is read but not decoded.
        """
        batch_size, seed, start, stop = stretch
        records = (
            stretch.epochs(self.num_examples)
            .flat_map(lambda epoch: self._epoch(epoch, seed))
            .skip(start % self.num_examples)
            .take(stop - start)
        )

        def parse(step: tf.Tensor, serialized: tf.Tensor) -> tuple[tf.Tensor, ...]:
            images, labels = decode_batch(serialized, self._features)
            return finish(images, labels, start + step * batch_size)

        dataset = records.batch(batch_size).enumerate()
        return dataset.map(parse, num_parallel_calls=parallel_calls())

    def _epoch(self, epoch: tf.Tensor, seed: tf.Tensor) -> tf.data.Dataset:
        """The records of one epoch, in an order that depends on `seed` and `epoch` alone."""
        # Of this function's graph only: tf.data mixes the program's global seed in otherwise.
        tf.compat.v1.set_random_seed(1)
        count = len(self._files)
        bits = tf.random.stateless_uniform(
            [count + 1], seed=tf.stack([seed, epoch]), minval=None, maxval=None, dtype=tf.int64
        )
        files = tf.data.Dataset.from_tensor_slices(tf.gather(self._files, tf.argsort(bits[:-1])))
        return files.interleave(
            tf.data.TFRecordDataset,
            cycle_length=self.sizes.cycle_length,
            block_length=self.sizes.block_length,
            num_parallel_calls=min(parallel_calls(), self.sizes.cycle_length),
            deterministic=True,
        ).shuffle(self.sizes.buffer, seed=bits[-1])

    def in_order(self, *, batch_size: int, finish: Finish) -> tf.data.Dataset:
        """Yields `finish(images, labels, position)` of the whole split, as the records are."""

        def parse(number: tf.Tensor, serialized: tf.Tensor) -> tuple[tf.Tensor, ...]:
            images, labels = decode_batch(serialized, self._features)
            return finish(images, labels, number * batch_size)

        records = tf.data.TFRecordDataset(self._files).batch(batch_size).enumerate()
        return records.map(parse, num_parallel_calls=parallel_calls())
