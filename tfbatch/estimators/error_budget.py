"""The error budget of a verification, spent over the looks at its scores."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

from tfbatch.estimators.seed_noise import differences, seed_noise
from tfbatch.estimators.vectors import Array

ERROR = 0.018
"""Probability that chance alone shows a gain, over all looks, where the noise is equal and normal;
and that it shows one to be as good that lies behind by the band. It leaves 0.7 % of the promised
2.5 % for noise that is not; benchmarks/results/choice.md.
"""
LOOKS = (2, 3, 5, 10, 20, 40, 80)
"""Numbers of seeds at which the scores are judged."""
BETTER = dict(zip(LOOKS, (0.01, 0.14, 0.60, 0.19, 0.04, 0.01, 0.01), strict=True))
"""The share of the error that a look may spend on gains. It does not depend on how many seeds are
planned: a verification that is extended has not spent what it needs."""
AS_GOOD = dict(zip(LOOKS, (0.0, 0.10, 0.20, 0.30, 0.20, 0.15, 0.05), strict=True))
"""Likewise for what is as good: more of it later, since a difference within one deviation between
seeds needs 10 to 40 of them."""


@dataclasses.dataclass(frozen=True)
class Bounds:
    """How many standard errors show a difference at one look.

    Attributes:
        better: For any configuration above the baseline.
        as_good: For any configuration above the edge of the band behind what it would replace;
            infinite where the look spends nothing on that.
    """

    better: float
    as_good: float


def bounds(configurations: int, seeds: int, *, again: bool) -> dict[int, Bounds]:
    """The bounds of every look, by its number of seeds.

    They are those of Dunnett (1955), one-sided comparisons of several with one, for the product's
    own estimates of noise and for looks that have gone before.

    Args:
        configurations: How many are compared, the one that they are compared with among them, at
            least 2.
        seeds: Looks up to this number of seeds.
        again: Whether that one has a second training for each seed.
    """
    found = _SIMULATED.get((configurations, again)) or simulated_bounds(configurations, again=again)
    return {look: Bounds(*found[look]) for look in LOOKS if look <= seeds}


@functools.cache
def simulated_bounds(
    configurations: int, *, again: bool, races: int = 20_000, last: int = max(LOOKS)
) -> dict[int, tuple[float, float]]:
    """Quantiles over simulated races of equal configurations, none of which leaves.

    Args:
        configurations: How many are compared.
        again: Whether the first has a second training for each seed.
        races: Their number; the random numbers have a fixed seed.
        last: Number of seeds of the last look.

    Returns:
        By number of seeds, the bounds that show a gain, and that show one to be as good.
    """
    looks = [n for n in LOOKS if n <= last]
    random = np.random.default_rng([configurations, again])
    numbers = races * configurations * (last + configurations)
    parts = [
        _largest(random, configurations, again=again, races=len(part), looks=looks)
        for part in np.array_split(np.arange(races), max(1, numbers // _AT_ONCE))
    ]
    largest = np.concatenate(parts, axis=1)
    found = [_quantiles(largest, [spent[n] for n in looks]) for spent in (BETTER, AS_GOOD)]
    return dict(zip(looks, zip(*found, strict=True), strict=True))


_AT_ONCE = 100_000
"""Numbers in one array: each process that reads an answer may simulate."""


def _largest(
    random: np.random.Generator, configurations: int, *, again: bool, races: int, looks: list[int]
) -> Array:
    """How many standard errors the others lie above the first at most, [looks, races]."""
    last = looks[-1]
    scores = random.normal(size=(races, configurations, 2 * last if again else last))
    scores[:, 1:, last:] = np.nan
    found = []
    for look in looks:
        seen = np.concatenate([scores[..., :look], scores[..., last : last + look]], axis=-1)
        apart, errors = differences(seen, seed_noise(seen))
        found.append((apart[:, 1:, 0] / errors[:, 1:, 0]).max(1))
    return np.stack(found)


def _quantiles(largest: Array, shares: list[float]) -> list[float]:
    """The bound of each look, of races that no earlier look has ended."""
    going = np.ones(largest.shape[1], bool)
    found = []
    for most, share in zip(largest, shares, strict=True):
        ended = round(ERROR * share * len(going))
        left = np.sort(most[going])
        found.append(round(float(left[-1 - ended]), 3) if ended else math.inf)
        going &= most <= found[-1]
    return found


_SIMULATED: dict[tuple[int, bool], dict[int, tuple[float, float]]] = {
    (2, False): {
        2: (28.073, math.inf),
        3: (4.295, 4.771),
        5: (2.472, 3.053),
        10: (2.745, 2.671),
        20: (3.188, 2.656),
        40: (3.525, 2.685),
        80: (3.356, 2.943),
    },
    (2, True): {
        2: (9.14, math.inf),
        3: (3.31, 3.523),
        5: (2.353, 2.879),
        10: (2.717, 2.623),
        20: (3.089, 2.61),
        40: (3.481, 2.654),
        80: (3.608, 2.979),
    },
    (3, False): {
        2: (39.665, math.inf),
        3: (4.548, 5.043),
        5: (2.729, 3.314),
        10: (2.982, 2.866),
        20: (3.397, 2.857),
        40: (3.754, 2.886),
        80: (3.693, 3.267),
    },
    (3, True): {
        2: (8.933, math.inf),
        3: (3.827, 4.081),
        5: (2.655, 3.18),
        10: (2.884, 2.812),
        20: (3.304, 2.867),
        40: (3.787, 2.911),
        80: (3.748, 3.229),
    },
    (4, False): {
        2: (18.371, math.inf),
        3: (4.285, 4.581),
        5: (2.804, 3.323),
        10: (3.081, 2.964),
        20: (3.552, 2.998),
        40: (3.865, 3.051),
        80: (3.868, 3.312),
    },
    (4, True): {
        2: (8.8, math.inf),
        3: (3.997, 4.196),
        5: (2.774, 3.273),
        10: (3.041, 2.944),
        20: (3.475, 2.973),
        40: (3.76, 3.077),
        80: (3.748, 3.339),
    },
    (5, False): {
        2: (14.863, math.inf),
        3: (4.274, 4.519),
        5: (2.87, 3.372),
        10: (3.149, 3.04),
        20: (3.506, 3.047),
        40: (3.854, 3.148),
        80: (3.904, 3.417),
    },
    (5, True): {
        2: (8.618, math.inf),
        3: (3.94, 4.139),
        5: (2.861, 3.346),
        10: (3.13, 3.045),
        20: (3.5, 3.053),
        40: (3.885, 3.115),
        80: (3.773, 3.372),
    },
    (6, False): {
        2: (11.74, math.inf),
        3: (4.087, 4.312),
        5: (2.905, 3.452),
        10: (3.144, 3.045),
        20: (3.597, 3.095),
        40: (3.985, 3.19),
        80: (3.954, 3.526),
    },
    (6, True): {
        2: (8.565, math.inf),
        3: (3.858, 4.04),
        5: (2.92, 3.344),
        10: (3.197, 3.092),
        20: (3.655, 3.115),
        40: (3.958, 3.224),
        80: (3.968, 3.465),
    },
    (7, False): {
        2: (9.589, math.inf),
        3: (4.037, 4.199),
        5: (2.964, 3.417),
        10: (3.208, 3.127),
        20: (3.636, 3.202),
        40: (3.922, 3.277),
        80: (4.15, 3.605),
    },
    (7, True): {
        2: (7.271, math.inf),
        3: (3.839, 4.005),
        5: (2.96, 3.384),
        10: (3.238, 3.103),
        20: (3.695, 3.177),
        40: (4.093, 3.282),
        80: (3.937, 3.491),
    },
    (8, False): {
        2: (8.793, math.inf),
        3: (3.954, 4.127),
        5: (2.989, 3.418),
        10: (3.253, 3.162),
        20: (3.707, 3.223),
        40: (4.026, 3.287),
        80: (4.022, 3.514),
    },
    (8, True): {
        2: (7.981, math.inf),
        3: (3.915, 4.091),
        5: (2.984, 3.406),
        10: (3.255, 3.156),
        20: (3.755, 3.219),
        40: (4.013, 3.306),
        80: (3.997, 3.594),
    },
    (9, False): {
        2: (7.988, math.inf),
        3: (3.94, 4.137),
        5: (3.04, 3.529),
        10: (3.267, 3.183),
        20: (3.702, 3.256),
        40: (3.996, 3.343),
        80: (4.063, 3.62),
    },
    (9, True): {
        2: (6.57, math.inf),
        3: (3.844, 3.997),
        5: (3.059, 3.496),
        10: (3.343, 3.245),
        20: (3.77, 3.293),
        40: (4.208, 3.379),
        80: (4.179, 3.63),
    },
    (10, False): {
        2: (6.822, math.inf),
        3: (3.971, 4.199),
        5: (2.998, 3.385),
        10: (3.294, 3.181),
        20: (3.814, 3.295),
        40: (4.013, 3.341),
        80: (3.993, 3.637),
    },
    (10, True): {
        2: (6.73, math.inf),
        3: (3.863, 4.02),
        5: (3.091, 3.535),
        10: (3.376, 3.271),
        20: (3.734, 3.346),
        40: (4.171, 3.371),
        80: (4.114, 3.694),
    },
}
"""What `simulated_bounds` gives, by the number of configurations and `again`.

Copied from its results with 60,000 races; a test compares.
"""
