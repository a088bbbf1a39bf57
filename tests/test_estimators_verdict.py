"""The court's rule: exact cases, and its error rates by simulation."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from tfbatch.errors import InputError
from tfbatch.estimators.interval import quantile_of_t
from tfbatch.estimators.verdict import (
    FULL,
    Verdict,
    all_of,
    holm,
    in_every_case,
    judge,
    pairs_needed,
    unanimous,
)


def effects_with(mean, low, pairs=10):
    """Effects with this mean and this lower end of their 95 % interval."""
    half = mean - low
    deviation = half * math.sqrt(pairs) / quantile_of_t(pairs - 1, level=0.95)
    base = np.linspace(-1, 1, pairs)
    return list(mean + deviation * base / base.std(ddof=1))


@pytest.mark.parametrize(
    ("mean", "low", "kind", "margin", "word", "label"),
    [
        (2.0, 1.0, "difference", 1.0, "HOLDS", ""),
        (0.3, 0.1, "difference", 1.0, "DOES NOT HOLD", "negligible"),
        (-2.0, -3.0, "difference", 1.0, "DOES NOT HOLD", "reversed"),
        (1.2, -0.5, "difference", 1.0, "INCONCLUSIVE", ""),
        (0.9, 0.5, "difference", 1.0, "INCONCLUSIVE", ""),
        (0.2, -0.4, "equivalence", 1.0, "HOLDS", ""),
        (0.5, -0.1, "equivalence", 1.0, "INCONCLUSIVE", ""),
        (-2.0, -2.5, "equivalence", 1.0, "DOES NOT HOLD", "differs"),
        (0.5, 0.1, "threshold", 0.0, "HOLDS", ""),
        (-0.5, -0.9, "threshold", 0.0, "DOES NOT HOLD", ""),
        (0.5, -0.1, "threshold", 0.0, "INCONCLUSIVE", ""),
    ],
)
def test_the_rule_in_known_cases(mean, low, kind, margin, word, label):
    found = judge(effects_with(mean, low), kind=kind, margin=margin)

    assert (found.word, found.label) == (word, label)
    assert found.estimate == pytest.approx(mean)
    assert found.interval.low == pytest.approx(low)
    assert found.interval.high == pytest.approx(2 * mean - low)


def test_what_is_exact_is_judged_by_its_sign():
    assert judge([0.0], kind="exact", margin=0.0).word == "HOLDS"
    assert judge([-1e-9], kind="exact", margin=0.0).word == "DOES NOT HOLD"
    none = judge([], kind="exact", margin=0.0, doubts=["it is no number"])
    assert (none.word, none.reason) == ("INCONCLUSIVE", "it is no number")
    with pytest.raises(InputError, match="needs one value"):
        judge([], kind="exact", margin=0.0)


def test_few_pairs_censoring_and_doubts_forbid_a_decision():
    clear = effects_with(5.0, 4.0)

    few = judge(clear[:2], kind="difference", margin=1.0, doubts=["the others diverged"])
    assert "at least 3" in few.reason
    assert "the others diverged" in few.reason
    assert judge(clear, kind="difference", margin=1.0, censored=2).word == "HOLDS"
    assert "only bounds" in judge(clear, kind="difference", margin=1.0, censored=3).reason
    doubted = judge(clear, kind="difference", margin=1.0, doubts=["the rate is not bracketed"])
    assert (doubted.word, doubted.reason) == ("INCONCLUSIVE", "the rate is not bracketed")


def test_fewer_than_ten_pairs_make_a_preview():
    assert judge(effects_with(5.0, 4.0, pairs=9), kind="difference", margin=1.0).preview
    assert not judge(effects_with(5.0, 4.0, pairs=10), kind="difference", margin=1.0).preview


def share(word, *, effect, deviation=1.0, margin=1.0, kind="difference", pairs=FULL, runs=2000):
    draws = np.random.default_rng(1).normal(effect, deviation, (runs, pairs))
    found = [judge(list(row), kind=kind, margin=margin).word for row in draws]
    return found.count(word) / runs


def test_operating_characteristics_at_ten_pairs():
    # A share of 2.5 % in 2,000 runs has a standard error of 0.35 points.
    assert share("HOLDS", effect=0.0, margin=0.1) < 0.025 + 0.01
    assert share("HOLDS", effect=0.0, margin=1.0) < 0.005
    assert share("HOLDS", effect=2.0, margin=1.0) > 0.8
    # Paired trainings whose seeds have nothing in common.
    assert share("HOLDS", effect=2.0, margin=1.0, deviation=math.sqrt(2)) > 0.8
    assert share("DOES NOT HOLD", effect=1.0, margin=1.0) < 0.025 + 0.01
    for kind, effect in (("equivalence", 1.0), ("threshold", 0.0)):
        margin = 0.0 if kind == "threshold" else 1.0
        rate = share("HOLDS", effect=effect, margin=margin, kind=kind, deviation=0.5)
        assert rate < 0.025 + 0.01
    assert share("DOES NOT HOLD", effect=0.0, kind="equivalence") < 0.025 + 0.01
    assert share("HOLDS", effect=0.0, kind="equivalence", deviation=0.5) > 0.8


def test_the_detectable_effect_is_found_in_eighty_percent():
    found = judge(effects_with(0.0, -1.0), kind="difference", margin=1.0)
    deviation = math.sqrt(FULL) / quantile_of_t(FULL - 1, level=0.95)

    rate = share("HOLDS", effect=found.detectable, deviation=deviation, margin=1e-9)
    assert rate == pytest.approx(0.8, abs=0.03)


def test_the_pairs_needed_make_the_margin_detectable():
    needed = pairs_needed(1.0, 0.5)

    assert needed is not None
    for pairs, enough in ((needed, True), (needed - 1, False)):
        row = effects_with(0.0, -quantile_of_t(pairs - 1, level=0.95) / math.sqrt(pairs), pairs)
        assert (judge(row, kind="difference", margin=0.5).detectable <= 0.5) is enough
    assert pairs_needed(1.0, 1e-9) is None


def test_holm_on_the_textbook_case():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    found = holm([0.01, math.nan, 0.02])
    assert found[0] == pytest.approx(0.02)
    assert math.isnan(found[1])


def test_p_values_agree_with_the_words():
    for mean, low, kind, margin in (
        (2.0, 1.0, "difference", 1.0),
        (0.3, 0.1, "difference", 1.0),
        (0.2, -0.4, "equivalence", 1.0),
        (0.5, 0.1, "threshold", 0.0),
    ):
        assert judge(effects_with(mean, low), kind=kind, margin=margin).p_value < 0.025
    assert judge(effects_with(1.2, -0.5), kind="difference", margin=1.0).p_value > 0.025


def test_a_claim_of_several_parts_holds_only_if_all_do():
    holds = judge(effects_with(2.0, 1.0), kind="difference", margin=1.0)
    clearly = judge(effects_with(2.0, 1.5), kind="difference", margin=1.0)
    fails = judge(effects_with(0.3, 0.1), kind="difference", margin=1.0)
    open_one = judge(effects_with(1.2, -0.5), kind="difference", margin=1.0)

    assert all_of([clearly, holds]) is holds
    assert all_of([holds, open_one]).word == "INCONCLUSIVE"
    assert all_of([holds, open_one, fails]).word == "DOES NOT HOLD"
    assert all_of([holds, fails]).p_value == pytest.approx(2 * fails.p_value)
    assert all_of([holds, Verdict("NOT TRIED YET")]).word == "NOT TRIED YET"


def test_a_claim_about_every_case_holds_only_if_all_do_and_one_that_fails_is_enough():
    holds = judge(effects_with(2.0, 1.0), kind="threshold", margin=0.0)
    clearly = judge(effects_with(2.0, 1.5), kind="threshold", margin=0.0)
    fails = judge(effects_with(-2.0, -2.5), kind="threshold", margin=0.0)
    open_one = judge(effects_with(1.0, -0.5), kind="threshold", margin=0.0)

    assert in_every_case([clearly, holds]) == holds
    assert in_every_case([fails]) == fails
    for cases in ([clearly, fails, open_one], [fails, open_one, clearly]):
        found = in_every_case(cases)
        assert found == dataclasses.replace(fails, p_value=3 * fails.p_value)
    left_open = in_every_case([clearly, open_one])
    assert (left_open.word, left_open.estimate) == ("INCONCLUSIVE", open_one.estimate)
    assert left_open.reason == "it is not shown in each of 2 comparisons"


def test_a_case_that_fails_by_the_number_of_cases_alone_decides_nothing():
    """Of four cases one fails by chance in a tenth of what is so in all of them."""
    holds = judge(effects_with(2.0, 1.0), kind="threshold", margin=0.0)
    barely = judge(effects_with(-1.0, -1.99), kind="threshold", margin=0.0)
    assert barely.word == "DOES NOT HOLD"
    assert barely.p_value > 0.025 / 4

    found = in_every_case([holds, holds, barely, holds])
    assert (found.word, found.label) == ("INCONCLUSIVE", "")
    assert found.reason == "it is not shown in each of 4 comparisons"
    assert found.p_value == pytest.approx(4 * barely.p_value)
    draws = np.random.default_rng(1).normal(0.0, 1.0, (1000, 4, FULL))
    words = [
        in_every_case([judge(list(row), kind="threshold", margin=0.0) for row in cases]).word
        for cases in draws
    ]
    # 2.5 % in 1,000 runs has a standard error of 0.5 points.
    assert words.count("DOES NOT HOLD") / len(words) < 0.025 + 0.015
    assert words.count("HOLDS") == 0


def test_what_forbids_a_decision_in_every_case_is_what_is_said():
    doubted = judge(effects_with(2.0, 1.0), kind="threshold", margin=0.0, doubts=["a doubt"])
    assert in_every_case([doubted, doubted]).reason == "a doubt"


def test_an_exact_part_that_fails_has_no_p_value_and_is_not_counted():
    holds = judge(effects_with(2.0, 1.0), kind="difference", margin=1.0)
    fails = judge(effects_with(0.3, 0.1), kind="difference", margin=1.0)
    exact = judge([-1.0], kind="exact", margin=0.0)

    for parts in ([exact, holds], [fails, exact]):
        assert all_of(parts) is exact
    assert holm([0.01, all_of([exact, holds]).p_value])[0] == 0.01


@pytest.mark.parametrize(
    ("effects", "kind", "margin", "message"),
    [
        ([1.0], "difference", 0.0, "must be > 0"),
        ([1.0], "threshold", 1.0, "must be 0"),
        ([math.nan], "threshold", 0.0, "finite"),
        ([1.0, 2.0], "exact", 0.0, "one value"),
    ],
)
def test_what_the_rule_does_not_take_is_refused(effects, kind, margin, message):
    with pytest.raises(InputError, match=message):
        judge(effects, kind=kind, margin=margin)


def test_what_is_reversed_in_some_comparisons_only_is_negligible():
    """The wide one has the larger p, so that it would be shown alone."""
    reversed_one = judge([-3.0, -1.0, -2.0, -2.5, -1.5], kind="difference", margin=0.5)
    near_zero = judge([0.01, -0.01, 0.0, 0.02, -0.02], kind="difference", margin=0.5)
    assert (reversed_one.label, near_zero.label) == ("reversed", "negligible")
    assert reversed_one.p_value > near_zero.p_value

    assert unanimous(reversed_one, [near_zero]) == near_zero
    assert unanimous(near_zero, [reversed_one]) == near_zero
    assert unanimous(reversed_one, [reversed_one]).label == "reversed"
