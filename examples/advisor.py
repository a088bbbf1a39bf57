"""What limits this training, and would a larger batch help? Ask while it runs.

Run it with `python examples/advisor.py`. Plain Keras, but for the callback.
"""

from __future__ import annotations

import keras
import numpy as np
from sklearn.datasets import load_digits

from tfbatch.callbacks import Advisor


def load(examples: int) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's 1,797 handwritten digits; no download."""
    images, labels = load_digits(return_X_y=True)
    return images.reshape(-1, 8, 8, 1)[:examples] / 16, labels[:examples]


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


def main(*, examples: int = 1_797, epochs: int = 2, batch_size: int = 32) -> Advisor:
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
