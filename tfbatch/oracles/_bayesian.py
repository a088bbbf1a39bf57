"""KerasTuner's Bayesian oracle with first trials that are spread, and without repetitions."""

from __future__ import annotations

import warnings
from typing import Any

import keras_tuner
from sklearn.exceptions import ConvergenceWarning

from tfbatch.oracles._spread import spread_points

_RESTARTS = 50
"""Of the optimizer in KerasTuner's Bayesian oracle (a constant there)."""


class SpreadBayesianOracle(keras_tuner.oracles.BayesianOptimizationOracle):  # type: ignore[misc]
    """The space must be known from the start.

    Args:
        num_initial_points: Trials before the first Gaussian process.
        **arguments: As for keras_tuner.oracles.BayesianOptimizationOracle.

    Attributes:
        known: Values that an earlier session tried where a proposal is asked for now, or None.
    """

    def __init__(self, *, num_initial_points: int, **arguments: object):
        super().__init__(num_initial_points=num_initial_points, **arguments)
        self.known: dict[str, Any] | None = None
        # A Gaussian process knows nothing before its first points: they are spread, not drawn.
        self._first = spread_points(self.get_space(), count=num_initial_points, seed=self.seed)

    def populate_space(self, trial_id: str) -> dict[str, object]:
        """The next values, never those of another trial."""
        proposal = self._proposal(trial_id)
        while self._first and proposal["values"] is not None:
            values = self._first.pop(0)
            if self.accepts(values) and not self._duplicate(values):
                return {**proposal, "values": values}
        return proposal

    def accepts(self, values: dict[str, object]) -> bool:
        """Whether a first point may be proposed; see SobolOracle."""
        del values
        return True

    def _proposal(self, trial_id: str) -> dict[str, Any]:
        if not self.hyperparameters.space:  # one configuration, nothing to model
            return self._drawn()
        if self.known is not None:
            return self._repeat(self.known)
        with warnings.catch_warnings():
            # A flat objective has no length scale: expected, and nobody can act on it.
            warnings.simplefilter("ignore", ConvergenceWarning)
            proposal: dict[str, Any] = super().populate_space(trial_id)
        # Without a continuous parameter KerasTuner repeats its favorite.
        if proposal["values"] is not None and self._duplicate(proposal["values"]):
            return self._drawn()
        return proposal

    def _drawn(self) -> dict[str, Any]:
        drawn: dict[str, Any] = self._random_populate_space()
        return drawn

    def _repeat(self, known: dict[str, Any]) -> dict[str, Any]:
        """A known proposal without its Gaussian process; random numbers advance as they did then.

        Fitting anew only to be told the same values took 0.7 s a trial (17 s for 24 trials).
        """
        completed = [t for t in self.trials.values() if t.status == "COMPLETED"]
        if len(completed) < self.num_initial_points:
            return self._drawn()
        # As many draws as KerasTuner makes for the starts of its 50 optimizations.
        self._random_state.uniform(size=(_RESTARTS, len(self._get_hp_bounds())))
        before: int = self._seed_state
        drawn = self._drawn()
        if drawn["values"] != known:  # it came from the Gaussian process
            self._seed_state: int = before
        return {"status": "RUNNING", "values": dict(known)}
