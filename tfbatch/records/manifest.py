"""What a folder of records holds: written last, so that a folder without it is not a data set."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from pathlib import Path

from tfbatch.dataset_info.recipe import Features, ImageFeature, Normalization
from tfbatch.errors import DataError, RecordError
from tfbatch.schema import Strict

FILE_NAME = "manifest.json"
NOTES_NAME = "notes.json"
FORMAT_VERSION = 1
_SHARD_BYTES = 128 << 20


class Shard(Strict):
    """One record file: its name, number of examples, bytes and SHA-256 checksum."""

    name: str
    num_examples: int
    num_bytes: int
    sha256: str


class Manifest(Strict):
    """A whole data set of records.

    Attributes:
        format_version: Version of this file's form and of the records' encoding.
        dataset: The recipe's name.
        records_hash: The recipe's hash with the source's identity.
        features: Schema of one example.
        splits: The shards of each split, in order.
        class_counts: Number of examples of each class in each split.
        normalization: Measured on the training split where the recipe gives none, else None.
    """

    format_version: int = FORMAT_VERSION
    dataset: str
    records_hash: str
    features: Features
    splits: dict[str, tuple[Shard, ...]]
    class_counts: dict[str, tuple[int, ...]]
    normalization: Normalization | None = None

    def num_examples(self, split: str) -> int:
        """Number of examples in a split."""
        return sum(shard.num_examples for shard in self.splits[split])


def shard_name(dataset: str, split: str, index: int, count: int) -> str:
    """Such as "cifar10-train.tfrecord-00003-of-00008"."""
    return f"{dataset}-{split}.tfrecord-{index:05d}-of-{count:05d}"


def recommended_shards(num_examples: int, image: ImageFeature) -> int:
    """Number of shards for a recipe that is made for a data set: about 128 MiB each, 4 or more.

        shards = ceil(num_examples * record_bytes / 128 MiB), from 4 to 9,999

    So large files are read in turn, and a preparation that is killed loses little.

    Args:
        num_examples: Number of examples in the largest split.
        image: The recipe's image. Encoded ones are taken to have an eighth of their pixels' bytes,
            a photograph's usual JPEG.
    """
    record_bytes = math.prod(image.shape) // (8 if image.stored == "encoded" else 1)
    return min(9999, max(4, -(-num_examples * record_bytes // _SHARD_BYTES)))


def read_manifest(folder: Path) -> Manifest:
    """Reads a folder's manifest and checks that every shard is there with its exact size.

    Raises:
        DataError: There is no manifest, or it cannot be read.
        RecordError: A shard is absent or its size differs.
    """
    manifest = load_manifest(folder)
    for shards in manifest.splits.values():
        for shard in shards:
            _check_size(folder / shard.name, shard)
    return manifest


def load_manifest(folder: Path) -> Manifest:
    """Reads a folder's manifest alone.

    Raises:
        DataError: There is no manifest, or it cannot be read.
    """
    path = folder / FILE_NAME
    try:
        manifest = Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{folder} holds no records (no {FILE_NAME} in it).") from error
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read: {error}. Delete {folder} and prepare the data again."
        ) from error
    if manifest.format_version != FORMAT_VERSION:
        raise DataError(
            f"{path} has format version {manifest.format_version}; this tfbatch reads "
            f"{FORMAT_VERSION}. Delete the folder {folder} and prepare the data again."
        )
    return manifest


def write_notes(folder: Path, notes: tuple[str, ...]) -> None:
    """Saves the notes for a user on how the data was read, beside its records."""
    if notes == read_notes(folder):
        return
    path = folder / NOTES_NAME
    with contextlib.suppress(OSError):  # records that others have written are read all the same
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(notes, indent=1), encoding="utf-8")
        partial.replace(path)


def read_notes(folder: Path) -> tuple[str, ...]:
    """The notes that `write_notes` has saved; empty if there is no such file."""
    try:
        return tuple(json.loads((folder / NOTES_NAME).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return ()


def sha256(path: Path) -> str:
    """The SHA-256 checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _check_size(path: Path, shard: Shard) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise RecordError(path, None, "the file is absent, the manifest lists it") from error
    if size != shard.num_bytes:
        raise RecordError(
            path, None, f"the file has {size} bytes, the manifest says {shard.num_bytes}"
        )
