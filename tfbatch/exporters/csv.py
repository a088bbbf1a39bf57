"""One CSV file (RFC 4180) with a row for each trial, the same as trials.csv of a run's end."""

from __future__ import annotations

from tfbatch.errors import InputError
from tfbatch.exporters._exported import Exported, path_of
from tfbatch.run_folder.files import TRIALS_CSV
from tfbatch.run_folder.reader import RecordedRun
from tfbatch.run_folder.trials_table import write_csv


def export(run: RecordedRun, *, destination: str | None) -> Exported:
    """Writes the file, in place of one that is there.

    Args:
        run: The run.
        destination: The file. Default: trials.csv in the run folder.

    Raises:
        InputError: The folder of the file does not exist.
        RunFolderError: The file cannot be written.
    """
    path = path_of(destination) if destination else run.path / TRIALS_CSV
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(
            f"`destination` must be a file in a folder that exists. Received: {destination}."
        )
    write_csv(path, run.rows)
    return Exported(str(path), written=len(run.rows), present=0)
