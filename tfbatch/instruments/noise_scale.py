"""The gradient noise scale at given weights: above it, a larger batch saves few steps."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np

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
from tfbatch.instruments.noise_scale_reading import Mode, NoiseScaleReading, NoiseScaleSettings
from tfbatch.instruments.preconditioning import measured_preconditioner, slots_preconditioner
from tfbatch.instruments.weights_and_examples import Weights, model_at, training_batches
from tfbatch.training.program_cache import ProgramCache

HEADING = "Gradient noise scale"
ORDER = 40
SHARE = 2.0
_TIGHT = 1.5
_LARGE = 128


def noise_scale_of(
    model: Any,
    batches: Iterable[Any],
    *,
    settings: NoiseScaleSettings,
    mode: Mode = "inference",
    num_examples: int | None = None,
    where: str = "at the given weights",
    heartbeat: Callable[[], None] = lambda: None,
) -> NoiseScaleReading:
    """Measures any compiled Keras model at its weights, and leaves it as it was.

    The loss is the compiled one or the model's own `compute_loss`, with sample weights and
    regularization: what training descends. A regularizer has no noise, but it is part of G. Where
    a loss divides by a batch's sum of weights or its unmasked steps, the gradient of the large
    batch is the mean of its micro-batches' gradients.

    Args:
        model: A built, compiled model.
        batches: Batches of B examples, independently drawn, as `fit` takes them.
        settings: How to measure; its `mode` is given apart.
        mode: The mode.
        num_examples: Number of examples that the batches are drawn from; None if infinite.
        where: Said in the conclusion.
        heartbeat: Called after every pair.

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
        heartbeat()
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
    heartbeat: Callable[[], None],
) -> NoiseScaleReading:
    """Measures in the process that trains.

    Args:
        programs: Data, model builder and traced programs.
        configuration: What the weights are trained with; its batch size is that training's.
        weights: At which weights.
        settings: How to measure. A large batch beyond the training split is made smaller.
        heartbeat: Called now and then.
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
    heartbeat()
    normalized = any(
        isinstance(layer, keras.layers.BatchNormalization) for layer in model._flatten_layers()
    )
    default: Mode = "micro-batch" if normalized and weights.untrained else "inference"
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
        heartbeat=heartbeat,
    )


def probe(bench: Bench, *, batch_sizes: Sequence[int], seconds: float) -> NoiseScaleReading:
    """See tfbatch.instruments.Probe."""
    settings = NoiseScaleSettings(seconds=seconds)
    size = min(batch_sizes, key=lambda size: abs(math.log(size / _LARGE)))
    found: NoiseScaleReading = bench.measure(
        measure_noise_scale, bench.configuration(size), Weights(), settings
    )
    return found
