"""Which targets are classes: the model's loss and output say it, never the type of the numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tfbatch.pipeline.elements import ElementForm, decide_batched

MOST_CLASSES = 100_000
"""Larger whole numbers are taken for amounts."""
_FEWEST_OF_A_CLASS = 2


@dataclasses.dataclass(frozen=True)
class Expected:
    """What a model expects of data, known before the data is read.

    Attributes:
        batched: Whether each element of the training data is a batch.
        classes: Whether targets are classes; None where the loss does not say it.
        outputs: Number of the model's output values for an example, or None.
    """

    batched: bool
    classes: bool | None = None
    outputs: int | None = None


Expect = Callable[[ElementForm], Expected]
"""Asks the model about data of a form."""


@dataclasses.dataclass(frozen=True)
class ClassIndices:
    """The class of each example.

    Attributes:
        indices: int64 [examples].
        num_classes: Number of classes, at least 2.
        one_hot: Whether targets are one-hot rows, not indices.
    """

    indices: npt.NDArray[np.int64]
    num_classes: int
    one_hot: bool

    def counts(self) -> tuple[int, ...]:
        """Number of examples of each class."""
        return tuple(map(int, np.bincount(self.indices, minlength=self.num_classes)))


def expect_without_model(form: ElementForm, *, classes: bool | None = None) -> Expected:
    """What can be expected of data without a model to consult.

    Args:
        form: What the training split gives.
        classes: Whether targets are classes, where that is known.

    Raises:
        InputError: Nothing shows whether the data gives examples or batches.
    """
    return Expected(decide_batched(form), classes)


class ClassReader:
    """Reads targets chunk by chunk, and says at the end whether they are classes.

    Args:
        expected: What the model expects.
    """

    def __init__(self, expected: Expected):
        self._expected = expected
        self._possible = expected.classes is not False
        self._parts: list[npt.NDArray[np.int64]] = []
        self._width: int | None = None

    def anew(self) -> ClassReader:
        """One that has read nothing yet."""
        return ClassReader(self._expected)

    def add(self, targets: npt.NDArray[Any] | None) -> None:
        """Takes the targets of some examples, [examples, ...]; None if they differ in length."""
        if targets is None:
            self._possible = False
        if not self._possible or targets is None or not len(targets):
            return
        if targets.dtype.kind not in "biuf" or targets.ndim not in (1, 2):
            self._possible = False
            return
        wide = targets.ndim == 2 and targets.shape[1] > 1
        found = _of_rows(targets) if wide else _of_numbers(targets.reshape(-1))
        width = targets.shape[1] if wide else None
        if self._parts and width != self._width:  # each batch is as long as its longest example
            found = None
        self._width = width
        if found is None:
            self._possible, self._parts = False, []
            return
        self._parts.append(found)

    def found(self) -> ClassIndices | None:
        """The classes, or None if targets are not classes."""
        if not self._possible or not self._parts:
            return None
        indices = np.concatenate(self._parts)
        largest, outputs = int(indices.max()), self._expected.outputs
        if self._expected.classes is None and not self._plausible(indices, largest):
            return None
        if self._width is not None:
            return ClassIndices(indices, self._width, one_hot=True)
        known = (outputs or 2) if self._expected.classes else 2
        return ClassIndices(indices, max(largest + 1, known, 2), one_hot=False)

    def _plausible(self, indices: npt.NDArray[np.int64], largest: int) -> bool:
        """Whether whole numbers can be classes where no loss says it.

        With a model by the number of its outputs; without one, each number from 0 must occur, and
        twice on average: prices and counts leave gaps.
        """
        outputs = self._expected.outputs
        if outputs is not None:
            return self._width == outputs if self._width else largest < max(outputs, 2)
        if self._width is not None:
            return True
        distinct = len(np.unique(indices))
        return distinct == largest + 1 and _FEWEST_OF_A_CLASS * distinct <= len(indices)


def _of_numbers(targets: npt.NDArray[Any]) -> npt.NDArray[np.int64] | None:
    """Whole numbers from 0 to MOST_CLASSES as int64, whatever their type; else None."""
    low, high = targets.min(), targets.max()
    if not (low >= 0 and high <= MOST_CLASSES):  # also where one is no number
        return None
    indices = targets.astype(np.int64)
    return indices if np.array_equal(indices, targets) else None


def _of_rows(targets: npt.NDArray[Any]) -> npt.NDArray[np.int64] | None:
    """The places of the ones in one-hot rows; None where a row is none."""
    ones = targets == 1
    if not np.all(ones.sum(axis=1) == 1) or not np.all(ones | (targets == 0)):
        return None
    places: npt.NDArray[np.int64] = ones.argmax(axis=1).astype(np.int64)
    return places
