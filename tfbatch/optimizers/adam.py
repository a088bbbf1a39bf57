"""Adam (Kingma & Ba 2015, arXiv 1412.6980), Keras's Adam."""

from __future__ import annotations

from typing import Any

import keras

KERAS_NAME = "Adam"
BASE_LEARNING_RATE = (1e-4, 1e-2)
DEFAULT_LEARNING_RATE = 0.001
SCALING_RULE = "square_root"
PARAMETERS = {"beta_1": 0.9, "beta_2": 0.999}


def build(learning_rate: Any, *, beta_1: float = 0.9, beta_2: float = 0.999) -> Any:
    """Returns `keras.optimizers.Adam`. Keras's epsilon is the paper's uncorrected one."""
    return keras.optimizers.Adam(learning_rate, beta_1=beta_1, beta_2=beta_2)
