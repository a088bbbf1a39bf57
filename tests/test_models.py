"""The contract of every file in tfbatch/models."""

from __future__ import annotations

import functools
import inspect
import itertools
import math
import re
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfbatch.command_line.running import parse_arguments
from tfbatch.errors import InputError
from tfbatch.models import MODELS, check_model_name
from tfbatch.models._normalization import NORMALIZATIONS, group_count, normalized
from tfbatch.training.evaluation import hash_of_settings
from tfbatch.training.model_builder import check_arguments, find_model_builder, own_parameters
from tfbatch.training.structure import structure_key

EACH = pytest.mark.parametrize("name", MODELS.names())
EACH_NORMALIZATION = pytest.mark.parametrize("normalization", NORMALIZATIONS)
DIGITS, MNIST, CIFAR, IMAGENET = (8, 8, 1), (28, 28, 1), (32, 32, 3), (224, 224, 3)
NORMALIZERS = {
    "none": (),
    "batch": (layers.BatchNormalization,),
    "group": (layers.GroupNormalization,),
    "layer": (layers.GroupNormalization,),
}


def test_the_page_passes_arguments_to_a_builder_that_takes_them():
    page = (Path(__file__).parent.parent / "docs" / "model.md").read_text(encoding="utf-8")
    found = re.findall(r'`--model=(\w+) --model_arguments="(.+?)"`', page)

    assert found
    for name, text in found:
        given = parse_arguments(text, flag="--model_arguments")
        check_arguments(find_model_builder(name), given)
    takes = {name: set(own_parameters(find_model_builder(name))) for name in MODELS.names()}
    assert all("normalization" in names for names in takes.values())
    assert {name for name, names in takes.items() if "dropout" in names} == {
        "alexnet",
        "googlenet",
        "vgg",
    }
    with pytest.raises(InputError, match="takes no argument `dropout`"):
        check_arguments(find_model_builder("MobileNetV2"), ["dropout"])


def images(shape, count=8):
    return np.random.default_rng(0).normal(size=(count, *shape)).astype("float32")


def build(name, shape, num_classes=10, seed=1, **options):
    keras.utils.set_random_seed(seed)
    return MODELS.load(name).build(shape, num_classes, **options)


@functools.cache
def outline(name, shape, num_classes=10, **options):
    """A model to look at: its variables have no values, so that 138 million cost nothing."""
    with keras.StatelessScope(initialize_variables=False):
        model = build(name, shape, num_classes, **options)
    # Keras forgets the variables, which the next such scope would otherwise give values to.
    keras.utils.clear_session(free_memory=False)
    return model


def entropy(labels, logits):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return float(loss(np.asarray(labels), logits))


@functools.cache
def one_step(name, shape):
    """One step of plain gradient descent, with the same dropped units before and after it."""
    model = build(name, shape)
    x, y = images(shape), np.arange(8)
    state = [(v, v.numpy()) for v in model.non_trainable_variables]
    with tf.GradientTape() as tape:
        logits = model(x, training=True)
        losses = keras.ops.sparse_categorical_crossentropy(y, logits, from_logits=True)
        loss = tf.reduce_mean(losses)
    gradients = tape.gradient(loss, model.trainable_variables)
    before = [v.numpy() for v in model.trainable_variables]
    keras.optimizers.SGD(0.01).apply(gradients, model.trainable_variables)
    for variable, value in state:
        variable.assign(value)
    return SimpleNamespace(
        logits=logits,
        loss_before=entropy(y, logits),
        loss_after=entropy(y, model(x, training=True)),
        changes=[
            (v.path, v.numpy() != b) for v, b in zip(model.trainable_variables, before, strict=True)
        ],
    )


def weighted(model):
    return [layer for layer in model.layers if isinstance(layer, layers.Conv2D | layers.Dense)]


def depth(model):
    """Convolutions and dense layers on the longest path."""
    longest = {}
    for layer in model.layers:  # a layer's inputs come before it
        before = [] if isinstance(layer, layers.InputLayer) else layer.input
        before = before if isinstance(before, list) else [before]
        longest[id(layer.output)] = max(
            (longest[id(tensor)] for tensor in before), default=0
        ) + isinstance(layer, layers.Conv2D | layers.Dense)
    return longest[id(model.output)]


@pytest.mark.quick_cases("mlp", "small_cnn")
@EACH
def test_two_builds_of_a_model_have_one_hash_of_all_settings(name):
    """Otherwise a training that was killed would not find its checkpoint."""
    found = set()
    for _ in range(2):
        with keras.StatelessScope(initialize_variables=False):
            found.add(hash_of_settings(build(name, CIFAR)))
    keras.utils.clear_session(free_memory=False)

    assert len(found) == 1


@EACH
@pytest.mark.parametrize(
    ("shape", "num_classes"),
    [(DIGITS, 10), (CIFAR, 43), (IMAGENET, 10), ((3, 5, 4), 2)],
    ids=str,
)
def test_a_model_maps_images_to_logits(name, shape, num_classes):
    model = outline(name, shape, num_classes)

    assert isinstance(model, keras.Model)
    assert model.name == name
    assert not model.compiled
    assert model.input_shape == (None, *shape)
    assert model.output_shape == (None, num_classes)
    assert getattr(model.layers[-1], "activation", None) is keras.activations.linear


@pytest.mark.quick_cases("mlp", "small_cnn", "alexnet")
@EACH
@pytest.mark.parametrize("shape", [DIGITS, CIFAR], ids=["digits", "cifar"])
def test_one_learning_step_lowers_the_loss(name, shape):
    step = one_step(name, shape)

    assert step.logits.shape == (8, 10)
    assert step.logits.dtype == tf.float32
    assert np.isfinite(step.loss_after)
    assert step.loss_after < step.loss_before - 1e-3


@pytest.mark.quick_cases("mlp", "small_cnn", "alexnet")
@EACH
@pytest.mark.parametrize("shape", [DIGITS, CIFAR], ids=["digits", "cifar"])
def test_one_learning_step_changes_every_weight_and_every_place_of_a_kernel(name, shape):
    """A kernel's border learns nothing where the image is one pixel and the rest is padding."""
    for path, changed in one_step(name, shape).changes:
        assert changed.any(), path
        if changed.ndim == 4:
            assert changed.any(axis=(2, 3)).all(), path


@pytest.mark.quick_cases("mlp", "small_cnn", "alexnet")
@EACH
@pytest.mark.parametrize("shape", [DIGITS, CIFAR], ids=["digits", "cifar"])
def test_the_loss_of_an_untrained_model_is_near_the_logarithm_of_the_number_of_classes(name, shape):
    assert abs(one_step(name, shape).loss_before - math.log(10)) < 0.6


@functools.cache
def trials(name):
    """The models of three trials, two of them with the same seed, and the keys of their structure.

    To look at and to predict with.
    """
    models, keys = [], []
    for seed in (5, 5, 6):
        keras.utils.clear_session(free_memory=False)
        models.append(build(name, DIGITS, seed=seed))
        keys.append(structure_key(models[-1], MODELS.load(name).build))
    return models, keys


@pytest.mark.quick_cases("mlp", "small_cnn", "alexnet")
@EACH
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(name):
    first, same, other = (model.get_weights() for model in trials(name)[0])

    assert all((a == b).all() for a, b in zip(first, same, strict=True))
    assert any((a != b).any() for a, b in zip(first, other, strict=True))


@pytest.mark.quick_cases("mlp", "small_cnn", "alexnet")
@EACH
def test_a_saved_model_predicts_the_same(name, tmp_path):
    model = trials(name)[0][0]
    model.save(tmp_path / "model.keras")

    loaded = keras.models.load_model(tmp_path / "model.keras")

    x = images(DIGITS)
    np.testing.assert_array_equal(loaded(x, training=False), model(x, training=False))


@pytest.mark.quick_cases("mlp", "small_cnn")
@EACH
def test_a_prediction_does_not_depend_on_the_other_images_of_the_batch(name):
    model, x = trials(name)[0][0], images(DIGITS, count=3)

    alone = np.concatenate([model(x[i : i + 1], training=False) for i in range(3)])

    np.testing.assert_allclose(model(x, training=False), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.quick_cases("alexnet", "mlp", "resnet", "small_cnn", "vgg")
@EACH
@EACH_NORMALIZATION
def test_a_normalization_is_its_layer_after_layers_without_bias(name, normalization):
    model = outline(name, DIGITS, normalization=normalization)

    normalizers = [
        layer
        for layer in model.layers
        if isinstance(layer, layers.BatchNormalization | layers.GroupNormalization)
    ]
    assert all(isinstance(layer, NORMALIZERS[normalization]) for layer in normalizers)
    assert bool(normalizers) == (normalization != "none")
    outputs = {id(layer.output): layer for layer in model.layers}
    before = [outputs[id(layer.input)] for layer in normalizers]
    assert not any(layer.use_bias for layer in before)
    assert all(layer.use_bias for layer in weighted(model) if layer not in before)
    convolutions = [layer for layer in model.layers if isinstance(layer, layers.Conv2D)]
    if normalization != "none":
        assert set(convolutions) <= set(before)
    for layer in normalizers:
        if normalization == "batch":
            assert layer.momentum == 0.9
        else:
            width = layer.input.shape[-1]
            assert layer.groups == (1 if normalization == "layer" else group_count(width))


@pytest.mark.quick_cases("mlp", "small_cnn", "alexnet")
@pytest.mark.parametrize(
    ("name", "normalization"),
    [*itertools.product(MODELS.names(), ("batch", "group")), ("resnet", "none")],
)
def test_a_batch_of_two_has_a_finite_loss_where_it_is_normalized(name, normalization):
    model = build(name, DIGITS, normalization=normalization)

    assert np.isfinite(entropy([0, 1], model(images(DIGITS, count=2), training=True)))


@pytest.mark.parametrize("name", ["mlp", "small_cnn"])
@EACH_NORMALIZATION
def test_only_batch_normalization_couples_the_examples_of_a_batch(name, normalization):
    model, x = build(name, DIGITS, normalization=normalization), images(DIGITS, count=3)

    alone, together = model(x[:1], training=True)[0], model(x, training=True)[0]

    couples = not np.allclose(alone, together, rtol=1e-3, atol=1e-4)
    assert couples == (normalization == "batch")


@EACH
@pytest.mark.parametrize("given", ["grup", "None", "BatchNormalization"])
def test_an_unknown_normalization_is_refused(name, given):
    with pytest.raises(InputError) as caught:
        build(name, DIGITS, normalization=given)

    assert str(caught.value).startswith(f"Unknown normalization `{given}`.")
    assert str(caught.value).endswith("Available: none, batch, group, layer.")
    if given == "grup":
        assert "Did you mean `group`?" in str(caught.value)


@EACH
def test_a_model_takes_its_options_by_keyword_and_has_a_default_for_each(name):
    assert "normalization" in options_of(name)
    for option in options_of(name).values():
        assert option.kind is option.KEYWORD_ONLY
        assert option.default is not option.empty


def options_of(name):
    options = dict(inspect.signature(MODELS.load(name).build).parameters)
    del options["input_shape"], options["num_classes"]
    return options


WITH_DROPOUT = [name for name in MODELS.names() if "dropout" in options_of(name)]


def test_the_papers_with_dropout_have_it_by_default():
    defaults = {name: options_of(name)["dropout"].default for name in WITH_DROPOUT}

    assert defaults.items() >= {"alexnet": 0.5, "googlenet": 0.4, "vgg": 0.5}.items()


@pytest.mark.parametrize("name", WITH_DROPOUT)
def test_dropout_is_what_was_asked_for_and_none_at_zero(name):
    for rate in (options_of(name)["dropout"].default, 0.1, 0):
        model = outline(name, DIGITS, dropout=rate)
        rates = {layer.rate for layer in model.layers if isinstance(layer, layers.Dropout)}
        assert rates == ({rate} if rate else set())


@pytest.mark.parametrize("name", WITH_DROPOUT)
@pytest.mark.parametrize("rate", [1, -0.1, 1.5, float("nan"), True, "0.5", None], ids=str)
def test_a_dropout_that_is_no_fraction_is_refused(name, rate):
    with pytest.raises(InputError, match=r"`dropout` must be at least 0 and below 1.*Received: "):
        build(name, DIGITS, dropout=rate)


@pytest.mark.quick_cases("mlp", "small_cnn", "alexnet")
@EACH
def test_a_model_in_half_precision_is_finite(name):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = build(name, DIGITS)
        logits = model(images(DIGITS, count=2), training=True)
    finally:
        keras.config.set_dtype_policy("float32")

    assert {v.dtype for v in model.trainable_variables} == {"float32"}
    assert weighted(model)[0].compute_dtype == "float16"
    assert np.isfinite(entropy([0, 1], logits))


@pytest.mark.quick_cases("mlp", "small_cnn")
@EACH
def test_trials_of_a_model_share_one_traced_program(name):
    _, keys = trials(name)

    assert None not in keys
    assert len(set(keys)) == 1


@pytest.mark.parametrize("shape", [DIGITS, CIFAR, IMAGENET], ids=["digits", "cifar", "imagenet"])
@pytest.mark.parametrize(
    ("name", "layers_on_the_longest_path"),
    [("alexnet", 8), ("googlenet", 22), ("mlp", 3), ("resnet", 20), ("vgg", 16)],
)
def test_a_network_has_the_depth_of_its_paper_at_every_image_size(
    name, layers_on_the_longest_path, shape
):
    assert depth(outline(name, shape)) == layers_on_the_longest_path


@pytest.mark.parametrize(
    ("name", "shape", "num_classes", "parameters"),
    [
        ("alexnet", IMAGENET, 1000, 62_378_344),
        ("googlenet", IMAGENET, 1000, 6_998_552),
        ("vgg", IMAGENET, 1000, 138_357_544),
        ("mlp", MNIST, 10, 266_610),
    ],
    ids=["alexnet", "googlenet", "vgg", "mlp"],
)
def test_a_network_at_its_papers_image_size_is_the_one_of_the_paper(
    name, shape, num_classes, parameters
):
    assert outline(name, shape, num_classes).count_params() == parameters


def test_the_resnet_is_the_one_of_the_paper():
    """20 layers and 0.27 million parameters (arXiv 1512.03385, table 6)."""
    model = outline("resnet", CIFAR)
    on_the_path = [
        layer for layer in weighted(model) if getattr(layer, "kernel_size", (3, 3)) == (3, 3)
    ]

    assert len(on_the_path) == 20
    assert model.count_params() == 274_042


@pytest.mark.parametrize("name", ["alexnet", "googlenet", "vgg"])
def test_the_widths_of_a_small_image_are_a_quarter_of_the_papers(name):
    def widths(shape):
        return [layer.kernel.shape[-1] for layer in weighted(outline(name, shape))[:-1]]

    assert widths(CIFAR) == widths((127, 224, 3)) == [width // 4 for width in widths(IMAGENET)]
    assert widths((128, 128, 3)) == widths(IMAGENET)


@pytest.mark.parametrize(
    ("name", "sides"),
    [  # of the last feature map, by the image's side
        ("alexnet", {28: 2, 32: 3, 64: 3, 224: 6}),
        ("googlenet", {28: 4, 32: 4, 64: 4, 224: 7}),
        ("resnet", {28: 7, 32: 8, 64: 8, 224: 14}),
        ("vgg", {28: 3, 32: 4, 64: 4, 224: 7}),
    ],
    ids=["alexnet", "googlenet", "resnet", "vgg"],
)
def test_the_last_feature_map_is_about_as_large_at_every_image_size(name, sides):
    for side, expected in sides.items():
        model = outline(name, (side, side, 3))
        last = [layer.output.shape for layer in model.layers if len(layer.output.shape) == 4][-1]
        assert last[1:3] == (expected, expected), side


def test_the_small_cnn_has_no_layer_that_couples_the_examples_of_a_batch():
    kinds = {type(layer) for layer in outline("small_cnn", CIFAR).layers}

    assert not kinds & {layers.BatchNormalization, layers.Dropout}


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(1, 1), (4, 1), (13, 1), (16, 2), (17, 1), (24, 3), (64, 8), (100, 10), (256, 32), (832, 32)],
)
def test_group_normalization_has_32_groups_or_fewer_of_at_least_8_channels(channels, groups):
    assert group_count(channels) == groups


@pytest.mark.parametrize(
    ("normalization", "axes"),
    [("batch", (0, 1, 2, 4)), ("group", (1, 2, 4)), ("layer", (1, 2, 3, 4))],
    ids=["batch", "group", "layer"],
)
def test_a_normalization_takes_mean_and_variance_over_its_axes(normalization, axes):
    """With 16 channels in two groups of eight."""
    inputs = keras.Input((4, 5, 16))
    model = keras.Model(inputs, normalized(inputs, normalization))
    x = 3 * images((4, 5, 16), count=6) + np.arange(16, dtype="float32")
    shape = (6, 4, 5, 16, 1) if normalization == "batch" else (6, 4, 5, 2, 8)
    grouped = x.reshape(shape)
    centered = grouped - grouped.mean(axis=axes, keepdims=True)
    expected = centered / np.sqrt(grouped.var(axis=axes, keepdims=True) + 1e-3)

    given = model(x, training=True)

    np.testing.assert_allclose(given, expected.reshape(x.shape), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [*MODELS.names(), "package.module:function"])
def test_a_model_name_that_can_be_used_passes(name):
    check_model_name(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "resent",
            "Unknown model `resent`. Did you mean `resnet`? "
            f"Available: {', '.join(MODELS.names())}",
        ),
        (":build", "`--model` must be a model's name or package.module:function. Received: "),
        ("module:", "`--model` must be a model's name or package.module:function. Received: "),
        ("a:b:c", "`--model` must be a model's name or package.module:function. Received: "),
    ],
)
def test_a_model_name_that_cannot_be_used_is_refused(name, message):
    with pytest.raises(InputError) as caught:
        check_model_name(name)

    assert str(caught.value).startswith(message)
