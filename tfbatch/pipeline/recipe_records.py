"""From a recipe to a folder of records: source, stratified splits, writer."""

from __future__ import annotations

import collections
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import platformdirs
import tensorflow as tf

from tfbatch.dataset_info.recipe import Example, Recipe
from tfbatch.errors import DataError
from tfbatch.pipeline.augmentation import make_augment
from tfbatch.pipeline.streams import parallel_calls
from tfbatch.records.manifest import FILE_NAME, write_notes
from tfbatch.records.stratified_split import StratifiedAssignment
from tfbatch.records.writer import ExampleStream, write_records
from tfbatch.sources import SourceBase, make_source

Item = TypeVar("Item")
_FEW = 5
"""Examples that a class gives to a split, on average, from which on a remainder does not matter."""
Progress = Callable[[str, int, int], None]
"""Called with (split of the source, examples done, examples in all)."""


def default_records_root() -> Path:
    """TFBATCH_RECORDS_DIR, or the user's cache folder for tfbatch."""
    asked = os.environ.get("TFBATCH_RECORDS_DIR")
    return (
        Path(asked).expanduser() if asked else platformdirs.user_cache_path("tfbatch") / "records"
    )


def prepare_records(
    recipe: Recipe,
    *,
    data_dir: Path | None = None,
    records_dir: Path | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
) -> tuple[Path, bool]:
    """Writes the records of a recipe, unless they are there already.

    A preparation that was killed is continued by the next one: what it had finished is kept.

    Args:
        recipe: The data set.
        data_dir: The source's data folder, or None for its default.
        records_dir: Folder of all record folders, or None for `default_records_root()`.
        progress: Told how far the writing is.
        workers: Threads that encode, or None for one for each core. The bytes are the same.

    Returns:
        The folder with the records and their manifest, and whether it had to be written.

    Raises:
        InputError: An empty split, a label outside the classes, a wrong image shape, or `workers`
            below 1.
        DataError: The source's data is absent and cannot be fetched.
        RecordError: The records are there already but damaged.
        RunFolderError: The folder cannot be written.
    """
    make_augment(recipe)  # a wrong name or parameter is refused before any work
    source = make_source(recipe.source.name, **recipe.source.arguments)
    root = (records_dir or default_records_root()).expanduser().resolve()
    folder = root / recipe.name / recipe.records_hash(source.identity(data_dir))
    absent = not (folder / FILE_NAME).exists()
    reading = _Reading(recipe, source, data_dir, progress or _untold)
    write_records(
        folder,
        recipe=recipe,
        examples=ExampleStream(splits=reading.splits, examples=reading.examples),
        workers=parallel_calls() if workers is None else workers,
    )
    write_notes(folder, source.notes(data_dir))
    return folder, absent


class _Reading:
    """The source's splits in use, one after the other."""

    def __init__(
        self, recipe: Recipe, source: SourceBase, data_dir: Path | None, progress: Progress
    ):
        self._recipe = recipe
        self._source = source
        self._data_dir = data_dir
        self._progress = progress

    def splits(self) -> Iterator[str]:
        """Yields the split of each example; only where some are carved are the classes read."""
        for split, origin, total in self._origins():
            carved = self._recipe.splits.carved if split == "train" else {}
            if not carved:
                yield from itertools.repeat(split, total)
                continue
            labels: Iterable[int] = self._told(
                self._source.labels(origin, self._data_dir),
                *(f"classes of {origin}", 0, total),
                split=origin,
            )
            counts = None
            a_class = total / self._recipe.features.label.num_classes
            if a_class < _FEW / min(carved.values()):
                labels = list(labels)  # only then does rounding down cost a split a fifth
                counts = collections.Counter(labels)
            assignment = StratifiedAssignment(carved, rest=split, counts=counts)
            for label in labels:
                yield assignment.assign(label)

    def examples(self, start: int) -> Iterator[tuple[str, Example]]:
        """Yields (key, example) without the first `start` of all splits."""
        for _, origin, total in self._origins():
            left_out = min(start, total)
            start -= left_out
            if left_out < total:
                examples = self._source.examples_from(left_out, origin, self._data_dir)
                yield from self._told(examples, origin, left_out, total, split=origin)

    def _origins(self) -> Iterator[tuple[str, str, int]]:
        """(split, the source's split, its number of examples) but for the carved ones."""
        for split, origin in self._recipe.splits:
            if isinstance(origin, str):
                yield split, origin, self._source.num_examples(origin, self._data_dir)

    def _told(
        self, items: Iterator[Item], what: str, start: int, total: int, *, split: str
    ) -> Iterator[Item]:
        for done, item in enumerate(_read(items, split), start=start + 1):
            yield item
            if done % 1000 == 0 or done == total:
                self._progress(what, done, total)


def _read(items: Iterator[Item], split: str) -> Iterator[Item]:
    """What a source gives; what goes wrong in reading it is not the records folder's fault."""
    try:
        yield from items
    except (OSError, tf.errors.OpError) as error:
        raise DataError(f"The source's split `{split}` cannot be read: {error}") from error


def _untold(split: str, done: int, total: int) -> None:
    """The `Progress` that tells nobody."""
