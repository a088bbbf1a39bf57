"""The order in which batch sizes are measured, on step times that are known."""

from __future__ import annotations

import pytest

from tfbatch.estimators.knee import find_knee
from tfbatch.estimators.knee_search import next_size

SIZES = [2**k for k in range(3, 16)]  # 8 to 32,768


def flat_then_linear(room):
    """As a device with room for so many examples: no slower up to there, then in proportion."""
    return lambda size: 0.005 * max(1.0, size / room)


def order(step, most=99, **options):
    """The sizes in the order they are measured."""
    seconds: dict[int, float] = {}
    while len(seconds) < most and (size := next_size(SIZES, seconds, **options)) is not None:
        seconds[size] = step(size)
    return list(seconds)


def knee_of(sizes, step):
    ascending = sorted(sizes)
    return find_knee(ascending, [[step(size) for size in ascending]] * 3).batch_size


@pytest.mark.parametrize("room", SIZES[:-1], ids=str)
def test_from_both_ends_and_the_middle_then_to_the_true_knee_in_seven_sizes(room):
    """Of thirteen: three to begin with, and one for each halving of what the knee may lie in."""
    step = flat_then_linear(room)
    first = order(step, most=7)

    assert first[:3] == [8, 32768, 512]
    assert knee_of(first, step) == room == knee_of(SIZES, step)


def test_all_sizes_are_measured_where_there_is_time():
    assert sorted(order(flat_then_linear(64))) == SIZES


def test_what_is_wanted_comes_before_any_other_inner_size():
    assert order(flat_then_linear(4096), most=5, wanted=[32, 128])[3:] == [32, 128]


@pytest.mark.parametrize("limit", [9, 100, 1000, 20_000], ids=str)
def test_after_a_size_without_room_in_memory_the_largest_that_fits_is_found(limit):
    seconds: dict[int, float] = {}
    refused: list[int] = []
    while True:
        size = next_size(SIZES, seconds, too_large=min(refused, default=None))
        if size is None:
            break
        if size > limit:
            refused.append(size)
        else:
            seconds[size] = 0.005

    fitting = [size for size in SIZES if size <= limit]
    assert sorted(seconds) == fitting
    assert min(refused) == 2 * fitting[-1]
    assert len(refused) <= 5


def test_the_upper_end_is_tried_from_the_largest_affordable_size_down():
    """What is known of 8 allows for no more than 1,024; what is known of 1,024 for all."""
    seconds = {8: 1.0}
    first = next_size(SIZES, seconds, affordable=lambda size: size <= 128 * max(seconds))
    seconds[1024] = 1.0

    assert first == 1024
    assert next_size(SIZES, seconds, affordable=lambda size: size <= 128 * max(seconds)) == 32768
