"""What a training comes to, over batch size, learning rate and length: few numbers, in closed form.

A value y (small is good; see `as_error`) of batch size B, learning rate and length is modeled as

    y = level + b a_1 + b^2 a_2 + u a_3 + u^2 a_4 + b u a_5 + r (a_6 + u a_7 + u^2 a_8) + noise

with b = log2(B / reference), u = octaves of the rate around an origin near the optimum, and r =
log2(full length / length), the octaves that remain. The square in u has one curvature for all batch
sizes; a_5 lets the optimum move with B in a straight line, away from where it is expected; the
terms in r say how level, optimum and curvature of short trainings differ. All coefficients have
normal priors, so that the posterior has a closed form (Bayesian linear regression: Rasmussen and
Williams 2006, section 2.1). The scales of noise and prior are those of highest marginal likelihood
times prior. A run that goes on keeps most of what its seed did to it (in the replay of digits the
correlation with the end is 0.9 from a quarter of the length on): another seed tells the mean, not a
longer training. Noise grows with the distance from the best value: near the best a square is a good
form, far away nothing depends on it.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import linalg

from tfbatch.errors import InputError
from tfbatch.metric_direction import Direction

Array = npt.NDArray[np.float64]

_JITTER = 1e-9
_NOISES = (0.03, 0.06, 0.1, 0.16, 0.25, 0.4)
_SCALES = (0.5, 1.0, 2.0)
_USUAL_NOISE = 0.1
_NOISE_OCTAVES = 1.0
_KEPT = 0.8
"""Share of the noise's variance that a run keeps when it goes on."""
_NEAR = 0.2
"""A value so much worse than the best has twice the noise: few numbers fit only near the best."""
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(21)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


@dataclasses.dataclass(frozen=True, order=True)
class SurfacePoint:
    """Where a training lies.

    Attributes:
        batch: log2 of the batch size over the reference batch size.
        rate: Octaves of the learning rate around a scaling rule.
        remaining: log2 of the full length over its length; 0 for a training of full length.
        run: Equal for trainings of one seed that go on from one another; empty for the mean over
            all seeds.
    """

    batch: float
    rate: float
    remaining: float = 0.0
    run: str = ""


@dataclasses.dataclass(frozen=True)
class SurfacePrior:
    """What is expected before any training.

    Attributes:
        center: Octaves of the optimal rate around the rule at the reference batch size.
        origin: Where u is 0; `center` if None. A form with so few coefficients fits only near
            the optimum.
        slope: By how many octaves the optimum moves, against the rule, when B doubles.
        slope_deviation: Standard deviation of that.
        batch: How much a doubled batch loses at the full length: it has half the updates.
        curvature: Of y in the octaves of the rate, per octave squared.
        length_deviation: Standard deviation of the octaves by which the optimum moves when the
            length doubles; it is expected to stay.
    """

    center: float = 0.0
    slope: float = -0.2
    slope_deviation: float = 0.3
    curvature: float = 0.06
    batch: float = 0.03
    length_deviation: float = 0.5
    origin: float | None = None

    def coefficients(self) -> tuple[Array, Array]:
        """Means and standard deviations of the coefficients a_0 to a_8."""
        c = self.curvature
        away = self.center - self._origin
        mean = [0.0, self.batch, 0.0, -2 * c * away, c, 0.0, 0.3, 0.0, 0.0]
        deviation = [
            10.0,
            0.06,
            0.012,
            2 * c * 1.5,
            0.7 * c,
            2 * c * self.slope_deviation,
            0.3,
            2 * c * self.length_deviation,
            0.02,
        ]
        return np.array(mean), np.array(deviation)

    def features(self, points: Sequence[SurfacePoint]) -> Array:
        """One row for each point: what multiplies the coefficients."""
        b = np.array([point.batch for point in points])
        r = np.array([point.remaining for point in points])
        u = np.array([point.rate for point in points]) - self._origin - self.slope * b
        return np.stack([b**0, b, b**2, u, u**2, b * u, r, r * u, r * u**2], axis=1)

    @property
    def _origin(self) -> float:
        return self.center if self.origin is None else self.origin


def as_error(scores: Sequence[float], direction: Direction) -> Array:
    """Scores as logarithms of errors, 0 for the best, with what is far worse drawn near.

        def as_error():
            error = 1 - score if direction == "max" else score
            d = log(error / smallest_error)
            return log(1 + d)

    Within a seed deviation of the best it is the relative error; a training at chance, ten times as
    bad, would outweigh all others in a sum of squares. Where scores are no errors (a loss below 0,
    a metric above 1), they are counted in their own median deviation from the best, as tenths.

    Args:
        scores: Finite values of the objective, one at least.
        direction: Whether a good score is small ("min") or large ("max").

    Raises:
        InputError: There is none, or one that is not finite.
    """
    found = np.asarray(scores, dtype=np.float64)
    if not found.size or not np.isfinite(found).all():
        raise InputError(f"`scores` must be finite, and at least one. Received: {scores!r}.")
    error = 1.0 - found if direction == "max" else found
    if error.min() <= 0:
        away = np.abs(found - (found.max() if direction == "max" else found.min()))
        scale = float(np.median(away)) or 1.0
        return np.asarray(np.log1p(0.1 * away / scale))
    return np.asarray(np.log1p(np.log(error / error.min())))


@dataclasses.dataclass(frozen=True)
class _Scales:
    noise: float
    prior: float


class RateSurface:
    """The posterior of the surface, given some trainings.

    Example:
        ```python
        points = [SurfacePoint(0, -1, remaining=3), SurfacePoint(0, 0, remaining=3)]
        surface = RateSurface(SurfacePrior(), points, [0.2, 0.0])
        surface.mean([SurfacePoint(1, 0)])
        ```

    Args:
        prior: What is expected.
        points: The trainings, at least one.
        values: What they came to, small is good.
        noise: The standard deviation of a value between seeds, where it was measured; it enters as
            the expected one.

    Raises:
        InputError: No points, or another number of values.
    """

    def __init__(
        self,
        prior: SurfacePrior,
        points: Sequence[SurfacePoint],
        values: Sequence[float],
        *,
        noise: float | None = None,
    ):
        if not points or len(points) != len(values):
            raise InputError(
                "There must be at least one point, and as many values. Received: "
                f"{len(points)} points, {len(values)} values."
            )
        self.prior = prior
        self._points = tuple(points)
        self._values = np.asarray(values, dtype=np.float64)
        self._parts = self._components(points, points)
        self._doubt = 1.0 + (self._values - self._values.min()) / _NEAR
        self._away = self._values - self._prior_mean(points)
        usual = _USUAL_NOISE if noise is None else max(noise, min(_NOISES))
        options = [_Scales(*o) for o in itertools.product(_NOISES, _SCALES)]
        self._scales = max(options, key=lambda scales: self._evidence(scales, usual))
        self._factor = linalg.cho_factor(self._data_covariance(self._scales), lower=True)
        self._weights = linalg.cho_solve(self._factor, self._away)

    @property
    def noise(self) -> float:
        """The standard deviation of a value between seeds that fits best."""
        return self._scales.noise

    def mean(self, points: Sequence[SurfacePoint]) -> Array:
        """The expected values, without noise."""
        cross = self._covariance(points, self._points)
        return np.asarray(self._prior_mean(points) + cross @ self._weights)

    def covariance(self, points: Sequence[SurfacePoint], others: Sequence[SurfacePoint]) -> Array:
        """Posterior covariances of the values without noise, of shape (points, others)."""
        left = self._covariance(points, self._points)
        right = self._covariance(others, self._points)
        explained = left @ linalg.cho_solve(self._factor, right.T)
        return np.asarray(self._covariance(points, others) - explained)

    def gains(self, answers: Sequence[SurfacePoint], actions: Sequence[SurfacePoint]) -> Array:
        """By how much each training is expected to improve the answer.

        The answer is the one of lowest expected value. One more training moves all expected values
        together, by a normal variable z:

            gain = min(mean) - E[min(mean + z * covariance(answers, action) / deviation)]

        (Frazier et al. 2009, the knowledge gradient for correlated beliefs); by quadrature.

        Args:
            answers: What could be answered.
            actions: Trainings that could be made, each of a run.
        """
        mean = self.mean(answers)
        covariance = self.covariance(answers, actions)
        variance = np.diag(self.covariance(actions, actions))
        own = [1.0 - _KEPT if action.run else 1.0 for action in actions]
        variance = np.maximum(variance, 0.0) + np.array(own) * self.noise**2
        moves = covariance / np.sqrt(variance)
        moved = mean[:, None, None] + moves[:, :, None] * _NODES
        return np.asarray(mean.min() - moved.min(axis=0) @ _WEIGHTS)

    def _evidence(self, scales: _Scales, usual_noise: float) -> float:
        """Log of the marginal likelihood times the prior of the scales."""
        factor = linalg.cho_factor(self._data_covariance(scales), lower=True)
        log_determinant = 2 * np.log(np.diag(factor[0])).sum()
        fit = float(self._away @ linalg.cho_solve(factor, self._away))
        octaves = math.log2(scales.noise / usual_noise) / _NOISE_OCTAVES
        return -0.5 * float(fit + log_determinant + octaves**2 + math.log2(scales.prior) ** 2)

    def _prior_mean(self, points: Sequence[SurfacePoint]) -> Array:
        return np.asarray(self.prior.features(points) @ self.prior.coefficients()[0])

    def _data_covariance(self, scales: _Scales) -> Array:
        own = scales.noise**2 * (self._doubt**2 - _KEPT) + _JITTER
        return _scaled(self._parts, scales) + np.diag(own)

    def _covariance(self, points: Sequence[SurfacePoint], others: Sequence[SurfacePoint]) -> Array:
        return _scaled(self._components(points, others), self._scales)

    def _components(
        self, points: Sequence[SurfacePoint], others: Sequence[SurfacePoint]
    ) -> tuple[Array, Array, Array]:
        """Prior covariances of the level, of all other coefficients, and of runs that go on."""
        _, deviation = self.prior.coefficients()
        left = self.prior.features(points) * deviation
        right = self.prior.features(others) * deviation
        same = [[float(a.run == b.run != "") for b in others] for a in points]
        return left[:, :1] @ right[:, :1].T, left[:, 1:] @ right[:, 1:].T, np.array(same)


def _scaled(parts: tuple[Array, Array, Array], scales: _Scales) -> Array:
    level, others, runs = parts
    return np.asarray(level + scales.prior**2 * others + _KEPT * scales.noise**2 * runs)
