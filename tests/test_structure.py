"""Only builds that one traced program serves exactly have equal keys."""

from __future__ import annotations

import copy
import dataclasses
import functools
import types
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbatch.configuration import Configuration
from tfbatch.models import resnet, small_cnn
from tfbatch.training.description import description_of
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.structure import cause_of_retracing, reusable, structure_key
from tfbatch.training.trial import fit
from tfbatch.training.workload import Workload

SHAPE = (8, 8, 1)


def key_of(build, *, seed=1):
    """The key of a build as a trial would make it."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(seed)
    return structure_key(build(SHAPE, 10), build)


@pytest.fixture(autouse=True)
def float32():
    yield
    keras.config.set_dtype_policy("float32")


def with_layer(make):
    def build(input_shape, num_classes):
        inputs = keras.Input(input_shape)
        x = make()(keras.layers.Flatten()(inputs))
        return keras.Model(inputs, keras.layers.Dense(num_classes)(x))

    return build


def adapted(kind, data, **arguments):
    def build(input_shape, num_classes):
        layer = kind(**arguments)
        layer.adapt(data)
        inputs = keras.Input((1,), dtype="string" if isinstance(data[0], str) else "int64")
        x = keras.layers.Embedding(9, 2)(layer(inputs))
        return keras.Model(inputs, keras.layers.Dense(num_classes)(keras.layers.Flatten()(x)))

    return build


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        (keras.layers.StringLookup, ["a", "b"], ["c", "d"]),
        (keras.layers.IntegerLookup, [3, 4], [5, 6]),
        (
            functools.partial(keras.layers.TextVectorization, output_sequence_length=2),
            ["a b"],
            ["c d"],
        ),
    ],
)
def test_vocabularies_that_were_adapted_to_other_words_are_told_apart(kind, first, second):
    key = key_of(adapted(kind, first))
    assert key is not None
    assert key == key_of(adapted(kind, list(first)))
    builds = iter([adapted(kind, first), adapted(kind, second)])

    def build(input_shape, num_classes):
        return next(builds)(input_shape, num_classes)

    assert key_of(build) != key_of(build)


def changed(change):
    def build(input_shape, num_classes):
        model = with_layer(lambda: keras.layers.Dense(5, activation="relu"))(
            input_shape, num_classes
        )
        change(model)
        return model

    return build


def own_function(x):
    return 2 * x


@functools.wraps(keras.activations.relu)
def in_disguise(x):
    """It has the name and the module of Keras's own."""
    return 3 * keras.activations.relu(x)


class OwnRegularizer(keras.regularizers.Regularizer):
    def __call__(self, x):
        return keras.ops.sum(x)

    def get_config(self):
        return {}


class OwnInitializer(keras.initializers.Initializer):
    def __call__(self, shape, dtype=None):
        return keras.ops.zeros(shape, dtype)

    def get_config(self):
        return {}


class OwnDense(keras.layers.Dense):
    pass


class OwnModel(keras.Model):
    pass


class OwnOperation(keras.Operation):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, x):
        return x * self.factor

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


class OwnLoss(keras.losses.MeanSquaredError):
    pass


class OwnMetric(keras.metrics.Mean):
    pass


class OwnObject:
    def method(self, x):
        return x

    def __call__(self, x):
        return x


@dataclasses.dataclass
class Options:
    factor: float = 2.0


@keras.saving.register_keras_serializable("tfbatch_tests")
class NotDeclared(keras.layers.Layer):
    def call(self, x):
        return x


@reusable
@keras.saving.register_keras_serializable("tfbatch_tests")
class Declared(keras.layers.Layer):
    """A user's layer with attributes that are in no configuration."""

    def __init__(self, **attributes):
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)

    def call(self, x):
        return x

    def get_config(self):
        return {}


class SubclassOfDeclared(Declared):
    pass


PluginLayer = type("PluginLayer", (keras.layers.Dense,), {"__module__": "tfbatch.models.mine"})


@reusable
@keras.saving.register_keras_serializable("tfbatch_tests")
class DeclaredWithWeights(keras.layers.Layer):
    """Keras wraps its `build` on every object."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x):
        return x * self.scale


def mapped(input_shape, num_classes):
    """A user's function in the graph between layers."""
    inputs = keras.Input(input_shape)
    x = keras.ops.vectorized_map(own_function, keras.layers.Flatten()(inputs))
    return keras.Model(inputs, keras.layers.Dense(num_classes)(x))


def with_operation(input_shape, num_classes):
    inputs = keras.Input(input_shape)
    x = OwnOperation(2.0)(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, keras.layers.Dense(num_classes)(x))


def subclass(input_shape, num_classes):
    inputs = keras.Input(input_shape)
    return OwnModel(inputs, keras.layers.Dense(num_classes)(keras.layers.Flatten()(inputs)))


def nested(input_shape, num_classes):
    inner = keras.Sequential([keras.Input((64,)), OwnDense(4)])
    return with_layer(lambda: inner)(input_shape, num_classes)


def from_empty_globals():
    """A function without a module."""
    made: dict[str, Any] = {}
    exec("def f(x): return 7 * x", made)
    return made["f"]


def activation(function):
    return with_layer(lambda: keras.layers.Dense(5, activation=function))


def with_call(model):
    layer = model.layers[2]
    layer.call = types.MethodType(type(model.layers[1]).call, layer)


def compiled(loss="mse", *, optimizer="sgd", **arguments):
    """The arguments are in a closure of which the key knows nothing."""
    return changed(lambda model: model.compile(optimizer, loss, **arguments))


FOREIGN: dict[str, Callable[..., Any]] = {
    "loss, function": compiled(own_function),
    "loss, one of several": compiled([own_function]),
    "loss, class": compiled({"dense": OwnLoss()}),
    "metric, function": compiled(metrics=[own_function]),
    "metric, weighted, by output": compiled(weighted_metrics={"dense": own_function}),
    "metric, class": compiled(metrics=[OwnMetric()]),
    "metric, function in Keras's own": compiled(
        metrics=[keras.metrics.MeanMetricWrapper(own_function, name="own")]
    ),
    "a second optimizer": changed(lambda m: setattr(m, "second", keras.optimizers.SGD())),
    "Lambda": with_layer(lambda: keras.layers.Lambda(lambda x: x)),
    "Lambda of Keras's own": with_layer(lambda: keras.layers.Lambda(keras.ops.relu)),
    "activation, lambda": activation(lambda x: x),
    "activation, function": activation(own_function),
    "activation, wrapped": activation(in_disguise),
    "activation, without a module": activation(from_empty_globals()),
    "activation, tf.function": activation(tf.function(own_function)),
    "activation, cached": activation(functools.lru_cache(own_function)),
    "activation, partial": activation(functools.partial(own_function)),
    "activation, partial of Keras's own": activation(
        functools.partial(keras.activations.relu, negative_slope=0.3)
    ),
    "activation, method": activation(OwnObject().method),
    "activation, object": activation(OwnObject()),
    "Activation layer": with_layer(lambda: keras.layers.Activation(own_function)),
    "inside TimeDistributed": with_layer(
        lambda: keras.Sequential(
            [
                keras.layers.Reshape((8, 8)),
                keras.layers.TimeDistributed(keras.layers.Dense(3, activation=own_function)),
                keras.layers.Flatten(),
            ]
        )
    ),
    "recurrent cell": with_layer(
        lambda: keras.Sequential(
            [
                keras.layers.Reshape((8, 8)),
                keras.layers.RNN(keras.layers.SimpleRNNCell(3, activation=own_function)),
            ]
        )
    ),
    "regularizer": with_layer(lambda: keras.layers.Dense(5, kernel_regularizer=OwnRegularizer())),
    "constraint": with_layer(lambda: keras.layers.Dense(5, kernel_constraint=own_function)),
    "initializer": with_layer(lambda: keras.layers.Dense(5, kernel_initializer=OwnInitializer())),
    "layer": with_layer(lambda: OwnDense(5)),
    "layer of a plug-in's file": with_layer(lambda: PluginLayer(5)),
    "registered layer": with_layer(NotDeclared),
    "subclass of a declared one": with_layer(SubclassOfDeclared),
    "layer of a nested model": nested,
    "model": subclass,
    "operation": with_operation,
    "function of an operation": mapped,
    "train_step": changed(lambda m: setattr(m, "train_step", lambda data: {})),
    "train_step, partial": changed(
        lambda m: setattr(m, "train_step", functools.partial(keras.Model.train_step, m))
    ),
    "test_step": changed(lambda m: setattr(m, "test_step", m.train_step)),
    "compute_loss": changed(lambda m: setattr(m, "compute_loss", lambda **_: 0.0)),
    "_compute_loss": changed(lambda m: setattr(m, "_compute_loss", m.compute_metrics)),
    "call": changed(with_call),
    "an attribute": changed(lambda m: setattr(m.layers[2], "options", Options())),
    "a list of functions": changed(lambda m: setattr(m, "hooks", [keras.ops.relu, own_function])),
    "a dict of partials": changed(
        lambda m: setattr(m, "hooks", {"a": [functools.partial(keras.ops.add, Options())]})
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_the_users_own_is_never_shared(name):
    assert key_of(FOREIGN[name]) is None


def stack(input_shape, num_classes):
    """Layers of many kinds, and operations between them."""
    inputs = keras.Input(input_shape)
    x = keras.layers.RandomFlip()(inputs)
    x = keras.layers.RandomContrast(0.1)(keras.layers.Rescaling(2.0)(x))
    x = keras.layers.Conv2D(3, 3, kernel_regularizer="l2", kernel_constraint="max_norm")(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(0.2)(keras.layers.PReLU()(x))
    x = keras.ops.reshape(x, (-1, 36, 3)) * np.float32(0.5) + tf.constant([1.0, 2.0, 3.0])
    x = keras.layers.MultiHeadAttention(1, 2)(x, x)
    x = keras.layers.Bidirectional(keras.layers.GRU(2))(keras.layers.LayerNormalization()(x))
    return keras.Model(inputs, keras.layers.Dense(num_classes, activation="linear")(x))


def sequential(input_shape, num_classes):
    return keras.Sequential(
        [keras.Input(input_shape), keras.layers.Flatten(), keras.layers.Dense(num_classes)]
    )


def deeper(input_shape, num_classes):
    inner = sequential(input_shape, 6)
    return keras.Sequential([inner, keras.layers.Dense(num_classes)])


@pytest.mark.quick_cases("sequential", "declared", "nested", "weights", "small_cnn")
@pytest.mark.parametrize(
    "build",
    [
        *(small_cnn.build, resnet.build, stack, sequential, deeper),
        *(with_layer(Declared), with_layer(DeclaredWithWeights)),
    ],
    ids=["small_cnn", "resnet", "stack", "sequential", "nested", "declared", "with weights"],
)
def test_equal_builds_have_equal_keys_whatever_their_seed(build):
    keys = [key_of(build, seed=seed) for seed in (1, 2, 2)]

    assert keys[0] is not None
    assert len(set(keys)) == 1


def scaled_by(factor):
    def build(input_shape, num_classes):
        inputs = keras.Input(input_shape)
        x = keras.layers.Flatten()(inputs) * factor
        return keras.Model(inputs, keras.layers.Dense(num_classes)(x))

    return build


def normalized(number):
    def adapted():
        layer = keras.layers.Normalization()
        layer.adapt(np.random.default_rng(number).normal(size=(50, 64)).astype(np.float32))
        return layer

    return with_layer(adapted)


def activations(name):
    return with_layer(lambda: keras.layers.Dense(5, activation=name))


def frozen(*numbers):
    def freeze(model):
        for number in numbers:
            model.layers[number].trainable = False

    return changed(freeze)


def batch_norm(trainable):
    return with_layer(lambda: keras.layers.BatchNormalization(trainable=trainable))


def two_layers(first, second):
    return with_layer(
        lambda: keras.Sequential([keras.layers.Dense(first), keras.layers.Dense(second)])
    )


def declared(**attributes):
    return with_layer(lambda: Declared(**attributes))


DIFFERENT = {
    "operations' numbers": (scaled_by(2.0), scaled_by(3.0)),
    "operations' arrays": (
        scaled_by(np.arange(64, dtype=np.float32)),
        scaled_by(np.arange(64, dtype=np.float32)[::-1].copy()),
    ),
    "operations' tensors": (scaled_by(tf.constant([2.0])), scaled_by(tf.constant([3.0]))),
    "adapted statistics": (normalized(1), normalized(2)),
    "activation": (activations("relu"), activations("tanh")),
    "frozen layers": (frozen(2), frozen(3)),
    "none frozen": (frozen(), frozen(2)),
    "batch normalization in inference": (batch_norm(True), batch_norm(False)),
    "width": (two_layers(3, 4), two_layers(4, 3)),
    "number": (declared(a=1), declared(a=2)),
    "number's name": (declared(a=1), declared(b=1)),
    "text": (declared(a="x"), declared(a="y")),
    "bytes": (declared(a=b"x"), declared(a=b"y")),
    "bool": (declared(a=True), declared(a=1)),
    "complex": (declared(a=1j), declared(a=2j)),
    "None": (declared(a=None), declared(a=1)),
    "numpy number": (declared(a=np.float32(1)), declared(a=np.float32(2))),
    "numpy type": (declared(a=np.dtype("int8")), declared(a=np.dtype("int16"))),
    "array": (declared(a=np.ones(3)), declared(a=np.zeros(3))),
    "array's shape": (declared(a=np.ones(3)), declared(a=np.ones((1, 3)))),
    "tensor": (declared(a=tf.ones(3)), declared(a=tf.zeros(3))),
    "list": (declared(a=[1, [2]]), declared(a=[1, [3]])),
    "tuple": (declared(a=(1, None)), declared(a=(None, 1))),
    "set": (declared(a={"x", "y"}), declared(a={"x", "z"})),
    "dict": (declared(a={"x": np.ones(2)}), declared(a={"x": np.zeros(2)})),
    "dict's keys": (declared(a={"1": 0}), declared(a={1: 0})),
    "regularizer": (declared(a=keras.regularizers.L2(0.1)), declared(a=keras.regularizers.L2(0.2))),
    "Keras's function": (declared(a=keras.activations.relu), declared(a=keras.activations.tanh)),
    "Keras's class": (declared(a=keras.layers.Dense), declared(a=keras.layers.Conv2D)),
    "compiled": (changed(lambda model: None), compiled()),
    "loss": (compiled("mse"), compiled("mae")),
    "loss's number": (compiled(keras.losses.Huber(0.5)), compiled(keras.losses.Huber(0.6))),
    "loss's weight": (compiled(["mse"], loss_weights=[1]), compiled(["mse"], loss_weights=[2])),
    "metric": (compiled(metrics=["mse"]), compiled(metrics=["mae"])),
    "metric, weighted": (compiled(metrics=["mse"]), compiled(weighted_metrics=["mse"])),
    "metric's number": (
        compiled(metrics=[keras.metrics.BinaryAccuracy(threshold=0.5)]),
        compiled(metrics=[keras.metrics.BinaryAccuracy(threshold=0.6)]),
    ),
    "eager": (compiled(run_eagerly=True), compiled(run_eagerly=False)),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_whatever_differs_makes_another_key(name):
    first, again, second = (key_of(build) for build in (DIFFERENT[name][0], *DIFFERENT[name]))

    assert first is not None
    assert again == first
    assert second is not None
    assert second != first


def test_sets_have_the_same_key_in_any_order():
    many = [f"name {number}" for number in range(50)]

    backwards = many[::-1]
    other_way = declared(a=set(backwards))

    assert key_of(declared(a=set(many))) == key_of(other_way)


def test_the_builders_closure_is_in_the_key():
    """A declared layer may do with it what no configuration shows."""

    def builder(size):
        def build(input_shape, num_classes):
            assert size
            return sequential(input_shape, num_classes)

        return build

    assert key_of(builder(1)) == key_of(builder(1))
    assert key_of(builder(1)) != key_of(builder(2))


def test_shapes_and_policies_are_in_the_key():
    keys = [key_of(sequential)]
    for policy in ("mixed_bfloat16", "mixed_float16"):
        keras.utils.clear_session(free_memory=False)  # it forgets the policy too
        keras.config.set_dtype_policy(policy)
        keys.append(structure_key(sequential(SHAPE, 10), sequential))
    for shape, classes in (((8, 8, 3), 10), ((8, 8, 1), 9)):
        keras.utils.clear_session(free_memory=False)
        keys.append(structure_key(sequential(shape, classes), sequential))

    assert None not in keys
    assert len(set(keys)) == len(keys)


def test_a_compiled_optimizer_is_not_in_the_key():
    """It is replaced in each trial."""
    others = compiled(optimizer=keras.optimizers.Adam(0.1)), compiled(steps_per_execution=3)

    assert {key_of(other) for other in others} == {key_of(compiled())}


def test_values_of_weights_are_not_in_the_key():
    """They are copied, whatever they are."""

    def pretrained(input_shape, num_classes):
        model = sequential(input_shape, num_classes)
        model.set_weights([np.random.normal(size=w.shape) for w in model.get_weights()])
        return model

    assert key_of(pretrained, seed=1) == key_of(pretrained, seed=2) is not None


@keras.saving.register_keras_serializable("tfbatch_tests")
class ScalesItsLoss(keras.Model):
    """Its training step reads a Python attribute: what a traced program never looks at again."""

    factor = 1.0

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.factor * self.compute_loss(x, y, y_pred)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        self._loss_tracker.update_state(loss)
        return self.compute_metrics(x, y, y_pred)


@reusable
@keras.saving.register_keras_serializable("tfbatch_tests")
class DeclaredScalesItsLoss(ScalesItsLoss):
    """The same, declared: its attribute is a plain value, and in the key."""


def first_losses(programs, factors):
    """The first loss of one trial for each factor, which the builder takes from outside."""
    losses = []
    configuration = Configuration(batch_size=32, base_learning_rate=1e-6)
    for factor in factors:
        FACTOR["now"] = factor
        model = programs.begin(configuration, total_examples=32, seed=1)
        derived = programs.workload.derive(configuration, 32)
        history = fit(model, programs.workload, derived, seed=1, callbacks=[])
        losses.append(history.history["loss"][0])
    return losses


FACTOR = {"now": 1.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cls", "traced"), [(ScalesItsLoss, 4), (DeclaredScalesItsLoss, 2)], ids=["own", "declared"]
)
def test_an_attribute_that_a_training_step_reads_is_never_ignored(digits, cls, traced):
    """Trap 27: reuse must not train with the attribute of an earlier trial."""

    def build(input_shape, num_classes):
        inputs = keras.Input(input_shape)
        model = cls(inputs, keras.layers.Dense(num_classes)(keras.layers.Flatten()(inputs)))
        model.factor = copy.copy(FACTOR["now"])
        return model

    programs = ProgramCache(Workload(digits, build))
    programs.workload.build(1)  # Keras changes the bases of such a class when it first makes one
    one, thousand, again, last = first_losses(programs, [1.0, 1000.0, 1.0, 1000.0])

    assert thousand == pytest.approx(1000 * one, rel=1e-5)
    assert (again, last) == (one, thousand)
    assert programs.traced == traced


def test_a_trial_with_the_users_own_parts_is_traced_anew(digits):
    configuration = Configuration(batch_size=32, base_learning_rate=0.01)
    programs = ProgramCache(Workload(digits, FOREIGN["activation, lambda"]))
    models = [programs.begin(configuration, total_examples=32, seed=1) for _ in range(2)]

    assert programs.traced == 2
    assert models[0] is not models[1]


def _without_a_cause():
    keras.utils.clear_session(free_memory=False)
    return sequential(SHAPE, 10)


@pytest.mark.parametrize(
    ("build", "cause"),
    [
        (_without_a_cause, ""),
        (lambda: with_layer(lambda: NotDeclared())(SHAPE, 10), "`NotDeclared` is a class"),
        (
            lambda: with_layer(lambda: keras.layers.Lambda(own_function))(SHAPE, 10),
            "What the layer `lambda` computes is not part of its configuration",
        ),
        (
            lambda: with_layer(lambda: keras.layers.Dense(5, own_function))(SHAPE, 10),
            "`own_function` is a function",
        ),
        (lambda: compiled(loss=OwnLoss())(SHAPE, 10), "`OwnLoss` is a class"),
        (lambda: compiled(loss=own_function)(SHAPE, 10), "`own_function` is a function"),
    ],
)
def test_what_a_model_is_traced_anew_for_is_named(build, cause):
    assert cause_of_retracing(build()).startswith(cause)
    assert bool(cause) == bool(cause_of_retracing(build()))


@pytest.mark.parametrize("declared", [True, False])
def test_tracing_in_each_trial_is_told_before_the_search(digits, declared):
    """Nothing else on the screen shows what takes longer than many a trial."""

    def build():
        layer = Declared() if declared else NotDeclared()
        return with_layer(lambda: layer)(SHAPE, 10)

    notes = " ".join(description_of(Workload(digits, build)).notes)

    assert ("`NotDeclared` is a class of your own, so that each trial traces" in notes) != declared
    assert ("@tfbatch.reusable" in notes) != declared
