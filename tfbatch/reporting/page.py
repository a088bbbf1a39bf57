"""The report as one page: the answer, the picture, the evidence, the checks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tfbatch.charts import Picture
from tfbatch.charts.page import Page, PageSection
from tfbatch.errors import InputError
from tfbatch.reporting.all_trials import parallel, table
from tfbatch.reporting.by_batch_size import by_batch_size, notes
from tfbatch.reporting.finalists import forest, reference_of, scores_by_round
from tfbatch.reporting.headline import answer_section, overview, two_sentences
from tfbatch.reporting.importance import importance_chart, importance_of, importance_sentence
from tfbatch.reporting.landscape import landscape, slope_note
from tfbatch.reporting.learning_curves import MOST_CURVES, learning_curves
from tfbatch.reporting.recorded import RecordedRun, read_recorded, told_apart
from tfbatch.reporting.to_target import to_target_chart, to_target_sentence
from tfbatch.run_folder.durable import write_whole
from tfbatch.run_folder.files import REPORT
from tfbatch.trial.finished_trial import BASELINE


def write_report(run_dir: Path) -> Path:
    """Writes report.html of a run folder into it, from what is in it now.

    Returns:
        Its path.

    Raises:
        InputError: It is no run folder.
        RunFolderError: A file in it is damaged, or the page cannot be written.
    """
    path = run_dir / REPORT
    write_whole(path, report_page([read_recorded(run_dir)]).html())
    return path


def report_page(runs: Sequence[RecordedRun]) -> Page:
    """The page of one run or several.

    Raises:
        InputError: No run.
    """
    if not runs:
        raise InputError("`runs` must hold at least one run. Received: none.")
    if len(runs) == 1:
        (run,) = runs
        return Page(_title(run), two_sentences(run), run_sections(run, level=2))
    runs = told_apart(runs)
    sections = [overview(runs)]
    for run in runs:
        sections.append(PageSection(f"{run.name}: {_title(run)}", two_sentences(run)))
        sections += run_sections(run, level=3)
    return Page(f"{len(runs)} runs", (), sections)


def _title(run: RecordedRun) -> str:
    subject = ", ".join(part for part in (run.dataset, run.model) if part)
    return f"Which batch size for {subject or run.name}"


def run_sections(run: RecordedRun, *, level: int) -> list[PageSection]:
    """Everything that is known of a run, in the order in which it is read."""
    sections = [
        answer_section(run, level=level),
        *_picture_section(run, level),
        *_landscape_section(run, level),
        *_curves_section(run, level),
        *_finalists_section(run, level),
        *_trials_section(run, level),
        _memory_section(run, level),
        *_checks_section(run, level),
        _origin_section(run, level),
    ]
    return [section for section in sections if section is not None]


def _charts(*pictures: Picture | None) -> tuple[Picture, ...]:
    return tuple(picture for picture in pictures if picture is not None)


def _picture_section(run: RecordedRun, level: int) -> list[PageSection]:
    picture = by_batch_size(run)
    if picture is None:
        return []
    text = "What the device gives at each batch size, and under it what the training comes to."
    heading = "Batch size: speed, memory and the metric"
    return [PageSection(heading, text, charts=(picture,), notes=notes(run), level=level)]


def _landscape_section(run: RecordedRun, level: int) -> list[PageSection]:
    picture = landscape(run)
    if picture is None:
        return []
    text = "Every trial of the search; the lighter, the better."
    return [
        PageSection(
            "Learning rate and batch size",
            text,
            charts=(picture,),
            notes=(slope_note(run),),
            level=level,
        )
    ]


def _curves_section(run: RecordedRun, level: int) -> list[PageSection]:
    pictures = _charts(learning_curves(run), to_target_chart(run))
    if not run.trials:
        return []
    without = () if learning_curves(run) else ("No trial has kept a curve of two epochs.",)
    rule = (
        f"At most {MOST_CURVES} curves: the finalists' first trainings, then the best trial of "
        "each other batch size."
    )
    return [
        PageSection(
            "During the training",
            without or rule,
            charts=pictures,
            notes=(to_target_sentence(run),),
            level=level,
        )
    ]


def _finalists_section(run: RecordedRun, level: int) -> list[PageSection]:
    picture, importance = forest(run), importance_of(run)
    if not run.trials:
        return []
    reference = reference_of(run)
    text = (
        f"Each dot is one fresh seed, the same for both; the bar is the interval against "
        f"{reference.key}, which holds for all finalists and at every look: chance alone moves one "
        "of them beyond 0 in at most 2.5 % of verifications."
        if picture and reference
        else "No two configurations were compared on fresh seeds."
    )
    if picture and reference and reference.key == BASELINE:
        rounds = len(scores_by_round(run, reference))
        extra = len(reference.completed) - rounds
        if extra > 0:
            second = "one second training" if extra == 1 else f"{extra} second trainings"
            text += (
                f" The baseline has {len(reference.completed)} seeds in the bar, {rounds} of the "
                f"dots and {second}, so that the bar's middle, the difference of "
                "the two means, is not that of the dots. Where the seeds have much in common, the "
                "bar leaves the second trainings out."
            )
    return [
        PageSection(
            "Finalists, and what matters",
            text,
            charts=_charts(picture, importance_chart(importance)),
            notes=(importance_sentence(importance),),
            level=level,
        )
    ]


def _trials_section(run: RecordedRun, level: int) -> list[PageSection]:
    if not run.trials:
        return []
    failed = sum(t.score is None for t in run.trials)
    count = "1 trial" if len(run.trials) == 1 else f"{len(run.trials)} trials"
    text = f"{count}, {failed} without a score."
    return [
        PageSection(
            "All trials", text, charts=_charts(parallel(run)), table=table(run), level=level
        )
    ]


def _memory_section(run: RecordedRun, level: int) -> PageSection:
    """Where memory ended, by batch size."""
    rows = []
    for size in run.trials.batch_sizes():
        own = run.trials.of_batch_size(size)
        ends = [t for t in own if t.status == "oom"]
        if ends:
            done = len(own.completed())
            rows.append((str(size), str(len(own)), str(len(ends)), str(done), ends[0].device))
    measured = [run.memory_limit.conclusion] if run.memory_limit else []
    said = measured or (["No trial ran out of memory."] if run.trials and not rows else [])
    columns = ("batch size", "trials", "out of memory", "completed", "device")
    return PageSection("Where memory ended", said, columns=columns, rows=rows, level=level)


def _checks_section(run: RecordedRun, level: int) -> list[PageSection]:
    checks = run.checks
    if not checks:
        return []
    failed = sum(check.verdict == "FAIL" for check in checks)
    fail = "fails" if failed == 1 else "fail"
    text = f"{len(checks)} questions of a strict reviewer; {failed} of them {fail}."
    rows = [(check.name, check.verdict, check.evidence) for check in checks]
    columns = ("question", "verdict", "evidence")
    return [PageSection("Checks", text, columns=columns, rows=rows, level=level)]


def _origin_section(run: RecordedRun, level: int) -> PageSection:
    """Where the figures belong to."""
    machine = run.machine
    rows = [("run folder", run.name)]
    where = "hardware where the last command ran" if machine.nodes else "hardware"
    rows += [(where, machine.hardware)] if machine.hardware else []
    rows += machine.nodes
    rows += [("load", machine.load)] if machine.load else []
    rows += [("seed of the run", str(run.seed))] if run.seed is not None else []
    rows += [*machine.gpu_software, *machine.versions]
    return PageSection("Where it was measured", (), rows=rows, level=level)
