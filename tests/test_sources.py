"""Sources: a fixed order that does not depend on the class, and errors with a remedy."""

from __future__ import annotations

import itertools
import socket

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from tfbatch.errors import ConfigurationError, DataError, InputError
from tfbatch.recipes import load_recipe
from tfbatch.records.codec import encode
from tfbatch.sources import SOURCES, make_source
from tfbatch.sources.tfds import _builder


class NumberedImages(tfds.core.GeneratorBasedBuilder):
    """Images 2 x 3 whose pixels are their number; made without a network."""

    VERSION = tfds.core.Version("1.0.0")

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
        return {"train": self._generate_examples(9), "test": self._generate_examples(4)}

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
    # Neighbours have the same class as often as by chance, one in ten, within five errors.
    assert abs((labels[1:] == labels[:-1]).mean() - 0.1) < 5 * (0.1 * 0.9 / 1796) ** 0.5


def test_digits_have_only_the_split_train():
    with pytest.raises(InputError, match=r"has only the split `train`\. Received: 'test'\."):
        make_source("digits").num_examples("test", None)
    with pytest.raises(InputError, match="has only the split `train`"):
        next(make_source("digits").examples("test", None))


@pytest.mark.parametrize("name", SOURCES.names())
def test_an_unknown_argument_of_a_source_is_refused(name):
    arguments = {"dataset": "x"} if name == "tfds" else {}

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
    assert "python -m tfbatch.prepare --dataset=cifar10 --data_dir=DIR" in message


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
