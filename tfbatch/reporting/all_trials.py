"""Every trial: as parallel coordinates, and as a table with the reasons of failures."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tfbatch.charts import ParallelAxis, ParallelCoordinates
from tfbatch.charts.page import Cell, Column, SortableTable
from tfbatch.reporting.hyperparameters import differing, varied
from tfbatch.reporting.landscape import shade_ends
from tfbatch.reporting.recorded import RecordedRun
from tfbatch.run_folder.files import JOURNAL
from tfbatch.trial.finished_trial import FinishedTrial

LONGEST_LOG = 4_000
"""Characters of a failed trial's message that are kept: its end, where a traceback ends."""
MOST_LOGS = 50
"""Different messages that are kept; a journal has all."""
_MOST_METRICS = 4


def parallel(run: RecordedRun) -> ParallelCoordinates | None:
    """A line for each completed trial that has all that varies; None of fewer than two."""
    completed = list(run.trials.completed())
    found = varied(completed)
    trials = found.trials
    if len(trials) < 2:
        return None
    others = [
        ParallelAxis("examples", tuple(float(t.length) for t in trials), log=True),
        _phases(trials),
    ]
    axes = [one.axis() for one in found.hyperparameters]
    axes += [axis for axis in others if len(set(axis.values)) > 1]
    score = ParallelAxis(run.objective_name, tuple(t.score or 0.0 for t in trials))
    without = len(completed) - len(trials)
    title = f"{len(trials)} completed trials"
    if without:
        title += f"; {without} without a value on every axis: in the table alone"
    return ParallelCoordinates(title, (*axes, score), shade_ends(run))


def _phases(trials: Sequence[FinishedTrial]) -> ParallelAxis:
    names = tuple(sorted({t.phase for t in trials}))
    return ParallelAxis("phase", tuple(float(names.index(t.phase)) for t in trials), names)


def table(run: RecordedRun) -> SortableTable:
    """A row for each trial, in the order of their end."""
    trials = list(run.trials)
    metrics = _metrics(run)
    parts = any(not t.is_whole for t in trials)
    further = [one for one in differing(trials) if one.key.startswith(("optimizer", "model"))]
    columns = [
        *(Column("trial"), Column("phase"), Column("status"), Column(run.objective_name, 5)),
        *(Column("batch size"), Column("learning rate", 4), Column("schedule"), Column("warm-up")),
        *(Column(one.name, 4 if one.has_fractions else None) for one in further),
        *([Column("parent"), Column("until")] if parts else []),
        *(Column("examples"), Column("updates"), Column("seconds", 4), Column("of steps", 4)),
        *(Column(name, 5) for name in metrics),
        Column("seed"),
    ]
    kept, of = _logs(trials)
    return SortableTable(
        "All trials",
        tuple(columns),
        tuple(
            tuple(_cells(t, [one.values[place] for one in further], metrics, parts))
            for place, t in enumerate(trials)
        ),
        details=tuple(kept),
        details_of=tuple(of) if kept else (),
    )


def _cells(
    trial: FinishedTrial, further: Sequence[Cell], metrics: list[str], parts: bool
) -> list[Cell]:
    c = trial.configuration
    arguments = [f"{k} {v}" for k, v in c.schedule.arguments.items()]
    return [
        *(trial.trial, trial.phase, trial.status, trial.score),
        *(c.batch_size, trial.learning_rate, ", ".join([c.schedule.name, *arguments])),
        *(c.warmup_fraction, *further),
        *([trial.parent, trial.length] if parts else []),
        *(trial.examples, trial.steps, trial.seconds, trial.training_seconds),
        *(_known(trial.metrics.get(name)) for name in metrics),
        trial.seed,
    ]


def _known(value: float | None) -> Cell:
    return None if value is None or math.isnan(value) else value


def _metrics(run: RecordedRun) -> list[str]:
    """The validation metrics beside the objective."""
    names = {name for t in run.trials for name in t.metrics if name.startswith("val_")}
    return sorted(names - {run.objective_name})[:_MOST_METRICS]


def _logs(trials: list[FinishedTrial]) -> tuple[list[str], list[int | None]]:
    """The messages of failed trials, each once and its end, and which trial has which."""
    kept: list[str] = []
    of: list[int | None] = []
    for trial in trials:
        message = trial.message.strip()
        if not message or trial.status == "completed":
            of.append(None)
            continue
        if len(message) > LONGEST_LOG:
            message = f"(the last {LONGEST_LOG:,} characters)\n…{message[-LONGEST_LOG:]}"
        if message not in kept and len(kept) >= MOST_LOGS:
            message = f"More than {MOST_LOGS} different messages: see `message` in {JOURNAL}."
        if message not in kept:
            kept.append(message)
        of.append(kept.index(message))
    return kept, of
