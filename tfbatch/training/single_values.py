"""Metrics of one value each: only these can be compared, written as a curve, or kept in a row."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt


def single_values(logs: Mapping[str, npt.ArrayLike]) -> dict[str, float]:
    """What Keras logs, without metrics of several values, such as an F1 score of each class."""
    return {name: np.asarray(value).item() for name, value in logs.items() if np.size(value) == 1}


def several_values(logs: Mapping[str, npt.ArrayLike]) -> tuple[str, ...]:
    """The names of metrics of several values."""
    return tuple(name for name, value in logs.items() if np.size(value) != 1)
