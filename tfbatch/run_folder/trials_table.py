"""The journal as a table: the order of its columns, trials.csv, and a pandas DataFrame."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfbatch.configuration import Configuration
from tfbatch.errors import RunFolderError
from tfbatch.run_folder.durable import write_whole
from tfbatch.run_folder.files import TRIALS_CSV
from tfbatch.run_folder.journal import Row

if TYPE_CHECKING:
    import pandas

METRIC = "metric_"
_FIRST = ("trial", "phase", "status", "score", "learning_rate")
_MEASURED = (
    "seconds",
    "training_seconds",
    "examples",
    "total_examples",
    "steps",
    "steps_per_epoch",
    "warmup_examples",
    "seed",
    "device",
    "curves",
    "finished_at",
)
_LAST = "message"
_FLOATS = ("score", "learning_rate", "seconds", "training_seconds")


def column_order(rows: Sequence[Row]) -> list[str]:
    """The columns of some rows, in an order that does not depend on which trial ended first.

    What identifies a trial and its score come first, then the configuration with every
    plug-in's parameters behind its name, the metrics, what was measured, and the message last.
    """
    keys = {key for row in rows for key in row}
    known = {*_FIRST, *Configuration.model_fields, *_MEASURED, _LAST}
    parameters = sorted(keys - known)
    order = list(_FIRST)
    for field in Configuration.model_fields:
        order += [field, *(key for key in parameters if key.startswith(f"{field}_"))]
    order += [key for key in parameters if key.startswith(METRIC)]
    order += _MEASURED
    order += [key for key in parameters if key not in order]
    return [key for key in [*order, _LAST] if key in keys]


def csv_text(rows: Sequence[Row]) -> str:
    """The rows as CSV (RFC 4180): a header, CRLF at line ends, quotes where they are needed.

    Floats have the digits that give the same float back; non-finite ones are `nan`, `inf` and
    `-inf`. What a trial does not have is empty, and so is an empty text. A list is written as JSON.
    """
    text = io.StringIO()
    columns = column_order(rows)
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(column)) for column in columns])
    # A file's name in a traceback can hold bytes that are no text: JSON has an escape for them.
    return text.getvalue().encode("utf-8", "backslashreplace").decode("utf-8")


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Writes rows as CSV, the whole file or nothing.

    Raises:
        RunFolderError: It cannot be written.
    """
    write_whole(path, csv_text(rows))


@contextlib.contextmanager
def csv_at_the_end(
    run_dir: Path, rows: Sequence[Row], say: Callable[[str], None]
) -> Iterator[None]:
    """Writes trials.csv when the block ends, however it ends; a failure is told, not raised.

    Args:
        run_dir: The run folder.
        rows: The journal's rows, which grow in the block.
        say: Told where the file cannot be written: the journal has everything already.
    """
    try:
        yield
    finally:
        try:
            write_csv(run_dir / TRIALS_CSV, rows)
        except RunFolderError as error:
            say(str(error))


def to_frame(rows: Sequence[Row]) -> pandas.DataFrame:
    """The rows as a DataFrame; see `tfbatch.Result.to_dataframe` for columns and types."""
    import pandas as pd

    frame = {}
    for column in column_order(rows):
        values = [row.get(column) for row in rows]
        kind: Any = _kind(column, values)
        frame[column] = pd.Series(values, dtype=kind)
        if column == "finished_at":
            frame[column] = pd.to_datetime(frame[column], utc=True)
    return pd.DataFrame(frame)


def _kind(column: str, values: list[Any]) -> str | None:
    """The type of a column of numbers; None leaves it to pandas (text)."""
    if column in _FLOATS or column.startswith(METRIC):
        return "float64"
    types = {type(value) for value in values if value is not None}
    gaps = any(value is None for value in values)
    if types == {bool}:
        return "boolean" if gaps else "bool"
    if types == {int}:
        return "Int64" if gaps else "int64"
    return "float64" if types and types <= {int, float} else None


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value
