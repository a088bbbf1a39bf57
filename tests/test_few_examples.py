"""Few examples of each class: a split still gets its share of the whole."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tfbatch.dataset_info.class_balance import apportion
from tfbatch.errors import InputError
from tfbatch.pipeline.array_storage import VALIDATION_FRACTION, _choose
from tfbatch.records.stratified_split import StratifiedAssignment
from tfbatch.request.search_config import BatchSizeGrid


@pytest.mark.parametrize(
    ("counts", "total", "expected"),
    [
        ([53, 24, 23], 10, [5, 3, 2]),  # quotas 5.3, 2.4, 2.3
        ([10, 10], 4, [2, 2]),
        ([100, 1], 20, [20, 0]),
        ([2, 1, 1], 1, [1, 0, 0]),
        ([1, 1], 0, [0, 0]),
        ([3, 3], 6, [3, 3]),
        ([0, 5], 2, [0, 2]),
    ],
)
def test_the_largest_remainders_give_one_more(counts, total, expected):
    assert apportion(np.array(counts), total, seed=[0]).tolist() == expected


def test_the_last_example_of_a_class_is_taken_only_where_no_class_has_two():
    """The quotas are 5/11, 25/11 and 25/11: the class of one example has the largest remainder."""
    assert sorted(apportion(np.array([1, 5, 5]), 5, seed=[0]).tolist()) == [0, 2, 3]
    assert apportion(np.array([1, 1, 1, 2]), 1, seed=[0]).tolist() == [0, 0, 0, 1]
    assert apportion(np.array([1, 1, 1, 2]), 2, seed=[0])[3] == 1


@pytest.mark.parametrize("total", [-1, 5])
def test_a_split_larger_than_the_data_is_refused(total):
    with pytest.raises(InputError, match=rf"must be in \[0, 4\]. Received: {total}"):
        apportion(np.array([2, 2]), total, seed=[0])


def test_equal_remainders_are_decided_by_the_seed_and_not_by_the_order():
    given = apportion(np.full(1000, 2), 400, seed=[3])

    assert Counter(given.tolist()) == {0: 600, 1: 400}
    assert 150 < given[:500].sum() < 250
    np.testing.assert_array_equal(given, apportion(np.full(1000, 2), 400, seed=[3]))


@pytest.mark.parametrize("each", [1, 2, 3, 7, 9, 10])
def test_a_fifth_of_arrays_is_validation_however_small_the_classes(each):
    labels = np.repeat(np.arange(300 // each), each)

    chosen = _choose(len(labels), labels)

    assert len(np.unique(chosen)) == round(VALIDATION_FRACTION * len(labels))
    taken = np.bincount(labels[chosen], minlength=labels.max() + 1)
    assert taken.max() - taken.min() <= 1


def test_where_every_class_has_a_whole_fifth_the_choice_is_the_one_it_was():
    labels = np.arange(100) % 4
    generator = np.random.default_rng(20181206)
    expected = [generator.permutation(np.flatnonzero(labels == c))[:5] for c in range(4)]

    np.testing.assert_array_equal(_choose(100, labels), np.sort(np.concatenate(expected)))


def assign(labels, **fractions):
    assignment = StratifiedAssignment(fractions, rest="train", counts=Counter(labels))
    return [assignment.assign(label) for label in labels]


def test_nine_images_of_each_class_give_two_tenths_to_validation_and_test():
    labels = [0, 1] * 9

    splits = assign(labels, test=0.1, validation=0.1)

    assert Counter(zip(splits, labels, strict=True)) == {
        **{("train", 0): 7, ("train", 1): 7},
        **{("test", 0): 1, ("test", 1): 1, ("validation", 0): 1, ("validation", 1): 1},
    }


def test_two_images_of_each_of_a_hundred_classes_leave_one_of_each_to_train():
    labels = [*range(100)] * 2

    splits = assign(labels, test=0.1, validation=0.1)

    assert Counter(splits) == {"train": 160, "test": 20, "validation": 20}
    assert {y for y, split in zip(labels, splits, strict=True) if split == "train"} == {*range(100)}


@pytest.mark.parametrize("count", range(10, 20))
def test_ten_to_nineteen_examples_of_a_class_give_a_tenth_of_all_and_one_of_each(count):
    """Rounded down for each class, 20 of 380 examples would be taken: 0.53 of a tenth."""
    labels = [*range(20)] * count

    splits = assign(labels, validation=0.1)

    assert 0.8 * 2 * count <= splits.count("validation") <= 2 * count
    chosen = Counter(y for y, split in zip(labels, splits, strict=True) if split == "validation")
    assert set(chosen) == {*range(20)}
    assert set(chosen.values()) <= {1, 2}


def test_where_rounding_down_costs_little_the_counts_change_nothing():
    labels = np.random.default_rng(0).integers(0, 5, 800).tolist()
    plain = StratifiedAssignment({"test": 0.1, "validation": 0.1}, rest="train")

    assert assign(labels, test=0.1, validation=0.1) == [plain.assign(y) for y in labels]


def test_too_few_examples_for_three_splits_are_refused():
    with pytest.raises(InputError, match="2 examples are too few to take test and validation"):
        assign([0, 1], test=0.1, validation=0.1)


def test_without_a_power_of_two_the_flag_for_batch_sizes_is_named():
    with pytest.raises(InputError, match=r"Give the batch sizes with --batch_sizes .*batch_sizes="):
        BatchSizeGrid().sizes(8)
