"""Keras callbacks, one file each; all work in anybody's `model.fit`.

The file `stop_after_steps.py` holds the class `StopAfterSteps` (the name without underscores, in
any case), which is then `tfbatch.callbacks.StopAfterSteps`: there is no list to edit.

A callback with `only_looks = True` promises that the weights after `fit` are the same bits with
and without it; tests/test_callback_contract.py holds every file of this folder to that. One with
`reads_batches = True` looks at batches before training does, which data in a device's memory lacks.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfbatch.errors import InputError
from tfbatch.plug_ins import Registry

if TYPE_CHECKING:  # For editors and type checkers only: a new file works without a line here.
    from tfbatch.callbacks.adaptive_batch_size import AdaptiveBatchSize as AdaptiveBatchSize
    from tfbatch.callbacks.advisor import Advisor as Advisor
    from tfbatch.callbacks.batch_size_scheduler import BatchSizeScheduler as BatchSizeScheduler
    from tfbatch.callbacks.divergence_guard import DivergenceGuard as DivergenceGuard
    from tfbatch.callbacks.generalization_gap import GeneralizationGap as GeneralizationGap
    from tfbatch.callbacks.gradient_noise_scale import GradientNoiseScale as GradientNoiseScale
    from tfbatch.callbacks.hparams import HParams as HParams
    from tfbatch.callbacks.learning_rate_range_test import (
        LearningRateRangeTest as LearningRateRangeTest,
    )
    from tfbatch.callbacks.peak_memory import PeakMemory as PeakMemory
    from tfbatch.callbacks.scheduled_momentum import ScheduledMomentum as ScheduledMomentum
    from tfbatch.callbacks.stop_after_steps import StopAfterSteps as StopAfterSteps
    from tfbatch.callbacks.stop_on_request import StopOnRequest as StopOnRequest
    from tfbatch.callbacks.throughput import Throughput as Throughput
    from tfbatch.callbacks.training_clock import TrainingClock as TrainingClock

CALLBACKS = Registry(__name__, kind="callback", folder=__path__)


def class_name(name: str) -> str:
    """The name of the class in a callback's file, read from its text: importing takes seconds.

    Raises:
        InputError: No such file, or it holds no class of its name.
    """
    path = Path(__path__[0]) / f"{CALLBACKS.check(name)}.py"
    wanted = name.replace("_", "")
    found = re.search(rf"^class ({wanted})\b", path.read_text(encoding="utf-8"), re.M | re.I)
    if found is None:
        raise InputError(
            f"{path} must hold a keras.callbacks.Callback named after the file, such as "
            f"`class {name.title().replace('_', '')}`. Received: no class of that name."
        )
    return found[1]


def __getattr__(name: str) -> Any:
    for file in CALLBACKS.names():
        if file.replace("_", "") == name.lower() and class_name(file) == name:
            return getattr(CALLBACKS.load(file), name)
    if name == "__all__":
        return ["CALLBACKS", "class_name", *map(class_name, CALLBACKS.names())]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
