"""Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101)."""

from __future__ import annotations

from typing import Any

import keras

KERAS_NAME = "AdamW"
BASE_LEARNING_RATE = (1e-4, 1e-2)
DEFAULT_LEARNING_RATE = 0.001
SCALING_RULE = "square_root"
PARAMETERS = {"beta_1": 0.9, "beta_2": 0.999, "weight_decay": 0.004}


def build(
    learning_rate: Any, *, beta_1: float = 0.9, beta_2: float = 0.999, weight_decay: float = 0.004
) -> Any:
    """Returns `keras.optimizers.AdamW`; each step subtracts learning_rate * weight_decay * w."""
    return keras.optimizers.AdamW(
        learning_rate, beta_1=beta_1, beta_2=beta_2, weight_decay=weight_decay
    )
