"""An oracle of KerasTuner, asked and told directly: without a tuner and without files."""

from __future__ import annotations

from typing import Any

import keras_tuner
import numpy as np
import threadpoolctl

from tfbatch.metric_direction import Direction
from tfbatch.oracles._memory_bound import with_memory_bound
from tfbatch.oracles._oracle import Proposal, Told

_SCORE = "score"
MOST_COLLISIONS = 1000
"""Draws of what was tried before a space counts as exhausted. With KerasTuner's 20 the last of 40
configurations is missed in six of ten searches."""


class _Replayed:
    """Mixed in before an oracle's class: the run folder's journal is the only truth."""

    known: dict[str, Any] | None = None

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """What the oracle proposes, or what the journal says that was tried instead."""
        proposal: dict[str, Any] = super().populate_space(trial_id)  # type: ignore[misc]
        if self.known is None:
            return proposal
        return {**proposal, "status": "RUNNING", "values": dict(self.known)}

    def _record_values(self, trial: Any) -> None:
        """Remembers what was tried, as KerasTuner does, and leaves the values as they are.

        KerasTuner takes the value of a name away, or draws another one, where the name is declared
        again under a condition that does not hold.
        """
        now = self._compute_values_hash(trial.hyperparameters.values)  # type: ignore[attr-defined]
        before = self._id_to_hash[trial.trial_id]  # type: ignore[attr-defined]
        self._id_to_hash[trial.trial_id] = now  # type: ignore[attr-defined]
        self._tried_so_far.discard(before)  # type: ignore[attr-defined]
        self._tried_so_far.add(now)  # type: ignore[attr-defined]

    def _check_consecutive_failures(self) -> None:
        """Three killed workers must not end a search; all trials would be counted after each."""

    def save(self) -> None:
        """Writes nothing."""

    def _save_trial(self, trial: Any) -> None:
        """Writes nothing."""


class KerasTunerOracle:
    """An `Oracle` of one of KerasTuner's.

    Args:
        oracle: A class derived from keras_tuner.Oracle. `with_memory_bound` is put around it.
        hyperparameters: The space.
        direction: Whether a good score is small ("min") or large ("max").
        seed: Positive (KerasTuner takes 0 for "random").
        **arguments: More for the class, beside those of every keras_tuner.Oracle.

    Raises:
        InputError: The class is no oracle.
    """

    size = None

    def __init__(
        self,
        oracle: type[keras_tuner.Oracle],
        hyperparameters: keras_tuner.HyperParameters,
        *,
        direction: Direction,
        seed: int,
        **arguments: object,
    ):
        kind = type(oracle.__name__, (_Replayed, with_memory_bound(oracle)), {})
        self._oracle = kind(
            objective=keras_tuner.Objective(_SCORE, direction),
            max_trials=None,  # the search counts: a larger budget must extend it
            hyperparameters=hyperparameters,
            allow_new_entries=False,
            seed=seed,
            **arguments,
        )
        self._oracle.verbose = 0
        self._oracle._max_collisions = MOST_COLLISIONS
        self._open: dict[str, Any] = {}

    def propose(self, trial: str, *, known: Proposal | None, bound: float) -> Proposal | None:
        """See Oracle."""
        self._oracle.known = None if known is None else dict(known.values)
        self._oracle.smallest_that_failed = bound
        # One thread: for so few points more threads only wait for one another (three times slower
        # beside a busy core), and the proposal would depend on their number.
        with threadpoolctl.threadpool_limits(1):
            # Asked twice under one name, KerasTuner would give the same trial.
            created = self._oracle.create_trial(trial)
        if created.status != "RUNNING":
            return None
        self._open[trial] = created
        hyperparameters = created.hyperparameters
        return Proposal(
            {
                name: float(value) if isinstance(value, np.floating) else value
                for name, value in hyperparameters.values.items()
                if hyperparameters.is_active(name)
            }
        )

    def tell(self, trial: str, proposal: Proposal, told: Told) -> None:
        """See Oracle."""
        ended = self._open.pop(trial)
        ended.hyperparameters.values = dict(proposal.values)
        self._oracle.update_trial(ended.trial_id, {_SCORE: told.score})
        ended.status = "COMPLETED"
        self._oracle.end_trial(ended)

    def forget(self, trial: str) -> None:
        """See Oracle."""
        ended = self._open.pop(trial)
        ended.status = "INVALID"
        self._oracle.end_trial(ended)
