"""A journal's row as tracking tools see a run: parameters, metrics and tags."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
from typing import Any

from tfbatch.configuration import Configuration
from tfbatch.run_folder.journal import Row
from tfbatch.run_folder.trials_table import METRIC, column_order

_DERIVED = ("learning_rate", "total_examples", "steps_per_epoch", "warmup_examples")
_TAGS = ("trial", "phase", "status", "seed", "device", "finished_at", "message")


@dataclasses.dataclass(frozen=True)
class TrialRecord:
    """One finished trial.

    Attributes:
        name: Its name.
        phase: What it was for.
        status: How it ended.
        parameters: The configuration and what follows from it: numbers, names, booleans.
        metrics: Final values, `val_loss` and the like, the score, seconds and counts. Those of a
            diverged trial can be non-finite.
        tags: Everything else, as text; `not_finite` names the metrics that are not finite.
        started_at: Seconds since 1970.
        finished_at: Seconds since 1970.
    """

    name: str
    phase: str
    status: str
    parameters: dict[str, Any]
    metrics: dict[str, float]
    tags: dict[str, str]
    started_at: float
    finished_at: float


def trial_of(row: Row) -> TrialRecord:
    """Sorts a row's values; a number that is not known here is a metric, a text is a tag."""
    parameters: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    tags: dict[str, str] = {}
    for key in column_order([row]):
        value = row[key]
        if value is None:
            continue
        if _is_parameter(key):
            parameters[key] = json.dumps(value) if isinstance(value, list | dict) else value
        elif key in _TAGS or not isinstance(value, int | float) or isinstance(value, bool):
            tags[key] = str(value)
        else:
            metrics[key.removeprefix(METRIC)] = float(value)
    bad = [f"{name}={value}" for name, value in metrics.items() if not math.isfinite(value)]
    if bad:
        tags["not_finite"] = ", ".join(bad)
    finished = datetime.datetime.fromisoformat(row["finished_at"]).timestamp()
    return TrialRecord(
        name=row["trial"],
        phase=row["phase"],
        status=row["status"],
        parameters=parameters,
        metrics=metrics,
        tags=tags,
        started_at=finished - row["seconds"],
        finished_at=finished,
    )


def flat_settings(values: dict[str, Any], *, place: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`; lists become JSON, None is left out."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{place}.{key}" if place else key
        if isinstance(value, dict):
            flat |= flat_settings(value, place=name)
        elif value is not None:
            flat[name] = json.dumps(value) if isinstance(value, list) else value
    return flat


def answer_metrics(recommendation: dict[str, Any]) -> dict[str, float]:
    """`validation/accuracy`, `test/loss`...: means over the fresh seeds, of the recommendation."""
    return {
        # null is a mean that is not finite
        f"{split}/{name}": math.nan if measured["mean"] is None else float(measured["mean"])
        for split, measures in recommendation["metrics"].items()
        for name, measured in (measures or {}).items()
    }


def answer_parameters(recommendation: dict[str, Any]) -> dict[str, Any]:
    """The recommended configuration, flat: `batch_size`, `learning_rate`, `schedule.name`..."""
    wanted = ("batch_size", "learning_rate", "schedule", "optimizer")
    return flat_settings({key: recommendation[key] for key in wanted})


def _is_parameter(key: str) -> bool:
    fields = Configuration.model_fields
    return key in (*fields, *_DERIVED) or any(key.startswith(f"{field}_") for field in fields)
