"""Arrays of an .npz file: names, shapes, kinds; one clear error for each thing that is wrong."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from tfbatch.errors import DataError, InputError
from tfbatch.sources import make_source

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 4, 5), np.uint8)
LABELS = np.arange(12) % 3


@pytest.fixture
def source(tmp_path):
    """Makes the source of a file with these arrays."""

    def make(**arrays):
        np.savez(tmp_path / "a.npz", **arrays)
        return make_source("npz", path=str(tmp_path / "a.npz"))

    return make


def read(source, split="train"):
    return dict(source.examples(split, None))


def test_images_and_labels_are_read_under_keys_that_name_their_place(source):
    examples = read(source(x_train=IMAGES, y_train=LABELS))

    assert set(examples) == {f"x_train[{index}]" for index in range(12)}
    for index in range(12):
        example = examples[f"x_train[{index}]"]
        np.testing.assert_array_equal(example["image"], IMAGES[index][..., None])
        assert example["label"] == index % 3


@pytest.mark.parametrize(
    "names",
    [
        ("x", "y"),
        ("images", "labels"),
        ("x_train", "y_train"),
        ("train_images", "train_labels"),
        ("train_x", "train_y"),
    ],
    ids=" ".join,
)
def test_the_usual_names_are_known(source, names):
    made = source(**dict(zip(names, (IMAGES, LABELS), strict=True)), unrelated=np.arange(3))

    assert made.describe(None).splits == {"train": 12}
    assert len(read(made)) == 12


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev"])
def test_every_split_has_its_own_arrays(source, name):
    made = source(
        x_train=IMAGES,
        y_train=LABELS,
        **{f"x_{name}": IMAGES[:4], f"y_{name}": LABELS[:4]},
        x_test=IMAGES[:5],
        y_test=LABELS[:5],
    )

    found = made.describe(None)
    assert found.splits == {"train": 12, "validation": 4, "test": 5}
    assert (found.num_classes, found.size, found.channels) == (3, (4, 5), 1)
    assert len(read(made, "validation")) == 4


def test_colour_images_and_labels_in_a_column_are_read(source):
    made = source(x=np.stack([IMAGES] * 3, axis=-1), y=LABELS[:, None].astype(np.uint8))

    assert made.describe(None).channels == 3
    assert read(made)["x[7]"]["label"] == 1


def test_classes_are_counted_over_all_splits(source):
    made = source(x_train=IMAGES, y_train=LABELS, x_test=IMAGES[:2], y_test=np.array([0, 6]))

    assert made.describe(None).num_classes == 7


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": IMAGES / 255.0, "y": LABELS}, "uint8 pixels. Received: float64. Save numpy.round("),
        (
            {"x": IMAGES.astype(int), "y": LABELS},
            "Received: int64. Save x.astype(numpy.uint8), which preserves",
        ),
        ({"x": IMAGES[0], "y": LABELS}, "with 1, 3 or 4 channels. Received: [4, 5]."),
        ({"x": IMAGES[..., None, None], "y": LABELS}, "Received: [12, 4, 5, 1, 1]."),
        (
            {"x": np.zeros((12, 3, 8, 9), np.uint8), "y": LABELS},
            "Received: [12, 3, 8, 9]. Channels come last: save x.transpose(0, 2, 3, 1).",
        ),
        ({"x": IMAGES[:0], "y": LABELS[:0]}, "Received: [0, 4, 5, 1]."),
        ({"x": IMAGES, "y": LABELS[:7]}, "each of the 12 images. Received: the shape [7]."),
        ({"x": IMAGES, "y": np.eye(3, dtype=int)[LABELS]}, "save y.argmax(axis=1)."),
        ({"x": IMAGES, "y": LABELS / 1.0}, "must hold class indices: integers from 0. Received"),
        ({"x": IMAGES, "y": LABELS.astype(str)}, "must hold class indices: integers from 0."),
        ({"x": IMAGES, "y": LABELS - 1}, "must hold class indices from 0. Received: -1."),
        ({"x": IMAGES, "y": LABELS * 0}, "at least 2 classes. Received: every label is 0."),
        ({"x": np.array([[1], None], object), "y": LABELS}, "x is a pickled array of Python"),
        ({"x": IMAGES, "y": np.array([0, None], object)}, "must hold class indices: integers"),
        ({"a": IMAGES, "b": LABELS}, "holds the arrays a, b. It must hold images and class ind"),
        ({"x_test": IMAGES, "y": LABELS}, "holds the arrays x_test, y. It must hold images and"),
        ({}, "holds no array. It must hold images and class indices by the names x and y"),
        (
            {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[:, :3], "y_test": LABELS},
            "must hold images of one shape. Received: x_train (12, 4, 5, 1), x_test (12, 3, 5, 1).",
        ),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[-24:],
)
def test_arrays_that_cannot_be_used_are_refused(source, tmp_path, arrays, message):
    with pytest.raises(DataError) as caught:
        source(**arrays).describe(None)

    assert message in str(caught.value)
    assert str(tmp_path / "a.npz") in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"noise", pickle.dumps([1, 2]), "npy"])
def test_a_file_that_is_no_npz_is_refused(tmp_path, content):
    path = tmp_path / "a.npz"
    if content == "npy":
        with path.open("wb") as file:
            np.save(file, IMAGES)
    else:
        path.write_bytes(content)

    with pytest.raises(DataError, match=r"a\.npz is not an \.npz file: .* numpy\.savez\(PATH"):
        make_source("npz", path=str(path)).identity(None)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"There is no file .*none\.npz\."):
        make_source("npz", path=str(tmp_path / "none.npz")).describe(None)


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_file_is_refused_before_its_pixels_are_used(source, tmp_path, damage):
    made = source(x_train=IMAGES, y_train=LABELS)
    path = tmp_path / "a.npz"
    content = path.read_bytes()
    place = content.index(IMAGES.tobytes()[:40])
    flipped = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    path.write_bytes(content[:-60] if damage == "cut" else flipped)

    with pytest.raises(DataError, match=r"a\.npz"):
        list(made.examples("train", None))


def test_a_relative_path_is_looked_for_in_the_data_folder_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    np.savez("data/a.npz", x=IMAGES, y=LABELS)
    np.savez("b.npz", x=IMAGES[:6], y=LABELS[:6])

    assert make_source("npz", path="a.npz").num_examples("train", tmp_path / "data") == 12
    assert make_source("npz", path="b.npz").num_examples("train", tmp_path / "data") == 6


def test_a_split_that_the_file_has_not_is_refused(source):
    with pytest.raises(InputError, match=r"has no split `tset`\. Available: train\."):
        source(x=IMAGES, y=LABELS).num_examples("tset", None)
