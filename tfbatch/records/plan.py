"""Where every example of a stream goes, known before the first one is encoded.

A plan has one byte for each example: its split. So the lengths of all shards are known, every
record is written once and in its place, and a preparation that was killed knows where each shard
begins in the stream.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator, Set
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tfbatch.dataset_info.recipe import SPLITS, Recipe
from tfbatch.errors import DataError, InputError
from tfbatch.records.manifest import FORMAT_VERSION, sha256
from tfbatch.records.partial_folder import flush_to_disk
from tfbatch.schema import Strict

_BLOCK = 1 << 20
_CODES = {split: code for code, split in enumerate(SPLITS)}


class PlanError(DataError):
    """A stream that does not follow its plan: the source changes, so nothing can be continued."""


class ShardPlace(NamedTuple):
    """A shard of a split."""

    split: str
    shard: int


class _Header(Strict):
    """What a plan was made for, and the checksum of its bytes."""

    format_version: int = FORMAT_VERSION
    records_hash: str
    sha256: str


class Plan:
    """The shards of a data set and the order in which a stream fills them.

    Attributes:
        lengths: Number of examples of each shard.
        num_examples: Number of examples of the stream.

    Args:
        codes: uint8 [examples], the index of each example's split in `SPLITS`.
        shards: Number of shards of each split.
    """

    def __init__(self, codes: npt.NDArray[np.uint8], *, shards: int):
        self._codes = codes
        self._bounds: dict[str, list[int]] = {}
        self.num_examples = len(codes)
        self.lengths: dict[ShardPlace, int] = {}
        counts = _count(codes)
        for split, code in _CODES.items():
            bounds = shard_bounds(counts[code], shards)
            self._bounds[split] = bounds
            for shard, (low, high) in enumerate(itertools.pairwise(bounds)):
                self.lengths[ShardPlace(split, shard)] = high - low

    def num_examples_of(self, split: str) -> int:
        """Number of examples in a split."""
        return self._bounds[split][-1]

    def places(self, start: int = 0) -> Iterator[ShardPlace]:
        """The place of each example of the stream, from the example `start` on."""
        done = _count(self._codes[:start])
        shards = [
            bisect.bisect_right(self._bounds[split], done[code]) - 1
            for split, code in _CODES.items()
        ]
        places = [ShardPlace(split, shards[code]) for split, code in _CODES.items()]
        ends = [self._bounds[split][shards[code] + 1 :] for split, code in _CODES.items()]
        for block in range(start, self.num_examples, _BLOCK):
            for code in self._codes[block : block + _BLOCK].tolist():
                while done[code] == ends[code][0]:  # also past empty shards
                    ends[code] = ends[code][1:]
                    places[code] = ShardPlace(places[code].split, places[code].shard + 1)
                done[code] += 1
                yield places[code]

    def first_example_outside(self, finished: Set[ShardPlace]) -> int:
        """Position in the stream of the first example that belongs to none of these places."""
        missing = [place for place, length in self.lengths.items() if length]
        firsts: dict[str, int] = {}
        for place in missing:
            if place not in finished:
                firsts.setdefault(place.split, place.shard)
        positions = (
            self._position(split, self._bounds[split][shard]) for split, shard in firsts.items()
        )
        return min(positions, default=self.num_examples)

    def _position(self, split: str, number: int) -> int:
        """Position in the stream of the example with this number in its split."""
        for block in range(0, self.num_examples, _BLOCK):
            found = np.flatnonzero(self._codes[block : block + _BLOCK] == _CODES[split])
            if number < len(found):
                return block + int(found[number])
            number -= len(found)
        return self.num_examples


def shard_bounds(num_examples: int, shards: int) -> list[int]:
    """Where each shard begins and the last one ends; sizes differ by at most one."""
    return [num_examples * index // shards for index in range(shards + 1)]


def make_plan(folder: Path, *, recipe: Recipe, records_hash: str, splits: Iterable[str]) -> Plan:
    """Writes a plan into a folder.

    Raises:
        InputError: A split is empty.
    """
    codes = iter(_CODES[split] for split in splits)
    with (folder / "plan.bin").open("wb") as file:
        while block := bytes(itertools.islice(codes, _BLOCK)):
            file.write(block)
    flush_to_disk(folder / "plan.bin")
    header = _Header(records_hash=records_hash, sha256=sha256(folder / "plan.bin"))
    (folder / "plan.json").write_text(header.model_dump_json(), encoding="utf-8")
    flush_to_disk(folder / "plan.json")
    plan = _open(folder, recipe)
    for split in SPLITS:
        if not plan.num_examples_of(split):
            raise InputError(
                f"The split `{split}` of {recipe.name} is empty: give data with examples in this "
                "split, or more training examples to take it from."
            )
    return plan


def read_plan(folder: Path, *, recipe: Recipe, records_hash: str) -> Plan | None:
    """A folder's plan, or None if there is none that is whole and made for these records."""
    return _open(folder, recipe) if is_planned(folder, records_hash=records_hash) else None


def is_planned(folder: Path, *, records_hash: str) -> bool:
    """Whether a folder has a whole plan that was made for these records."""
    try:
        header = _Header.model_validate_json((folder / "plan.json").read_text(encoding="utf-8"))
        return (
            header.format_version == FORMAT_VERSION
            and header.records_hash == records_hash
            and header.sha256 == sha256(folder / "plan.bin")
        )
    except (OSError, ValueError):
        return False


def _open(folder: Path, recipe: Recipe) -> Plan:
    path = folder / "plan.bin"
    empty = path.stat().st_size == 0  # which cannot be mapped
    codes = np.zeros(0, np.uint8) if empty else np.memmap(path, np.uint8, mode="r")
    return Plan(codes, shards=recipe.shards)


def _count(codes: npt.NDArray[np.uint8]) -> list[int]:
    """Number of examples of each split; in blocks, for `bincount` makes eight bytes of each."""
    counts = np.zeros(len(_CODES), np.int64)
    for block in range(0, len(codes), _BLOCK):
        counts += np.bincount(codes[block : block + _BLOCK], minlength=len(_CODES))
    return [int(count) for count in counts]
