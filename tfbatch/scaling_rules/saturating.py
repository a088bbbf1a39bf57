"""Linear below a critical batch size, constant above (McCandlish et al. 2018, arXiv 1812.06162).

The best learning rate of a step on a noisy quadratic is `maximum / (1 + critical / batch_size)`,
where `critical` is the gradient noise scale; measure it, or search it.
"""

FORMULA = (
    "learning_rate * (1 + critical_batch_size / base_batch_size)"
    " / (1 + critical_batch_size / batch_size)"
)
SOURCE = "McCandlish et al. 2018, arXiv 1812.06162"
IN_EXAMPLES = ("critical_batch_size",)


def scale(learning_rate: float, ratio: float, *, critical_batch_size: float) -> float:
    """Returns `learning_rate * (1 + c) / (1 + c / ratio)`, c being critical / base batch size."""
    return learning_rate * (1 + critical_batch_size) / (1 + critical_batch_size / ratio)
