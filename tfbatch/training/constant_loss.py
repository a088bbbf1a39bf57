"""The loss of the best constant prediction of a model, under whatever loss it is compiled with."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfbatch.estimators.constant_prediction import Losses, best_constant, gain_by_luck, least_loss
from tfbatch.training.class_weights import with_class_weight
from tfbatch.training.workload import Workload

Array = npt.NDArray[np.float64]
_MOST_SLOPES = 2**21
"""Values of a constant times examples that it is fitted on: 16 MB, some 500 times computed."""
_MOST_VALUES = 2**21
"""Values of all predictions that a constant is fitted on."""
_FEWEST_EXAMPLES = 16
"""Fewer, of very large outputs, say too little of a constant."""
_FEWEST_FOR_A_RANGE = 32


def constant_loss(model: keras.Model, workload: Workload) -> tuple[float, float] | None:
    """The validation loss of the best constant prediction, and what luck can add to it.

    A constant is what the biases of the last layers could predict alone: a value for each unit,
    through whatever activation follows, so that a softmax gives shares and a rectifier nothing
    negative. It is fitted on the validation targets with the model's own compiled loss, its weights
    of outputs and examples included: the best of all constants, in hindsight. Where training has
    weights that validation lacks (class weights, or a third part of the data), a model may rightly
    do worse there than that, so the constant is fitted on training examples.

    Args:
        model: A compiled model with Keras's `compute_loss` and `test_step`.
        workload: Its data.

    Returns:
        None where it cannot be found: outputs of open shape or with a mask, or so large that the
        fit would take long, a loss without a minimum.

    Raises:
        Exception: Whatever a loss of a user's own raises that takes no such predictions; or a
            ValueError for one that does not depend on them.
    """
    validation = workload.data.evaluation("validation")
    heads = _heads(model, next(iter(validation))[0])
    if heads is None or len(validation.element_spec) < 2:
        return None
    if heads.values() * _FEWEST_EXAMPLES > _MOST_VALUES:
        return None
    examples = workload.data.num_examples("validation")
    shown = _few(validation, heads, examples)
    fitted_on = _training(workload, heads)
    loss = _Loss(model, heads, shown)
    own = best_constant(loss, heads.size)
    constant = best_constant(_Loss(model, heads, fitted_on), heads.size) if fitted_on else own
    if constant is None or own is None:
        return None
    value = loss(constant).mean if fitted_on else least_loss(loss, constant)
    if loss.examples < examples:
        rest = itertools.islice(_targets(validation, heads), len(shown), None)
        other = _Loss(model, heads, rest).value(constant)
        value += (1 - loss.examples / examples) * (other - value)
    # Luck on validation is that around its own minimum: elsewhere a shift gains without luck.
    noise = gain_by_luck(loss, own, blocks=heads.blocks(), examples=examples)
    return (value, noise) if math.isfinite(value) else None


@dataclasses.dataclass(frozen=True)
class _Head:
    """One output: the shape of the value that is free, and what makes a prediction of it.

    Attributes:
        shape: Without the examples.
        axis: The axis of `shape` with a value for each unit; the others share it.
        steps: Called one after another.
    """

    shape: tuple[int, ...]
    axis: int
    steps: tuple[Callable[[Any], Any], ...]

    @property
    def size(self) -> int:
        return self.shape[self.axis] if self.shape else 1

    def predict(self, free: Any) -> Any:
        """A prediction for each row of [examples, size]."""
        count = tf.shape(free)[0]
        inner = [1] * len(self.shape)
        if self.shape:
            inner[self.axis] = self.size
        value = tf.broadcast_to(tf.reshape(free, [count, *inner]), [count, *self.shape])
        for step in self.steps:
            value = step(value)
        return value


@dataclasses.dataclass(frozen=True)
class _Heads:
    structure: Any
    heads: tuple[_Head, ...]

    @property
    def size(self) -> int:
        return sum(head.size for head in self.heads)

    def blocks(self) -> list[slice]:
        ends = np.cumsum([head.size for head in self.heads]).tolist()
        return [slice(end - head.size, end) for head, end in zip(self.heads, ends, strict=True)]

    def values(self) -> int:
        """Values of an example's predictions."""
        return sum(math.prod(head.shape) for head in self.heads)

    def predict(self, free: Any) -> Any:
        parts = [
            head.predict(free[:, block])
            for head, block in zip(self.heads, self.blocks(), strict=True)
        ]
        return keras.tree.pack_sequence_as(self.structure, parts)


class _Loss:
    """The mean loss of constants over some batches of targets; see `LossOfConstant`."""

    def __init__(self, model: Any, heads: _Heads, batches: Any):
        self._model = model
        self._heads = heads
        self._batches = batches
        self._traced = tf.function(self._of_batch, reduce_retracing=True)
        self.examples = 0 if isinstance(batches, Iterator) else sum(map(_length, batches))

    def __call__(self, constant: Array) -> Losses:
        """The loss of a constant, with the slopes and the loss of each example."""
        total, values = 0.0, tf.constant(constant, tf.float32)
        slopes, losses = [], []
        for batch in self._batches:
            loss, slope, each = self._traced(values, *batch)
            total += float(loss) * _length(batch)
            slopes.append(np.asarray(slope, np.float64) * _length(batch))
            losses.append(np.asarray(each, np.float64) * _length(batch))
        found = np.concatenate(losses)
        mean = total / len(found)
        # A function that returns one loss for a batch gives each of its examples the same.
        known = np.isclose(found.mean(), mean, rtol=1e-3) and any(np.ptp(part) for part in losses)
        return Losses(mean, np.concatenate(slopes), found if known else None)

    def value(self, constant: Array) -> float:
        """The loss alone, of batches that are read once."""
        total, count, values = 0.0, 0, tf.constant(constant, tf.float32)
        for batch in self._batches:
            total += float(self._traced(values, *batch)[0]) * _length(batch)
            count += _length(batch)
        return total / count

    def _of_batch(self, constant: Any, targets: Any, weights: Any = None) -> Any:
        count = tf.shape(tf.nest.flatten(targets)[0])[0]
        free = tf.tile(constant[None], [count, 1])
        # The derivative by an example's weight is its loss. Keras multiplies the losses of pixels
        # or steps by weights of their own only.
        flat = all(len(head.shape) < 2 for head in self._heads.heads)
        given = tf.ones([count]) if weights is None and flat else weights
        single = given is not None and not tf.nest.is_nested(given)
        with tf.GradientTape() as tape:
            tape.watch([free, given] if single else free)
            loss = self._model.compute_loss(
                x=None,
                y=targets,
                y_pred=self._heads.predict(free),
                sample_weight=given,
                training=False,
            )
        slope, each = (
            tape.gradient(loss, [free, given]) if single else (tape.gradient(loss, free), None)
        )
        if slope is None:
            raise ValueError("The loss does not depend on the predictions.")
        if each is None:
            return loss, slope, tf.zeros([count])
        each *= given
        return loss, slope, tf.reduce_sum(tf.reshape(each, [count, -1]), axis=1)


def _length(batch: tuple[Any, ...]) -> int:
    return int(tf.nest.flatten(batch[0])[0].shape[0])


def _few(dataset: tf.data.Dataset, heads: _Heads, examples: int) -> list[tuple[Any, ...]]:
    """The first batches without their inputs, all of them if they are not too many."""
    most = min(examples, _MOST_SLOPES // heads.size, _MOST_VALUES // heads.values())
    found, count = [], 0
    for part in _targets(dataset, heads):
        found.append(part)
        count += _length(part)
        if count >= most:
            break
    return found


def _targets(dataset: tf.data.Dataset, heads: _Heads) -> Iterator[tuple[Any, ...]]:
    """Batches without their inputs, divided where their predictions are very large."""
    most = _MOST_VALUES // heads.values()
    for batch in dataset:
        for start in range(0, _length(batch[1:]), most):
            end = start + most
            yield tf.nest.map_structure(lambda part, s=start, e=end: part[s:e], batch[1:])


def _training(workload: Workload, heads: _Heads) -> list[tuple[Any, ...]] | None:
    """Training batches, where their weights are others than validation's; else None."""
    data, class_weight = workload.data, workload.class_weight
    if not class_weight and not weighted_in_training_only(workload):
        return None
    examples = min(data.num_examples("train"), max(data.num_examples("validation"), 1024))
    stream = data.training(batch_size=min(examples, 256), seed=1, num_examples=examples)
    if class_weight and not tf.nest.is_nested(stream.element_spec[1]):
        stream = stream.map(lambda *batch: with_class_weight(batch, class_weight))
    return _few(stream, heads, examples)


def weighted_in_training_only(workload: Workload) -> bool:
    """Whether training examples have weights, and validation's have none."""
    spec = workload.data.evaluation("validation").element_spec
    return workload.data.content.sample_weights and len(spec) < 3


def _heads(model: Any, inputs: Any) -> _Heads | None:
    predicted = model(inputs, training=False) if model._call_has_training_arg else model(inputs)
    flat = keras.tree.flatten(predicted)
    if any(getattr(part, "_keras_mask", None) is not None for part in flat):
        return None
    symbolic = keras.tree.flatten(getattr(model, "outputs", None) or [None] * len(flat))
    heads = [
        _head_by_its_range(part) if tensor is None else _head_by_its_graph(tensor)
        for part, tensor in zip(flat, symbolic, strict=True)
    ]
    known = tuple(head for head in heads if head is not None)
    return _Heads(predicted, known) if len(known) == len(heads) else None


@dataclasses.dataclass(frozen=True)
class _OneOf:
    """One of several results of a layer."""

    layer: Callable[[Any], Any]
    index: int

    def __call__(self, value: Any) -> Any:
        return keras.tree.flatten(self.layer(value))[self.index]


def _head_by_its_graph(tensor: Any) -> _Head | None:
    """Back from an output to the last layer with weights, or where several branches meet."""
    steps: list[Callable[[Any], Any]] = []
    while True:
        operation, node, index = tensor._keras_history
        if isinstance(operation, keras.Model) and getattr(operation, "outputs", None):
            tensor = keras.tree.flatten(operation.outputs)[index]
            continue
        parents = operation._inbound_nodes[node].input_tensors
        if isinstance(operation, keras.layers.InputLayer):
            return None
        if getattr(operation, "weights", None) or len(parents) != 1:
            break
        several = len(operation._inbound_nodes[node].output_tensors) > 1
        steps.append(_OneOf(operation, index) if several else operation)
        tensor = parents[0]
    activation = getattr(operation, "activation", None)
    if callable(activation):
        steps.append(activation)
    shape = tuple(tensor.shape[1:])
    if None in shape:
        return None
    first = getattr(operation, "data_format", None) == "channels_first"
    return _Head(shape, 0 if first else -1, tuple(reversed(steps)))


def _head_by_its_range(predicted: Any) -> _Head:
    """For a model without a graph: by the values that it predicts before training."""
    values, shape = np.asarray(predicted, np.float64), tuple(predicted.shape[1:])
    steps: tuple[Callable[[Any], Any], ...] = ()
    if values.size >= _FEWEST_FOR_A_RANGE:
        if values.min() >= 0 and shape and shape[-1] > 1 and _sum_to_one(values):
            steps = (keras.activations.softmax,)
        elif values.min() >= 0:
            bounded = values.max() <= 1
            steps = (keras.activations.sigmoid if bounded else keras.activations.softplus,)
    return _Head(shape, -1, steps)


def _sum_to_one(values: Array) -> bool:
    return bool(np.allclose(values.sum(axis=-1), 1, atol=1e-3))
