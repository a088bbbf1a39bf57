"""Trains one configuration, also the best.yaml that tune writes.

usage: tfbatch train --config=RUN/best.yaml [--output=model.keras]

The metrics of the validation split are shown after each epoch, those of the test split at the end.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from pathlib import Path

from absl import flags

from tfbatch.command_line.common_flags import define_common_flags, threads_of
from tfbatch.command_line.machine_output import define_output_flags, json_text
from tfbatch.command_line.running import parse_flags, path_of, run_command
from tfbatch.errors import InputError
from tfbatch.quantities import TrainingLength, four_decimals
from tfbatch.request.training_config import (
    TrainingConfig,
    check_names,
    load_training_config,
)
from tfbatch.run_folder.files import BEST_CONFIGURATION
from tfbatch.seeds import derive_seed

FLAGS = flags.FlagValues()
flags.DEFINE_string(
    "config", None, f"The configuration, e.g. RUN/{BEST_CONFIGURATION}.", flag_values=FLAGS
)
define_common_flags(FLAGS, "data_dir", "records_dir", "checkpoint_seconds")
flags.DEFINE_string("output", None, "Where to save the model (.keras).", flag_values=FLAGS)
flags.DEFINE_string(
    "checkpoint",
    None,
    "File (.npz) for the last epoch of a running training; the same command continues from it. "
    "Default: one for each training, beside the configuration.",
    flag_values=FLAGS,
)
define_common_flags(
    FLAGS,
    "data_on",
    more="Default: as in the trials; the other one rounds differently.",
)
define_common_flags(FLAGS, "seed", more="Default: the configuration's.")
flags.DEFINE_integer(
    "batch_size",
    None,
    "Replaces the batch size; the learning rate follows by the scaling rule.",
    1,
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "length",
    None,
    'Replaces the length of the training, e.g. "100 epochs"; the schedule is stretched to it.',
    flag_values=FLAGS,
)
define_common_flags(
    FLAGS,
    "threads",
    more="Default: as in the trials, which reproduces the trial's result bit for bit; all of "
    "them are faster, but the result differs.",
)
define_output_flags(FLAGS)


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    parse_flags(FLAGS, arguments, usage=__doc__ or "")
    if not FLAGS.config:
        raise InputError(f"`--config` is required, such as --config=RUN/{BEST_CONFIGURATION}.")
    if FLAGS.output and not FLAGS.output.endswith(".keras"):
        raise InputError(f"`--output` must end in .keras. Received: {FLAGS.output!r}.")
    output, records_dir = path_of(FLAGS.output), path_of(FLAGS.records_dir)
    output = output.resolve() if output else None
    if output and not os.access(output.parent, os.W_OK):
        raise InputError(f"`--output`: the folder {output.parent} is absent or not writable.")
    source = path_of(FLAGS.config) or Path()
    config = _with_flags(load_training_config(source))
    check_names(config, where=str(source))
    derive_seed(config.seed)  # refuses one that is too large
    checkpoint = path_of(FLAGS.checkpoint)
    folder = (checkpoint or source).parent
    if not os.access(folder, os.W_OK):
        raise InputError(f"`--checkpoint`: the folder {folder} is absent or not writable.")
    threads = threads_of(FLAGS.threads)
    from tfbatch.training.single import train_once

    # Keras shows its epochs on the standard output, which is for the document then.
    with contextlib.redirect_stdout(sys.stderr if FLAGS.json else sys.stdout):
        trained = train_once(
            config,
            records_dir=records_dir,
            output=output,
            checkpoint=checkpoint or functools.partial(_checkpoint_beside, source),
            checkpoint_seconds=FLAGS.checkpoint_seconds,
            threads=threads,
            say=_silent if FLAGS.quiet else print,
            verbose=0 if FLAGS.quiet else 2,
        )
    reported = None if config.lacks_callbacks else config.reported
    if trained.diverged and not (FLAGS.json and FLAGS.quiet):
        people = sys.stderr if FLAGS.json else sys.stdout
        print(f"The training diverged: {trained.diverged}.", file=people)
    if FLAGS.json:
        from tfbatch.command_line.results import TrainResult  # imports SciPy

        found = TrainResult(
            metrics=trained.metrics,
            diverged=trained.diverged,
            output=str(output) if output else None,
            reported=None if reported is None else str(reported),
        )
        print(json_text("train", found), end="")
        return 0
    for split, values in trained.metrics.items():
        shown = (f"{name} {four_decimals(value)}" for name, value in values.items())
        print(f"{split}: " + ", ".join(shown))
    if reported:
        print(f"reported by the search: {reported}")
    return 0


def _silent(text: str) -> None:
    """Says nothing."""
    del text


def _checkpoint_beside(config: Path, identity: str) -> Path:
    """One for each training: those of other seeds or lengths have the same configuration."""
    return config.with_name(f"{config.stem}-checkpoint-{identity[:8]}.npz")


def _with_flags(config: TrainingConfig) -> TrainingConfig:
    changes: dict[str, object] = {}
    if FLAGS.data_dir:
        changes["data_dir"] = FLAGS.data_dir
    if FLAGS.seed is not None:
        changes["seed"] = FLAGS.seed
    if FLAGS.data_on is not None:
        changes["data_on"] = FLAGS.data_on
    if FLAGS.batch_size is not None:
        changes["configuration"] = config.configuration.model_copy(
            update={"batch_size": FLAGS.batch_size}
        )
        if FLAGS.batch_size != config.configuration.batch_size:
            changes["reported"] = None  # that was another batch size
    if FLAGS.length is not None:
        changes["trial_length"] = TrainingLength.parse(FLAGS.length)
        if changes["trial_length"] != config.trial_length:
            changes["reported"] = None  # that was another length
    return config.model_copy(update=changes)


if __name__ == "__main__":
    run_command(main)
