"""What every batch size gives at the user's own learning rate: as it was tried, else predicted.

Beside the tuned metric it shows what tuning is worth: how much of a fall with the batch size is
that of a learning rate that was not moved along.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

from tfbatch.charts import Series
from tfbatch.errors import InputError
from tfbatch.estimators.learning_rate_surface import LearningRateSurface, Predicted, fit_surface
from tfbatch.reporting.recorded import RecordedRun

FEWEST_SIZES = 3
"""Of fewer batch sizes no line is drawn."""
SAME_RATE_OCTAVES = 0.5
"""Learning rates within this distance are taken for the same."""


@dataclasses.dataclass(frozen=True)
class AtOneRate:
    """The metric by batch size at the baseline's learning rate.

    Attributes:
        rate: The rate.
        tried: The score of the trial that is nearest to it, by batch size, where there are enough.
        predicted: The prediction by batch size, where a size that it reaches has no such trial.
        source: Where the lines come from, or why there is none, in words.
    """

    rate: float
    tried: dict[int, float]
    predicted: dict[int, Predicted]
    source: str


def at_the_baselines_rate(run: RecordedRun) -> AtOneRate | None:
    """From trials where enough batch sizes have one, else from a surface; None of no baseline."""
    if run.baseline is None:
        return None
    rate = run.baseline.learning_rate
    tried = _tried(run, rate)
    predicted, words = _determined(run, rate)
    if len(tried) < FEWEST_SIZES:
        few = (
            f"What the baseline's learning rate {rate:.3g} gives at other batch sizes was not tried"
        )
        return AtOneRate(rate, {}, predicted, words if predicted else f"{few}, and {words}")
    line = (
        f"The line at the baseline's learning rate {rate:.3g} joins the trials nearest to it, "
        "within half an octave, one training each, the best of those that are equally near."
    )
    if predicted.keys() <= tried.keys():
        return AtOneRate(rate, tried, {}, line)
    return AtOneRate(rate, tried, predicted, f"{line} {words}")


def _determined(run: RecordedRun, rate: float) -> tuple[dict[int, Predicted], str]:
    """The prediction and what it is; or nothing, and why it is not known."""
    try:
        surface = surface_of(run)
    except InputError as error:
        return {}, f"no surface predicts it: {error}"
    searched = run.trials.searched().of_phase("search")
    tried = {
        size: [t.learning_rate for t in searched.of_batch_size(size).completed()]
        for size in surface.batch_sizes
    }
    predicted = predicted_at(surface, tried, rate)
    if len(predicted) < FEWEST_SIZES:
        return {}, (
            f"is not predicted: fewer than {FEWEST_SIZES} batch sizes have a trial within an "
            "octave of it."
        )
    wide, differ = median_half_width(predicted), _tuned_range(run)
    if wide > most_half_width(differ):
        return {}, (
            f"the trials do not determine it: the 95 % intervals of {surface}, have a median of "
            f"±{wide:.2g}, where all tuned batch sizes differ by {differ:.2g}."
        )
    return predicted, (
        f"The dashed line is a prediction, no measurement: {surface}. It says what the baseline's "
        f"learning rate {rate:.3g} would give with the schedules of the search; the shade is its "
        "95 % interval for one training."
    )


def fixed_rate_series(found: AtOneRate | None) -> list[Series]:
    """The lines: that of trials, and the predicted one; nothing where none is known."""
    series = []
    if found is not None and found.predicted:
        series.append(
            Series(
                f"predicted at learning rate {found.rate:.3g}",
                tuple(map(float, found.predicted)),
                tuple(one.mean for one in found.predicted.values()),
                low=tuple(one.low for one in found.predicted.values()),
                high=tuple(one.high for one in found.predicted.values()),
                kind="dashed",
                role="predicted",
            )
        )
    if found is not None and found.tried:
        series.append(
            Series(
                f"at learning rate {found.rate:.3g} (trials)",
                tuple(map(float, found.tried)),
                tuple(found.tried.values()),
                kind="points and line",
                role="baseline",
                symbol="circle-open",
            )
        )
    return series


def _tried(run: RecordedRun, rate: float) -> dict[int, float]:
    """The score at each batch size of the trial that is nearest to one learning rate.

    Not the best one: among rates that differ by up to an octave that would be a tuned one again.
    """
    near = [
        (abs(math.log2(t.learning_rate / rate)), t)
        for t in run.trials.searched().ranked()
        if abs(math.log2(t.learning_rate / rate)) <= SAME_RATE_OCTAVES
    ]
    found: dict[int, float] = {}
    for _, trial in sorted(near, key=lambda pair: pair[0]):
        found.setdefault(trial.configuration.batch_size, trial.score or 0.0)
    return dict(sorted(found.items()))


def surface_of(run: RecordedRun) -> LearningRateSurface:
    """The objective of the search's trials as a function of batch size and learning rate.

    The baseline is left out: its schedule is its own, and most often a constant one.

    Raises:
        InputError: The trials do not determine it.
    """
    trials = run.trials.searched().of_phase("search").ranked()
    if not trials:
        raise InputError("No trial of the search has completed.")
    return fit_surface(
        [t.configuration.batch_size for t in trials],
        [t.learning_rate for t in trials],
        [t.score or 0.0 for t in trials],
        direction=run.trials.objective.direction,
    )


def predicted_at(
    surface: LearningRateSurface, tried: Mapping[int, Sequence[float]], rate: float
) -> dict[int, Predicted]:
    """The predicted metric by batch size; sizes without a rate within an octave are left out.

    Args:
        surface: Predicts.
        tried: The learning rates of the trials at each of its batch sizes.
        rate: The learning rate.
    """
    return {
        size: surface.predict(size, rate)
        for size in surface.batch_sizes
        if min(tried[size]) / 2 <= rate <= 2 * max(tried[size])
    }


def median_half_width(predicted: Mapping[int, Predicted]) -> float:
    """Of the intervals of all batch sizes."""
    return statistics.median(one.half_width for one in predicted.values())


def most_half_width(tuned_range: float) -> float:
    """With wider intervals no line is drawn: half of what the tuned batch sizes differ by."""
    return tuned_range / 2


def _tuned_range(run: RecordedRun) -> float:
    """By how much the best trials of the batch sizes differ."""
    searched = run.trials.searched().of_phase("search")
    best = [searched.of_batch_size(size).best() for size in searched.batch_sizes()]
    scores = [one.score or 0.0 for one in best if one is not None]
    return max(scores) - min(scores) if scores else 0.0
