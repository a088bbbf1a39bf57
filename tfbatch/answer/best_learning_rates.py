"""The best learning rate of each batch size in a run, and the slope that they show."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tfbatch.estimators.learning_rate_exponent import (
    FEWEST_SIZES,
    LearningRateExponent,
    fit_learning_rate_exponent,
)
from tfbatch.trial.finished_trial import FinishedTrial
from tfbatch.trial.trials import Trials


@dataclasses.dataclass(frozen=True)
class BestLearningRate:
    """The best trial of one batch size.

    Attributes:
        batch_size: Examples in one update.
        learning_rate: Its peak learning rate.
        score: Its score.
        trial: Its name.
        tried: Number of distinct learning rates that were tried at this batch size.
        bracketed: Whether a lower and a higher one were tried, which diverged or did worse. A best
            rate that is not bracketed is a bound, not a measurement.
    """

    batch_size: int
    learning_rate: float
    score: float
    trial: str
    tried: int
    bracketed: bool


def best_learning_rates(trials: Trials) -> tuple[BestLearningRate, ...]:
    """The best completed trial of every batch size, the smallest size first.

    Only whole trainings of the run's length count, the baseline's and the search's, all on the
    seed of the search. They may differ in more than the learning rate.

    Args:
        trials: All trials of a run.
    """
    searched = trials.searched()
    found = []
    for size in searched.batch_sizes():
        here = searched.of_batch_size(size)
        best = here.best()
        if best is not None:
            found.append(_of(best, here))
    return tuple(found)


def _of(best: FinishedTrial, here: Sequence[FinishedTrial]) -> BestLearningRate:
    rates = {t.learning_rate for t in here if t.status in ("completed", "diverged")}
    return BestLearningRate(
        batch_size=best.configuration.batch_size,
        learning_rate=best.learning_rate,
        score=float(best.score or 0.0),
        trial=best.trial,
        tried=len(rates),
        bracketed=min(rates) < best.learning_rate < max(rates),
    )


def measured_exponent(best: Sequence[BestLearningRate]) -> LearningRateExponent | None:
    """The power of the batch size that the bracketed best learning rates follow.

    Args:
        best: One for each batch size.

    Returns:
        None where fewer than 3 batch sizes have a bracketed one.
    """
    bracketed = [one for one in best if one.bracketed]
    if len(bracketed) < FEWEST_SIZES:
        return None
    return fit_learning_rate_exponent(
        [one.batch_size for one in bracketed], [one.learning_rate for one in bracketed]
    )
