"""What training costs, as far as it is known before a search begins."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

import numpy as np


@dataclasses.dataclass(frozen=True)
class Prices:
    """What training costs at each batch size.

    In seconds where step times are known; else in examples, which makes proposals repeatable on
    any machine. Costs are only compared with one another.

    Example:
        ```python
        prices = Prices({32: 0.004, 256: 0.010}, evaluation_seconds=0.2, epoch_examples=10_000)
        prices.cost(32, 20_000)  # 625 updates and 2 evaluations: 2.9
        Prices().cost(32, 20_000)  # 20,000 examples
        ```

    Attributes:
        step_seconds: Seconds of one update alone on the device, by batch size; empty where nothing
            was measured.
        evaluation_seconds: Of one evaluation on the validation split.
        epoch_examples: Size of the training split: a training is evaluated at the end of each epoch
            and at its own end; 0 for at its own end alone.
        start_seconds: Of a trial, before its first update.
    """

    step_seconds: Mapping[int, float] = dataclasses.field(default_factory=dict)
    evaluation_seconds: float = 0.0
    epoch_examples: int = 0
    start_seconds: float = 0.0

    @property
    def unit(self) -> Literal["seconds", "examples"]:
        """What costs are counted in."""
        return "seconds" if self.step_seconds else "examples"

    def cost(self, batch_size: int, examples: int) -> float:
        """What training on a number of examples costs, as one trial.

        The time of an update at a batch size between two measured ones is interpolated; beyond
        them it is proportional to the batch size above, and that of the smallest below.
        """
        if not self.step_seconds:
            return float(examples)
        updates = math.ceil(examples / batch_size)
        evaluations = math.ceil(examples / self.epoch_examples) if self.epoch_examples else 1
        return (
            self.start_seconds
            + updates * self._step(batch_size)
            + evaluations * self.evaluation_seconds
        )

    def _step(self, batch_size: int) -> float:
        sizes = sorted(self.step_seconds)
        beyond = max(batch_size / sizes[-1], 1.0)
        return beyond * float(
            np.interp(batch_size, sizes, [self.step_seconds[size] for size in sizes])
        )


NO_PRICES = Prices()
"""Where nothing was measured: costs are counted in examples."""
