"""A bare compiled loop: what is left of a trial when everything that is not training is taken away.

One model and one program for all trials. The batch dimension is None, the learning rates are a
table that the program reads, weights and velocities are reset in place, images stay in memory as
uint8. No callbacks, no training metrics, no files.

`Loop.train` has two forms: one call of the program for each epoch, or for each update. The first
one is the loop of the comparison: it is a quarter faster at batch size 16 and not slower at others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trial_cost.images import Images, normalize, resident
from trial_cost.network import build
from trial_cost.plan import EVALUATION_BATCH_SIZE, MOMENTUM, Job, Pair, Trained

_INDEX = tf.TensorSpec([], tf.int32)
_ORDER = tf.TensorSpec([None], tf.int32)
_TABLE = tf.TensorSpec([None], tf.float32)


def momentum_step(
    model: keras.Model,
    velocities: Sequence[tf.Variable],
    images: tf.Tensor,
    labels: tf.Tensor,
    *,
    rate: tf.Tensor | float,
) -> tf.Tensor:
    """One update by SGD with momentum, one fused operation a weight; the loss before it.

    velocity = momentum * velocity - rate * gradient; variable += velocity: as Keras's SGD.
    """
    variables = [weight.value for weight in model.trainable_variables]
    with tf.GradientTape() as tape:
        logits = tf.cast(model(images, training=True), tf.float32)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        loss = tf.reduce_mean(losses)
    gradients = tape.gradient(loss, variables)
    for variable, velocity, gradient in zip(variables, velocities, gradients, strict=True):
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle, accum=velocity.handle, lr=rate, grad=gradient, momentum=MOMENTUM
        )
    return loss


class Loop:
    """The model, the images and the compiled programs.

    Args:
        train: Training images.
        validation: Validation images.
    """

    def __init__(self, train: Images, validation: Images):
        self.model = build(train.images.shape[1:], 10)
        self._variables = [weight.value for weight in self.model.trainable_variables]
        self._velocities = [tf.Variable(tf.zeros_like(v)) for v in self._variables]
        self._images, self._labels = tf.constant(train.images), tf.constant(train.labels)
        self._validation = tf.constant(validation.images), tf.constant(validation.labels)

    def trial(self, pair: Pair, *, seed: int, in_graph: bool = True) -> float:
        """Trains anew for one epoch; returns the validation accuracy."""
        self.reset(seed)
        order = np.random.default_rng(seed).permutation(len(self._labels)).astype(np.int32)
        self.train(pair, order, in_graph=in_graph)
        return float(self.accuracy())

    def reset(self, seed: int) -> None:
        """New weights as Keras's layers draw them by default, velocities of zero."""
        for number, variable in enumerate(self._variables):
            draw = keras.initializers.GlorotUniform(seed=1000 * seed + number)
            drawn = draw(variable.shape) if variable.shape.rank > 1 else tf.zeros_like(variable)
            variable.assign(drawn)
        for velocity in self._velocities:
            velocity.assign(tf.zeros_like(velocity))

    def train(self, pair: Pair, order: np.ndarray[Any, Any], *, in_graph: bool = True) -> None:
        """One epoch over the images in an order.

        Args:
            pair: Batch size and schedule.
            order: Indices of the images, int32.
            in_graph: Loop over the updates in the program, not in Python.
        """
        indices = tf.constant(order)
        table, batch_size = tf.constant(pair.table(len(order))), tf.constant(pair.batch_size)
        if in_graph:
            self._epoch(indices, table, batch_size)
            return
        for step in tf.range(len(table)):
            self._one_update(indices, table, batch_size, step)

    @tf.function(input_signature=[_ORDER, _TABLE, _INDEX])
    def _epoch(self, order: tf.Tensor, table: tf.Tensor, batch_size: tf.Tensor) -> None:
        for step in tf.range(tf.size(table)):
            self._update(order, table, batch_size, step)

    @tf.function(input_signature=[_ORDER, _TABLE, _INDEX, _INDEX])
    def _one_update(
        self, order: tf.Tensor, table: tf.Tensor, batch_size: tf.Tensor, step: tf.Tensor
    ) -> None:
        self._update(order, table, batch_size, step)

    def _update(
        self, order: tf.Tensor, table: tf.Tensor, batch_size: tf.Tensor, step: tf.Tensor
    ) -> None:
        chosen = order[step * batch_size : (step + 1) * batch_size]
        images, labels = normalize(tf.gather(self._images, chosen)), tf.gather(self._labels, chosen)
        momentum_step(self.model, self._velocities, images, labels, rate=table[step])

    @tf.function(input_signature=[])
    def accuracy(self) -> tf.Tensor:
        """Share of the validation images that are classified rightly."""
        images, labels = self._validation
        right = tf.constant(0, tf.int64)
        for low in tf.range(0, len(labels), EVALUATION_BATCH_SIZE):
            batch = normalize(images[low : low + EVALUATION_BATCH_SIZE])
            guessed = tf.argmax(self.model(batch, training=False), axis=-1, output_type=tf.int32)
            found = tf.equal(guessed, labels[low : low + EVALUATION_BATCH_SIZE])
            right += tf.math.count_nonzero(found)
        return right / len(labels)


def _run(job: Job, *, in_graph: bool) -> list[Trained]:
    loop = Loop(resident(job.data_dir, "train"), resident(job.data_dir, "validation"))
    return [
        Trained(p.batch_size, p.schedule, loop.trial(p, seed=seed, in_graph=in_graph))
        for seed, p in enumerate(job.pairs, start=job.seed)
    ]


def in_graph(job: Job) -> list[Trained]:
    """The loop over updates is in the program."""
    return _run(job, in_graph=True)


def in_python(job: Job) -> list[Trained]:
    """The loop over updates is in Python."""
    return _run(job, in_graph=False)
