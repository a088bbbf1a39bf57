"""Segmentation: a class for each pixel, a small U-Net, and the mean IoU as the objective.

Run it with `python examples/segmentation.py`. The images are drawn here: discs and squares of
random place, size and brightness on a noisy background. The data is a tf.data.Dataset of single
examples, which tfbatch stores in the run folder once and shuffles anew in each epoch.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfbatch

SIZE = 16
BACKGROUND, DISC, SQUARE = range(3)


def draw(count: int, *, seed: int) -> tf.data.Dataset:
    """Images (SIZE, SIZE, 1) of float32, and the class of each pixel, (SIZE, SIZE) of uint8."""
    rng = np.random.default_rng(seed)
    images = rng.normal(0.0, 0.3, (count, SIZE, SIZE, 1)).astype("float32")
    masks = np.full((count, SIZE, SIZE), BACKGROUND, np.uint8)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for image, mask in zip(images, masks, strict=True):
        for shape in rng.permutation([DISC, SQUARE]):
            radius = rng.integers(2, 5)
            down, right = rng.integers(radius, SIZE - radius, 2)
            distances = np.abs(rows - down), np.abs(columns - right)
            inside = np.hypot(*distances) <= radius
            if shape == SQUARE:
                inside = np.maximum(*distances) <= radius * 0.8
            image[inside] += rng.uniform(0.6, 1.2)
            mask[inside] = shape
    return tf.data.Dataset.from_tensor_slices((images, masks))


def convolve(x: Any, filters: int) -> Any:
    """A convolution that keeps the size."""
    return keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(x)


def build_model(input_shape: tuple[int, int, int]) -> keras.Model:
    """Down two times, up two times, with a skip connection at each size."""
    inputs = keras.Input(input_shape)
    full = convolve(inputs, 4)
    half = convolve(keras.layers.MaxPooling2D()(full), 8)
    x = convolve(keras.layers.MaxPooling2D()(half), 16)
    for skip, filters in ((half, 8), (full, 4)):
        x = keras.layers.Concatenate()([keras.layers.UpSampling2D()(x), skip])
        x = convolve(x, filters)
    model = keras.Model(inputs, keras.layers.Conv2D(3, 1)(x))
    model.compile(
        optimizer=keras.optimizers.Adam(0.003),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.MeanIoU(3, sparse_y_pred=False, name="mean_iou")],
    )
    return model


def main(
    *, max_trials: int = 9, trial_length: str = "10 epochs", **options: Any
) -> tfbatch.Result | tfbatch.NothingLearned:
    """Searches; `options` are further arguments of `find_batch_size`."""
    return tfbatch.find_batch_size(
        build_model,
        {"train": draw(400, seed=0), "validation": draw(200, seed=1)},
        search="quick",
        objective="val_mean_iou:max",
        batch_sizes=[8, 16, 32],
        max_trials=max_trials,
        trial_length=trial_length,
        **options,
    )


if __name__ == "__main__":
    result = main()
    print(result.summary())
    print(f"Every trial's curves: tensorboard --logdir={result.run_dir / 'tensorboard'}")
