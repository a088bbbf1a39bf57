"""Writes a data set's records: into a folder of its own, renamed into place when it is whole."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import filelock
import tensorflow as tf

from tfbatch.errors import InputError, RunFolderError
from tfbatch.recipes import SPLITS, Example, Recipe
from tfbatch.records.manifest import (
    FILE_NAME,
    Manifest,
    Shard,
    load_manifest,
    read_manifest,
    sha256,
    shard_lengths,
    shard_name,
)
from tfbatch.records.measured import measure_normalization
from tfbatch.records.parallel import encode_all


def write_records(
    folder: Path, *, recipe: Recipe, examples: Callable[[], Iterable[tuple[str, str, Example]]]
) -> None:
    """Writes the records of a recipe, unless they are there already.

    The files are written into a temporary folder beside the final one, which is renamed into place
    when everything in it is on disk: a killed run leaves nothing that looks whole, and of two runs
    at once the first to finish wins, with the same bytes.

    Args:
        folder: The final folder; its name is the records' hash.
        recipe: The data set.
        examples: Called once; yields `(split, key, example)` in the order of the records.

    Raises:
        InputError: An empty split, a label outside the classes, a wrong image shape.
        DataError: The records are there already, with a manifest that cannot be read.
        RunFolderError: The folder cannot be written.
    """
    if (folder / FILE_NAME).exists():
        load_manifest(folder)
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        with _partial_folder(folder) as partial:
            manifest = _write_all(recipe, partial, folder.name, examples())
            _write_durably(partial / FILE_NAME, manifest.model_dump_json(indent=1, by_alias=True))
            with contextlib.suppress(FileExistsError):
                _rename_into_place(partial, folder)
    except (OSError, tf.errors.OpError) as error:
        raise RunFolderError(
            f"The records folder {folder.parent} cannot be written: {error}. "
            "Choose another one with --records_dir=DIR or TFBATCH_RECORDS_DIR."
        ) from error
    read_manifest(folder)


def _write_all(
    recipe: Recipe, partial: Path, name: str, examples: Iterable[tuple[str, str, Example]]
) -> Manifest:
    classes = recipe.features.label.num_classes
    spools: dict[str, _Spool] = {}
    for split, label, record in encode_all(examples, recipe.features):
        if split not in spools:
            spools[split] = _Spool(partial / f"{split}.spool", classes)
        spools[split].write(record, label)
    for split in SPLITS:
        if split not in spools:
            raise InputError(
                f"The split `{split}` of {recipe.name} is empty: the source has too few examples "
                "of each class for the recipe's `splits`. Enlarge its fraction."
            )
    measured = None
    if recipe.normalization is None:
        spools["train"].close()
        measured = measure_normalization(spools["train"].path, recipe.features)
    return Manifest(
        dataset=recipe.name,
        records_hash=name,
        features=recipe.features,
        splits={s: _deal(spool, recipe, s) for s, spool in sorted(spools.items())},
        class_counts={s: tuple(spool.class_counts) for s, spool in sorted(spools.items())},
        normalization=measured,
    )


class _Spool:
    """One split in one file, before its length and so its shards are known."""

    def __init__(self, path: Path, num_classes: int):
        self.path = path
        self.class_counts = [0] * num_classes
        self._writer = tf.io.TFRecordWriter(str(path))

    def write(self, record: bytes, label: int) -> None:
        self._writer.write(record)
        self.class_counts[label] += 1

    def close(self) -> None:
        self._writer.close()


def _deal(spool: _Spool, recipe: Recipe, split: str) -> tuple[Shard, ...]:
    """Deals a spool out into shards of even size."""
    spool.close()
    lengths = shard_lengths(sum(spool.class_counts), recipe.shards)
    records = iter(tf.data.TFRecordDataset(str(spool.path)).as_numpy_iterator())
    shards = []
    for index, length in enumerate(lengths):
        path = spool.path.parent / shard_name(recipe.name, split, index, recipe.shards)
        with tf.io.TFRecordWriter(str(path)) as writer:
            for _ in range(length):
                writer.write(next(records))
        _flush_to_disk(path)
        shards.append(
            Shard(
                name=path.name,
                num_examples=length,
                num_bytes=path.stat().st_size,
                sha256=sha256(path),
            )
        )
    spool.path.unlink()
    return tuple(shards)


@contextlib.contextmanager
def _partial_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, whose lock lives exactly as long as this process."""
    partial = folder.parent / f".partial-{folder.name}-{secrets.token_hex(4)}"
    lock = filelock.FileLock(f"{partial}.lock")
    with lock:  # before there is a folder: one without a held lock is a leftover
        try:
            partial.mkdir()
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            Path(lock.lock_file).unlink(missing_ok=True)


def _remove_leftovers(folder: Path) -> None:
    """Removes the temporary folders of killed runs: those whose lock nobody holds."""
    for partial in folder.parent.glob(".partial-*"):
        if not partial.is_dir():
            continue
        lock = filelock.FileLock(f"{partial}.lock", timeout=0)
        with contextlib.suppress(filelock.Timeout), lock:
            shutil.rmtree(partial, ignore_errors=True)
            Path(lock.lock_file).unlink(missing_ok=True)


def _rename_into_place(partial: Path, folder: Path) -> None:
    try:
        partial.rename(folder)
    except OSError:
        if (folder / FILE_NAME).exists():  # another run was first, with the same bytes
            raise FileExistsError(folder) from None
        if folder.exists():
            raise RunFolderError(
                f"{folder} is in the way: it holds no {FILE_NAME}, so it is not ours. Delete it."
            ) from None
        raise
    _flush_to_disk(folder.parent)


def _write_durably(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    _flush_to_disk(path)


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
