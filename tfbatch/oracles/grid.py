"""Every configuration of a space, in an order that is of use wherever a search ends.

KerasTuner's own grid keeps its place nowhere (keras-team/keras-tuner issue 1055), and asks for a
continuous range ten times.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tfbatch.errors import InputError
from tfbatch.metric_direction import Direction
from tfbatch.oracles._oracle import (
    BATCH_SIZE,
    NOTHING_KNOWN,
    InterchangeableSettings,
    Oracle,
    Premises,
    Proposal,
    Told,
)

if TYPE_CHECKING:
    import keras_tuner

MOST_POINTS = 10_000
"""A larger grid is a mistake: nobody waits for its end."""


class Settings(InterchangeableSettings):
    """Every combination, each once; `values_of_range` of each range."""

    def make(
        self,
        hyperparameters: keras_tuner.HyperParameters,
        *,
        direction: Direction,
        seed: int,
        total_examples: int,
        premises: Premises = NOTHING_KNOWN,
    ) -> Oracle:
        """See OracleSettings.

        Raises:
            InputError: There are more than `MOST_POINTS` combinations.
        """
        return _Grid(grid_points(hyperparameters, values_of_range=self.values_of_range, seed=seed))


class _Grid:
    """Proposes points in their order, whatever the others came to."""

    def __init__(self, points: list[dict[str, Any]]):
        self.size = len(points)
        self._left = [Proposal(values) for values in points]

    def propose(self, trial: str, *, known: Proposal | None, bound: float) -> Proposal | None:
        """See Oracle."""
        del trial
        proposal = known or next((point for point in self._left if point.fits(bound)), None)
        if proposal in self._left:
            self._left.remove(proposal)
        return proposal

    def tell(self, trial: str, proposal: Proposal, told: Told) -> None:
        """See Oracle."""

    def forget(self, trial: str) -> None:
        """See Oracle."""


def grid_points(
    hyperparameters: keras_tuner.HyperParameters, *, values_of_range: int, seed: int
) -> list[dict[str, object]]:
    """All combinations of a space's values, those of conditional parameters included.

    The batch size changes first, so that every beginning of the list has tried all batch sizes
    equally often; the order of everything else is drawn.

    Args:
        hyperparameters: The space.
        values_of_range: Values of a range, both ends among them, evenly spread on its scale.
        seed: Seed of the order.

    Returns:
        Values of the active hyperparameters, one dictionary for each point.

    Raises:
        InputError: There are more than `MOST_POINTS`.
    """
    space = hyperparameters.space
    sizes = [p for p in space if p.name == BATCH_SIZE]
    others = [p for p in space if p.name != BATCH_SIZE]
    points: list[dict[str, Any]] = []
    for values in _combinations(others, values_of_range, {}):
        points.append(values)
        if len(points) * max(len(sizes and sizes[0].values), 1) > MOST_POINTS:
            raise InputError(
                f"A grid must have at most {MOST_POINTS:,} configurations. Received: a space with "
                "more. Search fewer values, set `oracle.values_of_range` lower, or take another "
                "oracle, such as `bayesian`."
            )
    random.Random(seed).shuffle(points)
    if not sizes:
        return points
    return [{BATCH_SIZE: size, **values} for values in points for size in sizes[0].values]


def _combinations(
    parameters: list[Any], values_of_range: int, chosen: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    if not parameters:
        yield dict(chosen)
        return
    first, *others = parameters
    known = first.name in chosen  # declared under another condition that holds too
    if known or not all(condition.is_active(chosen) for condition in first.conditions):
        yield from _combinations(others, values_of_range, chosen)
        return
    for value in _values(first, values_of_range):
        yield from _combinations(others, values_of_range, {**chosen, first.name: value})


def _values(parameter: Any, count: int) -> list[Any]:
    from keras_tuner.engine import hyperparameters as kinds

    if not isinstance(parameter, kinds.Float | kinds.Int):
        return list(parameter.values)
    low, high, sampling = parameter.min_value, parameter.max_value, parameter.sampling
    if isinstance(parameter, kinds.Int) or parameter.step or sampling == "reverse_log":
        places = np.linspace(0.0, 1.0, count)
        return list(dict.fromkeys(parameter.prob_to_value(min(p, 1 - 1e-9)) for p in places))
    spread = np.geomspace if sampling == "log" else np.linspace
    return [low, *map(float, spread(low, high, count)[1:-1]), high]
