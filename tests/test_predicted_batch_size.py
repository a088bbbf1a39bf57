"""The joined prediction: what it is worth, what verifies it, and where step times end."""

from __future__ import annotations

import numpy as np
import pytest

from tfbatch.errors import InputError
from tfbatch.estimators.interval import Interval
from tfbatch.estimators.noise_scale import NoiseScale
from tfbatch.estimators.predicted_batch_size import predict_batch_size, sizes_to_verify
from tfbatch.estimators.step_time import fit_step_time

SIZES = np.array([8, 16, 32, 64])


def predicted(noise, *, seconds=None, largest=10**6, baseline=32):
    times = seconds or {int(size): 0.01 + 0.001 * size for size in SIZES}
    fit = fit_step_time(list(times), list(times.values()))
    found = NoiseScale(noise, Interval(0.95 * noise, 1.05 * noise), 1.0, noise, 30, ())
    return predict_batch_size(found, times, fit=fit, baseline=baseline, largest=largest)


@pytest.mark.parametrize(
    ("size", "largest", "sizes"),
    [
        (21, 10**6, (4, 8, 16, 32, 64, 128)),
        (32, 10**6, (8, 16, 32, 64, 128)),
        (32, 100, (8, 16, 32, 64)),
        (1, 10**6, (1, 2, 4)),
        (3, 10**6, (1, 2, 4, 8, 16)),
    ],
)
def test_a_quarter_to_four_times_the_prediction_is_tried(size, largest, sizes):
    assert sizes_to_verify(size, largest=largest) == sizes
    assert sizes_to_verify(size, largest=largest, also=(20,)) == tuple(sorted((*sizes, 20)))


def test_a_narrow_interval_is_said_to_be_that_of_the_measurement_alone():
    """A noisy quadratic: the noise scale gave 21 [21, 22], and 56 was the fastest."""
    found = predicted(44.0)

    assert found.batch_size in (20, 21)
    assert found.interval.high - found.interval.low <= 2
    assert f"{found.interval} from the error of the measured noise scale" in found.conclusion()
    assert "several times the critical batch size or a fraction of it" in found.conclusion()
    assert "arXiv 1812.06162" in found.conclusion()
    assert "from a quarter of it to 4 times" in found.conclusion()
    tried = sizes_to_verify(found.batch_size)
    assert min(tried) <= 56 <= max(tried)


def test_a_size_that_was_timed_is_as_fast_as_its_own_row():
    """The line misses each of these times by some percent."""
    seconds = {8: 0.018, 16: 0.026, 32: 0.042, 64: 0.080}
    found = predicted(1e5, seconds=seconds, baseline=64, largest=64)

    assert (found.batch_size, found.speed_up) == (64, pytest.approx(1.0, abs=1e-12))
    assert found.sizes[-1].speed_up == pytest.approx(1.0, abs=1e-12)


def test_no_size_is_predicted_beyond_the_largest_timed_one():
    found = predicted(10_000.0)

    assert (found.batch_size, found.as_fast_to, found.limited_by) == (64, 64, "measured sizes")
    assert "sizes larger than 64 were not timed" in found.conclusion()
    assert predicted(10_000.0, largest=50).limited_by == "memory"


def test_a_size_below_the_smallest_timed_one_is_called_extrapolated():
    found = predicted(1.0)

    assert found.batch_size < 8
    assert "smaller than any timed size (8)" in found.conclusion()
    assert not predicted(44.0).doubts


def test_a_step_time_is_not_extrapolated():
    fit = fit_step_time(SIZES, 0.01 + 0.001 * SIZES)

    assert fit.seconds(64) == pytest.approx(0.074)
    assert "measured from 8 to 64" in str(fit)
    with pytest.raises(InputError, match=r"beyond the largest measured batch size, 64\. Received"):
        fit.seconds(65)
