"""What is in use is kept unless something is shown to be better, or as good and cheaper."""

from __future__ import annotations

import dataclasses
import math
import tracemalloc

import numpy as np
import pytest

from tfbatch.errors import InputError
from tfbatch.estimators import error_budget
from tfbatch.estimators.chosen_mean import chosen_mean
from tfbatch.estimators.error_budget import AS_GOOD, BETTER, ERROR, bounds, simulated_bounds
from tfbatch.estimators.race import Race, likely_to_show
from tfbatch.estimators.recommendation import Verified, choose
from tfbatch.estimators.seed_noise import differences, seed_noise, widening

NOISE = [0.4, -1.1, 0.9, 0.3, -0.5, 0.8, -0.2, -1.0, 1.2, -0.8]
OTHER = [-0.7, 0.2, 1.0, -1.2, 0.7, -0.3, 0.5, 0.9, -0.6, -0.5]
THIRD = [1.1, 0.1, -0.9, -0.4, 0.1, -1.0, 0.6, 0.2, 0.9, -0.7]


def verified(key, scores, seconds=1.0, *, batch_size=32, again=()):
    """Scores of the rounds 1, 2, ...; the same seconds for each."""
    numbered = dict(enumerate(scores, start=1))
    return Verified(
        key,
        numbered,
        dict.fromkeys(numbered, seconds),
        batch_size=batch_size,
        again=dict(enumerate(again, start=1)),
    )


def at(mean, noise=NOISE, *, seeds=5, deviation=0.01):
    return [mean + deviation * z for z in noise[:seeds]]


def chosen(*several, **terms):
    terms = {"direction": "max", "smallest_margin": 0.005, "incumbent": "baseline"} | terms
    return choose(several, **terms)


def test_one_that_is_shown_to_be_better_replaces_the_baseline_also_where_it_is_slower():
    choice = chosen(verified("baseline", at(0.80)), verified("slow", at(0.90, OTHER), 9.0))

    best = choice.comparisons[0]
    assert (choice.recommended, choice.best, choice.decided) == ("slow", "slow", True)
    assert best.better
    assert best.gain - best.gain_half_width > 0
    assert best.gain == pytest.approx(np.mean(at(0.90, OTHER)) - np.mean(at(0.80)))


def test_a_gain_that_is_not_shown_keeps_the_baseline_and_is_named():
    choice = chosen(verified("baseline", at(0.80)), verified("other", at(0.81, OTHER)))

    assert (choice.recommended, choice.best) == ("baseline", "other")
    assert [(one.key, one.question) for one in choice.undecided] == [("other", "better")]
    assert choice.undecided[0].seeds in (20, 40, 80)


def test_the_intervals_show_what_the_flags_say():
    """Seeds in common: plain means would hide what differences of the same seeds show."""
    random = np.random.default_rng(5)
    shown = 0
    for _ in range(200):
        common, noise = random.normal(size=5), 0.4 * random.normal(size=(3, 5))
        choice = chosen(
            verified("baseline", common + noise[0], again=random.normal(size=5)),
            verified("a", 0.9 + common + noise[1]),
            verified("b", common + noise[2]),
        )
        for one in choice.comparisons:
            assert one.better == (one.gain - one.gain_half_width > 0)
        shown += any(one.better for one in choice.comparisons)

    assert 40 < shown < 200


def test_rounds_without_a_look_change_no_interval():
    """Whatever a bound of 3 seeds is used for with the scores of 4, it does not hold."""
    several = ("baseline", NOISE), ("other", OTHER), ("third", THIRD)
    three, four = (
        chosen(*[verified(key, at(0.8, noise, seeds=seeds)) for key, noise in several])
        for seeds in (3, 4)
    )
    shown = [
        {c.key: (c.deficit, c.half_width, c.gain, c.gain_half_width, c.looked_at) for c in found}
        for found in (three.comparisons, four.comparisons)
    ]

    assert shown[0] == shown[1]
    assert {c.seeds for c in four.comparisons} == {4}


def test_a_round_that_the_baseline_has_not_ended_shows_nothing_new():
    """A stopped round: the flag was of 5 seeds, and the interval beside it that of 3."""
    baseline, again = [0.790, 0.805, 0.800, 0.795], [0.803, 0.797, 0.806, 0.794]
    other = [0.799, 0.801, 0.797, 0.806]
    shown = []
    for gain in (0.010, 0.012, 0.014, 0.016, 0.018):
        better = [gain + score for score in (0.803, 0.794, 0.806, 0.797, 0.800)]
        half, before = (
            chosen(
                verified("baseline", baseline, again=again),
                verified("A", better[:seeds]),
                verified("B", other),
            )
            for seeds in (5, 4)
        )
        for one in half.comparisons:
            assert one.better == (one.gain - one.gain_half_width > 0)
            assert one.looked_at == 3
        assert half.recommended == before.recommended
        whole = [*baseline, 0.802], [*again, 0.800]
        then = chosen(verified("baseline", whole[0], again=whole[1]), verified("A", better))
        shown.append((half.recommended, then.recommended))

    assert ("baseline", "A") in shown, "and what the whole round shows is told when it is there"


def test_nobody_is_as_good_as_a_leader_that_has_not_ended_the_round():
    """The look at 3 seeds, and the cheap one alone has the third beside the baseline."""
    baseline, lead, cheap = (
        at(mean, noise, seeds=3, deviation=1e-4)
        for mean, noise in ((0.80, NOISE), (0.90, THIRD), (0.8999, OTHER))
    )
    for seeds, tied in ((2, []), (3, ["cheap"])):
        choice = chosen(
            verified("baseline", baseline, 3.0, again=baseline[::-1]),
            verified("lead", lead[:seeds], 2.0),
            verified("cheap", cheap, 1.0),
        )
        lead_is_better = next(one.better for one in choice.comparisons if one.key == "lead")
        assert lead_is_better, "at the look of 2 seeds"
        assert [one.key for one in choice.comparisons if one.tied] == tied


def test_one_that_left_keeps_the_interval_of_its_last_look():
    bad = verified("bad", at(0.50, THIRD, seeds=3))
    intervals = []
    for seeds in (3, 5):
        rows = (
            verified("baseline", at(0.9, seeds=seeds)),
            verified("o", at(0.9, OTHER, seeds=seeds)),
        )
        left = next(c for c in chosen(*rows, bad).comparisons if c.key == "bad")
        intervals.append((left.gain, left.gain_half_width, left.looked_at))

    assert intervals[0] == intervals[1]
    assert intervals[1][2] == 3


def test_what_is_decided_leaves_no_question():
    random = np.random.default_rng(1)
    decided = 0
    for _ in range(80):
        scores = random.normal([0, 0, 1.5], 1, (5, 3)).T
        choice = chosen(
            verified("baseline", scores[0], again=random.normal(size=5)),
            verified("fast", scores[1], 0.5),
            verified("slow", scores[2], 2.0),
            tolerance=2.5,
        )
        decided += choice.decided
        assert not (choice.decided and choice.undecided)
        assert all(one.key not in ("baseline", choice.recommended) for one in choice.undecided)

    assert decided > 10


def test_second_trainings_of_the_baseline_are_no_rounds():
    """With 5 of them the next look is that at 10 seeds, though the baseline has 10 scores."""
    choice = chosen(
        verified("baseline", at(0.80), again=at(0.80, OTHER[5:])),
        verified("other", at(0.80, OTHER), 0.5),
        tolerance=0.012,
    )

    assert {(one.key, one.seeds) for one in choice.undecided} == {("other", 10)}


def test_how_far_a_faster_one_lies_behind_at_most_is_a_tolerance_that_takes_it():
    several = verified("baseline", at(0.81)), verified("fast", at(0.80, OTHER), 0.5)
    one = next(one for one in chosen(*several).undecided if one.question == "as good")

    assert chosen(*several, tolerance=1.001 * one.at_most).recommended == "fast"
    assert chosen(*several, tolerance=0.999 * one.at_most).recommended == "baseline"


@pytest.mark.parametrize(
    ("gap", "error", "share", "bound", "probability"),
    [
        (0.0, 1.0, 0.5, 0.0, 0.5),
        (1.0, 1.0, 0.0, 2.0, 0.8413),  # of so many seeds then that their mean is the truth
        (0.0, 1.0, 0.25, 2.0, 0.1241),  # normal_cdf(-1 / sqrt(0.75))
        (0.1, 0.0, 0.5, 3.0, 1.0),  # without any noise
        (-0.1, 0.0, 0.5, 3.0, 0.0),
        (9.0, 1.0, 0.5, math.inf, 0.0),  # a look that shows nothing
        (2.5, 1.0, 1.0, 2.0, 1.0),  # a look at the seeds of now
        (math.nan, 1.0, 0.5, 2.0, 0.0),
    ],
)
def test_the_predictive_power_of_more_seeds(gap, error, share, bound, probability):
    found = likely_to_show(*(np.array([[x]]) for x in (gap, error, share)), np.array([[bound]]))

    assert found == pytest.approx(np.array([[probability]]), abs=1e-4)


def test_where_no_look_is_as_likely_as_not_to_decide_the_last_is_named_with_its_probability():
    """A deficit at the edge of the band after many seeds: nobody can say when it is decided."""
    scores = at(0.80, seeds=10)
    faster = verified("faster", [score - 0.01 for score in at(0.80, OTHER, seeds=10)], 0.5)
    choice = chosen(verified("baseline", scores), faster, tolerance=0.01)
    (one,) = choice.undecided

    assert (one.key, one.question, one.seeds) == ("faster", "as good", 80)
    assert 0 < one.probability < 0.5
    after_three = chosen(
        verified("baseline", at(0.80, seeds=3)), verified("faster", at(0.80, OTHER, seeds=3), 0.5)
    )
    assert after_three.undecided[0].seeds < 80
    assert after_three.undecided[0].probability >= 0.5


def test_a_slow_one_that_may_be_better_does_not_keep_a_fast_one_from_being_as_good():
    """As good as the baseline, which it would replace: not as whatever may be better than that."""
    choice = chosen(
        verified("baseline", at(0.80, seeds=10)),
        verified("fast", at(0.80, OTHER, seeds=10), 0.5),
        verified("slow", at(0.805, THIRD, seeds=10), 2.0),
        tolerance=0.015,
    )

    assert choice.recommended == "fast"


def test_nothing_is_as_good_before_the_band_is_whole():
    race = Race(np.array([[1.0, 0.5]]), shape=(1, 2), smallest_band=100.0)
    scores = np.array([[[0.0, 1.0, 0.5], [0.1, 1.1, 0.4]]])
    close = []
    for seeds in (2, 3):
        race.judge(seeds, scores[..., :seeds], np.ones((1, 2), bool))
        close.append(race.close[0, 1])

    assert close == [False, True]


def test_equal_scores_have_the_noise_of_the_step_in_which_they_are_counted():
    """Two seeds of 360 examples: an interval of width 0 would claim that a third is the same."""
    choice = chosen(verified("baseline", [0.9] * 2), verified("other", [0.9028] * 2))

    other = choice.comparisons[0]
    assert other.gain_half_width > other.gain
    assert choice.recommended == "baseline"


@pytest.mark.parametrize("others", [1, 2, 4])
def test_where_nothing_else_can_be_chosen_the_choice_adds_nothing(others):
    hopeless = [verified(f"other {n}", at(0.10, OTHER), 9.0) for n in range(others)]
    choice = chosen(verified("baseline", at(0.80), again=at(0.80, THIRD)), *hopeless)

    both = [*at(0.80), *at(0.80, THIRD)]
    assert choice.recommended == "baseline"
    assert choice.estimate.mean == pytest.approx(np.mean(both), abs=1e-12)


def test_before_the_first_look_the_two_scores_of_the_baseline_claim_nothing():
    choice = chosen(verified("baseline", [0.90], again=[0.91]), verified("other", [0.95], 0.5))

    assert math.isnan(choice.noise)
    assert choice.margin == 0.005
    assert choice.estimate.half_width == math.inf
    assert {one.seeds for one in choice.undecided} <= {None}
    assert not choice.decided


def test_one_that_three_seeds_cannot_tell_is_not_recommended_for_its_speed():
    choice = chosen(
        verified("baseline", at(0.80, seeds=3)), verified("fast", at(0.80, OTHER, seeds=3), 0.5)
    )

    assert choice.recommended == "baseline"
    assert ("fast", "as good") in [(one.key, one.question) for one in choice.undecided]
    assert not choice.decided


def test_one_that_is_shown_to_be_as_good_is_recommended_where_it_is_cheaper():
    several = (
        verified("baseline", at(0.80, seeds=10), 1.0, batch_size=32),
        verified("other", at(0.80, OTHER, seeds=10), 0.5, batch_size=256),
    )

    assert chosen(*several, tolerance=0.03).recommended == "other"
    assert chosen(*several, tolerance=0.03, goal="metric").recommended == "baseline"
    assert chosen(*several, tolerance=0.03, goal="memory").recommended == "baseline"
    assert chosen(*several, tolerance=0.003).recommended == "baseline"


def test_as_good_means_that_the_whole_interval_of_the_deficit_lies_within_the_band():
    several = (
        verified("baseline", at(0.81, seeds=3)),
        verified("fast", at(0.80, OTHER, seeds=3), 0.5),
    )
    fast = chosen(*several).comparisons[-1]
    reach = fast.deficit + fast.half_width

    assert fast.key == "fast"
    assert chosen(*several, tolerance=1.001 * reach).recommended == "fast"
    assert chosen(*several, tolerance=0.999 * reach).recommended == "baseline"


def test_the_goal_memory_takes_the_smaller_batch():
    choice = chosen(
        verified("baseline", at(0.80, seeds=10), 1.0, batch_size=256),
        verified("other", at(0.80, OTHER, seeds=10), 5.0, batch_size=32),
        tolerance=0.03,
        goal="memory",
    )

    assert choice.recommended == "other"


def test_costs_within_5_percent_are_the_same():
    several = [verified("baseline", at(0.80, seeds=10), 1.0)]
    for seconds, expected in ((0.96, "baseline"), (0.94, "other")):
        other = verified("other", at(0.80, OTHER, seeds=10), seconds)
        assert chosen(*several, other, tolerance=0.03).recommended == expected


def test_what_is_as_good_as_the_baseline_but_not_as_the_best_does_not_replace_it():
    choice = chosen(
        verified("baseline", at(0.80, seeds=10)),
        verified("fast", at(0.80, OTHER, seeds=10), 0.5),
        verified("best", at(0.85, THIRD, seeds=10), 2.0),
        tolerance=0.03,
    )

    assert choice.recommended == "best"


@pytest.mark.parametrize(("direction", "best"), [("max", "high"), ("min", "low")])
def test_the_direction_decides_which_is_best(direction, best):
    choice = choose(
        [verified("low", at(0.1)), verified("high", at(0.9, OTHER))],
        direction=direction,
        smallest_margin=0.001,
    )

    assert choice.best == choice.recommended == best
    deficit = np.mean(at(0.9, OTHER)) - np.mean(at(0.1))
    assert [c.deficit for c in choice.comparisons] == pytest.approx([0, deficit])
    assert choice.estimate.mean == pytest.approx(
        np.mean(at(0.1 if best == "low" else 0.9)), abs=0.01
    )


def test_without_a_baseline_the_best_mean_leads():
    choice = choose(
        [verified("a", at(0.80)), verified("b", at(0.802, OTHER))],
        direction="max",
        smallest_margin=0.005,
        incumbent="baseline",
    )

    assert choice.recommended == choice.best
    assert all(math.isnan(c.gain) for c in choice.comparisons)


def test_one_that_left_does_not_lead_again_by_hard_seeds_of_the_others():
    """It left as worse than the other after three seeds that were easy for everybody."""
    easy, hard = [0.0, 0.001, -0.001], [-0.05, -0.05]
    left = [0.890 + z for z in (0.0, 0.0012, -0.0008)]
    choice = chosen(
        verified("baseline", [0.80 + z for z in easy + hard], again=[0.8 + z for z in easy + hard]),
        verified("left", left),
        verified("stays", [0.900 + z for z in (0.0, 0.0008, -0.0012)] + [0.85, 0.85]),
    )

    assert "left" in choice.out
    assert (
        np.mean(left)
        > 0.88
        == pytest.approx(next(c.mean for c in choice.comparisons if c.key == "stays"), abs=1e-3)
    )
    assert choice.recommended == "stays"


@pytest.mark.parametrize("incumbent", [None, "a"])
def test_one_that_comes_late_neither_leads_nor_hides_what_is_known(incumbent):
    """A longer search has added it, and the time was over after its first seed."""
    several = [verified("a", at(0.900)), verified("b", at(0.899, OTHER)), verified("new", [0.99])]
    choice = chosen(*several, incumbent=incumbent)
    known = chosen(*several[:2], incumbent=incumbent)

    assert (choice.recommended, choice.best) == (known.recommended, known.best)
    assert [c.key for c in choice.comparisons][-1] == "new"
    assert all(math.isfinite(c.half_width) for c in choice.comparisons[:2])


def test_the_band_is_fixed_by_the_first_three_seeds_or_by_the_user_alone():
    first = [verified("baseline", [1, 2, 3, 9, -9]), verified("b", [4, 2, 6, 7, 0])]

    assert chosen(*first).margin == pytest.approx(math.sqrt((1 + 4) / 2))  # variances 1 and 4
    assert chosen(*first, smallest_margin=5.0).margin == 5.0
    assert chosen(*first, smallest_margin=5.0, tolerance=0.25).margin == 0.25


def test_an_unstable_baseline_does_not_make_a_worse_configuration_a_tie():
    """The fast one is 7 deviations behind, shown by its own differences; baseline: sd 0.05."""
    random = np.random.default_rng(4)
    wrong, widths = 0, []
    for _ in range(60):
        seeds = random.normal(0, 0.002, 5)
        choice = chosen(
            verified("best", 0.700 + seeds + random.normal(0, 0.001, 5), 10),
            verified("fast", 0.685 + seeds + random.normal(0, 0.001, 5), 1),
            verified(
                "baseline",
                0.690 + random.normal(0, 0.05, 5),
                5,
                again=0.690 + random.normal(0, 0.05, 5),
            ),
        )
        wrong += choice.recommended == "fast"
        fast = next(c for c in choice.comparisons if c.key == "fast")
        widths += [fast.half_width] if choice.best == "best" else []

    assert wrong == 0
    assert len(widths) > 30
    assert max(widths) < 0.015, "its interval is that of its own noise"


def test_nobody_leaves_with_fewer_than_three_seeds_and_the_hopeless_then_do():
    several = [at(0.90), at(0.90, OTHER), at(0.50, THIRD)]
    for seeds, out in ((2, set()), (3, {"bad"})):
        names = ("baseline", "other", "bad")
        rows = [verified(n, s[:seeds]) for n, s in zip(names, several, strict=True)]
        assert chosen(*rows).out == out


def test_one_that_left_keeps_its_seeds_and_the_others_go_on():
    choice = chosen(
        verified("baseline", at(0.90)),
        verified("bad", at(0.50, THIRD, seeds=3)),
        verified("good", at(0.97, OTHER)),
    )

    assert (choice.recommended, choice.out) == ("good", {"bad"})
    assert [c.seeds for c in choice.comparisons] == [5, 5, 3]


def test_what_was_shown_at_a_look_is_not_taken_back():
    scores = [0.90, 0.91, 0.905, 0.90, 0.91]
    later = chosen(
        verified("baseline", at(0.80)), verified("other", [*scores, *at(0.70, THIRD, seeds=4)])
    )

    assert later.recommended == "other"


def test_the_interval_of_one_that_was_shown_to_be_better_is_that_which_showed_it():
    scores = [0.90, 0.91, 0.905]
    three, five = (
        chosen(verified("baseline", at(0.80, seeds=len(other))), verified("other", other))
        for other in (scores, [*scores, 0.50, 0.60])
    )
    found = [next(c for c in one.comparisons if c.key == "other") for one in (three, five)]

    assert all(one.better for one in found)
    assert found[1].gain - found[1].gain_half_width > 0
    assert found[0].gain == found[1].gain


def test_with_one_seed_nothing_is_shown():
    choice = chosen(verified("baseline", [0.8]), verified("other", [0.9], 0.5))

    assert choice.recommended == "baseline"
    assert math.isnan(choice.noise)
    assert choice.estimate.half_width == choice.comparisons[1].half_width == math.inf
    assert not choice.decided


def test_a_baseline_alone_is_kept_with_its_own_mean():
    choice = chosen(verified("baseline", at(0.8)))

    assert choice.recommended == choice.best == "baseline"
    assert choice.estimate.mean == pytest.approx(np.mean(at(0.8)))
    assert choice.estimate.half_width > 0


def test_identical_scores_of_two_seeds_show_nothing_yet():
    choice = chosen(verified("baseline", [1.0, 1.0], 2.0), verified("fast", [1.0, 1.0], 1.0))

    assert choice.recommended == "baseline"
    assert choice.comparisons[1].half_width == math.inf


def test_identical_scores_are_as_good():
    scores = at(0.5)
    choice = chosen(verified("baseline", scores, 2), verified("fast", scores, 1), tolerance=0.02)

    assert choice.recommended == "fast"


@pytest.mark.parametrize(
    "several",
    [
        [],
        [Verified("a", {}, {})],
        [verified("a", [0.5]), Verified("b", {}, {})],
        [verified("a", [0.5, 0.4]), Verified("b", {2: 0.5}, {2: 1})],
    ],
    ids=["none", "no seeds", "one without", "not the first"],
)
def test_configurations_without_the_first_rounds_are_refused(several):
    with pytest.raises(InputError, match="scores of the first rounds"):
        chosen(*several)


def test_variances_are_moderated_towards_those_that_agree_and_never_below_their_own():
    """Own variances 2 and 8, one degree of freedom each: pooled 5."""
    noise = seed_noise(np.array([[[0.0, 2.0], [0.0, 4.0]]]))

    assert noise.pooled[0] == pytest.approx(5.0)
    assert noise.variances[0] == pytest.approx([(8 * 5 + 2) / 9, 8.0])


def test_an_unstable_configuration_is_not_pooled():
    scores = np.array([[at(0, n) for n in (NOISE, OTHER, THIRD)] + [at(0, NOISE, deviation=1.0)]])
    stable, all_four = seed_noise(scores[:, :3]), seed_noise(scores)

    assert all_four.pooled == pytest.approx(stable.pooled)
    assert all_four.variances[0, 3] == pytest.approx(np.var(scores[0, 3], ddof=1))


def test_what_seeds_have_in_common_narrows_a_difference():
    common = np.array(at(0, THIRD, seeds=10))
    one, other = np.array(at(0, seeds=10)), np.array(at(0, OTHER, seeds=10))
    alone = np.stack([[one, other]])
    together = np.stack([[5 * common + one, 5 * common + other]])
    errors = [differences(s, seed_noise(s))[1][0, 0, 1] for s in (alone, together)]

    assert errors[1] < 0.5 * 5 * errors[0], "though each deviates by about five times as much"
    assert differences(together, seed_noise(together))[0][0, 0, 1] == pytest.approx(
        np.mean(one - other)
    )


def test_errors_are_widened_as_the_t_distribution_is():
    assert widening(np.array([4.0]), 0.025)[0] == pytest.approx(2.776445 / 1.959964, rel=1e-5)


def test_bounds_show_as_often_by_chance_as_the_budget_says():
    """Of equal configurations without anything in common, over the first three looks."""
    random, races, last = np.random.default_rng(8), 4000, 5
    scores = random.normal(size=(races, 4, last))
    shown = np.zeros(races, bool)
    for look, bound in bounds(4, last, again=False).items():
        seen = scores[:, :, :look]
        apart, errors = differences(seen, seed_noise(seen))
        shown |= (apart[:, 1:, 0] > bound.better * errors[:, 1:, 0]).any(1)

    expected = ERROR * (BETTER[2] + BETTER[3] + BETTER[5])
    assert shown.mean() == pytest.approx(expected, abs=3 * math.sqrt(expected / races))
    assert sum(BETTER.values()) == pytest.approx(1.0)
    assert sum(AS_GOOD.values()) == pytest.approx(1.0)


def test_stored_bounds_are_those_of_the_simulation():
    stored = bounds(3, 5, again=True)
    assert list(stored) == [2, 3, 5], "a longer plan does not move the first looks"
    for look, found in simulated_bounds(3, again=True, races=40_000, last=5).items():
        if look > 2:  # of the first look 4 races in 20,000 decide
            assert found == pytest.approx(dataclasses.astuple(stored[look]), rel=0.05)


def test_the_simulation_of_many_configurations_takes_little_memory():
    """Each process that reads an answer took 850 MB for a dozen."""
    tracemalloc.start()
    simulated_bounds(12, again=True, races=10_000, last=3)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert most < 30e6


def test_the_bounds_of_a_verification_that_was_extended_are_stored(monkeypatch):
    """A simulation takes seconds in each process that reads an answer."""
    monkeypatch.setattr(error_budget, "simulated_bounds", None)

    for again in (False, True):
        assert list(bounds(10, 80, again=again)) == list(error_budget.LOOKS)


def test_the_mean_of_the_chosen_one_is_freed_of_the_choice():
    """Four of six equal configurations with one seed deviation: the best is above its own mean."""
    race = Race(None, shape=(1, 4), has_baseline=False)
    scores = np.array([[at(0.8, n) for n in (NOISE, OTHER, THIRD, NOISE[5:])]])
    for seeds in (2, 3, 5):
        seen = np.where(np.arange(5) < seeds, scores, np.nan)
        race.judge(seeds, seen, np.ones((1, 4), bool))
    found = chosen_mean(race, has_baseline=False)

    best = scores[0].mean(1).max()
    assert best - 0.01 < found.mean[0] < best
    assert found.half_width[0] > 0
