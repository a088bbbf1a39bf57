"""Classes in batches and splits, from the number of examples of each class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tfbatch.dataset_info.recipe import SPLITS
from tfbatch.errors import InputError

USUAL_BATCH_SIZE = 32
"""Keras's default; a class that is absent from half of all smaller batches alone is not told of."""
_MOST_NAMES = 8
_FROM_ONE = " If the labels start at 1, subtract 1: classes are counted from 0."
LEAST_SHARE = 0.8
"""A split that has less than this part of its fraction of the examples is too small."""


def apportion(
    counts: npt.NDArray[np.int64], total: int, *, seed: Sequence[int]
) -> npt.NDArray[np.int64]:
    """How many examples of each class a split gets, so that it has `total` of them in all.

    The largest remainder method (Hamilton): each class gives the whole part of its quota, and the
    largest remainders give one more. A class gives its last example only if no other has two.

        def quota(count):
            return total * count / sum(counts)

    Args:
        counts: Examples of each class, int64 [classes].
        total: Examples of the split, in [0, sum(counts)].
        seed: Decides between equal remainders; without it the first classes would always win.

    Returns:
        int64 [classes], with the sum `total`.

    Raises:
        InputError: `total` out of range.
    """
    held = int(counts.sum())
    if not 0 <= total <= held:
        raise InputError(f"`total` must be in [0, {held}]. Received: {total}.")
    if not total:
        return np.zeros_like(counts)
    given = total * counts // held
    ties = np.random.default_rng(seed).permutation(len(counts))
    for kept in (1, 0):
        while (left := total - int(given.sum())) > 0:
            order = np.lexsort((ties, held * given - total * counts))  # the largest debt first
            willing = order[(given < counts - kept)[order]]
            if not len(willing):
                break
            given[willing[:left]] += 1
    return given


def absence_probability(share: float, *, batch_size: int) -> float:
    """Probability that a batch holds no example of a class: (1 - share)**batch_size.

    Examples are drawn without replacement within an epoch; for a batch that is a small part of the
    data the probability is this one, else a smaller one.

    Args:
        share: The class's share of the training examples, in [0, 1].
        batch_size: Examples in a batch, at least 1.

    Raises:
        InputError: A share or a batch size out of range.
    """
    if not 0 <= share <= 1 or batch_size < 1:
        raise InputError(
            f"`0 <= share <= 1` and `batch_size >= 1` must hold. Received: {share=}, {batch_size=}."
        )
    return float((1 - share) ** batch_size)


def largest_batch_mostly_without(share: float) -> float:
    """Largest batch size at which more than half of all batches have no example of a class.

        def largest_batch_size():
            return ceil(log(1 / 2) / log(1 - share)) - 1

    Args:
        share: The class's share of the training examples, in [0, 1].

    Returns:
        A whole number, 0 for a share of a half or more; infinite for a share of 0.
    """
    if share >= 0.5:
        return 0
    if share <= 0:
        return math.inf
    largest = math.ceil(math.log(0.5) / math.log1p(-share)) - 1
    # The quotient may be rounded over a whole number.
    while absence_probability(share, batch_size=largest + 1) > 0.5:
        largest += 1
    while largest > 0 and absence_probability(share, batch_size=largest) <= 0.5:
        largest -= 1
    return largest


def rare_classes(
    counts: Sequence[int], *, batch_size: int = USUAL_BATCH_SIZE
) -> tuple[tuple[int, ...], int]:
    """Classes that are absent from more than half of all batches, and up to which batch size.

    A class counts if it has less than half of an even share of the examples: where all of a
    thousand classes are equally large, each is absent from most batches, and none is rare.

    Args:
        counts: Training examples of each class.
        batch_size: Smallest batch size of interest.

    Returns:
        The classes, and the largest batch size for which it holds of each of them (0 for none).
    """
    total = sum(counts)
    limits = {
        label: largest_batch_mostly_without(count / total)
        for label, count in enumerate(counts)
        if 0 < count < total / (2 * len(counts))
    }
    rare = {label: limit for label, limit in limits.items() if limit >= batch_size}
    return tuple(rare), int(min(rare.values(), default=0))


def balance_warnings(class_counts: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    """One line for each thing that a run should know of its classes; none where all is well.

    Args:
        class_counts: Number of examples of each class in each split, all of one length; "train"
            at least.
    """
    warnings = []
    counts = class_counts["train"]
    present = [label for label, count in enumerate(counts) if count]
    if len(present) == 1:
        return (f"Every training example is of class {present[0]}: there is nothing to classify.",)
    rare, limit = rare_classes(counts)
    if rare:
        share = max(counts[label] for label in rare) / sum(counts)
        warnings.append(
            f"{_named(rare)} {_are(rare)} absent from more than half of all batches of {limit} or "
            f"smaller ({share:.2g} of the training examples or less for each)."
            if len(rare) > 1
            else f"{_named(rare)} is absent from more than half of all batches of {limit} or "
            f"smaller ({share:.2g} of the training examples)."
        )
    for split in filter(class_counts.__contains__, SPLITS):
        absent = [label for label, count in enumerate(class_counts[split]) if count == 0]
        if absent and split == "train":
            warnings.append(
                f"{_named(absent)} {_have(absent)} no training example: nothing can be learned of "
                f"{'it' if len(absent) == 1 else 'them'}."
                + (_FROM_ONE if absent == [0] and len(counts) > 2 else "")
            )
        elif absent := [label for label in absent if counts[label]]:
            warnings.append(
                f"{_named(absent)} {_have(absent)} no {split} example: the {split} results do not "
                f"cover {'it' if len(absent) == 1 else 'them'}. A class needs at least 1 / "
                "fraction examples to be sure of one in a split that is taken from train."
            )
    return tuple(warnings)


def share_warnings(
    class_counts: Mapping[str, Sequence[int]], fractions: Mapping[str, float]
) -> tuple[str, ...]:
    """One line for each split that is much smaller than the share of train that it should be.

    The number from each class is rounded down: a tenth of nine examples is zero.

    Args:
        class_counts: Number of examples of each class in each split.
        fractions: Share of the whole that each split which is taken from train should have.
    """
    counts = {split: sum(class_counts[split]) for split in ("train", *fractions)}
    whole = sum(counts.values())
    return tuple(
        f"{split} has {counts[split] / whole:.1%} of the examples that it is taken from, not "
        f"{fraction:.0%}: the number taken from each class is rounded down."
        for split, fraction in fractions.items()
        if counts[split] < LEAST_SHARE * fraction * whole
    )


def _named(labels: Sequence[int]) -> str:
    shown = ", ".join(map(str, labels[:_MOST_NAMES]))
    more = f" and {len(labels) - _MOST_NAMES} more" if len(labels) > _MOST_NAMES else ""
    return f"Class {shown}" if len(labels) == 1 else f"Classes {shown}{more}"


def _are(labels: Sequence[int]) -> str:
    return "is" if len(labels) == 1 else "are"


def _have(labels: Sequence[int]) -> str:
    return "has" if len(labels) == 1 else "have"
