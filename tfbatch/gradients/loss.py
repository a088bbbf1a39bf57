"""A model's loss and gradient on a batch, and whether they can be measured from outside `fit`.

Every measured gradient is that of a mean over the examples: a loss that is a sum is refused.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from tfbatch.errors import InputError
from tfbatch.gradients.model_state import state_restored

_EXAMPLES = 8
_TOLERANCES = {"float64": 1e-3, "float32": 1e-3}
_OTHER_TOLERANCE = 0.05  # 16 bits
_SPREADS = 4.0
_REMEDY = (
    '{what}. Use reduction="sum_over_batch_size", or let the loss function return one loss for '
    "each example"
)


def batch_loss(model: keras.Model, batch: object, *, training: bool) -> tf.Tensor:
    """A batch's loss as training computes it: the model's own `compute_loss`."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
    y_pred = model(x, training=training) if model._call_has_training_arg else model(x)
    return model.compute_loss(
        x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training
    )


def gradients_of(model: keras.Model, batch: object, *, training: bool) -> list[tf.Tensor]:
    """The gradient of a batch's loss, a dense tensor for each trainable weight."""
    with tf.GradientTape() as tape:
        loss = batch_loss(model, batch, training=training)
    variables = [variable.value for variable in model.trainable_variables]
    gradients = tape.gradient(loss, variables, unconnected_gradients="zero")
    return [tf.convert_to_tensor(gradient) for gradient in gradients]


def why_not(model: keras.Model) -> str | None:
    """Why the gradient of a model cannot be measured from outside; None if it can."""
    if type(model).train_step is not keras.Model.train_step:
        return (
            f"{type(model).__name__} has a train_step of its own, whose gradient is not that of "
            "the compiled loss"
        )
    if model.dtype_policy.compute_dtype == "float16":
        return "gradients of float16 need the loss scaling of training: use mixed_bfloat16"
    return declared_sum(model)


def check_measurable(model: keras.Model, micro_batches: int) -> None:
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

    def __init__(self, model: keras.Model):
        self._model = model
        self._is_checked = False

    def __call__(self, batch: object) -> None:
        """Looks at the first batch alone.

        Raises:
            InputError: Its loss is no mean over its examples.
        """
        if self._is_checked:
            return
        if reason := measured_sum(self._model, batch):
            raise InputError(f"The model's gradients cannot be measured: {reason}.")
        self._is_checked = True


def declared_sum(model: keras.Model) -> str | None:
    """Why the compiled losses are not means, from their declared reduction; None if unknown.

    Keras adds up what a reduction of None leaves, when it takes the gradient.
    """
    for loss in keras.tree.flatten(model.loss):
        if isinstance(loss, keras.losses.Loss) and loss.reduction in ("sum", "none", None):
            return _REMEDY.format(what=f"the loss is summed over the batch ({loss.name})")
    return None


def measured_sum(model: keras.Model, batch: object) -> str | None:
    """Why the loss is not a mean over the examples, by measurement; None if it is one.

    A few examples are given once and then twice each: a mean is unchanged, a sum doubles. That
    finds sums wherever they occur, in a function, a list, `compute_loss` or `add_loss`. Where a
    model accepts only one batch size, this cannot be measured, and None is returned.

    Args:
        model: A built, compiled model; nothing of it is changed.
        batch: As `fit` takes it.
    """
    with state_restored(model):
        try:
            one = keras.tree.map_structure(lambda leaf: leaf[:_EXAMPLES], batch)
            two = keras.tree.map_structure(lambda leaf: tf.concat([leaf, leaf], 0), one)
            once, again, twice = (
                float(tf.reduce_sum(batch_loss(model, each, training=False)))
                for each in (one, one, two)
            )
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
