"""Trainings of a card's own: other networks than the user's, on examples that fit into memory.

Plain descent with momentum, compiled once for all batch sizes. A seed fixes the initial weights and
one order of the examples, which every batch size cuts into batches of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tfbatch.errors import InputError

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from tfbatch.training.context import TaskContext

Indices = npt.NDArray[np.int32]


class SmallTraining:
    """Trains a model from its initial weights, again and again.

    Args:
        model: Uncompiled, as built.
        loss: `loss(targets, outputs)` is one value for each example.
        inputs: [examples, ...]
        targets: [examples, ...]
        momentum: Of SGD.

    Attributes:
        examples: How many there are.
    """

    def __init__(
        self,
        model: keras.Model,
        loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        inputs: tf.Tensor,
        targets: tf.Tensor,
        *,
        momentum: float = 0.9,
    ):
        import tensorflow as tf

        self.examples = len(inputs)
        self._variables = model.variables  # the states of its random numbers too
        self._initial = [variable.numpy() for variable in self._variables]
        trained = [variable.value for variable in model.trainable_variables]
        self._slots = [tf.Variable(tf.zeros_like(variable)) for variable in trained]

        def step(chosen: tf.Tensor, rate: tf.Tensor) -> None:
            with tf.GradientTape() as tape:
                outputs = model(tf.gather(inputs, chosen), training=True)
                value = tf.reduce_mean(loss(tf.gather(targets, chosen), outputs))
            gradients = tape.gradient(value, trained)
            for variable, slot, gradient in zip(trained, self._slots, gradients, strict=True):
                slot.assign(momentum * slot + gradient)
                variable.assign_sub(rate * slot)

        def mean_loss(chosen: tf.Tensor) -> tf.Tensor:
            outputs = model(tf.gather(inputs, chosen), training=False)
            return tf.reduce_mean(loss(tf.gather(targets, chosen), outputs))

        def infer(others: tf.Tensor) -> tf.Tensor:
            return model(others, training=False)

        indices = tf.TensorSpec([None], tf.int32)
        self._infer = tf.function(infer)
        self._step = tf.function(step, input_signature=[indices, tf.TensorSpec([])])
        self._mean_loss = tf.function(mean_loss, input_signature=[indices])

    def outputs(self, inputs: npt.NDArray[np.generic]) -> tf.Tensor:
        """What the network makes of other inputs, as at inference."""
        return self._infer(inputs)

    def restart(self) -> None:
        """Puts the initial weights back."""
        for variable, value in zip(self._variables, self._initial, strict=True):
            variable.assign(value)
        for slot in self._slots:
            slot.assign(np.zeros(slot.shape, np.float32))

    def step(self, chosen: Indices | Sequence[int], rate: float) -> None:
        """One update from the examples with these indices."""
        import tensorflow as tf

        self._step(tf.constant(chosen, tf.int32), tf.constant(rate, tf.float32))

    def loss(self, chosen: Indices | Sequence[int]) -> float:
        """The mean loss of the examples with these indices, as at inference."""
        import tensorflow as tf

        return float(self._mean_loss(tf.constant(chosen, tf.int32)))


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Where a network is built in float32, whatever the user's policy; a seed fixes its weights."""
    import keras

    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(seed)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)


def batches(count: int, size: int, seed: int) -> Iterator[Indices]:
    """Indices of one batch after the other, without end: passes of shuffled examples, cut."""
    generator = np.random.default_rng(seed)
    rest = np.empty(0, np.int32)
    while True:
        while len(rest) < size:
            rest = np.concatenate([rest, generator.permutation(count).astype(np.int32)])
        yield rest[:size]
        rest = rest[size:]


def labeled_images(
    task: TaskContext, *, most: int, side: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32], int]:
    """Training images of the user's data, shrunk, with their classes and the number of these.

    Args:
        task: Holds the data.
        most: How many at most.
        side: Larger images are shrunk so that their shorter side has so many pixels.

    Raises:
        InputError: The data is not images with one class each.
    """
    import tensorflow as tf

    shorter = min(image_shape(task.programs.workload.data.input_shape)[:2])
    inputs, labels, classes = labeled_examples(task, "train", most=most)
    images = inputs.astype(np.float32)
    if shorter > side:
        pixels = [max(1, round(length * side / shorter)) for length in images.shape[1:3]]
        images = tf.image.resize(images, pixels, method="area").numpy()
    return images, labels, classes


def labeled_examples(
    task: TaskContext, split: str, *, most: int
) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.int32], int]:
    """Examples of the user's data without augmentation, their classes and the number of these.

    Args:
        task: Holds the data.
        split: "train" or "validation".
        most: How many at most.

    Raises:
        InputError: The data is not one input with one class each.
    """
    from tfbatch.instruments.weights_and_examples import without_augmentation

    data = without_augmentation(task.programs.workload.data)
    classes, count = data.num_classes, min(most, data.num_examples(split))
    if classes is None or not isinstance(data.input_shape, tuple):
        raise InputError("this experiment needs one input, and one class as its target")
    stream = (
        data.training(batch_size=count, seed=1, num_examples=count)
        if split == "train"
        else data.evaluation(split, batch_size=count)
    )
    inputs, targets, *_ = next(iter(stream))
    labels = np.asarray(targets)
    if labels.ndim > 1 and labels.shape[-1] == classes:  # a probability for each class
        labels = labels.argmax(axis=-1)
    return np.asarray(inputs), labels.reshape(count).astype(np.int32), classes


def image_shape(shape: object) -> tuple[int, int, int]:
    """(height, width, channels) of a data set's inputs.

    Raises:
        InputError: They are something else.
    """
    if isinstance(shape, tuple) and len(shape) == 3 and all(isinstance(n, int) for n in shape):
        return shape
    raise InputError(f"this experiment needs images of one size; the inputs have the shape {shape}")
