"""A split's decoded pixels in files beside its records: one mapped copy for all processes.

    FOLDER/decoded-SPLIT/images.npy    uint8 [examples, height, width, channels]
    FOLDER/decoded-SPLIT/labels.npy    int32 [examples]
    FOLDER/decoded-SPLIT/stamp.json    the records that they were made of, and their checksums

The folder is written under another name and renamed when it is whole. Whatever does not fit its
stamp (older records, a cut file, a flipped bit) is decoded again from the records.
"""

from __future__ import annotations

import contextlib
import io
import math
import mmap
import os
import secrets
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import numpy.typing as npt

from tfbatch.records.manifest import Manifest
from tfbatch.records.reader import read_batches
from tfbatch.schema import Strict

Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]

FORMAT_VERSION = 1
_LOCK_SECONDS = 3600
"""Decoding ImageNet takes less; another process's longer work is not waited for."""


class Stamp(Strict):
    """What the files of a decoded split were made of, and what they must hold.

    Attributes:
        format_version: Version of this form.
        shards: SHA-256 checksums of the records, in order.
        shape: Shape of the images.
        images_crc32: Checksum of the images' pixels.
        labels_crc32: Checksum of the labels.
    """

    format_version: int = FORMAT_VERSION
    shards: tuple[str, ...]
    shape: tuple[int, int, int, int]
    images_crc32: int
    labels_crc32: int


def read_split(folder: Path, manifest: Manifest, split: str) -> Arrays:
    """A whole split, decoded: mapped from its files, which are made on first use.

    The arrays begin at a multiple of 64 bytes. Their pages belong to the page cache, so processes
    share them; a process that writes to them changes its own pages alone. A folder that cannot be
    written gives arrays in this process's memory.

    Returns:
        Images uint8 [examples, height, width, channels] and labels int32 [examples], in the order
        of the records.

    Raises:
        RecordError: A damaged record, or a number of examples that differs from the manifest.
    """
    found = _open(folder, manifest, split)
    if found:
        return found
    try:
        with filelock.FileLock(folder / f".decoded-{split}.lock", timeout=_LOCK_SECONDS):
            found = _open(folder, manifest, split)  # perhaps another process was faster
            if not found:
                _build(folder, manifest, split)
                found = _open(folder, manifest, split)
    except (OSError, filelock.Timeout):  # read-only, full, or without locks
        found = None
    return found or decode_split(folder, manifest, split)


def decode_split(folder: Path, manifest: Manifest, split: str) -> Arrays:
    """Decodes a whole split into this process's memory; see `read_split`."""
    shape = _shape(manifest, split)
    images, labels = _aligned(shape, np.uint8), _aligned(shape[:1], np.int32)
    done = 0
    for image_batch, label_batch in read_batches(folder, manifest, split):
        images[done : done + len(label_batch)] = image_batch
        labels[done : done + len(label_batch)] = label_batch
        done += len(label_batch)
    return images, labels


def _open(folder: Path, manifest: Manifest, split: str) -> Arrays | None:
    """The mapped arrays, or None if there are none that fit the manifest and their stamp."""
    place = folder / f"decoded-{split}"
    try:
        stamp = Stamp.model_validate_json((place / "stamp.json").read_text(encoding="utf-8"))
        images = _map(place / "images.npy", stamp.shape, np.uint8)
        labels = _map(place / "labels.npy", stamp.shape[:1], np.int32)
    except (OSError, ValueError):
        return None
    # The checksums also read every page once, in order: the random gather never waits for a disk.
    whole = (
        stamp.format_version == FORMAT_VERSION
        and stamp.shards == _shards(manifest, split)
        and stamp.shape == _shape(manifest, split)
        and zlib.crc32(images.data) == stamp.images_crc32
        and zlib.crc32(labels.data) == stamp.labels_crc32
    )
    return (images, labels) if whole else None


def _map(path: Path, shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
    """Maps a .npy file copy-on-write.

    Raises:
        OSError: It cannot be read.
        ValueError: It has another shape, dtype or size.
    """
    header = _header(shape, dtype)
    size = len(header) + math.prod(shape) * np.dtype(dtype).itemsize
    with path.open("rb") as file:
        if file.read(len(header)) != header or os.fstat(file.fileno()).st_size != size:
            raise ValueError(f"{path} does not hold {np.dtype(dtype)} {shape}")
        return np.asarray(np.memmap(file, dtype, mode="c", offset=len(header), shape=shape))


def _build(folder: Path, manifest: Manifest, split: str) -> None:
    """Decodes a split into its files, batch by batch. The caller holds the split's lock.

    Raises:
        OSError: The folder cannot be written.
        RecordError: A damaged record.
    """
    for leftover in folder.glob(f".partial-decoded-{split}-*"):  # of a killed process
        shutil.rmtree(leftover, ignore_errors=True)
    place = folder / f"decoded-{split}"
    partial = folder / f".partial-decoded-{split}-{secrets.token_hex(4)}"
    partial.mkdir()
    try:
        stamp = _write(folder, manifest, split, partial)
        with _durable(partial / "stamp.json") as file:
            file.write(stamp.model_dump_json(indent=1).encode())
        if place.exists():  # it does not fit; who has it mapped keeps its pages
            shutil.rmtree(place)
        partial.rename(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(folder: Path, manifest: Manifest, split: str, partial: Path) -> Stamp:
    # Written, not mapped: a full disk is then an OSError and not the signal SIGBUS.
    shape = _shape(manifest, split)
    images_crc32 = labels_crc32 = 0
    with _durable(partial / "images.npy") as images, _durable(partial / "labels.npy") as labels:
        images.write(_header(shape, np.uint8))
        labels.write(_header(shape[:1], np.int32))
        for image_batch, label_batch in read_batches(folder, manifest, split):
            images.write(image_batch.data)
            labels.write(label_batch.data)
            images_crc32 = zlib.crc32(image_batch.data, images_crc32)
            labels_crc32 = zlib.crc32(label_batch.data, labels_crc32)
    return Stamp(
        shards=_shards(manifest, split),
        shape=shape,
        images_crc32=images_crc32,
        labels_crc32=labels_crc32,
    )


def _header(shape: tuple[int, ...], dtype: Any) -> bytes:
    """The header of a .npy file, padded so that the data begins at a multiple of 64 bytes."""
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


@contextlib.contextmanager
def _durable(path: Path) -> Iterator[Any]:
    """A file to write, on disk when the block ends."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _aligned(shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
    """Zeros at the beginning of a page: TensorFlow can use them without a copy."""
    count = math.prod(shape)
    pages = mmap.mmap(-1, max(1, count * np.dtype(dtype).itemsize))
    return np.frombuffer(pages, dtype, count).reshape(shape)


def _shape(manifest: Manifest, split: str) -> tuple[int, int, int, int]:
    return (manifest.num_examples(split), *manifest.features.image.shape)


def _shards(manifest: Manifest, split: str) -> tuple[str, ...]:
    return tuple(shard.sha256 for shard in manifest.splits[split])
