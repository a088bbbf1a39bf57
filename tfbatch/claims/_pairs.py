"""Effects from paired runs: differences, and choices by seeds that do not judge."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from tfbatch.claims._claim import Evidence, UntestableError
from tfbatch.estimators.first_hit import StepsToTarget

Table = Mapping[int, Sequence[float]]
"""A value of each seed at each batch size, or other candidate."""
_CLEAR = 3.0
"""An effect so many times what rounds differ by is more than other work on the machine."""


def differences(one: Sequence[float], other: Sequence[float]) -> tuple[float, ...]:
    """One less the other, seed by seed."""
    return tuple(a - b for a, b in zip(one, other, strict=True))


@dataclasses.dataclass(frozen=True)
class Contest:
    """The best of some sizes against the best of others.

    Attributes:
        one: The size of the claim's side that was chosen.
        other: The size of the other side that was chosen.
        effects: One less the other, seed by seed.
        rivals: One less each other size of the other side; see Evidence.
        alternatives: Each other size of the claim's side less the other.
    """

    one: int
    other: int
    effects: tuple[float, ...]
    rivals: tuple[tuple[float, ...], ...] = ()
    alternatives: tuple[tuple[float, ...], ...] = ()


def contest(
    table: Table,
    choosing: Table,
    ones: Sequence[int],
    others: Sequence[int],
    *,
    plus: float = 0.0,
) -> Contest:
    """The best of some sizes against the best of others, both chosen by seeds that do not judge.

    A maximum over noisy values looks too good; chosen by other seeds it does not. Left out one at a
    time the seeds that judge do not do for that: what they choose and what they judge by hang
    together.

    Args:
        table: The values of the seeds that judge, larger is better.
        choosing: Those of the seeds that choose. What it lacks is not chosen, but is a rival.
        ones: The sizes that the claim says are better.
        others: Those that it compares them with.
        plus: Is added to every effect.
    """
    one, other = (_best(choosing, sizes) for sizes in (ones, others))

    def effects(a: int, b: int) -> tuple[float, ...]:
        return tuple(difference + plus for difference in differences(table[a], table[b]))

    return Contest(
        one,
        other,
        effects(one, other),
        rivals=tuple(effects(one, size) for size in others if size != other),
        alternatives=tuple(effects(size, other) for size in ones if size != one),
    )


def told(blank: Evidence, find: Callable[[], Contest]) -> Evidence:
    """The evidence with what was found, or with the reason why this cannot be tested here.

    Args:
        blank: Without effects; its finding may name the sizes as `{one}` and `{other}`.
        find: Finds the effects, or raises UntestableError.
    """
    try:
        found = find()
    except UntestableError as error:
        return dataclasses.replace(blank, finding="", untestable=str(error))
    return dataclasses.replace(
        blank,
        effects=found.effects,
        rivals=found.rivals,
        alternatives=found.alternatives,
        finding=blank.finding.format(one=found.one, other=found.other),
    )


def widest(table: Table, choosing: Table) -> Contest:
    """The best size against the worst, chosen by seeds that do not judge.

    That they differ is shown by these two alone; that no two do, by all pairs.

    Args:
        table: The values of the seeds that judge, larger is better.
        choosing: Those of the seeds that choose.
    """
    best = _best(choosing, list(table))
    worst = min((size for size in table if size != best), key=lambda s: _mean(choosing[s]))
    effects = differences(table[best], table[worst])
    pairs = [
        differences(table[a], table[b])
        for a, b in itertools.combinations(table, 2)
        if {a, b} != {best, worst}
    ]
    # Of a pair and its reverse the one with the larger mean is the farther from DOES NOT HOLD.
    larger = [pair if _mean(pair) >= 0 else _reversed(pair) for pair in pairs]
    if _mean(effects) < 0:
        larger.append(_reversed(effects))
    return Contest(best, worst, effects, alternatives=tuple(larger))


@dataclasses.dataclass(frozen=True)
class Shift:
    """Whether the best size is larger in one table than in another.

    Attributes:
        contest: What judges it: `one` is the best size after, `other` the best one before, both by
            the seeds that choose.
        before: The sizes whose values before must be no bounds.
        after: The same after.
    """

    contest: Contest
    before: tuple[int, ...]
    after: tuple[int, ...]

    def edge(self, tried: Sequence[int]) -> tuple[str, ...]:
        """Why no shift could be seen: both best sizes are the same end of those that were tried."""
        best = self.contest.one
        if best != self.contest.other or best not in (min(tried), max(tried)):
            return ()
        return (f"the best size is {best} in both cases, and none beyond it was tried",)


def moves_up(before: Table, after: Table, choosing_before: Table, choosing_after: Table) -> Shift:
    """Whether the best size after is larger than the best size before.

    That is so where the sizes can be cut in two such that before the best is one of the smaller and
    after one of the larger ones. Two contests show it at one cut, an intersection-union test; that
    it is not so, one of the two at every cut. The seeds that choose tell the cut, and at each the
    contest that is the less clear one. Where the best size is the same, one of the two advantages
    is 0 or less at every cut, whatever the other and the noise are.

    Args:
        before: The values of the seeds that judge, larger is better; a size that it lacks is not
            the best one.
        after: The same after.
        choosing_before: Those of the seeds that choose, of the same sizes as `before`.
        choosing_after: The same after.

    Raises:
        UntestableError: There are too few sizes.
    """
    sizes = sorted({*before, *after})
    cuts: list[tuple[float, int, dict[int, Contest]]] = []
    for cut in range(1, len(sizes)):
        small, large = sizes[:cut], sizes[cut:]
        sides, leads = {}, {}
        for side, (table, choosing, ones, others) in enumerate(
            ((before, choosing_before, small, large), (after, choosing_after, large, small))
        ):
            ones, others = ([s for s in part if s in table] for part in (ones, others))
            if not ones:
                break
            if others:  # else the best one is one of these as it is
                sides[side] = contest(table, choosing, ones, others)
                leads[side] = max(_mean(choosing[s]) for s in ones) - max(
                    _mean(choosing[s]) for s in others
                )
        else:
            if sides:
                weak = min(leads, key=lambda side: leads[side])
                cuts.append((leads[weak], weak, sides))
    if not cuts:
        raise UntestableError(
            "too few batch sizes reach the target in their trainings to tell whether the best one "
            "moves; give a longer --trial_length"
        )
    _, weak, at = max(cuts, key=lambda one: one[0])
    alternatives = list(at[weak].alternatives)
    needed: tuple[set[int], set[int]] = (set(), set())
    for side, found in at.items():
        needed[side].add(found.one)
    for _, side, sides in cuts:
        needed[side].add(sides[side].other)
        if sides is not at:
            alternatives += [sides[side].effects, *sides[side].alternatives]
    rest = [found for side, found in at.items() if side != weak]
    judged = Contest(
        _best(choosing_after, list(after)),
        _best(choosing_before, list(before)),
        at[weak].effects,
        rivals=(
            *at[weak].rivals,
            *(effects for found in rest for effects in (found.effects, *found.rivals)),
        ),
        alternatives=tuple(alternatives),
    )
    known_before, known_after = (tuple(sorted(cells)) for cells in needed)
    return Shift(judged, known_before, known_after)


def _reversed(effects: Sequence[float]) -> tuple[float, ...]:
    return tuple(-effect for effect in effects)


def _best(choosing: Table, sizes: Sequence[int]) -> int:
    if len(sizes) == 1:
        return sizes[0]
    return max((size for size in sizes if size in choosing), key=lambda s: _mean(choosing[s]))


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)


def restless(effects: Sequence[float], margin: float) -> tuple[str, ...]:
    """Why rounds of timing decide nothing: they differ by more than what matters.

    Their median distance from their median counts, which a few disturbed rounds do not change. An
    effect that exceeds what matters by three times as much is no work of such rounds.

    Args:
        effects: A log ratio of seconds for each round.
        margin: The smallest log ratio that matters.
    """
    if not effects:
        return ()
    middle = statistics.median(effects)
    apart = statistics.median(abs(effect - middle) for effect in effects)
    if apart <= margin or abs(middle) > margin + _CLEAR * apart:
        return ()
    return (
        f"rounds of timing differ by {math.expm1(apart):.1%}, more than the margin of "
        f"{math.expm1(margin):.0%}: time them on an idle machine, in another --run_dir (this one "
        "keeps its times)",
    )


def falls(table: Table) -> tuple[float, ...]:
    """How far the fitted line of the values over log2 B falls from the smallest to the largest."""
    x = [math.log2(size) for size in table]
    middle = statistics.fmean(x)
    squares = sum((value - middle) ** 2 for value in x)
    columns = list(zip(*table.values(), strict=True))
    slopes = [
        sum((a - middle) * y for a, y in zip(x, values, strict=True)) / squares
        for values in columns
    ]
    return tuple(-slope * (max(x) - min(x)) for slope in slopes)


def log_steps(runs: Sequence[StepsToTarget]) -> list[float]:
    """Log of the updates to the target; of one that fell short the log of those it made."""
    return [math.log(run.steps) for run in runs]


def fell_short(*cells: Sequence[StepsToTarget]) -> int:
    """Number of seeds of which some run is only a bound.

    It did not reach the target, or had reached it by the first evaluation already.
    """
    return sum(
        not all(run.reached and not run.at_first for run in pair)
        for pair in zip(*cells, strict=True)
    )


def successes(one: Sequence[StepsToTarget], other: Sequence[StepsToTarget]) -> tuple[float, ...]:
    """1 where only the first of a pair reached the target, -1 where only the second did, else 0."""
    return tuple(float(a.reached) - float(b.reached) for a, b in zip(one, other, strict=True))
