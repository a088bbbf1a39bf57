"""From a recipe to a folder of records: source, stratified splits, writer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs
import tensorflow as tf

from tfbatch.errors import DataError
from tfbatch.pipeline.augmentation import make_augment
from tfbatch.recipes import Example, Recipe
from tfbatch.records.manifest import FILE_NAME
from tfbatch.records.splitting import StratifiedAssignment
from tfbatch.records.writer import write_records
from tfbatch.sources import SourceBase, make_source

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
) -> tuple[Path, bool]:
    """Writes the records of a recipe, unless they are there already.

    Args:
        recipe: The data set.
        data_dir: The source's data folder, or None for its default.
        records_dir: Folder of all record folders, or None for `default_records_root()`.
        progress: Told how far the writing is.

    Returns:
        The folder with the records and their manifest, and whether it had to be written.

    Raises:
        InputError: An empty split, a label outside the classes, a wrong image shape.
        DataError: The source's data is absent and cannot be fetched.
        RecordError: The records are there already but damaged.
        RunFolderError: The folder cannot be written.
    """
    make_augment(recipe)  # a wrong name or parameter is refused before any work
    source = make_source(recipe.source.name, **recipe.source.arguments)
    root = (records_dir or default_records_root()).expanduser().resolve()
    folder = root / recipe.name / recipe.records_hash(source.identity(data_dir))
    absent = not (folder / FILE_NAME).exists()
    write_records(folder, recipe=recipe, examples=lambda: _assigned(recipe, data_dir, progress))
    return folder, absent


def _assigned(
    recipe: Recipe, data_dir: Path | None, progress: Progress | None
) -> Iterator[tuple[str, str, Example]]:
    """Yields (split, key, example) for every example of the source's splits in use."""
    source = make_source(recipe.source.name, **recipe.source.arguments)
    for split, origin in recipe.splits:
        if not isinstance(origin, str):
            continue  # carved out of train below
        total = source.num_examples(origin, data_dir)
        carved = recipe.splits.carved if split == "train" else {}
        assignment = StratifiedAssignment(carved, rest=split)
        for done, (key, example) in enumerate(_read(source, origin, data_dir), start=1):
            yield assignment.assign(example["label"]), key, example
            if progress and (done % 1000 == 0 or done == total):
                progress(origin, done, total)


def _read(source: SourceBase, split: str, data_dir: Path | None) -> Iterator[tuple[str, Example]]:
    """A source's examples; what goes wrong in reading them is not the records folder's fault."""
    try:
        yield from source.examples(split, data_dir)
    except (OSError, tf.errors.OpError) as error:
        raise DataError(f"The source's split `{split}` cannot be read: {error}") from error
