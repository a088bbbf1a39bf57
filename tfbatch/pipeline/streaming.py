"""Data larger than memory: read from records, shuffled in a buffer, parsed by the batch."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from tfbatch.pipeline.batches import Finish, parallel_calls, unfinished
from tfbatch.records.codec import decode_batch
from tfbatch.records.manifest import Manifest

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

    def training(
        self,
        *,
        batch_size: tf.Tensor,
        seed: tf.Tensor,
        start: tf.Tensor,
        stop: tf.Tensor,
        finish: Finish = unfinished,
    ) -> tf.data.Dataset:
        """Yields `finish(images, labels, position)` of the stream from `start` to `stop`.

        Files in a new order for each epoch, interleaved, then a shuffle buffer, then batches: the
        order of the records depends on the seed alone, not on the batch size. The numbers are
        int64 scalars of a graph.
        """
        epochs = tf.data.Dataset.range(start // self.num_examples, -(-stop // self.num_examples))
        records = (
            epochs.flat_map(lambda epoch: self._epoch(epoch, seed))
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
        cycle_length = min(_CYCLE_LENGTH, count)
        return files.interleave(
            tf.data.TFRecordDataset,
            cycle_length=cycle_length,
            block_length=16,
            num_parallel_calls=min(parallel_calls(), cycle_length),
            deterministic=True,
        ).shuffle(min(SHUFFLE_BUFFER, self.num_examples), seed=bits[-1])

    def in_order(self, *, batch_size: int) -> tf.data.Dataset:
        """Yields (images, labels) of the whole split once, in the order of the records."""
        return (
            tf.data.TFRecordDataset(self._files)
            .batch(batch_size)
            .map(lambda batch: decode_batch(batch, self._features), parallel_calls())
        )
