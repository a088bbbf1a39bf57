"""A trial as tracking tools see a run: parameters, metrics and tags, and its curves."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import sys
import types
from pathlib import Path
from typing import Any, NamedTuple

from tfbatch.configuration import Configuration
from tfbatch.run_folder.files import SET_ASIDE, curves_of
from tfbatch.run_folder.journal import Row
from tfbatch.run_folder.trials_table import METRIC, column_order
from tfbatch.schema import JsonObject

_DERIVED = (
    *("learning_rate", "total_examples", "steps_per_epoch", "warmup_examples"),
    *("from_examples", "to_examples", "course_from"),
)
_TAGS = ("trial", "phase", "status", "seed", "device", "curves", "finished_at", "message")


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
        started_at: Seconds since 1970; of a part of a training, as if all its parts had been one.
        finished_at: Seconds since 1970.
    """

    name: str
    phase: str
    status: str
    parameters: dict[str, object]
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


def flat_settings(values: dict[str, object], *, place: str = "") -> dict[str, object]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`; lists become JSON, None is left out."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{place}.{key}" if place else key
        if isinstance(value, dict):
            flat |= flat_settings(value, place=name)
        elif value is not None:
            flat[name] = json.dumps(value) if isinstance(value, list) else value
    return flat


def answer_metrics(recommendation: JsonObject) -> dict[str, float]:
    """`validation/accuracy`, `test/loss`...: means over the fresh seeds, of the recommendation."""
    return {
        # null is a mean that is not finite
        f"{split}/{name}": math.nan if measured["mean"] is None else float(measured["mean"])
        for split, measures in recommendation["metrics"].items()
        for name, measured in (measures or {}).items()
    }


def answer_parameters(recommendation: JsonObject) -> JsonObject:
    """The recommended configuration, flat: `batch_size`, `learning_rate`, `schedule.name`..."""
    wanted = ("batch_size", "learning_rate", "schedule", "optimizer")
    return flat_settings({key: recommendation[key] for key in wanted})


def _is_parameter(key: str) -> bool:
    fields = Configuration.model_fields
    return key in (*fields, *_DERIVED) or any(key.startswith(f"{field}_") for field in fields)


@dataclasses.dataclass(frozen=True)
class Point:
    """What was measured at the end of one epoch.

    Attributes:
        epoch: The epoch, counted from 0 as Keras and TensorBoard do.
        seconds: When it was measured, in seconds since 1970.
        values: `loss`, `val_loss`, `learning_rate`... as 32-bit floats, and `examples`, the number
            of examples trained on.
    """

    epoch: int
    seconds: float
    values: dict[str, float]


def read_curves(tensorboard: Path, row: Row) -> list[Point]:
    """The epochs of a trial in their order; empty where there are no event files.

    A file that was cut is read up to the cut. Where a continued trial wrote an epoch twice, the
    later value counts. Of parts of one training, which share their curves, each has its own epochs.

    Args:
        tensorboard: The run's TensorBoard folder.
        row: The trial's row in the journal.
    """
    folder = tensorboard / curves_of(row["trial"], row.get("curves"))
    if "curves" not in row:
        return _by_epoch(folder, row)
    begin, end = int(row.get("from_examples") or 0), int(row["examples"] or row["total_examples"])
    points: dict[int, Point] = {}
    for scalar in (*_scalars(folder / SET_ASIDE), *_scalars(folder)):
        if begin < scalar.step <= end:
            epoch = -(-(scalar.step - begin) // _examples_per_epoch(row)) - 1
            values = {"examples": float(scalar.step)}
            point = points.setdefault(epoch, Point(epoch, scalar.seconds, values))
            point.values[scalar.tag] = scalar.value
    return [points[epoch] for epoch in sorted(points)]


def _by_epoch(folder: Path, row: Row) -> list[Point]:
    """What Keras's callback wrote for earlier versions: a folder for each split, over epochs."""
    points: dict[int, Point] = {}
    for part, prefix in (("train", ""), ("validation", "val_")):
        for scalar in _scalars(folder / part):
            if not scalar.tag.startswith(_EPOCH):
                continue
            examples = float(_examples(scalar.step, row))
            point = points.setdefault(
                scalar.step, Point(scalar.step, scalar.seconds, {"examples": examples})
            )
            point.values[prefix + scalar.tag.removeprefix(_EPOCH)] = scalar.value
    return [points[epoch] for epoch in sorted(points)]


_EPOCH, _OF_HPARAMS = "epoch_", "_hparams_"


class _Scalar(NamedTuple):
    """A point of one curve."""

    tag: str
    step: int
    seconds: float
    value: float


def _scalars(folder: Path) -> list[_Scalar]:
    """Every scalar in a folder's event files, in the order in which they were written."""
    if not any(folder.glob("*.tfevents.*")):
        return []
    if "tensorflow" not in sys.modules:
        # TensorBoard takes its own reader then, as where TensorFlow is not installed
        # (tensorboard/compat/__init__.py): it is slower, but an import of seconds is not needed.
        sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("notf"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    accumulator = EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0})
    accumulator.Reload()
    found = []
    for tag in accumulator.Tags()["tensors"]:
        if tag.startswith(_OF_HPARAMS):
            continue
        for event in accumulator.Tensors(tag):
            value = float(make_ndarray(event.tensor_proto))
            found.append(_Scalar(tag, event.step, event.wall_time, value))
    return sorted(found, key=lambda scalar: scalar.seconds)


def _examples_per_epoch(row: Row) -> int:
    return int(row["steps_per_epoch"]) * int(row["batch_size"])


def _examples(epoch: int, row: Row) -> int:
    """Examples trained on at the end of an epoch; the last one can be short.

    Those of the ancestors of a part of a training are counted too, as the row counts them.
    """
    full = int(row.get("from_examples", 0)) + (epoch + 1) * _examples_per_epoch(row)
    return min(full, int(row["examples"] or row["total_examples"]))
