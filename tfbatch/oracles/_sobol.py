"""Quasi-random search: scrambled Sobol points instead of independent draws."""

from __future__ import annotations

from typing import Any

import keras_tuner

from tfbatch.errors import InputError
from tfbatch.oracles._spread import spread_points

_AT_LEAST = 64
"""Trials that points are made for where their number is not limited."""


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

    def accepts(self, values: dict[str, object]) -> bool:
        """Whether a point may be proposed; `with_memory_bound` leaves out those that cannot fit."""
        del values
        return True

    def populate_space(self, trial_id: str) -> dict[str, object]:
        """The next point; a space of few choices ends when all of them were tried."""
        del trial_id
        tried = [trial.hyperparameters.values for trial in self.trials.values()]
        # Made anew each time: the space grows where a hypermodel finds new hyperparameters. More
        # points than trials, since two points may come to the same choices, or be too large.
        count, known = 4 * (self.max_trials or max(len(tried) + 1, _AT_LEAST)), 0
        for more in (1, 4, 16, 64):
            points = spread_points(self.get_space(), count=more * count, seed=self.seed)
            if len(points) == known:
                break
            for values in points[known:]:  # the first ones are the same as before
                if self.accepts(values) and not any(_same(values, other) for other in tried):
                    return {"status": "RUNNING", "values": values}
            known = len(points)
        if not known and not tried:  # nothing to search yet: the defaults
            return {"status": "RUNNING", "values": {}}
        return {"status": "STOPPED", "values": None}


def _same(values: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether a trial, which may know more hyperparameters by now, had these values."""
    return all(name in other and other[name] == value for name, value in values.items())
