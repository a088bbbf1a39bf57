"""Writes a data set's records: several threads encode, and a killed run is continued.

    .partial-HASH-TOKEN/plan.bin, plan.json     which example goes where (`plan`)
    .partial-HASH-TOKEN/sealed.jsonl            the shards that are finished (`shard_files`)
    .partial-HASH-TOKEN/records/                the shards, at last the manifest: then renamed

Records are written in the order of the stream, whatever the number of threads, so the bytes are the
same too.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from tfbatch.dataset_info.recipe import SPLITS, Example, Recipe
from tfbatch.encoded_images import MOST_NAMES, listed
from tfbatch.errors import DataError, InputError, RunFolderError
from tfbatch.records.manifest import FILE_NAME, Manifest, load_manifest, read_manifest
from tfbatch.records.partial_folder import (
    check_place,
    flush_to_disk,
    partial_folder,
    remove_leftovers,
    rename_into_place,
)
from tfbatch.records.pixel_statistics import measure_normalization
from tfbatch.records.plan import PlanError, ShardPlace, is_planned, make_plan, read_plan
from tfbatch.records.shard_files import (
    FinishedShard,
    UnreadableImagesError,
    append_finished,
    cut_torn_line,
    read_finished,
    write_shards,
)

LIST_NAME = "unreadable-images.txt"
"""Beside the records: the images of the last preparation that could not be decoded, if many."""

Assigned = Callable[[], Iterable[tuple[str, str, Example]]]
"""Yields (split, key, example) in the order of the records, the same at each call."""


@dataclass(frozen=True)
class ExampleStream:
    """The examples of a data set in the order of its records, readable from any of them on.

    Attributes:
        splits: Yields the split of each example.
        examples: Called with a number; yields (key, example) without that many first ones.
    """

    splits: Callable[[], Iterable[str]]
    examples: Callable[[int], Iterable[tuple[str, Example]]]


def write_records(
    folder: Path, *, recipe: Recipe, examples: ExampleStream | Assigned, workers: int = 1
) -> None:
    """Writes the records of a recipe, unless they are there already.

    The files are written into a temporary folder beside the final one, which is renamed into place
    when everything in it is on disk: a killed run leaves nothing that looks whole, and of two runs
    at once the first to finish wins, with the same bytes. The shards that a killed run had finished
    are kept by the next one if their checksums agree; nothing of them is encoded again.

    Memory does not grow with the data, but for one byte of an example on disk.

    Args:
        folder: The final folder; its name is the records' hash.
        recipe: The data set.
        examples: The examples; read twice where it is a function, first for their splits.
        workers: Threads that encode and take checksums. With 1 the calling thread does all.

    Raises:
        InputError: An empty split, a label outside the classes, a wrong image shape, or `workers`.
        DataError: The records are there already, with a manifest that cannot be read; or the
            stream has another length when it is read again; or images cannot be decoded, all of
            which are named.
        RunFolderError: The folder cannot be written.
    """
    if workers < 1:
        raise InputError(f"`workers` must be >= 1. Received: {workers}.")
    if (folder / FILE_NAME).exists():
        load_manifest(folder)
        with contextlib.suppress(OSError):  # of a run that was killed after another had finished
            remove_leftovers(folder)
        return
    stream = examples if isinstance(examples, ExampleStream) else _stream_of(examples)
    try:
        check_place(folder, proof=FILE_NAME)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with partial_folder(
            folder,
            progress=lambda partial: _progress(partial, folder.name),
            hopeless=(InputError, PlanError, UnreadableImagesError),
        ) as partial:
            built = partial / "records"
            _write_all(recipe, partial, built, folder.name, stream, workers)
            rename_into_place(built, folder, proof=FILE_NAME)
    except UnreadableImagesError as error:
        raise _damage(error, folder.parent / LIST_NAME) from error
    except (OSError, tf.errors.OpError) as error:
        raise RunFolderError(
            f"The records folder {folder.parent} cannot be written: {error}. The same command "
            "continues where it stopped; or choose another folder with --records_dir=DIR or "
            f"TFBATCH_RECORDS_DIR, and delete {folder.parent}/.partial-*."
        ) from error
    read_manifest(folder)


def _damage(error: UnreadableImagesError, path: Path) -> DataError:
    """Names the images that cannot be decoded; where they are many, all of them in a file."""
    if len(error.images) == 1:
        return error.images[0]
    each = [f"{image.name} ({image.reason})" for image in error.images]
    where = ""
    if len(each) > MOST_NAMES:
        with contextlib.suppress(OSError):  # of a list that cannot be written the start is named
            names = "".join(f"{image.name}\n" for image in error.images)
            path.write_bytes(names.encode("utf-8", "surrogateescape"))
            where = f" All of them are listed in {path}."
    return DataError(
        f"{len(each):,} of {error.examined:,} images cannot be decoded: {listed(each)}. Replace "
        f"them or remove them from the data.{where}"
    )


def _stream_of(assigned: Assigned) -> ExampleStream:
    return ExampleStream(
        splits=lambda: (split for split, _, _ in assigned()),
        examples=lambda start: (
            (key, example) for _, key, example in itertools.islice(assigned(), start, None)
        ),
    )


def _progress(partial: Path, records_hash: str) -> int:
    """How much of a partial folder can be continued: its plan, and each finished shard."""
    if not is_planned(partial, records_hash=records_hash):
        return 0
    return 1 + len(read_finished(partial))


def _write_all(
    recipe: Recipe,
    partial: Path,
    built: Path,
    records_hash: str,
    stream: ExampleStream,
    workers: int,
) -> None:
    """Writes what is not finished, then the manifest."""
    built.mkdir(exist_ok=True)
    cut_torn_line(partial)
    plan = read_plan(partial, recipe=recipe, records_hash=records_hash) or make_plan(
        partial, recipe=recipe, records_hash=records_hash, splits=stream.splits()
    )
    shards = write_shards(
        built,
        recipe=recipe,
        plan=plan,
        examples=stream.examples,
        finished=read_finished(partial),
        announce=lambda done: append_finished(partial, done),
        workers=workers,
    )
    manifest = _manifest(recipe, records_hash, shards, built)
    path = built / FILE_NAME
    path.write_text(manifest.model_dump_json(indent=1, by_alias=True), encoding="utf-8")
    flush_to_disk(path)
    flush_to_disk(built)


def _manifest(
    recipe: Recipe, records_hash: str, shards: dict[ShardPlace, FinishedShard], folder: Path
) -> Manifest:
    of = {s: [shards[ShardPlace(s, i)] for i in range(recipe.shards)] for s in sorted(SPLITS)}
    measured = None
    if recipe.normalization is None:
        files = [folder / done.shard.name for done in of["train"]]
        measured = measure_normalization(files, recipe.features)
    return Manifest(
        dataset=recipe.name,
        records_hash=records_hash,
        features=recipe.features,
        splits={split: tuple(done.shard for done in found) for split, found in of.items()},
        class_counts={
            split: tuple(map(sum, zip(*(done.class_counts for done in found), strict=True)))
            for split, found in of.items()
        },
        normalization=measured,
    )
