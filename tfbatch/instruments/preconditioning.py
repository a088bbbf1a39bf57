"""P = 1 / (sqrt(v) + epsilon): how an adaptive optimizer rescales the gradient."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tfbatch.gradients import LayerNorms

PILOT_BATCHES = 8
_EPSILON = 1e-7
_WITH_SECOND_MOMENTS = (
    keras.optimizers.Adam,
    keras.optimizers.Nadam,
    keras.optimizers.Lamb,
    keras.optimizers.RMSprop,
    keras.optimizers.Adagrad,
)


def slots_preconditioner(model: Any) -> tuple[list[Any], str] | None:
    """From the second moments that the model's optimizer has gathered; None if it keeps none."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if not isinstance(optimizer, _WITH_SECOND_MOMENTS):  # velocities of LARS are momentum
        return None
    slots = getattr(optimizer, "_velocities", None) or getattr(optimizer, "_accumulators", None)
    steps = int(optimizer.iterations)
    if not slots or not steps or len(slots) != len(model.trainable_variables):
        return None
    if any(slot is None for slot in slots):
        return None
    correction = 1.0
    if hasattr(optimizer, "beta_2"):  # Adam's v begins at 0
        correction = 1.0 - float(optimizer.beta_2) ** steps
    epsilon = float(getattr(optimizer, "epsilon", _EPSILON))
    scales = [_scale(slot.value / correction, epsilon) for slot in slots]
    return scales, f"v of {type(optimizer).__name__} after {steps} updates"


def measured_preconditioner(norms: LayerNorms, batches: Iterator[Any]) -> tuple[list[Any], str]:
    """From the mean square of a few batches' gradients, which are then not measured again."""
    moments: list[Any] = []
    count = 0
    for batch in itertools.islice(batches, PILOT_BATCHES):
        squares = [tf.square(gradient) for gradient in norms.mean_gradient(batch)]
        moments = [a + b for a, b in zip(moments, squares, strict=True)] if count else squares
        count += 1
    return [_scale(m / max(count, 1), _EPSILON) for m in moments], f"v measured on {count} batches"


def _scale(second_moment: Any, epsilon: float) -> Any:
    return 1.0 / (tf.sqrt(second_moment) + epsilon)
