"""The benchmark of longer runs: a known surface gives its known optimum, and a cell is judged."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from longer_runs import Cell, Predicted, predict

from tfbatch.estimators.rate_surface import SurfacePoint


@pytest.mark.parametrize("moved", [-0.4, 0.0, 0.4])
def test_an_optimum_that_moves_with_the_length_is_found_at_the_longer_one(moved):
    points = [
        SurfacePoint(b, u, r) for b in (0, 1, 2) for u in (-3, -2, -1, 0, 1, 2, 3) for r in (2, 3)
    ]
    values = [
        0.2 * p.remaining + 0.06 * (p.rate - 0.5 + moved * p.remaining + 0.2 * p.batch) ** 2
        for p in points
    ]
    found = predict(points, values - np.min(values), [0.0, 2.0])
    np.testing.assert_allclose([one.octaves for one in found], [0.5, 0.1], atol=0.4)
    assert all(one.low <= one.octaves <= one.high for one in found)


def test_an_interval_holds_what_lies_within_half_a_step_of_the_grid():
    predicted = Predicted(0.0, -1.0, 1.0)
    covered = [Cell(predicted, 0.0, 0.0, best).covered for best in (-2.0, -1.5, 1.0, 1.6)]
    assert covered == [False, True, True, False]
