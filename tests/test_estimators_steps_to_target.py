"""Hits that stay, censored medians, the hyperbola with its interval."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tfbatch.errors import InputError
from tfbatch.estimators.critical_batch_size import Hyperbola, fit_critical_batch_size
from tfbatch.estimators.first_hit import StepsToTarget, first_hit_that_stays, median_steps


def hit(values, *, target=0.9, direction="max", steps=None):
    steps = steps or [100 * (i + 1) for i in range(len(values))]
    return first_hit_that_stays(steps, values, batch_size=32, target=target, direction=direction)


def test_a_touch_that_falls_back_is_not_a_hit():
    found = hit([0.5, 0.95, 0.6, 0.7, 0.8, 0.8])

    assert found == StepsToTarget(32, 600, reached=False)
    assert str(found) == ">600"


def test_the_hit_is_where_the_metric_begins_to_stay():
    found = hit([0.5, 0.95, 0.6, 0.8, 0.9, 0.95, 0.96])

    assert (found.steps, found.reached) == (pytest.approx(500), True)


def test_one_evaluation_that_falls_back_does_not_undo_a_hit():
    assert hit([0.5, 0.9, 0.95, 0.85, 0.95, 0.96]).steps == pytest.approx(200)


def test_two_that_fall_back_do():
    assert hit([0.5, 0.9, 0.95, 0.85, 0.85, 0.96, 0.97, 0.98]).steps > 500


@pytest.mark.parametrize("values", [[0.5, 0.5, 0.5, 0.95], [0.5, 0.95, 0.95], [0.95, 0.95]])
def test_a_hit_that_two_evaluations_do_not_confirm_is_none(values):
    assert not hit(values).reached


def test_steps_are_interpolated_in_their_logarithm():
    """From 0.8 at 100 to 1.0 at 400: half way in the logarithm is 200, not 250."""
    assert hit([0.8, 1.0, 1.0, 1.0], steps=[100, 400, 500, 600]).steps == pytest.approx(200)


def test_the_first_evaluation_can_be_the_hit():
    found = hit([0.95, 0.96, 0.97])

    assert (found.steps, found.at_first) == (100, True)
    assert not hit([0.5, 0.95, 0.96, 0.97]).at_first


def test_a_smaller_metric_is_better_where_the_direction_says_so():
    assert hit([2.0, 1.0, 0.4, 0.4, 0.4], target=0.7, direction="min").steps == pytest.approx(
        math.exp((math.log(200) + math.log(300)) / 2)
    )
    assert not hit([2.0, 1.0, 0.4, 0.4, 0.4], target=0.7, direction="max").reached


def test_a_metric_that_is_not_finite_is_no_hit():
    assert not hit([0.95, math.nan, math.nan, math.nan]).reached
    assert hit([math.inf, 0.5, 0.2, 0.1], target=0.3, direction="min").reached is False
    assert hit([math.nan, 0.2, 0.2, 0.1], target=0.3, direction="min").steps == 200


@pytest.mark.parametrize(
    ("steps", "values", "options", "message"),
    [
        ([1, 2], [0.5], {}, "same length"),
        ([2, 1], [0.5, 0.5], {}, "must ascend"),
        ([1, 2], [0.5, 0.5], {"direction": "up"}, '"min" or "max"'),
        ([1, 2], [0.5, 0.5], {"target": math.nan}, "`target` finite"),
        ([0, 2], [0.5, 0.5], {}, "`steps` must be > 0"),
    ],
)
def test_curves_that_are_none_are_refused(steps, values, options, message):
    with pytest.raises(InputError, match=message):
        hit(values, steps=steps, **options)


def runs(*texts, batch_size=32):
    return [
        StepsToTarget(batch_size, float(text.strip(">")), reached=not text.startswith(">"))
        for text in map(str, texts)
    ]


@pytest.mark.parametrize(
    ("cells", "median"),
    [
        ((100, 120, ">500", 110, ">500"), "120"),
        ((">500", ">500", ">500", 100, 110), ">500"),
        ((100, 110, 120, ">500"), "115"),
        ((100, 110, ">500", ">500"), ">500"),
        ((">500",), ">500"),
        ((3, 1, 2), "2"),
        ((100, 120, 400, 110, ">200"), "120"),
    ],
)
def test_medians_with_runs_that_fell_short(cells, median):
    assert str(median_steps(runs(*cells))) == median


def test_a_run_stopped_before_the_median_leaves_no_number():
    """{>50, 100, 200}: the first could be 60 or 600, so that the median is 100 or 200."""
    assert str(median_steps(runs(">50", 100, 200))) == ">50"
    assert str(median_steps(runs(">150", 100, 120))) == "120"


def test_a_median_is_over_one_batch_size():
    with pytest.raises(InputError, match="one batch size"):
        median_steps([*runs(1), *runs(1, batch_size=64)])
    with pytest.raises(InputError, match="one batch size"):
        median_steps([])


# The hyperbola.


@pytest.mark.parametrize("batch_size", [1, 30, 1000.5])
def test_the_hyperbola_is_one(batch_size):
    h = Hyperbola(min_steps=200, critical_batch_size=75)

    steps, examples = h.steps(batch_size), h.examples(batch_size)

    assert examples == pytest.approx(steps * batch_size, rel=1e-12)
    assert (steps / 200 - 1) * (examples / h.min_examples - 1) == pytest.approx(1, rel=1e-10)


def test_at_the_critical_batch_size_both_are_doubled():
    h = Hyperbola(min_steps=200, critical_batch_size=75)

    assert h.steps(75) == 400
    assert h.examples(75) == 2 * h.min_examples == 2 * 200 * 75


def sample(random, *, critical=60.0, deviation=0.2, sizes=(8, 32, 128, 512), seeds=5, cap=None):
    found = []
    for size in np.repeat(sizes, seeds):
        steps = 100 * (1 + critical / size) * math.exp(deviation * random.normal())
        cut = cap or math.inf
        found.append(StepsToTarget(int(size), min(steps, cut), reached=steps <= cut))
    return found


def test_runs_on_a_hyperbola_give_it_back():
    fit = fit_critical_batch_size(sample(np.random.default_rng(0), deviation=1e-4))

    assert fit.hyperbola.critical_batch_size == pytest.approx(60, rel=1e-3)
    assert fit.hyperbola.min_steps == pytest.approx(100, rel=1e-3)
    assert fit.deviation == pytest.approx(1e-4, rel=0.5)
    assert 60 in fit.interval
    assert fit.doubts == ()


def test_isotropic_regression_has_twice_its_dimensions_for_critical_batch_size():
    """ln r / ln(1 + B / (d + 1)) steps at the best rate: for small B, 1 / ln(1 + x) = 1/x + 1/2."""
    sizes = (1, 2, 4, 8)
    exact = [StepsToTarget(b, 5 / math.log1p(b / 51), reached=True) for b in sizes for _ in "ab"]

    fit = fit_critical_batch_size(exact)

    assert fit.hyperbola.critical_batch_size == pytest.approx(2 * 51, rel=0.05)


@pytest.mark.quick_cases("nine runs", "censored")
@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 150),
        ({"seeds": 3, "deviation": 0.1, "sizes": (16, 64, 256)}, 150),
        ({"critical": 2000}, 150),
        ({"critical": 3}, 150),
        ({"cap": 600}, 25),
    ],
    ids=["ten to one", "nine runs", "far above", "far below", "censored"],
)
def test_the_interval_covers_the_critical_batch_size(options, count):
    """Nominal 95 %; measured 93 to 98 %."""
    random = np.random.default_rng(1)
    critical = options.get("critical", 60)
    covered = sum(
        critical in fit_critical_batch_size(sample(random, **options)).interval
        for _ in range(count)
    )

    spread = 5 * math.sqrt(0.95 * 0.05 / count)
    assert 0.94 - spread < covered / count


def test_runs_that_fell_short_pull_the_curve_up():
    """Dropping them, or taking them for hits, would make small batches look fast."""
    random = np.random.default_rng(2)
    censored = [sample(random, cap=700) for _ in range(15)]

    def mean_critical(change):
        fits = [fit_critical_batch_size(change(runs)) for runs in censored]
        return np.mean([math.log(fit.hyperbola.critical_batch_size) for fit in fits])

    kept = mean_critical(lambda runs: runs)
    dropped = mean_critical(lambda runs: [r for r in runs if r.reached])
    as_hits = mean_critical(lambda runs: [StepsToTarget(r.batch_size, r.steps, True) for r in runs])

    assert abs(kept - math.log(60)) < 0.15
    assert dropped < kept - 0.1
    assert as_hits < kept - 0.1


def test_steps_that_never_level_off_have_no_upper_end():
    fit = fit_critical_batch_size(sample(np.random.default_rng(3), critical=1e5))

    assert fit.interval.high == math.inf
    assert "level off: measure larger" in str(fit)


def test_steps_that_do_not_fall_have_no_lower_end():
    fit = fit_critical_batch_size(sample(np.random.default_rng(4), critical=0.1))

    assert fit.interval.low == 0
    assert "measure smaller" in str(fit)


def test_many_runs_that_fell_short_are_told():
    fit = fit_critical_batch_size(sample(np.random.default_rng(5), cap=600))

    assert fit.censored > 4
    assert f"{fit.censored / 20:.0%} of the runs fell short" in str(fit)


@pytest.mark.parametrize(
    "given",
    [
        [StepsToTarget(b, 100, True) for b in (8, 8, 64, 64)],
        [StepsToTarget(b, 100, b < 100) for b in (8, 16, 64, 256, 512)],
        [],
    ],
    ids=["two sizes", "three hits", "nothing"],
)
def test_too_few_runs_are_refused(given):
    with pytest.raises(InputError, match="At least 3 batch sizes and 4 runs"):
        fit_critical_batch_size(given)
