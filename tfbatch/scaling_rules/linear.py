"""The linear rule for SGD: Krizhevsky 2014 (arXiv 1404.5997), Goyal et al. 2017 (1706.02677)."""

FORMULA = "learning_rate * ratio"
SOURCE = "Krizhevsky 2014, arXiv 1404.5997; Goyal et al. 2017, arXiv 1706.02677"


def scale(learning_rate: float, ratio: float) -> float:
    """Returns `learning_rate * ratio`, `ratio` being batch size / base batch size."""
    return learning_rate * ratio
