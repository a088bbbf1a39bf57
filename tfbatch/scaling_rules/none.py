"""No scaling: one learning rate for all batch sizes."""

FORMULA = "learning_rate"
SOURCE = "Shallue et al. 2019, JMLR 20(112): no rule holds for all workloads"


def scale(learning_rate: float, ratio: float) -> float:
    """Returns `learning_rate` whatever the ratio of batch sizes."""
    del ratio
    return learning_rate
