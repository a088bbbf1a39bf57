"""Memory against the size of the images, from processes whose peaks are given."""

from __future__ import annotations

import dataclasses
import math

import pytest

from tfbatch.errors import InputError
from tfbatch.estimators.memory_line import predict_largest_batch_size
from tfbatch.instruments.image_size_memory import (
    AtImageSize,
    ResizedData,
    _within,
    measure_image_sizes,
    measure_memory_by_image_size,
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


def test_nothing_is_predicted_where_memory_does_not_grow_with_the_batch():
    """At 8 pixels every batch lies on the floor that start-up leaves."""
    found = measured(8, 32, 64, floor=515.0 * MEGABYTE)
    small, *large = found.rows()

    assert [at.grows for at in found.sizes] == [False, True, True]
    assert (small["predicted_largest_batch_size"], small["megabytes_per_example"]) == (None, None)
    assert all(0 < row["predicted_largest_batch_size"] < 1000 for row in large)
    assert found.area_exponent == pytest.approx(1.0, abs=0.05)
    said = found.conclusion()
    assert f"goes from {large[0]['predicted_largest_batch_size']} at 32 pixels" in said
    assert said.endswith(
        "Memory was not shown to grow with the batch at 8 pixels: measure larger batch sizes there "
        "(`batch_sizes`)."
    )
    assert str(2**62) not in str(found)


def test_a_line_that_bends_has_a_prediction_where_it_rises_by_more_than_peaks_err():
    """Few peaks that miss their line by a per cent or two are known well enough to show growth."""

    def at(*megabytes):
        peaks = tuple(
            Peak(size, int(peak * MEGABYTE))
            for size, peak in zip((64, 128, 256), megabytes, strict=True)
        )
        line = predict_largest_batch_size(
            [peak.size for peak in peaks],
            [peak.peak_bytes for peak in peaks],
            budget_bytes=2000 * MEGABYTE,
        )
        return AtImageSize(32, peaks, line)

    assert at(820, 880, 950).grows
    assert not at(820, 822, 824).grows
    assert not at(820, 830, 820).grows


def test_one_image_size_at_which_memory_grows_gives_no_power_of_the_area():
    found = measured(8, 64, floor=515.0 * MEGABYTE)
    (_, large) = found.rows()

    assert math.isnan(found.area_exponent)
    assert "How what an example costs grows with the image's area is not known." in str(found)
    predicted = large["predicted_largest_batch_size"]
    assert f"At 64 pixels under 2,097 MB the predicted largest batch is {predicted}." in str(found)
    assert "nan" not in str(found)


def test_a_batch_whose_peak_is_over_the_budget_is_not_one_that_fits():
    """At 128 pixels a batch of 64 peaks at 3,670 MB; 2,097 are allowed, which 32 takes."""
    (row,) = measured(128).rows()

    assert row["measured_up_to"] == 32
    with pytest.raises(InputError, match=r"must run within the budget\. Received: 1 that do"):
        measured(128, fitting=2, budget_bytes=600e6)


def test_the_usual_batch_sizes_are_those_that_there_are_examples_for():
    assert _within(None, 100) == [8, 16, 32, 64]
    assert _within(None, 1000) == [8, 16, 32, 64, 128]
    assert _within([5, 10], 10) == [5, 10]
    with pytest.raises(InputError, match=r"`batch_sizes` must not exceed the 100 .* Received: 128"):
        _within([8, 128], 100)
    with pytest.raises(InputError, match=r"`batch_sizes` must be given .* fewer .* than 16"):
        _within(None, 15)


@pytest.mark.parametrize("sizes", [[8], [16, 8], [8, 8], [0, 8], [8, 16.5]], ids=str)
def test_sizes_that_do_not_grow_are_refused_first(sizes):
    with pytest.raises(InputError, match="`batch_sizes` must be at least two whole numbers >= 1"):
        measure_memory_by_image_size("none", "none", image_sizes=[8, 16], batch_sizes=sizes)
    with pytest.raises(InputError, match="`image_sizes` must be at least two whole numbers >= 1"):
        measure_memory_by_image_size("none", "none", image_sizes=sizes)


def test_resized_data_begins_where_it_is_asked_to(digits):
    resized = ResizedData(digits, 12)

    def labels(**options):
        (batch,) = resized.training(batch_size=16, seed=1, num_examples=32, **options).skip(1)
        return list(batch[1].numpy())

    (later,) = resized.training(batch_size=16, seed=1, num_examples=32, start=16)
    assert list(later[1].numpy()) == labels()
