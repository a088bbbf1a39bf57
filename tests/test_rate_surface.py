"""The surface over batch size, rate and length: closed forms, and a known surface is found."""

import numpy as np
import pytest

from tfbatch.errors import InputError
from tfbatch.estimators.rate_surface import RateSurface, SurfacePoint, SurfacePrior, as_error

PRIOR = SurfacePrior()


def true_value(point, *, slope=-0.2):
    """Optimum one octave above the rule at the reference, falling with the batch size."""
    u = point.rate - 1.0 - slope * point.batch
    return 0.5 + 0.02 * point.batch + 0.06 * u**2 + 0.3 * point.remaining


def test_errors_are_logarithms_and_what_is_far_is_drawn_near():
    found = as_error([0.98, 0.96, 0.1], "max")
    np.testing.assert_allclose(found, np.log1p(np.log([1, 2, 45])))
    np.testing.assert_allclose(as_error([0.2, 0.4], "min"), [0, np.log1p(np.log(2))])
    np.testing.assert_allclose(as_error([-3.0, -2.0, -1.0], "min"), np.log1p([0, 0.1, 0.2]))
    with pytest.raises(InputError, match="must be finite"):
        as_error([np.nan], "min")


def test_the_posterior_equals_the_normal_equations():
    points = [
        SurfacePoint(b, u, r, f"{b} {u} {r}") for b in (0, 2) for u in (-1, 0, 1) for r in (0, 3)
    ]
    values = np.random.default_rng(1).normal(size=len(points))
    surface = RateSurface(PRIOR, points, values)

    mean, deviation = PRIOR.coefficients()
    scaled = deviation * surface._scales.prior
    scaled[0] = deviation[0]
    doubt = 1 + (values - values.min()) / 0.2  # noise grows with the distance from the best
    features, weight = PRIOR.features(points), ((surface.noise * doubt) ** 2 + 1e-9) ** -1
    precision = features.T * weight @ features + np.diag(scaled**-2.0)
    coefficients = np.linalg.solve(precision, features.T @ (weight * values) + mean / scaled**2)
    new = [SurfacePoint(1, 0.5), SurfacePoint(-3, 2)]
    np.testing.assert_allclose(
        surface.mean(new), PRIOR.features(new) @ coefficients, rtol=1e-4, atol=1e-4
    )
    covariance = PRIOR.features(new) @ np.linalg.inv(precision) @ PRIOR.features(new).T
    np.testing.assert_allclose(surface.covariance(new, new), covariance, rtol=1e-4, atol=1e-4)


def test_where_rates_are_counted_from_moves_no_expectation():
    points = [SurfacePoint(0, u) for u in range(-4, 4)]
    for origin in (None, -3.0, 2.0):
        prior = SurfacePrior(center=1.0, origin=origin)
        expected = prior.features(points) @ prior.coefficients()[0]
        parabola = np.array([0.06 * (u - 1) ** 2 for u in range(-4, 4)])
        np.testing.assert_allclose(expected - expected.min(), parabola, atol=1e-12)


def test_an_optimum_beyond_the_points_of_other_sizes_is_found():
    """Rates of two sizes, short and long, tell the optimum of a third size at the full length."""
    points = [SurfacePoint(b, u, r) for b in (0, 2) for u in (-1, 0, 1, 2) for r in (1, 3)]
    surface = RateSurface(PRIOR, points, [true_value(p) for p in points])
    answers = [SurfacePoint(4, u / 2) for u in range(-8, 9)]

    assert answers[int(surface.mean(answers).argmin())].rate in (0.0, 0.5)
    errors = surface.mean(answers[6:13]) - [true_value(p) for p in answers[6:13]]
    assert np.abs(errors).max() < 0.1


def test_the_gain_of_a_training_is_that_of_its_closed_form():
    """Two answers, one of them trained: E[max(0, N(m, s))] of the difference."""
    from scipy import stats

    surface = RateSurface(PRIOR, [SurfacePoint(0, 0), SurfacePoint(0, 1)], [0.0, 0.1])
    answers = [SurfacePoint(0, 0), SurfacePoint(0, 1)]
    action = SurfacePoint(0, 1)
    move = surface.covariance(answers, [action])[:, 0]
    move = move / np.sqrt(surface.covariance([action], [action])[0, 0] + surface.noise**2)
    m, s = np.diff(surface.mean(answers))[0], abs(np.diff(move)[0])
    expected = s * stats.norm.pdf(m / s) - m * stats.norm.cdf(-m / s)

    assert surface.gains(answers, [action])[0] == pytest.approx(expected, rel=0.2)
    assert surface.gains(answers[:1], [action])[0] == pytest.approx(0, abs=1e-12)


def test_another_seed_tells_more_than_a_longer_training_of_the_same():
    rates = [SurfacePoint(0, u, 1, f"run {u}") for u in (-2, -1, 0, 1, 2)]
    surface = RateSurface(PRIOR, rates, [0.5, 0.0, 0.4, 0.0, 0.5], noise=0.25)
    answers = [SurfacePoint(0, u) for u in (-2, -1, 0, 1, 2)]
    longer, another = [SurfacePoint(0, -1, 0.5, run) for run in ("run -1", "another")]

    assert surface.noise >= 0.16
    gains = surface.gains(answers, [longer, another])
    assert gains[1] > 1.3 * gains[0] > 0


def test_one_training_at_chance_does_not_move_the_optimum():
    points = [SurfacePoint(0, u) for u in range(-3, 4)]
    values = [true_value(p) for p in points]
    values[-1] = 1.5  # just over the edge of what trains
    answers = [SurfacePoint(0, u / 4) for u in range(-12, 13)]
    best = answers[int(RateSurface(PRIOR, points, values).mean(answers).argmin())]

    assert best.rate == pytest.approx(1.0, abs=0.6)


def test_a_surface_needs_points():
    with pytest.raises(InputError, match=r"at least one point.* Received: 0 points, 1 values"):
        RateSurface(PRIOR, [], [1.0])
