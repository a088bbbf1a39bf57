"""Every configuration of a space, in an order that is of use wherever a search ends."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import keras_tuner
import numpy as np

from tfbatch.errors import InputError

MOST_POINTS = 10_000
"""A larger grid is a mistake: nobody waits for its end."""

_BATCH_SIZE = "batch_size"


def grid_points(
    hyperparameters: keras_tuner.HyperParameters, *, values_of_range: int, seed: int
) -> list[dict[str, Any]]:
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
    sizes = [p for p in space if p.name == _BATCH_SIZE]
    others = [p for p in space if p.name != _BATCH_SIZE]
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
    return [{_BATCH_SIZE: size, **values} for values in points for size in sizes[0].values]


def _combinations(
    parameters: list[Any], values_of_range: int, chosen: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    if not parameters:
        yield dict(chosen)
        return
    first, *others = parameters
    if not all(condition.is_active(chosen) for condition in first.conditions):
        yield from _combinations(others, values_of_range, chosen)
        return
    for value in _values(first, values_of_range):
        yield from _combinations(others, values_of_range, {**chosen, first.name: value})


def _values(parameter: Any, count: int) -> list[Any]:
    if isinstance(parameter, keras_tuner.engine.hyperparameters.Choice):
        return list(parameter.values)
    low, high = parameter.min_value, parameter.max_value
    spread = np.geomspace if parameter.sampling == "log" else np.linspace
    inner = [float(value) for value in spread(low, high, count)[1:-1]]
    return [low, *inner, high]
