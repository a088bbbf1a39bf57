"""Products of a Keras model's Hessian with vectors, on a fixed set of examples."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tfbatch.errors import InputError
from tfbatch.gradients.loss import batch_loss, measured_sum, why_not
from tfbatch.gradients.model_state import state_restored


class HessianProduct:
    """v to H v for the Hessian of the mean loss over given batches (Pearlmutter 1994).

    By double back-propagation: the gradient of g'v. It needs no forward mode, which lacks rules
    for some operations. In inference mode: no dropout, BatchNormalization by its moving
    statistics; regularization is included.

    Args:
        model: A built, compiled model; nothing of it is changed.
        batches: Batches as `fit` takes them; each counts by its number of examples.

    Attributes:
        dimension: Number of trainable weights.
        examples: Number of examples.

    Raises:
        InputError: A model that `why_not` refuses, no batch, or a loss that is no mean over the
            examples of the first batch.
    """

    def __init__(self, model: keras.Model, batches: Sequence[object]):
        if reason := why_not(model):
            raise InputError(f"The model's Hessian cannot be measured: {reason}.")
        if not batches:
            raise InputError("`batches` must hold at least one batch. Received: none.")
        if reason := measured_sum(model, batches[0]):
            raise InputError(f"The model's Hessian cannot be measured: {reason}.")
        self._model, self._batches = model, list(batches)
        self._sizes = [int(keras.tree.flatten(batch)[0].shape[0]) for batch in self._batches]
        self.examples = sum(self._sizes)
        self._shapes = [tuple(v.shape) for v in model.trainable_variables]
        self._ends = np.cumsum([int(np.prod(shape)) for shape in self._shapes])
        self.dimension = int(self._ends[-1])
        self._product = tf.function(self._of_batch, reduce_retracing=True, autograph=False)

    def __call__(self, vector: np.ndarray) -> np.ndarray:
        """H v, float64 [dimension]; computed in the precision of the weights.

        Args:
            vector: [dimension], in the order of `model.trainable_variables`.
        """
        pieces = np.split(np.asarray(vector), self._ends[:-1])
        parts = [
            tf.constant(piece.reshape(shape), variable.dtype)
            for piece, shape, variable in zip(
                pieces, self._shapes, self._model.trainable_variables, strict=True
            )
        ]
        total = np.zeros(self.dimension)
        with state_restored(self._model):
            for batch, size in zip(self._batches, self._sizes, strict=True):
                product = self._product(batch, parts)
                total += size / self.examples * np.concatenate([p.numpy().ravel() for p in product])
        return total

    def _of_batch(self, batch: object, parts: list[tf.Tensor]) -> list[tf.Tensor]:
        variables = [variable.value for variable in self._model.trainable_variables]
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                loss = batch_loss(self._model, batch, training=False)
            gradients = inner.gradient(loss, variables, unconnected_gradients="zero")
            slope = tf.add_n(
                [
                    tf.reduce_sum(tf.convert_to_tensor(gradient) * part)
                    for gradient, part in zip(gradients, parts, strict=True)
                ]
            )
        product = outer.gradient(slope, variables, unconnected_gradients="zero")
        return [tf.convert_to_tensor(part) for part in product]
