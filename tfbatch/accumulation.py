"""One update from several micro-batches, equal to that of the whole batch."""

from __future__ import annotations

import functools
import warnings
from typing import Any, TypeVar

import keras
import tensorflow as tf

from tfbatch.errors import InputError

Model = TypeVar("Model")


def accumulated(model: Model, *, micro_batch_size: int | None) -> Model:
    """Lets `fit` compute the gradient of a batch in micro-batches, and update once.

    Memory is that of a micro-batch, everything else that of the batch: one update of the optimizer,
    one iteration of the schedule and of the averaged weights, one clipping, one step for callbacks.

    Example:
        ```python
        model = tfbatch.accumulated(model, micro_batch_size=32)
        model.compile(optimizer="adam", loss="sparse_categorical_crossentropy")
        model.fit(x, y, batch_size=1024)
        ```

    The gradient is that of the loss of the whole batch, so a smaller last micro-batch, or a last
    batch of any size, counts by its examples; nothing is carried over or dropped:

    ```python
    gradient = 0
    for micro_batch in cut(batch, micro_batch_size):
        gradient += len(micro_batch) / len(batch) * gradient_of(mean_loss(micro_batch))
    optimizer.apply(gradient)
    ```

    The weights of these means add up to 1, so regularization counts once per update. With
    `reduction="sum"` each micro-batch counts in full. Sample weights, several inputs and outputs,
    metrics, loss scaling of mixed precision, `steps_per_execution` and `jit_compile` work as usual.
    Keras's own `gradient_accumulation_steps` instead takes a mean of means, and counts micro-steps
    as iterations of the schedule.

    What a layer does to the batch as a whole is done to the micro-batch, so that the result
    differs: batch normalization uses the statistics of the micro-batch, and its moving statistics
    are updated once for each (a warning says so). `tfbatch.layers.GhostBatchNormalization` is exact
    where its `ghost_size` divides the micro-batch size and every batch. Dropout draws other
    numbers. What a user adds with `add_loss` must be a mean over the examples. Gradients of
    embeddings are dense: Keras's own, which squares those of a repeated word one by one, gives
    Adam and its like a smaller second moment.

    Only this model object is changed, by a `train_step` of its own. A saved model is an ordinary
    one, which loads without tfbatch; call this function again to go on with accumulation.

    Args:
        model: A Keras model, compiled or not; it may be compiled again later.
        micro_batch_size: Most examples in a micro-batch, at least 1. None undoes.

    Returns:
        The same model.

    Raises:
        InputError: A number out of its range; a model with a `train_step` of its own. During
            `fit`: an optimizer with `gradient_accumulation_steps`; several replicas, whose batches
            are parts already; a loss that no cut keeps: masked outputs, the reduction
            "mean_with_sample_weight" with sample weights, sums mixed with means, or an activity
            regularizer, which Keras sums over the batch.
    """
    if micro_batch_size is not None and micro_batch_size < 1:
        raise InputError(f"`micro_batch_size` must be >= 1 or None. Received: {micro_batch_size=}.")
    if not isinstance(model, keras.Model):
        raise InputError(f"`model` must be a keras.Model. Received: {model!r}.")
    if type(model).train_step is not keras.Model.train_step:
        raise InputError(
            f"{type(model).__name__} has a `train_step` of its own, which accumulation would "
            "replace. Override `compute_loss` and `compute_metrics` instead: they are called for "
            "each micro-batch."
        )
    model.__dict__.pop("train_step", None)
    model.train_function = None  # the old step may have been traced
    if micro_batch_size is not None:
        _warn_of_batch_normalization(model, micro_batch_size)
        model.train_step = functools.partial(_train_step, model, micro_batch_size)
    return model


def _warn_of_batch_normalization(model: Any, micro_batch_size: int) -> None:
    names = [
        layer.name
        for layer in model._flatten_layers(include_self=False, recursive=True)
        if isinstance(layer, keras.layers.BatchNormalization)
        and layer.trainable
        and micro_batch_size % getattr(layer, "ghost_size", micro_batch_size + 1)
    ]
    if names:
        warnings.warn(
            f"{len(names)} BatchNormalization layer(s), such as `{names[0]}`, will use the "
            "statistics of each micro-batch: training differs from that with the whole batch.",
            stacklevel=3,
        )


def _train_step(model: Any, micro_batch_size: int, data: Any) -> Any:
    """What `keras.Model.train_step` does, for a batch of any size."""
    batch = keras.utils.unpack_x_y_sample_weight(data)
    _check(model, weighted=batch[2] is not None)
    first = next(leaf for leaf in keras.tree.flatten(batch[0]) if leaf is not None)
    # A Python number where the shape is known: then XLA sees constants, and no branch is traced
    # that never runs.
    size = first.shape[0] if first.shape[0] is not None else tf.shape(first)[0]
    if not model.built:
        model._symbolic_build(data_batch=batch)
    micro_batches = _MicroBatches(model, batch, size)
    loss, gradients = micro_batches.add_up(micro_batch_size)
    model._loss_tracker.update_state(loss, sample_weight=size)
    model.optimizer.apply_gradients(zip(gradients, model.trainable_weights, strict=True))
    return model.get_metrics_result()


class _MicroBatches:
    """The loss and gradients of one batch: sums in the graph."""

    def __init__(self, model: Any, batch: tuple[Any, Any, Any], size: Any):
        self._model = model
        self._batch = batch
        self._size = size
        self._variables = model.trainable_weights
        self._unconnected: set[int] = set()
        self._sums = "sum" in _reductions(model)

    def add_up(self, length: int) -> tuple[Any, list[Any]]:
        """The loss (not scaled), and the gradients (scaled); None for what has no gradient."""
        full, rest = self._size // length, self._size % length
        sums = [tf.zeros((), keras.backend.floatx())]
        sums += [tf.zeros(v.shape, v.dtype) for v in self._variables]
        if isinstance(full, int) and full == 1:
            sums = self._add(sums, 0, length)
        elif not isinstance(full, int) or full:
            _, *sums = tf.while_loop(
                lambda number, *_: number < full,
                lambda number, *sums: (number + 1, *self._add(sums, number * length, length)),
                (tf.constant(0), *sums),
                parallel_iterations=1,  # two forward passes at a time would need twice the memory
            )
        start = full * length
        if not isinstance(rest, int):
            sums = tf.cond(rest > 0, lambda: self._add(sums, start, rest), lambda: list(sums))
        elif rest:
            sums = self._add(sums, start, rest)
        found = [None if n in self._unconnected else g for n, g in enumerate(sums[1:])]
        return sums[0], found

    def _add(self, sums: Any, start: Any, length: Any) -> list[Any]:
        """Adds one micro-batch to the sums, and to the metrics."""
        model = self._model
        x, y, sample_weight = (_cut(part, start, length) for part in self._batch)
        with tf.GradientTape() as tape:
            y_pred = model(x, training=True) if model._call_has_training_arg else model(x)
            _check_masks(y_pred)
            loss = model._compute_loss(
                x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True
            )
            loss = self._part_of_the_whole(loss, tf.cast(length / self._size, loss.dtype))
            scaled = model.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, self._variables)
        model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        self._unconnected = {n for n, gradient in enumerate(gradients) if gradient is None}
        # convert_to_tensor makes an embedding's gradient dense.
        added = [
            total
            if gradient is None
            else total + tf.cast(tf.convert_to_tensor(gradient), total.dtype)
            for total, gradient in zip(sums[1:], gradients, strict=True)
        ]
        return [sums[0] + tf.cast(loss, sums[0].dtype), *added]

    def _part_of_the_whole(self, loss: Any, share: Any) -> Any:
        """What a micro-batch's loss adds to that of the batch, regularization included."""
        if not self._sums:
            return loss * share
        regularization = sum(keras.ops.sum(part) for part in self._model.losses)
        return loss - (1 - share) * tf.cast(regularization, loss.dtype)


def _cut(part: Any, start: Any, length: Any) -> Any:
    """Examples [start, start + length) of every leaf; None stays None."""

    def cut(leaf: Any) -> Any:
        if leaf is None:
            return None
        leaf = tf.convert_to_tensor(leaf)
        others = leaf.shape.rank - 1
        # With a constant length XLA can compile it.
        taken = tf.slice(leaf, [start] + [0] * others, [length, *tf.unstack(tf.shape(leaf)[1:])])
        known = length if isinstance(length, int) else None
        return tf.ensure_shape(taken, [known, *leaf.shape[1:]])

    return keras.tree.map_structure(cut, part)


def _reductions(model: Any) -> set[str]:
    """How the compiled losses are reduced over the batch."""
    losses = keras.tree.flatten(model.loss)
    return {str(getattr(loss, "reduction", "mean")) for loss in losses if loss is not None}


def _check(model: Any, *, weighted: bool) -> None:
    """Refuses what could not be exact."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if steps := optimizer.gradient_accumulation_steps:
        raise InputError(
            "The model accumulates gradients already: remove `gradient_accumulation_steps` from "
            f"the optimizer. Received: gradient_accumulation_steps={steps}."
        )
    replicas = model.distribute_strategy.num_replicas_in_sync
    if replicas > 1:
        raise InputError(
            "Accumulation needs a single replica: with several, choose a smaller batch for each. "
            f"Received: {replicas} replicas."
        )
    reductions = _reductions(model)
    unknown = reductions - {"mean", "sum_over_batch_size", "mean_with_sample_weight", "sum"}
    if unknown or ("sum" in reductions and len(reductions) > 1):
        raise InputError(
            "Every loss must be a mean over the batch, or every loss a sum. Received: reduction="
            f"{', '.join(sorted(reductions))}."
        )
    if "mean_with_sample_weight" in reductions and weighted:
        raise InputError(
            'A loss with reduction="mean_with_sample_weight" divides by the weights of its '
            'micro-batch, not of the batch: use "sum_over_batch_size" with sample weights.'
        )
    for layer in model._flatten_layers(include_self=False, recursive=True):
        if layer.activity_regularizer is not None:
            raise InputError(
                f"`{layer.name}` has an activity regularizer, which Keras sums over the batch "
                "while the loss is a mean. Remove it, or add its mean in `compute_loss`."
            )


def _check_masks(y_pred: Any) -> None:
    if any(getattr(leaf, "_keras_mask", None) is not None for leaf in keras.tree.flatten(y_pred)):
        raise InputError(
            "The model's output is masked: Keras's loss is then a mean over what each micro-batch "
            "leaves unmasked, which is not that of the batch. Give the mask as sample weights."
        )
