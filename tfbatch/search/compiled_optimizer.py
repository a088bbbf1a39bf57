"""A compiled model keeps its optimizer, whose numbers take the place of what was asked."""

from __future__ import annotations

import dataclasses
from typing import Any

from tfbatch.errors import InputError
from tfbatch.optimizers import OPTIMIZERS
from tfbatch.request.model_and_data import ModelAndData
from tfbatch.request.search_config import Range, SearchConfig
from tfbatch.schema import Named
from tfbatch.training.description import ModelDescription
from tfbatch.trial.optimizer_numbers import find_option

_AROUND = 10.0
"""Factor on either side of a compiled learning rate that is always searched."""


def fit_baseline(subject: ModelAndData, model: ModelDescription) -> ModelAndData:
    """The same with the compiled optimizer as the baseline's, with its learning rate by default.

    Raises:
        InputError: The model is compiled with another optimizer than was asked for by name.
    """
    if model.optimizer is None:
        return subject
    if subject.optimizer not in (None, model.optimizer.name):
        raise InputError(
            f"The model is compiled with the optimizer {model.optimizer.name}, which it keeps. "
            f"Received: --optimizer={subject.optimizer}. Leave it out, or compile the "
            "model with that optimizer."
        )
    baseline = subject.baseline
    if baseline.learning_rate is None and model.learning_rate:
        baseline = baseline.model_copy(update={"learning_rate": model.learning_rate})
    return dataclasses.replace(subject, baseline=baseline, compiled=model.optimizer)


def fit_search(search: SearchConfig, model: ModelDescription) -> SearchConfig:
    """The search for a model: its compiled optimizer takes the place of the search's.

    The optimizer's numbers are the compiled ones, but for those that the search searches, however
    it writes them: `one_minus_momentum` takes the place of a compiled `momentum`. The range of the
    learning rate is that of the optimizer's file, widened to a factor of ten around the compiled
    one.
    """
    if model.optimizer is None:
        return search
    space = search.space
    same = space.optimizer.name == model.optimizer.name
    searched = {
        key: value
        for key, value in (space.optimizer.arguments if same else {}).items()
        if isinstance(value, list | dict)
    }
    replaced = {find_option(space.optimizer.name, key).parameter for key in searched}
    kept = {k: v for k, v in model.optimizer.arguments.items() if k not in replaced}
    changes: dict[str, Any] = {
        "optimizer": Named(name=model.optimizer.name, **kept, **searched),
        "scaling_rule": space.scaling_rule if same else None,
    }
    if not same or space.base_learning_rate is None:
        changes["base_learning_rate"] = _range(model.optimizer, model.learning_rate)
    return search.model_copy(update={"space": space.model_copy(update=changes)})


def _range(optimizer: Named, learning_rate: float | None) -> Range:
    low, high = OPTIMIZERS.load(optimizer.name).BASE_LEARNING_RATE
    if learning_rate:
        low, high = min(low, learning_rate / _AROUND), max(high, learning_rate * _AROUND)
    return Range(min=low, max=high, sampling="log")
