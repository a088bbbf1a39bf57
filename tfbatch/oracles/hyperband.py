"""KerasTuner's Hyperband: many short trainings, of which the best are continued."""

from __future__ import annotations

import itertools
import math
import operator
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from tfbatch.metric_direction import Direction
from tfbatch.oracles._oracle import (
    BATCH_SIZE,
    NOTHING_KNOWN,
    Oracle,
    OracleSettings,
    Premises,
    Values,
)

if TYPE_CHECKING:
    import keras_tuner

_ROUNDING = 1e-9


class Settings(OracleSettings):
    """Brackets of successive halving (Li et al. 2018, arXiv 1603.06560).

    A bracket begins with random configurations and continues the best of them, a `factor` fewer
    and longer in each round, to the run's length. The first bracket begins with the shortest
    trainings, each further one with longer and fewer, the last with whole ones; then they begin
    again. A training is judged in the midst of its schedule, where a slow decay looks worse than
    it will end.

    Attributes:
        factor: How many times longer each round is, and how many times fewer go on.
        smallest_share: No training is shorter, as a share of the run's length; rounded up to a
            power of 1 / factor. With 3 and 0.1 there are rounds at 1/9, 1/3 and 1.
    """

    in_parts: ClassVar[bool] = True
    factor: int = Field(default=3, ge=2)
    smallest_share: float = Field(default=0.1, gt=0, lt=1)

    def needed_trainings(self, max_trials: int) -> float:
        """See OracleSettings: the first pass through all brackets, as far as the trials allow."""
        factor, rounds, total = float(self.factor), self._rounds(), 0.0
        ends = math.ceil(1 + math.log(factor**rounds, factor))  # as KerasTuner rounds it
        for last in range(rounds, -1, -1):
            sizes = [math.ceil(ends / (last + 1) * factor**k) for k in range(last, -1, -1)]
            shares: list[float] = [0.0, *(factor**-k for k in range(last, -1, -1))]
            own = [high - low for low, high in itertools.pairwise(shares)]
            begun = min(sizes[0], max_trials)
            if begun < sizes[0]:  # of a bracket that is not full none is continued
                return total + begun * own[0]
            total += math.fsum(map(operator.mul, sizes, own))
            max_trials -= begun
        return total

    def _rounds(self) -> int:
        """Rounds after the first one in the bracket that begins with the shortest trainings."""
        # The logarithm of 243 to the base of 3 is 4.999999999999999.
        return math.floor(-math.log(self.smallest_share, self.factor) + _ROUNDING)

    def make(
        self,
        hyperparameters: keras_tuner.HyperParameters,
        *,
        direction: Direction,
        seed: int,
        total_examples: int,
        premises: Premises = NOTHING_KNOWN,
    ) -> Oracle:
        """See OracleSettings."""
        from tfbatch.oracles._hyperband import HyperbandInParts

        def batch_size_of(values: Values) -> int:
            setting = premises.setting(values)
            return setting.batch_size if setting else int(values.get(BATCH_SIZE, 1))

        return HyperbandInParts(
            hyperparameters,
            direction=direction,
            seed=seed,
            total_examples=total_examples,
            units=self.factor ** self._rounds(),
            factor=self.factor,
            batch_size_of=batch_size_of,
            max_trials=premises.max_trials,
        )
