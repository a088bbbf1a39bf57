"""Batch sizes that change during `fit`: what Keras really trained on, against a plain reference."""

from __future__ import annotations

import copy
import json
import runpy
import textwrap
import warnings
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf
from absl import logging
from processes import run_warm, wait_until
from several_optimizers import several_optimizers
from sklearn.datasets import load_digits

from tfbatch.callbacks import AdaptiveBatchSize, BatchSizeScheduler, GradientNoiseScale
from tfbatch.errors import InputError
from tfbatch.estimators.interval import Interval
from tfbatch.pipeline.streams import permutation
from tfbatch.schedules import BatchSizes, LearningRateInExamples, make_family
from tfbatch.schedules._family import value
from tfbatch.seeds import derive_seed

COUNT, EPOCHS = 50, 5
SIZES = {0: 4, 1: 8, 2.5: 16, 4: 3}
X = np.arange(COUNT, dtype="float32")[:, None]
ONES = np.ones((COUNT, 1), "float32")


class Seen(keras.layers.Layer):
    """Passes its input on, and notes what it was."""

    def __init__(self, seen):
        super().__init__()
        self._note = seen.append  # Keras would track a copy of the list

    def call(self, x):
        def note(batch):
            self._note(batch[:, 0].astype(int).tolist())
            return batch

        noted = tf.numpy_function(note, [x], tf.float32)
        return tf.ensure_shape(noted, x.shape)


def recording(**compiled):
    """A model, and the numbers of the examples of each batch that it was trained on."""
    seen: list[list[int]] = []
    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Dense(1)(Seen(seen)(inputs)))
    model.compile(keras.optimizers.SGD(1e-6), loss="mse", **compiled)
    return model, seen


def fit(model, dataset, *callbacks, epochs=EPOCHS, **more):
    return model.fit(
        dataset, epochs=epochs, callbacks=list(callbacks), verbose=0, shuffle=False, **more
    )


def order(passes, *, seed=0, count=COUNT):
    """The stream: one permutation after the other."""
    own = tf.constant(derive_seed(seed, "order"), tf.int64)
    return [
        int(number)
        for epoch in range(passes)
        for number in permutation(count, epoch=tf.constant(epoch, tf.int64), seed=own)
    ]


def reference(sizes=SIZES, *, epochs=EPOCHS, length=COUNT):
    """The sizes of each epoch's batches, counted batch by batch."""
    position, found = 0, []
    for epoch in range(epochs):
        found.append([])
        while position < (epoch + 1) * length:
            size = next(s for at, s in reversed(sizes.items()) if position >= at * length)
            found[-1].append(size)
            position += size
    return found


def cut(stream, sizes):
    ends = np.cumsum(sizes)
    return [stream[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def flat(parts):
    return [item for part in parts for item in part]


@pytest.mark.quick_cases("3")
@pytest.mark.parametrize("execution", [1, 3, 7])
def test_every_batch_has_its_size_and_its_examples(execution):
    """Prefetching and several steps in one execution delay no switch."""
    model, seen = recording(steps_per_execution=execution)
    scheduler = BatchSizeScheduler(SIZES, seed=3)

    history = fit(model, scheduler.dataset(X, X), scheduler).history

    sizes = reference()
    assert len({tuple(epoch) for epoch in sizes}) > 3
    assert seen == cut(order(EPOCHS + 1, seed=3), flat(sizes))
    assert int(model.optimizer.iterations) == len(flat(sizes))  # no phantom iteration
    assert history["batch_size"] == [epoch[-1] for epoch in sizes]


def test_each_example_is_seen_once_in_each_pass_whatever_the_sizes():
    model, seen = recording()
    scheduler = BatchSizeScheduler(SIZES)

    fit(model, scheduler.dataset(X, X), scheduler)

    for done in range(EPOCHS):
        assert sorted(flat(seen)[done * COUNT : (done + 1) * COUNT]) == list(range(COUNT))
    assert flat(seen)[:COUNT] != flat(seen)[COUNT : 2 * COUNT]


def test_positions_may_be_examples_and_sizes_may_fall():
    model, seen = recording()
    scheduler = BatchSizeScheduler({0: 9, 30: 5, 31: 7, 120: 2}, unit="examples")

    fit(model, scheduler.dataset(X, X, shuffle=False), scheduler, epochs=3)

    # 36 is the first batch's begin after 30 and after 31: the size 5 has no batch
    assert [len(batch) for batch in seen] == [9] * 4 + [7] * 12 + [2] * 15
    assert flat(seen) == (list(range(COUNT)) * 4)[: 36 + 84 + 30]


@pytest.mark.quick_cases("shuffled")
@pytest.mark.parametrize("shuffle", [False, True], ids=["in order", "shuffled"])
def test_a_dataset_of_examples_is_cut_alike(shuffle):
    model, seen = recording()
    scheduler = BatchSizeScheduler(SIZES)
    examples = tf.data.Dataset.from_tensor_slices((X, X))

    fit(model, scheduler.dataset(examples, shuffle=shuffle), scheduler)

    assert [len(batch) for batch in seen] == flat(reference())
    passes = [flat(seen)[done * COUNT : (done + 1) * COUNT] for done in range(EPOCHS)]
    assert all(sorted(one) == list(range(COUNT)) for one in passes)
    assert len({tuple(one) for one in passes}) == (EPOCHS if shuffle else 1)


def test_the_seed_alone_decides_the_order_of_a_shuffled_dataset():
    model, seen = recording()

    def trained(seed, global_seed):
        keras.utils.set_random_seed(global_seed)
        seen.clear()
        scheduler = BatchSizeScheduler(SIZES, seed=seed)
        examples = tf.data.Dataset.from_tensor_slices((X, X))
        fit(model, scheduler.dataset(examples), scheduler, epochs=2)
        return flat(seen)

    assert trained(1, 5) == trained(1, 6) != trained(2, 5)


def test_structures_weights_and_other_kinds_of_data_come_through():
    scheduler = BatchSizeScheduler({0: 4})
    inputs = {"a": np.arange(6, dtype="int64"), "b": [np.ones((6, 2)), np.array(list("uvwxyz"))]}
    dataset = scheduler.dataset(inputs, np.arange(6) % 2 == 0, np.arange(6.0), shuffle=False)

    x, y, weight = next(iter(dataset))

    assert x["a"].numpy().tolist() == [0, 1, 2, 3]
    assert x["b"][0].dtype == tf.float32
    assert x["b"][1].numpy().tolist() == [b"u", b"v", b"w", b"x"]
    assert y.numpy().tolist() == [True, False, True, False]
    assert weight.numpy().tolist() == [0, 1, 2, 3]


@pytest.mark.quick_cases("4")
@pytest.mark.parametrize("execution", [1, 4])
def test_a_constant_size_trains_as_plain_fit_on_the_same_order(execution):
    def model():
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [keras.Input((3,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)]
        )
        model.compile("adam", "mse", steps_per_execution=execution)
        return model

    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(48, 3)).astype("float32"), rng.normal(size=(48, 1)).astype("float32")
    scheduler, ours, plain = BatchSizeScheduler({0: 8}), model(), model()
    stream = order(3, count=48)

    fit(ours, scheduler.dataset(x, y), scheduler, epochs=3)
    plain.fit(x[stream], y[stream], batch_size=8, shuffle=False, verbose=0)

    assert int(ours.optimizer.iterations) == int(plain.optimizer.iterations) == 18
    for mine, other in zip(ours.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.slow
def test_going_on_at_an_epoch_is_as_if_training_had_not_stopped():
    whole, seen = recording()
    parts, seen_in_parts = recording()
    parts.set_weights(whole.get_weights())
    scheduler, other = BatchSizeScheduler(SIZES), BatchSizeScheduler(SIZES)

    fit(whole, scheduler.dataset(X, X), scheduler)
    fit(parts, other.dataset(X, X), other, epochs=2)
    again = BatchSizeScheduler(SIZES)  # another process would have another object
    fit(parts, again.dataset(X, X), again, initial_epoch=2)

    assert seen == seen_in_parts
    np.testing.assert_array_equal(whole.get_weights()[0], parts.get_weights()[0])


@pytest.mark.slow
def test_a_second_fit_begins_anew_and_a_copy_drives_the_same_dataset():
    scheduler = BatchSizeScheduler(SIZES)
    dataset = scheduler.dataset(X, X)
    model, seen = recording()
    found = []
    for one in (scheduler, scheduler, copy.deepcopy(scheduler)):
        seen.clear()
        fit(model, dataset, one)
        found.append(list(seen))

    assert found[0] == found[1] == found[2]
    assert [len(batch) for batch in found[0]] == flat(reference())


def test_an_epoch_of_fit_may_be_shorter_than_the_data():
    model, seen = recording()
    scheduler = BatchSizeScheduler({0: 4, 2: 8})

    fit(model, scheduler.dataset(X, X, examples_per_epoch=20), scheduler, epochs=6)

    expected = flat(reference({0: 4, 2: 8}, epochs=6, length=20))
    assert seen == cut(order(3), expected)


class Stop(keras.callbacks.Callback):  # type: ignore[misc]
    """Asks to stop at the last batch of the second epoch, or at its end."""

    def __init__(self, *, at_batch):
        super().__init__()
        self.at_batch = at_batch

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.at_batch and self.epoch == 1 and batch + 1 == len(reference()[1]):
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1 and not self.at_batch:
            self.model.stop_training = True


def test_somebody_elses_stop_is_not_undone():
    """Asked for at a batch or at an epoch's end, by a callback before this one or after it."""
    model, _ = recording()
    scheduler = BatchSizeScheduler(SIZES)
    dataset, epochs = scheduler.dataset(X, X), {}
    for at_batch in (False, True):
        for callbacks in (
            [Stop(at_batch=at_batch), scheduler],
            [scheduler, Stop(at_batch=at_batch)],
        ):
            history = fit(model, dataset, *callbacks)
            epochs[at_batch, callbacks[0] is scheduler] = len(history.epoch)

    assert set(epochs.values()) == {2}, epochs


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(lambda: (X, X), id="arrays"),
        pytest.param(lambda: (tf.data.Dataset.from_tensor_slices((X, X)).batch(4),), id="dataset"),
        pytest.param(
            lambda: (tf.data.Dataset.from_tensor_slices((X, X)).filter(lambda *_: True).batch(4),),
            id="unknown length",
        ),
    ],
)
def test_another_dataset_is_refused_with_the_line_that_mends_it(data):
    model, _ = recording()
    scheduler = BatchSizeScheduler(SIZES)
    scheduler.dataset(X, X)

    with pytest.raises(InputError, match=r"model\.fit\(scheduler\.dataset\(x, y\)"):
        model.fit(*data(), callbacks=[scheduler], verbose=0, shuffle=False)
    assert int(model.optimizer.iterations) <= 1


def test_a_scheduler_without_a_dataset_and_one_with_steps_per_epoch_are_refused():
    model, _ = recording()
    scheduler = BatchSizeScheduler(SIZES)

    with pytest.raises(InputError, match="none was made"):
        model.fit(X, X, callbacks=[scheduler], verbose=0)
    with pytest.raises(InputError, match="examples_per_epoch"):
        fit(model, scheduler.dataset(X, X), scheduler, steps_per_epoch=4)


def test_the_dataset_without_its_callback_fails_instead_of_training_at_one_size():
    model, _ = recording()

    with pytest.raises(tf.errors.InvalidArgumentError, match="was used without it"):
        fit(model, BatchSizeScheduler(SIZES).dataset(X, X))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: BatchSizeScheduler({1: 4}), "begin at 0"),
        (lambda: BatchSizeScheduler({}), "begin at 0"),
        (lambda: BatchSizeScheduler({0: 4, 3: 8, 2: 9}), "rising"),
        (lambda: BatchSizeScheduler({0: 0}), "must be >= 1"),
        (lambda: BatchSizeScheduler({0: 32.7}), "whole number. Received: 32.7"),
        (lambda: BatchSizeScheduler.ramp(4.5, 9, until=3), "whole number. Received: 4.5"),
        (
            lambda: BatchSizeScheduler.instead_of_decay(4.5, boundaries=[1], gamma=0.5),
            "`batch_size` must be a whole number. Received: 4.5",
        ),
        (lambda: BatchSizeScheduler({0: 4, 0.5: 8}, unit="examples"), "must be whole"),
        (lambda: BatchSizeScheduler({0: 4}, unit="steps"), "`unit`"),  # type: ignore[arg-type]
        (lambda: BatchSizeScheduler({0: 51}).dataset(X, X), "more examples than an epoch"),
        (lambda: BatchSizeScheduler({0: 4}).dataset(X, X[:3]), "same number of examples"),
        (
            lambda: BatchSizeScheduler({0: 4}).dataset(
                tf.data.Dataset.from_tensor_slices(X).batch(2)
            ),
            "single examples",
        ),
        (
            lambda: BatchSizeScheduler({0: 4}).dataset(
                tf.data.Dataset.from_tensor_slices(X).filter(lambda _: True)
            ),
            "`num_examples`",
        ),
        (lambda: BatchSizeScheduler.ramp(4, 4, until=3), "different"),
        (
            lambda: BatchSizeScheduler.instead_of_decay(4, boundaries=[2, 1], gamma=0.1),
            "must rise",
        ),
        (lambda: BatchSizeScheduler.instead_of_decay(4, boundaries=[1], gamma=2), "`gamma`"),
    ],
)
def test_bad_input_is_refused(make, text):
    with pytest.raises(InputError, match=text):
        make()


def test_ramps_and_growth_instead_of_decay_are_positions_and_sizes():
    def pieces(scheduler):
        return scheduler.batch_sizes(examples_per_epoch=100).pieces

    up = BatchSizeScheduler.ramp(8, 64, until=6)
    assert pieces(up) == ((0, 8), (200, 16), (400, 32), (600, 64))
    down = BatchSizeScheduler.ramp(64, 10, until=3)
    assert pieces(down) == ((0, 64), (100, 32), (200, 16), (300, 10))
    growth = BatchSizeScheduler.instead_of_decay(8, boundaries=[5, 7.5], gamma=0.1)
    assert pieces(growth) == ((0, 8), (500, 80), (750, 800))
    in_examples = BatchSizeScheduler.ramp(1, 4, until=99, unit="examples")
    assert pieces(in_examples) == ((0, 1), (50, 2), (99, 4))


@pytest.mark.parametrize("seed", range(20))
def test_the_map_from_updates_to_examples_is_that_of_counting(seed):
    rng = np.random.default_rng(seed)
    starts = np.concatenate([[0], np.sort(rng.choice(np.arange(1, 120), 6, replace=False))])
    given = {int(at): int(rng.integers(1, 30)) for at in starts}
    sizes, position = BatchSizes.of(given.items()), 0
    schedule = LearningRateInExamples(
        "constant", learning_rate=1.0, batch_size=sizes, total_examples=10**6
    )
    begins = []
    for step in range(60):
        begins.append(position)
        assert sizes.examples_before(step) == position
        position += next(s for at, s in reversed(given.items()) if position >= at)
    for example in range(position):
        assert sizes.steps_before(example) == sum(begin < example for begin in begins)
    numbers = schedule._read()
    np.testing.assert_array_equal(schedule._examples(np.arange(60), numbers), begins)
    assert float(schedule._examples(seed, numbers)) == begins[seed]


def gradient_minus_one(rate, *, several=False, **compiled):
    """One weight that every update of plain SGD raises by the learning rate."""
    model = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")]
    )
    optimizer = several_optimizers(rate) if several else keras.optimizers.SGD(rate)
    model.compile(optimizer, loss=lambda y, p: -p, **compiled)
    return model


@pytest.mark.quick_cases("linear")
@pytest.mark.parametrize("rule", ["none", "linear", "square_root"])
def test_each_update_has_the_learning_rate_of_its_example_and_its_batch(rule):
    scheduler = BatchSizeScheduler(SIZES)
    dataset = scheduler.dataset(ONES, ONES)
    rate = scheduler.learning_rate(
        "cosine", learning_rate=0.5, total_examples=EPOCHS * COUNT, warmup_examples=30,
        scaling_rule=rule,
    )  # fmt: skip
    model, weights = gradient_minus_one(rate), [0.0]
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: weights.append(float(model.weights[0][0, 0]))
    )

    fit(model, dataset, scheduler, note)

    sizes = np.array(flat(reference()))
    seen = np.cumsum(sizes) - sizes
    expected = value(
        make_family("cosine"), seen.astype(float), learning_rate=0.5, batch_size=4,
        total_examples=EPOCHS * COUNT, warmup_examples=30, ops=np,
    )  # fmt: skip
    ratio = sizes / 4
    expected *= {"none": 1, "linear": ratio, "square_root": ratio**0.5}[rule]
    np.testing.assert_allclose(np.diff(weights), expected, rtol=1e-4, atol=1e-6)


def test_learning_rates_inside_one_execution_are_those_outside():
    def weight(execution):
        scheduler = BatchSizeScheduler(SIZES)
        dataset = scheduler.dataset(ONES, ONES)
        rate = scheduler.learning_rate(
            "linear", learning_rate=0.5, total_examples=EPOCHS * COUNT, scaling_rule="linear"
        )
        model = gradient_minus_one(rate, steps_per_execution=execution)
        fit(model, dataset, scheduler)
        return float(model.weights[0][0, 0])

    assert weight(1) == weight(5)


def test_the_schedule_with_batch_sizes_comes_back_from_json():
    rate = BatchSizeScheduler(SIZES).learning_rate(
        "cosine", learning_rate=0.5, total_examples=250, scaling_rule="linear",
        examples_per_epoch=COUNT,
    )  # fmt: skip
    config = json.loads(json.dumps(rate.get_config()))

    again = LearningRateInExamples.from_config(config)

    assert config["batch_size"] == [[0, 4], [50, 8], [125, 16], [200, 3]]
    assert config["piece_factors"] == [1, 2, 4, 0.75]
    assert again.get_config() == config
    assert [float(again(step)) for step in range(40)] == [float(rate(step)) for step in range(40)]


def test_a_schedule_that_counts_other_examples_is_refused():
    scheduler = BatchSizeScheduler(SIZES)
    dataset = scheduler.dataset(ONES, ONES)
    rate = LearningRateInExamples("cosine", learning_rate=0.5, batch_size=4, total_examples=250)

    with pytest.raises(InputError, match=r"scheduler\.learning_rate"):
        fit(gradient_minus_one(rate), dataset, scheduler)


def test_a_schedule_of_one_of_several_optimizers_that_counts_other_examples_is_refused_too():
    scheduler = BatchSizeScheduler(SIZES)
    dataset = scheduler.dataset(ONES, ONES)
    rate = LearningRateInExamples("cosine", learning_rate=0.5, batch_size=99, total_examples=250)

    with pytest.raises(InputError, match=r"scheduler\.learning_rate"):
        fit(gradient_minus_one(rate, several=True), dataset, scheduler)


def test_piece_factors_must_fit_the_pieces():
    with pytest.raises(InputError, match="`piece_factors`"):
        LearningRateInExamples(
            "constant", learning_rate=1, batch_size=[[0, 4], [9, 8]], total_examples=50,
            piece_factors=[1.0],
        )  # fmt: skip


@pytest.mark.slow
def test_a_keras_tuner_search_trains_with_the_changing_batch(tmp_path):
    """It copies the callbacks for each execution."""
    seen: list[list[int]] = []

    def build(hp):
        inputs = keras.Input((1,))
        model = keras.Model(inputs, keras.layers.Dense(1)(Seen(seen)(inputs)))
        rate = hp.Float("learning_rate", 1e-7, 1e-6)
        model.compile(keras.optimizers.SGD(rate), loss="mse")
        return model

    tuner = keras_tuner.RandomSearch(
        build, objective="loss", max_trials=1, executions_per_trial=2, directory=tmp_path, seed=1
    )
    scheduler = BatchSizeScheduler(SIZES)

    tuner.search(
        scheduler.dataset(X, X), epochs=EPOCHS, callbacks=[scheduler], verbose=0, shuffle=False
    )

    assert seen == 2 * cut(order(EPOCHS + 1), flat(reference()))


TWO_REPLICAS = """
    import json, warnings
    import tensorflow as tf
    warnings.simplefilter("ignore")
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    import keras, numpy as np
    from tfbatch.callbacks import BatchSizeScheduler
    from tfbatch.errors import InputError

    x = np.random.default_rng(1).normal(size=(48, 3)).astype("float32")

    def trained(strategy, sizes):
        keras.utils.set_random_seed(1)
        scheduler = BatchSizeScheduler(sizes)
        dataset = scheduler.dataset(x, x[:, :1])
        rate = scheduler.learning_rate("linear", learning_rate=0.1, total_examples=144)
        with strategy.scope():
            model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
            model.compile(keras.optimizers.SGD(rate), "mse")
        history = model.fit(dataset, epochs=3, callbacks=[scheduler], verbose=0, shuffle=False)
        weights = model.get_weights()[0].ravel().tolist()
        updates = int(keras.ops.convert_to_numpy(model.optimizer.iterations))
        return weights, updates, history.history["batch_size"]

    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    sizes = {0: 4, 1: 8, 2: 16}
    found = {"one": trained(tf.distribute.get_strategy(), sizes), "two": trained(two, sizes)}
    try:
        with two.scope():
            BatchSizeScheduler(sizes).dataset(x)
    except InputError as error:
        found["inside"] = str(error)
    try:
        trained(two, {0: 4, 1: 7})
    except InputError as error:
        found["uneven"] = str(error)
    print(json.dumps(found))
"""


@pytest.mark.slow
def test_two_replicas_share_each_batch():
    done = run_warm("-c", textwrap.dedent(TWO_REPLICAS))
    found = json.loads(done.stdout.splitlines()[-1])

    assert found["one"][1:] == found["two"][1:] == [12 + 6 + 3, [4, 8, 16]]
    np.testing.assert_allclose(found["one"][0], found["two"][0], rtol=1e-5)
    assert "multiple of the number of replicas, 2" in found["uneven"]
    assert "outside of `strategy.scope()`" in found["inside"]


# The adaptive one


def adaptive(*scales, **arguments):
    """One whose noise scale is given for each epoch."""
    left = iter(scales)
    return AdaptiveBatchSize(
        lambda: next(left), **{"batch_size": 4, "max_batch_size": 32, "patience": 2, **arguments}
    )


def test_the_batch_grows_after_so_many_measurements_above_it_and_never_beyond_the_bound():
    scales = [9, 1, 9, 9, 9, 9, None, float("nan"), 17, 99, 99, 99, 99, 99]
    callback, (model, seen) = adaptive(*scales, max_batch_size=16), recording()

    history = fit(model, callback.dataset(X, X), callback, epochs=len(scales)).history

    expected = [4] * 4 + [8] * 2 + [16] * 8
    assert history["batch_size"] == expected
    sizes = dict(enumerate(expected))
    assert seen == cut(order(len(scales) + 1), flat(reference(sizes, epochs=len(scales))))
    assert int(model.optimizer.iterations) == len(seen)
    assert [(epoch, size) for epoch, _, size in callback.switches] == [(0, 4), (4, 8), (6, 16)]


def test_the_ratio_and_the_factor_are_used():
    callback, (model, _) = adaptive(13, 13, 13, ratio=3, patience=1, factor=4), recording()

    history = fit(model, callback.dataset(X, X), callback, epochs=3).history

    assert history["batch_size"] == [4, 16, 16]  # 13 > 3 * 4, and 13 < 3 * 16


def test_whole_sizes_and_factors_may_be_written_as_floats():
    callback, (model, _) = adaptive(9, 9, 9, patience=1, batch_size=4.0, factor=2.0), recording()
    history = fit(model, callback.dataset(X, X), callback, epochs=3).history
    assert history["batch_size"] == [4, 8, 16]
    assert [type(size) for _, _, size in callback.switches] == [int] * 3
    assert BatchSizeScheduler({0: 32.0})._possible_sizes(99) == [32]


def test_the_adaptive_one_begins_anew_or_goes_on_where_it_ended():
    callback, (model, seen) = adaptive(*[99] * 20, patience=1), recording()
    dataset = callback.dataset(X, X)

    first = fit(model, dataset, callback, epochs=2).history["batch_size"]
    on = fit(model, dataset, callback, epochs=4, initial_epoch=2).history["batch_size"]
    whole = list(seen)
    seen.clear()
    anew = fit(model, dataset, callback, epochs=4).history["batch_size"]

    assert first + on == anew == [4, 8, 16, 32]
    assert seen == whole


def test_the_learning_rate_follows_the_adaptive_batch_by_the_rule():
    callback = adaptive(99, 99, 99, patience=1, scaling_rule="square_root")
    model = gradient_minus_one(0.5)
    rates: list[float] = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: rates.append(float(model.optimizer.learning_rate))
    )

    fit(model, callback.dataset(ONES, ONES), callback, note, epochs=3)

    np.testing.assert_allclose(rates, [0.5, 0.5 * 2**0.5, 1.0], rtol=1e-6)


class Meter(keras.callbacks.Callback):  # type: ignore[misc]
    """A callback that measures, as GradientNoiseScale does."""

    estimate: Any = None

    def on_epoch_end(self, epoch, logs=None):
        self.estimate = type("NoiseScale", (), {"noise_scale": 99.0})


def test_a_callbacks_estimate_is_read_and_one_left_out_of_fit_is_refused():
    meter, (model, _) = Meter(), recording()
    callback = AdaptiveBatchSize(meter, batch_size=4, max_batch_size=16, patience=1)
    dataset = callback.dataset(X, X)
    copied = copy.deepcopy([meter, callback])  # together, as KerasTuner does

    with pytest.raises(InputError, match="must be in `fit` too"):
        fit(model, dataset, callback)
    assert fit(model, dataset, *copied, epochs=3).history["batch_size"] == [4, 8, 16]


class Estimates(keras.callbacks.Callback):  # type: ignore[misc]
    """Gives (lower end, noise scale, measurements so far) of each epoch."""

    def __init__(self, *found):
        super().__init__()
        self.found, self.measurements = found, 0
        self.estimate: Any = None

    def on_epoch_end(self, epoch, logs=None):
        low, scale, self.measurements = self.found[epoch]
        interval = Interval(low, float("inf"))
        self.estimate = type("NoiseScale", (), {"noise_scale": scale, "interval": interval})


def test_an_uncertain_noise_scale_counts_by_its_lower_end():
    inf, nan = float("inf"), float("nan")
    found = [(0, 99, 2), (3, 99, 4), (nan, 99, 5), (5, inf, 6), (7, 99, 8), (9, 99, 9)]
    noise, (model, _) = Estimates(*found), recording()
    callback = AdaptiveBatchSize(noise, batch_size=4, max_batch_size=16, patience=1)

    history = fit(model, callback.dataset(X, X), noise, callback, epochs=6).history

    assert history["batch_size"] == [4, 4, 4, 4, 8, 8]  # 5 > 4; 9 > 8 would be next
    assert callback.batch_size == 16


def test_an_epoch_without_a_new_measurement_is_not_counted():
    noise, (model, _) = Estimates(*[(9, 9, n) for n in (3, 3, 3, 4, 4)]), recording()
    callback = AdaptiveBatchSize(noise, batch_size=4, max_batch_size=8, patience=2)

    history = fit(model, callback.dataset(X, X), noise, callback, epochs=5).history

    assert history["batch_size"] == [4, 4, 4, 4, 8]


def test_batches_too_small_to_be_measured_are_refused_before_training():
    noise, (model, _) = GradientNoiseScale(micro_batches=8), recording()
    callback = AdaptiveBatchSize(noise, batch_size=4, max_batch_size=8)

    with pytest.raises(InputError, match=r"batch_size=4, micro_batches=8\. Give Grad"):
        fit(model, callback.dataset(X, X), noise, callback, epochs=1)


@pytest.mark.slow
def test_the_noise_is_measured_after_each_switch_too():
    """Without data of its own: the batches are those of the training, whose size has changed."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(512, 4)).astype("float32"), random.normal(size=(512, 1))
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), loss="mse")
    noise = GradientNoiseScale(interval=1)
    callback = AdaptiveBatchSize(
        lambda: 99.0 if noise.measurements else None, batch_size=8, max_batch_size=64, patience=1
    )
    counts: list[int] = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: counts.append(noise.measurements)
    )

    history = fit(model, callback.dataset(x, y), noise, callback, note, epochs=5).history

    assert history["batch_size"] == [8, 16, 32, 64, 64]
    assert np.diff([0, *counts]).tolist() == [63, 31, 15, 7, 8]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"max_batch_size": 2}, "batch_size <= max_batch_size"),
        ({"factor": 1}, "`factor`"),
        ({"factor": 2.5}, "`factor` must be a whole number. Received: 2.5"),
        ({"factor": float("inf")}, "`factor` must be a whole number"),
        ({"batch_size": 4.5}, "`batch_size` must be a whole number. Received: 4.5"),
        ({"ratio": 0}, "`ratio`"),
        ({"patience": 0}, "`patience`"),
        ({"scaling_rule": "lineer"}, "Did you mean `linear`"),
    ],
)
def test_bad_arguments_of_the_adaptive_one_are_refused(arguments, text):
    with pytest.raises(InputError, match=text):
        adaptive(**arguments)


def test_schedules_that_the_adaptive_one_cannot_follow_are_refused():
    rate = LearningRateInExamples("cosine", learning_rate=0.5, batch_size=4, total_examples=250)
    callback = adaptive()
    with pytest.raises(InputError, match="LearningRateScheduler"):
        fit(gradient_minus_one(rate), callback.dataset(ONES, ONES), callback)
    callback = adaptive(scaling_rule="linear")
    with pytest.raises(InputError, match="cannot change the learning rate"):
        fit(
            gradient_minus_one(keras.optimizers.schedules.CosineDecay(1.0, 9)),
            callback.dataset(ONES, ONES),
            callback,
        )
    callback = adaptive(scaling_rule="linear")
    with pytest.raises(InputError, match=r"rule linear must .* one learning rate to change"):
        fit(gradient_minus_one(0.5, several=True), callback.dataset(ONES, ONES), callback)
    with pytest.raises(InputError, match="an `estimate`"):
        AdaptiveBatchSize(3.0, max_batch_size=64)


@pytest.mark.parametrize("part", ["warm-up", "factors"])
def test_a_constant_schedule_that_counts_the_examples_of_updates_is_refused_too(part):
    more = {
        "warm-up": {"batch_size": 4, "warmup_examples": 30},
        "factors": {"batch_size": [[0, 4], [50, 8]], "piece_factors": [1.0, 2.0]},
    }[part]
    rate = LearningRateInExamples("constant", learning_rate=0.5, total_examples=250, **more)
    callback = adaptive()

    with pytest.raises(InputError, match="Received: the schedule constant, warmup_examples="):
        fit(gradient_minus_one(rate), callback.dataset(ONES, ONES), callback)


def test_a_schedule_that_counts_updates_is_told_of_where_the_batch_may_grow(monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(logging, "warning", lambda text, *parts: told.append(text % parts))
    rate = keras.optimizers.schedules.CosineDecay(0.5, 9)

    for most in (4, 8):
        callback = adaptive(1, max_batch_size=most)
        fit(gradient_minus_one(rate), callback.dataset(ONES, ONES), callback, epochs=1)

    assert len(told) == 1, "a batch of 4 cannot grow to 8 where 4 is the most"
    assert told[0].startswith("CosineDecay counts updates, of which an epoch has fewer once the")


def test_several_optimizers_train_with_a_batch_that_grows_at_constant_rates():
    callback = adaptive(99, 99, patience=1)
    model = gradient_minus_one(0.5, several=True)

    history = fit(model, callback.dataset(ONES, ONES), callback, epochs=2).history

    assert history["batch_size"] == [4, 8]


def test_another_object_that_begins_anew_tells_the_size_and_the_rate_it_begins_at(monkeypatch):
    """After keras.callbacks.BackupAndRestore the rate is still multiplied, and the size is not."""
    told: list[str] = []
    monkeypatch.setattr(logging, "warning", lambda text, *parts: told.append(text % parts))
    model = gradient_minus_one(0.25)
    first, second = (adaptive(*[99] * 4, patience=1, scaling_rule="linear") for _ in range(2))
    fit(model, first.dataset(ONES, ONES), first, epochs=2)
    assert told == []

    fit(model, second.dataset(ONES, ONES), second, epochs=3, initial_epoch=2)

    (warning,) = told
    assert "begins anew at epoch 2 with batch size 4, at the learning rate 1." in warning


# What Keras does, so that a release that changes it is noticed


def test_trap_24_a_dataset_of_unknown_length_adds_a_phantom_iteration():
    model, seen = recording()
    dataset = tf.data.Dataset.from_tensor_slices((X, X)).batch(5).filter(lambda *_: True)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(model, dataset, epochs=1)

    assert int(model.optimizer.iterations) == len(seen) + 1 == 11


def test_trap_25_a_variable_read_within_an_epoch_lags_by_the_prefetched_batches():
    """Why the sizes of an epoch are told before it, and not one after the other."""
    size = tf.Variable(5, dtype=tf.int64)
    made = []

    def batch(number):
        made.append(int(number))
        return np.ones((int(size), 1), "float32")

    dataset = (
        tf.data.Dataset.range(10)
        .map(lambda n: tf.ensure_shape(tf.numpy_function(batch, [n], tf.float32), [None, 1]))
        .prefetch(4)
        .map(lambda x: (x, x))
    )
    sizes = []
    for number, (x, _) in enumerate(dataset):
        sizes.append(len(x))
        if number == 2:
            wait_until(lambda: len(made) >= 7)  # the prefetcher fills its buffer
            size.assign(7)

    assert sizes[:3] == [5] * 3
    assert sizes[3:7] == [5] * 4
    assert sizes[-1] == 7


def digits(examples):
    """In place of the script's own images: no download, and small."""
    images, labels = load_digits(return_X_y=True)
    return images.reshape(-1, 8, 8, 1)[:examples].astype("float32") / 16, labels[:examples]


@pytest.mark.slow
def test_the_example_grows_its_batch_and_takes_fewer_updates(capsys):
    """Without the callback its dataset cannot be trained on, and there is no `batch_size`."""
    path = Path(__file__).parents[1] / "examples" / "batch_growth.py"
    main = runpy.run_path(str(path))["main"]
    main.__globals__["load"] = digits

    found = main(epochs=4, examples=600, batch_size=10)

    decay, growth = found["learning rate decays"], found["batch grows"]
    assert decay.batch_sizes == [10] * 4
    assert growth.batch_sizes == [10, 10, 40, 160]
    assert (decay.updates, growth.updates) == (200, 50 + 50 + 13 + 3)
    assert decay.loss < 1.5
    assert growth.loss < 1.5
    assert "116 updates" in capsys.readouterr().out


def test_an_adaptive_fit_that_begins_anew_begins_at_the_learning_rate_it_found():
    callback = adaptive(*[99] * 12, max_batch_size=16, patience=1, scaling_rule="linear")
    model, dataset = gradient_minus_one(0.25), callback.dataset(ONES, ONES)
    seen: list[tuple[float, int]] = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(
            (float(model.optimizer.learning_rate), callback.switches[-1][2])
        )
    )

    def trained(epochs, initial_epoch=0):
        seen.clear()
        fit(model, dataset, note, callback, epochs=epochs, initial_epoch=initial_epoch)
        return list(seen)

    assert trained(3) == [(0.25, 4), (0.5, 8), (1.0, 16)]
    assert trained(2) == [(0.25, 4), (0.5, 8)]
    assert trained(4, initial_epoch=2) == [(1.0, 16), (1.0, 16)]  # goes on
    assert trained(1) == [(0.25, 4)]
    model.optimizer.learning_rate = 2.0  # a learning rate of one's own is left alone
    assert trained(2) == [(2.0, 4), (4.0, 8)]


def test_growth_with_an_optimizer_that_accumulates_goes_on_without_a_false_warning(monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(logging, "warning", lambda text, *parts: told.append(text % parts))
    scheduler = BatchSizeScheduler(SIZES)
    rate = scheduler.learning_rate(
        "cosine", learning_rate=0.1, total_examples=4 * len(ONES), examples_per_epoch=len(ONES)
    )
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(rate, gradient_accumulation_steps=2), loss="mse")
    dataset = scheduler.dataset(ONES, ONES)

    fit(model, dataset, scheduler, epochs=2)
    fit(model, dataset, scheduler, epochs=3, initial_epoch=2)

    assert told == []
