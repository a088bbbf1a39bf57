"""The value of a metric without learning, and how much noise can add to it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from tfbatch.metric_direction import Direction

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

    def without_knowledge(self) -> float:
        """The constant prediction's value, or else the untrained model's; perhaps not finite."""
        known = self.constant is not None and math.isfinite(self.constant)
        return self.constant if known and self.constant is not None else self.untrained

    def known(self) -> float | None:
        """The same, or None where it is not finite."""
        value = self.without_knowledge()
        return value if math.isfinite(value) else None

    def knows_before_training(self, direction: Direction) -> bool:
        """Whether the untrained model beats a constant prediction beyond noise: pretrained."""
        if self.constant is None or not math.isfinite(self.constant + self.untrained):
            return False
        return self._gain(self.untrained, self.constant, direction) > self._least(self.constant)

    def beaten_by(self, score: float, direction: Direction) -> bool:
        """Whether a score is better than both references by more than the noise.

        The noise is that of predictions that ignore the inputs. A model that is good at first
        changes few of its predictions, on the same examples: there any gain over it counts.
        """
        pretrained = self.knows_before_training(direction)
        for reference in (self.untrained, self.constant):
            if reference is None or not math.isfinite(reference):
                continue
            least = self._least(reference)
            if pretrained and reference is self.untrained:
                least = _SAME * abs(reference)
            if not self._gain(score, reference, direction) > least:
                return False
        return True

    def _least(self, reference: float) -> float:
        return max(self.noise, _SAME * abs(reference))

    @staticmethod
    def _gain(score: float, reference: float, direction: Direction) -> float:
        return score - reference if direction == "max" else reference - score


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


def auc_noise(positives: float, negatives: float) -> float:
    """Noise of an area under the ROC curve at 0.5: the deviation of the Mann-Whitney statistic.

    Args:
        positives: Examples of class 1, > 0.
        negatives: Examples of class 0, > 0.
    """
    return DEVIATIONS * math.sqrt((positives + negatives + 1) / (12 * positives * negatives))


def cross_entropy_noise(examples: int) -> float:
    """Noise of a mean cross-entropy, in nats.

    Predictions that differ from the constant one by log ratios of deviation e, independent of the
    classes, cost e**2 / 2 on average and gain z * e / sqrt(n) by luck: at most z**2 / (2 n).
    """
    return DEVIATIONS**2 / (2 * examples)


def absolute_error_noise(error: float, examples: int) -> float:
    """Noise of a mean absolute error, where the best constant prediction has `error`.

    Predictions at a distance f from the median cost p * f**2, with p the density of the targets
    there, and gain z * f / sqrt(n) by luck: at most z**2 / (4 n p). The density is 1 / (4 error)
    for uniform targets, and larger for normal ones and others with longer tails.
    """
    return DEVIATIONS**2 * error / examples


def squared_error_noise(variance: float, examples: int) -> float:
    """Noise of a mean squared error.

    Predictions of deviation f around the mean cost f**2 and gain 2 z f sd / sqrt(n) by luck: at
    most z**2 * variance / n.
    """
    return DEVIATIONS**2 * variance / examples
