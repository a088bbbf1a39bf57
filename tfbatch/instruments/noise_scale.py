"""The gradient noise scale at given weights: above it, a larger batch saves few steps."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import keras
import numpy as np

from tfbatch.charts import Chart, Series
from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.estimators.noise_scale import (
    FEWEST_PAIRS,
    NoiseScale,
    estimate_noise_scale,
    estimate_noise_scale_per_layer,
    squared_gradient_of_data_set,
)
from tfbatch.gradients import LayerNorms
from tfbatch.instruments import Bench
from tfbatch.instruments.preconditioning import measured_preconditioner, slots_preconditioner
from tfbatch.instruments.weights_and_examples import Weights, model_at, training_batches
from tfbatch.training.program_cache import ProgramCache

HEADING = "Gradient noise scale"
ORDER = 40
SHARE = 2.0
_TIGHT = 1.5
_LARGE = 128

Mode = Literal["inference", "micro-batch"]


@dataclasses.dataclass(frozen=True)
class NoiseScaleSettings:
    """How the noise scale is measured.

    Attributes:
        small_batch_size: b, examples in a micro-batch.
        micro_batches: k; the large batch has B = k b examples.
        mode: "inference": without dropout, BatchNormalization by its moving statistics.
            "micro-batch": the training mode, dropout on, each micro-batch normalised by itself.
            None: "micro-batch" for a model with BatchNormalization at initial weights, whose moving
            statistics are not yet those of any data, else "inference".
        augmented: Whether batches are augmented as in training.
        preconditioned: Whether the noise scale under an adaptive optimizer is measured too.
        most_pairs: Pairs are measured until the interval is tight, or so many.
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

    def columns(self) -> tuple[str, ...]:
        """See tfbatch.instruments.Reading."""
        return ("weights", "noise scale", "interval", "squared gradient", "noise trace", "doubts")

    def rows(self) -> list[tuple[str, ...]]:
        """See tfbatch.instruments.Reading."""
        rows = [_row("all", self.estimate)]
        if self.preconditioned:
            rows.append(_row("all, preconditioned", self.preconditioned))
        return rows + [_row(n, e) for n, e in zip(self.layers, self.by_layer, strict=True)]

    def conclusion(self) -> str:
        """See tfbatch.instruments.Reading."""
        found = self.estimate
        adaptive = (
            f"; preconditioned ({self.preconditioner}): {self.preconditioned}"
            if self.preconditioned
            else ""
        )
        doubts = f" Weak: {'; '.join(found.doubts)}." if found.doubts else ""
        return (
            f"The gradient noise scale {self.where} is {found.noise_scale:.4g} {found.interval} "
            f"examples ({found.count:.0f} pairs of {self.small_batch_size} and "
            f"{self.large_batch_size}, {self.mode} mode){adaptive}; it grows during training, and "
            f"as a critical batch size it is a prediction.{doubts}"
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


def _row(name: str, found: NoiseScale) -> tuple[str, ...]:
    return (
        name,
        f"{found.noise_scale:.4g}",
        str(found.interval),
        f"{found.squared_gradient:.3g}",
        f"{found.noise_trace:.3g}",
        "; ".join(found.doubts),
    )


def noise_scale_of(
    model: Any,
    batches: Iterable[Any],
    *,
    settings: NoiseScaleSettings,
    mode: Mode = "inference",
    num_examples: int | None = None,
    where: str = "at the given weights",
    sign_of_life: Callable[[], None] = lambda: None,
) -> NoiseScaleReading:
    """Measures any compiled Keras model at its weights, and leaves it as it was.

    The loss is the compiled one or the model's own `compute_loss`, with sample weights and
    regularisation: what training descends. A regulariser has no noise, but it is part of G. Where
    a loss divides by a batch's sum of weights or its unmasked steps, the gradient of the large
    batch is the mean of its micro-batches' gradients.

    Args:
        model: A built, compiled model.
        batches: Batches of B examples, independently drawn, as `fit` takes them.
        settings: How to measure; its `mode` is given apart.
        mode: The mode.
        num_examples: Number of examples that the batches are drawn from; None if infinite.
        where: Said in the conclusion.
        sign_of_life: Called after every pair.

    Raises:
        InputError: A model whose gradient cannot be measured, or no full batch.
    """
    started = time.perf_counter()
    norms = LayerNorms(model, micro_batches=settings.micro_batches, training=mode == "micro-batch")
    large_size = settings.small_batch_size * settings.micro_batches
    iterator = (b for b in batches if len(keras.tree.flatten(b)[0]) == large_size)
    scales, source = (None, None)
    if settings.preconditioned:
        scales, source = slots_preconditioner(model) or measured_preconditioner(norms, iterator)
    small: list[np.ndarray] = []
    large: list[np.ndarray] = []
    for batch in iterator:
        one, other = norms(batch, scales)
        small.append(one)
        large.append(other)
        sign_of_life()
        late = time.perf_counter() - started > settings.seconds
        if len(small) >= settings.most_pairs or (
            len(small) >= FEWEST_PAIRS and (late or _tight(small, large, settings))
        ):
            break
    if not small:
        raise InputError(f"There must be at least one full batch of {large_size} examples.")
    return _reading(norms, np.stack(small), np.stack(large), settings).finished(
        source=source,
        mode=mode,
        where=where,
        num_examples=num_examples,
        seconds=time.perf_counter() - started,
    )


@dataclasses.dataclass(frozen=True)
class _Estimates:
    whole: NoiseScale
    layers: tuple[str, ...]
    by_layer: tuple[NoiseScale, ...]
    scaled: NoiseScale
    settings: NoiseScaleSettings

    def finished(
        self,
        *,
        source: str | None,
        mode: Mode,
        where: str,
        num_examples: int | None,
        seconds: float,
    ) -> NoiseScaleReading:
        gradient = self.whole.squared_gradient
        if num_examples is not None:
            gradient = squared_gradient_of_data_set(
                gradient, self.whole.noise_trace, num_examples=num_examples
            )
        size = self.settings.small_batch_size
        return NoiseScaleReading(
            estimate=self.whole,
            layers=self.layers,
            by_layer=self.by_layer,
            preconditioned=self.scaled if source else None,
            preconditioner=source,
            squared_gradient_of_data=gradient,
            small_batch_size=size,
            large_batch_size=size * self.settings.micro_batches,
            mode=mode,
            where=where,
            seconds=seconds,
        )


def _reading(
    norms: LayerNorms, small: np.ndarray, large: np.ndarray, settings: NoiseScaleSettings
) -> _Estimates:
    """From [pairs, 2, layers] squared norms."""
    b, big = settings.small_batch_size, settings.small_batch_size * settings.micro_batches
    whole, scaled = (
        estimate_noise_scale(
            small[:, row].sum(-1), large[:, row].sum(-1), small_batch_size=b, large_batch_size=big
        )
        for row in (0, 1)
    )
    by_layer = estimate_noise_scale_per_layer(
        small[:, 0], large[:, 0], small_batch_size=b, large_batch_size=big
    )
    return _Estimates(whole, norms.layers, by_layer, scaled, settings)


def _tight(
    small: Sequence[np.ndarray], large: Sequence[np.ndarray], settings: NoiseScaleSettings
) -> bool:
    found = estimate_noise_scale(
        np.stack(small)[:, 0].sum(-1),
        np.stack(large)[:, 0].sum(-1),
        small_batch_size=settings.small_batch_size,
        large_batch_size=settings.small_batch_size * settings.micro_batches,
    )
    return found.interval.bounded and 0 < found.interval.high <= _TIGHT * found.interval.low


def measure_noise_scale(
    programs: ProgramCache,
    configuration: Configuration,
    weights: Weights,
    settings: NoiseScaleSettings,
    *,
    sign_of_life: Callable[[], None],
) -> NoiseScaleReading:
    """Measures in the process that trains.

    Args:
        programs: Data, model builder and traced programs.
        configuration: What the weights are trained with; its batch size is that training's.
        weights: At which weights.
        settings: How to measure. A large batch beyond the training split is made smaller.
        sign_of_life: Called now and then.
    """
    data = programs.workload.data
    examples = data.num_examples("train")
    k = settings.micro_batches
    if examples < k:
        raise InputError(
            f"`micro_batches` must be at most the number of training examples, {examples}. "
            f"Received: {k}."
        )
    settings = dataclasses.replace(
        settings, small_batch_size=min(settings.small_batch_size, examples // k)
    )
    model = model_at(programs, configuration, weights)
    sign_of_life()
    normalised = any(
        isinstance(layer, keras.layers.BatchNormalization) for layer in model._flatten_layers()
    )
    default: Mode = "micro-batch" if normalised and weights.untrained else "inference"
    batches = training_batches(
        programs.workload,
        batch_size=settings.small_batch_size * k,
        batches=settings.most_pairs + FEWEST_PAIRS,
        seed=settings.seed,
        augmented=settings.augmented,
    )
    return noise_scale_of(
        model,
        batches,
        settings=settings,
        mode=settings.mode or default,
        num_examples=examples,
        where=f"{weights}{'' if settings.augmented else ', without augmentation,'}",
        sign_of_life=sign_of_life,
    )


def probe(bench: Bench, *, batch_sizes: Sequence[int], seconds: float) -> NoiseScaleReading:
    """See tfbatch.instruments.Probe."""
    settings = NoiseScaleSettings(seconds=seconds)
    size = min(batch_sizes, key=lambda size: abs(math.log(size / _LARGE)))
    found: NoiseScaleReading = bench.measure(
        measure_noise_scale, bench.configuration(size), Weights(), settings
    )
    return found
