"""Adagrad (Duchi et al. 2011), Keras's Adagrad.

Its sum of squared gradients never forgets, so that no number of it has a half-life. Its epsilon
stands under the root.
"""

KERAS_NAME = "Adagrad"
BASE_LEARNING_RATE = (1e-3, 1.0)
DEFAULT_LEARNING_RATE = 0.001
SCALING_RULE = "square_root"
PARAMETERS = {"epsilon": 1e-7, "weight_decay": None}
ROLES = {"epsilon": "squared_epsilon", "weight_decay": "weight_decay"}
