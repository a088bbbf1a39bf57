"""The gradient noise scale: how large a batch may be before its gradient stops getting better.

McCandlish et al. 2018 (arXiv 1812.06162). It grows as the loss falls, so that it is measured before
any training and after a short one; the later one says more.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbatch.charts import Chart, Series
from tfbatch.configuration import Configuration
from tfbatch.estimators.noise_scale import (
    NoiseScale,
    estimate_noise_scale,
    estimate_noise_scale_per_layer,
)
from tfbatch.gradients import SquaredNorms
from tfbatch.instruments import Bench
from tfbatch.instruments.short_training import train_for
from tfbatch.training.own_optimizer import unwrapped
from tfbatch.training.program_cache import ProgramCache

HEADING = "Gradient noise scale"
ORDER = 40
SHARE = 2.0
MICRO_BATCHES = 8
_MICRO_BATCH_SIZE = 16
_FEWEST_PAIRS, _MOST_PAIRS = 12, 400
_TIGHT = 0.5
"""Measuring ends when the interval is no wider than this share of the estimate."""
_SEED = 20181214


@dataclasses.dataclass(frozen=True)
class Stage:
    """The noise scale at one point of a training.

    Attributes:
        examples: Examples trained on before.
        estimate: Of the whole model.
        layers: Of each trainable variable, by its path; empty unless asked for.
        preconditioned: With squares weighted by Adam's 1 / (sqrt(v) + epsilon); None unless asked
            for.
    """

    examples: int
    estimate: NoiseScale
    layers: dict[str, NoiseScale] = dataclasses.field(default_factory=dict)
    preconditioned: NoiseScale | None = None


@dataclasses.dataclass(frozen=True)
class NoiseScaleReading:
    """The gradient noise scale, in examples.

    Attributes:
        stages: Where it was measured, in order.
        small_batch_size: b, examples in a micro-batch.
        large_batch_size: B, examples in the batch that its micro-batches make.
        training: Whether the gradients are of the training mode; of the inference mode, dropout is
            off and BatchNormalization uses its moving statistics, so that examples do not depend
            on each other.
    """

    stages: tuple[Stage, ...]
    small_batch_size: int
    large_batch_size: int
    training: bool = False

    @property
    def estimate(self) -> NoiseScale:
        """The last stage's, of the whole model."""
        return self.stages[-1].estimate

    def columns(self) -> tuple[str, ...]:
        """See tfbatch.instruments.Reading."""
        return ("after examples", "part", "noise scale (examples)", "95 % interval", "doubts")

    def rows(self) -> list[tuple[str, ...]]:
        """See tfbatch.instruments.Reading."""
        rows: list[tuple[str, ...]] = []
        for stage in self.stages:
            parts = [("all weights", stage.estimate), *stage.layers.items()]
            if stage.preconditioned:
                parts.insert(1, ("preconditioned as Adam does", stage.preconditioned))
            rows += [
                (
                    f"{stage.examples:,}",
                    name,
                    f"{found.noise_scale:.4g}",
                    str(found.interval),
                    "; ".join(found.doubts),
                )
                for name, found in parts
            ]
        return rows

    def conclusion(self) -> str:
        """See tfbatch.instruments.Reading."""
        last = self.stages[-1]
        doubts = f" (low confidence: {'; '.join(last.estimate.doubts)})"
        return (
            f"After {last.examples:,} examples the gradient noise scale is "
            f"{last.estimate.noise_scale:.3g} examples {last.estimate.interval}"
            f"{doubts if last.estimate.low_confidence else ''}: of much larger batches less is "
            "predicted to be gained per example. It grows as the loss falls."
        )

    def charts(self) -> tuple[Chart, ...]:
        """See tfbatch.instruments.Reading."""
        found = [stage for stage in self.stages if stage.estimate.noise_scale > 0]
        if not found:
            return ()
        values = [stage.estimate for stage in found]
        finite = [min(v.interval.high, 1e9) for v in values]
        series = Series(
            "noise scale",
            tuple(float(stage.examples) for stage in found),
            tuple(v.noise_scale for v in values),
            low=tuple(max(v.interval.low, 1e-3) for v in values),
            high=tuple(finite),
        )
        return (
            Chart(HEADING, "examples trained on", "noise scale (examples)", (series,), log_x=False),
        )


def measure_noise_scale(
    programs: ProgramCache,
    configuration: Configuration,
    examples: Sequence[int],
    seconds: float,
    options: NoiseScaleOptions,
    *,
    sign_of_life: Callable[[], None],
) -> NoiseScaleReading:
    """Measures the noise scale at some points of one training, on its own training stream.

    Args:
        programs: Data, model builder and traced programs.
        configuration: What is trained with between the points.
        examples: Examples trained on before each point, ascending; 0 for the untrained model.
        seconds: About how long the measuring of all points may take.
        options: How.
        sign_of_life: Called now and then.

    Raises:
        InputError: A model whose gradients cannot be measured from outside, or too few examples.
    """
    data = programs.workload.data
    count = data.num_examples("train")
    small = max(1, min(_MICRO_BATCH_SIZE, count // (2 * MICRO_BATCHES)))
    large = small * MICRO_BATCHES
    stages = []
    for at, model in train_for(programs, configuration, examples, sign_of_life=sign_of_life):
        norms = SquaredNorms(model, micro_batches=MICRO_BATCHES, training=options.training)
        batches = _batches(data, large)
        each = _measure(norms, batches, small, large, seconds / len(examples), sign_of_life)
        stage = Stage(at, _total(each, small, large))
        if options.by_layer:
            names = [variable.path for variable in model.trainable_variables]
            found = estimate_noise_scale_per_layer(
                each[0], each[1], small_batch_size=small, large_batch_size=large
            )
            stage = dataclasses.replace(stage, layers=dict(zip(names, found, strict=True)))
        weights = _preconditioner(model) if options.preconditioned and at else None
        if weights is not None:
            norms = SquaredNorms(
                model, micro_batches=MICRO_BATCHES, training=options.training, weights=weights
            )
            pairs = _measure(norms, batches, small, large, seconds / len(examples), sign_of_life)
            stage = dataclasses.replace(stage, preconditioned=_total(pairs, small, large))
        stages.append(stage)
    return NoiseScaleReading(tuple(stages), small, large, options.training)


@dataclasses.dataclass(frozen=True)
class NoiseScaleOptions:
    """How the noise scale is measured.

    Attributes:
        by_layer: Of each trainable variable too.
        preconditioned: Also as Adam sees the gradients, after some training with it.
        training: In the training mode: see NoiseScaleReading.
    """

    by_layer: bool = False
    preconditioned: bool = False
    training: bool = False


def probe(bench: Bench, *, batch_sizes: Sequence[int], seconds: float) -> NoiseScaleReading:
    """See tfbatch.instruments.Probe: untrained, and after a short training."""
    configuration = bench.configuration(bench.request.baseline.batch_size)
    length = min(bench.data.splits["train"], round(200 * seconds))
    found: NoiseScaleReading = bench.measure(
        measure_noise_scale, configuration, (0, length), seconds / 2, NoiseScaleOptions()
    )
    return found


def _batches(data: Any, size: int) -> Iterator[Any]:
    """Batches of the training stream under a seed of its own, without end."""
    seed = _SEED
    while True:
        length = max(data.num_examples("train") // size, 1) * size
        yield from data.training(batch_size=size, seed=seed, num_examples=length)
        seed += 1


def _measure(
    norms: SquaredNorms,
    batches: Iterator[Any],
    small: int,
    large: int,
    seconds: float,
    sign_of_life: Callable[[], None],
) -> tuple[np.ndarray, np.ndarray]:
    """Squared norms by variable, [pairs, variables] both, until they suffice or time is up."""
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    began = time.perf_counter()
    while len(pairs) < _MOST_PAIRS:
        pairs.append(norms.by_variable(next(batches)))
        sign_of_life()
        if len(pairs) < _FEWEST_PAIRS:
            continue
        found = _total(_stacked(pairs), small, large)
        width = found.interval.high - found.interval.low
        enough = found.noise_scale > 0 and width <= _TIGHT * found.noise_scale
        if enough or time.perf_counter() - began > seconds:
            break
    return _stacked(pairs)


def _stacked(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([small for small, _ in pairs]), np.stack([large for _, large in pairs])


def _total(squares: tuple[np.ndarray, np.ndarray], small: int, large: int) -> NoiseScale:
    return estimate_noise_scale(
        squares[0].sum(axis=1),
        squares[1].sum(axis=1),
        small_batch_size=small,
        large_batch_size=large,
    )


def _preconditioner(model: Any) -> list[Any] | None:
    """Adam's 1 / (sqrt(v) + epsilon), v corrected for its start; None for another optimizer."""
    optimizer = unwrapped(model.optimizer)
    if not isinstance(optimizer, keras.optimizers.Adam):
        return None
    left = 1.0 - float(optimizer.beta_2) ** int(optimizer.iterations)
    return [
        1.0 / (tf.sqrt(tf.convert_to_tensor(v) / left) + float(optimizer.epsilon))
        for v in optimizer._velocities
    ]
