"""A traced program that serves many trials gives what each would give alone."""

from __future__ import annotations

import dataclasses
import gc
import math
import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from contexts import context_of

from tfbatch import optimizers
from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.models import resnet, small_cnn
from tfbatch.pipeline import PreparedData
from tfbatch.request.search_config import has_own_warmup
from tfbatch.schedules import SCHEDULES, LearningRateInExamples, follow_momentum
from tfbatch.schema import Named
from tfbatch.training.checkpoint import state
from tfbatch.training.evaluation import evaluate, evaluate_weights
from tfbatch.training.in_graph import (
    InGraphMomentum,
    InGraphNumber,
    LearningRateTable,
    tabulate,
    tabulate_momentum,
)
from tfbatch.training.program_cache import MOST_PROGRAMS, ProgramCache
from tfbatch.training.structure import reusable
from tfbatch.training.trial import fit, run_trial
from tfbatch.training.workload import Workload
from tfbatch.trial.outcome import TrialSpec

SGD = Named(name="sgd", momentum=0.9)
SPEC = TrialSpec(
    trial="search-0001",
    phase="search",
    seed=11,
    configuration=Configuration(
        batch_size=24,  # 542 / 24: the last update has fewer examples, the last execution steps
        base_learning_rate=0.05,
        warmup_fraction=0.1,
        schedule=Named(name="cosine", final_fraction=0.1),
        optimizer=SGD,
    ),
    total_examples=542,
    num_examples=1085,
)


@dataclasses.dataclass(frozen=True)
class Trained:
    """Everything that a training leaves."""

    history: dict[str, list[float]]
    variables: list[np.ndarray]
    test: dict[str, float]


def change(spec=SPEC, *, seed=None, **configuration):
    total_examples = configuration.pop("total_examples", spec.total_examples)
    return dataclasses.replace(
        spec,
        seed=seed or spec.seed,
        total_examples=total_examples,
        configuration=spec.configuration.model_copy(update=configuration),
    )


def others(optimizer=SGD):
    """Trials that differ in everything from SPEC, one shorter and one longer than it."""
    return [
        change(
            seed=5,
            batch_size=8,
            base_learning_rate=0.01,
            schedule=Named(name="wsd"),
            optimizer=optimizer,
            total_examples=1200,
        ),
        change(
            seed=6, batch_size=130, warmup_fraction=0.0, optimizer=optimizer, total_examples=260
        ),
    ]


def train(model, workload, spec):
    history = fit(
        model,
        workload,
        workload.derive(spec.configuration, spec.total_examples),
        seed=spec.seed,
        callbacks=[],
    )
    test = evaluate(model, workload, "test")
    return Trained(history.history, [v.numpy() for v in state(model)], test)


def train_with(programs, spec):
    model = programs.begin(spec.configuration, total_examples=spec.total_examples, seed=spec.seed)
    return train(model, programs.workload, spec)


def train_plainly(workload, spec):
    model = workload.compiled(
        spec.configuration, total_examples=spec.total_examples, seed=spec.seed
    )
    return train(model, workload, spec)


def assert_same(got, expected):
    assert got.history == expected.history
    assert got.test == expected.test
    for one, other in zip(got.variables, expected.variables, strict=True):
        np.testing.assert_array_equal(one, other)


def assert_close(got, expected, *, rtol=1e-5):
    for name, values in expected.history.items():
        assert got.history[name] == pytest.approx(values, rel=10 * rtol)
    assert got.test == pytest.approx(expected.test, rel=10 * rtol)
    for one, other in zip(got.variables, expected.variables, strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol * max(abs(other).max(), 1e-6))


@pytest.fixture(scope="module")
def data(digits):
    """The digits, evaluated in several batches, as larger data always are."""
    own = PreparedData(digits.recipe, digits.folder)
    whole = own.evaluation
    own.evaluation = lambda split: whole(split, batch_size=64)  # type: ignore[method-assign]
    return own


@pytest.fixture(scope="module")
def workload(data):
    return Workload(data, dense)


@pytest.fixture(autouse=True)
def float32():
    yield
    keras.config.set_dtype_policy("float32")


def through(*hidden):
    """A builder of a model with layers between the flattened image and the logits."""

    def build(input_shape, num_classes):
        inputs = keras.Input(input_shape)
        x = keras.layers.Flatten()(inputs)
        for make in hidden:
            x = make()(x)
        return keras.Model(inputs, keras.layers.Dense(num_classes)(x))

    return build


def hidden_layer():
    return keras.layers.Dense(12, activation="relu")


dense = through(hidden_layer)


def adapted():
    layer = keras.layers.Normalization()
    layer.adapt(np.random.default_rng(3).normal(1.0, 2.0, (50, 64)).astype(np.float32))
    return layer


def pretrained():
    """A frozen part with other weights in every trial: drawn under the trial's seed."""
    layer = keras.layers.Dense(20, activation="tanh")
    layer.build((None, 64))
    layer.set_weights([np.random.normal(size=(64, 20)), np.random.normal(size=20)])
    layer.trainable = False
    return layer


def embedded(input_shape, num_classes):
    """Pixels as words, in a frozen embedding that every trial draws anew."""
    inputs = keras.Input(input_shape)
    words = keras.ops.cast(keras.ops.clip(2 * inputs + 4, 0, 9), "int32")
    x = keras.layers.Embedding(10, 3, trainable=False)(keras.layers.Flatten()(words))
    return keras.Model(inputs, keras.layers.Dense(num_classes)(keras.layers.Flatten()(x)))


def augmented(input_shape, num_classes):
    inputs = keras.Input(input_shape)
    x = keras.layers.RandomTranslation(0.2, 0.2)(keras.layers.RandomFlip("horizontal")(inputs))
    x = keras.layers.GaussianNoise(0.1)(x)
    return keras.Model(inputs, keras.layers.Dense(num_classes)(keras.layers.Flatten()(x)))


def tiny_resnet(input_shape, num_classes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet, "_BLOCKS", 1)
        patch.setattr(resnet, "_WIDTHS", (4, 6))
        return resnet.build(input_shape, num_classes)


def some_slow(names, *, quick):
    """Each is traced three times and more."""
    return [pytest.param(n, marks=[] if n in quick else [pytest.mark.slow]) for n in names]


def compiled(input_shape, num_classes):
    """As builders for KerasTuner are written."""
    model = dense(input_shape, num_classes)
    model.compile(
        optimizer=keras.optimizers.SGD(0.1, momentum=0.5),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(3, name="top_3")],
    )
    return model


MODELS = {
    "compiled": compiled,
    "small_cnn": small_cnn.build,
    "resnet": tiny_resnet,
    "dropout": through(hidden_layer, lambda: keras.layers.Dropout(0.3)),
    "batch normalization": through(hidden_layer, keras.layers.BatchNormalization),
    "adapted": through(adapted, hidden_layer),
    "pretrained": through(pretrained),
    "embedded": embedded,
    "augmented": augmented,
}


QUICK_MODELS = ("batch normalization",)


@pytest.mark.parametrize("name", some_slow(MODELS, quick=QUICK_MODELS))
def test_a_reused_program_trains_each_model_as_a_fresh_one(data, name):
    workload = Workload(data, MODELS[name])
    programs = ProgramCache(workload)
    for spec in others():
        train_with(programs, spec)
    got = train_with(programs, SPEC)

    assert programs.traced == 1
    assert_same(got, train_with(ProgramCache(workload), SPEC))
    # Batch normalization of a few examples magnifies the last bits.
    assert_close(got, train_plainly(workload, SPEC), rtol=1e-3 if name == "resnet" else 1e-5)


def written(name, share, **shared):
    """Every number of an optimizer, and what all optimizers share, changed by a share."""
    defaults = optimizers.OPTIMIZERS.load(name).PARAMETERS
    numbers = {k: v * share for k, v in defaults.items() if isinstance(v, float)}
    if "weight_decay" in defaults:
        numbers["weight_decay"] = 0.1 * share
    return Named(name=name, **numbers, **shared)


def switches():
    """Each optimizer with each of its switches turned."""
    for name in optimizers.OPTIMIZERS.names():
        parameters = optimizers.OPTIMIZERS.load(name).PARAMETERS
        for key, default in parameters.items():
            if isinstance(default, bool):
                turned = Named(name=name, **{key: not default})
                yield pytest.param(turned, id=f"{name} {key}", marks=pytest.mark.slow)


@pytest.mark.parametrize("name", some_slow(optimizers.OPTIMIZERS.names(), quick=()))
def test_every_number_of_every_optimizer_is_a_variable_of_the_graph(workload, name):
    rate = optimizers.OPTIMIZERS.load(name).BASE_LEARNING_RATE[0] * 3
    spec = change(
        optimizer=written(name, 0.9, global_clipnorm=0.5, ema_half_life_fraction=0.1),
        base_learning_rate=rate,
    )
    programs = ProgramCache(workload)
    for other in others(written(name, 0.7, global_clipnorm=2.0, ema_half_life_fraction=0.05)):
        train_with(programs, other)
    got = train_with(programs, spec)

    assert programs.traced == 1
    assert_close(got, train_plainly(workload, spec), rtol=1e-4)


@pytest.mark.parametrize("optimizer", list(switches()))
def test_a_switch_of_an_optimizer_is_part_of_the_graph(workload, optimizer):
    programs = ProgramCache(workload)
    for other in others(Named(name=optimizer.name)):
        train_with(programs, other)
    spec = change(optimizer=optimizer, base_learning_rate=0.003)
    got = train_with(programs, spec)

    assert programs.traced == 2
    assert_same(got, train_with(ProgramCache(workload), spec))


# Those of no number or of a zero; `test_every_number_of_every_optimizer` has all the others.
SGDS = [{"momentum": 0.0}, {"momentum": 0.5, "weight_decay": 0.01}, {}]
ADAMS = [{"beta_1": 0.0}]
ADAMWS = [*ADAMS, {"weight_decay": 0.0}]
OPTIMIZERS = {
    f"{name} {arguments}": Named(name=name, **arguments)
    for name, cases in {"sgd": SGDS, "adam": ADAMS, "adamw": ADAMWS}.items()
    for arguments in cases
}


@pytest.mark.parametrize("name", some_slow(OPTIMIZERS, quick=()))
def test_a_reused_program_trains_with_each_optimizer_as_a_fresh_one(workload, name):
    """The trials before have other numbers, but for those that are zero."""
    optimizer = OPTIMIZERS[name]
    number = {k: v * 0.7 for k, v in optimizer.arguments.items()}
    if optimizer.name == "sgd":
        number.setdefault("momentum", 0.3)
    else:
        number.setdefault("beta_1", 0.7)
    rate = 0.05 if optimizer.name == "sgd" else 0.003
    spec = change(optimizer=optimizer, base_learning_rate=rate)
    programs = ProgramCache(workload)
    for other in others(Named(name=optimizer.name, **number)):
        train_with(programs, other)
    got = train_with(programs, spec)

    assert programs.traced == 1
    assert_same(got, train_with(ProgramCache(workload), spec))
    assert_close(got, train_plainly(workload, spec))


@pytest.mark.slow
def test_zero_is_part_of_the_graph(workload):
    """A momentum of zero has no slots."""
    programs = ProgramCache(workload)
    for number in (0.9, 0.0, 0.8, 0.0):
        spec = change(optimizer=Named(name="sgd", momentum=number))
        assert_same(train_with(programs, spec), train_with(ProgramCache(workload), spec))

    assert programs.traced == 2


@pytest.mark.slow
def test_without_reuse_every_trial_is_traced_and_comes_to_the_same(workload):
    programs = ProgramCache(workload, reuse=False)
    first, second = (train_with(programs, SPEC) for _ in range(2))

    assert programs.traced == 2
    assert_same(first, second)
    assert_same(first, train_with(ProgramCache(workload), SPEC))


TRACES: list[bool] = []


@reusable
@keras.saving.register_keras_serializable("tfbatch_tests")
class NotesTraces(keras.layers.Layer):
    """Its Python runs when a graph is made, and at no other time."""

    def call(self, x, training=False):
        if not isinstance(x, keras.KerasTensor) and not tf.executing_eagerly():
            TRACES.append(training)
        return x


@pytest.mark.slow
def test_one_trace_serves_all_batch_sizes_schedules_and_rates(data):
    programs = ProgramCache(Workload(data, through(hidden_layer, NotesTraces)))
    traces = traces_of(programs, SPEC)
    assert True in traces
    assert False in traces
    for number, family in enumerate(SCHEDULES.names()):
        spec = change(
            seed=number + 1,
            batch_size=(1, 7, 64, 512)[number % 4],
            base_learning_rate=0.001 * (number + 1),
            schedule=Named(name=family),
            warmup_fraction=0.0 if has_own_warmup(family) else 0.1,
            total_examples=(20, 300, 1200, 1100)[number % 4],
        )
        assert traces_of(programs, spec) == []

    assert programs.traced == 1


def traces_of(programs, spec):
    """What is traced after the trial's own build: whether in training."""
    model = programs.begin(spec.configuration, total_examples=spec.total_examples, seed=spec.seed)
    TRACES.clear()
    train(model, programs.workload, spec)
    return list(TRACES)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(512, 8), (8, 512)], ids=["more at once", "fewer at once"])
def test_validation_is_of_the_whole_split_whatever_was_executed_at_once(workload, sizes):
    """Keras's own test function keeps the number of steps that it was traced with."""
    programs = ProgramCache(workload)
    train_with(programs, change(batch_size=sizes[0]))
    seen: list[int] = []

    class Count(keras.callbacks.Callback):
        def on_test_batch_end(self, batch, logs=None):
            seen.append(batch)

    spec = change(batch_size=sizes[1])
    model = programs.begin(spec.configuration, total_examples=spec.total_examples, seed=1)
    batches = list(workload.data.evaluation("validation"))
    got = model.evaluate(
        workload.data.evaluation("validation"), verbose=0, return_dict=True, callbacks=[Count()]
    )
    logits = np.concatenate([model(x).numpy() for x, _ in batches])
    labels = np.concatenate([y for _, y in batches])
    losses = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)

    assert programs.traced == 1
    assert got["loss"] == pytest.approx(float(np.mean(losses)), rel=1e-5)
    assert got["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).mean()))
    assert len(seen) == math.ceil(len(batches) / model.steps_per_execution)


@pytest.mark.slow
def test_predictions_work_whatever_was_executed_at_once(workload):
    """A user's callback may ask for them."""
    programs = ProgramCache(workload)
    x = np.concatenate([x for x, _ in workload.data.evaluation("validation")])
    for size in (512, 8, 512):
        spec = change(batch_size=size)
        model = programs.begin(spec.configuration, total_examples=542, seed=1)
        found = model.predict(x, batch_size=100, verbose=0)
        np.testing.assert_allclose(found, model(x).numpy(), rtol=1e-4, atol=1e-5)


class Spoil(keras.callbacks.Callback):
    """Leaves a model as no trial may find it."""

    def on_train_batch_end(self, batch, logs=None):
        for variable in [*self.model.variables, *self.model.optimizer.variables]:
            variable.assign(keras.ops.ones_like(variable) * 3)


class Fail(keras.callbacks.Callback):
    """Fails inside an epoch."""

    def on_train_batch_end(self, batch, logs=None):
        raise RuntimeError("a user's callback")


class FailInValidation(keras.callbacks.Callback):
    """Fails while Keras keeps an iterator of the validation split."""

    def on_test_batch_end(self, batch, logs=None):
        raise RuntimeError("a user's callback")


BAD = {
    "spoiled": ({"user_callbacks": lambda: [Spoil()]}, {}, "completed"),
    "failed": ({"user_callbacks": lambda: [Fail()]}, {}, "error"),
    "failed in validation": ({"user_callbacks": lambda: [FailInValidation()]}, {}, "error"),
    "interrupted": ({"stop_requested": lambda: True}, {"total_examples": 5000}, "interrupted"),
    "diverged": ({}, {"base_learning_rate": 1e30, "total_examples": 5000}, "diverged"),
}


@pytest.mark.parametrize("kind", some_slow(BAD, quick=()))
def test_a_bad_trial_leaves_nothing_behind(data, kind):
    options, changes, status = BAD[kind]
    if kind == "spoiled":
        changes = {**changes, "optimizer": SGD}
    workload = Workload(
        data,
        through(hidden_layer, keras.layers.BatchNormalization, lambda: keras.layers.Dropout(0.2)),
    )
    programs = ProgramCache(workload)
    run_trial(programs, others()[0])
    bad = run_trial(programs, change(seed=9, **changes), **options)

    assert bad.status == status, bad.message
    assert_same(train_with(programs, SPEC), train_with(ProgramCache(workload), SPEC))


def test_a_program_is_as_new_when_it_begins(workload):
    programs = ProgramCache(workload)
    train_with(programs, others()[0])
    model = programs.begin(SPEC.configuration, total_examples=542, seed=11)
    fresh = workload.build(11)

    assert not model.stop_training
    assert int(model.optimizer.iterations) == 0
    assert all(float(np.abs(v).max()) == 0 for v in model.optimizer.variables)
    assert all(float(np.abs(v).max()) == 0 for v in model.metrics_variables)
    for own, value in zip(model.weights, fresh.weights, strict=True):
        np.testing.assert_array_equal(own, value)
    derived = workload.derive(SPEC.configuration, 542)
    assert model.steps_per_execution == derived.steps_per_execution
    assert float(model.optimizer.learning_rate) == pytest.approx(0.05 * 24 / 32 * 24 / 54)


@pytest.mark.slow
def test_a_model_saved_by_a_callback_has_the_trials_own_optimizer(workload, tmp_path):
    programs = ProgramCache(workload)
    train_with(programs, others()[0])
    train_with(programs, SPEC)
    model = programs.begin(
        change(optimizer=Named(name="sgd", momentum=0.7)).configuration, total_examples=542, seed=1
    )
    model.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras")

    assert programs.traced == 1
    assert loaded.optimizer.momentum == 0.7
    assert loaded.optimizer.get_config()["learning_rate"]["config"]["family"] == "cosine"
    loaded.fit(np.zeros((8, 8, 8, 1)), np.zeros(8), verbose=0)


def builders():
    return [through(lambda n=n: keras.layers.Dense(n)) for n in range(3, 4 + MOST_PROGRAMS)]


@pytest.mark.slow
def test_the_program_used_least_recently_is_dropped_and_freed(data):
    workload = Workload(data, dense)
    programs = ProgramCache(workload)
    alive: dict[int, weakref.ref[Any]] = {}

    def begin(number):
        workload.build_model = builders()[number]
        spec = change(total_examples=100)
        model = programs.begin(spec.configuration, total_examples=100, seed=1)
        train(model, workload, spec)
        alive.setdefault(number, weakref.ref(model))

    for number in range(MOST_PROGRAMS):
        begin(number)
    begin(0)  # so that the second one is the oldest
    assert programs.traced == MOST_PROGRAMS
    begin(MOST_PROGRAMS)
    gc.collect()

    assert [number for number, model in alive.items() if model() is None] == [1]
    begin(0)
    assert programs.traced == MOST_PROGRAMS + 1
    begin(1)
    assert programs.traced == MOST_PROGRAMS + 2
    programs.clear()
    gc.collect()
    assert all(model() is None for model in alive.values())


@pytest.mark.parametrize("precision", some_slow(["mixed_float16", "mixed_bfloat16"], quick=[]))
def test_mixed_precision_is_reused_exactly(data, precision):
    workload = Workload(data, dense, precision=precision)
    programs = ProgramCache(workload)
    model = programs.begin(SPEC.configuration, total_examples=542, seed=1)
    assert model.layers[2].compute_dtype == precision.removeprefix("mixed_")
    scaled = hasattr(model.optimizer, "inner_optimizer")
    assert scaled == (precision == "mixed_float16")
    for spec in others():
        train_with(programs, spec)
    got = train_with(programs, SPEC)

    assert programs.traced == 1
    assert_same(got, train_with(ProgramCache(workload), SPEC))
    assert_close(got, train_plainly(workload, SPEC), rtol=1e-3)


@pytest.mark.slow
def test_a_loss_scale_does_not_leak(data):
    """Halved by overflowing gradients of the trial before."""
    workload = Workload(data, dense, precision="mixed_float16")
    programs = ProgramCache(workload)
    train_with(programs, change(base_learning_rate=1e6))
    wild = programs.begin(SPEC.configuration, total_examples=542, seed=1)

    assert float(wild.optimizer.dynamic_scale) == wild.optimizer.initial_scale
    assert_same(train_with(programs, SPEC), train_with(ProgramCache(workload), SPEC))


@pytest.mark.slow
def test_loading_weights_leaves_a_loss_scaling_program_whole(data, tmp_path):
    workload = Workload(data, dense, precision="mixed_float16")
    programs = ProgramCache(workload)
    spec = dataclasses.replace(SPEC, weights_file=tmp_path / "a.weights.h5")
    outcome = run_trial(programs, spec)
    assert outcome.status == "completed", outcome.message
    assert spec.weights_file
    measured = evaluate_weights(
        context_of(programs), spec.configuration, spec.weights_file, split="validation", seed=3
    )

    assert measured["loss"] == pytest.approx(outcome.metrics["val_loss"], rel=1e-6)
    assert_same(train_with(programs, SPEC), train_with(ProgramCache(workload), SPEC))


@pytest.mark.slow
def test_xla_goes_the_same_way(data):
    compiled = Workload(data, dense, jit_compile=True)
    programs = ProgramCache(compiled)
    train_with(programs, change(batch_size=64, seed=2))
    got = train_with(programs, change(batch_size=100))

    assert programs.traced == 1
    assert_same(got, train_with(ProgramCache(compiled), change(batch_size=100)))
    assert_close(got, train_with(ProgramCache(Workload(data, dense)), change(batch_size=100)))


@pytest.mark.quick_cases("cosine-130")
@pytest.mark.parametrize(
    ("family", "warmup"),
    [(name, w) for name in SCHEDULES.names() for w in (0, 130) if not (w and has_own_warmup(name))],
)
def test_the_table_holds_what_the_schedule_gives_in_a_graph(family, warmup):
    total, batch_size = 2000, 7
    schedule = LearningRateInExamples(
        family,
        learning_rate=0.37,
        batch_size=batch_size,
        total_examples=total,
        warmup_examples=warmup,
    )
    steps = -(-total // batch_size)
    table = LearningRateTable()
    table.assign(tabulate(schedule, 3 * steps))  # a longer one before
    table.assign(tabulate(schedule, steps))
    step = tf.Variable(0, dtype=tf.int64)

    @tf.function(autograph=False)
    def both():
        return tf.cast(schedule(step), tf.float32), table(step)

    for number in range(steps):
        step.assign(number)
        called, read = both()
        assert called.numpy() == read.numpy()
    step.assign(10 * steps)
    assert both()[1].numpy() == tabulate(schedule, steps)[-1].numpy()


def test_trainings_of_other_lengths_have_tables_of_one_length():
    """XLA compiles a step anew for every other one; see the test of its compilations."""
    table, momentum = LearningRateTable(), InGraphMomentum(0.9, step=lambda: tf.constant(2))
    step = tf.Variable(0, dtype=tf.int64)

    def lengths():
        parts = (table._table, momentum._value, momentum._complement)
        return {part.numpy().size for part in parts}

    assert lengths() == {4096}
    for steps, length in ((3, 4096), (1, 4096), (100, 4096), (4096, 4096), (4097, 8192)):
        values = np.random.default_rng(steps).uniform(0.1, 0.9, steps).astype("float32")
        table.assign(tf.constant(values))
        momentum.assign_table(tf.constant(values))
        assert lengths() == {length}
        for number in {0, min(1, steps - 1), steps - 1}:
            step.assign(number)
            assert table(step).numpy() == values[number]
        for number in (steps, steps + 1, 100_000):
            step.assign(number)
            assert table(step).numpy() == values[-1]
        third = values[min(2, steps - 1)]
        assert (float(momentum), float(1 - momentum)) == (third, np.float32(1.0) - third)
    momentum.assign(0.95)
    table.assign(tf.constant([0.5]))
    assert lengths() == {4096}


TRAINS_TWICE = """
import pathlib, sys
import tiny_model
from tfbatch.configuration import Configuration
from tfbatch.pipeline import load_data
from tfbatch.schema import Named
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.workload import Workload

records, dumped, optimizer, schedule = sys.argv[1:]
workload = Workload(load_data("digits", records_dir=records), tiny_model.build, jit_compile=True)
programs = ProgramCache(workload)
configuration = Configuration(
    batch_size=32,
    base_learning_rate=0.01,
    optimizer=Named(name=optimizer),
    schedule=Named(name=schedule),
    warmup_fraction=0.0,
)
for steps in (4, 9):
    model = programs.begin(configuration, total_examples=32 * steps, seed=1)
    stream = workload.data.training(batch_size=32, seed=1, num_examples=32 * steps)
    model.fit(stream, steps_per_epoch=steps, verbose=0)
    print(len(list(pathlib.Path(dumped).glob("module_*.before_optimizations.txt"))))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "schedule"), [("adam", "cosine"), ("adam", "one_cycle")], ids=["rate", "momentum"]
)
def test_a_training_of_another_length_is_not_compiled_again(digits, tmp_path, optimizer, schedule):
    """XLA's key holds the length of every variable's value; it writes what it compiles."""
    dumped = tmp_path / "dumped"
    asked = [str(digits.folder.parent), str(dumped), optimizer, schedule]
    tests = str(Path(__file__).parent)
    found = subprocess.run(
        [sys.executable, "-c", TRAINS_TWICE, *asked],
        env={
            **os.environ,
            "XLA_FLAGS": f"--xla_dump_to={dumped} --xla_dump_hlo_as_text",
            "PYTHONPATH": os.pathsep.join([tests, *sys.path]),
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    first, second = map(int, found.stdout.split())
    assert first > 0
    assert second == first


def test_one_trace_makes_the_tables_of_all_schedules_of_a_form(monkeypatch):
    called = []
    call = LearningRateInExamples.__call__
    monkeypatch.setattr(
        LearningRateInExamples, "__call__", lambda self, t: called.append(self) or call(self, t)
    )
    monkeypatch.setattr("tfbatch.training.in_graph._TABLES", {})

    def table(n, **changes):
        numbers = {"learning_rate": 0.1 * n, "batch_size": n, "total_examples": 100 * n**2}
        schedule = LearningRateInExamples("wsd", **{**numbers, "warmup_examples": 9 * n, **changes})
        return tabulate(schedule, 100 * n).numpy()

    assert len({table(n)[-1] for n in (1, 2, 3, 4)}) == 4
    assert len(called) == 1
    without, from_above = table(2, warmup_examples=0), table(2, warmup_start=0.5)
    assert (without[0], from_above[0]) == pytest.approx((0.2, 0.1))
    assert table(2, parameters={"cooldown": 0.5})[120] < table(2)[120]
    assert len(called) == 4


def test_a_further_trial_of_a_structure_traces_nothing(workload, tmp_path, monkeypatch):
    """Whatever differs: its seed, sizes, rate and length. Keras's own builds are no traces."""
    programs, graphs = ProgramCache(workload), []
    graph = tf.__internal__.FuncGraph
    begin = graph.__init__

    def counted(self, name, *arguments, **options):
        graphs.append(name)
        begin(self, name, *arguments, **options)

    def run(name, spec):
        spec = dataclasses.replace(
            spec, log_dir=tmp_path / name, weights_file=tmp_path / f"{name}.weights.h5"
        )
        assert run_trial(programs, spec).status == "completed"

    run("first", SPEC)
    monkeypatch.setattr(graph, "__init__", counted)
    run("second", change(seed=5, batch_size=100, base_learning_rate=0.01, total_examples=300))
    assert [name for name in graphs if not name.startswith("scratch_graph")] == []


def test_a_momentum_in_a_program_is_bit_for_bit_the_native_one_and_so_is_one_minus_it():
    total, batch_size = 2000, 7
    schedule = LearningRateInExamples(
        "one_cycle", learning_rate=0.37, batch_size=batch_size, total_examples=total
    )
    optimizer = keras.optimizers.Adam(schedule, beta_1=0.9)
    native = follow_momentum(optimizer)
    steps = -(-total // batch_size)
    held = InGraphMomentum(0.9, step=lambda: optimizer.iterations)

    @tf.function(autograph=False)
    def both():
        return (
            keras.ops.cast(native, "float32"),
            1 - native,
            keras.ops.cast(held, "float32"),
            1 - held,
        )

    both()
    held.assign_table(tabulate_momentum(native.schedule, steps))  # after the trace
    for number in range(steps):
        optimizer.iterations.assign(number)
        called, called_complement, read, complement = (float(x) for x in both())
        assert (read, complement) == (called, called_complement)
    assert called != pytest.approx(0.9)
    held.assign(0.95)  # one for all steps again, its complement in float64 as Keras's own
    read, complement = (float(x) for x in both()[2:])
    assert (read, complement) == (np.float32(0.95), np.float32(1.0 - 0.95))


ONE_CYCLE = Named(name="one_cycle", momentum_at_peak=0.5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer", [Named(name="sgd", momentum=0.9), Named(name="adam")], ids=str
)
def test_a_schedules_momentum_is_the_trials_own_in_a_reused_program(workload, optimizer):
    """In turn with trials whose momentum is a number; it equals a fresh program and plain Keras."""
    programs = ProgramCache(workload)
    rate = {"optimizer": optimizer, "base_learning_rate": 0.005, "warmup_fraction": 0.0}
    cycle = change(schedule=ONE_CYCLE, **rate)
    other = change(schedule=Named(name="one_cycle", cycle_momentum=False), **rate)
    longer = change(schedule=ONE_CYCLE, **rate, batch_size=16, total_examples=700)
    trained = [train_with(programs, spec) for spec in (other, longer, cycle, other)]

    assert programs.traced == 1
    assert_same(trained[2], train_with(ProgramCache(workload), cycle))
    assert_close(trained[2], train_plainly(workload, cycle), rtol=1e-4)
    assert_same(trained[3], trained[0])
    assert trained[2].history["loss"] != pytest.approx(trained[3].history["loss"], rel=1e-3)


def test_a_schedules_momentum_needs_an_optimizer_that_has_one(workload):
    spec = change(
        schedule=ONE_CYCLE, optimizer=Named(name="sgd", momentum=0.0), warmup_fraction=0.0
    )
    with pytest.raises(InputError, match="The schedule one_cycle sets the momentum"):
        ProgramCache(workload).begin(spec.configuration, total_examples=542, seed=1)


def test_a_table_of_a_very_long_training_is_quick_and_close(monkeypatch):
    schedule = LearningRateInExamples(
        "cosine", learning_rate=0.37, batch_size=1, total_examples=150_000, warmup_examples=999
    )
    at_once = tabulate(schedule, 150_000).numpy()
    monkeypatch.setattr("tfbatch.training.in_graph._ONE_BY_ONE", 10**9)
    one_by_one = tabulate(schedule, 1500).numpy()

    assert at_once.shape == (150_000,)
    np.testing.assert_allclose(at_once[:1500], one_by_one, rtol=1e-6)


@pytest.mark.parametrize("value", [0.9, 0.999, 0.95, 1e-4, 0.1, 1 / 3])
def test_a_number_in_a_graph_is_kerass_own(value):
    number = InGraphNumber(0.5)

    @tf.function(autograph=False)
    def read(x):
        cast = keras.ops.cast(number, "float32")
        return x * (1 - number), cast, 2.0 - number, x * (number - 1), x * number, number * x

    @tf.function(autograph=False)
    def own(x):
        cast = keras.ops.cast(value, "float32")
        return x * (1 - value), cast, 2.0 - cast, x * (value - 1), x * value, value * x

    x = tf.constant(np.random.default_rng(1).normal(size=99).astype(np.float32))
    read(x)
    number.assign(value)  # after the trace
    for got, expected in zip(read(x), own(x), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert float(number) == pytest.approx(value)
    assert number > 0


def draws_from_tensorflow(input_shape, num_classes):
    """Its weights come from TensorFlow's global generator."""
    inputs = keras.Input(input_shape)
    dense = keras.layers.Dense(num_classes)
    model = keras.Model(inputs, dense(keras.layers.Flatten()(inputs)))
    dense.kernel.assign(tf.random.normal(dense.kernel.shape, stddev=0.1))
    return model


def test_trap_seeding_tensorflow_forgets_kernels_and_is_left_out_only_where_nothing_needs_it(data):
    seeded: list[int] = []
    real = keras.utils.set_random_seed
    for build, expected in ((small_cnn.build, False), (draws_from_tensorflow, True)):
        programs = ProgramCache(Workload(data, build))
        programs.begin(SPEC.configuration, total_examples=542, seed=1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(keras.utils, "set_random_seed", lambda s: (seeded.append(s), real(s)))
            seeded.clear()
            first = programs.begin(SPEC.configuration, total_examples=542, seed=7).get_weights()
            programs.begin(SPEC.configuration, total_examples=542, seed=8)
            again = programs.begin(SPEC.configuration, total_examples=542, seed=7).get_weights()
        assert bool(seeded) is expected
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
