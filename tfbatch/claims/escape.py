"""X7T: who leaves a bad optimum and a saddle, where both are drawn on paper.

Two landscapes whose traps are known, descended with a Gaussian noise of the gradient whose variance
is inversely proportional to the batch size, as that of a batch of independent examples is:

    tilted double well    L(x) = (x^2 - 1)^2 / 4 - x / 10, from the bottom of the shallow well
    strict saddle         L(x, y) = (x^2 - y^2) / 2, from the saddle itself

At the rate r the noise is that of a temperature r s^2 / (2 B). It is a quarter of the height of the
barrier at B0, whose walks then leave the well in some thousands of updates (Kramers 1940: the rate
falls exponentially with the height over the temperature). A saddle holds nobody for long: what
noise there is grows by a factor each update, so that the time falls with the log of the noise.

It is about landscapes on paper, not about the user's model, whose traps nobody knows. What it shows
besides is that the batch size has no part in it but by r / B, as long as the rate is small.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tfbatch.claims._claim import Axis, Claim, Evidence
from tfbatch.claims._pairs import Contest, Table, differences, told

if TYPE_CHECKING:
    from tfbatch.claims._court import Court

CARD = "X7T"
TITLE = "who leaves a bad optimum and a saddle, on paper"
ORDER = 62.0
CLAIMS: tuple[Claim, ...] = ()
ESCAPES, STAYS = "small-escapes-bad-optima", "large-stays-at-bad-optima"
RATE = 0.02
UPDATES = 2000
"""Of B0; the others as many, or for as many examples."""
_WALKS = 100
"""Of each seed."""
_BARRIERS = 4.0
"""Height of the barrier over the temperature at B0."""
_SHARE_MARGIN = 0.1
_TIME_MARGIN = math.log(1.1)
_TILT = 0.1
Points = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Landscape:
    """A loss with a trap.

    Attributes:
        gradient: At points [walks, dimensions].
        start: In the trap, [dimensions].
        has_left: Of points [walks, dimensions]: whether each is out of it.
    """

    gradient: Callable[[Points], Points]
    start: tuple[float, ...]
    has_left: Callable[[Points], npt.NDArray[np.bool_]]


def _height(x: float) -> float:
    return (x * x - 1) ** 2 / 4 - _TILT * x


SHALLOW, TOP, DEEP = (float(root.real) for root in sorted(np.roots([1, 0, -1, -_TILT])))
"""Bottom of the shallow well, top of the barrier, bottom of the deep one."""
BARRIER = _height(TOP) - _height(SHALLOW)
DOUBLE_WELL = Landscape(
    lambda x: x * x * x - x - _TILT, (SHALLOW,), lambda x: x[:, 0] > (TOP + DEEP) / 2
)
SADDLE = Landscape(
    lambda x: x * np.array([1.0, -1.0]), (0.0, 0.0), lambda x: np.abs(x[:, 1]) >= 1.0
)


def noise_of_an_update(rate: float, relative_size: float) -> float:
    """Standard deviation of what noise adds to each coordinate in an update.

    Args:
        rate: The learning rate.
        relative_size: The batch size over B0.
    """
    variance = 2 * BARRIER / (_BARRIERS * RATE * relative_size)  # of the gradient
    return rate * math.sqrt(variance)


def updates_to_escape(
    landscape: Landscape,
    *,
    rate: float,
    noise: float,
    updates: int,
    walks: int,
    generator: np.random.Generator,
) -> npt.NDArray[np.int64]:
    """After how many updates each walk has left the trap; 1 more than `updates` where it has not.

    Args:
        landscape: The loss.
        rate: The learning rate.
        noise: See noise_of_an_update.
        updates: How many are made at most.
        walks: Number of walks.
        generator: Draws the noise.
    """
    left = np.full(walks, updates + 1)
    inside = np.arange(walks)
    points = np.tile(np.array(landscape.start), (walks, 1))
    for update in range(1, updates + 1):
        points = points - rate * landscape.gradient(points)
        points += noise * generator.standard_normal(points.shape)
        leaves = landscape.has_left(points)
        if leaves.any():
            left[inside[leaves]] = update
            points, inside = points[~leaves], inside[~leaves]
            if not len(inside):
                break
    return left


def collect(court: Court) -> Iterator[Evidence]:
    """See tfbatch.claims.Card."""
    if court.asks(ESCAPES):
        yield _double_well(court, ESCAPES, "epochs")
        yield _time_on_the_saddle(court)
    if court.asks(STAYS):
        yield _double_well(court, STAYS, "updates")
        yield _saddle(court)


def _double_well(court: Court, claim: str, axis: Axis) -> Evidence:
    """Share of walks that leave the shallow well, small less large."""
    study = court.study
    updates = {
        size: UPDATES if axis == "updates" else max(1, round(UPDATES * study.base / size))
        for size in _sizes(court)
    }
    shares = _shares(court, DOUBLE_WELL, updates)
    listed = _listed(shares)
    if axis == "epochs":
        listed += (
            "; with rates in proportion to the batch size, while the same examples are seen, "
            f"{_listed(_shares(court, DOUBLE_WELL, updates, scaled=True))}"
        )
    blank = Evidence(
        claim,
        effects=(),
        margin=_SHARE_MARGIN,
        unit="share",
        axis=axis,
        policy="fixed",
        finding=f"on paper, {listed} of walks leave the shallow one of two wells",
        part="double well",
    )
    return told(blank, lambda: _small_less_large(court, shares))


def _saddle(court: Court) -> Evidence:
    """Share of walks that are still at the saddle after the same updates, large less small.

    As many updates as the wells have: after fewer of them some are still there, so that the finding
    says when half have left.
    """
    shares = _shares(court, SADDLE, dict.fromkeys(_sizes(court), UPDATES))
    half = ", ".join(f"{found:.0f}" for found in map(statistics.fmean, _halves(court).values()))
    blank = Evidence(
        STAYS,
        effects=(),
        margin=_SHARE_MARGIN,
        unit="share",
        axis="updates",
        policy="fixed",
        finding=f"on paper, {_listed(shares)} of walks leave a saddle in {UPDATES} updates, half "
        f"of them in {half}",
        part="saddle",
    )
    return told(blank, lambda: _small_less_large(court, shares))


def _time_on_the_saddle(court: Court) -> Evidence:
    """Log examples until a walk has left the saddle, large over small."""
    medians = _halves(court)
    listed = ", ".join(
        f"{statistics.fmean(found):.0f} at batch size {size}" for size, found in medians.items()
    )
    negative = {size: [-math.log(size * found) for found in each] for size, each in medians.items()}
    blank = Evidence(
        ESCAPES,
        effects=(),
        margin=_TIME_MARGIN,
        unit="log ratio",
        axis="epochs",
        policy="fixed",
        finding="on paper, examples until half of the walks have left a saddle, large over small; "
        f"in updates {listed}",
        part="saddle",
    )
    return told(blank, lambda: _small_less_large(court, negative))


def _halves(court: Court) -> dict[int, list[float]]:
    """After how many updates half of each seed's walks have left the saddle."""
    return {
        size: [float(np.median(times)) for times in _walks(court, SADDLE, size, UPDATES)]
        for size in _sizes(court)
    }


def _sizes(court: Court) -> list[int]:
    study = court.study
    return sorted({study.small, study.base, study.large})


def _small_less_large(court: Court, table: Table) -> Contest:
    small, large = court.study.apart(court.study.small, court.study.large)
    return Contest(small, large, differences(table[small], table[large]))


def _walks(
    court: Court, landscape: Landscape, size: int, updates: int, *, scaled: bool = False
) -> list[npt.NDArray[np.int64]]:
    """The updates of each seed's walks, at the same rate or at one in proportion to the size."""
    relative = size / court.study.base
    rate = RATE * relative if scaled else RATE
    seeds = court.seeds("verdict", court.preset.seeds)
    times = updates_to_escape(  # of all seeds at once: every walk has noise of its own
        landscape,
        rate=rate,
        noise=noise_of_an_update(rate, relative),
        updates=updates,
        walks=len(seeds) * _WALKS,
        generator=np.random.default_rng([*seeds, size]),
    )
    return np.split(times, len(seeds))


def _shares(
    court: Court, landscape: Landscape, updates: Mapping[int, int], *, scaled: bool = False
) -> dict[int, list[float]]:
    """Of each size the share of each seed's walks that have left within its updates."""
    return {
        size: [
            float((times <= made).mean())
            for times in _walks(court, landscape, size, made, scaled=scaled)
        ]
        for size, made in updates.items()
    }


def _listed(shares: Table) -> str:
    return ", ".join(
        f"{statistics.fmean(found):.0%} at batch size {size}" for size, found in shares.items()
    )
