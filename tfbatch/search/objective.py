"""The objective: which final metric is compared, and which way is better."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection
from typing import Literal

from tfbatch.errors import InputError, did_you_mean

Direction = Literal["min", "max"]
# Keras's own names and their short forms, as words of a name such as val_binary_accuracy or auc_1.
_LARGER_IS_BETTER = (
    *("acc", "accuracy", "auc", "precision", "recall", "f1", "iou", "dice", "r2"),
    *("sensitivity", "specificity"),
)
_SMALLER_IS_BETTER = (
    *("loss", "error", "mae", "mse", "mape", "msle", "rmse"),
    *("crossentropy", "hinge", "divergence", "perplexity"),
)


@dataclasses.dataclass(frozen=True)
class Objective:
    """A metric's name as in Keras's logs, and its direction."""

    name: str
    direction: Direction

    @classmethod
    def parse(cls, text: str) -> Objective:
        """Reads "val_loss", "val_accuracy:max", ...

        The direction may be left out where a word of the name says it (loss, error, mae, mse and
        the like down; accuracy, AUC, precision, recall, F1, IoU, R2 up).

        Raises:
            InputError: A direction that is neither min nor max, or that has to be given.
        """
        name, colon, direction = text.partition(":")
        if not name or (colon and direction not in ("min", "max")):
            raise InputError(
                f"`--objective` must be NAME, NAME:min or NAME:max. Received: {text!r}."
            )
        if colon:
            return cls(name, "min" if direction == "min" else "max")
        words = set(re.split("[^a-z0-9]+", name.lower()))
        if words.intersection(_SMALLER_IS_BETTER):  # first: `precision_loss`
            return cls(name, "min")
        if words.intersection(_LARGER_IS_BETTER):
            return cls(name, "max")
        raise InputError(
            f"Whether `{name}` should be large or small cannot be told from its name. Give the "
            f'objective as "{name}:min" or "{name}:max" (--objective={name}:min).'
        )

    def check(self, available: Collection[str]) -> None:
        """Refuses a metric that the model does not have.

        Raises:
            InputError: With the names that there are.
        """
        if self.name not in available:
            raise InputError(
                f"The model has no metric `{self.name}`.{did_you_mean(self.name, available)} "
                f"Available: {', '.join(sorted(available))}."
            )

    def better(self, first: float, second: float) -> bool:
        """Whether the first value is better than the second."""
        return first < second if self.direction == "min" else first > second

    def worst(self, values: Collection[float]) -> float:
        """The worst of some values."""
        return max(values) if self.direction == "min" else min(values)

    @property
    def smallest_margin(self) -> float:
        """Differences below this do not matter: half a point of accuracy; else nothing is known."""
        return 0.005 if "accuracy" in self.name else 0.0

    def __str__(self) -> str:
        """The form that `parse` reads."""
        return f"{self.name}:{self.direction}"
