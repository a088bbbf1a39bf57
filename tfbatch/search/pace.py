"""What a trial takes beside others, from two short rounds of real ones."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from pathlib import Path

from tfbatch.configuration import Configuration
from tfbatch.errors import SearchError
from tfbatch.oracles import Prices
from tfbatch.search.engine import Engine
from tfbatch.seeds import derive_seed
from tfbatch.trial.outcome import Outcome, TrialSpec

_SECONDS = 1.5
"""Of training, alone on the device, in each of them."""
_FEWEST_UPDATES = 2


@dataclasses.dataclass(frozen=True)
class Pace:
    """How trials that share the machine compare with prices, which are measured alone.

    Attributes:
        prices: Measured alone.
        num_examples: Size of the training split.
        slowdown: How many times as long updates and evaluations take beside other trials.
        fixed_seconds: What a trial takes beside them.
        first_seconds: What the first trial of every worker takes more: it is traced.
        weights_bytes: What the weights of a trial take on disk.
    """

    prices: Prices
    num_examples: int
    slowdown: float = 1.0
    fixed_seconds: float = 0.0
    first_seconds: float = 0.0
    weights_bytes: int = 0

    def of(self, spec: TrialSpec) -> float:
        """Wall-clock seconds of a trial beside others."""
        examples = spec.end_examples - spec.from_examples
        return self.seconds(spec.configuration.batch_size, examples)

    def seconds(self, batch_size: int, examples: int) -> float:
        """The same of a batch size and a number of examples."""
        return self.fixed_seconds + self.slowdown * self._alone(batch_size, examples)

    def _alone(self, batch_size: int, examples: int) -> float:
        """Updates and evaluations, without what a trial takes beside them."""
        return dataclasses.replace(self.prices, start_seconds=0.0).cost(batch_size, examples)


def measure_pace(
    engine: Engine, baseline: Configuration, prices: Prices, folder: Path, *, num_examples: int
) -> Pace:
    """Trains the baseline in every worker at once, twice for a short time.

    Args:
        engine: Runs no trial.
        baseline: What is trained.
        prices: In seconds.
        folder: For what the trials write.
        num_examples: Size of the training split.

    Raises:
        SearchError: A trial did not complete.
        StoppedError: The user requested a stop.
    """
    pace, size = Pace(prices, num_examples), baseline.batch_size
    step = pace._alone(size, size) - prices.evaluation_seconds
    updates = max(_FEWEST_UPDATES, math.ceil(_SECONDS / max(step, 1e-6)))
    rounds = []
    for number in (1, 2):
        specs = [
            TrialSpec(
                f"pace-{number}-{worker}",
                "search",
                derive_seed(1, "pace", worker),
                baseline,
                total_examples=updates * size,
                num_examples=num_examples,
                replicas=engine.devices.replicas,
                log_dir=folder / f"pace-{number}-{worker}",
                weights_file=folder / f"pace-{number}-{worker}.weights.h5",
            )
            for worker in range(engine.devices.workers)
        ]
        rounds.append(_side_by_side(engine, specs))
    (first, _), (seconds, outcomes) = rounds
    spec, evaluations = specs[0], math.ceil(updates * size / num_examples)
    training = statistics.mean(one.training_seconds for one in outcomes)
    slowdown = training / (spec.steps * step)
    evaluating = slowdown * evaluations * prices.evaluation_seconds
    file = spec.weights_file
    return dataclasses.replace(
        pace,
        slowdown=slowdown,
        fixed_seconds=max(seconds - training - evaluating, 0.0),
        first_seconds=max(first - seconds, 0.0),
        weights_bytes=file.stat().st_size if file and file.exists() else 0,
    )


def _side_by_side(engine: Engine, specs: list[TrialSpec]) -> tuple[float, list[Outcome]]:
    """Mean seconds from the start of each to its end, and the outcomes.

    Raises:
        SearchError: One did not complete.
    """
    begun: dict[str, float] = {}
    seconds, outcomes = [], []
    waiting = list(specs)
    while waiting or begun:
        while waiting and engine.can_start("search"):
            spec = waiting.pop(0)
            begun[spec.trial] = time.perf_counter()
            spec.derived  # noqa: B018 - here, once: it travels to the process that trains
            engine.start(spec)
        for spec, outcome in engine.wait():
            seconds.append(time.perf_counter() - begun.pop(spec.trial))
            if outcome.status != "completed":
                raise SearchError(
                    f"A short training of the baseline ended as {outcome.status}: {outcome.message}"
                )
            outcomes.append(outcome)
    return statistics.mean(seconds), outcomes
