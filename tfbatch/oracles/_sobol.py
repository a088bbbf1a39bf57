"""Quasi-random search: scrambled Sobol points instead of independent draws."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import keras_tuner

from tfbatch.errors import InputError
from tfbatch.oracles._spread import spread_points

_AT_LEAST = 64
"""Trials that points are made for where their number is not limited."""


@dataclasses.dataclass
class _Kept:
    """What is kept from one proposal to the next: it takes seconds after 10,000 trials.

    Attributes:
        names: Of the space's hyperparameters; None before the first proposal.
        made: The number of points that were made.
        different: How many of them are not the same.
        untried: Those that were not found among the trials that have ended.
        ended: By the names of a point's values, those of the trials that have ended.
        looked_at: How many of these trials that is.
    """

    names: list[str] | None = None
    made: int = 0
    different: int = 0
    untried: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    ended: dict[tuple[str, ...], set[tuple[Any, ...]]] = dataclasses.field(default_factory=dict)
    looked_at: int = 0


class SobolOracle(keras_tuner.Oracle):  # type: ignore[misc]
    """Proposes scrambled Sobol points (Owen 1998, doi 10.1006/jcom.1998.0487).

    Of the first 2**k points each 1/2**k of every range holds exactly one: with eight batch sizes
    the first eight trials try each once, where independent draws leave out a third of them.

    Example:
        ```python
        oracle = tfbatch.oracles.SobolOracle(objective="val_loss", max_trials=16, seed=1)
        tuner = keras_tuner.Tuner(oracle=oracle, hypermodel=build_model, directory="search")
        ```

    Args:
        objective: As for any oracle of KerasTuner.
        max_trials: Number of trials, at least 1; None for no limit but the space's.
        hyperparameters: A space, or None for that of the hypermodel.
        seed: Of the scrambling; positive (KerasTuner takes 0 for "random").
        tune_new_entries: See keras_tuner.Oracle.
        allow_new_entries: See keras_tuner.Oracle.
        max_retries_per_trial: See keras_tuner.Oracle.
        max_consecutive_failed_trials: See keras_tuner.Oracle.

    Raises:
        InputError: No number of trials, or a seed that is not positive.
    """

    def __init__(
        self,
        objective: str | keras_tuner.Objective | None = None,
        max_trials: int | None = 16,
        *,
        hyperparameters: keras_tuner.HyperParameters | None = None,
        seed: int = 1,
        tune_new_entries: bool = True,
        allow_new_entries: bool = True,
        max_retries_per_trial: int = 0,
        max_consecutive_failed_trials: int = 3,
    ):
        if seed < 1 or (max_trials is not None and max_trials < 1):
            raise InputError(
                "`max_trials` and `seed` must be >= 1: KerasTuner takes a seed of 0 for random. "
                f"Received: {max_trials=}, {seed=}."
            )
        super().__init__(
            objective=objective,
            max_trials=max_trials,
            hyperparameters=hyperparameters,
            seed=seed,
            tune_new_entries=tune_new_entries,
            allow_new_entries=allow_new_entries,
            max_retries_per_trial=max_retries_per_trial,
            max_consecutive_failed_trials=max_consecutive_failed_trials,
        )
        self._kept = _Kept()

    def accepts(self, values: dict[str, object]) -> bool:
        """Whether a point may be proposed; `with_memory_bound` leaves out those that cannot fit."""
        del values
        return True

    def populate_space(self, trial_id: str) -> dict[str, object]:
        """The next point; a space of few choices ends when all of them were tried."""
        del trial_id
        names = [parameter.name for parameter in self.hyperparameters.space]
        if not names and not self.trials:  # nothing to search yet: the defaults
            return {"status": "RUNNING", "values": {}}
        if names != self._kept.names:  # a hypermodel has found new hyperparameters
            self._kept = _Kept(names)
        # More points than trials, since two may come to the same choices, or be too large.
        trials = self.max_trials or max(len(self.trials) + 1, _AT_LEAST)
        count = 2 ** math.ceil(math.log2(4 * trials))
        while (values := self._first_untried()) is None:
            if self._kept.made >= 64 * count or not self._more_points(
                max(count, 4 * self._kept.made)
            ):
                return {"status": "STOPPED", "values": None}
        return {"status": "RUNNING", "values": values}

    def set_state(self, state: dict[str, Any]) -> None:
        """Other trials than before."""
        super().set_state(state)
        self._kept = _Kept()

    def _more_points(self, count: int) -> bool:
        """Appends the points up to a number; False where they are no others."""
        points = spread_points(self.get_space(), count=count, seed=self.seed)
        more = points[self._kept.different :]  # the first ones are the same as before
        self._kept.made, self._kept.different = count, len(points)
        self._kept.untried += more
        return bool(more)

    def _first_untried(self) -> dict[str, Any] | None:
        """The first point that is accepted and was not tried; those that were are dropped."""
        news = [self.trials[trial_id] for trial_id in self.end_order[self._kept.looked_at :]]
        for names, ended in self._kept.ended.items():
            ended |= _of(news, names)
        self._kept.looked_at = len(self.end_order)
        waiting = [*self.ongoing_trials.values(), *(self.trials[k] for k in self._retry_queue)]
        others: dict[tuple[str, ...], set[tuple[Any, ...]]] = {}
        found, passed = None, 0
        for values in self._kept.untried:
            passed += 1
            if self._has_ended(values) or not self.accepts(values):
                continue
            names = tuple(values)
            if names not in others:
                others[names] = _of(waiting, names)
            if tuple(values.values()) not in others[names]:
                found = values
                break
        before = self._kept.untried[:passed]
        self._kept.untried[:passed] = [values for values in before if not self._has_ended(values)]
        return found

    def _has_ended(self, values: dict[str, Any]) -> bool:
        """Whether a trial that has ended, and may know more hyperparameters, had these values."""
        names = tuple(values)
        if names not in self._kept.ended:
            ended = (self.trials[trial_id] for trial_id in self.end_order[: self._kept.looked_at])
            self._kept.ended[names] = _of(ended, names)
        return tuple(values.values()) in self._kept.ended[names]


def _of(trials: Iterable[Any], names: Sequence[str]) -> set[tuple[Any, ...]]:
    """The values that trials have under these names; a trial that lacks one has others."""
    tried = (trial.hyperparameters.values for trial in trials)
    return {tuple(v[name] for name in names) for v in tried if all(name in v for name in names)}
