"""What the tests of a search share: small spaces, and a stand-in for training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from tfbatch.configuration import Configuration
from tfbatch.run_folder.folder import RunFolder
from tfbatch.search.config import SearchConfig
from tfbatch.search.objective import Objective
from tfbatch.search.space import SearchSpace
from tfbatch.training.derived import Derived, derive
from tfbatch.training.outcome import Outcome, TrialSpec

NUM_EXAMPLES = 1000
TOTAL_EXAMPLES = 2500
LOSS = Objective("val_loss", "min")
ACCURACY = Objective("val_accuracy", "max")
BASELINE = Configuration(batch_size=32, base_learning_rate=0.01)


def make_config(*, oracle: str = "random", max_trials: int = 8, **space: Any) -> SearchConfig:
    """A search of at most 3 * 2 * 4 combinations for each learning rate."""
    written: dict[str, Any] = {
        "batch_size": [16, 32, 64],
        "base_learning_rate": {"min": 0.001, "max": 1.0, "sampling": "log"},
        "learning_rate_octaves": 0.0,
        "warmup_fraction": [0.0, 0.1],
        "schedules": [{"name": "linear"}, {"name": "wsd", "cooldown": [0.1, 0.2, 0.3]}],
        "optimizer": {"name": "sgd", "momentum": 0.9},
    }
    return SearchConfig.model_validate(
        {
            "description": "for tests",
            "oracle": {"name": oracle, "initial_trials": 3},
            "max_trials": max_trials,
            "space": written | space,
        }
    )


def make_space(**changes: Any) -> SearchSpace:
    return SearchSpace(make_config(**changes).space, num_examples=NUM_EXAMPLES)


def small_derive(configuration: Configuration) -> Derived:
    return derive(configuration, num_examples=NUM_EXAMPLES, total_examples=TOTAL_EXAMPLES)


def loss_of(configuration: Configuration, seed: int = 0) -> float:
    """Smallest, 1, at batch size 32, learning rate 0.1 and the wsd schedule; little noise."""
    rate = small_derive(configuration).learning_rate
    far = abs(math.log10(rate / 0.1)) + abs(math.log2(configuration.batch_size / 32)) / 4
    far += 0.0 if configuration.schedule.name == "wsd" else 0.1
    return 1.0 + far + 1e-3 * math.sin(seed)


def completed(spec: TrialSpec, loss: float, *, seconds: float = 2.0) -> Outcome:
    return Outcome(
        status="completed",
        metrics={"loss": loss / 2, "val_loss": loss, "val_accuracy": 1 / (1 + loss)},
        examples=spec.total_examples,
        steps=small_derive(spec.configuration).steps,
        seconds=seconds,
        training_seconds=seconds * 16 / spec.configuration.batch_size,
    )


def open_folder(path: Path) -> RunFolder:
    return RunFolder(path, identity={}, budget={})
