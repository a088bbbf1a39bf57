"""A user's own data: arrays, Datasets and functions become the same exact streams."""

from __future__ import annotations

import json
import pickle

import filelock
import numpy as np
import pytest
import tensorflow as tf

from tfbatch.dataset_info.own_data import OwnData, own_data_of
from tfbatch.errors import DataError, InputError
from tfbatch.pipeline.array_data import StoredData
from tfbatch.pipeline.array_storage import store_data
from tfbatch.pipeline.elements import known_batching
from tfbatch.pipeline.function_data import FunctionData, count_examples, takes_a_split

SPLITS = {"train": 20, "validation": 6, "test": 5}


def numbered(count=20):
    """Inputs that say their number, targets of three classes."""
    numbers = np.arange(count)
    return np.stack([numbers, -numbers], axis=1).astype(np.float32), numbers % 3


def in_splits(make):
    return {split: make(count) for split, count in SPLITS.items()}


@pytest.fixture
def stored(tmp_path):
    return StoredData(store_data(tmp_path, in_splits(numbered)), name="mine")


def numbers_of(dataset):
    return [batch[0][:, 0].numpy().astype(int).tolist() for batch in dataset]


def flat(batches):
    return [number for batch in batches for number in batch]


def test_arrays_come_back_whole_and_in_order(stored):
    assert stored.splits == ("train", "validation", "test")
    assert [stored.num_examples(split) for split in stored.splits] == [20, 6, 5]
    assert (stored.input_shape, stored.num_classes) == ((2,), 3)
    ((x, y),) = stored.evaluation("validation")
    np.testing.assert_array_equal(x, numbered(6)[0])
    np.testing.assert_array_equal(y, numbered(6)[1])
    assert stored.describe().class_counts == (7, 7, 6)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 20])
def test_the_order_of_arrays_does_not_depend_on_the_batch_size(stored, batch_size):
    batches = numbers_of(stored.training(batch_size=batch_size, seed=5, num_examples=50))
    reference = flat(numbers_of(stored.training(batch_size=20, seed=5, num_examples=50)))

    assert flat(batches) == reference
    assert {len(batch) for batch in batches[:-1]} <= {batch_size}
    assert len(batches) == -(-50 // batch_size)
    assert sorted(reference[:20]) == sorted(reference[20:40]) == list(range(20))
    assert reference[:20] != reference[20:40]


def test_a_stream_of_arrays_that_starts_later_is_the_tail_of_the_whole(stored):
    whole = flat(numbers_of(stored.training(batch_size=4, seed=2, num_examples=45)))
    tail = numbers_of(stored.training(batch_size=4, seed=2, num_examples=45, start=12))

    assert flat(tail) == whole[12:]
    assert flat(numbers_of(stored.training(batch_size=4, seed=3, num_examples=45))) != whole


def test_another_process_maps_the_same_files(stored):
    again = pickle.loads(pickle.dumps(stored))

    assert numbers_of(again.evaluation("test")) == numbers_of(stored.evaluation("test"))


def test_the_same_arrays_are_stored_once_and_others_beside_them(tmp_path):
    first = store_data(tmp_path, in_splits(numbered))
    changed = in_splits(numbered)
    changed["test"][0][0, 0] = 7

    assert store_data(tmp_path, in_splits(numbered)) == first
    assert store_data(tmp_path, changed) != first
    assert {path.name for path in tmp_path.iterdir()} > {first.name}
    assert not list(tmp_path.glob(".partial-*"))


def test_storing_removes_what_a_killed_run_left_and_not_what_another_is_writing(tmp_path):
    left, written = tmp_path / ".partial-left", tmp_path / ".partial-written"
    for partial in (left, written):
        partial.mkdir()
        (partial / "train-0.bin").write_bytes(b"half")
    with filelock.FileLock(f"{written}.lock"):
        store_data(tmp_path, in_splits(numbered))

    assert not left.exists()
    assert (written / "train-0.bin").read_bytes() == b"half"


def test_data_without_a_description_is_stored_anew(tmp_path):
    folder = store_data(tmp_path, in_splits(numbered))
    (folder / "stored.json").unlink()

    assert store_data(tmp_path, in_splits(numbered)) == folder
    assert (folder / "stored.json").exists()


def test_dicts_weights_text_and_lengths_travel(tmp_path):
    words = [[1], [2, 3], [4, 5, 6], [7]]
    inputs = {
        "ids": tf.ragged.constant(words),
        "text": np.array(["a", "bc", "déf", ""]),
        "flag": np.array([True, False, True, True]),
    }
    data = (inputs, np.array([0, 1, 0, 1]), np.array([1.0, 2.0, 0.5, 1.0]))
    stored = StoredData(store_data(tmp_path, {"train": data, "validation": data}), name="mine")

    assert stored.input_shape == {"ids": (None,), "text": (), "flag": ()}
    ((x, y, weight),) = stored.evaluation("validation")
    np.testing.assert_array_equal(x["ids"], [[1, 0, 0], [2, 3, 0], [4, 5, 6], [7, 0, 0]])
    assert [text.decode() for text in x["text"].numpy()] == ["a", "bc", "déf", ""]
    assert x["flag"].dtype == tf.bool
    assert weight.dtype == tf.float32
    np.testing.assert_array_equal(y, [0, 1, 0, 1])
    for batch, _, weights in stored.training(batch_size=3, seed=1, num_examples=8):
        lengths = (batch["ids"].numpy() > 0).sum(axis=1)
        assert batch["ids"].shape[1] == lengths.max()  # padded to the longest of its own batch
        assert len(weights) == len(lengths)


def test_text_alone_is_evaluated_again_and_again(tmp_path):
    """A constant made while one graph is traced cannot be used in another."""
    data = (np.array([f"text {number}" for number in range(50)]), np.arange(50) % 2)
    stored = StoredData(store_data(tmp_path, {"train": data, "validation": data}), name="mine")

    for batch_size in (2, 20):
        texts = [x.numpy() for x, _ in stored.evaluation("validation", batch_size=batch_size)]
        assert np.concatenate(texts).tolist() == [text.encode() for text in data[0]]


@pytest.mark.parametrize("batch", [None, 4, 7], ids=["examples", "batches", "uneven"])
def test_a_dataset_is_stored_as_its_arrays_would_be(tmp_path, batch):
    def make(count):
        dataset = tf.data.Dataset.from_tensor_slices(numbered(count))
        return dataset.batch(batch).prefetch(1) if batch else dataset

    folder = store_data(tmp_path, in_splits(make))
    stored = StoredData(folder, name="mine")

    assert [stored.num_examples(split) for split in stored.splits] == [20, 6, 5]
    np.testing.assert_array_equal(flat(numbers_of(stored.evaluation("train"))), range(20))
    assert any("gives batches" in note for note in stored.describe().notes) == bool(batch)


def test_a_dataset_of_examples_of_unequal_length_is_stored(tmp_path):
    def examples():
        for length in (3, 1, 2, 5, 4):
            yield np.arange(1, length + 1), length % 2

    spec = (tf.TensorSpec((None,), tf.int64), tf.TensorSpec((), tf.int64))
    dataset = tf.data.Dataset.from_generator(examples, output_signature=spec)
    stored = StoredData(
        store_data(tmp_path, {"train": dataset, "validation": dataset}), name="mine"
    )

    ((x, _),) = stored.evaluation("validation")
    assert x.shape == (5, 5)
    np.testing.assert_array_equal((x.numpy() > 0).sum(axis=1), [3, 1, 2, 5, 4])


def test_a_validation_split_is_taken_class_by_class_where_there_is_none(tmp_path):
    x = np.arange(200, dtype=np.float32)[:, None]
    y = np.repeat([0, 1], [150, 50])
    stored = StoredData(store_data(tmp_path, (x, y)), name="mine")

    assert stored.splits == ("train", "validation")
    assert stored.describe().class_counts == (120, 40)
    taken = np.concatenate([x.numpy()[:, 0] for x, _ in stored.evaluation("validation")])
    left = np.concatenate([x.numpy()[:, 0] for x, _ in stored.evaluation("train")])
    assert sorted([*taken, *left]) == list(range(200))
    assert (taken >= 150).sum() == 10
    assert not np.array_equal(taken[:30], np.arange(taken[0], taken[0] + 30))
    assert "time series" in stored.describe().notes[0]


def test_a_validation_split_of_texts_of_unequal_length_keeps_them_beside_their_targets(tmp_path):
    texts = [str(number) * (number % 4) for number in range(50)]
    ids = tf.ragged.constant([[number] * (1 + number % 3) for number in range(50)])
    data = ({"text": np.array(texts, object), "ids": ids}, np.arange(50) * 1.5)
    stored = StoredData(store_data(tmp_path, data), name="mine")

    assert (stored.num_examples("train"), stored.num_examples("validation")) == (40, 10)
    for split in stored.splits:
        for x, y in stored.evaluation(split):
            for text, ids_, target in zip(x["text"].numpy(), x["ids"].numpy(), y, strict=True):
                number = round(float(target) / 1.5)
                assert text.decode() == texts[number]
                assert ids_[ids_ > 0].tolist() == [number] * (1 + number % 3) * (number > 0)


BAD = {
    "no targets": (np.zeros((4, 2)), "must give \\(inputs, targets\\)"),
    "unequal": (
        (np.zeros((4, 2)), np.zeros(3)),
        "the first dimension, in all arrays. Received: 4, 3",
    ),
    "objects": ((np.array([{}, {}]), np.zeros(2)), "array of Python objects"),
    "dates": ((np.array(["2020-01-01"] * 4, "M8[s]"), np.zeros(4)), "dates or durations.*numbers"),
    "lists": (([[1], [2, 3]], np.zeros(2)), "differ in length. Give it as a tf.RaggedTensor"),
    "scalar": ((np.zeros(()), np.zeros(())), "a single number"),
    "empty": ((np.zeros((0, 2)), np.zeros(0)), "is empty"),
    "splits": ({"training": (np.zeros(2), np.zeros(2))}, "must be `train`.*Received: training"),
    "endless": (
        tf.data.Dataset.from_tensor_slices((np.zeros(4), np.zeros(4))).repeat(),
        "never ends",
    ),
    "sparse": (
        tf.data.Dataset.from_tensors((tf.sparse.from_dense([1, 0]), 1)),
        "sparse tensors",
    ),
    "kind": ("text", "must be a data set's name, a function"),
}


@pytest.mark.parametrize("name", BAD)
def test_data_that_cannot_be_used_is_refused_and_leaves_nothing(tmp_path, name):
    data, message = BAD[name]
    with pytest.raises(InputError, match=message):
        store_data(tmp_path / "root", {"train": data} if name == "no targets" else data)
    assert not list(tmp_path.glob("root/*"))


def test_images_of_unequal_size_are_refused_with_the_remedy(tmp_path):
    def examples():
        yield np.zeros((4, 5, 3), np.uint8), 0
        yield np.zeros((4, 6, 3), np.uint8), 1

    spec = (tf.TensorSpec((None, None, 3), tf.uint8), tf.TensorSpec((), tf.int64))
    with pytest.raises(InputError, match=r"only their first dimension may differ\. Resize images"):
        store_data(tmp_path, tf.data.Dataset.from_generator(examples, output_signature=spec))


def test_splits_of_unequal_form_are_refused(tmp_path):
    data = {"train": numbered(9), "validation": (np.zeros((4, 3), np.float32), np.zeros(4, int))}
    with pytest.raises(InputError, match="`validation` data differs in structure from `train`"):
        store_data(tmp_path, data)


@pytest.mark.parametrize("form", ["arrays", "datasets"])
def test_splits_may_differ_in_their_integer_type(tmp_path, form):
    splits = {"train": (np.eye(3, dtype="float32"), np.arange(3))}
    splits["validation"] = (splits["train"][0], np.array([2, 0, 1], "int32"))
    if form == "datasets":
        splits = {name: tf.data.Dataset.from_tensor_slices(part) for name, part in splits.items()}
    data = StoredData(store_data(tmp_path, splits), name="mine")

    ((_, targets),) = list(data.evaluation("validation"))
    assert (targets.dtype, targets.numpy().tolist()) == (tf.int64, [2, 0, 1])
    assert "is int32 in your `validation` data and int64 in `train`" in " ".join(
        data.describe().notes
    )


def test_an_integer_that_the_training_splits_type_cannot_hold_is_refused(tmp_path):
    images = np.zeros((4, 2, 2), "uint8"), np.arange(4)
    wrong = np.full((4, 2, 2), 256), np.arange(4)
    with pytest.raises(InputError, match="int64 from 256 to 256, and in `train` it is uint8"):
        store_data(tmp_path, {"train": images, "validation": wrong})


def test_a_cut_file_of_stored_data_is_noticed(tmp_path):
    folder = store_data(tmp_path, in_splits(numbered))
    file = folder / "train-0.bin"
    file.write_bytes(file.read_bytes()[:-4])

    with pytest.raises(DataError, match=r"is damaged: .*train-0.bin has 156 bytes, not 160"):
        StoredData(folder, name="mine").training(batch_size=4, seed=1, num_examples=8)
    with pytest.raises(DataError, match="train-0"):
        StoredData(folder, name="mine").raise_damage("train")


# Functions


def examples_of(split, batch_size, seed):
    """The numbered data as a user's pipeline: shuffled by the seed, batched, short at its end."""
    dataset = tf.data.Dataset.from_tensor_slices(numbered(SPLITS[split]))
    if split == "train":
        dataset = dataset.shuffle(20, seed=seed)
    return dataset.batch(batch_size)


def unbatched(split, batch_size, seed):
    del batch_size
    return examples_of(split, 1, seed).unbatch()


def without_test(split, batch_size, seed):
    return None if split == "test" else examples_of(split, batch_size, seed)


def opened(function, folder):
    found, _ = count_examples(function, folder, name="mine", heartbeat=lambda _: None)
    return FunctionData(function, found, name="mine")


@pytest.mark.parametrize("function", [examples_of, unbatched], ids=["batched", "unbatched"])
def test_a_functions_stream_is_continuous_and_exact(tmp_path, function):
    data = opened(function, tmp_path)

    assert [data.num_examples(split) for split in data.splits] == [20, 6, 5]
    assert (data.input_shape, data.num_classes, data.describe().class_counts) == (
        (2,),
        3,
        (7, 7, 6),
    )
    batches = numbers_of(data.training(batch_size=8, seed=3, num_examples=50))
    assert [len(batch) for batch in batches] == [8, 8, 8, 8, 8, 8, 2]
    assert sorted(flat(batches)[:20]) == sorted(flat(batches)[20:40]) == list(range(20))
    assert flat(numbers_of(data.evaluation("validation"))) == list(range(6))


def of_unequal_length(split, batch_size, seed):
    """Padded batches whose rows begin with the example's number."""

    def rows():
        for number in range(SPLITS[split]):
            yield np.full(1 + number % 3, number, np.float32), number % 2

    spec = (tf.TensorSpec((None,), tf.float32), tf.TensorSpec((), tf.int32))
    dataset = tf.data.Dataset.from_generator(rows, output_signature=spec)
    return dataset.shuffle(20, seed=seed).padded_batch(batch_size)


@pytest.mark.parametrize("function", [examples_of, unbatched, of_unequal_length])
@pytest.mark.parametrize("batch_size", [4, 8], ids=["at a batch", "within a batch"])
def test_a_functions_stream_can_begin_later(tmp_path, function, batch_size):
    data = opened(function, tmp_path)
    whole = flat(numbers_of(data.training(batch_size=4, seed=3, num_examples=50)))
    options = {"batch_size": batch_size, "seed": 3, "num_examples": 50, "start": 12}
    tail = numbers_of(data.training(**options))

    assert flat(tail) == whole[12:]
    assert [len(batch) for batch in tail[:-1]] == [batch_size] * (len(tail) - 1)


def test_a_function_may_have_no_test_split(tmp_path):
    assert opened(without_test, tmp_path).splits == ("train", "validation")


def test_padded_batches_of_a_function_are_padded_anew(tmp_path):
    def texts(split, batch_size, seed):
        del split, seed
        dataset = tf.data.Dataset.from_generator(
            lambda: ((np.ones(length), 0) for length in (1, 5, 2, 2, 3)),
            output_signature=(tf.TensorSpec((None,), tf.float32), tf.TensorSpec((), tf.int32)),
        )
        return dataset.padded_batch(batch_size)

    data = opened(texts, tmp_path)
    assert data.input_shape == (None,)
    batches = [x.shape for x, _ in data.training(batch_size=2, seed=1, num_examples=7)]
    assert [shape[0] for shape in batches] == [2, 2, 2, 1]


@pytest.mark.parametrize("form", ["examples", "batches", "ragged batches", "two dimensions"])
def test_ragged_tensors_of_a_function_are_padded(tmp_path, form):
    rows = [[1], [1, 2, 3, 4, 5], [1, 2], [1, 2], [1, 2, 3]]
    tokens = tf.ragged.constant([[row] * 2 for row in rows] if "two" in form else rows)

    def texts(split, batch_size, seed):
        del split, seed
        dataset = tf.data.Dataset.from_tensor_slices((tokens, tf.constant([0, 1, 0, 1, 0])))
        if form == "batches":
            return dataset.batch(batch_size)
        return dataset.ragged_batch(batch_size) if form == "ragged batches" else dataset

    data = opened(texts, tmp_path)
    batches = list(data.training(batch_size=2, seed=1, num_examples=7))
    assert [x.shape[0] for x, _ in batches] == [2, 2, 2, 1]
    np.testing.assert_array_equal(
        np.reshape(batches[0][0], (-1, 5))[[0, -1]], [[1, 0, 0, 0, 0], [1, 2, 3, 4, 5]]
    )
    ((x, _),) = data.evaluation("validation")
    assert x.shape[0] == 5


BAD_FUNCTIONS = {
    "no dataset": (lambda split, batch_size, seed: [1], "must be a tf.data.Dataset"),
    "no validation": (
        lambda split, batch_size, seed: examples_of(split, 4, 1) if split == "train" else None,
        "gives no `validation` data",
    ),
    "endless": (lambda split, batch_size, seed: examples_of(split, 4, 1).repeat(), "never ends"),
    "inputs alone": (
        lambda split, batch_size, seed: examples_of(split, 4, 1).map(lambda x, y: x),
        "must give \\(inputs, targets\\)",
    ),
    "empty": (lambda split, batch_size, seed: examples_of(split, 4, 1).take(0), "no example"),
    "another structure": (
        lambda split, batch_size, seed: examples_of(split, 4, 1).map(
            lambda x, y: (x, y) if split == "train" else ({"x": x}, y)
        ),
        "'validation' differs in structure from `train`",
    ),
    "another shape": (
        lambda split, batch_size, seed: examples_of(split, 4, 1).map(
            lambda x, y: (x if split == "train" else x[:, :1], y)
        ),
        "'validation' differs in structure from `train`",
    ),
}


@pytest.mark.parametrize("name", BAD_FUNCTIONS)
def test_a_function_that_cannot_be_used_is_refused(tmp_path, name):
    function, message = BAD_FUNCTIONS[name]
    with pytest.raises(InputError, match=message):
        opened(function, tmp_path)


def test_the_arguments_of_a_function_are_checked():
    assert takes_a_split(examples_of)
    assert not takes_a_split(lambda: None)
    with pytest.raises(InputError, match=r"must take \(split, batch_size, seed\), or nothing"):
        takes_a_split(lambda split: None)


def test_batches_are_told_from_examples():
    examples = tf.data.Dataset.from_tensor_slices((np.zeros((6, 4, 4)), np.zeros((6, 4))))
    assert not known_batching(examples)  # a segmentation: all parts begin with the same number
    assert known_batching(examples.batch(2, drop_remainder=True).map(lambda x, y: (x, y)))
    assert not known_batching(examples.batch(2).unbatch().prefetch(1))
    assert known_batching(examples.batch(2).rebatch(3).shuffle(2))
    sequences = tf.data.Dataset.from_generator(
        lambda: iter([(np.ones(2), np.ones(2))]),
        output_signature=(tf.TensorSpec((None,)), tf.TensorSpec((None,))),
    )
    assert known_batching(sequences.padded_batch(2))


def test_names_of_own_data(tmp_path):
    assert own_data_of("digits") is None
    found = own_data_of("package.module:make_dataset")
    assert found == OwnData(
        name="make_dataset", kind="function", where="package.module:make_dataset"
    )
    folder = store_data(tmp_path / "run" / "data", in_splits(numbered))
    assert own_data_of(str(folder)).model_dump(include={"name", "kind"}) == {
        "name": "run",
        "kind": "stored",
    }
    with pytest.raises(InputError, match=r"must be given as package\.module:function"):
        own_data_of("package.module:")
    assert json.loads((folder / "stored.json").read_text())["splits"] == SPLITS
