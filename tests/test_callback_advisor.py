"""What the advisor says of known measurements, and of a real training."""

from __future__ import annotations

import dataclasses
import math
import time
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from processes import with_long_enough_pauses
from several_optimizers import several_optimizers

from tfbatch import device_memory
from tfbatch.callbacks import Advisor, BatchSizeScheduler, GradientNoiseScale
from tfbatch.callbacks import advisor as advisor_file
from tfbatch.callbacks._advice import TrainingMeasurements, advise
from tfbatch.callbacks._step_clock import TimedSteps, resized, time_steps
from tfbatch.estimators.interval import Interval
from tfbatch.estimators.noise_scale import NoiseScale
from tfbatch.estimators.predicted_batch_size import CAVEAT
from tfbatch.gradients import SquaredNorms
from tfbatch.schedules import LearningRateInExamples

COMMAND = "python -m tfbatch.tune --batch_sizes={batch_sizes}"
NOISE = NoiseScale(1_000.0, Interval(800, 1_250), 1.0, 1_000.0, 30, ())
SIZES = (32, 64, 128, 256)
MEASURED = TrainingMeasurements(
    batch_size=64,
    examples_per_second=3_200.0,
    input_wait=0.05,
    peak_memory_mb=900.0,
    noise=NOISE,
    no_noise="",
    steps=TimedSteps(
        seconds={size: 0.010 + 0.0001 * size for size in SIZES},
        peak_bytes={32: 9 * 10**8, 64: 9 * 10**8, 128: 10**9, 256: 12 * 10**8},
        failed=None,
    ),
    budget_bytes=8e9,
)


def test_the_prediction_is_that_of_the_closed_form():
    """Steps (1 + noise / B) of a + b B seconds: least at sqrt(a noise / b) = 316."""
    advice = advise(MEASURED, command=COMMAND)

    def seconds(size):
        return (1 + 1_000 / size) * (0.010 + 0.0001 * size)

    assert advice.batch_size == 256
    assert advice.speed_up == pytest.approx(seconds(64) / seconds(256))
    assert advice.lines[-1] == (
        f"predicted: B=256, 1.6 x faster to the same loss; not verified: {CAVEAT}; verify with: "
        "python -m tfbatch.tune --batch_sizes=64,128,256,512,1024"
    )
    assert "5% of the time is waiting for batches; 3,200 examples/s at B=64" in advice.lines[0]
    assert "gradient noise scale 1000 [800, 1250]" in advice.lines[1]
    assert "estimate of the largest that fits, predicted: 4" in advice.lines[2]
    assert "not verified" in advice.lines[2]


def test_a_small_noise_scale_predicts_a_smaller_batch():
    noise = dataclasses.replace(NOISE, noise_scale=2.0)

    advice = advise(dataclasses.replace(MEASURED, noise=noise), command=COMMAND)

    assert advice.batch_size == 32


def test_where_nothing_is_gained_it_says_so():
    steps = dataclasses.replace(MEASURED.steps, seconds={size: 1e-4 * size for size in SIZES})
    noise = dataclasses.replace(NOISE, noise_scale=1e6)

    advice = advise(dataclasses.replace(MEASURED, steps=steps, noise=noise), command=COMMAND)

    assert (advice.batch_size, advice.speed_up) == (64, 1.0)
    assert "B=64 is within 10% of the fastest timed size" in advice.lines[-1]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"noise": None, "no_noise": "a reason"}, "the noise scale is unknown"),
        ({"noise": dataclasses.replace(NOISE, noise_scale=math.inf)}, "not told from 0 or infin"),
        ({"steps": None}, "no step times at other batch sizes"),
        ({"input_wait": 0.6}, "training waits for its input"),
        (
            {"steps": TimedSteps({32: 1.0, 64: 0.1, 128: 1.0, 256: 0.1}, {32: 9}, None)},
            "fits no form",
        ),
    ],
    ids=["noise", "infinite", "steps", "input", "misfit"],
)
def test_nothing_is_predicted_from_what_does_not_bear_it(changes, reason):
    advice = advise(dataclasses.replace(MEASURED, **changes), command=COMMAND)

    assert (advice.batch_size, advice.speed_up) == (None, None)
    assert advice.lines[-1].startswith(f"nothing predicted: {reason}") or (
        reason in advice.lines[-1]
    )
    assert not any(line.startswith("predicted") for line in advice.lines)


def test_a_weak_noise_scale_and_a_size_that_does_not_fit_are_named():
    noise = dataclasses.replace(NOISE, doubts=("3 pairs, 8 are needed",))
    steps = dataclasses.replace(MEASURED.steps, failed=512)

    advice = advise(dataclasses.replace(MEASURED, noise=noise, steps=steps), command=COMMAND)

    assert "from a weak noise scale; not verified" in advice.lines[-1]
    assert "B=512 does not fit" in advice.lines[2]
    assert advice.command.endswith("--batch_sizes=64,128,256"), "what fits"


def build(kind=keras.Sequential):
    keras.utils.set_random_seed(1)
    layers = [keras.Input((8,)), keras.layers.Dense(8), keras.layers.Dropout(0.5)]
    model = kind([*layers, keras.layers.Dense(1)])
    model.compile("adam", "mse", metrics=["mae"])
    return model


def data(count=256):
    random = np.random.default_rng(0)
    return random.normal(size=(count, 8)).astype("float32"), np.ones((count, 1), "float32")


def test_without_a_measure_of_memory_no_larger_batch_is_risked(monkeypatch):
    monkeypatch.setattr(device_memory, "resident", lambda: None)

    timed = time_steps(build(), tuple(map(tf.constant, data(16))), [8, 16, 32, 64])

    assert list(timed.seconds) == [8, 16]
    assert timed.failed is None


def test_timed_steps_leave_no_bit_changed():
    model = build()
    model.fit(*data(), verbose=0)
    variables = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
    before = [np.asarray(v.value) for v in variables]

    timed = time_steps(model, tuple(map(tf.constant, data(16))), [8, 16, 32])

    assert list(timed.seconds) == list(timed.peak_bytes) == [8, 16, 32]
    assert min(timed.seconds.values()) > 0
    assert timed.failed is None
    assert all(np.array_equal(a, v.value) for a, v in zip(before, variables, strict=True))


@pytest.mark.parametrize("size", [2, 3, 8])
def test_a_batch_of_another_size_repeats_its_examples(size):
    x = tf.constant([[1], [2], [3]])

    assert resized((x,), size)[0][:, 0].numpy().tolist() == [1, 2, 3, 1, 2, 3, 1, 2][:size]


@pytest.mark.slow
def test_a_real_training_prints_each_line_after_each_epoch(capsys):
    advisor = Advisor(model="mine:build", data="mine:data")
    advisor.noise = GradientNoiseScale(interval=8)  # 3 % of so short a training are too few

    build().fit(*data(1_024), batch_size=16, epochs=2, callbacks=[advisor], verbose=0)

    printed = capsys.readouterr().out
    for part in ("After epoch 1:", "After epoch 2:", "waiting for batches", "noise scale",
                 "memory: peak", "--model=mine:build --data=mine:data",
                 "--baseline=batch_size=16,learning_rate=0.001"):  # fmt: skip
        assert part in printed
    assert str(advisor.advice.lines[-1]) in printed
    assert advisor.noise.measurements > 1


class OwnStep(keras.Sequential):
    def train_step(self, data):
        return super().train_step(data)


@pytest.mark.slow
def test_a_model_with_its_own_train_step_gets_the_rest(capsys):
    advisor = Advisor()

    build(OwnStep).fit(*data(), batch_size=16, callbacks=[advisor], verbose=0)

    assert "no noise scale: OwnStep has a train_step of its own" in capsys.readouterr().out
    assert advisor.advice.batch_size is None


class TwoOptimizers(keras.Model):
    """As a GAN: its step trains with an optimizer of its own."""

    def __init__(self):
        super().__init__()
        self.dense, self.own = keras.layers.Dense(1), keras.optimizers.Adam()

    def call(self, x):
        return self.dense(x)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = keras.ops.mean((self(x) - y) ** 2)
        weights = self.trainable_weights
        self.own.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return {"loss": loss}


def test_a_step_with_an_optimizer_of_its_own_is_as_without_the_advisor():
    found = []
    for callbacks in ([], [Advisor(verbose=0)]):
        keras.utils.set_random_seed(1)
        model = TwoOptimizers()
        model.compile()
        model.fit(*data(64), batch_size=16, epochs=2, callbacks=callbacks, verbose=0)
        found.append([*model.get_weights(), *(v.numpy() for v in model.own.variables)])

    assert int(model.own.iterations) == 8
    assert all(np.array_equal(one, other) for one, other in zip(*found, strict=True))
    assert "not tried: TwoOptimizers has a train_step of its own" in str(callbacks[0].advice)


def stateful():
    layers = [keras.layers.LSTM(2, stateful=True), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input(batch_shape=(16, 8, 1)), *layers])


def frozen():
    model = keras.Sequential([keras.Input((8, 1)), keras.layers.Flatten(), keras.layers.Dense(1)])
    model.trainable = False
    return model


def frozen_and_built_by_the_first_batch():
    return keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(1, trainable=False)])


@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (stateful, "a micro-batch of 2 examples cannot be measured"),
        (frozen, "the model has no trainable weights"),
        (frozen_and_built_by_the_first_batch, "the model has no trainable weights"),
    ],
)
def test_what_cannot_be_measured_is_said_and_the_training_goes_on(make, reason):
    model, advisor = make(), Advisor(verbose=0)
    model.compile("sgd", "mse")
    x, y = data(64)

    history = model.fit(x[..., None], y, batch_size=16, epochs=2, callbacks=[advisor], verbose=0)

    assert len(history.history["loss"]) == 2
    assert reason in advisor.advice.lines[1]
    not_timed = "larger batches were not tried: the model does not take batches of [8, 16, 32, 64]"
    assert (not_timed in str(advisor.advice)) == (make is stateful)


class MeanOfRows(keras.Layer):
    """The mean of each row, of rows of any length."""

    def call(self, rows):
        return tf.reduce_mean(rows, axis=1)[:, None]


@pytest.mark.parametrize(
    ("kind", "said"),
    [("SparseTensor", "the batches hold a sparse tensor"), ("RaggedTensor", "")],
)
def test_a_training_on_sparse_or_ragged_batches_goes_on_and_the_reason_is_said(kind, said):
    x, y = np.eye(4, dtype="float32")[np.arange(32) % 4], np.ones((32, 1), "float32")
    layers = [keras.Input((4,), sparse=True)], [MeanOfRows()]
    given = tf.sparse.from_dense(x), tf.RaggedTensor.from_row_lengths(x.ravel(), [2, 6] * 16)
    is_ragged = kind == "RaggedTensor"
    model = keras.Sequential([*layers[is_ragged], keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    batches = tf.data.Dataset.from_tensor_slices((given[is_ragged], y)).batch(8)
    advisor = Advisor(verbose=0)

    history = model.fit(batches, epochs=2, callbacks=[advisor], shuffle=False, verbose=0)

    assert len(history.history["loss"]) == 2
    assert said in advisor.noise.refused
    assert bool(advisor.noise.refused) == bool(said)
    assert f"the batches hold a {kind}, whose examples are not repeated" in str(advisor.advice)
    assert advisor.throughput.examples_per_second > 0


def test_a_part_of_the_batches_may_be_none():
    x, y = data(16)
    advisor = Advisor(verbose=0)
    batches = ((x, y, None) for _ in range(8))

    build().fit(batches, steps_per_epoch=4, callbacks=[advisor], shuffle=False, verbose=0)

    assert advisor.noise.refused == ""
    timed, _ = advisor._timed[16]
    assert list(timed.seconds) == [8, 16, 32, 64]


def test_without_the_memory_of_the_device_no_largest_batch_is_estimated():
    advice = advise(dataclasses.replace(MEASURED, budget_bytes=None), command=COMMAND)

    assert advice.lines[2].startswith("memory: peak 900 MB; a step of B=256 ran")
    assert advice.lines[2].endswith("no estimate beyond it: the device's memory is unknown")


@pytest.mark.parametrize(
    ("limit", "known", "budget"), [(None, (7, 9), 7), (3, (7,), 3 * 2**20), (None, (), None)]
)
def test_a_gpu_is_judged_by_its_own_memory(limit, known, budget, monkeypatch):
    gpus = [SimpleNamespace(memory_bytes=size) for size in known]
    part = SimpleNamespace(memory_limit=limit)
    for name in ("list_physical_devices", "list_logical_devices"):
        monkeypatch.setattr(tf.config, name, lambda kind: ["gpu"])
    monkeypatch.setattr(tf.config, "get_logical_device_configuration", lambda gpu: [part])
    monkeypatch.setattr(device_memory, "read_gpus", lambda: SimpleNamespace(gpus=gpus))

    assert device_memory.device_budget() == budget


@pytest.mark.slow
def test_it_can_be_told_to_be_silent_and_to_time_nothing(capsys):
    advisor = Advisor(time_steps=False, verbose=0)

    build().fit(*data(), batch_size=16, callbacks=[advisor], verbose=0)

    assert capsys.readouterr().out == ""
    assert "larger batches were not tried" in str(advisor.advice)


def test_peaks_that_hardly_rise_give_no_estimate_of_the_largest_batch():
    peaks = {64: 700_000_000, 128: 700_100_000, 256: 700_150_000}
    steps = dataclasses.replace(MEASURED.steps, peak_bytes=peaks)

    advice = advise(dataclasses.replace(MEASURED, steps=steps), command=COMMAND)

    assert "no estimate beyond it: the peak hardly rose" in advice.lines[2]
    assert "predicted" not in advice.lines[2]


def out_of_memory(*_):
    raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating a tensor")


def test_memory_that_runs_out_while_steps_are_timed_is_said_and_the_training_goes_on(monkeypatch):
    monkeypatch.setattr(advisor_file, "time_steps", out_of_memory)
    advisor = Advisor(verbose=0)

    history = build().fit(*data(64), batch_size=16, epochs=2, callbacks=[advisor], verbose=0)

    assert len(history.history["loss"]) == 2
    said = "steps of [8, 16, 32, 64] examples cannot be timed (ResourceExhaustedError: OOM when"
    assert said in advisor.advice.lines[2]


def test_memory_that_runs_out_while_the_noise_is_measured_is_said_too(monkeypatch):
    monkeypatch.setattr(SquaredNorms, "rehearse", out_of_memory)
    advisor = Advisor(time_steps=False, verbose=0)

    history = build().fit(*data(64), batch_size=16, epochs=2, callbacks=[advisor], verbose=0)

    assert len(history.history["loss"]) == 2
    assert "cannot be measured: ResourceExhaustedError: OOM when" in advisor.advice.lines[1]
    assert "micro_batches" not in advisor.advice.lines[1], "an argument of another callback"


def timed_at_once(called):
    """In place of `time_steps`: notes the sizes."""

    def time_steps(model, batch, sizes):
        called.append(sizes)
        return TimedSteps(dict.fromkeys(sizes, 0.01), dict.fromkeys(sizes, 0), None)

    return time_steps


def test_a_system_that_does_not_tell_its_memory_gets_the_rest_of_the_advice(monkeypatch):
    monkeypatch.setattr(device_memory, "resident", lambda: None)
    monkeypatch.setattr(advisor_file, "time_steps", timed_at_once([]))
    advisor = Advisor(verbose=0)

    build().fit(*data(64), batch_size=16, callbacks=[advisor], verbose=0)

    assert advisor.advice.lines[2] == (
        "memory: peak unknown; a step of B=64 ran; no estimate beyond it"
    )
    assert "examples/s at B=16" in advisor.advice.lines[0]


def warm_up_of_keras():
    return keras.optimizers.schedules.CosineDecay(0.0, 100, warmup_target=0.1, warmup_steps=4)


def warm_up_and_decay_of_keras():
    schedule = keras.optimizers.schedules.CosineDecay
    return schedule(0.0, 2, alpha=0.01, warmup_target=0.1, warmup_steps=2)


def warm_up_in_examples():
    return LearningRateInExamples(
        "cosine", learning_rate=0.1, batch_size=16, total_examples=6_400, warmup_examples=3_200
    )


@pytest.mark.parametrize(
    ("optimizer", "rate"),
    [
        (lambda: keras.optimizers.SGD(warm_up_of_keras()), ",learning_rate=0.1"),
        (lambda: keras.optimizers.SGD(warm_up_and_decay_of_keras()), ",learning_rate=0.1"),
        (lambda: keras.optimizers.SGD(warm_up_in_examples()), ",learning_rate=0.1"),
        (lambda: keras.optimizers.SGD(0.0), ""),
        (several_optimizers, ""),
    ],
    ids=["Keras's warm-up", "within an epoch", "warm-up in examples", "zero", "several"],
)
def test_the_command_has_the_peak_of_a_schedule_and_no_rate_where_there_is_none(optimizer, rate):
    """A warm-up begins at 0, which `tune` refuses."""
    advisor, model = Advisor(time_steps=False, verbose=0), build()
    model.compile(optimizer(), "mse")

    model.fit(*data(64), batch_size=16, callbacks=[advisor], verbose=0)

    assert f" --baseline=batch_size=16{rate} --batch_sizes" in advisor.advice.command


def test_a_schedule_is_looked_at_as_far_as_the_training_goes():
    """Keras tells the last epoch's number, not how many are left."""
    asked = []

    class Noted(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            if tf.executing_eagerly():
                asked.append(int(step))
            return 0.1 + 0.0 * tf.cast(step, tf.float32)

    advisor, model = Advisor(time_steps=False, verbose=0), build()
    model.compile(keras.optimizers.SGD(Noted()), "mse")
    model.fit(*data(64), batch_size=16, epochs=2, verbose=0)
    model.fit(*data(64), batch_size=16, initial_epoch=2, epochs=4, callbacks=[advisor], verbose=0)

    assert max(asked) <= 4 * 4
    assert advisor.advice is not None


def test_a_schedule_that_cannot_be_looked_at_ends_no_training():
    class Ends(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            if tf.executing_eagerly() and int(step) > 0:
                raise IndexError(f"no rate for update {int(step)}")
            return 0.1 + 0.0 * tf.cast(step, tf.float32)

    advisor, model = Advisor(time_steps=False, verbose=0), build()
    model.compile(keras.optimizers.SGD(Ends()), "mse")

    model.fit(*data(64), batch_size=16, callbacks=[advisor], verbose=0)

    assert advisor.advice is not None


def test_a_batch_that_grows_in_epochs_of_one_execution_is_that_of_the_epoch(monkeypatch):
    monkeypatch.setattr(advisor_file, "time_steps", timed_at_once([]))
    scheduler, advisor = BatchSizeScheduler({0: 16, 1: 32, 2: 64}), Advisor(verbose=0)
    dataset, lines = scheduler.dataset(*data(128)), []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: lines.append(str(advisor.advice))
    )
    model = build()
    model.compile("sgd", "mse", steps_per_execution=64)

    model.fit(dataset, epochs=3, callbacks=[scheduler, advisor, note], shuffle=False, verbose=0)

    for size, said in zip((16, 32, 64), lines, strict=True):
        assert f"examples/s at B={size}" in said


def test_a_batch_size_that_changes_is_that_of_the_epoch_and_is_timed_anew(monkeypatch):
    called: list[list[int]] = []
    monkeypatch.setattr(advisor_file, "time_steps", timed_at_once(called))
    scheduler, advisor = BatchSizeScheduler({0: 16, 1: 64}), Advisor(verbose=0)
    dataset, lines = scheduler.dataset(*data(128)), []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: lines.append(str(advisor.advice))
    )

    build().fit(dataset, epochs=3, callbacks=[scheduler, advisor, note], shuffle=False, verbose=0)

    assert "examples/s at B=16" in lines[0]
    for later in lines[1:]:
        assert "examples/s at B=64" in later
        assert "B=16" not in later
        assert "--baseline=batch_size=64," in later
    assert called == [[8, 16, 32, 64], [32, 64, 128, 256]]


def test_a_short_last_batch_that_begins_an_epoch_is_not_taken_for_the_batch_size(monkeypatch):
    """Of 168 examples every third batch has 40: the second and the fifth epoch begin with one."""
    called: list[list[int]] = []
    monkeypatch.setattr(advisor_file, "time_steps", timed_at_once(called))
    lines, advisor = [], Advisor(verbose=0)
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: lines.append(str(advisor.advice))
    )
    batches = tf.data.Dataset.from_tensor_slices(data(168)).batch(64).repeat()

    arguments = {"steps_per_epoch": 2, "shuffle": False, "verbose": 0}
    build().fit(batches, epochs=5, callbacks=[advisor, note], **arguments)

    assert called == [[32, 64, 128, 256]]
    assert len(lines) == 5
    assert all("examples/s at B=64" in line for line in lines)


def test_a_size_that_comes_back_is_not_timed_again(monkeypatch):
    called: list[list[int]] = []
    monkeypatch.setattr(advisor_file, "time_steps", timed_at_once(called))
    scheduler, advisor = BatchSizeScheduler({0: 16, 1: 64, 2: 16}), Advisor(verbose=0)
    dataset = scheduler.dataset(*data(128))

    build().fit(dataset, epochs=3, callbacks=[scheduler, advisor], shuffle=False, verbose=0)

    assert called == [[8, 16, 32, 64], [32, 64, 128, 256]]
    assert "examples/s at B=16" in str(advisor.advice)


def test_waiting_for_the_batch_that_it_looks_at_counts_as_waiting_for_input():
    """In the second epoch, which traces nothing: only the first batch is waited for."""
    x, y = data(16)

    def measure(seconds):
        def batches():
            time.sleep(seconds)
            for _ in range(4):
                yield x, y

        spec = (tf.TensorSpec(x.shape), tf.TensorSpec(y.shape))
        source = tf.data.Dataset.from_generator(batches, output_signature=spec)
        source = source.apply(tf.data.experimental.assert_cardinality(4))
        advisor = Advisor(time_steps=False, verbose=0)
        build().fit(source, epochs=2, callbacks=[advisor], shuffle=False, verbose=0)
        return advisor.throughput.input_wait

    assert with_long_enough_pauses(measure, lambda found: found > 0.6, seconds=0.3) > 0.6
