"""`tfbatch.gradient_noise_scale(...)`, `learning_rate_range(...)` and `measure_curvature(...)`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from typing_extensions import Unpack

from tfbatch.bench import BenchOptions, open_bench
from tfbatch.errors import InputError
from tfbatch.search.progress import Progress
from tfbatch.search.workbench import Bench

if TYPE_CHECKING:
    from tfbatch.instruments.curvature import CurvatureReading
    from tfbatch.instruments.learning_rate_range_reading import RangeReading
    from tfbatch.instruments.noise_scale_reading import NoiseScaleReading

_DEFAULT_BATCH_SIZE = 128


def gradient_noise_scale(
    build_model: Callable[..., Any] | str,
    data: Any,
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
        small_batch_size: Examples in a micro-batch.
        micro_batches: Micro-batches in a batch.
        mode: "inference": no dropout, BatchNormalization by its moving statistics. "micro-batch":
            the training mode, each micro-batch normalized by itself. Default: "micro-batch" for a
            model with BatchNormalization at initial weights, else "inference".
        augmented: Whether a recipe augments the batches as in training.
        preconditioned: Whether tr(P Sigma) / G'PG with P = 1 / (sqrt(v) + epsilon) is measured
            too: v of the optimizer if it has one and has trained, else measured.
        most_pairs: Most pairs.
        seconds: About what measuring may take, at least 8 pairs.
        seed: Of weights and training.
        verbose: 0 prints nothing.
        **options: See tfbatch.bench.open_bench: optimizer, baseline, loss, metrics, class_weight,
            model_arguments, data_dir, image_size, records_dir.

    Raises:
        InputError: Something asked for cannot be used; a model whose gradient cannot be measured.
        DataError: Data absent or damaged.
    """
    from tfbatch.instruments.noise_scale import measure_noise_scale
    from tfbatch.instruments.noise_scale_reading import NoiseScaleSettings
    from tfbatch.instruments.weights_and_examples import Weights

    weights = Weights(trained_steps, Path(weights_file) if weights_file else None, seed)
    settings = NoiseScaleSettings(
        small_batch_size=small_batch_size,
        micro_batches=micro_batches,
        mode=mode,
        augmented=augmented,
        preconditioned=preconditioned,
        most_pairs=most_pairs,
        seconds=seconds,
    )
    with _opened(build_model, data, verbose, options) as (bench, progress):
        configuration = bench.configuration(_size(bench, batch_size))
        found = bench.measure(measure_noise_scale, configuration, weights, settings)
        progress.say(found.conclusion())
    return found


def learning_rate_range(
    build_model: Callable[..., Any] | str,
    data: Any,
    *,
    batch_size: int | None = None,
    lowest: float = 1e-6,
    highest: float = 10.0,
    steps: int | None = None,
    examples: int | None = None,
    seeds: Sequence[int] = (1, 2, 3),
    verbose: int = 1,
    **options: Unpack[BenchOptions],
) -> RangeReading:
    """Runs a learning-rate range test (Smith 2015, arXiv 1506.01186) at a batch size.

        rate(step) = lowest * (highest / lowest) ** (step / (steps - 1))

    Each seed builds the model anew; a sweep stops when it diverges. Several rules read the mean
    curve, and `result.doubts` says why not to trust them.

    Example:
        ```python
        found = tfbatch.learning_rate_range("small_cnn", "digits", batch_size=64)
        print(found.learning_rate, found.result.doubts)
        ```

    Args:
        build_model: See find_batch_size.
        data: The data, see find_batch_size.
        batch_size: Examples in an update. Default: 128, or all examples.
        lowest: Learning rate of the first update.
        highest: Learning rate of the last one.
        steps: Updates of a sweep, at least 20. Default: 100.
        examples: Examples of a sweep instead, so that different batch sizes see as many.
        seeds: A sweep each.
        verbose: 0 prints nothing.
        **options: See tfbatch.bench.open_bench: optimizer, baseline, loss, metrics, class_weight,
            model_arguments, data_dir, image_size, records_dir.

    Raises:
        InputError: Something asked for cannot be used.
        DataError: Data absent or damaged.
    """
    from tfbatch.instruments.learning_rate_range import measure_learning_rate_range
    from tfbatch.instruments.learning_rate_range_reading import RangeSettings

    if steps is not None and examples is not None:
        raise InputError(f"`steps` or `examples` must be None. Received: {steps=}, {examples=}.")
    with _opened(build_model, data, verbose, options) as (bench, progress):
        size = _size(bench, batch_size)
        count = examples // size if examples is not None else (100 if steps is None else steps)
        settings = RangeSettings(lowest, highest, steps=count, seeds=tuple(seeds))
        found = bench.measure(measure_learning_rate_range, bench.configuration(size), settings)
        progress.say(found.conclusion())
    return found


def measure_curvature(
    build_model: Callable[..., Any] | str,
    data: Any,
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

    On a fixed sample without augmentation, in inference mode, by Hessian-vector products.

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
        **options: See tfbatch.bench.open_bench: optimizer, baseline, loss, metrics, class_weight,
            model_arguments, data_dir, image_size, records_dir.

    Raises:
        InputError: Something asked for cannot be used; a Hessian that is not finite.
        DataError: Data absent or damaged.
    """
    from tfbatch.instruments.curvature import CurvatureSettings, measure_curvature_of
    from tfbatch.instruments.weights_and_examples import Weights

    weights = Weights(trained_steps, Path(weights_file) if weights_file else None, seed)
    settings = CurvatureSettings(examples, most_products, trace_products, seconds)
    with _opened(build_model, data, verbose, options) as (bench, progress):
        configuration = bench.configuration(_size(bench, batch_size))
        found = bench.measure(measure_curvature_of, configuration, weights, settings)
        progress.say(found.conclusion())
    return found


@contextlib.contextmanager
def _opened(
    build_model: Any, data: Any, verbose: int, options: BenchOptions
) -> Iterator[tuple[Bench, Progress]]:
    from rich.console import Console

    progress = Progress(Console() if verbose else None)
    with open_bench(build_model, data, progress=progress, **options) as bench:
        yield bench, progress


def _size(bench: Bench, asked: int | None) -> int:
    examples = bench.data.splits["train"]
    size = min(_DEFAULT_BATCH_SIZE, examples) if asked is None else asked
    if not 1 <= size <= examples:
        raise InputError(
            f"`batch_size` must be from 1 to the number of training examples, {examples}. "
            f"Received: {size}."
        )
    return size
