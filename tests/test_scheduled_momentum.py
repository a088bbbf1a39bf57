"""A momentum that follows its schedule: in Keras's own fit, read back from what it did."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import keras
import numpy as np
import pytest

from tfbatch.accumulation import accumulated
from tfbatch.callbacks import GradientNoiseScale, ScheduledMomentum, Throughput
from tfbatch.errors import InputError
from tfbatch.schedules import (
    LearningRateInExamples,
    MomentumInExamples,
    follow_momentum,
    make_family,
)

BATCH, STEPS = 4, 24


def one_cycle(learning_rate=0.5, **parameters):
    return LearningRateInExamples(
        "one_cycle",
        learning_rate=learning_rate,
        batch_size=BATCH,
        total_examples=BATCH * STEPS,
        parameters=parameters,
    )


def momenta(**parameters):
    """What each update must use, in float64."""
    momentum: np.ndarray = make_family("one_cycle", **parameters).momentum(
        np.arange(STEPS) / STEPS, np
    )
    return momentum


def with_gradient_minus_one(optimizer, **arguments):
    """One weight, from 0; its gradient is -1 always."""
    model = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")]
    )
    model.compile(optimizer=optimizer, loss=lambda y, p: -p, **arguments)
    return model


def train(model, *callbacks, scheduled=True, epochs=1):
    """The weight after every call of the callbacks, 0 before it."""
    weights = [0.0]
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: weights.append(float(model.weights[0][0, 0]))
    )
    x = np.ones((BATCH * STEPS, 1), "float32")
    own = [ScheduledMomentum()] if scheduled else []
    model.fit(
        x, x, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0,
        callbacks=[*own, note, *callbacks],
    )  # fmt: skip
    return weights


def sgd_weights(rates, momentum):
    velocity, weights = 0.0, [0.0]
    for rate, m in zip(rates, momentum, strict=True):
        velocity = m * velocity + rate
        weights.append(weights[-1] + velocity)
    return np.array(weights)


def rates_of(schedule):
    return [float(schedule(step)) for step in range(STEPS)]


def test_sgd_uses_the_momentum_of_each_update():
    """After an update the velocity is momentum * velocity + rate: the momentum is read back."""
    schedule = one_cycle()
    weights = train(with_gradient_minus_one(keras.optimizers.SGD(schedule, momentum=0.5)))

    velocity = np.diff(weights)
    used = (velocity[1:] - rates_of(schedule)[1:]) / velocity[:-1]
    np.testing.assert_allclose(used, momenta()[1:], atol=2e-4)
    assert used.min() == pytest.approx(0.85, abs=2e-3)
    assert used[-1] > 0.94


@pytest.mark.parametrize("at_once", [5, 24])
def test_the_momentum_changes_within_an_execution_of_several_steps(at_once):
    schedule = one_cycle(momentum_at_peak=0.3)
    model = with_gradient_minus_one(
        keras.optimizers.SGD(schedule, momentum=0.5), steps_per_execution=at_once
    )
    weights = train(model)

    want = sgd_weights(rates_of(schedule), momenta(momentum_at_peak=0.3))
    ends = [*range(0, STEPS, at_once), STEPS]
    np.testing.assert_allclose(weights, want[ends], rtol=1e-5)


def test_nesterovs_momentum_follows_too():
    schedule = one_cycle()
    optimizer = keras.optimizers.SGD(schedule, momentum=0.5, nesterov=True)
    weights = train(with_gradient_minus_one(optimizer))

    velocity, want = 0.0, [0.0]
    for rate, m in zip(rates_of(schedule), momenta(), strict=True):
        velocity = m * velocity + rate
        want.append(want[-1] + m * velocity + rate)
    np.testing.assert_allclose(weights, want, rtol=1e-5)


def test_adams_first_moment_follows():
    """With gradient -1: moment - 1 shrinks by beta_1 in each update."""
    optimizer = keras.optimizers.Adam(one_cycle(), beta_1=0.5)
    moments = [0.0]
    model = with_gradient_minus_one(optimizer)
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: moments.append(-float(optimizer._momentums[0][0, 0]))
    )
    train(model, note)

    left = 1 - np.array(moments)
    np.testing.assert_allclose((left[1:] / left[:-1])[:20], momenta()[:20], atol=1e-4)
    assert optimizer.beta_1 == 0.5


OPTIMIZERS = {
    "SGD": {"momentum": 0.9},
    "RMSprop": {"momentum": 0.9},
    "Muon": {"momentum": 0.9},
    "Adam": {"beta_1": 0.9},
    "AdamW": {"beta_1": 0.9},
    "Adamax": {"beta_1": 0.9},
    "Nadam": {"beta_1": 0.9},
    "Lamb": {"beta_1": 0.9},
    "Lion": {"beta_1": 0.9},
}


def fitted(name, scheduled, **parameters):
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
    make = getattr(keras.optimizers, name)
    model.compile(optimizer=make(one_cycle(0.02, **parameters), **OPTIMIZERS[name]), loss="mse")
    x = np.random.default_rng(0).normal(size=(BATCH * STEPS, 3)).astype("float32")
    callbacks = [ScheduledMomentum()] if scheduled else []
    model.fit(x, x[:, :1], batch_size=BATCH, shuffle=False, verbose=0, callbacks=callbacks)
    weights: list[np.ndarray] = model.get_weights()
    return weights


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n == "RMSprop" else pytest.mark.slow)
     for n in OPTIMIZERS],
)  # fmt: skip
def test_each_optimizer_of_keras_uses_the_schedules_momentum_in_all_its_places(name):
    """One that never changes gives what the optimizer's own of that value gives."""
    plain = fitted(name, False, cycle_momentum=False)
    constant = fitted(name, True, momentum_at_peak=0.9, momentum_at_ends=0.9)
    cycled = fitted(name, True, momentum_at_peak=0.5)

    for one, other in zip(constant, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert max(np.abs(a - b).max() for a, b in zip(cycled, plain, strict=True)) > 1e-3


def test_after_fit_and_in_a_saved_model_the_optimizer_has_its_own_momentum(tmp_path):
    schedule = one_cycle()
    model = with_gradient_minus_one(keras.optimizers.SGD(schedule, momentum=0.5))
    model.compile(optimizer=model.optimizer, loss="mse")
    during: list[Any] = []
    save = keras.callbacks.LambdaCallback(
        on_train_end=lambda logs: (
            during.append(model.optimizer.momentum), model.save(tmp_path / "a.keras")
        )
    )  # fmt: skip
    x = np.ones((BATCH * STEPS, 1), "float32")
    model.fit(x, x, batch_size=BATCH, verbose=0, callbacks=[save, ScheduledMomentum()])
    loaded = keras.models.load_model(tmp_path / "a.keras")

    assert type(during[0]) is MomentumInExamples
    assert type(model.optimizer.momentum) is float
    assert loaded.optimizer.momentum == model.optimizer.momentum == 0.5
    assert int(loaded.optimizer.iterations) == STEPS


def test_a_training_traced_before_is_traced_anew_with_the_callback_and_without_it():
    """Epoch by epoch: without, with, without, one program each."""
    schedule = one_cycle()
    model = with_gradient_minus_one(keras.optimizers.SGD(schedule, momentum=0.5))
    rates = rates_of(schedule)
    want = {False: np.full(STEPS, 0.5), True: momenta()}
    model.optimizer.build(model.trainable_variables)
    for scheduled in (False, True, False):
        model.optimizer.iterations.assign(0)
        model.optimizer.momentums[0].assign([[0.0]])
        model.set_weights([np.zeros((1, 1))])
        weights = train(model, scheduled=scheduled)
        np.testing.assert_allclose(weights, sgd_weights(rates, want[scheduled]), rtol=1e-5)


def test_a_loss_scaling_optimizer_is_looked_into():
    schedule = one_cycle()
    inner = keras.optimizers.SGD(schedule, momentum=0.5)
    model = with_gradient_minus_one(keras.optimizers.LossScaleOptimizer(inner, initial_scale=4.0))

    weights = train(model)

    np.testing.assert_allclose(weights, sgd_weights(rates_of(schedule), momenta()), rtol=1e-5)
    assert type(inner.momentum) is float


def test_a_copy_of_the_momentum_is_the_plain_number():
    number = follow_momentum(keras.optimizers.SGD(one_cycle(), momentum=0.5))

    assert type(number) is MomentumInExamples
    for copied in (copy.deepcopy(number), pickle.loads(pickle.dumps(number))):
        assert (type(copied), copied) == (float, 0.5)


def test_every_operator_computes_with_the_schedules_momentum():
    optimizer = keras.optimizers.SGD(one_cycle(), momentum=0.5)
    m = follow_momentum(optimizer)
    optimizer.iterations.assign(STEPS // 2)
    now = float(momenta()[STEPS // 2])
    assert now != 0.5

    got = [m + 2, 2 + m, m - 2, 2 - m, m * 2, 2 * m, m / 2, 2 / m, m**2, 2**m, -m, 1 - m]
    want = [now + 2, 2 + now, now - 2, 2 - now, now * 2, 2 * now, now / 2, 2 / now,
            now**2, 2**now, -now, 1 - now]  # fmt: skip
    assert [float(value) for value in got] == pytest.approx(want, rel=1e-6)
    assert float(keras.ops.cast(m, "float32")) == pytest.approx(now)


@pytest.mark.parametrize(
    ("optimizer", "received"),
    [
        (lambda rate: keras.optimizers.SGD(rate), "SGD with momentum=0.0"),
        (lambda rate: keras.optimizers.Adagrad(rate), "Adagrad with no `momentum` and no `beta_1`"),
    ],
    ids=["zero", "none"],
)
def test_an_optimizer_without_momentum_is_refused(optimizer, received):
    model = with_gradient_minus_one(optimizer(one_cycle()))

    with pytest.raises(InputError) as caught:
        train(model)

    assert str(caught.value) == (
        "The schedule one_cycle sets the momentum: the optimizer must be made with one that is not "
        f"0, or the schedule with `cycle_momentum` false. Received: {received}."
    )
    assert follow_momentum(optimizer(one_cycle(cycle_momentum=False))) is None


@pytest.mark.parametrize(
    ("rate", "received"),
    [
        (
            LearningRateInExamples("linear", learning_rate=1, batch_size=1, total_examples=9),
            "linear",
        ),
        (keras.optimizers.schedules.CosineDecay(0.1, 9), "CosineDecay"),
        (0.1, "Variable"),
    ],
    ids=["linear", "kerass", "number"],
)
def test_a_schedule_without_momentum_is_refused(rate, received):
    model = with_gradient_minus_one(keras.optimizers.SGD(rate, momentum=0.5))

    with pytest.raises(InputError, match=rf'such as "one_cycle"\. Received: {received}\.$'):
        train(model)


def test_an_interrupted_fit_leaves_no_schedule_behind_in_a_with_statement():
    model = with_gradient_minus_one(keras.optimizers.SGD(one_cycle(), momentum=0.5))

    def interrupt(batch, logs):
        raise KeyboardInterrupt

    x = np.ones((BATCH * STEPS, 1), "float32")
    stop = keras.callbacks.LambdaCallback(on_train_batch_end=interrupt)
    with pytest.raises(KeyboardInterrupt), ScheduledMomentum() as momentum:
        model.fit(x, x, batch_size=BATCH, verbose=0, callbacks=[momentum, stop])

    assert type(model.optimizer.momentum) is float
    assert model.optimizer.momentum == 0.5
    assert model.train_function is None
    ScheduledMomentum().restore()  # it was in no `fit`


def test_callbacks_listed_before_that_watch_the_input_go_on_watching():
    model = with_gradient_minus_one(keras.optimizers.SGD(one_cycle(), momentum=0.5))
    model.compile(optimizer=model.optimizer, loss="mse")
    throughput, noise = Throughput(), GradientNoiseScale(micro_batches=2, interval=1)
    x = np.random.default_rng(0).normal(size=(BATCH * STEPS, 1)).astype("float32")

    model.fit(x, x, batch_size=BATCH, verbose=0, callbacks=[throughput, noise, ScheduledMomentum()])

    assert throughput.examples_per_second > 0
    assert noise.measurements == STEPS - 1


def test_an_accumulating_model_that_is_watched_still_measures_its_first_batch():
    """Its train function, made anew, is one that takes the first batch before."""
    rate = one_cycle()
    model = with_gradient_minus_one(keras.optimizers.SGD(rate, momentum=0.5))
    model = accumulated(model, micro_batch_size=2)
    model.compile(optimizer=model.optimizer, loss=lambda y, p: keras.ops.sum(p))
    x = np.ones((BATCH * STEPS, 1), "float32")

    with pytest.raises(InputError, match="The loss of the first batch differs"):
        model.fit(
            x, x + 1, batch_size=BATCH, verbose=0, callbacks=[Throughput(), ScheduledMomentum()]
        )
