"""Sources: a fixed order that does not depend on the class, and errors with a remedy."""

from __future__ import annotations

import itertools
import socket

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from make_tfds_folders import make_unequal_signs

from tfbatch.dataset_info.recipe import load_recipe
from tfbatch.errors import ConfigurationError, DataError, InputError
from tfbatch.records.codec import encode
from tfbatch.schema import content_hash
from tfbatch.sources import SOURCES, make_source
from tfbatch.sources.tfds import _builder


class NumberedImages(tfds.core.GeneratorBasedBuilder):
    """Images 2 x 3 whose pixels are their number; made without a network."""

    VERSION = tfds.core.Version("1.0.0")
    COUNT = 9

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "picture": tfds.features.Image(shape=(2, 3, 1), encoding_format="png"),
                    "kind": tfds.features.ClassLabel(num_classes=3),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(self.COUNT), "test": self._generate_examples(4)}

    def _generate_examples(self, count):
        for number in range(count):
            yield number, {"picture": np.full((2, 3, 1), number, np.uint8), "kind": number % 3}


@pytest.fixture
def numbered():
    return make_source("tfds", dataset="numbered_images", image="picture", label="kind")


@pytest.fixture(scope="module")
def numbered_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    several_files = tfds.download.DownloadConfig(num_shards=3)
    NumberedImages(data_dir=folder).download_and_prepare(download_config=several_files)
    return folder


@pytest.fixture
def no_network(monkeypatch):
    def fail(host, *_args, **_kwargs):
        raise socket.gaierror(-2, f"no network in tests: {host}")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    _builder.cache_clear()


def test_digits_are_1797_images_of_ten_classes():
    source = make_source("digits")
    examples = list(source.examples("train", None))

    assert len(examples) == source.num_examples("train", None) == 1797
    assert len({key for key, _ in examples}) == 1797
    labels = [e["label"] for _, e in examples]
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    for _, example in examples:
        assert type(example["label"]) is int
        assert example["image"].shape == (8, 8, 1)
        assert example["image"].dtype == np.uint8


def test_pixels_of_digits_are_stretched_from_16_to_255():
    from sklearn.datasets import load_digits

    examples = dict(make_source("digits").examples("train", None))

    first = examples["digits-0000"]["image"][..., 0]
    np.testing.assert_array_equal(first, np.round(load_digits().images[0] / 16 * 255))
    assert first.max() == 239


def test_the_order_of_digits_is_fixed_and_does_not_follow_the_class_nor_the_writers():
    first, again = (list(make_source("digits").examples("train", None)) for _ in range(2))
    labels = np.array([e["label"] for _, e in first])

    assert [key for key, _ in first] == [key for key, _ in again]
    assert [key for key, _ in first[:3]] != ["digits-0000", "digits-0001", "digits-0002"]
    assert len(set(labels[:60])) == 10
    # Neighbors have the same class as often as by chance, one in ten, within five errors.
    assert abs((labels[1:] == labels[:-1]).mean() - 0.1) < 5 * (0.1 * 0.9 / 1796) ** 0.5


def test_digits_have_only_the_split_train():
    with pytest.raises(InputError, match=r"has only the split `train`\. Received: 'test'\."):
        make_source("digits").num_examples("test", None)
    with pytest.raises(InputError, match="has only the split `train`"):
        next(make_source("digits").examples("test", None))


EACH = pytest.mark.parametrize("name", SOURCES.names())
CHANGING = pytest.mark.parametrize("name", [n for n in SOURCES.names() if n != "digits"])


@pytest.fixture(scope="module")
def sorted_data(tmp_path_factory):
    """Arguments of each source and its data folder; the data is sorted by class where it can be.

    A source that needs no arguments needs no entry here.
    """
    root = tmp_path_factory.mktemp("sources")
    labels = np.repeat(np.arange(5), 40)
    write_npz(root / "a.npz", labels)
    write_images(root / "folder", labels)
    make_unequal_signs(root)
    made = {
        "npz": {"path": "a.npz"},
        "images": {"folder": "folder"},
        "tfds": {"dataset": "unequal_signs", "image": "sign", "label": "kind"},
        "synthetic": {"classes": 5, "train": 200, "size": 8},
    }
    return lambda name: (make_source(name, **made.get(name, {})), root)


def write_npz(path, labels, *, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 6, 8), np.uint8)
    np.savez(path, x_train=images, y_train=labels)


def write_images(folder, labels, *, seed=0):
    generator = np.random.default_rng(seed)
    for number, label in enumerate(labels):
        image = generator.integers(0, 256, (6, 8, 3)).astype(np.uint8)
        path = folder / f"class-{label}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tf.io.encode_png(image).numpy())


@EACH
def test_a_source_gives_the_same_examples_each_time_as_many_as_it_says(sorted_data, name):
    source, root = sorted_data(name)

    first, again = (list(source.examples("train", root)) for _ in range(2))

    found = source.describe(root)
    assert len(first) == source.num_examples("train", root) == found.splits["train"]
    assert len({key for key, _ in first}) == len(first)
    for (key, one), (other_key, other) in zip(first, again, strict=True):
        assert (key, one["label"]) == (other_key, other["label"])
        assert np.array_equal(one["image"], other["image"])
        assert type(one["label"]) is int
        assert 0 <= one["label"] < found.num_classes
        assert isinstance(one["image"], bytes) == found.encoded
        if not found.encoded:
            assert one["image"].dtype == np.uint8
            assert one["image"].shape == (*found.size, found.channels)


@EACH
def test_classes_alone_and_a_late_start_are_the_same_stream(sorted_data, name):
    source, root = sorted_data(name)
    examples = list(source.examples("train", root))

    assert list(source.labels("train", root)) == [e["label"] for _, e in examples]
    assert all(type(label) is int for label in source.labels("train", root))
    for start in (0, 1, 150, len(examples) - 1):
        late = list(source.examples_from(start, "train", root))
        assert [key for key, _ in late] == [key for key, _ in examples[start:]]
        for (_, one), (_, other) in zip(late, examples[start:], strict=True):
            assert one["label"] == other["label"]
            assert np.array_equal(one["image"], other["image"])


@EACH
def test_the_order_of_a_source_does_not_follow_the_class(sorted_data, name):
    """Neighbors have the same class as often as by chance, within five standard errors."""
    source, root = sorted_data(name)
    labels = np.array([e["label"] for _, e in source.examples("train", root)])

    shares = np.bincount(labels) / len(labels)
    chance = float((shares**2).sum())
    error = (chance * (1 - chance) / (len(labels) - 1)) ** 0.5
    assert abs((labels[1:] == labels[:-1]).mean() - chance) < 5 * error


@EACH
def test_a_source_has_the_same_identity_until_its_data_changes(sorted_data, name):
    source, root = sorted_data(name)

    assert source.identity(root) == source.identity(root)
    assert content_hash(source.identity(root))


@EACH
def test_a_split_that_a_source_has_not_is_refused_by_every_method(sorted_data, name):
    source, root = sorted_data(name)
    for ask in (source.num_examples, lambda *a: next(source.examples(*a))):
        with pytest.raises(InputError, match=r"`tran`|'tran'") as caught:
            ask("tran", root)
        assert "train" in str(caught.value).replace("tran`", "").replace("'tran'", "")


@CHANGING
def test_the_identity_of_a_source_changes_with_its_data(tmp_path, monkeypatch, name):
    labels = np.repeat(np.arange(2), 6)

    def identity(seed):
        if name == "synthetic":
            return make_source(name, seed=seed).identity(None)
        if name == "npz":
            write_npz(tmp_path / "a.npz", labels, seed=seed)
            return make_source(name, path=str(tmp_path / "a.npz")).identity(None)
        if name == "images":
            write_images(tmp_path / "f", labels, seed=seed)
            return make_source(name, folder=str(tmp_path / "f")).identity(None)
        monkeypatch.setattr(NumberedImages, "COUNT", 9 + seed)
        NumberedImages(data_dir=tmp_path / str(seed)).download_and_prepare()
        made = make_source(name, dataset="numbered_images", image="picture", label="kind")
        return made.identity(tmp_path / str(seed))

    assert identity(0) != identity(1)


@EACH
def test_an_unknown_argument_of_a_source_is_refused(name):
    fields = SOURCES.load(name).Source.model_fields
    arguments = {key: "x" for key, field in fields.items() if field.is_required()}

    with pytest.raises(ConfigurationError, match=rf"source {name}: pth: is not a known key\."):
        make_source(name, pth="x", **arguments)


def test_an_unknown_source_is_refused_with_the_closest_one():
    with pytest.raises(InputError, match=r"Unknown source `tfd`\. Did you mean `tfds`\?"):
        make_source("tfd")


def test_tensorflow_datasets_are_read_in_a_fixed_order_with_their_encoded_bytes(
    numbered, numbered_dir
):
    examples = list(numbered.examples("train", numbered_dir))

    assert [key for key, _ in examples] == [f"train-{i:08d}" for i in range(9)]
    assert numbered.num_examples("train", numbered_dir) == 9
    numbers = []
    for _, example in examples:
        assert example["image"].startswith(b"\x89PNG")
        number = int(tf.io.decode_png(example["image"])[0, 0, 0])
        assert example["label"] == number % 3
        assert type(example["label"]) is int
        numbers.append(number)
    assert sorted(numbers) == list(range(9))
    for _ in range(3):
        again = [e["image"] for _, e in numbered.examples("train", numbered_dir)]
        assert again == [e["image"] for _, e in examples]


def test_the_identity_of_a_data_set_names_its_version_and_sizes(numbered, numbered_dir):
    identity = numbered.identity(numbered_dir)

    assert identity["full_name"] == "numbered_images/1.0.0"
    assert identity["shard_lengths"] == {"train": [3, 3, 3], "test": [1, 2, 1]}
    assert identity["bytes"]["train"] > identity["bytes"]["test"] > 0


def test_a_data_set_is_made_where_it_is_absent(numbered, tmp_path, monkeypatch):
    """This one needs no network to be made, whatever its home page."""
    monkeypatch.setattr("tfbatch.sources.tfds._check_network", lambda homepage: None)

    assert numbered.num_examples("test", tmp_path) == 4
    assert (tmp_path / "numbered_images" / "1.0.0" / "dataset_info.json").is_file()


def test_a_split_that_a_data_set_has_not_is_refused(numbered, numbered_dir):
    with pytest.raises(InputError) as caught:
        numbered.num_examples("tran", numbered_dir)

    assert str(caught.value) == (
        "numbered_images has no split `tran`. Did you mean `train`? Available: train, test."
    )


@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        ("image", "kind", "numbered_images has no feature `image`. Available: picture, kind."),
        (
            *("picture", "kinds"),
            "numbered_images has no feature `kinds`. Did you mean `kind`? Available: picture",
        ),
    ],
)
def test_a_feature_that_a_data_set_has_not_is_refused(numbered_dir, image, label, message):
    source = make_source("tfds", dataset="numbered_images", image=image, label=label)

    with pytest.raises(InputError) as caught:
        next(source.examples("train", numbered_dir))

    assert str(caught.value).startswith(message)


def test_an_unknown_data_set_is_refused_with_the_closest_one(tmp_path, no_network):
    with pytest.raises(InputError) as caught:
        make_source("tfds", dataset="cifar_10").identity(tmp_path)

    assert str(caught.value) == (
        "TensorFlow Datasets knows no data set `cifar_10`. Did you mean `cifar10`?"
    )


def test_an_absent_data_set_without_a_network_fails_at_once_with_the_remedy(tmp_path, no_network):
    with pytest.raises(DataError) as caught:
        make_source("tfds", dataset="cifar10").identity(tmp_path)

    message = str(caught.value)
    assert message.startswith(f"The data set cifar10 is not in {tmp_path}")
    assert "fetching it failed: gaierror: [Errno -2] no network in tests: " in message
    assert "--data_dir=DIR or the environment variable TFDS_DATA_DIR" in message
    assert "python -m tfbatch.prepare --dataset=tfds:cifar10 --data_dir=DIR" in message


def test_cifar10_has_the_images_that_its_recipe_says(cifar10_dir):
    recipe = load_recipe("cifar10")
    source = make_source(recipe.source.name, **recipe.source.arguments)

    assert source.num_examples("train", cifar10_dir) == 50_000
    assert source.num_examples("test", cifar10_dir) == 10_000
    examples = list(itertools.islice(source.examples("test", cifar10_dir), 300))
    for key, example in examples:
        assert encode(key, example["image"], example["label"], recipe.features)
    assert len({e["label"] for _, e in examples[:100]}) == 10


def same(got, wanted):
    return [
        (key, e["label"], e["image"] if isinstance(e["image"], bytes) else e["image"].tobytes())
        for key, e in got
    ] == [
        (key, e["label"], e["image"] if isinstance(e["image"], bytes) else e["image"].tobytes())
        for key, e in wanted
    ]


@pytest.mark.parametrize("start", [0, 1, 3, 4, 8])
def test_a_source_can_be_read_from_any_example_on(numbered, numbered_dir, start):
    """Nine examples in three files."""
    digits = make_source("digits")
    wanted = list(digits.examples("train", None))[start:]
    assert same(digits.examples_from(start, "train", None), wanted)

    wanted = list(numbered.examples("train", numbered_dir))[start:]
    assert same(numbered.examples_from(start, "train", numbered_dir), wanted)


def test_labels_come_in_the_order_of_the_examples(numbered, numbered_dir):
    for source, folder in ((make_source("digits"), None), (numbered, numbered_dir)):
        wanted = [example["label"] for _, example in source.examples("train", folder)]
        assert list(source.labels("train", folder)) == wanted
