"""A model's loss as a function of one vector of weights, as SciPy's minimizers take it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import tensorflow as tf

Vector = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
_AT_ONCE = 512


class FlatLoss:
    """The mean loss of some examples and its gradient, in inference mode.

    Args:
        model: A built, compiled model. It has the weights that were asked for last.
        examples: The data, each part a tensor of the same length.
        heartbeat: Called before each evaluation.
        at_once: How many examples are in memory together.

    Attributes:
        start: The model's weights when this was made.
        count: Number of examples.
    """

    def __init__(
        self,
        model: tf.keras.Model,
        examples: tuple[tf.Tensor, ...],
        *,
        heartbeat: Callable[[], None] = lambda: None,
        at_once: int = _AT_ONCE,
    ):
        import tensorflow as tf

        from tfbatch.gradients.loss import batch_loss

        self._variables = list(model.trainable_variables)

        def of_batch(batch: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, list[tf.Tensor]]:
            with tf.GradientTape() as tape:
                loss = batch_loss(model, batch, training=False)
            values = [variable.value for variable in self._variables]
            slopes = tape.gradient(loss, values, unconnected_gradients="zero")
            return loss, [tf.convert_to_tensor(slope) for slope in slopes]

        self._of_batch = tf.function(of_batch, reduce_retracing=True, autograph=False)
        self._shapes = [tuple(variable.shape) for variable in self._variables]
        self._ends = np.cumsum([math.prod(shape) for shape in self._shapes])[:-1]
        self._examples = examples
        self._heartbeat, self._at_once = heartbeat, at_once
        self.count = len(examples[-1])
        self.start = joined([variable.numpy() for variable in self._variables])

    def __call__(self, weights: Vector, chosen: Indices | None = None) -> tuple[float, Vector]:
        """Loss and gradient at some weights; of all examples, or of those with these indices."""
        from tfbatch.claims.extremes import taken

        self._heartbeat()
        self._put(weights)
        everything = np.arange(self.count) if chosen is None else chosen
        loss, gradient = 0.0, np.zeros_like(self.start)
        for first in range(0, len(everything), self._at_once):
            part = everything[first : first + self._at_once]
            value, slopes = self._of_batch(taken(self._examples, part))
            share = len(part) / len(everything)
            loss += share * float(value)
            gradient += share * joined([slope.numpy() for slope in slopes])
        return loss, gradient

    def _put(self, weights: Vector) -> None:
        parts = np.split(weights, self._ends)
        for variable, part, shape in zip(self._variables, parts, self._shapes, strict=True):
            variable.assign(part.reshape(shape))


def joined(parts: list[npt.NDArray[np.float32]]) -> Vector:
    """One vector of all weights, or of their slopes."""
    return np.concatenate([part.astype(np.float64).ravel() for part in parts])
