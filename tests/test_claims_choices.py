"""Claims about the best of several sizes, simulated: how often the court's word is wrong.

Every size has an own noise of deviation 1 in every seed, the hardest case: pairs have nothing in
common. Two tuning seeds choose, ten others judge, as in the presets. A share of 2.5 % in 600
courts has a standard error of 0.64 points.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from tests.court_fixtures import word_of
from tfbatch.claims import early_probe
from tfbatch.claims._claim import Evidence
from tfbatch.claims._pairs import contest, widest

COURTS = 600
WRONG = 0.025 + 3 * math.sqrt(0.025 * 0.975 / COURTS)
SIZES = (0, 1, 2, 3, 4)


def share(word, *, find, means, kind="difference", margin=1.0, seeds=10, tuning=2):
    """How often courts give this word, whose sizes have these means."""
    generator = np.random.default_rng(1)
    count = 0
    for _ in range(COURTS):
        table, choosing = (
            dict(enumerate(generator.normal(np.array(means)[:, None], 1.0, (len(means), n))))
            for n in (seeds, tuning)
        )
        least = 0.0 if kind == "threshold" else margin
        count += word_of(find(table, choosing), margin=least, kind=kind) == word
    return count / COURTS


def best_of(ones, plus=0.0):
    others = [size for size in SIZES if size not in ones]
    return lambda table, choosing: contest(table, choosing, ones, others, plus=plus)


WITHIN, LARGEST, FIRST, TWO = (best_of(ones) for ones in ((1, 2, 3), (4,), (0,), (1, 2)))


@pytest.mark.parametrize(
    ("find", "means", "kind"),
    [
        # No effect at all, and no effect where the only rival that is as good is easily missed.
        (WITHIN, (0, 0, 0, 0, 0), "difference"),
        (WITHIN, (-1, 0, 0, 0, 0), "difference"),
        (LARGEST, (0, 0, 0, 0, 0), "difference"),
        (LARGEST, (0, 0, 1, 0, 1), "difference"),
        (TWO, (0, 0, 0, 0, 0), "difference"),
        (widest, (0, 0, 0, 0, 0), "difference"),
        # At the threshold: a loss of 1.5 is as large as may be.
        (WITHIN, (-1, 0, 0, 0, 0), "threshold"),
        (best_of((0,), plus=1.5), (-1.5, 0, 0, 0, 0), "threshold"),
        (best_of((0,), plus=1.5), (-1.5, 0, -1, -1, -1), "threshold"),
        (best_of((0, 1), plus=1.5), (-1.5, -1.5, 0, -1, -1), "threshold"),
        (best_of((0, 1, 2, 3), plus=-1.5), (0, 0, 0, 0, -1.5), "threshold"),
    ],
)
def test_what_is_not_so_is_seldom_called_so(find, means, kind):
    assert share("HOLDS", find=find, means=means, kind=kind, margin=0.8) <= WRONG


@pytest.mark.parametrize(
    ("find", "means", "kind"),
    [
        (WITHIN, (-2, 0, 0, 0, -2), "difference"),
        (WITHIN, (0, 0, 2, 0, 0), "difference"),
        (LARGEST, (0, 0, 0, 0, 2), "difference"),
        (TWO, (0, 2, 2, 0, 0), "difference"),
        (widest, (-2, 0, 0, 0, 0), "difference"),
        (widest, (0, 0, 0, 0, 2), "difference"),
        (best_of((0,), plus=2.0), (0, 0, 0, 0, 0), "threshold"),
        (best_of((0, 1), plus=2.0), (0, 0, 0, 0, 0), "threshold"),
    ],
)
def test_twice_the_margin_is_found(find, means, kind):
    assert share("HOLDS", find=find, means=means, kind=kind) >= 0.8


@pytest.mark.parametrize(
    ("find", "means"),
    [
        (WITHIN, (0, 0, 1, 0, 0)),
        (WITHIN, (-1, 0, 0, 0, -1)),
        (LARGEST, (0, 0, 0, 0, 1)),
        (TWO, (0, 1, 0, 0, 0)),
        (widest, (0, 0, 0, 0, 1)),
    ],
)
def test_what_matters_is_seldom_called_negligible(find, means):
    """Of an effect as large as the margin, whichever size was chosen."""
    assert share("DOES NOT HOLD", find=find, means=means) <= WRONG


def test_no_difference_between_any_sizes_can_be_shown():
    """Margins of 3 deviations, so that ten seeds can tell."""
    assert share("DOES NOT HOLD", find=widest, means=(0,) * 5, margin=3.0) > 0.8


@pytest.mark.parametrize("in_common", [0.0, 0.5])
def test_equal_candidates_are_not_called_a_loss_of_the_early_choice(in_common):
    """The luckiest end of a seed is ahead of any choice; it is no reference."""

    def find(table, choosing):
        final = [table[size] for size in table]
        own = np.random.default_rng(int(1e9 * abs(final[0][0]))).normal(size=(len(final), 10))
        early = in_common * np.array(final) + math.sqrt(1 - in_common**2) * own
        return early_probe.regret(early, final, choosing, margin=1.0)

    assert share("DOES NOT HOLD", find=find, means=(0,) * 11, kind="threshold") <= WRONG


def test_the_seeds_that_judge_choose_nothing():
    """A size that only the judging seeds find best is not chosen, and neither is their worst."""
    table = {0: [0.0, 0.0], 1: [9.0, 9.0], 2: [-9.0, -9.0]}
    choosing = {0: [1.0], 1: [0.0], 2: [0.5]}
    found = contest(table, choosing, (1, 2), (0,))

    assert (found.one, found.other) == (2, 0)
    assert found.effects == (-9.0, -9.0)
    assert found.alternatives == ((9.0, 9.0),)
    assert (widest(table, choosing).one, widest(table, choosing).other) == (0, 1)


def test_the_pairs_that_are_drawn_are_those_of_the_comparison_whose_figures_are_shown():
    """As pairs of one rate around the interval of another looked."""
    clear, weak = (2.0, 2.1, 1.9, 2.0), (1.0, 1.6, 0.7, 1.3)
    evidence = Evidence(
        "c", clear, 0.5, "log ratio", "epochs", "tuned", "", rivals=(weak,), alternatives=(weak,)
    )
    verdict = evidence.verdict("difference")

    assert (verdict.word, verdict.estimate) == ("HOLDS", pytest.approx(1.15))
    assert evidence.shown_by(verdict) == weak
    assert evidence.shown_by(dataclasses.replace(verdict, estimate=math.nan)) == clear
