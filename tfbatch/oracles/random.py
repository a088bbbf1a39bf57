"""Independent draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfbatch.metric_direction import Direction
from tfbatch.oracles._oracle import NOTHING_KNOWN, InterchangeableSettings, Oracle, Premises

if TYPE_CHECKING:
    import keras_tuner


class Settings(InterchangeableSettings):
    """KerasTuner's random search."""

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
        import keras_tuner

        from tfbatch.oracles._keras_tuner import KerasTunerOracle

        return KerasTunerOracle(
            keras_tuner.oracles.RandomSearchOracle,
            hyperparameters,
            direction=direction,
            seed=seed,
        )
