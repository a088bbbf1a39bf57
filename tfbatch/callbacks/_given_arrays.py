"""Arrays that a user gives to a callback, whose examples are picked by their position."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfbatch.errors import InputError

_AT_ONCE = 4096
"""Examples that are looked at together: a copy of all of them would double the memory."""


def as_arrays(given: tuple[object, ...], *, what: str) -> tuple[object, ...]:
    """The same structure of NumPy arrays: pandas picks by labels, a tensor takes no list of rows.

    Args:
        given: Inputs, targets and so on, each one or a structure of what `fit` takes as arrays.
        what: What it is called, for messages.

    Raises:
        InputError: Something else, such as a list of numbers or a sparse matrix; arrays of unequal
            lengths, or without any example.
    """
    arrays: tuple[object, ...] = keras.tree.map_structure(lambda leaf: _as_array(leaf, what), given)
    lengths = {len(array) for array in keras.tree.flatten(arrays)}
    if len(lengths) != 1 or lengths == {0}:
        raise InputError(
            f"The arrays of {what} must have the same number of examples, at least 1. "
            f"Received: {sorted(lengths)}."
        )
    return arrays


def _as_array(leaf: object, what: str) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.asarray(leaf)
        tf.convert_to_tensor(array[:1])
        if array.dtype == object:  # each one may be another
            for start in range(1, len(array), _AT_ONCE):
                tf.convert_to_tensor(array[start : start + _AT_ONCE])
    except (TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"{what} must be arrays of numbers or text, with the examples in the first dimension. "
            f"Received: {type(leaf).__name__}. Give `np.asarray(...)` of a list of numbers, "
            "`.toarray()` of a sparse matrix, and only numeric columns of a DataFrame."
        ) from error
    # A Series of pandas is a column, as it is in `fit`; a vector of NumPy is none.
    is_column = array.ndim == 1 and type(leaf).__module__.split(".")[0] == "pandas"
    return array[:, None] if is_column else array
