"""What is trained for."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from tfbatch.errors import InputError
from tfbatch.schema import as_plain

IN_PYTHON = "(given in Python)"
"""Stands for a loss or a metric that has no name."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained for, where the model's builder does not compile it.

    Attributes:
        loss: Name of a Keras loss; "(given in Python)" for an object or a function; None.
        metrics: Names of Keras metrics, in the same way; None for the loss's default.
        class_weight: Weight of each class in the training loss, or None.

    Raises:
        InputError: `class_weight` is not a dict of whole numbers to finite numbers of at least 0.
    """

    loss: str | None = None
    metrics: tuple[str, ...] | None = None
    class_weight: dict[int, float] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_weight", _checked(as_plain(self.class_weight)))

    def identity(self) -> dict[str, object]:
        """What of it is given."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}


def _checked(class_weight: Any) -> dict[int, float] | None:
    if class_weight is None:
        return None
    usable = isinstance(class_weight, dict) and all(
        isinstance(key, int | float)
        and key == key // 1
        and isinstance(weight, int | float)
        and math.isfinite(weight)
        and weight >= 0
        for key, weight in class_weight.items()
    )
    if not usable:
        raise InputError(
            "`class_weight` must be a dict of class indices and their weights, finite numbers of "
            "at least 0, such as {0: 1.0, 1: 5.0}. To balance the classes, give each the weight "
            f"num_examples / (num_classes * its number of examples). Received: {class_weight!r}."
        )
    return {int(key): weight for key, weight in class_weight.items()}
