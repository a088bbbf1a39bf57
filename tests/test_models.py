"""The contract of every file in tfbatch/models."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbatch.errors import InputError
from tfbatch.models import MODELS, check_model_name

EACH = pytest.mark.parametrize("name", MODELS.names())
DIGITS, CIFAR = (8, 8, 1), (32, 32, 3)


def images(shape, count=8):
    return np.random.default_rng(0).normal(size=(count, *shape)).astype("float32")


def build(name, shape, num_classes=10, seed=1):
    keras.utils.set_random_seed(seed)
    return MODELS.load(name).build(shape, num_classes)


@EACH
@pytest.mark.parametrize("shape", [DIGITS, CIFAR, (3, 5, 4)], ids=str)
def test_a_model_maps_images_to_logits(name, shape):
    model = build(name, shape, num_classes=7)

    assert isinstance(model, keras.Model)
    assert not model.compiled
    assert model.input_shape == (None, *shape)
    assert model.output_shape == (None, 7)
    assert getattr(model.layers[-1], "activation", None) is not keras.activations.softmax


@EACH
@pytest.mark.parametrize("shape", [DIGITS, CIFAR], ids=["digits", "cifar"])
def test_one_learning_step_lowers_the_loss(name, shape):
    model = build(name, shape)
    x, y = images(shape), np.arange(8) % 10
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with tf.GradientTape() as tape:
        logits = model(x, training=True)
        before = entropy(y, logits)
    gradients = tape.gradient(before, model.trainable_variables)
    assert all(g is not None for g in gradients)

    keras.optimizers.SGD(0.02).apply(gradients, model.trainable_variables)

    after = entropy(y, model(x, training=True))
    assert logits.shape == (8, 10)
    assert logits.dtype == tf.float32
    assert np.isfinite(after)
    assert after < before - 1e-3


@EACH
def test_a_saved_model_predicts_the_same(name, tmp_path):
    model = build(name, DIGITS)
    model.save(tmp_path / "model.keras")

    loaded = keras.models.load_model(tmp_path / "model.keras")

    x = images(DIGITS)
    np.testing.assert_array_equal(loaded(x, training=False), model(x, training=False))


@EACH
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(name):
    first, same, other = (build(name, DIGITS, seed=seed).get_weights() for seed in (5, 5, 6))

    assert all((a == b).all() for a, b in zip(first, same, strict=True))
    assert any((a != b).any() for a, b in zip(first, other, strict=True))


@EACH
def test_a_prediction_does_not_depend_on_the_other_images_of_the_batch(name):
    model, x = build(name, DIGITS), images(DIGITS)

    alone = np.concatenate([model(x[i : i + 1], training=False) for i in range(8)])

    np.testing.assert_allclose(model(x, training=False), alone, rtol=1e-4, atol=1e-5)


def test_the_small_cnn_has_no_layer_that_couples_the_examples_of_a_batch():
    kinds = {type(layer) for layer in build("small_cnn", CIFAR).layers}

    assert not kinds & {keras.layers.BatchNormalization, keras.layers.Dropout}


def test_the_resnet_is_the_one_of_the_paper():
    """20 layers and 0.27 million parameters (arXiv 1512.03385, table 6)."""
    model = build("resnet", CIFAR)
    weighted = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.Dense)
        or (isinstance(layer, keras.layers.Conv2D) and layer.kernel_size == (3, 3))
    ]

    assert len(weighted) == 20
    assert 0.265e6 < model.count_params() < 0.28e6


@pytest.mark.parametrize("name", [*MODELS.names(), "package.module:function"])
def test_a_model_name_that_can_be_used_passes(name):
    check_model_name(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resent", "Unknown model `resent`. Did you mean `resnet`? Available: resnet, small_cnn."),
        (":build", "`--model` must be a model's name or package.module:function. Received: "),
        ("module:", "`--model` must be a model's name or package.module:function. Received: "),
        ("a:b:c", "`--model` must be a model's name or package.module:function. Received: "),
    ],
)
def test_a_model_name_that_cannot_be_used_is_refused(name, message):
    with pytest.raises(InputError) as caught:
        check_model_name(name)

    assert str(caught.value).startswith(message)
