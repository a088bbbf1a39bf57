"""What each callback costs: seconds of a fit with it, divided by those of the same fit without.

usage: python benchmarks/callbacks.py [--rounds=5] [--epochs=3] [--examples=20000]
                                      [--batch_size=128]

CIFAR-10 shapes (random pixels) and a small convolutional network with BatchNormalization and
dropout. Rounds are interleaved: each has every callback once, in turn, on one model that was
traced before; the ratio is taken within the round, against the mean of the plain fits before and
after it. Tracing that a callback causes in every fit is in "a fit"; "an epoch" is the difference
of the later epochs alone, between two `on_epoch_begin`.

Result: a later epoch takes 0.96 to 1.04 times a plain one with every callback but
GeneralizationGap, with which it takes 1.39 times (medians, n = 5; two CPU cores of an AMD EPYC,
TensorFlow 2.21, Keras 3.15.1).
Evidence: benchmarks/results/callbacks.md
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbatch import callbacks


class Stamps(keras.callbacks.Callback):
    """When each epoch began, and when the training ended."""

    def on_train_begin(self, logs: Any = None) -> None:
        """Starts anew."""
        self.times: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Notes the time."""
        self.times.append(time.perf_counter())

    def on_train_end(self, logs: Any = None) -> None:
        """Notes the time."""
        self.times.append(time.perf_counter())


def build_model() -> keras.Model:
    """About 300,000 weights."""
    layers = [keras.Input((32, 32, 3))]
    for filters in (16, 32):
        layers += [
            keras.layers.Conv2D(filters, 3, padding="same", use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.MaxPooling2D(),
        ]
    layers += [keras.layers.Flatten(), keras.layers.Dense(128, activation="relu")]
    model = keras.Sequential([*layers, keras.layers.Dropout(0.3), keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9), loss, metrics=["accuracy"])
    return model


def makers(x: Any, y: Any, folder: Path) -> dict[str, Callable[[], Any]]:
    """How each callback is made."""
    held_out = (x[:2_000], y[:2_000])
    return {
        "Throughput": callbacks.Throughput,
        "PeakMemory": callbacks.PeakMemory,
        "GradientNoiseScale": callbacks.GradientNoiseScale,
        "GeneralizationGap": lambda: callbacks.GeneralizationGap((x, y), held_out),
        "HParams": lambda: callbacks.HParams(folder),
        "Advisor": callbacks.Advisor,
        "DivergenceGuard": callbacks.DivergenceGuard,
        "TrainingClock": callbacks.TrainingClock,
    }


def main() -> None:
    """Prints a row for each callback."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("rounds", 5), ("epochs", 3), ("examples", 20_000), ("batch_size", 128)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    random = np.random.default_rng(0)
    x = random.random((asked.examples, 32, 32, 3), dtype="float32")
    y = random.integers(0, 10, asked.examples)
    options = tf.data.Options()
    options.autotune.enabled = False  # its teardown waits for seconds at the end of a fit
    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(asked.examples)
    data = data.batch(asked.batch_size).prefetch(2).with_options(options)
    warnings.filterwarnings("ignore", ".*shuffle=True.*")
    model = build_model()

    def fit(*more: Any) -> tuple[float, float]:
        """Seconds of the fit, and of an epoch after the first."""
        stamps, started = Stamps(), time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            model.fit(
                data,
                epochs=asked.epochs,
                callbacks=[*more, stamps],
                verbose=0,
            )
        later = np.diff(stamps.times)[1:]
        return time.perf_counter() - started, float(np.mean(later))

    fit()
    with tempfile.TemporaryDirectory() as folder:
        made = makers(x, y, Path(folder))
        ratios: dict[str, list[tuple[float, float]]] = {name: [] for name in made}
        shares = []
        before = fit()
        for _ in range(asked.rounds):
            for name, make in made.items():
                callback = make()
                seconds, epoch = fit(callback)
                after = fit()
                base, base_epoch = np.mean([before, after], axis=0)
                ratios[name].append((seconds / base, epoch / base_epoch))
                before = after
                if name == "GradientNoiseScale":
                    shares.append(callback.share)
    print(f"plain fit {before[0]:.2f} s, epoch {before[1]:.2f} s; {asked.rounds} rounds")
    print(
        f"GradientNoiseScale's own account: {statistics.median(shares):.2%}, most {max(shares):.2%}"
    )
    for name, found in ratios.items():
        fits, epochs = (sorted(column) for column in zip(*found, strict=True))
        print(
            f"{name:20} a fit x {statistics.median(fits):.3f} [{fits[0]:.3f}, {fits[-1]:.3f}]  "
            f"an epoch x {statistics.median(epochs):.3f} [{epochs[0]:.3f}, {epochs[-1]:.3f}]"
        )


if __name__ == "__main__":
    main()
