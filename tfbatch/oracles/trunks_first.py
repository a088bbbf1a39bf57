"""Trunks first, for an early answer, then whole trainings by another oracle that knows of theirs.

Trunks find batch size and rate for the price of two or three trainings, near what they expect, and
end; an oracle of whole trainings finds what lies elsewhere, and needs many. The second one is told
of every whole training of the first one, and searches the whole space. It is worth its price where
the user began with something poor, which the trunks show: they have then found something better.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
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

_STAGE = "whole trainings, where trunks gain"


class Settings(OracleSettings):
    """What the two of them are told.

    Attributes:
        first: Settings of `trunks`.
        then: The oracle of whole trainings, by its name, with its parameters.
        whole_trainings: How many of them it proposes.
        gain: They follow only where the trunks' best whole training is better than the baseline's
            by more than so many margins (see Premises); None: in any case.
        fewest_trials: A run that may try fewer configurations makes whole trainings alone: trunks
            would end before their first.
    """

    in_parts: ClassVar[bool] = True
    prices: ClassVar[bool] = True
    first: trunks.Settings = trunks.Settings(name="trunks")
    then: SerializeAsAny[OracleSettings] = Field(default="bayesian", validate_default=True)
    whole_trainings: int = Field(default=12, ge=1)
    gain: float | None = Field(default=0.5, ge=0, allow_inf_nan=False)
    fewest_trials: int = Field(default=12, ge=0)

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

    def needed_trainings(self, max_trials: int) -> float | None:
        """See OracleSettings: with the trunks there is an answer."""
        if max_trials < self.fewest_trials:
            return self.then.needed_trainings(max_trials)
        return self.first.needed_trainings(max_trials)

    def branches(self, schedules: Collection[str]) -> bool:
        """See OracleSettings: the trunks do."""
        return self.first.branches(schedules)

    def in_whole_trainings(self) -> OracleSettings:
        """See OracleSettings."""
        return self.then

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
        return _TrunksFirst(first, then, self, one, direction, premises)


class _TrunksFirst:
    """Proposes what the first one does, and when it stops, what the second one does.

    Whose a proposal of an earlier session was can be read off it: of trunks each begins with a
    numbered seed or goes on from another.

    Args:
        first: Trunks.
        then: Proposes whole trainings.
        settings: See Settings.
        one: The stage of a single whole training.
        direction: Whether a good score is small ("min") or large ("max").
        premises: What is known beforehand.
    """

    size = None

    def __init__(
        self,
        first: StagedOracle,
        then: Oracle,
        settings: Settings,
        one: Stage,
        direction: Direction,
        premises: Premises,
    ):
        self._first, self._then, self._one = first, then, one
        self._whole_trainings, self._gain = settings.whole_trainings, settings.gain
        self._premises = premises
        self._sign = 1.0 if direction == "min" else -1.0
        self._firsts: dict[str, tuple[Proposal, Told]] = {}
        self._thens: dict[str, tuple[Proposal, Told | None]] = {}
        self._best_of_first = math.inf
        self._begun_by_first = 0
        most = premises.max_trials
        self._has_stopped = most is not None and most < settings.fewest_trials
        self._goes_on = self._has_stopped
        self._has_ended = False

    def propose(
        self, trial: str, *, known: Proposal | None, bound: float
    ) -> Proposal | Stop | None:
        """See Oracle."""
        is_of_first = known is not None and not _is_whole_of_its_own(known)
        if is_of_first and not self._thens:  # of a session that might try more
            self._has_stopped = self._goes_on = False
        if is_of_first or (known is None and not self._has_stopped):
            proposal = self._first.propose(trial, known=known, bound=bound)
            if not isinstance(proposal, Stop):
                self._begun_by_first += proposal is not None and _begins(proposal)
                return proposal
        if not self._has_stopped:
            self._has_stopped = True
            each = {frozenset(p.values.items()): name for name, (p, _) in self._firsts.items()}
            for name in sorted(each.values()):  # in whatever order they ended
                self._pass_on(name, bound)
        if known is None and not self._goes_on:
            baseline = self._baseline()
            if baseline is None:
                return None  # it is being trained
            if not self._is_worth_more(baseline):
                self._has_ended = True
                return Stop(self._why_no_more(baseline))
        self._goes_on = True
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

    def _baseline(self) -> Told | None:
        """What the baseline has come to: nothing good where nobody trains it; None for not yet."""
        told = self._premises.baseline_told
        return Told(0.0, "error") if told is None else told()

    def _is_worth_more(self, baseline: Told) -> bool:
        """Whether the baseline was far from what the trunks have found."""
        if self._gain is None or not baseline.completed or math.isinf(self._best_of_first):
            return True
        found = self._sign * baseline.score - self._best_of_first
        return found > self._gain * self._premises.margin

    def _why_no_more(self, baseline: Told) -> str:
        return (
            f"The trunks' best whole training came to {self._sign * self._best_of_first:.4g}, the "
            f"baseline to {baseline.score:.4g}: not better by more than "
            f"{(self._gain or 0.0) * self._premises.margin:.3g}, so that no whole trainings over "
            "the whole space follow. --search=joint makes 24 in any case."
        )

    def _pass_on(self, trial: str, bound: float) -> None:
        """Tells the second one; what diverges as a part would diverge whole."""
        proposal, told = self._firsts[trial]
        whole = Proposal(proposal.values)
        self._then.propose(trial, known=whole, bound=bound)
        self._then.tell(trial, whole, told)

    def stages(self) -> Sequence[Stage]:
        """See StagedOracle."""
        done = sum(told is not None for _, told in self._thens.values())
        most = self._premises.max_trials
        room = math.inf if most is None else most - self._begun_by_first
        left = max(int(min(self._whole_trainings, room)) - done, 0)
        if self._has_ended:
            left = 0
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


def _begins(proposal: Proposal) -> bool:
    return proposal.part is None or proposal.part.parent is None


def _is_whole_of_its_own(proposal: Proposal) -> bool:
    return proposal.part is None and proposal.seed is None
