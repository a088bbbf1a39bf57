"""Model and data in a process that trains: what an instrument may use, and no more."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tfbatch.configuration import Configuration
from tfbatch.own_data import DataDescription
from tfbatch.workers.slot import Start

if TYPE_CHECKING:
    from tfbatch.training.description import ModelDescription  # imports TensorFlow
    from tfbatch.training.devices import Devices
    from tfbatch.training.runner import Job

Found = TypeVar("Found")


class Process(Protocol):
    """What a bench asks of an engine: one call at a time, with the whole machine."""

    stop_requested: Callable[[], bool]
    records: Path | None

    @property
    def job(self) -> Job:
        """What the process was started with."""

    @property
    def devices(self) -> Devices:
        """What it runs on."""

    def call_alone(self, task: str, *arguments: Any) -> Any:
        """Runs one of the Runner's tasks with the whole machine."""

    def rest(self) -> None:
        """Ends the process, which holds memory; the next call starts one."""


@dataclasses.dataclass(frozen=True)
class Bench:
    """A process with model and data in it, which instruments' functions are called in.

    Attributes:
        data: What the data holds.
        model: What the model is.
        baseline: The baseline: optimizer, learning rate, batch size, and the scaling rule.
        process: Calls functions.
        stall_seconds: A process without a heartbeat for this long is ended.
        tell: Called with what a long measurement is doing now, such as "trying batch size 256".
    """

    data: DataDescription
    model: ModelDescription
    baseline: Configuration
    process: Process
    stall_seconds: float = 600.0
    tell: Callable[[str], None] = lambda text: None

    @property
    def devices(self) -> Devices:
        """What the process runs on."""
        return self.process.devices

    def configuration(self, batch_size: int) -> Configuration:
        """The baseline's optimizer and learning rate at a batch size, by the scaling rule."""
        return self.baseline.model_copy(update={"batch_size": batch_size})

    def measure(self, function: Callable[..., Found], *arguments: Any) -> Found:
        """What `function(programs, *arguments, heartbeat=...)` returns in the process.

        Args:
            function: Module-level: it travels by its name.
            arguments: Its further arguments.
        """
        found: Found = self.process.call_alone("measure", function, *arguments)
        return found

    def task(self, function: Callable[..., Found], *arguments: Any) -> Callable[..., Found]:
        """The same for a process that `own_process` begins: it takes the last arguments."""
        from tfbatch.training.runner import perform

        return functools.partial(perform, "measure", self.process.records, function, *arguments)

    def own_process(self, log: Path) -> Start:
        """How a process of an instrument's own begins, with the whole machine.

        Args:
            log: File for everything that it prints.
        """
        from tfbatch.training.runner import begin_worker

        job = self.process.job
        place = dataclasses.replace(job.place, slot=0, workers=1, whole=True)
        return Start(log, None, begin_worker, (dataclasses.replace(job, place=place),))

    def rest(self) -> None:
        """Ends the bench's process until the next `measure`: it would hold a device's memory."""
        self.process.rest()

    def stop_requested(self) -> bool:
        """Whether what runs is to end."""
        return self.process.stop_requested()
