"""Arrays that a user gives to a callback, whose examples are picked by their position."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfbatch.errors import InputError


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
        # Of objects each one may be another; what has one type is known by its first example.
        tf.convert_to_tensor(array if array.dtype == object else array[:1])
    except (TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"{what} must be arrays of numbers or text, with the examples in the first dimension. "
            f"Received: {type(leaf).__name__}. Give `np.asarray(...)` of a list of numbers, "
            "`.toarray()` of a sparse matrix, and numbers for the columns of a DataFrame."
        ) from error
    return array
