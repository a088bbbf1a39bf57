"""Other people's searches as oracles: the same space, lengths and prices as ours.

A number off the grid cannot be asked of a table: all of them get batch sizes and rates as ordered
choices, as ours does.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np

from replay.plan import OCTAVES, TablePlan
from replay.simulate import Cell
from tfbatch.metric_direction import Direction
from tfbatch.oracles import BATCH_SIZE, Part, Proposal, Told


def grid(plan: TablePlan) -> list[Cell]:
    """All configurations of a table, batch size by batch size."""
    every = itertools.product(plan.batch_sizes, plan.octaves)
    return [
        cell
        for size, octaves in every
        for cell in (Cell(size, octaves, "wsd"), Cell(size, octaves, "cosine"))
    ]


def values_of(cell: Cell) -> dict[str, int | float | str | bool]:
    """The hyperparameters of a configuration."""
    return {BATCH_SIZE: cell.batch_size, OCTAVES: cell.octaves, "schedule": cell.schedule}


class RandomSearch:
    """Whole trainings in random order, none twice.

    Args:
        plan: Of the table.
        seed: Of the order.
    """

    def __init__(self, plan: TablePlan, *, seed: int):
        cells = grid(plan)
        order = np.random.default_rng(seed).permutation(len(cells))
        self._waiting = [cells[place] for place in order]
        self.size = len(cells)

    def propose(self, trial: str, *, known: Proposal | None, bound: float) -> Proposal | None:
        """See Oracle."""
        return Proposal(values_of(self._waiting.pop(0))) if self._waiting else None

    def tell(self, trial: str, proposal: Proposal, told: Told) -> None:
        """See Oracle."""

    def forget(self, trial: str) -> None:
        """See Oracle."""


class IEpoch:
    """Some configurations for a few epochs, the best of them to the end, the best one first.

    Egele et al. 2023 (arXiv 2307.15422). The finalists go on from where they are.

    Args:
        plan: Of the table.
        epochs: Of the first round.
        candidates: Configurations of the first round, drawn without repetition.
        finalists: How many go on.
        direction: Whether a good score is small.
        seed: Of the order.
    """

    def __init__(
        self,
        plan: TablePlan,
        *,
        epochs: int,
        candidates: int,
        finalists: int,
        direction: Direction,
        seed: int,
    ):
        cells = grid(plan)
        drawn = np.random.default_rng(seed).permutation(len(cells))[:candidates]
        self._waiting = [cells[place] for place in drawn]
        self._stop = Part(to_examples=epochs * plan.epoch_examples)
        self._finalists = finalists
        self._sign = 1.0 if direction == "min" else -1.0
        self._first: dict[str, tuple[float, Proposal]] = {}
        self._open = 0
        self._final: list[Proposal] | None = None
        self.size = len(self._waiting) + finalists

    def propose(self, trial: str, *, known: Proposal | None, bound: float) -> Proposal | None:
        """See Oracle."""
        if self._waiting:
            self._open += 1
            return Proposal(values_of(self._waiting.pop(0)), self._stop)
        if self._final is None:
            if self._open:
                return None
            ranked = sorted(self._first, key=lambda name: self._first[name][0])
            self._final = [
                dataclasses.replace(self._first[name][1], part=Part(parent=name))
                for name in ranked[: self._finalists]
            ]
        return self._final.pop(0) if self._final else None

    def tell(self, trial: str, proposal: Proposal, told: Told) -> None:
        """See Oracle."""
        if self._final is None:
            self._open -= 1
            if told.completed:
                self._first[trial] = (self._sign * told.score, proposal)

    def forget(self, trial: str) -> None:
        """See Oracle."""
        self._open -= self._final is None


class OptunaOracle:
    """A sampler of Optuna, with its asynchronous successive halving where rungs are given.

    Args:
        plan: Of the table.
        sampler: The sampler.
        pruner: Decides at a rung whether a trial goes on; None for whole trainings.
        rungs: In epochs, ascending, below the whole training.
        direction: Whether a good score is small.
    """

    size = None

    def __init__(
        self,
        plan: TablePlan,
        *,
        sampler: Any,
        pruner: Any = None,
        rungs: tuple[int, ...] = (),
        direction: Direction,
    ):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._plan, self._rungs = plan, rungs
        self._study = optuna.create_study(
            direction="minimize" if direction == "min" else "maximize",
            sampler=sampler,
            pruner=pruner or optuna.pruners.NopPruner(),
        )
        whole, category = (
            optuna.distributions.IntDistribution,
            optuna.distributions.CategoricalDistribution,
        )
        self._space = {
            BATCH_SIZE: whole(0, len(plan.batch_sizes) - 1),
            OCTAVES: whole(0, len(plan.octaves) - 1),
            "schedule": category(["wsd", "cosine"]),
        }
        self._open: dict[str, tuple[Any, int]] = {}
        self._going_on: list[tuple[Any, int, Proposal]] = []

    def propose(self, trial: str, *, known: Proposal | None, bound: float) -> Proposal:
        """See Oracle."""
        if self._going_on:
            asked, rung, proposal = self._going_on.pop(0)
        else:
            asked, rung = self._study.ask(self._space), 0
            drawn = asked.params
            size, octaves = drawn[BATCH_SIZE], drawn[OCTAVES]
            cell = Cell(
                self._plan.batch_sizes[size], self._plan.octaves[octaves], drawn["schedule"]
            )
            proposal = Proposal(values_of(cell), self._part(0, None))
        self._open[trial] = asked, rung
        return proposal

    def _part(self, rung: int, parent: str | None) -> Part | None:
        if rung < len(self._rungs):
            return Part(to_examples=self._rungs[rung] * self._plan.epoch_examples, parent=parent)
        return Part(parent=parent) if parent else None

    def tell(self, trial: str, proposal: Proposal, told: Told) -> None:
        """See Oracle."""
        import optuna

        asked, rung = self._open.pop(trial)
        pruned = optuna.trial.TrialState.PRUNED
        if rung == len(self._rungs):
            self._study.tell(asked, told.score)
            return
        asked.report(told.score, step=self._rungs[rung])
        if not told.completed or asked.should_prune():
            self._study.tell(asked, state=pruned)
            return
        further = dataclasses.replace(proposal, part=self._part(rung + 1, trial))
        self._going_on.append((asked, rung + 1, further))

    def forget(self, trial: str) -> None:
        """See Oracle."""
        import optuna

        asked, _ = self._open.pop(trial)
        self._study.tell(asked, state=optuna.trial.TrialState.FAIL)
