"""trials.jsonl: one line for each finished trial, append-only, on disk before it is announced."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from tfbatch.errors import RunFolderError
from tfbatch.schema import JsonObject

SCHEMA_VERSION = 2
Row: TypeAlias = JsonObject
"""Flat keys and JSON values; non-finite numbers are written as "nan", "inf", "-inf"."""
_NON_FINITE = ("nan", "inf", "-inf")
_TEXTS = ("model_", "message")
"""Keys begin so whose values are as they are written."""


class Journal:
    """The journal of one run folder; the folder must be locked.

    Opening it repairs nothing but a torn last line, which a killed process can leave: its trial
    was never announced, so it is cut off and runs again. One that lacks its end alone gets it.

    Args:
        path: The file; made where absent.

    Raises:
        RunFolderError: The file cannot be used, or a line other than the last is damaged.
    """

    def __init__(self, path: Path):
        self.path = path
        self.rows: list[Row] = []
        self._by_trial: dict[str, Row] = {}
        try:
            path.touch()
            data = path.read_bytes()
            whole = whole_lines(data)
            for row in parse_lines(whole, str(path)):
                self._keep(row)
            with path.open("r+b") as file:
                file.seek(len(data))
                file.write(whole[len(data) :])
                file.truncate(len(whole))
        except OSError as error:
            raise RunFolderError(f"{path} cannot be used: {error}.") from error

    def append(self, row: Row) -> None:
        """Writes one row and flushes it to disk.

        Raises:
            RunFolderError: The row cannot be written (a full disk); the file is as it was before.
            ValueError: The trial is in the journal already.
        """
        if self.find(row["trial"]):
            raise ValueError(f"The trial {row['trial']} is in {self.path} already.")
        line = json.dumps({"schema_version": SCHEMA_VERSION, **encode_row(row)}, allow_nan=False)
        size = self.path.stat().st_size
        try:
            with self.path.open("ab") as file:
                file.write(line.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            with self.path.open("r+b") as file:
                file.truncate(size)
            raise RunFolderError(
                f"{self.path} cannot be written: {error}. Free some space and run the same command "
                "again: every trial before this one is kept."
            ) from error
        self._keep(row)

    def find(self, trial: str) -> Row | None:
        """The row of a trial, or None."""
        return self._by_trial.get(trial)

    def _keep(self, row: Row) -> None:
        self.rows.append(row)
        self._by_trial[row["trial"]] = row


def read_rows(path: Path) -> list[Row]:
    """Reads a journal without locking or changing it, also while a run appends to it.

    A torn last line is left out: its trial is being written, or was never announced.

    Raises:
        RunFolderError: The file cannot be read, or a line is damaged.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error}.") from error
    return list(parse_lines(whole_lines(data), str(path)))


def whole_lines(data: bytes) -> bytes:
    """A journal without a torn last line.

    One that lacks its end alone is whole, and gets it: an editor may have left it out, and a row
    has its closing brace only when all of it was written.
    """
    end = data.rfind(b"\n") + 1
    try:
        last = json.loads(data[end:])
    except ValueError:
        return data[:end]
    is_row = isinstance(last, dict) and {"trial", "schema_version"} <= last.keys()
    return data + b"\n" if is_row else data[:end]


def parse_lines(data: bytes, where: str) -> Iterator[Row]:
    """Yields the rows of a journal's whole lines.

    Raises:
        RunFolderError: A damaged line, one of a newer schema version, or a repeated trial.
    """
    seen = set()
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            row = decode_row(json.loads(line))
        except (ValueError, AttributeError) as error:
            raise RunFolderError(
                f"{where}: line {number} is damaged: {error}. Remove the line (its trial runs "
                "again), or start anew with --overwrite."
            ) from error
        if row.pop("schema_version", None) != SCHEMA_VERSION:
            raise RunFolderError(
                f"{where}: line {number} has another schema version than {SCHEMA_VERSION}. Use the "
                "tfbatch that wrote it, or start anew with --overwrite."
            )
        if not isinstance(row.get("trial"), str):
            raise RunFolderError(
                f"{where}: line {number} is damaged: it names no trial. Remove the line (its trial "
                "runs again), or start anew with --overwrite."
            )
        if row["trial"] in seen:
            raise RunFolderError(
                f"{where}: line {number} repeats the trial {row['trial']}: the file was changed by "
                "hand or by two runs. Remove one of the lines."
            )
        seen.add(row["trial"])
        yield row


def encode_row(row: Row) -> Row:
    """Replaces non-finite numbers, which JSON does not have, by their names."""
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }


def decode_row(row: Row) -> Row:
    """The inverse of `encode_row`.

    An argument of a model is never non-finite, and may be such a text: a norm is "inf".
    """
    return {
        key: float(value) if value in _NON_FINITE and not key.startswith(_TEXTS) else value
        for key, value in row.items()
    }
