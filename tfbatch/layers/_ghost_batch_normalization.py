"""Batch normalization over parts of the batch."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfbatch.errors import InputError


@keras.saving.register_keras_serializable(package="tfbatch")
class GhostBatchNormalization(keras.layers.BatchNormalization):  # type: ignore[misc]
    """Normalizes each ghost batch, a part of the batch, with its own statistics.

    The noise that batch normalization adds is then that of a batch of `ghost_size`, whatever the
    batch size; a large batch keeps the regularization of a small one.

    Example:
        ```python
        hidden = keras.layers.Conv2D(32, 3, use_bias=False)(inputs)
        hidden = tfbatch.layers.GhostBatchNormalization(ghost_size=32, momentum=0.99)(hidden)
        hidden = keras.layers.Activation("relu")(hidden)
        ```

    A batch of B examples is cut, in its order, into max(B // ghost_size, 1) ghost batches. Each has
    `ghost_size` examples, but the last also takes the remainder: never a tiny ghost batch, whose
    statistics would be useless. So B < 2 * ghost_size is ordinary batch normalization. The moving
    statistics are updated once for each ghost batch, in order, as by Keras's layer called with one
    after the other:

    ```python
    for ghost in ghosts:
        moving_mean = momentum * moving_mean + (1 - momentum) * ghost.mean()
        moving_variance = momentum * moving_variance + (1 - momentum) * ghost.var()
    ```

    In inference it is `keras.layers.BatchNormalization`, whose weights it has: one can be loaded
    from the weights of the other. Under `tf.distribute` each replica cuts its own batch.

    Source: Hoffer, Hubara, Soudry 2017, "Train longer, generalize better", arXiv 1705.08741,
    algorithm 1; also good for small and medium batches: Summers & Dinneen 2020, arXiv 1906.03548.

    Args:
        ghost_size: Examples in a ghost batch, at least 1. 1 makes sense only where there are many
            positions, as in an image.
        **kwargs: Of `keras.layers.BatchNormalization`, without `renorm` and `synchronized`.

    Call arguments:
        inputs: [batch, ...], with the channels in `axis`, which is not the batch's.
        training: Whether to use the statistics of the ghost batches and update the moving ones.
        mask: [batch, ...], one dimension less than `inputs` (channels last); False positions are
            left out of the statistics. A ghost batch without any is as a batch without any.

    Raises:
        InputError: A number out of its range, or `renorm` or `synchronized`.
    """

    def __init__(self, ghost_size: int = 32, **kwargs: object):
        if not isinstance(ghost_size, int) or ghost_size < 1:
            raise InputError(f"`ghost_size` must be an integer >= 1. Received: {ghost_size=}.")
        refused = [key for key in ("renorm", "synchronized") if kwargs.get(key)]
        if refused:
            raise InputError(
                f"A ghost batch is normalized by itself: `{refused[0]}` must be False. "
                f"Received: {refused[0]}={kwargs[refused[0]]!r}."
            )
        super().__init__(**kwargs)
        self.ghost_size = ghost_size

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the weights of `keras.layers.BatchNormalization`."""
        if self.axis % len(input_shape) == 0:
            raise InputError(
                f"`axis` must not be the batch's. Received: axis={self.axis} for inputs of shape "
                f"{tuple(input_shape)}."
            )
        super().build(input_shape)

    def call(
        self,
        inputs: keras.KerasTensor,
        training: bool | None = None,
        mask: keras.KerasTensor = None,
    ) -> keras.KerasTensor:
        """See the class."""
        if not (training and self.trainable):
            return super().call(inputs, training=False, mask=mask)
        if mask is not None and len(mask.shape) != len(inputs.shape) - 1:
            raise InputError(
                "The mask must have one dimension less than the inputs. Received: "
                f"mask.shape={mask.shape}, inputs.shape={inputs.shape}."
            )
        # As Keras does: float16 would overflow.
        x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        channel = self.axis % len(inputs.shape)
        size = ops.shape(x)[0]
        # Arithmetic alone, so that the last batch of an epoch may have any size.
        count = ops.maximum(size // self.ghost_size, 1)
        ghost_of = ops.minimum(ops.arange(size, dtype="int32") // self.ghost_size, count - 1)
        mean, variance = _moments(
            x, _weights(x, mask), ghost_of=ghost_of, count=count, channel=channel
        )
        self._update_moving_statistics(mean, variance, count)
        mean, variance = (_per_example(v, ghost_of, x, channel) for v in (mean, variance))
        x = (x - mean) * ops.rsqrt(variance + self.epsilon)
        if self.scale:
            x = x * _per_channel(self.gamma, x, channel)
        if self.center:
            x = x + _per_channel(self.beta, x, channel)
        return ops.cast(x, self.compute_dtype)

    def _update_moving_statistics(self, mean: Any, variance: Any, count: Any) -> None:
        """One update for each of the `count` rows, in order, as a sum."""
        count = ops.cast(count, mean.dtype)
        later = count - 1 - ops.arange(count, dtype=mean.dtype)
        share = (1 - self.momentum) * ops.power(self.momentum, later)[:, None]
        for moving, rows in ((self.moving_mean, mean), (self.moving_variance, variance)):
            kept = ops.power(ops.cast(self.momentum, mean.dtype), count)
            old = ops.cast(moving, mean.dtype)
            moving.assign(ops.cast(kept * old + ops.sum(share * rows, axis=0), moving.dtype))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        config = {**super().get_config(), "ghost_size": self.ghost_size}
        return {k: v for k, v in config.items() if not k.startswith(("renorm", "synchronized"))}


def _moments(x: Any, weights: Any, *, ghost_of: Any, count: Any, channel: int) -> tuple[Any, Any]:
    """Mean and variance of each ghost batch and channel: twice [ghost batches, channels]."""
    others = [axis for axis in range(1, len(x.shape)) if axis != channel]

    def mean_of(values: Any) -> Any:
        sums = (
            ops.sum(values * weights, axis=others)
            if weights is not None
            else (ops.mean(values, axis=others))
        )
        return ops.segment_sum(sums, ghost_of, num_segments=count) / total

    if weights is None:
        ones = ops.ones((ops.shape(x)[0], 1), dtype=x.dtype)
        total = ops.segment_sum(ones, ghost_of, num_segments=count)
    else:
        per_example = ops.sum(weights, axis=others)
        total = ops.segment_sum(per_example, ghost_of, num_segments=count)
        total = total + keras.backend.epsilon()  # as Keras does
    mean = mean_of(x)
    return mean, mean_of(ops.square(x - _per_example(mean, ghost_of, x, channel)))


def _weights(x: Any, mask: Any) -> Any:
    """The mask as numbers that a tensor of the inputs' shape can be multiplied with, or None."""
    return None if mask is None else ops.cast(ops.expand_dims(mask, axis=-1), x.dtype)


def _per_example(rows: Any, ghost_of: Any, x: Any, channel: int) -> Any:
    """[ghost batches, channels] as [batch, 1, ..., channels, ..., 1]."""
    taken = ops.take(rows, ghost_of, axis=0)
    axes = [axis for axis in range(1, len(x.shape)) if axis != channel]
    return ops.expand_dims(taken, axis=axes) if axes else taken


def _per_channel(weight: Any, x: Any, channel: int) -> Any:
    shape = [-1 if axis == channel else 1 for axis in range(len(x.shape))]
    return ops.reshape(ops.cast(weight, x.dtype), shape)
