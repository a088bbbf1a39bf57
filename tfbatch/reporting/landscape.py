"""Learning rate against batch size: every trial, the scaling rule, and the slope that was found."""

from __future__ import annotations

from tfbatch.answer.best_learning_rates import exponent_of
from tfbatch.charts import Chart, Series
from tfbatch.configuration import Configuration
from tfbatch.reporting.by_batch_size import describe
from tfbatch.reporting.recorded import RecordedRun
from tfbatch.scaling_rules import scaled
from tfbatch.trial.finished_trial import FinishedTrial

_REACH = 2.0
"""Shades end this many times the median distance from the best, or a divergence takes them all."""


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
    brackets = run.brackets
    found = exponent_of(brackets)
    if found is None:
        return (
            "No slope is fitted: fewer than 3 batch sizes have a best learning rate with a lower "
            "and a higher one that are no better."
        )
    rule = f"; of the rules only {found.rule} agrees" if found.rule else ""
    sizes = ", ".join(str(one.batch_size) for one in brackets if one.closed)
    return (
        f"Best learning rate against batch size: {found}{rule} (1 is linear, 0.5 the root). Fitted "
        f"to the best of {sizes}, which have a lower and a higher rate that are no better."
    )


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
    slope = exponent_of(run.brackets)
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
    """What a slope is fitted to: the baseline may be the best of its size."""
    tuned = [one.trial for one in run.brackets if one.trial is not None]
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
