"""Every error that tfbatch raises on purpose, and the exit code it becomes on the command line.

    TfbatchError            1   anything below
     +- InputError          2   what was asked for cannot be done (a ValueError)
     |   +- ConfigurationError  2   the same, in a YAML file: names file and key
     +- DataError           3   a data set is absent, or differs from its description
     |   +- RecordError     3   a stored record is damaged: names file and record
     +- RunFolderError      4   the run folder is in use, full, or belongs to another search
     +- SearchError         5   no trial of a search could be completed
     |   +- NothingLearnedError 6   trials completed, and none of them has learned anything
     +- StoppedError      130   ended by a signal before there was an answer

A message states the request, the rule, the received value, and the change that fixes it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class TfbatchError(Exception):
    """Base class: catch this to catch every deliberate error of tfbatch."""

    exit_code = 1


class InputError(TfbatchError, ValueError):
    """An argument, flag or name that cannot be used. Raised before any work starts."""

    exit_code = 2


class ConfigurationError(InputError):
    """A YAML file that cannot be used: the message begins with `file: key:`."""


class DataError(TfbatchError):
    """Data that is absent, cannot be fetched, or does not match its description."""

    exit_code = 3


class RecordError(DataError):
    """A damaged or incomplete record file.

    Attributes:
        path: The file.
        record: Index of the first damaged record in the file, or None where the file as a whole
            does not match its manifest.
    """

    def __init__(self, path: Path, record: int | None, problem: str):
        self.path = path
        self.record = record
        self.problem = problem
        where = f"{path}" if record is None else f"{path}: record {record}"
        super().__init__(
            f"{where}: {problem}. Delete the folder {path.parent} and prepare the data again."
        )

    def __reduce__(self) -> tuple[type[RecordError], tuple[Path, int | None, str]]:
        """Comes whole out of a worker process."""
        return type(self), (self.path, self.record, self.problem)


class RunFolderError(TfbatchError):
    """A run folder that is in use, full, unreadable, or that belongs to another search."""

    exit_code = 4


class SearchError(TfbatchError):
    """A search in which no trial could be completed."""

    exit_code = 5


class NothingLearnedError(SearchError):
    """No trial is better than chance beyond noise. All measurements are in the run folder."""

    exit_code = 6


class StoppedError(TfbatchError):
    """A run that was asked to stop before its first trial had ended."""

    exit_code = 130


STOPPED_EARLY = (
    "Stopped before the first trial ended: there is no answer yet. The same command begins again "
    "where it stopped."
)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns " Did you mean `x`?" for the closest known name, else an empty string."""
    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.5)
    return f" Did you mean `{close[0]}`?" if close else ""
