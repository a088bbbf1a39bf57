"""The gradient noise scale at given weights: above it, a larger batch saves few steps."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import keras
import numpy as np
import tensorflow as tf
from typing_extensions import Unpack

from tfbatch.bench import Bench
from tfbatch.charts import Chart, Series
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
from tfbatch.instruments.open_bench import BenchOptions, open_bench
from tfbatch.instruments.weights_and_examples import (
    Weights,
    model_and_initial_at,
    size_of_updates,
    training_batches,
)
from tfbatch.loss_scaling import unwrapped
from tfbatch.schema import expanded
from tfbatch.search.progress import progress_lines
from tfbatch.training.context import TaskContext
from tfbatch.training.workload import Workload

Mode = Literal["inference", "micro-batch"]
HEADING = "Gradient noise scale"
ORDER = 40
SHARE = 2.0
_TIGHT = 1.5
_LARGE = 128
_PAIRS_PER_PASS = 4
_FEWEST_NORMALIZED = 8
"""Examples in a micro-batch that is normalized by itself, where there are as many."""
PILOT_BATCHES = 8
_EPSILON = 1e-7
_WITH_SECOND_MOMENTS = (
    keras.optimizers.Adam,
    keras.optimizers.Nadam,
    keras.optimizers.Lamb,
    keras.optimizers.RMSprop,
    keras.optimizers.Adagrad,
)


def gradient_noise_scale(
    build_model: Callable[..., keras.Model] | str,
    data: object,
    *,
    trained_steps: int = 0,
    weights_file: str | Path | None = None,
    batch_size: int | None = None,
    small_batch_size: int = 16,
    micro_batches: int = 8,
    mode: Literal["inference", "micro-batch"] | None = None,
    augmented: bool = True,
    preconditioned: bool = False,
    most_pairs: int = 400,
    seconds: float = 60.0,
    seed: int = 1,
    verbose: int = 1,
    **options: Unpack[BenchOptions],
) -> NoiseScaleReading:
    """Measures tr(Sigma) / |G|^2 at given weights (McCandlish et al. 2018, arXiv 1812.06162).

        E|G_B|^2 = |G|^2 + tr(Sigma) / B

    Batches of B = small_batch_size * micro_batches examples of the training stream give the squared
    norms of their micro-batches' gradients and of the mean of these: an unbiased pair. Pairs are
    measured until the ends of the interval are less than 1.5 times apart, or the time is used.
    Everything is computed in float32. Regularization, class and sample weights are included.

    Example:
        ```python
        noise = tfbatch.gradient_noise_scale("small_cnn", "digits", trained_steps=50)
        print(noise.estimate, noise.estimate.low_confidence)
        ```

    Args:
        build_model: See find_batch_size.
        data: The data, see find_batch_size.
        trained_steps: Updates to make first; 0 for the initial weights.
        weights_file: Kept weights (`Model.save_weights`) instead.
        batch_size: Batch size of these updates. Default: 128, or all examples.
        small_batch_size: Examples in a micro-batch. It is made smaller, and the conclusion says so,
            where a pass over the training examples would hold fewer than 4 batches.
        micro_batches: Micro-batches in a batch.
        mode: "inference": no dropout, BatchNormalization by its moving statistics. "micro-batch":
            the training mode, each micro-batch normalized by itself. Default: "micro-batch" as long
            as moving statistics of a BatchNormalization hold more than 5 % of a new layer's (with
            Keras's momentum of 0.99, before 299 updates), else "inference". Statistics that the
            builder loads are no new layer's.
        augmented: Whether a recipe augments the batches as in training.
        preconditioned: Whether tr(P Sigma) / G'PG with P = 1 / (sqrt(v) + epsilon) is measured
            too: v of the optimizer if it has one and has trained, else measured. Weights whose
            gradient was 0 throughout, such as of words not met yet, are left out, and it is said.
        most_pairs: Most pairs.
        seconds: About what measuring may take, at least 8 pairs.
        seed: Of weights and training.
        verbose: 0 prints nothing.
        **options: Of model and data, see open_bench: optimizer, baseline, loss, metrics,
            class_weight, model_arguments, data_dir, image_size, records_dir.

    Raises:
        InputError: Something asked for cannot be used; a model whose gradient cannot be measured.
        DataError: Data absent or damaged.
    """
    file = expanded(weights_file) if weights_file else None
    weights = Weights(trained_steps, file, seed)
    settings = NoiseScaleSettings(
        small_batch_size=small_batch_size,
        micro_batches=micro_batches,
        mode=mode,
        augmented=augmented,
        preconditioned=preconditioned,
        most_pairs=most_pairs,
        seconds=seconds,
    )
    progress = progress_lines(verbose)
    with open_bench(build_model, data, progress=progress, **options) as bench:
        configuration = bench.configuration(size_of_updates(bench, batch_size))
        found = bench.measure(measure_noise_scale, configuration, weights, settings)
        progress.say(found.conclusion())
    return found


def probe(bench: Bench, *, batch_sizes: Sequence[int], seconds: float) -> NoiseScaleReading:
    """See tfbatch.instruments.Instrument."""
    settings = NoiseScaleSettings(seconds=seconds)
    size = min(batch_sizes, key=lambda size: abs(math.log(size / _LARGE)))
    return bench.measure(measure_noise_scale, bench.configuration(size), Weights(), settings)


@dataclasses.dataclass(frozen=True)
class NoiseScaleSettings:
    """How the noise scale is measured.

    Attributes:
        small_batch_size: b, examples in a micro-batch.
        micro_batches: k; the large batch has B = k b examples.
        mode: "inference": without dropout, BatchNormalization by its moving statistics.
            "micro-batch": the training mode, dropout on, each micro-batch normalized by itself.
            None: "micro-batch" as long as the moving statistics of BatchNormalization are, for more
            than 5 %, those of no data, else "inference".
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
        preconditioner: Where P = 1 / (sqrt(v) + epsilon) comes from, and for how many weights it
            is 0 since v is, or None.
        squared_gradient_of_data: |G|^2 of the training examples themselves; the estimate's is that
            of the population that they come from, see `squared_gradient_of_data_set`.
        small_batch_size: b.
        large_batch_size: B.
        mode: See NoiseScaleSettings.
        where: At which weights, and on which examples.
        seconds: What it took.
        num_examples: Number of examples that the batches were drawn from; None if infinite. The
            intervals are of the value for the population that these examples come from.
        small_batch_size_asked: The b that was asked for, where it was made smaller; else None.
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
    small_batch_size_asked: int | None = None

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
        smaller = (
            f", where {self.small_batch_size_asked} was asked for: a pass over the data would hold "
            f"fewer than {_PAIRS_PER_PASS} pairs,"
            if self.small_batch_size_asked
            else ""
        )
        return (
            f"The gradient noise scale {self.where} is {found.noise_scale:.4g} {found.interval} "
            f"examples ({found.interval.level:.0%} interval of the value for the population that "
            f"{examples} examples come from; {found.count:.0f} pairs of {self.small_batch_size}"
            f"{smaller} and {self.large_batch_size}, {self.mode} mode){adaptive}; it grows during "
            f"training, and as a critical batch size it is a prediction.{doubts}"
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


def noise_scale_of(
    model: keras.Model,
    batches: Iterable[object],
    *,
    settings: NoiseScaleSettings,
    mode: Mode = "inference",
    num_examples: int | None = None,
    pilot: Iterable[object] = (),
    where: str = "at the given weights",
    remedy: str = "Look at the weights and the inputs.",
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
        remedy: Said where a gradient is not finite: what to change.
        heartbeat: Called after every pair.

    Raises:
        InputError: A model whose gradient cannot be measured or is not finite, or no full batch.
    """
    started = time.perf_counter()
    norms = LayerNorms(model, micro_batches=settings.micro_batches, training=mode == "micro-batch")
    large_size = settings.small_batch_size * settings.micro_batches
    iterator: Iterator[object] = (b for b in batches if len(keras.tree.flatten(b)[0]) == large_size)
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
        if not np.isfinite([one, other]).all():
            raise InputError(f"The gradient {where} is not finite. {remedy}")
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
    model, initial = model_and_initial_at(
        programs, configuration, weights, heartbeat=task.heartbeat
    )
    task.heartbeat()
    default: Mode = "micro-batch" if initial else "inference"
    mode = settings.mode or default
    asked, size = settings.small_batch_size, _small_size(settings, examples, mode)
    settings = dataclasses.replace(settings, small_batch_size=size)
    found = noise_scale_of(
        model,
        _passes(programs.workload, settings, examples),
        settings=settings,
        mode=mode,
        num_examples=examples,
        pilot=_pass(programs.workload, settings, examples, number=MOST_PASSES),
        where=f"{weights}{'' if settings.augmented else ', without augmentation,'}",
        remedy=weights.remedy,
        heartbeat=task.heartbeat,
    )
    return dataclasses.replace(found, small_batch_size_asked=asked if size < asked else None)


def _small_size(settings: NoiseScaleSettings, examples: int, mode: Mode) -> int:
    """So few that a pass over the data holds several pairs, whose spread gives the interval."""
    k, asked = settings.micro_batches, settings.small_batch_size
    least = _FEWEST_NORMALIZED if mode == "micro-batch" else 1
    return min(asked, max(examples // (_PAIRS_PER_PASS * k), min(least, examples // k)))


def _passes(
    workload: Workload, settings: NoiseScaleSettings, examples: int
) -> Iterator[tuple[tf.Tensor, ...]]:
    for number in range(MOST_PASSES):
        yield from _pass(workload, settings, examples, number=number)


def _pass(
    workload: Workload, settings: NoiseScaleSettings, examples: int, *, number: int
) -> Iterable[tuple[tf.Tensor, ...]]:
    """The full batches of one pass over the data, in an order of its own."""
    size = settings.small_batch_size * settings.micro_batches
    batches: Iterable[tuple[tf.Tensor, ...]] = training_batches(
        workload,
        batch_size=size,
        batches=min(examples // size, settings.most_pairs),
        seed=settings.seed + number,
        augmented=settings.augmented,
    )
    return batches


def slots_preconditioner(model: keras.Model) -> tuple[list[tf.Tensor], str] | None:
    """From the second moments that the model's optimizer has gathered; None if it keeps none."""
    optimizer = unwrapped(model.optimizer)
    if not isinstance(optimizer, _WITH_SECOND_MOMENTS):  # velocities of LARS are momentum
        return None
    slots = getattr(optimizer, "_velocities", None) or getattr(optimizer, "_accumulators", None)
    steps = int(optimizer.iterations)
    if not slots or not steps or len(slots) != len(model.trainable_variables):
        return None
    if any(slot is None for slot in slots):
        return None
    correction = 1.0
    if hasattr(optimizer, "beta_2"):  # Adam's v begins at 0
        correction = 1.0 - float(optimizer.beta_2) ** steps
    epsilon = float(getattr(optimizer, "epsilon", _EPSILON))
    scales, left_out = _scales([slot.value / correction for slot in slots], epsilon)
    return scales, f"v of {type(optimizer).__name__} after {steps} updates{left_out}"


def measured_preconditioner(
    norms: LayerNorms, batches: Iterator[object]
) -> tuple[list[tf.Tensor], str]:
    """From the mean square of a few batches' gradients, which are then not measured again."""
    moments: list[tf.Tensor] = []
    count = 0
    for batch in itertools.islice(batches, PILOT_BATCHES):
        squares = [tf.square(gradient) for gradient in norms.mean_gradient(batch)]
        moments = [a + b for a, b in zip(moments, squares, strict=True)] if count else squares
        count += 1
    scales, left_out = _scales([moment / max(count, 1) for moment in moments], _EPSILON)
    return scales, f"v measured on {count} batches{left_out}"


def _scales(second_moments: Sequence[tf.Tensor], epsilon: float) -> tuple[list[tf.Tensor], str]:
    """P, and a part of a sentence on the weights that are left out.

    Where v is 0 no gradient was seen, and P would be 1 / epsilon: such a weight (of a word that was
    not met yet) would outweigh all others at its first gradient, which no update lets happen.
    """
    scales = [
        tf.where(tf.equal(moment, 0.0), 0.0, 1.0 / (tf.sqrt(moment) + epsilon))
        # One that is not finite would be left out as if its gradient was 0: let it be noticed.
        * tf.where(tf.math.is_finite(moment), 1.0, math.nan)
        for moment in second_moments
    ]
    total = sum(int(tf.size(moment)) for moment in second_moments)
    unseen = total - sum(int(tf.math.count_nonzero(moment)) for moment in second_moments)
    share = f"{100 * unseen / max(total, 1):.3g} %"
    left_out = f", without {share} of the weights, whose gradient was 0 throughout"
    return scales, left_out if unseen else ""


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
