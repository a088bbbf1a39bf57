"""A folder of images: its layouts, and each damaged file named."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfbatch.errors import DataError
from tfbatch.pipeline import load_data, prepare_records, recipe_records
from tfbatch.pipeline.dataset_names import derive_recipe
from tfbatch.sources import make_source

TENTH = {"from": "train", "fraction": 0.1}


def png(value, shape=(5, 7, 3)):
    return tf.io.encode_png(np.full(shape, value, np.uint8)).numpy()


@pytest.fixture
def folder(tmp_path):
    """Writes files given by their paths; returns the folder."""

    def write(**files):
        for name, content in files.items():
            path = tmp_path / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return tmp_path / "images"

    return write


def many(prefix="", count=20, classes=("cat", "dog")):
    return {
        f"{prefix}{name}/{number:02d}.png": png(50 * label + number)
        for label, name in enumerate(classes)
        for number in range(count)
    }


def source(path):
    return make_source("images", folder=str(path))


def test_classes_are_the_folders_in_alphabetical_order(folder):
    made = source(folder(**{"b/1.png": png(1), "a/2.JPG": png(2), "a/deeper/3.gif": png(3)}))

    examples = dict(made.examples("train", None))

    found = {key.rpartition("/")[2]: example["label"] for key, example in examples.items()}
    assert found == {"1.png": 1, "2.JPG": 0, "3.gif": 0}
    assert made.describe(None).splits == {"train": 3}


def test_splits_are_folders_with_folders_of_classes(folder):
    root = folder(**many("train/"), **many("val/", 5), **many("test/", 3))

    found = source(root).describe(None)

    assert found.splits == {"train": 40, "val": 10, "test": 6}
    recipe = derive_recipe(f"images:{root}", data_dir=None)
    assert recipe.splits.validation == "val"
    assert recipe.splits.test == "test"


def test_a_class_by_the_name_of_train_is_a_class(folder):
    found = source(folder(**many(classes=("bus", "train")))).describe(None)

    assert (found.splits, found.num_classes) == ({"train": 40}, 2)


def test_the_classes_are_those_that_keras_reads(folder):
    import keras

    root = folder(**many(classes=("b", "B", "a10", "a2")))

    dataset = keras.utils.image_dataset_from_directory(root, image_size=(5, 7), verbose=False)

    mine = {key: e["label"] for key, e in source(root).examples("train", None)}
    for path in dataset.file_paths:
        assert dataset.class_names[mine[path]] == path.split("/")[-2]


def test_hidden_and_other_files_are_left_out_as_keras_does(folder):
    root = folder(
        **many(count=2),
        **{"cat/.x.png": b"", "cat/notes.txt": b"", ".git/a.png": b"", "a.png": b""},
    )

    assert source(root).num_examples("train", None) == 4


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {},
            "cannot be read: No such file or directory. Give a readable folder that holds",
        ),
        (many(classes=("cat",)), "for each of at least 2 classes. Received: cat."),
        ({"a.png": png(1)}, "for each of at least 2 classes. Received: none."),
        ({**many(), "fox/a.txt": b""}, "The class `fox` has no image (.bmp, .gif, "),
        (
            {**many("train/"), **many("test/", 1, ("cat", "dgo"))},
            ".../train does not have: dgo.",
        ),
    ],
    ids=["absent", "one class", "no class", "empty class", "other classes"],
)
def test_a_folder_that_cannot_be_used_is_refused(folder, files, message):
    root = folder(**files)

    with pytest.raises(DataError) as caught:
        source(root).describe(None)

    assert message in str(caught.value).replace(f"that {root}/", "that .../")
    assert str(root) in str(caught.value)


TRUNCATED_JPEG = tf.io.encode_jpeg(np.zeros((50, 70, 3), np.uint8)).numpy()[:400]
DAMAGED = {
    "empty": b"",
    "text": b"<html>not found</html>",
    "cut png": png(3)[:-20],
    "cut jpeg": TRUNCATED_JPEG,
    "flipped": png(3)[:60] + b"\x00\x01" + png(3)[62:],
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
@pytest.mark.parametrize("stored", ["raw", "encoded"])
def test_a_damaged_file_is_named_when_the_records_are_written(
    folder, make_recipe, tmp_path, content, stored
):
    root = folder(**many(), **{"dog/bad.png": content})
    recipe = make_recipe(
        source={"name": "images", "folder": str(root)},
        splits={"train": "train", **dict.fromkeys(("validation", "test"), TENTH)},
        features={
            "image": {"kind": "image", "shape": [5, 7, 3], "stored": stored},
            "label": {"kind": "label", "num_classes": 2},
        },
    )

    with pytest.raises(DataError, match=r"/dog/bad\.png cannot be decoded as an image: [\w ]"):
        prepare_records(recipe, records_dir=tmp_path / "records")


def test_a_damaged_file_does_not_keep_a_recipe_from_being_derived(folder):
    """All damaged ones are named together, when the records are written."""
    root = folder(**many(), **{f"dog/{name}.png": each for name, each in DAMAGED.items()})

    assert derive_recipe(f"images:{root}", data_dir=None).features.image.shape == (5, 7, 3)


def test_a_folder_of_damaged_files_only_is_refused(folder):
    root = folder(**{f"{c}/{name}.png": each for name, each in DAMAGED.items() for c in "ab"})

    with pytest.raises(DataError, match=r"None of 10 images can be decoded\. The first: .*\.png"):
        derive_recipe(f"images:{root}", data_dir=None)


def test_what_is_no_file_is_left_out(folder):
    root = folder(**many())
    (root / "cat" / "dangling.png").symlink_to(root / "nowhere.png")
    (root / "cat" / "folder.png").mkdir()

    assert source(root).num_examples("train", None) == 40


def test_a_file_that_is_gone_while_it_is_read_is_an_error_of_the_data(folder):
    root = folder(**many())
    examples = recipe_records._read(source(root).examples("train", None), "train")
    next(examples)
    for path in root.rglob("*.png"):
        path.unlink()

    with pytest.raises(DataError, match=r"The source's split `train` cannot be read: .*No such"):
        next(examples)


def test_images_of_unequal_size_and_kind_are_brought_to_one(folder, tmp_path):
    grey, wide = png(9, (30, 40, 1)), png(200, (10, 90, 3))
    root = folder(**many(), **{"cat/grey.png": grey, "dog/wide.png": wide})

    recipe = derive_recipe(f"images:{root}", data_dir=None)
    data = load_data(recipe, records_dir=tmp_path / "records")

    assert recipe.features.image.shape == (64, 64, 3)
    assert recipe.features.image.resize
    assert data.input_shape == (64, 64, 3)
    # All images are of one value, so each stays of one value.
    images = np.concatenate([x for x, _ in data.evaluation("train").as_numpy_iterator()])
    np.testing.assert_array_equal(images.max(axis=(1, 2)), images.min(axis=(1, 2)))


def test_grey_images_stay_grey(folder):
    files = {f"{c}/{n}.png": png(n, (5, 7, 1)) for c in "ab" for n in range(10)}

    recipe = derive_recipe(f"images:{folder(**files)}", data_dir=None)

    assert recipe.features.image.shape == (5, 7, 1)


def test_a_size_that_only_a_sample_has_shown_is_enforced_by_resizing(folder, tmp_path, monkeypatch):
    root = folder(**many(count=150), **{"cat/zz.png": png(9, (50, 50, 3))})
    monkeypatch.setattr("tfbatch.sources.images.SAMPLE", 20)

    recipe = derive_recipe(f"images:{root}", data_dir=None)
    data = load_data(recipe, records_dir=tmp_path / "records")

    assert recipe.features.image.shape == (5, 7, 3)
    assert recipe.features.image.resize
    assert sum(data.manifest.num_examples(s) for s in data.manifest.splits) == 301
