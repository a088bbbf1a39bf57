"""Which learning rate to begin with? A range test with constant rates, then training at both.

Run it with `python examples/learning_rate_range.py`. Plain Keras, but for the callback.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow_datasets as tfds

from tfbatch.callbacks import LearningRateRangeTest


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
    model.compile(keras.optimizers.SGD(2e-4, momentum=0.9), loss, metrics=["accuracy"])
    return model


def main(*, examples: int = 16_000, epochs: int = 1, batch_size: int = 128) -> dict[str, float]:
    """Tests, prints the suggestion and the doubts, and trains with both rates.

    Returns:
        The training loss at the compiled learning rate and at the suggested one.
    """
    images, labels = load(examples)
    model = build_model(images.shape[1:])
    compiled = float(model.optimizer.learning_rate)
    updates = epochs * -(-len(images) // batch_size)
    with LearningRateRangeTest(steps=updates) as test:  # restores the model also if interrupted
        # Updates that the sweep leaves over try constant rates; fit ends when it knows enough.
        model.fit(
            images, labels, batch_size=batch_size, epochs=8 * epochs, callbacks=[test], verbose=0
        )
    print(f"rules of the sweep: {test.result}")
    for one in test.constant:
        print(f"constant rate {one.learning_rate:.3g}: loss {one.loss:.3g}")
    print("suggested", f"{test.suggestion:.3g}" if test.suggestion else f"none: {test.doubts}")
    losses = {}
    for name, rate in (("compiled", compiled), ("suggested", test.suggestion or compiled)):
        keras.utils.set_random_seed(1)
        model = build_model(images.shape[1:])
        model.optimizer.learning_rate = rate
        history = model.fit(images, labels, batch_size=batch_size, epochs=epochs, verbose=0)
        losses[name] = history.history["loss"][-1]
        print(f"{name} learning rate {rate:.3g}: loss {losses[name]:.3f}")
    return losses


if __name__ == "__main__":
    main()
