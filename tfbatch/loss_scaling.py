"""Keras's LossScaleOptimizer, which float16 is trained with, around the optimizer itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras


def unwrapped(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """The optimizer inside one that scales the loss; any other is itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)
