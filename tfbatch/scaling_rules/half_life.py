"""The second moment's half-life stays the same in examples (Marek et al. 2025, arXiv 2507.07101).

    learning_rate -> learning_rate * sqrt(ratio)
    beta_2        -> beta_2**ratio

With it Adam trains stably down to a batch size of 1. The paper leaves beta_1 alone and finds that
the learning rate should grow no faster than the square root; the search's octaves cover the rest.
"""

FORMULA = "learning_rate * sqrt(ratio), beta_2**ratio"
SOURCE = "Marek et al. 2025, arXiv 2507.07101"
REQUIRES = "second_moment"


def scale(learning_rate: float, ratio: float) -> float:
    """Returns `learning_rate * sqrt(ratio)`, `ratio` being batch size / base batch size."""
    return float(learning_rate * ratio**0.5)


def scale_number(role: str, value: float, ratio: float) -> float:
    """Returns a second moment's beta to the power of `ratio`; other numbers stay."""
    return float(value**ratio) if role == "second_moment" else value
