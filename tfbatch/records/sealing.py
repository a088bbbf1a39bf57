"""Which shards of an unfinished data set are finished: a line for each, after it is on disk."""

from __future__ import annotations

import os
from pathlib import Path

from tfbatch.records.manifest import Shard, sha256
from tfbatch.records.partial_folder import flush_to_disk
from tfbatch.records.plan import Place
from tfbatch.schema import Strict

_FILE_NAME = "sealed.jsonl"


class Seal(Strict):
    """A finished shard: its place, what the manifest will say of it, and its classes.

    Attributes:
        split: Name of the split.
        index: Number of the shard in the split.
        shard: The manifest's entry.
        class_counts: Number of examples of each class.
    """

    split: str
    index: int
    shard: Shard
    class_counts: tuple[int, ...]

    @property
    def place(self) -> Place:
        """Split and number of the shard."""
        return Place(self.split, self.index)


def seal_shard(path: Path, *, place: Place, class_counts: tuple[int, ...]) -> Seal:
    """Flushes a finished file to disk and takes its checksum. Most of it runs without the GIL."""
    flush_to_disk(path)
    shard = Shard(
        name=path.name,
        num_examples=sum(class_counts),
        num_bytes=path.stat().st_size,
        sha256=sha256(path),
    )
    return Seal(split=place.split, index=place.shard, shard=shard, class_counts=class_counts)


def is_whole(path: Path, seal: Seal) -> bool:
    """Whether a file still is what was sealed; reads it."""
    try:
        return path.stat().st_size == seal.shard.num_bytes and sha256(path) == seal.shard.sha256
    except OSError:
        return False


def read_seals(folder: Path) -> list[Seal]:
    """The finished shards of a folder; of two lines for one shard the later one counts."""
    seals = {seal.place: seal for seal in _read(folder)[0]}
    return list(seals.values())


def append_seal(folder: Path, seal: Seal) -> None:
    """Notes a finished shard, on disk before this returns."""
    with (folder / _FILE_NAME).open("ab") as file:
        file.write(seal.model_dump_json().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def cut_torn_line(folder: Path) -> None:
    """Cuts off what a killed process has left behind the last whole line."""
    path = folder / _FILE_NAME
    path.touch()
    os.truncate(path, _read(folder)[1])


def _read(folder: Path) -> tuple[list[Seal], int]:
    """The seals before the first line that cannot be read, and the bytes that they take."""
    seals, size = [], 0
    try:
        lines = (folder / _FILE_NAME).read_bytes().splitlines(keepends=True)
    except OSError:
        return [], 0
    for line in lines:
        try:
            if not line.endswith(b"\n"):
                break
            seals.append(Seal.model_validate_json(line))
        except ValueError:
            break
        size += len(line)
    return seals, size
