"""Runs something on a model and restores the model's state; has its own random masks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf


@contextlib.contextmanager
def state_restored(model: keras.Model, *, weights: bool = False) -> Iterator[None]:
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


class OwnRandomness:
    """Random numbers of layers that go on from one measurement to the next.

    `state_restored` puts seed generators back, so that every measurement would see the same dropout
    masks, and those of the training's next steps. Within `running` the generators go on where the
    last measurement left them, on a stream apart from the training's.

    Args:
        model: A model that is built before the first measurement.
    """

    def __init__(self, model: keras.Model):
        self._model = model
        self._states: list[np.ndarray] | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """To be used within `state_restored`."""
        found = self._model.non_trainable_variables
        generators = [variable for variable in found if variable.name == "seed_generator_state"]
        if self._states is None:
            self._states = [generator.value.numpy() ^ _APART for generator in generators]
        for generator, state in zip(generators, self._states, strict=True):
            generator.assign(state)
        try:
            yield
        finally:
            self._states = [generator.value.numpy() for generator in generators]


_APART = np.array([0x9E3779B9, 0], np.uint32)
