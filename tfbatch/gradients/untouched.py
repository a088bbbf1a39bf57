"""Lets something run on a model and puts the model's state back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf


@contextlib.contextmanager
def untouched(model: Any, *, weights: bool = False) -> Iterator[None]:
    """Restores, bit by bit, what forward passes change; also if the block raises.

    These are the moving statistics, the seed generators of dropout and augmentation layers, and
    the metrics. A generator that is no layer's, such as Keras's global one, is not restored.

    Args:
        model: A built, compiled model.
        weights: Whether weights and the optimizer's variables are restored too. They exist twice
            in memory meanwhile.
    """
    found = [*(model.variables if weights else model.non_trainable_variables)]
    found += model.metrics_variables
    if weights:
        found += model.optimizer.variables
    variables = list({id(variable): variable for variable in found}.values())
    values = [tf.identity(variable.value) for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
