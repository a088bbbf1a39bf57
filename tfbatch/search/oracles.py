"""KerasTuner's oracles, and a grid of our own, asked and told directly."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import keras_tuner
import numpy as np
import threadpoolctl
from sklearn.exceptions import ConvergenceWarning

from tfbatch.oracles.spread import spread_points
from tfbatch.request.search_config import OracleChoice
from tfbatch.search.grid import grid_points
from tfbatch.search.space import SearchSpace
from tfbatch.trial.objective import Objective

_ONE = "trial"
_RESTARTS = 50
"""Of the optimizer in KerasTuner's Bayesian oracle (a constant there)."""


class _InMemory:
    """Keeps an oracle from writing files: the run folder's journal is the only truth."""

    def save(self) -> None:
        """Writes nothing."""

    def _save_trial(self, trial: Any) -> None:
        """Writes nothing."""


class _Random(_InMemory, keras_tuner.oracles.RandomSearchOracle):  # type: ignore[misc]
    pass


class _Bayesian(_InMemory, keras_tuner.oracles.BayesianOptimizationOracle):  # type: ignore[misc]
    known: dict[str, Any] | None = None
    """What was tried in an earlier session where it is asked now; None for a new trial."""

    def populate_space(self, trial_id: str) -> Any:
        """Never the same twice: without a continuous parameter KerasTuner repeats its favorite."""
        if not self.hyperparameters.space:  # one configuration, nothing to model
            return self._random_populate_space()
        if self.known is not None:
            return self._repeat(self.known)
        with warnings.catch_warnings():
            # A flat objective has no length scale: expected, and nobody can act on it.
            warnings.simplefilter("ignore", ConvergenceWarning)
            proposal = super().populate_space(trial_id)
        if proposal["values"] is not None and self._duplicate(proposal["values"]):
            return self._random_populate_space()
        return proposal

    def _repeat(self, known: dict[str, Any]) -> Any:
        """A known proposal without its Gaussian process; random numbers advance as they did then.

        Fitting anew only to be told the same values took 0.7 s a trial (17 s for 24 trials).
        """
        completed = [t for t in self.trials.values() if t.status == "COMPLETED"]
        if len(completed) < self.num_initial_points:
            return self._random_populate_space()
        # As many draws as KerasTuner makes for the starts of its 50 optimizations.
        self._random_state.uniform(size=(_RESTARTS, len(self._get_hp_bounds())))
        before: int = self._seed_state
        drawn = self._random_populate_space()
        if drawn["values"] != known:  # it came from the Gaussian process
            self._seed_state: int = before
        return {"status": "RUNNING", "values": dict(known)}


class _Grid(_InMemory, keras_tuner.Oracle):  # type: ignore[misc]
    """Every point in a fixed order: asked again from the journal, it goes on where it was.

    KerasTuner's own grid keeps its place nowhere (keras-team/keras-tuner issue 1055), and asks for
    a continuous range ten times.
    """

    def __init__(self, *, values_of_range: int, **arguments: Any):
        super().__init__(**arguments)
        self.points = grid_points(
            self.hyperparameters, values_of_range=values_of_range, seed=self.seed
        )
        self._asked = 0

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """The next point, whatever the others came to."""
        del trial_id
        if self._asked == len(self.points):
            return {"status": "STOPPED", "values": None}
        self._asked += 1
        return {"status": "RUNNING", "values": self.points[self._asked - 1]}


TEACHES_NOTHING = ("killed",)
"""A process that ended for an unknown reason says nothing of its configuration."""


def told_score(
    score: float | None, *, objective: Objective, untrained: float, others: Iterable[float]
) -> float:
    """What the oracle hears for a trial.

    A diverged trial, one out of memory, one that hung and one that raised are results: they teach
    the oracle to stay away. They count as no better than the untrained model and any trial so far.
    (KerasTuner accepts an infinite score, and its Gaussian process then fails.)

    Args:
        score: The trial's score, or None.
        objective: The objective.
        untrained: Its value before any training.
        others: Scores of the completed trials so far.
    """
    if score is not None:
        return score
    return objective.worst([untrained, *others])


class AskTell:
    """One KerasTuner oracle behind `ask` and `tell`.

    Args:
        choice: Which oracle.
        space: The search space.
        objective: The objective.
        seed: Positive (KerasTuner takes 0 for "random").
    """

    def __init__(
        self, choice: OracleChoice, *, space: SearchSpace, objective: Objective, seed: int
    ):
        arguments: dict[str, Any] = {
            "objective": keras_tuner.Objective(objective.name, objective.direction),
            "max_trials": None,  # the loop counts: a larger budget must extend a search
            "hyperparameters": space.hyperparameters(),
            "allow_new_entries": False,
            "seed": seed,
            # Three killed workers must not end a search.
            "max_consecutive_failed_trials": 2**31,
        }
        if choice.name == "bayesian":
            arguments["num_initial_points"] = choice.initial_trials
        if choice.name == "grid":
            arguments["values_of_range"] = choice.values_of_range
        self._objective = objective
        oracles: dict[str, Any] = {"random": _Random, "bayesian": _Bayesian, "grid": _Grid}
        self._oracle = oracles[choice.name](**arguments)
        self._oracle.verbose = 0
        self._open: dict[str, Any] = {}
        # A Gaussian process knows nothing before its first points: they are spread, not drawn.
        self._first = (
            spread_points(space.hyperparameters(), count=choice.initial_trials, seed=seed)
            if choice.name == "bayesian"
            else []
        )

    @property
    def size(self) -> int | None:
        """Number of all that can be asked, where it is known."""
        return len(self._oracle.points) if isinstance(self._oracle, _Grid) else None

    def ask(
        self, trial: str = _ONE, *, known: dict[str, Any] | None = None
    ) -> dict[str, Any] | None:
        """Values of the active hyperparameters to try next; None when the space is exhausted.

        The Bayesian oracle's first points are spread over the space (see tfbatch.oracles.spread).

        Args:
            trial: A name for what is asked; several can be open. (KerasTuner gives the same
                trial twice to one that asks twice under one name.)
            known: The values that an earlier session tried here. The Bayesian oracle then computes
                no proposal; the others, whose proposals cost nothing, are asked as usual.
        """
        if isinstance(self._oracle, _Bayesian):
            self._oracle.known = known
        # One thread: for so few points more threads only wait for one another (three times slower
        # beside a busy core), and the proposal would depend on their number.
        with threadpoolctl.threadpool_limits(1):
            asked = self._oracle.create_trial(trial)
        if asked.status == "STOPPED":
            return None
        self._open[trial] = asked
        if self._first:
            self.replace(self._first.pop(0), trial)
        return {
            name: float(value) if isinstance(value, np.floating) else value
            for name, value in asked.hyperparameters.values.items()
            if asked.hyperparameters.is_active(name)
        }

    def replace(self, values: dict[str, Any], trial: str = _ONE) -> None:
        """Says that other values are tried than those that `ask` gave."""
        self._open[trial].hyperparameters.values = values

    def tell(self, score: float, trial: str = _ONE) -> None:
        """Tells the finite score of what `ask` gave."""
        asked = self._open.pop(trial)
        self._oracle.update_trial(asked.trial_id, {self._objective.name: score})
        asked.status = "COMPLETED"
        self._oracle.end_trial(asked)

    def forget(self, trial: str = _ONE) -> None:
        """Says that what `ask` gave ended in a way that teaches nothing."""
        asked = self._open.pop(trial)
        asked.status = "INVALID"
        self._oracle.end_trial(asked)
