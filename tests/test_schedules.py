"""Every schedule family: its closed form, its native Keras form, saving and loading.

The closed forms are written anew here, in NumPy float64; a family without one fails.
"""

from __future__ import annotations

import inspect
import json
import math
import subprocess
import sys

import keras
import numpy as np
import pytest

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


CASES = [
    ("constant", constant, {}),
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
WARMUPS = pytest.mark.parametrize(
    ("warmup", "start"),
    [(0, 0.0), (640, 0.0), (640, 0.1), (16, 0.0), (1000, 0.0), (6400, 0.5)],
    ids=["none", "from-zero", "from-a-tenth", "within-a-batch", "uneven", "all-of-it"],
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


@EACH_FAMILY
def test_a_factor_starts_at_one_and_never_rises_nor_is_negative(name):
    factors = make_family(name).factor(np.linspace(0, 1, 1001), np)

    assert factors[0] == 1
    assert (np.diff(factors) <= 1e-12).all()
    assert factors.min() >= -1e-12


@EACH_CASE
@WARMUPS
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


@EACH_CASE
@WARMUPS
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


@EACH_FAMILY
def test_a_learning_rate_depends_on_examples_and_not_on_the_batch_size(name):
    small, large = native(name, batch_size=16, warmup=640), native(name, batch_size=128, warmup=640)
    for step in range(1, TOTAL // 128 + 2):
        assert float(small(step * 8)) == pytest.approx(float(large(step)), rel=1e-6, abs=1e-9)


@EACH_FAMILY
@pytest.mark.parametrize("form", ["serialize", "json", "config"])
def test_a_schedule_survives_a_round_trip(name, form):
    before = LearningRateInExamples(
        name,
        learning_rate=0.3,
        batch_size=32,
        total_examples=6400,
        warmup_examples=640,
        warmup_start=0.1,
        parameters={"final_fraction": 0.1} if name != "constant" else {},
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


@pytest.mark.parametrize("first", ["tfbatch", "keras"])
def test_a_saved_model_is_loaded_whichever_is_imported_first(first, tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    schedule = native("cosine", warmup=640, final_fraction=0.1)
    model.compile(optimizer=keras.optimizers.SGD(schedule, momentum=0.9), loss="mse")
    model.fit(np.ones((64, 3), "float32"), np.ones((64, 1), "float32"), batch_size=16, verbose=0)
    model.save(tmp_path / "model.keras")
    second = {"tfbatch": "keras", "keras": "tfbatch"}[first]
    program = (
        f"import {first}, {second}\nimport keras, sys\n"
        f"model = keras.models.load_model({str(tmp_path / 'model.keras')!r})\n"
        "schedule = model.optimizer._learning_rate\n"
        "print(type(schedule).__name__, int(model.optimizer.iterations), float(schedule(9)))\n"
    )

    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert run.returncode == 0, run.stderr[-2000:]
    name, iterations, rate = run.stdout.split()
    assert (name, iterations) == ("LearningRateInExamples", "4")
    assert float(rate) == float(schedule(9))


@EACH_FAMILY
def test_fit_uses_the_learning_rate_of_each_update(name):
    """One weight, gradient -1: after a step of plain SGD it has grown by the learning rate."""
    schedule = LearningRateInExamples(
        name, learning_rate=0.5, batch_size=4, total_examples=40, warmup_examples=12
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
    assert wanted[:4] == pytest.approx([0.5 / 3, 0.5 / 3, 1 / 3, 0.5], rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0}, "`learning_rate` must be > 0. Received: learning_rate=0."),
        ({"learning_rate": math.nan}, "`learning_rate` must be > 0. Received: learning_rate=nan."),
        ({"batch_size": 0}, "`batch_size` must be >= 1. Received: batch_size=0."),
        ({"total_examples": 0}, "`total_examples` must be >= 1. Received: total_examples=0."),
        (
            {"warmup_examples": 6401},
            "`0 <= warmup_examples <= total_examples` must hold. Received: "
            "warmup_examples=6401, total_examples=6400.",
        ),
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
    ],
)
def test_a_parameter_of_a_family_out_of_range_is_refused(name, parameters):
    with pytest.raises(InputError, match=f"schedule {name}: {next(iter(parameters))}: "):
        make_family(name, **parameters)


def test_a_step_number_far_beyond_the_end_stays_at_the_last_learning_rate():
    schedule = native("linear", final_fraction=0.5)

    assert float(schedule(10**9)) == pytest.approx(PEAK / 2, rel=1e-6)
