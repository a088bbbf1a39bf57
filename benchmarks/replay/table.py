"""A replay table: its one stored form, and what a simulated search asks of it. Needs no TensorFlow.

The file is a compressed .npz: columns of trainings, columns of the points of all curves one after
another, and `about`, a JSON text with schema version, plan, step times, hardware and versions.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from replay.plan import Kind, TablePlan, Training
from tfbatch.schema import JsonObject

SCHEMA_VERSION = 1
Metric = Literal["loss", "accuracy"]
Schedule = Literal["wsd", "cosine"]
"""`wsd`: warm-up, a constant rate, a linear cool-down, of any length of the plan. `cosine`: of the
full length only."""
KINDS: tuple[Kind, ...] = get_args(Kind)
STATUSES = ("completed", "diverged", "oom", "error", "killed", "timeout")


class OutsideTableError(LookupError):
    """Something was asked that was not measured. A table never fills a gap."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """Validation metrics at the evaluations of a training.

    Attributes:
        examples: Examples from the beginning of the training, ascending; int32.
        loss: Mean validation loss; float32. Not finite where a training diverged.
        accuracy: Validation accuracy in [0, 1]; float32.
    """

    examples: npt.NDArray[np.int32]
    loss: npt.NDArray[np.float32]
    accuracy: npt.NDArray[np.float32]

    def up_to(self, examples: int) -> Curve:
        """The evaluations at no more than so many examples."""
        seen = int(np.searchsorted(self.examples, examples, side="right"))
        return Curve(self.examples[:seen], self.loss[:seen], self.accuracy[:seen])

    def after(self, other: Curve) -> Curve:
        """These behind those of another one."""
        return Curve(
            np.concatenate([other.examples, self.examples]),
            np.concatenate([other.loss, self.loss]),
            np.concatenate([other.accuracy, self.accuracy]),
        )


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a training, or the part of one that its parent did not train, came to.

    Attributes:
        training: Which one.
        seed: Its number, from 1. Trainings of one number have unrelated seeds, except for what
            goes on from one trunk.
        status: How it ended, as in a run's journal.
        loss: Final validation loss; NaN unless it completed.
        accuracy: Final validation accuracy; NaN unless it completed.
        examples: Examples of its own, without its parent's.
        steps: Updates of its own.
        seconds: Seconds of its own training steps beside what else ran then; not comparable.
        curve: Evaluations of its own.
    """

    training: Training
    seed: int
    status: str
    loss: float
    accuracy: float
    examples: int
    steps: int
    seconds: float
    curve: Curve

    def value(self, metric: Metric) -> float:
        """The final metric; infinite, or an accuracy of 0, where it did not complete."""
        if self.status == "completed":
            return self.loss if metric == "loss" else self.accuracy
        return math.inf if metric == "loss" else 0.0


@dataclasses.dataclass(frozen=True)
class Price:
    """What training costs.

    Attributes:
        examples: Trained on.
        steps: Updates.
        seconds: Updates times the median seconds of one, measured alone; no evaluations.
    """

    examples: int
    steps: int
    seconds: float

    def __add__(self, other: Price) -> Price:
        return Price(
            self.examples + other.examples, self.steps + other.steps, self.seconds + other.seconds
        )


class Table:
    """Measured trainings of one plan.

    Seeds are numbers from 1 to `plan.seeds`. A search may see `search_seeds`; what it chose is
    judged by `judging_seeds`, which it never saw.

    Example:
        ```python
        table = Table.read(Path("benchmarks/replay/tables/digits_mlp.npz"))
        length = table.plan.lengths[0]
        table.score(64, 0.0, schedule="wsd", length=length, seed=1)
        table.price(64, 0.0, schedule="wsd", length=length, seed=1).seconds
        ```

    Args:
        plan: What was to be measured.
        trained: What was; every training of the plan for every seed, or fewer.
        step_seconds: By batch size, seconds of one update alone on the machine, round by round.
        about: Hardware, versions, command: what a figure that comes from it must name.
    """

    def __init__(
        self,
        plan: TablePlan,
        trained: Iterable[Trained],
        *,
        step_seconds: Mapping[int, Sequence[float]],
        about: JsonObject,
    ):
        self.plan = plan
        self.about = about
        self.step_seconds = {size: tuple(rounds) for size, rounds in step_seconds.items()}
        self._trained = {(one.training, one.seed): one for one in trained}

    @property
    def search_seeds(self) -> tuple[int, ...]:
        """What a simulated search may see."""
        return tuple(range(1, self.plan.search_seeds + 1))

    @property
    def judging_seeds(self) -> tuple[int, ...]:
        """What a simulated search is judged by."""
        return tuple(range(self.plan.search_seeds + 1, self.plan.seeds + 1))

    def missing(self) -> list[tuple[Training, int]]:
        """What the plan has and the table has not."""
        seeds = range(1, self.plan.seeds + 1)
        every = [(training, seed) for seed in seeds for training in self.plan.trainings()]
        return [one for one in every if one not in self._trained]

    def trained(self, training: Training, seed: int) -> Trained:
        """What one training came to.

        Raises:
            OutsideTableError: It was not measured.
        """
        found = self._trained.get((training, seed))
        if found is None:
            raise OutsideTableError(
                f"The table {self.plan.name} has no {training} with seed {seed}. It has batch "
                f"sizes {self.plan.batch_sizes}, octaves {self.plan.octaves}, lengths "
                f"{self.plan.lengths} of examples (a cosine: the last one only) and seeds 1 to "
                f"{self.plan.seeds}."
            )
        return found

    def score(
        self,
        batch_size: int,
        octaves: float,
        *,
        schedule: Schedule,
        length: int,
        seed: int,
        metric: Metric = "loss",
    ) -> float:
        """The final validation metric; infinite, or an accuracy of 0, where it did not complete.

        Raises:
            OutsideTableError: It was not measured.
        """
        return self.trained(_last(batch_size, octaves, schedule, length), seed).value(metric)

    def curve(
        self,
        batch_size: int,
        octaves: float,
        *,
        schedule: Schedule,
        length: int,
        seed: int,
        up_to: int | None = None,
    ) -> Curve:
        """The evaluations of a training from its beginning, a trunk's among them.

        Args:
            batch_size: Of the grid.
            octaves: Of the grid.
            schedule: Which one.
            length: Examples; one of `plan.lengths`.
            seed: From 1.
            up_to: Leaves out what was evaluated after more examples.

        Raises:
            OutsideTableError: It was not measured.
        """
        parts = self._parts(_last(batch_size, octaves, schedule, length), seed)
        whole = functools.reduce(lambda before, part: part.after(before), [p.curve for p in parts])
        return whole if up_to is None else whole.up_to(up_to)

    def price(
        self, batch_size: int, octaves: float, *, schedule: Schedule, length: int, seed: int
    ) -> Price:
        """What a training costs from its beginning; one that diverged, until then.

        Raises:
            OutsideTableError: It was not measured, or the step time of its batch size was not.
        """
        parts = self._parts(_last(batch_size, octaves, schedule, length), seed)
        return functools.reduce(Price.__add__, map(self.price_of, parts))

    def price_of(self, trained: Trained) -> Price:
        """What a training, or a part of one, costs beside what its parent cost.

        Raises:
            OutsideTableError: The step time of its batch size was not measured.
        """
        size = trained.training.batch_size
        if not self.step_seconds.get(size):
            raise OutsideTableError(
                f"The table {self.plan.name} has no step time of batch size {size}."
            )
        seconds = trained.steps * statistics.median(self.step_seconds[size])
        return Price(trained.examples, trained.steps, seconds)

    def judged(
        self,
        batch_size: int,
        octaves: float,
        *,
        schedule: Schedule,
        length: int,
        metric: Metric = "loss",
    ) -> float:
        """The mean of the final metric over the judging seeds.

        Raises:
            OutsideTableError: One of them was not measured, or the plan has none.
        """
        return self._judged(_last(batch_size, octaves, schedule, length), metric)

    def best(self, *, length: int, metric: Metric = "loss") -> Training:
        """What has the best `judged` value of a length, over batch sizes, rates and schedules.

        Raises:
            OutsideTableError: Something of that length was not measured.
        """
        sign = 1.0 if metric == "loss" else -1.0
        return min(self._ends(length), key=lambda t: sign * self._judged(t, metric))

    def regret(
        self,
        batch_size: int,
        octaves: float,
        *,
        schedule: Schedule,
        length: int,
        metric: Metric = "loss",
    ) -> float:
        """How much worse the judged value is than that of the best; 0 or more.

        The best of many noisy means is too good, so regret is a little too large for everybody.

        Raises:
            OutsideTableError: Something of that length was not measured.
        """
        chosen = self._judged(_last(batch_size, octaves, schedule, length), metric)
        best = self._judged(self.best(length=length, metric=metric), metric)
        return abs(chosen - best)

    def _judged(self, training: Training, metric: Metric) -> float:
        if not self.judging_seeds:
            raise OutsideTableError(f"The plan of {self.plan.name} has no judging seeds.")
        values = [self.trained(training, seed).value(metric) for seed in self.judging_seeds]
        return statistics.fmean(values)

    def _ends(self, length: int) -> list[Training]:
        """The whole trainings of a length."""
        whole = [t for t in self.plan.trainings() if t.kind in ("cool_down", "cosine")]
        found = [t for t in whole if t.length == length]
        if not found:
            raise OutsideTableError(
                f"The table {self.plan.name} has the lengths {self.plan.lengths} of examples. "
                f"Received: {length}."
            )
        return found

    def _parts(self, training: Training, seed: int) -> list[Trained]:
        """A training and its ancestors, the first one first."""
        parent = self.plan.parent(training)
        before = self._parts(parent, seed) if parent else []
        return [*before, self.trained(training, seed)]

    def write(self, path: Path) -> None:
        """Writes the file; equal tables give equal arrays."""
        ordered = [self._trained[key] for key in sorted(self._trained)]
        about = {
            "schema_version": SCHEMA_VERSION,
            "plan": self.plan.model_dump(mode="json"),
            "step_seconds": {str(b): list(rounds) for b, rounds in self.step_seconds.items()},
            "about": self.about,
        }
        curves = [one.curve for one in ordered]
        empty = np.zeros(0)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            np.savez_compressed(
                file,
                about=np.array(json.dumps(about)),
                kind=np.array([KINDS.index(t.training.kind) for t in ordered], np.uint8),
                batch_size=np.array([t.training.batch_size for t in ordered], np.int32),
                octaves=np.array([t.training.octaves for t in ordered], np.float64),
                length=np.array([t.training.length for t in ordered], np.int32),
                from_batch_size=np.array([t.training.from_batch_size for t in ordered], np.int32),
                seed=np.array([t.seed for t in ordered], np.uint8),
                status=np.array([STATUSES.index(t.status) for t in ordered], np.uint8),
                loss=np.array([t.loss for t in ordered], np.float32),
                accuracy=np.array([t.accuracy for t in ordered], np.float32),
                examples=np.array([t.examples for t in ordered], np.int32),
                steps=np.array([t.steps for t in ordered], np.int32),
                seconds=np.array([t.seconds for t in ordered], np.float32),
                points=np.array([len(c.examples) for c in curves], np.int32),
                point_examples=np.concatenate([empty, *(c.examples for c in curves)]).astype("i4"),
                point_loss=np.concatenate([empty, *(c.loss for c in curves)]).astype("f4"),
                point_accuracy=np.concatenate([empty, *(c.accuracy for c in curves)]).astype("f4"),
            )

    @classmethod
    def read(cls, path: Path) -> Table:
        """Reads a file.

        Raises:
            ValueError: It is of another schema version, or none at all.
            OSError: It cannot be read.
        """
        with np.load(path, allow_pickle=False) as archive:
            if "about" not in archive.files:
                raise ValueError(f"{path} is no replay table: it has no `about`.")
            columns: dict[str, Any] = {name: archive[name] for name in archive.files}
        about = json.loads(str(columns.pop("about")))
        if about["schema_version"] != SCHEMA_VERSION:
            raise ValueError(
                f"{path} has schema version {about['schema_version']}, and this code reads "
                f"{SCHEMA_VERSION}. Make it again: python benchmarks/replay_tables.py make."
            )
        return cls(
            TablePlan.model_validate(about["plan"]),
            _rows(columns),
            step_seconds={int(b): rounds for b, rounds in about["step_seconds"].items()},
            about=about["about"],
        )


def _last(batch_size: int, octaves: float, schedule: Schedule, length: int) -> Training:
    """The part that a whole training ends with."""
    kinds: dict[str, Kind] = {"wsd": "cool_down", "cosine": "cosine"}
    if schedule not in kinds:
        raise OutsideTableError(f"A table has the schedules wsd and cosine. Received: {schedule}.")
    return Training(batch_size, octaves, kinds[schedule], length)


def _rows(columns: Mapping[str, Any]) -> Iterable[Trained]:
    ends = np.cumsum(columns["points"])
    points = [columns[f"point_{name}"] for name in ("examples", "loss", "accuracy")]
    for row, (end, count) in enumerate(zip(ends, columns["points"], strict=True)):
        yield Trained(
            training=Training(
                batch_size=int(columns["batch_size"][row]),
                octaves=float(columns["octaves"][row]),
                kind=KINDS[columns["kind"][row]],
                length=int(columns["length"][row]),
                from_batch_size=int(columns["from_batch_size"][row]),
            ),
            seed=int(columns["seed"][row]),
            status=STATUSES[columns["status"][row]],
            loss=float(columns["loss"][row]),
            accuracy=float(columns["accuracy"][row]),
            examples=int(columns["examples"][row]),
            steps=int(columns["steps"][row]),
            seconds=float(columns["seconds"][row]),
            curve=Curve(*(values[end - count : end] for values in points)),
        )
