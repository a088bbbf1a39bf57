"""Arrays of measurements as the estimators take them: float64, finite, of a stated length."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tfbatch.errors import InputError

Array = npt.NDArray[np.float64]


def checked_array(
    values: npt.ArrayLike,
    *,
    name: str,
    dimensions: int = 1,
    at_least: int = 1,
    positive: bool = True,
) -> Array:
    """The values as a float64 array.

    Args:
        values: A sequence of numbers, nested for more than one dimension.
        name: What the caller calls them, for the message.
        dimensions: Number of dimensions.
        at_least: Smallest allowed length of every dimension.
        positive: Whether every value must be > 0; else they must be finite.

    Raises:
        InputError: Another shape, or a value that is not allowed.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"`{name}` must be numbers. Received: {values!r}.") from error
    if array.ndim != dimensions or min(array.shape, default=0) < at_least:
        raise InputError(
            f"`{name}` must have {dimensions} dimension(s) of length >= {at_least}. Received an "
            f"array of shape {array.shape}."
        )
    wrong = ~np.isfinite(array) | ((array <= 0) if positive else False)
    if wrong.any():
        rule = "> 0 and finite" if positive else "finite"
        raise InputError(f"`{name}` must be {rule}. Received: {float(array[wrong][0])}.")
    return array


def check_same_length(**arrays: Array) -> None:
    """Refuses arrays of different lengths.

    Raises:
        InputError: The lengths differ.
    """
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise InputError(f"One value for each is needed, of the same length. Received: {told}.")


def check_positive(**values: float) -> None:
    """Refuses numbers that are not > 0 and finite.

    Raises:
        InputError: The first such number.
    """
    for name, value in values.items():
        if not (value > 0 and np.isfinite(value)):
            raise InputError(f"`{name}` must be > 0 and finite. Received: {value!r}.")
