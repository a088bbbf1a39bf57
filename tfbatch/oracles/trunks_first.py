"""Trunks first, for an early answer, then whole trainings by another oracle that knows of theirs.

Trunks find batch size and rate for the price of two or three trainings, near what they expect, and
end; an oracle of whole trainings finds what lies elsewhere, and needs many. The second one is told
of every whole training of the first one, and searches the whole space.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, SerializeAsAny, field_validator

from tfbatch.metric_direction import Direction
from tfbatch.oracles import trunks
from tfbatch.oracles._oracle import (
    BATCH_SIZE,
    NOTHING_KNOWN,
    Belief,
    Oracle,
    OracleSettings,
    Premises,
    Proposal,
    Stage,
    StagedOracle,
    Stop,
    Told,
)
from tfbatch.schema import as_named

if TYPE_CHECKING:
    import keras_tuner

_STAGE = "whole trainings"


class Settings(OracleSettings):
    """What the two of them are told.

    Attributes:
        first: Settings of `trunks`.
        then: The oracle of whole trainings, by its name, with its parameters.
        whole_trainings: How many of them it proposes.
    """

    in_parts: ClassVar[bool] = True
    prices: ClassVar[bool] = True
    first: trunks.Settings = trunks.Settings(name="trunks")
    then: SerializeAsAny[OracleSettings] = Field(default="bayesian", validate_default=True)
    whole_trainings: int = Field(default=12, ge=1)

    @field_validator("first", mode="before")
    @classmethod
    def _of_trunks(cls, value: Any) -> Any:
        written = as_named(value)
        return {"name": "trunks", **written} if isinstance(written, dict) else written

    @field_validator("first")
    @classmethod
    def _named_trunks(cls, value: trunks.Settings) -> trunks.Settings:
        if value.name != "trunks":
            raise ValueError(f"must be settings of trunks. Received: {value.name}")
        return value

    @field_validator("then", mode="before")
    @classmethod
    def _plug_in(cls, value: Any) -> Any:
        from tfbatch.oracles import make_settings

        written = as_named(value)
        if not isinstance(written, dict):
            return written
        if "name" not in written:
            raise ValueError(f"must name an oracle, such as bayesian. Received: {written}")
        return make_settings(**written)

    @field_validator("then")
    @classmethod
    def _of_whole_trainings(cls, value: OracleSettings) -> OracleSettings:
        if value.in_parts:
            raise ValueError(f"must propose whole trainings, and {value.name} proposes parts")
        return value

    def most_trainings(self) -> float:
        """See OracleSettings; a whole training counts as one, whatever its batch size."""
        return self.first.most_trainings() + self.whole_trainings

    def make(
        self,
        hyperparameters: keras_tuner.HyperParameters,
        *,
        direction: Direction,
        seed: int,
        total_examples: int,
        premises: Premises = NOTHING_KNOWN,
    ) -> Oracle:
        """See OracleSettings."""
        first, then = (
            settings.make(
                hyperparameters,
                direction=direction,
                seed=seed,
                total_examples=total_examples,
                premises=premises,
            )
            for settings in (self.first, self.then)
        )
        if not isinstance(first, StagedOracle):
            raise TypeError(f"Trunks know their stages. Received: {first!r}.")
        baseline = premises.baseline.batch_size if premises.baseline else None
        cost = premises.prices.cost(baseline or 1, total_examples)
        one = Stage(_STAGE, done=0, planned=1, examples=total_examples, cost=cost)
        return _TrunksFirst(first, then, self.whole_trainings, one, direction)


class _TrunksFirst:
    """Proposes what the first one does, and when it stops, what the second one does.

    Whose a proposal of an earlier session was can be read off it: of trunks each begins with a
    numbered seed or goes on from another.

    Args:
        first: Trunks.
        then: Proposes whole trainings.
        whole_trainings: How many.
        one: The stage of a single whole training.
        direction: Whether a good score is small ("min") or large ("max").
    """

    size = None

    def __init__(
        self,
        first: StagedOracle,
        then: Oracle,
        whole_trainings: int,
        one: Stage,
        direction: Direction,
    ):
        self._first, self._then, self._one = first, then, one
        self._whole_trainings = whole_trainings
        self._sign = 1.0 if direction == "min" else -1.0
        self._firsts: dict[str, tuple[Proposal, Told]] = {}
        self._thens: dict[str, tuple[Proposal, Told | None]] = {}
        self._best_of_first = math.inf
        self._has_stopped = False

    def propose(
        self, trial: str, *, known: Proposal | None, bound: float
    ) -> Proposal | Stop | None:
        """See Oracle."""
        if not self._has_stopped and (known is None or not _is_whole_of_its_own(known)):
            proposal = self._first.propose(trial, known=known, bound=bound)
            if not isinstance(proposal, Stop):
                return proposal
        if not self._has_stopped:
            self._has_stopped = True
            each = {frozenset(p.values.items()): name for name, (p, _) in self._firsts.items()}
            for name in sorted(each.values()):  # in whatever order they ended
                self._pass_on(name, bound)
        if known is None and len(self._thens) >= self._whole_trainings:
            if any(told is None for _, told in self._thens.values()):
                return None  # one that is killed is made again
            return Stop(
                f"The search has made its {self._whole_trainings} whole trainings, and ends."
            )
        found = self._then.propose(trial, known=known, bound=bound)
        if isinstance(found, Proposal):
            # By a number it would be taken for one of the trunks.
            found = dataclasses.replace(found, seed=None)
            self._thens[trial] = found, None
        return found

    def tell(self, trial: str, proposal: Proposal, told: Told) -> None:
        """See Oracle."""
        if trial in self._thens:
            self._thens[trial] = proposal, told
            self._then.tell(trial, proposal, told)
            return
        self._first.tell(trial, proposal, told)
        if told.completed and _is_of_full_length(proposal):
            self._best_of_first = min(self._best_of_first, self._sign * told.score)
        if not told.completed or _is_whole(proposal):
            self._firsts[trial] = proposal, told

    def forget(self, trial: str) -> None:
        """See Oracle."""
        if self._thens.pop(trial, None):
            self._then.forget(trial)
        else:
            self._first.forget(trial)

    def _pass_on(self, trial: str, bound: float) -> None:
        """Tells the second one; what diverges as a part would diverge whole."""
        proposal, told = self._firsts[trial]
        whole = Proposal(proposal.values)
        self._then.propose(trial, known=whole, bound=bound)
        self._then.tell(trial, whole, told)

    def stages(self) -> Sequence[Stage]:
        """See StagedOracle."""
        done = sum(told is not None for _, told in self._thens.values())
        left = self._whole_trainings - done
        last = Stage(_STAGE, done, done + left, left * self._one.examples, left * self._one.cost)
        before = self._first.stages()
        if self._has_stopped:  # it may end before what it has planned
            before = [Stage(one.name, one.done, one.done, 0, 0.0) for one in before]
        return [*before, last]

    def belief(self) -> Belief | None:
        """See StagedOracle: the best whole training, once the second one has a better one."""
        best = min(
            (
                (self._sign * told.score, name)
                for name, (_, told) in self._thens.items()
                if told and told.completed
            ),
            default=None,
        )
        if best is None or best[0] >= self._best_of_first:
            return self._first.belief()
        values = self._thens[best[1]][0].values
        size = f"now batch size {values[BATCH_SIZE]}" if BATCH_SIZE in values else "now"
        return Belief(values, f"{size} by the best of the whole trainings, {best[1]}")


def _is_of_full_length(proposal: Proposal) -> bool:
    part = proposal.part
    return part is None or (part.to_examples, part.total_examples) == (None, None)


def _is_whole(proposal: Proposal) -> bool:
    """Whether it is, to its end, what its values say; a cool-down that branched off is not."""
    part = proposal.part
    return _is_of_full_length(proposal) and (part is None or part.schedule is None)


def _is_whole_of_its_own(proposal: Proposal) -> bool:
    return proposal.part is None and proposal.seed is None
