"""Trainings of several lengths from few: stable trunks, their cool-downs, and what they cost."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from typing import Literal

from tfbatch.oracles._cells import Cell
from tfbatch.oracles._oracle import Part, Setting
from tfbatch.oracles._prices import NO_PRICES, Prices
from tfbatch.schema import Named

Kind = Literal["trunk", "cooled", "whole", "short"]
COOL_DOWN = Named(name="linear")
STABLE = ("wsd",)
"""Schedules with a stable phase that shorter trainings branch off from.

Not `constant`: its trunk and cool-down would be no whole training of a schedule of the space, and
only such a training can be recommended.
"""
_NEARLY = 0.7
"""A length that costs so much of the whole is none: its parts are started and evaluated, too."""


@dataclasses.dataclass(frozen=True)
class Training:
    """One training of a search, or a part of one.

    Attributes:
        cell: Batch size and learning rate.
        kind: "trunk": up to where the cool-down of a length begins; "cooled": that cool-down;
            "whole": of the run's length, by a schedule of the space; "short": the same, shorter.
        length: Examples from the beginning of the training to its end; of a trunk, to the end of
            the cool-down that may follow.
        schedule: Name of the space's.
    """

    cell: Cell
    kind: Kind
    length: int
    schedule: str | None


class Lengths:
    """The lengths at which a cell is judged, and the trainings that it takes.

    Args:
        shares: Lengths as shares of the full one, ascending; the last one is 1.
        total: The full length in examples.
        setting: What a proposal with the trunk's schedule means; None where that is not known.
        trunk: Name of the schedule with a stable phase; None for shorter trainings of `schedule`.
        schedule: Name of the space's first schedule.
        cool_down: Share of a length that cools down, where the trunk's schedule does not say.
        fewest_updates: A shorter training of fewer updates judges nothing.
        prices: What training costs.
    """

    def __init__(
        self,
        shares: Sequence[float],
        total: int,
        *,
        setting: Setting | None,
        trunk: str | None,
        schedule: str | None,
        cool_down: float,
        fewest_updates: int,
        prices: Prices = NO_PRICES,
    ):
        self.total = total
        self.trunk = trunk
        self.schedule = trunk or schedule
        self._lengths = tuple(round(share * total) for share in shares)
        self._fewest, self._prices = fewest_updates, prices
        self._judged: dict[int, tuple[int, ...]] = {}
        self._warmup = math.ceil(total * setting.warmup_fraction) if setting else 0
        share = cool_down
        if setting and trunk:
            given = setting.schedule.arguments.get("cooldown", share)
            share = float(str(given)) * (1.0 - setting.warmup_fraction)
        self._share = share

    def judged(self, batch_size: int) -> tuple[int, ...]:
        """The lengths at which a batch size is judged, ascending."""
        if batch_size not in self._judged:
            possible = self._possible(batch_size)
            cell = Cell(batch_size, 0.0)
            whole = self.cost(cell, self.total) if self.total in possible else math.inf
            self._judged[batch_size] = tuple(
                length
                for length in possible
                if length == self.total or self.cost(cell, length) <= _NEARLY * whole
            )
        return self._judged[batch_size]

    def _possible(self, batch_size: int) -> tuple[int, ...]:
        """Those with updates enough."""
        found = [
            length
            for length in self._lengths[:-1]
            if length // batch_size >= self._fewest
            and (self.trunk is None or length in self._trunks(batch_size))
        ]
        return (*found, self.total)

    def missing(self, cell: Cell, length: int, *, trunks: Sequence[int]) -> tuple[Training, ...]:
        """The trainings that it takes to judge a cell at a length, in their order.

        Args:
            cell: The cell.
            length: One of `judged`.
            trunks: Lengths whose trunks are there.
        """
        if self.trunk is None:
            kind: Kind = "whole" if length == self.total else "short"
            return (Training(cell, kind, length, self.schedule),)
        if length == self.total:
            return (Training(cell, "whole", length, self.schedule),)
        cooled = Training(cell, "cooled", length, self.schedule)
        if length in trunks:
            return (cooled,)
        return (Training(cell, "trunk", length, self.schedule), cooled)

    def parent(self, training: Training, trunks: Sequence[int]) -> int | None:
        """The length of the trunk that a training goes on from; None for one that begins anew."""
        if training.kind == "cooled":
            return training.length
        if training.kind == "trunk" or (
            training.kind == "whole" and training.schedule == self.trunk
        ):
            return max((one for one in trunks if one < training.length), default=None)
        return None

    def examples(self, training: Training, trunks: Sequence[int]) -> int:
        """What it trains on itself."""
        size = training.cell.batch_size
        parent = self.parent(training, trunks)
        start = 0 if parent is None else self._end(size, parent)
        end = training.length
        return (self._end(size, end) if training.kind == "trunk" else end) - start

    def cost(
        self,
        cell: Cell,
        length: int,
        *,
        trunks: Sequence[int] = (),
        running: Collection[Training] = (),
    ) -> float:
        """What it takes to judge a cell at a length.

        Args:
            cell: The cell.
            length: One of `judged`.
            trunks: Lengths whose trunks are there.
            running: Trainings of the cell that are being made, and are paid.
        """
        there = [*trunks, *(one.length for one in running if one.kind == "trunk")]
        total = 0.0
        for training in self.missing(cell, length, trunks=there):
            if training not in running:
                total += self._prices.cost(cell.batch_size, self.examples(training, there))
            there.append(training.length)
        return total

    def part(self, training: Training, parent: str | None) -> Part | None:
        """The part of a training that it is; None for a whole one from the beginning."""
        total = None if training.length == self.total else training.length
        if training.kind == "trunk":
            return Part(to_examples=self._cut(training.length), parent=parent)
        if training.kind == "cooled":
            return Part(total_examples=total, parent=parent, schedule=COOL_DOWN)
        part = Part(total_examples=total, parent=parent)
        return None if part == Part() else part

    def training(self, cell: Cell, schedule: str | None, part: Part | None) -> Training:
        """The inverse of `part`."""
        if part is None or (part.to_examples is None and part.total_examples is None):
            kind: Kind = "cooled" if part and part.schedule else "whole"
            return Training(cell, kind, self.total, schedule)
        if (stop := part.to_examples) is not None:
            length = min(self._lengths, key=lambda one: abs(self._cut(one) - stop))
            return Training(cell, "trunk", length, schedule)
        length = part.total_examples or self.total
        return Training(cell, "cooled" if part.schedule else "short", length, schedule)

    def _cut(self, length: int) -> int:
        """Examples at which the cool-down of a length begins."""
        return round((1.0 - self._share) * length)

    def _end(self, batch_size: int, length: int) -> int:
        """The same, with the update that reaches it."""
        return -(-self._cut(length) // batch_size) * batch_size

    def _trunks(self, batch_size: int) -> tuple[int, ...]:
        """Lengths with an update of the trunk and one of the cool-down of their own."""
        found, last = [], self._warmup
        for length in self._lengths:
            end = self._end(batch_size, length)
            if last < end < length < self.total:
                found.append(length)
                last = end
        return tuple(found)
