"""The fastest of the configurations that are tied with the best."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tfbatch.errors import InputError
from tfbatch.estimators.recommendation import Verified, choose


def verified(key, scores, seconds):
    """Scores of the seeds 1, 2, ...; the same seconds for each."""
    numbered = dict(enumerate(scores, start=1))
    return Verified(key, numbered, dict.fromkeys(numbered, seconds))


def test_the_best_is_recommended_when_no_other_is_tied():
    choice = choose(
        [verified("slow", [0.90, 0.92, 0.91], 100), verified("fast", [0.80, 0.82, 0.81], 1)],
        direction="max",
        smallest_margin=0.01,
    )

    assert (choice.recommended, choice.best) == ("slow", "slow")
    assert [c.key for c in choice.comparisons] == ["slow", "fast"]
    assert [c.tied for c in choice.comparisons] == [True, False]
    assert choice.comparisons[1].deficit == pytest.approx(0.1)


def test_among_ties_the_fastest_is_recommended():
    choice = choose(
        [
            verified("best", [0.900, 0.910, 0.905], 100),
            verified("fast", [0.899, 0.905, 0.907], 10),
            verified("bad", [0.5, 0.5, 0.5], 1),
        ],
        direction="max",
        smallest_margin=0.01,
    )

    assert (choice.recommended, choice.best) == ("fast", "best")


@pytest.mark.parametrize(("direction", "best"), [("max", "high"), ("min", "low")])
def test_the_direction_decides_which_is_best(direction, best):
    choice = choose(
        [verified("low", [0.1, 0.11], 5), verified("high", [0.9, 0.91], 5)],
        direction=direction,
        smallest_margin=0.001,
    )

    assert choice.best == choice.recommended == best
    assert [c.deficit for c in choice.comparisons] == pytest.approx([0, 0.8])


def test_margin_is_the_typical_deviation_and_the_interval_that_of_the_differences():
    """Deviations sqrt(1/2) and sqrt(2): the lower one; differences 2 and 3: deviation sqrt(1/2)."""
    choice = choose(
        [verified("a", [1, 2], 9), verified("b", [3, 5], 1)], direction="min", smallest_margin=0.1
    )

    assert choice.noise == choice.margin == pytest.approx(math.sqrt(0.5))
    assert choice.comparisons[1].half_width == pytest.approx(12.706205 * 0.5)
    assert choice.comparisons[1].deficit == pytest.approx(2.5)
    assert choice.recommended == "a"  # within the interval of two seeds, but beyond the margin


def test_an_unstable_baseline_does_not_make_a_worse_configuration_a_tie():
    """The fast one is 7 deviations behind, shown by its own differences; baseline: sd 0.05."""
    random = np.random.default_rng(4)
    wrong = 0
    for _ in range(300):
        seeds = random.normal(0, 0.002, 3)
        choice = choose(
            [
                verified("best", 0.700 + seeds + random.normal(0, 0.001, 3), 10),
                verified("fast", 0.685 + seeds + random.normal(0, 0.001, 3), 1),
                verified("baseline", 0.690 + random.normal(0, 0.05, 3), 5),
            ],
            direction="max",
            smallest_margin=0.005,
            incumbent="baseline",
        )
        wrong += choice.recommended == "fast" and choice.best == "best"

    assert wrong == 0


def test_at_the_same_speed_the_incumbent_is_kept_and_else_the_better_mean():
    three = [
        verified("best", [0.70, 0.71], 1.02),
        verified("other", [0.70, 0.70], 1.00),
        verified("baseline", [0.69, 0.71], 1.04),
    ]

    kept = choose(three, direction="max", smallest_margin=0.05, incumbent="baseline")
    free = choose(three, direction="max", smallest_margin=0.05)

    assert (kept.recommended, free.recommended) == ("baseline", "best")


def test_a_difference_that_is_shown_is_no_tie_even_within_the_margin():
    scores = [0.9, 0.8, 0.7, 0.6]
    choice = choose(
        [
            verified("best", scores, 100),
            verified("fast", [s - 0.05 + e for s, e in zip(scores, (0, 1e-4) * 2, strict=True)], 1),
        ],
        direction="max",
        smallest_margin=0.2,
    )

    assert choice.comparisons[1].half_width < 0.001
    assert choice.recommended == "best"


def test_identical_scores_are_a_tie_though_the_interval_is_empty():
    choice = choose(
        [verified("slow", [0.5, 0.6], 2), verified("fast", [0.5, 0.6], 1)],
        direction="max",
        smallest_margin=0.0,
    )

    assert choice.recommended == "fast"


def test_a_single_seed_has_no_noise_and_ties_by_the_margin_alone():
    choice = choose(
        [verified("best", [0.90], 9), verified("near", [0.895], 2), verified("far", [0.88], 1)],
        direction="max",
        smallest_margin=0.01,
    )

    assert math.isnan(choice.noise)
    assert choice.margin == 0.01
    assert [c.half_width for c in choice.comparisons] == [0, math.inf, math.inf]
    assert choice.recommended == "near"


def test_a_single_configuration_is_recommended():
    choice = choose([verified("only", [0.5, 0.7], 1)], direction="min", smallest_margin=0.0)

    assert choice.recommended == choice.best == "only"
    assert choice.comparisons[0].mean == pytest.approx(0.6)


def test_seconds_are_the_median_so_that_one_slow_run_does_not_decide():
    steady = Verified("steady", {1: 0.5, 2: 0.5, 3: 0.5}, {1: 4, 2: 4, 3: 4})
    hiccup = Verified("hiccup", {1: 0.5, 2: 0.5, 3: 0.5}, {1: 3, 2: 3, 3: 1000})

    choice = choose([steady, hiccup], direction="max", smallest_margin=0.1)

    assert choice.recommended == "hiccup"


@pytest.mark.parametrize(
    "several",
    [
        [],
        [Verified("a", {}, {})],
        [Verified("a", {1: 0.5}, {1: 1}), Verified("b", {2: 0.5}, {2: 1})],
        [Verified("a", {1: 0.5, 2: 0.5}, {1: 1, 2: 1}), Verified("b", {1: 0.5}, {1: 1})],
    ],
    ids=["none", "no seeds", "other seeds", "fewer seeds"],
)
def test_configurations_without_common_seeds_are_refused(several):
    with pytest.raises(InputError, match="with the same seeds, at least one"):
        choose(several, direction="max", smallest_margin=0.0)


def test_seeds_are_paired_by_number_and_not_by_order():
    one = Verified("one", {1: 0.1, 2: 0.9}, {1: 1, 2: 1})
    other = Verified("other", {2: 0.9, 1: 0.1}, {1: 1, 2: 1})

    second = choose([one, other], direction="max", smallest_margin=0.0).comparisons[1]
    assert (second.deficit, second.half_width) == (0, 0)
