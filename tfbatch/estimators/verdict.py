"""From the paired effects of one experiment to a verdict, at stated error rates.

An effect is the difference that a claim predicts, one value for each pair of trainings (or round
of timing), positive where the claim is right. With their mean, its 95 % t interval [low, high] and
a margin (the smallest difference that matters, fixed before the run):

    difference    HOLDS: low > 0 and mean >= margin      DOES NOT HOLD: high < margin
    equivalence   HOLDS: -margin < low, high < margin    DOES NOT HOLD: low > 0 and mean >= margin,
                                                         or the same on the other side
    threshold     HOLDS: low > 0                         DOES NOT HOLD: high < 0
    exact         HOLDS: value >= 0                      DOES NOT HOLD: value < 0

and INCONCLUSIVE otherwise. The first is a superiority test whose estimate must matter too, the
second two one-sided tests (Schuirmann 1987) at 2.5 % each, the third a test of a statistic that
holds its threshold already, the fourth a value without noise. A difference of 0 is called HOLDS at
most 2.5 % of the time, an inequivalence of the margin too; one of twice the margin, where that is
a standard deviation of the effects or more, is called HOLDS more than 80 % of the time with 10
pairs (`tests/test_estimators_verdict.py` simulates both).

Some claims are about the best of several sizes. The best one that was measured looks too good, and
the same seeds must not choose a size and judge it: other seeds choose. That alone is not enough. A
rival that was chosen wrongly is too weak, which makes the claim look right. So HOLDS must be so
against every rival, and DOES NOT HOLD of every size that the claim could have meant: an
intersection-union test (Berger 1982), whose parts need no correction. `unanimous` does that.

Other claims are about every case, such as all states of a training: one that fails is enough
against them. Which one it is nobody says beforehand, so that its p-value is Bonferroni's, and has
to be at most 2.5 % as it is. `in_every_case` does that.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Literal

from scipy import special

from tfbatch.errors import InputError
from tfbatch.estimators.interval import Interval, mean_and_deviation

Kind = Literal["difference", "equivalence", "threshold", "exact"]
Word = Literal["HOLDS", "DOES NOT HOLD", "INCONCLUSIVE", "NOT TESTABLE HERE", "NOT TRIED YET"]
ONE_SIDED = 0.025
"""Probability of calling HOLDS what is not so, at most."""
POWER = 0.8
FULL = 10
"""Pairs that a verdict rests on; with fewer it is a preview."""
FEWEST = 3
LARGEST_CENSORED_SHARE = 0.2
_MOST_PAIRS = 100_000
_NO_INTERVAL = Interval(-math.inf, math.inf)
_OPEN = "the interval allows both"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the effects say of a claim.

    Attributes:
        word: The verdict.
        label: Of a difference that does not hold "reversed" (the opposite is shown) or
            "negligible"; of an equivalence "differs"; empty otherwise.
        estimate: Mean effect; NaN where there is none.
        interval: Its 95 % t interval.
        pairs: Number of effects.
        margin: The smallest effect that matters.
        p_value: One-sided, of the test that the word rests on; of the nearer one for INCONCLUSIVE;
            NaN where there is none.
        detectable: The effect that would be found with a probability of 80 %:
            (t(0.975) + t(0.8)) * deviation / sqrt(pairs).
        needed: Pairs with which the margin would be detectable; None where that is not known.
        reason: Why it is not decided; empty where it is.
    """

    word: Word
    label: str = ""
    estimate: float = math.nan
    interval: Interval = _NO_INTERVAL
    pairs: int = 0
    margin: float = 0.0
    p_value: float = math.nan
    detectable: float = math.inf
    needed: int | None = None
    reason: str = ""

    @property
    def decided(self) -> bool:
        """Whether the claim is shown to hold or not to hold."""
        return self.word in ("HOLDS", "DOES NOT HOLD")

    @property
    def preview(self) -> bool:
        """Whether it rests on fewer than 10 pairs."""
        return self.decided and 1 < self.pairs < FULL


def judge(
    effects: Sequence[float],
    *,
    kind: Kind,
    margin: float,
    censored: int = 0,
    doubts: Sequence[str] = (),
) -> Verdict:
    """Judges one experiment.

    Args:
        effects: Finite, positive where the claim is right; one value for "exact", or none where
            there are doubts.
        kind: Which rule; see the module.
        margin: The smallest effect that matters, in the unit of the effects: > 0 for a difference
            and an equivalence, 0 for the others.
        censored: How many of the effects are only bounds, such as those of a run that did not reach
            its target.
        doubts: What forbids a decision, such as a learning rate at the edge of what was tried.

    Raises:
        InputError: A margin that the rule does not take, effects that are not finite, or none for
            "exact" without doubts.
    """
    if kind == "exact" and doubts and not effects:
        return Verdict("INCONCLUSIVE", reason="; ".join(doubts))
    _check(effects, kind, margin)
    if kind == "exact":
        return _exact(effects, doubts)
    count = len(effects)
    if count < FEWEST:
        few = f"{count} valid pairs, and at least {FEWEST} are needed"
        reason = "; ".join((*doubts, few))
        return Verdict("INCONCLUSIVE", pairs=count, margin=margin, reason=reason)
    mean, deviation = mean_and_deviation(effects)
    error = deviation / math.sqrt(count)
    half = _quantile(count - 1, 1 - ONE_SIDED) * error
    interval = Interval(mean - half, mean + half)
    word, label = _decide(kind, mean, interval, margin)
    reasons = list(doubts)
    if censored > LARGEST_CENSORED_SHARE * count:
        reasons.append(f"{censored} of {count} effects are only bounds")
    if reasons:
        word, label = "INCONCLUSIVE", ""
    elif word == "INCONCLUSIVE":
        reasons.append(_OPEN)
    return Verdict(
        word,
        label,
        estimate=mean,
        interval=interval,
        pairs=count,
        margin=margin,
        p_value=_p_value(kind, word, mean, error, count, margin),
        detectable=_quantiles(count) * error,
        needed=pairs_needed(deviation, margin) if margin else None,
        reason="; ".join(reasons),
    )


def unanimous(chosen: Verdict, others: Sequence[Verdict]) -> Verdict:
    """The verdict on the best of some sizes against the best of others: that of all comparisons.

    Its figures are those of the comparison that shows it least clearly, or does not show it. What
    is reversed in some comparisons and negligible in another is negligible.

    Args:
        chosen: On the pair of sizes that other seeds chose.
        others: Where that HOLDS, on the claim's size against each other size of the other side;
            where that DOES NOT HOLD, on each other size of the claim's side against that of the
            other side.
    """
    against = [one for one in others if one.word != chosen.word]
    if against:
        word = "for" if chosen.word == "HOLDS" else "against"
        return dataclasses.replace(
            max(against, key=lambda one: _or(one.p_value, 1.0)),
            word="INCONCLUSIVE",
            label="",
            reason=f"what other seeds chose speaks {word} the claim, another choice that could be "
            "the best does not",
        )
    alike = (chosen, *others)
    weaker = [one for one in alike if one.label != "reversed"] or alike
    return max(weaker, key=lambda one: _or(one.p_value, 1.0))


def in_every_case(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on a claim about every case: it holds only if all do, and fails if one does.

    Its figures are those of the case that fails most clearly or holds least clearly; where neither
    is shown, of the smallest mean among those that do not hold. The p-value is that of failing in
    one of so many cases, unless it holds.

    Args:
        verdicts: On each case, at least one.
    """
    count = len(verdicts)
    failed = [one for one in verdicts if one.word == "DOES NOT HOLD"]
    worst = min(failed, key=lambda one: _or(one.p_value, 0.0), default=None)
    if worst and count * _or(worst.p_value, 0.0) <= ONE_SIDED:
        return dataclasses.replace(worst, p_value=count * worst.p_value)
    left = [one for one in verdicts if one.word != "HOLDS"]
    if not left:
        return max(verdicts, key=lambda one: _or(one.p_value, 1.0))
    shown = min(left, key=lambda one: _or(one.estimate, -math.inf))
    if count == 1 or shown.reason not in ("", _OPEN):  # a doubt, or too few pairs
        return shown
    reason = f"it is not shown in each of {count} comparisons"
    among = shown.p_value if math.isnan(shown.p_value) else min(1.0, count * shown.p_value)
    return dataclasses.replace(shown, word="INCONCLUSIVE", label="", reason=reason, p_value=among)


def pairs_needed(deviation: float, margin: float) -> int | None:
    """Pairs with which an effect of the margin is found with a probability of 80 %.

    None if more than 100,000 are.
    """
    low, high = FEWEST, _MOST_PAIRS
    if _quantiles(high) * deviation > margin * math.sqrt(high):
        return None
    while low < high:
        middle = (low + high) // 2
        if _quantiles(middle) * deviation <= margin * math.sqrt(middle):
            high = middle
        else:
            low = middle + 1
    return low


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (1979), in the order given; NaN stays NaN and is not counted.

    One of a verdict is enough for its claim: of the two hypotheses that a claim is tested against
    (no effect; an effect of the margin or more) one at most is true, and a claim that one of them
    was rejected for is not tested against the other.
    """
    there = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(there):
        largest = max(largest, min(1.0, (len(there) - rank) * p))
        adjusted[index] = largest
    return adjusted


def all_of(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on a claim of several parts: it holds only if all do, and fails if one does.

    Its figures are those of the part that decides: the one that failed most clearly, the one that
    is not decided, or the one that holds least clearly. Its p-value is that of the least clear part
    where all hold; where one fails it is Bonferroni's, and none where an exact part does.

    Raises:
        InputError: No part.
    """
    if not verdicts:
        raise InputError("A claim must have at least one part. Received: none.")
    if len(verdicts) == 1:
        return verdicts[0]
    failed = [one for one in verdicts if one.word == "DOES NOT HOLD"]
    if failed:
        worst = min(failed, key=lambda one: _or(one.p_value, 0.0))
        if math.isnan(worst.p_value):  # of an exact part, which is certain
            return worst
        p_value = min(1.0, len(verdicts) * worst.p_value)
        return dataclasses.replace(worst, p_value=p_value)
    for word in ("NOT TESTABLE HERE", "NOT TRIED YET", "INCONCLUSIVE"):
        for one in verdicts:
            if one.word == word:
                return one
    return max(verdicts, key=lambda one: _or(one.p_value, 0.0))


def _check(effects: Sequence[float], kind: Kind, margin: float) -> None:
    with_margin = kind in ("difference", "equivalence")
    if not (margin > 0 if with_margin else margin == 0) or not math.isfinite(margin):
        rule = "> 0" if with_margin else "0"
        raise InputError(f"The margin of a claim of {kind} must be {rule}. Received: {margin}.")
    if not all(map(math.isfinite, effects)):
        raise InputError(f"Effects must be finite. Received: {list(effects)}.")
    if kind == "exact" and len(effects) != 1:
        raise InputError(f"A claim of kind exact needs one value. Received: {len(effects)}.")


def _exact(effects: Sequence[float], doubts: Sequence[str]) -> Verdict:
    (value,) = effects
    word: Word = "HOLDS" if value >= 0 else "DOES NOT HOLD"
    return Verdict(
        "INCONCLUSIVE" if doubts else word,
        estimate=value,
        interval=Interval(value, value),
        pairs=1,
        detectable=0.0,
        reason="; ".join(doubts),
    )


def _decide(kind: Kind, mean: float, interval: Interval, margin: float) -> tuple[Word, str]:
    if kind == "equivalence":
        if interval.low > -margin and interval.high < margin:
            return "HOLDS", ""
        shown = max(interval.low, -interval.high) > 0 and abs(mean) >= margin
        return ("DOES NOT HOLD", "differs") if shown else ("INCONCLUSIVE", "")
    if interval.low > 0 and mean >= margin:
        return "HOLDS", ""
    if kind == "threshold":
        return ("DOES NOT HOLD", "") if interval.high < 0 else ("INCONCLUSIVE", "")
    if interval.high < margin:
        return "DOES NOT HOLD", "reversed" if interval.high < 0 else "negligible"
    return "INCONCLUSIVE", ""


def _p_value(kind: Kind, word: Word, mean: float, error: float, count: int, margin: float) -> float:
    """Of the test that the word rests on; the smaller one where neither decides."""
    if kind == "equivalence":
        inside = max(_above(mean, -margin, error, count), _above(-mean, -margin, error, count))
        differs = 2 * min(_above(mean, 0.0, error, count), _above(-mean, 0.0, error, count))
        pair = {"HOLDS": inside, "DOES NOT HOLD": differs}
    else:
        limit = margin if kind == "difference" else 0.0
        pair = {
            "HOLDS": _above(mean, 0.0, error, count),
            "DOES NOT HOLD": _above(-mean, -limit, error, count),
        }
    return pair.get(word, min(pair.values()))


def _above(mean: float, limit: float, error: float, count: int) -> float:
    """One-sided p of the t test that the mean effect is above a limit."""
    if error == 0:
        return 0.0 if mean > limit else 1.0
    return float(special.stdtr(count - 1, (limit - mean) / error))


def _quantiles(count: int) -> float:
    return _quantile(count - 1, 1 - ONE_SIDED) + _quantile(count - 1, POWER)


@functools.cache
def _quantile(freedom: int, probability: float) -> float:
    """Of Student's t."""
    return float(special.stdtrit(freedom, probability))


def _or(value: float, instead: float) -> float:
    return instead if math.isnan(value) else value
