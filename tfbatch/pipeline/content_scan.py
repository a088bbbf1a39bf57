"""Looks at a user's examples as they pass by: non-finite values, targets, scales, content hashes.

A hash is 64 bits of an example's bytes (Python's SipHash, which differs from process to process).
Splits and passes are compared as sets of hashes, so the order does not matter.
"""

from __future__ import annotations

import collections
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfbatch.dataset_info.content import (
    DataContent,
    InputScale,
    NonFinite,
    Part,
    TargetContent,
    changed_is_told,
    copies_note,
    equal_inputs_note,
    frozen_note,
    moved_note,
    overlap_is_excessive,
    overlap_note,
    random_scores_note,
)
from tfbatch.errors import InputError
from tfbatch.pipeline.array_files import Stored, read_leaf
from tfbatch.pipeline.classes import MOST_CLASSES
from tfbatch.pipeline.elements import Chunk, Template, leaf_paths
from tfbatch.pipeline.examples_digest import row_as_bytes, rows_as_bytes

Hashes = npt.NDArray[np.uint64]

_MOST_HASHED = 4_000_000
"""Examples of a split: 64 MB of hashes. Beyond it nothing is said of repetition."""
_SECOND_PASS_EXAMPLES = 10_000
_SECOND_PASS_BYTES = 64 * 2**20
_SECOND_PASS_SECONDS = 5.0
_SCALE_ROWS = 16
_SCALE_VALUES = 4096
_MOSTLY = 0.5
_COLUMNS = 16
_COLUMN_EXAMPLES = 10_000
"""Columns and examples of an array of inputs whose different values are counted."""
_LEAST_MOVED = 0.01
_ROUNDED = 1e-3
"""How far the sum of soft labels may be from 1."""
_NAMES: dict[Part, tuple[str, str]] = {
    "inputs": ("inputs", "input"),
    "targets": ("targets", "target"),
    "sample_weight": ("sample weights", "sample weight"),
}
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)


class Contents:
    """Looks at all splits of one data set."""

    def __init__(self) -> None:
        self._scans: dict[str, Scan] = {}
        self._paddings: dict[int, bytes] = {}

    def begin(self, split: str, template: list[Template], *, dropped: int = 0) -> Scan:
        """Begins a look at a split.

        Args:
            split: Its name.
            template: The structure of an element; see tfbatch.pipeline.elements.
            dropped: Most examples that a Dataset may have dropped at its end.
        """
        scan = Scan(split, template, dropped=dropped, paddings=self._paddings)
        self._scans[split] = scan
        return scan

    def found(
        self,
        again: Mapping[str, Callable[[], Iterable[Chunk]]],
        *,
        carved: bool = False,
        function: str | None = None,
    ) -> DataContent:
        """What all splits hold, and how their examples repeat.

        Args:
            again: Begins a second pass over a split, where it may differ from the first; only some
                examples of it are read.
            carved: Whether a validation split is taken out of these training examples.
            function: Name of the function that makes the data for each training; None where
                one pass over the data is stored.

        Raises:
            InputError: A sample weight is NaN, infinite or negative, or all of a split's are zero.
        """
        scans = self._scans
        non_finite = tuple(found for scan in scans.values() for found in scan.non_finite())
        for found in non_finite:
            if found.part == "sample_weight":
                raise InputError(
                    f"{found} A weighted loss would be NaN. Give a weight of 0 to an example that "
                    "must not count."
                )
        for scan in scans.values():
            scan.check_sample_weights()
        return DataContent(
            non_finite=non_finite,
            targets={split: scan.targets() for split, scan in scans.items()},
            scales=scans["train"].scales(),
            sample_weights=scans["train"].has_sample_weights,
            notes=tuple(_repetition(scans, again, carved=carved, function=function)),
        )


class Scan:
    """One look at one split, chunk by chunk; see `Contents.begin`.

    Attributes:
        count: Examples so far.
        dropped: Most examples that a Dataset may have dropped at its end.
        has_sample_weights: Whether examples have weights.
    """

    def __init__(
        self, split: str, template: list[Template], *, dropped: int, paddings: dict[int, bytes]
    ):
        self.count = 0
        self.dropped = dropped
        self._split = split
        self._leaves = [
            _Leaf(split, part, name, key, number, paddings)
            for number, (part, name, key) in enumerate(_named_leaves(template))
        ]
        self.has_sample_weights = any(leaf.part == "sample_weight" for leaf in self._leaves)
        self._inputs: list[Hashes] = []
        self._examples: list[Hashes] = []

    def watch(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """The same chunks, each looked at on its way."""
        for chunk in chunks:
            self.add(chunk)
            yield chunk

    def add(self, chunk: Chunk) -> None:
        """Looks at one chunk."""
        for leaf, rows in zip(self._leaves, chunk, strict=True):
            leaf.add(rows, self.count)
        if self.count <= _MOST_HASHED:
            inputs, examples = self.hashes(chunk)
            self._inputs.append(inputs)
            self._examples.append(examples)
        self.count += len(chunk[0])

    def hashes(self, chunk: Chunk) -> tuple[Hashes, Hashes]:
        """Hashes of the inputs alone, and of whole examples: uint64 [examples] each."""
        inputs = examples = np.zeros(len(chunk[0]), np.uint64)
        for leaf, rows in zip(self._leaves, chunk, strict=True):
            found = leaf.hashes(rows)
            examples = _mixed(examples, found)
            if leaf.part == "inputs":
                inputs = _mixed(inputs, found)
        return inputs, examples

    @property
    def is_complete(self) -> bool:
        """Whether every example was hashed."""
        return self.count <= _MOST_HASHED

    def distinct_inputs(self) -> tuple[Hashes, float]:
        """Every hash of inputs once, sorted, and the share of examples that equal another."""
        found = np.sort(np.concatenate(self._inputs))
        as_before = np.concatenate([[False], found[1:] == found[:-1]])
        alone = ~as_before & ~np.concatenate([as_before[1:], [False]])
        return found[~as_before], 1 - float(alone.mean())

    def all_inputs(self) -> Hashes:
        """A hash of each example's inputs."""
        return np.concatenate(self._inputs)

    def all_examples(self) -> Hashes:
        """A hash of each example."""
        return np.concatenate(self._examples)

    def non_finite(self) -> tuple[NonFinite, ...]:
        """The NaN and infinite values, for each leaf that has some."""
        return tuple(leaf.non_finite for leaf in self._leaves if leaf.non_finite)

    def check_sample_weights(self) -> None:
        """Refuses negative weights, and a split in which no example counts.

        Raises:
            InputError: There are such.
        """
        leaves = [leaf for leaf in self._leaves if leaf.part == "sample_weight"]
        for leaf in leaves:
            leaf.weights.check(f"Your `{self._split}` data: {leaf.name}")
        if leaves and all(leaf.weights.are_zero for leaf in leaves):
            raise InputError(
                f"Your `{self._split}` data: all sample weights are 0: no example counts, and the "
                "loss is 0 for every model. Give weights above 0, or leave them out."
            )

    def most_values(self) -> int:
        """The number of different values of the input column that has the most."""
        return max(
            (leaf.most_values() for leaf in self._leaves if leaf.part == "inputs"), default=0
        )

    def targets(self) -> tuple[TargetContent, ...]:
        """What the targets are."""
        return tuple(leaf.target() for leaf in self._leaves if leaf.part == "targets")

    def scales(self) -> tuple[InputScale, ...]:
        """The scales of numeric inputs."""
        return tuple(scale for leaf in self._leaves if (scale := leaf.scale()))


def in_carved_splits(content: DataContent, folder: Path, stored: Stored) -> DataContent:
    """The same content with the targets of the splits that the training examples were divided into.

    Args:
        content: What was found before the validation split was taken.
        folder: The folder of the divided data.
        stored: Its description.
    """
    numbers = [
        n for n, (part, *_) in enumerate(_named_leaves(stored.template)) if part == "targets"
    ]
    targets = dict(content.targets)
    for split in ("train", "validation"):
        found = []
        for number, whole in zip(numbers, content.targets["train"], strict=True):
            target, leaf = _Target(whole.name, whole.key), stored.leaves[number]
            if whole.class_counts:
                values = read_leaf(folder, split, number, leaf, stored.splits[split])
                target.add(values, values, variable=False)
            found.append(whole.model_copy(update={"class_counts": target.content().class_counts}))
        targets[split] = tuple(found)
    return content.model_copy(update={"targets": targets})


def _repetition(
    scans: Mapping[str, Scan],
    again: Mapping[str, Callable[[], Iterable[Chunk]]],
    *,
    carved: bool,
    function: str | None,
) -> Iterator[str]:
    """A sentence for each way in which examples repeat, or do not, that a user should know."""
    if not all(scan.is_complete for scan in scans.values()):
        return
    train = scans["train"]
    distinct, repeats = train.distinct_inputs()
    if len(distinct) == 1 and train.count > 1:
        yield equal_inputs_note(train.count)
        return
    overlapping = set()
    for split, scan in scans.items():
        if split == "train":
            continue
        overlap = float(_are_among(scan.all_inputs(), distinct).mean())
        if overlap_is_excessive(
            overlap, repeats, num_examples=scan.count, num_training=train.count
        ):
            overlapping.add(split)
            yield overlap_note(split, overlap=overlap, repeats=repeats, num_examples=scan.count)
    if carved and repeats > _MOSTLY and _are_copies(train):
        yield copies_note(repeats)
    known = {split: np.sort(scan.all_examples()) for split, scan in scans.items()}
    for split, second in again.items():
        scan = scans[split]
        found = _second_pass(scan, second)
        if not len(found):
            continue
        changed = ~_are_among(found, known[split])
        for other in (name for name in scans if name != split):
            moved = changed & _are_among(found, known[other])
            changed &= ~moved
            if moved.mean() > _LEAST_MOVED and not overlapping & {split, other}:
                overlapping |= {split, other}
                yield moved_note(split, moved=float(moved.mean()), other=other)
        share = float(changed.mean())
        told = changed_is_told(
            share,
            dropped=scan.dropped,
            stored=scan.count,
            checked=len(found),
            overlapping=bool(overlapping),
        )
        if told and function is None:
            yield frozen_note(split, changed=share, stored=scan.count)
        elif told and split != "train":
            yield random_scores_note(split, changed=share, name=str(function))


def _are_copies(train: Scan) -> bool:
    """Whether examples repeat as copies do, and not as those of a few categories must.

    Where all inputs occur equally often, or a multiple of that, someone has repeated them. Else
    each column's number of different values tells: a table of categories has few.
    """
    _, counts = np.unique(train.all_inputs(), return_counts=True)
    return bool(np.gcd.reduce(counts) > 1) or train.most_values() > math.sqrt(train.count)


def _second_pass(scan: Scan, second: Callable[[], Iterable[Chunk]]) -> Hashes:
    """Hashes of the first examples of a second pass: at least one chunk, then as many as is cheap.

    Nothing where the data cannot be read twice, such as a generator that is used up.
    """
    found: list[Hashes] = []
    examples = size = 0
    end = time.monotonic() + _SECOND_PASS_SECONDS
    try:
        for chunk in second():
            found.append(scan.hashes(chunk)[1])
            examples += len(chunk[0])
            size += sum(_bytes(rows) for rows in chunk)
            if (
                examples >= _SECOND_PASS_EXAMPLES
                or size >= _SECOND_PASS_BYTES
                or time.monotonic() > end
            ):
                break
    except tf.errors.OpError:
        return np.zeros(0, np.uint64)
    return np.concatenate(found) if found else np.zeros(0, np.uint64)


def _are_among(found: Hashes, known: Hashes) -> npt.NDArray[np.bool_]:
    """Whether each hash is one of the sorted `known`.

    np.isin and np.unique build a hash table and take several times as long.
    """
    places = np.minimum(np.searchsorted(known, found), len(known) - 1)
    among: npt.NDArray[np.bool_] = known[places] == found
    return among


def _bytes(rows: Any) -> int:
    return sum(row.nbytes for row in rows) if isinstance(rows, list) else int(rows.nbytes)


def _mixed(total: Hashes, more: Hashes) -> Hashes:
    """Combines two columns of hashes; the order counts. The finalizer is that of SplitMix64."""
    total = total * _GAMMA + more
    for shift, factor in _ROUNDS:
        total = (total ^ (total >> shift)) * factor
    return total ^ (total >> np.uint64(31))


def _named_leaves(template: Any) -> Iterator[tuple[Part, str, str]]:
    """What each leaf is, what it is called, and its key, in the order of the leaves."""
    for part, path in leaf_paths(template):
        plural, single = _NAMES[part]
        key = "/".join(map(str, path))
        yield part, f"{single} `{key}`" if path else plural, key


class _Leaf:
    """What is collected of one array."""

    def __init__(
        self, split: str, part: Part, name: str, key: str, number: int, paddings: dict[int, bytes]
    ):
        self.part = part
        self.name = name
        self.weights = _Weights()
        self.non_finite: NonFinite | None = None
        self._split = split
        self._columns: list[set[Any]] = []
        self._number = number
        self._paddings = paddings
        self._absolute: list[float] = []
        self._target = _Target(name, key)

    def add(self, rows: Any, before: int) -> None:
        """Looks at the rows of one chunk; `before` examples came earlier."""
        if self.part == "inputs" and before < _COLUMN_EXAMPLES:
            self._add_columns(rows)
        values, ends = _as_values(rows)
        if values.dtype.kind not in "biuf":
            return
        finite = values
        if values.dtype.kind == "f":
            good = np.isfinite(values)
            if not good.all():
                self._add_non_finite(~good, ends, before)
                finite = values[good]
        if self.part == "sample_weight":
            self.weights.add(values, ends, before)
        elif self.part == "targets":
            self._target.add(values, finite, variable=ends is not None)
        elif self.part == "inputs" and (values.dtype.kind == "f" or values.dtype == np.uint8):
            sample = finite[:_SCALE_ROWS] if ends is None else finite[:_SCALE_VALUES]
            if sample.size:
                self._absolute.append(float(np.abs(sample.astype(np.float64)).mean()))

    def _add_columns(self, rows: Any) -> None:
        """Collects the values of some columns; rows that differ in length are one value each."""
        if isinstance(rows, list):
            columns = [[np.asarray(row).tobytes() for row in rows]]
        else:
            flat = rows.reshape(len(rows), -1)
            width = flat.shape[1]
            chosen = range(0, width, -(-width // _COLUMNS)) if width else ()
            columns = [flat[:, column].tolist() for column in chosen]
        self._columns = self._columns or [set() for _ in columns]
        for found, column in zip(self._columns, columns, strict=False):
            found.update(column)

    def most_values(self) -> int:
        """The number of different values of the column that has the most, of those looked at."""
        return max(map(len, self._columns), default=0)

    def _add_non_finite(
        self, bad: npt.NDArray[np.bool_], ends: npt.NDArray[np.int64] | None, before: int
    ) -> None:
        places = np.argwhere(bad)
        owners = places[:, 0] if ends is None else np.searchsorted(ends, places[:, 0], "right")
        columns = set(map(int, np.unique(places[:, 1]))) if bad.ndim == 2 else set()
        first = tuple(map(int, places[0, 1:]))
        if ends is not None:  # in a row of its own length
            first = (int(places[0, 0] - (ends[owners[0] - 1] if owners[0] else 0)),)
        earlier = self.non_finite
        self.non_finite = NonFinite(
            part=self.part,
            name=self.name,
            split=self._split,
            values=len(places) + (earlier.values if earlier else 0),
            examples=len(np.unique(owners)) + (earlier.examples if earlier else 0),
            first_example=earlier.first_example if earlier else before + int(owners[0]),
            first_index=earlier.first_index if earlier else first,
            columns=tuple(sorted(columns | set(earlier.columns if earlier else ()))),
        )

    def target(self) -> TargetContent:
        """What the targets are."""
        return self._target.content()

    def scale(self) -> InputScale | None:
        """The scale of the inputs, if they are numbers and no indices."""
        if not self._absolute:
            return None
        return InputScale(name=self.name, mean_absolute=float(np.mean(self._absolute)))

    def hashes(self, rows: Any) -> Hashes:
        """A hash of each row; the padding that a batch has added is left out."""
        if isinstance(rows, list):
            arrays = [_as_stored(np.asarray(row)) for row in rows]
            if self._number not in self._paddings:
                ends = collections.Counter(row_as_bytes(row[-1:]) for row in arrays)
                self._paddings[self._number] = ends.most_common(1)[0][0]
            found: Iterator[bytes] = (row_as_bytes(self._unpadded(row)) for row in arrays)
        else:
            found = rows_as_bytes(_as_stored(rows))
        return np.fromiter(map(hash, found), np.int64, len(rows)).view(np.uint64)

    def _unpadded(self, row: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A row without the padding at its end, which depends on the batch that it was in.

        The padding is taken for the element that most rows of the first chunk end with: where rows
        are not padded, leaving it out does no harm, since it is left out of all splits and passes.
        """
        if not len(row) or row_as_bytes(row[-1:]) != self._paddings.get(self._number):
            return row
        different = (row != row[-1]).reshape(len(row), -1).any(axis=1)
        return row[: int(np.flatnonzero(different)[-1]) + 1 if different.any() else 0]


def _as_values(rows: Any) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64] | None]:
    """The values of a chunk, as they are stored; where rows differ in length also their ends."""
    if not isinstance(rows, list):
        return _as_stored(rows), None
    flat = [np.asarray(row).reshape(-1) for row in rows]
    return _as_stored(np.concatenate(flat)), np.cumsum([len(row) for row in flat])


def _as_stored(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Floating point in the precision that is trained with."""
    if values.dtype != np.float64:
        return values
    with np.errstate(over="ignore"):  # what becomes infinite is reported
        return values.astype(np.float32)


class _Weights:
    """Sample weights: the first negative one, and whether any is above zero."""

    def __init__(self) -> None:
        self._negative: tuple[int, float] | None = None
        self._positive = self._any = False

    def add(
        self, values: npt.NDArray[Any], ends: npt.NDArray[np.int64] | None, before: int
    ) -> None:
        self._any |= values.size > 0
        self._positive |= bool((values > 0).any())
        if self._negative is None and (values < 0).any():
            place = np.argwhere(values < 0)[0]
            row = place[0] if ends is None else np.searchsorted(ends, place[0], "right")
            self._negative = before + int(row), float(values[tuple(place)])

    @property
    def are_zero(self) -> bool:
        """Whether there are weights, and none counts."""
        return self._any and not self._positive

    def check(self, where: str) -> None:
        """Refuses a negative weight."""
        if self._negative is not None:
            example, weight = self._negative
            raise InputError(
                f"{where} must be at least 0: an example of negative weight would be unlearned. "
                f"Received: {weight:g} for example {example:,} (counted from 0). Give 0 to an "
                "example that must not count."
            )


class _Target:
    """Range and classes of one array of targets."""

    def __init__(self, name: str, key: str):
        self._name = name
        self._key = key
        self._shape: tuple[int | None, ...] | None = None
        self._range: tuple[float, float] | None = None
        self._whole = self._shares = True
        self._counts: npt.NDArray[np.int64] | None = np.zeros(0, np.int64)

    def add(self, values: npt.NDArray[Any], finite: npt.NDArray[Any], *, variable: bool) -> None:
        shape: tuple[int | None, ...] = (None,) if variable else values.shape[1:]
        if self._shape not in (None, shape):  # each batch is as long as its longest example
            shape, self._counts = _in_common(self._shape or (), shape), None
        self._shape = shape
        if not finite.size:
            return
        low, high = float(finite.min()), float(finite.max())
        before = self._range or (low, high)
        self._range = min(low, before[0]), max(high, before[1])
        self._whole &= values.dtype.kind != "f" or bool((finite == np.rint(finite)).all())
        self._shares = self._shares and not variable and _add_up_to_1(values)
        self._count(values, finite)

    def _count(self, values: npt.NDArray[Any], finite: npt.NDArray[Any]) -> None:
        if self._counts is None or self._range is None:
            return
        low, high = self._range
        counts = None
        if not self._whole or low < 0 or high > MOST_CLASSES or self._shape is None:
            pass
        elif self._shape in ((), (1,)):
            counts = np.bincount(finite.reshape(-1).astype(np.int64))
        elif None in self._shape:  # as many as there are steps: not one class for an example
            pass
        elif len(self._shape) == 1 and high <= 1 and bool((values.sum(axis=1) == 1).all()):
            counts = values.astype(bool).sum(axis=0)
        if counts is None:
            self._counts = None
            return
        total = np.zeros(max(len(counts), len(self._counts)), np.int64)
        total[: len(self._counts)] += self._counts
        total[: len(counts)] += counts
        self._counts = total

    def content(self) -> TargetContent:
        low, high = self._range or (None, None)
        return TargetContent(
            name=self._name,
            key=self._key,
            shape=self._shape or (),
            minimum=low,
            maximum=high,
            whole=self._whole and low is not None,
            class_counts=() if self._counts is None else tuple(map(int, self._counts)),
            shares=self._shares,
        )


def _in_common(
    one: tuple[int | None, ...], other: tuple[int | None, ...]
) -> tuple[int | None, ...]:
    if len(one) != len(other):
        return (None,)
    return tuple(a if a == b else None for a, b in zip(one, other, strict=True))


def _add_up_to_1(values: npt.NDArray[Any]) -> bool:
    """Whether the last axis holds the shares of classes; a part of a mask may be of no class."""
    if values.ndim < 2:
        return False
    with np.errstate(invalid="ignore"):
        sums = values.sum(axis=-1, dtype=np.float64)
    off = np.abs(sums - 1) > _ROUNDED  # not where a value is NaN
    return not (off & (sums != 0) if values.ndim > 2 else off).any()
