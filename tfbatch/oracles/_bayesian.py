"""KerasTuner's Bayesian oracle with first trials that are spread, and without repetitions."""

from __future__ import annotations

import warnings
from typing import Any

import keras_tuner
import numpy as np
from sklearn.exceptions import ConvergenceWarning

from tfbatch.oracles._keras_tuner import MOST_COLLISIONS
from tfbatch.oracles._many_points import MOST_POINTS, Array, Points, lowest_bound
from tfbatch.oracles._spread import spread_points

_RESTARTS = 50
"""Of the optimizer in KerasTuner's Bayesian oracle (a constant there)."""
_BELOW_ONE = 1 - 1e-9
"""KerasTuner's whole numbers on a logarithmic scale are too large by one at a share of 1."""


class SpreadBayesianOracle(keras_tuner.oracles.BayesianOptimizationOracle):  # type: ignore[misc]
    """Its first trials are spread over the space, and no two are alike.

    Where the space grows, as KerasTuner finds it during trials, those of the first trials that are
    still to come are spread over it anew; where none is, one more is, in all that is new.

    Args:
        num_initial_points: Trials before the first Gaussian process.
        **arguments: As for keras_tuner.oracles.BayesianOptimizationOracle.

    Attributes:
        known: Values that an earlier session tried where a proposal is asked for now, or None.
    """

    def __init__(self, *, num_initial_points: int, **arguments: object):
        super().__init__(num_initial_points=num_initial_points, **arguments)
        self._max_collisions = MOST_COLLISIONS
        self.known: dict[str, Any] | None = None
        self._first: list[dict[str, Any]] = []
        self._spread_over: list[str] | None = None
        self._places: dict[tuple[str, str], list[float]] = {}
        self._placed_over: list[str] | None = None

    def populate_space(self, trial_id: str) -> dict[str, object]:
        """The next values, never those of another trial."""
        proposal = self._proposal(trial_id)
        first = self._first_points()
        if self.known is not None and self.known in first:  # whatever else would be left out now
            del first[: first.index(self.known) + 1]
            return {**proposal, "values": dict(self.known)}
        while first and proposal["values"] is not None:
            values = first.pop(0)
            if self.accepts(values) and not self._duplicate(values):
                return {**proposal, "values": values}
        return proposal

    def accepts(self, values: dict[str, object]) -> bool:
        """Whether a first point may be proposed; see SobolOracle."""
        del values
        return True

    def get_state(self) -> dict[str, object]:
        """With the random numbers and first points, which KerasTuner's oracle begins anew."""
        _, keys, *place = self._random_state.get_state()
        return {
            **super().get_state(),
            "random_state": [keys.tolist(), *place],
            "first_points": self._first,
            "spread_over": self._spread_over,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """With the random numbers and first points; the trials in the order of their start."""
        super().set_state(state)
        self._placed_over = None
        keys, *place = state["random_state"]
        self._random_state.set_state(("MT19937", keys, *place))
        self._first, self._spread_over = state["first_points"], state["spread_over"]
        # Files are read in any order, and the Gaussian process depends on that of its points.
        by_id = self.trials  # type: ignore[has-type]
        self.trials = {trial_id: by_id[trial_id] for trial_id in self.start_order}

    def _first_points(self) -> list[dict[str, Any]]:
        """A Gaussian process knows nothing before its first points: they are spread, not drawn."""
        names = [hyperparameter.name for hyperparameter in self.hyperparameters.space]
        if names != self._spread_over:
            # Trials that failed are none of the first ones: KerasTuner counts those that completed.
            tried = sum(trial.status in ("COMPLETED", "RUNNING") for trial in self.trials.values())
            count = max(self.num_initial_points - tried, 1)
            self._first = spread_points(self.get_space(), count=count, seed=self.seed)
            self._spread_over = names
        return self._first

    def _proposal(self, trial_id: str) -> dict[str, Any]:
        if not self._nonfixed_space():  # one configuration, nothing to model
            return self._drawn()
        if self.known is not None:
            return self._repeat(self.known)
        with warnings.catch_warnings():
            # A flat objective has no length scale: expected, and nobody can act on it.
            warnings.simplefilter("ignore", ConvergenceWarning)
            proposal: dict[str, Any]
            if len(self.trials) > MOST_POINTS and self._enough_completed():
                values = self._vector_to_values(self._next_of_many())
                proposal = {"status": "RUNNING", "values": values}
            else:
                proposal = super().populate_space(trial_id)
        # Without a continuous parameter KerasTuner repeats its favorite.
        if proposal["values"] is not None and self._duplicate(proposal["values"]):
            return self._drawn()
        return proposal

    def _vector_to_values(self, vector: Array) -> dict[str, Any]:
        """KerasTuner's, with whole numbers in their range where the optimizer ends at its bound."""
        kind = keras_tuner.engine.hyperparameters.Int
        whole = [isinstance(parameter, kind) for parameter in self._nonfixed_space()]
        values: dict[str, Any] = super()._vector_to_values(
            np.where(whole, np.minimum(vector, _BELOW_ONE), vector)
        )
        return values

    def _enough_completed(self) -> bool:
        completed = [trial for trial in self.trials.values() if trial.status == "COMPLETED"]
        return len(completed) >= int(self.num_initial_points)

    def _next_of_many(self) -> np.ndarray:
        """The next point where there are too many for KerasTuner's way; see `lowest_bound`."""
        ended, running = self._ended_and_running()
        bounds = self._get_hp_bounds()
        # As KerasTuner draws the starts of its optimizations, so that a resumed search, which
        # repeats the draws alone, goes on with the same random numbers.
        starts = self._random_state.uniform(size=(_RESTARTS, len(bounds)))
        seed = (self.seed, len(self.trials))
        return lowest_bound(ended, running, starts, alpha=self.alpha, beta=self.beta, seed=seed)

    def _vectorize_trials(self) -> tuple[Array, Array]:
        """Points of [0, 1]^d and what they came to, where small is good; running trials come last.

        Those count as a deviation worse than is expected of them, so that they are not proposed
        again. KerasTuner asks the process of its last proposal what that is; a session that has
        only begun has none, and would propose something else than one that was not interrupted.
        """
        ended, running = self._ended_and_running()
        finite = ended.values[np.isfinite(ended.values)]
        worst = finite.max() if len(finite) else 0.0
        values = np.where(np.isfinite(ended.values), ended.values, worst)
        if not len(running) or not len(values):
            return ended.places, values
        self.gpr.fit(ended.places, values)
        mean, deviation = self.gpr.predict(running, return_std=True)
        return np.vstack([ended.places, running]), np.concatenate([values, mean + deviation])

    def _ended_and_running(self) -> tuple[Points, Array]:
        """Trials that came to something, and the places of those that run."""
        names = [parameter.name for parameter in self.hyperparameters.space]
        if names != self._placed_over:
            self._places, self._placed_over = {}, names
        ongoing = {trial.trial_id for trial in self.ongoing_trials.values()}
        places, values, running = [], [], []
        for trial_id, trial in self.trials.items():
            if trial_id in ongoing:
                running.append(self._place(trial))
            elif (value := self._value(trial)) is not None:
                places.append(self._place(trial))
                values.append(value)
        dimensions = len(self._nonfixed_space())
        ended = Points(np.array(places).reshape(len(places), dimensions), np.array(values))
        return ended, np.array(running).reshape(len(running), dimensions)

    def _place(self, trial: Any) -> list[float]:
        """`_point`, kept for a trial that runs, and anew for one that has ended."""
        key = (trial.trial_id, trial.status)
        if key not in self._places:
            self._places[key] = self._point(trial)
        return self._places[key]

    def _value(self, trial: Any) -> float | None:
        """What a trial that has ended came to, where small is good; None if that is not known.

        Infinite for one that is to count as the worst of all.
        """
        if trial.status != "COMPLETED":
            return None
        return float(trial.score if self.objective.direction == "min" else -trial.score)

    def _point(self, trial: Any) -> list[float]:
        """A trial's place in [0, 1]^d; a value that it did not have counts as its default."""
        values = self._searched(trial)
        point = []
        for parameter in self._nonfixed_space():
            has = parameter.name in values and trial.hyperparameters.is_active(parameter)
            value = values[parameter.name] if has else parameter.default
            point.append(float(parameter.value_to_prob(value)))
        return point

    def _searched(self, trial: Any) -> dict[str, Any]:
        """A trial's values in the coordinates that are searched."""
        values: dict[str, Any] = trial.hyperparameters.values
        return values

    def _drawn(self) -> dict[str, Any]:
        drawn: dict[str, Any] = self._random_populate_space()
        return drawn

    def _repeat(self, known: dict[str, Any]) -> dict[str, Any]:
        """A known proposal without its Gaussian process; random numbers advance as they did then.

        Fitting anew only to be told the same values took 0.7 s a trial (17 s for 24 trials).
        """
        if not self._enough_completed():
            return self._drawn()
        # As many draws as KerasTuner makes for the starts of its 50 optimizations.
        self._random_state.uniform(size=(_RESTARTS, len(self._get_hp_bounds())))
        before: int = self._seed_state
        drawn = self._drawn()
        if drawn["values"] != known:  # it came from the Gaussian process
            self._seed_state: int = before
        return {"status": "RUNNING", "values": dict(known)}
