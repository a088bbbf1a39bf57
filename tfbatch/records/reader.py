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
        damage = _first_damage(error.path, load_manifest(folder), error)
        if damage.record is None:  # cut between two records: the sizes say it better
            raise
        raise damage from error


def verify(folder: Path) -> Manifest:
    """Re-reads every file: sizes, checksums, every record's own checksum, every count.

    Raises:
        DataError: There is no manifest, or it cannot be read.
        RecordError: The first file that differs, and its first damaged record.
    """
    manifest = open_records(folder)
    for split, shards in manifest.splits.items():
        counts = np.zeros(manifest.features.label.num_classes, np.int64)
        for shard in shards:
            path = folder / shard.name
            for _, labels in _batches(path, shard, manifest):
                counts += np.bincount(labels, minlength=len(counts))
            if sha256(path) != shard.sha256:
                raise RecordError(path, None, "the checksum differs from the manifest's")
        if tuple(counts) != manifest.class_counts[split]:
            raise RecordError(
                folder / shards[0].name, None, f"the classes of `{split}` differ in number"
            )
    return manifest


def read_split(
    folder: Path, manifest: Manifest, split: str
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Reads and decodes a whole split into memory.

    Returns:
        Images uint8 [examples, height, width, channels] and labels int32 [examples], in the order
        of the records.

    Raises:
        RecordError: A damaged record, or a number of examples that differs from the manifest.
    """
    total = manifest.num_examples(split)
    images = np.empty((total, *manifest.features.image.shape), np.uint8)
    labels = np.empty(total, np.int32)
    done = 0
    for shard in manifest.splits[split]:
        for image_batch, label_batch in _batches(folder / shard.name, shard, manifest):
            images[done : done + len(label_batch)] = image_batch
            labels[done : done + len(label_batch)] = label_batch
            done += len(label_batch)
    return images, labels


def find_damage(folder: Path, manifest: Manifest, split: str) -> RecordError | None:
    """The first damage in a split, or None: asked when a stream of records has failed."""
    try:
        open_records(folder)
        for shard in manifest.splits[split]:
            for _ in _batches(folder / shard.name, shard, manifest):
                pass
    except RecordError as error:
        return error
    return None


def _batches(
    path: Path, shard: Shard, manifest: Manifest
) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]]:
    """Decoded batches of one shard, in order; raises RecordError at the first damage."""
    records = tf.data.TFRecordDataset(str(path)).batch(_READ_BATCH)
    decoded = records.map(
        lambda batch: decode_batch(batch, manifest.features), num_parallel_calls=2
    )
    options = tf.data.Options()
    options.autotune.enabled = False
    done = 0
    try:
        for images, labels in decoded.prefetch(2).with_options(options).as_numpy_iterator():
            done += len(labels)
            if done > shard.num_examples:
                break
            yield images, labels
    except tf.errors.NotFoundError as error:
        raise RecordError(path, None, "the file is absent, the manifest lists it") from error
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
        raise _first_damage(path, manifest, error) from error
    if done != shard.num_examples:
        raise RecordError(
            path,
            min(done, shard.num_examples),
            f"the file holds {'more' if done > shard.num_examples else 'fewer'} than the "
            f"{shard.num_examples} records of the manifest",
        )


def _first_damage(path: Path, manifest: Manifest, error: Exception) -> RecordError:
    """Reads record by record, to name the first one that cannot be read or decoded."""
    index = 0
    records = iter(tf.data.TFRecordDataset(str(path)))
    while True:
        try:
            decode_batch(tf.expand_dims(next(records), 0), manifest.features)
        except StopIteration:
            return RecordError(path, None, f"cannot be read: {error}")
        except tf.errors.DataLossError:
            return RecordError(path, index, "its checksum differs: the file was cut or changed")
        except tf.errors.InvalidArgumentError as problem:
            return RecordError(path, index, f"cannot be decoded: {problem.message}")
        index += 1
