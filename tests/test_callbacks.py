"""The callbacks, in plain Keras training."""

from __future__ import annotations

import copy
import math
import time
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbatch.callbacks import DivergenceGuard, StopAfterSteps, StopOnRequest, TrainingClock
from tfbatch.errors import InputError

MAKERS = {
    "DivergenceGuard": DivergenceGuard,
    "StopAfterSteps": lambda: StopAfterSteps(7),
    "StopOnRequest": lambda: StopOnRequest(bool),
    "TrainingClock": TrainingClock,
}


def linear_model(*, learning_rate=0.01, **compiled):
    model = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")]
    )
    model.compile(keras.optimizers.SGD(learning_rate), loss="mse", **compiled)
    return model


def fit(model, *callbacks, epochs=9, steps_per_epoch=5, value=0.0):
    """Batches of one; 60 of them for each epoch of five, so that the data never runs out."""
    x = np.ones((60, 1), "float32")
    return model.fit(
        *(x, value * x),
        **{"batch_size": 1, "epochs": epochs, "steps_per_epoch": steps_per_epoch},
        **{"callbacks": list(callbacks), "verbose": 0, "shuffle": False},
    )


class Scripted:
    """Stands for a model, to feed a callback with losses one by one."""

    def __init__(self, callback):
        self.stop_training = False
        self.callback = callback
        callback.set_model(self)
        callback.on_train_begin()
        callback.on_epoch_begin(0)

    def losses(self, *losses):
        """The batch after which training was stopped, or None."""
        for batch, loss in enumerate(losses):
            self.callback.on_train_batch_end(batch, {"loss": loss})
            if self.stop_training:
                return batch
        return None


@pytest.mark.parametrize("steps", [1, 4, 5, 6, 12, 45])
def test_training_stops_after_exactly_so_many_updates(steps):
    model, stop = linear_model(), StopAfterSteps(steps)

    history = fit(model, stop)

    assert int(model.optimizer.iterations) == stop.seen == steps
    assert len(history.epoch) == -(-steps // 5)


@pytest.mark.parametrize(("execution", "steps", "done"), [(5, 10, 10), (5, 7, 10), (4, 7, 8)])
def test_with_several_steps_per_execution_training_stops_after_a_whole_execution(
    execution, steps, done
):
    """Exact where `steps` is a multiple; else Keras cannot stop before the execution's end."""
    model, stop = linear_model(steps_per_execution=execution), StopAfterSteps(steps)

    fit(model, stop)

    assert int(model.optimizer.iterations) == stop.seen == done


def test_training_that_ends_before_is_left_alone():
    model, stop = linear_model(), StopAfterSteps(1000)

    fit(model, stop, epochs=2)

    assert int(model.optimizer.iterations) == stop.seen == 10


@pytest.mark.parametrize("steps", [0, -3])
def test_a_number_of_steps_below_one_is_refused(steps):
    with pytest.raises(InputError, match=rf"`steps` must be >= 1\. Received: steps={steps}\."):
        StopAfterSteps(steps)


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_a_callback_survives_a_deep_copy_and_a_second_fit(maker):
    callback = maker()
    copied, model = copy.deepcopy(callback), linear_model()
    states = []

    for one in (callback, copied, copied):
        before = int(model.optimizer.iterations)
        fit(model, one, epochs=2)
        state = {
            key: value
            for key, value in vars(one).items()
            if isinstance(value, bool | int | str) and key != "_model"
        }
        states.append({**state, "updates": int(model.optimizer.iterations) - before})

    assert states[0] == states[1] == states[2]
    assert states[0]["updates"] == (7 if isinstance(callback, StopAfterSteps) else 10)


def test_a_loss_that_is_not_finite_stops_training_with_the_reason():
    model, guard = linear_model(learning_rate=1e25), DivergenceGuard(factor=1e300)

    fit(model, guard)

    assert guard.diverged
    assert guard.reason.startswith("the loss is ")
    assert "nan" in guard.reason or "inf" in guard.reason
    assert int(model.optimizer.iterations) < 5


@pytest.mark.parametrize("loss", [math.nan, math.inf])
@pytest.mark.parametrize("batch", [0, 2])
def test_the_first_loss_that_is_not_finite_is_the_last(loss, batch):
    guard = DivergenceGuard()

    assert Scripted(guard).losses(*[1.0] * batch, loss, 1.0) == batch
    assert guard.reason == f"the loss is {loss} after batch {batch}"


@pytest.mark.parametrize(
    ("factor", "losses", "stopped"),
    [
        (3.0, (2.0, 5.9, 6.0, 6.1), 3),
        (3.0, (2.0, 1.0, 4.0, 5.9), None),  # three times the first, not the lowest
        (1.5, (2.0, 3.0, 3.1), 2),
        (3.0, (0.0, 5.0), None),  # no multiple of nothing
        (3.0, (-1.0, 5.0), None),
    ],
)
def test_a_loss_beyond_a_multiple_of_the_first_stops_training(factor, losses, stopped):
    guard = DivergenceGuard(factor) if factor != 3.0 else DivergenceGuard()

    assert Scripted(guard).losses(*losses) == stopped
    assert guard.diverged == (stopped is not None)


def test_the_reason_names_the_loss_and_the_multiple():
    guard = DivergenceGuard()
    Scripted(guard).losses(2.0, 7.0)

    assert guard.reason == "the loss is 7 after batch 1, over 3 x 2"


def test_a_few_noisy_batches_are_no_divergence_but_an_epoch_of_them_is():
    guard = DivergenceGuard(fewest_batches=4)
    guard.set_model(keras.Sequential())
    for batch, loss in enumerate((2.0, 9.0, 9.0)):
        guard.on_train_batch_end(batch, {"loss": loss})
    assert not guard.diverged
    guard.on_epoch_end(0, {"loss": 9.0})
    assert guard.reason == "the loss is 9 after epoch 1, over 3 x 2"
    with pytest.raises(InputError, match="`fewest_batches` must be >= 1"):
        DivergenceGuard(fewest_batches=0)


def test_a_real_divergence_is_stopped_long_before_it_overflows():
    """The weight doubles with each update, the loss is its square."""
    model, guard = linear_model(learning_rate=1.5), DivergenceGuard()

    fit(model, guard)

    assert guard.diverged
    assert int(model.optimizer.iterations) == 3  # means of 1, 4 and 16: 1, 2.5 and 7


def test_a_training_that_learns_is_not_stopped():
    model, guard = linear_model(), DivergenceGuard()

    history = fit(model, guard, value=0.5)

    assert not guard.diverged
    assert guard.reason == ""
    assert len(history.epoch) == 9


def test_a_validation_loss_that_is_not_finite_stops_training():
    guard = DivergenceGuard()
    model = Scripted(guard)

    guard.on_epoch_end(1, {"loss": 1.0, "val_loss": math.nan})

    assert model.stop_training
    assert guard.reason == "the validation loss is nan after epoch 2"


@pytest.mark.parametrize("factor", [1.0, 0, -1, math.nan])
def test_a_factor_that_is_no_multiple_is_refused(factor):
    with pytest.raises(InputError, match="`factor` must be > 1"):
        DivergenceGuard(factor)


def test_training_stops_after_the_batch_in_which_it_was_asked_to():
    model, asked = linear_model(), []

    def requested():
        asked.append(1)
        return len(asked) == 8

    stop = StopOnRequest(requested)
    fit(model, stop)

    assert stop.stopped
    assert int(model.optimizer.iterations) == len(asked) == 8


def test_the_clock_leaves_out_the_first_steps_and_what_is_between_epochs(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = TrainingClock()
    clock.on_train_begin()
    for epoch in range(2):
        now[0] += 1000  # validation
        clock.on_epoch_begin(epoch)
        for batch in range(5):
            now[0] += 50 if (epoch, batch) < (0, 3) else 2
            clock.on_train_batch_end(batch)

    assert clock.steps == 10
    assert clock.seconds == pytest.approx(20)


@pytest.mark.parametrize(
    ("jit_compile", "whole_batches", "seconds"),
    [(True, False, 20.0), (False, False, 76.0), (True, True, 76.0)],
    ids=["with XLA", "without", "with XLA and no short batch"],
)
def test_with_xla_the_compilation_for_a_short_last_batch_is_left_out(
    jit_compile, whole_batches, seconds, monkeypatch
):
    """Three to warm up, six of 2 s, and one of 41.2 s that compiles: 53.2 s for seven."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = TrainingClock(whole_batches=whole_batches)
    clock.set_model(types.SimpleNamespace(jit_compile=jit_compile))
    clock.on_train_begin()
    clock.on_epoch_begin(0)
    for batch in range(10):
        now[0] += {9: 41.2}.get(batch, 2.0)
        clock.on_train_batch_end(batch)

    assert clock.seconds == pytest.approx(seconds)


@pytest.mark.parametrize(("executions", "seconds"), [([5.0], 5.0), ([90.0, 4.0, 6.0], 12.0)])
def test_the_clock_of_a_short_training_goes_by_its_fastest_steps(executions, seconds, monkeypatch):
    """What the others trace or allocate is no training; of one alone nothing is known."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = TrainingClock()
    clock.on_train_begin()
    assert clock.seconds == 0
    clock.on_epoch_begin(0)
    for batch, took in enumerate(executions):
        now[0] += took
        clock.on_train_batch_end(batch)

    assert (clock.steps, clock.seconds) == (len(executions), seconds)


@pytest.mark.parametrize("execution", [1, 4])
def test_the_clock_counts_the_updates_of_a_real_training(execution):
    model, clock = linear_model(steps_per_execution=execution), TrainingClock()

    started = time.perf_counter()
    fit(model, clock, epochs=3, steps_per_epoch=8)

    assert clock.steps == int(model.optimizer.iterations) == 24
    assert 0 < clock.seconds < time.perf_counter() - started


def ten_batches(*, known):
    data = tf.data.Dataset.from_tensors((np.ones((1, 1)), np.ones((1, 1)))).repeat(10)
    return data if known else data.filter(lambda *_: True)


@pytest.mark.parametrize("known", [True, False], ids=["known length", "unknown length"])
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_steps_are_those_made_where_an_execution_is_cut_short_by_the_end_of_the_data(known):
    model = linear_model(steps_per_execution=4)
    stop, clock = StopAfterSteps(1000), TrainingClock()

    model.fit(ten_batches(known=known), epochs=3, callbacks=[stop, clock], verbose=0, shuffle=False)

    assert stop.seen == clock.steps == int(model.optimizer.iterations) == 30


def test_training_of_epochs_that_executions_do_not_divide_stops_after_so_many_updates():
    model, stop = linear_model(steps_per_execution=3), StopAfterSteps(50)

    model.fit(ten_batches(known=True), epochs=9, callbacks=[stop], verbose=0, shuffle=False)

    assert int(model.optimizer.iterations) == stop.seen == 50


def test_steps_that_the_optimizer_skips_are_steps_of_an_epoch_of_known_length():
    """Its loss is scaled to infinity, so that no update is made."""
    model, stop = linear_model(steps_per_execution=4), StopAfterSteps(1000)
    optimizer = keras.optimizers.SGD(0.01)
    model.compile(
        keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=3e38),
        loss=lambda y, p: 1e30 * p,
        steps_per_execution=4,
    )

    model.fit(ten_batches(known=True), epochs=2, callbacks=[stop], verbose=0, shuffle=False)

    assert stop.seen == 20
    assert int(optimizer.iterations) == 0
