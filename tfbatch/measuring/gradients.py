"""Noise, learning-rate range and curvature of anybody's model on anybody's data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tfbatch.bench import open_bench

if TYPE_CHECKING:
    from tfbatch.instruments.curvature import Curvature
    from tfbatch.instruments.learning_rate_range import LearningRateRange
    from tfbatch.instruments.noise_scale import NoiseScaleReading


def gradient_noise_scale(
    build_model: Callable[..., Any] | str,
    data: Any,
    *,
    examples: Sequence[int] = (0, 10_000),
    batch_size: int = 32,
    seconds: float = 30.0,
    by_layer: bool = False,
    preconditioned: bool = False,
    training: bool = False,
    **arguments: Any,
) -> NoiseScaleReading:
    """Measures the gradient noise scale before and after a short training.

    Of the unbiased two-size estimate (McCandlish et al. 2018, arXiv 1812.06162), with b < B:

        squared_gradient = (B * norm_B**2 - b * norm_b**2) / (B - b)
        noise_trace = (norm_b**2 - norm_B**2) / (1 / b - 1 / B)
        noise_scale = mean(noise_trace) / mean(squared_gradient)

    Example:
        ```python
        found = tfbatch.gradient_noise_scale("small_cnn", "digits", examples=(0, 2000))
        print(found.estimate)
        ```

    Args:
        build_model: As in `find_batch_size`.
        data: As in `find_batch_size`.
        examples: Examples trained on before each measurement, ascending.
        batch_size: What is trained with between them.
        seconds: About how long the measuring may take; training comes on top.
        by_layer: Of each trainable variable too.
        preconditioned: Also as Adam sees the gradients.
        training: Gradients of the training mode: dropout on, and each micro-batch normalised by
            itself. By default the inference mode, in which examples do not depend on each other.
        **arguments: Of tfbatch.bench.open_bench, such as `loss`, `optimizer`, `data_dir`.

    Raises:
        InputError: Something asked for cannot be used, or a model with a `train_step` of its own.
        DataError: Data absent or damaged.
    """
    with open_bench(build_model, data, **arguments) as bench:
        from tfbatch.instruments.noise_scale import NoiseScaleOptions, measure_noise_scale

        options = NoiseScaleOptions(by_layer, preconditioned, training)
        found: NoiseScaleReading = bench.measure(
            measure_noise_scale,
            bench.configuration(batch_size),
            tuple(examples),
            seconds,
            options,
        )
        return found


def learning_rate_range(
    build_model: Callable[..., Any] | str,
    data: Any,
    *,
    batch_size: int = 32,
    lowest: float = 1e-6,
    highest: float = 10.0,
    steps: int = 100,
    seeds: int = 3,
    **arguments: Any,
) -> LearningRateRange:
    """Runs a learning-rate range test (Smith 2015, arXiv 1506.01186) over several seeds.

        def learning_rate(step):
            return lowest * (highest / lowest) ** (step / (steps - 1))

    Example:
        ```python
        found = tfbatch.learning_rate_range("small_cnn", "digits", seeds=2)
        print(found.learning_rate, found.result.doubts)
        ```

    Args:
        build_model: As in `find_batch_size`.
        data: As in `find_batch_size`.
        batch_size: Examples in each update.
        lowest: Rate of the first update.
        highest: Rate of the last one; a sweep ends where it has diverged.
        steps: Number of updates, at least 20.
        seeds: Number of sweeps.
        **arguments: Of tfbatch.bench.open_bench, such as `loss`, `optimizer`, `data_dir`.

    Raises:
        InputError: Something asked for cannot be used.
        DataError: Data absent or damaged.
    """
    with open_bench(build_model, data, **arguments) as bench:
        from tfbatch.instruments.learning_rate_range import measure_learning_rate_range

        found: LearningRateRange = bench.measure(
            measure_learning_rate_range,
            bench.configuration(batch_size),
            lowest,
            highest,
            steps,
            seeds,
        )
        return found


def loss_curvature(
    build_model: Callable[..., Any] | str,
    data: Any,
    *,
    examples: Sequence[int] = (0, 10_000),
    batch_size: int = 32,
    sample: int = 512,
    products: int = 20,
    **arguments: Any,
) -> Curvature:
    """Measures both ends and the trace of the Hessian's spectrum, before and after a training.

    Args:
        build_model: As in `find_batch_size`.
        data: As in `find_batch_size`.
        examples: Examples trained on before each measurement, ascending.
        batch_size: What is trained with between them.
        sample: Examples on which the loss is taken.
        products: Hessian-vector products for the eigenvalues, and as many for the trace.
        **arguments: Of tfbatch.bench.open_bench, such as `loss`, `optimizer`, `data_dir`.

    Raises:
        InputError: Something asked for cannot be used.
        DataError: Data absent or damaged.
    """
    with open_bench(build_model, data, **arguments) as bench:
        from tfbatch.instruments.curvature import measure_curvature

        found: Curvature = bench.measure(
            measure_curvature,
            bench.configuration(batch_size),
            tuple(examples),
            sample,
            products,
        )
        return found
