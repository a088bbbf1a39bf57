"""The decoded copy beside the records: made once, shared by processes, never wrong."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from processes import WarmProcess

from tfbatch.errors import RecordError
from tfbatch.pipeline import PreparedData
from tfbatch.records import decoded_cache
from tfbatch.records.decoded_cache import decode_split, read_split
from tfbatch.records.manifest import load_manifest
from tfbatch.records.writer import write_records

PLACE = "decoded-train"
FILES = ["images.npy", "labels.npy", "stamp.json"]


@pytest.fixture
def folder(make_recipe, tiny_examples, tmp_path):
    """Records of 8 training examples."""
    write_records(tmp_path / "abc", recipe=make_recipe(), examples=tiny_examples)
    return tmp_path / "abc"


@pytest.fixture
def decodings(monkeypatch):
    """The splits that were decoded from records, in order."""
    real, seen = decoded_cache.read_batches, []

    def read_batches(folder, manifest, split):
        seen.append(split)
        return real(folder, manifest, split)

    monkeypatch.setattr(decoded_cache, "read_batches", read_batches)
    return seen


def read(folder, split="train"):
    return read_split(folder, load_manifest(folder), split)


def assert_right(arrays, folder):
    """The arrays hold what the records hold, where TensorFlow can use them."""
    for got, want in zip(arrays, decode_split(folder, load_manifest(folder), "train"), strict=True):
        np.testing.assert_array_equal(got, want)
        assert (got.dtype, got.flags.writeable) == (want.dtype, True)
        assert got.ctypes.data % 64 == want.ctypes.data % 64 == 0


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_a_split_is_decoded_once_and_then_mapped(folder, decodings):
    before = names(folder)

    first, second = read(folder), read(folder)

    assert decodings == ["train"]
    assert names(folder) == sorted([*before, PLACE])
    assert names(folder / PLACE) == FILES
    for arrays in (first, second):
        assert_right(arrays, folder)


def test_a_write_into_a_mapped_array_reaches_neither_file_nor_others(folder):
    first, second = read(folder), read(folder)

    first[0][0] ^= 255

    assert_right(second, folder)
    assert_right(read(folder), folder)


def change(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def edit_stamp(place, **changes):
    stamp = json.loads((place / "stamp.json").read_text())
    (place / "stamp.json").write_text(json.dumps({**stamp, **changes}))


def other_shape(place):
    """Every file whole, every checksum right, but of images that lie on their side."""
    images = np.load(place / "images.npy").reshape(8, 6, 4, 3)
    np.save(place / "images.npy", images)
    edit_stamp(place, shape=images.shape)


def save_wide_labels(place):
    np.save(place / "labels.npy", np.load(place / "labels.npy").astype(np.int64))


DAMAGES = {
    "pixel": lambda place: change(place / "images.npy", -1),
    "label": lambda place: change(place / "labels.npy", -1),
    "header": lambda place: change(place / "images.npy", 0),
    "images cut": lambda place: (place / "images.npy").write_bytes(
        (place / "images.npy").read_bytes()[:-1]
    ),
    "images empty": lambda place: (place / "images.npy").write_bytes(b""),
    "labels absent": lambda place: (place / "labels.npy").unlink(),
    "labels wide": save_wide_labels,
    "stamp cut": lambda place: (place / "stamp.json").write_text('{"format'),
    "stamp binary": lambda place: (place / "stamp.json").write_bytes(b"\xff\xfe"),
    "stamp absent": lambda place: (place / "stamp.json").unlink(),
    "other records": lambda place: edit_stamp(place, shards=["0", "1", "2"]),
    "other version": lambda place: edit_stamp(place, format_version=0),
    "other shape": other_shape,
}


@pytest.mark.quick_cases("images cut", "header", "stamp cut")
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_copy_that_does_not_fit_is_made_anew(folder, decodings, damage):
    read(folder)
    damage(folder / PLACE)

    again = read(folder)

    assert decodings == ["train", "train"]
    assert_right(again, folder)
    decodings.clear()
    read(folder)
    assert decodings == []


def test_a_copy_made_anew_does_not_change_what_others_have_mapped(folder):
    images, labels = read(folder)
    edit_stamp(folder / PLACE, format_version=0)

    read(folder)

    assert_right((images, labels), folder)


def test_damaged_records_leave_no_copy(folder):
    change(folder / "tiny-train.tfrecord-00001-of-00003", 50)
    before = names(folder)

    with pytest.raises(RecordError) as caught:
        read(folder)

    assert caught.value.record == 0
    assert names(folder) == before


def test_what_a_killed_process_left_is_removed(folder):
    left = folder / ".partial-decoded-train-0000000k"
    left.mkdir()
    (left / "images.npy").write_bytes(b"half")

    read(folder)

    assert not left.exists()


def test_without_a_place_to_write_the_data_is_kept_in_memory(folder, decodings):
    (folder / ".decoded-train.lock").mkdir()  # no lock can be had, whoever asks

    arrays = read(folder)

    assert decodings == ["train"]
    assert_right(arrays, folder)
    assert PLACE not in names(folder)


def test_a_full_disk_leaves_nothing_and_the_data_in_memory(folder, monkeypatch):
    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    before = names(folder)
    monkeypatch.setattr(decoded_cache.os, "fsync", no_space)

    arrays = read(folder)

    assert_right(arrays, folder)
    assert names(folder) == before


LARGE = {
    "image": {"kind": "image", "shape": [64, 64, 3], "stored": "raw"},
    "label": {"kind": "label", "num_classes": 3},
}


def write_large(folder, recipe, count):
    def examples():
        for split, number in (("train", count), ("validation", 1), ("test", 1)):
            for i in range(number):
                yield (
                    split,
                    f"{split}-{i}",
                    {"image": np.full((64, 64, 3), i % 251, np.uint8), "label": i % 3},
                )

    write_records(folder, recipe=recipe, examples=examples)


def test_making_the_copy_never_holds_the_whole_split(make_recipe, tmp_path):
    count = 2048  # 25 MB
    write_large(tmp_path / "abc", make_recipe(features=LARGE), count)
    tracemalloc.start()
    try:
        read(tmp_path / "abc")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < count * 64 * 64 * 3 / 4


CHILD = """
import pathlib, re, sys
from tfbatch.pipeline import PreparedData
from tfbatch.dataset_info.recipe import Recipe

def own():
    text = pathlib.Path("/proc/self/smaps_rollup").read_text()
    return 1024 * sum(map(int, re.findall(r"^(?:Anonymous|Pss_Shmem|Swap): +(\\d+)", text, re.M)))

def use(split):  # a batch of one: little memory but for the data
    for _ in data.evaluation(split, batch_size=1).take(50): pass
    if split == "train":
        stream = data.training(batch_size=1, seed=1, num_examples=data.num_examples())
        for _ in stream.take(500): pass

data = PreparedData(Recipe.model_validate_json(sys.argv[1]), pathlib.Path(sys.argv[2]))
use("test")
before = own()
sys.stdin.readline()
use("train")
print(own() - before, flush=True)
sys.stdin.readline()
"""


def start_child(recipe, folder):
    return WarmProcess("-c", CHILD, recipe.model_dump_json(by_alias=True), folder)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="asks Linux for memory")
def test_a_second_process_takes_no_memory_for_the_data(make_recipe, tmp_path):
    """Training and evaluation read the shared pages: no copy for TensorFlow, none in a graph.

    Counted is memory that no file is behind. What is private does not tell it: a page of the file
    is private while only one process has read it, and one that both processes inherited when they
    were forked becomes private as soon as Python's garbage collector has touched it in one.
    """
    recipe, count = make_recipe(features=LARGE), 8000  # 98 MB
    write_large(tmp_path / "abc", recipe, count)
    read(tmp_path / "abc")
    growths = []
    start = partial(start_child, recipe, tmp_path / "abc")
    with start() as first, start() as second:
        for child in (first, second):  # the first keeps everything mapped meanwhile
            child.stdin.write("go on\n")
            child.stdin.flush()
            growths.append(int(child.stdout.readline()))
        for child in (first, second):
            child.communicate("end\n")

    print(growths)
    assert growths[1] < count * 64 * 64 * 3 / 2


def test_prepared_data_goes_to_another_process_by_its_recipe_and_folder(
    make_recipe, folder, decodings
):
    data = PreparedData(make_recipe(), folder)

    def labels_of(data):
        stream = data.training(batch_size=3, seed=4, num_examples=20)
        return [y.tolist() for _, y in stream.as_numpy_iterator()]

    wanted = labels_of(data)
    data.evaluation("train")
    decodings.clear()

    sent = pickle.dumps(data)
    other = pickle.loads(sent)

    assert len(sent) < 5000
    assert (other.recipe, other.folder, other.resident) == (data.recipe, folder, True)
    assert labels_of(other) == wanted
    assert decodings == []
    streamed = PreparedData(make_recipe(), folder, resident_share=0)
    assert pickle.loads(pickle.dumps(streamed)).resident is False
