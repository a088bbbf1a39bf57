"""A row in TensorBoard's HParams view for anybody's `fit`."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from tfbatch.callbacks._learning_rate import rate_now
from tfbatch.callbacks._schedule_end import warn_of_early_end
from tfbatch.curves_log import CurveWriter
from tfbatch.errors import InputError
from tfbatch.hparams_log import (
    STATUS_COLUMN,
    Column,
    Metric,
    RealInterval,
    declared,
    write_experiment,
    write_trial,
)
from tfbatch.metric_direction import Direction, direction_of
from tfbatch.run_folder.files import SET_ASIDE
from tfbatch.schema import as_plain

Value = str | int | float | bool | None


class _Point(NamedTuple):
    """What was measured at the end of an epoch, in seconds since 1970."""

    updates: int
    seconds: float
    values: dict[str, float]


class HParams(keras.callbacks.Callback):  # type: ignore[misc]
    """Writes what was searched and what follows from it beside the final metrics, a row per fit.

    Every `fit` gets a folder of its own below `log_dir`: `fit-0001`, `fit-0002` and so on, also
    when a search copies the callback. The columns of all of them are kept. The row is written at
    the end of `fit`, with the curves whose end its metrics are, over the optimizer's updates: a
    training that raises or is killed has neither. Its status is "completed", or "diverged" where
    the loss or the validation loss is not finite: its curves are in a folder below its own then,
    for they end in no final value. A metric of several values, such as one for each class, is left
    out.

    Example:
        ```python
        hparams = tfbatch.callbacks.HParams(log_dir, {"batch_size": 128, "schedule": "cosine"})
        model.fit(data, callbacks=[hparams])
        print(hparams.folder)
        ```

    Args:
        log_dir: TensorBoard's folder.
        hparams: {name: value} of what you chose: strings, numbers, booleans; None leaves the
            cell empty.
        derived: Whether to add what the model says: optimizer, learning_rate (at the beginning,
            after any scaling; not of a MultiOptimizer, which has several), epochs, steps_per_epoch,
            precision, parameters.
        directions: {metric: "min" or "max"}, where neither Keras's metric nor its name says which
            is better.

    Attributes:
        folder: Where the last row is; None before.

    Raises:
        InputError: A value that is no string, number or boolean; an unknown direction; the name
            "_status".
    """

    only_looks = True

    def __init__(
        self,
        log_dir: str | Path,
        hparams: Mapping[str, Value] | None = None,
        *,
        derived: bool = True,
        directions: Mapping[str, Direction] | None = None,
    ):
        super().__init__()
        self.log_dir = Path(log_dir)
        self.hparams = as_plain(dict(hparams or {}))
        self.derived = derived
        self.directions = dict(directions or {})
        self.folder: Path | None = None
        for name, value in self.hparams.items():
            if name == STATUS_COLUMN or not isinstance(value, str | int | float | bool | None):
                raise InputError(
                    "`hparams` must be {name: string, number, boolean or None}, without the name "
                    f'"{STATUS_COLUMN}". Received: {name}={value!r}.'
                )
        for name, direction in self.directions.items():
            if direction not in ("min", "max"):
                raise InputError(
                    f'`directions` must be "min" or "max". Received: {name}={direction!r}.'
                )

    def on_train_begin(self, logs: Any = None) -> None:
        """Reads what follows from the model before training changes it."""
        warn_of_early_end(self.model, self.params)
        self.folder = None
        self._derived = _derived(self.model, self.params) if self.derived else {}
        self._last: dict[str, float] = {}
        self._points: list[_Point] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Keeps the last epoch's metrics, those that callbacks before this one added too."""
        given = (logs or {}).items()
        self._last = {name: float(value) for name, value in given if np.ndim(value) == 0}
        optimizer = self.model.optimizer
        updates = int(keras.ops.convert_to_numpy(optimizer.iterations)) if optimizer else 0
        if not updates:  # a model that trains in its own way, with another optimizer or none
            updates = (epoch + 1) * (self.params.get("steps") or 1)
        self._points.append(_Point(updates, time.time(), self._last))

    def on_train_end(self, logs: Any = None) -> None:
        """Writes the row."""
        if self.derived and self.model.built:  # a model may be built by its first batch
            self._derived["parameters"] = self.model.count_params()
        values = {**self._derived, **self.hparams}
        self.folder = _own_folder(self.log_dir)
        columns, metrics = declared(self.log_dir)
        mine = [_column(name, value, self._derived) for name, value in values.items()]
        measured = [Metric(name, self._direction(name)) for name in self._last]
        write_experiment(
            self.log_dir, columns=_merged(mine, columns), metrics=_merged(measured, metrics)
        )
        losses = [self._last[name] for name in ("loss", "val_loss") if name in self._last]
        finite = all(math.isfinite(loss) for loss in losses)
        write_trial(
            self.folder,
            values=values,
            metrics=self._last,
            status="completed" if finite else "diverged",
            step=self._points[-1].updates if self._points else 0,
        )
        self._write_curves(self.folder if finite else self.folder / SET_ASIDE)

    def _write_curves(self, folder: Path) -> None:
        """The last point of a curve is what the view shows: one that is not finite would be it."""
        shown = [name for name, value in self._last.items() if math.isfinite(value)]
        writer = CurveWriter(folder)
        for point in self._points:
            values = {name: point.values[name] for name in shown if name in point.values}
            writer.write(point.updates, values, seconds=point.seconds)
        writer.close()

    def _direction(self, name: str) -> Direction | None:
        return self.directions.get(name) or direction_of(name, self.model.metrics)


def _derived(model: keras.Model, params: Mapping[str, Any]) -> dict[str, Value]:
    optimizer = model.optimizer
    if optimizer is None:
        found: dict[str, Value] = {}
    else:
        found = {"optimizer": optimizer.name}
        if (rate := rate_now(optimizer)) is not None:
            found["learning_rate"] = rate
    return {
        **found,
        "epochs": params.get("epochs"),
        "steps_per_epoch": params.get("steps"),
        "precision": model.dtype_policy.name,
    }


def _column(name: str, value: Value, derived: Mapping[str, Value]) -> Column:
    """Numbers get a numeric axis; choices are unknown to a single `fit`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return Column(
        name,
        name.replace("_", " "),
        "Read from the model (derived)." if name in derived else "",
        RealInterval() if number else None,
    )


def _merged(mine: list[Any], earlier: list[Any]) -> list[Any]:
    """Mine first, and in place of earlier ones of the same name."""
    names = {one.name for one in mine}
    return [*mine, *(one for one in earlier if one.name not in names)]


def _own_folder(log_dir: Path) -> Path:
    """The first free number, taken at once: other processes may write there too."""
    number = 1
    while True:
        folder = log_dir / f"fit-{number:04d}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return folder
