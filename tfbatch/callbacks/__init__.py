"""Keras callbacks, one file each; all work in anybody's `model.fit`."""

from __future__ import annotations

from tfbatch.callbacks.adaptive_batch_size import AdaptiveBatchSize
from tfbatch.callbacks.batch_size_scheduler import BatchSizeScheduler
from tfbatch.callbacks.divergence_guard import DivergenceGuard
from tfbatch.callbacks.scheduled_momentum import ScheduledMomentum
from tfbatch.callbacks.stop_after_steps import StopAfterSteps
from tfbatch.callbacks.stop_on_request import StopOnRequest
from tfbatch.callbacks.training_clock import TrainingClock

__all__ = [
    "AdaptiveBatchSize",
    "BatchSizeScheduler",
    "DivergenceGuard",
    "ScheduledMomentum",
    "StopAfterSteps",
    "StopOnRequest",
    "TrainingClock",
]
