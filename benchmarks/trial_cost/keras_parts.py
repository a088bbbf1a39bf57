"""What a Keras user writes once for any tuner: optimizer, compilation, input pipelines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from trial_cost import images
from trial_cost.network import build
from trial_cost.plan import COOLDOWN, EVALUATION_BATCH_SIZE, MOMENTUM, TRAIN, Pair

MakeData = Callable[[int], tuple[tf.data.Dataset, tf.data.Dataset]]
"""From a batch size to training and validation data."""


@keras.saving.register_keras_serializable(package="trial_cost")
class StableThenDecay(keras.optimizers.schedules.LearningRateSchedule):
    """The warmup-stable-decay schedule without warm-up: Keras has none."""

    def __init__(self, learning_rate: float, steps: float):
        super().__init__()
        self.learning_rate = learning_rate
        self.steps = steps

    def __call__(self, step: Any) -> Any:
        """The learning rate of the update number `step`."""
        progress = keras.ops.cast(step, "float32") / self.steps
        done = keras.ops.clip((progress - (1.0 - COOLDOWN)) / COOLDOWN, 0.0, 1.0)
        return self.learning_rate * (1.0 - keras.ops.sqrt(done))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"learning_rate": self.learning_rate, "steps": self.steps}


def learning_rate(pair: Pair, num_examples: int = TRAIN) -> Any:
    """Keras's own schedule of a pair, or a number."""
    steps = num_examples / pair.batch_size  # with its fraction: the last batch may be short
    schedules = keras.optimizers.schedules
    return {
        "constant": lambda: pair.learning_rate,
        "linear": lambda: schedules.PolynomialDecay(pair.learning_rate, steps, 0.0),
        "cosine": lambda: schedules.CosineDecay(pair.learning_rate, steps),
        "wsd": lambda: StableThenDecay(pair.learning_rate, steps),
    }[pair.schedule]()


def compiled(
    pair: Pair, *, input_shape: tuple[int, int, int] = (32, 32, 3), num_examples: int = TRAIN
) -> keras.Model:
    """A new model for a trial."""
    model = build(input_shape, 10)
    model.compile(
        optimizer=keras.optimizers.SGD(learning_rate(pair, num_examples), momentum=MOMENTUM),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def as_the_guide_shows(data_dir: Path) -> MakeData:
    """TensorFlow Datasets' guide: map, cache, shuffle, batch, prefetch, with default options.

    The decoded, normalized images are cached in memory once for all trials.
    """

    def decoded(split: str) -> tf.data.Dataset:
        return images.load(data_dir, split).map(
            lambda image, label: (images.normalize(image), label),
            num_parallel_calls=tf.data.AUTOTUNE,
        )

    train, validation = decoded("train").cache(), decoded("validation")
    validation = validation.batch(EVALUATION_BATCH_SIZE).cache().prefetch(tf.data.AUTOTUNE)

    def make(batch_size: int) -> tuple[tf.data.Dataset, tf.data.Dataset]:
        shuffled = train.shuffle(TRAIN).batch(batch_size)
        return shuffled.prefetch(tf.data.AUTOTUNE), validation

    return make


def from_memory(data_dir: Path) -> MakeData:
    """uint8 in memory, one gather for each batch, and no autotuning.

    With autotuning, each `fit` waits at its end until about 5 s after it began.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    splits = {name: images.resident(data_dir, name) for name in ("train", "validation")}
    tensors = {name: (tf.constant(s.images), tf.constant(s.labels)) for name, s in splits.items()}

    def batches(split: str, indices: tf.data.Dataset) -> tf.data.Dataset:
        pixels, labels = tensors[split]
        gathered = indices.map(
            lambda chosen: (images.normalize(tf.gather(pixels, chosen)), tf.gather(labels, chosen)),
            num_parallel_calls=2,
        )
        return gathered.prefetch(8).with_options(options)

    def make(batch_size: int) -> tuple[tf.data.Dataset, tf.data.Dataset]:
        train, validation = (len(splits[name].labels) for name in ("train", "validation"))
        order = tf.data.Dataset.range(train).shuffle(train).batch(batch_size)
        in_order = tf.data.Dataset.range(validation).batch(EVALUATION_BATCH_SIZE)
        return batches("train", order), batches("validation", in_order)

    return make
