"""KerasTuner's Hyperband on parts of trainings, which go on from one another."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras_tuner

from tfbatch.metric_direction import Direction
from tfbatch.oracles._keras_tuner import KerasTunerOracle
from tfbatch.oracles._oracle import BATCH_SIZE, Part, Proposal, Told, Values

_PARENT = "tuner/trial_id"
_UNITS = "tuner/epochs"
_MOST_COLLISIONS = 1000
"""Draws of what was tried before a space counts as exhausted; with KerasTuner's 20 two of 28 are
left in every second search."""
_KILLED = 2
"""A part whose process has ended so often, for whatever reason, counts as failed."""
_VOID = "tuner/void"
"""Of a place in a bracket that no configuration is left for."""


class _EndlessHyperband(keras_tuner.oracles.HyperbandOracle):  # type: ignore[misc]
    """Without an end but that of the space, and without places that are never filled.

    KerasTuner's own continues none of a round before all of it has completed. It waits for ever
    for a trial that failed, or for a configuration where all were tried.

    Args:
        max_trials: None; the class has no such argument.
        **arguments: As for keras_tuner.oracles.HyperbandOracle.
    """

    def __init__(self, max_trials: None = None, **arguments: Any):
        super().__init__(hyperband_iterations=None, **arguments)
        self._max_collisions = _MOST_COLLISIONS

    def vacate(self, trial_id: str) -> None:
        """Gives the place of an open trial to another: a drawn one, or its parent once more."""
        for bracket in self._brackets:
            for places in bracket["rounds"]:
                places[:] = [place for place in places if place["id"] != trial_id]

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """The next values; where there are none, nothing has been drawn.

        A search that goes on asks for what was proposed, and not for what was not.
        """
        before = self._seed_state
        proposal: dict[str, Any] = super().populate_space(trial_id)
        if proposal["status"] != "RUNNING":
            self._seed_state: int = before
        return proposal

    def _random_trial(self, trial_id: str, bracket: dict[str, Any]) -> dict[str, Any]:
        """In a bracket that has begun the places that are left become void."""
        proposal: dict[str, Any] = super()._random_trial(trial_id, bracket)
        places = bracket["rounds"][0]
        if proposal["status"] == "RUNNING" or not places:
            return proposal
        # KerasTuner fills in values that are missing, without a seed: those of another trial stand
        # for none.
        values = self.trials[places[0]["id"]].hyperparameters.values
        places.append({"past_id": None, "id": trial_id})
        return {"status": "RUNNING", "values": {**values, _VOID: True}}

    def _remove_completed_brackets(self) -> None:
        """Not while one of their trials could still lose its place."""
        if not self.ongoing_trials:
            super()._remove_completed_brackets()


@dataclasses.dataclass(frozen=True)
class _Trained:
    """What stands in a place of a bracket.

    Attributes:
        name: The trial that others go on from.
        batch_size: As searched; None where it is not.
        end: Of the trial, in examples, rounded up to whole updates.
        score: NaN while it is open.
        completed: Whether another can go on from it.
    """

    name: str
    batch_size: object
    end: int
    score: float = math.nan
    completed: bool = False


class HyperbandInParts(KerasTunerOracle):
    """Hyperband whose rounds are parts of one training.

    A trial that KerasTuner continues needs no training where its parent has failed, which is told
    again, or where the last update of its parent's batch size has reached its end already.

    Args:
        hyperparameters: The space.
        direction: Whether a good score is small ("min") or large ("max").
        seed: Positive (KerasTuner takes 0 for "random").
        total_examples: Length of a whole training.
        units: KerasTuner's epochs: into how many parts of one length a training is divided.
        factor: Of its rounds.
        batch_size_of: The batch size that values mean.
    """

    def __init__(
        self,
        hyperparameters: keras_tuner.HyperParameters,
        *,
        direction: Direction,
        seed: int,
        total_examples: int,
        units: int,
        factor: int,
        batch_size_of: Callable[[Values], int],
    ):
        super().__init__(
            _EndlessHyperband,
            hyperparameters,
            direction=direction,
            seed=seed,
            max_epochs=units,
            factor=factor,
        )
        self._total, self._units, self._batch_size_of = total_examples, units, batch_size_of
        self._worst = math.inf if direction == "min" else -math.inf
        self._trained: dict[str, _Trained] = {}
        self._killed = collections.Counter[frozenset[tuple[str, Any]]]()

    def propose(self, trial: str, *, known: Proposal | None, bound: float) -> Proposal | None:
        """See Oracle."""
        # KerasTuner is not told what is known before the trials without a training are left out:
        # they came before it then, too.
        while (own := super().propose(trial, known=None, bound=bound)) is not None:
            place = self._open[trial]
            settled = self._settled(place)
            if settled is None:
                break
            self._trained[place.trial_id] = settled
            super().tell(trial, own, Told(settled.score))
        if own is None:
            return known
        proposal = known or self._proposal(own.values, place)
        self._trained[place.trial_id] = self._as_trained(trial, proposal)
        return proposal

    def tell(self, trial: str, proposal: Proposal, told: Told) -> None:
        """See Oracle."""
        if trial not in self._open:  # it was known, and has no place
            return
        self._trained[self._open[trial].trial_id] = dataclasses.replace(
            self._as_trained(trial, proposal), score=told.score, completed=told.completed
        )
        super().tell(trial, proposal, told)

    def forget(self, trial: str) -> None:
        """See Oracle."""
        if trial in self._open:
            place = self._open[trial]
            self._killed[frozenset(place.hyperparameters.values.items())] += 1
            self._oracle.vacate(place.trial_id)
            super().forget(trial)

    def _settled(self, place: Any) -> _Trained | None:
        """What stands in a place without a training; None where one is needed."""
        values = place.hyperparameters.values
        if _VOID in values:
            return _Trained("", None, 0, self._worst)
        parent = self._parent(place)
        if parent is None:
            return None
        # The bound may have moved the batch size, with which none can go on.
        can_go_on = parent.completed and parent.batch_size == values.get(BATCH_SIZE)
        if not can_go_on or self._killed[frozenset(values.items())] >= _KILLED:
            return dataclasses.replace(parent, score=self._worst, completed=False)
        return parent if parent.end >= self._end(place) else None

    def _proposal(self, values: Values, place: Any) -> Proposal:
        parent, end = self._parent(place), self._end(place)
        part = Part(
            to_examples=end if end < self._total else None,
            parent=None if parent is None else parent.name,
        )
        return Proposal(values, None if part == Part() else part)

    def _parent(self, place: Any) -> _Trained | None:
        parent = place.hyperparameters.values.get(_PARENT)
        return None if parent is None else self._trained[parent]

    def _end(self, place: Any) -> int:
        """Where the round of a place ends."""
        units = int(place.hyperparameters.values[_UNITS])
        return max(round(self._total * units / self._units), 1)

    def _as_trained(self, trial: str, proposal: Proposal) -> _Trained:
        size, part = self._batch_size_of(proposal.values), proposal.part
        end = part.to_examples if part and part.to_examples else self._total
        whole_updates = min(-(-end // size) * size, self._total)
        return _Trained(trial, proposal.values.get(BATCH_SIZE), whole_updates)
