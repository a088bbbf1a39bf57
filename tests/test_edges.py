"""Whether the best learning rates of a search lie inside of what was searched."""

from __future__ import annotations

import pytest
from search_fixtures import ACCURACY, finished, make_config, trials_of

from tfbatch.answer.edges import Edges, edges_of
from tfbatch.configuration import Configuration
from tfbatch.optimizers import OPTIMIZERS

RATES = (0.0005, 2.0)


def rates(losses, *, batch_size=16, **more):
    """Trials of one batch size: the loss of each base learning rate."""
    found = [
        finished(
            f"search-{batch_size}-{number}",
            Configuration(batch_size=batch_size, base_learning_rate=rate, **more),
            loss=loss,
        )
        for number, (rate, loss) in enumerate(losses.items())
    ]
    return trials_of(*found)


@pytest.mark.parametrize(
    ("best", "expected"),
    [
        (0.001, Edges(low=(16,))),
        (0.0011, Edges(low=(16,))),
        (0.01, Edges()),
        (0.8, Edges()),  # 0.5 * 0.8 is 2.3 of 12 octaves away from 2
        (1.9, Edges(high=(16,))),
    ],
)
def test_the_outer_tenth_at_either_end_is_an_edge(best, expected):
    found = edges_of(rates({0.05: 3.0, best: 1.0, 0.2: 2.0}), RATES)

    assert found == expected


def test_the_offset_around_the_rule_is_part_of_the_place():
    at_end = rates({0.6: 1.0, 0.5: 2.0, 0.3: 3.0}, learning_rate_octaves=1.0)

    assert edges_of(at_end, RATES).high == (16,)
    assert edges_of(rates({0.6: 1.0, 0.5: 2.0, 0.3: 3.0}), RATES) == Edges()


def test_the_rule_moves_the_range_with_the_batch_size():
    """Four times the base batch size: the learning rate is four times the base one."""
    large = rates({0.05: 1.0, 0.1: 2.0, 0.2: 3.0}, batch_size=64, base_batch_size=16)

    assert edges_of(large, RATES) == Edges()


def test_each_batch_size_is_looked_at_by_itself():
    found = [
        *rates({0.001: 1.0, 0.01: 2.0, 0.1: 3.0}, batch_size=16),
        *rates({0.01: 1.0, 0.1: 2.0, 0.001: 3.0}, batch_size=32),
        *rates({0.01: 2.0, 0.1: 3.0, 1.9: 1.0}, batch_size=64),
    ]
    edges = edges_of(trials_of(*found), RATES)

    assert edges == Edges(low=(16,), high=(64,))
    assert edges_of(trials_of(*found, objective=ACCURACY), RATES).high == ()  # higher is better
    lines = edges.lines()
    assert lines[0].startswith("At batch size 16 the best learning rate lies at the lower end")
    assert "a higher `base_learning_rate` may do better (a search of your own, " in lines[1]
    assert Edges().lines() == []


def test_a_few_trials_say_nothing():
    assert edges_of(rates({0.001: 1.0, 0.01: 2.0}), RATES) == Edges()


def test_a_diverged_trial_is_not_the_best():
    found = rates({0.01: 1.0, 0.1: 2.0, 0.05: 3.0})
    diverged = Configuration(batch_size=16, base_learning_rate=1.9)
    failed = finished("search-x", diverged, loss=0.0, status="diverged")

    assert edges_of(found.with_one_more(failed), RATES) == Edges()


def test_one_learning_rate_has_no_edges():
    assert edges_of(rates(dict.fromkeys((0.1, 0.2, 0.3), 1.0)), (0.1, 0.1)) == Edges()


def test_the_range_holds_the_offset_around_the_rule():
    space = make_config(learning_rate_octaves={"min": -1, "max": 1}).space
    default = make_config(base_learning_rate=None).space

    assert space.learning_rate_range() == RATES
    assert default.learning_rate_range() == OPTIMIZERS.load("sgd").BASE_LEARNING_RATE
