"""What is trained for."""

from __future__ import annotations

import dataclasses
from typing import Any

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
    """

    loss: str | None = None
    metrics: tuple[str, ...] | None = None
    class_weight: dict[int, float] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_weight", as_plain(self.class_weight))

    def identity(self) -> dict[str, Any]:
        """What of it is given."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}
