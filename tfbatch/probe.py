"""Measures memory, step time, input, gradient noise and curvature before any search.

usage: tfbatch probe [--dataset=cifar10] [--model=resnet] [--skip=curvature] ...

Runs every instrument of tfbatch/instruments in turn, prints a table for each and what follows, and
writes probe.json and probe.html (interactive plots, no network needed) into the run folder, the
first after every instrument: Ctrl-C or SIGTERM costs the running instrument alone. With no flags
it uses scikit-learn's embedded digits. Predictions are labeled as such; `tune` verifies them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from rich.console import Console
from rich.table import Table

from tfbatch.command_line.common_flags import define_common_flags
from tfbatch.command_line.machine_output import Voices, define_output_flags, voices_of
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
    as_typed,
    batch_sizes_from,
    define_workload_flags,
    jit_compile_from,
    workload_from,
)
from tfbatch.errors import InputError, RunFolderError, SearchError, StoppedError
from tfbatch.instruments import INSTRUMENTS
from tfbatch.python_objects import PythonObjects
from tfbatch.request.execution import Execution
from tfbatch.request.model_and_data import ModelAndData, resolve_model_and_data
from tfbatch.request.request import DEFAULT_RUNS
from tfbatch.request.search_config import batch_sizes_of, check_batch_sizes
from tfbatch.run_folder.durable import write_whole
from tfbatch.schema import validate
from tfbatch.search.progress import LiveProgress, Progress

if TYPE_CHECKING:
    from tfbatch.bench import Bench
    from tfbatch.instruments.run_all import ProbeReport, Section  # imports TensorFlow

FLAGS = flags.FlagValues()
LOG = "libraries.log"
STOPPING = "Stopping: what the instruments have measured is kept."
_POLL_SECONDS = 0.1
_LAST_SECONDS = 7.0
"""The time from a signal to the end, where something cannot be interrupted."""
_MOST_ROWS = 12
_OWN = ("run_dir", "skip", "max_minutes", "memory_seconds", "batch_sizes", "logical_cpus")
_OF_OUTPUT = ("json", "quiet")


define_workload_flags(
    FLAGS,
    batch_sizes="Batch sizes of interest. Default: powers of two from 8 to 1024, at most an eighth "
    "of the training split; on a GPU as far as memory and data reach.",
)
flags.DEFINE_list(
    "skip", [], f"Instruments to leave out: {', '.join(INSTRUMENTS.names())}.", flag_values=FLAGS
)
define_common_flags(
    FLAGS,
    "max_minutes",
    more="Shared by the instruments; start-up and the search for the largest batch are not "
    "included. Default: derived from the model's first steps, at most 3.",
)
define_common_flags(FLAGS, "memory_seconds")
define_common_flags(FLAGS, "run_dir", more=f"Default: {DEFAULT_RUNS}/DATASET-MODEL-probe.")
define_output_flags(FLAGS)


def subject_from_flags() -> ModelAndData:
    """Model and data that the parsed flags name; imports no TensorFlow.

    Raises:
        InputError: A flag that cannot be used.
    """
    if FLAGS.max_minutes is not None and not 0 < FLAGS.max_minutes < float("inf"):
        raise InputError(f"`max_minutes` must be > 0. Received: {FLAGS.max_minutes}.")
    sizes = batch_sizes_from(FLAGS)
    if sizes is not None:
        check_batch_sizes(sizes)
    return resolve_model_and_data(apart=True, **workload_from(FLAGS))


def execution_from_flags() -> Execution:
    """How the process runs that the parsed flags ask for.

    Raises:
        InputError: A flag that cannot be used.
    """
    return Execution(
        workers=None if FLAGS.strategy else 1,
        precision=FLAGS.precision,
        jit_compile=jit_compile_from(FLAGS),
        strategy=FLAGS.strategy,
        logical_cpus=FLAGS.logical_cpus,
        data_on=FLAGS.data_on,
        memory_seconds=FLAGS.memory_seconds,
    )


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    parse_flags(FLAGS, arguments, usage=__doc__ or "")
    names = _instruments()
    execution, subject = execution_from_flags(), subject_from_flags()
    run_dir = _run_dir(subject)
    with (
        library_noise_to(run_dir / LOG) as (out, err),
        StopSignal(announcer(err, STOPPING)) as stop,
    ):
        voices = voices_of(FLAGS, out, err)
        report = _Report(subject, run_dir, voices.people)
        shown = voices.progress
        progress = LiveProgress(shown) if shown and shown.is_terminal else Progress(shown)
        with _deadline(stop, report, err):
            try:
                report.add(_probe(subject, execution, names, progress, stop, report.add))
            except (StoppedError, KeyboardInterrupt):
                if not stop():
                    raise
            finally:
                progress.end()
            report.conclude()
        if stop():
            say(err, report.stopped())
        elif not report.measured:
            raise SearchError("No instrument has measured anything: see above.")
        report.tell(voices, stop.exit_code)
        if report.unwritten:
            raise RunFolderError(report.unwritten)
        return stop.exit_code


def _probe(
    subject: ModelAndData,
    execution: Execution,
    names: list[str],
    progress: Progress,
    stop: StopSignal,
    finished: Callable[[ProbeReport], None],
) -> ProbeReport:
    from tfbatch.instruments.open_bench import open_subject
    from tfbatch.instruments.run_all import run_instruments

    with open_subject(subject, PythonObjects(), execution, progress, stop_requested=stop) as bench:
        return run_instruments(
            bench,
            names=names,
            batch_sizes=_sizes_of_interest(subject, bench),
            say=progress.say,
            finished=finished,
            seconds=None if FLAGS.max_minutes is None else 60 * FLAGS.max_minutes,
            stop_requested=stop,
        )


class _Report:
    """What is printed and written: each instrument's part as soon as it has ended.

    Args:
        subject: Model and data.
        folder: The run folder.
        out: The terminal.

    Attributes:
        unwritten: Why something is not on disk; empty where everything is.
    """

    def __init__(self, subject: ModelAndData, folder: Path, out: Console):
        self._subject, self._folder, self._out = subject, folder, out
        self._probed: ProbeReport | None = None
        self._shown = 0
        self.unwritten = ""

    @property
    def measured(self) -> int:
        """Number of instruments with a result."""
        sections = self._probed.sections if self._probed else ()
        return sum(section.reading is not None for section in sections)

    def add(self, probed: ProbeReport) -> None:
        """Prints what is new, and writes probe.json as a whole."""
        new = probed.sections[self._shown :]
        self._probed, self._shown = probed, len(probed.sections)
        for section in new:
            _show_section(self._out, section)
        if new:
            self._write("probe.json", lambda: _json(self._subject, probed))
            self._log("\n".join(section.trace for section in new if section.trace))

    def conclude(self) -> None:
        """Prints the overall conclusion, and writes the page."""
        probed = self._probed
        if probed is None or not probed.sections:
            return
        if made := probed.prediction:
            say(self._out, "\nPredicted from noise scale and step times")
            _show_table(self._out, made)
            say(self._out, made.conclusion())
        say(self._out, "\n" + " ".join(_conclusion(probed)))
        self._write("probe.html", lambda: _page(self._subject, probed))
        if not self.unwritten:
            say(self._out, f"\nWritten: probe.json, probe.html, {LOG} in {self._folder}")

    def tell(self, voices: Voices, exit_code: int) -> None:
        """Prints probe.json's content for programs, where that was asked for."""
        if self._probed is None or voices.programs is None:
            return
        from tfbatch.command_line.results import ProbeResult  # imports SciPy

        content = json.loads(_json(self._subject, self._probed))
        found = validate(ProbeResult, content, where="probe.json")
        voices.document("probe", found, exit_code=exit_code)

    def stopped(self) -> str:
        """The message to a user who has ended the command."""
        if not self.measured:
            return "Stopped before anything was measured."
        return (
            f"Stopped: {self.measured} instruments had finished; their results are above and in "
            f"{self._folder / 'probe.json'}."
        )

    def _write(self, name: str, make: Callable[[], str]) -> None:
        try:
            write_whole(self._folder / name, make())
        except RunFolderError as error:  # what was measured is printed all the same
            self.unwritten = str(error)
            say(self._out, self.unwritten)
        except Exception:  # a bug in one part of the page must not cost what was printed
            self.unwritten = f"{self._folder / name} was not made: see {LOG}."
            say(self._out, self.unwritten)
            self._log(traceback.format_exc())

    def _log(self, text: str) -> None:
        if text:
            with (
                contextlib.suppress(OSError),
                (self._folder / LOG).open("a", encoding="utf-8") as f,
            ):
                f.write(text)


@contextlib.contextmanager
def _deadline(stop: StopSignal, report: _Report, err: Console) -> Iterator[None]:
    """Ends the process soon after a signal, whatever it is in the middle of.

    What was measured is printed and on disk already. Worker processes end with this one.
    """
    over = threading.Event()

    def watch() -> None:
        while not stop():
            if over.wait(_POLL_SECONDS):
                return
        if over.wait(_LAST_SECONDS):
            return
        os.write(err.file.fileno(), f"{report.stopped()}\n".encode())
        os._exit(stop.exit_code)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _sizes_of_interest(subject: ModelAndData, bench: Bench) -> list[int]:
    """The search's batch sizes and the baseline's, that the data and the replicas allow.

    Raises:
        InputError: One that was asked for cannot be used.
    """
    from tfbatch.instruments.throughput import sizes_of_interest
    from tfbatch.search.preparation import check_baseline, check_replicas

    examples = bench.data.splits["train"]
    asked = batch_sizes_from(FLAGS)
    sizes = (
        batch_sizes_of(asked, examples)
        if asked
        else sizes_of_interest(examples, on_gpu=bench.devices.kind != "CPU")
    )
    check_baseline(subject, examples)
    check_replicas([*sizes, subject.baseline.batch_size], bench.devices.replicas, bench.data.splits)
    return sorted({*sizes, subject.baseline.batch_size})


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


def _run_dir(subject: ModelAndData) -> Path:
    """The folder, made and tried.

    Raises:
        InputError: It cannot be written.
    """
    path = (path_of(FLAGS.run_dir) or Path(DEFAULT_RUNS) / f"{subject.name}-probe").resolve()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise InputError(
            f"The run folder {path} cannot be written: {error}. "
            "Choose another one with --run_dir=DIR."
        ) from error


def _show_section(out: Console, section: Section) -> None:
    say(out, f"\n{section.heading} ({section.seconds:.1f} s)")
    if section.reading is None:
        say(out, f"Failed: {section.failure}")
        return
    _show_table(out, section.reading)
    say(out, section.reading.conclusion())


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


def _conclusion(probed: ProbeReport) -> list[str]:
    return [probed.hardware(), probed.gradient(_verifying(probed))]


def _json(subject: ModelAndData, probed: ProbeReport) -> str:
    content = {
        "dataset": subject.dataset,
        "model": subject.model,
        **probed.as_json(),
        "conclusion": _conclusion(probed),
        "verify_with": _verifying(probed),
    }
    return json.dumps(content, indent=1, allow_nan=False)


def _page(subject: ModelAndData, probed: ProbeReport) -> str:
    from tfbatch.charts.page import PageSection, page

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
    title = f"{subject.data.name}, {subject.model}: what was measured before any search"
    return page(title, _conclusion(probed), sections)


def _verifying(probed: ProbeReport) -> str:
    """The search that compares what is predicted with what is around it, and what is not known."""
    from tfbatch.estimators.predicted_batch_size import sizes_to_verify  # imports SciPy

    given = [name for name in FLAGS if FLAGS[name].present and name not in (*_OWN, *_OF_OUTPUT)]
    flags_given = as_typed(FLAGS, given)
    sizes = {probed.baseline, *probed.fitting}
    if made := probed.prediction:
        also = {size for size in (probed.baseline,) if size <= made.largest}
        sizes = set(sizes_to_verify(made.batch_size, largest=made.largest, also=also))
        sizes |= set(probed.unmeasured)
    flags_given.append(f"--batch_sizes={','.join(map(str, sorted(sizes)))}")
    return shlex.join([sys.executable, "-m", "tfbatch.tune", *flags_given])


if __name__ == "__main__":
    run_command(main)
