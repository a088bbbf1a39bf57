"""A row in TensorBoard's HParams view for each fit, to compare batch sizes by hand.

Run it with `python examples/hparams_view.py`. Plain Keras, but for the callback.
"""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import tensorflow_datasets as tfds

from tfbatch.callbacks import HParams


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


def main(
    *, examples: int = 4_000, batch_sizes: tuple[int, ...] = (32, 128), log_dir: str = "logs"
) -> list[Path]:
    """Trains with each batch size, the learning rate scaled along.

    Returns:
        The folder of each row.
    """
    images, labels = load(examples)
    folders = []
    for batch_size in batch_sizes:
        model = build_model(images.shape[1:])
        model.optimizer.learning_rate = 0.02 * batch_size / 32
        hparams = HParams(log_dir, {"batch_size": batch_size})
        history = model.fit(
            images, labels, batch_size=batch_size, callbacks=[hparams], verbose=0
        ).history
        print(f"{hparams.folder}: B={batch_size}, accuracy {history['accuracy'][-1]:.3f}")
        folders.append(hparams.folder)
    print(f"Look at them: tensorboard --logdir={log_dir}, HPARAMS")
    return folders


if __name__ == "__main__":
    main()
