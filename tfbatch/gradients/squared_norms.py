"""Squared norms of a batch's gradient and of its micro-batches' gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfbatch.errors import InputError
from tfbatch.gradients.loss import MeanLossCheck, check_measurable, gradients_of
from tfbatch.gradients.model_state import OwnRandomness, state_restored


class _MicroBatches:
    """A batch cut into k parts, whose gradients are measured without a trace on the model."""

    def __init__(self, model: keras.Model, *, micro_batches: int, training: bool):
        check_measurable(model, micro_batches)
        self.micro_batches, self.training = micro_batches, training
        self._model = model
        self._mean_loss, self._randomness = MeanLossCheck(model), OwnRandomness(model)

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        with state_restored(self._model), self._randomness.running():
            yield

    def _part(self, batch: object, index: int | tf.Tensor, size: int | tf.Tensor) -> object:
        """The micro-batch with this index, of `size` examples."""
        rows = slice(index * size, (index + 1) * size)
        return keras.tree.map_structure(lambda leaf: None if leaf is None else leaf[rows], batch)

    def _gradients(self, batch: object) -> list[tf.Tensor]:
        return gradients_of(self._model, batch, training=self.training)

    def _zeros(self) -> list[tf.Tensor]:
        return [tf.zeros(v.shape, v.dtype) for v in self._model.trainable_variables]


class SquaredNorms(_MicroBatches):
    """Computes, for a batch cut into k micro-batches, two squared norms.

    The mean of the k squared norms of the micro-batches' gradients, and the squared norm of the
    mean of these gradients: `small_squares` and `large_squares` of
    tfbatch.estimators.noise_scale, with b = examples // k and B = b k. Gradients are those of the
    compiled loss, averaged over the examples, regularization included, with respect to the
    trainable weights. Nothing of the model is changed.

    Args:
        model: A built, compiled model.
        micro_batches: k, at least 2.
        training: False: the inference mode, without dropout and with the moving statistics of
            BatchNormalization, so that examples do not depend on each other. True: the training
            mode, in which each micro-batch is normalized by itself.

    Attributes:
        micro_batches: k.
        training: As given.

    Raises:
        InputError: A model that `why_not` refuses, fewer than 2 micro-batches.
    """

    def __init__(self, model: keras.Model, *, micro_batches: int = 8, training: bool = False):
        super().__init__(model, micro_batches=micro_batches, training=training)
        self._add = tf.function(self._added, reduce_retracing=True)

    @property
    def traces(self) -> int:
        """How often the gradient's program was traced: anew for some shapes of a batch."""
        return int(self._add.experimental_get_tracing_count())

    def micro_batch_size(self, batch: object) -> int:
        """Examples in one micro-batch of a batch; 0 if the batch is too small."""
        return self.examples(batch) // self.micro_batches

    def examples(self, batch: object) -> int:
        """Examples in a batch."""
        return int(keras.tree.flatten(batch)[0].shape[0])

    def __call__(self, batch: object) -> tuple[float, float]:
        """The two squared norms.

        Args:
            batch: x, (x, y) or (x, y, sample_weight); each leaf has the examples in its first
                dimension. Examples beyond k times the micro-batch size are left out.

        Raises:
            InputError: Fewer examples than micro-batches; the loss of the first batch is no mean
                over its examples.
        """
        self._check(batch)
        size, sums, squares = self.micro_batch_size(batch), self._zeros(), []
        with self._running():
            for index in range(self.micro_batches):
                square, sums = self._add(self._part(batch, index, size), sums)
                squares.append(square)
        small = tf.add_n(squares) / self.micro_batches
        large = _squared_norm(sums) / self.micro_batches**2
        return float(small), float(large)

    def rehearse(self, batch: object) -> None:
        """Does for one micro-batch what a call does for all, and forgets it.

        Args:
            batch: As for a call.

        Raises:
            InputError: Fewer examples than micro-batches; the loss of the first batch is no mean
                over its examples.
        """
        self._check(batch)
        with state_restored(self._model):
            square, sums = self._add(
                self._part(batch, 0, self.micro_batch_size(batch)), self._zeros()
            )
            float(square + _squared_norm(sums))  # a GPU's kernels have then ended

    def _check(self, batch: object) -> None:
        if not self.micro_batch_size(batch):
            raise InputError(
                f"A batch must hold an example for each of the {self.micro_batches} micro-batches."
            )
        self._mean_loss(batch)

    def _added(self, batch: object, sums: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        gradients = self._gradients(batch)
        return _squared_norm(gradients), [s + g for s, g in zip(sums, gradients, strict=True)]


class LayerNorms(_MicroBatches):
    """The same of each layer, and as an optimizer rescales the gradient.

    One graph holds all micro-batches: an instrument measures many batches of one size, where a
    running `fit` may change the size, and wants to know what a part of one costs.

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

    def __init__(self, model: keras.Model, *, micro_batches: int = 8, training: bool = False):
        super().__init__(model, micro_batches=micro_batches, training=training)
        owners = [variable.path.rsplit("/", 1)[0] for variable in model.trainable_variables]
        self.layers = tuple(dict.fromkeys(owners))
        self._layer_of = [self.layers.index(owner) for owner in owners]
        self._sum = tf.function(self._summed, reduce_retracing=True, autograph=False)

    def __call__(
        self, batch: object, preconditioner: Sequence[tf.Tensor] | None = None
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
        with self._running():
            squares, sums = self._sum(batch, scales)
            large = self._squares(sums, scales)
        return squares.numpy() / self.micro_batches, large.numpy() / self.micro_batches**2

    def mean_gradient(self, batch: object) -> list[tf.Tensor]:
        """The mean gradient of the micro-batches, a tensor for each trainable weight.

        Raises:
            InputError: The loss of the first batch is not a mean over its examples.
        """
        self._mean_loss(batch)
        with self._running():
            _, sums = self._sum(batch, self._ones())
        return [part / self.micro_batches for part in sums]

    def _ones(self) -> list[tf.Tensor]:
        return [tf.ones([], v.dtype) for v in self._model.trainable_variables]

    def _summed(self, batch: object, scales: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        size = tf.shape(keras.tree.flatten(batch)[0])[0] // self.micro_batches

        def add(
            index: tf.Tensor, squares: tf.Tensor, sums: list[tf.Tensor]
        ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
            gradients = self._gradients(self._part(batch, index, size))
            added = [one + other for one, other in zip(sums, gradients, strict=True)]
            return index + 1, squares + self._squares(gradients, scales), added

        _, squares, sums = tf.while_loop(
            lambda index, squares, sums: index < self.micro_batches,
            add,
            (
                tf.constant(0),
                tf.zeros([2, len(self.layers)], tf.float64),
                self._zeros(),
            ),
            parallel_iterations=1,
        )
        return squares, sums

    def _squares(self, gradients: list[tf.Tensor], scales: list[tf.Tensor]) -> tf.Tensor:
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


def _squared_norm(gradients: list[tf.Tensor]) -> tf.Tensor:
    """In float64: the two squared norms are subtracted from each other."""
    return tf.add_n([tf.reduce_sum(tf.square(tf.cast(g, tf.float64))) for g in gradients])
