"""Takes a validation split out of stored training data, where a user gives none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfbatch.class_balance import apportion
from tfbatch.errors import InputError
from tfbatch.pipeline.stored_format import Leaf, Stored, leaf_files, read_leaf

VALIDATION_FRACTION = 0.2
_SPLIT_SEED = 20181206


def carve_validation(folder: Path, stored: Stored, classes: npt.NDArray[np.int64] | None) -> Stored:
    """Takes a fifth of the training split, class by class where there are classes.

    Args:
        folder: Where the data is stored.
        stored: What is there.
        classes: The class of each training example, or None if targets are not classes.

    Raises:
        InputError: There is only one training example.
    """
    count = stored.splits["train"]
    if count < 2:
        raise InputError(
            f"A validation split cannot be taken from {count} training example(s). Give more, or "
            'the split itself: {"train": ..., "validation": ...}.'
        )
    chosen = _choose(count, classes)
    inside = np.zeros(count, bool)
    inside[chosen] = True
    for number, leaf in enumerate(stored.leaves):
        _divide(folder, number, leaf, inside)
    note = (
        f"No validation split was given: {VALIDATION_FRACTION:.0%} of the training examples were "
        f"taken at random{'' if classes is None else ', class by class'}. If neighboring examples "
        "are similar (time series, video frames, several images of one person), give your own "
        "validation split."
    )
    return stored.model_copy(
        update={
            "splits": {
                **stored.splits,
                "train": count - len(chosen),
                "validation": len(chosen),
            },
            "notes": (*stored.notes, note),
        }
    )


def _choose(count: int, classes: npt.NDArray[np.int64] | None) -> npt.NDArray[Any]:
    """Indices of the validation examples: a fifth of all, and of each class as nearly as can be."""
    generator = np.random.default_rng(_SPLIT_SEED)
    groups = [np.arange(count)]
    if classes is not None:
        order = np.argsort(classes, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(classes[order])) + 1)
    sizes = apportion(
        np.array([len(group) for group in groups], np.int64),
        max(1, round(VALIDATION_FRACTION * count)),
        seed=[_SPLIT_SEED, 1],
    )
    chosen = [
        generator.permutation(group)[:size] for group, size in zip(groups, sizes, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def _divide(folder: Path, number: int, leaf: Leaf, inside: npt.NDArray[np.bool_]) -> None:
    """Rewrites one leaf's training file as two."""
    whole = read_leaf(folder, "train", number, leaf, len(inside))
    new = {}
    for split, mask in (("train", ~inside), ("validation", inside)):
        values, lengths = leaf_files(folder, split, number)
        new[split] = values.with_suffix(".new"), values
        if isinstance(whole, tuple):
            ends = np.cumsum(whole[1])
            with new[split][0].open("wb") as file:
                for index in np.flatnonzero(mask):
                    file.write(whole[0][ends[index] - whole[1][index] : ends[index]].data)
            new[f"{split}-lengths"] = lengths.with_suffix(".new"), lengths
            new[f"{split}-lengths"][0].write_bytes(whole[1][mask].tobytes())
        else:
            with new[split][0].open("wb") as file:
                for part in np.array_split(np.flatnonzero(mask), max(1, len(mask) // 4096)):
                    file.write(np.ascontiguousarray(whole[part]).data)
    del whole
    for written, final in new.values():
        written.replace(final)
