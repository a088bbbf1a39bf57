"""Oracles, which propose the trials of a search, one file each.

A file holds one class `Settings`: its fields are what the `oracle:` of a search's YAML may hold
beside the name, its `make` makes the oracle (see `Oracle`). Reading and checking a YAML imports the
file, so KerasTuner, which brings TensorFlow, is imported inside of `make`. `KerasTunerOracle`
makes an `Oracle` of any oracle of KerasTuner.

For anybody's KerasTuner search, with no more of tfbatch: `ScaledLearningRateOracle` searches batch
size and learning rate together, as `tune` does by default; `SobolOracle` spreads its trials over
the space; `with_memory_bound` teaches any oracle which batch sizes do not fit in memory.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tfbatch.oracles._oracle import BATCH_SIZE as BATCH_SIZE
from tfbatch.oracles._oracle import MOST_SEEDS as MOST_SEEDS
from tfbatch.oracles._oracle import (
    NOTHING_KNOWN,
    Belief,
    Oracle,
    OracleSettings,
    Part,
    Premises,
    Proposal,
    Setting,
    Stage,
    StagedOracle,
    Stop,
    Told,
)
from tfbatch.oracles._oracle import InterchangeableSettings as InterchangeableSettings
from tfbatch.oracles._prices import NO_PRICES, Prices
from tfbatch.plug_ins import Registry
from tfbatch.schema import validate

if TYPE_CHECKING:
    from tfbatch.oracles._keras_tuner import KerasTunerOracle
    from tfbatch.oracles._memory_bound import with_memory_bound
    from tfbatch.oracles._scaled_learning_rate import ScaledLearningRateOracle
    from tfbatch.oracles._sobol import SobolOracle

# They need KerasTuner, which takes seconds to import.
_LAZY = {
    "KerasTunerOracle": "tfbatch.oracles._keras_tuner",
    "ScaledLearningRateOracle": "tfbatch.oracles._scaled_learning_rate",
    "SobolOracle": "tfbatch.oracles._sobol",
    "with_memory_bound": "tfbatch.oracles._memory_bound",
}
ORACLES = Registry(__name__, kind="oracle", folder=__path__)


def make_settings(name: str, **parameters: object) -> OracleSettings:
    """The settings of the oracle `name` with its parameters.

    Raises:
        InputError: An unknown name, an unknown parameter, or a value out of range.
    """
    settings: type[OracleSettings] = ORACLES.load(name).Settings
    return validate(settings, {**parameters, "name": name}, where=name)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "NOTHING_KNOWN",
    "NO_PRICES",
    "Belief",
    "KerasTunerOracle",
    "Oracle",
    "OracleSettings",
    "Part",
    "Premises",
    "Prices",
    "Proposal",
    "ScaledLearningRateOracle",
    "Setting",
    "SobolOracle",
    "Stage",
    "StagedOracle",
    "Stop",
    "Told",
    "with_memory_bound",
]
