"""The range test in traced programs: a quadratic's threshold, and nothing left behind."""

from __future__ import annotations

import json
import math
import random

import keras
import numpy as np
import pytest
import tiny_model
from contexts import context_of

from tfbatch.charts import Chart, Series
from tfbatch.charts.plotly_figure import figure
from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.estimators.range_test import ConstantRate, ConstantRates, RangeTest
from tfbatch.instruments import learning_rate_range
from tfbatch.instruments.learning_rate_range import (
    RangeReading,
    RangeSettings,
    measure_learning_rate_range,
)
from tfbatch.schema import Named
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.workload import Workload

PLAIN = Configuration(
    batch_size=32, base_learning_rate=0.01, optimizer=Named(name="sgd", momentum=0.0)
)


class Quadratic(keras.Model):
    """0.5 * 4 |w|^2, whatever the examples are: gradient descent diverges above 2 / 4."""

    def __init__(self):
        super().__init__()
        self.w = self.add_weight(shape=(3,), initializer="ones", name="w")
        self.built = True

    def call(self, inputs):
        return keras.ops.reshape(inputs, (keras.ops.shape(inputs)[0], -1))[:, :1]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return 2.0 * keras.ops.sum(self.w**2)


def build_quadratic():
    model = Quadratic()
    model.compile("sgd", "mse")
    return model


@pytest.mark.slow
def test_a_quadratic_diverges_above_its_threshold_and_the_suggestion_lies_below(digits):
    programs = ProgramCache(Workload(digits, build_quadratic))
    settings = RangeSettings(lowest=1e-3, highest=10.0, steps=100, seeds=(1, 2))
    found = measure_learning_rate_range(context_of(programs), PLAIN, settings)
    rates = settings.rates()
    # The loss that an update at rate r meets is multiplied by (1 - 4 r)^2.
    losses = 6 * np.cumprod(np.r_[1, (1 - 4 * rates[:-1]) ** 2])
    known = np.array([loss for loss in found.losses[0] if np.isfinite(loss)])
    near_zero = np.abs(1 - 4 * rates).argmin()  # beyond it float32 has lost digits
    assert known[: near_zero + 1] == pytest.approx(losses[: near_zero + 1], rel=1e-3)
    # Below the threshold of 2 / 4 each loss falls, above it each grows, until the sweep stops.
    grows = np.diff(known) > 0
    assert np.array_equal(grows, rates[: len(grows)] > 0.5)
    assert 0.5 < found.result.diverges_at < rates[len(known)]
    assert 0 < found.learning_rate < 0.5
    # 0.25 is the best constant rate; of halves, one within a factor of the root of 2.
    assert 0.25 / 2**0.5 < found.learning_rate < 0.25 * 2**0.5
    assert 0.25 < found.limit < 0.5
    assert all(one.held == (one.learning_rate < 0.5) for one in found.constant)
    assert f"{found.limit:.3g} to be the largest rate that holds" in found.conclusion()
    assert "above what training tolerates" in found.conclusion()


def test_halves_are_tried_until_they_hold_and_as_long_as_they_end_lower():
    def train(rate):
        with np.errstate(over="ignore"):
            losses = 6 * (1 - 4 * rate) ** (2 * np.arange(40.0))
        return [loss if loss < 1e6 else np.nan for loss in losses]

    def tried(above=3.4):
        constant = ConstantRates(first_loss=6.0, above=above)
        while (rate := constant.next_rate()) is not None:
            constant.add(train(rate))
        return constant.found

    assert [(one.learning_rate, one.held) for one in tried()] == [
        (1.7, False),
        (0.85, False),
        (0.425, True),
        (0.2125, True),
        (0.10625, True),
    ]
    assert len(tried(above=1e4)) == 10


def test_a_rate_that_was_measured_not_to_hold_is_not_suggested():
    """The rules' median is 0.4; the smallest constant rate that the time allowed for is 0.375."""
    tried = tuple(ConstantRate(rate, math.nan, held=False) for rate in (1.5, 0.75, 0.375))
    result = RangeTest(0.4, (), 3.0, (2.3, 2.2, 1.0), ("one seed only",))
    reading = RangeReading(8, (0.001, 0.01, 0.1, 3.0), ((2.3,) * 4,), result, (1,), 1.0, tried)

    said = reading.conclusion()
    assert (reading.learning_rate, reading.limit) == (None, None)
    assert "suggests no learning rate and diverges at 3, above what training tolerates" in said
    assert said.endswith(
        "Do not trust it: one seed only; no constant rate that was tried holds, not even 0.375: "
        "go further down."
    )
    assert reading.doubts[0] == "one seed only"
    assert reading.charts()[0].marks == ()


def test_the_chart_leaves_out_what_a_divergence_reaches():
    losses = (2.3, 2.2, 1.0, 3.0, 1e23)
    result = RangeTest(0.1, (), 1.0, (2.3, 2.2, 1.0), ())
    rates = (0.001, 0.01, 0.1, 0.5, 1.0)
    reading = RangeReading(8, rates, (losses,), result, (1,), 1.0)
    (chart,) = reading.charts()

    low, high = chart.y_limits
    assert low < 1.0
    assert 3.0 < high < 100
    assert figure(chart)["layout"]["yaxis"]["range"] == pytest.approx(np.log10([low, high]))


@pytest.mark.parametrize("log_y", [True, False])
def test_any_chart_has_ends_that_are_finite_and_sensible(log_y):
    series = Series(
        "s", (1.0, 2.0, 3.0), (1.0, 1e300, math.inf), low=(0.5,) * 3, high=(math.inf,) * 3
    )
    drawn = figure(Chart("T", "x", "y", (series,), log_y=log_y))

    assert "Infinity" not in json.dumps(drawn)
    if log_y:
        low, high = drawn["layout"]["yaxis"]["range"]
        assert high - low <= 12


@pytest.fixture(scope="module")
def programs(digits):
    return ProgramCache(Workload(digits, tiny_model.build))


def test_nothing_is_retraced_and_everything_is_restored(programs):
    configuration = PLAIN.model_copy(update={"optimizer": Named(name="adam")})
    model = programs.begin(configuration, total_examples=640, seed=1)
    before = [v.numpy() for v in [*model.variables, *model.optimizer.variables]]
    table = model.optimizer._learning_rate._table.numpy()
    traced = programs.traced
    random.seed(5)
    np.random.seed(5)
    settings = RangeSettings(steps=20, highest=1.0, seeds=(1,))
    python, numpy = random.getstate(), np.random.get_state()[1].copy()
    measure_learning_rate_range(context_of(programs), configuration, settings)
    assert programs.traced == traced
    for variable, value in zip([*model.variables, *model.optimizer.variables], before, strict=True):
        assert np.array_equal(variable.numpy(), value), variable.path
    np.testing.assert_array_equal(model.optimizer._learning_rate._table.numpy(), table)
    assert random.getstate() == python
    assert np.array_equal(np.random.get_state()[1], numpy)
    again = programs.begin(configuration, total_examples=640, seed=1)
    assert again is model
    assert not model.stop_training


@pytest.mark.slow
def test_a_sweep_on_digits_is_reproducible_and_stops_when_it_diverges(programs):
    settings = RangeSettings(lowest=1e-4, highest=1e4, steps=60, seeds=(1, 2))
    signs = []
    found, again = (
        measure_learning_rate_range(context_of(programs, lambda: signs.append(1)), PLAIN, settings)
        for _ in range(2)
    )
    assert np.array_equal(found.losses, again.losses, equal_nan=True)
    assert np.isnan(found.losses[0][-1])
    assert found.losses[0] != found.losses[1]
    assert found.learning_rate < found.result.diverges_at
    assert len(signs) < 4 * 60 + 2 * 60 * len(found.constant)
    assert {len(row) for row in found.rows()} == {len(found.columns())}
    assert f"{found.learning_rate:.3g}" in found.conclusion()
    assert found.charts()[0].series


def test_each_seed_has_weights_and_an_order_of_its_own(programs, monkeypatch):
    begun, streams = [], []
    begin, training = programs.begin, programs.workload.data.training

    def noted_begin(configuration, *, seed, **options):
        begun.append(seed)
        return begin(configuration, seed=seed, **options)

    def noted_training(*, seed, **options):
        streams.append(seed)
        return training(seed=seed, **options)

    monkeypatch.setattr(programs, "begin", noted_begin)
    monkeypatch.setattr(programs.workload.data, "training", noted_training)
    settings = RangeSettings(steps=20, highest=1.0, seeds=(7, 3))
    measure_learning_rate_range(context_of(programs), PLAIN, settings)
    assert begun == streams
    assert begun[:2] == [7, 3]
    assert set(begun[2:]) <= {7}, "constant rates follow with the first seed"


@pytest.mark.parametrize(("seconds", "seeds"), [(30, 1), (50, 2), (120, 3)])
def test_no_seed_begins_that_would_not_end_in_the_time(programs, monkeypatch, seconds, seeds):
    """A sweep takes 10 s of a clock that stands still otherwise."""
    now = [0.0]

    def sweep(programs, configuration, rates, *rest):
        now[0] += 10
        return list(np.linspace(2, 1, len(rates)))

    monkeypatch.setattr(learning_rate_range, "_sweep", sweep)
    monkeypatch.setattr(learning_rate_range.time, "perf_counter", lambda: now[0])
    settings = RangeSettings(steps=20, seeds=(5, 6, 7), seconds=seconds)
    found = measure_learning_rate_range(context_of(programs), PLAIN, settings)
    assert found.seeds == (5, 6, 7)[:seeds]
    assert len(found.losses) == seeds
    assert found.seconds == 10 * (seeds + len(found.constant)) <= seconds


def test_a_sweep_that_is_too_low_says_so(programs):
    settings = RangeSettings(lowest=1e-8, highest=1e-7, steps=20, seeds=(1,))
    found = measure_learning_rate_range(context_of(programs), PLAIN, settings)
    assert any("falls" in doubt for doubt in found.result.doubts)
    assert "does not diverge" in found.conclusion()
    assert "Do not trust" in found.conclusion()


@pytest.mark.parametrize(
    "wrong", [{"lowest": 0}, {"lowest": 2, "highest": 1}, {"steps": 5}, {"seeds": ()}], ids=str
)
def test_wrong_sweeps_are_refused(wrong):
    with pytest.raises(InputError, match="must"):
        RangeSettings(**wrong)


def test_too_few_examples_of_a_sweep_are_refused_by_their_name():
    steps = learning_rate_range._number_of_steps

    with pytest.raises(
        InputError,
        match=r"`examples` must be at least 20 updates of batch_size=128: 2,560\. Received: 500\.",
    ):
        steps(None, 500, batch_size=128)
    assert steps(None, 2560, batch_size=128) == 20
    assert (steps(None, None, batch_size=128), steps(30, None, batch_size=128)) == (100, 30)
