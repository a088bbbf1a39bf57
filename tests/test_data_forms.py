"""The forms of a user's data: what an element is, which targets are classes, what is refused."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

from tfbatch.errors import InputError
from tfbatch.pipeline.array_data import StoredData
from tfbatch.pipeline.array_storage import store_data
from tfbatch.pipeline.classes import ClassReader, Expected
from tfbatch.pipeline.elements import as_structure, form_of, leaf_names, leaf_order, template_of
from tfbatch.pipeline.endless import EndWatch
from tfbatch.pipeline.function_data import FunctionData, count_examples
from tfbatch.pipeline.user_data import as_array, read_splits
from tfbatch.schema import as_plain
from tfbatch.training.compilation import Compilation
from tfbatch.training.expectation import expect
from tfbatch.training.workload import build_before_data

FEATURES = np.arange(24, dtype=np.float32).reshape(4, 6)
CLASSES = np.array([0, 1, 1, 0])
SPARSE_LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def slices():
    return tf.data.Dataset.from_tensor_slices((FEATURES, CLASSES))


def generated(*shapes):
    """A Dataset that nothing is known of but its shapes."""
    dtypes = (tf.float32, tf.int64)
    signature = tuple(tf.TensorSpec(*pair) for pair in zip(shapes, dtypes, strict=True))
    return tf.data.Dataset.from_generator(lambda: iter(()), output_signature=signature)


def known(dataset):
    return form_of(dataset, where="`x`").batched


# Examples or batches


def test_transformations_that_are_known_say_whether_elements_are_batches():
    whole = slices()
    assert known(whole.shuffle(4).map(lambda x, y: (x, y)).cache().take(2)) is False
    assert known(whole.batch(2).map(lambda x, y: (x * 2, y)).prefetch(1)) is True
    assert known(whole.batch(2).rebatch(3)) is True
    assert known(whole.ragged_batch(2)) is True
    assert known(whole.batch(2).concatenate(whole.batch(3))) is True
    assert known(tf.data.Dataset.sample_from_datasets([whole.batch(2), whole.batch(2)])) is True
    assert known(whole.batch(2).unbatch()) is False
    # A scalar part is no batch, whatever was batched before.
    flattened = whole.batch(2).flat_map(lambda x, y: tf.data.Dataset.from_tensor_slices((x, y)))
    assert known(flattened) is False


def test_what_a_function_of_the_user_makes_is_unknown():
    whole = slices()
    one = [1, 1]
    for dataset in (
        generated((None, 6), (None,)),
        generated((8, 6), (8,)),
        tf.data.Dataset.range(2).interleave(lambda _: whole.batch(2)),
        whole.bucket_by_sequence_length(lambda x, y: 1, [2], one),
        tf.data.Dataset.from_tensors((FEATURES, CLASSES)),
        whole.map(lambda x, y: (x[tf.newaxis], y[tf.newaxis])),
        whole.batch(2).map(lambda x, y: (tf.expand_dims(x, 0), tf.expand_dims(y, 0))),
    ):
        assert known(dataset) is None


def test_shapes_that_exclude_batches_exclude_the_declaration():
    with pytest.raises(InputError, match="cannot give batches"):
        form_of(slices(), where="`x`", declared=True)
    images = generated((28, 28, 1), (10,))
    assert known(images) is False
    legacy = tf.data.Dataset.from_generator(lambda: iter(()), output_types=(tf.float32,) * 2)
    with pytest.raises(InputError, match=r"does not define how many dimensions.*output_signature"):
        form_of(legacy, where="`x`")


def asked(dataset, *layers, loss=SPARSE_LOSS, declared=None):
    """What a model of these layers expects of a Dataset."""
    form = form_of(dataset, where="Your `train` data", declared=declared)
    return expectation(form, *layers, loss=loss)


def expectation(form, *layers, loss):
    def build_model():
        model = keras.Sequential([type(la).from_config(la.get_config()) for la in layers])
        model.compile("sgd", loss)
        return model

    build = functools.partial(build_before_data, build_model, precision="float32", strategy=None)
    return expect(form, build_model, Compilation(), build=lambda shape: build(input_shape=shape))


def inputs(*shape):
    return keras.layers.InputLayer(shape=shape)


def test_the_models_input_tells_batches_from_examples():
    batches = generated((None, 6), (None,))
    assert asked(batches, inputs(6), keras.layers.Dense(2)).batched is True
    sequences = asked(
        generated((None, 1), (None,)),
        inputs(None, 1),
        keras.layers.LSTM(2, return_sequences=True),
        keras.layers.Dense(2),
    )
    assert sequences.batched is False  # Keras would also take steps, as series of length 1
    flat = (keras.layers.Flatten(), keras.layers.Dense(2))
    assert asked(generated((8, 6), (8,)), *flat).batched is True  # a class for each example
    images = generated((None, 28, 28), (None,))
    assert asked(images, inputs(28, 28, 1), *flat).batched is True


def test_where_the_model_takes_both_the_user_is_asked():
    batches = generated((None, 6), (None,))
    layers = (keras.layers.Dense(4), keras.layers.Dense(2))
    with pytest.raises(InputError, match=r"one example or a batch\. Give batched=True"):
        asked(batches, *layers)
    assert asked(batches, *layers, declared=True).batched is True
    assert asked(batches, *layers, declared=False).batched is False


def test_a_wrong_declaration_contradicts_the_model():
    layers = (inputs(6), keras.layers.Dense(2))
    with pytest.raises(InputError, match=r"as batched=False says.*Give batched=True"):
        asked(generated((None, 6), (None,)), *layers, declared=False)
    windows = tf.data.Dataset.from_tensor_slices((np.zeros((9, 4, 6)), np.zeros((9, 4), int)))
    with pytest.raises(
        InputError, match=r"one example, as the Dataset was built.*Give batched=True"
    ):
        asked(windows, *layers)
    assert asked(windows, *layers, declared=True).batched is True


# Classes or amounts


@pytest.mark.parametrize(
    ("loss", "units", "classes"),
    [
        ("mae", 1, False),
        (keras.losses.Poisson(), 1, False),
        ("huber", 1, False),
        (keras.losses.mean_squared_error, 1, False),
        (SPARSE_LOSS, 3, True),
        ("sparse_categorical_crossentropy", 3, True),
        ("categorical_crossentropy", 3, True),
        ("binary_crossentropy", 1, True),
        ("binary_crossentropy", 5, False),  # several labels of an example
        (lambda y, p: p, 3, None),
        (["mse"], 1, False),
    ],
)
def test_the_loss_says_whether_targets_are_classes(loss, units, classes):
    split = read_splits((FEATURES, CLASSES))["train"]
    found = expectation(split.form, inputs(6), keras.layers.Dense(units), loss=loss)
    assert (found.classes, found.outputs, found.batched) == (classes, units, False)


def indices(targets, classes, outputs=None):
    reader = ClassReader(Expected(False, classes, outputs))
    for part in np.array_split(np.asarray(targets), 2):
        reader.add(part)
    found = reader.found()
    return None if found is None else (found.num_classes, found.counts(), found.one_hot)


def test_classes_are_read_off_the_values_that_the_loss_asks_for():
    assert indices([0, 2, 2, 1], True) == (3, (1, 1, 2), False)
    assert indices([0.0, 1.0, 1.0, 0.0], True, 1) == (2, (2, 2), False)
    assert indices([True, False, True, True], True, 1) == (2, (1, 3), False)
    assert indices([[0], [1], [1], [0]], True, 5) == (5, (2, 2, 0, 0, 0), False)
    assert indices(np.eye(3)[[0, 2, 2, 1]], True, 3) == (3, (1, 1, 2), True)
    assert indices([[1, 1], [0, 1]], True, 2) is None  # several labels
    assert indices([0.3, 1.0, 0.0, 1.0], True, 1) is None
    assert indices([0, 1, 400_000_000, 2], True) is None  # nothing is allocated by value
    assert indices([0, -1, 1, 1], True) is None
    assert indices([0, 1, 1, 0], False) is None


def test_an_unknown_loss_leaves_it_to_outputs_and_numbers():
    assert indices([0, 2, 2, 1], None, 3) == (3, (1, 1, 2), False)
    assert indices([0, 2, 2, 3], None, 3) is None
    assert indices([0, 1, 1, 0], None, 1) == (2, (2, 2), False)
    assert indices([0, 5, 1, 0], None, 1) is None
    assert indices([0, 1, 1, 0], None) == (2, (2, 2), False)  # no model either
    assert indices([0, 5, 5, 0], None) is None
    assert indices(np.arange(8), None) is None


def test_amounts_are_divided_at_random_and_prices_are_accepted(tmp_path):
    prices = np.random.default_rng(0).permutation(np.arange(60_000, 60_000 + 500 * 37, 37))
    amounts = lambda _: Expected(False, classes=False)  # noqa: E731
    data = (np.arange(500, dtype=np.float32), prices)
    stored = StoredData(store_data(tmp_path, data, expect=amounts), name="mine")

    assert (stored.num_classes, stored.num_examples("validation")) == (None, 100)
    assert "class by class" not in " ".join(stored.describe().notes)


def test_one_hot_targets_are_classes_of_a_model_without_a_loss(tmp_path):
    data = (np.zeros((4, 2)), np.eye(2)[CLASSES])
    both = {"train": data, "validation": data}
    classes = lambda _: Expected(False, classes=True)  # noqa: E731
    stored = StoredData(store_data(tmp_path, both, expect=classes), name="mine")

    assert (stored.num_classes, stored.soft_labels) == (2, True)
    loss = Compilation().arguments(stored)["loss"]
    assert isinstance(loss, keras.losses.CategoricalCrossentropy)


# Structures


def test_a_list_of_arrays_is_several_inputs_and_a_list_of_numbers_is_one():
    a = np.zeros((2, 3))
    assert template_of(as_structure(([a, a], [0, 1]))) == [[0, 1], 2]
    assert template_of(as_structure(([[1, 2], [3, 4]], [np.int64(0), np.int64(1)]))) == [0, 1]
    assert template_of(as_structure([a, {"b": [a, a]}])) == [0, {"b": [1, 2]}]
    assert leaf_names([{"a": 0}, [1, 2], 3]) == [
        '`inputs["a"]`',
        "`targets[0]`",
        "`targets[1]`",
        "`sample_weight`",
    ]
    assert leaf_order([{"b": 0, "a": 1}, 2], [{"a": 0, "b": 1}, 2]) == [1, 0, 2]
    assert leaf_order([{"b": 0}, 1], [{"a": 0}, 1]) is None


def test_keys_in_another_order_are_the_same_data(tmp_path):
    a, b = FEATURES, -FEATURES
    data = {
        "train": ({"a": a, "b": b}, CLASSES),
        "validation": ({"b": b, "a": a}, CLASSES),
    }
    stored = StoredData(store_data(tmp_path, data), name="mine")
    ((x, _),) = stored.evaluation("validation")
    np.testing.assert_array_equal(x["a"], a)
    np.testing.assert_array_equal(x["b"], b)


class Batches(keras.utils.PyDataset):
    """Two batches, the last of them short."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        part = slice(3 * index, 3 * index + 3)
        return [FEATURES[part], FEATURES[part]], CLASSES[part]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_py_dataset_is_stored_in_its_order(tmp_path, workers):
    data = {"train": Batches(workers=workers), "validation": ([FEATURES, FEATURES], CLASSES)}
    stored = StoredData(store_data(tmp_path, data), name="mine")

    ((x, y),) = stored.evaluation("train")
    np.testing.assert_array_equal(x[1], FEATURES)
    np.testing.assert_array_equal(y, CLASSES)
    assert "read once" in stored.describe().notes[0]


class OneBatchTooMany(Batches):
    """`n // batch_size + 1` batches, where the batch size divides n."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        part = slice(2 * index, 2 * index + 2)
        return [FEATURES[part], FEATURES[part]], CLASSES[part]


def without_class_1(x, y):
    return tf.boolean_mask(x, y == 0), tf.boolean_mask(y, y == 0)


def test_empty_batches_are_passed_over(tmp_path):
    batches = tf.data.Dataset.from_tensor_slices((FEATURES, np.array([0, 0, 1, 1]))).batch(2)
    data = {"train": batches.map(without_class_1), "validation": batches}
    stored = StoredData(store_data(tmp_path / "dataset", data), name="mine")
    ((x, _),) = stored.evaluation("train")
    np.testing.assert_array_equal(x, FEATURES[:2])

    data = {"train": OneBatchTooMany(), "validation": OneBatchTooMany()}
    stored = StoredData(store_data(tmp_path / "py_dataset", data), name="mine")
    assert stored.num_examples("train") == 4

    nothing = batches.map(lambda x, y: (x[:0], y[:0]))
    with pytest.raises(InputError, match="Your `train` data is empty"):
        store_data(tmp_path / "nothing", nothing)


def test_empty_batches_of_a_function_are_passed_over(tmp_path):
    def make_dataset(split, batch_size, seed):
        labels = np.array([0, 0, 1, 1, 0, 0])
        numbers = np.arange(6, dtype=np.float32)[:, None]
        return tf.data.Dataset.from_tensor_slices((numbers, labels)).batch(2).map(without_class_1)

    data = counted(make_dataset, tmp_path)
    assert data.num_examples("train") == 4
    stream = data.training(batch_size=3, seed=1, num_examples=7)
    batches = [x[:, 0].numpy().tolist() for x, _ in stream]
    assert batches == [[0, 1, 4], [5, 0, 1], [4]]


class Padded(keras.utils.PyDataset):
    """Batches of two rows of ones, each batch with a width of its own."""

    def __init__(self, *widths):
        super().__init__()
        self.widths = widths

    def __len__(self):
        return len(self.widths)

    def __getitem__(self, index):
        return np.ones((2, self.widths[index]), np.int64), np.array([0, 1])


@pytest.mark.parametrize("widths", [((5, 7), (6,)), ((6,), (5, 7))], ids=["train", "validation"])
def test_one_splits_batches_may_all_be_padded_to_one_length(tmp_path, widths):
    data = dict(zip(("train", "validation"), (Padded(*each) for each in widths), strict=True))
    stored = StoredData(store_data(tmp_path, data), name="mine")

    assert stored.input_shape == (None,)
    for split, each in zip(stored.splits, widths, strict=True):
        ((x, _),) = stored.evaluation(split)
        assert (x.numpy() > 0).sum(axis=1).tolist() == np.repeat(each, 2).tolist()


def test_series_with_a_target_at_each_step_are_stored_as_series(tmp_path):
    def series():
        for length in (2, 3, 1, 4, 2):
            yield np.ones((length, 1), np.float32), np.arange(length) % 2

    signature = (tf.TensorSpec((None, 1), tf.float32), tf.TensorSpec((None,), tf.int64))
    data = tf.data.Dataset.from_generator(series, output_signature=signature)
    both = {"train": data, "validation": data}
    stored = StoredData(store_data(tmp_path, both, batched=False), name="mine")

    assert (stored.num_examples("train"), stored.num_classes) == (5, None)
    ((x, y),) = stored.evaluation("validation")
    assert (x.shape, y.shape) == ((5, 4, 1), (5, 4))
    assert any("targets differ in length" in note for note in stored.describe().notes)


WEIGHTS = np.array([1.0, 2.0, 0.5, 1.0])


class WeightsWithoutTargets(Batches):
    def __getitem__(self, index):
        return FEATURES, None, WEIGHTS


NESTED = tf.ragged.constant([[[1], [2, 3]], [[4]], [[5], []], [[6]]]), CLASSES
REFUSED = {
    "a number among texts": (
        (np.array(["a", "b", 7, "d"], object), CLASSES),
        r"`inputs` holds 7 \(int\) among texts, in example 2",
    ),
    "NaN in a list of texts": (
        (["a", "b", float("nan"), "d"], CLASSES),
        r"`inputs` holds nan \(float\) among texts, in example 2",
    ),
    "a number in a list of texts": (
        (["a", "b", 7, "d"], CLASSES),
        r"`inputs` holds 7 \(int\) among texts, in example 2",
    ),
    "NaN in a column": (
        ({"x": FEATURES, "text": np.array(["a", "b", "c", np.nan], object)}, CLASSES),
        r'`inputs\["text"\]` holds nan \(float\) among texts, in example 3.*fillna',
    ),
    "a frame of several types": (
        (np.array([["u", 1.0], ["v", 2.0]] * 2, object), CLASSES),
        r"holds 1\.0 \(float\) among texts, in example 0.*dict\(frame\)",
    ),
    "texts in a column": ((np.array([["a"], ["b"]] * 2), CLASSES), r"Received: \(1,\).*x\[:, 0\]"),
    "one target too few": (
        (FEATURES, CLASSES[:3]),
        "must have the same number of examples.*Received: 4, 3",
    ),
    "two splits in a tuple": (
        ((FEATURES, CLASSES), (FEATURES[:2], CLASSES[:2])),
        r'name them: {"train"',
    ),
    "a lone surrogate": ((np.array(["a", "\udc80", "c", "d"]), CLASSES), "not Unicode"),
    "SciPy": ((scipy.sparse.csr_matrix(FEATURES), CLASSES), r"sparse matrix.*x\.toarray\(\)"),
    "a sparse input of several": (
        ([FEATURES, scipy.sparse.csc_array(FEATURES)], CLASSES),
        r"`inputs\[1\]` is a sparse matrix",
    ),
    "SparseTensor": ((tf.sparse.from_dense(FEATURES), CLASSES), r"tf\.sparse\.to_dense"),
    "masked": (
        (np.ma.masked_equal(FEATURES, 3), CLASSES),
        r"masked array.*x\.filled",
    ),
    "structured": ((np.zeros(4, [("a", "f4"), ("b", "i4")]), CLASSES), "Give its fields as a dict"),
    "bfloat16": (
        (FEATURES.astype(tf.bfloat16.as_numpy_dtype), CLASSES),
        r"`train` data holds bfloat16 \(`inputs`\), which cannot be stored.*--precision",
    ),
    "bfloat16 in a Dataset": (
        slices().map(lambda x, y: (tf.cast(x, tf.bfloat16), y)),
        r"`train` data holds bfloat16 \(`inputs`\), which cannot be stored.*--precision",
    ),
    "ragged in two dimensions": (NESTED, "`inputs` has examples whose parts differ in length"),
    "a Dataset that is ragged in two dimensions": (
        tf.data.Dataset.from_tensor_slices(NESTED),
        "`inputs` has examples whose parts differ in length",
    ),
    "weights without targets": ((FEATURES, None, WEIGHTS), "Received: targets that are None"),
    "weights without targets in a PyDataset": (
        WeightsWithoutTargets(),
        "Received: targets that are None",
    ),
    "weights without targets in a Dataset": (
        slices().map(lambda x, y: (x, None, y)),
        "gives None in place of a tensor.*Only the last parts",
    ),
    "no inputs": ((None, FEATURES, CLASSES), "Received: inputs that are None"),
    "rows in a list": ((list(FEATURES), CLASSES), r"numpy\.stack"),
    "windows": (slices().window(2), r"from `window`"),
    "hidden repeat": (slices().repeat().filter(lambda x, y: True), "never ends"),
    "a generator": (iter([(FEATURES, CLASSES)]), r"from_generator\(function"),
    "other keys": (
        {"train": ({"a": FEATURES}, CLASSES), "validation": ({"b": FEATURES}, CLASSES)},
        "differs in structure from `train`",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_data_of_another_form_is_refused_with_the_remedy(tmp_path, name):
    data, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        store_data(tmp_path, data)


def test_a_sample_weight_of_none_is_none(tmp_path):
    without = slices()
    folder = store_data(tmp_path, without)

    assert store_data(tmp_path, without.map(lambda x, y: (x, y, None))) == folder
    assert store_data(tmp_path, (FEATURES, CLASSES, None)) == store_data(
        tmp_path, (FEATURES, CLASSES)
    )
    batches = without.map(lambda x, y: (x, y, None)).batch(2)
    stored = StoredData(store_data(tmp_path, batches), name="mine")
    assert stored.num_examples("train") + stored.num_examples("validation") == 4

    def make_dataset(split, batch_size, seed):
        return without.batch(batch_size).map(lambda x, y: (x, y, None))

    ((x, y),) = counted(make_dataset, tmp_path).evaluation("validation")
    np.testing.assert_array_equal(x, FEATURES)
    np.testing.assert_array_equal(y, CLASSES)


def test_texts_in_a_list_keep_every_byte():
    texts = [b"a\0", b"b", np.str_("c"), np.bytes_(b"d"), "e"]
    array = as_array(texts, "`inputs`", where="Your `train` data")
    assert array.tolist() == texts


def test_numpys_own_strings_are_texts(tmp_path):
    texts = np.array(["a", "déf", ""] * 2, np.dtypes.StringDType())
    data = (texts, np.zeros(6))
    stored = StoredData(store_data(tmp_path, {"train": data, "validation": data}), name="mine")
    ((x, _),) = stored.evaluation("validation")
    assert x.numpy()[1].decode() == "déf"


@pytest.mark.parametrize("dtype", [">f4", ">i8", ">u2"])
def test_the_byte_order_of_arrays_does_not_change_their_values(tmp_path, dtype):
    data = (FEATURES.astype(dtype), CLASSES.astype(dtype))
    stored = StoredData(store_data(tmp_path, {"train": data, "validation": data}), name="mine")
    ((x, y),) = stored.evaluation("validation")
    np.testing.assert_array_equal(x, FEATURES)
    np.testing.assert_array_equal(y, CLASSES)
    assert stored.num_classes == 2


def test_numpys_numbers_become_pythons_own():
    given = {np.int64(1): np.float32(0.5), "sizes": np.array([8, 16]), "pair": (np.bool_(True), 2)}
    plain = as_plain(given)
    assert plain == {1: 0.5, "sizes": [8, 16], "pair": (True, 2)}
    assert [type(key) for key in plain] == [int, str, str]
    assert type(plain["pair"][0]) is bool


# Streams without an end, and functions that drop a remainder


def drawn(examples, *, distinct, width=1):
    generator = np.random.default_rng(0)
    values = generator.normal(size=(distinct, width)).astype(np.float32)
    for _ in range(examples // 64):
        yield [values[generator.integers(0, distinct, 64)]]


def watched(chunks, **options):
    watch = EndWatch("Your `train` data", **options)
    for chunk in chunks:
        watch.add(chunk)


def test_a_stream_that_gives_its_examples_again_and_again_is_refused():
    with pytest.raises(InputError, match=r"same 200 different examples.*assert_cardinality"):
        watched(drawn(10_000, distinct=200))
    watched(drawn(10_000, distinct=20))  # a table of few categories
    watched(drawn(10_000, distinct=10**6))
    with pytest.raises(InputError, match="its length is unknown"):
        watched(drawn(10_000, distinct=10**6, width=8), most_bytes=100_000)


def test_an_endless_generator_of_batches_is_refused_while_it_is_stored(tmp_path):
    def batches():
        numbers = np.arange(128, dtype=np.float32)[:, None]
        while True:
            yield numbers, np.arange(128)

    signature = (tf.TensorSpec((None, 1), tf.float32), tf.TensorSpec((None,), tf.int64))
    endless = tf.data.Dataset.from_generator(batches, output_signature=signature)
    with pytest.raises(InputError, match="same 128 different examples"):
        store_data(tmp_path, endless, batched=True)

    def make_dataset(split, batch_size, seed):
        finite = tf.data.Dataset.from_tensor_slices((np.zeros((9, 1), np.float32), np.arange(9)))
        return endless if split == "validation" else finite.batch(batch_size)

    with pytest.raises(InputError, match="'validation' gives the same 128"):
        counted(make_dataset, tmp_path)


def counted(function, folder):
    found, _ = count_examples(function, folder, name="mine", heartbeat=lambda _: None)
    return FunctionData(function, found, name="mine")


def test_a_function_that_drops_a_remainder_gives_every_validation_example(tmp_path):
    sizes = {"train": 70, "validation": 45, "test": 5}

    def make_dataset(split, batch_size, seed):
        numbers = np.arange(sizes[split], dtype=np.float32)
        dataset = tf.data.Dataset.from_tensor_slices((numbers[:, None], numbers.astype(int) % 2))
        return dataset.batch(batch_size, drop_remainder=True)

    data = counted(make_dataset, tmp_path)
    assert {split: data.num_examples(split) for split in data.splits} == sizes
    assert data.describe().class_counts == (35, 35)
    for split in ("validation", "test"):
        found = np.concatenate([x.numpy()[:, 0] for x, _ in data.evaluation(split)])
        np.testing.assert_array_equal(found, np.arange(sizes[split]))
    lengths = [len(x) for x, _ in data.training(batch_size=64, seed=1, num_examples=150)]
    assert lengths == [64, 64, 22]  # of several passes, each without its remainder
    assert any("drop_remainder" in note for note in data.describe().notes)
