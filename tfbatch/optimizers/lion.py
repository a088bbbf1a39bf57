"""Lion: the sign of an interpolated momentum (Chen et al. 2023, arXiv 2302.06675), Keras's Lion.

Its learning rate is a third to a tenth of Adam's, and its weight decay as many times larger.
"""

KERAS_NAME = "Lion"
BASE_LEARNING_RATE = (1e-5, 3e-3)
DEFAULT_LEARNING_RATE = 0.001
SCALING_RULE = "square_root"
PARAMETERS = {"beta_1": 0.9, "beta_2": 0.99, "weight_decay": None}
ROLES = {"beta_1": "first_moment", "beta_2": "first_moment", "weight_decay": "weight_decay"}
