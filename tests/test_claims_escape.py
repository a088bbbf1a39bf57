"""Walks out of traps on paper, against Markov chains, Kramers' rate and a Gaussian recursion."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from tests.court_fixtures import SimulatedCourt, judged
from tfbatch.claims import escape

WALKS = 2000


def chain(gradient, *, rate, noise, low, high, points=403):
    """Where a walk goes in an update: densities between points, and the points; exact but for h."""
    x = np.linspace(low, high, points)
    away = x[None, :] - (x - rate * gradient(x))[:, None]
    density = np.exp(-0.5 * (away / noise) ** 2) / (noise * math.sqrt(2 * math.pi))
    return density * (x[1] - x[0]), x


def share_that_left(kernel, x, start, updates):
    """Of walks that are absorbed beyond the points."""
    inside = np.linalg.matrix_power(kernel, updates).sum(axis=1)
    return 1 - float(np.interp(start, x, inside))


def well(x):
    return x**3 - x - 0.1


WELL_END = (escape.TOP + escape.DEEP) / 2


def simulated(landscape, *, rate, noise, updates):
    times = escape.updates_to_escape(
        landscape,
        rate=rate,
        noise=noise,
        updates=updates,
        walks=WALKS,
        generator=np.random.default_rng(1),
    )
    return times, float((times <= updates).mean())


@pytest.mark.parametrize(("relative", "updates"), [(1 / 4, 150), (1.0, 1000), (1.5, 2000)])
def test_the_share_that_leaves_the_well_is_that_of_the_markov_chain(relative, updates):
    noise = escape.noise_of_an_update(escape.RATE, relative)
    exact = share_that_left(
        *chain(well, rate=escape.RATE, noise=noise, low=-3.0, high=WELL_END),
        escape.SHALLOW,
        updates,
    )
    _, found = simulated(escape.DOUBLE_WELL, rate=escape.RATE, noise=noise, updates=updates)

    assert 0.001 < exact < 0.9
    assert found == pytest.approx(exact, abs=5 * math.sqrt(exact * (1 - exact) / WALKS))


def test_the_rate_of_the_chain_is_that_of_kramers_where_the_noise_is_small():
    """r sqrt(L''(bottom) |L''(top)|) / (2 pi) exp(-height / temperature), for r to 0."""
    noise = escape.noise_of_an_update(escape.RATE, 2.0)  # the height is 8 temperatures
    kernel, x = chain(well, rate=escape.RATE, noise=noise, low=-2.0, high=WELL_END)
    early, late = (share_that_left(kernel, x, escape.SHALLOW, n) for n in (4096, 8192))
    rate = math.log((1 - early) / (1 - late)) / 4096
    bends = [3 * x * x - 1 for x in (escape.SHALLOW, escape.TOP)]
    kramers = escape.RATE * math.sqrt(abs(bends[0] * bends[1])) / (2 * math.pi) * math.exp(-8)

    assert rate == pytest.approx(kramers, rel=0.15)


@pytest.mark.parametrize(("relative", "updates"), [(1 / 16, 30), (1.0, 80), (16.0, 170)])
def test_the_share_that_leaves_the_saddle_is_that_of_the_markov_chain(relative, updates):
    noise = escape.noise_of_an_update(escape.RATE, relative)
    kernel, x = chain(lambda y: -y, rate=escape.RATE, noise=noise, low=-1.0, high=1.0)
    exact = share_that_left(kernel, x, 0.0, updates)
    _, found = simulated(escape.SADDLE, rate=escape.RATE, noise=noise, updates=updates)

    assert 0.1 < exact < 0.9
    assert found == pytest.approx(exact, abs=5 * math.sqrt(exact * (1 - exact) / WALKS))


def test_without_an_end_the_way_from_the_saddle_is_the_gaussian_recursion():
    """Var y = s^2 (a^2t - 1) / (a^2 - 1) with a = 1 + r: one that is beyond 1 at the end has left,
    and few of those that have left come back."""
    noise, updates = escape.noise_of_an_update(escape.RATE, 1.0), 80
    growth = (1 + escape.RATE) ** 2
    deviation = noise * math.sqrt((growth**updates - 1) / (growth - 1))
    beyond = math.erfc(1 / (deviation * math.sqrt(2)))
    kernel, x = chain(
        lambda y: -y, rate=escape.RATE, noise=noise, low=-6.0, high=6.0
    )  # cells end at 1
    inside = np.linalg.matrix_power(kernel, updates) @ (np.abs(x) < 1)
    _, left = simulated(escape.SADDLE, rate=escape.RATE, noise=noise, updates=updates)

    assert 1 - float(np.interp(0.0, x, inside)) == pytest.approx(beyond, abs=2e-3)
    assert beyond < left < 1.25 * beyond


def test_without_noise_nothing_leaves_a_trap():
    for landscape in (escape.DOUBLE_WELL, escape.SADDLE):
        times, _ = simulated(landscape, rate=escape.RATE, noise=0.0, updates=50)
        assert (times == 51).all()


def test_small_batches_leave_and_large_ones_stay_in_a_well_but_not_at_a_saddle():
    found = judged(escape, SimulatedCourt())

    assert found["small-escapes-bad-optima", "double well"].word == "HOLDS"
    assert found["small-escapes-bad-optima", "saddle"].word == "HOLDS"
    assert found["large-stays-at-bad-optima", "double well"].word == "HOLDS"
    assert found["large-stays-at-bad-optima", "saddle"].label == "negligible"
    findings = [one.finding for one in escape.collect(SimulatedCourt()) if one.part == "saddle"]
    halves = re.search(r"in 2000 updates, half of them in (\d+), (\d+), (\d+)$", findings[1])
    small, base, large = map(int, halves.groups())
    assert small < base < large < 200  # not held, but there for longer


def test_rates_in_proportion_to_the_size_leave_alike():
    """The batch size has no part in it but by the rate over it, while the rate is small."""
    updates = {2: 32_000, 32: 2000, 128: 500}
    shares = escape._shares(SimulatedCourt(), escape.DOUBLE_WELL, updates, scaled=True)
    small, base, large = (np.mean(found) for found in shares.values())

    assert base == pytest.approx(small, abs=0.06)  # five standard errors of 1,000 walks
    assert base == pytest.approx(large, abs=0.06)
