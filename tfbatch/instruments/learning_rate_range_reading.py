"""The sweep of a learning-rate range test, and what is then known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from tfbatch.charts import Chart, Mark, Series
from tfbatch.errors import InputError
from tfbatch.estimators.range_test import FEWEST_STEPS, RangeTest


@dataclasses.dataclass(frozen=True)
class RangeSettings:
    """The sweep.

    Attributes:
        lowest: Learning rate of the first update.
        highest: Learning rate of the last one.
        steps: Updates of a sweep, at least 20.
        seeds: One sweep each, from its own initial weights and with its own order.
        seconds: After this long no further seed begins.
    """

    lowest: float = 1e-6
    highest: float = 10.0
    steps: int = 100
    seeds: tuple[int, ...] = (1, 2, 3)
    seconds: float = math.inf

    def __post_init__(self) -> None:
        if not 0 < self.lowest < self.highest < math.inf:
            raise InputError(
                "`lowest` must be > 0 and less than `highest`. Received: "
                f"{self.lowest} and {self.highest}."
            )
        if self.steps < FEWEST_STEPS:
            raise InputError(f"`steps` must be >= {FEWEST_STEPS}. Received: {self.steps}.")
        if not self.seeds:
            raise InputError("`seeds` must hold at least one seed. Received: none.")

    def rates(self) -> np.ndarray:
        """rate(step) = lowest * (highest / lowest) ** (step / (steps - 1))."""
        return np.geomspace(self.lowest, self.highest, self.steps)


@dataclasses.dataclass(frozen=True)
class RangeReading:
    """A learning-rate range test.

    Attributes:
        batch_size: Examples in an update.
        learning_rates: [steps].
        losses: [seeds][steps] each update's loss, NaN from where a sweep was stopped.
        result: What the rules suggest, and why not to trust it.
        seeds: The seeds that were run.
        seconds: What it took.
    """

    batch_size: int
    learning_rates: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]
    result: RangeTest
    seeds: tuple[int, ...]
    seconds: float

    @property
    def learning_rate(self) -> float | None:
        """The suggestion; None without a descent."""
        return self.result.learning_rate

    def columns(self) -> tuple[str, ...]:
        """See tfbatch.instruments.Reading."""
        return ("rule", "learning rate", "by seed")

    def rows(self) -> list[tuple[str, ...]]:
        """See tfbatch.instruments.Reading."""
        return [
            (
                suggestion.rule,
                f"{suggestion.learning_rate:.3g}" if suggestion.learning_rate else "none",
                ", ".join(f"{rate:.2g}" for rate in suggestion.by_seed),
            )
            for suggestion in self.result.suggestions
        ]

    def conclusion(self) -> str:
        """See tfbatch.instruments.Reading."""
        result = self.result
        found = (
            "suggests no learning rate"
            if result.learning_rate is None
            else f"suggests a learning rate of {result.learning_rate:.3g}"
        )
        end = (
            f"diverges at {result.diverges_at:.3g}"
            if result.diverges_at
            else f"does not diverge up to {self.learning_rates[-1]:.3g}"
        )
        doubts = f" Do not trust it: {'; '.join(result.doubts)}." if result.doubts else ""
        return (
            f"The range test at batch size {self.batch_size} ({len(self.seeds)} seeds, "
            f"{len(self.learning_rates)} updates) {found} and {end}; it is where to look, and no "
            f"measurement of a full training.{doubts}"
        )

    def charts(self) -> tuple[Chart, ...]:
        """See tfbatch.instruments.Reading."""
        curves = [
            Series(f"seed {seed}", self.learning_rates, losses, kind="line")
            for seed, losses in zip(self.seeds, self.losses, strict=True)
        ]
        smoothed = self.result.smoothed
        mean = Series("mean, smoothed", self.learning_rates[: len(smoothed)], smoothed, kind="line")
        rate = self.learning_rate
        marks = (Mark(rate, f"suggested {rate:.2g}"),) if rate else ()
        return (
            Chart(
                "Learning-rate range test", "learning rate", "loss", (*curves, mean), marks=marks
            ),
        )

    def __str__(self) -> str:
        """The conclusion."""
        return self.conclusion()
