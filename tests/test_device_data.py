"""Batches that a graph makes from a device's memory are those of the host's pipeline.

The device is the CPU here: the same code, and no GPU is needed.
"""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from augmentation_snippets import snippet

from tfbatch.augmentations import AUGMENTATIONS
from tfbatch.pipeline import PreparedData, device_data
from tfbatch.pipeline.array_data import StoredData
from tfbatch.pipeline.array_storage import store_data
from tfbatch.pipeline.device_data import HeldData, StaysOnHostError, gives_chosen
from tfbatch.records.writer import write_records

SIZE = 37  # prime: no batch size divides it
CHAIN = [
    {"name": "horizontal_flip"},
    {"name": "random_crop", "padding": 1},
    {"name": "cutout", "size": 2},
]
CHAINS = {
    "none": [],
    "none mixes": CHAIN,
    "one mixes": [*CHAIN, {"name": "mixup", "alpha": 1.0}],
    **{f"{name} as documented": snippet(name) for name in AUGMENTATIONS.names()},
}
BY_CHANNEL = {"mean": [0.4, 0.5, 0.6], "standard_deviation": [0.2, 0.25, 0.3]}


@pytest.fixture(scope="module")
def prepared(make_recipe, tiny_examples, tmp_path_factory):
    """PreparedData of 37 training examples, each kind made once."""
    root, made = tmp_path_factory.mktemp("device"), {}

    def make(**changes):
        key = json.dumps(changes)
        if key not in made:
            recipe = make_recipe(**changes)
            write_records(root / "shards", recipe=recipe, examples=lambda: tiny_examples(SIZE))
            made[key] = PreparedData(recipe, root / "shards")
        return made[key]

    return make


def batches_of(held, stream):
    """Every batch, made in a graph, one step of an element at a time."""

    @tf.function(autograph=False)
    def make(chosen, step):
        block = held.block(chosen)
        return block.batch(step), block.steps

    batches = []
    for chosen in stream:
        step, steps = 0, 1
        while step < steps:
            batch, steps = make(chosen, tf.constant(step))
            batches.append(keras.tree.map_structure(lambda leaf: leaf.numpy(), batch))
            step += 1
    return batches


def assert_equal(got, want, *, ulps=0):
    """The same batches: structure, types, sizes and values."""
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        keras.tree.assert_same_structure(one, other)
        for a, b in zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            if ulps and a.dtype == np.float32:
                # Of the largest numbers that take part: a difference near zero is rounded there.
                assert np.abs(a - b).max() <= ulps * np.spacing(np.abs(b).max())
            else:
                np.testing.assert_array_equal(a, b)


STREAMS = {
    "one batch at a time": {"batch_size": 7, "num_examples": 2 * SIZE, "at_once": 1},
    "several at once, over epochs": {"batch_size": 7, "num_examples": 3 * SIZE + 5, "at_once": 4},
    "from the middle of an epoch": {
        "batch_size": 5,
        "num_examples": 3 * SIZE + 4,
        "at_once": 3,
        "start": SIZE + 12,
    },
    "a whole split in a batch": {"batch_size": SIZE, "num_examples": SIZE, "at_once": 1},
}


def assert_same_stream(data, *, at_once, ulps=0, **stream):
    held = HeldData(data.device_form(), "CPU:0")
    own = held.training(**stream, seed=5, at_once=at_once)
    want = list(data.training(**stream, seed=5).as_numpy_iterator())
    assert_equal(batches_of(held, own), want, ulps=ulps)


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
@pytest.mark.parametrize("whole", [True, False], ids=["made at once", "made in each step"])
def test_stored_images_come_as_they_do_from_the_host(prepared, monkeypatch, stream, whole):
    if not whole:
        monkeypatch.setattr(device_data, "_AT_ONCE_BYTES", 0)
    data = prepared(augmentation=CHAIN, normalization=BY_CHANNEL)

    assert_same_stream(data, **stream)  # to the last bit: one formula


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_every_augmentation_draws_and_changes_the_same(prepared, chain):
    data = prepared(augmentation=chain, normalization=BY_CHANNEL)

    assert_same_stream(data, **STREAMS["from the middle of an epoch"])


def test_channels_alike_differ_in_the_last_places_alone(prepared):
    alike = {"mean": [0.47, 0.47, 0.47], "standard_deviation": [0.23, 0.23, 0.23]}
    data = prepared(augmentation=CHAIN, normalization=alike)

    assert_same_stream(data, **STREAMS["several at once, over epochs"], ulps=4)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_an_evaluation_is_the_same(prepared, monkeypatch, split):
    monkeypatch.setattr(device_data, "EVALUATION_BATCH_SIZE", 16)
    data = prepared(augmentation=CHAINS["one mixes"], normalization=BY_CHANNEL)
    held = HeldData(data.device_form(), "CPU:0")

    got = batches_of(held, held.evaluation(split))

    assert_equal(got, list(data.evaluation(split, batch_size=16).as_numpy_iterator()))


def own_data(tmp_path, inputs, targets, *more):
    arrays = (inputs, targets, *more)
    return StoredData(store_data(tmp_path, {"train": arrays, "validation": arrays}), name="own")


@pytest.fixture
def numbers():
    return np.random.default_rng(1)


def test_dicts_outputs_weights_and_every_type_keep_their_bytes(tmp_path, numbers):
    inputs = {
        "image": numbers.integers(0, 256, [SIZE, 3, 5, 1], np.uint8),  # 15 bytes: no whole word
        "flag": numbers.random([SIZE, 3]) < 0.5,
        "half": numbers.random([SIZE, 3]).astype(np.float16),
        "long": numbers.integers(-(2**40), 2**40, [SIZE, 2]),
        "double": numbers.random([SIZE, 1]),
    }
    outputs = (numbers.integers(0, 3, SIZE).astype(np.int32), numbers.random([SIZE, 2], np.float32))
    weights = numbers.random(SIZE).astype(np.float32)
    data = own_data(tmp_path, inputs, outputs, weights)

    assert_same_stream(data, **STREAMS["several at once, over epochs"])
    assert_same_stream(data, **STREAMS["from the middle of an epoch"])


def test_what_a_graph_cannot_hold_stays_and_says_why(tmp_path, numbers, prepared, make_recipe):
    ragged = tf.data.Dataset.from_generator(
        lambda: ((np.ones(n % 3 + 1, np.float32), n % 2) for n in range(12)),
        output_signature=(tf.TensorSpec([None], tf.float32), tf.TensorSpec([], tf.int64)),
    )
    texts = tf.data.Dataset.from_tensor_slices((["a", "b"] * 6, [0, 1] * 6))
    for number, (given, why) in enumerate([(ragged, "differs in length"), (texts, "is text")]):
        folder = store_data(tmp_path / str(number), {"train": given})
        with pytest.raises(StaysOnHostError, match=why):
            StoredData(folder, name="own").device_form()
    streamed = PreparedData(prepared().recipe, prepared().folder, resident_share=0)
    with pytest.raises(StaysOnHostError, match="streamed from disk"):
        streamed.device_form()
