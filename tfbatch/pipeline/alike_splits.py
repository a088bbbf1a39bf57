"""Makes the stored splits of one data set alike: their lengths, and the types of their integers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from tfbatch.errors import InputError
from tfbatch.pipeline.array_files import Leaf, leaf_files, read_leaf
from tfbatch.pipeline.elements import Template, leaf_names, packed

Written: TypeAlias = "dict[str, tuple[tuple[Leaf, ...], int]]"
"""The leaves and the number of examples of each split, as `append_all` wrote them."""


def make_alike(
    folder: Path, written: Written, template: list[Template]
) -> tuple[Written, list[str]]:
    """Rewrites what differs from the training split's form and need not.

    Args:
        folder: Where the splits are.
        written: What is there.
        template: The structure of an element.

    Returns:
        What is there now, and a sentence for each array whose type was converted.

    Raises:
        InputError: Splits that differ in structure.
    """
    names = leaf_names(template)
    alike = _with_lengths(folder, written)
    leaves, _ = alike["train"]
    notes: list[str] = []
    for split, (other, count) in alike.items():
        notes += _cast_integers(folder, split, other, leaves, count, names)
        if [_without_width(leaf) for leaf in other] != [_without_width(leaf) for leaf in leaves]:
            raise InputError(
                f"Your `{split}` data differs in structure from `train`: "
                f"{_form(template, other)} and {_form(template, leaves)}. Give all splits the "
                "same structure."
            )
    return alike, notes


def _with_lengths(folder: Path, written: Written) -> Written:
    """Gives each example its length where those of another split differ in it.

    Batches that are padded one by one may all have one length in a split of few.
    """
    inner = {
        number: leaf.shape
        for leaves, _ in written.values()
        for number, leaf in enumerate(leaves)
        if leaf.variable
    }
    alike: Written = {}
    for split, (leaves, count) in written.items():
        found = list(leaves)
        for number, leaf in enumerate(leaves):
            if not leaf.variable and leaf.shape and leaf.shape[1:] == inner.get(number):
                _, lengths = leaf_files(folder, split, number)
                lengths.write_bytes(np.full(count, leaf.shape[0], np.int64).data)
                found[number] = Leaf(dtype=leaf.dtype, shape=leaf.shape[1:], variable=True)
        alike[split] = tuple(found), count
    return alike


def _without_width(leaf: Leaf) -> Leaf:
    """The same leaf with one name for every integer type."""
    return leaf.model_copy(update={"dtype": "integer"}) if _is_integer(leaf) else leaf


def _is_integer(leaf: Leaf) -> bool:
    return leaf.dtype != "string" and np.dtype(leaf.dtype).kind in "iu"


def _cast_integers(
    folder: Path,
    split: str,
    leaves: Sequence[Leaf],
    train: Sequence[Leaf],
    count: int,
    names: Sequence[str],
) -> Iterator[str]:
    """Rewrites integers of another type than the training split's; a sentence for each leaf.

    Raises:
        InputError: A value that the training split's type cannot hold.
    """
    if len(leaves) != len(train):
        return
    for number, (leaf, like) in enumerate(zip(leaves, train, strict=True)):
        if leaf.dtype == like.dtype or _without_width(leaf) != _without_width(like):
            continue
        found = read_leaf(folder, split, number, leaf, count)
        values = found[0] if isinstance(found, tuple) else found
        limits = np.iinfo(like.dtype)
        if values.size and not limits.min <= int(values.min()) <= int(values.max()) <= limits.max:
            raise InputError(
                f"Your `{split}` data: {names[number]} is {leaf.dtype} from {values.min()} to "
                f"{values.max()}, and in `train` it is {like.dtype}, which holds {limits.min} to "
                f"{limits.max}. Give all splits the same type."
            )
        path, _ = leaf_files(folder, split, number)
        cast = values.astype(like.dtype)
        del found, values  # the file is mapped
        path.write_bytes(cast.data)
        yield (
            f"{names[number]} is {leaf.dtype} in your `{split}` data and {like.dtype} in `train`: "
            f"it was converted to {like.dtype}."
        )


def _form(template: list[Template], leaves: Sequence[Leaf]) -> str:
    shown = [
        f"{leaf.dtype} {['...', *leaf.shape] if leaf.variable else leaf.shape}" for leaf in leaves
    ]
    return str(packed(template, shown)).replace("'", "")
