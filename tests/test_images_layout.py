"""Which folders of a folder of images are splits and which are classes; what is left out."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tfbatch.errors import DataError, InputError
from tfbatch.pipeline import load_data, prepare_records
from tfbatch.pipeline.dataset_names import _choose_splits, derive_recipe
from tfbatch.sources import Description, make_source
from tfbatch.sources._layout import read_layout, split_role

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path):
    """Makes empty files at the given paths (no layout opens one); returns the folder."""

    def write(*names, classes=("cat", "dog"), files=2):
        for name in names:
            paths = [name] if "." in name else [f"{name}/{i}.png" for i in range(files)]
            if name.endswith("/"):
                paths = [f"{name}{c}/{i}.png" for c in classes for i in range(files)]
            for each in paths:
                (tmp_path / each).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / each).touch()
        return tmp_path

    return write


def read(root):
    return read_layout(root, None)


@pytest.mark.parametrize(
    ("role", "names"),
    [
        (
            "train",
            "train Train TRAIN training Training TRAINING trainset Train_set training-set "
            "TrainingSet train_data traindata train2017 train_images 01_train TrainImages trn",
        ),
        (
            "validation",
            "val Val VAL valid Valid validation Validation dev Dev eval Evaluation val2017 "
            "validation_set ValSet validating valset",
        ),
        ("test", "test Test TEST testing Testing tests test1 test_set TestData testset tst"),
        (
            None,
            "cat trainee train_station training_shoes bullet-train testament TestTube evaluate_me "
            "trainval train_val seg_train device values validity détest 2017 images data t",
        ),
    ],
)
def test_every_usual_spelling_of_a_split_is_known(role, names):
    assert {name: split_role(name) for name in names.split()} == dict.fromkeys(names.split(), role)


@pytest.mark.parametrize(
    ("names", "roles"),
    [
        (["train/", "val/", "test/"], {"train": "train", "validation": "val", "test": "test"}),
        (["Training/", "Testing/"], {"train": "Training", "test": "Testing"}),
        (["TRAIN/", "DEV/"], {"train": "TRAIN", "validation": "DEV"}),
        (["train/", "test"], {"train": "train"}),  # test images without classes
        (["train/", "labels.csv", "docs/about.txt"], {"train": "train"}),
    ],
)
def test_folders_of_splits_are_splits(make, names, roles):
    layout = read(make(*names))

    assert (layout.roles, layout.unclear) == (roles, "")
    assert layout.splits.keys() == set(roles.values())
    assert all(sorted(held) == ["cat", "dog"] for held in layout.splits.values())
    mapping = [f"{role} from {name}/" for role, name in roles.items()]
    assert all(each in layout.notes[0] for each in mapping)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/", "val/", "validation/"], "val, validation in .* could each be the validation"),
        (["Train/", "train/"], "could each be the train split"),
        (["train/", "test/", "extra/"], "have the name of a split, unlike extra beside them"),
        (["train/", "bus"], "has the name of a split, unlike bus beside it"),
        (["car/x", "bus/x", "train/x"], "has the name of a split, unlike bus, car beside it"),
        (["seg_train/", "seg_test/"], "hold the same folders .cat, dog.: they may be splits or"),
        (["test/", "val/"], "no folder for the training split"),
        (["cat", "dog", "test"], "The folder test in .* has the name of a split, but holds images"),
        (["train", "test"], "have the name of a split, but hold images and no class folders"),
        (["cat/train", "cat/test", "dog/train", "dog/test"], "not the other way round"),
    ],
)
def test_what_could_be_meant_in_two_ways_is_refused_with_the_option_that_settles_it(
    make, names, message
):
    root = make(*names)

    with pytest.raises(InputError, match=message) as caught:
        make_source("images", folder=str(root)).describe(None)

    assert f"images:{root},splits=none" in str(caught.value)


def test_the_option_proposes_for_each_split_the_folder_whose_name_speaks_of_it(make):
    root = make("seg_test/", "seg_train/")
    with pytest.raises(InputError) as caught:
        make_source("images", folder=str(root)).describe(None)
    assert f"images:{root},test=seg_test,train=seg_train" in str(caught.value)


def test_the_option_proposes_no_folder_for_training_whose_name_does_not_say_it(make):
    root = make("indoor/", "outdoor/")
    with pytest.raises(InputError) as caught:
        make_source("images", folder=str(root)).describe(None)
    assert f"images:{root},train=FOLDER" in str(caught.value)


def test_the_options_settle_it(make):
    root = make("seg_train/", "seg_test/", "seg_pred/", "car/", "bus")

    splits = read_layout(root, {"train": "seg_train", "test": "seg_test"})
    classes = read_layout(root, "none")

    assert splits.roles == {"train": "seg_train", "test": "seg_test"}
    assert sorted(splits.splits) == ["seg_test", "seg_train"]
    assert "Left out: the folder bus/ (2 images, no class folders)." in splits.notes
    assert sorted(classes.splits["train"]) == ["bus", "car", "seg_pred", "seg_test", "seg_train"]
    assert classes.notes == ("In subfolders of a class, counted as that class: 16 images.",)


@pytest.mark.parametrize(
    ("chosen", "error", "message"),
    [
        ({"train": "trian"}, InputError, "no folder `trian` in .*Did you mean `train`"),
        ({"test": "train"}, InputError, "`train` must have one. Received: test=train"),
        ({"train": "train", "test": "train"}, InputError, "of the splits must differ"),
        ({"train": "train", "test": "flat"}, DataError, "flat must have a folder of images"),
    ],
)
def test_a_choice_that_cannot_be_used_is_refused(make, chosen, error, message):
    with pytest.raises(error, match=message):
        read_layout(make("train/", "flat"), chosen)  # type: ignore[arg-type]


def test_a_train_among_vehicles_is_a_class_and_that_is_reported(make):
    layout = read(make("bus", "car", "train"))

    assert sorted(layout.splits["train"]) == ["bus", "car", "train"]
    assert layout.notes == (
        "The folder `train` is treated as a class: it holds images and no folders.",
    )
    assert read_layout(layout.splits["train"]["bus"][0].parents[1], "none").notes == ()


def test_classes_that_differ_between_splits(make):
    root = make("train/", "test/cat")

    assert "The split test has no images of 1 of the 2 classes: dog." in read(root).notes
    make("test/Dog")
    with pytest.raises(DataError, match=r"that .* does not have: Dog\. Did you mean `dog`\?"):
        read(root)


def test_a_folder_around_the_data_is_named(make):
    with pytest.raises(DataError, match=r"Received: data\. Is .*/data the folder\?"):
        read(make("data/train/cat", "data/test/cat"))


def test_what_is_left_out_is_counted(make):
    root = make(
        "a", "b", "a/deep/x.jpg", "b/.hidden.png", "b/x.heic", "b/y.HEIC", "a/notes", "c.png"
    )
    (root / "a" / "README").touch()
    (root / "a" / "gone.png").symlink_to(root / "nowhere.png")
    (root / "a" / "self.png").symlink_to(root / "a" / "self.png")
    (root / "a" / "deep" / "up").symlink_to(root)

    notes = read(root).notes

    assert notes == (
        "Images by suffix: 6 .png, 1 .jpg.",
        "In subfolders of a class, counted as that class: 3 images.",
        "Left out, outside the class folders: 1 image.",
        "Left out, not readable as images: 2 .heic, 2 broken link, 1 hidden, 1 linked folder, "
        "1 without suffix.",
    )


def test_a_link_to_a_folder_above_is_refused(make):
    root = make("a", "b")
    (root / "c").symlink_to(root)

    with pytest.raises(DataError, match=r"/c is a link to a folder that contains it .*Delete the"):
        read(root)


def write_images(root, *, count=20, classes="ab"):
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = np.full((4, 4, 3), 100 * label + i, np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i:02}.png")


def test_options_are_read_from_the_text_and_kept_in_the_recipe(tmp_path):
    for split in ("A, old", "B"):
        write_images(tmp_path / split, count=3)
    (tmp_path / "A, old").rename(tmp_path / "A")

    recipe = derive_recipe(f"images:{tmp_path},train=A,test=B", data_dir=None)

    assert (recipe.splits.train, recipe.splits.test) == ("A", "B")
    assert recipe.source.arguments == {
        "folder": str(tmp_path),
        "splits": {"train": "A", "test": "B"},
    }
    for text in (",val=A", ",train=A,train=B", ",splits=some", ",train=A,splits=none"):
        with pytest.raises(InputError, match="Received: "):
            derive_recipe(f"images:{tmp_path}{text}", data_dir=None)


def test_a_folder_without_options_has_the_source_it_had_before(tmp_path):
    write_images(tmp_path)

    recipe = derive_recipe(f"images:{tmp_path}", data_dir=None)

    assert recipe.source.model_dump() == {"name": "images", "folder": str(tmp_path)}
    assert "pixel_range" not in recipe.model_dump(mode="json")["features"]["image"]


def test_a_recipe_that_names_its_splits_is_no_guess(tmp_path):
    """Other folders beside `train` are splits for a recipe, as they were."""
    for split in ("train", "extra"):
        write_images(tmp_path / split, count=3)

    source = make_source("images", folder=str(tmp_path))

    assert source.num_examples("extra", None) == 6


@pytest.mark.parametrize("name", ["shots@32", "a,b=c", "train=x"])
def test_a_folder_may_have_any_name(tmp_path, name):
    write_images(tmp_path / name, count=2)

    recipe = derive_recipe(f"images:{tmp_path / name}", data_dir=None)
    sized = derive_recipe(f"images:{tmp_path / name}@8", data_dir=None)

    assert recipe.source.arguments["folder"] == str(tmp_path / name)
    assert recipe.features.image.shape == (4, 4, 3)
    assert sized.features.image.shape == (8, 8, 3)


def test_a_size_that_may_be_a_name_is_refused_and_a_slash_settles_it(tmp_path):
    for name in ("shots", "shots@8"):
        write_images(tmp_path / name, count=2)

    with pytest.raises(InputError, match=r"`@8` at the end .* may be a size or a part of the name"):
        derive_recipe(f"images:{tmp_path}/shots@8", data_dir=None)
    recipe = derive_recipe(f"images:{tmp_path}/shots@8/", data_dir=None)
    assert recipe.source.arguments["folder"] == str(tmp_path / "shots@8")
    with pytest.raises(InputError, match="image_size=8 with a recipe"):
        load_data(recipe, image_size=8)


def records(recipe, folder):
    return prepare_records(recipe, records_dir=folder, workers=1)[0]


def test_names_that_are_not_utf_8_are_read_and_can_be_printed(tmp_path):
    root = tmp_path / "images"
    write_images(root)
    os.rename(root / "a" / "00.png", os.fsencode(root / "a") + b"/caf\xe9.png")  # noqa: PTH104
    os.rename(root / "b", os.fsencode(root) + b"/b\xe9")  # noqa: PTH104
    recipe = derive_recipe(f"images:{root}", data_dir=None)

    folder = records(recipe, tmp_path / "records")

    assert load_data(recipe, records_dir=tmp_path / "records").num_examples("train") == 32
    assert folder.is_dir()
    bad = os.fsencode(root / "a") + b"/bad\xe9.png"
    Path(os.fsdecode(bad)).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad\\xe9\.png cannot be decoded"):
        records(recipe, tmp_path / "records")
    os.rename(root, os.fsencode(tmp_path) + b"/im\xe9")  # noqa: PTH104
    with pytest.raises(InputError, match=r"must be UTF-8: .*im\\xe9 is not. Rename it"):
        derive_recipe(
            f"images:{os.fsdecode(os.fsencode(tmp_path) + bytes([47]))}im\udce9", data_dir=None
        )


def test_the_mapping_is_a_note_of_the_data_also_when_it_is_read_again(tmp_path):
    for split in ("Training", "Testing"):
        write_images(tmp_path / "images" / split, count=10)
    text = f"images:{tmp_path}/images"

    for _ in range(2):
        notes = load_data(text, records_dir=tmp_path / "records").describe().notes
        assert notes[0] == "Splits by folders: test from Testing/, train from Training/."


def test_all_damaged_images_are_named_at_once_and_many_are_listed_in_a_file(tmp_path):
    root = tmp_path / "images"
    write_images(root)
    damaged = sorted(root.rglob("0[0-5].png"))
    for path, content in zip(damaged, [b"", b"<html>", b"RIFF", *[b"II*\0"] * 9], strict=True):
        path.write_bytes(content)
    recipe = derive_recipe(f"images:{root}", data_dir=None)

    with pytest.raises(DataError) as caught:
        records(recipe, tmp_path / "records")

    listing = tmp_path / "records" / recipe.name / "unreadable-images.txt"
    message = str(caught.value)
    assert message.startswith("12 of 40 images cannot be decoded: ")
    assert "and 2 more. Replace them or remove them from the data." in message
    assert f"{damaged[0]} (the file is empty)" in message or str(listing) in message
    assert sorted(listing.read_text().splitlines()) == sorted(map(str, damaged))
    for path in damaged:
        path.unlink()
    assert records(recipe, tmp_path / "records").is_dir()
    assert not list((tmp_path / "records" / recipe.name).glob(".partial-*"))


def test_a_folder_that_may_not_be_read_is_one_sentence(tmp_path, monkeypatch):
    """Root may read everything, so the refusal is the operating system's, by another hand."""
    write_images(tmp_path)
    real = os.scandir

    def denied(path):
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(DataError, match=r"/b cannot be read: Permission denied\. Give a readable"):
        read(tmp_path)


def test_files_that_may_not_be_read_are_all_named(tmp_path, monkeypatch):
    write_images(tmp_path, count=10)
    secret = {tmp_path / "a" / "03.png", tmp_path / "b" / "04.png"}
    real = Path.read_bytes

    def read_bytes(path):
        if path in secret:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) not in secret)
    with pytest.raises(DataError, match=r"2 of 20 images cannot be read \(permission denied\): "):
        derive_recipe(f"images:{tmp_path}", data_dir=None)


@pytest.mark.parametrize(
    ("held", "chosen"),
    [
        (["Training", "Testing"], ("Training", None, "Testing")),
        (["train", "Val", "Test"], ("train", "Val", "Test")),
        (["train", "validation", "val", "test1", "test2"], ("train", "validation", None)),
        (["test"], ("test", None, None)),
    ],
)
def test_splits_of_any_source_are_known_by_every_usual_spelling(held, chosen):
    found = Description(
        num_classes=2, splits=dict.fromkeys(held, 9), size=None, channels=3, encoded=True
    )

    assert _choose_splits("tfds:a", found) == chosen


@pytest.mark.parametrize("kind", ["images", "npz"])
def test_a_path_that_cannot_be_is_one_sentence(kind):
    with pytest.raises(InputError, match="~nobody0/x cannot be used: Could not determine home"):
        derive_recipe(f"{kind}:~nobody0/x", data_dir=None)
    with pytest.raises(DataError, match="File name too long"):
        derive_recipe(f"{kind}:{'a' * 5000}", data_dir=None)
