"""Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101).

Each step subtracts learning_rate * weight_decay * w. Epsilon as in Keras's Adam.
"""

KERAS_NAME = "AdamW"
BASE_LEARNING_RATE = (1e-4, 1e-2)
DEFAULT_LEARNING_RATE = 0.001
SCALING_RULE = "square_root"
PARAMETERS = {
    "beta_1": 0.9,
    "beta_2": 0.999,
    "epsilon": 1e-7,
    "amsgrad": False,
    "weight_decay": 0.004,
}
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
