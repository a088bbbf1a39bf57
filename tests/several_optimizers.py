"""Keras's optimizer that has several learning rates, and none of its own."""

from __future__ import annotations

import keras
import pytest


def several_optimizers(rate=0.01):
    """One that gives every variable to the same SGD; its test is skipped where Keras lacks it."""
    if not hasattr(keras.optimizers, "MultiOptimizer"):
        pytest.skip("this release of Keras has no MultiOptimizer")
    chosen = keras.optimizers.OptimizerMap(keras.optimizers.SGD(rate))
    return keras.optimizers.MultiOptimizer(chosen)
