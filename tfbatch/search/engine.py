"""What a search asks of whatever runs its trials and tasks."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, Protocol

from tfbatch.errors import SearchError, TfbatchError
from tfbatch.process.out_of_memory import follows_out_of_memory, is_out_of_memory, memory_message
from tfbatch.training.context import P, R, TaskContext
from tfbatch.training.devices import Devices
from tfbatch.training.node_check import NodeCheck
from tfbatch.trial.outcome import Outcome, Phase, TrialSpec
from tfbatch.workers.mailbox import TaskProgress
from tfbatch.workers.slot import Start

Finished = tuple[TrialSpec, Outcome]
OnProgress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Running:
    """A trial that runs now.

    Attributes:
        spec: The trial.
        progress: How far it is, in epochs.
        seconds: Since it was started.
    """

    spec: TrialSpec
    progress: TaskProgress
    seconds: float


def memory_failure(
    task: str, error: BaseException, log: str = "", *, shared: bool = False
) -> SearchError | None:
    """The error for a task's exception if it is a lack of memory; else None.

    Args:
        task: The task's name.
        error: What it raised.
        log: What its process printed.
        shared: Whether several workers share the memory.
    """
    if isinstance(error, TfbatchError):
        return None
    if not is_out_of_memory(error) and not follows_out_of_memory(str(error), log):
        return None
    fewer = ", or let fewer --workers share it" if shared else ""
    return SearchError(
        f"Memory was exhausted in `{task}`: {memory_message(error)}. Free the memory that other "
        f"processes hold (on a GPU, nvidia-smi lists them){fewer}."
    )


class TrialEngine(Protocol):
    """Runs trials, several at a time."""

    @property
    def devices(self) -> Devices:
        """What it runs on."""

    @property
    def free(self) -> bool:
        """Whether another trial could be started now."""

    def can_start(self, phase: Phase) -> bool:
        """Whether a trial of a phase can be started now."""

    def start(self, spec: TrialSpec) -> None:
        """Starts a trial."""

    def wait(
        self, *, seconds: float = float("inf"), stop_requested: Callable[[], bool] | None = None
    ) -> list[Finished]:
        """Waits until trials end, or another one could be started; returns those that ended.

        Args:
            seconds: Nothing is returned if that takes longer.
            stop_requested: When true, running trials end. Default: when the user asks for it.
        """

    def running(self) -> list[Running]:
        """The trials that run now, for a display; called from another thread."""

    def end_trials(self) -> list[Finished]:
        """Ends the trials that run, at once; those that had ended by themselves have an outcome.

        The others are "interrupted", or left out where nothing of them has begun.
        """


class Engine(TrialEngine, Protocol):
    """Runs trials, and single tasks while no trial runs: functions that get a TaskContext first.

    What differs is an argument, and `opened` gives another one; which processes there are is
    changed by `admit` and `share_gpus` alone.
    """

    def stop_requested(self) -> bool:
        """Whether the user has asked to stop."""

    def opened(self, records: Path) -> Engine:
        """The same processes, whose tasks find the prepared data there."""

    def call(
        self,
        task: Callable[Concatenate[TaskContext, P], R],
        *arguments: P.args,
        **options: P.kwargs,
    ) -> R:
        """Runs a task, while no trial runs.

        Args:
            task: Module-level, so that it travels by its name.
            arguments: What it takes after the context.
            options: The same by name.

        Raises:
            SearchError: Its process ended, or memory was used up.
            StoppedError: The user requested a stop, and it did not end soon enough.
        """

    def call_watched(
        self,
        on_progress: OnProgress,
        task: Callable[Concatenate[TaskContext, P], R],
        *arguments: P.args,
        **options: P.kwargs,
    ) -> R:
        """The same; `on_progress(done, total)` is told how far the task is."""

    def call_alone(
        self,
        task: Callable[Concatenate[TaskContext, P], R],
        *arguments: P.args,
        **options: P.kwargs,
    ) -> R:
        """The same with the whole machine: one worker's share would show other times."""

    def call_each(
        self,
        task: Callable[Concatenate[TaskContext, P], R],
        cases: Sequence[Mapping[str, object]],
        ended: Callable[[int, R], None],
    ) -> None:
        """Runs a task for several cases, several at a time, while no trial runs.

        One that fails ends none that runs: what these return is told before it is raised.

        Args:
            task: Module-level, so that it travels by its name.
            cases: The arguments of each by name.
            ended: Told of each case's index and result as soon as it has ended.

        Raises:
            SearchError: A process ended, or memory was used up.
            StoppedError: The user requested a stop.
        """

    def call_side_by_side(
        self,
        task: Callable[Concatenate[TaskContext, P], R],
        case: Mapping[str, object],
    ) -> list[R]:
        """Runs a task in every worker of the first GPU at the same time, while no trial runs.

        All of them have ended when it returns, or raises what one of them raised.

        Args:
            task: Module-level, so that it travels by its name.
            case: Its arguments by name, the same for each worker.

        Raises:
            SearchError: A process ended, or memory was used up.
            StoppedError: The user requested a stop.
        """

    def share_gpus(self, workers: int) -> None:
        """Gives each GPU of this machine so many workers, while no trial runs.

        All begin anew: what a process has of the machine is settled when it starts.
        """

    def own_process(self, log: Path) -> Start:
        """How a process begins that tasks are given to by tfbatch.training.context.perform.

        Args:
            log: File for everything that it prints.
        """

    def admit(self, expected: NodeCheck) -> None:
        """Lets nodes of a cluster run trials, now and later, that have the same data and model."""

    def rest(self) -> None:
        """Ends idle processes, and frees their memory; the next task starts them anew."""

    def close(self) -> None:
        """Ends every process at once."""


class Calls(abc.ABC):
    """The three ways to call a task, all by `_perform`."""

    def call(
        self,
        task: Callable[Concatenate[TaskContext, P], R],
        *arguments: P.args,
        **options: P.kwargs,
    ) -> R:
        """See Engine."""
        found: R = self._perform(task, arguments, options)
        return found

    def call_watched(
        self,
        on_progress: OnProgress,
        task: Callable[Concatenate[TaskContext, P], R],
        *arguments: P.args,
        **options: P.kwargs,
    ) -> R:
        """See Engine."""
        found: R = self._perform(task, arguments, options, on_progress=on_progress)
        return found

    def call_alone(
        self,
        task: Callable[Concatenate[TaskContext, P], R],
        *arguments: P.args,
        **options: P.kwargs,
    ) -> R:
        """See Engine."""
        found: R = self._perform(task, arguments, options, alone=True)
        return found

    @abc.abstractmethod
    def _perform(
        self,
        task: Callable[..., Any],
        arguments: Sequence[Any],
        options: Mapping[str, Any],
        *,
        on_progress: OnProgress | None = None,
        alone: bool = False,
    ) -> Any:
        """Runs `task(context, *arguments, **options)`."""
