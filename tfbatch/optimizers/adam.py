"""Adam (Kingma & Ba 2015, arXiv 1412.6980), Keras's Adam.

Keras's epsilon is the paper's "epsilon hat", added to the root of the uncorrected second moment.
"""

KERAS_NAME = "Adam"
BASE_LEARNING_RATE = (1e-4, 1e-2)
DEFAULT_LEARNING_RATE = 0.001
SCALING_RULE = "square_root"
PARAMETERS = {
    "beta_1": 0.9,
    "beta_2": 0.999,
    "epsilon": 1e-7,
    "amsgrad": False,
    "weight_decay": None,
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
