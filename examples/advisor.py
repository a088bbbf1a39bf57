"""What limits this training, and would a larger batch help? Ask while it runs.

Run it with `python examples/advisor.py`. Plain Keras, but for the callback.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow_datasets as tfds

from tfbatch.callbacks import Advisor


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


def main(*, examples: int = 10_000, epochs: int = 2, batch_size: int = 32) -> Advisor:
    """Trains as ever; the advice is printed after each epoch.

    Returns:
        The callback, whose `advice` holds the last one.
    """
    images, labels = load(examples)
    advisor = Advisor(model="mine:build_model", data="mine:make_dataset")
    model = build_model(images.shape[1:])
    model.fit(images, labels, batch_size=batch_size, epochs=epochs, callbacks=[advisor], verbose=0)
    return advisor


if __name__ == "__main__":
    main()
