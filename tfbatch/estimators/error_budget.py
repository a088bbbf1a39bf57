"""The error budget of a verification, spent over the looks at its scores."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from tfbatch.estimators.seed_noise import differences, seed_noise
from tfbatch.estimators.vectors import Array

ERROR = 0.018
"""Probability that chance alone shows anything, over all looks, where the noise is equal and
normal. It leaves 0.7 % of the promised 2.5 % for noise that is not; benchmarks/results/choice.md.
"""
SPENT = {2: 0.01, 3: 0.14, 5: 0.60, 10: 0.20, 20: 0.05}
"""The share of it that a look may spend, by the number of seeds. It does not depend on how many are
planned: a verification that is extended has not spent what it needs."""
_AT_ONCE = 1000
"""Races that are simulated at once: 20,000 of 12 configurations would take 850 MB."""


@dataclasses.dataclass(frozen=True)
class Bounds:
    """How many standard errors show a difference at one look.

    Attributes:
        from_baseline: For any configuration against the baseline.
        from_other: For any configuration against one that is not the baseline.
    """

    from_baseline: float
    from_other: float


def bounds(configurations: int, seeds: int, *, again: bool) -> dict[int, Bounds]:
    """The bounds of every look, by its number of seeds.

    They are those of Dunnett (1955), one-sided comparisons of several with one, for the product's
    own estimates of noise and for looks that have gone before.

    Args:
        configurations: How many are compared, the baseline among them, at least 2.
        seeds: Looks up to this number of seeds.
        again: Whether the baseline has a second training for each seed.
    """
    found = _SIMULATED.get((configurations, again)) or simulated_bounds(configurations, again=again)
    return {look: Bounds(*found[look]) for look in SPENT if look <= seeds}


@functools.cache
def simulated_bounds(
    configurations: int, *, again: bool, races: int = 20_000, last: int = max(SPENT)
) -> dict[int, tuple[float, float]]:
    """Quantiles over simulated races of equal configurations, none of which leaves.

    Args:
        configurations: How many are compared.
        again: Whether the first has a second training for each seed.
        races: Their number; the random numbers have a fixed seed.
        last: Number of seeds of the last look.

    Returns:
        By number of seeds, the bounds against the first and against another configuration.
    """
    random = np.random.default_rng([configurations, again])
    looks = [n for n in SPENT if n <= last]
    parts = [
        _largest_ratios(random, configurations, again, min(_AT_ONCE, races - begun), looks)
        for begun in range(0, races, _AT_ONCE)
    ]
    ratios = np.concatenate(parts, axis=-1)
    crossed = np.zeros((2, races), bool)
    found = {}
    for look, largest in zip(looks, ratios, strict=True):
        both = []
        for which in (0, 1):
            left = np.sort(largest[which][~crossed[which]])
            both.append(round(float(left[-1 - round(ERROR * SPENT[look] * races)]), 3))
            crossed[which] |= largest[which] > both[which]
        found[look] = (both[0], both[1])
    return found


def _largest_ratios(
    random: np.random.Generator, configurations: int, again: bool, races: int, looks: Sequence[int]
) -> Array:
    """How far above the first, and above another one, any lies by chance: [looks, 2, races]."""
    last = looks[-1]
    scores = np.full((races, configurations, 2 * last if again else last), np.nan)
    scores[:, :, :last] = random.normal(size=(races, configurations, last))
    if again:
        scores[:, 0, last:] = random.normal(size=(races, last))
    found = np.empty((len(looks), 2, races))
    for row, look in enumerate(looks):
        seen = np.concatenate([scores[..., :look], scores[..., last : last + look]], axis=-1)
        apart, errors = differences(seen, seed_noise(seen))
        ratios = apart / np.where(np.eye(configurations, dtype=bool), 1.0, errors)
        for which in (0, 1):
            found[row, which] = np.delete(ratios[:, :, which], which, axis=1).max(1)
    return found


_SIMULATED: dict[tuple[int, bool], dict[int, tuple[float, float]]] = {
    (2, False): {
        2: (25.524, 27.786),
        3: (4.129, 4.225),
        5: (2.487, 2.458),
        10: (2.751, 2.731),
        20: (3.174, 3.106),
    },
    (2, True): {
        2: (7.923, 7.431),
        3: (3.499, 3.273),
        5: (2.337, 2.363),
        10: (2.67, 2.657),
        20: (3.041, 3.051),
    },
    (3, False): {
        2: (30.889, 34.889),
        3: (4.434, 4.448),
        5: (2.766, 2.75),
        10: (2.944, 2.93),
        20: (3.268, 3.296),
    },
    (3, True): {
        2: (11.27, 17.284),
        3: (3.861, 3.972),
        5: (2.721, 2.666),
        10: (2.883, 2.907),
        20: (3.355, 3.241),
    },
    (4, False): {
        2: (19.677, 19.784),
        3: (4.348, 4.416),
        5: (2.818, 2.836),
        10: (3.028, 3.033),
        20: (3.445, 3.308),
    },
    (4, True): {
        2: (8.622, 13.689),
        3: (3.944, 3.907),
        5: (2.783, 2.746),
        10: (3.036, 2.978),
        20: (3.438, 3.348),
    },
    (5, False): {
        2: (14.982, 12.42),
        3: (4.104, 4.158),
        5: (2.85, 2.876),
        10: (3.083, 3.123),
        20: (3.411, 3.471),
    },
    (5, True): {
        2: (8.533, 12.605),
        3: (3.917, 3.872),
        5: (2.857, 2.815),
        10: (3.11, 3.107),
        20: (3.516, 3.493),
    },
    (6, False): {
        2: (12.225, 12.63),
        3: (4.058, 4.037),
        5: (2.938, 2.885),
        10: (3.2, 3.157),
        20: (3.579, 3.478),
    },
    (6, True): {
        2: (8.839, 8.867),
        3: (3.972, 3.9),
        5: (2.925, 2.868),
        10: (3.205, 3.107),
        20: (3.602, 3.469),
    },
    (7, False): {
        2: (10.719, 10.464),
        3: (4.004, 4.052),
        5: (2.919, 2.905),
        10: (3.201, 3.205),
        20: (3.564, 3.521),
    },
    (7, True): {
        2: (8.361, 7.772),
        3: (3.861, 3.813),
        5: (2.97, 2.907),
        10: (3.184, 3.145),
        20: (3.638, 3.576),
    },
}
"""What `simulated_bounds` gives, by the number of configurations and `again`.

Copied from its results with 60,000 races; a test compares.
"""
