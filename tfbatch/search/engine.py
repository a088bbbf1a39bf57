"""What a search asks of whatever runs its trials."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

from tfbatch.errors import SearchError, TfbatchError
from tfbatch.out_of_memory import follows_out_of_memory, is_out_of_memory, memory_message
from tfbatch.training.devices import Devices
from tfbatch.trial.outcome import Outcome, Phase, TrialSpec
from tfbatch.workers.mailbox import TaskProgress

Finished = tuple[TrialSpec, Outcome]
Progress = Callable[[int, int], None]


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


def memory_failure(task: str, error: BaseException, log: str = "") -> SearchError | None:
    """The error for a task's exception if it is a lack of memory; else None.

    Args:
        task: Name of a method of Runner.
        error: What it raised.
        log: What its process printed.
    """
    if isinstance(error, TfbatchError):
        return None
    if not is_out_of_memory(error) and not follows_out_of_memory(str(error), log):
        return None
    return SearchError(
        f"Memory was exhausted in `{task}`: {memory_message(error)}. Free the memory that other "
        "processes hold (on a GPU, nvidia-smi lists them), or let fewer --workers share it."
    )


class Engine(Protocol):
    """Runs trials, several at a time, and single tasks while no trial runs."""

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

    def wait(self) -> list[Finished]:
        """Waits until trials end; returns them."""

    def running(self) -> list[Running]:
        """The trials that run now, for a display; called from another thread."""
