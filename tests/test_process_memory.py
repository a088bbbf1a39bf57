"""How much memory may be used, and which arrays TensorFlow reads where they are."""

from __future__ import annotations

import mmap

import numpy as np
import psutil
import pytest
import tensorflow as tf

from tfbatch.pipeline import PreparedData, recipe_data
from tfbatch.pipeline.streams import as_tensor
from tfbatch.process.limits import usable_memory
from tfbatch.process.memory import worker_bytes
from tfbatch.records.writer import write_records

MACHINE = psutil.virtual_memory().total
LARGE, SMALL, SMALLER = 3 << 20, 2 << 20, 1 << 20


@pytest.mark.parametrize(
    ("membership", "limits", "usable"),
    [
        (None, {}, MACHINE),
        ("0::/\n", {}, MACHINE),
        ("0::/\n", {"memory.max": f"{SMALL}\n"}, SMALL),
        ("0::/a/b\n", {"a/b/memory.max": str(SMALL)}, SMALL),
        ("0::/a/b\n", {"a/b/memory.max": "max\n"}, MACHINE),
        ("0::/a/b\n", {"a/b/memory.max": str(LARGE), "a/memory.max": str(SMALL)}, SMALL),
        ("0::/a/b\n", {"a/b/memory.max": "max", "memory.max": str(SMALL)}, SMALL),
        ("0::/not/here\n", {"memory.max": str(SMALL)}, SMALL),
        ("0::/a\n", {"b/memory.max": str(SMALL)}, MACHINE),
        ("4:cpu,memory:/a\n", {"memory/a/memory.limit_in_bytes": str(SMALL)}, SMALL),
        ("4:memory:/x\n", {"memory/memory.limit_in_bytes": str(SMALL)}, SMALL),
        ("4:memory:/a\n", {"memory/a/memory.limit_in_bytes": "9223372036854771712"}, MACHINE),
        ("4:cpu:/a\n", {"memory/a/memory.limit_in_bytes": str(SMALL)}, MACHINE),
        (
            "4:memory:/a\n0::/b:c\n",
            {"memory/a/memory.limit_in_bytes": str(SMALL), "unified/b:c/memory.max": str(SMALLER)},
            SMALLER,
        ),
        ("0::/\n", {"memory.max": str(MACHINE * 2)}, MACHINE),
    ],
)
def test_the_smallest_limit_counts(tmp_path, membership, limits, usable):
    if membership is not None:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(membership)
    for name, limit in limits.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(limit)

    assert usable_memory(tmp_path) == usable


def test_workers_divide_the_memory_that_may_be_used(monkeypatch):
    monkeypatch.setattr("tfbatch.process.memory.usable_memory", lambda: 1000, raising=False)
    assert worker_bytes(2) == 400


def test_this_process_may_use_no_more_than_the_machine_has():
    assert 0 < usable_memory() <= MACHINE


def test_data_larger_than_its_share_of_usable_memory_is_streamed(
    make_recipe, tiny_examples, tmp_path, monkeypatch
):
    write_records(tmp_path / "abc", recipe=make_recipe(), examples=tiny_examples)
    size = 4 * 6 * 3 * (8 + 4 + 4)
    for usable, resident in ((4 * size, True), (4 * size - 1, False)):
        monkeypatch.setattr(recipe_data, "usable_memory", lambda usable=usable: usable)

        assert PreparedData(make_recipe(), tmp_path / "abc").resident == resident


def test_an_aligned_array_is_read_where_it_is():
    array = np.frombuffer(mmap.mmap(-1, 4096), np.uint8).reshape(64, 64)

    tensor = as_tensor(array)
    array[3, 5] = 7  # nobody should; here it shows that there is one copy

    assert int(tensor[3, 5]) == 7
    assert (tensor.shape, tensor.dtype) == ((64, 64), tf.uint8)
    assert tensor.device.endswith("CPU:0")


@pytest.mark.parametrize("place", [1, 16, 32])
def test_an_array_that_tensorflow_could_not_read_is_copied(place):
    page = np.frombuffer(mmap.mmap(-1, 4096), np.uint8)
    page[place : place + 128] = np.arange(128)

    tensor = as_tensor(page[place : place + 128].reshape(2, 64))

    np.testing.assert_array_equal(tf.gather(tensor, [1, 0])[1], np.arange(64))


def test_an_array_that_is_read_only_or_in_pieces_is_copied():
    array = np.arange(12, dtype=np.int32).reshape(3, 4)
    frozen = array.copy()
    frozen.flags.writeable = False

    np.testing.assert_array_equal(as_tensor(frozen), array)
    np.testing.assert_array_equal(as_tensor(array[:, ::2]), array[:, ::2])
