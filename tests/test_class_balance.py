"""Unequal classes: which are absent from most batches, exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tfbatch.dataset_info.class_balance import (
    absence_probability,
    balance_warnings,
    largest_batch_mostly_without,
    rare_classes,
    share_warnings,
)
from tfbatch.errors import InputError


@pytest.mark.parametrize(
    ("share", "batch_size", "probability"),
    [(0.5, 1, 0.5), (0.5, 2, 0.25), (0.25, 2, 0.5625), (0, 100, 1.0), (1, 1, 0.0)],
)
def test_a_class_is_absent_with_the_probability_that_every_draw_misses_it(
    share, batch_size, probability
):
    assert absence_probability(share, batch_size=batch_size) == probability


def test_the_probability_is_that_of_drawn_batches():
    classes = np.random.default_rng(0).choice(3, p=[0.05, 0.35, 0.6], size=(20_000, 12))

    seen = (classes != 0).all(axis=1).mean()

    expected = absence_probability(0.05, batch_size=12)
    assert abs(seen - expected) < 5 * math.sqrt(expected * (1 - expected) / 20_000)


@pytest.mark.parametrize(("share", "batch_size"), [(-0.1, 1), (1.1, 1), (0.5, 0), (math.nan, 1)])
def test_a_share_or_batch_size_out_of_range_is_refused(share, batch_size):
    with pytest.raises(InputError, match="`0 <= share <= 1` and `batch_size >= 1` must hold"):
        absence_probability(share, batch_size=batch_size)


@pytest.mark.parametrize(
    ("share", "largest"),
    [
        (0.01, 68),  # 0.99**68 = 0.5049, 0.99**69 = 0.4999
        (0.25, 2),  # 0.75**2 = 0.5625, 0.75**3 = 0.42
        (0.3, 1),
        (0.5, 0),  # half of all batches of one, not more
        (1.0, 0),
        (0.0, math.inf),
    ],
)
def test_the_largest_batch_that_mostly_misses_a_class_is_exact(share, largest):
    assert largest_batch_mostly_without(share) == largest


@pytest.mark.parametrize("largest", [1, 2, 7, 31, 32, 1000])
def test_where_the_probability_is_just_a_half_the_batch_is_not_counted(largest):
    """(1 - share)**(largest + 1) = 1/2: the logarithms' quotient is about a whole number."""
    share = 1 - 0.5 ** (1 / (largest + 1))

    found = largest_batch_mostly_without(share)

    assert absence_probability(share, batch_size=found) > 0.5
    assert absence_probability(share, batch_size=found + 1) <= 0.5
    assert found in (largest, largest + 1)


def test_rare_classes_are_those_with_less_than_half_an_even_share():
    assert rare_classes([490, 490, 20]) == ((2,), 34)  # 0.98**34 = 0.503
    assert rare_classes([490, 490, 20], batch_size=34) == ((2,), 34)
    assert rare_classes([490, 490, 20], batch_size=35) == ((), 0)
    assert rare_classes([485, 490, 15, 10]) == ((2, 3), 45)  # the smaller one's limit is 68


def test_equal_classes_are_never_rare_however_many():
    assert rare_classes([10] * 1000) == ((), 0)
    assert balance_warnings(dict.fromkeys(("train", "validation", "test"), [10] * 1000)) == ()


def test_a_warning_is_one_line_that_names_the_classes_and_the_batch_size():
    train = [1000, 1000, 7, 9]
    splits = {"train": train, "validation": [9, 9, 1, 1], "test": [9, 9, 1, 1]}

    (line,) = balance_warnings(splits)

    assert line == (
        "Classes 2, 3 are absent from more than half of all batches of 154 or smaller "
        "(0.0045 of the training examples or less for each)."
    )
    assert absence_probability(9 / 2016, batch_size=154) > 0.5
    assert absence_probability(9 / 2016, batch_size=155) < 0.5


def test_one_rare_class_is_told_of_in_the_singular():
    splits = {"train": [490, 490, 20], "validation": [1, 1, 1], "test": [1, 1, 1]}

    assert balance_warnings(splits) == (
        "Class 2 is absent from more than half of all batches of 34 or smaller "
        "(0.02 of the training examples).",
    )


def test_of_many_rare_classes_the_first_eight_are_named():
    counts = [1000, *[2] * 20]
    (line,) = balance_warnings(dict.fromkeys(("train", "validation", "test"), counts))

    assert line.startswith("Classes 1, 2, 3, 4, 5, 6, 7, 8 and 12 more are absent from ")


def test_a_class_that_a_split_lacks_is_told_of():
    splits = {"train": [50, 50, 0, 50], "validation": [5, 5, 0, 0], "test": [0, 0, 0, 5]}

    train, validation, test = balance_warnings(splits)

    assert train == "Class 2 has no training example: nothing can be learned of it."
    assert validation.startswith("Class 3 has no validation example: the validation results do not")
    assert "at least 1 / fraction examples to be sure of one" in validation
    assert test.startswith("Classes 0, 1 have no test example: ")


def test_a_split_far_below_its_share_is_reported():
    counts = {"train": [17, 17], "validation": [1, 1], "test": [2, 2]}

    assert share_warnings(counts, {"test": 0.1, "validation": 0.1}) == (
        "validation has 5.0% of the examples that it is taken from, not 10%: the number taken "
        "from each class is rounded down.",
    )
    assert share_warnings(counts, {}) == ()
