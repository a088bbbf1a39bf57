"""A user's `class_weight`: checked before any trial, and completed for every class."""

from __future__ import annotations

import tensorflow as tf

from tfbatch.dataset_info.content import TargetContent
from tfbatch.errors import InputError
from tfbatch.pipeline.trainable_data import Data


def every_class_weight(
    class_weight: dict[int, float] | None, num_classes: int | None
) -> dict[int, float] | None:
    """The weights with a 1 for each class without one: Keras fails on classes above the last named.

    (On a GPU it gives their examples a weight of 0 instead.)

    Args:
        class_weight: Weights of some classes, or None.
        num_classes: Number of classes, see `DataContent.weighted_classes`; None leaves the weights
            as they are.
    """
    if not class_weight or num_classes is None:
        return class_weight
    return {index: class_weight.get(index, 1.0) for index in range(num_classes)}


def check_class_weight(class_weight: dict[int, float] | None, data: Data) -> None:
    """Refuses weights that Keras would fail on in every trial, or ignore.

    Raises:
        InputError: Several targets, or one in a dict or a tuple; targets that are not classes,
            sample weights beside it, the weight of a class that does not exist, or no weight
            above 0.
    """
    if not class_weight:
        return
    targets = data.content.targets.get("train", ())
    if len(targets) > 1:
        raise InputError(
            "`class_weight` needs a model with one target: Keras cannot tell which of several it "
            f"is meant for. {data.name} has {len(targets)} targets. Give "
            "sample weights in the data instead: (inputs, targets, sample_weight)."
        )
    if targets and targets[0].key:
        raise InputError(
            "`class_weight` needs the target itself: Keras takes it for no target in a dict or a "
            f"tuple. Received: the {targets[0].name} of {data.name}. Give (inputs, target), or "
            "sample weights in the data instead: (inputs, targets, sample_weight)."
        )
    if data.content.sample_weights:
        raise InputError(
            "`class_weight` needs data without sample weights: Keras accepts only one of them. "
            f"Multiply the sample weights of {data.name} by the weight of each class."
        )
    classes = data.content.weighted_classes(data.num_classes)
    if classes is None and targets:
        mask = len(targets[0].shape) > 1
        axis = "masks with a last axis of 1, targets[..., None], or " if mask else ""
        raise InputError(
            "`class_weight` needs targets that are classes: whole numbers from 0, or one-hot "
            f"rows. Received: {_described(targets[0])}. Give {axis}sample weights in the data "
            "instead: (inputs, targets, sample_weight)."
        )
    absent = sorted(key for key in class_weight if classes is not None and not 0 <= key < classes)
    if absent:
        raise InputError(
            f"`class_weight` must name classes from 0 to {(classes or 0) - 1} of {data.name}. "
            f"Received: class {absent[0]}."
        )
    if classes and not any(class_weight.get(index, 1.0) for index in range(classes)):
        raise InputError(
            "`class_weight` must give some class a weight above 0: with 0 for each of the "
            f"{classes} classes of {data.name} no example counts."
        )


def _described(target: TargetContent) -> str:
    if target.minimum is None or target.maximum is None:
        return "targets that are not numbers"
    kind = "whole numbers" if target.whole else "numbers"
    shape = f" of shape {list(target.shape)}" if target.shape else ""
    return f"{kind}{shape} from {target.minimum:g} to {target.maximum:g}"


def weighted_by_class(
    stream: tf.data.Dataset, class_weight: dict[int, float] | None
) -> tf.data.Dataset:
    """The batches that `fit` with a `class_weight` makes of a stream's.

    Keras's own fails on targets that are bool.

    Args:
        stream: Batches of inputs and one target.
        class_weight: Weight by class; None leaves the stream as it is.
    """
    if not class_weight:
        return stream
    weighted = stream.map(lambda *batch: with_class_weight(batch, class_weight))
    return weighted.prefetch(tf.data.AUTOTUNE)  # as Keras does


def with_class_weight(
    batch: tuple[tf.Tensor, ...], class_weight: dict[int, float]
) -> tuple[tf.Tensor, ...]:
    """What `fit` makes of class weights: the weight of each example's class, else 1.

    Args:
        batch: Inputs and one target: class indices, or a row for each example. Of an image's or a
            sequence's parts, one for each part.
        class_weight: Weight by class.
    """
    x, y = batch[0], batch[1]
    classes = y
    if y.shape.rank > 1:
        classes = tf.argmax(y, -1) if y.shape[-1] != 1 else tf.squeeze(y, -1)
    if classes.dtype.is_floating:
        classes = tf.round(classes)
    table = [class_weight.get(index, 1.0) for index in range(max(class_weight) + 1)]
    indices = tf.cast(classes, tf.int32)
    inside = tf.minimum(indices, len(table) - 1)
    found = tf.where(indices < len(table), tf.gather(tf.constant(table, tf.float32), inside), 1.0)
    return (x, y, found)
