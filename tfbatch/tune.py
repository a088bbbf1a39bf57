"""Searches batch size jointly with learning rate and decay schedule, and recommends.

usage: tfbatch tune [--dataset=cifar10] [--model=small_cnn] [--max_minutes=15] ...

With no flags it runs scikit-learn's embedded digits: no download, minutes on two cores. The same
command on the same run folder continues it; a larger budget extends it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from absl import flags

from tfbatch.command_line.common_flags import define_common_flags
from tfbatch.command_line.machine_output import Voices, define_output_flags, voices_of
from tfbatch.command_line.running import (
    announcer,
    direct_writer,
    library_noise_to,
    parse_flags,
    path_of,
    run_command,
    say,
)
from tfbatch.command_line.workload_flags import (
    as_typed,
    batch_sizes_from,
    define_workload_flags,
    jit_compile_from,
    workload_from,
)
from tfbatch.errors import InputError, NothingLearnedError, StoppedError
from tfbatch.finder import plan_request, run_request
from tfbatch.plug_ins import check_reference, find_function
from tfbatch.process.stop_signal import StopSignal
from tfbatch.python_objects import PythonObjects
from tfbatch.request.execution import AUTOMATIC, MAX_STATE_GB, Execution, WorkersPerGpu
from tfbatch.request.request import DEFAULT_RUNS, Request, make_request
from tfbatch.run_folder.files import (
    BEST_CONFIGURATION,
    BEST_MODEL,
    JOURNAL,
    LIBRARY_LOG,
    RECOMMENDATION,
    REPORT,
    SETTINGS,
    TENSORBOARD,
    TRIALS_CSV,
)
from tfbatch.run_folder.folder import check_run_dir
from tfbatch.run_folder.reuse import take_trials
from tfbatch.search.progress import LiveProgress, Progress

if TYPE_CHECKING:
    import keras

    from tfbatch.answer.plan import Plan
    from tfbatch.command_line.results import TuneResult
    from tfbatch.search.result import Result

STARTED = time.monotonic()
FLAGS = flags.FlagValues()
STOPPING = "Stopping after this batch, with the best answer so far."
NOTHING_MEASURED = "Stopped while starting up: nothing was measured in this session."
_BUDGET = ("max_trials", "max_minutes", "max_trainings")


define_workload_flags(FLAGS, batch_sizes="Batch sizes to search. Default: the search's.")
for _name, _default, _help in (
    ("callbacks", None, "package.module:function that makes a list of Keras callbacks."),
    ("search", "joint", "A search of tuner_configs/, or a path of one (.yaml)."),
    (
        "objective",
        None,
        "METRIC, METRIC:min or METRIC:max, by its final value. Default: recipe's.",
    ),
    (
        "trial_length",
        None,
        'Length of a trial, e.g. "5 epochs", "200_000 examples". Default: recipe.',
    ),
    (
        "for_length",
        None,
        "Length of the training that the answer is for, if longer than a trial: what is predicted "
        "for it is reported, with the one run that checks it.",
    ),
    (
        "memory_budget",
        None,
        'Memory for all workers together (on GPUs: of each), e.g. "8 GB", or auto for 80 % of what '
        "there is: batches that are measured not to fit are left out. Default: trials find out.",
    ),
    (
        "cluster",
        None,
        "auto, or HOST:PORT of the head: the nodes of a Ray cluster that this machine belongs to "
        "run the trials. Default: this machine alone.",
    ),
):
    flags.DEFINE_string(_name, _default, _help, flag_values=FLAGS)
flags.DEFINE_integer(
    "max_trials",
    None,
    "Configurations that the search tries. Default: the search's.",
    1,
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "max_trainings",
    None,
    "What all trials may cost, baseline and verification included, in full trainings of the "
    "baseline. Default: no limit.",
    1.0,
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "verification_seeds",
    None,
    "Fresh seeds of the best configurations, at most, judged after 3, 5, 10, 20, 40, 80. "
    "Default: the search's.",
    0,
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "tolerance",
    None,
    "Deficits of the objective up to this do not matter. Default: the deviation between seeds, or "
    "half a point of accuracy or 2 % of a loss without learning if that is larger.",
    0.0,
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "goal",
    None,
    ["metric", "time", "memory"],
    "What decides among configurations that are as good: the training time, the memory (the "
    "smaller batch), or nothing. Default: the search's (time).",
    flag_values=FLAGS,
)
define_common_flags(FLAGS, "max_minutes", more="Verification and saving are included.")
define_common_flags(FLAGS, "run_dir", more=f"Default: {DEFAULT_RUNS}/DATASET-MODEL-SEARCH.")
define_common_flags(FLAGS, "seed", default=1)
define_common_flags(FLAGS, "checkpoint_seconds")
define_common_flags(FLAGS, "memory_seconds", more="Needs --memory_budget.")
flags.DEFINE_integer(
    "workers",
    None,
    "Worker processes; 0 runs everything in this process. Default: one per GPU, or on a CPU one "
    "per core up to 8.",
    0,
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "workers_per_gpu",
    "1",
    "Workers that share a GPU which one trial does not fill, instead of --workers; auto: as many "
    "as are measured to get most done.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "stall_minutes",
    10.0,
    "A trial without a heartbeat for this long is ended.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "max_state_gb",
    MAX_STATE_GB,
    "Gigabytes on disk for end states of trials that others go on from.",
    0.0,
    flag_values=FLAGS,
)
flags.DEFINE_boolean(
    "dry_run",
    False,
    "Print what the run is going to take (stages, trials, minutes, disk) and end: step times are "
    "measured, nothing is searched, no run folder is left.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "from",
    None,
    "A run folder of other hardware: its trials and scores are taken into --run_dir, nothing is "
    "trained, and step times are measured here. With the flags of that run.",
    flag_values=FLAGS,
)
flags.DEFINE_boolean(
    "overwrite",
    False,
    "Remove what a run has written into the run folder and start anew.",
    flag_values=FLAGS,
)
define_output_flags(FLAGS)


def request_from_flags() -> Request:
    """The request that the parsed flags make; imports no TensorFlow.

    Raises:
        InputError: A flag that cannot be used.
    """
    return make_request(
        **workload_from(FLAGS),
        batch_sizes=batch_sizes_from(FLAGS),
        search=FLAGS.search,
        objective=FLAGS.objective,
        trial_length=FLAGS.trial_length,
        for_length=FLAGS.for_length,
        max_trials=FLAGS.max_trials,
        max_minutes=FLAGS.max_minutes,
        max_trainings=FLAGS.max_trainings,
        verification_seeds=FLAGS.verification_seeds,
        tolerance=FLAGS.tolerance,
        goal=FLAGS.goal,
        seed=FLAGS.seed,
        run_dir=path_of(FLAGS.run_dir),
        overwrite=FLAGS.overwrite,
        execution=Execution(
            workers=FLAGS.workers,
            precision=FLAGS.precision,
            jit_compile=jit_compile_from(FLAGS),
            stall_minutes=FLAGS.stall_minutes,
            checkpoint_seconds=FLAGS.checkpoint_seconds,
            cluster=FLAGS.cluster,
            strategy=FLAGS.strategy,
            logical_cpus=FLAGS.logical_cpus,
            memory_budget=FLAGS.memory_budget,
            memory_seconds=FLAGS.memory_seconds,
            max_state_gb=FLAGS.max_state_gb,
            data_on=FLAGS.data_on,
            workers_per_gpu=_workers_per_gpu(FLAGS.workers_per_gpu),
        ),
    )


def _workers_per_gpu(given: str) -> WorkersPerGpu:
    """What `--workers_per_gpu` says; `Execution` knows how many there may be.

    Raises:
        InputError: It is neither a number nor auto.
    """
    if given == AUTOMATIC:
        return AUTOMATIC
    try:
        return int(given)
    except ValueError as error:
        raise InputError(
            "`workers_per_gpu` must be a whole number, or auto to have it measured. "
            f"Received: {given!r}."
        ) from error


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    _refuse_former_flags(arguments)
    parse_flags(FLAGS, arguments, usage=__doc__ or "")
    request = request_from_flags()
    source = path_of(FLAGS["from"].value)
    if source and FLAGS.overwrite:
        raise InputError("`--from` takes a new run folder: leave out --overwrite.")
    if source and FLAGS.dry_run:
        raise InputError(
            "`--dry_run` plans a search, and `--from` makes none: it measures step times for about "
            "a minute. Leave out one of them."
        )
    if FLAGS.dry_run:
        return _plan(request)
    run_dir = check_run_dir(request.run_dir)
    taken = take_trials(source, run_dir) if source else ""
    if source:
        request = dataclasses.replace(request, only_times=True)
    with (
        library_noise_to(run_dir / LIBRARY_LOG) as (out, err),
        StopSignal(
            announcer(err, STOPPING), nothing_kept=direct_writer(err, NOTHING_MEASURED)
        ) as stop,
    ):
        voices = voices_of(FLAGS, out, err)
        say(
            voices.people,
            f"Run folder: {run_dir} (what the libraries print goes to {LIBRARY_LOG} in it)",
        )
        if taken:
            say(voices.people, taken)
        shown = voices.progress
        progress = LiveProgress(shown) if shown and shown.is_terminal else Progress(shown)
        progress.on_begin = stop.keep
        try:
            with stop.starting_up():
                result = run_request(
                    request,
                    PythonObjects(callbacks=_callbacks(), callbacks_name=FLAGS.callbacks or None),
                    progress=progress,
                    stop_requested=stop,
                    started=STARTED,
                )
        except StoppedError as error:
            say(err, f"{error}{_answer_before(run_dir)}")
            _no_answer(voices, "stopped", error, run_dir, stop.exit_code)
            return stop.exit_code
        except NothingLearnedError as error:
            say(err, f"error: {error}")
            code = stop.exit_code or error.exit_code
            _no_answer(voices, "nothing_learned", error, run_dir, code)
            return code
        finally:
            progress.end()
        # The answer comes last: it is what the terminal shows when the run is over.
        say(voices.people, f"\nThe recommendation in plain Keras:\n\n{result.snippet}")
        voices.people.print(result.table)
        if chart := _chart(result):
            say(voices.people, f"{chart}\n")
        say(voices.people, result.summary())
        unfinished = result.interrupted or result.failure is not None
        say(voices.people, _next_steps(result.run_dir, request, interrupted=unfinished))
        if result.failure:
            say(err, f"error: the run ended early: {result.failure}")
        ended = getattr(result.failure, "exit_code", 1 if result.failure else 0)
        code = stop.exit_code or ended
        if voices.programs:
            _print_answer(voices, result, code)
        return code


def _refuse_former_flags(arguments: list[str]) -> None:
    """Names what has taken the place of flags that were removed.

    Raises:
        InputError: One of them is given.
    """
    for argument in arguments:
        name = argument.lstrip("-").split("=")[0]
        if argument.startswith("-") and name in ("chief", "join"):
            raise InputError(
                f"`--{name}` was removed: a Ray cluster runs the trials of all its machines, with "
                "`--cluster=auto` (docs/machines.md)."
            )


def _plan(request: Request) -> int:
    """Prints what a run is going to take."""
    with (
        library_noise_to(Path(os.devnull), kept=False) as (out, err),
        StopSignal(
            announcer(err, STOPPING), nothing_kept=direct_writer(err, NOTHING_MEASURED)
        ) as stop,
    ):
        voices = voices_of(FLAGS, out, err)
        progress = Progress(voices.progress)
        try:
            with stop.starting_up():
                plan = plan_request(
                    request,
                    PythonObjects(callbacks=_callbacks(), callbacks_name=FLAGS.callbacks or None),
                    progress=progress,
                    stop_requested=stop,
                    started=STARTED,
                )
        except StoppedError as error:
            say(err, str(error))
            return stop.exit_code
        voices.people.print(plan.table())
        for line in plan.lines():
            say(voices.people, line)
        if not request.overwrite and _has_begun(request.run_dir):
            say(
                voices.people,
                f"{request.run_dir} has trials already: the plan is that of a new run, not of what "
                "is left of this one.",
            )
        if voices.programs:
            voices.document("tune", _planned(plan, request), exit_code=0)
        return 0


def _has_begun(run_dir: Path) -> bool:
    journal = run_dir / JOURNAL
    return journal.exists() and journal.stat().st_size > 0


def _planned(plan: Plan, request: Request) -> TuneResult:
    from tfbatch.command_line.results import TuneResult  # imports SciPy

    return TuneResult(status="planned", run_dir=str(request.run_dir), files=(), plan=plan)


def _chart(result: Result) -> str:
    from tfbatch.answer.terminal_chart import terminal_chart  # imports SciPy

    return terminal_chart(result.answer)


def _print_answer(voices: Voices, result: Result, code: int) -> None:
    from tfbatch.command_line.results import TuneResult  # imports SciPy

    found = TuneResult(
        status=result.answer.status,
        message=str(result.failure or ""),
        run_dir=str(result.run_dir),
        files=tuple(_written(result.run_dir)),
        answer=result.answer,
    )
    voices.document("tune", found, exit_code=code)


def _no_answer(
    voices: Voices,
    status: Literal["nothing_learned", "stopped"],
    error: Exception,
    run_dir: Path,
    code: int,
) -> None:
    if voices.programs is None:
        return
    from tfbatch.command_line.results import TuneResult  # imports SciPy

    files = tuple(_written(run_dir))
    found = TuneResult(status=status, message=str(error), run_dir=str(run_dir), files=files)
    voices.document("tune", found, exit_code=code)


def _again(request: Request, *, interrupted: bool) -> list[str]:
    """The flags of a further session: those of this one, with twice its limits if it has ended."""
    left_out = ("overwrite", "from", "json", *(() if interrupted else _BUDGET))
    again = as_typed(FLAGS, [f for f in FLAGS if FLAGS[f].present and f not in left_out])
    if interrupted:
        return again
    again.append(f"--max_trials={2 * request.search.max_trials}")
    if request.max_minutes is not None:
        again.append(f"--max_minutes={2 * request.max_minutes:g}")
    if request.max_trainings is not None:
        again.append(f"--max_trainings={2 * request.max_trainings:g}")
    return again


def _next_steps(run_dir: Path, request: Request, *, interrupted: bool) -> str:
    again = _again(request, interrupted=interrupted)
    python = sys.executable  # the environment need not be activated
    show = shlex.join([python, "-m", "tensorboard.main", f"--logdir={run_dir / TENSORBOARD}"])
    best = [f"--config={run_dir / BEST_CONFIGURATION}"]
    if records := request.subject.records_dir:
        best.append(f"--records_dir={records}")
    further = f"\n  {shlex.join([python, '-m', 'tfbatch.tune', *again])}    "
    further += "(goes on)" if interrupted else "(searches further)"
    has_price = request.search.oracle.most_trainings() is not None
    if has_price and not interrupted and not any(FLAGS[name].present for name in _BUDGET):
        further = ""  # it has ended at a price of its own
    return (
        "\nNext:\n  "
        f"{shlex.join([python, '-m', 'tfbatch.train', *best])}    (on a CPU with the "
        "threads of a trial; --threads=all is faster but gives another result)\n  "
        f"{show}    (HPARAMS shows every trial){further}\nWritten: "
        f"{', '.join(_written(run_dir))} in {run_dir}"
    )


def _answer_before(run_dir: Path) -> str:
    """Where the answer of earlier sessions is, for a session that has added nothing to it.

    Its figures are read as text: the answer itself needs SciPy, and a stop has three seconds.
    """
    path = run_dir / RECOMMENDATION
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        size, rate = int(content["batch_size"]), float(content["learning_rate"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return (
        f" The answer of the earlier sessions stands: batch size {size}, learning rate "
        f"{rate:.4g} ({path})."
    )


def _written(run_dir: Path) -> list[str]:
    answer = (REPORT, RECOMMENDATION, BEST_CONFIGURATION, BEST_MODEL)
    names = (*answer, JOURNAL, TRIALS_CSV, SETTINGS, LIBRARY_LOG)
    return [name for name in names if (run_dir / name).exists()]


def _callbacks() -> Callable[[], list[keras.callbacks.Callback]] | None:
    if not FLAGS.callbacks:
        return None
    check_reference(FLAGS.callbacks, flag="--callbacks")
    return cast(
        "Callable[[], list[keras.callbacks.Callback]]",
        find_function(FLAGS.callbacks, flag="--callbacks"),
    )


if __name__ == "__main__":
    run_command(main)
