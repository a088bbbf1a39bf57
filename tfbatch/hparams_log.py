"""Writes trainings into TensorBoard's HParams view: one row each.

The folder layout is the one TensorBoard expects: the columns in RUN/tensorboard, and one folder
per trial below it, which may also hold the `train` and `validation` folders of Keras'
TensorBoard callback.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from google.protobuf import json_format
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api as hp
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from tfbatch.metric_direction import Direction

# The underscore sorts before letters: the status is the first column, shown as "status".
STATUS_COLUMN = "_status"
STATUSES = ("completed", "diverged", "oom", "error", "killed", "timeout")

# TensorBoard ticks this many columns at first; the reader has to tick the others by hand.
DISPLAYED_COLUMNS = 5
# From this many choices on, TensorBoard offers a regular expression instead of checkboxes.
_REGULAR_EXPRESSION_FROM = 10
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_FILE_SUFFIX = ".tfbatch_hparams"


@dataclasses.dataclass(frozen=True)
class RealInterval:
    """All numbers from `low` to `high`, both included; without arguments, all numbers.

    Raises:
        ValueError: If `low` is above `high` or a bound is NaN.
    """

    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"not an interval: {self.low!r} to {self.high!r}")

    @property
    def is_bounded(self) -> bool:
        """Whether both bounds are finite."""
        return math.isfinite(self.low) and math.isfinite(self.high)


Choices: TypeAlias = tuple[str, ...] | tuple[int, ...] | tuple[float, ...] | tuple[bool, ...]


@dataclasses.dataclass(frozen=True)
class Column:
    """One hyperparameter column, searched or derived.

    Attributes:
        name: Key of the value in `write_trial`. Keep it the same from one search to the next:
            TensorBoard matches values with columns by it when it shows several searches at once.
        display_name: Column header; empty to show `name`.
        description: Markdown text about the column.
        domain: A `RealInterval` or a tuple of choices of one type. With None the values are shown
            but cannot be filtered, and numbers get no numeric axis; `RealInterval()` gives one.
    """

    name: str
    display_name: str = ""
    description: str = ""
    domain: RealInterval | Choices | None = None


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric column.

    Attributes:
        name: Key of the value in `write_trial` and tag of the scalar summary.
        direction: Whether a good value is small ("min") or large ("max"); None if neither.
    """

    name: str
    direction: Direction | None = None


def write_experiment(
    log_dir: Path, *, columns: Sequence[Column], metrics: Sequence[Metric]
) -> None:
    """Declares the columns of the HParams view, in place of what an earlier call declared.

    TensorBoard shows the status and the first four of `columns` at first, ordered by name; the
    reader can tick the others, also ordered by name. Columns that every trial has a value for
    belong first: the parallel coordinates view leaves out trials without a value in a column
    that is shown, so ticking a column of one schedule family there selects that family.

    Args:
        log_dir: The search's TensorBoard folder; created if missing.
        columns: Searched and derived hyperparameters, the ones that matter most first.
        metrics: Metrics, the ones that matter most first; TensorBoard shows five at first.

    Raises:
        ValueError: If two columns or two metrics share a name, if a column is called
            "_status", or if a domain has no choices.
        TypeError: If the choices of a domain differ in type.
    """
    all_columns = [_status_column(), *columns]
    _require_distinct([column.name for column in all_columns])
    _require_distinct([metric.name for metric in metrics])
    summary = hp.hparams_config_pb(
        hparams=[_hparam(column) for column in all_columns],
        metrics=[_metric(metric) for metric in metrics],
    )
    # TensorBoard sorts columns by "differs", then by name, whatever order they are written in;
    # the public API cannot set "differs", so it is set in the message it builds. Nor can it
    # declare numbers without bounds.
    plugin_data = summary.value[0].metadata.plugin_data
    content = plugin_data_pb2.HParamsPluginData.FromString(plugin_data.content)
    for index, info in enumerate(content.experiment.hparam_infos):
        info.differs = index < DISPLAYED_COLUMNS
        if isinstance(all_columns[index].domain, RealInterval):
            info.type = api_pb2.DATA_TYPE_FLOAT64
    plugin_data.content = content.SerializeToString()
    _replace_event_file(log_dir, summary)


def write_trial(
    log_dir: Path,
    *,
    values: Mapping[str, str | int | float | bool | None],
    metrics: Mapping[str, float],
    status: str,
    step: int = 0,
) -> None:
    """Writes one finished trial as one row, in place of what an earlier call wrote.

    What the trial does not have is left out and its cell stays empty: None and non-finite
    values, and metrics that are not finite as 32-bit floats. The status says why. An open
    TensorBoard shows new trials, but columns and trials that were replaced only when restarted.

    Args:
        log_dir: The trial's folder below the folder given to `write_experiment`; created if
            missing. Its path below TensorBoard's --logdir is the row's trial ID.
        values: Hyperparameter values by column name.
        metrics: Measured values by metric name; empty for a trial that ended before measuring.
        status: One of `STATUSES`.
        step: Where the metrics stand on the x axis: the end of curves with the same tags in the
            folder, which have no charts of one point then.

    Raises:
        ValueError: If `status` is unknown or `values` has a value called "_status".
        TypeError: If a value is neither a string, a number nor None.
    """
    if status not in STATUSES:
        raise ValueError(f"unknown status {status!r}, expected one of {', '.join(STATUSES)}")
    if STATUS_COLUMN in values:
        raise ValueError(f"{STATUS_COLUMN!r} is written from the status, not from the values")
    # A placeholder such as "None" for a missing number breaks sorting and filtering by that
    # column: https://github.com/tensorflow/tensorboard/issues/3597, .../issues/2942
    present = {name: value for name, value in values.items() if _is_present(value)}
    # An empty trial ID makes TensorBoard use the folder as ID. Trials of the same ID are
    # averaged into one row, which would happen to equal trial names in two searches.
    summary = hp.hparams_pb({**present, STATUS_COLUMN: status}, trial_id="")
    for name, value in metrics.items():
        # NaN breaks sorting, infinity flattens the parallel coordinates axis, and scalar
        # summaries are 32-bit floats. An empty cell sorts last and harms nothing.
        if abs(value) <= _FLOAT32_MAX:
            summary.MergeFrom(scalar_pb(name, value))
    # No session status: it knows no more than success and failure, and the status column
    # can be filtered as well.
    _replace_event_file(log_dir, summary, step=step)


def has_row(log_dir: Path) -> bool:
    """Whether an earlier `write_trial` has written a row there; a power cut leaves empty files.

    Args:
        log_dir: The trial's folder, which need not be there.
    """
    return any(file.stat().st_size for file in log_dir.glob(f"*{_FILE_SUFFIX}"))


def _replace_event_file(log_dir: Path, summary: Summary, *, step: int = 0) -> None:
    """Writes a summary as a new event file that takes the place of our earlier ones.

    With TensorBoard's own writer: TensorFlow's would open the GPU in a process that must not.
    """
    # With two declarations in one folder TensorBoard keeps to the first, also when resumed.
    earlier_files = list(log_dir.glob(f"*{_FILE_SUFFIX}"))
    writer = EventFileWriter(str(log_dir), filename_suffix=_FILE_SUFFIX)
    try:
        writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))
    finally:
        writer.close()
    for file in earlier_files:
        file.unlink(missing_ok=True)


def _status_column() -> Column:
    return Column(STATUS_COLUMN, "status", "How the trial ended.", STATUSES)


def _hparam(column: Column) -> hp.HParam:
    return hp.HParam(
        column.name,
        domain=_domain(column.domain),
        display_name=column.display_name,
        description=column.description,
    )


def _domain(domain: RealInterval | Choices | None) -> hp.Domain | None:
    if domain is None or (isinstance(domain, RealInterval) and not domain.is_bounded):
        return None
    if isinstance(domain, RealInterval):
        return hp.RealInterval(float(domain.low), float(domain.high))
    if len(domain) >= _REGULAR_EXPRESSION_FROM and not isinstance(domain[0], str):
        # The regular expression that TensorBoard offers for long lists fails on numbers.
        return hp.RealInterval(float(min(domain)), float(max(domain)))
    return hp.Discrete(domain)


def _metric(metric: Metric) -> hp.Metric:
    # MetricInfo has no field for the direction.
    better = {"min": "lower is better", "max": "higher is better", None: ""}[metric.direction]
    return hp.Metric(
        metric.name,
        display_name=f"{metric.name} ({better})" if better else metric.name,
        description=f"{better.capitalize()}." if better else "",
    )


def _is_present(value: str | int | float | bool | None) -> bool:
    return isinstance(value, str) or (value is not None and math.isfinite(value))


def _require_distinct(names: Sequence[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"names used more than once: {', '.join(repeated)}")


def declared(log_dir: Path) -> tuple[list[Column], list[Metric]]:
    """What an earlier `write_experiment` declared; nothing where there was none.

    Args:
        log_dir: The folder it was written to.
    """
    for file in sorted(log_dir.glob(f"*{_FILE_SUFFIX}")):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                content = value.metadata.plugin_data.content
                experiment = plugin_data_pb2.HParamsPluginData.FromString(content).experiment
                if experiment.hparam_infos:
                    return _declared(experiment)
    return [], []


def _declared(experiment: api_pb2.Experiment) -> tuple[list[Column], list[Metric]]:
    columns = [
        Column(info.name, info.display_name, info.description, _declared_domain(info))
        for info in experiment.hparam_infos
        if info.name != STATUS_COLUMN
    ]
    directions: dict[str, Direction] = {
        "Lower is better.": "min",
        "Higher is better.": "max",
    }
    metrics = [Metric(m.name.tag, directions.get(m.description)) for m in experiment.metric_infos]
    return columns, metrics


def _declared_domain(info: api_pb2.HParamInfo) -> RealInterval | Choices | None:
    if info.HasField("domain_interval"):
        return RealInterval(info.domain_interval.min_value, info.domain_interval.max_value)
    if info.HasField("domain_discrete"):
        return tuple(json_format.MessageToDict(info.domain_discrete))
    return RealInterval() if info.type == api_pb2.DATA_TYPE_FLOAT64 else None
