"""Seconds of a step against its batch size: a line, or a line behind a floor, or neither."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import optimize

from tfbatch.errors import InputError
from tfbatch.estimators.vectors import Array, check_same_length, checked_array

LARGEST_MISFIT = 0.10
"""A form fits if it misses no measured median by more than this share of it."""
FEWEST_SIZES = 4
"""Two numbers are fitted: with fewer sizes than this, a good fit would show nothing."""

_ROUNDING = 1e-9

Form = Literal["affine", "saturating"]


@dataclasses.dataclass(frozen=True)
class StepTimeFit:
    """How the seconds of a step depend on the batch size.

    "affine" is `fixed + per_example * batch_size`: every step has a cost of its own.
    "saturating" is `max(fixed, per_example * batch_size)`: the device has room until it is full.

    Attributes:
        form: Which of the two.
        fixed_seconds: Seconds of a step that do not depend on the batch size.
        seconds_per_example: Seconds that each further example costs.
        misfit: Largest share by which the form misses a measured median.
        fits: Whether the form describes the measurement: a misfit of at most 10 % over at least
            4 sizes. Where it does not, nothing should be computed from it.
        smallest: Smallest measured batch size.
        largest: Largest measured batch size. Beyond it nothing is known, however well the form
            fits: caches, threads and kernels change (46 % were missed at four times the largest).
    """

    form: Form
    fixed_seconds: float
    seconds_per_example: float
    misfit: float
    fits: bool
    smallest: float
    largest: float

    def seconds(self, batch_size: float) -> float:
        """Predicted seconds of a step.

        Args:
            batch_size: Up to the largest measured one. Below the smallest it is an extrapolation
                that the smallest one's seconds bound from above.

        Raises:
            InputError: A batch size above the largest measured one.
        """
        if batch_size > self.largest * (1 + _ROUNDING):
            raise InputError(
                "A step time is not extrapolated beyond the largest measured batch size, "
                f"{self.largest:g}. Received: {batch_size:g}. Measure larger batches."
            )
        return float(_seconds(self.form, self.fixed_seconds, self.seconds_per_example, batch_size))

    def __str__(self) -> str:
        """For a table, e.g. "1.2 ms + 0.031 ms * batch size (misses at most 3.1 %)"."""
        fixed, slope = 1e3 * self.fixed_seconds, 1e3 * self.seconds_per_example
        line = f"{slope:.3g} ms * batch size"
        formula = (
            f"{fixed:.3g} ms + {line}" if self.form == "affine" else f"max({fixed:.3g} ms, {line})"
        )
        verdict = "misses at most" if self.fits else "DOES NOT FIT: misses up to"
        measured = f"measured from {self.smallest:g} to {self.largest:g}"
        return f"{formula} ({verdict} {self.misfit:.1%}; {measured})"


def fit_step_time(
    batch_sizes: npt.ArrayLike, seconds: npt.ArrayLike, *, form: Form | None = None
) -> StepTimeFit:
    """Fits one of the two forms, by relative least squares with both numbers >= 0.

    Args:
        batch_sizes: [sizes] distinct batch sizes, at least 2.
        seconds: [sizes] seconds of a step, the median over the rounds of each size.
        form: Which form; without it, the one that misses less.

    Raises:
        InputError: Fewer than two sizes, equal sizes, values that are not > 0, an unknown form.
    """
    sizes = checked_array(batch_sizes, name="batch_sizes", at_least=2)
    times = checked_array(seconds, name="seconds", at_least=2)
    check_same_length(batch_sizes=sizes, seconds=times)
    if len(np.unique(sizes)) < len(sizes):
        raise InputError(f"`batch_sizes` must be distinct. Received: {sizes.tolist()}.")
    order = np.argsort(sizes)
    sizes, times = sizes[order], times[order]
    if form == "affine":
        return _affine(sizes, times)
    if form == "saturating":
        return _saturating(sizes, times)
    if form is not None:
        raise InputError(f'`form` must be "affine" or "saturating". Received: {form!r}.')
    return min(_affine(sizes, times), _saturating(sizes, times), key=lambda fit: fit.misfit)


def _affine(sizes: Array, times: Array) -> StepTimeFit:
    """Non-negative least squares on everything divided by the measured seconds."""
    matrix = np.stack([np.ones_like(sizes), sizes / sizes.max()], axis=1) / times[:, None]
    scale = times.max()
    (fixed, slope), _ = optimize.nnls(matrix * scale, np.ones_like(times))
    return _judged("affine", fixed * scale, slope * scale / sizes.max(), sizes, times)


def _saturating(sizes: Array, times: Array) -> StepTimeFit:
    """Every split into a floor and a line through 0, each by relative least squares."""
    candidates = []
    for floor_sizes in range(1, len(sizes)):
        floor, line = times[:floor_sizes], times[floor_sizes:] / sizes[floor_sizes:]
        fixed = (1 / floor).sum() / (1 / floor**2).sum()
        slope = (1 / line).sum() / (1 / line**2).sum()
        candidates.append(_judged("saturating", fixed, slope, sizes, times))
    return min(candidates, key=lambda fit: fit.misfit)


def _judged(form: Form, fixed: float, slope: float, sizes: Array, times: Array) -> StepTimeFit:
    misfit = float(np.abs(_seconds(form, fixed, slope, sizes) / times - 1).max())
    return StepTimeFit(
        form=form,
        fixed_seconds=float(fixed),
        seconds_per_example=float(slope),
        misfit=misfit,
        fits=misfit <= LARGEST_MISFIT and len(sizes) >= FEWEST_SIZES,
        smallest=float(sizes.min()),
        largest=float(sizes.max()),
    )


def _seconds(form: Form, fixed: float, slope: float, size: Any) -> Any:
    line = slope * size
    return fixed + line if form == "affine" else np.maximum(fixed, line)
