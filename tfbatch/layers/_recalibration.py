"""The statistics of batch normalization, recomputed after training."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from tfbatch.errors import InputError
from tfbatch.layers._momentum_in_examples import batch_normalizations


def recalibrate_batch_normalization(
    model: keras.Model,
    dataset: Iterable[object],
    *,
    layers: Collection[keras.layers.BatchNormalization] | None = None,
    tolerance: float = 1e-3,
    max_passes: int = 20,
) -> int:
    """Replaces the moving statistics of every batch normalization by those of the data.

    After a short training the moving statistics still hold their initial values (60 % of them
    after 50 updates with momentum 0.99), and the model is judged worse than it is. Nothing but the
    moving means and variances is changed; no gradient is computed.

    Example:
        ```python
        model.fit(x, y, batch_size=1024, epochs=3)
        batches = tf.data.Dataset.from_tensor_slices(x).batch(256)
        tfbatch.layers.recalibrate_batch_normalization(model, batches)
        ```

    The result is the mean and variance (of the population, dividing by its size) that each layer
    sees over all examples when the layers before it use theirs, as at inference. It depends neither
    on the batch size nor on the order. The first pass over the data lets each batch normalize
    itself, a good guess; each further one uses the statistics found before, for all layers at once.
    A layer is exact when all before it are, so a chain of L layers is exact after L + 1 passes; it
    ends earlier once no statistic moves by more than `tolerance`, after two or three passes as a
    rule. Statistics of batches are added in float64, with Chan's formula:

    ```python
    difference = batch_mean - mean
    mean += difference * batch_count / (count + batch_count)
    squares += batch_count * batch_variance
    squares += difference**2 * count * batch_count / (count + batch_count)
    ```

    Source: "precise" statistics, Wu & Johnson 2021, "Rethinking Batch in BatchNorm", arXiv
    2105.07576, section 3; here with the layers before each already corrected.

    Args:
        model: A built model.
        dataset: Batches x, (x, y) or (x, y, sample_weight) that can be gone over more than once,
            such as a `tf.data.Dataset` or a list; `dataset.take(n)` is a part of it. Without random
            augmentation, or the passes differ.
        layers: Those of the model's layers to recalibrate; the others normalize by the statistics
            that they have. Default: all, frozen ones too.
        tolerance: Largest change from one pass to the next, of a mean in standard deviations or of
            a variance as a share, at which it ends. 0 for the exact result.
        max_passes: At most this many passes over the data, at least 1.

    Returns:
        The number of passes; 0 where there is no layer to recalibrate. If the last one still
        moved a statistic by more than `tolerance`, a warning is logged.

    Raises:
        InputError: A number out of its range; a dataset that is empty, endless, or can be gone over
            only once; a layer that is not built, was not called, has `renorm`, or is another
            model's.
    """
    if tolerance < 0 or max_passes < 1:
        raise InputError(
            "`tolerance` must be >= 0 and `max_passes` >= 1. Received: "
            f"{tolerance=}, {max_passes=}."
        )
    endless = isinstance(dataset, tf.data.Dataset) and (
        dataset.cardinality() == tf.data.INFINITE_CARDINALITY
    )
    if endless or iter(dataset) is dataset:
        raise InputError(
            "The dataset must be finite, and one that can be gone over again: give a "
            f"tf.data.Dataset or a list of batches. Received: {dataset!r}."
        )
    chosen = _chosen(model, layers)
    for layer in chosen:
        if layer.renorm or not layer.built:
            problem = "has renorm=True" if layer.renorm else "is not built: call the model once"
            raise InputError(f"`{layer.name}` cannot be recalibrated. It {problem}.")
    moved = 0.0
    for number in range(1, max_passes + 1 if chosen else 1):
        found = _one_pass(model, chosen, dataset, batch_statistics=number == 1)
        for layer, population in found:
            population.check(layer)  # of all before one is changed
        moved = max(population.assign(layer) for layer, population in found)
        if number > 1 and moved <= tolerance:
            return number
    if max_passes > 1 and chosen:
        logging.warning(
            "Statistics of batch normalization still moved by %.2g in pass %d; the tolerance is "
            "%.2g. Raise `max_passes`, and give data without random augmentation.",
            moved,
            max_passes,
            tolerance,
        )
    return max_passes if chosen else 0


def _chosen(
    model: keras.Model, layers: Collection[keras.layers.BatchNormalization] | None
) -> list[keras.layers.BatchNormalization]:
    every = batch_normalizations(model)
    if layers is None:
        return every
    if foreign := [layer.name for layer in layers if not any(layer is one for one in every)]:
        raise InputError(
            "`layers` must be batch normalizations of the model. Received others: "
            f"{', '.join(foreign)}. Leave it out for all that the model has."
        )
    return [one for one in every if any(one is layer for layer in layers)]


@dataclass
class _Population:
    """Statistics of all positions seen so far; float64, [channels]."""

    count: float = 0.0
    mean: Any = 0.0
    squares: Any = 0.0

    def add(self, count: Any, mean: Any, variance: Any) -> None:
        """Adds those of one batch: see Chan's formula above."""
        both = self.count + float(count)
        if both:
            difference = mean.astype(np.float64) - self.mean
            self.squares = self.squares + float(count) * variance.astype(np.float64)
            self.squares = self.squares + difference**2 * self.count * float(count) / both
            self.mean = self.mean + difference * float(count) / both
            self.count = both

    def check(self, layer: Any) -> None:
        """Refuses where there are none."""
        if not self.count:
            raise InputError(
                f"`{layer.name}` saw no example: the dataset must not be empty, and the model must "
                "call every one of its normalization layers."
            )

    def assign(self, layer: Any) -> float:
        """Gives them to the layer; returns by how much they moved."""
        variance = self.squares / self.count
        scale = np.sqrt(variance + layer.epsilon)
        moved_mean = np.abs(keras.ops.convert_to_numpy(layer.moving_mean) - self.mean) / scale
        moved_variance = np.abs(keras.ops.convert_to_numpy(layer.moving_variance) - variance)
        layer.moving_mean.assign(self.mean)
        layer.moving_variance.assign(variance)
        return float(max(moved_mean.max(), (moved_variance / scale**2).max()))


def _one_pass(
    model: Any, layers: list[Any], dataset: Iterable[Any], *, batch_statistics: bool
) -> list[tuple[Any, _Population]]:
    """What each layer sees over all batches."""

    def moments_of(x: Any) -> list[Any]:
        seen: list[list[Any]] = [[] for _ in layers]
        with contextlib.ExitStack() as stack:
            for layer, calls in zip(layers, seen, strict=True):
                stack.enter_context(_watched(layer, calls, batch_statistics=batch_statistics))
            model(x, training=False)
        return seen

    compiled = tf.function(moments_of, reduce_retracing=True, autograph=False)
    found = [(layer, _Population()) for layer in layers]
    for batch in dataset:
        x = keras.utils.unpack_x_y_sample_weight(batch)[0]
        seen = compiled(keras.tree.map_structure(tf.convert_to_tensor, x))
        for (_, population), calls in zip(found, seen, strict=True):
            for moments in calls:
                population.add(*(m.numpy() for m in moments))
    return found


@contextlib.contextmanager
def _watched(layer: Any, calls: list[Any], *, batch_statistics: bool) -> Iterator[None]:
    """Notes the moments of what the layer is called with, while the program is traced."""
    original = layer.call

    def call(inputs: Any, training: Any = None, mask: Any = None) -> Any:
        del training
        x = keras.ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        count, mean, variance = _moments(x, mask, axis=layer.axis)
        calls.append((count, mean, variance))
        if not batch_statistics:
            return original(inputs, training=False, mask=mask)
        normalized = keras.ops.batch_normalization(
            x, mean, variance, layer.axis, layer.beta, layer.gamma, layer.epsilon
        )
        return keras.ops.cast(normalized, layer.compute_dtype)

    layer.call = call
    try:
        yield
    finally:
        del layer.call


def _moments(x: Any, mask: Any, *, axis: int) -> tuple[Any, Any, Any]:
    """The number of positions (a scalar), their mean and variance (both [channels])."""
    channel = axis % len(x.shape)
    others = [axis for axis in range(len(x.shape)) if axis != channel]
    if mask is None:
        count = tf.size(x, out_type=tf.int64) // tf.shape(x, out_type=tf.int64)[channel]
        mean, variance = tf.nn.moments(x, others)
        return count, mean, variance
    weights = keras.ops.cast(mask, x.dtype)[..., None]
    weights = keras.ops.broadcast_to(weights, (*keras.ops.shape(x)[:-1], 1))
    mean, variance = tf.nn.weighted_moments(x, others, weights)
    return keras.ops.sum(weights), mean, variance
