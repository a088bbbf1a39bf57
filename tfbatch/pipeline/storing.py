"""Writes a user's arrays or Dataset into a folder that every worker process maps into memory.

The folder's name is the hash of what it holds; tfbatch.pipeline.stored_format says what that is.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfbatch.data_content import DataContent
from tfbatch.errors import InputError, RunFolderError
from tfbatch.own_data import STORED, check_splits
from tfbatch.pipeline.batched import check_dataset, is_batched
from tfbatch.pipeline.carving import carve_validation
from tfbatch.pipeline.element import check_element, leaves_of, packed, template_of
from tfbatch.pipeline.leaf_writer import append_all
from tfbatch.pipeline.scanning import Contents, in_carved_splits
from tfbatch.pipeline.stored_format import CONTENT, MOST_CLASSES, Leaf, Stored, integer_targets
from tfbatch.run_folder.durable import FREE_SPACE

_CHUNK_EXAMPLES = 256


def store_data(root: Path, data: Any, *, heartbeat: Callable[[int], None] | None = None) -> Path:
    """Stores a user's data, and takes a validation split out of it where there is none.

    Args:
        root: Where the folder is made; its name there is the hash of what it holds.
        data: `(inputs, targets)` or `(inputs, targets, sample_weight)` of arrays with the examples
            along the first dimension (inputs may be a dict or a tuple of arrays), or a
            tf.data.Dataset; or a mapping of "train", "validation" and "test" to such.
        heartbeat: Told the number of examples now and then.

    Returns:
        The folder.

    Raises:
        InputError: The data cannot be used.
        RunFolderError: The folder cannot be written.
    """
    splits = data if _is_mapping_of_splits(data) else {"train": data}
    check_splits(dict(splits))
    partial = root / f".partial-{secrets.token_hex(4)}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        for leftover in root.glob(".partial-*"):  # of a killed process
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir()
        stored, content = _write(partial, splits, heartbeat or (lambda _: None))
        (partial / STORED).write_text(stored.model_dump_json(indent=1), encoding="utf-8")
        folder = root / _hash(partial)
        # Not in the hash: the same data is the same, however much of it a check has read.
        (partial / CONTENT).write_text(content.model_dump_json(indent=1), encoding="utf-8")
        if (folder / STORED).exists():
            (partial / CONTENT).replace(folder / CONTENT)
            return folder
        with contextlib.suppress(FileNotFoundError):  # one without a description is no data
            shutil.rmtree(folder)
        partial.rename(folder)
        return folder
    except OSError as error:
        raise RunFolderError(f"{root} cannot be written: {error}. {FREE_SPACE}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_mapping_of_splits(data: Any) -> bool:
    if isinstance(data, Mapping):
        return True
    if isinstance(data, tuple | tf.data.Dataset):
        return False
    raise InputError(
        "The data must be a data set's name, a function `make_dataset(split, batch_size, seed)`, "
        "arrays `(inputs, targets)`, a tf.data.Dataset, or a mapping of `train`, `validation` and "
        f"`test` to such. Received: {type(data).__name__}."
    )


def _write(
    partial: Path, splits: Mapping[str, Any], heartbeat: Callable[[int], None]
) -> tuple[Stored, DataContent]:
    contents = Contents()
    again: dict[str, Callable[[], Iterator[list[Any]]]] = {}
    written: dict[str, tuple[Any, tuple[Leaf, ...], int]] = {}
    notes: list[str] = []
    for split, data in splits.items():
        if data is None:
            continue
        where = f"Your `{split}` data"
        if isinstance(data, tf.data.Dataset):
            template, chunks = _chunks_of_dataset(data, where, notes)
            again[split] = functools.partial(_read_again, data, where)
        else:
            template, chunks = _chunks_of_arrays(data, where)
        chunks = contents.begin(split, template, dropped=_most_dropped(data)).watch(chunks)
        leaves, count = append_all(partial, split, chunks, heartbeat)
        if not count:
            raise InputError(f"{where} is empty.")
        written[split] = (template, leaves, count)
    template, leaves, _ = written["train"]
    for split, (other, other_leaves, _) in written.items():
        if (other, other_leaves) != (template, leaves):
            raise InputError(
                f"Your `{split}` data differs in form from `train`: {_form(other, other_leaves)} "
                f"and {_form(template, leaves)}. Give all splits alike."
            )
    stored = Stored(
        template=template,
        leaves=leaves,
        splits={split: count for split, (_, _, count) in written.items()},
        notes=tuple(dict.fromkeys(notes)),
    )
    carved = "validation" not in stored.splits
    content = contents.found(again, carved=carved)
    if carved:
        stored = carve_validation(partial, stored)
        content = in_carved_splits(content, partial, stored)
    return _with_classes(partial, stored), content


def _read_again(dataset: tf.data.Dataset, where: str) -> Iterator[list[Any]]:
    return _chunks_of_dataset(dataset, where, [])[1]


def _most_dropped(data: Any) -> int:
    """Examples that `batch(..., drop_remainder=True)` may have left out of one pass."""
    if not isinstance(data, tf.data.Dataset) or not is_batched(data):
        return 0
    sizes = [spec.shape[0] for spec in leaves_of(data.element_spec) if spec.shape.rank]
    return max(size - 1 for size in sizes) if sizes and None not in sizes else 0


def _chunks_of_arrays(data: Any, where: str) -> tuple[Any, Iterator[list[Any]]]:
    check_element(data, where=where)
    arrays = [_as_array(leaf, where) for leaf in leaves_of(data)]
    counts = {len(array) for array in arrays}
    if len(counts) > 1:
        raise InputError(
            f"{where} must have one example for each example: all arrays must have the same first "
            f"dimension. Received: {', '.join(str(len(array)) for array in arrays)}."
        )
    count = counts.pop()
    steps = range(0, count, _CHUNK_EXAMPLES)
    return template_of(data), ([a[low : low + _CHUNK_EXAMPLES] for a in arrays] for low in steps)


def _as_array(leaf: Any, where: str) -> Any:
    if isinstance(leaf, tf.RaggedTensor):
        return [row.numpy() for row in leaf]
    try:
        array = np.asarray(leaf)
    except ValueError as error:
        raise InputError(
            f"{where} holds a list of parts that differ in length. Give it as a tf.RaggedTensor, "
            "such as tf.ragged.constant(...), or as a tf.data.Dataset."
        ) from error
    if array.dtype == object and not all(isinstance(v, str | bytes) for v in array.ravel()[:1000]):
        raise InputError(
            f"{where} holds an array of Python objects, which TensorFlow has no type for. Give "
            "arrays of numbers or of text, such as a dict of a DataFrame's columns."
        )
    if array.dtype.kind in "mM":
        raise InputError(
            f"{where} holds dates or durations ({array.dtype}), which TensorFlow has no type for. "
            'Make numbers of them, such as (dates - dates.min()) / np.timedelta64(1, "D").'
        )
    if array.ndim == 0:
        raise InputError(f"{where} holds a single number where an array of examples must be.")
    return array


def _chunks_of_dataset(
    dataset: tf.data.Dataset, where: str, notes: list[str]
) -> tuple[Any, Iterator[list[Any]]]:
    check_element(check_dataset(dataset, where=where).element_spec, where=where)
    if is_batched(dataset):
        notes.append(
            "Your Dataset gives batches; they are taken apart and made anew for every batch size. "
            "What it does to whole batches (bucketing by length, mixing) stays as it was in its "
            "own batches; padding that it added stays too."
        )
    else:
        dataset = dataset.ragged_batch(_CHUNK_EXAMPLES)

    specs = leaves_of(dataset.element_spec)
    variable = [spec.shape.rank > 1 and spec.shape[1] is None for spec in specs]

    def chunks() -> Iterator[list[Any]]:
        for element in dataset.prefetch(2):
            yield [_rows(*pair) for pair in zip(leaves_of(element), variable, strict=True)]

    return template_of(dataset.element_spec), chunks()


def _rows(leaf: Any, variable: bool) -> Any:
    """A chunk of one leaf: an array, or a list of arrays that may differ in length."""
    if isinstance(leaf, tf.RaggedTensor):
        return [row.numpy() for row in leaf]
    return list(leaf.numpy()) if variable else leaf.numpy()


def _form(template: Any, leaves: Sequence[Leaf]) -> str:
    shown = [
        f"{leaf.dtype} {['...', *leaf.shape] if leaf.variable else leaf.shape}" for leaf in leaves
    ]
    return str(packed(template, shown)).replace("'", "")


def _with_classes(folder: Path, stored: Stored) -> Stored:
    targets = integer_targets(folder, stored, "train")
    if targets is None or targets.max() > MOST_CLASSES:
        return stored
    counts = np.bincount(targets)
    return stored.model_copy(
        update={"num_classes": max(len(counts), 2), "class_counts": tuple(map(int, counts))}
    )


def _hash(folder: Path) -> str:
    """A hash of every file's name and content."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(f"{path.name} {path.stat().st_size}".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]
