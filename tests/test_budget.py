"""A time limit that does not suit the length of the trials is said before the first one."""

import dataclasses

import pytest

from tfbatch.errors import InputError
from tfbatch.quantities import TrainingLength
from tfbatch.search.budget import Budget

BUDGET = Budget(
    trial_seconds=10.0,
    left=610.0,
    finishing=10.0,
    at_once=2,
    max_trials=24,
    to_verify=4,
    length=TrainingLength.parse("20 epochs"),
    shortest=TrainingLength.parse("0.5 epochs"),
    max_minutes=11.0,
)


def test_nothing_is_said_where_enough_trials_fit():
    BUDGET.check()

    assert BUDGET.lines() == []
    assert BUDGET.fitting() == 24


def test_a_limit_of_few_trials_proposes_a_length_with_which_enough_fit():
    """9 trials and 4 of a round, two at a time, take 5 + 2 trials: 7 * 200 s, not 600."""
    few = dataclasses.replace(BUDGET, trial_seconds=200.0)
    few.check()

    (line,) = few.lines()
    assert few.fitting() == 1  # 200 for both, 400 for the round
    assert "about 1 of 24 trials fit" in line
    # 0.9 * 600 / 1400 of 20 epochs is 7.7; 1400 s / 0.9 and the 60 s spent are 27 minutes
    assert '--trial_length="7.7 epochs" or --max_minutes=27' in line
    proposed = dataclasses.replace(
        few, trial_seconds=200.0 * 7.7 / 20, length=TrainingLength.parse("7.7 epochs")
    )
    assert proposed.lines() == []


@pytest.mark.parametrize("to_verify", [0, 1, 4])
def test_a_round_of_verification_is_named_once_and_only_where_there_is_one(to_verify):
    short = dataclasses.replace(BUDGET, to_verify=to_verify, trial_seconds=200.0)
    (line,) = short.lines()

    assert line.count(" and one round of verification") == (to_verify > 0)


def test_a_limit_without_room_for_one_trial_is_refused():
    with pytest.raises(InputError, match=r"about 20\.0 min here.*--trial_length=") as caught:
        dataclasses.replace(BUDGET, trial_seconds=1200.0).check()
    assert "no trial is in its journal" in str(caught.value)


def test_a_prediction_just_above_the_limit_is_no_reason_to_refuse():
    dataclasses.replace(BUDGET, trial_seconds=700.0).check()


def test_no_length_is_proposed_that_a_batch_does_not_fit_in():
    long = dataclasses.replace(BUDGET, trial_seconds=8000.0)

    assert long.advice().startswith("give --max_minutes=")


def test_examples_are_proposed_as_examples():
    length = TrainingLength.parse("200_000 examples")
    shortest = TrainingLength.parse("1024 examples")
    few = dataclasses.replace(BUDGET, trial_seconds=200.0, length=length, shortest=shortest)

    assert '--trial_length="77000 examples"' in few.advice()


def test_no_time_left_proposes_more_minutes():
    over = dataclasses.replace(BUDGET, left=-5.0)

    with pytest.raises(InputError, match="only 0 s are left"):
        over.check()
    assert over.advice().startswith("give --max_minutes=")


def test_fewer_trials_are_planned_where_enough_do_not_fit():
    """One beside the baseline and two rounds of two take 3 * 6000 s, not the 540 that there are."""
    long = dataclasses.replace(BUDGET, trial_seconds=6000.0)

    assert not long.has_room
    assert long.fitting_length() == TrainingLength.parse("0.6 epochs")
    none = dataclasses.replace(long, trial_seconds=80_000.0)
    assert none.fitting_length() is None


def test_a_search_that_says_what_it_costs_is_fitted_by_that():
    """1 + 2.5 trainings and 4 of a round, two at a time: 1.5 * 200 + 0.25 * 200 + 400 s."""
    staged = dataclasses.replace(BUDGET, trial_seconds=200.0, needed_trainings=2.5)

    assert staged.has_room == (750.0 <= 600.0)
    # the baseline and two side by side take 400 s, half a one 50, the round 400
    assert staged.fitting_length() == TrainingLength.parse("12 epochs")
    assert "needs 2.5 of them does not fit" in staged.lines()[0]
    assert dataclasses.replace(staged, trial_seconds=100.0).has_room
