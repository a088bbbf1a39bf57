"""Model and data in a process that trains: what an instrument may use, and no more."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, Protocol

from tfbatch.configuration import Configuration
from tfbatch.dataset_info.own_data import DataDescription
from tfbatch.workers.slot import Start

if TYPE_CHECKING:
    from tfbatch.training.context import P, R, TaskContext  # imports TensorFlow
    from tfbatch.training.description import ModelDescription
    from tfbatch.training.devices import Devices


class Process(Protocol):
    """What a bench asks of an engine: one call at a time, with the whole machine."""

    @property
    def devices(self) -> Devices:
        """What it runs on."""

    def stop_requested(self) -> bool:
        """Whether what runs is to end."""

    def call_alone(
        self,
        task: Callable[Concatenate[TaskContext, P], R],
        *arguments: P.args,
        **options: P.kwargs,
    ) -> R:
        """Runs a function with the whole machine; see tfbatch.search.engine.Engine."""

    def own_process(self, log: Path) -> Start:
        """How another process begins, with the whole machine."""

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
        gpu: The GPUs with driver, libraries and settings in a line; empty without a GPU.
        memory_seconds: What the search for the largest batch may take; None for its default.
    """

    data: DataDescription
    model: ModelDescription
    baseline: Configuration
    process: Process
    stall_seconds: float = 600.0
    tell: Callable[[str], None] = lambda text: None
    gpu: str = ""
    memory_seconds: float | None = None

    @property
    def devices(self) -> Devices:
        """What the process runs on."""
        return self.process.devices

    def configuration(self, batch_size: int) -> Configuration:
        """The baseline's optimizer and learning rate at a batch size, by the scaling rule."""
        return self.baseline.model_copy(update={"batch_size": batch_size})

    def measure(
        self,
        function: Callable[Concatenate[TaskContext, P], R],
        *arguments: P.args,
        **options: P.kwargs,
    ) -> R:
        """What `function(context, *arguments, **options)` returns in the process.

        Args:
            function: Module-level: it travels by its name.
            arguments: Its further arguments.
            options: The same by name.
        """
        return self.process.call_alone(function, *arguments, **options)

    def task(self, function: Callable[..., R], *arguments: object) -> Callable[..., R]:
        """The same for a process that `own_process` begins: it takes the last arguments."""
        from tfbatch.training.context import perform

        return functools.partial(perform, None, function, *arguments)

    def own_process(self, log: Path) -> Start:
        """How a process of an instrument's own begins, with the whole machine.

        Args:
            log: File for everything that it prints.
        """
        return self.process.own_process(log)

    def rest(self) -> None:
        """Ends the bench's process until the next `measure`: it would hold a device's memory."""
        self.process.rest()

    def stop_requested(self) -> bool:
        """Whether what runs is to end."""
        return self.process.stop_requested()
