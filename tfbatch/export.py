"""Writes a run out to a CSV file, to MLflow, Optuna or Weights & Biases.

usage: tfbatch export --run_dir=RUN --to=mlflow [--destination=sqlite:///mlflow.db]

The run folder is only read (but for its trials.csv, where --to=csv has no --destination); a run in
progress is written as far as it has come. The same command again adds what is new, nothing twice.
Nothing goes over the network unless --destination or MLFLOW_TRACKING_URI names a server.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from absl import flags

from tfbatch.command_line.common_flags import define_common_flags
from tfbatch.command_line.running import library_noise_to, parse_flags, path_of, run_command
from tfbatch.errors import InputError
from tfbatch.exporters import EXPORTERS, export_run
from tfbatch.run_folder.files import TRIALS_CSV

FLAGS = flags.FlagValues()
define_common_flags(FLAGS, "run_dir", more="One that tune has written; required.")
flags.DEFINE_string("to", None, f"One of: {', '.join(EXPORTERS.names())}.", flag_values=FLAGS)
flags.DEFINE_string(
    "destination",
    None,
    f"csv: a file (default: RUN/{TRIALS_CSV}). mlflow: a tracking URI (default: "
    "MLFLOW_TRACKING_URI, else MLflow's own, mlflow.db in this directory). optuna: a file or the "
    "URL of a storage (default: sqlite:///optuna.db in this directory). wandb: a folder for "
    "offline runs (default: WANDB_DIR, else this directory).",
    flag_values=FLAGS,
)


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    parse_flags(FLAGS, arguments, usage=__doc__ or "")
    run_dir = path_of(FLAGS.run_dir)
    if run_dir is None or not FLAGS.to:
        absent = "run_dir=RUN" if run_dir is None else f"to={EXPORTERS.names()[0]}"
        raise InputError(f"`--run_dir` and `--to` must be given. Add --{absent}. See --help.")
    with (
        tempfile.NamedTemporaryFile(prefix="tfbatch-", suffix=".log") as log,
        library_noise_to(Path(log.name), kept=False) as (out, _),
    ):
        exported = export_run(run_dir, to=FLAGS.to, destination=FLAGS.destination)
        out.print(str(exported), markup=False, highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    run_command(main)
