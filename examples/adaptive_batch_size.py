"""Small batches early, large ones late: the batch grows once the gradient's noise allows it.

Run it with `python examples/adaptive_batch_size.py`. Plain Keras, but for the callback and the one
that measures the noise for it. At the same learning rate a batch that grows does what a learning
rate that decays does, in fewer updates: part of the accuracy gained is that.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow_datasets as tfds

from tfbatch.callbacks import AdaptiveBatchSize, GradientNoiseScale


def load(examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Training images of CIFAR-10: from TFDS_DATA_DIR, or fetched once."""
    data = tfds.as_numpy(tfds.load("cifar10", split=f"train[:{examples}]", batch_size=-1))
    return data["image"] / np.float32(255), data["label"]


def build_model(input_shape: tuple[int, ...]) -> keras.Model:
    """A small convolutional network."""
    layers = [keras.Input(input_shape)]
    for filters in (16, 32):
        layers.append(keras.layers.Conv2D(filters, 3, padding="same", activation="relu"))
        layers.append(keras.layers.MaxPooling2D())
    layers += [keras.layers.Flatten(), keras.layers.Dense(64, activation="relu")]
    keras.utils.set_random_seed(1)
    model = keras.Sequential([*layers, keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9), loss, metrics=["accuracy"])
    return model


def main(
    *, examples: int = 12_000, epochs: int = 10, batch_size: int = 32, interval: int = 50
) -> dict[str, Any]:
    """Trains at one batch size and at one that adapts, and prints what each gave.

    Returns:
        For each: the number of updates and the held-out accuracy; and the batch sizes.
    """
    images, labels = load(examples)
    x, y = images[len(images) // 6 :], labels[len(images) // 6 :]
    held_out = images[: len(images) // 6], labels[: len(images) // 6]
    # Batches of its own, larger ones, tell the gradient from its noise with fewer measurements.
    noise = GradientNoiseScale(x, y, batch_size=256, interval=interval)
    adaptive = AdaptiveBatchSize(noise, batch_size=batch_size, max_batch_size=16 * batch_size)
    found: dict[str, Any] = {}
    for name in ("fixed", "adaptive"):
        model = build_model(x.shape[1:])
        if name == "fixed":
            model.fit(x, y, batch_size=batch_size, epochs=epochs, verbose=0)
        else:
            model.fit(
                adaptive.dataset(x, y),
                epochs=epochs,
                callbacks=[noise, adaptive],
                shuffle=False,
                verbose=0,
            )
        accuracy = model.evaluate(*held_out, batch_size=256, verbose=0)[1]
        found[name] = {"updates": int(model.optimizer.iterations), "accuracy": accuracy}
        print(f"{name:9}{found[name]['updates']:6} updates, held-out accuracy {accuracy:.3f}")
    found["batch_sizes"] = [size for _, _, size in adaptive.switches]
    for epoch, _, size in adaptive.switches:
        print(f"from epoch {epoch + 1} on batches of {size}")
    print(f"noise scale at the end {noise.estimate}; measuring took {noise.share:.0%} of the time")
    return found


if __name__ == "__main__":
    main()
