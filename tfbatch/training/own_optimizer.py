"""The optimizer that a user's builder compiled: which plug-in it is, and others like it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from tfbatch.errors import InputError
from tfbatch.optimizers import OPTIMIZERS
from tfbatch.schema import Named

OWN = "own"
"""The name of an optimizer that is none of tfbatch/optimizers."""


def named_like(optimizer: Any) -> Named:
    """A compiled optimizer as a configuration names it: its plug-in, and the plug-in's numbers.

    The plug-in is the one of the same Keras class; an optimizer of another class is `own`, whose
    only tunable number is the learning rate.
    """
    inner = unwrapped(optimizer)
    config = inner.get_config()
    for name in OPTIMIZERS.names():
        module = OPTIMIZERS.load(name)
        if name != OWN and type(inner) is getattr(keras.optimizers, module.KERAS_NAME):
            numbers = {key: config[key] for key in module.PARAMETERS if config.get(key) is not None}
            return Named(name=name, **numbers)
    return Named(name=OWN)


def learning_rate_of(optimizer: Any) -> float | None:
    """The constant learning rate that an optimizer was made with, or None for a schedule."""
    found = unwrapped(optimizer).get_config().get("learning_rate")
    # It was a float32 variable in between: 0.003, not 0.003000000026.
    return float(f"{found:.7g}") if isinstance(found, int | float) else None


def optimizer_like(compiled: Any, numbers: Mapping[str, Any], learning_rate: Any) -> Any:
    """An optimizer of the compiled one's class and settings, with other numbers.

    Args:
        compiled: The compiled optimizer; it is not changed.
        numbers: What differs, by name.
        learning_rate: A number or a schedule.

    Raises:
        InputError: The class refuses the numbers, or cannot be made from its own configuration.
    """
    inner = unwrapped(compiled)
    config = {**inner.get_config(), **numbers, "learning_rate": learning_rate}
    try:
        return type(inner).from_config(config)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{type(inner).__name__} cannot be made from its own `get_config()` with another "
            f"learning rate: {error}"
        ) from error


def unwrapped(optimizer: Any) -> Any:
    """The optimizer inside one that scales the loss."""
    return getattr(optimizer, "inner_optimizer", optimizer)
