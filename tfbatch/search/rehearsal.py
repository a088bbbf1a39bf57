"""A search rehearsed: the real loop and verification, with invented scores on a simulated clock.

How many trials an oracle proposes, how long they are and how a limit cuts them follows from its own
code, so that a plan needs none of its own. What a trial comes to is invented: by the user's
scaling rule the best learning rate of each batch size is known, and seeds differ by about as much
as neighbors on the grid do.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tfbatch.answer.candidates import to_verify
from tfbatch.configuration import Configuration
from tfbatch.oracles import (
    Belief,
    Oracle,
    Prices,
    Proposal,
    Stage,
    StagedOracle,
    Stop,
    Told,
    make_settings,
)
from tfbatch.request.search_config import SearchConfig
from tfbatch.run_folder.folder import RunFolder
from tfbatch.search.clock import SearchClock
from tfbatch.search.engine import Finished, Running
from tfbatch.search.loop import Search
from tfbatch.search.progress import Progress
from tfbatch.search.space import SearchSpace
from tfbatch.search.trainings import Trainings
from tfbatch.search.trial_runner import TrialRunner
from tfbatch.search.verification import Verification
from tfbatch.seeds import derive_seed
from tfbatch.training.devices import Devices
from tfbatch.trial.finished_trial import FinishedTrial
from tfbatch.trial.objective import Objective
from tfbatch.trial.outcome import Outcome, Phase, TrialSpec

_CURVATURE = 0.02
"""What an octave off the best learning rate costs, as a share of what there is to learn."""
_SHORTER = 0.05
"""What half the length costs."""
_NOISE = 0.01
_POOR = 0.3
_DIVERGED_OCTAVES = 4.0
PATIENCE_SECONDS = 5.0
"""An oracle that has thought for so long is asked no more: its plan is known well enough."""


@dataclasses.dataclass(frozen=True)
class Rehearsed:
    """A trial that was rehearsed.

    Attributes:
        trial: With an invented outcome.
        stage: The stage of the search that it belongs to, or what else it is for.
        trainings: What it costs in full trainings of the baseline.
        ended: Seconds of the simulated clock at its end.
    """

    trial: FinishedTrial
    stage: str
    trainings: float
    ended: float


@dataclasses.dataclass(frozen=True)
class RehearsedSearch:
    """A search that was rehearsed, with its verification.

    Attributes:
        trials: In the order of their ends.
        is_cut: Whether time or trainings ran out before the search had ended itself.
        has_whole: Whether a training of the search has come to its full length, and can be the
            answer.
    """

    trials: tuple[Rehearsed, ...]
    is_cut: bool
    has_whole: bool


class RehearsedEngine:
    """Trials that take no time but on a clock of their own; see TrialEngine.

    Args:
        devices: Whose trials they stand for.
        seconds: What a trial takes.
        outcome: What it comes to, its seconds left open.
    """

    def __init__(
        self,
        devices: Devices,
        seconds: Callable[[TrialSpec], float],
        outcome: Callable[[TrialSpec], Outcome],
    ):
        self.devices = devices
        self.time = 0.0
        self._seconds, self._outcome = seconds, outcome
        self._ends: list[tuple[float, int, TrialSpec]] = []
        self._count = 0

    @property
    def free(self) -> bool:
        """See TrialEngine."""
        return len(self._ends) < self.devices.workers

    def can_start(self, phase: Phase) -> bool:
        """See TrialEngine."""
        del phase
        return self.free

    def start(self, spec: TrialSpec) -> None:
        """See TrialEngine."""
        self._count += 1
        self._ends.append((self.time + self._seconds(spec), self._count, spec))

    def wait(
        self, *, seconds: float = float("inf"), stop_requested: Callable[[], bool] | None = None
    ) -> list[Finished]:
        """The next trial that ends; the clock goes on to that moment."""
        del seconds, stop_requested
        first = min(self._ends)
        self._ends.remove(first)
        end, _, spec = first
        self.time = max(self.time, end)
        # Of a part a journal has the seconds from the beginning of its training.
        line, seconds = spec, self._seconds(spec)
        while line.parent:
            line = line.parent
            seconds += self._seconds(line)
        return [(spec, dataclasses.replace(self._outcome(spec), seconds=seconds))]

    def end_trials(self) -> list[Finished]:
        """See TrialEngine."""
        self._ends.clear()
        return []

    def think(self, seconds: float) -> None:
        """Time in which whoever starts the trials does something else."""
        self.time += seconds

    def running(self) -> list[Running]:
        """See TrialEngine."""
        return []


class TimedOracle:
    """An oracle whose time to think passes on a clock; see Oracle.

    One that has thought for long is not asked any more: what it would propose is drawn at random
    from then on, and takes as long as its last proposal did. One whose proposals are parts of
    trainings is always asked.

    Args:
        oracle: The oracle.
        substitute: In its place later; None where it is always asked.
        passed: Told of the seconds of each proposal.
        patience: Seconds of thinking after which it is not asked any more.
    """

    def __init__(
        self,
        oracle: Oracle,
        substitute: Oracle | None,
        passed: Callable[[float], None],
        *,
        patience: float = PATIENCE_SECONDS,
    ):
        self._oracle, self._substitute, self._passed = oracle, substitute, passed
        self._patience, self._last = patience, 0.0
        self._asked: Oracle = oracle
        self._by: dict[str, Oracle] = {}

    @property
    def size(self) -> int | None:
        """See Oracle."""
        return self._oracle.size

    def propose(
        self, trial: str, *, known: Proposal | None, bound: float
    ) -> Proposal | Stop | None:
        """See Oracle."""
        if self._patience < 0 and self._substitute:
            self._asked = self._substitute
        begun = time.thread_time()
        found = self._asked.propose(trial, known=known, bound=bound)
        if self._asked is self._oracle:
            self._last = time.thread_time() - begun
            self._patience -= self._last
        self._passed(self._last)
        self._by[trial] = self._asked
        return found

    def tell(self, trial: str, proposal: Proposal, told: Told) -> None:
        """See Oracle."""
        self._by.pop(trial).tell(trial, proposal, told)

    def forget(self, trial: str) -> None:
        """See Oracle."""
        self._by.pop(trial).forget(trial)


class TimedStagedOracle(TimedOracle):
    """The same of one that knows its plan; see StagedOracle."""

    def __init__(self, oracle: StagedOracle, passed: Callable[[float], None]):
        super().__init__(oracle, None, passed)
        self._staged = oracle

    def stages(self) -> Sequence[Stage]:
        """See StagedOracle."""
        return self._staged.stages()

    def belief(self) -> Belief | None:
        """Nothing: nobody asks."""
        return None


@dataclasses.dataclass(frozen=True)
class Rehearsal:
    """What a search is rehearsed with.

    Attributes:
        config: The search.
        space: Its space.
        baseline: The user's configuration.
        objective: What is compared.
        untrained: The objective's value before any training.
        devices: What trains.
        num_examples: Size of the training split.
        total_examples: Length of the run's trials.
        prices: What the oracle is told.
        seconds: Wall-clock seconds of a trial beside others.
        seed: The run's seed.
        max_minutes: The run's time limit, or None.
        max_trainings: The run's limit in trainings.
        spent_seconds: What the run takes before its first trial.
        finishing_seconds: What it keeps for its end.
        largest_batch_size: No larger one is tried; None where nothing was measured.
    """

    config: SearchConfig
    space: SearchSpace
    baseline: Configuration
    objective: Objective
    untrained: float
    devices: Devices
    num_examples: int
    total_examples: int
    prices: Prices
    seconds: Callable[[TrialSpec], float]
    seed: int
    max_minutes: float | None = None
    max_trainings: float = math.inf
    spent_seconds: float = 0.0
    finishing_seconds: float = 0.0
    largest_batch_size: int | None = None

    def run(self) -> RehearsedSearch:
        """The trials of search and verification, and what ended them."""
        engine = RehearsedEngine(self.devices, self.seconds, self._outcome)
        with (
            tempfile.TemporaryDirectory(prefix="tfbatch-rehearsal-") as path,
            RunFolder(Path(path), identity={}, budget={}) as folder,
        ):
            return self._run(engine, folder)

    def _run(self, engine: RehearsedEngine, folder: RunFolder) -> RehearsedSearch:
        found: list[Rehearsed] = []
        done = dict[str, int]()
        trainings = Trainings(self.prices, self.baseline, self.total_examples, self.max_trainings)
        runner = TrialRunner(
            folder,
            engine=engine,
            objective=self.objective,
            num_examples=self.num_examples,
            total_examples=self.total_examples,
            progress=Progress(None),
        )

        def note(search: Search | None = None) -> None:
            now = {one.name: one.done for one in search.stages()} if search else {}
            stage = next((name for name, count in now.items() if count > done.get(name, 0)), "")
            done.update(now)
            for trial in runner.trials[len(found) :]:
                own = {"search": stage or "search", "confirmation": "verification"}
                name = own.get(trial.phase, trial.phase)
                found.append(Rehearsed(trial, name, trainings.of_trial(trial), engine.time))

        clock = SearchClock(
            self.max_minutes,
            spent_seconds=self.spent_seconds,
            finishing_seconds=self.finishing_seconds,
            now=lambda: engine.time,
        )
        search = Search(
            self.config,
            baseline=self.baseline,
            space=self.space,
            runner=runner,
            clock=clock,
            seed=self.seed,
            untrained=self.untrained,
            progress=Progress(None),
            largest_batch_size=self.largest_batch_size,
            prices=self.prices,
            max_trainings=self.max_trainings,
            on_trial=note,
            around=lambda oracle: self._timed(oracle, engine.think),
        )
        before = -1
        while before < len(runner.trials):
            before = len(runner.trials)
            search.run(stop_requested=lambda: False)
            candidates = to_verify(runner.trials, batch_sizes=self.config.confirmation.batch_sizes)
            Verification(
                candidates, self.config.confirmation, runner, self.seed, trainings=trainings
            ).run(clock, stop_requested=lambda: False)
            note()
        whole = any(
            one.phase == "search" and one.score is not None for one in runner.trials.searched()
        )
        return RehearsedSearch(tuple(found), search.is_cut, whole)

    def _timed(self, oracle: Oracle, passed: Callable[[float], None]) -> Oracle:
        if isinstance(oracle, StagedOracle):
            return TimedStagedOracle(oracle, passed)
        if self.config.oracle.in_parts:
            return TimedOracle(oracle, None, passed)
        random = make_settings("random").make(
            self.space.hyperparameters(),
            direction=self.objective.direction,
            seed=derive_seed(self.seed, "rehearsal"),
            total_examples=self.total_examples,
        )
        return TimedOracle(oracle, random, passed)

    def _outcome(self, spec: TrialSpec) -> Outcome:
        """What a trial could have come to."""
        derived, size = spec.derived, spec.configuration.batch_size
        best = self.space.learning_rate(self.baseline.model_copy(update={"batch_size": size}))
        octaves = math.log2(derived.learning_rate / best)
        length = math.log2(max(self.total_examples / spec.end_examples, 1.0))
        noise = np.random.default_rng([spec.seed, size]).normal(0.0, _NOISE)
        missed = _CURVATURE * octaves**2 + _SHORTER * length + float(noise)
        diverged = octaves > _DIVERGED_OCTAVES
        if spec.phase == "baseline":  # what follows where it is poor belongs to the plan
            missed += _POOR
        scale = abs(self.untrained) if self.objective.direction == "min" else -1.0
        value = scale * (0.2 + missed) if scale > 0 else 0.9 - missed
        return Outcome(
            status="diverged" if diverged else "completed",
            metrics={self.objective.name: math.nan if diverged else value},
            examples=spec.end_examples,
            steps=spec.steps_before + spec.steps,
            seconds=0.0,
            training_seconds=0.0,
            device=self.devices.kind,
        )
