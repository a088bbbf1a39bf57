"""The objective: read from text, checked against the model, compared the right way round."""

from __future__ import annotations

import math

import pytest

from tfbatch.errors import InputError
from tfbatch.trial.objective import Objective


@pytest.mark.parametrize(
    ("text", "name", "direction"),
    [
        ("val_loss", "val_loss", "min"),
        ("loss", "loss", "min"),
        ("val_mean_squared_error", "val_mean_squared_error", "min"),
        ("val_accuracy", "val_accuracy", "max"),
        ("val_top_5_accuracy", "val_top_5_accuracy", "max"),
        ("val_auc", "val_auc", "max"),
        ("val_recall", "val_recall", "max"),
        ("val_loss:max", "val_loss", "max"),
        ("val_score:min", "val_score", "min"),
        ("val_mae", "val_mae", "min"),
        ("val_mean_absolute_percentage_error", "val_mean_absolute_percentage_error", "min"),
        ("val_perplexity", "val_perplexity", "min"),
        ("val_acc", "val_acc", "max"),
        ("val_auc_1", "val_auc_1", "max"),
        ("val_head_precision_loss", "val_head_precision_loss", "min"),
    ],
)
def test_an_objective_is_read_from_its_text(text, name, direction):
    objective = Objective.parse(text)

    assert (objective.name, objective.direction) == (name, direction)
    assert Objective.parse(str(objective)) == objective


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "NAME, NAME:min or NAME:max"),
        (":max", "NAME, NAME:min or NAME:max"),
        ("val_loss:", "NAME, NAME:min or NAME:max"),
        ("val_loss:lower", r"NAME:max\. Received: 'val_loss:lower'"),
        ("val_loss:min:max", "NAME, NAME:min or NAME:max"),
        ("val_score", r'Give the objective as "val_score:min" or "val_score:max" \(--objective='),
        ("val_backlossless", "cannot be told from its name"),
    ],
)
def test_a_text_that_does_not_say_enough_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        Objective.parse(text)


def test_a_metric_that_the_model_lacks_is_refused_with_those_that_it_has():
    objective = Objective.parse("val_acuracy:max")
    available = ["loss", "accuracy", "val_loss", "val_accuracy"]

    message = r"no metric `val_acuracy`\. Did you mean `val_accuracy`\? Available: accuracy, loss, "
    with pytest.raises(InputError, match=message):
        objective.check(available)
    Objective.parse("val_accuracy").check(available)


def test_better_and_worst_follow_the_direction():
    low, high = Objective("val_loss", "min"), Objective("val_accuracy", "max")

    assert low.better(1.0, 2.0)
    assert not low.better(2.0, 1.0)
    assert not low.better(1.0, 1.0)
    assert high.better(2.0, 1.0)
    assert not high.better(1.0, 2.0)
    assert not high.better(1.0, 1.0)
    assert low.worst([1.0, 3.0, 2.0]) == 3.0
    assert high.worst([1.0, 3.0, 2.0]) == 1.0


def test_half_a_point_of_accuracy_does_not_matter():
    assert Objective.parse("val_accuracy").smallest_margin(0.1) == 0.005
    assert Objective.parse("val_loss").smallest_margin() == 0.0
    assert Objective.parse("val_loss").smallest_margin(2.5) == pytest.approx(0.05)
    assert Objective.parse("val_loss").smallest_margin(math.nan) == 0.0
    assert Objective.parse("val_mae").smallest_margin(2.5) == 0.0
