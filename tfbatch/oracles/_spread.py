"""The first trials of a search: spread over the space, so that no batch size is left out."""

from __future__ import annotations

import math
from typing import Any

import keras_tuner
from scipy.stats import qmc


def spread_points(
    hyperparameters: keras_tuner.HyperParameters, *, count: int, seed: int
) -> list[dict[str, object]]:
    """Scrambled Sobol points (Owen 1998) of a space, conditional parameters included.

    Of the first 2**k points each 1/2**k of every range holds exactly one: with eight batch sizes
    the first eight trials try each once. Independent draws leave out a third of them.

    Args:
        hyperparameters: The space.
        count: Number of points.
        seed: Seed of the scrambling.

    Returns:
        Values of the active hyperparameters, one dictionary for each point, all different.
    """
    space = hyperparameters.space
    if not space:
        return []
    power = max(math.ceil(math.log2(count)), 0)
    unit = qmc.Sobol(len(space), scramble=True, rng=seed).random_base2(power)[:count]
    points: dict[tuple[tuple[str, Any], ...], dict[str, Any]] = {}
    for row in unit:
        values: dict[str, Any] = {}
        for hyperparameter, place in zip(space, row, strict=True):
            known = hyperparameter.name in values  # declared under another condition that holds too
            if not known and all(c.is_active(values) for c in hyperparameter.conditions):
                values[hyperparameter.name] = hyperparameter.prob_to_value(float(place))
        points.setdefault(tuple(values.items()), values)  # a space of a few choices has fewer
    return list(points.values())
