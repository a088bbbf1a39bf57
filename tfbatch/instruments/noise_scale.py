"""The gradient noise scale at given weights: above it, a larger batch saves few steps."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.estimators.noise_scale import (
    FEWEST_PAIRS,
    MOST_PASSES,
    NoiseScale,
    estimate_noise_scale,
    estimate_noise_scale_per_layer,
    squared_gradient_of_data_set,
)
from tfbatch.gradients import LayerNorms
from tfbatch.instruments import Bench
from tfbatch.instruments.noise_scale_reading import Mode, NoiseScaleReading, NoiseScaleSettings
from tfbatch.instruments.preconditioning import (
    PILOT_BATCHES,
    measured_preconditioner,
    slots_preconditioner,
)
from tfbatch.instruments.weights_and_examples import Weights, model_at, training_batches
from tfbatch.training.context import TaskContext
from tfbatch.training.workload import Workload

HEADING = "Gradient noise scale"
ORDER = 40
SHARE = 2.0
_TIGHT = 1.5
_LARGE = 128
_PAIRS_PER_PASS = 4
_FEWEST_NORMALIZED = 8
"""Examples in a micro-batch that is normalized by itself, where there are as many."""


def noise_scale_of(
    model: Any,
    batches: Iterable[Any],
    *,
    settings: NoiseScaleSettings,
    mode: Mode = "inference",
    num_examples: int | None = None,
    pilot: Iterable[Any] = (),
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
        batches: Batches of B examples as `fit` takes them, pass after pass over the data: of
            `num_examples // B` consecutive ones no two share an example.
        settings: How to measure; its `mode` is given apart.
        mode: The mode.
        num_examples: Number of examples that the batches are drawn from; None if infinite.
        pilot: Batches that a preconditioner is measured on; the first of `batches` by default.
        where: Said in the conclusion.
        heartbeat: Called after every pair.

    Raises:
        InputError: A model whose gradient cannot be measured, or no full batch.
    """
    started = time.perf_counter()
    norms = LayerNorms(model, micro_batches=settings.micro_batches, training=mode == "micro-batch")
    large_size = settings.small_batch_size * settings.micro_batches
    iterator: Iterator[Any] = (b for b in batches if len(keras.tree.flatten(b)[0]) == large_size)
    per_pass = None if num_examples is None else max(num_examples // large_size, 1)
    scales, source = (None, None)
    if settings.preconditioned:
        known = slots_preconditioner(model)
        scales, source = known or measured_preconditioner(norms, iter(pilot) if pilot else iterator)
        if not known and not pilot and per_pass:
            iterator = itertools.islice(iterator, -PILOT_BATCHES % per_pass, None)
    small: list[np.ndarray] = []
    large: list[np.ndarray] = []
    for batch in iterator:
        one, other = norms(batch, scales)
        small.append(one)
        large.append(other)
        heartbeat()
        late = time.perf_counter() - started > settings.seconds
        if len(small) >= settings.most_pairs or (
            len(small) >= FEWEST_PAIRS and (late or _tight(small, large, settings, per_pass))
        ):
            break
    if not small:
        raise InputError(f"There must be at least one full batch of {large_size} examples.")
    return _reading(norms, np.stack(small), np.stack(large), settings, per_pass).finished(
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
            num_examples=num_examples,
        )


def _reading(
    norms: LayerNorms,
    small: np.ndarray,
    large: np.ndarray,
    settings: NoiseScaleSettings,
    per_pass: int | None,
) -> _Estimates:
    """From [pairs, 2, layers] squared norms."""
    b, big = settings.small_batch_size, settings.small_batch_size * settings.micro_batches
    whole, scaled = (
        estimate_noise_scale(
            small[:, row].sum(-1),
            large[:, row].sum(-1),
            small_batch_size=b,
            large_batch_size=big,
            pairs_per_pass=per_pass,
        )
        for row in (0, 1)
    )
    by_layer = estimate_noise_scale_per_layer(
        small[:, 0],
        large[:, 0],
        small_batch_size=b,
        large_batch_size=big,
        pairs_per_pass=per_pass,
    )
    return _Estimates(whole, norms.layers, by_layer, scaled, settings)


def _tight(
    small: Sequence[np.ndarray],
    large: Sequence[np.ndarray],
    settings: NoiseScaleSettings,
    per_pass: int | None,
) -> bool:
    found = estimate_noise_scale(
        np.stack(small)[:, 0].sum(-1),
        np.stack(large)[:, 0].sum(-1),
        small_batch_size=settings.small_batch_size,
        large_batch_size=settings.small_batch_size * settings.micro_batches,
        pairs_per_pass=per_pass,
    )
    return found.interval.bounded and 0 < found.interval.high <= _TIGHT * found.interval.low


def measure_noise_scale(
    task: TaskContext,
    configuration: Configuration,
    weights: Weights,
    settings: NoiseScaleSettings,
) -> NoiseScaleReading:
    """Measures in the process that trains.

    Args:
        task: Model and data.
        configuration: What the weights are trained with; its batch size is that training's.
        weights: At which weights.
        settings: How to measure. A large batch beyond a quarter of the training split is made
            smaller.
    """
    programs = task.programs
    data = programs.workload.data
    examples = data.num_examples("train")
    k = settings.micro_batches
    if examples < k:
        raise InputError(
            f"`micro_batches` must be at most the number of training examples, {examples}. "
            f"Received: {k}."
        )
    model = model_at(programs, configuration, weights)
    task.heartbeat()
    normalized = any(
        isinstance(layer, keras.layers.BatchNormalization) for layer in model._flatten_layers()
    )
    default: Mode = "micro-batch" if normalized and weights.untrained else "inference"
    mode = settings.mode or default
    size = _small_size(settings, examples, mode)
    settings = dataclasses.replace(settings, small_batch_size=size)
    return noise_scale_of(
        model,
        _passes(programs.workload, settings, examples),
        settings=settings,
        mode=mode,
        num_examples=examples,
        pilot=_pass(programs.workload, settings, examples, number=MOST_PASSES),
        where=f"{weights}{'' if settings.augmented else ', without augmentation,'}",
        heartbeat=task.heartbeat,
    )


def _small_size(settings: NoiseScaleSettings, examples: int, mode: Mode) -> int:
    """So few that a pass over the data holds several pairs, whose spread gives the interval."""
    k, asked = settings.micro_batches, settings.small_batch_size
    least = _FEWEST_NORMALIZED if mode == "micro-batch" else 1
    return min(asked, max(examples // (_PAIRS_PER_PASS * k), min(least, examples // k)))


def _passes(
    workload: Workload, settings: NoiseScaleSettings, examples: int
) -> Iterator[tuple[Any, ...]]:
    for number in range(MOST_PASSES):
        yield from _pass(workload, settings, examples, number=number)


def _pass(
    workload: Workload, settings: NoiseScaleSettings, examples: int, *, number: int
) -> Iterable[tuple[Any, ...]]:
    """The full batches of one pass over the data, in an order of its own."""
    size = settings.small_batch_size * settings.micro_batches
    batches: Iterable[tuple[Any, ...]] = training_batches(
        workload,
        batch_size=size,
        batches=min(examples // size, settings.most_pairs),
        seed=settings.seed + number,
        augmented=settings.augmented,
    )
    return batches


def probe(bench: Bench, *, batch_sizes: Sequence[int], seconds: float) -> NoiseScaleReading:
    """See tfbatch.instruments.Probe."""
    settings = NoiseScaleSettings(seconds=seconds)
    size = min(batch_sizes, key=lambda size: abs(math.log(size / _LARGE)))
    return bench.measure(measure_noise_scale, bench.configuration(size), Weights(), settings)
