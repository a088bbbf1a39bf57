"""`tfbatch.accumulated`: micro-batches equal one batch, for every optimizer."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from processes import WarmProcess

import tfbatch
from tfbatch.errors import InputError
from tfbatch.optimizers import OPTIMIZERS, build_optimizer

BATCH = 8
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(8 * 10, 6))
Y = RANDOM.integers(0, 3, size=8 * 10)
WEIGHTS = RANDOM.uniform(0.1, 3.0, size=8 * 10)
NO_ZEROS = np.maximum(Y, 1)  # micro-batches ignore equally many, none
LOSS = "sparse_categorical_crossentropy"


@pytest.fixture(autouse=True)
def float64():
    """The equality is then one of the algorithm, not of rounding."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    use("float64")
    yield
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])


def use(dtype):
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)


def network(**dense):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(5, activation="tanh", **dense)(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(hidden))


class Rates(keras.callbacks.Callback):
    """The learning rate that each update will use, and the iteration it is."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_begin(self, batch, logs=None):
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        self.seen.append((int(optimizer.iterations), float(optimizer.learning_rate)))


def trained(model, optimizer, *, micro=None, batch=BATCH, compiled=None, data=(X, Y), **fit):
    """Ten updates; the weights, the history, the learning rates.

    Whole batches run eagerly: the same to a rounding, and ten steps cost less than a trace.
    """
    if micro:
        tfbatch.accumulated(model, micro_batch_size=micro)
    how = {"loss": LOSS, "jit_compile": False, "run_eagerly": not micro}
    model.compile(optimizer=optimizer, **how | (compiled or {}))
    rates = Rates()
    given = dict(zip(("x", "y", "sample_weight"), data, strict=False))
    history = model.fit(
        **given, batch_size=batch, shuffle=False, verbose=0, callbacks=[rates], **fit
    ).history
    return model.get_weights(), history, rates.seen


def assert_equal(one, other, rtol=1e-9):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


def schedule():
    return keras.optimizers.schedules.ExponentialDecay(0.05, 1, 0.7)


QUICK = ("adamw", "nesterov")


@pytest.mark.quick_cases("nesterov")
@pytest.mark.parametrize(
    ("name", "rate"),
    [("adamw", "constant"), pytest.param("sgd", "constant", marks=pytest.mark.slow)]
    + [
        pytest.param(name, "schedule", marks=[] if name in QUICK else [pytest.mark.slow])
        for name in [*OPTIMIZERS.names(), "nesterov", "plain"]
    ],
)
def test_ten_updates_equal_those_of_the_whole_batch(name, rate):
    """3 does not divide 8: the last micro-batch is smaller. Keras's Muon needs float32."""
    use("float32" if name == "muon" else "float64")
    numbers = {"nesterov": {"nesterov": True}, "plain": {"momentum": 0.0}}.get(name, {})
    found = []
    for micro in (None, 3):
        made = build_optimizer(
            name if name in OPTIMIZERS.names() else "sgd",
            schedule() if rate == "schedule" else 0.05,
            **numbers,
        )
        found.append(trained(network(), made, micro=micro))

    assert_equal(found[0][0], found[1][0], rtol=1e-3 if name == "muon" else 1e-6)
    assert found[0][2] == found[1][2]
    assert [iteration for iteration, _ in found[1][2]] == list(range(10))
    assert not np.allclose(found[1][0][0], network().get_weights()[0], atol=1e-4)


@pytest.mark.quick_cases("global_clipnorm")
@pytest.mark.parametrize(
    "settings",
    [{"global_clipnorm": 0.05}, {"clipvalue": 0.01}, {"use_ema": True, "ema_momentum": 0.5}],
    ids=["global_clipnorm", "clipvalue", "average"],
)
def test_clipping_and_averaging_happen_once_per_update(settings):
    found = []
    for micro in (None, 3):
        optimizer = keras.optimizers.SGD(0.5, momentum=0.9, **settings)
        weights, _, _ = trained(network(), optimizer, micro=micro)
        found.append([*weights, *map(keras.ops.convert_to_numpy, optimizer.variables)])

    assert_equal(*found)


@pytest.mark.slow
def test_sample_weights_regularization_metrics_and_a_short_last_batch_are_those_of_the_batch():
    compiled = {"metrics": ["accuracy"], "weighted_metrics": ["accuracy"]}
    data = (X[:77], Y[:77], WEIGHTS[:77])  # the last batch has 5 examples
    whole, *cut = (
        trained(
            network(kernel_regularizer=keras.regularizers.L2(0.1)),
            keras.optimizers.SGD(0.5),
            micro=m,
            compiled=compiled,
            data=data,
            epochs=2,
        )
        for m in (None, 3, 50)
    )

    for found in cut:
        assert_equal(whole[0], found[0])
        for name, values in whole[1].items():
            assert found[1][name] == pytest.approx(values, rel=1e-9), name


@pytest.mark.quick_cases("sum")
@pytest.mark.parametrize(
    "compiled",
    [
        {"loss": "sum"},
        {"steps_per_execution": 4, "run_eagerly": False},
        {"run_eagerly": True},
        {"jit_compile": True, "run_eagerly": False},
    ],
    ids=["sum", "steps_per_execution", "eager", "jit"],
)
def test_every_way_to_compile_gives_the_same(compiled):
    if compiled.get("loss") == "sum":  # made here, since it keeps the precision it is made in
        compiled = {"loss": keras.losses.SparseCategoricalCrossentropy(reduction="sum")}
    found = [
        trained(
            network(kernel_regularizer=keras.regularizers.L2(0.1)),
            keras.optimizers.SGD(0.05, momentum=0.9),
            micro=micro,
            compiled=compiled,
        )
        for micro in (None, 3)
    ]

    assert_equal(found[0][0], found[1][0], rtol=1e-8)
    assert found[0][1]["loss"] == pytest.approx(found[1][1]["loss"])


@pytest.mark.slow
def test_several_inputs_and_outputs_and_an_embedding():
    def build():
        keras.utils.set_random_seed(3)
        words, numbers = keras.Input((4,), dtype="int32", name="w"), keras.Input((6,), name="n")
        hidden = keras.layers.Flatten()(keras.layers.Embedding(9, 2)(words))
        hidden = keras.layers.Concatenate()([hidden, numbers])
        outputs = {
            "a": keras.layers.Dense(3, activation="softmax", name="a")(hidden),
            "b": keras.layers.Dense(1, name="b")(hidden),
        }
        return keras.Model({"w": words, "n": numbers}, outputs)

    x = {"w": RANDOM.integers(0, 9, (80, 4)), "n": X}
    y = {"a": Y, "b": X[:, :1]}
    loss = {"a": LOSS, "b": "mse"}
    compiled = {"loss": loss, "loss_weights": {"a": 1.0, "b": 0.5}}
    found = [
        trained(
            build(),
            keras.optimizers.SGD(0.5),
            micro=m,
            compiled=compiled,
            data=(x, y),
        )
        for m in (None, 4)
    ]

    assert_equal(found[0][0], found[1][0], rtol=1e-6)
    for name, values in found[0][1].items():
        assert found[1][1][name] == pytest.approx(values), name


def test_trap_keras_squares_the_gradients_of_a_repeated_word_one_by_one():
    """Adam's second moment is then too small. A dense gradient, as here, has the right one."""
    slices = tf.IndexedSlices(tf.ones((2, 1), "float64"), [0, 0], [2, 1])
    second_moments = []
    for gradient in (slices, tf.convert_to_tensor(slices)):
        optimizer = keras.optimizers.Adam(0.1)
        optimizer.apply([gradient], [keras.Variable(np.zeros((2, 1)))])
        second_moments.append(float(optimizer.variables[-1][0, 0]))

    assert second_moments == pytest.approx([0.002, 0.004])


def test_a_subclassed_model_that_is_not_built_and_a_layer_without_gradient():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.used = keras.layers.Dense(3, activation="softmax")
            self.unused = keras.layers.Dense(3)

        def call(self, x):
            self.unused(x)
            return self.used(x)

    found = []
    for micro in (None, 3):
        keras.utils.set_random_seed(5)
        model = Own()
        with pytest.warns(UserWarning, match="Gradients do not exist"):
            weights, _, _ = trained(model, keras.optimizers.SGD(0.5), micro=micro)
        found.append(weights)

    assert_equal(*found)


def test_a_dataset_of_unknown_batch_size_is_cut_in_the_graph():
    def batches():
        for size in (8, 5, 2, 8):
            yield X[:size], Y[:size]

    shapes = (tf.TensorSpec((None, 6), tf.float64), tf.TensorSpec((None,), tf.int64))
    found = []
    for micro in (None, 3):
        data = tf.data.Dataset.from_generator(batches, output_signature=shapes)
        data = data.apply(tf.data.experimental.assert_cardinality(4))
        found.append(
            trained(network(), keras.optimizers.SGD(0.5), micro=micro, batch=None, data=(data,))
        )

    assert_equal(found[0][0], found[1][0])
    assert found[0][1]["loss"] == pytest.approx(found[1][1]["loss"])


def test_the_loss_scale_of_mixed_precision_acts_once_per_update():
    found = []
    for micro in (None, 4):
        keras.utils.set_random_seed(1)
        inputs = keras.Input((6,))
        outputs = keras.layers.Dense(3, dtype="mixed_float16")(inputs)
        model = keras.Model(inputs, keras.layers.Softmax(dtype="float32")(outputs))
        optimizer = keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(0.5), initial_scale=1024.0, dynamic_growth_steps=4
        )
        weights, _, rates = trained(model, optimizer, micro=micro)
        found.append((weights, float(optimizer.dynamic_scale), rates))

    assert_equal(found[0][0], found[1][0], rtol=5e-3)  # float16 has 11 bits
    assert found[0][1:] == found[1][1:]
    assert found[1][1] == 4096.0


def test_a_memory_of_the_whole_batch_is_never_needed():
    """The largest tensor that a traced step makes, but its input, has a micro-batch's examples."""
    model = tfbatch.accumulated(network(), micro_batch_size=3)
    model.compile(optimizer="sgd", loss=LOSS)
    step = tf.function(model.train_step).get_concrete_function(
        (tf.TensorSpec((60, 6), tf.float64), tf.TensorSpec((60,), tf.int64))
    )
    inner = step.graph._functions.values()
    graphs = [step.graph, *(function.graph for function in inner)]
    operations = [op for graph in graphs for op in graph.get_operations()]
    sizes = {t.shape[0] for op in operations if op.type == "MatMul" for t in op.outputs}

    assert 3 in sizes
    assert 60 not in sizes


def test_a_saved_model_is_an_ordinary_one(tmp_path):
    model = network()
    trained(model, keras.optimizers.Adam(0.05), micro=3)
    model.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras")

    assert "train_step" not in vars(loaded)
    assert int(loaded.optimizer.iterations) == 10
    assert_equal(model.get_weights(), loaded.get_weights())


def test_accumulation_is_undone_and_another_size_replaces_the_traced_step():
    model = network()
    for micro in (3, 4):
        trained(model, keras.optimizers.SGD(0.0), micro=micro)
        assert model.train_step.args[1] == micro
    assert tfbatch.accumulated(model, micro_batch_size=None) is model

    assert "train_step" not in vars(model)
    assert model.train_function is None


def test_batch_normalization_is_warned_of_once_and_differs():
    def build():
        keras.utils.set_random_seed(1)
        layers = [keras.layers.BatchNormalization(), keras.layers.Dense(3, activation="softmax")]
        return keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(3)])

    plain, _, _ = trained(build(), keras.optimizers.SGD(0.5))
    with pytest.warns(UserWarning, match="statistics of each micro-batch") as caught:
        cut, _, _ = trained(build(), keras.optimizers.SGD(0.5), micro=3)

    assert len(caught) == 1
    assert np.abs(plain[0] - cut[0]).max() > 1e-3


def masked():
    inputs = keras.Input((6, 1))
    hidden = keras.layers.Masking()(inputs)
    return keras.Model(inputs, keras.layers.Dense(1)(hidden))


def test_a_mask_that_is_given_as_sample_weights_and_taken_off_the_model_trains_as_the_batch():
    """What the refusal advises, and the same model without having followed it."""
    words = RANDOM.integers(0, 5, (16, 4))
    data = (words, RANDOM.normal(size=(16, 4, 1)), (words != 0).astype("float64"))

    def build(mask_zero):
        keras.utils.set_random_seed(3)
        inputs = keras.Input((4,), dtype="int32")
        hidden = keras.layers.Embedding(5, 2, mask_zero=mask_zero)(inputs)
        hidden = keras.layers.LSTM(3, return_sequences=True)(hidden)
        return keras.Model(inputs, keras.layers.Dense(1)(hidden))

    def fit(micro, mask_zero=False):
        optimizer, compiled = keras.optimizers.SGD(0.5), {"loss": "mse"}
        return trained(build(mask_zero), optimizer, micro=micro, compiled=compiled, data=data)[0]

    with pytest.raises(InputError, match="sample weights, and take it off the model: mask_zero=Fa"):
        fit(3, mask_zero=True)
    assert_equal(fit(None), fit(3))


def test_without_trainable_weights_training_goes_on_as_keras_does():
    model = network()
    model.trainable = False
    optimizer = keras.optimizers.SGD(0.5)
    before = model.get_weights()

    with pytest.warns(UserWarning, match="does not have any trainable weights"):
        weights, history, _ = trained(model, optimizer, micro=3)

    assert_equal(weights, before)
    assert np.isfinite(history["loss"]).all()
    assert int(optimizer.iterations) == 0


def ignoring():
    """Keras divides by the number of targets that are not ignored, of each micro-batch."""
    return {"loss": keras.losses.SparseCategoricalCrossentropy(ignore_class=0)}


def ignoring_by_a_function():
    loss = functools.partial(keras.losses.sparse_categorical_crossentropy, ignore_class=0)
    return {"loss": loss}


def mean_of_weights():
    return {"loss": keras.losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight")}


@pytest.mark.parametrize(
    ("build", "optimizer", "compiled", "data", "message"),
    [
        (network, {"gradient_accumulation_steps": 2}, {}, (X, Y), "accumulates gradients already"),
        (masked, {}, {"loss": "mse"}, (X[..., None], X[..., None]), "output is masked"),
        (network, {}, mean_of_weights(), (X, Y, WEIGHTS), "mean_with_sample_weight"),
        (network, {}, ignoring(), (X, NO_ZEROS), r"weights .* valid class, .* ignore_class=0\."),
        (network, {}, ignoring_by_a_function(), (X, NO_ZEROS), r"Received: ignore_class=0\."),
    ],
    ids=["twice", "mask", "weights", "ignored", "ignored by a function"],
)
def test_what_would_not_be_exact_is_refused(build, optimizer, compiled, data, message):
    with pytest.raises(InputError, match=message):
        trained(
            build(), keras.optimizers.SGD(0.1, **optimizer), micro=3, compiled=compiled, data=data
        )


def test_a_step_of_ones_own_and_a_size_below_one_are_refused():
    class Own(keras.Model):
        def train_step(self, data):
            return {}

    with pytest.raises(InputError, match="`train_step` of its own"):
        tfbatch.accumulated(Own(), micro_batch_size=2)
    for size in (0, 32.0, 2.5, "8"):
        with pytest.raises(InputError, match="`micro_batch_size` must be a whole number >= 1"):
            tfbatch.accumulated(network(), micro_batch_size=size)


@pytest.mark.slow
def test_several_replicas_are_refused_in_one_sentence():
    program = """
import keras, numpy as np, tensorflow as tf, tfbatch
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse")
tfbatch.accumulated(model, micro_batch_size=2).fit(np.ones((8, 3)), np.ones((8, 1)), verbose=0)
"""
    with WarmProcess("-c", program) as run:
        _, said = run.communicate()

    assert (
        said.strip()
        .splitlines()[-1]
        .endswith(
            "InputError: Accumulation needs a single replica: with several, choose a smaller batch "
            "for each. Received: 2 replicas."
        )
    )


@pytest.mark.slow
def test_trap_keras_evaluates_a_schedule_at_micro_steps():
    """Its own accumulation of 4 decays 4 times too fast; ours does not."""
    found = []
    for micro, batch, steps in ((None, 8, None), (None, 2, 4), (2, 8, None)):
        optimizer = keras.optimizers.SGD(schedule(), gradient_accumulation_steps=steps)
        found.append(trained(network(), optimizer, micro=micro, batch=batch)[0])

    assert_equal(found[0], found[2])
    assert np.abs(found[0][0] - found[1][0]).max() > 1e-3
