"""Validation and test examples are taken out of train: exact counts, class by class."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from tfbatch.records.stratified_split import StratifiedAssignment


def assign(labels, **fractions):
    assignment = StratifiedAssignment(fractions, rest="train")
    return [assignment.assign(int(label)) for label in labels]


def test_ten_examples_of_one_class_are_dealt_out_literally():
    five = ["train", "train", "train", "validation", "test"]

    assert assign([0] * 10, test=0.2, validation=0.2) == five + five


def test_without_fractions_everything_stays():
    assert assign([0, 1, 2]) == ["train"] * 3


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.25, 0.3, 0.5, 0.001])
@pytest.mark.parametrize("count", [1, 2, 9, 10, 11, 100, 999, 1000])
def test_one_split_gets_its_share_rounded_down(fraction, count):
    taken = Counter(assign([0] * count, validation=fraction))["validation"]

    assert taken == math.floor(count * Fraction(str(fraction)))


@pytest.mark.parametrize(("test", "validation"), [(0.2, 0.2), (0.5, 0.4), (0.1, 0.5), (0.3, 0.3)])
@pytest.mark.parametrize("count", [1, 4, 7, 10, 99, 1000])
def test_of_two_splits_the_second_gets_at_most_one_more(test, validation, count):
    dealt = Counter(assign([0] * count, test=test, validation=validation))

    assert dealt["test"] == math.floor(count * Fraction(str(test)))
    least = math.floor(count * Fraction(str(validation)))
    assert least <= dealt["validation"] <= least + 1
    assert dealt["train"] > 0


def test_decimal_fractions_are_exact():
    """0.3 is a little less in binary: of every ten examples only two would be taken."""
    assert Counter(assign([0] * 10, test=0.3))["test"] == 3


def test_every_class_is_divided_alike():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], [100, 40, 1000, 10]))

    splits = assign(labels, test=0.2, validation=0.1)

    counts = Counter(zip(labels.tolist(), splits, strict=True))
    for label, size in enumerate([100, 40, 1000, 10]):
        assert counts[label, "test"] == size // 5
        assert counts[label, "validation"] == size // 10
        assert counts[label, "train"] == size - size // 5 - size // 10


def test_a_class_does_not_care_about_the_classes_between():
    alone = assign([1] * 50, test=0.3)
    mixed = [s for s, y in zip(assign([1, 0, 0] * 50, test=0.3), [1, 0, 0] * 50, strict=True) if y]

    assert mixed == alone


def test_the_same_stream_is_divided_in_the_same_way():
    labels = np.random.default_rng(1).integers(0, 3, 500)

    assert assign(labels, test=0.2, validation=0.2) == assign(labels, test=0.2, validation=0.2)


def test_a_share_is_spread_over_the_stream_and_not_taken_from_one_end():
    places = [i for i, s in enumerate(assign([0] * 100, test=0.1)) if s == "test"]

    assert np.diff(places).tolist() == [10] * 9
