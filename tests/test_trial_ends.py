"""Whatever happens in a trial, the oracle is told a finite score that keeps it away from it."""

from __future__ import annotations

import math

import pytest
from search_fixtures import ACCURACY, LOSS

from tfbatch.search.loop import told_score
from tfbatch.trial.finished_trial import final_status, score_of
from tfbatch.trial.outcome import Outcome

NOT_COMPLETED = ("diverged", "oom", "error", "interrupted")


def outcome(status, **metrics):
    return Outcome(status, metrics, 100, 10, 1.0, 0.5)


def test_only_a_completed_trial_has_a_score():
    assert score_of("completed", 0.5) == 0.5
    for status in NOT_COMPLETED:
        assert score_of(status, 0.5) is None


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_is_no_score(value):
    assert score_of("completed", value) is None


def test_a_score_is_told_as_it_is():
    assert told_score(0.7, objective=LOSS, untrained=2.3, others=[0.1, 5.0]) == 0.7


@pytest.mark.parametrize(
    ("objective", "untrained", "others", "told"),
    [
        (LOSS, 2.3, [], 2.3),
        (LOSS, 2.3, [0.5, 1.9], 2.3),
        (LOSS, 2.3, [0.5, 4.1], 4.1),
        (ACCURACY, 0.1, [], 0.1),
        (ACCURACY, 0.1, [0.5, 0.9], 0.1),
        (ACCURACY, 0.1, [0.5, 0.08], 0.08),
    ],
    ids=lambda value: str(value),
)
def test_a_trial_without_a_score_is_told_as_no_better_than_untrained_or_any_other(
    objective, untrained, others, told
):
    assert told_score(None, objective=objective, untrained=untrained, others=others) == told


@pytest.mark.parametrize("untrained", [math.nan, math.inf, -math.inf])
def test_what_is_told_is_finite_where_the_untrained_metric_is_not(untrained):
    """Such as a precision or a correlation, which is 0 / 0 before any training."""

    def told(objective, others):
        return told_score(None, objective=objective, untrained=untrained, others=others)

    assert told(LOSS, [1.0, 0.5]) == 1.0
    assert told(ACCURACY, [0.5, 0.9]) == 0.5
    assert (told(LOSS, []), told(ACCURACY, [])) == (1.0, 0.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_trial_that_ends_with_no_number_has_diverged(value):
    final = final_status(outcome("completed", val_loss=value, loss=1.0), LOSS)

    assert final.status == "diverged"
    assert final.message == f"the final val_loss is {value}"
    assert final.metrics.keys() == {"val_loss", "loss"}


def test_another_metric_may_be_no_number():
    before = outcome("completed", val_loss=1.0, loss=math.nan)

    assert final_status(before, LOSS) is before


@pytest.mark.parametrize("status", NOT_COMPLETED)
def test_every_other_end_stays_as_it_is(status):
    before = outcome(status, val_loss=math.nan)

    assert final_status(before, LOSS) is before
