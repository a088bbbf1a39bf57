"""Images from a tf.data pipeline of one's own, augmentation included, and a model not compiled.

Run it with `python examples/image.py`. tfbatch calls `make_dataset` in each worker process, with
the batch size and the seed of the trial, and `build_model` anew for each trial. A model that is
not compiled returns logits; loss and optimizer are the search's.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import tfbatch


def load_splits() -> dict[str, Any]:
    """1797 handwritten digits of 8 x 8 pixels, which scikit-learn brings along."""
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 16).astype("float32")
    rest, test = train_test_split(range(len(labels)), test_size=0.2, random_state=0)
    train, validation = train_test_split(rest, test_size=0.25, random_state=0)
    parts = {"train": train, "validation": validation, "test": test}
    return {split: (images[part], labels[part]) for split, part in parts.items()}


def shifted(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """The image moved by up to one pixel, the same for the same seed."""
    padded = tf.pad(image, [[1, 1], [1, 1], [0, 0]])
    return tf.image.stateless_random_crop(padded, (8, 8, 1), seed=seed)


def make_dataset(split: str, batch_size: int, seed: int) -> tf.data.Dataset:
    """One pass over a split, in batches; what is random follows from the seed."""
    dataset = tf.data.Dataset.from_tensor_slices(load_splits()[split])
    if split == "train":
        dataset = dataset.shuffle(2_000, seed=seed)
        seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2)
        dataset = tf.data.Dataset.zip(dataset, seeds)
        dataset = dataset.map(lambda example, s: (shifted(example[0], s), example[1]))
    return dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE)


def build_model(input_shape: tuple[int, int, int], num_classes: int) -> keras.Model:
    """A small convolutional network that gives logits."""
    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(num_classes),
        ]
    )


def main(
    *, max_trials: int = 9, trial_length: str = "15 epochs", **options: Any
) -> tfbatch.Result | tfbatch.NothingLearned:
    """Searches; `options` are further arguments of `find_batch_size`."""
    return tfbatch.find_batch_size(
        build_model,
        make_dataset,
        search="quick",
        objective="val_accuracy",
        max_trials=max_trials,
        trial_length=trial_length,
        **options,
    )


if __name__ == "__main__":
    result = main()
    print(result.summary())
    print("Train with it:")
    print(f"    make_dataset('train', batch_size={result.batch_size}, seed=1)")
    print(f"    python -m tfbatch.train --config={result.run_dir / 'best.yaml'}")
