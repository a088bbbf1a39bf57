"""Model and data of a run, as instruments see them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate

from tfbatch.configuration import Configuration
from tfbatch.own_data import DataDescription
from tfbatch.request.request import Request
from tfbatch.workers.slot import Start

if TYPE_CHECKING:
    from tfbatch.search.engine import Engine  # imports TensorFlow
    from tfbatch.training.context import P, R, TaskContext, UserCode
    from tfbatch.training.description import ModelDescription


@dataclasses.dataclass(frozen=True)
class Bench:
    """A process with model and data in it, which instruments' functions are called in.

    Attributes:
        request: What was asked, fitted to the model.
        code: What the user gives as code, for processes of an instrument's own.
        data: What the data holds.
        model: What the model is.
        engine: Calls functions in the process.
        tell: Called with what a long measurement is doing now, such as "trying batch size 256".
    """

    request: Request
    code: UserCode
    data: DataDescription
    model: ModelDescription
    engine: Engine
    tell: Callable[[str], None] = lambda text: None

    def configuration(self, batch_size: int) -> Configuration:
        """The baseline's optimizer and learning rate at a batch size, by the scaling rule."""
        rule = self.request.search.space.rule
        baseline = self.request.baseline_configuration(rule)
        return baseline.model_copy(update={"batch_size": batch_size})

    def measure(
        self,
        function: Callable[Concatenate[TaskContext, P], R],
        *arguments: P.args,
        **options: P.kwargs,
    ) -> R:
        """What `function(context, *arguments)` returns in the process, which has all the machine.

        Args:
            function: Module-level: it travels by its name.
            arguments: Its further arguments.
            options: The same by name.
        """
        return self.engine.call_alone(function, *arguments, **options)

    def own_process(self, log: Path) -> Start:
        """How a process of an instrument's own begins, with the whole machine.

        Args:
            log: File for everything that it prints.
        """
        return self.engine.own_process(log)
