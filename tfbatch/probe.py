"""Measures what hardware and gradient say before any search: memory, step time, input, noise, ...

usage: python -m tfbatch.probe [--dataset=cifar10] [--model=resnet] [--skip=curvature] ...

Runs every instrument of tfbatch/instruments in turn, prints a table for each and what follows, and
writes probe.json and probe.html (interactive plots, no network needed) into the output folder. With
no flags it looks at scikit-learn's embedded digits. What is predicted is called so; `tune` verifies
it.
"""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from rich.console import Console
from rich.table import Table

from tfbatch.command_line import (
    StopSignal,
    announcer,
    library_noise_to,
    parse_flags,
    path_of,
    run_command,
    say,
)
from tfbatch.common_flags import define_common_flags
from tfbatch.errors import InputError, SearchError, StoppedError
from tfbatch.estimators.predicted_batch_size import sizes_to_verify
from tfbatch.given import Given
from tfbatch.instruments import INSTRUMENTS
from tfbatch.run_folder.durable import write_whole
from tfbatch.search.execution import Execution
from tfbatch.search.progress import LiveProgress, Progress
from tfbatch.search.request import DEFAULT_RUNS, Request, make_request
from tfbatch.workload_flags import as_given, define_workload_flags, workload_from

if TYPE_CHECKING:
    from tfbatch.measuring.probing import Probed
    from tfbatch.search.workbench import Bench  # imports TensorFlow when it is opened

FLAGS = flags.FlagValues()
LOG = "libraries.log"
STOPPING = "Stopping after this instrument."
_MOST_ROWS = 12
_OWN = ("output_dir", "skip", "max_minutes", "batch_sizes", "logical_cpus")


define_workload_flags(
    FLAGS,
    batch_sizes="Batch sizes of interest. Default: powers of two from 8 to 1024, at most an eighth "
    "of the training split.",
)
flags.DEFINE_list(
    "skip", [], f"Instruments to leave out: {', '.join(INSTRUMENTS.names())}.", flag_values=FLAGS
)
define_common_flags(
    FLAGS,
    "max_minutes",
    more="The instruments share it; starting up and finding the largest batch come on top. "
    "Default: as the model's first steps suggest, at most 3.",
)
flags.DEFINE_string(
    "output_dir",
    None,
    f"Folder for what is written. Default: {DEFAULT_RUNS}/DATASET-MODEL-probe.",
    flag_values=FLAGS,
)


def request_from_flags(run_dir: Path) -> Request:
    """The request that the parsed flags make; imports no TensorFlow.

    Args:
        run_dir: A folder for what the worker needs.

    Raises:
        InputError: A flag that cannot be used.
    """
    if FLAGS.max_minutes is not None and not 0 < FLAGS.max_minutes < float("inf"):
        raise InputError(f"`max_minutes` must be > 0. Received: {FLAGS.max_minutes}.")
    return make_request(
        **workload_from(FLAGS),
        search="joint",
        objective=None,
        trial_length=None,
        max_trials=None,
        max_minutes=None,
        seed=1,
        run_dir=run_dir,
        overwrite=False,
        execution=Execution(
            workers=None if FLAGS.strategy else 1,
            precision=FLAGS.precision,
            jit_compile=FLAGS.jit_compile,
            strategy=FLAGS.strategy,
            logical_cpus=FLAGS.logical_cpus,
        ),
    )


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    parse_flags(FLAGS, arguments, usage=__doc__ or "")
    names = _instruments()
    with tempfile.TemporaryDirectory(prefix="tfbatch-") as folder:
        request = request_from_flags(Path(folder) / "run")
        output_dir = _output_dir(request)
        with (
            library_noise_to(output_dir / LOG) as (out, err),
            StopSignal(announcer(err, STOPPING)) as stop,
        ):
            progress = LiveProgress(out) if out.is_terminal else Progress(out)
            try:
                probed = _probe(request, names, progress, stop)
            except StoppedError as error:
                say(err, str(error))
                return stop.exit_code
            finally:
                progress.end()
            _show(out, probed)
            command = _verifying(probed)
            conclusion = [probed.hardware(), probed.gradient(command)]
            _write(output_dir, request, probed, conclusion, command)
            say(out, "\n" + " ".join(conclusion))
            say(out, f"\nWritten: probe.json, probe.html, {LOG} in {output_dir}")
            if not any(section.reading for section in probed.sections) and not stop():
                raise SearchError("No instrument has measured anything: see above.")
            return stop.exit_code


def _probe(request: Request, names: list[str], progress: Progress, stop: StopSignal) -> Probed:
    from tfbatch.bench import open_request
    from tfbatch.measuring.probing import run_instruments

    with open_request(request, Given(), progress) as bench:
        return run_instruments(
            bench,
            names=names,
            batch_sizes=_sizes_of_interest(bench),
            say=progress.say,
            seconds=None if FLAGS.max_minutes is None else 60 * FLAGS.max_minutes,
            stop_requested=stop,
        )


def _sizes_of_interest(bench: Bench) -> list[int]:
    """The search's batch sizes and the baseline's, that the data and the replicas allow.

    Raises:
        InputError: One that was asked for cannot be used.
    """
    from tfbatch.search.opening import check_replicas
    from tfbatch.search.space import SearchSpace

    examples, replicas = bench.data.splits["train"], bench.engine.devices.replicas
    space = SearchSpace(bench.request.search.space, num_examples=examples)
    baseline = bench.request.baseline.batch_size
    if baseline > examples:
        raise InputError(
            f"The baseline's batch size must not exceed the {examples} training examples of "
            f"{bench.request.data.name}. Received: {baseline}. "
            "Give another one with --baseline=batch_size=N."
        )
    check_replicas(bench.request, space, replicas)
    return sorted({*space.batch_sizes, baseline})


def _instruments() -> list[str]:
    """What is not left out.

    Raises:
        InputError: An unknown name, or nothing left.
    """
    skipped = {INSTRUMENTS.check(name) for name in FLAGS.skip}
    names = [name for name in INSTRUMENTS.names() if name not in skipped]
    if not names:
        raise InputError("`--skip` must leave an instrument. Received: all of them.")
    return names


def _output_dir(request: Request) -> Path:
    """The folder, made and tried.

    Raises:
        InputError: It cannot be written.
    """
    name = "-".join((request.data.name, request.model.split(":")[-1].split(".")[-1], "probe"))
    path = (path_of(FLAGS.output_dir) or Path(DEFAULT_RUNS) / name).resolve()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise InputError(
            f"The output folder {path} cannot be written: {error}. "
            "Choose another one with --output_dir=DIR."
        ) from error


def _show(out: Console, probed: Probed) -> None:
    for section in probed.sections:
        say(out, f"\n{section.heading} ({section.seconds:.1f} s)")
        if section.reading is None:
            say(out, f"Failed: {section.failure}")
            continue
        _show_table(out, section.reading)
        say(out, section.reading.conclusion())
    if probed.prediction:
        say(out, "\nPredicted from noise scale and step times")
        _show_table(out, probed.prediction)
        say(out, probed.prediction.conclusion())


def _show_table(out: Console, reading: Any) -> None:
    table = Table()
    for number, heading in enumerate(reading.columns()):
        table.add_column(heading, justify="left" if number == 0 else "right")
    rows, left_out = _short_rows(reading)
    for row in rows:
        table.add_row(*row)
    out.print(table)
    if left_out:  # no caption: that would be wrapped to the width of the table
        say(out, f"In probe.html alone: {left_out}.")


def _short_rows(reading: Any) -> tuple[list[tuple[str, ...]], str]:
    """The rows that the terminal shows, and what is left out of them; see Reading."""
    if hasattr(reading, "short_rows"):
        shown: tuple[list[tuple[str, ...]], str] = reading.short_rows(_MOST_ROWS)
        return shown
    rows = reading.rows()
    more = len(rows) - _MOST_ROWS
    return rows[:_MOST_ROWS], f"{more} rows more" if more > 0 else ""


def _write(
    folder: Path, request: Request, probed: Probed, conclusion: list[str], command: str
) -> None:
    from tfbatch.chart_page import PageSection, page

    content = {
        "dataset": request.dataset,
        "model": request.model,
        **probed.as_json(),
        "conclusion": conclusion,
        "verify_with": command,
    }
    write_whole(folder / "probe.json", json.dumps(content, indent=1, allow_nan=False))
    sections = []
    for section in probed.sections:
        found = section.reading
        text = found.conclusion() if found else f"Failed: {section.failure}"
        parts = (found.columns(), found.rows(), found.charts()) if found else ((), (), ())
        sections.append(PageSection(section.heading, text, *parts))
    if made := probed.prediction:
        heading = "Predicted from noise scale and step times"
        sections.append(
            PageSection(heading, made.conclusion(), made.columns(), made.rows(), made.charts())
        )
    title = f"{request.data.name}, {request.model}: what was measured before any search"
    write_whole(folder / "probe.html", page(title, conclusion, sections))
    traces = "\n".join(section.trace for section in probed.sections if section.trace)
    if traces:
        with (folder / LOG).open("a", encoding="utf-8") as log:
            log.write(traces)


def _verifying(probed: Probed) -> str:
    """The search that compares what is predicted to be about as fast."""
    given = [name for name in FLAGS if FLAGS[name].present and name not in _OWN]
    flags_given = as_given(FLAGS, given)
    sizes = {probed.baseline, *probed.batch_sizes}
    if made := probed.prediction:
        also = {size for size in (probed.baseline,) if size <= made.largest}
        sizes = set(sizes_to_verify(made.batch_size, largest=made.largest, also=also))
    flags_given.append(f"--batch_sizes={','.join(map(str, sorted(sizes)))}")
    return shlex.join([sys.executable, "-m", "tfbatch.tune", *flags_given])


if __name__ == "__main__":
    run_command(main)
