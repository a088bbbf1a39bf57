"""Step time with the data in the device's memory: against a bare loop, the host's pipeline, Keras.

usage: python benchmarks/device_data.py [--model=small_cnn] [--batch_sizes=32,256,1024,4096]
       [--rounds=5] [--seconds=2] [--examples=50000] [--jit_compile=false] [--json=FILE]

Random images and labels of CIFAR-10's shape, flipped and cropped at random, normalized for each
channel; SGD with momentum. All sides are in one process, on its first device, in interleaved
rounds; every ratio is taken within a round.

    bare     one compiled loop over updates with one batch of floats that lies on the device: no
             stream, no augmentation, no metrics, no callbacks. What is arithmetic.
    device   a training of this package, batches made in the graph from the device's memory
    host     the same, batches made by tf.data on the host
    keras    `fit` of plain Keras, of float32 arrays without augmentation
    making   the batches of `device` alone, without a model

Seconds are the clock's, and processor seconds of the process beside them: on a machine that does
other work, compare the latter.

Result: on a CPU no gain was seen: in processor seconds a step takes 1.10, 1.14 and 1.11 times the
bare loop's at B = 32, 256 and 1024, and 1.06, 1.06 and 1.07 with tf.data's batches (medians of 5
rounds, ranges overlap; two busy cores of an Intel Xeon). Not run on a GPU.
Evidence: benchmarks/results/device_data.md
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from trial_cost.bare import momentum_step
from trial_cost.plan import MOMENTUM

from tfbatch.callbacks import TrainingClock
from tfbatch.configuration import Configuration
from tfbatch.dataset_info.recipe import Recipe
from tfbatch.models import MODELS
from tfbatch.pipeline import PreparedData
from tfbatch.pipeline.device_data import HeldData
from tfbatch.records.writer import write_records
from tfbatch.run_folder.fingerprint import hardware, software
from tfbatch.schema import Named
from tfbatch.training.data_place import place_data
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.step_times import steps_at_once, time_training
from tfbatch.training.workload import Workload

SHAPE = (32, 32, 3)
CLASSES = 10
RATE = 0.001
"""Small: with random labels the loss must stay finite for as long as it is measured."""
RECIPE = {
    "name": "random",
    "description": "random images of CIFAR-10's shape",
    "source": {"name": "digits"},
    "splits": {"train": "train", "validation": "validation", "test": "test"},
    "features": {
        "image": {"kind": "image", "shape": SHAPE, "stored": "raw"},
        "label": {"kind": "label", "num_classes": CLASSES},
    },
    "normalization": {
        "mean": [0.4914, 0.4822, 0.4465],
        "standard_deviation": [0.247, 0.2435, 0.2616],
    },
    "augmentation": [{"name": "horizontal_flip"}, {"name": "random_crop", "padding": 4}],
    "trial_length": "1 epoch",
}

Side = Callable[[int], float]
"""Trains for so many executions, and returns the seconds of a step by the clock."""


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of one step.

    Attributes:
        clock: By the clock.
        processor: Of all cores.
    """

    clock: float
    processor: float


def images(examples: int) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Random examples, as a source gives them."""
    random = np.random.default_rng(1)
    for split, count in (("train", examples), ("validation", 512), ("test", 512)):
        pixels = random.integers(0, 256, (count, *SHAPE), np.uint8)
        for number, image in enumerate(pixels):
            label = int(random.integers(CLASSES))
            yield split, f"{split}-{number}", {"image": image, "label": label}


def prepare(folder: Path, examples: int) -> PreparedData:
    """The data, written as records."""
    recipe = Recipe.model_validate(RECIPE)
    write_records(folder, recipe=recipe, examples=lambda: images(examples))
    return PreparedData(recipe, folder)


class Bare:
    """A compiled loop over updates of one batch.

    Args:
        model: The model.
        x: Images of the batch, on the device.
        y: Their labels.
        jit_compile: Whether XLA compiles an update.
    """

    def __init__(self, model: keras.Model, x: tf.Tensor, y: tf.Tensor, *, jit_compile: bool):
        self._model, self._batch = model, (x, y)
        weights = [weight.value for weight in model.trainable_variables]
        self._velocities = [tf.Variable(tf.zeros_like(weight)) for weight in weights]
        self._one = tf.function(self._update, jit_compile=jit_compile, autograph=False)

    @tf.function
    def run(self, x: tf.Tensor, y: tf.Tensor, steps: tf.Tensor) -> tf.Tensor:
        """Some updates; the loss of the last one."""
        loss = self._one(x, y)
        for _ in tf.range(steps - 1):
            loss = self._one(x, y)
        return loss

    def _update(self, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        return momentum_step(self._model, self._velocities, x, y, rate=RATE)

    def step_seconds(self, steps: int) -> float:
        """Seconds of a step."""
        began = time.perf_counter()
        float(self.run(*self._batch, tf.constant(steps)))
        return (time.perf_counter() - began) / steps


class Making:
    """Makes the batches of a stream, and nothing of them."""

    def __init__(self, held: HeldData, batch_size: int, at_once: int):
        self._held, self._batch_size, self._at_once = held, batch_size, at_once
        self._made: Any = None

    def step_seconds(self, steps: int) -> float:
        """Seconds of a step, the start of the stream left out."""
        executions = max(steps // self._at_once, 1)
        length = (executions + 1) * self._at_once * self._batch_size
        stream = self._held.training(
            batch_size=self._batch_size, seed=1, num_examples=length, at_once=self._at_once
        )
        iterator = iter(stream)
        if self._made is None:
            self._made = tf.function(self._make)
        float(self._made(iterator, tf.constant(1)))
        began = time.perf_counter()
        float(self._made(iterator, tf.constant(executions)))
        return (time.perf_counter() - began) / (executions * self._at_once)

    def _make(self, iterator: Any, executions: tf.Tensor) -> tf.Tensor:
        total = 0.0
        for _ in tf.range(executions):
            block = self._held.block(next(iterator))
            for step in tf.range(block.steps):
                x, y = block.batch(step)
                total += tf.reduce_mean(x[0]) + tf.cast(y[0], tf.float32)
        return total


class PlainKeras:
    """`fit` of plain Keras, with XLA where the other sides have it.

    Args:
        model: A model that is not compiled.
        x: Normalized images.
        y: Labels.
        batch_size: Examples in a batch.
        jit_compile: Whether XLA compiles an update; Keras's own default is that on a GPU.
    """

    def __init__(
        self,
        model: keras.Model,
        x: np.ndarray,
        y: np.ndarray,
        batch_size: int,
        *,
        jit_compile: bool,
    ):
        self._model, self._data, self._batch_size = model, (x, y), batch_size
        model.compile(
            keras.optimizers.SGD(RATE, momentum=MOMENTUM),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=jit_compile,
        )

    def step_seconds(self, steps: int) -> float:
        """Seconds of a step, the first three left out."""
        clock = TrainingClock()
        there = len(self._data[0]) // self._batch_size
        self._model.fit(
            *self._data,
            batch_size=self._batch_size,
            steps_per_epoch=max(min(steps + 3, there), 1),
            callbacks=[clock],
            verbose=0,
        )
        return clock.seconds / clock.steps


@dataclasses.dataclass(frozen=True, eq=False)
class Given:
    """The data as each side takes it, made once for all that is compared.

    Attributes:
        data: As it is prepared.
        held: In the first device's memory.
        x: Normalized images.
        y: Their labels.
    """

    data: PreparedData
    held: HeldData
    x: np.ndarray
    y: np.ndarray


def given_to_sides(data: PreparedData) -> Given:
    """Holds the data on the device, and makes the arrays of the host's."""
    held = place_data(data, "device").held
    if held is None:
        raise RuntimeError("this data is held on any device")
    examples = data.num_examples()
    stream = data.training(batch_size=min(512, examples), seed=1, num_examples=examples)
    x, y = (np.concatenate(part) for part in zip(*stream.as_numpy_iterator(), strict=True))
    return Given(data, held, x, y)


def sides(
    name: str, given: Given, batch_size: int, *, jit_compile: bool
) -> tuple[dict[str, Side], int]:
    """What is compared at a batch size, and the steps of one execution."""
    build = MODELS.load(name).build
    configuration = Configuration(
        batch_size=batch_size,
        base_batch_size=batch_size,
        base_learning_rate=RATE,
        optimizer=Named(name="sgd", momentum=MOMENTUM),
    )
    found: dict[str, Side] = {}
    for where, held in (("device", given.held), ("host", None)):
        programs = ProgramCache(Workload(given.data, build, jit_compile=jit_compile, held=held))
        at_once = steps_at_once(programs, configuration)
        found[where] = _training(programs, configuration, at_once)
    making = Making(given.held, batch_size, at_once)
    x, y = given.x, given.y
    batch = (tf.identity(tf.constant(part[:batch_size])) for part in (x, y))
    bare = Bare(build(SHAPE, CLASSES), *batch, jit_compile=jit_compile)
    plain = PlainKeras(build(SHAPE, CLASSES), x, y, batch_size, jit_compile=jit_compile)
    sides = {"bare": bare.step_seconds, **found, "keras": plain.step_seconds}
    return {**sides, "making": making.step_seconds}, at_once


def differences(data: PreparedData, *, batch_size: int, steps: int = 8) -> dict[str, Any]:
    """How batches from the first device's memory differ from those of the host.

    Args:
        data: The data.
        batch_size: Examples in a batch.
        steps: Batches, in executions of four.
    """
    held = place_data(data, "device").held
    if held is None:
        raise RuntimeError("this data is held on any device")
    make = tf.function(lambda chosen, step: held.block(chosen).batch(step), autograph=False)
    length = steps * batch_size
    stream = data.training(batch_size=batch_size, seed=1, num_examples=length)
    own = held.training(batch_size=batch_size, seed=1, num_examples=length, at_once=4)
    made = [make(chosen, tf.constant(step)) for chosen in own for step in range(4)][:steps]
    pairs = list(zip(made, stream.as_numpy_iterator(), strict=True))
    return {
        "device": made[0][0].device,
        "batches": len(pairs),
        "labels_equal": all(np.array_equal(y, other) for (_, y), (_, other) in pairs),
        "largest_difference": max(float(np.abs(x - other).max()) for (x, _), (other, _) in pairs),
    }


def _training(programs: ProgramCache, configuration: Configuration, at_once: int) -> Side:
    def step_seconds(steps: int) -> float:
        executions = max(steps // at_once, 1)
        return time_training(
            programs, configuration, executions=executions, warmup=1, at_once=at_once
        )

    return step_seconds


def compare(compared: dict[str, Side], *, steps: int, rounds: int) -> dict[str, list[Times]]:
    """Every side in every round, each beginning with another one; all once before, for tracing."""
    names = list(compared)
    for name in names:
        compared[name](1)
    times: dict[str, list[Times]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in (*names[first:], *names[:first]):
            before, began = time.process_time(), time.perf_counter()
            seconds = compared[name](steps)
            share = (time.process_time() - before) / (time.perf_counter() - began)
            times[name].append(Times(seconds, share * seconds))
    return times


def rows(batch_size: int, times: dict[str, list[Times]]) -> Iterator[dict[str, Any]]:
    """One for each side: medians, and ratios to the bare loop with their range."""
    for name, own in times.items():
        row: dict[str, Any] = {"batch_size": batch_size, "side": name, "n": len(own)}
        for kind in ("clock", "processor"):
            seconds = [getattr(each, kind) for each in own]
            bare = [getattr(each, kind) for each in times["bare"]]
            ratios = [a / b for a, b in zip(seconds, bare, strict=True)]
            row[f"{kind}_ms"] = 1000 * statistics.median(seconds)
            row[f"{kind}_ratio"] = [statistics.median(ratios), min(ratios), max(ratios)]
        yield row


def line(row: dict[str, Any]) -> str:
    """A row for people."""
    shown = []
    for kind in ("clock", "processor"):
        middle, low, high = row[f"{kind}_ratio"]
        ratio = f"{middle:.3f} x bare [{low:.3f}, {high:.3f}]"
        shown.append(f"{kind} {row[f'{kind}_ms']:.3f} ms, {ratio}")
    return f"B = {row['batch_size']}, {row['side']}: {'; '.join(shown)}; n = {row['n']}"


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="small_cnn", choices=MODELS.names())
    parser.add_argument("--batch_sizes", default="32,256,1024,4096")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--examples", type=int, default=50_000)
    parser.add_argument("--jit_compile", default="false", choices=["true", "false"])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = tf.config.list_logical_devices()[-1].name
    content: dict[str, Any] = {**software(), **hardware([device]), "rows": []}
    print(json.dumps(content))
    with tempfile.TemporaryDirectory(prefix="device-data-") as folder:
        given = given_to_sides(prepare(Path(folder) / "records", arguments.examples))
        for batch_size in map(int, arguments.batch_sizes.split(",")):
            compared, at_once = sides(
                arguments.model, given, batch_size, jit_compile=arguments.jit_compile == "true"
            )
            compared["bare"](1)
            steps = max(round(arguments.seconds / compared["bare"](2 * at_once)), 2)
            steps = -(-steps // at_once) * at_once
            for row in rows(batch_size, compare(compared, steps=steps, rounds=arguments.rounds)):
                print(line(row), flush=True)
                content["rows"].append(row)
                if arguments.json:
                    arguments.json.write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
