"""One update from several micro-batches: that of the whole batch where the loss is a mean."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import keras
import numpy as np
import tensorflow as tf

from tfbatch.errors import InputError
from tfbatch.loss_scaling import unwrapped

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

    Where the loss is a mean over the examples, or a Keras loss with `reduction="sum"`, the gradient
    is that of the loss of the whole batch, up to rounding. A smaller last micro-batch, or a last
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
    are updated once for each (a warning says so). `tfbatch.layers.GhostBatchNormalization` is as
    without accumulation where its `ghost_size` divides the micro-batch size and every batch.
    Dropout draws other numbers. Gradients of embeddings are dense: Keras's own, which squares those
    of a repeated word one by one, gives Adam and its like a smaller second moment.

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
            are parts already; a loss that no cut keeps: masked outputs, an `ignore_class`, the
            reduction "mean_with_sample_weight" with sample weights, sums mixed with means, or a
            loss that is measured to be no mean over examples, such as Dice over the batch or a
            function that returns a sum.
    """
    whole = isinstance(micro_batch_size, int | np.integer)
    if micro_batch_size is not None and not (whole and micro_batch_size >= 1):
        raise InputError(
            "`micro_batch_size` must be a whole number >= 1, such as 32 and not 32.0, or None. "
            f"Received: {micro_batch_size=}."
        )
    if not isinstance(model, keras.Model):
        raise InputError(f"`model` must be a keras.Model. Received: {model!r}.")
    if type(model).train_step is not keras.Model.train_step:
        raise InputError(
            f"{type(model).__name__} has a `train_step` of its own, which accumulation would "
            "replace. Override `compute_loss` and `compute_metrics` instead: they are called for "
            "each micro-batch."
        )
    model.__dict__.pop("train_step", None)
    model.__dict__.pop("make_train_function", None)
    model.train_function = None  # the old step may have been traced
    if micro_batch_size is not None:
        _warn_of_batch_normalization(model, micro_batch_size)
        model.train_step = functools.partial(_train_step, model, micro_batch_size)
        model.make_train_function = functools.partial(_make_train_function, model)
    return model


def checked(
    model: keras.Model, train_function: Callable[[object], object]
) -> Callable[[object], object]:
    """A train function that measures, before its first update, whether the batch can be cut.

    `fit` of an accumulated model already includes it; wrap a custom train function in it.

    Args:
        model: The compiled model.
        train_function: Takes an iterator, and makes `model.steps_per_execution` updates.

    Returns:
        The same function for a model that does not accumulate.
    """
    step = vars(model).get("train_step")
    if getattr(step, "func", None) is not _train_step:
        return train_function
    micro_batch_size = step.args[1]
    replay = _Replay()
    measured = False

    def check_first(iterator: Any) -> Any:
        nonlocal measured
        if measured:
            return train_function(iterator)
        batches = list(itertools.islice(iterator, model.steps_per_execution))
        if not batches:
            raise StopIteration
        measured = any(_measure(model, micro_batch_size, batch) for batch in batches)
        try:
            return train_function(replay.of(batches, iterator))
        finally:
            replay.clear()

    return check_first


def _make_train_function(model: Any, force: bool = False) -> None:
    """What `fit` calls; compiling anew takes the old function away, and measures again."""
    if model.train_function is None or force:
        type(model).make_train_function(model, force)
        model.train_function = checked(model, model.train_function)


class _Replay:
    """Gives batches that were taken from an iterator through another of its type.

    The dataset is built once for each element spec, since that takes longer than many a step.
    """

    def __init__(self) -> None:
        self._batches: list[Any] = []
        self._made: tuple[Any, Any] = (None, None)

    def of(self, batches: list[Any], iterator: Any) -> Iterator[Any]:
        """An iterator over the batches, of the same type as the other if it can be."""
        spec = getattr(iterator, "element_spec", None)
        if not all(isinstance(leaf, tf.TensorSpec) for leaf in tf.nest.flatten(spec)):
            return iter(batches)  # Keras's functions take any; it is one more trace
        self._batches[:] = batches
        if self._made[0] != spec:
            options = tf.data.Options()
            options.autotune.enabled = False  # with it, an iterator's end waits for seconds
            made = tf.data.Dataset.from_generator(
                lambda: iter(self._batches), output_signature=spec
            )
            self._made = spec, made.with_options(options)
        again: Iterator[Any] = iter(self._made[1])
        return again

    def clear(self) -> None:
        """Lets go of the batches."""
        self._batches.clear()


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
    if gradients:
        model.optimizer.apply_gradients(zip(gradients, model.trainable_weights, strict=True))
    else:  # as Keras does
        warnings.warn("The model does not have any trainable weights.", stacklevel=2)
    return model.get_metrics_result()


class _Pair(NamedTuple):
    """What was found for examples together and for their micro-batches, and what is rounding."""

    one: Any
    other: Any
    rounding: float


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
            loss = self._part_of_the_whole(loss, _share(length, self._size, loss.dtype))
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

    def losses_of(self, cut: list[tuple[int, int]]) -> list[_Pair]:
        """The batch in inference: whole, and in parts; see `_compare`.

        The predictions are made once, so that a layer that draws numbers makes no difference, and
        the loss is taken of them in float32 at least: half precision would hide a difference.

        Args:
            cut: The parts: first example and number of examples.
        """
        y_pred, added = self._called(0, self._size)
        y_pred = _in_full_precision(y_pred)
        # Keras's losses compute in `floatx`, whatever the model's policy is.
        computed = {leaf.dtype.name for leaf in keras.tree.flatten(y_pred) if leaf is not None}
        rounding = max(map(_rounding_of, computed | {keras.config.floatx()}))
        loss, slopes = self._loss_and_slopes(y_pred, 0, self._size)
        parts = [self._loss_and_slopes(y_pred, *part) for part in cut]
        pairs = [_Pair(loss, sum(part_loss for part_loss, _ in parts), rounding)]
        for number, slope in enumerate(slopes):
            together = np.concatenate([part[1][number] for part in parts])
            pairs.append(_Pair(slope, together, rounding))
        if self._model.losses and np.isclose(added, self._called(0, self._size)[1], rtol=1e-6):
            in_parts = [self._called(*part)[1] * part[1] / self._size for part in cut]
            own = _rounding_of(self._model.dtype_policy.compute_dtype)
            pairs.append(_Pair(added, sum(in_parts), max(own, rounding)))
        return pairs

    def _called(self, start: int, length: int) -> tuple[Any, float]:
        """The predictions for a part, and the losses that layers add in making them."""
        model = self._model
        x = _cut(self._batch[0], start, length)
        y_pred = model(x, training=False) if model._call_has_training_arg else model(x)
        _check_masks(y_pred)
        return y_pred, float(sum(keras.ops.sum(part) for part in model.losses))

    def _loss_and_slopes(self, y_pred: Any, start: int, length: int) -> tuple[Any, list[Any]]:
        x, y, sample_weight = (_cut(part, start, length) for part in self._batch)
        # A copy also of the whole: Keras's losses look for logits at the output of a softmax.
        y_pred = _cut(y_pred, start, length)
        outputs = [o for o in keras.tree.flatten(y_pred) if o is not None and o.dtype.is_floating]
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            loss = self._model._compute_loss(
                x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True
            )
            loss = self._part_of_the_whole(loss, _share(length, self._size, loss.dtype))
        slopes = tape.gradient(loss, outputs, unconnected_gradients="zero")
        loss, *slopes = (np.asarray(part, "float64") for part in (loss, *slopes))
        return loss, slopes

    def _part_of_the_whole(self, loss: Any, share: Any) -> Any:
        """What a micro-batch's loss adds to that of the batch, regularization included."""
        if not self._sums:
            return loss * share
        regularization = sum(keras.ops.sum(part) for part in self._model.losses)
        return loss - (1 - share) * tf.cast(regularization, loss.dtype)


def _share(length: Any, size: Any, dtype: Any) -> Any:
    """`length / size`; a Python float would pass through float32 on its way to float64."""
    quotient = length / size
    return tf.cast(quotient, dtype) if tf.is_tensor(quotient) else tf.constant(quotient, dtype)


_FEWEST = 4
"""Examples that a loss is measured on where a micro-batch is a single one."""
_ROUNDING = {"float64": 1e-9, "float32": 1e-4}
"""Relative differences that are rounding; what is computed in half precision differs by more."""
_HALF_ROUNDING = 1e-2


def _measure(model: Any, micro_batch_size: int, batch: Any) -> bool:
    """Compares the loss of examples of a batch with that of their micro-batches.

    As many as two micro-batches, taken evenly from all of the batch, since it may be ordered. In
    inference, so that nothing is drawn and no statistics move. Returns whether it could be
    measured: not on a batch that is a single micro-batch.

    Raises:
        InputError: They differ by more than rounding.
    """
    batch = tf.nest.map_structure(
        lambda leaf: None if isinstance(leaf, tf.experimental.Optional) else leaf, batch
    )
    parts = keras.utils.unpack_x_y_sample_weight(batch)
    _check(model, weighted=parts[2] is not None)
    size = int(tf.shape(next(x for x in keras.tree.flatten(parts[0]) if x is not None))[0])
    if size <= micro_batch_size:
        return False
    if not model.built:
        model._symbolic_build(data_batch=parts)
    count = min(size, max(2 * micro_batch_size, _FEWEST))
    chosen = np.linspace(0, size - 1, count).astype("int64")
    examples = keras.tree.map_structure(
        lambda leaf: None if leaf is None else tf.gather(leaf, chosen), parts
    )
    before = [variable.numpy() for variable in model.metrics_variables]
    micro_batches = _MicroBatches(model, examples, count)
    cut = [
        (start, min(micro_batch_size, count - start)) for start in range(0, count, micro_batch_size)
    ]
    found = micro_batches.losses_of(cut)
    if len(before) == len(model.metrics_variables):
        for variable, value in zip(model.metrics_variables, before, strict=True):
            variable.assign(value)
    else:  # built just now
        model.reset_metrics()
    _compare(found, micro_batch_size)
    return True


def _in_full_precision(y_pred: Any) -> Any:
    """Predictions with those of half precision as float32; any mask of theirs is left out."""

    def cast(leaf: Any) -> Any:
        half = leaf is not None and leaf.dtype.is_floating and leaf.dtype.size < 4
        return tf.cast(leaf, tf.float32) if half else leaf

    return keras.tree.map_structure(cast, y_pred)


def _rounding_of(dtype: str) -> float:
    return _ROUNDING.get(dtype, 0.0 if dtype.startswith(("int", "uint")) else _HALF_ROUNDING)


def _compare(pairs: list[_Pair], micro_batch_size: int) -> None:
    """Compares what was found for the examples together, and for their micro-batches.

    Args:
        pairs: The loss, its derivative by each output, and the added losses if there are any.
        micro_batch_size: For messages.

    Raises:
        InputError: They differ by more than rounding.
    """
    off, excess = 0.0, 0.0
    for one, other, rounding in pairs:
        length = max(np.linalg.norm(one), np.linalg.norm(other))
        if np.isfinite(length) and length > 0:
            share = float(np.linalg.norm(one - other) / length)
            off, excess = max(off, share), max(excess, share / rounding)
    if excess <= 1:
        return
    differs = (
        "The loss of the first batch differs from that of its micro-batches of "
        f"{micro_batch_size} by {off:.2%} (loss {float(pairs[0].one):.6g} against "
        f"{float(pairs[0].other):.6g}; the loss, its derivatives with respect to the predictions, "
        "and added losses are compared)"
    )
    if excess <= 10:
        warnings.warn(f"{differs}: little more than rounding.", stacklevel=5)
        return
    raise InputError(
        f"{differs}, so micro-batches would train a different model. Accumulation needs a loss "
        "that is a mean over the examples, or a Keras loss with reduction='sum'. Let the loss "
        "function return one value per example, which Keras averages, or train without "
        "`tfbatch.accumulated`."
    )


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


def _ignored_class(model: Any) -> object:
    """What the compiled losses ignore, themselves or the function that they are made from."""
    for loss in keras.tree.flatten(model.loss):
        while loss is not None:
            is_partial = isinstance(loss, functools.partial)
            given = loss.keywords if is_partial else getattr(loss, "_fn_kwargs", {})
            ignored = getattr(loss, "ignore_class", given.get("ignore_class"))
            if ignored is not None:
                return ignored
            loss = loss.func if is_partial else getattr(loss, "fn", None)
    return None


def _check(model: Any, *, weighted: bool) -> None:
    """Refuses what is known without measuring to give another gradient."""
    optimizer = unwrapped(model.optimizer)
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
    if (ignored := _ignored_class(model)) is not None and reductions != {"sum"}:
        # The first batch may have as many ignored examples in each of its micro-batches.
        raise InputError(
            "A loss with an `ignore_class` is a mean over the examples of the other classes, as "
            "many as each micro-batch has: compile it without, and give sample weights instead, "
            "0 for that class and 1 for the others, and any valid class, such as 0, as the target "
            f"there. Received: ignore_class={ignored}."
        )
    if "mean_with_sample_weight" in reductions and weighted:
        raise InputError(
            'A loss with reduction="mean_with_sample_weight" divides by the weights of its '
            'micro-batch, not of the batch: use "sum_over_batch_size" with sample weights.'
        )


def _check_masks(y_pred: Any) -> None:
    if any(getattr(leaf, "_keras_mask", None) is not None for leaf in keras.tree.flatten(y_pred)):
        raise InputError(
            "The model's output is masked: Keras's loss is then a mean over what each micro-batch "
            "leaves unmasked, which is not that of the batch. Give the mask as sample weights, and "
            "take it off the model: mask_zero=False, no Masking layer."
        )
