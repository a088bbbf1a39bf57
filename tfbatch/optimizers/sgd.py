"""Stochastic gradient descent with momentum (Polyak 1964; Sutskever et al. 2013 for Nesterov's).

Keras's velocity contains the learning rate: a change of it acts on new gradients only. The weight
decay is decoupled, times the learning rate.
"""

KERAS_NAME = "SGD"
BASE_LEARNING_RATE = (1e-3, 0.05)
DEFAULT_LEARNING_RATE = 0.01
SCALING_RULE = "linear"
PARAMETERS = {"momentum": 0.9, "nesterov": False, "weight_decay": None}
ROLES = {"momentum": "momentum", "weight_decay": "weight_decay"}
SLOTS = {"momentums": ("velocity", "momentum")}
