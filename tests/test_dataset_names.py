"""A recipe out of the data itself: what it is called, its splits, its sizes, unknown data sets."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from make_tfds_folders import make_fifty_patterns, make_unequal_signs, sign_counts
from processes import run_warm

from tfbatch.dataset_info.class_balance import balance_warnings
from tfbatch.dataset_info.own_data import STORED
from tfbatch.dataset_info.recipe import RECIPES, load_recipe
from tfbatch.errors import DataError, InputError
from tfbatch.pipeline import load_data
from tfbatch.pipeline.dataset_names import derive_recipe, is_derived
from tfbatch.quantities import TrainingLength
from tfbatch.request.model_and_data import resolve_model_and_data
from tfbatch.request.task import IN_PYTHON
from tfbatch.schema import Named


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The data folder with both data sets that TensorFlow Datasets does not know."""
    root = tmp_path_factory.mktemp("data")
    make_unequal_signs(root)
    make_fifty_patterns(root)
    return root


@pytest.fixture
def npz(tmp_path):
    def write(*splits, shape=(12, 4, 4), classes=3, name="some file.npz"):
        labels = np.arange(shape[0]) % classes
        arrays = {}
        for split in splits or ("train",):
            arrays |= {f"x_{split}": np.zeros(shape, np.uint8), f"y_{split}": labels}
        np.savez(tmp_path / name, **arrays)
        return f"npz:{tmp_path / name}"

    return write


@pytest.mark.parametrize(
    ("text", "derived"),
    [
        ("tfds:gtsrb", True),
        ("tfds:a/b:1.0.0@64", True),
        ("tfds", True),
        ("synthetic", True),
        ("synthetic@32", True),
        ("images:some/folder", True),
        ("npz:~/a.npz", True),
        ("digits", False),  # a recipe has this name
        ("cifar10", False),
        ("kaggle:cats", False),
        ("images/a.yaml", False),
        ("", False),
    ],
)
def test_a_derived_data_set_is_told_by_its_source(text, derived):
    assert is_derived(text) is derived


def test_asking_whether_a_name_is_derived_imports_no_tensorflow():
    program = (
        "import sys; from tfbatch.pipeline.dataset_names import is_derived; is_derived('tfds:x');"
        "print([m for m in ('tensorflow', 'tensorflow_datasets', 'keras') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert run.stdout.strip() == "[]", run.stderr


def test_synthetic_data_gives_a_whole_recipe():
    recipe = derive_recipe("synthetic:classes=4,size=8,train=600", data_dir=None)

    assert recipe.name == "synthetic-classes-4-size-8-train-600"
    assert (recipe.splits.train, recipe.splits.validation, recipe.splits.test) == (
        *("train", "validation"),
        "test",
    )
    assert recipe.features.image.model_dump() == {
        "kind": "image",
        "shape": (8, 8, 3),
        "stored": "raw",
        "resize": False,
    }
    assert recipe.features.label.num_classes == 4
    assert recipe.normalization is None
    assert recipe.augmentation == ()


@pytest.mark.parametrize(
    ("held", "validation", "test"),
    [
        (["train"], None, None),
        (["train", "test"], None, "test"),
        (["train", "val"], "validation", None),
        (["train", "val", "test"], "validation", "test"),
    ],
)
def test_an_absent_split_is_a_tenth_of_train_and_never_of_test(npz, held, validation, test):
    recipe = derive_recipe(npz(*held), data_dir=None)

    for got, want in ((recipe.splits.validation, validation), (recipe.splits.test, test)):
        if want:
            assert got == want
        else:
            assert (got.origin, got.fraction) == ("train", 0.1)


def test_one_split_of_any_name_is_trained_on(npz):
    assert derive_recipe(npz("test"), data_dir=None).splits.train == "test"


def test_several_splits_without_train_are_refused(npz):
    with pytest.raises(InputError, match="must have a split `train`, or one split only") as caught:
        derive_recipe(npz("test", "val"), data_dir=None)

    assert "Received: validation, test. Write a recipe (pipelines/NAME.yaml)" in str(caught.value)


@pytest.mark.parametrize(
    ("suffix", "image_size", "shape", "name"),
    [
        ("", None, (4, 4, 1), "npz-some-file"),
        ("@6", None, (6, 6, 1), "npz-some-file-6x6"),
        ("@6x9", None, (6, 9, 1), "npz-some-file-6x9"),
        ("", 6, (6, 6, 1), "npz-some-file-6x6"),
        ("@6", 6, (6, 6, 1), "npz-some-file-6x6"),
        ("@4", None, (4, 4, 1), "npz-some-file-4x4"),
    ],
)
def test_a_size_is_asked_for_by_a_suffix_or_an_argument(npz, suffix, image_size, shape, name):
    recipe = derive_recipe(npz() + suffix, data_dir=None, image_size=image_size)

    assert recipe.features.image.shape == shape
    assert recipe.features.image.resize == (shape[:2] != (4, 4))
    assert recipe.name == name


@pytest.mark.parametrize(
    ("suffix", "image_size", "message"),
    [
        ("@6", 7, "given twice: `@6` and `image_size`"),
        ("@0", None, "must be 1 or more pixels"),
        ("", 0, "must be 1 or more pixels"),
    ],
)
def test_a_size_that_cannot_be_used_is_refused(npz, suffix, image_size, message):
    with pytest.raises(InputError, match=message):
        derive_recipe(npz() + suffix, data_dir=None, image_size=image_size)


@pytest.mark.parametrize(
    ("count", "length", "objective"),
    [(40, "20 epochs", "val_loss:min"), (10_000, "13 epochs", "val_accuracy:max")],
)
def test_small_data_is_trained_longer_and_judged_by_its_loss(npz, count, length, objective):
    recipe = derive_recipe(npz(shape=(count, 1, 1)), data_dir=None)

    assert recipe.trial_length == TrainingLength.parse(length)
    assert recipe.objective == objective


@pytest.mark.parametrize("text", ["tfds", "tfds:", "npz", "images:", "digits:x", "npz@5"])
def test_a_source_without_what_it_needs_says_what(text):
    with pytest.raises(InputError, match=r"tfds:NAME|npz:PATH|images:DIR|takes nothing after"):
        derive_recipe(text, data_dir=None)


@pytest.mark.slow
def test_unequal_images_of_an_unknown_data_set_with_43_classes_are_resized(folders, tmp_path):
    recipe = derive_recipe("tfds:unequal_signs", data_dir=folders)
    data = load_data(recipe, data_dir=folders, records_dir=tmp_path)

    assert recipe.source.arguments["image"] == "sign"
    assert recipe.source.arguments["label"] == "kind"
    assert recipe.features.image.shape == (64, 64, 3)
    assert data.num_classes == 43
    counts = data.manifest.class_counts
    for label, count in enumerate(sign_counts()):
        assert counts["validation"][label] - count // 10 in (0, 1)  # apportioned
        assert counts["train"][label] == count - counts["validation"][label]
    assert sum(counts["test"]) == data.num_examples("test")
    rare, absent = balance_warnings(counts)
    assert " absent from more than half of all batches of " in rare
    assert " no validation example: " in absent


@pytest.mark.slow
def test_fifty_classes_of_64_pixels_keep_their_size(folders, tmp_path):
    recipe = derive_recipe("tfds:fifty_patterns/fine", data_dir=folders)
    data = load_data(recipe, data_dir=folders, records_dir=tmp_path)

    assert (data.input_shape, data.num_classes) == ((64, 64, 3), 50)
    assert not recipe.features.image.resize
    assert [data.num_examples(s) for s in ("train", "validation", "test")] == [500, 50, 50]
    assert balance_warnings(data.manifest.class_counts) == ()


def test_measured_normalization_gives_pixels_of_mean_0_and_deviation_1(folders, tmp_path):
    recipe = derive_recipe("tfds:fifty_patterns@8", data_dir=folders)
    data = load_data(recipe, data_dir=folders, records_dir=tmp_path)

    images = np.concatenate([x for x, _ in data.evaluation("train").as_numpy_iterator()])
    np.testing.assert_allclose(images.mean(axis=(0, 1, 2), dtype=np.float64), 0, atol=1e-5)
    np.testing.assert_allclose(images.std(axis=(0, 1, 2), dtype=np.float64), 1, atol=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        "tfds:fifty_patterns",
        "tfds:fifty_patterns:2.1.0",
        "tfds:fifty_patterns/coarse",
        "tfds:fifty_patterns/coarse:2.1.0",
        "tfds:fifty_patterns/coarse:2.*.*",
        "tfds:{root}/fifty_patterns/coarse/2.1.0",
    ],
)
def test_config_version_and_folder_may_be_named(folders, text):
    recipe = derive_recipe(text.format(root=folders), data_dir=folders)

    assert recipe.features.label.num_classes == 50


def test_the_configs_of_a_data_set_are_different_data(folders):
    one, other = (
        derive_recipe(f"tfds:fifty_patterns/{config}", data_dir=folders)
        for config in ("fine", "coarse")
    )

    assert one.name != other.name
    assert one.source != other.source


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fifty_patterns/medium", "holds: fifty_patterns/coarse:2.1.0, fifty_patterns/fine:2.1.0."),
        ("unequal_signs:3.0.0", "holds: unequal_signs:1.0.0."),
        ("unequal_sign", "Did you mean `unequal_signs`?"),
        ("no name", "TensorFlow Datasets cannot make `no name`: "),
        ("a:b:c", "TensorFlow Datasets cannot make `a:b:c`: "),
    ],
)
def test_a_data_set_that_is_not_there_is_refused_with_what_is(folders, name, message):
    with pytest.raises(InputError) as caught:
        derive_recipe(f"tfds:{name}", data_dir=folders)

    assert message in str(caught.value)


def stored_by_tfds(folder, features, example, supervised_keys=None):
    """A data set of ten equal examples, in a folder that TensorFlow Datasets can read."""

    class Odd(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=supervised_keys,
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number in range(10):
                yield number, example

    Odd(data_dir=folder).download_and_prepare()
    return "tfds:odd"


IMAGE = tfds.features.Image(shape=(2, 2, 3))
LABEL = tfds.features.ClassLabel(num_classes=4)
PIXELS = np.zeros((2, 2, 3), np.uint8)


@pytest.mark.parametrize(
    ("features", "example", "message"),
    [
        (
            {"label": LABEL},
            {"label": 1},
            "one feature of the kind Image. Received: none. All features: label (ClassLabel).",
        ),
        (
            {"a": IMAGE, "b": IMAGE, "label": LABEL},
            {"a": PIXELS, "b": PIXELS, "label": 1},
            "one feature of the kind Image. Received: a, b. ",
        ),
        (
            {"image": IMAGE, "coarse": LABEL, "fine": LABEL},
            {"image": PIXELS, "coarse": 1, "fine": 1},
            "one feature of the kind ClassLabel. Received: coarse, fine. ",
        ),
    ],
    ids=["no image", "two images", "two labels"],
)
def test_features_that_cannot_be_told_apart_are_named_with_the_remedy(
    tmp_path, features, example, message
):
    text = stored_by_tfds(tmp_path, features, example)

    with pytest.raises(InputError) as caught:
        derive_recipe(text, data_dir=tmp_path)

    assert message in str(caught.value)
    assert "`source: {name: tfds, dataset: odd, image: FEATURE, label: FEATURE}`" in str(
        caught.value
    )


def test_what_the_author_named_for_supervised_learning_decides(tmp_path):
    """CIFAR-100 has two class features, and says which one is the label."""
    features = {"image": IMAGE, "coarse": LABEL, "fine": tfds.features.ClassLabel(num_classes=7)}
    example = {"image": PIXELS, "coarse": 1, "fine": 1}
    text = stored_by_tfds(tmp_path, features, example, supervised_keys=("image", "fine"))

    recipe = derive_recipe(text, data_dir=tmp_path)

    assert recipe.source.arguments["label"] == "fine"
    assert recipe.features.label.num_classes == 7


def test_a_folder_with_cut_record_files_is_named(folders, tmp_path):
    shutil.copytree(folders / "unequal_signs", tmp_path / "unequal_signs")
    recipe = derive_recipe("tfds:unequal_signs@8", data_dir=tmp_path)
    for path in (tmp_path / "unequal_signs" / "1.0.0").glob("*train*"):
        path.write_bytes(path.read_bytes()[:-5])

    with pytest.raises(DataError) as caught:
        load_data(recipe, data_dir=tmp_path, records_dir=tmp_path / "records")

    assert f"The split `train` of unequal_signs in {tmp_path}" in str(caught.value)


def test_a_folder_that_is_no_data_set_is_refused(tmp_path):
    for name in ("dataset_info.json", "features.json"):
        (tmp_path / name).write_text("{")

    with pytest.raises(DataError, match="cannot be read by TensorFlow Datasets: "):
        derive_recipe(f"tfds:{tmp_path}", data_dir=None)


@pytest.mark.slow
def test_a_fresh_process_reads_both_data_sets_without_their_builders(folders, tmp_path):
    program = f"""
import json, pathlib
from tfbatch.pipeline.dataset_names import derive_recipe
from tfbatch.pipeline import load_data
root = pathlib.Path({str(folders)!r})
found = {{}}
for text in ("tfds:unequal_signs@16", "tfds:fifty_patterns/fine"):
    recipe = derive_recipe(text, data_dir=root)
    data = load_data(recipe, data_dir=root, records_dir={str(tmp_path)!r})
    images, _ = next(data.evaluation("test").as_numpy_iterator())
    found[text] = [data.num_classes, list(images.shape[1:])]
print(json.dumps(found))
"""
    run = run_warm("-c", program)

    assert json.loads(run.stdout.splitlines()[-1]) == {
        "tfds:unequal_signs@16": [43, [16, 16, 3]],
        "tfds:fifty_patterns/fine": [50, [64, 64, 3]],
    }


def test_encoded_images_of_one_large_size_stay_encoded(tmp_path):
    for label in ("a", "b"):
        (tmp_path / "f" / label).mkdir(parents=True)
        for number in range(10):
            jpeg = tf.io.encode_jpeg(np.full((80, 90, 3), number, np.uint8)).numpy()
            (tmp_path / "f" / label / f"{number}.jpg").write_bytes(jpeg)

    image = derive_recipe(f"images:{tmp_path / 'f'}", data_dir=None).features.image

    assert (image.shape, image.stored, image.resize) == ((80, 90, 3), "encoded", False)
    small = derive_recipe(f"images:{tmp_path / 'f'}@32", data_dir=None).features.image
    assert (small.shape, small.stored, small.resize) == ((32, 32, 3), "raw", True)


@pytest.mark.parametrize("size", ["", "@32"])
def test_a_path_that_was_given_from_here_is_kept_so_that_it_is_found_from_anywhere(
    npz, tmp_path, monkeypatch, size
):
    npz("train", "test", name="x.npz")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    asked = {"apart": False, "dataset": f"npz:x.npz{size}", "model": "mlp"}
    kept = resolve_model_and_data(**asked).dataset
    beneath = resolve_model_and_data(**asked, data_dir=tmp_path).dataset
    monkeypatch.chdir(tmp_path / "elsewhere")

    assert kept == f"npz:{tmp_path / 'x.npz'}{size}"
    assert beneath == f"npz:x.npz{size}", "what is beneath the data folder stays short"
    again = resolve_model_and_data(apart=False, dataset=kept, model="mlp").data
    assert again.features.image.shape[0] == (32 if size else 4)


def test_a_folder_of_arrays_that_was_given_from_here_is_found_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "stored").mkdir()
    (tmp_path / "stored" / STORED).write_text("{}")
    monkeypatch.chdir(tmp_path)
    kept = resolve_model_and_data(apart=False, dataset="stored", model="mlp").dataset

    assert kept == str(tmp_path / "stored")


def test_a_recipe_is_named_only_where_the_name_finds_just_this_one(tmp_path):
    """Else best.yaml, the script and the commands would train on other data."""
    digits = load_recipe("digits")
    other = digits.model_copy(update={"augmentation": (Named(name="cutout", size=2),)})
    (tmp_path / "mine.yaml").write_text((RECIPES.find("digits")).read_text())
    mine = load_recipe(str(tmp_path / "mine.yaml"))

    found = [
        resolve_model_and_data(apart=False, dataset=recipe, model="mlp")
        for recipe in (digits, other, mine)
    ]
    assert [one.dataset for one in found] == ["digits", IN_PYTHON, IN_PYTHON]
    assert [one.is_importable for one in found] == [True, False, False]
    assert [one.name for one in found] == ["digits-mlp", "digits-mlp", "mine-mlp"]
