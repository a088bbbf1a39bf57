"""Says whether the difference between two runs, or between two rows of one run, is noise.

usage: tfbatch compare RUN_A RUN_B
       tfbatch compare RUN --rows=baseline,search-0024

Compares what both runs recommend, or the two rows: the difference with its interval, the band
within which it does not matter, and how many seeds would decide it. Four shared
seeds and more are paired. Nothing is trained; the run folders are only read.
"""

from __future__ import annotations

from absl import flags

from tfbatch.command_line.machine_output import define_output_flags, json_text
from tfbatch.command_line.running import parse_flags, path_of, run_command
from tfbatch.errors import InputError

FLAGS = flags.FlagValues()
flags.DEFINE_list(
    "rows",
    [],
    'Two trials, of the first and the second run: "baseline", "search-0024", "recommended". '
    "Default: what both recommend; of one run what it recommends and its baseline.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "tolerance",
    None,
    "Deficits of the objective up to this do not matter. Default: the band of the runs' answers, "
    "the wider one.",
    0.0,
    flag_values=FLAGS,
)
flags.DEFINE_float("level", 0.95, "Coverage of the interval.", 0.0, 1.0, flag_values=FLAGS)
define_output_flags(FLAGS)


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    folders = parse_flags(FLAGS, arguments, usage=__doc__ or "", folders=2)
    if not folders:
        raise InputError("A run folder is required: tfbatch compare RUN_A RUN_B. See --help.")
    from tfbatch.comparison import compare_runs

    run, *others = (path_of(folder) for folder in folders)
    found = compare_runs(
        run or "",
        others[0] if others else None,
        rows=FLAGS.rows,
        tolerance=FLAGS.tolerance,
        level=FLAGS.level,
    )
    print(json_text("compare", found) if FLAGS.json else f"{found}\n", end="")
    return 0


if __name__ == "__main__":
    run_command(main)
