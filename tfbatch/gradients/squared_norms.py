"""Squared norms of a batch's gradient and of its micro-batches' gradients."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfbatch.errors import InputError
from tfbatch.gradients.mean_loss import declared_sum, measured_sum
from tfbatch.gradients.untouched import OwnRandomness, untouched


def why_not(model: Any) -> str | None:
    """Why the gradient of a model cannot be measured from outside; None if it can."""
    if type(model).train_step is not keras.Model.train_step:
        return (
            f"{type(model).__name__} has a train_step of its own, whose gradient is not that of "
            "the compiled loss"
        )
    if model.dtype_policy.compute_dtype == "float16":
        return "gradients of float16 need the loss scaling of training: use mixed_bfloat16"
    return declared_sum(model)


def check_measurable(model: Any, micro_batches: int) -> None:
    """Refuses what `why_not` refuses, and fewer than 2 micro-batches.

    Raises:
        InputError: Either.
    """
    if micro_batches < 2:
        raise InputError(f"`micro_batches` must be >= 2. Received: {micro_batches=}.")
    if reason := why_not(model):
        raise InputError(f"The model's gradients cannot be measured: {reason}.")


class MeanLossCheck:
    """Refuses, at the first batch, a loss that is not a mean over the examples.

    Args:
        model: A built, compiled model.
    """

    def __init__(self, model: Any):
        self._model = model
        self._is_checked = False

    def __call__(self, batch: Any) -> None:
        """Looks at the first batch alone.

        Raises:
            InputError: Its loss is no mean over its examples.
        """
        if self._is_checked:
            return
        if reason := measured_sum(self._model, batch):
            raise InputError(f"The model's gradients cannot be measured: {reason}.")
        self._is_checked = True


class SquaredNorms:
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

    def __init__(self, model: Any, *, micro_batches: int = 8, training: bool = False):
        check_measurable(model, micro_batches)
        self.micro_batches, self.training = micro_batches, training
        self._model = model
        self._mean_loss, self._randomness = MeanLossCheck(model), OwnRandomness(model)
        self._add = tf.function(self._added, reduce_retracing=True)

    @property
    def traces(self) -> int:
        """How often the gradient's program was traced: anew for some shapes of a batch."""
        return int(self._add.experimental_get_tracing_count())

    def micro_batch_size(self, batch: Any) -> int:
        """Examples in one micro-batch of a batch; 0 if the batch is too small."""
        return self.examples(batch) // self.micro_batches

    def examples(self, batch: Any) -> int:
        """Examples in a batch."""
        return int(keras.tree.flatten(batch)[0].shape[0])

    def __call__(self, batch: Any) -> tuple[float, float]:
        """The two squared norms.

        Args:
            batch: x, (x, y) or (x, y, sample_weight); each leaf has the examples in its first
                dimension. Examples beyond k times the micro-batch size are left out.

        Raises:
            InputError: Fewer examples than micro-batches; the loss of the first batch is no mean
                over its examples.
        """
        self._check(batch)
        sums, squares = self._zeros(), []
        with untouched(self._model), self._randomness.running():
            for index in range(self.micro_batches):
                square, sums = self._add(self._part(batch, index), sums)
                squares.append(square)
        small = tf.add_n(squares) / self.micro_batches
        large = _squared_norm(sums) / self.micro_batches**2
        return float(small), float(large)

    def rehearse(self, batch: Any) -> None:
        """Does for one micro-batch what a call does for all, and forgets it.

        Args:
            batch: As for a call.

        Raises:
            InputError: Fewer examples than micro-batches; the loss of the first batch is no mean
                over its examples.
        """
        self._check(batch)
        with untouched(self._model):
            square, sums = self._add(self._part(batch, 0), self._zeros())
            float(square + _squared_norm(sums))  # a GPU's kernels have then ended

    def _check(self, batch: Any) -> None:
        if not self.micro_batch_size(batch):
            raise InputError(
                f"A batch must hold an example for each of the {self.micro_batches} micro-batches."
            )
        self._mean_loss(batch)

    def _zeros(self) -> list[Any]:
        return [tf.zeros(v.shape, v.dtype) for v in self._model.trainable_variables]

    def _part(self, batch: Any, index: int) -> Any:
        size = self.micro_batch_size(batch)
        rows = slice(index * size, (index + 1) * size)
        return keras.tree.map_structure(lambda leaf: leaf[rows], batch)

    def _added(self, batch: Any, sums: list[Any]) -> tuple[Any, list[Any]]:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        model = self._model
        with tf.GradientTape() as tape:
            y_pred = model(x, training=self.training) if model._call_has_training_arg else model(x)
            loss = model.compute_loss(
                x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=self.training
            )
        variables = [v.value for v in model.trainable_variables]
        gradients = tape.gradient(loss, variables, unconnected_gradients="zero")
        gradients = [tf.convert_to_tensor(g) for g in gradients]
        return _squared_norm(gradients), [s + g for s, g in zip(sums, gradients, strict=True)]


def _squared_norm(gradients: list[Any]) -> Any:
    """In float64: the two squared norms are subtracted from each other."""
    return tf.add_n([tf.reduce_sum(tf.square(tf.cast(g, tf.float64))) for g in gradients])
