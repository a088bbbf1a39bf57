"""What the data does to the metric, against what the batch size does."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.court_fixtures import SimulatedCourt, hashable, judged, noise_of, word_of
from tests.test_claims_choices import COURTS, WRONG
from tfbatch.claims import data_against_size
from tfbatch.claims._changed_data import DataChange
from tfbatch.claims._claim import UntestableError
from tfbatch.claims.data_against_size import against, extremes


def share_of(word, *, data, sizes, margin=0.8, seeds=10, tuning=2, not_chosen=()):
    """How often courts give this word, whose levels have these means and a noise of 1 each."""
    generator = np.random.default_rng(1)
    count = 0
    for _ in range(COURTS):
        tables = [
            {
                str(name): generator.normal(mean, 1.0, n)
                for name, mean in enumerate(means)
                if not (means is data and n == tuning and name in not_chosen)
            }
            for means in (data, sizes)
            for n in (seeds, tuning)
        ]
        count += word_of(against(*tables), margin=margin) == word
    return count / COURTS


@pytest.mark.parametrize(
    ("data", "sizes"),
    [
        ((0, 0, 0, 0, 0), (0, 0, 0, 0)),
        ((0, 0, 0, 0, -3), (0, 0, 0, -3)),
        ((0, -1, -2, -3, -3), (0, -3, 0, -3)),
        ((0, 0, 0, 0, 0), (0, 0, 0, -3)),
        ((0, -1, -1, -1, -1), (0, -1)),
    ],
)
def test_data_that_matters_no_more_is_seldom_said_to(data, sizes):
    assert share_of("HOLDS", data=data, sizes=sizes) <= WRONG


@pytest.mark.parametrize(
    ("data", "sizes"), [((0, 0, 0, 0, -0.8), (0, 0, 0, 0)), ((0, -2.8, 0, 0, 0), (0, -2, -1, 0))]
)
def test_data_that_matters_more_by_the_margin_is_seldom_denied(data, sizes):
    assert share_of("DOES NOT HOLD", data=data, sizes=sizes) <= WRONG


def test_what_is_clear_is_shown_either_way():
    assert share_of("HOLDS", data=(0, 0, 0, 0, -6), sizes=(0, 0, 0, -1)) > 0.8
    assert share_of("DOES NOT HOLD", data=(0, 0, 0, 0, -1), sizes=(0, 0, 0, -6)) > 0.8


def test_a_change_whose_best_rate_is_unknown_makes_the_range_no_wider_and_is_not_forgotten():
    """The last one looks far too bad."""
    found = {
        word: share_of(word, data=(0, 0, 0, -1, -9), sizes=(0, 0, 0, -6), not_chosen=(4,))
        for word in ("HOLDS", "DOES NOT HOLD")
    }

    assert found == {"HOLDS": 0.0, "DOES NOT HOLD": 0.0}


def test_the_extremes_are_those_of_the_seeds_that_choose():
    data = {"a": (1.0, 2.0), "b": (0.0, 0.5)}
    found = against(data, {"a": (0.0,), "b": (1.0,)}, {"8": (5.0, 5.0), "2": (4.0, 3.0)}, data_of())

    assert extremes({"a": (0.0,), "b": (1.0,)}) == ("b", "a")
    assert found.effects == (-1 - 1, -1.5 - 2)
    assert found.rivals == ((-1 + 1, -1.5 + 2),)
    assert found.alternatives == ((1 - 1, 1.5 - 2),)


def data_of():
    return {"8": (1.0,), "2": (0.0,)}


def curve_of(loss_of_change, loss_of_octave):
    """The loss at the end is known; the best rate is the rule's, with raw inputs 4 octaves less."""

    def curve(training, examples):
        size, rate = hashable(training.configuration)
        change = training.change or DataChange()
        best = 0.05 * size / 32 / (16 if change.raw_inputs else 1)
        far = abs(math.log2(rate / best))
        changes = [change.label_noise > 0, change.raw_inputs, change.imbalance > 1]
        lost = loss_of_change * sum((*changes, not change.shuffled))
        lost += loss_of_octave * abs(math.log2(size / 32))
        noise = noise_of(training.seed, size, repr(change)).normal(0, 0.01)
        done = 1 - np.exp(-np.asarray(examples) / 2000)
        return -1 + done * (0.9 - lost - 0.02 * far + noise)

    return curve


class Refusing(SimulatedCourt):
    """Some changes of the data cannot be made."""

    def __init__(self, *args, refused, **options):
        super().__init__(*args, **options)
        self.refused = refused

    def train(self, trainings):
        for training in trainings:
            if training.change and self.refused(training.change):
                raise UntestableError("the targets are no classes")
        return super().train(trainings)


def test_the_card_tells_data_that_matters_from_sizes_that_do():
    data = SimulatedCourt(curve_of(0.4, 0.01))
    size = SimulatedCourt(curve_of(0.02, 0.1))

    assert judged(data_against_size, data)["data-matters-more", ""].word == "HOLDS"
    assert judged(data_against_size, size)["data-matters-more", ""].word == "DOES NOT HOLD"
    (evidence,) = data_against_size.collect(data)
    assert "between the data as it is and" in evidence.finding
    assert "batch sizes 2, 8, 32, 128: 0.4" in evidence.finding  # not the largest one
    assert "batch size 512, left out for its few updates, loses 0.0" in evidence.finding


def test_changes_that_cannot_be_made_are_named_and_too_few_are_no_test():
    some = Refusing(curve_of(0.4, 0.01), refused=lambda change: change.imbalance > 1)
    most = Refusing(curve_of(0.4, 0.01), refused=lambda change: change.shuffled)

    (evidence,) = data_against_size.collect(some)
    assert "without classes of 10 to 1: the targets are no classes" in evidence.finding
    assert evidence.verdict("difference").word == "HOLDS"
    (evidence,) = data_against_size.collect(most)
    assert "too few changes of the data can be made" in evidence.untestable
