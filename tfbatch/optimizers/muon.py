"""Muon: orthogonalised momentum (Jordan et al. 2024; Liu et al. 2025, arXiv 2502.16982).

Keras applies it to matrices alone, the output layer's among them. Kernels of convolutions, biases
and embeddings get AdamW with the same learning rate and the numbers that begin with `adam_`.
"""

KERAS_NAME = "Muon"
BASE_LEARNING_RATE = (1e-3, 1e-1)
DEFAULT_LEARNING_RATE = 0.001
SCALING_RULE = "square_root"
PARAMETERS = {
    "momentum": 0.95,
    "nesterov": True,
    "weight_decay": 0.004,
    "adam_beta_1": 0.9,
    "adam_beta_2": 0.999,
    "adam_weight_decay": 0.004,
    "epsilon": 1e-7,
}
ROLES = {
    "momentum": "momentum",
    "weight_decay": "weight_decay",
    "adam_beta_1": "first_moment",
    "adam_beta_2": "second_moment",
    "adam_weight_decay": "weight_decay",
    "epsilon": "epsilon",
}
