"""Keras's LossScaleOptimizer, which float16 is trained with, around the optimizer itself."""

from __future__ import annotations

from typing import Any


def unwrapped(optimizer: Any) -> Any:
    """The optimizer inside one that scales the loss; any other is itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)
