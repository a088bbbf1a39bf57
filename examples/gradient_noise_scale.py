"""How large a batch can the gradient make use of? It grows during training.

Run it with `python examples/gradient_noise_scale.py`. Plain Keras, but for the callback.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow_datasets as tfds

from tfbatch.callbacks import GradientNoiseScale


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


def main(*, examples: int = 16_000, epochs: int = 4, batch_size: int = 64) -> list[float]:
    """Trains, and prints the gradient noise scale after each epoch.

    Returns:
        The noise scale after each epoch, in examples.
    """
    images, labels = load(examples)
    noise = GradientNoiseScale(interval=4)  # 3 % of so short a training are too few
    model = build_model(images.shape[1:])
    history = model.fit(
        images, labels, batch_size=batch_size, epochs=epochs, callbacks=[noise], verbose=0
    ).history
    rows = zip(*(history[f"noise_scale{end}"] for end in ("", "_low", "_high")), strict=True)
    for epoch, (scale, low, high) in enumerate(rows):
        print(f"after epoch {epoch + 1}: noise scale {scale:.0f} [{low:.0f}, {high:.0f}]")
    print(f"{noise.measurements} measurements took {noise.share:.1%} of the training's time")
    return list(history["noise_scale"])


if __name__ == "__main__":
    main()
