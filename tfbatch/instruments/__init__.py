"""Each file measures one thing of model, data and hardware, in the process that trains.

A file holds all of its measurement: the function for Python, such as
`tfbatch.gradient_noise_scale`, what it returns, and how it is measured. A file that declares
`probe` is an instrument, and its name the instrument's: `python -m tfbatch.probe` runs all of them
(`run_all`), and `--skip` takes the names. An instrument declares:

- `HEADING`, over its table, such as "Step time and the knee";
- `ORDER`, a number: instruments run and are shown from the smallest to the largest;
- `SHARE`, a number: its part of the command's time, in proportion to the others'; 0 for one that
  takes what it takes;
- `probe(bench, *, batch_sizes, seconds)`, which returns a `Reading`.

`probe` is called in the process of the command. It chooses what is to be measured, has it measured
by `bench.measure(function, ...)` in the process that trains, where the function's first argument is
a tfbatch.training.context.TaskContext, and never prints. Errors may leave it: the command reports
them and goes on with the next instrument.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tfbatch.bench import Bench
from tfbatch.charts import Chart
from tfbatch.plug_ins import Registry


class _Instruments(Registry):
    """The files of this folder that declare `probe`."""

    def names(self) -> list[str]:
        """See Registry."""
        texts = {name: (self._folder / f"{name}.py").read_text("utf-8") for name in super().names()}
        return [name for name, text in texts.items() if "\ndef probe(" in text]


INSTRUMENTS = _Instruments(__name__, kind="instrument", folder=__path__)


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


class Instrument(Protocol):
    """What a file that is an instrument declares; see above."""

    __name__: str
    HEADING: str
    ORDER: float
    SHARE: float

    def probe(self, bench: Bench, *, batch_sizes: Sequence[int], seconds: float) -> Reading:
        """Measures.

        Args:
            bench: Model and data.
            batch_sizes: The batch sizes of interest, ascending; none exceeds the training split.
            seconds: About what it may take; where that is short it measures less, and says so.
        """
