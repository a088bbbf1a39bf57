"""A model's loss and gradient on a batch, and whether they can be measured from outside `fit`.

Every measured gradient is that of a mean over the examples: a loss that is a sum is refused.
"""

from __future__ import annotations

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfbatch.errors import InputError
from tfbatch.gradients.model_state import state_restored

_Slopes = npt.NDArray[np.float64]
_EXAMPLES = 8
_COUPLED_EXAMPLES = 64
_PARALLEL = 1e-3
_HALF = (tf.float16, tf.bfloat16)
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
    if model.built and not model.trainable_variables:
        return "the model has no trainable weights: unfreeze a layer"
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
            InputError: Its loss is no mean over its examples, or a part of it cannot be cut.
        """
        if self._is_checked:
            return
        reason = (
            why_not(self._model)  # of a model that its first batch has built
            or uncut(batch)
            or measured_sum(self._model, batch)
            or measured_coupling(self._model, batch)
        )
        if reason:
            raise InputError(f"The model's gradients cannot be measured: {reason}.")
        self._is_checked = True


def uncut(batch: object) -> str | None:
    """Why a batch cannot be cut into smaller ones; None if it can."""
    if any(isinstance(leaf, tf.SparseTensor) for leaf in keras.tree.flatten(batch)):
        return (
            "the batches hold a sparse tensor, which cannot be cut into micro-batches. Make it "
            "dense: by `tf.sparse.to_dense` in the data, or `.toarray()` of a SciPy matrix"
        )
    return None


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
            one = _first(batch, _EXAMPLES)
            two = keras.tree.map_structure(
                lambda leaf: None if leaf is None else tf.concat([leaf, leaf], 0), one
            )
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


def measured_coupling(model: keras.Model, batch: object) -> str | None:
    """Why what an example adds to the loss depends on the others, by measurement; None if not.

    The loss of some examples is compared with those of two halves of them, at the same predictions:
    the derivatives by the predictions of a half must be those of the whole but for a factor, and
    the inverse factors must add up to 1. That holds for a mean (1/2 and 1/2), and where a loss
    divides by the weights or the unmasked steps of its batch (their shares). It does not hold for
    Dice over the batch, contrastive losses, or the root of a mean. The halves are those with the
    smaller and the larger targets: of halves alike, the losses would be alike too.

    Args:
        model: A built, compiled model; nothing of it is changed.
        batch: As `fit` takes it.
    """
    x, y, _ = keras.utils.unpack_x_y_sample_weight(_first(batch, _COUPLED_EXAMPLES))
    targets = [
        leaf
        for leaf in keras.tree.flatten(y)
        if leaf is not None
        and leaf.dtype != "string"
        and not isinstance(leaf, tf.RaggedTensor)  # of which there is no mean by example
    ]
    if not targets or len(targets[0]) < 4:
        return None
    with state_restored(model):
        try:
            y_pred = model(x, training=False) if model._call_has_training_arg else model(x)
        except (ValueError, tf.errors.InvalidArgumentError):  # a fixed batch size
            return None
        y_pred = keras.tree.map_structure(
            lambda leaf: tf.cast(leaf, tf.float32) if leaf.dtype in _HALF else leaf, y_pred
        )
        size = np.asarray(targets[0], "float64").reshape(len(targets[0]), -1).mean(axis=1)
        order = np.argsort(size, kind="stable")
        halves = [np.sort(part) for part in np.array_split(order, 2)]
        try:
            whole, again = (_slopes(model, x, y, y_pred, np.sort(order)) for _ in range(2))
            parts = [_slopes(model, x, y, y_pred, half) for half in halves]
        except (ValueError, tf.errors.InvalidArgumentError):  # a loss of one batch size
            return None
    for number, slopes in enumerate(whole):
        if not np.allclose(slopes, again[number], rtol=1e-5, atol=0):  # it draws numbers
            continue
        pairs = [
            (slopes[half].ravel(), part[number].ravel())
            for half, part in zip(halves, parts, strict=True)
        ]
        if not _are_shares(pairs):
            return _REMEDY.format(
                what="the loss is not a mean over the examples: what an example adds to it "
                "depends on the others in its batch, as in Dice over the batch"
            )
    return None


def _first(batch: object, count: int) -> object:
    """The first examples of a batch; a part that is None stays None."""
    return keras.tree.map_structure(lambda leaf: None if leaf is None else leaf[:count], batch)


def _slopes(
    model: keras.Model, x: object, y: object, y_pred: object, chosen: npt.NDArray[np.int64]
) -> list[_Slopes]:
    """The derivatives of the loss of some examples by each of their predictions."""
    x, y, y_pred = keras.tree.map_structure(
        lambda leaf: None if leaf is None else tf.gather(leaf, chosen), (x, y, y_pred)
    )
    outputs = [leaf for leaf in keras.tree.flatten(y_pred) if leaf.dtype.is_floating]
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        loss = model.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=None, training=False)
    slopes = tape.gradient(loss, outputs, unconnected_gradients="zero")
    return [np.asarray(slope, "float64") for slope in slopes]


def _are_shares(pairs: list[tuple[_Slopes, _Slopes]]) -> bool:
    """Whether halves' derivatives are multiples of the whole's, whose inverses add up to 1."""
    total = 0.0
    for whole, half in pairs:
        length, other = float(np.linalg.norm(whole)), float(np.linalg.norm(half))
        if not np.isfinite(length + other):
            return True  # of targets that are all left out, such as of ignored classes
        if length == other == 0:
            total = np.nan
            continue
        if length == 0 or other == 0 or np.linalg.norm(whole / length - half / other) > _PARALLEL:
            return False
        total += length / other
    return bool(np.isnan(total) or abs(total - 1) <= _PARALLEL)
