"""A budget in full trainings of the baseline: what trials cost, whatever else the machine does."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from tfbatch.configuration import Configuration
from tfbatch.oracles import Prices
from tfbatch.search.clock import kept_for_verification
from tfbatch.trial.finished_trial import FinishedTrial
from tfbatch.trial.outcome import TrialSpec


@dataclasses.dataclass(frozen=True)
class Trainings:
    """What trials cost in trainings of the baseline's length at the baseline's batch size.

    By the prices of the run: in seconds where step times were measured before the search, so that
    a training at a batch size of quicker epochs counts for less; else by the examples. It follows
    from the journal alone, so that a run that is resumed has spent what it had.

    Attributes:
        prices: The run's.
        baseline: The user's configuration.
        total_examples: Length of the run's trials.
        limit: The budget; infinite without one.
    """

    prices: Prices
    baseline: Configuration
    total_examples: int
    limit: float = math.inf

    def of(self, batch_size: int, examples: int) -> float:
        """What training on so many examples costs."""
        one = self.prices.cost(self.baseline.batch_size, self.total_examples)
        return self.prices.cost(batch_size, examples) / one

    def of_whole(self, configuration: Configuration) -> float:
        """What a training of the run's length costs."""
        return self.of(configuration.batch_size, self.total_examples)

    def of_trial(self, trial: FinishedTrial) -> float:
        """What a finished trial has cost: what its ancestors trained is theirs."""
        examples = max(trial.examples - trial.from_examples, 0)
        return self.of(trial.configuration.batch_size, examples) if examples else 0.0

    def of_spec(self, spec: TrialSpec) -> float:
        """What a trial that runs will cost at most."""
        return self.of(spec.configuration.batch_size, spec.end_examples - spec.from_examples)

    def spent(self, trials: Iterable[FinishedTrial]) -> float:
        """What all trials have cost, verification's too."""
        return math.fsum(map(self.of_trial, trials))

    def fits(self, more: float, *, spent: float, reserve: float = 0.0) -> bool:
        """Whether so much more fits beside what is spent and what is reserved."""
        return spent + reserve + more <= self.limit * (1 + 1e-9)

    def verification_reserve(self, rounds: Iterable[float]) -> float:
        """What is kept for verification: as many whole rounds as its share of the budget allows."""
        return kept_for_verification(rounds, limit=self.limit)
