"""The training stream: its order, its length, its augmentation; evaluation; damage on the way.

The tiny data's first pixel is the example's number, so that the order of EXAMPLES is seen.
"""

from __future__ import annotations

import json
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from augmentation_snippets import snippet

from tfbatch.augmentations import AUGMENTATIONS
from tfbatch.errors import InputError, RecordError
from tfbatch.pipeline import PreparedData, default_records_root, load_data, streams
from tfbatch.pipeline.normalization import make_normalize
from tfbatch.records.writer import write_records
from tfbatch.seeds import derive_seed

SIZE = 37  # prime: no batch size divides it
CHAIN = [
    {"name": "horizontal_flip"},
    {"name": "random_crop", "padding": 1},
    {"name": "cutout", "size": 2},
]
MIXED = [*CHAIN, {"name": "mixup", "alpha": 1.0}]
CHAINS = {
    "none mixes": CHAIN,
    "one mixes": MIXED,
    **{f"{name} as documented": snippet(name) for name in AUGMENTATIONS.names()},
}
BOTH = pytest.mark.parametrize("mode", ["resident", "streaming"])
BATCH_SIZES = (1, 7, 32, SIZE)


@pytest.fixture(scope="module")
def prepared(make_recipe, tiny_examples, tmp_path_factory):
    """PreparedData of 37 training examples, each kind made once."""
    root, made = tmp_path_factory.mktemp("pipeline"), {}

    def make(mode="resident", **changes):
        key = (mode, json.dumps(changes))
        if key not in made:
            made[key] = new(mode, **changes)
        return made[key]

    def new(mode, **changes):
        recipe = make_recipe(**changes)
        folder = root / f"shards-{recipe.shards}"
        write_records(folder, recipe=recipe, examples=lambda: tiny_examples(train=SIZE))
        data = PreparedData(recipe, folder, resident_share=0.25 if mode == "resident" else 0)
        assert data.resident == (mode == "resident")
        return data

    return make


def stream_of(data, *, batch_size=7, seed=5, num_examples=SIZE, start=0):
    """Images and labels of a stream, batches joined."""
    batches = list(
        data.training(
            batch_size=batch_size, seed=seed, num_examples=num_examples, start=start
        ).as_numpy_iterator()
    )
    return np.concatenate([x for x, _ in batches]), np.concatenate([y for _, y in batches])


def assert_equal(got, want):
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, other)


def order_of(data, **arguments):
    """The examples' numbers, in the order of the stream."""
    images, labels = stream_of(data, **arguments)
    numbers = np.rint(images[:, 0, 0, 0] * 255).astype(int)
    assert (labels == numbers % 3).all()  # image and label stay together
    return numbers.tolist()


@BOTH
def test_the_same_seed_gives_the_same_order_for_every_batch_size(prepared, mode):
    data = prepared(mode)

    orders = [order_of(data, batch_size=b, num_examples=3 * SIZE + 5) for b in BATCH_SIZES]

    assert len(orders[0]) == 3 * SIZE + 5
    assert all(order == orders[0] for order in orders)


@BOTH
def test_another_seed_gives_another_order(prepared, mode):
    data = prepared(mode)

    orders = [tuple(order_of(data, seed=seed)) for seed in (0, 1, 2**31 - 1)]

    assert len(set(orders)) == 3


@BOTH
def test_each_epoch_is_a_new_permutation_of_all_examples(prepared, mode):
    order = order_of(prepared(mode), batch_size=10, num_examples=4 * SIZE)

    epochs = [tuple(order[i : i + SIZE]) for i in range(0, 4 * SIZE, SIZE)]
    assert all(sorted(epoch) == list(range(SIZE)) for epoch in epochs)
    assert len(set(epochs)) == 4


@BOTH
def test_an_epoch_is_shuffled_throughout(prepared, mode):
    """No correlation between place and number, within five standard errors of 30 epochs."""
    order = np.array(order_of(prepared(mode), batch_size=SIZE, num_examples=30 * SIZE))

    places = np.tile(np.arange(SIZE), 30)
    assert abs(np.corrcoef(places, order)[0, 1]) < 5 / (30 * SIZE) ** 0.5
    first = set(order[::SIZE].tolist())
    assert len(first) > 12  # 20.7 different ones are expected of 37 in 30


@BOTH
@pytest.mark.parametrize(
    ("batch_size", "num_examples"),
    [(1, SIZE), (7, 1), (7, 2 * SIZE), (7, 3 * SIZE + 5), (SIZE, 2 * SIZE)],
)
def test_the_stream_is_continuous_and_only_its_last_batch_is_short(
    prepared, mode, batch_size, num_examples
):
    stream = prepared(mode).training(batch_size=batch_size, seed=1, num_examples=num_examples)

    sizes = [len(labels) for _, labels in stream]

    full, rest = divmod(num_examples, batch_size)
    assert sizes == [batch_size] * full + [rest] * (rest > 0)
    assert int(stream.cardinality()) == len(sizes)
    images, labels = stream.element_spec
    assert (images.shape, images.dtype) == ((None, 4, 6, 3), tf.float32)
    assert (labels.shape, labels.dtype) == ((None,), tf.int32)


@BOTH
def test_a_stream_continues_exactly_where_it_was_left(prepared, mode):
    """Within a batch, at its end, at the ends of epochs and beside them; for any batch size."""
    data = prepared(mode, augmentation=CHAIN)
    whole = stream_of(data, batch_size=8, num_examples=3 * SIZE + 5)

    starts = (1, 8, SIZE - 1, SIZE, 2 * SIZE + 3, 3 * SIZE + 4)
    for start, batch_size in [*zip(starts, (5, 8, SIZE, 1, SIZE, 8), strict=True), (SIZE, SIZE)]:
        rest = stream_of(data, batch_size=batch_size, num_examples=3 * SIZE + 5, start=start)

        assert_equal(rest, [x[start:] for x in whole])


@pytest.mark.quick_cases("none mixes")
@pytest.mark.parametrize(
    ("mode", "chain"),
    [
        *(("resident", chain) for chain in CHAINS.values()),
        *(("streaming", chain) for chain in (CHAIN, MIXED)),
    ],
    ids=[*CHAINS, "none mixes, streaming", "one mixes, streaming"],
)
def test_augmentation_is_the_same_for_every_batch_size_and_start(prepared, mode, chain):
    data = prepared(mode, augmentation=chain)

    whole, *others = (stream_of(data, batch_size=b, num_examples=2 * SIZE) for b in (1, 7, SIZE))

    for other in others:
        assert_equal(other, whole)
    for start in (SIZE - 2, SIZE + 9):
        rest = stream_of(data, batch_size=5, num_examples=2 * SIZE, start=start)
        assert_equal(rest, [x[start:] for x in whole])
    plain = stream_of(prepared(mode), num_examples=2 * SIZE)[0]
    changed = (whole[0] != plain).any(axis=(1, 2, 3)).mean()
    assert changed > (0.9 if len(chain) > 2 else 0.2)


@pytest.mark.quick_cases("streaming")
@BOTH
def test_how_many_batches_are_made_at_once_changes_nothing(prepared, mode, monkeypatch):
    data = prepared(mode, augmentation=MIXED)
    arguments = {"batch_size": 3, "num_examples": 2 * SIZE + 5, "start": 4}
    wanted = stream_of(data, **arguments)

    for examples in (1, 6, 10, SIZE):
        monkeypatch.setattr(streams, "_CHUNK_EXAMPLES", examples)
        assert_equal(stream_of(data, **arguments), wanted)


@pytest.mark.parametrize(
    ("batch_size", "pixels", "count"),
    [(32, 3072, 8), (128, 3072, 2), (255, 3072, 1), (1024, 3072, 1), (1, 64, 4096), (3, 10**7, 1)],
)
def test_small_batches_are_made_several_at_once(batch_size, pixels, count):
    assert streams.batches_in_chunk(batch_size, pixels=pixels) == count


@pytest.mark.quick_cases("mixing")
@BOTH
@pytest.mark.parametrize("chain", [CHAIN, MIXED], ids=["plain", "mixing"])
def test_a_further_stream_traces_nothing(prepared, mode, chain, monkeypatch):
    """A trial of a search makes one: sizes and seeds are arguments of a program that is there."""
    data, traced = prepared(mode, augmentation=chain), []
    stream_of(data)
    real = data._augment
    monkeypatch.setattr(data, "_augment", lambda *a: traced.append(1) or real(*a))

    for batch_size in (1, 4, SIZE):
        stream_of(data, batch_size=batch_size, seed=batch_size, num_examples=90, start=batch_size)

    assert not traced
    assert data._stream.experimental_get_tracing_count() == 1
    assert data.evaluation("test") is data.evaluation("test")
    assert data.evaluation("test", batch_size=3) is not data.evaluation("test")


def test_augmentation_differs_between_seeds_epochs_and_places_in_the_chain(prepared):
    twice = prepared(augmentation=[{"name": "horizontal_flip"}] * 2)
    once = prepared(augmentation=[{"name": "horizontal_flip"}])
    plain = prepared()

    def flips(data, seed):
        """Which examples of two epochs come out mirrored: by place, and by number."""
        arguments = {"batch_size": SIZE, "num_examples": 2 * SIZE, "seed": seed}
        before, after = stream_of(plain, **arguments)[0], stream_of(data, **arguments)[0]
        mirrored = (before != after).any(axis=(1, 2, 3))
        np.testing.assert_array_equal(after[mirrored], before[mirrored, :, ::-1])
        numbers = np.rint(before[:, 0, 0, 0] * 255)
        epochs = (slice(SIZE), slice(SIZE, None))
        return mirrored, [mirrored[epoch][np.argsort(numbers[epoch])] for epoch in epochs]

    by_place, (first, second) = flips(once, 5)
    assert 20 < by_place.sum() < 2 * SIZE - 20
    assert (by_place != flips(once, 6)[0]).any()
    assert (first != second).any()
    # Two flips in a chain draw from streams of their own: together they are not the identity.
    assert 20 < flips(twice, 5)[0].sum() < 2 * SIZE - 20


@pytest.mark.quick_cases("resident")
@BOTH
def test_a_mixed_example_is_made_of_two_streams_of_the_same_data(prepared, mode):
    """The first pixel is the example's number: it gives the weight, which all else must have."""
    data = prepared(mode, augmentation=[{"name": "mixup", "alpha": 1.0}])
    arguments = {"batch_size": 7, "num_examples": 3 * SIZE}

    images, labels = stream_of(data, **arguments, seed=5)

    one, other = (
        stream_of(prepared(mode), **arguments, seed=seed) for seed in (5, derive_seed(5, "partner"))
    )
    first, partner = (x[:, 0, 0, 0].astype(np.float64) for x, _ in (one, other))
    apart = np.abs(first - partner) * 255 > 4  # else the weight is not to be seen
    weight = ((images[:, 0, 0, 0] - partner) / np.where(apart, first - partner, 1))[apart]
    assert apart.mean() > 0.7
    assert (weight > -1e-5).all()
    assert (weight < 1 + 1e-5).all()
    assert abs(weight.mean() - 0.5) < 5 / (12 * len(weight)) ** 0.5
    classes = np.eye(3)
    for got, a, b in ((images, one[0], other[0]), (labels, classes[one[1]], classes[other[1]])):
        share = weight.reshape(-1, *[1] * (got.ndim - 1))
        np.testing.assert_allclose(got[apart], share * a[apart] + (1 - share) * b[apart], atol=1e-4)


@pytest.mark.quick_cases("streaming")
@BOTH
def test_partners_are_augmented_and_differ_from_the_examples_and_between_seeds(prepared, mode):
    whole = {"name": "cutout", "size": 50}  # covers every image: what is mixed is black
    data = prepared(mode, augmentation=[whole, {"name": "mixup", "alpha": 1.0}])

    images, labels = stream_of(data, num_examples=2 * SIZE)

    assert not images.any()
    mixed = ((labels > 0.01) & (labels < 0.99)).any(1)
    assert 0.4 < mixed.mean() < 0.9  # two thirds of partners are of another class
    assert (labels != stream_of(data, num_examples=2 * SIZE, seed=6)[1]).any()
    assert (labels[:SIZE] != labels[SIZE:]).any()


@pytest.mark.quick_cases("streaming")
@BOTH
def test_with_a_recipe_that_mixes_the_labels_of_all_splits_are_soft(prepared, mode):
    soft, hard = prepared(mode, augmentation=MIXED), prepared(mode, augmentation=CHAIN)

    assert (soft.soft_labels, hard.soft_labels) == (True, False)
    stream = soft.training(batch_size=7, seed=1, num_examples=2 * SIZE)
    images, labels = stream.element_spec
    assert (images.shape, images.dtype) == ((None, 4, 6, 3), tf.float32)
    assert (labels.shape, labels.dtype) == ((None, 3), tf.float32)
    sums = np.concatenate([y.sum(1) for _, y in stream.as_numpy_iterator()])
    np.testing.assert_allclose(sums, 1, atol=1e-6)
    assert int(stream.cardinality()) == len(list(stream)) == 11
    for split in ("train", "validation", "test"):
        parts = zip(soft.evaluation(split), hard.evaluation(split), strict=True)
        for (x, y), (wanted, number) in parts:
            np.testing.assert_array_equal(x, wanted)
            np.testing.assert_array_equal(y, np.eye(3, dtype=np.float32)[number])
            assert y.dtype == tf.float32


def test_mixed_data_goes_to_another_process(prepared):
    data = prepared(augmentation=MIXED)

    other = pickle.loads(pickle.dumps(data))

    assert_equal(stream_of(other), stream_of(data))


def test_soft_labels_train_as_keras_expects(prepared):
    """One batch: the loss is the cross-entropy with both labels, weighted."""
    data = prepared(augmentation=[{"name": "mixup", "alpha": 1.0}])
    model = keras.Sequential(
        [keras.Input((4, 6, 3)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, metrics=["accuracy"])
    stream = data.training(batch_size=SIZE, seed=1, num_examples=SIZE)
    ((images, labels),) = stream.as_numpy_iterator()

    logits = model(images).numpy().astype(np.float64)
    history = model.fit(stream, verbose=0, shuffle=False).history

    chances = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert history["loss"] == pytest.approx([-(labels * chances).sum(1).mean()], rel=1e-4)
    assert history["accuracy"] == pytest.approx([(logits.argmax(1) == labels.argmax(1)).mean()])
    assert model.evaluate(data.evaluation("test"), return_dict=True, verbose=0).keys() == {
        "loss",
        "accuracy",
    }


@BOTH
def test_a_stream_can_be_read_twice(prepared, mode):
    stream = prepared(mode).training(batch_size=7, seed=5, num_examples=2 * SIZE)

    first, second = ([y.tolist() for _, y in stream.as_numpy_iterator()] for _ in range(2))

    assert first == second


@BOTH
def test_the_order_does_not_depend_on_the_seed_of_the_program(prepared, mode):
    data, orders = prepared(mode), []
    for program_seed in (1, 2):
        tf.random.set_seed(program_seed)
        orders.append(order_of(data, num_examples=2 * SIZE))

    assert orders[0] == orders[1]


@BOTH
def test_a_stream_does_not_change_the_random_numbers_of_the_program(prepared, mode):
    data, numbers = prepared(mode), []
    for read in (False, True):
        tf.random.set_seed(3)
        if read:
            order_of(data)
        numbers.append(float(tf.random.uniform([])))

    assert numbers[0] == numbers[1]


@pytest.mark.quick_cases("5")
@BOTH
@pytest.mark.parametrize("shards", [1, 5])
def test_any_number_of_shards_can_be_read(prepared, mode, shards):
    data = prepared(mode, shards=shards)

    assert sorted(order_of(data)) == list(range(SIZE))


@BOTH
@pytest.mark.parametrize("kind", ["training", "evaluation"])
def test_autotuning_is_off(prepared, mode, kind):
    data = prepared(mode)
    dataset = (
        data.evaluation("test")
        if kind == "evaluation"
        else data.training(batch_size=7, seed=1, num_examples=SIZE)
    )

    assert dataset.options().autotune.enabled is False
    assert dataset.options().deterministic is True
    # It copies what a stream captures: tests/test_pipeline_decoded.py.
    assert dataset.options().experimental_optimization.apply_default_optimizations is False


@BOTH
def test_pixels_are_normalized_channel_by_channel(prepared, tiny_examples, mode):
    mean, deviation = [0.1, 0.2, 0.3], [0.5, 0.25, 2.0]
    data = prepared(mode, normalization={"mean": mean, "standard_deviation": deviation})
    ((images, labels),) = data.evaluation("test").as_numpy_iterator()

    raw = [e["image"] for split, _, e in tiny_examples() if split == "test"]
    want = (np.stack(raw).astype(np.float64) / 255 - mean) / deviation
    np.testing.assert_allclose(images, want, rtol=1e-5, atol=1e-6)
    assert images.dtype == np.float32
    assert labels.tolist() == [0, 1, 2, 0]
    order = order_of(prepared(mode), batch_size=SIZE)
    trained, _ = stream_of(data, batch_size=SIZE)
    got = np.rint((trained[:, 0, 0, 1] * deviation[1] + mean[1]) * 255)
    np.testing.assert_array_equal(got, order)


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (0.3, 0.25), (-2.0, 3.0)])
def test_pixels_are_normalized_with_one_number_for_all_channels(make_recipe, mean, deviation):
    written = {"mean": [mean] * 3, "standard_deviation": [deviation] * 3}
    images = np.random.default_rng(1).integers(0, 256, (7, 4, 6, 3)).astype(np.uint8)
    images[0, 0, 0], images[0, 0, 1] = 0, 255

    got = make_normalize(make_recipe(normalization=written))(tf.constant(images))

    want = (images.astype(np.float64) / 255 - mean) / deviation
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert (got.dtype, got.shape) == (tf.float32, images.shape)


@BOTH
@pytest.mark.parametrize("batch_size", [5, 512])
def test_evaluation_gives_every_example_once_in_order_and_not_augmented(
    prepared, tiny_examples, mode, batch_size
):
    data = prepared(mode, augmentation=CHAIN)
    for split, count in (("train", SIZE), ("validation", 4), ("test", 4)):
        dataset = data.evaluation(split, batch_size=batch_size)
        batches = list(dataset.as_numpy_iterator())
        images = np.concatenate([x for x, _ in batches])

        assert int(dataset.cardinality()) == len(batches) == -(-count // batch_size)
        numbers = np.rint(images[:, 0, 0, 0] * 255)
        assert numbers.tolist() == list(range(count)) == list(range(data.num_examples(split)))
        assert np.concatenate([y for _, y in batches]).tolist() == [i % 3 for i in range(count)]
        raw = [e["image"] for s, _, e in tiny_examples(train=SIZE) if s == split]
        np.testing.assert_array_equal(np.rint(images * 255), np.stack(raw))


def test_evaluation_has_a_batch_size_of_its_own(prepared):
    ((images, _),) = prepared().evaluation("train").as_numpy_iterator()

    assert len(images) == SIZE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"batch_size": SIZE + 1},
            "`batch_size` must be from 1 to the 37 training examples of tiny. Received: 38.",
        ),
        ({"batch_size": 0}, "`batch_size` must be from 1 to the 37 training examples of tiny."),
        ({"num_examples": 0}, "`0 <= start < num_examples` must hold. Received: start=0, num_exa"),
        ({"start": SIZE}, "`0 <= start < num_examples` must hold. Received: start=37, num_exam"),
        ({"start": -1}, "`0 <= start < num_examples` must hold. Received: start=-1, num_exampl"),
        ({"seed": -1}, "`seed` must be from 0 to 2147483647. Received: -1."),
        ({"seed": 2**31}, "`seed` must be from 0 to 2147483647. Received: 2147483648."),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_an_argument_out_of_range_is_refused(prepared, change, message):
    good = {"batch_size": 7, "seed": 1, "num_examples": SIZE}

    with pytest.raises(InputError) as caught:
        prepared().training(**{**good, **change})

    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [
        ({"name": "cutot"}, "Unknown augmentation `cutot`. Did you mean `cutout`? Available: "),
        (
            {"name": "cutout", "sise": 4},
            "data set tiny: augmentation cutout: sise: is not a known key. Did you mean `size`?",
        ),
        (
            {"name": "mixup", "alpha": -1},
            "data set tiny: augmentation mixup: alpha: Input should be greater than or equal to",
        ),
    ],
    ids=["name", "parameter", "range"],
)
def test_an_unusable_augmentation_is_refused_before_any_training(prepared, augmentation, message):
    with pytest.raises(InputError) as caught:
        prepared(augmentation=[augmentation])

    assert str(caught.value).startswith(message)


def damaged(prepared, make_recipe, tiny_examples, tmp_path, *, mode):
    """Data whose second training shard is damaged after it was opened, and that shard."""
    write_records(
        tmp_path / "abc", recipe=make_recipe(), examples=lambda: tiny_examples(train=SIZE)
    )
    share = 0.25 if mode == "resident" else 0
    data = PreparedData(make_recipe(), tmp_path / "abc", resident_share=share)
    path = tmp_path / "abc" / "tiny-train.tfrecord-00001-of-00003"
    content = bytearray(path.read_bytes())
    content[len(content) // 12 * 3 + 50] ^= 1  # twelve records of equal size: within number 3
    path.write_bytes(content)
    return data, path


def test_a_damaged_record_ends_a_stream_and_is_found(
    prepared, make_recipe, tiny_examples, tmp_path
):
    data, path = damaged(prepared, make_recipe, tiny_examples, tmp_path, mode="streaming")

    with pytest.raises(tf.errors.DataLossError):
        order_of(data)
    with pytest.raises(RecordError) as caught:
        data.raise_damage("train")

    assert (caught.value.path, caught.value.record) == (path, 3)
    data.raise_damage("validation")  # is whole


def test_a_damaged_record_is_named_when_data_is_read_into_memory(
    prepared, make_recipe, tiny_examples, tmp_path
):
    data, path = damaged(prepared, make_recipe, tiny_examples, tmp_path, mode="resident")

    with pytest.raises(RecordError) as caught:
        order_of(data)

    assert (caught.value.path, caught.value.record) == (path, 3)


def test_whole_records_have_no_damage(prepared):
    data = prepared("streaming")

    assert [data.raise_damage(split) for split in ("train", "validation", "test")] == [None] * 3


def test_digits_are_loaded_by_name_and_described(digits):
    assert digits.input_shape == (8, 8, 1)
    assert digits.num_classes == 10
    assert digits.resident
    assert [digits.num_examples(s) for s in ("train", "validation", "test")] == [1085, 357, 355]
    images, labels = next(digits.evaluation("train").as_numpy_iterator())
    assert images.shape == (512, 8, 8, 1)
    assert set(labels.tolist()) == set(range(10))


def test_the_numbers_of_the_recipe_normalize_its_training_split(digits):
    images = np.concatenate([x for x, _ in digits.evaluation("train").as_numpy_iterator()])

    assert abs(images.mean()) < 0.02
    assert abs(images.std() - 1) < 0.02


def test_digits_can_be_streamed_from_their_single_shard(digits):
    streamed = PreparedData(digits.recipe, digits.folder, resident_share=0)

    labels = stream_of(streamed, batch_size=100, num_examples=1085)[1]

    resident = stream_of(digits, batch_size=100, num_examples=1085)[1]
    assert np.bincount(labels).tolist() == np.bincount(resident).tolist()


def test_an_unknown_data_set_is_refused():
    with pytest.raises(InputError, match=r"Unknown data set `digit`\. Did you mean `digits`\?"):
        load_data("digit")


def test_records_go_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("TFBATCH_RECORDS_DIR", str(tmp_path))
    assert default_records_root() == tmp_path

    monkeypatch.delenv("TFBATCH_RECORDS_DIR")
    assert default_records_root().parts[-2:] == ("tfbatch", "records")
