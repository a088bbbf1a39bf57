"""Examples a second of the input pipeline against the one of TensorFlow Datasets' guide.

usage: python benchmarks/pipeline.py --data_dir=DIR      (or TFDS_DATA_DIR; real CIFAR-10)

Both pipelines decode, normalise and shuffle the same images; ours also flips and crops, which the
guide's leaves out. Each is drained by one in-graph reduce. Rounds are interleaved; the ratio is
taken within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

import tfbatch
from tfbatch.run_folder.fingerprint import hardware, software

BATCH_SIZES = (32, 128, 1024)


def guide(data_dir: str | None, batch_size: int, *, cached: bool) -> tf.data.Dataset:
    """cache().shuffle().batch().prefetch(), as the guide shows it."""
    dataset = tfds.load("cifar10", split="train", data_dir=data_dir, as_supervised=True)
    dataset = dataset.map(
        lambda image, label: (tf.cast(image, tf.float32) / 255.0, label),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    if cached:
        dataset = dataset.cache()
    return dataset.shuffle(10_000).batch(batch_size).prefetch(tf.data.AUTOTUNE)


@tf.function
def drain(dataset: tf.data.Dataset) -> tf.Tensor:
    """Counts the examples of a dataset in-graph."""
    return dataset.reduce(np.int64(0), lambda n, batch: n + tf.shape(batch[1], tf.int64)[0])


def rate(dataset: tf.data.Dataset) -> float:
    """Examples a second."""
    start = time.perf_counter()
    examples = int(drain(dataset))
    return examples / (time.perf_counter() - start)


def compare(
    name: str,
    ours: Callable[[int], tf.data.Dataset],
    theirs: Callable[[int], tf.data.Dataset],
    n: int,
) -> None:
    """Prints medians, the median ratio, and its range over `n` interleaved rounds."""
    for batch_size in BATCH_SIZES:
        first, second = ours(batch_size), theirs(batch_size)
        rate(first), rate(second)  # fills the cache, traces
        rounds = [(rate(first), rate(second)) for _ in range(n)]
        ratios = [a / b for a, b in rounds]
        print(
            f"{name} B={batch_size}: {statistics.median(a for a, _ in rounds):,.0f} against "
            f"{statistics.median(b for _, b in rounds):,.0f} examples/s, ratio "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}, n={n})",
            flush=True,
        )


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", default=os.environ.get("TFDS_DATA_DIR"))
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(json.dumps({**software(), **hardware([])}))
    resident = tfbatch.load_data("cifar10", data_dir=arguments.data_dir)
    streamed = tfbatch.load_data("cifar10", data_dir=arguments.data_dir, resident_share=0.0)
    for name, data, cached in (("resident", resident, True), ("streamed", streamed, False)):
        compare(
            name,
            lambda b, data=data: data.training(batch_size=b, seed=1, num_examples=50_000),
            lambda b, cached=cached: guide(arguments.data_dir, b, cached=cached),
            arguments.rounds,
        )


if __name__ == "__main__":
    main()
