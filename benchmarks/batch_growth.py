"""Growing the batch instead of decaying the learning rate (Smith et al. 2017, arXiv 1711.00489).

usage: python benchmarks/batch_growth.py --data_dir=DIR [--examples=10000] [--epochs=12] [--seeds=5]

Three arms train the same network on the same slice of CIFAR-10, in the same order of examples,
from the same weights for the same seed:

    decay      the learning rate is divided by 4 after 1/2 and 3/4 of the epochs, the batch stays
    growth     the batch is multiplied by 4 there, the learning rate stays
    neither    both stay: what the decay is worth

It prints, after every epoch, how far growth and neither are from decay on held-out images (paired
by seed, with the standard deviation of the difference) beside the spread of decay over seeds, and
at the end accuracy, updates and seconds of each arm. Seconds leave out each run's first epoch,
which traces, and all evaluation.

Result: small_cnn reaches 0.6064 +- 0.0046 where the batch grows and 0.6050 +- 0.0050 where the rate
decays, with 2,169 and 3,750 updates; ResNet, with batch normalization, 0.6452 +- 0.0083 and 0.6586
+- 0.0113 (n = 5 seeds; two CPU cores of an AMD EPYC, TensorFlow 2.21, Keras 3.15.1). No saving of
time was shown.
Evidence: benchmarks/results/batch_growth.md
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import time
from typing import Any

import keras
import numpy as np
import tensorflow_datasets as tfds

from tfbatch.callbacks import BatchSizeScheduler
from tfbatch.layers import GhostBatchNormalization
from tfbatch.models import resnet, small_cnn
from tfbatch.run_folder.fingerprint import hardware, software

ARMS = ("decay", "growth", "neither")
MODELS = {"small_cnn": small_cnn, "resnet": resnet}
GAMMA = 0.25
BATCH_SIZE = 32


@dataclasses.dataclass(frozen=True)
class Run:
    """What one training gave.

    Attributes:
        loss: Loss on held-out images after each epoch.
        accuracy: Their accuracy.
        updates: Number of updates.
        seconds: Seconds of training after the first epoch.
    """

    loss: np.ndarray
    accuracy: np.ndarray
    updates: int
    seconds: float


class EpochSeconds(keras.callbacks.Callback):
    """Seconds from an epoch's begin to its last batch."""

    def on_train_begin(self, logs: Any = None) -> None:
        """Starts anew."""
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts the clock."""
        self.seconds.append(0.0)
        self._start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Reads it."""
        self.seconds[-1] = time.perf_counter() - self._start


def load(split: str, data_dir: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Images in [-1, 1] and labels."""
    data = tfds.load("cifar10", split=split, batch_size=-1, data_dir=data_dir)
    found = tfds.as_numpy(data)
    return found["image"].astype("float32") / 127.5 - 1, found["label"].astype("int32")


def scheduler_of(arm: str, *, epochs: int, seed: int) -> BatchSizeScheduler:
    """The batch sizes of an arm."""
    if arm != "growth":
        return BatchSizeScheduler({0: BATCH_SIZE}, seed=seed)
    return BatchSizeScheduler.instead_of_decay(
        BATCH_SIZE, boundaries=[epochs / 2, epochs * 3 / 4], gamma=GAMMA, seed=seed
    )


def ghost(layer: keras.layers.Layer, size: int) -> keras.layers.Layer:
    """The same layer; batch normalization over this many examples at a time, whatever the batch."""
    config = layer.get_config()
    if not isinstance(layer, keras.layers.BatchNormalization):
        return layer.__class__.from_config(config)
    return GhostBatchNormalization(
        ghost_size=size,
        momentum=layer.momentum,
        epsilon=layer.epsilon,
        gamma_initializer=config["gamma_initializer"],
        name=layer.name,
    )


def train(arm: str, seed: int, train_data: Any, held_out: Any, flags: argparse.Namespace) -> Run:
    """One training."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    scheduler, clock = scheduler_of(arm, epochs=flags.epochs, seed=seed), EpochSeconds()
    dataset = scheduler.dataset(*train_data)
    rate = scheduler.learning_rate(
        "step" if arm == "decay" else "constant",
        learning_rate=flags.learning_rate,
        total_examples=flags.epochs * len(train_data[0]),
        parameters={"boundaries": "0.5/0.75", "gamma": GAMMA} if arm == "decay" else None,
    )
    model = MODELS[flags.model].build((32, 32, 3), 10)
    if flags.ghost_size:
        convert = functools.partial(ghost, size=flags.ghost_size)
        model = keras.models.clone_model(model, clone_function=convert)
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = model.fit(
        dataset, epochs=flags.epochs, callbacks=[scheduler, clock], verbose=0, shuffle=False,
        validation_data=held_out, validation_batch_size=500,
    ).history  # fmt: skip
    return Run(
        np.array(history["val_loss"]),
        np.array(history["val_accuracy"]),
        int(model.optimizer.iterations),
        sum(clock.seconds[1:]),
    )


def report(runs: dict[str, list[Run]]) -> list[str]:
    """The tables."""

    def spread(values: Any) -> str:
        return f"{np.mean(values):.4f} +- {np.std(values, ddof=1):.4f}"

    losses = {arm: np.array([run.loss for run in found]) for arm, found in runs.items()}
    others = [arm for arm in runs if arm != "decay"]
    lines = ["epoch   loss of decay       " + "".join(f"{arm + ' - decay':20}" for arm in others)]
    for epoch in range(losses["decay"].shape[1]):
        decay = losses["decay"][:, epoch]
        apart = "".join(f"{spread(losses[arm][:, epoch] - decay):20}" for arm in others)
        lines.append(f"{epoch + 1:5}   {spread(decay):20}{apart}")
    lines += ["", "arm      last accuracy       last loss           updates   seconds"]
    for arm, found in runs.items():
        accuracy, loss = (spread([getattr(r, n)[-1] for r in found]) for n in ("accuracy", "loss"))
        seconds = [run.seconds for run in found]
        lines.append(
            f"{arm:9}{accuracy:20}{loss:20}{found[0].updates:7}   "
            f"{np.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})"
        )
    return lines


def main() -> None:
    """Runs all arms, the seeds interleaved."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", help="TensorFlow Datasets folder (default: TFDS_DATA_DIR)")
    parser.add_argument("--model", choices=MODELS, default="small_cnn")
    parser.add_argument("--arms", default=",".join(ARMS), help="decay among them")
    parser.add_argument("--ghost_size", type=int, help="ghost batch normalization in every arm")
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--held_out", type=int, default=5_000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--learning_rate", type=float, default=0.02)
    flags = parser.parse_args()
    train_data = load(f"train[:{flags.examples}]", flags.data_dir)
    held_out = load(f"test[:{flags.held_out}]", flags.data_dir)
    arms = flags.arms.split(",")
    runs: dict[str, list[Run]] = {arm: [] for arm in arms}
    for seed in range(1, flags.seeds + 1):
        for place in range(len(arms)):
            arm = arms[(place + seed) % len(arms)]  # none is always first
            runs[arm].append(train(arm, seed, train_data, held_out, flags))
            last = runs[arm][-1]
            print(
                f"seed {seed} {arm}: accuracy {last.accuracy[-1]:.4f}, loss {last.loss[-1]:.4f}, "
                f"{last.updates} updates, {last.seconds:.1f} s",
                flush=True,
            )
    print({**software(), **hardware([])}, vars(flags))
    print("\n".join(report(runs)))


if __name__ == "__main__":
    main()
