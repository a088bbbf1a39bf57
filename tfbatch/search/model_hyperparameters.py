"""What is searched of a model's builder: what it asks of `hp`, under what the user says of it."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence

import keras_tuner

from tfbatch.request.search_config import Range
from tfbatch.schema import JsonObject
from tfbatch.search.hyperparameters import declare, is_fixed

MODEL = "model_"
"""Stands before the names, so that none is that of another hyperparameter."""


def of_the_model(
    asked: Sequence[JsonObject], given: Mapping[str, object]
) -> keras_tuner.HyperParameters:
    """The hyperparameters of a builder.

    What the user gives takes the place of what the builder asks for under the same name, and keeps
    its conditions: a single value is no hyperparameter, several are searched where it would be.

    Args:
        asked: What it asks of `hp`, as KerasTuner's own configurations, parents first.
        given: What the user says by name: one value, a list or a Range.
    """
    names = {entry["config"]["name"] for entry in asked}
    entries = [
        entry
        for name, searched in given.items()
        if name not in names
        for entry in _declared(name, searched)
    ]
    known = {MODEL + name for name, one in given.items() if name not in names or is_fixed(one)}
    told = set()
    for entry in copy.deepcopy(list(asked)):
        name = entry["config"]["name"]
        conditions = _conditions(entry["config"]["conditions"], given, known)
        identity = json.dumps([name, conditions])
        if conditions is None or identity in told:
            continue
        told.add(identity)
        known.add(MODEL + name)
        for one in _declared(name, given[name], entry) if name in given else [entry]:
            one["config"] |= {"name": MODEL + name, "conditions": conditions}
            entries.append(one)
    return keras_tuner.HyperParameters.from_config({"space": entries, "values": {}})


def _conditions(
    asked: Sequence[JsonObject], given: Mapping[str, object], known: set[str]
) -> list[JsonObject] | None:
    """The conditions that are left where the user gives a parent; None where they never hold."""
    left = []
    for condition in asked:
        parent, values = condition["config"]["name"], condition["config"]["values"]
        if MODEL + parent not in known:
            return None
        searched = given.get(parent)
        if parent in given and is_fixed(searched):
            if searched not in values:
                return None
            continue
        if isinstance(searched, list | tuple) and not any(value in values for value in searched):
            return None
        condition["config"]["name"] = MODEL + parent
        left.append(condition)
    return left


def _declared(name: str, searched: object, asked: JsonObject | None = None) -> list[JsonObject]:
    """What the user gives, as KerasTuner's own configuration; none of a single value."""
    hp = keras_tuner.HyperParameters()
    whole = isinstance(searched, Range) and searched.min % 1 == searched.max % 1 == 0
    if isinstance(searched, Range) and whole and asked and asked["class_name"] == "Int":
        low, high = int(searched.min), int(searched.max)
        hp.Int(MODEL + name, low, high, sampling=searched.sampling)
    else:
        declare(hp, MODEL + name, searched)
    found: list[JsonObject] = hp.get_config()["space"]
    return found
