"""Fits a search to the model: a compiled one keeps its optimizer, whose numbers are its own."""

from __future__ import annotations

import dataclasses
from typing import Any

from tfbatch.errors import InputError
from tfbatch.optimizers import OPTIMIZERS
from tfbatch.request.request import Request
from tfbatch.request.search_config import Range
from tfbatch.schema import Named
from tfbatch.training.description import ModelDescription

_AROUND = 10.0
"""Factor on either side of a compiled learning rate that is always searched."""


def adapt(request: Request, model: ModelDescription) -> Request:
    """The request for a model: its compiled optimizer takes the place of the search's.

    The optimizer's numbers are the compiled ones, but for those that the search searches. The
    range of the learning rate is that of the optimizer's file, widened to a factor of ten around
    the compiled one.

    Raises:
        InputError: Another optimizer was asked for by name.
    """
    if model.optimizer is None:
        return request
    if request.optimizer not in (None, model.optimizer.name):
        raise InputError(
            f"The model is compiled with the optimizer {model.optimizer.name}, which it keeps. "
            f"Received: --optimizer={request.optimizer}. Leave it out, or compile the "
            "model with that optimizer."
        )
    space = request.search.space
    same = space.optimizer.name == model.optimizer.name
    searched = {
        key: value
        for key, value in (space.optimizer.arguments if same else {}).items()
        if isinstance(value, list | dict)
    }
    changes: dict[str, Any] = {
        "optimizer": Named(**{**model.optimizer.model_dump(), **searched}),
        "scaling_rule": space.scaling_rule if same else None,
    }
    if not same or space.base_learning_rate is None:
        changes["base_learning_rate"] = _range(model)
    search = request.search.model_copy(update={"space": space.model_copy(update=changes)})
    baseline = request.baseline
    if baseline.learning_rate is None and model.learning_rate:
        baseline = baseline.model_copy(update={"learning_rate": model.learning_rate})
    return dataclasses.replace(request, search=search, baseline=baseline)


def _range(model: ModelDescription) -> Range:
    low, high = OPTIMIZERS.load(model.optimizer.name if model.optimizer else "").BASE_LEARNING_RATE
    if model.learning_rate:
        low = min(low, model.learning_rate / _AROUND)
        high = max(high, model.learning_rate * _AROUND)
    return Range(min=low, max=high, sampling="log")
