"""How much memory does a batch size take? Small batches first, then large ones.

Run it with `python examples/peak_memory.py`. Plain Keras, but for the callback.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow_datasets as tfds

from tfbatch.callbacks import PeakMemory


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


def main(*, examples: int = 4_000, batch_sizes: tuple[int, ...] = (32, 1_024)) -> dict[int, float]:
    """Trains an epoch with each batch size, in ascending order.

    Returns:
        {batch size: peak memory in MB}; on a CPU the peak of the process so far.
    """
    images, labels = load(examples)
    peaks = {}
    for batch_size in batch_sizes:
        memory = PeakMemory()
        model = build_model(images.shape[1:])
        model.fit(images, labels, batch_size=batch_size, callbacks=[memory], verbose=0)
        peaks[batch_size] = memory.peak_memory_mb
        print(f"B={batch_size}: peak {memory.peak_memory_mb:,.0f} MB")
    return peaks


if __name__ == "__main__":
    main()
