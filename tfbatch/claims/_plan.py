"""What a session of the court is going to take: its cards are rehearsed, and nothing is trained.

A court that trains nothing answers every card as a workload would whose rates are best where the
rules say so, and counts what it was asked for. What a training takes is predicted from the measured
time of a step at each batch size, and from some short ones in every worker at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Concatenate

import numpy as np

from tfbatch.answer.plan import Plan, PlannedStage
from tfbatch.claims import Card
from tfbatch.claims._changed_data import DataChange
from tfbatch.claims._court import Court, P, R, Run, Training, Workload
from tfbatch.claims._preset import Preset
from tfbatch.errors import InputError, SearchError

if TYPE_CHECKING:
    from tfbatch.claims._request import CourtRequest
    from tfbatch.pipeline.user_data import OwnSplit
    from tfbatch.run_folder.folder import RunLock
    from tfbatch.search.pace import Pace
    from tfbatch.search.progress import Progress
    from tfbatch.training.context import TaskContext, UserCode
    from tfbatch.training.step_times import StepTime
    from tfbatch.workers import Slot

_EVALUATIONS = 40
_STEP_SECONDS = 1e-3
_ALONE_SECONDS = 8.0
"""A process of its own imports TensorFlow and traces a model: so on two cores of an Intel Xeon."""
_TRAININGS = 2
"""A function that is told a length trains about so many times; see Measured."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a card measures beside trainings.

    Attributes:
        count: How often.
        examples: What it trains on, at the baseline's batch size; about.
        seconds: What it takes beside that, where that is fixed.
        together: Several at a time on the workers; else each alone on the device.
    """

    count: int
    examples: int = 0
    seconds: float = 0.0
    together: bool = False


@dataclasses.dataclass(frozen=True)
class RehearsedCard:
    """What a card asks for that no card before it did.

    Attributes:
        card: Its short name.
        trainings: Trainings.
        measured: What it measures.
    """

    card: str
    trainings: tuple[Training, ...]
    measured: tuple[Measured, ...]


class RehearsedCourt(Court):
    """Trains nothing, and counts.

    Args:
        workload: Model and data.
        preset: How large the experiments are.
        seed: Everything random derives from it.
        asked: See Court.

    Attributes:
        trainings: What was asked for, by name.
        measured: What was to be measured.
    """

    def __init__(
        self,
        workload: Workload,
        preset: Preset,
        seed: int,
        *,
        asked: Collection[str] | None = None,
    ):
        super().__init__(workload, preset, seed, asked=asked)
        self.trainings: dict[str, Training] = {}
        self.measured: list[Measured] = []
        self._timed: set[tuple[tuple[int, ...], DataChange | None]] = set()

    def train(self, trainings: Sequence[Training]) -> list[Run]:
        """See Court; the rate of the optimizer's rule is the best one."""
        self.trainings |= {one.name: one for training in trainings for one in training.line}
        return [self._run(training) for training in trainings]

    def _run(self, training: Training) -> Run:
        """A larger batch ends a little worse, so that a card that asks for a gap finds one."""
        from tfbatch.claims.rate_exponent import center

        c, workload = training.configuration, self.workload
        best = center(self, c.optimizer, c.batch_size)
        far = abs(math.log2(c.base_learning_rate / best))
        octaves = max(0.0, math.log2(c.batch_size / workload.baseline.batch_size))
        share = np.linspace(0, training.examples, _EVALUATIONS + 1) / workload.examples
        reached = (1 - np.exp(-4 * share / (1 + 0.3 * far))) * (1 - 0.02 * octaves)
        scale = max(abs(workload.untrained), 10 * workload.smallest_margin)
        scores = workload.untrained + scale * reached
        return Run(
            training, tuple(map(float, share * workload.examples)), tuple(map(float, scores))
        )

    def step_times(
        self, batch_sizes: Sequence[int], change: DataChange | None = None
    ) -> tuple[StepTime, ...]:
        """See Court."""
        from tfbatch.training.step_times import StepTime

        sizes = tuple(sorted(set(batch_sizes)))
        if (sizes, change) not in self._timed:
            self._timed.add((sizes, change))
            self.measured.append(Measured(1, seconds=self.preset.timing_seconds))
        seconds = [_STEP_SECONDS * (1 + size / 64) for size in sizes]
        rounds = self.preset.rounds
        return tuple(
            StepTime(size, each, (each,) * rounds)
            for size, each in zip(sizes, seconds, strict=True)
        )

    def measure(
        self,
        function: Callable[Concatenate[TaskContext, P], R],
        *arguments: P.args,
        **options: P.kwargs,
    ) -> R:
        """See Court; counts the process that is started for it.

        Raises:
            InputError: Always: there is no result.
        """
        self.measured.append(Measured(1, self._trained(options), seconds=_ALONE_SECONDS))
        raise InputError(f"{function.__name__} is rehearsed")

    def measure_each(
        self,
        function: Callable[..., R],
        cases: Sequence[Mapping[str, object]],
        *,
        seconds: float,
        examples: int = 0,
    ) -> list[R]:
        """See Court; counts the cases.

        Raises:
            InputError: Always: there is no result.
        """
        trained = max((self._trained(case) for case in cases), default=0)
        self.measured.append(
            Measured(len(cases), trained + examples, seconds=len(cases) * seconds, together=True)
        )
        raise InputError(f"{function.__name__} is rehearsed")

    def _trained(self, told: Mapping[str, Any]) -> int:
        """What a function trains on that is told a length; about."""
        batch_size = self.workload.baseline.batch_size
        found = _TRAININGS * told.get("examples", 0) + batch_size * told.get("trained_steps", 0)
        return int(found)


def rehearse(court: RehearsedCourt, cards: Sequence[Card]) -> list[RehearsedCard]:
    """What each card asks for, in their order."""
    found = []
    for card in cards:
        trained, measured = set(court.trainings), len(court.measured)
        with contextlib.suppress(InputError):  # what it would have measured has no result
            list(card.collect(court))
        new = tuple(one for name, one in court.trainings.items() if name not in trained)
        found.append(RehearsedCard(card.CARD, new, tuple(court.measured[measured:])))
    return found


def stages_of(
    rehearsed: Sequence[RehearsedCard], pace: Pace, baseline: int, length: int, workers: int
) -> list[PlannedStage]:
    """A row for each card.

    Args:
        rehearsed: What the cards ask for.
        pace: What trainings take beside others.
        baseline: The baseline's batch size.
        length: Examples of a training at it.
        workers: Trainings side by side.
    """
    whole = pace.prices.cost(baseline, length)
    stages = []
    for one in rehearsed:
        work = [(t.configuration.batch_size, t.own_examples) for t in one.trainings]
        costs = [pace.prices.cost(*each) for each in work]
        beside = sum(pace.seconds(*each) for each in work)
        alone = sum(
            (m.seconds + m.count * pace.prices.cost(baseline, m.examples))
            / (workers if m.together else 1)
            for m in one.measured
            if m.examples or m.seconds
        )
        stages.append(
            PlannedStage(
                name=one.card,
                trials=len(one.trainings),
                examples=sum(examples for _, examples in work),
                trainings=math.fsum(costs) / whole,
                seconds=beside / workers + alone,
            )
        )
    return stages


def plan_session(
    request: CourtRequest,
    code: UserCode,
    *,
    splits: Mapping[str, OwnSplit] | None,
    progress: Progress,
    stop_requested: Callable[[], bool],
    lock: RunLock,
    warm: Slot | None,
) -> Plan:
    """Opens model and data, rehearses the cards, and measures what trainings take.

    Args:
        request: What is asked.
        code: The model's builder, and what else a user gives as code.
        splits: Arrays or Datasets to be stored in the run folder.
        progress: Told of everything.
        stop_requested: When true, it ends.
        lock: Of a run folder that nobody keeps.
        warm: A slot whose process has imported TensorFlow, or None.

    Raises:
        InputError: Something asked for cannot be used.
        SearchError: No step time could be measured.
        StoppedError: A stop was requested.
    """
    from tfbatch.claims._session import open_subject
    from tfbatch.search.pace import measure_pace
    from tfbatch.search.preparation import prepared
    from tfbatch.search.prices import prices_of

    with prepared(
        request.subject,
        request.execution,
        code,
        lock=lock,
        progress=progress,
        splits=splits,
        warm=warm,
        stop_requested=stop_requested,
    ) as ready:
        workload, _ = open_subject(request, ready, progress)
        asked = {claim.name for claim in request.claims}
        court = RehearsedCourt(workload, request.preset, request.seed, asked=asked)
        rehearsed = rehearse(court, request.cards)
        baseline, sizes = workload.baseline, set(court.study.sizes)
        folder, engine = request.run_dir, ready.engine
        priced = prices_of(engine, baseline, sizes, folder, progress, max_minutes=None)
        if baseline.batch_size not in priced.step_seconds:
            why = priced.missing.get(baseline.batch_size, "unknown")
            raise SearchError(f"No step time of the baseline could be measured: {why}.")
        progress.say("Training the baseline in every worker at once, for some seconds.")
        prices = priced.prices(workload.evaluated_every or workload.num_examples)
        pace = measure_pace(engine, baseline, prices, folder, num_examples=workload.num_examples)
        workers, length = engine.devices.workers, workload.examples
        return Plan(
            stages=tuple(stages_of(rehearsed, pace, baseline.batch_size, length, workers)),
            length=str(request.trial_length),
            workers=workers,
            training_seconds={
                size: math.ceil(length / size) * seconds
                for size, seconds in priced.step_seconds.items()
            },
            baseline=baseline.batch_size,
            disk_bytes=0,
            limit=f"--max_minutes={request.max_minutes:g}" if request.max_minutes else "",
        )
