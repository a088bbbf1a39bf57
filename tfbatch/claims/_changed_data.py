"""What a training of the court may change about the data."""

from __future__ import annotations

import dataclasses

from tfbatch.errors import InputError


@dataclasses.dataclass(frozen=True)
class DataChange:
    """How the data of a training differs from the user's; nothing is changed by default.

    What is random about it has one fixed seed: all trainings see the same changed data, without
    augmentation. The validation split is the user's, its inputs changed like those of the training
    split.

    Attributes:
        share: Share of the training split; a smaller one is part of a larger one.
        label_noise: Share of the training examples whose label is wrong: another class with equal
            probability, or the target of another example where there are no classes.
        raw_inputs: Inputs are scaled so that those of the training split go from 0 to 255, as
            pixels do that nobody has normalized.
        imbalance: Examples of the first class for each one of the last; those between fall
            exponentially (Cui et al. 2019, "long-tailed").
        shuffled: Whether each epoch has its own order; else all have the order of the data.
        image_scale: Height and width of the images, as a multiple of the user's.

    Raises:
        InputError: A number out of its range.
    """

    share: float = 1.0
    label_noise: float = 0.0
    raw_inputs: bool = False
    imbalance: float = 1.0
    shuffled: bool = True
    image_scale: float = 1.0

    def __post_init__(self) -> None:
        rules = (
            ("share", 0 < self.share <= 1, "> 0 and at most 1"),
            ("label_noise", 0 <= self.label_noise < 1, "from 0 to below 1"),
            ("imbalance", self.imbalance >= 1, "at least 1"),
            ("image_scale", self.image_scale > 0, "> 0"),
        )
        for name, holds, rule in rules:
            if not holds:
                raise InputError(f"`{name}` must be {rule}. Received: {getattr(self, name)}.")

    def examples_of(self, num_examples: int) -> int:
        """Size of the share of a training split of `num_examples`."""
        return max(1, round(self.share * num_examples))
