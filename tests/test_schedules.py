"""Every schedule family: its closed form, its native Keras form, saving and loading.

The closed forms are written anew here, in NumPy float64; a family without one fails.
"""

from __future__ import annotations

import inspect
import json
import math

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
import tensorflow as tf
from schedule_parameters import numeric_parameters

from tfbatch.errors import ConfigurationError, InputError
from tfbatch.schedules import SCHEDULES, LearningRateInExamples, make_family
from tfbatch.schedules._family import value

PEAK, BATCH, TOTAL = 0.3, 32, 6400


def constant(u):
    return np.ones_like(u)


def linear(u, final_fraction=0.0):
    return 1 - u * (1 - final_fraction)


def cosine(u, final_fraction=0.0):
    return final_fraction + (1 - final_fraction) * np.cos(np.pi * u / 2) ** 2


def wsd(u, cooldown=0.2, shape="one_minus_sqrt", final_fraction=0.0):
    out = []
    for one in u:
        v = (one - (1 - cooldown)) / cooldown
        fallen = {"linear": v, "one_minus_sqrt": abs(v) ** 0.5}[shape]
        out.append(1.0 if one <= 1 - cooldown else 1 - (1 - final_fraction) * fallen)
    return np.array(out)


def exponential(u, final_fraction=0.01):
    return np.exp(u * np.log(final_fraction))


def polynomial(u, power=2.0, final_fraction=0.0):
    return 1 - (1 - final_fraction) * (1 - (1 - u) ** power)


def inverse_time(u, decay_rate=9.0):
    return (1 + decay_rate * u) ** -1


def inverse_square_root(u, timescale=0.03):
    return (1 + u / timescale) ** -0.5


def step(u, boundaries=(0.5, 0.75), gamma=0.1):
    if isinstance(boundaries, str):
        boundaries = [float(part) for part in boundaries.split("/")]
    return np.array([math.prod(gamma for b in boundaries if one >= b) for one in u])


def one_cycle(
    u,
    peak_at=0.3,
    initial_fraction=0.04,
    final_fraction=0.0,
    **momentum,
):
    """The factor; the momentum has a test of its own."""
    out = []
    for one in u:
        low, share = initial_fraction, one / peak_at
        if one >= peak_at:
            low, share = final_fraction, (1 - one) / (1 - peak_at)
        out.append(low + (1 - low) * math.sin(math.pi / 2 * share) ** 2)
    return np.array(out)


def restarts(u, cycles=3, length_factor=2.0, peak_factor=1.0, final_fraction=0.0):
    lengths = np.array([length_factor**i for i in range(cycles)])
    starts = np.concatenate([[0], np.cumsum(lengths)]) / lengths.sum()
    out = []
    for one in u:
        i = max(k for k in range(cycles) if one >= starts[k] - 1e-12)
        share = (one - starts[i]) / (starts[i + 1] - starts[i])
        height = peak_factor**i * math.cos(math.pi / 2 * share) ** 2
        out.append(final_fraction + (1 - final_fraction) * height)
    return np.array(out)


CASES = [
    ("constant", constant, {}),
    ("exponential", exponential, {}),
    ("exponential", exponential, {"final_fraction": 1.0}),
    ("polynomial", polynomial, {}),
    ("polynomial", polynomial, {"power": 0.9, "final_fraction": 0.1}),
    ("inverse_time", inverse_time, {}),
    ("inverse_time", inverse_time, {"decay_rate": 0.5}),
    ("inverse_square_root", inverse_square_root, {}),
    ("inverse_square_root", inverse_square_root, {"timescale": 1 / 9}),
    ("step", step, {}),
    ("step", step, {"boundaries": "0.3/0.6/0.9", "gamma": 0.5}),
    ("step", step, {"boundaries": [0.1], "gamma": 0.2}),
    ("one_cycle", one_cycle, {}),
    ("one_cycle", one_cycle, {"peak_at": 0.5, "initial_fraction": 0.2, "final_fraction": 0.01}),
    ("one_cycle", one_cycle, {"cycle_momentum": False}),
    ("restarts", restarts, {}),
    ("restarts", restarts, {"cycles": 4, "length_factor": 1, "final_fraction": 0.1}),
    ("restarts", restarts, {"cycles": 2, "length_factor": 1, "peak_factor": 0.5}),
    ("restarts", restarts, {"cycles": 1}),
    ("linear", linear, {}),
    ("linear", linear, {"final_fraction": 0.1}),
    ("cosine", cosine, {}),
    ("cosine", cosine, {"final_fraction": 0.25}),
    ("wsd", wsd, {}),
    ("wsd", wsd, {"cooldown": 0.5, "shape": "linear", "final_fraction": 0.1}),
    ("wsd", wsd, {"cooldown": 1.0, "shape": "one_minus_sqrt"}),
]
EACH_CASE = pytest.mark.parametrize(
    ("name", "closed", "parameters"), CASES, ids=[f"{n}-{p}" for n, _, p in CASES]
)
EACH_FAMILY = pytest.mark.parametrize("name", SCHEDULES.names())
WARMUPS = {
    "none": (0, 0.0),
    "from-zero": (640, 0.0),
    "from-a-tenth": (640, 0.1),
    "within-a-batch": (16, 0.0),
    "uneven": (1000, 0.0),
    "all-of-it": (6400, 0.5),
}


def family_of(name):
    return SCHEDULES.load(name).Family


def warmup_of(name):
    """A tenth of the training, where a family takes a warm-up."""
    return 0 if family_of(name).own_warmup else 640


EACH_CASE_AND_WARMUP = pytest.mark.parametrize(
    ("name", "closed", "parameters", "warmup", "start"),
    [
        pytest.param(*case, *WARMUPS[key], id=f"{case[0]}-{case[2]}-{key}")
        for case in CASES
        for key in WARMUPS
        if key == "none" or not family_of(case[0]).own_warmup
    ],
)


def expected(closed, x, *, warmup=0, start=0.0, batch_size=BATCH, **parameters):
    """The learning rate before which x examples were seen, one number at a time."""
    if x < warmup:
        if x == 0 and start == 0:
            return PEAK * min(batch_size, warmup) / warmup
        return PEAK * (start + (1 - start) * x / warmup)
    u = min((x - warmup) / max(TOTAL - warmup, 1), 1.0)
    return PEAK * closed(np.array([u]), **parameters)[0]


def native(name, *, batch_size=BATCH, warmup=0, start=0.0, **parameters):
    return LearningRateInExamples(
        name,
        learning_rate=PEAK,
        batch_size=batch_size,
        total_examples=TOTAL,
        warmup_examples=warmup,
        warmup_start=start,
        parameters=parameters,
    )


def test_every_family_has_a_closed_form_here():
    assert {name for name, _, _ in CASES} == set(SCHEDULES.names())


@EACH_CASE
def test_a_factor_equals_its_closed_form_in_float64(name, closed, parameters):
    u = np.concatenate([np.linspace(0, 1, 101), [0.8 - 1e-9, 0.8 + 1e-9, 0.5, 1 / 3]])

    got = make_family(name, **parameters).factor(u, np)

    assert got.dtype == np.float64
    np.testing.assert_allclose(got, closed(u, **parameters), rtol=1e-9, atol=1e-7)


def numbers_of(name):
    """Some numeric parameters of a family, of any value that their fields allow."""
    return st.fixed_dictionaries(
        {},
        optional={
            p.name: st.integers(*map(int, p.span)) if p.whole else st.floats(*p.span)
            for p in numeric_parameters(name)
        },
    )


@EACH_FAMILY
@hypothesis.given(data=st.data())
@hypothesis.settings(max_examples=40, deadline=None)
def test_whatever_the_parameters_a_factor_is_a_fraction_that_moves_as_its_family_says(name, data):
    try:
        family = make_family(name, **data.draw(numbers_of(name)))
    except ConfigurationError:  # a rule about several of them
        return
    u = np.linspace(0, 1, 201)
    factors = family.factor(u, np)
    momenta = family.momentum(u, np)

    assert factors.shape == u.shape
    assert factors.min() >= -1e-12
    assert factors.max() <= 1 + 1e-12
    assert (factors[0] < 1) == family.own_warmup
    assert family.rises or (np.diff(factors) <= 1e-12).all()
    assert family.sets_momentum() == (momenta is not None)
    if momenta is not None:
        assert momenta.shape == u.shape
        assert 0 < momenta.min() <= momenta.max() < 1


@EACH_FAMILY
def test_a_family_that_says_it_rises_does(name):
    rises = [np.diff(make_family(n, **p).factor(np.linspace(0, 1, 999), np)).max() > 1e-9
             for n, _, p in CASES if n == name]  # fmt: skip

    assert any(rises) == family_of(name).rises


@EACH_FAMILY
def test_a_number_of_a_family_has_bounds_and_is_refused_beyond_them(name):
    for parameter in numeric_parameters(name):
        assert parameter.bounds, parameter.name
        for number in (*parameter.beyond, math.nan, math.inf, "high"):
            with pytest.raises(InputError, match=f"schedule {name}: {parameter.name}: "):
                make_family(name, **{parameter.name: number})


@EACH_CASE_AND_WARMUP
def test_a_learning_rate_equals_its_closed_form(name, closed, parameters, warmup, start):
    joint, middle = warmup, (warmup + TOTAL) // 2
    places = [0, 1, joint - 1, joint, joint + 1, middle, TOTAL - 1, TOTAL, 2 * TOTAL]
    for x in [p for p in places if p >= 0]:
        got = value(
            make_family(name, **parameters),
            np.float64(x),
            learning_rate=PEAK,
            batch_size=BATCH,
            total_examples=TOTAL,
            warmup_examples=warmup,
            warmup_start=start,
            ops=np,
        )
        want = expected(closed, x, warmup=warmup, start=start, **parameters)
        assert got == pytest.approx(want, rel=1e-10, abs=1e-12), x


@EACH_CASE_AND_WARMUP
def test_the_native_schedule_equals_the_closed_form(name, closed, parameters, warmup, start):
    schedule = native(name, warmup=warmup, start=start, **parameters)
    last = TOTAL // BATCH
    for step in sorted(
        {0, 1, warmup // BATCH, -(-warmup // BATCH), last // 2, last - 1, last, 999}
    ):
        got = schedule(step)
        assert keras.backend.standardize_dtype(got.dtype) == "float32"
        want = expected(closed, step * BATCH, warmup=warmup, start=start, **parameters)
        # The square root turns a rounding of 6e-8 at the joint into 2.4e-4.
        close = 5e-4 if closed is wsd else 1e-6
        assert float(got) == pytest.approx(want, rel=3e-6, abs=PEAK * close), step


@pytest.mark.parametrize(
    ("batch_size", "warmup", "first"),
    [(32, 640, PEAK * 32 / 640), (640, 640, PEAK), (1000, 640, PEAK), (1, 640, PEAK / 640)],
)
def test_the_first_update_of_a_warmup_from_zero_is_not_wasted(batch_size, warmup, first):
    schedule = native("cosine", batch_size=batch_size, warmup=warmup)

    assert float(schedule(0)) == pytest.approx(first, rel=1e-6)


def test_a_warmup_that_starts_above_zero_starts_there():
    assert float(native("cosine", warmup=640, start=0.25)(0)) == pytest.approx(PEAK / 4, rel=1e-6)


@pytest.mark.quick_cases("cosine", "restarts", "wsd")
@EACH_FAMILY
def test_a_learning_rate_depends_on_examples_and_not_on_the_batch_size(name):
    small, middle, large = (
        native(name, batch_size=size, warmup=warmup_of(name)) for size in (16, 64, 128)
    )
    for step in range(1, TOTAL // 128 + 2):
        assert float(small(step * 8)) == float(middle(step * 2)) == float(large(step))


@EACH_FAMILY
@pytest.mark.parametrize("form", ["serialize", "json", "config"])
def test_a_schedule_survives_a_round_trip(name, form):
    before = LearningRateInExamples(
        name,
        learning_rate=0.3,
        batch_size=32,
        total_examples=6400,
        warmup_examples=warmup_of(name),
        warmup_start=0.1,
        parameters={
            p.name: p.span[1] if p.name == "final_fraction" else p.default
            for p in numeric_parameters(name)
        },
        name="of_mine",
    )
    if form == "config":
        after = LearningRateInExamples.from_config(before.get_config())
    else:
        kept = keras.optimizers.schedules.serialize(before)
        kept = json.loads(json.dumps(kept)) if form == "json" else kept
        after = keras.optimizers.schedules.deserialize(kept)

    assert type(after) is LearningRateInExamples
    assert after.get_config() == before.get_config()
    assert [float(after(t)) for t in (0, 7, 99, 250)] == [float(before(t)) for t in (0, 7, 99, 250)]


def test_a_config_holds_exactly_the_arguments_of_the_constructor():
    accepted = set(inspect.signature(LearningRateInExamples.__init__).parameters) - {"self"}

    assert set(native("linear").get_config()) == accepted


@pytest.mark.quick_cases("cosine", "wsd", "one_cycle")
@EACH_FAMILY
def test_fit_uses_the_learning_rate_of_each_update(name):
    """One weight, gradient -1: after a step of plain SGD it has grown by the learning rate."""
    warmup = 0 if family_of(name).own_warmup else 12
    schedule = LearningRateInExamples(
        name, learning_rate=0.5, batch_size=4, total_examples=40, warmup_examples=warmup
    )
    model = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")]
    )
    model.compile(optimizer=keras.optimizers.SGD(schedule), loss=lambda y, p: -p)
    weights, seen = [], []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: (
            weights.append(float(model.weights[0][0, 0])),
            seen.append(int(model.optimizer.iterations)),
        )
    )

    x = np.ones((40, 1), "float32")
    model.fit(x, x, batch_size=4, epochs=1, shuffle=False, verbose=0, callbacks=[note])

    assert seen == list(range(1, 11))
    used = np.diff([0.0, *weights])
    wanted = [float(schedule(t)) for t in range(10)]
    np.testing.assert_allclose(used, wanted, rtol=1e-4, atol=1e-6)
    if warmup:
        assert wanted[:4] == pytest.approx([0.5 / 3, 0.5 / 3, 1 / 3, 0.5], rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0}, "`learning_rate` must be > 0. Received: learning_rate=0."),
        ({"learning_rate": math.nan}, "`learning_rate` must be > 0. Received: learning_rate=nan."),
        ({"batch_size": 0}, "`batch_size` must be >= 1. Received: batch_size=0."),
        (
            {"batch_size": 12.8},
            "A batch size, and the example from which on it holds, must be whole numbers: round "
            "them. Received: 12.8.",
        ),
        ({"batch_size": [(0, 8), (64, 12.5)]}, "A batch size, and the example from"),
        ({"batch_size": [(0, 8), (64.5, 12)]}, "A batch size, and the example from"),
        ({"total_examples": 0}, "`total_examples` must be >= 1. Received: total_examples=0."),
        (
            {"warmup_examples": 6401},
            "`0 <= warmup_examples <= total_examples` must hold. Received: "
            "warmup_examples=6401, total_examples=6400.",
        ),
        (
            {"warmup_examples": 0.05},
            "`warmup_examples` is a number of examples and must be whole: give round(share * "
            "total_examples). Received: warmup_examples=0.05.",
        ),
        ({"total_examples": 6400.5}, "`total_examples` is a number of examples and must be whole"),
        ({"total_examples": math.inf}, "`total_examples` is a number of examples and must be"),
        ({"warmup_examples": -1}, "`0 <= warmup_examples <= total_examples` must hold."),
        ({"warmup_start": 1.5}, "`warmup_start` must be in [0, 1]. Received: warmup_start=1.5."),
        ({"family": "cosin"}, "Unknown schedule `cosin`. Did you mean `cosine`? Available: "),
    ],
    ids=lambda c: next(iter(c)) if isinstance(c, dict) else "",
)
def test_an_argument_out_of_range_is_refused(change, message):
    good = {"family": "cosine", "learning_rate": 0.1, "batch_size": 32, "total_examples": 6400}

    with pytest.raises(InputError) as caught:
        LearningRateInExamples(**{**good, **change})

    assert str(caught.value).startswith(message)


def test_whole_numbers_of_examples_may_be_written_as_floats():
    schedule = LearningRateInExamples(
        "cosine", learning_rate=0.1, batch_size=32.0, total_examples=6.4e3, warmup_examples=64.0
    )

    assert (schedule.batch_size, schedule.total_examples, schedule.warmup_examples) == (
        32,
        6400,
        64,
    )


def test_an_unknown_parameter_of_a_family_is_refused_with_the_closest_one():
    with pytest.raises(ConfigurationError) as caught:
        make_family("wsd", coolown=0.2)

    assert str(caught.value) == (
        "schedule wsd: coolown: is not a known key. Did you mean `cooldown`? "
        "Allowed: cooldown, final_fraction, shape."
    )


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("wsd", {"cooldown": 0}),
        ("wsd", {"cooldown": 1.1}),
        ("wsd", {"shape": "cubic"}),
        ("cosine", {"final_fraction": 1}),
        ("linear", {"final_fraction": -0.1}),
        ("linear", {"final_fraction": math.nan}),
        ("step", {"boundaries": "0.5/1.0"}),
        ("step", {"boundaries": "0.5/half"}),
        ("step", {"boundaries": ""}),
        ("step", {"boundaries": []}),
        ("step", {"boundaries": "0.7/0.5"}),
        ("step", {"boundaries": "0.5/0.5"}),
        ("step", {"boundaries": 0.5}),
        ("restarts", {"cycles": 2.5}),
    ],
)
def test_a_parameter_of_a_family_out_of_range_is_refused(name, parameters):
    with pytest.raises(InputError, match=rf"schedule {name}: {next(iter(parameters))}[.:]"):
        make_family(name, **parameters)


def test_a_step_number_far_beyond_the_end_stays_at_the_last_learning_rate():
    schedule = native("linear", final_fraction=0.5)

    assert float(schedule(10**9)) == pytest.approx(PEAK / 2, rel=1e-6)


def test_a_lone_boundary_is_refused_with_the_way_to_write_it():
    """In a search's YAML `boundaries: [0.5, 0.75]` would be two alternatives of one drop."""
    with pytest.raises(ConfigurationError) as caught:
        make_family("step", boundaries=0.5)

    assert str(caught.value) == (
        'schedule step: boundaries: must be fractions with "/" between them, such as "0.5/0.75", '
        'or "0.5" in quotes: a list in a search\'s space holds alternatives. Received: 0.5.'
    )


def test_cycles_too_short_to_tell_apart_are_refused():
    with pytest.raises(
        ConfigurationError, match=r"first cycle must be at least 0\.001 .*cycles=11"
    ):
        make_family("restarts", cycles=11)


@EACH_FAMILY
def test_a_family_with_a_warmup_of_its_own_refuses_another(name):
    if not family_of(name).own_warmup:
        native(name, warmup=640)
        return
    with pytest.raises(InputError) as caught:
        native(name, warmup=640)

    assert str(caught.value) == (
        f"The schedule {name} begins with a warm-up of its own: `warmup_examples` must be 0. "
        "Received: warmup_examples=640."
    )


@hypothesis.given(batch_size=st.integers(1, 700), steps=st.integers(2, 900), data=st.data())
@hypothesis.settings(max_examples=30, deadline=None)
def test_a_joint_is_reached_at_its_own_update_for_every_batch_size(batch_size, steps, data):
    """In float32 the progress of that update may come out a rounding too small."""
    at = data.draw(st.integers(1, steps - 1))
    rate = {"learning_rate": 1.0, "batch_size": batch_size, "total_examples": steps * batch_size}
    drop = LearningRateInExamples("step", parameters={"boundaries": [at / steps]}, **rate)
    restart = LearningRateInExamples(
        "restarts", parameters={"cycles": 2, "length_factor": max(steps / at - 1, 1)}, **rate
    )

    assert [float(drop(t)) for t in (at - 1, at)] == [1.0, pytest.approx(0.1)]
    if 2 * at <= steps:
        assert float(restart(at)) == pytest.approx(1.0)
        assert at < 2 or float(restart(at - 1)) < 0.6


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3, 7, 48])
def test_trap_a_division_becomes_a_product_in_a_graph_and_a_joint_would_come_late(batch_size):
    """TensorFlow multiplies by a constant's reciprocal: in float32 3 * (1 / 61) is below 3 / 61.

    A schedule's numbers are therefore no constants of its graph.
    """
    steps, at = 61, [3, 5, 6, 9, 10, 12, 15, 18, 20]
    schedule = LearningRateInExamples(
        "step",
        learning_rate=1.0,
        batch_size=batch_size,
        total_examples=steps * batch_size,
        parameters={"boundaries": [b / steps for b in at], "gamma": 0.5},
    )
    rates = tf.function(lambda t: tf.map_fn(schedule, t, fn_output_signature=tf.float32))(
        tf.range(steps)
    )

    assert list(np.flatnonzero(np.diff(rates.numpy())) + 1) == at


def test_vaswanis_inverse_square_root_is_a_timescale_of_the_warmup():
    """p * sqrt(W / x) after W examples of warm-up."""
    warmup = 640
    schedule = native("inverse_square_root", warmup=warmup, timescale=warmup / (TOTAL - warmup))
    for step in range(1, TOTAL // BATCH + 1):
        x = step * BATCH
        want = PEAK * (x / warmup if x < warmup else math.sqrt(warmup / x))
        assert float(schedule(step)) == pytest.approx(want, rel=2e-6)


@pytest.mark.parametrize("peak_at", [0.2, 0.3, 0.5])
def test_the_momentum_mirrors_the_learning_rate(peak_at):
    """Both are the same share of their way between their ends and the peak."""
    family = make_family(
        "one_cycle", peak_at=peak_at, initial_fraction=0.1, final_fraction=0.1,
        momentum_at_peak=0.8, momentum_at_ends=0.9,
    )  # fmt: skip
    u = np.linspace(0, 1, 101)
    rate, momentum = family.factor(u, np), family.momentum(u, np)

    np.testing.assert_allclose((rate - 0.1) / 0.9, (0.9 - momentum) / 0.1, atol=1e-12)
    assert [momentum[0], momentum[-1], momentum.min()] == pytest.approx([0.9, 0.9, 0.8])
    assert u[momentum.argmin()] == pytest.approx(peak_at)
    assert make_family("one_cycle", cycle_momentum=False).momentum(u, np) is None


@EACH_FAMILY
def test_a_native_momentum_is_that_of_the_family_at_the_same_examples(name):
    small, large = native(name, batch_size=16), native(name, batch_size=128)
    family = make_family(name)
    assert small.sets_momentum == family.sets_momentum()
    if not small.sets_momentum:
        assert small.momentum(3) is None
        return
    for step in (0, 1, 15, 16, 25, 49, 50, 999):
        want = family.momentum(np.float64(min(step * 128 / TOTAL, 1)), np)
        assert keras.backend.standardize_dtype(large.momentum(step).dtype) == "float32"
        assert float(small.momentum(step * 8)) == float(large.momentum(step))
        assert float(large.momentum(step)) == pytest.approx(want, rel=1e-6)


def test_the_momentum_waits_at_its_first_value_during_a_warmup(monkeypatch):
    monkeypatch.setattr(family_of("one_cycle"), "own_warmup", False)
    schedule = native("one_cycle", warmup=640)

    assert [float(schedule.momentum(t)) for t in (0, 10, 20)] == pytest.approx([0.95] * 3)
    assert float(schedule.momentum(21)) < 0.95


keras_schedules = keras.optimizers.schedules
STEPS = TOTAL // BATCH
KERAS = {
    "cosine": ("cosine", {}, keras_schedules.CosineDecay(PEAK, STEPS)),
    "cosine-floor": (
        "cosine", {"final_fraction": 0.1}, keras_schedules.CosineDecay(PEAK, STEPS, alpha=0.1),
    ),
    "exponential": (
        "exponential", {"final_fraction": 0.02},
        keras_schedules.ExponentialDecay(PEAK, decay_steps=STEPS, decay_rate=0.02),
    ),
    "linear": (
        "linear", {"final_fraction": 0.1},
        keras_schedules.PolynomialDecay(PEAK, STEPS, end_learning_rate=PEAK * 0.1),
    ),
    "polynomial": (
        "polynomial", {"power": 1.5},
        keras_schedules.PolynomialDecay(PEAK, STEPS, end_learning_rate=0.0, power=1.5),
    ),
    "inverse_time": (
        "inverse_time", {"decay_rate": 4.0},
        keras_schedules.InverseTimeDecay(PEAK, decay_steps=STEPS, decay_rate=4.0),
    ),
    "restarts": (
        "restarts", {"cycles": 4, "length_factor": 1, "peak_factor": 0.7, "final_fraction": 0.1},
        keras_schedules.CosineDecayRestarts(PEAK, STEPS // 4, t_mul=1.0, m_mul=0.7, alpha=0.1),
    ),
    "restarts-growing": (  # 200 / (1 + 1.5 + 2.5 * 0.9) would be no whole number: 40 + 60 + 100
        "restarts", {"cycles": 2, "length_factor": 4, "peak_factor": 0.7},
        keras_schedules.CosineDecayRestarts(PEAK, STEPS // 5, t_mul=4.0, m_mul=0.7),
    ),
}  # fmt: skip


@pytest.mark.quick_cases("exponential", "cosine-floor", "restarts-growing")
@pytest.mark.parametrize(("name", "parameters", "kerass"), KERAS.values(), ids=KERAS)
def test_a_schedule_is_kerass_own_where_keras_has_it(name, parameters, kerass):
    """Up to the end of the training: there ExponentialDecay goes on and CosineDecayRestarts
    begins anew.
    """
    ours = native(name, **parameters)
    for step in range(STEPS):
        assert float(ours(step)) == pytest.approx(float(kerass(step)), rel=1e-5, abs=1e-7), step


@pytest.mark.slow
def test_trap_kerass_piecewise_constant_drops_one_update_after_its_boundary():
    ours = native("step", boundaries=[0.5, 0.75], gamma=0.1)
    at, shifted = (
        keras_schedules.PiecewiseConstantDecay([100 - d, 150 - d], [PEAK, PEAK / 10, PEAK / 100])
        for d in (0, 1)
    )

    assert [float(ours(t)) for t in range(STEPS)] == pytest.approx(
        [float(shifted(t)) for t in range(STEPS)]
    )
    assert [t for t in range(STEPS) if float(at(t)) > 1.5 * float(ours(t))] == [100, 150]


def test_trap_the_length_of_kerass_cosine_leaves_out_its_warmup():
    ours = native("cosine", warmup=640, final_fraction=0.1)
    kerass = keras_schedules.CosineDecay(
        0.0, STEPS - 20, alpha=0.1, warmup_target=PEAK, warmup_steps=20
    )

    assert float(kerass(0)) == 0.0  # an update that is wasted
    for step in range(1, STEPS + 5):
        assert float(ours(step)) == pytest.approx(float(kerass(step)), rel=1e-5)
