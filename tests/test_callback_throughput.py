"""What training waits for its input, and what the examples are counted as."""

from __future__ import annotations

import time
import types
import warnings

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf
from processes import with_long_enough_pauses

from tfbatch.callbacks import GradientNoiseScale, Throughput
from tfbatch.callbacks import throughput as throughput_module
from tfbatch.callbacks._watched_input import WatchedInput

PAUSE = 0.03
pause = [PAUSE]


def sleeping(value):
    time.sleep(pause[0])
    return value


class Pause(keras.layers.Layer):
    """A model that takes its time."""

    def call(self, x):
        return tf.ensure_shape(tf.numpy_function(sleeping, [x], x.dtype), x.shape)


def model(*, slow=False, steps_per_execution=1):
    layers = [keras.Input((4,)), *([Pause()] if slow else []), keras.layers.Dense(1)]
    made = keras.Sequential(layers)
    made.compile("sgd", "mse", steps_per_execution=steps_per_execution)
    return made


def data(*, slow=False, count=118):
    x = np.zeros((count, 4), "float32")
    batches = tf.data.Dataset.from_tensor_slices((x, x[:, :1])).batch(8)
    if slow:
        batches = batches.map(
            lambda a, b: (tf.ensure_shape(tf.numpy_function(sleeping, [a], a.dtype), a.shape), b)
        )
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.with_options(options)


def fit(made, batches, *callbacks, epochs=2):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return made.fit(batches, epochs=epochs, callbacks=list(callbacks), verbose=0)


def throughput_with_pauses(holds, *, steps_per_execution=1, slow_model=False, slow_data=False):
    """What the callback and its history say where either side sleeps for each batch."""

    def measure(seconds):
        pause[0] = seconds
        throughput = Throughput()
        made = model(slow=slow_model, steps_per_execution=steps_per_execution)
        history = fit(made, data(slow=slow_data), throughput).history
        return throughput, history, seconds

    return with_long_enough_pauses(measure, lambda found: holds(found[0]), seconds=PAUSE)


@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_a_pipeline_that_sleeps_is_what_training_waits_for(steps_per_execution):
    throughput, history, seconds = throughput_with_pauses(
        lambda found: found.input_wait > 0.6,
        steps_per_execution=steps_per_execution,
        slow_data=True,
    )

    assert history["input_wait"][-1] == throughput.input_wait > 0.6
    assert history["examples_per_second"][-1] == throughput.examples_per_second < 8 / seconds


def test_a_model_that_sleeps_hardly_waits_for_input():
    throughput, _, seconds = throughput_with_pauses(
        lambda found: found.input_wait < 0.3, slow_model=True
    )

    assert throughput.input_wait < 0.3
    assert throughput.seconds_per_step > seconds


def test_what_is_slow_in_one_epoch_is_waited_for_in_that_one_alone():
    """One run, one program: the generator sleeps in the second epoch, the model in both."""

    def measure(seconds):
        pause[0] = seconds
        epochs = iter(range(2))

        def batches():
            slow = next(epochs) == 1
            for _ in range(6):
                time.sleep(3 * seconds if slow else 0)
                yield np.zeros((8, 4), "float32"), np.zeros((8, 1), "float32")

        spec = (tf.TensorSpec((8, 4)), tf.TensorSpec((8, 1)))
        source = tf.data.Dataset.from_generator(batches, output_signature=spec)
        source = source.apply(tf.data.experimental.assert_cardinality(6))
        return fit(model(slow=True), source, Throughput()).history["input_wait"]

    fast, slow = with_long_enough_pauses(
        measure, lambda found: found[1] > 2 * found[0], seconds=PAUSE
    )

    assert slow > 2 * fast


@pytest.mark.parametrize(("xla", "first_epoch"), [(True, 13 * 8 / 13), (False, (118 - 8) / 113)])
def test_with_xla_the_first_short_batch_is_left_out_for_it_is_compiled(
    xla, first_epoch, monkeypatch
):
    """By a clock on which each execution takes a second, and that one a hundred."""
    clock = types.SimpleNamespace(seconds=0.0, perf_counter=lambda: clock.seconds)
    monkeypatch.setattr(throughput_module, "time", clock)
    epochs = []

    class Takes(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            epochs.append(epoch)

        def on_train_batch_end(self, batch, logs=None):
            clock.seconds += 100 if (batch, epochs[-1]) == (14, 0) else 1

    made = model()
    made.compile("sgd", "mse", jit_compile=xla)
    found = fit(made, data(), Takes(), Throughput()).history["examples_per_second"]

    assert found == pytest.approx([first_epoch, 118 / 15])


@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_every_example_is_counted_once(steps_per_execution):
    class Counts(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.watched = WatchedInput(
                self.model,
                caller="Counts",
                wants_batch=lambda: self.watched.executions % 2 == 0,
                look=lambda batch: self.shown.append(int(batch[0].shape[0])),
            )
            self.shown, self.found = [], []

        def on_epoch_end(self, epoch, logs=None):
            self.found.append(self.watched.totals()[1])

    counts = Counts()
    fit(model(steps_per_execution=steps_per_execution), data(), counts, Throughput(), epochs=3)

    assert counts.found == [118, 236, 354]  # the smaller last batch too
    assert set(counts.shown) <= {8, 6}
    assert len(counts.shown) >= 6


FEW = (1 - np.eye(4, dtype="float32"))[np.arange(36) % 4]  # three in each row
LENGTHS = tf.RaggedTensor.from_row_lengths(np.ones(108, "float32"), [2, 4] * 18)


class MeanOfRows(keras.Layer):
    """The mean of each row, of rows of any length."""

    def call(self, rows):
        return tf.reduce_mean(rows, axis=1)[:, None]


def sparse_model():
    made = keras.Sequential([keras.Input((4,), sparse=True), keras.layers.Dense(1)])
    made.compile("sgd", "mse")
    return made


def ragged_model():
    made = keras.Sequential([MeanOfRows(), keras.layers.Dense(1)])
    made.compile("sgd", "mse")
    return made


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (sparse_model, tf.sparse.from_dense(FEW)),
        (sparse_model, scipy.sparse.csr_matrix(FEW)),
        (ragged_model, LENGTHS),
    ],
    ids=["sparse", "SciPy", "ragged"],
)
def test_examples_are_counted_and_not_what_a_sparse_or_ragged_tensor_holds(make, x):
    class Counts(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.watched = WatchedInput(self.model, caller="Counts")

        def on_epoch_end(self, epoch, logs=None):
            self.found = self.watched.totals()[1]

    counts = Counts()
    batches = {"x": x, "y": FEW[:, :1], "batch_size": 8}
    if make is ragged_model:
        batches = {"x": tf.data.Dataset.from_tensor_slices((x, FEW[:, :1])).batch(8)}
    make().fit(**batches, callbacks=[counts], shuffle=False, verbose=0)

    assert counts.found == 36


def test_who_counts_nothing_leaves_the_iterator_alone_but_where_it_looks():
    given = []

    class Looks(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.watched = WatchedInput(
                self.model,
                caller="Looks",
                wants_batch=lambda: self.watched.executions == 2,
                look=lambda batch: given.append("a look"),
                counts=False,
            )
            self.watched.inner = self.note

        def note(self, iterator):
            given.append("its own" if iterator is self.watched._source else "another")
            return {"loss": 0.0}

    fit(model(), data(), Looks(), epochs=1)

    assert given == ["its own", "a look", "another", *["its own"] * 13]


@pytest.mark.parametrize("callback", [Throughput, GradientNoiseScale])
def test_after_a_training_that_raised_nothing_stands_in_the_way(callback):
    made = model()
    fit(made, data())
    own = made.train_function

    def broken():
        yield np.zeros((8, 4), "float32"), np.zeros((8, 1), "float32")
        raise OSError("the disk is gone")

    spec = (tf.TensorSpec((None, 4)), tf.TensorSpec((None, 1)))
    with pytest.raises(tf.errors.UnknownError, match="the disk is gone"):
        fit(made, tf.data.Dataset.from_generator(broken, output_signature=spec), callback())

    assert made.train_function is own
    fit(made, data(), callback())
    assert made.train_function is own


def test_trap_24_a_dataset_of_unknown_length_trains_as_without_the_callback():
    ends = []
    for callbacks in ([], [Throughput()]):
        keras.utils.set_random_seed(1)
        made = model()
        fit(made, data().filter(lambda *_: True), *callbacks, epochs=3)
        ends.append((int(made.optimizer.iterations), made.get_weights()[0].tolist()))

    assert ends[0] == ends[1]


def test_seconds_are_those_of_the_steps_made_where_the_last_execution_is_short(monkeypatch):
    """By a clock on which an execution takes a second: three for ten steps, in a second epoch."""
    clock = types.SimpleNamespace(seconds=0.0, perf_counter=lambda: clock.seconds)
    monkeypatch.setattr(throughput_module, "time", clock)
    throughput = Throughput()
    takes = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: setattr(clock, "seconds", clock.seconds + 1)
    )

    fit(model(steps_per_execution=4), data(count=80), takes, throughput)

    assert throughput.seconds_per_step == pytest.approx(0.3)
