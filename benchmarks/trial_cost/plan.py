"""The trials of the comparison, and what an engine is told. Imports no TensorFlow."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random
from pathlib import Path

import numpy as np
import numpy.typing as npt

BATCH_SIZES = (16, 32, 64, 128, 256, 512)
SCHEDULES = ("constant", "linear", "cosine", "wsd")
TRAIN, VALIDATION, TEST = 8_000, 2_000, 500
"""Images. Only this package reads test, once at its end."""
EVALUATION_BATCH_SIZE = 512
MOMENTUM = 0.9
BASE_LEARNING_RATE, BASE_BATCH_SIZE = 0.01, 32
COOLDOWN = 0.2
"""Share of the training that wsd cools down over, by 1 - square root."""


@dataclasses.dataclass(frozen=True, order=True)
class Pair:
    """What distinguishes one trial from another."""

    batch_size: int
    schedule: str

    @property
    def learning_rate(self) -> float:
        """The peak, by the linear rule."""
        return BASE_LEARNING_RATE * self.batch_size / BASE_BATCH_SIZE

    def steps(self, num_examples: int = TRAIN) -> int:
        """Updates of one epoch; the last one may have fewer examples."""
        return -(-num_examples // self.batch_size)

    def table(self, num_examples: int = TRAIN) -> npt.NDArray[np.float32]:
        """The learning rate of each update of one epoch."""
        progress = np.arange(self.steps(num_examples)) * self.batch_size / num_examples
        cooled = np.clip((progress - (1 - COOLDOWN)) / COOLDOWN, 0, 1)
        factors = {
            "constant": np.ones_like(progress),
            "linear": 1 - progress,
            "cosine": (1 + np.cos(math.pi * progress)) / 2,
            "wsd": 1 - np.sqrt(cooled),
        }
        return (self.learning_rate * factors[self.schedule]).astype(np.float32)


def grid(trials: int, *, seed: int) -> tuple[Pair, ...]:
    """The pairs in a random order that every engine of a round shares.

    Args:
        trials: How many; fewer than all 24 take the batch sizes in turn.
        seed: Of the order.
    """
    every = [Pair(b, s) for s, b in itertools.product(SCHEDULES, BATCH_SIZES)][:trials]
    random.Random(seed).shuffle(every)
    return tuple(every)


@dataclasses.dataclass(frozen=True)
class Job:
    """What an engine is given.

    Attributes:
        engine: Its name.
        pairs: The trials.
        data_dir: Folder of the data set that images.py wrote.
        folder: A folder of its own for whatever it writes.
        seed: Of whatever is random in the engine itself.
        threads: TensorFlow's threads for one operation, 0 for TensorFlow's own choice.
    """

    engine: str
    pairs: tuple[Pair, ...]
    data_dir: Path
    folder: Path
    seed: int = 1
    threads: int = 0

    def write(self) -> Path:
        """Writes the job into its folder."""
        path = self.folder / "job.json"
        path.write_text(json.dumps(dataclasses.asdict(self), default=str), encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: Path) -> Job:
        """The inverse of `write`."""
        data = json.loads(path.read_text(encoding="utf-8"))
        data["pairs"] = tuple(Pair(**pair) for pair in data["pairs"])
        return cls(**{**data, "data_dir": Path(data["data_dir"]), "folder": Path(data["folder"])})


@dataclasses.dataclass(frozen=True)
class Trained:
    """One trial that an engine ran, and its final validation accuracy."""

    batch_size: int
    schedule: str
    accuracy: float
