"""The square-root rule: keeps the variance of an update (Hoffer et al. 2017, arXiv 1705.08741).

For Adam it follows from its stochastic differential equation (Malladi et al. 2022, 2205.10287).
"""

FORMULA = "learning_rate * sqrt(ratio)"
SOURCE = "Hoffer et al. 2017, arXiv 1705.08741; for Adam Malladi et al. 2022, arXiv 2205.10287"


def scale(learning_rate: float, ratio: float) -> float:
    """Returns `learning_rate * sqrt(ratio)`, `ratio` being batch size / base batch size."""
    return float(learning_rate * ratio**0.5)
