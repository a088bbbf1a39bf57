"""Ghost batch normalization, its momentum in examples, and recalibration."""

from __future__ import annotations

import logging
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from processes import run_warm

import tfbatch
from tfbatch.errors import InputError
from tfbatch.layers import (
    GhostBatchNormalization,
    recalibrate_batch_normalization,
    set_batch_normalization_momentum,
)

RANDOM = np.random.default_rng(0)
SHAPES = pytest.mark.parametrize("shape", [(12, 5), (12, 3, 4, 5)], ids=["vectors", "images"])


def values(shape):
    return (RANDOM.normal(size=shape) * 3 + 2).astype("float32")


def layer_of(ghost_size=None, **kwargs):
    kwargs = {"momentum": 0.8, "gamma_initializer": "ones"} | kwargs
    if ghost_size is None:
        return keras.layers.BatchNormalization(**kwargs)
    return GhostBatchNormalization(ghost_size, **kwargs)


def called(layer, x, upstream, **kwargs):
    """The output, and the gradients with respect to the inputs and the weights."""
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True, **kwargs)
        total = tf.reduce_sum(y * upstream)
    return [y, *tape.gradient(total, [x, *layer.trainable_weights])]


def state(layer):
    return [layer.moving_mean, layer.moving_variance]


def assert_same(one, other, atol=1e-6):
    for a, b in zip(one, other, strict=True):
        a, b = keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b)
        np.testing.assert_allclose(a, b, atol=atol * max(1.0, float(np.abs(b).max())), rtol=0)


@pytest.mark.quick_cases("float64")
@SHAPES
@pytest.mark.parametrize("ghost_size", [12, 7, 100], ids=["equal", "over half", "larger"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_ghost_batch_is_batch_normalization(shape, ghost_size, dtype):
    """Outputs, gradients and moving statistics; a remainder joins the last ghost batch."""
    plain, ghost = layer_of(dtype=dtype), layer_of(ghost_size, dtype=dtype)
    for _ in range(2):
        x, upstream = values(shape).astype(dtype), values(shape).astype(dtype)
        one, other = called(ghost, x, upstream), called(plain, x, upstream)
        assert_same(one[:1], other[:1], atol=1e-6)
        # In float32 a gradient of Keras is itself only known to 1e-5.
        assert_same(one, other, atol=1e-6 if dtype == "float64" else 1e-5)
        assert_same(state(ghost), state(plain), atol=1e-6)


@SHAPES
@pytest.mark.parametrize(
    ("ghost_size", "cuts"),
    [(4, (4, 8)), (3, (3, 6, 9)), (5, (5,)), (1, tuple(range(1, 12)))],
    ids=["three", "four", "remainder", "single"],
)
def test_several_ghost_batches_are_batch_normalization_of_one_after_the_other(
    shape, ghost_size, cuts
):
    if ghost_size == 1 and len(shape) == 2:
        pytest.skip("a single vector has no variance")
    x, upstream = values(shape), values(shape)
    plain, ghost = layer_of(), layer_of(ghost_size)
    parts = [
        called(plain, a, b)
        for a, b in zip(np.split(x, cuts), np.split(upstream, cuts), strict=True)
    ]
    together = [np.concatenate([p[n] for p in parts]) for n in (0, 1)]
    together += [sum(p[n].numpy() for p in parts) for n in (2, 3)]

    assert_same(called(ghost, x, upstream), together, atol=5e-6)
    assert_same(state(ghost), state(plain))


@pytest.mark.parametrize("options", [{"axis": 1}, {"scale": False, "center": False}])
def test_every_axis_and_no_gain_or_offset(options):
    x = values((6, 3, 4, 2))
    plain, ghost = layer_of(**options), layer_of(3, **options)
    parts = [plain(x[:3], training=True), plain(x[3:], training=True)]

    assert_same([ghost(x, training=True)], [np.concatenate(parts)])
    assert_same(state(ghost), state(plain))


def test_masked_positions_are_left_out_as_keras_does():
    x, mask = values((6, 5, 2)), RANDOM.random((6, 5)) < 0.6
    plain, ghost = layer_of(), layer_of(3)
    parts = [plain(x[n : n + 3], training=True, mask=mask[n : n + 3]) for n in (0, 3)]

    assert_same([ghost(x, training=True, mask=tf.constant(mask))], [np.concatenate(parts)])
    assert_same(state(ghost), state(plain))


def test_inference_and_a_frozen_layer_are_batch_normalization():
    plain, ghost = layer_of(), layer_of(4)
    x = values((12, 5))
    for layer in (plain, ghost):
        layer.build(x.shape)
        layer.set_weights([values((5,)) for _ in range(2)] + [values((5,)), values((5,)) ** 2])
    ghost.set_weights(plain.get_weights())

    assert_same([ghost(x, training=False)], [plain(x, training=False)], atol=0)
    ghost.trainable = False
    assert_same([ghost(x, training=True)], [plain(x, training=False)], atol=0)


@pytest.mark.quick_cases("graph")
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "jit"])
def test_fit_takes_a_last_batch_of_any_size(jit_compile):
    """13 examples in batches of 6: the last is a single one."""
    model = keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            GhostBatchNormalization(2),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    )
    model.compile(optimizer="sgd", loss="mse", jit_compile=jit_compile)
    model.fit(values((13, 4, 4, 2)), values((13, 1)) * 0, batch_size=6, verbose=0)

    assert all(np.isfinite(w).all() for w in model.get_weights())
    assert model.layers[0].moving_mean.numpy().max() > 0.05


def test_mixed_precision_computes_in_float32_and_returns_float16():
    ghost = layer_of(4, dtype="mixed_float16")
    x = (values((8, 6)) * 1e3).astype("float16")  # its squares overflow in float16
    y = ghost(x, training=True)

    assert y.dtype == "float16"
    chunks = x.astype("float32").reshape(2, 4, 6)
    expected = (chunks - chunks.mean(1, keepdims=True)) / chunks.std(1, keepdims=True)
    assert_same([y], [expected.reshape(8, 6)], atol=2e-3)


def test_accumulation_in_whole_ghost_batches_is_exact():
    found = []
    for micro in (None, 4):
        keras.utils.set_random_seed(2)
        model = keras.Sequential(
            [
                keras.Input((3, 3, 2)),
                GhostBatchNormalization(2),
                keras.layers.Flatten(),
                keras.layers.Dense(1),
            ]
        )
        if micro:
            tfbatch.accumulated(model, micro_batch_size=micro)  # warns of nothing
        model.compile(optimizer=keras.optimizers.SGD(0.01), loss="mse")
        x = np.random.default_rng(1).normal(size=(24, 3, 3, 2)).astype("float32")
        model.fit(x, x[:, 0, 0, :1], batch_size=8, shuffle=False, verbose=0)
        found.append(model.get_weights())

    assert_same(*found, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GhostBatchNormalization(0), "`ghost_size` must be"),
        (lambda: GhostBatchNormalization(4, renorm=True), "`renorm` must be False"),
        (lambda: GhostBatchNormalization(4, axis=0)(values((4, 2))), "`axis` must not be"),
        (
            lambda: GhostBatchNormalization(4)(
                values((4, 2)), training=True, mask=tf.ones((4, 2), "bool")
            ),
            "one dimension less",
        ),
    ],
    ids=["size", "renorm", "axis", "mask"],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.slow
@pytest.mark.parametrize("first", ["tfbatch", "keras"])
def test_a_saved_model_with_our_classes_loads_whichever_is_imported_first(first, tmp_path):
    model = keras.Sequential([keras.Input((3,)), GhostBatchNormalization(4, momentum=0.5)])
    schedule = tfbatch.schedules.LearningRateInExamples(
        "cosine", learning_rate=0.5, batch_size=8, total_examples=80
    )
    model.compile(optimizer=tfbatch.optimizers.LARS(schedule, exclude_vectors=False), loss="mse")
    model.fit(values((16, 3)), values((16, 3)), batch_size=8, verbose=0)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", x := values((2, 3)))
    second = {"tfbatch": "keras", "keras": "tfbatch"}[first]
    program = (
        f"import {first}, {second}\nimport keras, numpy as np\n"
        f"model = keras.models.load_model({str(tmp_path / 'model.keras')!r})\n"
        f"x = np.load({str(tmp_path / 'x.npy')!r})\n"
        "print(type(model.layers[0]).__name__, model.layers[0].ghost_size)\n"
        "print(type(model.optimizer).__name__, int(model.optimizer.iterations))\n"
        "schedule = model.optimizer._learning_rate\n"
        "print(model.optimizer.exclude_vectors, type(schedule).__name__)\n"
        "print(float(schedule(3)), float(model(x)[0, 0]))\n"
    )

    if first == "keras":
        run = run_warm("-c", program)
    else:  # nothing may have imported Keras before
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert run.returncode == 0, run.stderr[-2000:]
    *facts, rate, output = run.stdout.split()
    assert facts == [
        *("GhostBatchNormalization", "4", "LARS", "2", "False"),
        "LearningRateInExamples",
    ]
    assert (float(rate), float(output)) == (float(schedule(3)), float(model(x)[0, 0]))


# Momentum in examples


def test_the_momentum_is_that_of_the_reference_for_the_same_examples():
    """B / 32 updates at the reference leave what one update leaves at B."""
    inner = keras.Sequential([layer_of(), layer_of(64), layer_of(512)])
    model = keras.Sequential([keras.Input((5,)), inner, keras.layers.Dense(1)])
    for batch_size in (1024, 256):  # a second call sets, and does not multiply
        assert set_batch_normalization_momentum(model, batch_size=batch_size, momentum=0.99) == 3

        momenta = [layer.momentum for layer in inner.layers]
        seen = (batch_size, 64, min(batch_size, 512))
        assert momenta == pytest.approx([0.99 ** (n / 32) for n in seen])


def test_after_the_same_examples_the_initial_statistics_weigh_the_same():
    left = []
    for batch_size in (8, 64):
        layer = layer_of()
        set_batch_normalization_momentum(layer, batch_size=batch_size, reference_batch_size=16)
        for _ in range(512 // batch_size):
            layer(np.zeros((batch_size, 1), "float32"), training=True)
        left.append(float(layer.moving_variance[0]))

    assert left == pytest.approx([0.99**32] * 2, rel=1e-5)


def test_a_program_that_is_traced_already_takes_the_new_momentum():
    model = keras.Sequential([keras.Input((1,)), layer_of(momentum=0.5)])
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss="mse")
    x = np.zeros((4, 1), "float32")
    model.fit(x, x, batch_size=4, verbose=0)
    set_batch_normalization_momentum(model, batch_size=4, momentum=0.25, reference_batch_size=4)
    model.fit(x, x, batch_size=4, verbose=0)

    assert float(model.layers[0].moving_variance[0]) == pytest.approx(0.5 * 0.25)


@pytest.mark.parametrize("number", [{"momentum": 1.0}, {"batch_size": 0}])
def test_a_momentum_or_batch_size_out_of_range_is_refused(number):
    with pytest.raises(InputError, match=f"`{next(iter(number))}`"):
        set_batch_normalization_momentum(layer_of(), **({"batch_size": 8} | number))


# Recalibration


def deep(batch_normalization=keras.layers.BatchNormalization):
    keras.utils.set_random_seed(4)
    inputs = keras.Input((4, 4, 3))
    hidden = inputs
    for _ in range(3):
        hidden = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(hidden)
        hidden = batch_normalization()(hidden)
        hidden = keras.layers.ReLU()(hidden)
        hidden = keras.layers.Dropout(0.5)(hidden)
    outputs = keras.layers.Dense(1)(keras.layers.Flatten()(hidden))
    return keras.Model(inputs, outputs)


def test_one_layer_gets_exactly_the_statistics_of_the_data_whatever_the_batches():
    x = values((100, 5))
    for size in (1, 7, 100):
        model = keras.Sequential([keras.Input((5,)), layer_of()])
        passes = recalibrate_batch_normalization(
            model, tf.data.Dataset.from_tensor_slices((x, x)).batch(size)
        )
        assert passes == 2
        assert_same(state(model.layers[0]), [x.mean(0), x.var(0)], atol=1e-6)


def test_every_layer_of_a_chain_sees_the_data_normalized_as_at_inference():
    """Each layer's statistics are those of its input, computed by a model cut before it."""
    model, x = deep(), values((50, 4, 4, 3))
    batches = [x[:30], x[30:]]  # a list, and of unequal size
    kept = [w.numpy() for w in model.trainable_weights]

    assert recalibrate_batch_normalization(model, batches, tolerance=1e-6) <= 5

    layers = [la for la in model.layers if isinstance(la, keras.layers.BatchNormalization)]
    for layer in layers:
        seen = keras.Model(model.inputs, layer.input).predict(x, verbose=0)
        expected = [seen.mean((0, 1, 2)), seen.var((0, 1, 2))]
        assert_same(state(layer), expected, atol=1e-5)
    assert_same([w.numpy() for w in model.trainable_weights], kept, atol=0)
    assert all("call" not in vars(layer) for layer in layers)


def test_ghost_layers_frozen_layers_and_masked_positions_are_recalibrated():
    inputs = keras.Input((5, 2))
    hidden = keras.layers.Masking()(inputs)
    outputs = layer_of(2)(hidden)
    model = keras.Model(inputs, outputs)
    model.trainable = False
    x = values((8, 5, 2))
    x[:, 3:] = 0.0  # what Masking leaves out

    recalibrate_batch_normalization(model, [x])

    seen = x[:, :3].reshape(-1, 2)
    assert_same(state(model.layers[-1]), [seen.mean(0), seen.var(0)], atol=1e-5)


def test_layers_that_are_not_chosen_keep_their_statistics_and_normalize_by_them():
    x = values((20, 3))
    model = keras.Sequential([keras.Input((3,)), layer_of(), layer_of()])
    first, second = model.layers
    first.moving_mean.assign([5.0] * 3)

    recalibrate_batch_normalization(model, [x], layers=[second])

    assert_same(state(first), [np.full(3, 5.0), np.ones(3)], atol=0)
    seen = (x - 5) / np.sqrt(1 + first.epsilon)
    assert_same(state(second), [seen.mean(0), seen.var(0)], atol=1e-5)


def test_a_layer_of_another_model_is_refused():
    model = keras.Sequential([keras.Input((3,)), layer_of()])
    with pytest.raises(InputError, match=r"`layers` must be .* of the model\. Received others: b"):
        recalibrate_batch_normalization(model, [values((4, 3))], layers=[layer_of(name="b")])


class WithOneMore(keras.Model):
    """It builds a second normalization and does not call it."""

    def __init__(self):
        super().__init__()
        self.first, self.second = layer_of(), layer_of()
        self.second.build((None, 3))

    def call(self, inputs):
        return self.first(inputs)


def test_nothing_is_changed_where_one_layer_saw_no_example():
    model, x = WithOneMore(), values((4, 3))
    model(x)
    with pytest.raises(InputError, match="saw no example"):
        recalibrate_batch_normalization(model, [x])
    assert_same(state(model.first), [np.zeros(3), np.ones(3)], atol=0)


@pytest.mark.slow
def test_trap_after_fifty_updates_the_validation_loss_is_wrong_and_then_right():
    """BatchNormalization counts its momentum in updates: 60 % of the initial values are left."""
    x = values((200, 6)) * 5 + 10
    y = ((x - x.mean(0)) / x.std(0))[:, :1]
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
    )
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    trained = model.fit(x, y, batch_size=200, epochs=50, verbose=0).history["loss"][-1]
    before = model.evaluate(x, y, verbose=0)
    recalibrate_batch_normalization(model, tf.data.Dataset.from_tensor_slices(x).batch(64))
    after = model.evaluate(x, y, verbose=0)

    assert trained < 0.01
    assert before > 20 * after
    assert after == pytest.approx(trained, rel=0.5, abs=1e-3)


def test_a_chain_that_is_not_exact_yet_is_warned_of(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("absl"), "propagate", True)
    batches = [values((2, 4, 4, 3)), 5 * values((8, 4, 4, 3))]

    passes = recalibrate_batch_normalization(deep(), batches, tolerance=0.0, max_passes=2)

    assert passes == 2
    assert "still moved" in caplog.text


def test_a_model_without_batch_normalization_is_left_alone():
    assert recalibrate_batch_normalization(keras.Sequential([keras.Input((2,))]), [[1.0]]) == 0


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (iter([1]), "gone over again"),
        (tf.data.Dataset.from_tensors(np.zeros((2, 5), "float32")).repeat(), "finite"),
        ([], "saw no example"),
    ],
    ids=["iterator", "endless", "empty"],
)
def test_data_that_cannot_be_gone_over_is_refused(dataset, message):
    model = keras.Sequential([keras.Input((5,)), layer_of()])
    with pytest.raises(InputError, match=message):
        recalibrate_batch_normalization(model, dataset)
