"""The images of the comparison: a part of CIFAR-10, written once as a data set of its own.

A data set of its own lets every engine read exactly the same images through the same door,
`tfds.load`. Writing it is no engine's time.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_datasets as tfds

from trial_cost.plan import TEST, TRAIN, VALIDATION

NAME = "cifar10_part"
MEAN = (0.4914, 0.4822, 0.4465)
STANDARD_DEVIATION = (0.2470, 0.2435, 0.2616)


@dataclasses.dataclass(frozen=True)
class Images:
    """A split in memory: uint8 [n, height, width, channels] and int32 [n]."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]


def write(source: str | None, target: Path) -> None:
    """Writes the data set into `target`, unless it is there.

    Args:
        source: The TensorFlow Datasets folder that holds cifar10/, or None for its default.
        target: The folder that will hold it.
    """
    if (target / NAME).exists():
        return
    ends = (0, TRAIN, TRAIN + VALIDATION, TRAIN + VALIDATION + TEST)
    splits = {
        name: tfds.load("cifar10", split=f"train[{low}:{high}]", data_dir=source)
        for name, low, high in zip(("train", "validation", "test"), ends, ends[1:], strict=False)
    }
    tfds.dataset_builders.store_as_tfds_dataset(
        NAME,
        version="1.0.0",
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(32, 32, 3)),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
        ),
        split_datasets={
            name: split.map(lambda e: {"image": e["image"], "label": e["label"]})
            for name, split in splits.items()
        },
        data_dir=target,
        disable_shuffling=True,
    )


def load(data_dir: Path, split: str) -> tf.data.Dataset:
    """A split as (uint8 image, int64 label), one example at a time."""
    dataset = tfds.load(NAME, split=split, data_dir=data_dir)
    return dataset.map(lambda example: (example["image"], example["label"]))


def resident(data_dir: Path, split: str) -> Images:
    """A split in memory."""
    batches = list(load(data_dir, split).batch(1000).as_numpy_iterator())
    return Images(
        np.concatenate([images for images, _ in batches]),
        np.concatenate([labels for _, labels in batches]).astype(np.int32),
    )


def normalize(images: tf.Tensor) -> tf.Tensor:
    """uint8 to (pixel / 255 - mean) / standard deviation; of one image or of a batch."""
    width, channels = images.shape[-2:]
    deviation = np.asarray(STANDARD_DEVIATION, np.float32)
    # One row at a time: broadcasting over three channels is four times slower on a CPU.
    scale = np.tile((1 / (255 * deviation)).astype(np.float32), width)
    shift = np.tile(np.asarray(MEAN, np.float32) / deviation, width)
    rows = tf.cast(tf.reshape(images, [-1, width * channels]), tf.float32)
    return tf.ensure_shape(tf.reshape(rows * scale - shift, tf.shape(images)), images.shape)


if __name__ == "__main__":
    write(sys.argv[1] or None, Path(sys.argv[2]))
