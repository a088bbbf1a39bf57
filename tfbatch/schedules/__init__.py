"""Learning-rate schedules over examples, one file each.

A file holds one class `Family`: its fields are the family's parameters, its `factor(progress, ops)`
the fraction of the peak learning rate at `progress` in [0, 1] (the share of training done after
the warm-up). One that sets the momentum too has `momentum(progress, ops)`; one that rises by itself
says so. `LearningRateInExamples` makes a native Keras schedule of any family.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tfbatch.plug_ins import Registry
from tfbatch.schedules._batch_sizes import BatchSizes
from tfbatch.schedules._family import ScheduleFamily

if TYPE_CHECKING:
    from tfbatch.schedules._keras import LearningRateInExamples
    from tfbatch.schedules._momentum import (
        MomentumInExamples,
        follow_momentum,
        momentum_attribute,
    )

# They need Keras, which takes seconds to import.
_LAZY = {
    "LearningRateInExamples": "tfbatch.schedules._keras",
    "MomentumInExamples": "tfbatch.schedules._momentum",
    "follow_momentum": "tfbatch.schedules._momentum",
    "momentum_attribute": "tfbatch.schedules._momentum",
}
SCHEDULES = Registry(__name__, kind="schedule", folder=__path__)


def make_family(name: str, **parameters: object) -> ScheduleFamily:
    """Makes the schedule family `name` with its parameters.

    Raises:
        InputError: An unknown name, an unknown parameter, or a value out of range.
    """
    from tfbatch.schema import validate

    family: type[ScheduleFamily] = SCHEDULES.load(name).Family
    return validate(family, parameters, where=f"schedule {name}")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "SCHEDULES",
    "BatchSizes",
    "LearningRateInExamples",
    "MomentumInExamples",
    "ScheduleFamily",
    "follow_momentum",
    "make_family",
    "momentum_attribute",
]
