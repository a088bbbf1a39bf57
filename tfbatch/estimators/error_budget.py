"""The error budget of a verification, spent over the looks at its scores."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from tfbatch.estimators.seed_noise import differences, seed_noise

ERROR = 0.018
"""Probability that chance alone shows anything, over all looks, where the noise is equal and
normal. It leaves 0.7 % of the promised 2.5 % for noise that is not; benchmarks/results/choice.md.
"""
SPENT = {2: 0.01, 3: 0.14, 5: 0.60, 10: 0.20, 20: 0.05}
"""The share of it that a look may spend, by the number of seeds. It does not depend on how many are
planned: a verification that is extended has not spent what it needs."""
_RACES = 20_000


@dataclasses.dataclass(frozen=True)
class Bounds:
    """How many standard errors show a difference at one look.

    Attributes:
        from_baseline: For any configuration against the baseline.
        from_other: For any configuration against one that is not the baseline.
    """

    from_baseline: float
    from_other: float


@functools.cache
def bounds(configurations: int, seeds: int, *, again: bool) -> dict[int, Bounds]:
    """The bounds of every look, by its number of seeds.

    They are those of Dunnett (1955), one-sided comparisons of several with one, for the product's
    own estimates of noise and for looks that have gone before: quantiles over simulated races of
    equal configurations, none of which leaves. The simulation has a fixed seed.

    Args:
        configurations: How many are compared, the baseline among them, at least 2.
        seeds: Looks up to this number of seeds.
        again: Whether the baseline has a second training for each seed.
    """
    looks = [n for n in SPENT if n <= seeds]
    columns = max(looks, default=0)
    random = np.random.default_rng([configurations, again])
    scores = np.empty((_RACES, configurations, 2 * columns if again else columns))
    for seed in range(columns):  # in this order a further seed leaves those before it as they are
        scores[:, :, seed] = random.normal(size=(_RACES, configurations))
        if again:
            scores[:, :, columns + seed] = np.nan
            scores[:, 0, columns + seed] = random.normal(size=_RACES)
    crossed = np.zeros((2, _RACES), bool)
    found = {}
    for look in looks:
        seen = scores.copy()
        seen[:, :, look:columns] = np.nan
        seen[:, :, columns + look :] = np.nan
        noise = seed_noise(seen)
        apart, errors = differences(seen, noise)
        ratios = apart / np.where(np.eye(configurations, dtype=bool), 1.0, errors)
        both = []
        for which in (0, 1):
            most = np.delete(ratios[:, :, which], which, axis=1).max(1)
            left = np.sort(most[~crossed[which]])
            spent = round(ERROR * SPENT[look] * _RACES)
            both.append(float(left[-1 - spent]))
            crossed[which] |= most > both[which]
        found[look] = Bounds(*both)
    return found
