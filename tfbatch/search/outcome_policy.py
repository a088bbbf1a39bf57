"""What the oracle is told about an outcome: always a finite score, whatever happened."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from tfbatch.trial.objective import Objective
from tfbatch.trial.outcome import Outcome

TEACHES_NOTHING = ("killed",)
"""A process that ended for an unknown reason says nothing of its configuration."""


def score_of(outcome_status: str, value: float | None) -> float | None:
    """The objective's value of a completed trial, None for every other one."""
    if outcome_status != "completed" or value is None or not math.isfinite(value):
        return None
    return value


def told_score(
    score: float | None, *, objective: Objective, untrained: float, others: Iterable[float]
) -> float:
    """What the oracle hears for a trial.

    A diverged trial, one out of memory, one that hung and one that raised are results: they teach
    the oracle to stay away. They count as no better than the untrained model and any trial so far.
    (KerasTuner accepts an infinite score, and its Gaussian process then fails.)

    Args:
        score: The trial's score, or None.
        objective: The objective.
        untrained: Its value before any training.
        others: Scores of the completed trials so far.
    """
    if score is not None:
        return score
    return objective.worst([untrained, *others])


def final_status(outcome: Outcome, objective: Objective) -> Outcome:
    """A trial that completed with a non-finite objective has diverged."""
    if outcome.status == "completed" and not math.isfinite(
        outcome.metrics.get(objective.name, math.nan)
    ):
        reason = f"the final {objective.name} is {outcome.metrics.get(objective.name)}"
        return dataclasses.replace(outcome, status="diverged", message=reason)
    return outcome
