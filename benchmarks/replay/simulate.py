"""A search simulated on a table: a real oracle, measured scores and prices, workers as a queue.

What a trial comes to is looked up; nothing is trained. A part stops at the first evaluation of the
table that is not before the end that was asked for, and is paid up to there, so that every score
was measured. Needs NumPy alone; an oracle brings what it needs.

A search sees some of the table's seeds, and what it answers is judged on the others.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from replay.plan import OCTAVES, TablePlan, Training
from replay.table import Metric, OutsideTableError, Schedule, Table, Trained
from tfbatch.oracles import BATCH_SIZE, Oracle, Part, Proposal, StagedOracle, Stop, Told

UNTRAINED: Mapping[Metric, float] = {"loss": math.log(10), "accuracy": 0.1}
"""Of ten classes, which every table has."""


@dataclasses.dataclass(frozen=True, order=True)
class Cell:
    """A configuration that can be answered: a whole training of a table.

    Attributes:
        batch_size: Examples in an update.
        octaves: The rate's offset from the scaling rule.
        schedule: Its schedule.
    """

    batch_size: int
    octaves: float
    schedule: Schedule

    @classmethod
    def of_user(cls, text: str) -> Cell:
        """Reads BATCH_SIZE,OCTAVES: what a user trains with before a search, with a cosine."""
        size, octaves = text.split(",")
        return cls(int(size), float(octaves), "cosine")

    def training(self, plan: TablePlan) -> Training:
        """The last part of its training at the full length."""
        kind = "cosine" if self.schedule == "cosine" else "cool_down"
        return Training(self.batch_size, self.octaves, kind, plan.total_examples)


@dataclasses.dataclass(frozen=True)
class Engine:
    """What trains the trials, as far as its price goes.

    Attributes:
        name: Its name.
        start_up_seconds: Of each trial, and of each part that goes on from another.
        workers: Trials side by side.
        slower: Seconds of an update or an evaluation over those of a process that is alone.
    """

    name: str
    start_up_seconds: float = 0.0
    workers: int = 1
    slower: float = 1.0


@dataclasses.dataclass(frozen=True)
class State:
    """What a trial ended with, and another can go on from.

    Attributes:
        cell: Its configuration; of a branch, that of the whole training that it belongs to.
        seed: Of the table.
        at: Examples from the beginning.
        length: Where its schedule ends.
        ended: Whether its schedule has ended.
    """

    cell: Cell
    seed: int
    at: int
    length: int
    ended: bool


@dataclasses.dataclass(frozen=True)
class Ended:
    """A trial that has ended.

    Attributes:
        trial: Its name.
        state: What it ended with.
        status: How it ended.
        value: Its final metric; NaN unless it completed.
        examples: Trained by all trials until then, those that still run left out.
        seconds: On the search's clock.
        switched: Whether it branched off to another batch size, so that no whole training has its
            configuration.
    """

    trial: str
    state: State
    status: str
    value: float
    examples: int
    seconds: float
    switched: bool = False


class _Path:
    """One training from its beginning to the end of its schedule, with what was measured on it."""

    def __init__(self, table: Table, last: Training, seed: int, metric: Metric):
        points: list[int] = []
        values: list[float] = []
        self.status = "completed"
        self.end = 0
        for part in _parts(table, last, seed):
            curve = part.curve
            measured = curve.loss if metric == "loss" else curve.accuracy
            finite = np.isfinite(curve.loss)
            points += curve.examples[finite].tolist()
            values += measured[finite].tolist()
            self.end += part.examples
            if part.status != "completed":
                self.status = part.status
                break
        self.points: npt.NDArray[np.int64] = np.array(points, np.int64)
        self.values = values

    def stop(self, examples: int) -> int | None:
        """The first evaluation that is not before a position; None where it failed before."""
        place = int(np.searchsorted(self.points, examples))
        return int(self.points[place]) if place < len(self.points) else None

    def value(self, at: int) -> float:
        """What was measured at an evaluation."""
        return self.values[int(np.searchsorted(self.points, at))]

    def evaluations(self, start: int, end: int) -> int:
        """How many there are behind `start` and up to `end`."""
        first, last = np.searchsorted(self.points, [start, end], side="right")
        return int(last - first)


def _parts(table: Table, last: Training, seed: int) -> list[Trained]:
    parent = table.plan.parent(last)
    before = _parts(table, parent, seed) if parent else []
    return [*before, table.trained(last, seed)]


class Replay:
    """Trains proposals by looking them up.

    Args:
        table: The table.
        engine: What the seconds are those of.
        metric: What a search is told.
        seeds: Numbers of the table's seeds that are seen; a proposal that names seed k gets the
            k-th of them, counted around.
        rng: Draws a seed for what names none: of those that its configuration has had least often.
    """

    def __init__(
        self,
        table: Table,
        *,
        engine: Engine,
        metric: Metric,
        seeds: Sequence[int],
        rng: np.random.Generator,
    ):
        self.table, self.engine, self.metric, self.seeds = table, engine, metric, tuple(seeds)
        self._rng = rng
        self._states: dict[str, tuple[State, str]] = {}
        self._drawn: dict[Cell, list[int]] = {}
        self._paths: dict[tuple[Training, int], _Path] = {}
        rounds = table.step_seconds
        self._step = {size: statistics.median(seconds) for size, seconds in rounds.items()}
        evaluation = table.about.get("validation_seconds")
        self._evaluation = float(evaluation) if isinstance(evaluation, int | float) else 0.0

    def train(self, trial: str, proposal: Proposal) -> Ended:
        """What a trial comes to; `examples` and `seconds` are its own.

        Raises:
            OutsideTableError: It was not measured.
            ValueError: It goes on from a trial that is not there, or has not completed.
        """
        part = proposal.part or Part()
        parent = self._parent(part)
        cell = self.cell(proposal)
        if parent is None:
            seed = self._seed(cell, proposal)
            ended = self._go_on(trial, State(cell, seed, 0, self._length(part), False), part)
        elif part.schedule is None:
            if parent.cell != cell or parent.ended:
                raise OutsideTableError(f"{cell} cannot go on from {parent} without a branch.")
            ended = self._go_on(trial, parent, part)
        else:
            ended = self._branch(trial, cell, parent, part)
        self._states[trial] = ended.state, ended.status
        return ended

    def whole(self, cell: Cell) -> Ended:
        """What a whole training costs, with the first of the seeds."""
        start = State(cell, self.seeds[0], 0, self.table.plan.total_examples, False)
        return self._go_on("whole", start, Part())

    def _parent(self, part: Part) -> State | None:
        if part.parent is None:
            return None
        if part.parent not in self._states:
            raise ValueError(f"The parent {part.parent} has not ended.")
        state, status = self._states[part.parent]
        if status != "completed":
            raise ValueError(f"Nothing goes on from {part.parent}, which {status}.")
        return state

    def cell(self, proposal: Proposal) -> Cell:
        """The configuration that is proposed; a constant rate is that of `wsd`, unfinished."""
        values, plan = proposal.values, self.table.plan
        schedule = str(values.get("schedule", "wsd"))
        return Cell(
            int(values.get(BATCH_SIZE, plan.batch_sizes[0])),
            float(values.get(OCTAVES, plan.octaves[0])),
            "cosine" if schedule == "cosine" else "wsd",
        )

    def _length(self, part: Part) -> int:
        return part.total_examples or self.table.plan.total_examples

    def _seed(self, cell: Cell, proposal: Proposal) -> int:
        if proposal.seed is not None:
            return self.seeds[(proposal.seed - 1) % len(self.seeds)]
        before = self._drawn.setdefault(cell, [])
        fewest = min(before.count(seed) for seed in self.seeds)
        free = [seed for seed in sorted(self.seeds) if before.count(seed) == fewest]
        before.append(free[int(self._rng.integers(len(free)))])
        return before[-1]

    def _go_on(self, trial: str, start: State, part: Part) -> Ended:
        """Along the schedule that was begun, to its end or to a stop."""
        kind = "cosine" if start.cell.schedule == "cosine" else "cool_down"
        last = dataclasses.replace(start.cell.training(self.table.plan), length=start.length)
        path = self._path(dataclasses.replace(last, kind=kind), start.seed)
        return self._along(trial, path, start, part.to_examples)

    def _branch(self, trial: str, cell: Cell, trunk: State, part: Part) -> Ended:
        """A cool-down, or a branch to another batch size, from a trunk's end."""
        plan, length = self.table.plan, self._length(part)
        if trunk.cell.schedule != "wsd" or cell.octaves != trunk.cell.octaves or part.to_examples:
            raise OutsideTableError(f"{self.table.plan.name} has no branch {part} of {trunk}.")
        if cell.batch_size == trunk.cell.batch_size:
            last = Training(cell.batch_size, cell.octaves, "cool_down", length)
        else:
            last = Training(
                cell.batch_size, cell.octaves, "switched", length, trunk.cell.batch_size
            )
        path = self._path(last, trunk.seed)
        if plan.start(last) != trunk.at:
            raise OutsideTableError(
                f"{last} begins at {plan.start(last)} examples. Received: a trunk that ended at "
                f"{trunk.at}."
            )
        start = State(cell, trunk.seed, trunk.at, length, False)
        ended = self._along(trial, path, start, None)
        return dataclasses.replace(ended, switched=last.kind == "switched")

    def _along(self, trial: str, path: _Path, start: State, to_examples: int | None) -> Ended:
        stop = path.stop(start.length if to_examples is None else to_examples)
        end = path.end if stop is None else stop
        size = start.cell.batch_size
        updates = -(-end // size) - -(-start.at // size)
        work = updates * self._step.get(size, math.nan)
        work += path.evaluations(start.at, end) * self._evaluation
        return Ended(
            trial=trial,
            state=dataclasses.replace(start, at=end, ended=end >= start.length),
            status=path.status if stop is None else "completed",
            value=math.nan if stop is None else path.value(stop),
            examples=end - start.at,
            seconds=self.engine.start_up_seconds + work * self.engine.slower,
        )

    def _path(self, last: Training, seed: int) -> _Path:
        key = (last, seed)
        if key not in self._paths:
            self._paths[key] = _Path(self.table, last, seed, self.metric)
        return self._paths[key]


@dataclasses.dataclass(frozen=True)
class Moment:
    """The end of a trial.

    Attributes:
        ended: The trial, with what the search has spent by then.
        answer: What would be answered now; None where nothing has completed.
    """

    ended: Ended
    answer: Cell | None


def simulate(
    oracle: Oracle, replay: Replay, *, most_examples: int, baseline: Cell | None = None
) -> list[Moment]:
    """A search from its beginning to its end or the end of its budget.

    Args:
        oracle: Proposes; it is new.
        replay: Trains.
        most_examples: No trial is begun when so many have been trained on, or are being.
        baseline: Trained before the search, with the first of the seeds, and paid by nobody: the
            answer until a whole training is better.

    Returns:
        The ends of the trials in their order.
    """
    moments: list[Moment] = []
    running: list[tuple[float, int, Proposal, Ended]] = []
    standing = _Standing(replay, baseline)
    clock, begun, trained, stopped = 0.0, 0, 0, False
    numbers = itertools.count(1)
    number = next(numbers)
    while True:
        while not stopped and len(running) < replay.engine.workers and begun < most_examples:
            name = f"search-{number:04d}"
            proposal = oracle.propose(name, known=None, bound=math.inf)
            stopped = isinstance(proposal, Stop)
            if not isinstance(proposal, Proposal):
                break
            ended = replay.train(name, proposal)
            begun += ended.examples
            heapq.heappush(running, (clock + ended.seconds, number, proposal, ended))
            number = next(numbers)
        if not running:
            return moments
        clock, _, proposal, ended = heapq.heappop(running)
        trained += ended.examples
        oracle.tell(ended.trial, proposal, standing.told(ended))
        spent = dataclasses.replace(ended, examples=trained, seconds=clock)
        moments.append(Moment(spent, standing.answer(oracle)))


class _Standing:
    """What has been measured so far."""

    def __init__(self, replay: Replay, baseline: Cell | None):
        self._replay = replay
        self._sign = 1.0 if replay.metric == "loss" else -1.0
        self._worst = UNTRAINED[replay.metric]
        self._best: tuple[tuple[int, float], Cell] | None = None
        if baseline is not None:
            self.told(replay.whole(baseline))

    def told(self, ended: Ended) -> Told:
        """What the oracle hears, as in a search; what completed is remembered."""
        if ended.status != "completed":
            return Told(self._worst, ended.status)
        self._worst = self._sign * max(self._sign * self._worst, self._sign * ended.value)
        # Whole trainings are compared with one another alone; before the first, the longest.
        rank = (-ended.state.at, self._sign * ended.value)
        if not ended.switched and (self._best is None or rank < self._best[0]):
            self._best = (rank, ended.state.cell)
        return Told(ended.value)

    def answer(self, oracle: Oracle) -> Cell | None:
        """What the oracle believes; of one that has no belief, the best of the longest."""
        if isinstance(oracle, StagedOracle):
            belief = oracle.belief()
            return None if belief is None else self._replay.cell(Proposal(belief.values))
        return self._best[1] if self._best else None
