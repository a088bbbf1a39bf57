"""Examples are serialised on all cores: in their order, a few ahead, the first error first."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest

from tfbatch.errors import InputError
from tfbatch.recipes import Features
from tfbatch.records.codec import encode
from tfbatch.records.parallel import encode_all

FEATURES = Features.model_validate(
    {
        "image": {"kind": "image", "shape": [2, 2, 1], "stored": "raw"},
        "label": {"kind": "label", "num_classes": 300},
    }
)


def examples(count, *, wrong=()):
    for number in range(count):
        label = -1 if number in wrong else number % 300
        image = np.full((2, 2, 1), number % 256, np.uint8)
        yield ("train", "test")[number % 2], f"e{number}", {"image": image, "label": label}


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 500])
def test_the_records_are_those_of_one_thread_in_the_same_order(count):
    want = [
        (split, e["label"], encode(key, e["image"], e["label"], FEATURES))
        for split, key, e in examples(count)
    ]

    assert list(encode_all(examples(count), FEATURES)) == want


def test_the_first_wrong_example_is_the_one_that_is_named():
    with pytest.raises(InputError, match="Example e37 has the label -1"):
        list(encode_all(examples(400, wrong=(37, 38, 200)), FEATURES))


def test_only_a_few_examples_are_asked_for_ahead(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    asked = itertools.count()

    def counted():
        for example in examples(10_000):
            next(asked)
            yield example

    stream = encode_all(counted(), FEATURES)
    next(stream)
    stream.close()

    assert next(asked) <= 6 * 16


def test_no_thread_is_left_when_a_reader_stops_or_a_source_fails():
    def failing():
        yield from examples(50)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(encode_all(failing(), FEATURES))
    stream = encode_all(examples(1000), FEATURES)
    next(stream)
    stream.close()

    assert not [t for t in threading.enumerate() if t.name.startswith("tfbatch-encode")]
