"""Reads records: every count is checked, and damage is an error that names file and record."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfbatch.errors import RecordError
from tfbatch.records.codec import decode_batch
from tfbatch.records.manifest import Manifest, Shard, load_manifest, read_manifest, sha256

_READ_BATCH = 512


def open_records(folder: Path) -> Manifest:
    """Reads a folder's manifest and compares every file's size; opens nothing that fits.

    Raises:
        DataError: There is no manifest, or it cannot be read.
        RecordError: A file is absent or has another size; names the first record that it damages.
    """
    try:
        return read_manifest(folder)
    except RecordError as error:
        if not error.path.exists():
            raise
        done, problem = _scan(error.path, load_manifest(folder))
        if problem is None:  # cut between two records: the sizes say it better
            raise
        raise RecordError(error.path, done, problem) from error


def verify(folder: Path) -> Manifest:
    """Re-reads every file: sizes, checksums, every record's own checksum, every count.

    Raises:
        DataError: There is no manifest, or it cannot be read.
        RecordError: The first file that differs, and its first damaged record.
    """
    manifest = open_records(folder)
    for split, shards in manifest.splits.items():
        counts = np.zeros(manifest.features.label.num_classes, np.int64)
        for _, labels in read_batches(folder, manifest, split):
            counts += np.bincount(labels, minlength=len(counts))
        for shard in shards:
            if sha256(folder / shard.name) != shard.sha256:
                raise RecordError(
                    folder / shard.name, None, "the checksum differs from the manifest's"
                )
        if tuple(counts) != manifest.class_counts[split]:
            raise RecordError(
                folder / shards[0].name, None, f"the classes of `{split}` differ in number"
            )
    return manifest


def find_damage(folder: Path, manifest: Manifest, split: str) -> RecordError | None:
    """The first damage in a split, or None: asked when a stream of records has failed."""
    try:
        open_records(folder)
        for _ in read_batches(folder, manifest, split):
            pass
    except RecordError as error:
        return error
    return None


def read_batches(
    folder: Path, manifest: Manifest, split: str
) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]]:
    """Reads and decodes a split, in the order of its records.

    Yields:
        Images uint8 [batch, height, width, channels] and labels int32 [batch]; never more examples
        of a file than the manifest says.

    Raises:
        RecordError: The first damaged record, or a file with another number of records than the
            manifest says.
    """
    shards = manifest.splits[split]
    done = np.zeros(len(shards), np.int64)
    current = 0
    try:
        for index, images, labels in _decoded(folder, manifest, split).as_numpy_iterator():
            for before in range(current, index):  # these are read to their end
                _check_count(folder, shards[before], int(done[before]))
            current = int(index)
            done[current] += len(labels)
            if done[current] > shards[current].num_examples:
                break
            yield images, labels
    except (
        tf.errors.NotFoundError,
        tf.errors.DataLossError,
        tf.errors.InvalidArgumentError,
    ) as error:
        # The reading runs ahead, so the damage may lie behind the file that was given last.
        for shard in shards[current:]:
            damage = _damage_in(folder / shard.name, shard, manifest)
            if damage:
                raise damage from error
        path = folder / shards[current].name
        raise RecordError(path, None, f"cannot be read: {error}") from error
    for index in range(current, len(shards)):
        _check_count(folder, shards[index], int(done[index]))


def _decoded(folder: Path, manifest: Manifest, split: str) -> tf.data.Dataset:
    """(index of the file, images, labels): one pipeline and one trace for any number of files."""
    paths = tf.constant([str(folder / shard.name) for shard in manifest.splits[split]])

    def batches_of(index: tf.Tensor, path: tf.Tensor) -> tf.data.Dataset:
        records = tf.data.TFRecordDataset(path).batch(_READ_BATCH)
        return tf.data.Dataset.zip(tf.data.Dataset.from_tensors(index).repeat(), records)

    def decode(index: tf.Tensor, serialized: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return (index, *decode_batch(serialized, manifest.features))

    options = tf.data.Options()
    options.autotune.enabled = False  # or the end of the reading waits for its thread
    options.deterministic = True
    files = tf.data.Dataset.from_tensor_slices(paths).enumerate()
    decoded = files.flat_map(batches_of).map(decode, num_parallel_calls=2)
    return decoded.prefetch(2).with_options(options)


def _check_count(folder: Path, shard: Shard, done: int) -> None:
    if done != shard.num_examples:
        raise RecordError(
            folder / shard.name,
            min(done, shard.num_examples),
            f"the file holds {'more' if done > shard.num_examples else 'fewer'} than the "
            f"{shard.num_examples} records of the manifest",
        )


def _damage_in(path: Path, shard: Shard, manifest: Manifest) -> RecordError | None:
    """Reads one file record by record; None if it is as the manifest says."""
    if not path.exists():
        return RecordError(path, None, "the file is absent, the manifest lists it")
    done, problem = _scan(path, manifest)
    if problem:
        return RecordError(path, done, problem)
    try:
        _check_count(path.parent, shard, done)
    except RecordError as error:
        return error
    return None


def _scan(path: Path, manifest: Manifest) -> tuple[int, str | None]:
    """Number of records before the first that cannot be read or decoded, and what is wrong."""
    done = 0
    records = iter(tf.data.TFRecordDataset(str(path)))
    while True:
        try:
            decode_batch(tf.expand_dims(next(records), 0), manifest.features)
        except StopIteration:
            return done, None
        except tf.errors.DataLossError:
            return done, "its checksum differs: the file was cut or changed"
        except tf.errors.InvalidArgumentError as error:
            return done, f"cannot be decoded: {error.message}"
        done += 1
