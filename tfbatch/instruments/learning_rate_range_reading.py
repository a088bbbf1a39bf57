"""The sweep of a learning-rate range test, and what is then known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from tfbatch.charts import Chart, Mark, Series
from tfbatch.errors import InputError
from tfbatch.estimators.range_test import FEWEST_STEPS, RangeTest

_SHOWN = 5.0
"""The chart shows losses up to this many times the first one."""


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
class ConstantRate:
    """As many updates as a sweep has, at one rate.

    Attributes:
        learning_rate: The rate.
        loss: Median loss of the last tenth of the updates; NaN where it diverged.
        held: Whether every loss was finite, and the last ones are below the untrained model's.
    """

    learning_rate: float
    loss: float
    held: bool


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
        constant: Whole sweeps at constant rates, descending by halves from where the sweep
            diverged; empty without a descent or a divergence, or without time.
    """

    batch_size: int
    learning_rates: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]
    result: RangeTest
    seeds: tuple[int, ...]
    seconds: float
    constant: tuple[ConstantRate, ...] = ()

    @property
    def learning_rate(self) -> float | None:
        """The suggestion; None without a descent.

        The constant rate whose loss ended lowest, else the median of the rules.
        """
        held = [one for one in self.constant if one.held]
        if not held:
            return self.result.learning_rate
        return min(held, key=lambda one: one.loss).learning_rate

    @property
    def limit(self) -> float | None:
        """The largest rate that held for a whole sweep; None if none was found."""
        return max((one.learning_rate for one in self.constant if one.held), default=None)

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
        ] + [
            (
                "constant rate",
                f"{one.learning_rate:.3g}",
                f"ends at a loss of {one.loss:.3g}" if one.held else "does not hold",
            )
            for one in self.constant
        ]

    def conclusion(self) -> str:
        """See tfbatch.instruments.Reading."""
        result = self.result
        found = (
            "suggests no learning rate"
            if self.learning_rate is None
            else f"suggests a learning rate of {self.learning_rate:.3g}"
        )
        if self.limit is not None:
            found += (
                f", whose {len(self.learning_rates)} updates at a constant rate ended lowest, "
                f"finds {self.limit:.3g} to be the largest rate that holds for a whole sweep,"
            )
        end = (
            f"diverges at {result.diverges_at:.3g}, above what training tolerates"
            if result.diverges_at
            else f"does not diverge up to {self.learning_rates[-1]:.3g}"
        )
        of = "Do not trust it" if self.limit is None else "Do not trust the curve alone"
        doubts = f" {of}: {'; '.join(result.doubts)}." if result.doubts else ""
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
                "Learning-rate range test",
                "learning rate",
                "loss",
                (*curves, mean),
                marks=marks,
                y_limits=self._limits(),
            ),
        )

    def _limits(self) -> tuple[float, float] | None:
        """From the lowest loss to a few times the first: a divergence may reach 1e23."""
        known = [loss for losses in self.losses for loss in losses if math.isfinite(loss)]
        above = [loss for loss in known if loss > 0]
        first = float(np.median([losses[0] for losses in self.losses]))
        if not above or not first > 0:
            return None
        return min(min(above), first) / 1.2, _SHOWN * first

    def __str__(self) -> str:
        """The conclusion."""
        return self.conclusion()
