"""A learning rate that is too high costs a few updates instead of a whole training.

Run it with `python examples/divergence_guard.py`. Plain Keras, but for the callback. CIFAR-10 where
TFDS_DATA_DIR names a TensorFlow Datasets folder that holds it, else scikit-learn's digits.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from tfbatch.callbacks import DivergenceGuard


def load(examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [examples, height, width, channels] in 0 to 1, and their labels."""
    folder = os.environ.get("TFDS_DATA_DIR")
    if folder and (Path(folder) / "cifar10").is_dir():
        import tensorflow_datasets as tfds

        data = tfds.as_numpy(tfds.load("cifar10", split="train", batch_size=-1))
        return data["image"][:examples] / np.float32(255), data["label"][:examples]
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return images.reshape(-1, 8, 8, 1)[:examples] / 16, labels[:examples]


def build_model(input_shape: tuple[int, ...], learning_rate: float) -> keras.Model:
    """A small convolutional network."""
    layers = [
        keras.Input(input_shape),
        keras.layers.Conv2D(16, 3, activation="relu"),
        keras.layers.MaxPooling2D(),
        keras.layers.Flatten(),
        keras.layers.Dense(10),
    ]
    keras.utils.set_random_seed(1)
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(learning_rate, momentum=0.9), loss)
    return model


def main(
    *, examples: int = 6_000, epochs: int = 3, learning_rates: Sequence[float] = (0.02, 0.5, 5.0)
) -> dict[float, int]:
    """Trains at each learning rate until it diverges, and prints where it did.

    Returns:
        The number of updates that each training made.
    """
    images, labels = load(examples)
    whole = epochs * -(-len(images) // 32)
    updates = {}
    for rate in learning_rates:
        model, guard = build_model(images.shape[1:], rate), DivergenceGuard()
        model.fit(images, labels, batch_size=32, epochs=epochs, callbacks=[guard], verbose=0)
        updates[rate] = int(model.optimizer.iterations)
        said = f"diverged: {guard.reason}" if guard.diverged else "trained to the end"
        print(f"learning rate {rate:g}: {updates[rate]} of {whole} updates, {said}")
    print(f"{sum(whole - done for done in updates.values())} useless updates were not made")
    return updates


if __name__ == "__main__":
    main()
