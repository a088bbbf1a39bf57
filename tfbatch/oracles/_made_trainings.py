"""What a search by trunks has made so far: its trainings, what they came to, and what they cost."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator

from tfbatch.oracles._cells import Cell
from tfbatch.oracles._lengths import Lengths, Training
from tfbatch.oracles._oracle import Told
from tfbatch.oracles._prices import Prices

_KILLED = 2
"""A training whose process has ended so often, for whatever reason, is not proposed again."""


@dataclasses.dataclass
class MadeTraining:
    """A training that was proposed.

    Attributes:
        training: What it is.
        for_speed: Whether it is whole, and faster than the answer of then, which was whole, too.
        told: What it came to; None while it is open.
    """

    training: Training
    for_speed: bool = False
    told: Told | None = None

    @property
    def has_completed(self) -> bool:
        """Whether it came to its end."""
        return self.told is not None and self.told.completed

    @property
    def has_failed(self) -> bool:
        """Whether it ended without."""
        return self.told is not None and not self.told.completed


class MadeTrainings:
    """The trainings of a search, in the order of their proposals.

    Args:
        lengths: The lengths of its trainings.
        prices: What training costs.
    """

    def __init__(self, lengths: Lengths, prices: Prices):
        self._lengths, self._prices = lengths, prices
        self._made: dict[str, MadeTraining] = {}
        self._killed = collections.Counter[Training]()
        self.tried = 0
        """How many began anew: a trial each, where what goes on from one is none."""

    def __iter__(self) -> Iterator[MadeTraining]:
        return iter(self._made.values())

    def add(self, trial: str, training: Training, *, for_speed: bool, is_new: bool) -> None:
        """Notes what is proposed.

        Args:
            trial: Its name.
            training: What it is.
            for_speed: See MadeTraining.
            is_new: Whether it begins anew.
        """
        self._made[trial] = MadeTraining(training, for_speed)
        self.tried += is_new

    def tell(self, trial: str, told: Told) -> None:
        """Notes what it came to."""
        self._made[trial].told = told

    def forget(self, trial: str) -> None:
        """Its process was killed, and it is to be made once more."""
        self._killed[self._made.pop(trial).training] += 1

    def of(self, cell: Cell) -> list[MadeTraining]:
        """Those of a cell."""
        return [made for made in self if made.training.cell == cell]

    def open(self) -> list[Training]:
        """What runs."""
        return [made.training for made in self if made.told is None]

    def is_busy(self, cell: Cell) -> bool:
        """Whether something runs at a cell."""
        return any(made.told is None for made in self.of(cell))

    def begun(self) -> set[Cell]:
        """The cells of which something was made or runs."""
        return {made.training.cell for made in self}

    def trunks(self, cell: Cell) -> list[int]:
        """Lengths of the trunks of a cell that others can go on from."""
        return [
            made.training.length
            for made in self.of(cell)
            if made.training.kind == "trunk" and made.has_completed
        ]

    def trunk_name(self, cell: Cell, length: int) -> str:
        """The trial that made one of `trunks`."""
        return next(
            name
            for name, made in self._made.items()
            if made.training.kind == "trunk" and made.has_completed
            if (made.training.cell, made.training.length) == (cell, length)
        )

    def failed(self, *, diverged: bool = False) -> set[Cell]:
        """Cells that did not complete; a schedule that fails says nothing of the trunk.

        Args:
            diverged: Those alone whose rate was too high.
        """
        return {
            made.training.cell
            for made in self
            if made.has_failed and made.training.schedule == self._lengths.schedule
            if (made.told and made.told.status == "diverged") or not diverged
        }

    def is_lost(self, training: Training) -> bool:
        """Whether its process was killed again and again."""
        return self._killed[training] >= _KILLED

    def lost(self) -> set[Cell]:
        """Cells of which a training is lost."""
        own = self._lengths.schedule
        return {one.cell for one in self._killed if self.is_lost(one) and one.schedule == own}

    def judged(self) -> list[tuple[Training, float]]:
        """The trainings by which cells are compared, with their scores."""
        own = self._lengths.schedule
        return [
            (made.training, made.told.score)
            for made in self
            if made.told and made.told.completed
            if made.training.kind != "trunk" and made.training.schedule == own
        ]

    def longest(self, cell: Cell) -> int:
        """The longest length at which a cell was judged; 0 for none."""
        return max((t.length for t, _ in self.judged() if t.cell == cell), default=0)

    def cost(self, cell: Cell, length: int) -> float:
        """What it still costs to judge a cell at a length: nothing is paid twice."""
        running = [training for training in self.open() if training.cell == cell]
        return self._lengths.cost(cell, length, trunks=self.trunks(cell), running=running)

    def spent(self) -> float:
        """What the trainings so far cost, the open ones included."""
        total, trunks = 0.0, dict[Cell, list[int]]()
        for made in self:
            training = made.training
            there = trunks.setdefault(training.cell, [])
            examples = self._lengths.examples(training, there)
            total += self._prices.cost(training.cell.batch_size, examples)
            if training.kind == "trunk":
                there.append(training.length)
        return total
