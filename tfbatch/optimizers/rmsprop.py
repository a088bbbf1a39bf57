"""RMSprop (Tieleman & Hinton 2012), Keras's RMSprop.

Its epsilon stands under the root: it is the square of the one that the formulas of Adam have.
"""

KERAS_NAME = "RMSprop"
BASE_LEARNING_RATE = (1e-5, 1e-2)
DEFAULT_LEARNING_RATE = 0.001
SCALING_RULE = "square_root"
PARAMETERS = {
    "rho": 0.9,
    "momentum": 0.0,
    "epsilon": 1e-7,
    "centered": False,
    "weight_decay": None,
}
ROLES = {
    "rho": "second_moment",
    "momentum": "momentum",
    "epsilon": "squared_epsilon",
    "weight_decay": "weight_decay",
}
SLOTS = {"_momentums": ("velocity", "momentum")}
