"""Each file measures one thing of model, data and hardware, in the process that trains.

A file that declares `probe` is an instrument, and its name the instrument's: `python -m
tfbatch.probe` runs all of them, and `--skip` takes the names. The other files are parts of them.
An instrument declares:

- `HEADING`, over its table, such as "Step time and the knee";
- `ORDER`, a number: instruments run and are shown from the smallest to the largest;
- `SHARE`, a number: its part of the command's time, in proportion to the others'; 0 for one that
  takes what it takes;
- `probe(bench, *, batch_sizes, seconds)`, which returns a `Reading`.

`probe` is called in the process of the command. It chooses what is to be measured, has it measured
by `bench.measure(function, ...)` in the process that trains, where the function's first argument is
a tfbatch.training.context.TaskContext, and never prints. Errors may leave it:
the command says so and goes on with the next instrument.

Some readings are read by others, by these attributes:

- `largest_batch`: `largest_batch_size: int | None`, the largest verified one, None where nothing
  fits, and `limited_by: str`, what a larger one fails on, such as "memory";
- `throughput`: `knee: Knee`, `fit: StepTimeFit`;
- `input_bound`: `verdict_at(batch_size)`;
- `noise_scale`: `estimate: NoiseScale`, of the whole model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Protocol

from tfbatch.charts import Chart
from tfbatch.configuration import Configuration
from tfbatch.own_data import DataDescription
from tfbatch.registry import Registry

if TYPE_CHECKING:
    from tfbatch.training.context import P, R, TaskContext, UserCode
    from tfbatch.training.description import ModelDescription  # imports TensorFlow
    from tfbatch.workers.slot import Start


class _Instruments(Registry):
    """The files of this folder that declare `probe`."""

    def names(self) -> list[str]:
        """See Registry."""
        texts = {name: (self._folder / f"{name}.py").read_text("utf-8") for name in super().names()}
        return [name for name, text in texts.items() if "\ndef probe(" in text]


INSTRUMENTS = _Instruments(__name__, kind="instrument", folder=__path__)


class Bench(Protocol):
    """What an instrument sees of a tfbatch.search.workbench.Bench."""

    @property
    def request(self) -> Any:
        """What was asked: a tfbatch.request.request.Request."""

    @property
    def code(self) -> UserCode:
        """What the user gives as code."""

    @property
    def data(self) -> DataDescription:
        """What the data holds."""

    @property
    def model(self) -> ModelDescription:
        """What the model is."""

    @property
    def engine(self) -> Any:
        """Calls functions in the process: a tfbatch.search.worker_engine.WorkerEngine, or alike."""

    @property
    def tell(self) -> Callable[[str], None]:
        """Receives what a long measurement is doing now; may be called often."""

    def own_process(self, log: Path) -> Start:
        """How a process of an instrument's own begins, with the whole machine."""

    def configuration(self, batch_size: int) -> Configuration:
        """The baseline's optimizer and learning rate at a batch size, by the scaling rule."""

    def measure(
        self,
        function: Callable[Concatenate[TaskContext, P], R],
        *arguments: P.args,
        **options: P.kwargs,
    ) -> R:
        """What `function(context, *arguments)` returns in the process."""


class Reading(Protocol):
    """What an instrument has found: a frozen dataclass that pickles.

    Its fields are what probe.json holds (`dataclasses.asdict`), so they are numbers, texts,
    dataclasses, and tuples and dicts of these. The terminal shows the first rows; one that has
    better ones to show declares `short_rows(most)`: at most this many rows, and what is left out of
    them, such as "33 of 45 layers", or nothing.
    """

    def columns(self) -> tuple[str, ...]:
        """Headings of its table, with units."""

    def rows(self) -> list[tuple[str, ...]]:
        """Cells of its table, one for each column."""

    def conclusion(self) -> str:
        """One sentence, with the doubts that there are; a prediction is called one."""

    def charts(self) -> tuple[Chart, ...]:
        """What to draw; may be empty."""


class Probe(Protocol):
    """An instrument's `probe`."""

    def __call__(self, bench: Bench, *, batch_sizes: Sequence[int], seconds: float) -> Reading:
        """Measures.

        Args:
            bench: Model and data.
            batch_sizes: The batch sizes of interest, ascending; none exceeds the training split.
            seconds: About what it may take; where that is short it measures less, and says so.
        """
