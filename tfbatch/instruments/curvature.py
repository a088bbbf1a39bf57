"""Curvature: the ends of the Hessian's spectrum and its trace, at given weights."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
from typing_extensions import Unpack

from tfbatch.bench import Bench
from tfbatch.charts import Chart, Series
from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.estimators.hutchinson import Trace, estimate_trace
from tfbatch.estimators.lanczos import ExtremeEigenvalues, extreme_eigenvalues
from tfbatch.gradients import HessianProduct
from tfbatch.instruments.open_bench import BenchOptions, open_bench
from tfbatch.instruments.weights_and_examples import (
    Weights,
    model_and_initial_at,
    size_of_updates,
    training_batches,
)
from tfbatch.layers import recalibrate_batch_normalization
from tfbatch.layers._momentum_in_examples import batch_normalizations
from tfbatch.schema import expanded
from tfbatch.search.progress import progress_lines
from tfbatch.training.context import TaskContext

HEADING = "Curvature"
ORDER = 60
SHARE = 1.0
_AT_ONCE = 128
_FEWEST_PRODUCTS = 10


def measure_curvature(
    build_model: Callable[..., keras.Model] | str,
    data: object,
    *,
    trained_steps: int = 0,
    weights_file: str | Path | None = None,
    batch_size: int | None = None,
    examples: int = 512,
    most_products: int = 30,
    trace_products: int = 20,
    seconds: float = math.inf,
    seed: int = 1,
    verbose: int = 1,
    **options: Unpack[BenchOptions],
) -> CurvatureReading:
    """Measures the ends of the Hessian's spectrum (Lanczos) and its trace (Hutchinson 1989).

    On a fixed sample without augmentation, in inference mode, by Hessian-vector products. As long
    as moving statistics of a BatchNormalization hold more than 5 % of a new layer's (with Keras's
    momentum of 0.99, before 299 updates), this layer's are taken from the sample, and the
    conclusion says so. Those that the builder loads stay, and after any update a frozen layer's.

    Example:
        ```python
        curvature = tfbatch.measure_curvature("small_cnn", "digits", trained_steps=50)
        print(curvature.eigenvalues.largest, curvature.stable_learning_rate)
        ```

    Args:
        build_model: See find_batch_size.
        data: The data, see find_batch_size.
        trained_steps: Updates to make first; 0 for the initial weights.
        weights_file: Kept weights (`Model.save_weights`) instead.
        batch_size: Batch size of these updates. Default: 128, or all examples.
        examples: Size of the sample.
        most_products: Most Hessian-vector products for the eigenvalues.
        trace_products: As many for the trace.
        seconds: About what measuring may take.
        seed: Of weights and training.
        verbose: 0 prints nothing.
        **options: Of model and data, see open_bench: optimizer, baseline, loss, metrics,
            class_weight, model_arguments, data_dir, image_size, records_dir.

    Raises:
        InputError: Something asked for cannot be used; a Hessian that is not finite.
        DataError: Data absent or damaged.
    """
    file = expanded(weights_file) if weights_file else None
    weights = Weights(trained_steps, file, seed)
    settings = CurvatureSettings(examples, most_products, trace_products, seconds)
    progress = progress_lines(verbose)
    with open_bench(build_model, data, progress=progress, **options) as bench:
        configuration = bench.configuration(size_of_updates(bench, batch_size))
        found = bench.measure(measure_curvature_of, configuration, weights, settings)
        progress.say(found.conclusion())
    return found


def probe(bench: Bench, *, batch_sizes: Sequence[int], seconds: float) -> CurvatureReading:
    """See tfbatch.instruments.Instrument."""
    size = min(batch_sizes, key=lambda size: abs(math.log(size / _AT_ONCE)))
    settings = CurvatureSettings(seconds=seconds)
    return bench.measure(measure_curvature_of, bench.configuration(size), Weights(), settings)


@dataclasses.dataclass(frozen=True)
class CurvatureSettings:
    """How curvature is measured.

    Attributes:
        examples: Size of the fixed sample, without augmentation.
        most_products: Most Hessian-vector products for the eigenvalues.
        trace_products: As many for the trace, at least 2.
        seconds: About what it may take: fewer products where that is short, 10 and 2 at least.
        seed: Of the sample and of the random vectors.
    """

    examples: int = 512
    most_products: int = 30
    trace_products: int = 20
    seconds: float = math.inf
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.examples, self.most_products) < 1 or self.trace_products < 2:
            raise InputError(
                "`examples` and `most_products` must be >= 1 and `trace_products` >= 2. Received: "
                f"{self.examples}, {self.most_products} and {self.trace_products}."
            )


@dataclasses.dataclass(frozen=True)
class CurvatureReading:
    """The curvature of a model's loss.

    Attributes:
        eigenvalues: Largest, smallest, and largest in magnitude.
        trace: Its estimate, with a standard error.
        dimension: Number of trainable weights.
        examples: Size of the sample.
        where: At which weights.
        seconds: What it took.
    """

    eigenvalues: ExtremeEigenvalues
    trace: Trace
    dimension: int
    examples: int
    where: str
    seconds: float

    @property
    def stable_learning_rate(self) -> float:
        """2 / largest eigenvalue: where gradient descent without momentum diverges on a quadratic.

        Infinite without positive curvature.
        """
        largest = self.eigenvalues.largest.value
        return 2 / largest if largest > 0 else math.inf

    def columns(self) -> tuple[str, ...]:
        """See tfbatch.instruments.Reading."""
        return ("quantity", "value", "error")

    def rows(self) -> list[tuple[str, ...]]:
        """See tfbatch.instruments.Reading."""
        found = self.eigenvalues
        named = (
            ("largest eigenvalue", found.largest),
            ("smallest eigenvalue", found.smallest),
            ("largest in magnitude", found.largest_in_magnitude),
        )
        rows = [(name, f"{one.value:.4g}", f"{one.error_bound:.1g}") for name, one in named]
        rows.append(("trace", f"{self.trace.trace:.4g}", f"{self.trace.standard_error:.2g}"))
        return [*rows, ("2 / largest eigenvalue", f"{self.stable_learning_rate:.3g}", "")]

    def conclusion(self) -> str:
        """See tfbatch.instruments.Reading."""
        return (
            f"The Hessian {self.where} on {self.examples} examples has eigenvalues "
            f"{self.eigenvalues} and the trace {self.trace}: gradient descent on the whole sample "
            "without momentum is predicted to be unstable above a learning rate of "
            f"{self.stable_learning_rate:.3g}. Curvature is not a property of the function alone: "
            "rescaled weights that give the same outputs have a different one (Dinh et al. 2017, "
            "arXiv 1703.04933), so it cannot compare models or weights, or tell how well a model "
            "generalizes."
        )

    def charts(self) -> tuple[Chart, ...]:
        """See tfbatch.instruments.Reading."""
        ends = (self.eigenvalues.smallest.value, self.eigenvalues.largest.value)
        series = Series("ends of the spectrum", (0.0, 1.0), ends, kind="bars")
        label = "smallest and largest"
        return (Chart(HEADING, label, "eigenvalue", (series,), log_x=False, log_y=False),)

    def __str__(self) -> str:
        """The conclusion."""
        return self.conclusion()


def curvature_of(
    model: keras.Model,
    batches: Sequence[object],
    *,
    settings: CurvatureSettings,
    where: str = "at the given weights",
    remedy: str = "Look at the weights and the inputs.",
    heartbeat: Callable[[], None] = lambda: None,
) -> CurvatureReading:
    """Measures any compiled Keras model at its weights, in inference mode, and leaves it as it was.

    Args:
        model: A built, compiled model.
        batches: The fixed sample, as `fit` takes batches.
        settings: How to measure.
        where: Said in the conclusion.
        remedy: Said where the Hessian is not finite: what to change.
        heartbeat: Called after every product.

    Raises:
        InputError: A model whose gradient cannot be measured, a Hessian that is not finite.
    """
    started = time.perf_counter()
    hessian = HessianProduct(model, batches)

    def product(vector: np.ndarray) -> np.ndarray:
        image = hessian(vector)
        heartbeat()
        return image

    first = product(np.ones(hessian.dimension))  # traced now, so that a product can be timed
    if not np.isfinite(first).all():
        raise InputError(f"The Hessian {where} is not finite. {remedy}")
    lanczos, trace = _affordable(product, hessian.dimension, settings, started)
    eigenvalues = extreme_eigenvalues(
        product, dimension=hessian.dimension, most_products=lanczos, seed=settings.seed
    )
    return CurvatureReading(
        eigenvalues=eigenvalues,
        trace=estimate_trace(
            product, dimension=hessian.dimension, products=trace, seed=settings.seed + 1
        ),
        dimension=hessian.dimension,
        examples=hessian.examples,
        where=where,
        seconds=time.perf_counter() - started,
    )


def _affordable(
    product: Callable[[np.ndarray], np.ndarray],
    dimension: int,
    settings: CurvatureSettings,
    started: float,
) -> tuple[int, int]:
    """Numbers of products that fit into the time."""
    if settings.seconds == math.inf:
        return settings.most_products, settings.trace_products
    before = time.perf_counter()
    product(np.ones(dimension))
    now = time.perf_counter()
    left = settings.seconds - (now - started)
    share = left / (now - before) / (settings.most_products + settings.trace_products)
    if share >= 1:
        return settings.most_products, settings.trace_products
    least = min(_FEWEST_PRODUCTS, settings.most_products)
    lanczos = max(least, math.floor(share * settings.most_products))
    return lanczos, max(2, math.floor(share * settings.trace_products))


def measure_curvature_of(
    task: TaskContext,
    configuration: Configuration,
    weights: Weights,
    settings: CurvatureSettings,
) -> CurvatureReading:
    """Measures in the process that trains.

    Args:
        task: Model and data.
        configuration: What the weights are trained with.
        weights: At which weights.
        settings: How to measure.
    """
    programs = task.programs
    model, initial = model_and_initial_at(
        programs, configuration, weights, heartbeat=task.heartbeat
    )
    task.heartbeat()
    wanted = min(settings.examples, programs.workload.data.num_examples("train"))
    size = min(_AT_ONCE, wanted)
    sample = training_batches(
        programs.workload,
        batch_size=size,
        batches=wanted // size,
        seed=settings.seed,
        augmented=False,
    )
    batches = list(sample)
    note = _recalibrated(model, batches, initial, weights)
    return curvature_of(
        model,
        batches,
        settings=settings,
        where=f"{weights}{note}",
        remedy=weights.remedy,
        heartbeat=task.heartbeat,
    )


def _recalibrated(
    model: keras.Model,
    batches: Sequence[object],
    initial: Sequence[keras.layers.BatchNormalization],
    weights: Weights,
) -> str:
    """Gives these layers the statistics of the sample; what is to be said of it.

    Those of no data would make eigenvalues meaningless. The others are used as training does.
    """
    if not initial:
        return ""
    try:
        recalibrate_batch_normalization(model, batches, layers=initial, max_passes=1)
    except InputError as error:
        if weights.untrained:
            raise
        reason = str(error).rstrip(".")
        return f" (moving statistics as the updates left them, in part a new layer's: {reason})"
    every = len(batch_normalizations(model))
    if len(initial) < every:
        return f" (moving statistics of {len(initial)} of {every} normalizations from the sample)"
    return " (moving statistics from the sample)"
