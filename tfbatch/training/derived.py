"""Everything that follows from a configuration: computed here and nowhere else."""

from __future__ import annotations

from tfbatch.configuration import Configuration
from tfbatch.scaling_rules import scaled
from tfbatch.schema import Strict


class Derived(Strict):
    """Values that change with the batch size, for one length of training.

    Attributes:
        learning_rate: Peak learning rate at this batch size.
        total_examples: Length of the training.
        steps: Number of updates; only the last one may have fewer examples.
        steps_per_epoch: Updates between two evaluations.
        epochs: Number of evaluations.
        warmup_examples: Length of the warm-up.
        warmup_steps: The same in updates, rounded up.
    """

    learning_rate: float
    total_examples: int
    steps: int
    steps_per_epoch: int
    epochs: int
    warmup_examples: int
    warmup_steps: int


def derive(configuration: Configuration, *, num_examples: int, total_examples: int) -> Derived:
    """Derives everything from a configuration.

    Args:
        configuration: The configuration.
        num_examples: Size of the training split.
        total_examples: Length of the training.

    Raises:
        InputError: An unknown scaling rule.
    """
    batch_size = configuration.batch_size
    steps = -(-total_examples // batch_size)
    steps_per_epoch = min(steps, -(-num_examples // batch_size))
    warmup_examples = round(configuration.warmup_fraction * total_examples)
    at_rule = scaled(
        configuration.scaling_rule,
        configuration.base_learning_rate,
        batch_size=batch_size,
        base_batch_size=configuration.base_batch_size,
    )
    return Derived(
        learning_rate=at_rule * 2.0**configuration.learning_rate_octaves,
        total_examples=total_examples,
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        epochs=-(-steps // steps_per_epoch),
        warmup_examples=warmup_examples,
        warmup_steps=-(-warmup_examples // batch_size),
    )
