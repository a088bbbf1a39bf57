"""LAMB: Adam with a trust ratio for each layer (You et al. 2019, arXiv 1904.00962).

Its epsilon is added to the root of the bias-corrected second moment. Keras decouples the
weight decay; in the paper it is part of what the trust ratio is made of.
"""

KERAS_NAME = "Lamb"
BASE_LEARNING_RATE = (1e-4, 3e-2)
DEFAULT_LEARNING_RATE = 0.001
SCALING_RULE = "square_root"
PARAMETERS = {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7, "weight_decay": None}
ROLES = {
    "beta_1": "first_moment",
    "beta_2": "second_moment",
    "epsilon": "epsilon",
    "weight_decay": "weight_decay",
}
SLOTS = {
    "_momentums": ("corrected_average", "beta_1"),
    "_velocities": ("corrected_average", "beta_2"),
}
