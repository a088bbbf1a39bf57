"""How the gradient noise scale is measured, and what is then known."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from tfbatch.charts import Chart, Series
from tfbatch.errors import InputError
from tfbatch.estimators.noise_scale import NoiseScale

Mode = Literal["inference", "micro-batch"]


@dataclasses.dataclass(frozen=True)
class NoiseScaleSettings:
    """How the noise scale is measured.

    Attributes:
        small_batch_size: b, examples in a micro-batch.
        micro_batches: k; the large batch has B = k b examples.
        mode: "inference": without dropout, BatchNormalization by its moving statistics.
            "micro-batch": the training mode, dropout on, each micro-batch normalized by itself.
            None: "micro-batch" for a model with BatchNormalization at initial weights, whose moving
            statistics are not yet those of any data, else "inference".
        augmented: Whether batches are augmented as in training.
        preconditioned: Whether the noise scale under an adaptive optimizer is measured too.
        most_pairs: Pairs are measured until the interval is tight, or this many, or 8 passes over
            the data are made: more of the same examples add no information.
        seconds: About what it may take, tracing included; 8 pairs are measured anyway.
        seed: Seed of the batches.
    """

    small_batch_size: int = 16
    micro_batches: int = 8
    mode: Mode | None = None
    augmented: bool = True
    preconditioned: bool = False
    most_pairs: int = 400
    seconds: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.small_batch_size < 1 or self.micro_batches < 2 or self.most_pairs < 2:
            raise InputError(
                "`small_batch_size` must be >= 1, `micro_batches` and `most_pairs` >= 2. Received: "
                f"{self.small_batch_size}, {self.micro_batches} and {self.most_pairs}."
            )
        if self.mode not in (None, "inference", "micro-batch"):
            raise InputError(
                f"`mode` must be 'inference', 'micro-batch' or None. Received: {self.mode!r}."
            )


@dataclasses.dataclass(frozen=True)
class NoiseScaleReading:
    """The gradient noise scale of a model.

    Attributes:
        estimate: tr(Sigma) / |G|^2 of the whole model.
        layers: Names of the layers with trainable weights.
        by_layer: The noise scale of each.
        preconditioned: tr(P Sigma) / G'PG, or None.
        preconditioner: Where P = 1 / (sqrt(v) + epsilon) comes from, or None.
        squared_gradient_of_data: |G|^2 of the training examples themselves; the estimate's is that
            of the population that they come from, see `squared_gradient_of_data_set`.
        small_batch_size: b.
        large_batch_size: B.
        mode: See NoiseScaleSettings.
        where: At which weights, and on which examples.
        seconds: What it took.
        num_examples: Number of examples that the batches were drawn from; None if infinite. The
            intervals are of the value for the population that these examples come from.
    """

    estimate: NoiseScale
    layers: tuple[str, ...]
    by_layer: tuple[NoiseScale, ...]
    preconditioned: NoiseScale | None
    preconditioner: str | None
    squared_gradient_of_data: float
    small_batch_size: int
    large_batch_size: int
    mode: Mode
    where: str
    seconds: float
    num_examples: int | None = None

    def columns(self) -> tuple[str, ...]:
        """See tfbatch.instruments.Reading."""
        return ("weights", "noise scale", "interval", "squared gradient", "noise trace", "doubts")

    def rows(self) -> list[tuple[str, ...]]:
        """See tfbatch.instruments.Reading."""
        layers = zip(self.layers, self.by_layer, strict=True)
        return self._rows_of_all() + [_layer_row(name, found) for name, found in layers]

    def short_rows(self, most: int) -> tuple[list[tuple[str, ...]], str]:
        """See tfbatch.instruments.Reading: the layers that have a figure come first."""
        layers = list(zip(self.layers, self.by_layer, strict=True))
        told = [_layer_row(name, found) for name, found in layers if _has_a_figure(found)]
        rows = [*self._rows_of_all(), *told]
        left_out = []
        if len(rows) > most:
            left_out.append(f"{len(rows) - most} layers more")
        if untold := len(layers) - len(told):
            left_out.append(
                f"{untold} of {len(layers)} layers whose squared gradient is not told from 0"
            )
        return rows[:most], " and ".join(left_out)

    def _rows_of_all(self) -> list[tuple[str, ...]]:
        rows = [_row("all", self.estimate)]
        if self.preconditioned:
            rows.append(_row("all, preconditioned", self.preconditioned))
        return rows

    def conclusion(self) -> str:
        """See tfbatch.instruments.Reading."""
        found = self.estimate
        adaptive = (
            f"; preconditioned ({self.preconditioner}): {self.preconditioned}"
            if self.preconditioned
            else ""
        )
        doubts = f" Weak: {'; '.join(found.doubts)}." if found.doubts else ""
        examples = f"the {self.num_examples:,} training" if self.num_examples else "the"
        return (
            f"The gradient noise scale {self.where} is {found.noise_scale:.4g} {found.interval} "
            f"examples ({found.interval.level:.0%} interval of the value for the population that "
            f"{examples} examples come from; {found.count:.0f} pairs of {self.small_batch_size} "
            f"and {self.large_batch_size}, {self.mode} mode){adaptive}; it grows during training, "
            f"and as a critical batch size it is a prediction.{doubts}"
        )

    def charts(self) -> tuple[Chart, ...]:
        """See tfbatch.instruments.Reading."""
        shown = [(i, e) for i, e in enumerate(self.by_layer) if math.isfinite(e.noise_scale)]
        if not shown:
            return ()
        series = Series(
            "layers",
            tuple(float(index) for index, _ in shown),
            tuple(estimate.noise_scale for _, estimate in shown),
            kind="points",
        )
        label = "noise scale (examples)"
        return (Chart("Gradient noise scale", "layer", label, (series,), log_x=False),)

    def __str__(self) -> str:
        """The conclusion."""
        return self.conclusion()


def _has_a_figure(found: NoiseScale) -> bool:
    return math.isfinite(found.noise_scale) and found.interval.bounded


def _layer_row(name: str, found: NoiseScale) -> tuple[str, ...]:
    """The remedy for a doubt stands in the first row: here it would be repeated for most layers."""
    row = _row(name, found)
    return (*row[:-1], row[-1].split(":")[0])


def _row(name: str, found: NoiseScale) -> tuple[str, ...]:
    return (
        name,
        f"{found.noise_scale:.4g}",
        str(found.interval),
        f"{found.squared_gradient:.3g}",
        f"{found.noise_trace:.3g}",
        "; ".join(found.doubts),
    )
