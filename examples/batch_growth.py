"""Plain Keras, with the batch growing where a learning rate would decay.

Run it with `python examples/batch_growth.py`. Two trainings of one network see the same examples
in the same order. The one divides its learning rate by 4 after a half and after three quarters of
the epochs; the other multiplies its batch by 4 there (Smith et al. 2017, arXiv 1711.00489). Both
should end at about the same loss, the second after far fewer updates.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import keras
import numpy as np
import tensorflow_datasets as tfds

from tfbatch.callbacks import BatchSizeScheduler

GAMMA = 0.25


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a training gave.

    Attributes:
        batch_sizes: Batch size at the end of each epoch.
        updates: Number of updates.
        loss: Loss on held-out images at the end.
        accuracy: Their accuracy.
        seconds: Seconds of `fit`.
    """

    batch_sizes: list[int]
    updates: int
    loss: float
    accuracy: float
    seconds: float


def load(examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Training images of CIFAR-10: from TFDS_DATA_DIR, or fetched once."""
    data = tfds.as_numpy(tfds.load("cifar10", split=f"train[:{examples}]", batch_size=-1))
    return data["image"] / np.float32(255), data["label"]


def build_model(input_shape: tuple[int, ...]) -> keras.Model:
    """A small convolutional network."""
    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


def train(scheduler: BatchSizeScheduler, family: str, data: Any, *, epochs: int) -> Trained:
    """One training, from the same weights and in the same order of examples."""
    (x, y), held_out = data
    keras.utils.set_random_seed(1)
    dataset = scheduler.dataset(x, y)
    learning_rate = scheduler.learning_rate(
        family,
        learning_rate=0.02,
        total_examples=epochs * len(x),
        parameters={"boundaries": "0.5/0.75", "gamma": GAMMA} if family == "step" else None,
    )
    model = build_model(x.shape[1:])
    model.compile(
        keras.optimizers.SGD(learning_rate, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    start = time.perf_counter()
    history = model.fit(
        dataset, epochs=epochs, callbacks=[scheduler], verbose=0, shuffle=False
    ).history
    seconds = time.perf_counter() - start
    loss, accuracy = model.evaluate(*held_out, batch_size=500, verbose=0)
    updates = int(model.optimizer.iterations)
    return Trained(history["batch_size"], updates, loss, accuracy, seconds)


def main(*, examples: int = 12_000, epochs: int = 8, batch_size: int = 32) -> dict[str, Trained]:
    """Trains both ways and prints what came of it.

    Args:
        examples: Images; a sixth of them is held out.
        epochs: Length of each training; a multiple of 4.
        batch_size: The batch size before it grows.
    """
    images, labels = load(examples)
    held_out = len(images) // 6
    data = (images[held_out:], labels[held_out:]), (images[:held_out], labels[:held_out])
    decay = BatchSizeScheduler({0: batch_size})
    growth = BatchSizeScheduler.instead_of_decay(
        batch_size, boundaries=[epochs / 2, epochs * 3 / 4], gamma=GAMMA
    )
    found = {
        "learning rate decays": train(decay, "step", data, epochs=epochs),
        "batch grows": train(growth, "constant", data, epochs=epochs),
    }
    for name, trained in found.items():
        sizes = " ".join(map(str, dict.fromkeys(trained.batch_sizes)))
        print(
            f"{name:22}batch {sizes:12}{trained.updates:6} updates {trained.seconds:7.1f} s   "
            f"held-out loss {trained.loss:.4f}, accuracy {trained.accuracy:.3f}"
        )
    return found


if __name__ == "__main__":
    main()
