"""Whether the best batch size moves: error rates, and courts whose best sizes are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.court_fixtures import SimulatedCourt, hashable, judged, noise_of, word_of
from tests.test_claims_choices import COURTS, SIZES, WRONG
from tfbatch.claims import data_size
from tfbatch.claims._claim import UntestableError
from tfbatch.claims._pairs import moves_up


def share_of(word, *, before, after, deviations=(1.0, 1.0), margin=0.8, seeds=10, tuning=2):
    """How often courts give this word, whose sizes have these means before and after."""
    generator = np.random.default_rng(1)
    count = 0
    for _ in range(COURTS):
        tables = [
            dict(enumerate(generator.normal(np.array(means)[:, None], d, (len(means), n))))
            for n in (seeds, tuning)
            for means, d in zip((before, after), deviations, strict=True)
        ]
        count += word_of(moves_up(*tables).contest, margin=margin) == word
    return count / COURTS


@pytest.mark.parametrize(
    ("before", "after", "deviations"),
    [
        ((0, 0, 0, 0, 0), (0, 0, 0, 0, 0), (1, 1)),
        ((0, 1, 2, 1, 0), (0, 1, 2, 1, 0), (1, 1)),
        ((0, 0, 0, 0, 0), (0, 0, 0, 0, 0), (0.3, 3)),
        # The same best size, one curve steep and the other flat.
        ((-9, -3, 0, -3, -9), (0, 0, 0, 0, 0), (1, 1)),
        ((0, 0, 0, 0, 0), (-9, -3, 0, -3, -9), (1, 1)),
        # The hardest null: all that small sizes lose after, and before the largest is as good.
        ((9, 0, 0, 0, 9), (-9, -9, -9, -9, 0), (1, 1)),
        ((0, 0, 9, 9, 0), (-9, -9, 0, 0, 0), (1, 1)),
        # One advantage is clear, and the seeds that choose may take it for the less clear one.
        ((1.5, 0, -9, -9, -9), (0, 0, -9, -9, -9), (1, 1)),
        # It moves down.
        ((0, 0, 0, 1, 0), (0, 1, 0, 0, 0), (1, 1)),
    ],
)
def test_a_best_size_that_does_not_move_up_is_seldom_said_to(before, after, deviations):
    assert share_of("HOLDS", before=before, after=after, deviations=deviations) <= WRONG


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((0.8, 0, 0, 0, 0), (0, 0.8, 0, 0, 0)),
        ((0, 0, 0.8, -9, -9), (-9, -9, -9, 0.8, 0)),
        ((9, 9, 9, 9, 0), (-9, -9, -9, 0, 0.8)),
    ],
)
def test_a_best_size_that_moves_up_by_the_margin_is_seldom_denied(before, after):
    assert share_of("DOES NOT HOLD", before=before, after=after) <= WRONG


def test_what_is_clear_is_shown():
    steep = (4, 2, 0, -2, -4)

    assert share_of("HOLDS", before=steep, after=steep[::-1]) > 0.8
    assert share_of("DOES NOT HOLD", before=steep, after=steep) > 0.8
    assert share_of("DOES NOT HOLD", before=steep[::-1], after=steep) > 0.8


def test_a_shift_names_the_best_sizes_and_what_must_be_no_bound():
    before = {
        size: (value, value, value) for size, value in zip(SIZES, (0, 5, 4, 1, -9), strict=True)
    }
    after = {
        size: (value, value, value) for size, value in zip(SIZES, (-9, 0, 4, 5, 1), strict=True)
    }
    shift = moves_up(before, after, before, after)

    assert (shift.contest.other, shift.contest.one) == (1, 3)
    assert shift.edge(SIZES) == ()
    # Cut between 2 and 3: before 5 against 1, after 5 against 4, the less clear one.
    # Between 1 and 2: before 5 against 4, after 5 against 0.
    assert shift.contest.effects == (1.0, 1.0, 1.0)
    assert 4 not in shift.before  # a size that is far too slow may be a bound
    same = moves_up(before, before, before, before)
    assert (same.contest.other, same.contest.one, same.edge(SIZES)) == (1, 1, ())
    falling = {size: (-size, -size, -size) for size in SIZES}
    (edge,) = moves_up(falling, falling, falling, falling).edge(SIZES)
    assert "the best size is 0 in both cases" in edge


def test_a_size_that_does_not_reach_the_target_is_not_the_best_one():
    """Before, 3 and 4 do not; after, 0 does not."""
    before = {size: (value,) * 3 for size, value in ((0, 2), (1, 5), (2, 4))}
    after = {size: (value,) * 3 for size, value in ((1, 1), (2, 3), (3, 9), (4, 8))}
    shift = moves_up(before, after, before, after)

    assert (shift.contest.other, shift.contest.one) == (1, 3)
    assert shift.contest.effects == (6.0,) * 3  # cut between 2 and 3, before nothing is left
    assert shift.contest.rivals == ((8.0,) * 3,)
    with pytest.raises(UntestableError, match="too few batch sizes reach the target"):
        moves_up({0: (1, 1)}, {0: (1, 1)}, {0: (1, 1)}, {0: (1, 1)})


class Growing:
    """Steps to the target as of McCandlish et al., whose critical size grows with the data.

    A seed's noise is small. The metric does not depend on the size at its best rate.
    """

    def __init__(self, exponent, *, critical=16, spread=0.0):
        self.exponent, self.critical, self.spread = exponent, critical, spread

    def __call__(self, training, examples):
        size, rate = hashable(training.configuration)
        share = training.change.share if training.change else 1.0
        critical = self.critical * share**self.exponent
        far = abs(math.log2(rate / (0.05 * size / 32)))
        epochs = np.asarray(examples) / (20_000 * share)
        speed = 8 / (1 + 0.3 * far) / (1 + size / critical)
        noise = noise_of(training.seed, size, share).normal(0, 0.01)
        end = self.spread * abs(math.log2(size / 32))
        return -np.exp(-speed * epochs * math.exp(noise)) - end - 0.001 * abs(noise)


def held(exponent, **options):
    simulated = SimulatedCourt(
        Growing(exponent, **options),
        step=lambda size: 1e-3 * (64 + size),
        num_examples=4096,
        smallest_margin=0.005,
    )
    evidence = {one.part: one for one in data_size.collect(simulated)}
    return judged(data_size, simulated), evidence


def test_the_best_size_that_grows_with_the_data_is_told_from_one_that_does_not():
    """sqrt(64 * critical) is the best size: 32 with all data, with a quarter 8 or 32."""
    grows, evidence = held(2.0)
    stays, _ = held(0.0)

    assert grows["small-data-try-both", "growth"].word == "HOLDS", evidence["growth"]
    assert "with 100%, a slope of" in evidence["growth"].finding
    assert stays["small-data-try-both", "growth"].word == "DOES NOT HOLD"


def test_both_are_worth_a_try_where_the_metric_of_little_data_depends_on_the_size():
    flat, _ = held(0.0, critical=1e9)
    spread, evidence = held(0.0, critical=1e9, spread=0.1)

    assert spread["small-data-try-both", "both"].word == "HOLDS"
    assert "with 25% of the data" in evidence["both"].finding
    assert flat["small-data-try-both", "both"].word == "DOES NOT HOLD"


def test_too_few_examples_are_told_with_the_remedy():
    simulated = SimulatedCourt(Growing(0.0), step=lambda size: 1e-3, num_examples=40)

    for one in data_size.collect(simulated):
        assert "a quarter of 40 training examples is too few" in one.untestable
        assert "--baseline=batch_size" in one.untestable
