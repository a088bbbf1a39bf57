"""Plans a run: measures step times, rehearses the search, and trains nothing."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from tfbatch.answer.plan import Plan, PlannedStage
from tfbatch.errors import SearchError
from tfbatch.interleaved_rounds import FEWEST_ROUNDS
from tfbatch.oracles import NO_PRICES
from tfbatch.request.request import Request
from tfbatch.search.clock import FINISHING_SECONDS
from tfbatch.search.engine import Engine
from tfbatch.search.pace import Pace, measure_pace
from tfbatch.search.prices import prices_of
from tfbatch.search.progress import Progress
from tfbatch.search.rehearsal import Rehearsal, Rehearsed
from tfbatch.search.space import SearchSpace
from tfbatch.search.trial_length import expected_test_seconds
from tfbatch.training.evaluation import Untrained
from tfbatch.training.prices import ROUND_SECONDS
from tfbatch.training.step_times import ROUNDS


@dataclasses.dataclass(frozen=True)
class Planner:
    """What a plan follows from.

    Attributes:
        request: What is asked.
        space: The search's space.
        engine: Measures.
        folder: A run folder that nobody keeps.
        progress: Receives the progress.
        untrained: The untrained model.
        splits: Examples of each split.
        largest_batch_size: No larger one is tried; None where nothing was measured.
        begun_seconds: What opening model and data took, from the command's start.
    """

    request: Request
    space: SearchSpace
    engine: Engine
    folder: Path
    progress: Progress
    untrained: Untrained
    splits: dict[str, int]
    largest_batch_size: int | None
    begun_seconds: float

    def plan(self) -> Plan:
        """Measures and rehearses.

        Raises:
            SearchError: No step time could be measured, or a short training did not complete.
            StoppedError: The user requested a stop.
        """
        request, space = self.request, self.space
        baseline = request.baseline_configuration(space.scaling_rule)
        num_examples = self.splits["train"]
        total_examples = request.trial_length.examples(num_examples)
        largest = math.inf if self.largest_batch_size is None else self.largest_batch_size
        sizes = [size for size in space.batch_sizes if size <= largest]
        begun = time.monotonic()
        priced = prices_of(
            self.engine, baseline, sizes, self.folder, self.progress, max_minutes=None
        )
        pricing = time.monotonic() - begun
        prices = priced.prices(num_examples)
        if baseline.batch_size not in priced.step_seconds:
            why = priced.missing.get(baseline.batch_size, "unknown")
            raise SearchError(f"No step time of the baseline could be measured: {why}.")
        self.progress.say("Training the baseline in every worker at once, for some seconds.")
        pace = measure_pace(self.engine, baseline, prices, self.folder, num_examples=num_examples)
        self.progress.say("Rehearsing the search with invented scores.")
        before = self.begun_seconds + (pricing if request.search.oracle.prices else 0.0)
        finishing = FINISHING_SECONDS + expected_test_seconds(request, self.splits, self.untrained)
        rehearsal = Rehearsal(
            request.search,
            space,
            baseline,
            request.objective,
            self.untrained.metrics[request.objective.name.removeprefix("val_")],
            self.engine.devices,
            num_examples,
            total_examples,
            prices if request.search.oracle.prices else NO_PRICES,
            pace.of,
            request.seed,
            max_minutes=request.max_minutes,
            max_trainings=math.inf if request.max_trainings is None else request.max_trainings,
            spent_seconds=before + pace.first_seconds,
            finishing_seconds=finishing,
            largest_batch_size=self.largest_batch_size,
        ).run()
        rehearsed = rehearsal.trials
        return Plan(
            stages=tuple(self._stages(rehearsed, pace, pricing)),
            length=str(request.trial_length),
            workers=self.engine.devices.workers,
            training_seconds={
                size: math.ceil(total_examples / size) * seconds
                for size, seconds in priced.step_seconds.items()
            },
            baseline=baseline.batch_size,
            disk_bytes=disk_bytes(
                rehearsed,
                weights_bytes=pace.weights_bytes,
                most_state_bytes=int(request.execution.max_state_gb * 1e9),
                in_parts=request.search.oracle.in_parts,
            ),
            limit=self._limits() if rehearsal.is_cut else "",
            has_whole=rehearsal.has_whole,
        )

    def _stages(
        self, rehearsed: Sequence[Rehearsed], pace: Pace, pricing: float
    ) -> list[PlannedStage]:
        """All of a run: preparing, prices, trials, and the end."""
        stages = [PlannedStage(name="preparing", seconds=self.begun_seconds)]
        priced = self.request.search.oracle.prices
        if priced:
            stages.append(PlannedStage(name="step times", seconds=pricing))
        first, *others = planned_stages(rehearsed)
        traced = first.model_copy(update={"seconds": first.seconds + pace.first_seconds})
        verified = [one.trial for one in rehearsed if one.trial.phase == "confirmation"]
        sizes = len({trial.configuration.batch_size for trial in verified})
        # What its process took to start is part of what measuring the prices took.
        rounds = FEWEST_ROUNDS * ROUND_SECONDS * len(pace.prices.step_seconds)
        timing = 0.0 if priced or not sizes else max(pricing - 1.5 * rounds, 0.0)
        end = timing + sizes * (0.0 if priced else 0.6 * ROUNDS)
        end += self._test_seconds(len(verified) + 1)
        ends = "test split, saving" if priced else "step times, test split, saving"
        return [*stages, traced, *others, PlannedStage(name=ends, seconds=end)]

    def _test_seconds(self, models: int) -> float:
        """What evaluating so many models on the test split takes, from the untrained model."""
        share = self.splits.get("test", 0) / self.splits["validation"]
        return models * self.untrained.seconds * share

    def _limits(self) -> str:
        """The limits that may end the search before it ends itself."""
        request = self.request
        limits = {"max_minutes": request.max_minutes, "max_trainings": request.max_trainings}
        given = [f"--{name}={value:g}" for name, value in limits.items() if value is not None]
        return " or ".join(given)


def planned_stages(rehearsed: Iterable[Rehearsed]) -> list[PlannedStage]:
    """The stages of a search and its verification, in the order in which they begin.

    A stage that is taken up again, such as a search that goes on after a verification, is listed
    once.
    """
    found: dict[str, PlannedStage] = {}
    last = 0.0
    for one in rehearsed:
        before = found.get(one.stage, PlannedStage(name=one.stage))
        trial = one.trial
        found[one.stage] = PlannedStage(
            name=one.stage,
            trials=before.trials + 1,
            examples=before.examples + max(trial.examples - trial.from_examples, 0),
            trainings=before.trainings + one.trainings,
            seconds=before.seconds + one.ended - last,
        )
        last = one.ended
    return list(found.values())


def disk_bytes(
    rehearsed: Sequence[Rehearsed], *, weights_bytes: int, most_state_bytes: int, in_parts: bool
) -> int:
    """What weights and end states take at most.

    Args:
        rehearsed: The trials.
        weights_bytes: What the weights of a trial take.
        most_state_bytes: What end states may take together.
        in_parts: Whether trials keep end states; one takes about three times the weights.
    """
    verified = sum(one.trial.phase == "confirmation" for one in rehearsed)
    parts = sum(one.trial.to_examples is not None for one in rehearsed) if in_parts else 0
    states = min(parts * 3 * weights_bytes, most_state_bytes)
    return (verified + 3) * weights_bytes + states  # best.keras, the best trial, a checkpoint
