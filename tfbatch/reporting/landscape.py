"""Learning rate against batch size: every trial, the scaling rule, and the slope that was found."""

from __future__ import annotations

import dataclasses
import math
import statistics

from tfbatch.charts import Chart, Series
from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.estimators.learning_rate_exponent import (
    LearningRateExponent,
    fit_learning_rate_exponent,
)
from tfbatch.reporting.by_batch_size import describe, tuned_by_size
from tfbatch.reporting.recorded import RecordedRun
from tfbatch.scaling_rules import scaled
from tfbatch.trial.finished_trial import FinishedTrial
from tfbatch.trial.trials import Trials

_REACH = 2.0
"""Shades end this many times the median distance from the best, or a divergence takes them all."""
SAME_RATE_OCTAVES = 0.1
"""Learning rates that are nearer to one another, 7 %, count as one that was tried twice."""


@dataclasses.dataclass(frozen=True)
class Bracket:
    """Whether the best learning rate of a batch size lies between worse ones.

    Attributes:
        batch_size: The batch size.
        trials: Number of its trials in the search, failed ones included.
        best: Best learning rate; None where none completed.
        below: The next lower rate that was not better, or None.
        above: The next higher rate that was not better, or diverged; or None.
    """

    batch_size: int
    trials: int
    best: float | None
    below: float | None
    above: float | None

    @property
    def closed(self) -> bool:
        """Whether a lower and a higher rate bound it."""
        return self.below is not None and self.above is not None


def bracket_of(trials: Trials, batch_size: int) -> Bracket:
    """The learning rates that the search tried at a batch size, around its best.

    The best is that of the run's full length, or, where there is none, of the longest other length.
    Another rate bounds it if it diverged, or if, at an equal length, it was no better than the best
    rate or one between the two. A higher rate that was better in shorter trainings bounds nothing,
    nor does one that was stopped before the end of its decay: it hides what was learned. Rates less
    than `SAME_RATE_OCTAVES` apart are one.
    """
    searched = trials.of_phase("search", "baseline").of_batch_size(batch_size)
    tried = [t for t in searched if t.status in ("completed", "diverged")]
    full = trials.searched().of_batch_size(batch_size)
    best = full.best() or _best_of_the_longest(trials, tried)
    if best is None:
        return Bracket(batch_size, len(tried), None, None, None)
    rate = best.learning_rate
    sign = 1.0 if trials.objective.direction == "min" else -1.0
    bounds = [t for t in tried if _bounds(t, rate, tried, sign)]
    return Bracket(
        batch_size,
        len(tried),
        rate,
        max((t.learning_rate for t in bounds if t.learning_rate < rate), default=None),
        min((t.learning_rate for t in bounds if t.learning_rate > rate), default=None),
    )


def _bounds(
    trial: FinishedTrial, best_rate: float, tried: list[FinishedTrial], sign: float
) -> bool:
    """Whether a trial shows that the best rate is on the other side of its own."""
    distance = math.log2(trial.learning_rate / best_rate)
    if abs(distance) < SAME_RATE_OCTAVES:
        return False
    if trial.score is None:
        return True
    if distance > 0 and trial.length < trial.total_examples:
        return False
    nearer = [
        sign * t.score
        for t in tried
        if t.score is not None
        and _course(t) == _course(trial)
        and _between(math.log2(t.learning_rate / best_rate), distance)
    ]
    return any(score <= sign * trial.score for score in nearer)


def _between(place: float, end: float) -> bool:
    """Whether a distance from the best rate, in octaves, lies from 0 to short of the end."""
    place, end = (place, end) if end > 0 else (-place, -end)
    return -SAME_RATE_OCTAVES < place <= end - SAME_RATE_OCTAVES


def _course(trial: FinishedTrial) -> tuple[int, int, int]:
    """Scores are compared at one point of one schedule's length only."""
    return trial.total_examples, trial.length, trial.course_from


def _best_of_the_longest(trials: Trials, tried: list[FinishedTrial]) -> FinishedTrial | None:
    completed = [t for t in tried if t.score is not None]
    if not completed:
        return None
    longest = max(t.length for t in completed)
    names = {t.trial for t in completed if t.length == longest}
    return next(t for t in trials.ranked() if t.trial in names)


def exponent_of(run: RecordedRun) -> LearningRateExponent | None:
    """The slope of the best learning rates of the sizes where they are bracketed; or None."""
    brackets = [bracket_of(run.trials, size) for size in run.trials.batch_sizes()]
    closed = [b for b in brackets if b.closed and b.best and b.below and b.above]
    gaps = [math.log2(b.above / b.below) / 2 for b in closed if b.above and b.below]
    try:
        return fit_learning_rate_exponent(
            [b.batch_size for b in closed],
            [b.best for b in closed if b.best],
            resolution_octaves=statistics.median(gaps) if gaps else 0.0,
        )
    except InputError:
        return None


def landscape(run: RecordedRun) -> Chart | None:
    """Every trial of the search by batch size and learning rate; None without one."""
    series = [*_scored(run), *_others(run), *_failed(run), *_lines(run), *_best(run)]
    if not any(s.kind == "points" for s in series):
        return None
    return Chart(
        "Trials of the search",
        "batch size",
        "peak learning rate",
        tuple(series),
        x_ticks=tuple(map(float, run.trials.batch_sizes())),
        shade_label=run.objective_name,
        shade_ends=shade_ends(run),
    )


def slope_note(run: RecordedRun) -> str:
    """What the best learning rates say of the scaling rule."""
    found = exponent_of(run)
    if found is None:
        return (
            "No slope is fitted: fewer than 3 batch sizes have a best learning rate with a lower "
            "and a higher one that are no better."
        )
    rule = f"; of the rules only {found.rule} agrees" if found.rule else ""
    return f"Best learning rate against batch size: {found}{rule} (1 is linear, 0.5 the root)."


def _searched(run: RecordedRun) -> list[FinishedTrial]:
    return list(run.trials.of_phase("search", "baseline"))


def _scored(run: RecordedRun) -> list[Series]:
    trials = run.trials.searched().completed()
    if not trials:
        return []
    return [
        Series(
            "trials of the run's length",
            tuple(float(t.configuration.batch_size) for t in trials),
            tuple(t.learning_rate for t in trials),
            kind="points",
            shades=tuple(t.score or 0.0 for t in trials),
            about=tuple(describe(t) for t in trials),
        )
    ]


def _others(run: RecordedRun) -> list[Series]:
    """Parts, branches and trainings of another length: their scores cannot be compared."""
    known = {t.trial for t in run.trials.searched()}
    trials = [t for t in _searched(run) if t.score is not None and t.trial not in known]
    if not trials:
        return []
    return [
        Series(
            "parts and other lengths",
            tuple(float(t.configuration.batch_size) for t in trials),
            tuple(t.learning_rate for t in trials),
            kind="points",
            role="other",
            symbol="circle-open",
            about=tuple(f"{describe(t)}<br>to {t.length:,} examples" for t in trials),
        )
    ]


def _failed(run: RecordedRun) -> list[Series]:
    found = []
    for name, statuses in (
        ("diverged", ("diverged",)),
        ("out of memory or failed", ("oom", "error", "killed", "timeout")),
    ):
        trials = [t for t in _searched(run) if t.status in statuses]
        if trials:
            found.append(
                Series(
                    name,
                    tuple(float(t.configuration.batch_size) for t in trials),
                    tuple(t.learning_rate for t in trials),
                    kind="points",
                    role="failed",
                    symbol="x" if name == "diverged" else "square",
                    about=tuple(f"{describe(t)}<br>{t.status}" for t in trials),
                )
            )
    return found


def _lines(run: RecordedRun) -> list[Series]:
    """The scaling rule through the recommended configuration, and the fitted power."""
    sizes = run.trials.batch_sizes()
    chosen, found = _through(run), []
    if chosen is not None and len(sizes) > 1:
        rule = chosen.scaling_rule
        found.append(
            Series(
                f"rule {rule.name}, through {_name(run)}",
                tuple(map(float, sizes)),
                tuple(_rate_by_rule(chosen, size) for size in sizes),
                kind="dashed",
                role="other",
            )
        )
    slope = exponent_of(run)
    if slope is not None:
        power = next(curve for curve in slope.curves if curve.form == "power")
        found.append(
            Series(
                f"fitted: exponent {slope.exponent:.2g}",
                tuple(map(float, sizes)),
                tuple(power.learning_rate(size) for size in sizes),
                kind="dashed",
                role="predicted",
            )
        )
    return found


def _rate_by_rule(configuration: Configuration, size: int) -> float:
    rule = configuration.scaling_rule
    at_rule = scaled(
        rule.name,
        configuration.base_learning_rate,
        batch_size=size,
        base_batch_size=configuration.base_batch_size,
        parameters=rule.arguments,
    )
    return float(at_rule * 2.0**configuration.learning_rate_octaves)


def _through(run: RecordedRun) -> Configuration | None:
    if run.answer is not None:
        return run.answer.recommended.configuration
    best = run.trials.searched().best() or run.baseline
    return best.configuration if best else None


def _name(run: RecordedRun) -> str:
    return "the recommended one" if run.answer else "the best one"


def _best(run: RecordedRun) -> list[Series]:
    tuned = tuned_by_size(run)
    if not tuned:
        return []
    return [
        Series(
            "best of each batch size",
            tuple(float(t.configuration.batch_size) for t in tuned),
            tuple(t.learning_rate for t in tuned),
            kind="points",
            role="best",
            symbol="diamond-open",
            about=tuple(describe(t) for t in tuned),
        )
    ]


def shade_ends(run: RecordedRun) -> tuple[float, float] | None:
    """From bad (dark) to the best (light)."""
    ranked = [t.score or 0.0 for t in run.trials.searched().ranked()]
    if not ranked:
        return None
    best, middle = ranked[0], ranked[len(ranked) // 2]
    reach = _REACH * abs(middle - best) or abs(ranked[-1] - best)
    if not reach:
        return None
    worse = -reach if run.trials.objective.direction == "max" else reach
    return best + worse, best
