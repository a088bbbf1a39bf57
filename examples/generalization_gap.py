"""Overfitting, measured fairly: Keras's own curves show a gap that is too small.

Run it with `python examples/generalization_gap.py`. Plain Keras, but for the callback.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow_datasets as tfds

from tfbatch.callbacks import GeneralizationGap


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
        keras.layers.Dropout(0.5),
        keras.layers.Dense(10),
    ]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9), loss, metrics=["accuracy"])
    return model


def main(*, examples: int = 4_000, epochs: int = 12) -> dict[str, float]:
    """Trains with dropout, and prints the gap of the curves beside the gap in the same mode.

    Returns:
        Both gaps of the loss at the end.
    """
    images, labels = load(examples)
    half = len(images) // 2
    training, validation = (images[:half], labels[:half]), (images[half:], labels[half:])
    model = build_model(images.shape[1:])
    history = model.fit(
        *training,
        epochs=epochs,
        validation_data=validation,
        callbacks=[GeneralizationGap(training, validation)],
        verbose=0,
    ).history
    gaps = {
        "curves": history["val_loss"][-1] - history["loss"][-1],
        "same_mode": history["gap_loss"][-1],
    }
    print(f"val_loss - loss: {gaps['curves']:+.3f}; in the same mode: {gaps['same_mode']:+.3f}")
    return gaps


if __name__ == "__main__":
    main()
