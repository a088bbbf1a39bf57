"""The gradient noise scale through Keras, against linear regression with known covariance."""

from __future__ import annotations

import time

import keras
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import tensorflow as tf

from tfbatch.callbacks import BatchSizeScheduler, GradientNoiseScale
from tfbatch.callbacks._noise_meter import NoiseMeter
from tfbatch.errors import InputError
from tfbatch.estimators.noise_scale_stream import NoiseScaleStream
from tfbatch.gradients import LayerNorms, SquaredNorms, state_restored

SPECTRUM = np.array([2.0, 1.0, 0.5, 0.25])
NOISE = 1.5
DELTA = np.array([1.0, -1.0, 0.5, 2.0])


def regression(count=4_096, seed=0):
    """y = x w* + noise, with x of the covariance diag(SPECTRUM) and w* = 0."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, 4)) * np.sqrt(SPECTRUM)
    return x.astype("float32"), random.normal(0, NOISE, (count, 1)).astype("float32")


def linear(learning_rate=0.0, **layer):
    """At w* + DELTA, with the loss (prediction - y)^2 / 2."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, use_bias=False, **layer)])
    model.compile(
        keras.optimizers.SGD(learning_rate), loss=lambda y, p: keras.ops.mean((p - y) ** 2, -1) / 2
    )
    model.set_weights([DELTA[:, None]])
    return model


def true_noise_scale():
    """1 + (d'Hd + s^2) tr H / |Hd|^2, for Gaussian inputs."""
    excess = DELTA @ (SPECTRUM * DELTA) + NOISE**2
    return 1 + excess * SPECTRUM.sum() / ((SPECTRUM * DELTA) ** 2).sum()


def squares(x, y, micro_batches):
    """The two squared norms, by numpy."""
    single = (x @ DELTA[:, None] - y) * x
    parts = single.reshape(micro_batches, -1, 4).mean(1)
    return (parts**2).sum(1).mean(), (parts.mean(0) ** 2).sum()


def test_the_squared_norms_are_those_of_the_closed_form():
    x, y = regression(64)

    found = SquaredNorms(linear(), micro_batches=4)((tf.constant(x), tf.constant(y)))

    assert found == pytest.approx(squares(x.astype("float64"), y, 4), rel=1e-5)


def test_sample_weights_of_none_are_none():
    batch = tuple(map(tf.constant, regression(64)))

    for measure in (SquaredNorms, LayerNorms):
        found, plain = (
            np.ravel(measure(linear(), micro_batches=4)(each)) for each in ((*batch, None), batch)
        )
        assert found.tolist() == plain.tolist()


def test_a_model_that_takes_no_micro_batch_is_refused_with_the_reason():
    layers = [keras.layers.LSTM(2, stateful=True), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input(batch_shape=(16, 4, 1)), *layers])
    model.compile("sgd", "mse")
    x, y = regression(64)

    with pytest.raises(InputError, match="a micro-batch of 2 examples cannot be measured"):
        model.fit(x[..., None], y, batch_size=16, callbacks=[GradientNoiseScale()], verbose=0)


def test_memory_that_runs_out_ends_a_training_that_asked_for_the_noise_scale(monkeypatch):
    def full(norms, batch):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating a tensor")

    monkeypatch.setattr(SquaredNorms, "__call__", full)

    with pytest.raises(InputError, match=r"tensor\. Memory has run out: .*`micro_batc") as raised:
        linear().fit(*regression(96), callbacks=[GradientNoiseScale(interval=1)], verbose=0)
    [note] = raised.value.__notes__
    assert ", in full\n" in note, "the lines of code that raised it are told"


def test_the_instrument_and_the_callback_measure_the_same_norms():
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(6, "tanh"), keras.layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    batch = tuple(map(tf.constant, regression(64)))

    small, large = LayerNorms(model, micro_batches=4)(batch)

    found = SquaredNorms(model, micro_batches=4)(batch)
    assert found == pytest.approx((small[0].sum(), large[0].sum()), rel=1e-5)


def test_the_callback_finds_the_known_noise_scale_of_linear_regression():
    x, y = regression()
    noise = GradientNoiseScale(interval=1, decay=0.99)

    history = (
        linear()
        .fit(*(x, y), batch_size=64, epochs=2, shuffle=False, callbacks=[noise], verbose=0)
        .history
    )

    estimate = noise.estimate
    assert true_noise_scale() in estimate.interval
    assert not estimate.low_confidence
    assert estimate.noise_scale == pytest.approx(true_noise_scale(), rel=0.5)
    assert history["noise_scale"][-1] == estimate.noise_scale
    assert history["noise_scale_low"][-1] == estimate.interval.low
    assert history["noise_scale_high"][-1] == estimate.interval.high


@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_the_batches_are_those_of_the_training_before_it_sees_them(steps_per_execution):
    x, y = regression(128)
    model = linear()
    model.compile(
        keras.optimizers.SGD(0.0), loss=model.loss, steps_per_execution=steps_per_execution
    )
    noise = GradientNoiseScale(interval=1, decay=0.9)

    model.fit(x, y, batch_size=8, shuffle=False, callbacks=[noise], verbose=0)

    stream = NoiseScaleStream(decay=0.9, small_batch_size=1, large_batch_size=8)
    for first in range(steps_per_execution, 16, steps_per_execution):
        rows = slice(8 * first, 8 * first + 8)
        stream = stream.updated(*squares(x[rows].astype("float64"), y[rows], 8))
    assert noise.estimate.noise_scale == pytest.approx(stream.estimate().noise_scale, rel=1e-3)
    assert noise.measurements == stream.pairs


SWITCHED = {0: 16, 2: 32, 4: 8}


def fit_switched(model, noise, epochs=6):
    """Batch sizes that change during `fit`; the measurements after each epoch."""
    x, y = regression(256)
    scheduler = BatchSizeScheduler(SWITCHED)
    counts = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: counts.append(noise.measurements)
    )
    model.fit(
        scheduler.dataset(x, y), epochs=epochs, callbacks=[noise, scheduler, note], shuffle=False,
        verbose=0,
    )  # fmt: skip
    return np.diff([0, *counts]).tolist()


@pytest.mark.slow
def test_measuring_goes_on_after_the_batch_size_changes():
    """At a new size the first batch could be a short last one: it alone is left out."""
    noise = GradientNoiseScale(interval=1, micro_batches=4, decay=0.99)

    found = fit_switched(linear(), noise)

    assert found == [15, 16, 7, 8, 31, 32]
    assert true_noise_scale() in noise.estimate.interval
    assert noise.estimate.count > 80  # of 109 pairs: those of all sizes together


@pytest.mark.slow
def test_the_pairs_of_all_sizes_are_averaged_together(monkeypatch):
    """Every batch's pair, as numpy gives it."""
    pairs = []
    measured = SquaredNorms.__call__

    def noted(self, batch):
        x, y = (part.numpy().astype("float64") for part in batch)
        pairs.append((len(x), *squares(x, y, 4)))
        return measured(self, batch)

    monkeypatch.setattr(SquaredNorms, "__call__", noted)
    noise = GradientNoiseScale(interval=1, micro_batches=4, decay=0.9)
    fit_switched(linear(), noise)

    assert {size for size, *_ in pairs} == set(SWITCHED.values())
    traces, gradients, weights = (0.0, 0.0, 0.0)
    for size, small, large in pairs:
        trace = (small - large) / (4 / size - 1 / size)
        traces, weights = 0.9 * traces + trace, 0.9 * weights + 1
        gradients = 0.9 * gradients + large - trace / size
    assert noise.estimate.noise_trace == pytest.approx(traces / weights, rel=1e-3)
    assert noise.estimate.squared_gradient == pytest.approx(gradients / weights, rel=1e-3)


@pytest.mark.slow
def test_in_the_training_mode_the_average_begins_anew_at_a_new_size():
    """Batch statistics of another size are another gradient."""
    noise = GradientNoiseScale(interval=1, micro_batches=4, decay=0.999, training=True)

    fit_switched(linear(), noise)

    assert noise.measurements == 109
    assert 60 < noise.estimate.count < 63.5  # the 63 of the last size


def test_short_last_batches_are_not_measured_and_nothing_is_traced_for_them():
    x, y = regression(76)
    noise = GradientNoiseScale(interval=1, micro_batches=4)
    traces = []
    meter = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: traces.append(noise._meter._norms.traces)
    )

    linear().fit(x, y, batch_size=16, epochs=3, callbacks=[noise, meter], verbose=0)

    assert noise.measurements == 11  # four whole batches in an epoch, of the first one three
    assert traces == [1, 1, 1]


@pytest.mark.slow
def test_batches_drawn_from_given_arrays_give_it_too():
    x, y = regression()
    noise = GradientNoiseScale(x, y, batch_size=64, interval=1, decay=0.99)

    linear().fit(x[:800], y[:800], batch_size=8, callbacks=[noise], verbose=0)

    assert noise.measurements == 99
    assert true_noise_scale() in noise.estimate.interval


ORDER = np.random.default_rng(3).permutation(400)
KINDS = {
    "a shuffled Series of targets": lambda x, y: (x, pd.Series(y[:, 0], index=ORDER)),
    "a Series of a part": lambda x, y: (x, pd.Series(y[:, 0], index=ORDER + 1_000)),
    "a DataFrame": lambda x, y: (pd.DataFrame(x, index=ORDER), y),
    "tensors": lambda x, y: (tf.constant(x), tf.constant(y)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_examples_of_given_data_are_picked_by_their_position(kind):
    x, y = regression(400)
    given = KINDS[kind](x, y)
    noise, reference = (
        GradientNoiseScale(*data, batch_size=64, interval=1) for data in (given, (x, y))
    )

    linear().fit(x, y, batch_size=50, callbacks=[noise, reference], verbose=0)

    assert noise.measurements == reference.measurements == 7
    assert noise.estimate.noise_scale == pytest.approx(reference.estimate.noise_scale, rel=1e-5)


def test_inputs_alone_and_structures_of_arrays_are_drawn_from_alike():
    x, y = regression(40)
    alone = GradientNoiseScale(tf.constant(x), batch_size=16)
    alone._random = np.random.default_rng(0)
    column = pd.Series(y[:, 0])  # which `fit` makes a column of, too
    parts = GradientNoiseScale({"a": x, "b": pd.DataFrame(x)}, [column], batch_size=16)
    parts._random = np.random.default_rng(0)

    (drawn,) = alone._drawn()
    inputs, (targets,) = parts._drawn()

    np.testing.assert_array_equal(drawn, inputs["a"])
    np.testing.assert_array_equal(drawn, inputs["b"])
    assert targets.shape == (16, 1)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((9, 4)), np.zeros(8), r"same number of examples.* Received: \[8, 9\]"),
        (np.zeros((0, 4)), None, "at least 1"),
        (scipy.sparse.eye_array(9, format="csr"), None, "Received: csr_array. .*toarray"),
        ([[1.0, 2.0], [3.0, 4.0]], None, "Received: float. Give `np.asarray"),
        (pd.DataFrame({"a": [True], "b": [1.0]}), None, "DataFrame. .*only numeric columns"),
        (np.zeros((9, 4)), pd.Series(["a", None] * 9), "Received: Series"),
    ],
    ids=["lengths", "empty", "sparse", "list", "objects", "missing text"],
)
def test_given_data_that_are_no_arrays_are_refused_before_training(x, y, message):
    with pytest.raises(InputError, match=message):
        GradientNoiseScale(x, y)


class Machine:
    """A clock, and a program whose costs are known: tracing 100 s, an example of a batch 0.05 s.

    What is fetched, and what lies between two calls, takes 0.25 s a measurement.
    """

    micro_batches, training = 4, False

    def __init__(self, monkeypatch, slower=lambda now: 1.0):
        self.now, self.traces, self.sizes, self.slower = 0.0, 0, set(), slower
        self.measuring = self.tracing = self.training_time = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def micro_batch_size(self, batch):
        return len(batch) // 4

    def rehearse(self, batch):
        if len(batch) not in self.sizes:
            self.sizes.add(len(batch))
            self.traces += 1
            self.now += 100
            self.tracing += 100.25  # the batch was fetched for it
            self.measuring -= 0.25
        else:
            self._run(len(batch) / 4)

    def __call__(self, batch):
        self._run(len(batch))
        return 1.0, 0.5

    def _run(self, examples):
        spent = 0.05 * examples * self.slower(self.now)
        self.now += spent
        self.measuring += spent

    def train(self, meter, sizes, waited=0.0):
        """Each step takes 1 s, the first one 500 s; returns the true share after each."""
        meter.begin_epoch()
        shares = []
        for step, size in enumerate(sizes):
            if meter.due(step):
                self.now += 0.25 + waited
                self.measuring += 0.25
                meter.measure(range(size), step=step, waited=waited)
            self.now += 1 if step else 500
            self.training_time += 1 if step else 1e-9
            shares.append(self.measuring / (self.measuring + self.training_time))
        return shares


def metered(machine, **arguments):
    return NoiseMeter(machine, **{"decay": 0.9, "interval": None, "max_share": 0.03, **arguments})


def test_measuring_stays_within_its_share_of_the_time_at_every_moment(monkeypatch):
    """But for the two micro-batches that tell what a measurement costs."""
    machine = Machine(monkeypatch)
    meter = metered(machine)

    shares = machine.train(meter, [40] * 3_000)

    assert max(shares[60:]) <= 0.03
    assert 0.02 < shares[-1] <= 0.0226
    assert 25 <= meter.measurements <= 30  # of 2.25 s


def test_the_share_holds_where_a_measurement_takes_three_times_what_is_expected(monkeypatch):
    """The first one too, of which nothing but a micro-batch was timed."""
    machine = Machine(monkeypatch, slower=lambda now: 1.0 if now < 700 else 3.0)
    meter = metered(machine)

    shares = machine.train(meter, [40] * 3_000)

    assert max(shares[60:]) <= 0.03
    assert meter.measurements > 8


@pytest.mark.parametrize("part", ["rehearse", "__call__"])
def test_memory_that_runs_out_in_a_measurement_is_a_reason_with_what_mends_it(monkeypatch, part):
    def full(machine, batch):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating a tensor")

    machine = Machine(monkeypatch)
    monkeypatch.setattr(Machine, part, full)
    meter = metered(machine, interval=1)

    machine.train(meter, [40] * 5)

    assert meter.refused == (
        "The gradient of a micro-batch of 10 examples cannot be measured: ResourceExhaustedError: "
        "OOM when allocating a tensor"
    )
    assert meter.remedy == (
        "Memory has run out: leave the callback out, or give it more `micro_batches`."
    )
    assert meter.measurements == 0


def test_a_larger_batch_is_measured_more_rarely(monkeypatch):
    """It is not measured at the old price: the share holds right after the switch too."""
    machine = Machine(monkeypatch)
    meter = metered(machine)

    shares = machine.train(meter, [40] * 1_000 + [400] * 4_000)

    assert max(shares[60:]) <= 0.03
    assert meter.stream.large_batch_size == 400
    assert 3 <= meter.measurements - 8 <= 7  # of 20.25 s, after some of 2.25 s


def test_the_account_is_the_true_one_and_tracing_stands_apart(monkeypatch):
    """Both of the measuring and of the training, whose own first step traces too."""
    machine = Machine(monkeypatch)
    meter = metered(machine)

    machine.train(meter, [40] * 1_000 + [80] * 1_000)

    assert meter.time.seconds == pytest.approx(machine.measuring)
    assert meter.time.tracing_seconds == pytest.approx(machine.tracing) == 200.5
    last = 1  # step, which nothing follows
    in_all = machine.training_time + machine.measuring - last
    assert meter.time.training_seconds == pytest.approx(in_all)


def test_waiting_for_the_batch_that_is_measured_is_no_measuring(monkeypatch):
    machine = Machine(monkeypatch)
    meter = metered(machine)

    machine.train(meter, [40] * 1_000, waited=30.0)

    assert meter.time.seconds == pytest.approx(machine.measuring)
    assert meter.measurements > 8


def test_an_interval_is_kept_whatever_it_costs(monkeypatch):
    machine = Machine(monkeypatch)
    meter = metered(machine, interval=5)

    machine.train(meter, [40] * 101)

    assert meter.measurements == 20
    assert meter.time.share > 0.2


@pytest.mark.quick_cases("True")
@pytest.mark.parametrize("training", [False, True])
def test_dropout_and_moving_statistics_are_left_as_they_were(training):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(1),
        ]
    )
    model.compile("adam", "mse", metrics=["mae"])
    x, y = regression(64)
    model.fit(x, y, verbose=0)
    variables = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
    before = [np.asarray(v.value) for v in variables]

    small, large = SquaredNorms(model, micro_batches=4, training=training)(
        (tf.constant(x), tf.constant(y))
    )

    assert small > large > 0
    assert all(np.array_equal(a, v.value) for a, v in zip(before, variables, strict=True))


def test_the_state_is_put_back_also_after_an_error():
    model = linear(learning_rate=0.1)
    model.fit(*regression(8), verbose=0)
    before = model.get_weights()[0]

    def trains_and_fails():
        with state_restored(model, weights=True):
            model.fit(*regression(8), verbose=0)
            assert not np.array_equal(before, model.get_weights()[0])
            raise KeyError

    with pytest.raises(KeyError):
        trains_and_fails()

    assert np.array_equal(before, model.get_weights()[0])


class OwnStep(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, x):
        return self.dense(x)

    def train_step(self, data):
        return super().train_step(data)


def test_a_model_whose_loss_is_unknown_is_refused_before_training():
    model = OwnStep()
    model.compile("sgd", "mse")

    with pytest.raises(InputError, match="OwnStep has a train_step of its own"):
        model.fit(*regression(64), callbacks=[GradientNoiseScale()], verbose=0)


def test_a_summed_loss_is_refused():
    model = linear()
    model.compile("sgd", keras.losses.MeanSquaredError(reduction="sum"))

    with pytest.raises(InputError, match="the loss is summed over the batch"):
        model.fit(*regression(64), callbacks=[GradientNoiseScale()], verbose=0)


def test_sparse_batches_are_refused_with_what_mends_them():
    model = keras.Sequential([keras.Input((4,), sparse=True), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = regression(64)
    with pytest.raises(InputError, match=r"hold a sparse tensor.* Make it dense"):
        model.fit(tf.sparse.from_dense(x), y, callbacks=[GradientNoiseScale()], verbose=0)


@pytest.mark.parametrize(
    "arguments",
    [
        {"micro_batches": 1},
        {"interval": 0},
        {"max_share": 0.0},
        {"decay": 1.0},
        {"x": np.zeros((9, 4)), "batch_size": 4},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(InputError, match=r"must be .* Received"):
        GradientNoiseScale(**arguments)


def test_a_dataset_is_refused_because_iterating_it_would_change_the_training_order():
    with pytest.raises(InputError, match="iterating a dataset that shuffles changes the order"):
        GradientNoiseScale(tf.data.Dataset.range(9))


def test_an_interval_counts_the_steps_made_where_the_last_execution_is_short():
    """Executions begin at 0, 4, 8, 10, 14, 18, 20, 24, 28: at 4, and 12 steps later at 18."""
    x, y = regression(80)
    model = linear()
    model.compile(keras.optimizers.SGD(0.0), loss=model.loss, steps_per_execution=4)
    noise = GradientNoiseScale(interval=12)

    model.fit(x, y, batch_size=8, epochs=3, callbacks=[noise], verbose=0)

    assert noise.measurements == 2
