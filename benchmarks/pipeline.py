"""The input pipeline against the one of TensorFlow Datasets' guide, on real CIFAR-10.

usage: python benchmarks/pipeline.py [--data_dir=DIR] [--rounds=5] [--epochs=4] [--json=FILE]
(without --data_dir: TFDS_DATA_DIR)

Neither side augments. Both decode, shuffle and normalize the same images: once with the guide's
normalization (pixel / 255), once with the recipe's own for each channel, which the guide leaves
out. Rounds are interleaved, and every ratio is taken within a round.

    resident   one stream of 4 epochs, a trial's length in the recipe, against 4 epochs of
               cache().shuffle(10_000).batch(B).prefetch(AUTOTUNE), read by a `fit` that does
               nothing, by a Python loop, and by one in-graph reduce
    copy       bytes that the resident path reads (uint8) and writes (float32) in a second, against
               one memory copy of as many bytes
    streamed   against the same pipeline without its cache, from records with raw pixels and with
               encoded images; a third of an epoch
    making     seconds of the second and later `training` and `evaluation`, and to a first batch

Result: resident, pixel / 255, read by `fit`: 1.37, 2.37 and 3.56 times the guide's examples a
second at B = 32, 128 and 1024 (median of 3 rounds; two busy CPU cores of an AMD EPYC).
Evidence: benchmarks/results/pipeline.md
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from tfbatch.dataset_info.recipe import Recipe, load_recipe
from tfbatch.pipeline import PreparedData, prepare_records
from tfbatch.run_folder.fingerprint import hardware, software

BATCH_SIZES = (32, 128, 1024)
STEPS_PER_EXECUTION = 32
STREAMED_EXAMPLES = 15_000

Make = Callable[[int], tf.data.Dataset]
Consume = Callable[[tf.data.Dataset], int]


def guide(
    data_dir: str | None, batch_size: int, *, cached: bool, epochs: int = 1
) -> tf.data.Dataset:
    """cache().shuffle().batch().prefetch(), as the guide shows it, read `epochs` times."""
    dataset = tfds.load("cifar10", split="train", data_dir=data_dir, as_supervised=True)
    dataset = dataset.map(
        lambda image, label: (tf.cast(image, tf.float32) / 255.0, label),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    dataset = dataset.cache() if cached else dataset.take(STREAMED_EXAMPLES)
    return dataset.shuffle(10_000).batch(batch_size).prefetch(tf.data.AUTOTUNE).repeat(epochs)


def load(data_dir: str | None, *, guides: bool, stored: str, share: float) -> PreparedData:
    """CIFAR-10 without augmentation, with the guide's normalization or the recipe's."""
    written = load_recipe("cifar10").model_dump(mode="json", by_alias=True)
    written["augmentation"] = []
    written["features"]["image"]["stored"] = stored
    if guides:
        written["normalization"] = {"mean": [0, 0, 0], "standard_deviation": [1, 1, 1]}
    recipe = Recipe.model_validate(written)
    folder, _ = prepare_records(recipe, data_dir=Path(data_dir) if data_dir else None)
    return PreparedData(recipe, folder, resident_share=share)


class Nothing(keras.Model):
    """A model that takes batches and does nothing with them."""

    def train_step(self, data: Any) -> dict[str, Any]:
        """Returns one constant metric."""
        return {"loss": tf.zeros([])}


def by_fit(dataset: tf.data.Dataset) -> int:
    """Reads a dataset by a `fit` that does nothing; the program is traced before."""
    _nothing().fit(dataset, verbose=0)
    return examples_of(dataset)


def by_loop(dataset: tf.data.Dataset) -> int:
    """Reads a dataset by a loop in Python."""
    return sum(labels.shape[0] for _, labels in dataset)


@tf.function
def _drain(dataset: tf.data.Dataset) -> tf.Tensor:
    return dataset.reduce(np.int64(0), lambda n, batch: n + tf.shape(batch[1], tf.int64)[0])


def by_reduce(dataset: tf.data.Dataset) -> int:
    """Reads a dataset by one in-graph reduce."""
    return int(_drain(dataset))


_made: list[Nothing] = []
_counted: dict[int, int] = {}


def _nothing() -> Nothing:
    if not _made:
        _made.append(Nothing())
        _made[0].compile(steps_per_execution=STEPS_PER_EXECUTION)
    return _made[0]


def examples_of(dataset: tf.data.Dataset) -> int:
    """Number of examples, counted once."""
    if id(dataset) not in _counted:
        _counted[id(dataset)] = by_reduce(dataset)
    return _counted[id(dataset)]


def rate(consume: Consume, dataset: tf.data.Dataset) -> float:
    """Examples a second."""
    start = time.perf_counter()
    examples = consume(dataset)
    return examples / (time.perf_counter() - start)


class Figures:
    """Collects figures and prints each as it comes."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def ratio(self, name: str, unit: str, rounds: list[tuple[float, float]]) -> None:
        """Notes the ratios of interleaved rounds (ours, theirs)."""
        ours, theirs = (statistics.median(side) for side in zip(*rounds, strict=True))
        ratios = sorted(a / b for a, b in rounds)
        median = statistics.median(ratios)
        self.rows.append(
            {
                **{"name": name, "unit": unit, "ours": ours, "theirs": theirs, "ratio": median},
                **{"ratio_min": ratios[0], "ratio_max": ratios[-1], "n": len(rounds)},
            }
        )
        print(
            f"{name}: {ours:,.0f} against {theirs:,.0f} {unit}, ratio {median:.2f} "
            f"({ratios[0]:.2f}-{ratios[-1]:.2f}, n={len(rounds)})",
            flush=True,
        )

    def seconds(self, name: str, values: list[float]) -> None:
        """Notes a duration."""
        median = statistics.median(values)
        self.rows.append(
            {"name": name, "seconds": median, "min": min(values), "max": max(values)}
            | {"n": len(values)}
        )
        print(
            f"{name}: {1000 * median:.1f} ms ({1000 * min(values):.1f}-{1000 * max(values):.1f}, "
            f"n={len(values)})",
            flush=True,
        )


def compare(
    figures: Figures, name: str, consumers: dict[str, Consume], ours: Make, theirs: Make, n: int
) -> None:
    """Ours against theirs for every batch size and consumer."""
    for batch_size in BATCH_SIZES:
        first, second = ours(batch_size), theirs(batch_size)
        for kind, consume in consumers.items():
            consume(first), consume(second)  # fills the cache, traces
            rounds = [(rate(consume, first), rate(consume, second)) for _ in range(n)]
            figures.ratio(f"{name}, {kind}, B={batch_size}", "examples/s", rounds)


def against_copy(figures: Figures, name: str, data: PreparedData, epochs: int, n: int) -> None:
    """Bytes read and written in a second, against a memory copy of as many bytes."""
    examples = epochs * data.num_examples()
    stream = data.training(batch_size=1024, seed=1, num_examples=examples)
    size = 5 * int(np.prod(data.input_shape))  # an example's uint8 and float32
    source = np.ones(1024 * size, np.uint8)
    target = np.zeros_like(source)

    def copy_rate() -> float:
        start = time.perf_counter()
        for _ in range(20):
            np.copyto(target, source)
        return 20 * source.nbytes / (time.perf_counter() - start)

    by_reduce(stream), copy_rate()
    rounds = [(size * rate(by_reduce, stream), copy_rate()) for _ in range(n)]
    figures.ratio(f"{name}, against a memory copy, B=1024", "bytes/s", rounds)


def making(figures: Figures, data: PreparedData, n: int) -> None:
    """The cost of one more trial's datasets."""
    makers: dict[str, Callable[[int], tf.data.Dataset]] = {
        "training": lambda i: data.training(batch_size=32 + i, seed=i, num_examples=45_000),
        "evaluation": lambda i: data.evaluation("validation"),
    }
    for name, make in makers.items():
        next(iter(make(0)))
        calls, firsts = [], []
        for i in range(1, n + 1):
            start = time.perf_counter()
            dataset = make(i)
            calls.append(time.perf_counter() - start)
            next(iter(dataset))
            firsts.append(time.perf_counter() - start)
        figures.seconds(f"making: {name}()", calls)
        figures.seconds(f"making: {name}() and its first batch", firsts)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", default=os.environ.get("TFDS_DATA_DIR"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4, help="of a resident stream")
    parser.add_argument("--json", help="also write the figures to this file")
    arguments = parser.parse_args()
    directory, n, epochs = arguments.data_dir, arguments.rounds, arguments.epochs
    figures = Figures()
    machine = {**software(), **hardware([]), "load_average": os.getloadavg()}
    print(json.dumps(machine))
    everyone = {"fit": by_fit, "loop": by_loop, "reduce": by_reduce}

    def stream(data: PreparedData, examples: int) -> Make:
        return lambda size: data.training(batch_size=size, seed=1, num_examples=examples)

    for guides, name in ((True, "resident, pixel / 255"), (False, "resident, by channel")):
        data = load(directory, guides=guides, stored="encoded", share=0.25)
        ours = stream(data, epochs * data.num_examples())
        theirs = lambda b: guide(directory, b, cached=True, epochs=epochs)  # noqa: E731
        compare(figures, name, everyone, ours, theirs, n)
        against_copy(figures, name, data, epochs, n)
        if guides:
            making(figures, data, 10)
    for stored in ("raw", "encoded"):
        data = load(directory, guides=True, stored=stored, share=0.0)
        ours = stream(data, STREAMED_EXAMPLES)
        reduce_alone = {"reduce": by_reduce}
        theirs = lambda b: guide(directory, b, cached=False)  # noqa: E731
        compare(figures, f"streamed, {stored}", reduce_alone, ours, theirs, n)
    if arguments.json:
        text = json.dumps({"machine": machine, "figures": figures.rows}, indent=1)
        Path(arguments.json).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
