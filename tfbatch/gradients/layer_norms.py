"""Squared norms of gradients, layer by layer, as they are and as an optimizer rescales them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbatch.errors import InputError
from tfbatch.gradients.squared_norms import MeanLossCheck, check_measurable
from tfbatch.gradients.untouched import OwnRandomness, untouched


class LayerNorms:
    """Computes, for batches cut into k micro-batches, squared norms of each layer.

    As SquaredNorms, whose conventions it shares (the compiled loss or the model's own
    `compute_loss`, sample weights, regularization included), in one graph for all micro-batches.

    Args:
        model: A built, compiled model; nothing of it is changed.
        micro_batches: k, at least 2.
        training: False: the inference mode. True: the training mode, with dropout, in which
            BatchNormalization takes the statistics of each micro-batch.

    Attributes:
        layers: Names of the layers that have trainable weights.

    Raises:
        InputError: A model that `why_not` refuses, fewer than 2 micro-batches.
    """

    def __init__(self, model: Any, *, micro_batches: int = 8, training: bool = False):
        check_measurable(model, micro_batches)
        if not model.trainable_variables:
            raise InputError("The model must have trainable weights: unfreeze a layer.")
        self.micro_batches = micro_batches
        self._model = model
        self._training = training
        owners = [variable.path.rsplit("/", 1)[0] for variable in model.trainable_variables]
        self.layers = tuple(dict.fromkeys(owners))
        self._layer_of = [self.layers.index(owner) for owner in owners]
        self._mean_loss, self._randomness = MeanLossCheck(model), OwnRandomness(model)
        self._sum = tf.function(self._summed, reduce_retracing=True, autograph=False)

    def __call__(
        self, batch: Any, preconditioner: Sequence[Any] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Small and large squared norms, float64 [2, layers] each.

        Row 0 is |g|^2, row 1 is g'Pg; without a preconditioner both are the same. Small ones are
        the mean over the micro-batches, large ones those of the mean gradient.

        Args:
            batch: x, (x, y) or (x, y, sample_weight), with k * b examples.
            preconditioner: The diagonal of P, a tensor >= 0 for each trainable weight.

        Raises:
            InputError: The loss of the first batch is not a mean over its examples.
        """
        self._mean_loss(batch)
        scales = self._ones() if preconditioner is None else list(preconditioner)
        with untouched(self._model), self._randomness.running():
            squares, sums = self._sum(batch, scales)
            large = self._squares(sums, scales)
        return squares.numpy() / self.micro_batches, large.numpy() / self.micro_batches**2

    def mean_gradient(self, batch: Any) -> list[Any]:
        """The mean gradient of the micro-batches, a tensor for each trainable weight.

        Raises:
            InputError: The loss of the first batch is not a mean over its examples.
        """
        self._mean_loss(batch)
        with untouched(self._model), self._randomness.running():
            _, sums = self._sum(batch, self._ones())
        return [part / self.micro_batches for part in sums]

    def _ones(self) -> list[Any]:
        return [tf.ones([], v.dtype) for v in self._model.trainable_variables]

    def _summed(self, batch: Any, scales: list[Any]) -> tuple[Any, list[Any]]:
        size = tf.shape(keras.tree.flatten(batch)[0])[0] // self.micro_batches
        variables = self._model.trainable_variables

        def add(index: Any, squares: Any, sums: list[Any]) -> tuple[Any, Any, list[Any]]:
            rows = slice(index * size, (index + 1) * size)
            part = keras.tree.map_structure(lambda leaf: leaf[rows], batch)
            gradients = gradients_of(self._model, part, training=self._training)
            added = [one + other for one, other in zip(sums, gradients, strict=True)]
            return index + 1, squares + self._squares(gradients, scales), added

        _, squares, sums = tf.while_loop(
            lambda index, squares, sums: index < self.micro_batches,
            add,
            (
                tf.constant(0),
                tf.zeros([2, len(self.layers)], tf.float64),
                [tf.zeros(v.shape, v.dtype) for v in variables],
            ),
            parallel_iterations=1,
        )
        return squares, sums

    def _squares(self, gradients: list[Any], scales: list[Any]) -> Any:
        """In float64: the small and large squared norms are subtracted from each other."""
        plain, scaled = [], []
        for gradient, scale in zip(gradients, scales, strict=True):
            square = tf.square(tf.cast(gradient, tf.float64))
            plain.append(tf.reduce_sum(square))
            scaled.append(tf.reduce_sum(tf.cast(scale, tf.float64) * square))
        count = len(self.layers)
        return tf.stack(
            [
                tf.math.unsorted_segment_sum(tf.stack(s), self._layer_of, count)
                for s in (plain, scaled)
            ]
        )


def loss_of(model: Any, batch: Any, *, training: bool) -> Any:
    """A batch's loss as training computes it: the model's own `compute_loss`."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
    y_pred = model(x, training=training) if model._call_has_training_arg else model(x)
    return model.compute_loss(
        x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training
    )


def gradients_of(model: Any, batch: Any, *, training: bool) -> list[Any]:
    """The gradient of a batch's loss, a dense tensor for each trainable weight."""
    with tf.GradientTape() as tape:
        loss = loss_of(model, batch, training=training)
    variables = [variable.value for variable in model.trainable_variables]
    gradients = tape.gradient(loss, variables, unconnected_gradients="zero")
    return [tf.convert_to_tensor(gradient) for gradient in gradients]
