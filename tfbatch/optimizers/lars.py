"""LARS: SGD with a trust ratio for each layer (You, Gitman, Ginsburg 2017, arXiv 1708.03888).

The weight decay is part of the gradient and of the trust ratio: what it subtracts is no fixed share
of a weight, so no timescale can act on it. Biases are adapted too, as in the paper: with plain
momentum they diverge at the learning rates of this range.
"""

KERAS_NAME = "LARS"
MODULE = "tfbatch.optimizers"
BASE_LEARNING_RATE = (0.1, 30.0)
DEFAULT_LEARNING_RATE = 1.0
SCALING_RULE = "square_root"
PARAMETERS = {
    "momentum": 0.9,
    "trust_coefficient": 0.001,
    "weight_decay": None,
    "exclude_vectors": False,
}
ROLES = {"momentum": "momentum", "trust_coefficient": "trust_coefficient", "weight_decay": "l2"}
SLOTS = {"_velocities": ("velocity", "momentum")}
