"""A learning rate that is too high costs a few updates instead of a whole training.

Run it with `python examples/divergence_guard.py`. Plain Keras, but for the callback.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow_datasets as tfds

from tfbatch.callbacks import DivergenceGuard


def load(examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Training images of CIFAR-10: from TFDS_DATA_DIR, or fetched once."""
    data = tfds.as_numpy(tfds.load("cifar10", split=f"train[:{examples}]", batch_size=-1))
    return data["image"] / np.float32(255), data["label"]


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
