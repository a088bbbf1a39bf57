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
from tfbatch.oracles._memory_bound import with_memory_bound
from tfbatch.oracles._oracle import BATCH_SIZE, Part, Proposal, Told, Values

_PARENT = "tuner/trial_id"
_UNITS = "tuner/epochs"
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

    Attributes:
        is_full: Whether as many configurations were begun as the search may try.
    """

    is_full = False

    def __init__(self, max_trials: None = None, **arguments: Any):
        super().__init__(hyperband_iterations=None, **arguments)

    def vacate(self, trial_id: str) -> None:
        """Gives the place of an open trial to another: a drawn one, or its parent once more."""
        for bracket in self._brackets:
            for places in bracket["rounds"]:
                places[:] = [place for place in places if place["id"] != trial_id]

    def _random_trial(self, trial_id: str, bracket: dict[str, Any]) -> dict[str, Any]:
        """In a bracket that has begun the places that are left become void.

        A search that is full draws only where nothing runs, which ends it: what runs may still be
        continued, and KerasTuner draws wherever nothing can be continued at the moment.
        """
        if self.is_full and self.ongoing_trials:
            return {"status": "IDLE"}
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
class _Known:
    """What an earlier session proposed.

    Attributes:
        values: Of the space.
        units: KerasTuner's epochs up to its end.
        parents: Trials of KerasTuner that stand for what it goes on from; None where it begins.
    """

    values: Values
    units: int
    parents: frozenset[str] | None


class _PlacingHyperband(with_memory_bound(_EndlessHyperband)):  # type: ignore[misc]
    """Gives what an earlier session ran the place that it had there.

    Several trials may have run side by side then. By now all that have ended are known, and
    KerasTuner, asked once more, might continue another one.

    Args:
        **arguments: As for keras_tuner.oracles.HyperbandOracle.

    Attributes:
        settles: Whether a trial of some values needs no training.
        earlier: What is to be placed; None for what KerasTuner proposes.
        has_placed: Whether the last trial is what was to be placed.
    """

    settles: Callable[[Values], bool]
    earlier: _Known | None = None
    has_placed = False
    _seed_state: int
    _current_bracket: int
    _current_iteration: int

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """The next values; where there are none, nothing has changed.

        A search that goes on asks for what was proposed, and not for what was not. Trials without
        a training came before it then, too.
        """
        self.has_placed = False
        self._remove_completed_brackets()
        brackets = len(self._brackets)
        before = self._seed_state, self._current_bracket, self._current_iteration
        proposal: dict[str, Any] = super().populate_space(trial_id)
        is_next = proposal["status"] == "RUNNING"
        if is_next and (self.earlier is None or self.settles(proposal["values"])):
            return proposal
        self.vacate(trial_id)
        del self._brackets[brackets:]
        self._seed_state, self._current_bracket, self._current_iteration = before
        placed = self._place(trial_id, self.earlier) if self.earlier else None
        self.has_placed = placed is not None
        return placed or {"status": "IDLE"}

    def _place(self, trial_id: str, known: _Known) -> dict[str, Any] | None:
        """Places what is known; None where what it goes on from has no place."""
        parent: str | None = None
        if known.parents is None:
            self._random_values()  # what is drawn after it depends on it
            bracket, number = self._begun_in(known.units), 0
        else:
            found = self._continued_in(known.parents)
            if found is None:
                return None
            bracket, number, parent = found
        bracket["rounds"][number].append({"past_id": parent, "id": trial_id})
        kind = bracket["bracket_num"]
        own = {
            _UNITS: self._get_epochs(kind, number),
            "tuner/initial_epoch": self._get_epochs(kind, number - 1) if number else 0,
            "tuner/bracket": self._current_bracket,
            "tuner/round": number,
        }
        if parent is not None:
            own[_PARENT] = parent
        return {"status": "RUNNING", "values": {**known.values, **own}}

    def _begun_in(self, units: int) -> dict[str, Any]:
        """The bracket in which a configuration begins: one with room, of its length if possible."""

        def begins(kind: int) -> bool:
            return bool(self._get_epochs(kind, 0) == units)

        with_room: list[dict[str, Any]] = [
            bracket
            for bracket in self._brackets
            if len(bracket["rounds"][0]) < self._get_size(bracket["bracket_num"], 0)
        ]
        fitting = [bracket for bracket in with_room if begins(bracket["bracket_num"])]
        following = (self._current_bracket or self._get_num_brackets()) - 1
        if fitting or (with_room and not begins(following)):
            return (fitting or with_room)[0]
        self._increment_bracket_num()
        self._start_new_bracket()
        opened: dict[str, Any] = self._brackets[-1]
        return opened

    def _continued_in(self, parents: frozenset[str]) -> tuple[dict[str, Any], int, str] | None:
        """Bracket, round, and which of some trials goes on there: what has come furthest."""
        found = None
        for bracket in self._brackets:
            rounds = bracket["rounds"]
            for number in range(1, len(rounds)):
                selected = {place["past_id"] for place in rounds[number]}
                for place in rounds[number - 1]:
                    if place["id"] in parents - selected:
                        found = bracket, number, place["id"]
        return found


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
        max_trials: How many configurations the search may begin; None for no end.
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
        max_trials: int | None = None,
    ):
        super().__init__(
            _PlacingHyperband,
            hyperparameters,
            direction=direction,
            seed=seed,
            max_epochs=units,
            factor=factor,
        )
        self._total, self._units, self._batch_size_of = total_examples, units, batch_size_of
        self._worst = math.inf if direction == "min" else -math.inf
        self._trained: dict[str, _Trained] = {}
        self._most = math.inf if max_trials is None else max_trials
        self._begun = 0
        self._oracle.settles = lambda values: self._settled(values) is not None
        self._killed = collections.Counter[frozenset[tuple[str, Any]]]()

    def propose(self, trial: str, *, known: Proposal | None, bound: float) -> Proposal | None:
        """See Oracle."""
        self._oracle.is_full = self._begun >= self._most
        while True:
            self._oracle.earlier = None if known is None else self._as_known(known)
            own = super().propose(trial, known=None, bound=bound)
            if own is None:  # what is known may have no place
                self._begun += known is not None and _begins(known)
                return known
            place = self._open[trial]
            settled = self._settled(place.hyperparameters.values)
            if settled is None or self._oracle.has_placed:
                break
            self._trained[place.trial_id] = settled
            super().tell(trial, own, Told(settled.score))
        proposal = known or self._proposal(own.values, place.hyperparameters.values)
        self._trained[place.trial_id] = self._as_trained(trial, proposal)
        self._begun += _begins(proposal)
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

    def _as_known(self, proposal: Proposal) -> _Known:
        part = proposal.part or Part()
        units = round((part.to_examples or self._total) * self._units / self._total)
        if part.parent is None:
            return _Known(proposal.values, units, None)
        parents = (at for at, one in self._trained.items() if one.name == part.parent)
        return _Known(proposal.values, units, frozenset(parents))

    def _settled(self, values: Values) -> _Trained | None:
        """What stands in a place without a training; None where one is needed."""
        if _VOID in values:
            return _Trained("", None, 0, self._worst)
        parent = self._parent(values)
        if parent is None:
            return None
        # The bound may have moved the batch size, with which none can go on.
        can_go_on = parent.completed and parent.batch_size == values.get(BATCH_SIZE)
        if not can_go_on or self._killed[frozenset(values.items())] >= _KILLED:
            return dataclasses.replace(parent, score=self._worst, completed=False)
        return parent if parent.end >= self._end(values) else None

    def _proposal(self, values: Values, placed: Values) -> Proposal:
        parent, end = self._parent(placed), self._end(placed)
        part = Part(
            to_examples=end if end < self._total else None,
            parent=None if parent is None else parent.name,
        )
        return Proposal(values, None if part == Part() else part)

    def _parent(self, placed: Values) -> _Trained | None:
        parent = placed.get(_PARENT)
        return None if parent is None else self._trained[str(parent)]

    def _end(self, placed: Values) -> int:
        """Where the round of a place ends."""
        return max(round(self._total * int(placed[_UNITS]) / self._units), 1)

    def _as_trained(self, trial: str, proposal: Proposal) -> _Trained:
        size, part = self._batch_size_of(proposal.values), proposal.part
        end = part.to_examples if part and part.to_examples else self._total
        whole_updates = min(-(-end // size) * size, self._total)
        return _Trained(trial, proposal.values.get(BATCH_SIZE), whole_updates)


def _begins(proposal: Proposal) -> bool:
    return proposal.part is None or proposal.part.parent is None
