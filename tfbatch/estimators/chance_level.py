"""The value of a metric without learning, and how much noise can add to it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

DEVIATIONS = 3.0
"""Luck is taken to reach so many standard deviations: the best of 24 trials is one in 30 times."""
_SAME = 1e-6
"""Values within this share of each other are equal: float32 sums differ in their order."""


@dataclasses.dataclass(frozen=True)
class ChanceLevel:
    """A metric's value for predictions that do not depend on the inputs.

    Attributes:
        untrained: That of the untrained model.
        constant: That of the best constant prediction, or None where none is known.
        noise: How much better such predictions can be on these examples by chance.
    """

    untrained: float
    constant: float | None = None
    noise: float = 0.0

    def best(self, direction: Literal["min", "max"]) -> float:
        """The better one of both references."""
        known = [v for v in (self.untrained, self.constant) if v is not None and math.isfinite(v)]
        if not known:
            return -math.inf if direction == "max" else math.inf
        return max(known) if direction == "max" else min(known)

    def beaten_by(self, score: float, direction: Literal["min", "max"]) -> bool:
        """Whether a score is better than both references by more than the noise."""
        reference = self.best(direction)
        if not math.isfinite(reference):
            return True
        gain = score - reference if direction == "max" else reference - score
        return gain > max(self.noise, _SAME * abs(reference))


def constant_accuracy(counts: Sequence[float]) -> float:
    """Accuracy of always predicting the most frequent class.

    Args:
        counts: Examples of each class.
    """
    return max(counts) / sum(counts)


def constant_cross_entropy(counts: Sequence[float]) -> float:
    """Cross-entropy of predicting the classes' shares: their entropy, in nats.

    Args:
        counts: Examples of each class.
    """
    total = sum(counts)
    return -sum(n / total * math.log(n / total) for n in counts if n)


def accuracy_noise(accuracy: float, examples: int) -> float:
    """Noise of an accuracy: `DEVIATIONS` binomial standard deviations."""
    share = min(max(accuracy, 0.0), 1.0)
    return DEVIATIONS * math.sqrt(share * (1 - share) / examples)


def cross_entropy_noise(examples: int) -> float:
    """Noise of a mean cross-entropy, in nats.

    Predictions that differ from the constant one by log ratios of deviation e, independent of the
    classes, cost e**2 / 2 on average and gain z * e / sqrt(n) by luck: at most z**2 / (2 n).
    """
    return DEVIATIONS**2 / (2 * examples)


def squared_error_noise(variance: float, examples: int) -> float:
    """Noise of a mean squared error.

    Predictions of deviation f around the mean cost f**2 and gain 2 z f sd / sqrt(n) by luck: at
    most z**2 * variance / n.
    """
    return DEVIATIONS**2 * variance / examples
