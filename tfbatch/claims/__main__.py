"""Tries what is said about batch size on your model, data and hardware: a verdict each.

usage: tfbatch claims [--list] [--claim=bigger-is-faster] [--card=X1] [--preset=tiny] ...

Each claim is put to a controlled experiment: paired seeds, a declared axis and learning rate, a
margin fixed before. Without --claim and --card all claims that can be tried are (--all). The same
command on the same run folder continues it: trainings and cards that have ended are not run again.
With no other flags it uses scikit-learn's embedded digits.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from tfbatch.claims import can_be_tried, cards, claims
from tfbatch.claims._preset import PRESETS
from tfbatch.claims._request import CourtRequest, make_court_request
from tfbatch.command_line.common_flags import define_common_flags
from tfbatch.command_line.running import (
    StopSignal,
    announcer,
    library_noise_to,
    parse_flags,
    path_of,
    run_command,
    say,
)
from tfbatch.command_line.workload_flags import (
    define_workload_flags,
    jit_compile_from,
    workload_from,
)
from tfbatch.errors import InputError, StoppedError
from tfbatch.python_objects import PythonObjects
from tfbatch.request.execution import Execution
from tfbatch.run_folder.files import LIBRARY_LOG, VERDICTS, VERDICTS_PAGE
from tfbatch.run_folder.folder import check_run_dir
from tfbatch.search.progress import LiveProgress, Progress

if TYPE_CHECKING:
    from rich.console import Console

    from tfbatch.answer.plan import Plan
    from tfbatch.claims._verdicts import Verdicts

FLAGS = flags.FlagValues()
STOPPING = "Stopping: what the cards have measured is kept."
NOTHING_KEPT = "Stopping: nothing is kept of a dry run."
_NOT_HERE = ("batch_sizes",)

define_workload_flags(FLAGS, batch_sizes="Not used here: the preset's sizes follow --baseline.")
flags.DEFINE_list("claim", [], "Names or numbers of claims to try.", flag_values=FLAGS)
flags.DEFINE_list(
    "card",
    [],
    "Cards, such as X1: all claims that need one, and the other cards that these need.",
    flag_values=FLAGS,
)
flags.DEFINE_boolean("all", False, "All claims that can be tried.", flag_values=FLAGS)
flags.DEFINE_boolean("list", False, "List all claims, and end.", flag_values=FLAGS)
flags.DEFINE_boolean(
    "dry_run",
    False,
    "Print what would be run, how many trainings and minutes it takes, and end.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "preset", "small", list(PRESETS), "How large the experiments are.", flag_values=FLAGS
)
flags.DEFINE_string(
    "objective",
    None,
    "METRIC, METRIC:min or METRIC:max, by its final value. Default: recipe's.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "trial_length",
    None,
    'Length of a trial, e.g. "5 epochs", "200_000 examples". Default: recipe, times the preset\'s.',
    flag_values=FLAGS,
)
define_common_flags(
    FLAGS, "max_minutes", more="What a card has not told of by then has no verdict."
)
define_common_flags(FLAGS, "run_dir", more="Default: one below tfbatch_runs.")
define_common_flags(FLAGS, "seed", default=1)
flags.DEFINE_integer(
    "workers",
    None,
    "Worker processes; 0 runs everything in this process. Default: one per GPU, or on a CPU one "
    "per core up to 8.",
    0,
    flag_values=FLAGS,
)
flags.DEFINE_boolean(
    "overwrite",
    False,
    "Remove what a run has written into the run folder and start anew.",
    flag_values=FLAGS,
)


def request_from_flags() -> CourtRequest:
    """The request that the parsed flags make; imports no TensorFlow.

    Raises:
        InputError: A flag that cannot be used.
    """
    if FLAGS.all and (FLAGS.claim or FLAGS.card):
        raise InputError("`--all` tries every claim: leave --claim and --card out, or --all.")
    for name in _NOT_HERE:
        if FLAGS[name].present:
            raise InputError(f"`--{name}` is not used here: the sizes follow --baseline.")
    return make_court_request(
        **workload_from(FLAGS),
        claim=FLAGS.claim,
        card=FLAGS.card,
        preset=FLAGS.preset,
        objective=FLAGS.objective,
        trial_length=FLAGS.trial_length,
        max_minutes=FLAGS.max_minutes,
        seed=FLAGS.seed,
        run_dir=path_of(FLAGS.run_dir),
        overwrite=FLAGS.overwrite,
        execution=Execution(
            workers=FLAGS.workers,
            precision=FLAGS.precision,
            jit_compile=jit_compile_from(FLAGS),
            strategy=FLAGS.strategy,
            logical_cpus=FLAGS.logical_cpus,
            data_on=FLAGS.data_on,
        ),
    )


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    parse_flags(FLAGS, arguments, usage=__doc__ or "")
    if FLAGS.list:
        print(listing())
        return 0
    request = request_from_flags()
    if FLAGS.dry_run:
        return _plan(request)
    run_dir = check_run_dir(request.run_dir)
    with (
        library_noise_to(run_dir / LIBRARY_LOG) as (out, err),
        StopSignal(announcer(err, STOPPING)) as stop,
    ):
        say(out, f"Run folder: {run_dir} (what the libraries print goes to {LIBRARY_LOG} in it)")
        progress = LiveProgress(out) if out.is_terminal else Progress(out)
        try:
            from tfbatch.claims._try_claims import run_court

            found = run_court(request, PythonObjects(), progress=progress, stop_requested=stop)
        except StoppedError as error:  # before the first card
            say(err, str(error))
            return stop.exit_code
        finally:
            progress.end()
        _show(out, found, run_dir)
        if found.failure:
            log = run_dir / LIBRARY_LOG
            say(err, f"error: a card failed, with its traceback in {log}: {found.failure}")
        return stop.exit_code or getattr(found.failure, "exit_code", 1 if found.failure else 0)


def listing() -> str:
    """Every claim: its number and name, the statement, what decides, and whether it can be."""
    lines = []
    for claim in claims():
        state = "" if can_be_tried(claim) else "  [not tried yet]"
        lines += [
            f"{claim.number:<4} {claim.name}  ({', '.join(claim.cards)}){state}",
            f"       {claim.statement}",
            f"       Decides: {claim.statistic()}.",
        ]
    tried = sum(map(can_be_tried, claims()))
    lines += ["", "cards:", *(f"  {card.CARD:<4} {card.TITLE}" for card in cards())]
    return "\n".join([*lines, "", f"{len(claims())} claims, {tried} of which can be tried."])


def _plan(request: CourtRequest) -> int:
    """Prints what a session is going to take."""
    print(outline(request))
    with (
        library_noise_to(Path(os.devnull), kept=False) as (out, err),
        StopSignal(announcer(err, NOTHING_KEPT)) as stop,
    ):
        progress = Progress(out)
        try:
            from tfbatch.claims._try_claims import plan_court

            found = plan_court(request, PythonObjects(), progress=progress, stop_requested=stop)
        except StoppedError as error:
            say(err, str(error))
            return stop.exit_code
        out.print(found.table())
        for line in took(found):
            say(out, line)
        return 0


def took(found: Plan) -> list[str]:
    """What the table of a plan leaves open."""
    at_once = f", {found.workers} side by side" if found.workers > 1 else ""
    ended = f" {found.limit} ends it early." if found.limit else ""
    return [
        f"Trainings of {found.length}{at_once}, or as many updates where that is more; one counts "
        f"as one of this length at the baseline's batch size, {found.baseline}.{ended}",
        "Of a new run: what is in the run folder already is not run again. Searches of learning "
        "rates that have to go on beyond their first octaves take more.",
    ]


def outline(request: CourtRequest) -> str:
    """What a session would do."""
    preset = request.preset
    base = request.subject.baseline.batch_size
    sizes = ", ".join(f"{max(1, round(base * factor))}" for factor in preset.factors)
    return "\n".join(
        [
            f"{request.subject.model} on {request.subject.data.name}, preset {preset.name}:",
            f"  batch sizes {sizes}, as far as the data allow; trainings of "
            f"{request.trial_length}, or as many updates where that is more",
            f"  {preset.seeds} seeds for verdicts, {preset.pilot_seeds} for margins, "
            f"{preset.tuning_seeds} for learning rates; {preset.rounds} rounds of timing",
            "cards:",
            *(f"  {card.CARD:<4} {card.TITLE}" for card in request.cards),
            "claims:",
            *(f"  {claim.number:<4} {claim.name}" for claim in request.claims),
            f"run folder: {request.run_dir}",
        ]
    )


def _show(out: Console, found: Verdicts, run_dir: Path) -> None:

    out.print(found.table())
    say(out, found.summary())
    say(out, f"\nWritten: {VERDICTS}, {VERDICTS_PAGE} in {run_dir}")


if __name__ == "__main__":
    run_command(main)
