"""Step time and the knee: exact answers from step times with a known line, and a real training."""

from __future__ import annotations

import pytest
import tiny_model

import tfbatch
from tfbatch.errors import InputError
from tfbatch.estimators.interval import Interval
from tfbatch.estimators.noise_scale import NoiseScale
from tfbatch.estimators.predicted_batch_size import predict_batch_size
from tfbatch.instruments.throughput import alignment_of, throughput_from, with_odd_sizes
from tfbatch.training.step_times import StepTime

SIZES = (8, 16, 32, 64, 128, 256, 512)


def affine(fixed: float = 0.016, each: float = 0.0005) -> list[StepTime]:
    times = {size: fixed + each * size for size in SIZES}
    return [StepTime(size, t, (0.99 * t, t, 1.01 * t)) for size, t in times.items()]


def noise(scale: float, low: float, high: float) -> NoiseScale:
    return NoiseScale(scale, Interval(low, high), 1.0, scale, 20, ())


def test_a_known_line_gives_its_numbers_and_the_knee_behind_nine_times_their_quotient() -> None:
    """9 a / b = 288; 0.9 of the best measured throughput, at 512, is reached from 256 on."""
    found = throughput_from(affine())

    assert found.fit is not None
    assert found.fit.fits
    assert found.fit.fixed_seconds == pytest.approx(0.016)
    assert found.fit.seconds_per_example == pytest.approx(0.0005)
    assert all(abs(found.residual(size) or 0.0) < 1e-9 for size in SIZES)
    assert found.knee.batch_size == 256
    assert found.knee.open_ended
    assert "From batch size 256" in found.conclusion()


def test_no_line_is_drawn_where_none_fits() -> None:
    crooked = [
        StepTime(size, t, (t, t, t))
        for size, t in zip(SIZES, (0.01, 0.05, 0.01, 0.05, 0.01, 0.2, 0.3), strict=True)
    ]
    straight, bent = throughput_from(affine()), throughput_from(crooked)

    assert [len(chart.series) for chart in straight.charts()] == [2, 2]
    assert [len(chart.series) for chart in bent.charts()] == [1, 1]
    assert "no line or floor fits" in bent.conclusion()


def test_a_slow_odd_size_shows_as_its_residual() -> None:
    times = affine()
    slow = StepTime(65, 1.08 * (0.016 + 0.0005 * 65), (0.05, 0.052, 0.053))
    found = throughput_from([*times, slow])

    off = {size: found.residual(size) or 0.0 for size in found.batch_sizes}
    assert max(off, key=lambda size: off[size]) == 65
    kinds = {row[0]: row[1] for row in found.rows()}
    assert kinds["65"] == "odd"
    assert kinds["64"] == "2^6"


def test_neighbours_of_each_kind_are_among_the_odd_sizes() -> None:
    assert with_odd_sizes([64]) == [60, 63, 64, 65, 72, 96]
    assert [alignment_of(size) for size in (60, 63, 64, 72, 96, 70, 66)] == [
        "10 * 6",
        "odd",
        "2^6",
        "8 * 9",
        "32 * 3",
        "10 * 7",
        "even",
    ]
    assert min(with_odd_sizes([1])) >= 1


def test_one_size_alone_has_a_knee_and_no_line() -> None:
    found = throughput_from(affine()[:1])

    assert found.fit is None
    assert found.residual(8) is None
    assert found.knee.batch_size == 8


def test_a_size_that_was_not_measured_is_refused() -> None:
    with pytest.raises(InputError, match=r"must be a measured one: 8, 16.* Received: 7"):
        throughput_from(affine()).seconds(7)


def test_the_predicted_size_is_the_root_of_noise_and_line() -> None:
    """sqrt(a noise / b) = sqrt(32 * 128) = 64, in time (sqrt(a) + sqrt(b noise))^2."""
    found = throughput_from(affine())
    made = predict_batch_size(
        noise(128.0, 32.0, 512.0),
        {time.batch_size: time.seconds for time in found.step_times},
        fit=found.fit,
        baseline=8,
        largest=4096,
    )

    best = (0.016**0.5 + (0.0005 * 128) ** 0.5) ** 2
    assert made.batch_size == 64
    assert (made.interval.low, made.interval.high) == (32, 128)
    assert made.limited_by == "noise"
    assert made.speed_up == pytest.approx((1 + 128 / 8) * (0.016 + 0.0005 * 8) / best)
    assert next(s.goodput for s in made.sizes if s.batch_size == 8) == pytest.approx(8 / 0.02)
    assert max(made.sizes, key=lambda s: s.goodput).batch_size == 64
    assert made.as_fast_from < 64 < made.as_fast_to
    assert "predicted" in made.conclusion().lower()


def test_without_a_line_only_measured_sizes_are_compared() -> None:
    seconds = {8: 0.010, 16: 0.050, 32: 0.011, 64: 0.2}
    made = predict_batch_size(
        noise(100.0, 50.0, 200.0), seconds, fit=None, baseline=8, largest=4096
    )

    assert made.batch_size == 32
    assert made.limited_by == "measured sizes"
    assert any("no line fits" in doubt for doubt in made.doubts)


@pytest.mark.parametrize(
    ("scale", "baseline", "message"),
    [(float("inf"), 8, "not a positive number"), (100.0, 9, "`baseline` must be a measured")],
    ids=["no noise scale", "baseline not measured"],
)
def test_nothing_is_predicted_from_nothing(scale: float, baseline: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        predict_batch_size(
            noise(scale, 0.0, float("inf")),
            {8: 0.01, 16: 0.02},
            fit=None,
            baseline=baseline,
            largest=100,
        )


def test_a_real_training_is_timed_at_every_size() -> None:
    report = tfbatch.measure_throughput(
        tiny_model.build,
        "digits",
        batch_sizes=[64, 16],
        alignment=True,
        max_seconds=2.0,
        workers=0,
        verbose=0,
    )

    found = report.throughput
    assert found.batch_sizes + found.left_out == tuple(with_odd_sizes([16, 64]))
    assert all(min(time.rounds) > 0 for time in found.step_times)
    assert report.input_bound is not None
    assert report.input_bound.shares[0].batch_size == 16


@pytest.mark.parametrize("sizes", [[], [0, 8]], ids=["none", "zero"])
def test_batch_sizes_that_cannot_be_used_are_refused_first(sizes: list[int]) -> None:
    with pytest.raises(InputError, match="`batch_sizes` must hold"):
        tfbatch.measure_throughput("no such model", "digits", batch_sizes=sizes)
