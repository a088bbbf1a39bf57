"""Batch sizes over a training: which examples each update sees, computed before it begins."""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from tfbatch.errors import InputError


@dataclasses.dataclass(frozen=True)
class BatchSizes:
    """A batch size from each position of the stream of examples on.

    A batch that begins at example x has the size that holds at x: one that reaches over a switch
    is not cut. So all of a training follows from the pieces:

        def examples_before(step):
            x = 0
            for _ in range(step):
                x += size_at(x)
            return x

    Attributes:
        pieces: (first example, batch size) of each piece; the first begins at 0, and they rise.

    Raises:
        InputError: Pieces that do not begin at 0 or do not rise, or a size below 1.
    """

    pieces: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        starts = [start for start, _ in self.pieces]
        rising = all(before < after for before, after in itertools.pairwise(starts))
        if not starts or starts[0] != 0 or not rising:
            raise InputError(
                "Batch sizes must begin at 0 and at rising positions. "
                f"Received: {list(self.pieces)}."
            )
        if min(size for _, size in self.pieces) < 1:
            raise InputError(f"A batch size must be >= 1. Received: {list(self.pieces)}.")

    @classmethod
    def of(cls, given: int | BatchSizes | Iterable[Iterable[int]]) -> BatchSizes:
        """From one size, or from pairs such as JSON has them.

        Raises:
            InputError: As for the class, or a number that is not whole.
        """
        if isinstance(given, BatchSizes):
            return given
        if not isinstance(given, Iterable):
            return cls(((0, _whole(given)),))
        return cls(tuple((_whole(start), _whole(size)) for start, size in given))

    @functools.cached_property
    def joints(self) -> tuple[tuple[int, int, int], ...]:
        """(update, examples seen before it, batch size) where each piece really begins.

        A piece that lies within one batch of the piece before has no update of its own.
        """
        return tuple(joint for joint, _ in self._walk)

    @functools.cached_property
    def begun(self) -> tuple[tuple[int, int], ...]:
        """The piece of each joint."""
        return tuple(piece for _, piece in self._walk)

    @functools.cached_property
    def _walk(self) -> tuple[tuple[tuple[int, int, int], tuple[int, int]], ...]:
        walk = [((0, 0, self.pieces[0][1]), self.pieces[0])]
        for start, size in self.pieces[1:]:
            step, example, before = walk[-1][0]
            steps = max(0, -((example - start) // before))
            if steps == 0:
                del walk[-1]
            walk.append(((step + steps, example + steps * before, size), (start, size)))
        return tuple(walk)

    def examples_before(self, step: int) -> int:
        """Examples seen before the update number `step`, counted from 0."""
        first, example, size = self._joint(0, step)
        return example + (step - first) * size

    def steps_before(self, example: int) -> int:
        """Number of updates whose batch begins before `example`."""
        first, start, size = self._joint(1, example)
        return first - (start - example) // size

    def cut(self, start: int, stop: int) -> tuple[int, npt.NDArray[np.int64]]:
        """The batches that begin in [start, stop).

        Returns:
            The first one's position, and their sizes, int64 [batches]; the last one may reach
            beyond `stop`.
        """
        first, last = self.steps_before(start), self.steps_before(stop)
        steps = np.arange(first, last)
        places = np.searchsorted([joint[0] for joint in self.joints], steps, side="right") - 1
        sizes = np.array([joint[2] for joint in self.joints], np.int64)[places]
        return self.examples_before(first), sizes

    def _joint(self, column: int, value: int) -> tuple[int, int, int]:
        """The last joint that is not after `value`."""
        place = bisect.bisect_right(self.joints, value, key=lambda joint: joint[column])
        return self.joints[max(place - 1, 0)]


def _whole(number: float) -> int:
    if not float(number).is_integer():
        raise InputError(
            "A batch size, and the example from which on it holds, must be whole numbers: round "
            f"them. Received: {number!r}."
        )
    return int(number)
