"""Evaluates and saves models from kept weights; measures an untrained one."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

from tfbatch.configuration import Configuration
from tfbatch.errors import InputError, TfbatchError
from tfbatch.training.workload import Workload


def untrained_metrics(workload: Workload, configuration: Configuration) -> dict[str, float]:
    """Metrics on the validation split before any training: the names that there are, and a floor.

    Raises:
        InputError: The model cannot be used.
    """
    try:
        model = workload.compiled(configuration, total_examples=1, seed=1)
        return evaluate(model, workload, "validation")
    except TfbatchError:
        raise
    except Exception as error:  # of the user's own code: shown whole, before any trial
        raise InputError(
            f"The model cannot be built and evaluated:\n{traceback.format_exc()}"
        ) from error


def evaluate_weights(
    workload: Workload, configuration: Configuration, weights: Path, *, split: str, seed: int
) -> dict[str, float]:
    """Metrics of kept weights on a split."""
    model = workload.compiled(configuration, total_examples=1, seed=seed)
    _load_weights(model, weights)
    return evaluate(model, workload, split)


def save_model(
    workload: Workload,
    configuration: Configuration,
    weights: Path,
    *,
    seed: int,
    total_examples: int,
    path: Path,
) -> None:
    """Writes a compiled model with kept weights as a `.keras` file, whole or not at all."""
    model = workload.compiled(configuration, total_examples=total_examples, seed=seed)
    _load_weights(model, weights)
    partial = path.with_name(f".partial-{path.name}")
    model.save(partial)
    partial.replace(path)


def evaluate(model: Any, workload: Workload, split: str) -> dict[str, float]:
    """Every metric of a compiled model on a whole split."""
    measured = model.evaluate(workload.data.evaluation(split), verbose=0, return_dict=True)
    return {name: float(value) for name, value in measured.items()}


def _load_weights(model: Any, weights: Path) -> None:
    # An optimizer without variables would not take its state, and restart momentum and schedule.
    model.optimizer.build(model.trainable_variables)
    model.load_weights(weights)
