"""Recipes: every one loads, and a mistake in one is refused with file, key and remedy."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from tfbatch.augmentations import AUGMENTATIONS
from tfbatch.dataset_info.recipe import RECIPES, load_recipe
from tfbatch.errors import ConfigurationError
from tfbatch.quantities import TrainingLength
from tfbatch.schema import Strict, content_hash, read_yaml, validate, write_yaml
from tfbatch.sources import SOURCES

GOOD = """\
description: grey letters
source:
  name: digits
splits:
  train: train
  validation: {from: train, fraction: 0.2}
  test: held_out
features:
  image: {kind: image, shape: [8, 8, 1], stored: raw}
  label: {kind: label, num_classes: 10}
shards: 1
normalization:
  mean: [0.305]
  standard_deviation: [0.376]
augmentation:
  - {name: cutout, size: 2}
trial_length: 20 epochs
baseline: {batch_size: 32, learning_rate: 0.5}
"""


@pytest.fixture
def load(tmp_path):
    """Loads the good recipe with one piece of its text replaced."""

    def load_changed(old="", new=""):
        assert old in GOOD
        (tmp_path / "letters.yaml").write_text(GOOD.replace(old, new) if old else GOOD)
        return load_recipe("letters", recipe_dir=tmp_path)

    return load_changed


@pytest.fixture
def refusal(load, tmp_path):
    """The message with which a changed recipe is refused, without the folder."""

    def text(old, new):
        with pytest.raises(ConfigurationError) as caught:
            load(old, new)
        return str(caught.value).replace(f"{tmp_path}/", "")

    return text


@pytest.fixture
def read(tmp_path):
    def read_text(text):
        (tmp_path / "x.yaml").write_text(text)
        return read_yaml(tmp_path / "x.yaml")

    return read_text


@pytest.mark.parametrize("name", RECIPES.names())
def test_every_recipe_loads_and_its_plug_ins_take_its_arguments(name):
    recipe = load_recipe(name)

    assert recipe.name == name
    assert recipe.description
    validate(SOURCES.load(recipe.source.name).Source, recipe.source.arguments, where=name)
    for named in recipe.augmentation:
        validate(AUGMENTATIONS.load(named.name).Parameters, named.arguments, where=name)
    metric, direction = recipe.objective.split(":")
    assert metric.startswith("val_")
    assert direction in ("min", "max")


def test_a_recipe_is_what_its_file_says(load):
    recipe = load()

    assert recipe.name == "letters"
    assert recipe.source.name == "digits"
    assert recipe.splits.carved == {"validation": 0.2}
    assert (recipe.splits.train, recipe.splits.test) == ("train", "held_out")
    assert recipe.features.image.shape == (8, 8, 1)
    assert recipe.augmentation[0].arguments == {"size": 2}
    assert recipe.trial_length == TrainingLength(amount=20, unit="epochs")
    assert recipe.baseline.learning_rate == 0.5


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("shards:", "shard:", "letters.yaml: shard: is not a known key. Did you mean `shards`?"),
        (
            "{batch_size: 32, learning_rate:",
            "{batch_size: 32, learning_rat:",
            "letters.yaml: baseline.learning_rat: is not a known key. Did you mean "
            "`learning_rate`? Allowed: batch_size, learning_rate.",
        ),
        (
            "num_classes: 10",
            "num_clases: 10",
            "letters.yaml: features.label.num_classes: is required.\n"
            "letters.yaml: features.label.num_clases: is not a known key. Did you mean "
            "`num_classes`? Allowed: kind, num_classes.",
        ),
    ],
    ids=["top", "nested", "required"],
)
def test_a_misspelt_key_is_refused_with_the_closest_one(refusal, old, new, message):
    assert refusal(old, new).startswith(message)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("shards: 1", "shards: 0", "shards: Input should be greater than or equal to 1. Received"),
        ("shape: [8, 8, 1]", "shape: [8, 8, 2]", "features.image.shape.2: Input should be 1, 3 or"),
        ("shape: [8, 8, 1]", "shape: [8, 8]", "features.image.shape.2: is required."),
        ("stored: raw", "stored: row", "features.image.stored: Input should be 'encoded' or 'raw'"),
        ("mean: [0.305]", "mean: [.1, .2]", "normalization.mean must have one number for each of"),
        ("[0.376]", "[0]", "normalization.standard_deviation.0: Input should be greater than 0."),
        ("[0.305]", "[.nan]", "normalization.mean.0: Input should be a finite number."),
        ("num_classes: 10", "num_classes: 1", "features.label.num_classes: Input should be great"),
        ("20 epochs", "300 steps", "trial_length: A length of training must be a positive number"),
        ("20 epochs", "20", "trial_length: A length of training must be a positive number"),
        ("learning_rate: 0.5", "learning_rate: -1", "baseline.learning_rate: Input should be grea"),
        ("description: grey letters", "name: x", "name: the file's name is the data set's; remove"),
        ("test: held_out", "test: train", "splits: train, validation and test must be different"),
        ("{name: cutout, size: 2}", "cutout", "augmentation.0: Input should be a valid dictionary"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_its_key(refusal, old, new, message):
    assert refusal(old, new).startswith(f"letters.yaml: {message}")


@pytest.mark.parametrize("origin", ["test", "held_out", "validation"])
def test_a_validation_split_out_of_anything_but_train_is_refused(refusal, origin):
    message = refusal("{from: train, fraction: 0.2}", f"{{from: {origin}, fraction: 0.2}}")

    assert f".from: Input should be 'train'. Received: '{origin}'." in message


@pytest.mark.parametrize("fraction", ["0", "0.6", "-0.1", "all"])
def test_a_fraction_out_of_range_is_refused(refusal, fraction):
    assert ".fraction: Input should be " in refusal("fraction: 0.2", f"fraction: {fraction}")


def test_fractions_that_leave_nothing_to_train_on_are_refused(refusal):
    half = "{from: train, fraction: 0.5}"

    message = refusal(
        "validation: {from: train, fraction: 0.2}\n  test: held_out",
        f"validation: {half}\n  test: {half}",
    )

    assert message.startswith("letters.yaml: splits: the fractions taken from train must sum to")


def test_trap_pyyaml_reads_1e_3_as_text_and_ours_as_a_number(load, read):
    assert load("learning_rate: 0.5", "learning_rate: 1e-3").baseline.learning_rate == 0.001
    assert read("a: 1e-3\nb: 1E5\nc: -2e+3") == {"a": 0.001, "b": 1e5, "c": -2000.0}


def test_trap_pyyaml_reads_no_as_false_and_ours_as_text(load, read):
    assert load("grey letters", "no").description == "no"
    assert read("a: no\nb: yes\nc: on\nd: off\ne: y\nf: true") == {
        **{"a": "no", "b": "yes", "c": "on", "d": "off", "e": "y"},
        "f": True,
    }


def test_trap_pyyaml_reads_010_as_8_and_ours_as_10(load, read):
    assert load("shards: 1", "shards: 010").shards == 10
    assert read("a: 010") == {"a": 10}


def test_trap_pyyaml_reads_1_30_as_90_and_ours_as_text(read):
    assert read("a: 1:30") == {"a": "1:30"}


def test_trap_pyyaml_lets_a_second_key_win_and_ours_refuses_it_with_its_line(refusal):
    assert refusal("shards: 1", "shards: 1\nshards: 2") == (
        'letters.yaml: line 12, column 1: found duplicate key "shards" with value "2" '
        '(original value: "1").'
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.yaml: must hold a mapping of keys to values. Received: NoneType."),
        ("- a", "x.yaml: must hold a mapping of keys to values. Received: list."),
        ("a: [1\n", "x.yaml: line 2, column 1: expected ',' or ']', but got '<stream end>'."),
        ("a: 1\n\tb: 2", "x.yaml: line 2, column 1: found character '\\t' that cannot start any"),
        ("a: *b", "x.yaml: line 1, column 4: found undefined alias 'b'."),
        ("a: !!python/name:os.system", "x.yaml: line 1, column 4: could not determine a constr"),
        ("\0", "x.yaml: is not YAML: "),
    ],
    ids=["empty", "list", "open", "tab", "alias", "code", "control"],
)
def test_what_is_no_yaml_mapping_is_refused_with_its_place(read, tmp_path, text, message):
    with pytest.raises(ConfigurationError) as caught:
        read(text)

    assert str(caught.value).replace(f"{tmp_path}/", "").startswith(message)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")

    with pytest.raises(ConfigurationError, match=r"latin\.yaml: is not UTF-8 text: "):
        read_yaml(tmp_path / "latin.yaml")
    with pytest.raises(ConfigurationError, match=r"absent\.yaml: cannot be read: No such file"):
        read_yaml(tmp_path / "absent.yaml")


def test_an_unknown_data_set_is_refused_with_the_closest_one_and_the_remedy():
    with pytest.raises(ConfigurationError) as caught:
        load_recipe("digit")

    message = str(caught.value)
    assert message.startswith("Unknown data set `digit`. Did you mean `digits`? Available: ")
    assert message.endswith(
        "Add digit.yaml to one of them, or set TFBATCH_RECIPE_DIR to a folder of your own."
    )


def test_a_path_is_taken_as_it_is(load, tmp_path):
    load()

    assert load_recipe(str(tmp_path / "letters.yaml")).name == "letters"
    with pytest.raises(ConfigurationError, match=r"No data set file `.*letter\.yaml`\."):
        load_recipe(str(tmp_path / "letter.yaml"))


def test_a_folder_of_the_users_own_is_searched_first(tmp_path, monkeypatch):
    (tmp_path / "digits.yaml").write_text(GOOD)
    monkeypatch.setenv("TFBATCH_RECIPE_DIR", str(tmp_path))

    assert load_recipe("digits").description == "grey letters"
    assert RECIPES.find("digits") == Path(tmp_path / "digits.yaml")
    assert "cifar10" in RECIPES.names()


def test_a_hash_changes_with_everything_that_changes_the_records_and_with_nothing_else(load):
    def hashed(old="", new="", **identity):
        return load(old, new).records_hash(identity)

    first = hashed()
    assert first == hashed()
    for old, new in [
        ("name: digits", "name: digits\n  more: 1"),
        ("fraction: 0.2", "fraction: 0.3"),
        ("test: held_out", "test: other"),
        ("num_classes: 10", "num_classes: 11"),
        ("stored: raw", "stored: encoded"),
        ("stored: raw", "stored: raw, resize: true"),
        ("shards: 1", "shards: 2"),
    ]:
        assert hashed(old, new) != first, new
    assert hashed(version=2) != first
    for old, new in [("0.305", "0.3"), ("20 epochs", "2 epochs"), ("size: 2", "size: 3")]:
        assert hashed(old, new) == first, new


def test_a_content_hash_does_not_depend_on_the_order_of_keys():
    assert content_hash({"a": 1, "b": [2]}) == content_hash({"b": [2], "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": "1"})


def test_written_yaml_is_read_back_unchanged(read):
    data = {
        "texts": ["no", "1e-3", "010", "1:30", "null", "", "a: b", "# c", "é\n"],
        "numbers": [1e-3, 1e-300, 1e22, 0.1 + 0.2, 5, -1],
        "others": {"none": None, "yes": True, "empty": {}, "list": []},
    }

    assert read(write_yaml(data, comment="two\nlines")) == data
    assert write_yaml({}, comment="two\nlines").startswith("# two\n# lines\n")


def test_values_are_frozen_and_finite():
    class Value(Strict):
        number: float

    value = validate(Value, {"number": 1}, where="x")
    with pytest.raises(ValueError, match="frozen"):
        value.number = 2
    with pytest.raises(ConfigurationError, match="x: number: Input should be a finite number"):
        validate(Value, {"number": float("inf")}, where="x")
    with pytest.raises(ConfigurationError, match=r"x: number: Input should be a valid number\."):
        validate(Value, {"number": datetime.date(2020, 1, 1)}, where="x")
