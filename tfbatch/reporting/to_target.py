"""Steps, examples and seconds to a target by batch size, from the ends of finished decays.

In the middle of a schedule the curves of two batch sizes may cross again; only what a training had
at the end of its decay tells what that length of training gives. Steps to a target are therefore
read from trainings of several lengths, each to its end, and not from the course of one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from tfbatch.charts import Chart, Series, Stack
from tfbatch.errors import InputError
from tfbatch.estimators.critical_batch_size import CriticalBatchSize, fit_critical_batch_size
from tfbatch.estimators.first_hit import StepsToTarget
from tfbatch.metric_direction import Direction
from tfbatch.reporting.recorded import RecordedRun, at_the_end_of_a_decay

FEWEST_LENGTHS = 2
LARGEST_MISFIT = 0.25
"""A curve that misses the steps by more, in their logarithm, is not drawn."""


@dataclasses.dataclass(frozen=True)
class Ends:
    """What a batch size came to, by the length of its trainings.

    Attributes:
        batch_size: The batch size.
        examples: Lengths, ascending.
        scores: The best score of each length at the end of a decay.
    """

    batch_size: int
    examples: tuple[int, ...]
    scores: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class ToTarget:
    """The way to a target by batch size.

    Attributes:
        target: The score that every batch size is asked for.
        steps: Updates to it, for each batch size.
        fit: The hyperbola, or None.
        reason: Why there is none; empty where there is one.
    """

    target: float
    steps: tuple[StepsToTarget, ...]
    fit: CriticalBatchSize | None
    reason: str


def ends_by_size(run: RecordedRun) -> list[Ends]:
    """What every batch size came to, by length."""
    found: dict[int, dict[int, float]] = {}
    objective = run.trials.objective
    for trial in at_the_end_of_a_decay(run.trials.of_phase("search", "baseline")):
        sizes = found.setdefault(trial.configuration.batch_size, {})
        score = trial.score or 0.0
        before = sizes.get(trial.length)
        if before is None or objective.better(score, before):
            sizes[trial.length] = score
    return [
        Ends(size, tuple(sorted(lengths)), tuple(lengths[n] for n in sorted(lengths)))
        for size, lengths in sorted(found.items())
    ]


def steps_to_target(run: RecordedRun) -> ToTarget | None:
    """Steps to the best score that all batch sizes have reached; None where it is not known.

    A batch size that was there in its shortest training may have needed fewer: no curve is fitted.
    """
    ends = [e for e in ends_by_size(run) if len(e.examples) >= FEWEST_LENGTHS]
    if len(ends) < 2:
        return None
    better = max if run.trials.objective.direction == "max" else min
    worse = min if run.trials.objective.direction == "max" else max
    target = worse(better(e.scores) for e in ends)
    steps = tuple(_steps(run, e, target) for e in ends)
    if bounds := ", ".join(str(one.batch_size) for one in steps if one.at_first):
        why = f"batch size {bounds} reached the target in the shortest training, and may be faster"
        return ToTarget(target, steps, None, f"No curve is fitted: {why}.")
    try:
        fit = fit_critical_batch_size(steps)
    except InputError as error:
        return ToTarget(target, steps, None, f"No curve is fitted: {error}")
    misfit = max(
        abs(math.log(one.steps / fit.hyperbola.steps(one.batch_size)))
        for one in steps
        if one.reached
    )
    if fit.doubts or misfit > LARGEST_MISFIT:
        why = "; ".join(fit.doubts) or f"it misses the measured steps by {math.expm1(misfit):.0%}"
        return ToTarget(target, steps, None, f"No curve is drawn, since it does not fit: {why}.")
    return ToTarget(target, steps, fit, "")


def _steps(run: RecordedRun, ends: Ends, target: float) -> StepsToTarget:
    """Interpolated in the logarithm of the length, between the ends before and after the target.

    A positive loss is interpolated in its logarithm too: by a straight line every batch size but
    the worst, which is measured at an end, would look slower than it is.
    """
    better, size = run.trials.objective.better, ends.batch_size
    before: tuple[int, float] | None = None
    for examples, score in zip(ends.examples, ends.scores, strict=True):
        if not better(target, score):
            length = float(examples)
            if before is not None and score != before[1]:
                share = _share(before[1], target, score, run.trials.objective.direction)
                length = math.exp((1 - share) * math.log(before[0]) + share * math.log(examples))
            return StepsToTarget(size, length / size, reached=True, at_first=before is None)
        before = examples, score
    return StepsToTarget(size, ends.examples[-1] / size, reached=False)


def _share(before: float, target: float, after: float, direction: Direction) -> float:
    """How far a target lies on the way from one score to the next, in [0, 1]."""
    values = [before, target, after]
    if direction == "min" and min(values) > 0:
        values = [math.log(value) for value in values]
    return (values[1] - values[0]) / (values[2] - values[0])


def to_target_sentence(run: RecordedRun) -> str:
    """What is known of the steps to a target, or why nothing is."""
    found = steps_to_target(run)
    if found is None:
        lengths = {n for e in ends_by_size(run) for n in e.examples}
        if len(lengths) == 1:
            (length,) = lengths
            return (
                "Steps to a target are not shown: every training that was judged has the same "
                f"length ({length:,} examples), and in the middle of a decay the curves of two "
                "batch sizes cannot be compared."
            )
        return (
            "Steps to a target are not shown: fewer than 2 batch sizes were trained to the end of "
            "a decay at 2 lengths."
        )
    words = (
        f"Target: {run.objective_name} {found.target:.4g}, which every batch size shown reached."
    )
    return f"{words} {found.reason or found.fit}"


def to_target_chart(run: RecordedRun) -> Stack | None:
    """Steps, examples and seconds to the target by batch size; None where they are not known.

    Seconds are those of steps measured alone, and are left out where a size was not timed so.
    """
    found = steps_to_target(run)
    if found is None:
        return None
    reached = [one for one in found.steps if one.reached]
    if not reached:
        return None
    fit = found.fit.hyperbola if found.fit else None
    charts = [
        _panel("steps", reached, [one.steps for one in reached], fit.steps if fit else None),
        _panel(
            "examples",
            reached,
            [one.steps * one.batch_size for one in reached],
            fit.examples if fit else None,
        ),
    ]
    if seconds := _seconds(run, reached):
        charts.append(_panel("seconds of steps", reached, seconds, None))
    return Stack("To the target", tuple(charts))


def _panel(
    quantity: str,
    reached: Sequence[StepsToTarget],
    values: Sequence[float],
    curve: Callable[[float], float] | None,
) -> Chart:
    sizes = tuple(float(one.batch_size) for one in reached)
    found = list(zip(reached, sizes, values, strict=True))
    known = [(size, value) for one, size, value in found if not one.at_first]
    bounds = [(size, value) for one, size, value in found if one.at_first]
    series = []
    if known:
        x, y = zip(*known, strict=True)
        series.append(Series("to the target", x, y, role="candidate"))
    if bounds:
        x, y = zip(*bounds, strict=True)
        series.append(Series("at most: the shortest training", x, y, kind="points"))
    if curve is not None:
        fitted = tuple(curve(size) for size in sizes)
        series.append(Series("predicted (fitted)", sizes, fitted, kind="dashed", role="predicted"))
    return Chart(quantity.capitalize(), "batch size", quantity, tuple(series), x_ticks=sizes)


def _seconds(run: RecordedRun, reached: Sequence[StepsToTarget]) -> tuple[float, ...]:
    """Alone on the device; nothing where a size was not timed so."""
    times = [run.step_seconds.median(one.batch_size) for one in reached]
    if not times or any(time is None for time in times):
        return ()
    return tuple(one.steps * (time or 0.0) for one, time in zip(reached, times, strict=True))
