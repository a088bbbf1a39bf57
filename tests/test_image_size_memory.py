"""Memory against the size of the images, from processes whose peaks are given."""

from __future__ import annotations

import dataclasses

import pytest

from tfbatch.errors import InputError
from tfbatch.instruments.image_size_memory import (
    ResizedData,
    measure_image_sizes,
)
from tfbatch.largest_batch.fresh_process import Peak, ProcessRun, Written

MEGABYTE = 2**20
SIZES = (1, 2, 8, 16, 32, 64)


@dataclasses.dataclass
class Processes:
    """Peaks of 500 MB and 3 kB a pixel and example, above a floor that start-up leaves."""

    image_size: int
    budget_bytes: float = 2000 * MEGABYTE
    floor: float = 0.0
    fitting: int = 6

    def run(self, sizes):
        each = 3000 * self.image_size**2
        peaks = [
            Peak(size, int(max(self.floor, 500 * MEGABYTE + each * size)))
            for size in sizes[: self.fitting]
        ]
        return ProcessRun(tuple(sizes), "oom", Written(0, tuple(peaks)), "", 1.0, 0)


def measured(*image_sizes, **options):
    def prober_of(image_size):
        return Processes(image_size, **options)

    return measure_image_sizes(prober_of, image_sizes, batch_sizes=SIZES)


def test_twice_the_side_is_four_times_the_memory_of_an_example():
    found = measured(16, 32, 64)

    assert found.area_exponent == pytest.approx(1.0, abs=1e-3)
    assert [at.image_size for at in found.sizes] == [16, 32, 64]
    for at in found.sizes:
        assert at.predicted.bytes_per_example == pytest.approx(3000 * at.image_size**2, rel=1e-3)
        room = 1500 * MEGABYTE / (3000 * at.image_size**2)
        assert at.predicted.batch_size == pytest.approx(room, abs=1), "all of the budget"
    assert f"to {found.sizes[-1].predicted.batch_size} at 64" in found.conclusion()


def test_the_floor_that_small_batches_lie_on_bends_no_line():
    """Batches of 1 and 2 peak at what batches of 7 would; the four largest are looked at."""
    floor = 500.0 * MEGABYTE + 3000 * 64**2 * 7
    (at,) = measured(64, floor=floor).sizes

    assert [peak.size for peak in at.peaks] == list(SIZES)
    assert at.predicted.bytes_per_example == pytest.approx(3000 * 64**2, rel=1e-3)


def test_one_batch_alone_gives_no_line():
    with pytest.raises(InputError, match=r"At 32 pixels at least two of the batch sizes 1, 2, 8"):
        measured(32, fitting=1)
    assert len(measured(32, fitting=2).sizes[0].peaks) == 2


def test_resized_data_begins_where_it_is_asked_to(digits):
    resized = ResizedData(digits, 12)

    def labels(**options):
        (batch,) = resized.training(batch_size=16, seed=1, num_examples=32, **options).skip(1)
        return list(batch[1].numpy())

    (later,) = resized.training(batch_size=16, seed=1, num_examples=32, start=16)
    assert list(later[1].numpy()) == labels()
