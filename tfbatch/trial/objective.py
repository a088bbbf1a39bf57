"""The objective: which final metric is compared, and which way is better."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping

from tfbatch.errors import InputError, did_you_mean
from tfbatch.metric_direction import Direction, direction_of, is_accuracy


@dataclasses.dataclass(frozen=True)
class Objective:
    """A metric's name as in Keras's logs, and its direction.

    Attributes:
        name: The name.
        direction: Whether a good value is small ("min") or large ("max").
        stated: Whether the user gave the direction; else it follows from the name.
    """

    name: str
    direction: Direction
    stated: bool = dataclasses.field(default=True, compare=False)

    @classmethod
    def parse(cls, text: str) -> Objective:
        """Reads "val_loss", "val_accuracy:max", ...

        The direction may be left out where Keras knows the metric at the end of the name; see
        tfbatch.metric_direction.

        Raises:
            InputError: No text, or a direction that is neither min nor max, or has to be given.
        """
        if not isinstance(text, str):
            raise InputError(
                f'`objective` must be a text, such as "{_as_text(text)}". Received: '
                f"{type(text).__name__}."
            )
        name, colon, direction = text.partition(":")
        if not name or (colon and direction not in ("min", "max")):
            raise InputError(
                f"`--objective` must be NAME, NAME:min or NAME:max. Received: {text!r}."
            )
        if colon:
            return cls(name, "min" if direction == "min" else "max")
        if known := direction_of(name):
            return cls(name, known, stated=False)
        raise InputError(
            f"Whether `{name}` should be large or small cannot be told from its name. Give the "
            f'objective as "{name}:min" or "{name}:max" (--objective={name}:min).'
        )

    def check(
        self,
        available: Collection[str],
        directions: Mapping[str, Direction | None] | None = None,
        *,
        several: Collection[str] = (),
    ) -> None:
        """Refuses a metric that the model does not have, or whose direction is in doubt.

        Args:
            available: Names in the model's logs.
            directions: What is known of their directions from the model's own metrics.
            several: Metrics of the model that have several values.

        Raises:
            InputError: The model does not log the name, or several values with it; or the direction
                was taken from the name and the model's own metric says the opposite.
        """
        if self.name.removeprefix("val_") in several:
            raise InputError(
                f"`--objective` must be a metric of one value. Received: {self.name}, which has "
                'several. Give it one, such as keras.metrics.F1Score(average="macro"), or choose '
                f"another of: {', '.join(sorted(available))}."
            )
        if self.name not in available:
            raise InputError(
                f"The model has no metric `{self.name}`.{did_you_mean(self.name, available)} "
                f"Available: {', '.join(sorted(available))}."
            )
        own = (directions or {}).get(self.name.removeprefix("val_"))
        if own not in (None, self.direction) and not self.stated:
            raise InputError(
                f"`{self.name}` is best at its {self.direction}imum according to its name, but "
                f"the model's metric with that name says {own}. Give the direction: "
                f"--objective={self.name}:min or --objective={self.name}:max."
            )

    def better(self, first: float, second: float) -> bool:
        """Whether the first value is better than the second."""
        return first < second if self.direction == "min" else first > second

    def worst(self, values: Collection[float]) -> float:
        """The worst of some values."""
        return max(values) if self.direction == "min" else min(values)

    def smallest_margin(self, untrained: float | None = None) -> float:
        """Differences below this do not matter.

        Half a point of an accuracy, 2 % of a loss without learning; of anything else nothing is
        known, and it is 0.

        Args:
            untrained: Its value without learning; NaN or None where it is not known.
        """
        if is_accuracy(self.name):
            return 0.005
        known = untrained is not None and math.isfinite(untrained)
        is_loss = self.name.removeprefix("val_") == "loss"
        return 0.02 * abs(untrained) if known and is_loss and untrained is not None else 0.0

    def __str__(self) -> str:
        """The form that `parse` reads."""
        return f"{self.name}:{self.direction}"


def _as_text(given: object) -> str:
    """What was meant by an object with a name and a direction, as KerasTuner's Objective."""
    parts = (getattr(given, "name", None), getattr(given, "direction", None))
    return ":".join(map(str, filter(None, parts))) or "val_loss:min"
