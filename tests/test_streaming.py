"""Data larger than memory: sizes of the shuffle, its order, what is skipped, and real limits."""

from __future__ import annotations

import json
import os
import resource
import zlib

import numpy as np
import pytest
import tensorflow as tf
from processes import run_warm

from tfbatch.pipeline import PreparedData, record_splits
from tfbatch.pipeline.record_splits import shuffle_sizes
from tfbatch.process.limits import usable_memory
from tfbatch.records.manifest import Manifest, Shard, load_manifest
from tfbatch.records.writer import write_records

GB, PLENTY = 1 << 30, 64 << 30


def manifest_of(make_recipe, *, examples, record_bytes, shards):
    """A manifest alone: the records of a large data set are not made for their sizes."""
    bounds = [examples * i // shards for i in range(shards + 1)]
    entries = tuple(
        Shard(name=f"{i}", num_examples=n, num_bytes=n * record_bytes, sha256="")
        for i, n in enumerate(np.diff(bounds).tolist())
    )
    return Manifest(
        dataset="large",
        records_hash="abc",
        features=make_recipe().features,
        splits={"train": entries},
        class_counts={},
    )


@pytest.mark.parametrize(
    ("examples", "record_bytes", "shards", "usable", "buffer", "cycle", "block"),
    [
        pytest.param(45_000, 3_100, 8, PLENTY, 10_000, 2, 16, id="CIFAR-10"),
        pytest.param(1_281_167, 110_000, 1024, PLENTY, 2_440, 16, 6, id="ImageNet, JPEG"),
        pytest.param(1_281_167, 150_600, 1024, PLENTY, 1_782, 16, 4, id="ImageNet, raw"),
        pytest.param(1_281_167, 150_600, 1024, 4 * GB, 1_782, 16, 4, id="4 GB are plenty"),
        pytest.param(1_281_167, 150_600, 1024, 1 * GB, 445, 16, 4, id="1 GB"),
        pytest.param(10_000, 4 << 20, 64, PLENTY, 64, 2, 1, id="4 MB a record"),
        pytest.param(100, 1 << 30, 4, PLENTY, 1, 1, 1, id="1 GB a record"),
        pytest.param(8, 100, 3, PLENTY, 8, 1, 16, id="tiny"),
    ],
)
def test_the_sizes_of_a_shuffle_are_bounded_in_bytes(
    make_recipe, examples, record_bytes, shards, usable, buffer, cycle, block
):
    manifest = manifest_of(make_recipe, examples=examples, record_bytes=record_bytes, shards=shards)

    sizes = shuffle_sizes(manifest, "train", usable_bytes=usable)

    assert (sizes.buffer, sizes.cycle_length, sizes.block_length) == (buffer, cycle, block)
    assert sizes.buffer_bytes == buffer * record_bytes
    assert (sizes.note is None) == (buffer == examples)
    if sizes.buffer > 1:
        held = sizes.buffer_bytes + 6 * cycle * block * record_bytes
        assert held <= min(256 << 20, usable / 16) + (64 << 20)


def streamed(make_recipe, tiny_examples, folder, **changes):
    recipe = make_recipe(**changes)
    write_records(folder, recipe=recipe, examples=lambda: tiny_examples(train=200))
    return PreparedData(recipe, folder, resident_share=0)


def order_of(data, *, seed=1, num_examples=200, start=0):
    stream = data.training(batch_size=16, seed=seed, num_examples=num_examples, start=start)
    images = np.concatenate([x for x, _ in stream.as_numpy_iterator()])
    return np.rint(images[:, 0, 0, 0] * 255).astype(int)


def test_a_buffer_smaller_than_the_split_is_noted_and_a_larger_one_is_not(
    make_recipe, tiny_examples, tmp_path, monkeypatch
):
    data = streamed(make_recipe, tiny_examples, tmp_path / "abc")
    assert data.notes == ()

    monkeypatch.setattr(record_splits, "SHUFFLE_EXAMPLES", 50)
    (note,) = PreparedData(data.recipe, data.folder, resident_share=0).notes

    assert note.startswith(
        "Training examples are streamed through a shuffle buffer of 50 (0 MiB) of"
    )
    assert PreparedData(data.recipe, data.folder).notes == ()  # resident: shuffled as a whole


def test_a_small_buffer_still_gives_permutations_that_mix_far_beyond_it(
    make_recipe, tiny_examples, tmp_path, monkeypatch
):
    """A buffer of 20 of 200: files in a new order, interleaved, then the buffer."""
    monkeypatch.setattr(record_splits, "SHUFFLE_EXAMPLES", 20)
    data = streamed(make_recipe, tiny_examples, tmp_path / "abc", shards=10)

    epochs = order_of(data, num_examples=60 * 200).reshape(60, 200)

    assert (np.sort(epochs) == np.arange(200)).all()
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 60
    places = np.argsort(epochs)  # [epoch, example]
    # Of all files at once, the last examples of a file would have the mean place 170.
    assert abs(places.mean(axis=0) - 99.5).max() < 50
    assert np.median(places.std(axis=0)) > 45  # 57.7 if shuffled as a whole, 6 by the buffer alone


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_the_order_does_not_depend_on_the_number_of_cores(make_recipe, tiny_examples, tmp_path):
    data = streamed(make_recipe, tiny_examples, tmp_path / "abc", shards=10)
    wanted, cores = order_of(data, num_examples=500), os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        alone = PreparedData(data.recipe, data.folder, resident_share=0)
        np.testing.assert_array_equal(order_of(alone, num_examples=500), wanted)
    finally:
        os.sched_setaffinity(0, cores)


def test_what_lies_before_the_start_is_not_decoded(make_recipe, tmp_path):
    """Its images are broken within records that are whole: decoding one would be an error."""
    features = make_recipe().features.model_dump(mode="json")
    features["image"]["stored"] = "encoded"
    recipe = make_recipe(features=features)
    header = tf.io.encode_png(np.zeros((4, 6, 3), np.uint8)).numpy()

    def examples(broken=()):
        for split, count in (("train", 60), ("validation", 4), ("test", 4)):
            for number in range(count):
                image = tf.io.encode_png(np.full((4, 6, 3), number, np.uint8)).numpy()
                if split == "train" and number in broken:
                    # Whole by its checksums, so it is stored; its compressed pixels are noise.
                    noise = b"IDAT" + bytes([number]) * 20
                    checksum = zlib.crc32(noise).to_bytes(4, "big")
                    image = header[:33] + b"\0\0\0\x14" + noise + checksum + header[-12:]
                yield split, f"{split}-{number}", {"image": image, "label": number % 3}

    write_records(tmp_path / "whole", recipe=recipe, examples=examples)
    whole = PreparedData(recipe, tmp_path / "whole", resident_share=0)
    order = order_of(whole, num_examples=150)
    skipped = set(order[60:100].tolist())  # of the second epoch; 20 are left of it
    write_records(tmp_path / "abc", recipe=recipe, examples=lambda: examples(skipped))
    broken = PreparedData(recipe, tmp_path / "abc", resident_share=0)

    np.testing.assert_array_equal(order_of(broken, num_examples=120, start=100), order[100:120])
    with pytest.raises(tf.errors.InvalidArgumentError):
        order_of(broken, num_examples=120, start=99)


@pytest.mark.parametrize("kind", [resource.RLIMIT_AS, resource.RLIMIT_DATA], ids=["AS", "DATA"])
def test_a_limit_of_this_process_is_usable_memory(kind):
    before = usable_memory()
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (before - 4096, hard))
    try:
        assert usable_memory() == before - 4096
    finally:
        resource.setrlimit(kind, (soft, hard))


MAKE = """
import pathlib, sys
import numpy as np
from tfbatch.dataset_info.recipe import Recipe
from tfbatch.records.writer import ExampleStream, write_records

recipe, count = Recipe.model_validate_json(sys.argv[1]), int(sys.argv[3])
pixels = np.random.default_rng(0).integers(0, 256, (64, *recipe.features.image.shape), np.uint8)

def examples(start):
    for number in range(start, count):
        yield f"{number}", {"image": pixels[number % 64], "label": number % 3}

def splits():
    return (("train", "validation", "test")[max(0, n + 3 - count)] for n in range(count))

stream = ExampleStream(splits=splits, examples=examples)
write_records(pathlib.Path(sys.argv[2]), recipe=recipe, examples=stream)
"""

TRAIN = """
import ctypes, json, os, pathlib, resource, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])  # each thread reserves a stack
M_MMAP_THRESHOLD = -3  # of malloc.h: larger blocks go back to the kernel when they are freed
ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 20)
import keras
import tensorflow as tf
from tfbatch.pipeline import PreparedData, record_splits
from tfbatch.dataset_info.recipe import Recipe

def status(name):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(name + ":"))

recipe, budget = Recipe.model_validate_json(sys.argv[1]), int(sys.argv[3])
model = keras.Sequential([
    keras.Input(recipe.features.image.shape), keras.layers.AveragePooling2D(16),
    keras.layers.Flatten(), keras.layers.Dense(3),
])
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model(tf.zeros([1, *recipe.features.image.shape]))
limit = (status("VmData") + budget) << 20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
begun = status("VmRSS")

data = PreparedData(recipe, pathlib.Path(sys.argv[2]), resident_share=budget * 2**20 / limit)
count = data.num_examples()
stream = data.training(batch_size=64, seed=1, num_examples=count)
peaks, steps = [], -(-count // 64)

class Peaks(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 in (steps // 4, steps):
            peaks.append(status("VmHWM"))

model.fit(stream, verbose=0, callbacks=[Peaks()])
print(json.dumps({"resident": data.resident, "examples": count, "begun": begun, "peaks": peaks}))
"""


@pytest.mark.slow
def test_data_of_four_times_the_memory_trains_in_flat_memory(make_recipe, tmp_path):
    """1.6 GB of records and 400 MiB of memory beyond the start, the child's own peak.

    The kernel refuses it 700 MiB of private memory, which counts stacks and arenas that are
    reserved and never touched. glibc keeps freed batches in its arenas, as many as the threads'
    timing makes: 370 to 450 MiB where the pipeline itself holds 230. So it gives them back here.
    """
    features = make_recipe().features.model_dump(mode="json")
    features["image"]["shape"] = [128, 128, 3]
    recipe = make_recipe(features=features, shards=16)
    count = 4 * (400 << 20) // (128 * 128 * 3)

    def run(script, number):
        written = recipe.model_dump_json(by_alias=True)
        return run_warm("-c", script, written, tmp_path / "abc", number).stdout

    run(MAKE, count)
    told = json.loads(run(TRAIN, 700))

    stored = sum(s.num_bytes for s in load_manifest(tmp_path / "abc").splits["train"])
    assert stored > 1_600_000_000
    assert not told["resident"]
    assert told["examples"] == count - 2
    first, last = told["peaks"]
    assert last < 1.1 * first, told
    assert last - told["begun"] < 400, told
