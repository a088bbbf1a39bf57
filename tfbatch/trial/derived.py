"""Everything that follows from a configuration: computed here and nowhere else."""

from __future__ import annotations

from typing import Any

from tfbatch.configuration import Configuration
from tfbatch.scaling_rules import scaled
from tfbatch.schema import JsonObject, Strict
from tfbatch.trial.optimizer_numbers import numbers_at

_MOST_STEPS = 32
_MOST_EXAMPLES = 2048
_LONGER = 1.02


class Derived(Strict):
    """Values that change with the batch size, for one length of training.

    Attributes:
        batch_size: Examples in one update, of all replicas together.
        learning_rate: Peak learning rate at this batch size.
        total_examples: Length of the training.
        steps: Number of updates; only the last one may have fewer examples.
        steps_per_epoch: Updates between two evaluations: a pass over the training split where
            nothing else was asked for, rounded up to a multiple of `steps_per_execution`.
        steps_per_execution: Updates in one call of the compiled program, between two calls of the
            callbacks: small batches would drown in Python otherwise.
        epochs: Number of evaluations.
        warmup_examples: Length of the warm-up.
        warmup_steps: The same in updates, rounded up.
        optimizer: Every number of the optimizer at this batch size, by Keras's name.
        derived_numbers: Those that the configuration does not have as they are.
        held_numbers: Those that a rule or a half-life would have taken out of their range; see
            tfbatch.trial.optimizer_numbers.
    """

    batch_size: int
    learning_rate: float
    total_examples: int
    steps: int
    steps_per_epoch: int
    steps_per_execution: int
    epochs: int
    warmup_examples: int
    warmup_steps: int
    optimizer: dict[str, float | bool | None] = {}
    derived_numbers: tuple[str, ...] = ()
    held_numbers: tuple[str, ...] = ()

    def numbers(self) -> JsonObject:
        """The optimizer's derived numbers as `derived_NAME`; `held_numbers` if any are held."""
        row: dict[str, Any] = {f"derived_{k}": self.optimizer[k] for k in self.derived_numbers}
        return {**row, "held_numbers": " ".join(self.held_numbers)} if self.held_numbers else row

    def flat(self) -> JsonObject:
        """Everything under flat keys, for a row of a table."""
        whole = {"optimizer", "derived_numbers", "held_numbers"}
        return {**self.model_dump(exclude=whole), **self.numbers()}


def derive(
    configuration: Configuration,
    *,
    num_examples: int,
    total_examples: int,
    replicas: int = 1,
    examples_before: int = 0,
    evaluated_every: int | None = None,
) -> Derived:
    """Derives everything from a configuration.

    Args:
        configuration: The configuration.
        num_examples: Size of the training split.
        total_examples: Length of the training, or of the schedule that a branch begins anew.
        replicas: Devices that share every batch. With several, a short last batch is left out: a
            device without an example would make the loss no number.
        examples_before: What the state that a branch began from had seen: an average of the
            weights over a share of the training counts it too.
        evaluated_every: Examples between two evaluations; None for a pass over the training split.

    Raises:
        InputError: An unknown scaling rule, or what tfbatch.trial.optimizer_numbers refuses.
    """
    batch_size = configuration.batch_size
    if replicas > 1:
        total_examples = max(total_examples - total_examples % batch_size, batch_size)
    steps = -(-total_examples // batch_size)
    steps_per_epoch = min(steps, -(-(evaluated_every or num_examples) // batch_size))
    # Keras's loop over several steps fails in a mirrored graph (tests/test_strategy.py).
    steps_per_execution = 1 if replicas > 1 else _steps_per_execution(steps_per_epoch, batch_size)
    steps_per_epoch = -(-steps_per_epoch // steps_per_execution) * steps_per_execution
    warmup_examples = round(configuration.warmup_fraction * total_examples)
    at_rule = scaled(
        configuration.scaling_rule.name,
        configuration.base_learning_rate,
        batch_size=batch_size,
        base_batch_size=configuration.base_batch_size,
        parameters=configuration.scaling_rule.arguments,
    )
    learning_rate = at_rule * 2.0**configuration.learning_rate_octaves
    numbers = numbers_at(
        configuration,
        learning_rate=learning_rate,
        num_examples=num_examples,
        total_examples=examples_before + total_examples,
    )
    return Derived(
        batch_size=batch_size,
        learning_rate=learning_rate,
        total_examples=total_examples,
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        steps_per_execution=steps_per_execution,
        epochs=-(-steps // steps_per_epoch),
        warmup_examples=warmup_examples,
        warmup_steps=-(-warmup_examples // batch_size),
        optimizer=numbers.values,
        derived_numbers=numbers.derived,
        held_numbers=numbers.held,
    )


def _steps_per_execution(steps_per_epoch: int, batch_size: int) -> int:
    """At most 32 steps and 2,048 examples, so that a stop or a divergence is noticed soon.

    Only whole executions make an epoch whole: the largest divisor of its steps is taken if it is
    at least half of what is allowed, else the largest number that lengthens it by at most 2 %.
    """
    most = max(min(_MOST_STEPS, _MOST_EXAMPLES // batch_size), 1)
    divisor = next(k for k in range(most, 0, -1) if steps_per_epoch % k == 0)
    if 2 * divisor >= most:
        return divisor
    fitting = (
        k for k in range(most, 0, -1) if -(-steps_per_epoch // k) * k <= _LONGER * steps_per_epoch
    )
    return next(fitting)
