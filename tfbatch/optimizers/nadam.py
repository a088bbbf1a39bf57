"""Adam with Nesterov momentum (Dozat 2016), Keras's Nadam.

Its epsilon is added to the root of the bias-corrected second moment.
"""

KERAS_NAME = "Nadam"
BASE_LEARNING_RATE = (1e-5, 1e-2)
DEFAULT_LEARNING_RATE = 0.001
SCALING_RULE = "square_root"
PARAMETERS = {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7, "weight_decay": None}
ROLES = {
    "beta_1": "first_moment",
    "beta_2": "second_moment",
    "epsilon": "epsilon",
    "weight_decay": "weight_decay",
}
SLOTS = {"_velocities": ("corrected_average", "beta_2")}
"""Its first average keeps its own correction, a product of all decays so far."""
