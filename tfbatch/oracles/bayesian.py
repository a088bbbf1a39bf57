"""Bayesian optimization with KerasTuner's Gaussian process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfbatch.metric_direction import Direction
from tfbatch.oracles._oracle import NOTHING_KNOWN, InterchangeableSettings, Oracle, Premises

if TYPE_CHECKING:
    import keras_tuner


class Settings(InterchangeableSettings):
    """A Gaussian process after `initial_trials` that are spread over the space."""

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
        from tfbatch.oracles._bayesian import SpreadBayesianOracle
        from tfbatch.oracles._keras_tuner import KerasTunerOracle

        return KerasTunerOracle(
            SpreadBayesianOracle,
            hyperparameters,
            direction=direction,
            seed=seed,
            num_initial_points=self.initial_trials,
        )
