"""Options of the gradient instruments, against softmax regression worked out in numpy."""

from __future__ import annotations

import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from contexts import context_of

import tfbatch
from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.estimators.noise_scale import estimate_noise_scale
from tfbatch.instruments.curvature import CurvatureSettings, measure_curvature_of
from tfbatch.instruments.learning_rate_range import RangeSettings, measure_learning_rate_range
from tfbatch.instruments.noise_scale import NoiseScaleSettings, measure_noise_scale
from tfbatch.instruments.weights_and_examples import (
    Weights,
    model_at,
    size_of_updates,
    training_batches,
)
from tfbatch.pipeline import PreparedData
from tfbatch.pipeline.array_data import StoredData
from tfbatch.pipeline.array_storage import store_data
from tfbatch.schema import Named
from tfbatch.training.compilation import Compilation
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.workload import Workload

CLASSES, EXAMPLES, SMALL, PARTS, PAIRS = 3, 96, 4, 4, 6
PLAIN = Configuration(batch_size=32, base_learning_rate=0.01)
SETTINGS = NoiseScaleSettings(small_batch_size=SMALL, micro_batches=PARTS, most_pairs=PAIRS)


def linear(input_shape, num_classes):
    inputs = keras.Input(input_shape)
    outputs = keras.layers.Dense(num_classes)(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, outputs)


def of_two_inputs(num_classes):
    """The same model of the same four numbers, which come in two inputs."""
    inputs = {name: keras.Input((2,), name=name) for name in ("left", "right")}
    both = keras.layers.Concatenate()([inputs["left"], inputs["right"]])
    return keras.Model(inputs, keras.layers.Dense(num_classes)(both))


def deeper(input_shape, num_classes):
    """Its first layer is that of `linear`."""
    inputs = keras.Input(input_shape)
    hidden = keras.layers.Dense(num_classes)(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, keras.layers.Dense(num_classes)(hidden))


def arrays():
    random = np.random.default_rng(3)
    x = random.normal(size=(EXAMPLES, 4)).astype("float32")
    return x, (x[:, 0] > 0.3).astype("int32") + (x[:, 1] > 0)


@pytest.fixture
def stored(tmp_path):
    def store(x, *rest):
        return StoredData(
            store_data(tmp_path, dict.fromkeys(("train", "validation"), (x, *rest))),
            name="mine",
        )

    return store


def noise(workload, weights=Weights(), settings=SETTINGS, configuration=PLAIN):  # noqa: B008
    return measure_noise_scale(context_of(ProgramCache(workload)), configuration, weights, settings)


def curvature(workload, weights=Weights()):  # noqa: B008
    settings = CurvatureSettings(examples=EXAMPLES, most_products=40)
    return measure_curvature_of(context_of(ProgramCache(workload)), PLAIN, weights, settings)


def initial(workload, seed=1):
    """Kernel and bias that a build under the seed has."""
    return [v.numpy() for v in workload.build(seed).trainable_variables]


def by_hand(batch, kernel, bias, weight_of):
    """Inputs with a 1, probabilities, targets and weights of the examples."""
    x, y = (np.asarray(part, float) for part in batch[:2])
    x = np.c_[x.reshape(len(x), -1), np.ones(len(x))]
    targets = y if y.ndim == 2 else np.eye(bias.size)[y.astype(int)]
    logits = x @ np.vstack([kernel, bias])
    chances = np.exp(logits - logits.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    return x, chances, targets, np.array([weight_of.get(c, 1.0) for c in targets.argmax(1)])


def noise_by_hand(stream, kernel, bias, weight_of):
    small, large = [], []
    for batch in stream:
        x, chances, targets, weights = by_hand(batch, kernel, bias, weight_of)
        each = np.einsum("n,ni,nj->nij", weights, x, chances - targets)
        parts = each.reshape(PARTS, SMALL, *each.shape[1:]).mean(axis=1)
        small.append((parts**2).sum(axis=(1, 2)).mean())
        large.append((parts.mean(axis=0) ** 2).sum())
    return estimate_noise_scale(
        small, large, small_batch_size=SMALL, large_batch_size=SMALL * PARTS
    )


def eigenvalues_by_hand(batch, kernel, bias, weight_of):
    x, chances, _, weights = by_hand(batch, kernel, bias, weight_of)
    inner = np.einsum("nj,jk->njk", chances, np.eye(bias.size)) - np.einsum(
        "nj,nk->njk", chances, chances
    )
    hessian = np.einsum("n,njk,nl,nm->jlkm", weights, inner, x, x) / len(x)
    return np.linalg.eigvalsh(hessian.reshape([x.shape[1] * bias.size] * 2))


def check_noise(workload, values, weight_of=(), stream=None, **options):
    found = noise(workload, **options).estimate
    stream = stream or workload.data.training(
        batch_size=SMALL * PARTS, seed=SETTINGS.seed, num_examples=SMALL * PARTS * PAIRS
    )
    truth = noise_by_hand(stream, *values, dict(weight_of))
    assert found.squared_gradient == pytest.approx(truth.squared_gradient, rel=1e-3)
    assert found.noise_trace == pytest.approx(truth.noise_trace, rel=1e-3)
    return found


@pytest.mark.quick_cases("class weights")
@pytest.mark.parametrize("class_weight", [None, {0: 5.0, 2: 0.25}], ids=["plain", "class weights"])
def test_noise_and_curvature_are_those_of_the_weighted_loss(stored, class_weight):
    data = stored(*arrays())
    workload = Workload(data, linear, compilation=Compilation(class_weight=class_weight))
    values = initial(workload)
    check_noise(workload, values, class_weight or {})
    (batch,) = data.evaluation("train")
    wanted = eigenvalues_by_hand(batch, *values, class_weight or {})
    found = curvature(workload)
    assert found.eigenvalues.largest.value == pytest.approx(wanted[-1], rel=1e-3)
    assert abs(found.trace.trace - wanted.sum()) < 5 * found.trace.standard_error


def test_a_sweeps_losses_are_weighted_by_class(stored):
    """The first one is that of the first batch at the initial weights."""
    data, weight_of = stored(*arrays()), {0: 5.0, 2: 0.25}
    workload = Workload(data, linear, compilation=Compilation(class_weight=weight_of))
    settings = RangeSettings(lowest=1e-3, highest=1.0, steps=20, seeds=(1,))
    found = measure_learning_rate_range(context_of(ProgramCache(workload)), PLAIN, settings)
    batch = next(iter(data.training(batch_size=32, seed=1, num_examples=20 * 32)))
    _, chances, targets, weights = by_hand(batch, *initial(workload), weight_of)
    losses = -np.log((chances * targets).sum(axis=1))
    assert found.losses[0][0] == pytest.approx((weights * losses).mean(), rel=1e-4)
    assert found.losses[0][0] != pytest.approx(losses.mean(), rel=0.05)


def test_labels_as_probabilities_are_measured_and_weighted_by_the_likeliest(stored):
    x, y = arrays()
    soft = (0.9 * np.eye(CLASSES)[y] + 0.1 / CLASSES).astype("float32")
    loss, weight_of = keras.losses.CategoricalCrossentropy(from_logits=True), {1: 4.0}
    compilation = Compilation(loss=loss, class_weight=weight_of)
    workload = Workload(
        stored(x, soft), lambda input_shape: linear(input_shape, CLASSES), compilation=compilation
    )
    check_noise(workload, initial(workload), weight_of)


@pytest.mark.slow
def test_a_dict_of_inputs_is_measured_as_one_array_of_them(stored, tmp_path):
    x, y = arrays()
    whole = Workload(stored(x, y), linear, compilation=Compilation(class_weight={0: 5.0}))
    parts = {"left": x[:, :2], "right": x[:, 2:]}
    halves = Workload(stored(parts, y), of_two_inputs, compilation=whole.compilation)
    for one, other in zip(initial(whole), initial(halves), strict=True):
        np.testing.assert_array_equal(one, other)
    assert noise(halves).estimate.noise_scale == pytest.approx(
        noise(whole).estimate.noise_scale, rel=1e-4
    )
    assert curvature(halves).eigenvalues.largest.value == pytest.approx(
        curvature(whole).eigenvalues.largest.value, rel=1e-4
    )
    settings = RangeSettings(lowest=1e-3, highest=1.0, steps=20, seeds=(1,))
    one, other = (
        measure_learning_rate_range(context_of(ProgramCache(w)), PLAIN, settings)
        for w in (whole, halves)
    )
    np.testing.assert_allclose(one.losses, other.losses, rtol=1e-4)


@pytest.fixture(scope="module")
def mixed(digits):
    """The digits with mixup: targets are probabilities in training."""
    steps = (Named(name="mixup", alpha=1.0),)
    recipe = digits.recipe.model_copy(update={"augmentation": steps})
    return PreparedData(recipe, digits.folder)


@pytest.mark.slow
def test_mixup_is_part_of_the_gradient_unless_left_out(mixed, digits):
    workload = Workload(mixed, linear)
    values = initial(workload)
    augmented = check_noise(workload, values)
    bare = Workload(digits, linear)
    stream = training_batches(
        bare, batch_size=SMALL * PARTS, batches=PAIRS, seed=0, augmented=False
    )
    settings = NoiseScaleSettings(
        small_batch_size=SMALL, micro_batches=PARTS, most_pairs=PAIRS, augmented=False
    )
    plain = check_noise(workload, values, stream=stream, settings=settings)
    assert plain.noise_scale != pytest.approx(augmented.noise_scale, rel=0.01)


def test_curvature_is_that_of_the_examples_as_they_are(mixed, digits):
    one, other = (curvature(Workload(data, linear)) for data in (mixed, digits))
    assert one.eigenvalues.largest.value == pytest.approx(other.eigenvalues.largest.value, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_the_figures_are_float32_whatever_the_precision(digits, precision):
    """And the training's own program keeps its precision."""
    settings = NoiseScaleSettings(small_batch_size=SMALL, micro_batches=PARTS, most_pairs=PAIRS)
    workload, plain = Workload(digits, linear, precision=precision), Workload(digits, linear)
    programs = ProgramCache(workload)
    found = measure_noise_scale(context_of(programs), PLAIN, Weights(), settings)
    assert found.estimate == noise(plain).estimate
    assert curvature(workload).eigenvalues == curvature(plain).eigenvalues
    model = programs.begin(PLAIN, total_examples=64, seed=1)
    assert {layer.compute_dtype for layer in model.layers} == {precision.removeprefix("mixed_")}


def test_a_strategy_is_left_out_of_a_gradient(digits):
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    shared = Workload(digits, linear, strategy=strategy)
    model = model_at(ProgramCache(shared), PLAIN, Weights())
    assert model.distribute_strategy is not strategy
    assert shared.strategy is strategy
    assert noise(shared).estimate == noise(Workload(digits, linear)).estimate


@pytest.fixture
def kept(stored, tmp_path):
    """Data, a trained model, and where its weights are kept."""
    data = stored(*arrays())
    keras.utils.set_random_seed(3)
    model = linear(data.input_shape, CLASSES)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(*arrays(), epochs=2, verbose=0)
    model.save_weights(tmp_path / "kept.weights.h5")
    model.save(tmp_path / "kept.keras")
    return data, model, tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kept.weights.h5", "kept.keras"])
def test_kept_weights_are_those_that_are_measured(kept, name):
    data, model, folder = kept
    weights = Weights(file=folder / name)
    check_noise(Workload(data, linear), model.get_weights(), weights=weights)
    assert f"at the weights of {name}" in noise(Workload(data, linear), weights).conclusion()
    (batch,) = data.evaluation("train")
    wanted = eigenvalues_by_hand(batch, *model.get_weights(), {})
    found = curvature(Workload(data, linear), weights)
    assert found.eigenvalues.largest.value == pytest.approx(wanted[-1], rel=1e-3)


@pytest.mark.slow
def test_kept_weights_of_mixed_precision_are_measured_in_float32(kept):
    data, _, folder = kept
    weights = Weights(file=folder / "kept.weights.h5")
    one, other = (
        noise(Workload(data, linear, precision=precision), weights).estimate
        for precision in ("float32", "mixed_bfloat16")
    )
    assert one == other


@pytest.mark.quick_cases("deeper-keras", "wider-weights")
@pytest.mark.filterwarnings("ignore:Skipping nested container")
@pytest.mark.parametrize("ending", ["weights.h5", "keras"])
@pytest.mark.parametrize("other", ["deeper", "wider", "broken"])
def test_what_another_model_kept_is_refused_in_a_sentence(kept, other, ending):
    data, _, folder = kept
    file = folder / f"{other}.{ending}"
    if other == "broken":
        file.write_text("no weights")
    else:
        model = deeper((4,), CLASSES) if other == "deeper" else linear((4,), CLASSES + 1)
        (model.save if ending == "keras" else model.save_weights)(file)
    with pytest.raises(InputError, match="must hold weights of this model") as refused:
        noise(Workload(data, linear), Weights(file=file))
    assert file.name in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "array(" not in str(refused.value)


def test_an_absent_file_is_refused_before_anything_begins(tmp_path):
    for measure in (tfbatch.gradient_noise_scale, tfbatch.measure_curvature):
        with pytest.raises(InputError, match=r"`weights_file` must be a file.*absent"):
            measure("no such model", "digits", weights_file=tmp_path / "absent.weights.h5")


def test_class_weights_beside_sample_weights_are_refused(stored):
    """`fit` refuses them too; the sample weights would be dropped without a word."""
    data = stored(*arrays(), np.ones(EXAMPLES, np.float32))
    compilation = Compilation(class_weight={0: 2.0})
    with pytest.raises(InputError, match="without sample weights"):
        noise(Workload(data, linear, compilation=compilation))


@pytest.mark.slow
def test_the_functions_take_these_options_to_their_worker(kept, stored):
    """Data as a dict of arrays in their splits, class weights, and a file of weights."""
    _, _, folder = kept
    x, y = arrays()
    parts = {"left": x[:, :2], "right": x[:, 2:]}
    compilation = Compilation(class_weight={0: 5.0})
    weights = Weights(file=folder / "kept.weights.h5")
    wanted = noise(Workload(stored(parts, y), of_two_inputs, compilation=compilation), weights)
    found = tfbatch.gradient_noise_scale(
        of_two_inputs,
        {"train": (parts, y), "validation": (parts, y)},
        weights_file=weights.file,
        class_weight=compilation.class_weight,
        small_batch_size=SMALL,
        micro_batches=PARTS,
        most_pairs=PAIRS,
        verbose=0,
    )
    assert (found.where, found.estimate.count) == (wanted.where, wanted.estimate.count)
    assert found.estimate.noise_trace == pytest.approx(wanted.estimate.noise_trace, rel=1e-4)


def test_the_size_of_updates_is_a_whole_number_of_examples_that_there_are():
    bench = types.SimpleNamespace(data=types.SimpleNamespace(splits={"train": 100}))

    assert size_of_updates(bench, None) == 100
    assert type(size_of_updates(bench, np.int64(32))) is int
    for wrong in (0, 101, 16.5):
        with pytest.raises(InputError, match=f"whole number from 1 to .* 100. Received: {wrong}"):
            size_of_updates(bench, wrong)
