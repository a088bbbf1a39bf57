"""What a claim is, and what a card finds out about it."""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
from typing import TYPE_CHECKING, Literal

from tfbatch.errors import TfbatchError

if TYPE_CHECKING:
    from tfbatch.estimators.verdict import Kind, Verdict  # imports SciPy

Axis = Literal[
    "epochs",
    "updates",
    "time to target",
    "step time",
    "memory",
    "one gradient",
    "training loss",
    "gradient evaluations",
]
"""What is equal, or counted: the same epochs, the same updates, seconds until a target is reached,
seconds of a step, bytes, gradients at given weights, without training, the same training loss, or
the same number of gradients, each of one batch and those of line searches too."""
Policy = Literal["fixed", "scaled", "tuned", "no"]
"""The learning rate at each batch size: the same, by the optimizer's rule, or searched."""


@dataclasses.dataclass(frozen=True)
class Criterion:
    """One test of a claim.

    Attributes:
        card: The card that makes it, such as "X3".
        statistic: What is measured for each pair, positive where the claim is right.
        kind: The rule that judges it; see tfbatch.estimators.verdict.
        name: What tells it from the claim's other parts; empty for the only one.
    """

    card: str
    statistic: str
    kind: Kind = "difference"
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Claim:
    """A sentence that is said about batch size, and what decides it: all of its parts.

    Attributes:
        number: Such as "C13".
        name: Readable, such as "bigger-is-faster"; the name of `--claim`.
        statement: One English sentence.
        parts: Its tests. The claim holds only if all of them hold.
    """

    number: str
    name: str
    statement: str
    parts: tuple[Criterion, ...]

    @property
    def cards(self) -> tuple[str, ...]:
        """The cards that it needs, each once."""
        return tuple(dict.fromkeys(part.card for part in self.parts))

    def statistic(self) -> str:
        """What decides, in one line."""
        return "; ".join(f"{p.name}: {p.statistic}" if p.name else p.statistic for p in self.parts)


class UntestableError(TfbatchError):
    """This model, data or machine cannot test a part of a claim; the message is the reason."""


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What a card has found about one part of a claim.

    Attributes:
        claim: The claim's name.
        effects: One value for each pair of seeds, or round of timing, positive where the claim is
            right; what cannot be tested has none.
        margin: The smallest effect that matters, fixed before the effects were known.
        unit: Of the effects, such as "log ratio".
        axis: What is equal.
        policy: How the learning rate follows the batch size.
        finding: The figures in one sentence.
        part: The name of the claim's part.
        doubts: What forbids a decision.
        censored: How many effects are only bounds.
        untestable: Why it cannot be tested on this model, data or machine; empty where it can.
        rivals: Where sizes were chosen, the effects against each other size that could be the best
            rival: HOLDS must be so of all.
        alternatives: The effects of each other size that the claim could mean against the chosen
            rival: DOES NOT HOLD must be so of all.
        every: Whether the claim is about every case, and effects and rivals are the cases: one that
            fails is enough against it, and nothing was chosen.
    """

    claim: str
    effects: tuple[float, ...]
    margin: float
    unit: str
    axis: Axis
    policy: Policy
    finding: str
    part: str = ""
    doubts: tuple[str, ...] = ()
    censored: int = 0
    untestable: str = ""
    rivals: tuple[tuple[float, ...], ...] = ()
    alternatives: tuple[tuple[float, ...], ...] = ()
    every: bool = False

    def verdict(self, kind: Kind) -> Verdict:
        """The rule's word on it."""
        from tfbatch.estimators.verdict import Verdict, in_every_case, judge, unanimous

        if self.untestable:
            return Verdict("NOT TESTABLE HERE", reason=self.untestable, margin=self.margin)
        rule = functools.partial(
            judge, kind=kind, margin=self.margin, censored=self.censored, doubts=self.doubts
        )
        chosen = rule(self.effects)
        if self.every:
            return in_every_case([chosen, *map(rule, self.rivals)])
        others = {"HOLDS": self.rivals, "DOES NOT HOLD": self.alternatives}.get(chosen.word, ())
        return unanimous(chosen, [rule(effects) for effects in others])

    def shown_by(self, verdict: Verdict) -> tuple[float, ...]:
        """The pairs that a verdict on it has its figures from: of several comparisons one."""
        every = (self.effects, *self.rivals, *self.alternatives)
        shown = (
            effects
            for effects in every
            if effects and math.isclose(statistics.fmean(effects), verdict.estimate, rel_tol=1e-9)
        )
        return next(shown, self.effects)
