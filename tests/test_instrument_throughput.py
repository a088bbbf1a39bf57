"""Step time and the knee: exact answers from step times with a known line, and a real training."""

from __future__ import annotations

import contextlib
import math
import types
from typing import Any

import numpy as np
import pytest
import tiny_model
from contexts import context_of

import tfbatch
from tfbatch.configuration import Configuration
from tfbatch.errors import InputError, SearchError, StoppedError
from tfbatch.estimators.interval import Interval
from tfbatch.estimators.noise_scale import NoiseScale
from tfbatch.estimators.predicted_batch_size import predict_batch_size
from tfbatch.instruments import throughput
from tfbatch.instruments.input_bound import measure_input_bound
from tfbatch.instruments.throughput import (
    alignment_of,
    sizes_of_interest,
    throughput_from,
    with_odd_sizes,
)
from tfbatch.training.precision_comparison import compare_precision
from tfbatch.training.step_times import StepTime, StepTimes
from tfbatch.training.xla_comparison import compare_xla

SIZES = (8, 16, 32, 64, 128, 256, 512)


def affine(fixed=0.016, each=0.0005):
    times = {size: fixed + each * size for size in SIZES}
    return [StepTime(size, t, (0.99 * t, t, 1.01 * t)) for size, t in times.items()]


def noise(scale, low, high):
    return NoiseScale(scale, Interval(low, high), 1.0, scale, 20, ())


def test_a_known_line_gives_its_numbers_and_the_knee_behind_nine_times_their_quotient():
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


def test_the_table_and_the_charts_say_the_same_in_their_units():
    """20 ms for 8 examples are 400 a second; the best are 512 in 272 ms, 1,882 a second."""
    found = throughput_from(list(reversed(affine())))

    first, last = found.rows()[0], found.rows()[-1]
    assert first[:6] == ("8", "2^3", "20", "19.8 to 20.2", "400", "21%")
    assert (last[0], last[4], last[5]) == ("512", "1,882", "100%")
    throughput, step_time = found.charts()
    measured, fitted = throughput.series
    assert measured.y[0] == pytest.approx(400)
    assert (measured.low[0], measured.high[0]) == pytest.approx((400 / 1.01, 400 / 0.99))
    assert (fitted.y[0], fitted.y[-1]) == pytest.approx((400, 512 / 0.272))
    measured, fitted = step_time.series
    assert (measured.low[0], measured.y[0], measured.high[0]) == pytest.approx((19.8, 20, 20.2))
    assert (fitted.y[0], fitted.y[-1]) == pytest.approx((20, 272))


def test_no_line_is_drawn_where_none_fits():
    crooked = [
        StepTime(size, t, (t, t, t))
        for size, t in zip(SIZES, (0.01, 0.05, 0.01, 0.05, 0.01, 0.2, 0.3), strict=True)
    ]
    straight, bent = throughput_from(affine()), throughput_from(crooked)

    assert [len(chart.series) for chart in straight.charts()] == [2, 2]
    assert [len(chart.series) for chart in bent.charts()] == [1, 1]
    assert "no line or floor fits" in bent.conclusion()


def test_a_slow_odd_size_shows_as_its_residual():
    times = affine()
    slow = StepTime(65, 1.08 * (0.016 + 0.0005 * 65), (0.05, 0.052, 0.053))
    found = throughput_from([*times, slow])

    off = {size: found.residual(size) or 0.0 for size in found.batch_sizes}
    assert max(off, key=lambda size: off[size]) == 65
    kinds = {row[0]: row[1] for row in found.rows()}
    assert kinds["65"] == "odd"
    assert kinds["64"] == "2^6"


def test_neighbors_of_each_kind_are_among_the_odd_sizes():
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


def test_one_size_alone_has_a_knee_and_no_line():
    found = throughput_from(affine()[:1])

    assert found.fit is None
    assert found.residual(8) is None
    assert found.knee.batch_size == 8


def test_a_size_that_was_not_measured_is_refused():
    with pytest.raises(InputError, match=r"must be a measured one: 8, 16.* Received: 7"):
        throughput_from(affine()).seconds(7)


def test_the_predicted_size_is_the_root_of_noise_and_line():
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


def test_without_a_line_only_measured_sizes_are_compared():
    seconds = {8: 0.010, 16: 0.050, 32: 0.011, 64: 0.2}
    made = predict_batch_size(
        noise(100.0, 50.0, 200.0), seconds, fit=None, baseline=8, largest=4096
    )

    assert made.batch_size == 32
    assert made.limited_by == "measured sizes"
    assert any("no line fits" in doubt for doubt in made.doubts)


def predict(seconds, **options):
    asked: dict[str, Any] = {"fit": None, "baseline": 8, "largest": 4096} | options
    return predict_batch_size(asked.pop("scale", noise(100.0, 50.0, 200.0)), seconds, **asked)


def test_only_what_is_allowed_is_compared_and_what_is_about_as_fast_is_named():
    """Times to the target, by (1 + 100 / B) t: 13.5, 7.25 and 7.43, and 3 at 32, too large."""
    seconds = {8: 1.0, 16: 1.0, 24: 1.438, 32: 0.7}
    made = predict(seconds, largest=31)

    assert (made.batch_size, made.as_fast_from, made.as_fast_to) == (16, 16, 24)
    assert made.speed_up == pytest.approx(13.5 / 7.25)
    assert [s.speed_up for s in made.sizes] == pytest.approx(
        [1.0, 13.5 / 7.25, 13.5 / (1.438 * (1 + 100 / 24)), 13.5 / (0.7 * (1 + 100 / 32))]
    )
    with pytest.raises(InputError, match="`largest` must be >= the smallest measured"):
        predict(seconds, largest=7)


def test_memory_holds_the_predicted_size_between_measured_ones():
    """The line's best is 64; 40 is allowed, and was not measured."""
    found = throughput_from(affine())
    seconds = {time.batch_size: time.seconds for time in found.step_times}
    made = predict(seconds, scale=noise(128.0, 32.0, 512.0), fit=found.fit, largest=40)

    assert (made.batch_size, made.limited_by) == (40, "memory")
    assert made.speed_up == pytest.approx(17 * 0.02 / ((1 + 128 / 40) * (0.016 + 0.0005 * 40)))


def test_a_size_beyond_all_timed_ones_is_not_predicted_and_so_is_a_weak_noise_scale():
    found = throughput_from(affine())
    seconds = {time.batch_size: time.seconds for time in found.step_times}
    weak = NoiseScale(1e5, Interval(5e4, 2e5), 1.0, 1e5, 3, ("3 pairs, 8 are needed",))
    made = predict(seconds, scale=weak, fit=found.fit)

    assert made.batch_size == 512, "the line's best is sqrt(32 * 1e5) = 1,789, where none was timed"
    assert made.doubts == (
        "3 pairs, 8 are needed",
        "sizes larger than 512 were not timed and may be faster",
    )
    inside = predict(seconds, scale=noise(128.0, 32.0, 512.0), fit=found.fit)
    assert inside.doubts == ()


def test_without_an_upper_end_of_the_noise_the_largest_timed_size_is_in_the_interval():
    found = throughput_from(affine())
    seconds = {time.batch_size: time.seconds for time in found.step_times}
    made = predict(seconds, scale=noise(128.0, 0.0, math.inf), fit=found.fit)

    assert made.interval.high == 512
    assert made.interval.low == 1


def test_a_form_that_does_not_fit_gives_no_seconds():
    crooked = {8: 0.01, 16: 0.05, 32: 0.01, 64: 0.05, 128: 0.5}
    times = [StepTime(size, t, (t, t, t)) for size, t in crooked.items()]
    fit = throughput_from(times).fit
    assert fit is not None
    assert not fit.fits
    made = predict(crooked, fit=fit)

    assert (made.batch_size, made.limited_by) == (32, "measured sizes")
    assert made.speed_up == pytest.approx(13.5 / 4.125)
    assert any("no line fits" in doubt for doubt in made.doubts)


@pytest.mark.parametrize(
    ("scale", "baseline", "message"),
    [(float("inf"), 8, "not a positive number"), (100.0, 9, "`baseline` must be a measured")],
    ids=["no noise scale", "baseline not measured"],
)
def test_nothing_is_predicted_from_nothing(scale, baseline, message):
    with pytest.raises(InputError, match=message):
        predict_batch_size(
            noise(scale, 0.0, float("inf")),
            {8: 0.01, 16: 0.02},
            fit=None,
            baseline=baseline,
            largest=100,
        )


def test_sizes_without_time_or_memory_are_named(monkeypatch):
    asked: dict[str, Any] = {}

    def step_times(programs, configurations, **options):
        asked.update(options, sizes=[one.batch_size for one in configurations])
        return StepTimes(tuple(affine()[:3]), left_out=(16, 64), too_large=(128,))

    monkeypatch.setattr(throughput, "measure_step_times", step_times)
    configurations = [
        Configuration(batch_size=size, base_learning_rate=0.1) for size in (64, 8, 32, 16, 128)
    ]
    found = throughput.measure_throughput_of(context_of(None), configurations, 7.0, [32])

    assert asked["sizes"] == [8, 16, 32, 64, 128]
    assert (asked["seconds"], asked["rounds"], asked["wanted"]) == (7.0, 5, [32])
    assert (found.left_out, found.too_large) == ((16, 64), (128,))
    said = found.conclusion()
    assert "not measured for want of time, between others: 16" in said
    assert "too slow to measure in the time, steps alone: 64" in said
    assert "too large for the memory: 128" in said


def failing_bench(error, *failing):
    """Its process knows the step times, and dies of whatever else it is asked for."""

    def measure(function, *arguments):
        if function in failing:
            raise error
        return throughput_from(affine())

    return types.SimpleNamespace(
        baseline=types.SimpleNamespace(batch_size=8),
        configuration=lambda size: Configuration(batch_size=size, base_learning_rate=0.1),
        data=types.SimpleNamespace(splits={"train": 1000}),
        devices=types.SimpleNamespace(replicas=1, kind="CPU"),
        measure=measure,
    )


def test_a_comparison_whose_process_dies_costs_no_step_time():
    bench: Any = failing_bench(SearchError("It died."), compare_xla, compare_precision)
    configurations = [bench.configuration(size) for size in SIZES]
    found = throughput._measured(bench, configurations, 60.0, xla=True, mixed_precision=True)

    assert found.step_times == tuple(affine())
    assert (found.xla, found.precision) == (None, None)
    said = found.conclusion()
    assert "Steps with XLA and without were not compared: It died." in said
    assert "Mixed precision was not compared: It died." in said


@pytest.mark.parametrize(
    ("seconds", "steps"), [(math.inf, math.inf), (60.0, 36.0)], ids=["no limit", "a minute"]
)
def test_what_the_comparisons_leave_of_the_time_is_the_steps(seconds, steps):
    """Of no limit they leave no limit: every size is then measured."""
    asked: list[Any] = []
    bench: Any = failing_bench(SearchError("It died."), compare_xla, compare_precision)
    measure = bench.measure

    def noted(function, *arguments):
        if function is throughput.measure_throughput_of:
            asked.append(arguments[1])
        return measure(function, *arguments)

    bench.measure = noted
    configurations = [bench.configuration(size) for size in SIZES]
    throughput._measured(bench, configurations, seconds, xla=True, mixed_precision=True)

    assert asked == [pytest.approx(steps)]


def test_sizes_of_numpy_are_measured_as_the_numbers_that_they_are():
    """As Python's own: a table after the measurement calls methods that NumPy's may lack."""
    sizes = throughput._checked(2 ** np.arange(6, 2, -1))

    assert sizes == [8, 16, 32, 64]
    assert {type(size) for size in sizes} == {int}


def test_a_stop_in_a_comparison_is_one():
    bench: Any = failing_bench(StoppedError("stop"), compare_xla)
    configurations = [bench.configuration(size) for size in SIZES]
    with pytest.raises(StoppedError):
        throughput._measured(bench, configurations, 60.0, xla=True)


def test_step_times_outlive_a_process_that_dies_of_the_input_alone(monkeypatch):
    bench = failing_bench(SearchError("It died."), measure_input_bound, compare_precision)
    monkeypatch.setattr(throughput, "open_bench", lambda *_, **__: contextlib.nullcontext(bench))
    report = tfbatch.measure_throughput("any", "any", batch_sizes=SIZES, verbose=0)

    assert report.throughput.step_times == tuple(affine())
    assert report.input_bound is None
    assert str(report).endswith("Pipeline and model were not timed apart: It died.")


@pytest.mark.parametrize(
    ("sizes", "said"),
    [(slice(0, 3), "no knee up to the largest measured batch size, 32"), (slice(6, 7), "no knee")],
    ids=["flat as far as measured", "one size"],
)
def test_a_knee_at_the_edge_of_what_was_measured_is_not_called_one(sizes, said):
    """8, 16 and 32 of a device that is flat up to 288: the end of what was measured is no knee."""
    found = throughput_from(affine()[sizes])

    assert not found.has_knee
    assert said in found.conclusion()
    assert "knee is batch size" not in found.of_knee()
    assert found.charts()[0].marks == ()


def test_a_throughput_that_is_at_its_best_from_the_first_has_no_knee_there():
    linear = [StepTime(size, 0.01 * size, (0.01 * size,) * 3) for size in SIZES]
    found = throughput_from(linear)

    assert found.knee.edge == "smallest"
    assert "no knee from batch size 8 on, the smallest measured" in found.conclusion()


def test_a_gap_below_the_knee_is_told():
    """256 is the knee of those measured; whether 128 was one is not known."""
    times = [time for time in affine() if time.batch_size != 128]
    found = throughput_from(times, left_out=[128])
    whole = throughput_from(affine())

    assert "or smaller: between 64 and 256 nothing was measured" in found.conclusion()
    assert "or smaller: between 64 and 256 nothing was measured" in found.of_knee()
    assert "nothing was measured" not in whole.conclusion() + whole.of_knee()


def test_on_a_gpu_the_sizes_reach_as_far_as_the_data():
    assert sizes_of_interest(45_000, on_gpu=True) == [2**k for k in range(3, 16)]
    assert sizes_of_interest(45_000, on_gpu=False) == [2**k for k in range(3, 11)]
    assert sizes_of_interest(16, on_gpu=True) == [8, 16]


@pytest.mark.slow
def test_a_real_training_is_timed_at_every_size():
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
    assert sorted(found.batch_sizes + found.left_out) == with_odd_sizes([16, 64])
    assert all(min(time.rounds) > 0 for time in found.step_times)
    assert report.input_bound is not None
    assert report.input_bound.shares[0].batch_size == 16


@pytest.mark.parametrize(
    "sizes", [[], [0, 8], [8, 16.5], [math.nan]], ids=["none", "zero", "half", "not a number"]
)
def test_batch_sizes_that_cannot_be_used_are_refused_first(sizes):
    with pytest.raises(InputError, match="`batch_sizes` must hold"):
        tfbatch.measure_throughput("no such model", "digits", batch_sizes=sizes)
