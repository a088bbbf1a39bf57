"""Draws the report of one or more run folders: report.html, one page that opens offline.

usage: tfbatch report RUN [RUN ...] [--page=report.html]

A run folder is what `tune` writes, which makes its own report at its end; this command makes it
again, also of a run that goes on. With several folders they stand on one page, in report.html of
the current directory. Nothing is trained, and no TensorFlow is needed. --appendix also writes the
appendix of a paper: methods, tables and citations, and the figures as PDF, SVG and CSV.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from tfbatch.command_line.machine_output import define_output_flags, json_text
from tfbatch.command_line.running import parse_flags, path_of, run_command
from tfbatch.errors import InputError
from tfbatch.run_folder.durable import write_whole
from tfbatch.run_folder.files import APPENDIX, REPORT

if TYPE_CHECKING:
    from tfbatch.command_line.results import ReportedRunResult
    from tfbatch.reporting.recorded import RecordedRun

FLAGS = flags.FlagValues()
_ELSEWHERE = "Make its folder writable, or write the page elsewhere with --page=FILE."
flags.DEFINE_string(
    "page",
    None,
    f"Where the page is written. Default: {REPORT} in the run folder; of several runs in the "
    "current directory.",
    flag_values=FLAGS,
)
flags.DEFINE_boolean(
    "appendix",
    False,
    f"Write {APPENDIX}/ into each run folder too: Markdown, LaTeX, figures. Needs Matplotlib.",
    flag_values=FLAGS,
)
define_output_flags(FLAGS)


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    named = parse_flags(FLAGS, arguments, usage=__doc__ or "", folders=len(arguments))
    if not named:
        raise InputError("At least one run folder must be named: tfbatch report RUN. See --help.")
    from tfbatch.command_line.results import ReportResult  # imports SciPy
    from tfbatch.reporting.page import report_page
    from tfbatch.reporting.recorded import read_recorded

    folders = [path_of(name) or Path(name) for name in named]
    page = _page()
    runs = [read_recorded(folder) for folder in folders]
    default = folders[0] / REPORT if len(folders) == 1 else Path(REPORT)
    output = page or default
    write_whole(output, report_page(runs).html(), otherwise=_ELSEWHERE)
    appendix: list[Path] = []
    if FLAGS.appendix:
        from tfbatch.reporting.appendix import write_appendix

        appendix = [file for run in runs for file in write_appendix(run)]
    if not FLAGS.json:
        print("\n".join(f"Written: {file}" for file in (output, *appendix)))
        return 0
    result = ReportResult(
        page=str(output),
        appendix=tuple(map(str, appendix)),
        runs=tuple(map(_result, runs)),
    )
    print(json_text("report", result), end="")
    return 0


def _page() -> Path | None:
    """The file of --page, or None.

    Raises:
        InputError: It is a folder, or in one that is not there.
    """
    page = path_of(FLAGS.page)
    if page is not None and (page.is_dir() or not page.parent.is_dir()):
        raise InputError(
            f"--page must be a file in a folder that exists. Received: {page}. Make its folder, or "
            "name another file."
        )
    return page


def _result(run: RecordedRun) -> ReportedRunResult:
    from tfbatch.command_line.results import CheckResult, ReportedRunResult
    from tfbatch.reporting.checks import checks_of
    from tfbatch.reporting.headline import two_sentences

    return ReportedRunResult(
        run_dir=str(run.path),
        sentences=tuple(two_sentences(run)),
        answer=run.answer,
        checks=tuple(
            CheckResult(name=check.name, verdict=check.verdict, evidence=check.evidence)
            for check in checks_of(run.answer, run.trials)
        ),
    )


if __name__ == "__main__":
    run_command(main)
