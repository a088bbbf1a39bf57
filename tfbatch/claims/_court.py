"""What a card may use: trainings by their seed, step times, and functions in a process."""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import numpy as np

from tfbatch.claims._changed_data import DataChange
from tfbatch.claims._preset import Preset, Purpose
from tfbatch.configuration import Configuration
from tfbatch.schema import content_hash
from tfbatch.seeds import derive_seed

if TYPE_CHECKING:
    from tfbatch.claims._batch_size_study import BatchSizeStudy
    from tfbatch.training.context import TaskContext  # imports TensorFlow
    from tfbatch.training.step_times import StepTime

EVALUATIONS = 8
"""Of a training at least: a target that is reached at 60 % of it and kept takes five of them, and
an oscillation four in its second half, at batch sizes that do not divide the distance too."""
_CONSTANT = 1e-6
"""A deviation below this share of the metric is rounding: curves are kept in 32 bits."""
P = ParamSpec("P")
R = TypeVar("R")


@dataclasses.dataclass(frozen=True)
class Workload:
    """The model and the data that a verdict is about.

    Attributes:
        baseline: What the user trains with now, at a constant rate.
        num_examples: Size of the training split.
        examples: Length of a training at the baseline's batch size, in examples.
        metric: The objective's name.
        untrained: The objective before training, oriented so that larger is better.
        smallest_margin: Differences of the objective below this never matter; 0 where that is not
            known.
        device: Kind of device, such as "CPU".
        precision: Keras's dtype policy.
        compiled: Whether the model is compiled, so that it keeps its optimizer.
        normalizations: What the model's builder takes as `normalization`; empty where it does not.
        augmented: Whether the training split is augmented, which changed data is not.
        larger_is_better: Of the objective as the model reports it.
    """

    baseline: Configuration
    num_examples: int
    examples: int
    metric: str
    untrained: float
    smallest_margin: float
    device: str = "CPU"
    precision: str = "float32"
    compiled: bool = False
    normalizations: tuple[str, ...] = ()
    augmented: bool = False
    larger_is_better: bool = False

    @property
    def evaluated_every(self) -> int | None:
        """Examples between two evaluations; None for a pass over the training split.

        A training of the baseline that is shorter than eight of them is evaluated eight times all
        the same, so that a model whose passes are slow needs no longer one.
        """
        if self.examples >= EVALUATIONS * self.num_examples:
            return None
        return math.ceil(self.examples / EVALUATIONS)


@dataclasses.dataclass(frozen=True)
class Training:
    """A training to run.

    Attributes:
        configuration: What to train with.
        examples: Where it ends, in examples from the beginning, its ancestors' among them.
        seed: Of weights, order and augmentation: the same for every configuration of a pair.
        parent: The training whose end it branches from, with another batch size or rate from there
            on; None for one that begins anew.
        is_trunk: Whether others branch from its end: its state is kept for them.
        change: How its data differs from the user's, for one without parent and branches; None for
            the user's own.
    """

    configuration: Configuration
    examples: int
    seed: int
    parent: Training | None = None
    is_trunk: bool = False
    change: DataChange | None = None

    @functools.cached_property
    def name(self) -> str:
        """Equal for equal trainings, so that two cards that need the same one run it once."""
        c = self.configuration
        content = [c.model_dump(mode="json"), self.examples, self.seed]
        if self.parent or self.is_trunk:
            content.append([self.parent.name if self.parent else None, self.is_trunk])
        if self.change is not None:
            content.append(dataclasses.asdict(self.change))
        return f"b{c.batch_size}-r{c.base_learning_rate:.4g}-{content_hash(content)[:10]}"

    @property
    def own_examples(self) -> int:
        """Examples that it trains on itself."""
        return self.examples - (self.parent.examples if self.parent else 0)

    @property
    def line(self) -> tuple[Training, ...]:
        """Its ancestors from the first one on, and itself."""
        return (*(self.parent.line if self.parent else ()), self)


@dataclasses.dataclass(frozen=True)
class Run:
    """A training that has ended.

    Attributes:
        training: What was asked for.
        examples: Examples seen before each evaluation, ascending; the first is 0.
        scores: The objective at each, oriented so that larger is better; the first is that of the
            untrained model.
        diverged: Whether it ended because its loss grew beyond any use.
    """

    training: Training
    examples: tuple[float, ...]
    scores: tuple[float, ...]
    diverged: bool = False

    def score_at(self, examples: float) -> float:
        """The objective after so many examples, interpolated between two evaluations.

        A run that had diverged by then is worth as much as the untrained model.
        """
        if self.is_lost_at(examples):
            return self.scores[0]
        return float(np.interp(examples, self.examples, self._finite()))

    def is_lost_at(self, examples: float) -> bool:
        """Whether it had diverged after so many examples."""
        shown = [y for x, y in zip(self.examples, self.scores, strict=True) if x <= examples]
        ended = self.diverged and examples > self.examples[-1]
        return ended or not all(map(math.isfinite, shown))

    def oscillation(self, first: float, last: float) -> float | None:
        """Standard deviation of the objective around its line between two numbers of examples.

        0 where it is on the line but for rounding. None where fewer than four evaluations lie
        there, or it had diverged.
        """
        points = [
            (x, y) for x, y in zip(self.examples, self.scores, strict=True) if first <= x <= last
        ]
        if len(points) < 4 or not all(math.isfinite(y) for _, y in points) or self.diverged:
            return None
        x, y = (np.array(part) for part in zip(*points, strict=True))
        line = np.polynomial.Polynomial.fit(x, y, 1)
        deviation = float(math.sqrt(((y - line(x)) ** 2).sum() / (len(points) - 2)))
        return deviation if deviation > _CONSTANT * np.abs(y).max() else 0.0

    def _finite(self) -> list[float]:
        """A value that is no number counts as that of the untrained model."""
        return [score if math.isfinite(score) else self.scores[0] for score in self.scores]


def seeds_for(seed: int, purpose: Purpose, count: int) -> list[int]:
    """The seeds that a session's own gives for a purpose; no two purposes have one in common."""
    return [derive_seed(seed, "claims", purpose, index) for index in range(count)]


class Court(abc.ABC):
    """Trains and measures for the cards; nothing is run twice.

    Args:
        workload: Model and data.
        preset: How large the experiments are.
        seed: Everything random derives from it.
        asked: Names of the claims that are asked for; None for all.

    Attributes:
        too_large: Batch sizes that have run out of memory, as far as is known.
        failures: Why measurements have failed for a lack of memory or a process that ended: what
            is not testable for that alone may be testable in another session.
    """

    def __init__(
        self,
        workload: Workload,
        preset: Preset,
        seed: int,
        *,
        asked: Collection[str] | None = None,
    ):
        self._asked = asked
        self.workload = workload
        self.preset = preset
        self._seed = seed
        self.too_large: set[int] = set()
        self.failures: set[str] = set()

    @functools.cached_property
    def study(self) -> BatchSizeStudy:
        """The trainings at several batch sizes that most cards read."""
        from tfbatch.claims._batch_size_study import BatchSizeStudy

        return BatchSizeStudy(self)

    @functools.cached_property
    def bare_study(self) -> BatchSizeStudy:
        """The same without augmentation: what changed data is compared with."""
        from tfbatch.claims._batch_size_study import BatchSizeStudy

        return BatchSizeStudy(self, change=DataChange()) if self.workload.augmented else self.study

    def asks(self, *claims: str) -> bool:
        """Whether one of these claims is asked for: a card leaves out what only others need."""
        return self._asked is None or any(name in self._asked for name in claims)

    def seeds(self, purpose: Purpose, count: int) -> list[int]:
        """Seeds for one purpose: "verdict", "pilot" or "tuning"; no two have one in common."""
        return seeds_for(self._seed, purpose, count)

    @abc.abstractmethod
    def train(self, trainings: Sequence[Training]) -> list[Run]:
        """Runs what was not run yet, several at a time; returns all in the order asked for.

        What a training branches from is run first. One whose parent diverged has diverged with it.

        Raises:
            UntestableError: A batch size runs out of memory, or the data cannot be changed so.
        """

    @abc.abstractmethod
    def step_times(
        self, batch_sizes: Sequence[int], change: DataChange | None = None
    ) -> tuple[StepTime, ...]:
        """Seconds of a step of each size in interleaved rounds, each alone on the device.

        The same sizes are measured once. Sizes that take too long, or too much memory, are left
        out.

        Args:
            batch_sizes: The sizes.
            change: How the data differs from the user's.
        """

    @abc.abstractmethod
    def measure(
        self,
        function: Callable[Concatenate[TaskContext, P], R],
        *arguments: P.args,
        **options: P.kwargs,
    ) -> R:
        """What `function(context, *arguments, **options)` returns in the process that trains.

        It is kept in the run folder, and a session that is resumed measures it not again. So the
        function says what it returns: numbers, tuples and dataclasses of them. Arguments are plain
        data and configurations.

        Raises:
            UntestableError: It lacks memory, or its process has ended.
        """

    @abc.abstractmethod
    def measure_each(
        self,
        function: Callable[..., R],
        cases: Sequence[Mapping[str, object]],
        *,
        seconds: float,
        examples: int = 0,
    ) -> list[R]:
        """The same function for several cases, several at a time: for trainings of a card's own.

        Nothing that is timed: the cases disturb each other.

        Args:
            function: `function(context, **case)`; see `measure`.
            cases: Its arguments by keyword, for each.
            seconds: About what one of them takes beside the training that `examples` or
                `trained_steps` among its arguments ask for: a prediction, for `--dry_run`.
            examples: About how many examples one of them looks at besides, gradients included.

        Raises:
            UntestableError: One lacks memory, or its process has ended.
        """
