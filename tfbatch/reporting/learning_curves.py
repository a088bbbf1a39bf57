"""The tuned metric during the training: against examples, updates and seconds."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence

from tfbatch.charts import Chart, Role, Series
from tfbatch.exporters._trial import read_curves
from tfbatch.reporting.by_batch_size import tuned_by_size
from tfbatch.reporting.recorded import RecordedRun
from tfbatch.run_folder.files import TENSORBOARD
from tfbatch.trial.finished_trial import BASELINE, FinishedTrial

MOST_CURVES = 12
"""More lines cannot be told apart; the best of each batch size are shown first."""


def learning_curves(run: RecordedRun) -> Chart | None:
    """One line for the finalists' first trainings, and the best trial of every other batch size.

    None where no trial has a curve of two points.
    """
    found = [(trial, _points(run, trial)) for trial in shown(run)]
    lines = [(trial, points) for trial, points in found if len(points) > 1]
    if not lines:
        return None
    sizes = {t.configuration.batch_size for trial, _ in lines for t in _parts(run, trial)}
    alone = all(run.step_seconds.median(size) for size in sizes)
    series = [_line(run, trial, points, alone=alone) for trial, points in lines]
    where = "alone on the device" if alone else "as in the trials, beside others"
    return Chart(
        "Learning curves",
        "examples",
        run.objective_name,
        tuple(series),
        log_x=False,
        log_y=False,
        from_zero=False,
        other_x_labels=("updates", f"seconds of training steps, {where}"),
        y_limits=_limits(run, series),
    )


def shown(run: RecordedRun) -> list[FinishedTrial]:
    """The trials with a line: the finalists, then the best of the other batch sizes."""
    contenders = run.answer.contenders if run.answer else ()
    ordered = sorted(contenders, key=lambda c: (not run.recommends(c.key), c.key != BASELINE))
    names = [c.trials[0].trial for c in ordered]
    sizes = {c.batch_size for c in contenders}
    names += [t.trial for t in tuned_by_size(run) if t.configuration.batch_size not in sizes]
    if not names:
        names = [t.trial for t in run.trials.ranked()]
    trials = [run.trials.find(name) for name in dict.fromkeys(names)]
    return [t for t in trials if t is not None][:MOST_CURVES]


@dataclasses.dataclass(frozen=True)
class _CurvePoint:
    """A value of the tuned metric, and the trial that was in training there."""

    value: float
    examples: float
    trial: FinishedTrial


def _parts(run: RecordedRun, trial: FinishedTrial) -> list[FinishedTrial]:
    """A trial and those that it went on from, the first one first."""
    found = [trial]
    while found[0].parent and (parent := run.trials.find(found[0].parent)):
        found.insert(0, parent)
    return found


def _points(run: RecordedRun, trial: FinishedTrial) -> list[_CurvePoint]:
    """From the beginning of the training, also where the trial went on with it."""
    return [
        _CurvePoint(point.values[run.objective_name], point.values["examples"], part)
        for part in _parts(run, trial)
        for point in read_curves(run.path / TENSORBOARD, part.row)
        if run.objective_name in point.values
    ]


def _line(
    run: RecordedRun, trial: FinishedTrial, points: Sequence[_CurvePoint], *, alone: bool
) -> Series:
    size = trial.configuration.batch_size
    updates, seconds = zip(
        *(_other_units(run, point, alone=alone) for point in points), strict=True
    )
    name = f"B = {size}, rate {trial.learning_rate:.3g}, {trial.configuration.schedule.name}"
    part = _part(run, trial)
    return Series(
        f"{part}: {name}" if part else name,
        tuple(point.examples for point in points),
        tuple(point.value for point in points),
        kind="line",
        role=_ROLES.get(part),
        in_other_units=(updates, seconds),
    )


def _other_units(run: RecordedRun, point: _CurvePoint, *, alone: bool) -> tuple[float, float]:
    """Updates and seconds from the beginning: an ancestor can have another batch size."""
    *before, now = _parts(run, point.trial)
    updates, seconds = 0, 0.0
    for part in before:
        did = run.trials.own(part)
        updates += did.steps
        seconds += did.steps * _step_seconds(run, part, alone=alone)
    here = math.ceil((point.examples - now.from_examples) / now.configuration.batch_size)
    return float(updates + here), seconds + here * _step_seconds(run, now, alone=alone)


def _step_seconds(run: RecordedRun, trial: FinishedTrial, *, alone: bool) -> float:
    did = run.trials.own(trial)
    measured = did.training_seconds / did.steps if did.steps else 0.0
    return (run.step_seconds.median(trial.configuration.batch_size) or 0.0) if alone else measured


_ROLES: dict[str, Role] = {"recommended": "recommended", "baseline": "baseline"}


def _part(run: RecordedRun, trial: FinishedTrial) -> str:
    """What a trial is in the answer."""
    for one in run.answer.contenders if run.answer else ():
        if trial.trial == one.trials[0].trial:
            if run.recommends(one.key):
                return "recommended"
            return "baseline" if one.key == BASELINE else ""
    return "baseline" if trial.trial == BASELINE else ""


def _limits(run: RecordedRun, series: Sequence[Series]) -> tuple[float, float] | None:
    """Leaves out the far ends of bad beginnings: from the best to thrice the middle's distance."""
    values = [v for s in series for v in s.y if math.isfinite(v)]
    if len(values) < 2:
        return None
    best = max(values) if run.trials.objective.direction == "max" else min(values)
    reach = 3 * statistics.median(abs(v - best) for v in values)
    low, high = max(min(values), best - reach), min(max(values), best + reach)
    room = 0.06 * (high - low) or 0.05 * abs(best) or 1.0
    return low - room, high + room
