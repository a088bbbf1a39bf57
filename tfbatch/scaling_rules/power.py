"""A power of the ratio: the other rules' exponents, and those between, as one searched number.

Which exponent is best differs from workload to workload (Shallue et al. 2019, JMLR 20(112));
0 is the rule `none`, 0.5 `square_root`, 1 `linear`.
"""

FORMULA = "learning_rate * ratio**alpha"
SOURCE = "Shallue et al. 2019, JMLR 20(112)"


def scale(learning_rate: float, ratio: float, *, alpha: float) -> float:
    """Returns `learning_rate * ratio**alpha`, `ratio` being batch size / base batch size."""
    return float(learning_rate * ratio**alpha)
