"""A training step made in two ways, side by side at one batch size."""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING

from tfbatch.configuration import Configuration
from tfbatch.errors import TfbatchError
from tfbatch.interleaved_rounds import Paced, fewest_seconds, first_visit, measure_round
from tfbatch.training.context import TaskContext
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.step_times import (
    ROUNDS,
    SEED,
    StepTime,
    dropped_after_an_error,
    step_time_of,
    steps_at_once,
    time_training,
)

if TYPE_CHECKING:
    import keras

_MOST_ROUND_SECONDS = 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class Way:
    """One way to train.

    Attributes:
        name: As a clause names it, such as "with XLA".
        programs: Model and data, and how they are compiled.
        refused: Why a build does not train in this way; empty where it does.
    """

    name: str
    programs: ProgramCache
    refused: Callable[[keras.Model], str] = lambda model: ""


@dataclasses.dataclass(frozen=True)
class SpeedUp:
    """How many times as fast one way is as another, by rounds that both were measured in.

    Attributes:
        ratios: Seconds of the other, divided by its own, in each round.
    """

    ratios: tuple[float, ...]

    @property
    def middle(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.ratios)

    @property
    def interval(self) -> tuple[float, float]:
        """From the least to the greatest of the rounds.

        Of n independent rounds it holds the true median with a probability of 1 - 2 ** (1 - n):
        0.94 for five.
        """
        return min(self.ratios), max(self.ratios)

    @property
    def faster(self) -> bool | None:
        """Whether it is faster: True or False where every round says so, else None."""
        least, greatest = self.interval
        if least > 1:
            return True
        return False if greatest < 1 else None


def speed_up(of: StepTime, over: StepTime) -> SpeedUp:
    """How many times as fast steps are as others, that were measured in the same rounds."""
    return SpeedUp(tuple(b / a for a, b in zip(of.rounds, over.rounds, strict=True)))


@dataclasses.dataclass(frozen=True)
class TwoWays:
    """Step times of one batch size in two ways, in interleaved rounds.

    Attributes:
        first: Of the first way; None where one of them was not measured.
        second: Of the second; None where `first` is.
        failure: Why they were not measured, a clause; empty where they were.
    """

    first: StepTime | None
    second: StepTime | None
    failure: str = ""


def time_two_ways(
    task: TaskContext, configuration: Configuration, seconds: float, first: Way, second: Way
) -> TwoWays:
    """Times a step in two ways, in the process that trains.

    Args:
        task: Told that it lives.
        configuration: What to train with.
        seconds: About what the rounds of both may take; tracing and compilation come on top.
        first: One way.
        second: The other, which is tried after it.

    Raises:
        StoppedError: A stop was requested.
        TfbatchError: What says nothing of a way to train, such as damaged records.
    """
    kinds: list[Paced] = []
    for way in (first, second):
        task.heartbeat_or_stop()
        try:
            model = way.programs.begin(
                configuration, total_examples=configuration.batch_size, seed=SEED
            )
            if failure := way.refused(model):
                return TwoWays(None, None, failure)
            kinds.append(_looked_at(way.programs, configuration))
        except TfbatchError:  # such as damaged records: it says nothing of the way
            raise
        except Exception as error:  # an operation that one of them does not have is a result
            lines = str(error).strip().splitlines() or [""]
            failure = f"{way.name} training fails: {lines[0]}"
            return TwoWays(None, None, failure.rstrip("."))
    if fewest_seconds(sum(kind.per_step for kind in kinds), ROUNDS) > seconds:
        shown = " and ".join(
            f"{kind.per_step:.2g} s {way.name}"
            for kind, way in zip(kinds, (first, second), strict=True)
        )
        return TwoWays(None, None, f"the time is too short for steps of {shown}")
    each = min(seconds / (2 * ROUNDS), _MOST_ROUND_SECONDS)
    for _ in range(ROUNDS):
        measure_round(kinds, each, heartbeat=task.heartbeat_or_stop)
    # What comes around the steps of a visit is alike: the rest of the longer one was compilation.
    around = min(kind.around for kind in kinds)
    for kind in kinds:
        kind.compilation = kind.around - around
    return TwoWays(step_time_of(kinds[0]), step_time_of(kinds[1]))


def _looked_at(programs: ProgramCache, configuration: Configuration) -> Paced:
    time_steps = functools.partial(time_training, programs, configuration)
    with dropped_after_an_error(programs):
        most = steps_at_once(programs, configuration)
        return first_visit(configuration.batch_size, time_steps, most_at_once=most)
