"""What a look at a user's data finds: missing values, classes, copies, and chance."""

from __future__ import annotations

import hashlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.trainers.data_adapters.tf_dataset_adapter import make_class_weight_map_fn

from tfbatch.dataset_info.class_balance import balance_warnings
from tfbatch.dataset_info.content import DataContent, changed_is_told, overlap_is_excessive
from tfbatch.errors import InputError
from tfbatch.pipeline import content_scan
from tfbatch.pipeline.array_data import StoredData
from tfbatch.pipeline.array_storage import store_data
from tfbatch.pipeline.classes import Expected
from tfbatch.pipeline.content_scan import Contents
from tfbatch.pipeline.examples_digest import ExamplesDigest, rows_as_bytes
from tfbatch.pipeline.function_data import FunctionData, count_examples
from tfbatch.request.task import Task
from tfbatch.training.class_weights import (
    check_class_weight,
    every_class_weight,
    with_class_weight,
)
from tfbatch.training.compilation import Compilation
from tfbatch.training.content_checks import check_finite_loss, check_real, content_notes
from tfbatch.training.workload import Workload


@pytest.fixture(autouse=True)
def two_passes_differ_by_nothing_but_chance(monkeypatch):
    """Its limit in seconds must not decide what a slow machine finds.

    Nor a seed that a trial of an earlier test has set in this process: with it, every pass draws
    the same numbers.
    """
    monkeypatch.setattr(content_scan, "_SECOND_PASS_SECONDS", float("inf"))
    tf.random.set_seed(None)


RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(200, 3)).astype(np.float32)
Y = np.arange(200) % 2
SLICES = tf.data.Dataset.from_tensor_slices


def stored(folder, data):
    return StoredData(store_data(folder, data), name="mine")


def notes_of(folder, data):
    return " ".join(stored(folder, data).content.notes)


def of_function(folder, function):
    found, _ = count_examples(function, folder, name="made", heartbeat=lambda _: None)
    return FunctionData(function, found, name="made")


def add_noise(x, y):
    return x + tf.random.normal([]), y


def check(model, data, **compilation):
    """As each build of a model is checked before any trial."""
    Workload(data, lambda: model, compilation=Compilation(**compilation)).build(seed=1)


def functional(units, loss=None, activation=None):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(units, activation)(inputs))
    if loss is not None:
        model.compile("sgd", loss)
    return model


# Copies and chance


def test_a_shuffled_dataset_is_no_alarm(tmp_path):
    data = {
        "train": SLICES((X, Y)).shuffle(200).batch(32).shuffle(7),
        "validation": SLICES((X + 1, Y)).shuffle(200),
    }

    assert notes_of(tmp_path, data) == ""


def test_batches_that_leave_out_other_examples_in_each_order_are_no_alarm(tmp_path):
    data = SLICES((X[:50], Y[:50])).shuffle(50).batch(32, drop_remainder=True)

    assert notes_of(tmp_path, data) == ""


def test_examples_that_a_batch_of_a_fixed_size_may_have_left_out_are_told(tmp_path):
    whole = SLICES((X[:50], Y[:50]))
    data = {"train": whole.batch(32, drop_remainder=True), "validation": whole.batch(32)}

    (note,) = [n for n in stored(tmp_path, data).describe().notes if "drop_remainder" in n]
    assert note.startswith("Your `train` data gives batches of a fixed size")
    assert "up to 31 of its examples are missing" in note


def test_a_functions_batches_of_a_size_of_their_own_are_told(tmp_path):
    def asked(split, batch_size, seed):
        return SLICES((X[:64], Y[:64])).batch(batch_size, drop_remainder=True)

    def its_own(split, batch_size, seed):
        return SLICES((X[:70], Y[:70])).batch(20, drop_remainder=split == "train")

    assert "missing" not in " ".join(of_function(tmp_path, asked).describe().notes)
    (note,) = [n for n in of_function(tmp_path, its_own).describe().notes if "missing" in n]
    assert "'train' gives batches of a fixed size" in note
    assert "up to 19 of its examples" in note


def test_padding_that_depends_on_the_batch_is_no_alarm(tmp_path):
    def texts():
        for number in range(1, 61):
            yield np.arange(number, number + 1 + number % 5), number % 2

    spec = (tf.TensorSpec((None,), tf.int64), tf.TensorSpec((), tf.int32))
    data = tf.data.Dataset.from_generator(texts, output_signature=spec)
    pad = (tf.constant(-1, tf.int64), tf.constant(0, tf.int32))

    assert notes_of(tmp_path, data.shuffle(60).padded_batch(8, padding_values=pad)) == ""


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("batch", [None, 16], ids=["examples", "batches"])
def test_a_random_dataset_is_reported(tmp_path, split, batch):
    data = {"train": SLICES((X, Y)), "validation": SLICES((X + 1, Y))}
    data[split] = data[split].shuffle(200).map(add_noise)
    if batch:
        data[split] = data[split].batch(batch)

    notes = notes_of(tmp_path, data)

    assert int(notes.split("% of the")[0]) > 90
    assert ("make_dataset" in notes) == (split == "train")
    assert f"`{split}`" in notes or split == "train"


def test_half_of_the_examples_changed_is_reported_of_a_dataset_alone(tmp_path):
    def flip(x, y):
        return (x[::-1] if tf.random.uniform([]) < 0.5 else x), y

    assert "make_dataset" in notes_of(tmp_path, SLICES((X, Y)).map(flip))


def test_a_generator_that_is_used_up_is_no_alarm(tmp_path):
    examples = iter([(X[i], Y[i]) for i in range(200)])
    spec = (tf.TensorSpec((3,), tf.float32), tf.TensorSpec((), tf.int32))
    data = tf.data.Dataset.from_generator(lambda: examples, output_signature=spec)

    assert notes_of(tmp_path, data) == ""


def test_a_split_drawn_anew_at_each_reading_is_reported_once(tmp_path):
    whole = SLICES((X, Y)).shuffle(200)
    notes = stored(tmp_path, {"train": whole.skip(40), "validation": whole.take(40)}).content.notes

    (note,) = notes
    assert "of your `validation` examples" in note
    assert "reshuffle_each_iteration=False" in note


def test_a_split_by_a_fixed_order_is_no_alarm(tmp_path):
    whole = SLICES((X, Y)).shuffle(200, reshuffle_each_iteration=False)

    assert notes_of(tmp_path, {"train": whole.skip(40), "validation": whole.take(40)}) == ""


def test_validation_arrays_that_stand_in_train_are_counted(tmp_path):
    validation = (np.concatenate([X[:30], X[:10] + 1]), Y[:40])

    notes = notes_of(tmp_path, {"train": (X, Y), "validation": validation})

    assert notes.startswith("75% of your `validation` examples (30 of 40)")


def test_a_table_that_repeats_itself_is_no_alarm(tmp_path):
    table = RANDOM.integers(0, 3, size=(300, 3))

    assert (
        notes_of(tmp_path, {"train": (table[:200], Y), "validation": (table[200:], Y[:100])}) == ""
    )


def test_copies_on_both_sides_of_a_validation_split_that_was_taken_are_reported(tmp_path):
    assert "same inputs as another" in notes_of(tmp_path, (np.concatenate([X, X]), np.tile(Y, 2)))


def test_equal_inputs_are_reported(tmp_path):
    assert "All 200 training examples have the same inputs" in notes_of(
        tmp_path, (np.ones_like(X), Y)
    )


def test_a_functions_random_validation_and_seeded_split_are_reported(tmp_path):
    def random_validation(split, batch_size, seed):
        return SLICES((X + (split == "validation"), Y)).map(add_noise) if split != "test" else None

    def drawn_by_the_seed(split, batch_size, seed):
        whole = SLICES((X, Y)).shuffle(200, seed=seed, reshuffle_each_iteration=False)
        parts = {"train": whole.skip(40), "validation": whole.take(40), "test": None}
        return parts[split]

    (note,) = of_function(tmp_path, random_validation).content.notes
    assert note.startswith("100% of the `validation` examples")
    (note,) = of_function(tmp_path, drawn_by_the_seed).content.notes
    assert "of the `train` examples of a second pass were in `validation`" in note


def test_the_same_data_keeps_its_folder_whatever_a_check_has_seen(tmp_path):
    folder = store_data(tmp_path, (X, Y))
    (folder / "content.json").unlink()

    assert StoredData(folder, name="mine").content == DataContent()  # of an earlier version
    assert store_data(tmp_path, (X, Y)) == folder
    assert StoredData(folder, name="mine").content.targets


@pytest.mark.parametrize("validation", [False, True], ids=["carved", "given"])
def test_the_same_examples_in_another_order_are_the_same_data(tmp_path, validation):
    def data(seed, x=X):
        train = SLICES((x, Y)).shuffle(200, seed=seed).batch(7)
        return {"train": train, "validation": (X + 1, Y)} if validation else train

    folder = store_data(tmp_path, data(1))
    values = (folder / "train-0.bin").read_bytes()

    assert store_data(tmp_path, data(2)) == folder
    assert (folder / "train-0.bin").read_bytes() == values
    assert not list(tmp_path.glob(".partial-*"))
    changed = X.copy()
    changed[3, 1] += 1
    assert store_data(tmp_path, data(2, changed)) != folder


def test_the_same_examples_read_as_something_else_are_other_data(tmp_path):
    def stored_as(seed, classes):
        data = SLICES((X, Y)).shuffle(200, seed=seed)
        return store_data(tmp_path, data, expect=lambda _: Expected(False, classes))

    assert stored_as(1, True) != stored_as(2, False)
    assert stored_as(3, False) == stored_as(2, False)


def test_examples_are_hashed_alike_in_every_order_and_cut():
    def digest(*chunks):
        found = ExamplesDigest()
        for chunk in chunks:
            found.add(chunk)
        return found.hexdigest()

    texts = np.array(["a", b"bc", ""], object)
    rows = [np.arange(1), np.arange(3), np.arange(0)]
    one = [1, 2, 0]
    whole = digest([texts, rows, X[:3]])

    assert whole == digest([texts[1:], rows[1:], X[1:3]], [texts[:1], rows[:1], X[:1]])
    assert whole == digest([texts[one], [rows[i] for i in one], X[one]])
    assert whole != digest([texts[one], rows, X[:3]])
    assert whole != digest([texts, rows, X[:3]], [texts, rows, X[:3]])
    one_row = hashlib.blake2b((12).to_bytes(8, "little") + X[:1].tobytes(), digest_size=16)
    assert digest([X[:1]]) == one_row.digest()[::-1].hex()


def test_several_texts_are_hashed_as_one_example(tmp_path):
    assert list(rows_as_bytes(np.array([["a"], [b"b"]], object))) == [b"a", b"b"]
    (both,) = rows_as_bytes(np.array([["a", "b"]], object))
    (other,) = rows_as_bytes(np.array([["ab", ""]], object))
    assert both != other
    varying = [np.array(["".join("ab"), "c"], object), np.array([b"ab", b"c"], object)]
    assert len(set(rows_as_bytes(varying))) == 1

    texts = np.array([["a", "b"]] * len(Y))
    with pytest.raises(InputError, match="text must be one string for each example"):
        store_data(tmp_path, SLICES((texts, Y)))


def test_the_thresholds_are_their_closed_forms():
    # 4 standard errors: pooled p = 0.15, sqrt(.15 * .85 * 2 / 100) = 0.0505.
    assert overlap_is_excessive(0.26, 0.04, num_examples=100, num_training=100)
    assert not overlap_is_excessive(0.24, 0.06, num_examples=100, num_training=100)
    assert not overlap_is_excessive(0.009, 0.0, num_examples=10**6, num_training=10**6)
    # 31 dropped of 100 + 31: 0.237 and four standard errors of sqrt(.237 * .763 * 31 / 130 / 100).
    read = {"stored": 100, "checked": 100}
    assert not changed_is_told(0.31, dropped=31, **read, overlapping=False)
    assert changed_is_told(0.33, dropped=31, **read, overlapping=False)
    assert not changed_is_told(8 / 27, dropped=0, **read, overlapping=True)
    assert changed_is_told(0.02, dropped=0, **read, overlapping=False)


def test_a_second_pass_may_be_longer_than_the_first():
    """A Dataset that filters at random, in batches of a fixed size."""
    read = {"dropped": 31, "stored": 960, "checked": 1024, "overlapping": False}
    assert changed_is_told(0.5, **read)
    assert not changed_is_told(0.02, **read)


def test_what_the_cut_leaves_out_by_chance_is_seldom_told():
    """The worst cut, N = n + b - 1, simulated: half of its draws are beyond the mean share."""
    shares = np.random.default_rng(0).hypergeometric(31, 32, 32, size=20_000) / 32

    def told(share):
        return changed_is_told(share, dropped=31, stored=32, checked=32, overlapping=False)

    assert np.mean([told(share) for share in shares]) < 1e-3
    assert told(1.0)


# Missing values


def look(template, *chunks):
    contents = Contents()
    scan = contents.begin("train", template)
    for chunk in chunks:
        scan.add(chunk)
    return contents.found({})


def test_missing_values_are_named_by_column_and_first_row():
    holes = X.copy()
    holes[150, 2] = np.nan
    holes[150, 1] = holes[180, 2] = np.inf
    parts = (slice(0, 60), slice(60, 160), slice(160, 200))
    content = look([{"a": 0, "b": 1}, 2], *([X[p], holes[p], Y[p]] for p in parts))

    (found,) = content.non_finite
    assert (found.name, found.values, found.examples) == ("input `b`", 3, 2)
    assert (found.first_example, found.first_index, found.columns) == (150, (1,), (1, 2))
    assert "the first is example 150, column 1" in str(found)


def test_missing_values_of_rows_of_unequal_length_and_of_images_are_placed():
    rows = [np.ones(2), np.ones(0), np.array([np.nan, 1, np.nan])]
    images = np.ones((3, 2, 2, 1))
    images[1, 0, 1, 0] = np.nan
    found = look([[0, 1], 2], [rows, images, Y[:3]]).non_finite

    assert [(f.values, f.first_example, f.first_index) for f in found] == [
        (2, 2, (0,)),
        (1, 1, (0, 1, 0)),
    ]


def test_numbers_too_large_for_float32_are_reported():
    assert look([0, 1], [np.array([[1e300]]), np.zeros(1)]).non_finite[0].values == 1


def test_a_missing_sample_weight_is_refused(tmp_path):
    weight = np.ones(200)
    weight[7] = np.nan
    with pytest.raises(
        InputError, match=r"sample weights of your `train` data.*first is example 7"
    ):
        store_data(tmp_path, (X, Y, weight))


def own_loss(targets, outputs):
    return tf.where(tf.math.is_nan(targets), 0.0, tf.square(targets - outputs))


def test_missing_targets_are_refused_under_a_loss_of_keras_alone(tmp_path):
    y = np.where(np.arange(200) == 9, np.nan, 1.5)[:, None]
    data = stored(tmp_path, (X, y))

    assert any("first is example 9" in note for note in data.describe().notes)
    with pytest.raises(InputError, match=r"NaN or infinite.*targets.*first is example 9"):
        check(functional(1, "mse"), data)
    with pytest.raises(InputError, match="NaN or infinite"):
        check(functional(1), data, loss=keras.losses.Huber())
    check(functional(1, own_loss), data)


def test_missing_inputs_are_refused_where_the_untrained_loss_shows_them(tmp_path):
    x = np.where(np.arange(600).reshape(200, 3) == 28, np.nan, X)
    data = stored(tmp_path, (x, Y))

    check_finite_loss({"loss": 0.7}, data)
    with pytest.raises(InputError, match=r"first is example 9, column 1.*untrained.*nan"):
        check_finite_loss({"loss": float("nan")}, data)


# Labels, losses and weights


@pytest.mark.parametrize(
    ("labels", "model", "message"),
    [
        (
            Y + 1,
            lambda: functional(2, "sparse_categorical_crossentropy"),
            "from 1 to 2.*subtract 1",
        ),
        (-Y, lambda: functional(2, "sparse_categorical_crossentropy"), "Received.*from -1 to 0"),
        (Y * 2 - 1, lambda: functional(1, "binary_crossentropy"), "from 0 to 1.*from -1 to 1"),
        (Y, lambda: functional(2, "sparse_categorical_crosentropy"), "Did you mean `sparse_cat"),
    ],
    ids=["from 1", "negative", "signs", "misspelt"],
)
def test_labels_outside_of_the_models_range_are_refused(tmp_path, labels, model, message):
    with pytest.raises(InputError, match=message):
        check(model(), stored(tmp_path, (X, labels)))


TEXTS = np.array(["cat", "dog"])[Y]
ONE_HOT = np.eye(2, dtype=np.float32)[Y]
FORMS = {
    "texts": (TEXTS, "sparse_categorical_crossentropy", "takes numbers.*return_inverse"),
    "texts for amounts": (TEXTS, "mse", "loss mse takes numbers.*not numbers.*astype"),
    "texts for a function": (TEXTS, keras.losses.mean_absolute_error, "takes numbers"),
    "rows": (ONE_HOT, "sparse_categorical_crossentropy", r"class indices.*np\.argmax"),
    "indices": (Y, "categorical_crossentropy", r"one-hot.*to_categorical\(targets, 2\)"),
    "a column": (Y[:, None], "categorical_focal_crossentropy", "one-hot.*for each example in your"),
}


@pytest.mark.parametrize("form", FORMS)
def test_targets_in_another_form_than_the_loss_takes_are_refused(tmp_path, form):
    labels, loss, message = FORMS[form]
    with pytest.raises(InputError, match=message):
        check(functional(2, loss), stored(tmp_path, (X, labels)))


def test_texts_without_a_loss_are_told_to_be_numbered_and_not_to_be_given_one(tmp_path):
    with pytest.raises(
        InputError, match=r"must be classes\. .*not numbers.*return_inverse"
    ) as said:
        check(functional(2), stored(tmp_path, (X, TEXTS)))
    assert "mse" not in str(said.value)


def test_texts_are_accepted_by_a_loss_of_ones_own(tmp_path):
    def own(y_true, y_pred):
        return keras.ops.mean(y_pred**2, axis=-1)

    check(functional(2, own), stored(tmp_path, (X, TEXTS)))


def test_targets_in_the_form_that_the_loss_takes_are_accepted(tmp_path):
    for number, (labels, loss) in enumerate(
        [
            (Y[:, None], "sparse_categorical_crossentropy"),
            (Y, keras.losses.SparseCategoricalCrossentropy(from_logits=True)),
            (ONE_HOT, "categorical_crossentropy"),
        ]
    ):
        check(functional(2, loss), stored(tmp_path / str(number), (X, labels)))


def test_a_validation_label_beyond_the_outputs_is_refused(tmp_path):
    data = stored(tmp_path, {"train": (X, Y), "validation": (X + 1, Y + 1)})
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    with pytest.raises(InputError, match="from 1 to 2 in your `validation` data"):
        check(functional(2, loss), data)
    ignoring = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=2)
    check(functional(2, ignoring), data)


class Subclass(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def call(self, inputs):
        return self.dense(inputs)


def test_a_label_beyond_the_outputs_of_a_subclassed_model_is_refused(tmp_path):
    model = Subclass()
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(InputError, match="from 0 to 1, since the model has 2 outputs"):
        check(model, stored(tmp_path, (X, Y + 1)))


def test_a_misspelt_metric_of_a_compiled_model_is_refused(tmp_path):
    model = functional(1)
    model.compile("sgd", "mse", metrics=["mean_absolut_error"])
    with pytest.raises(InputError, match=r"`metrics` must be known.*Did you mean `mean_absolute_"):
        check(model, stored(tmp_path, (X, Y)))


RARE = np.where(np.arange(200) < 4, 1, 0)


@pytest.mark.parametrize("form", ["indices", "one-hot", "float"])
def test_classes_are_counted_in_every_form_of_targets(tmp_path, form):
    y = {"indices": RARE, "one-hot": np.eye(2)[RARE], "float": RARE.astype(float)[:, None]}[form]
    loss = {"indices": None, "one-hot": "categorical_crossentropy", "float": "binary_crossentropy"}
    data = stored(tmp_path, {"train": (X, y), "validation": (X[:100] + 1, y[:100])})

    (note,) = content_notes(functional(2), data, loss[form])

    assert note.startswith("Class 1 is absent from more than half of all batches of 34 or smaller")
    assert data.content.class_counts() == {"train": (196, 4), "validation": (96, 4)}


def test_classes_are_counted_after_a_validation_split_was_taken(tmp_path):
    data = stored(tmp_path, (X, RARE))

    assert data.content.class_counts() == {"train": (157, 3), "validation": (39, 1)}


class UnequalBatches(keras.utils.PyDataset):
    """One-hot rows as long as the longest example of their batch, with one more batch to divide."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        length = (3, 5, 3)[index]
        return np.ones((20, length), np.int32), np.eye(length)[np.arange(20) % length]


def test_one_hot_rows_of_varying_length_are_no_classes_in_divided_data(tmp_path):
    data = stored(tmp_path, UnequalBatches())
    assert data.num_examples("train") + data.num_examples("validation") == 60
    assert (data.num_classes, data.content.class_counts()) == (None, {})


class UnequalSteps(UnequalBatches):
    """A one-hot row for each step, of as many steps as the longest example of the batch has."""

    def __getitem__(self, index):
        steps = np.arange(20 * (3, 5, 3)[index]).reshape(20, -1)
        return steps[..., None].astype("float32"), np.eye(3)[steps % 3]


def test_one_hot_rows_of_as_many_steps_as_a_batch_has_stay_one_hot_rows(tmp_path):
    """They were taken for single numbers, and refused beside a categorical crossentropy."""
    data = stored(tmp_path, UnequalSteps())
    (target,) = data.content.targets["train"]
    assert target.shape == (None, 3)
    assert data.content.weighted_classes(None) == 3
    model = keras.Sequential([keras.Input((None, 1)), keras.layers.Dense(3)])
    assert content_notes(model, data, "categorical_crossentropy") == ()


def test_targets_of_a_regression_are_no_classes_but_may_be_constant(tmp_path):
    assert content_notes(functional(1), stored(tmp_path, (X, RARE * 3)), "mse") == ()
    (note,) = content_notes(functional(1), stored(tmp_path, (X, Y * 0 + 2.5)), "mse")
    assert note.startswith("All training targets are 2.5")


def test_one_class_and_labels_from_one_are_told():
    assert balance_warnings({"train": (9, 0)})[0].startswith("Every training example is of class 0")
    (note,) = balance_warnings({"train": (0, 9, 9)})
    assert "Class 0 has no training example" in note
    assert "start at 1" in note


def test_unscaled_inputs_give_a_hint_unless_a_layer_rescales(tmp_path):
    images = RANDOM.integers(0, 256, size=(200, 3)).astype(np.uint8)
    data = stored(tmp_path, (images, Y))
    rescaling = keras.Sequential([keras.Input((3,)), keras.layers.Rescaling(1 / 255)])

    assert content_notes(functional(2), data, None)[0].startswith("Hint: the mean absolute value")
    assert content_notes(rescaling, data, None) == ()


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (np.eye(4)[Y], 4),
        (np.eye(4, dtype=np.float32)[Y] * 0.9 + 0.025, 4),
        (Y * 1.0, 2),
        (Y.astype(bool), 2),
        (Y + 0.5, None),
        (-Y, None),
        (X, None),
        (np.ones((200, 2)) * Y[:, None], None),
    ],
    ids=["one-hot", "shares", "float", "bool", "fractions", "negative", "rows", "several labels"],
)
def test_class_weights_are_completed_or_refused(tmp_path, y, classes):
    data = stored(tmp_path, (X, y))

    assert data.content.weighted_classes(data.num_classes) == classes
    assert data.describe().weighted_classes == classes
    if classes is None:
        with pytest.raises(InputError, match="needs targets that are classes"):
            check(functional(1), data, loss="mse", class_weight={1: 5.0})
        return
    check(functional(classes), data, loss="mse", class_weight={1: 5.0})
    completed = every_class_weight({1: 5.0}, classes)
    assert completed == {**dict.fromkeys(range(classes), 1.0), 1: 5.0}
    with pytest.raises(InputError, match=f"from 0 to {classes - 1}.*class 7"):
        check(functional(classes), data, loss="mse", class_weight={7: 1.0})


def test_class_weights_of_several_targets_are_refused(tmp_path):
    data = stored(tmp_path, (X, {"a": Y, "b": Y}))
    with pytest.raises(InputError, match="needs a model with one target"):
        check(functional(1), data, loss="mse", class_weight={1: 5.0})


@pytest.mark.parametrize("y", [{"a": Y}, (Y,)], ids=["dict", "tuple"])
def test_class_weights_of_one_target_in_a_structure_are_refused(tmp_path, y):
    data = stored(tmp_path, (X, y))
    with pytest.raises(InputError, match=r"needs the target itself.*Give \(inputs, target\)"):
        check_class_weight({1: 5.0}, data)


MASKS = RANDOM.integers(0, 2, size=(200, 4, 3))


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (MASKS[..., None], 2),
        (np.eye(2)[MASKS] * (RANDOM.random((200, 4, 3, 1)) > 0.1), 2),  # some parts of no class
        (MASKS, None),
        (MASKS + 5, None),
    ],
    ids=["with channels", "one-hot", "without channels", "indices without channels"],
)
def test_class_weights_of_masks_need_an_axis_of_classes(tmp_path, y, classes):
    data = stored(tmp_path, (X, y))
    assert data.content.weighted_classes(data.num_classes) == classes
    if classes is None:
        with pytest.raises(InputError, match=r"last axis of 1, targets\[\.\.\., None\]"):
            check_class_weight({1: 5.0}, data)
    else:
        check_class_weight({1: 5.0}, data)


@pytest.mark.parametrize(
    "y",
    [
        np.array([0, 1, 2, 1]),
        np.array([0.0, 1.0, 2.0, 1.0], np.float32),
        np.array([[0], [1], [2], [1]], np.uint8),
        np.eye(3)[[0, 1, 2, 1]],
        MASKS[:2, ..., None],
        np.eye(3)[MASKS[:2]],
    ],
    ids=["indices", "float", "column", "one-hot", "mask", "one-hot mask"],
)
def test_class_weights_are_kerass(y):
    weights = {0: 2.0, 1: 0.1, 2: 7.0}
    ours = with_class_weight((0, tf.constant(y)), weights)[2]
    np.testing.assert_array_equal(ours, make_class_weight_map_fn(weights)(0, tf.constant(y))[2])


@pytest.mark.parametrize(
    "given", ["balanced", {"0": 1.0}, {0.5: 1.0}, {0: None}, {0: np.nan}, [1.0]]
)
def test_a_class_weight_of_another_form_is_refused_before_any_work(given):
    with pytest.raises(InputError, match=r"must be a dict of class indices and their weights"):
        Task(class_weight=given)


def test_a_class_weight_may_have_numpys_numbers_and_whole_floats():
    assert Task(class_weight={np.int64(0): np.float32(2), 1.0: 3}).class_weight == {0: 2.0, 1: 3}


def test_the_rows_of_a_few_categories_are_no_copies(tmp_path):
    table = RANDOM.integers(0, 3, size=(300, 2))

    assert notes_of(tmp_path / "a", (table, RANDOM.integers(0, 2, 300))) == ""
    assert notes_of(tmp_path / "b", (table, (table[:, 0] > 0).astype(int))) == ""
    drawn = RANDOM.integers(0, 100, size=400)
    assert "same inputs as another" in notes_of(tmp_path / "c", (X[drawn], Y[drawn]))
    repeated = (np.tile(table[:50], (3, 1)), np.tile(Y[:50], 3))
    assert "same inputs as another" in notes_of(tmp_path / "d", repeated)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.where(np.arange(len(X)) == 7, -0.5, 1), r"-0\.5 for example 7 \(counted from 0\)"),
        (np.zeros(len(X)), "weights are 0: no example counts"),
    ],
)
def test_weights_that_no_training_can_use_are_refused(tmp_path, weights, message):
    with pytest.raises(InputError, match=message):
        stored(tmp_path, (X, Y, weights))
    dataset = SLICES((X, Y, weights.astype("float32")))
    with pytest.raises(InputError, match=message):
        of_function(tmp_path, lambda split, batch_size, seed: dataset.batch(batch_size))


def test_an_output_whose_weights_are_all_0_is_not_refused(tmp_path):
    """Only a split in which nothing counts is: here the other output is trained."""
    ones = np.ones(len(X), "float32")
    stored(tmp_path, (X, {"a": Y, "b": Y}, {"a": ones, "b": 0 * ones}))


def test_complex_numbers_are_refused_unless_the_model_declares_them(tmp_path):
    complex_inputs = stored(tmp_path / "a", (X.astype("complex64"), Y))
    spec = complex_inputs.evaluation("validation").element_spec

    def model(dtype):
        inputs = keras.Input(X.shape[1:], dtype=dtype)
        return keras.Model(inputs, keras.layers.Dense(2)(keras.ops.real(inputs)))

    with pytest.raises(InputError, match=r"inputs are complex numbers.*np\.stack"):
        check_real(model("float32"), spec)
    check_real(model("complex64"), spec)
    with pytest.raises(InputError, match="targets are complex"):
        check_real(
            model("float32"), (tf.TensorSpec((None, 4)), tf.TensorSpec((None,), "complex64"))
        )

    class Own(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return keras.ops.mean(keras.ops.abs(y))

    inputs = keras.Input((4,))
    own = Own(inputs, keras.layers.Dense(2)(inputs))
    check_real(own, (tf.TensorSpec((None, 4)), tf.TensorSpec((None,), "complex64")))


@pytest.mark.parametrize("weights", [{0: -1.0, 1: 1.0}, {0: float("inf")}, {0: 0, 1: 0}])
def test_class_weights_that_no_training_can_use_are_refused(tmp_path, weights):
    data = stored(tmp_path, (X, Y))
    with pytest.raises(InputError, match=r"at least 0|above 0"):
        check_class_weight(Task(class_weight=weights).class_weight, data)
