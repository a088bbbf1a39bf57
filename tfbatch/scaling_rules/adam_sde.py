"""The square-root rule of Adam and RMSprop with all of its parts (Malladi et al. 2022, 2205.10287).

It keeps the stochastic differential equation that Adam discretises:

    learning_rate -> learning_rate * sqrt(ratio)
    beta          -> 1 - ratio * (1 - beta)        for both betas
    epsilon       -> epsilon / sqrt(ratio)

There is no such beta from `ratio * (1 - beta) >= 1` on: with a beta_1 of 0.9 at a base of 32, from
a batch size of 320 on. There the number is held at the end of its range (tfbatch.trial.derived
has the ranges), and the trial says which numbers were held. The rule `half_life` has no such end.
"""

FORMULA = "learning_rate * sqrt(ratio), 1 - ratio * (1 - beta), epsilon / sqrt(ratio)"
SOURCE = "Malladi et al. 2022, arXiv 2205.10287"
REQUIRES = "second_moment"


def scale(learning_rate: float, ratio: float) -> float:
    """Returns `learning_rate * sqrt(ratio)`, `ratio` being batch size / base batch size."""
    return float(learning_rate * ratio**0.5)


def scale_number(role: str, value: float, ratio: float) -> float:
    """Returns a beta or an epsilon at `ratio`; other numbers stay."""
    if role in ("first_moment", "second_moment"):
        return 1 - ratio * (1 - value)
    if role == "epsilon":
        return float(value / ratio**0.5)
    if role == "squared_epsilon":  # under the root, where it is the square of the paper's
        return value / ratio
    return value
