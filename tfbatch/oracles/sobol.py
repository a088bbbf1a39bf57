"""Scrambled Sobol points, which leave out no part of the space; see SobolOracle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfbatch.metric_direction import Direction
from tfbatch.oracles._oracle import NOTHING_KNOWN, Oracle, OracleSettings, Premises

if TYPE_CHECKING:
    import keras_tuner


class Settings(OracleSettings):
    """Of the first 2**k points each 1/2**k of every range holds exactly one."""

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
        from tfbatch.oracles._keras_tuner import KerasTunerOracle
        from tfbatch.oracles._sobol import SobolOracle

        return KerasTunerOracle(SobolOracle, hyperparameters, direction=direction, seed=seed)
