"""Writes a run folder out to other tools, one file each.

A file holds one function `export(run, *, destination)`: `run` is a `RecordedRun`, `destination` a
text whose meaning is the exporter's own, or None for its default. It returns an `Exported`, writes
nothing into the run folder that the run does not write itself, and adds nothing twice: what was
exported before is left as it is. A package that is not installed is an InputError (see `needs`).
"""

from __future__ import annotations

from pathlib import Path

from tfbatch.exporters._exported import Exported
from tfbatch.plug_ins import Registry
from tfbatch.run_folder.reader import read_run

EXPORTERS = Registry(__name__, kind="exporter", folder=__path__)


def export_run(run_dir: str | Path, *, to: str, destination: str | Path | None = None) -> Exported:
    """Writes a run folder out; a run in progress is read as far as it has come.

    Args:
        run_dir: The run folder.
        to: A file of tfbatch/exporters: "csv", "mlflow", "optuna" or "wandb".
        destination: Where to; what it means and its default are the exporter's own.

    Returns:
        Where it went and how many trials were written.

    Raises:
        InputError: An unknown exporter, no run folder, a package that is not installed, or a
            destination that cannot be used.
        RunFolderError: A file of the run folder is damaged.
    """
    EXPORTERS.check(to)
    run = read_run(Path(run_dir))
    exported: Exported = EXPORTERS.load(to).export(
        run, destination=None if destination is None else str(destination)
    )
    return exported


__all__ = ["EXPORTERS", "Exported", "export_run"]
