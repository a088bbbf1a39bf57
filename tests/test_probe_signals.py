"""Real signals to the probe: what was measured is printed and on disk, and no process is left."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from probe_signals import ended_at

MOMENTS = [(0.1, signal.SIGTERM), (10.0, signal.SIGINT), (28.0, signal.SIGTERM)]


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "number"), MOMENTS)
def test_a_signal_costs_the_running_instrument_alone(moment, number):
    """Whatever it is doing then: that depends on the machine. Only the seconds are not judged."""
    found = ended_at(moment, number, begun=True)

    assert found["exit"] in (0, 128 + number), found["text"]
    assert found["printed"] == found["written"], found["text"]
    assert found["written"] or found["says nothing was"], found["text"]
    assert not found["left"]
