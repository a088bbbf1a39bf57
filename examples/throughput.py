"""Is the input the limit? A slow pipeline, and the same one cached.

Run it with `python examples/throughput.py`. Plain Keras, but for the callback.
"""

from __future__ import annotations

import time

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from tfbatch.callbacks import Throughput


def load(examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Training images of CIFAR-10: from TFDS_DATA_DIR, or fetched once."""
    data = tfds.as_numpy(tfds.load("cifar10", split=f"train[:{examples}]", batch_size=-1))
    return data["image"] / np.float32(255), data["label"]


def build_model(input_shape: tuple[int, ...]) -> keras.Model:
    """A small convolutional network."""
    layers = [
        keras.Input(input_shape),
        keras.layers.Conv2D(16, 3, activation="relu"),
        keras.layers.MaxPooling2D(),
        keras.layers.Flatten(),
        keras.layers.Dense(10),
    ]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9), loss, metrics=["accuracy"])
    return model


def main(*, examples: int = 1_500, epochs: int = 3, delay: float = 0.002) -> dict[str, float]:
    """Trains from a pipeline that takes `delay` seconds for each example, then from a cached one.

    Returns:
        The share of time spent waiting for input, of each.
    """
    images, labels = load(examples)

    def decode(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        def slowly(array: np.ndarray) -> np.ndarray:
            time.sleep(delay)
            return array

        decoded = tf.numpy_function(slowly, [image], image.dtype)
        return tf.ensure_shape(decoded, image.shape), label

    slow = tf.data.Dataset.from_tensor_slices((images, labels)).map(decode)
    waits = {}
    for name, data in (("slow", slow), ("cached", slow.cache())):
        throughput = Throughput()
        model = build_model(images.shape[1:])
        model.fit(data.batch(64).prefetch(2), epochs=epochs, callbacks=[throughput], verbose=0)
        waits[name] = throughput.input_wait
        speed = f"{throughput.examples_per_second:,.0f} examples/s"
        print(f"{name}: {speed}, {throughput.input_wait:.0%} of the time waiting for input")
    return waits


if __name__ == "__main__":
    main()
