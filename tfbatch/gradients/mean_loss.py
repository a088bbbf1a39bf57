"""Whether a model's loss is a mean over the examples, as every measured gradient requires."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfbatch.gradients.untouched import untouched

_EXAMPLES = 8
_TOLERANCES = {"float64": 1e-3, "float32": 1e-3}
_OTHER_TOLERANCE = 0.05  # 16 bits
_SPREADS = 4.0


def declared_sum(model: Any) -> str | None:
    """Why the compiled losses are not means, from their declared reduction; None if unknown.

    Keras adds up what a reduction of None leaves, when it takes the gradient.
    """
    for loss in keras.tree.flatten(model.loss):
        if isinstance(loss, keras.losses.Loss) and loss.reduction in ("sum", "none", None):
            return _REMEDY.format(what=f"the loss is summed over the batch ({loss.name})")
    return None


def measured_sum(model: Any, batch: Any) -> str | None:
    """Why the loss is not a mean over the examples, by measurement; None if it is one.

    A few examples are given once and then twice each: a mean is unchanged, a sum doubles. That
    finds sums wherever they occur, in a function, a list, `compute_loss` or `add_loss`. Where a
    model accepts only one batch size, this cannot be measured, and None is returned.

    Args:
        model: A built, compiled model; nothing of it is changed.
        batch: As `fit` takes it.
    """
    with untouched(model):
        try:
            one = keras.tree.map_structure(lambda leaf: leaf[:_EXAMPLES], batch)
            two = keras.tree.map_structure(lambda leaf: tf.concat([leaf, leaf], 0), one)
            once, again, twice = (_loss(model, each) for each in (one, one, two))
        except (ValueError, tf.errors.InvalidArgumentError):  # a fixed batch size
            return None
    own = _TOLERANCES.get(model.dtype_policy.compute_dtype, _OTHER_TOLERANCE)
    largest = max(abs(once), abs(twice))
    # A forward pass that draws random numbers in inference too differs from itself.
    if not abs(twice - once) > own * largest + _SPREADS * abs(again - once):
        return None
    what = (
        "the loss is not a mean over the examples: duplicating each example changes it from "
        f"{once:.4g} to {twice:.4g}"
    )
    return _REMEDY.format(what=what)


_REMEDY = (
    '{what}. Use reduction="sum_over_batch_size", or let the loss function return one loss for '
    "each example"
)


def _loss(model: Any, batch: Any) -> float:
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
    y_pred = model(x, training=False) if model._call_has_training_arg else model(x)
    found = model.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=False)
    return float(tf.reduce_sum(found))
