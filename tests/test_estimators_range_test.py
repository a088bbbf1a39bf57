"""Curves whose slope, minimum and blow-up are known, and every reason for doubt."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tfbatch.errors import InputError
from tfbatch.estimators.range_test import (
    ConstantRate,
    RangeTest,
    best_rate,
    doubts_of_constant_rates,
    has_diverged,
    read_range_test,
)

RATES = np.geomspace(1e-5, 10, 121)  # 20 steps to a factor of ten


def curve(*, falls_at=0.01, blows_up_at=0.5, floor=0.5, first=2.3):
    """Falls fastest (over the logarithm) at one rate, and blows up exponentially at another."""
    descent = 1 / (1 + (RATES / falls_at) ** 2)
    blow_up = np.expm1(np.minimum(RATES / blows_up_at, 3) ** 2)
    return floor + (first - floor) * descent + blow_up


def noisy(seeds=5, noise=0.02, **options):
    random = np.random.default_rng(0)
    return curve(**options) * (1 + random.normal(0, noise, (seeds, len(RATES))))


def rate_of(rule, found):
    return next(s.learning_rate for s in found.suggestions if s.rule == rule)


def index_of(rule, found):
    return int(np.abs(np.log(RATES / rate_of(rule, found))).argmin())


def test_every_rule_lies_where_it_should_on_a_known_curve():
    """Steepest at 0.01; the minimum between it and the blow-up at 0.5."""
    found = read_range_test(RATES, curve()[None].repeat(3, axis=0))

    lowest = RATES[curve().argmin()]
    assert rate_of("steepest", found) == pytest.approx(0.01, rel=0.15)
    assert rate_of("tenth of minimum", found) == pytest.approx(lowest / 10, rel=0.15)
    assert 0.002 < rate_of("valley", found) < lowest
    assert 0.002 < rate_of("slide", found) < 0.5
    assert found.doubts == ()
    assert 0.2 * 0.01 < found.learning_rate < lowest


def test_the_steepest_slope_is_taken_over_the_logarithm():
    """Over the rate itself the slope of 1 / (1 + (r / 0.01)^2) is steepest at 0.0058."""
    found = read_range_test(RATES, curve(blows_up_at=5)[None])

    assert rate_of("steepest", found) == pytest.approx(0.01, rel=0.1)


def test_rates_ten_times_as_large_give_suggestions_ten_times_as_large():
    once, tenfold = (read_range_test(s * RATES, curve()[None]) for s in (1, 10))

    for a, b in zip(once.suggestions, tenfold.suggestions, strict=True):
        assert b.learning_rate == pytest.approx(10 * a.learning_rate)


def test_a_loss_ten_times_as_large_gives_the_same_suggestions():
    """fastai's slide has a bar in units of the loss; this one has not."""
    once, tenfold = (read_range_test(RATES, s * curve()[None]) for s in (1, 10))

    assert once.suggestions == tenfold.suggestions


def test_the_suggestion_is_the_geometric_median_of_the_rules():
    found = read_range_test(RATES, curve()[None].repeat(3, axis=0))
    middle = sorted(s.learning_rate for s in found.suggestions)[1:3]

    assert middle[1] > 1.05 * middle[0]
    assert found.learning_rate == pytest.approx(math.sqrt(middle[0] * middle[1]))


def test_a_steeper_fall_behind_the_minimum_is_not_the_steepest():
    """It is where a blow-up ends by chance, and not where the training descends."""
    losses = np.interp(np.arange(121), [0, 20, 60, 80, 84, 120], [2.3, 2.3, 1.0, 2.2, 1.2, 1.2])

    assert 20 <= index_of("steepest", read_range_test(RATES, losses[None])) <= 60


def test_the_valley_is_half_way_down():
    losses = np.interp(np.arange(121), [0, 30, 90, 120], [2.0, 2.0, 1.0, 1.0])

    assert index_of("valley", read_range_test(RATES, losses[None])) == pytest.approx(60, abs=3)


def test_a_single_low_loss_is_no_valley():
    rising = [2.0, 0.2, 1.6, *np.linspace(2.4, 4.0, 17)]
    found = read_range_test(RATES[:20], [rising])

    assert found.smoothed[1] == min(found.smoothed)
    assert rate_of("valley", found) is None


def test_the_slide_ends_where_the_slopes_at_both_ends_of_its_lag_are_alike():
    """The lag is 0.15 of 121 steps, and slopes within 0.01 of the descent are alike."""
    found = read_range_test(RATES, curve()[None])
    smoothed = np.array(found.smoothed)
    slope = np.gradient(smoothed / (smoothed[0] - smoothed.min()))
    left = index_of("slide", found)
    lag = max(2, round(0.15 * len(smoothed)))

    assert abs(slope[left + lag] - slope[left]) > 0.01
    assert abs(slope[left + lag - 1] - slope[left - 1]) <= 0.01


def test_noise_is_smoothed_away_without_a_lag():
    found = read_range_test(RATES, noisy())

    assert 0.25 < rate_of("steepest", found) / 0.01 < 4
    assert found.doubts == ()
    assert len(found.suggestions[0].by_seed) == 5


@pytest.mark.parametrize("blow_up", [math.nan, math.inf], ids=str)
def test_what_is_not_finite_ends_the_curve(blow_up):
    losses = curve(blows_up_at=1e9)[None].repeat(2, axis=0)
    losses[1, 90:] = blow_up

    found = read_range_test(RATES, losses)

    assert found.diverges_at == RATES[90]
    assert len(found.smoothed) == 90
    assert rate_of("slide", found) is None, "no blow-up is left to come from"
    assert all(s.learning_rate < RATES[90] for s in found.suggestions if s.rule != "slide")


def test_a_loss_three_times_the_first_has_diverged_and_a_single_bad_batch_has_not():
    losses = curve()
    diverged = RATES[np.argmax(losses > 3 * 2.3)]
    losses[40] = 50.0

    found = read_range_test(RATES, losses[None])

    assert found.diverges_at == pytest.approx(diverged, rel=0.2)


@pytest.mark.parametrize(
    ("losses", "ends"),
    [
        ([2.0, 2.0, 2.0, 2.0, 2.0, 7.0, 7.0, 7.0], True),
        ([2.0, 2.0, 2.0, 2.0, 2.0, 7.0, 7.0], False),  # one bad batch, or two
        ([2.0, 2.0, 2.0, 2.0, 2.0, 7.0, 5.9, 7.0], False),
        ([2.0, 9.0, 9.0, 9.0], False),  # too few to know the first loss
        ([2.0, float("nan")], True),
        ([float("inf")], True),
        ([-1.0, -1.0, -1.0, -1.0, -1.0, 4.0, 4.0, 4.0], False),  # a factor of it means nothing
    ],
)
def test_a_running_sweep_ends_at_three_losses_above_three_times_the_first(losses, ends):
    assert has_diverged(losses) is ends


def test_one_bad_batch_at_the_beginning_does_not_hide_a_divergence():
    losses = curve()
    expected = read_range_test(RATES, losses[None]).diverges_at
    losses[3] = 100.0

    assert read_range_test(RATES, losses[None]).diverges_at == expected


@pytest.mark.parametrize(
    "first",
    [[9.0, 8.0], [1.0, 9.0, 8.0], [1.0, 1.0, 9.0, 8.0]],
    ids=["fast fall", "noise", "more noise"],
)
def test_losses_that_set_the_bar_are_no_divergence(first):
    """A first loss that falls by far within a few steps, or two bad batches among the first."""
    losses = np.array([*first, *[1.0] * (100 - len(first))])
    found = read_range_test(np.geomspace(1e-6, 10, 100), losses[None])

    assert found.diverges_at is None
    assert len(found.smoothed) == 100


def test_a_first_loss_that_falls_fast_does_not_hide_a_divergence():
    losses = curve()
    expected = read_range_test(RATES, losses[None]).diverges_at
    losses[:2] = 20.0, 15.0

    assert read_range_test(RATES, losses[None]).diverges_at == expected


def test_a_curve_that_never_diverges_has_no_such_rate():
    assert read_range_test(RATES, curve(blows_up_at=1e9)[None]).diverges_at is None


# When not to believe it.


def test_a_flat_loss_gives_no_suggestion():
    found = read_range_test(RATES, noisy(first=2.3, floor=2.29, blows_up_at=1.0))

    assert found.learning_rate is None
    assert "the loss hardly falls" in str(found)
    assert str(found).startswith("no suggestion")


def test_a_descent_within_the_noise_is_none():
    found = read_range_test(RATES, noisy(seeds=1, noise=0.4, floor=1.9, blows_up_at=1e9))

    assert found.learning_rate is None


def test_the_blow_up_behind_the_minimum_is_no_noise_that_hides_the_descent():
    losses = curve(blows_up_at=1e9)
    losses[-30:] = np.tile([0.6, 6.0], 15)  # below the bar of 6.9

    found = read_range_test(RATES, losses[None].repeat(2, axis=0))

    assert found.diverges_at is None
    assert found.learning_rate is not None


def test_a_loss_that_still_falls_at_the_end_asks_for_larger_rates():
    found = read_range_test(RATES, noisy(falls_at=5.0, blows_up_at=1e9, noise=1e-4))

    assert "go further up" in str(found)


def test_rules_far_apart_are_not_to_be_trusted():
    """A long plateau between the fall at 1e-4 and the blow-up at 5."""
    sloping = curve(falls_at=1e-4, blows_up_at=5.0) - 0.01 * np.log(RATES)

    found = read_range_test(RATES, sloping[None].repeat(2, axis=0))

    assert "the rules lie between" in str(found)


def test_seeds_far_apart_are_not_to_be_trusted():
    losses = np.stack([curve(falls_at=1e-4, blows_up_at=5e-3), curve()])

    assert "the seeds disagree" in str(read_range_test(RATES, losses))


def test_a_seed_that_suggests_nothing_disagrees():
    losses = curve()[None].repeat(2, axis=0)
    losses[1, 3:] = math.nan

    found = read_range_test(RATES, losses)

    assert all(math.isnan(s.by_seed[1]) for s in found.suggestions)
    assert "the seeds disagree" in str(found)


def test_one_seed_is_a_doubt_by_itself():
    assert read_range_test(RATES, curve()[None]).doubts == ("one seed only",)


@pytest.mark.parametrize(
    ("rates", "losses", "message"),
    [
        (RATES[:10], curve()[None, :10], "length >= 20"),
        (RATES, curve(), "seeds, steps"),
        (RATES, curve()[None, :-1], "seeds, steps"),
        (RATES[::-1], curve()[None], "must ascend"),
        (RATES - 1e-5, curve()[None], "`learning_rates` must be > 0"),
        (RATES, np.full((1, 121), math.nan), "smaller learning rate"),
    ],
    ids=["few", "one dimension", "short", "descending", "zero", "diverged at once"],
)
def test_what_is_no_range_test_is_refused(rates, losses, message):
    with pytest.raises(InputError, match=message):
        read_range_test(rates, losses)


def test_a_bounded_loss_climbs_without_diverging():
    rates = np.geomspace(1e-4, 10, 200)
    falls = np.clip(np.log10(rates / 1e-3), 0, 1)  # from 2 to 1 between 1e-3 and 1e-2
    climbs = np.clip(np.log10(rates / 1e-1), 0, 1)  # and back between 1e-1 and 1
    found = read_range_test(rates, [2 - falls + climbs])
    never = read_range_test(rates, [2 - falls])

    assert found.diverges_at is None
    assert found.ends_at == found.climbs_at == pytest.approx(10**-0.5, rel=0.1)
    assert never.ends_at is None


@pytest.mark.parametrize(
    ("rules", "suggested"),
    [(0.4, None), (0.375, None), (0.1, 0.1), (None, None)],
    ids=["larger than a rate that does not hold", "such a rate", "smaller than all", "no descent"],
)
def test_no_rate_is_suggested_that_was_measured_not_to_hold(rules, suggested):
    """The sweep diverges at 3; three halves do not hold, and then the time is over."""
    result = RangeTest(rules, (), 3.0, (2.0, 1.0), ())
    tried = tuple(ConstantRate(rate, math.nan, held=False) for rate in (1.5, 0.75, 0.375))

    assert best_rate(result, tried) == suggested
    assert doubts_of_constant_rates(tried) == (
        "no constant rate that was tried holds, not even 0.375: go further down",
    )
    held = (*tried, ConstantRate(0.1875, 0.5, held=True))
    assert (best_rate(result, held), doubts_of_constant_rates(held)) == (0.1875, ())
    assert (best_rate(result, ()), doubts_of_constant_rates(())) == (rules, ())
