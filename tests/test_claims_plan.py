"""What a session is going to take, without training anything."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.court_fixtures import SimulatedCourt, hashable, make_workload, noise_of
from tfbatch.claims import (
    accumulated_batches,
    alignment,
    cards,
    extremes,
    gradient_noise,
    large_batch_methods,
    rate_exponent,
    same_budget,
    steps_to_target,
    tradeoff,
)
from tfbatch.claims._plan import RehearsedCourt, rehearse, stages_of
from tfbatch.claims._preset import PRESETS
from tfbatch.oracles import Prices
from tfbatch.search.pace import Pace


def by_the_rule(training, examples):
    """Rates are best where the rule says so."""
    size, rate = hashable(training.configuration)
    far = math.log2(rate / (0.05 * size / 32))
    speed = 4 / (1 + 0.3 * abs(far)) / 20_000
    noise = noise_of(training.seed).normal(0, 1e-3)
    return -np.exp(-speed * np.asarray(examples)) + noise


def rehearsed(*cards):
    return rehearse(RehearsedCourt(make_workload(), PRESETS["tiny"], 1), cards)


def test_a_plan_has_the_trainings_of_a_session_whose_rates_follow_the_rule():
    simulated = SimulatedCourt(by_the_rule, step=lambda size: 1e-3 * (64 + size))
    for card in (steps_to_target, tradeoff):
        list(card.collect(simulated))
    found = rehearsed(steps_to_target, tradeoff)

    assert {t.name for one in found for t in one.trainings} == set(simulated.trained)
    assert sum(len(one.trainings) for one in found) == len(simulated.trained)  # each once


def test_a_card_that_measures_is_counted_for_every_seed():
    found = {one.card: one for one in rehearsed(alignment, gradient_noise, accumulated_batches)}

    assert sum(m.count for m in found["X5"].measured) == 10
    assert found["M3"].measured[-1].examples == 2 * 20_000
    assert found["X2"].measured[0].seconds == 30.0


def test_every_card_can_be_rehearsed_and_those_that_train_do():
    found = {one.card: one for one in rehearsed(*cards())}

    assert list(found) == [card.CARD for card in cards()]
    idle = [one.card for one in found.values() if not (one.trainings or one.measured)]
    # They read what others trained, need a builder that takes `normalization`, or are on paper.
    assert set(idle) == {"X12", "X16", "X11", "X7T"}
    for card in (same_budget, rate_exponent, large_batch_methods, extremes):
        assert found[card.CARD].trainings


def test_minutes_are_those_of_the_trainings_beside_each_other_and_of_what_is_measured_alone():
    prices = Prices({32: 0.01, 512: 0.05}, start_seconds=0, evaluation_seconds=0, epoch_examples=0)
    found = rehearsed(steps_to_target, gradient_noise)
    three, five = stages_of(found, Pace(prices, 1024), 32, 20_000, workers=2)

    seconds = [prices.cost(t.configuration.batch_size, t.examples) for t in found[0].trainings]
    assert three.seconds == pytest.approx(sum(seconds) / 2 + 30.0)
    assert three.trials == len(seconds)
    assert three.trainings == pytest.approx(sum(seconds) / (625 * 0.01))
    assert 0 < sum(m.seconds for m in rehearsed(alignment)[0].measured) - 30 < 20  # alone, once
    # One pass at each of four states; draws of 2, 8, 32, 128 and 512, 256 or 64 of the first two.
    looked = 4 * 1024 + (512 + 3 * 128) + (1024 + 3 * 512) + 4 * (32 * 32 + 8 * 128 + 8 * 512)
    each = gradient_noise._SECONDS + (1250 + looked / 32) * 0.01  # measured in both workers
    assert five.seconds == pytest.approx(10 * each / 2)
