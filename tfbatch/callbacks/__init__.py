"""Keras callbacks, one file each; all work in anybody's `model.fit`.

A callback with `only_looks = True` promises that the weights after `fit` are the same bits with
and without it; tests/test_callback_contract.py holds every file of this folder to that.
"""

from __future__ import annotations

from tfbatch.callbacks.advisor import Advisor
from tfbatch.callbacks.divergence_guard import DivergenceGuard
from tfbatch.callbacks.generalization_gap import GeneralizationGap
from tfbatch.callbacks.gradient_noise_scale import GradientNoiseScale
from tfbatch.callbacks.hparams import HParams
from tfbatch.callbacks.learning_rate_range_test import LearningRateRangeTest
from tfbatch.callbacks.peak_memory import PeakMemory
from tfbatch.callbacks.scheduled_momentum import ScheduledMomentum
from tfbatch.callbacks.stop_after_steps import StopAfterSteps
from tfbatch.callbacks.stop_on_request import StopOnRequest
from tfbatch.callbacks.throughput import Throughput
from tfbatch.callbacks.training_clock import TrainingClock

__all__ = [
    "Advisor",
    "DivergenceGuard",
    "GeneralizationGap",
    "GradientNoiseScale",
    "HParams",
    "LearningRateRangeTest",
    "PeakMemory",
    "ScheduledMomentum",
    "StopAfterSteps",
    "StopOnRequest",
    "Throughput",
    "TrainingClock",
]
