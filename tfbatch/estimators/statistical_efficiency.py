"""PREDICTED progress per example and per step at a batch size, from the gradient noise scale."""

from __future__ import annotations

from tfbatch.estimators.vectors import check_positive


def statistical_efficiency(
    batch_size: float, *, base_batch_size: float, noise_scale: float
) -> float:
    """Predicted progress per example, relative to that at the base batch size.

        efficiency = (noise_scale + base_batch_size) / (noise_scale + batch_size)

    Pollux (Qiao et al. 2021, arXiv 2008.12260), with the noise scale of McCandlish et al. 2018 in
    examples. It is 1 at the base batch size and falls for larger ones.

    Raises:
        InputError: A number that is not > 0.
    """
    check_positive(batch_size=batch_size, base_batch_size=base_batch_size, noise_scale=noise_scale)
    return (noise_scale + base_batch_size) / (noise_scale + batch_size)


def goodput(
    batch_size: float,
    *,
    step_seconds: float,
    base_batch_size: float,
    noise_scale: float,
) -> float:
    """Predicted useful examples per second: throughput times statistical efficiency (Pollux).

    With steps of a + b B seconds it is largest at sqrt(a noise_scale / b).

    Args:
        batch_size: Examples in the step.
        step_seconds: Seconds of a step of that size.
        base_batch_size: Batch size at which every example counts as one.
        noise_scale: Gradient noise scale in examples.

    Raises:
        InputError: A number that is not > 0.
    """
    check_positive(step_seconds=step_seconds)
    efficiency = statistical_efficiency(
        batch_size, base_batch_size=base_batch_size, noise_scale=noise_scale
    )
    return batch_size / step_seconds * efficiency


def adascale_gain(scale: float, *, base_batch_size: float, noise_scale: float) -> float:
    """Predicted progress of one step at `scale` times the base batch size, in base steps.

        gain = (variance + square) / (variance / scale + square)
             = scale (noise_scale + base_batch_size) / (noise_scale + scale base_batch_size)

    where square = |G|^2 and variance = tr(Sigma) / base_batch_size. AdaScale (Johnson et al. 2020,
    arXiv 2007.05105) multiplies the learning rate by it. It lies between 1 and `scale`: pure noise
    makes the larger step worth `scale` steps, no noise makes it worth one.

    Raises:
        InputError: A number that is not > 0.
    """
    check_positive(scale=scale)
    batch_size = scale * base_batch_size
    efficiency = statistical_efficiency(
        batch_size, base_batch_size=base_batch_size, noise_scale=noise_scale
    )
    return scale * efficiency
