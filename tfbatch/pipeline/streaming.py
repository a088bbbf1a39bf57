"""Data larger than memory: read from records, shuffled in a buffer, parsed by the batch."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from tfbatch.pipeline.batches import PARALLEL_CALLS
from tfbatch.records.codec import decode_batch
from tfbatch.records.manifest import Manifest
from tfbatch.seeds import derive_seed

SHUFFLE_BUFFER = 10_000
_CYCLE_LENGTH = 16


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
        self.num_examples = manifest.num_examples(split)

    def training(self, *, batch_size: int, seed: int, start: int, stop: int) -> tf.data.Dataset:
        """Yields (images, labels, position) for the stream's examples from `start` to `stop`.

        Files in a new order for each epoch, interleaved, then a shuffle buffer, then batches: the
        order of the records depends on the seed alone, not on the batch size.
        """
        steps = -(-(stop - start) // batch_size)
        epochs = tf.data.Dataset.range(start // self.num_examples, -(-stop // self.num_examples))
        records = (
            epochs.flat_map(lambda epoch: self._epoch(epoch, seed))
            .skip(start % self.num_examples)
            .take(stop - start)
        )

        def parse(step: tf.Tensor, serialized: tf.Tensor) -> tuple[tf.Tensor, ...]:
            images, labels = decode_batch(serialized, self._features)
            return images, labels, start + step * batch_size

        dataset = records.batch(batch_size).enumerate()
        parsed = dataset.map(parse, num_parallel_calls=PARALLEL_CALLS)
        return parsed.apply(tf.data.experimental.assert_cardinality(steps))

    def _epoch(self, epoch: tf.Tensor, seed: int) -> tf.data.Dataset:
        """The records of one epoch, in an order that depends on `seed` and `epoch` alone."""
        # Of this function's graph only: tf.data mixes the program's global seed in otherwise.
        tf.compat.v1.set_random_seed(derive_seed(seed, "records"))
        cycle_length = min(_CYCLE_LENGTH, len(self._files))
        files = tf.data.Dataset.from_tensor_slices(self._files)
        return (
            files.shuffle(len(self._files), seed=2 * epoch)
            .interleave(
                tf.data.TFRecordDataset,
                cycle_length=cycle_length,
                block_length=16,
                num_parallel_calls=min(PARALLEL_CALLS, cycle_length),
                deterministic=True,
            )
            .shuffle(min(SHUFFLE_BUFFER, self.num_examples), seed=2 * epoch + 1)
        )

    def in_order(self, *, batch_size: int) -> tf.data.Dataset:
        """Yields (images, labels) of the whole split once, in the order of the records."""
        return (
            tf.data.TFRecordDataset(self._files)
            .batch(batch_size)
            .map(lambda batch: decode_batch(batch, self._features), PARALLEL_CALLS)
        )
