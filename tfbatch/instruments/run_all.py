"""Every instrument in turn on one bench, and what follows from them together."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

from tfbatch.bench import Bench
from tfbatch.errors import InputError, StoppedError, TfbatchError
from tfbatch.estimators.predicted_batch_size import (
    CAVEAT,
    OFF,
    BatchSizePrediction,
    predict_batch_size,
)
from tfbatch.instruments import INSTRUMENTS, Instrument, Reading
from tfbatch.instruments.input_bound import InputBoundReading
from tfbatch.instruments.largest_batch import LargestBatchReading
from tfbatch.instruments.noise_scale import NoiseScaleReading
from tfbatch.instruments.throughput import ThroughputReading
from tfbatch.notebook import paragraphs, table
from tfbatch.training.step_times import StepTime, seconds_of_first_steps

Kind = TypeVar("Kind")
Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
FEWEST_SECONDS = 35.0
MOST_SECONDS = 180.0
_PACE = 14.0
"""Instruments get this many times the seconds of the first training steps, tracing included."""
_TICK_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class Section:
    """One instrument's part.

    Attributes:
        name: The instrument's name.
        heading: The heading of its table.
        reading: What it has found; None where it failed.
        failure: Why it failed, in a line; empty where it did not.
        seconds: How long it took.
        trace: The traceback of an error that is no message for users; empty otherwise.
    """

    name: str
    heading: str
    reading: Reading | None
    failure: str
    seconds: float
    trace: str = ""


@dataclasses.dataclass(frozen=True)
class ProbeReport:
    """What all instruments have found.

    Attributes:
        device: Where, such as "CPU, 2 threads".
        batch_sizes: The sizes of interest.
        baseline: The baseline's batch size.
        sections: The instruments, in order.
        prediction: The predicted fastest batch size; None where nothing can be predicted.
        unpredicted: Why not; empty otherwise.
        gpu: The GPUs with driver, libraries and settings in a line; empty without a GPU.
    """

    device: str
    batch_sizes: tuple[int, ...]
    baseline: int
    sections: tuple[Section, ...]
    prediction: BatchSizePrediction | None
    unpredicted: str
    gpu: str = ""

    def reading(self, kind: type[Kind]) -> Kind | None:
        """An instrument's reading, by its class; None if it failed or was left out."""
        found = (s.reading for s in self.sections if isinstance(s.reading, kind))
        return next(found, None)

    def _repr_html_(self) -> str:
        """For a notebook: every instrument's table with what follows from it."""
        parts = []
        for section in self.sections:
            found = section.reading
            parts.append(paragraphs([section.heading], first_is_strong=True))
            if found is None:
                parts.append(paragraphs([f"Failed: {section.failure}"]))
            else:
                parts += [table(found.columns(), found.rows()), paragraphs([found.conclusion()])]
        return "".join(parts)

    def hardware(self) -> str:
        """One sentence: the knee, the largest batch, and what bounds the training."""
        parts = []
        if throughput := self.reading(ThroughputReading):
            parts.append(throughput.of_knee())
        if memory := self.reading(LargestBatchReading):
            parts.append(memory.of_hardware())
        if bound := self.reading(InputBoundReading):
            throughput = self.reading(ThroughputReading)
            knee = throughput.knee if throughput and throughput.has_knee else None
            parts.append(_of_input(bound, knee.batch_size if knee else self.baseline))
        if not parts:
            return "Of the hardware nothing is known."
        return f"On {self.device}: {_joined(parts)}."

    @property
    def fitting(self) -> tuple[int, ...]:
        """The sizes of interest that were not seen to be too large for the memory."""
        memory, throughput = self.reading(LargestBatchReading), self.reading(ThroughputReading)
        too_large = set(throughput.too_large) if throughput else set()
        limit = memory.largest_possible if memory else math.inf
        kept = tuple(b for b in self.batch_sizes if b <= limit and b not in too_large)
        return kept or self.batch_sizes[:1]

    @property
    def unmeasured(self) -> tuple[int, ...]:
        """Those of them that there was no time for: a command that is offered must have them."""
        throughput = self.reading(ThroughputReading)
        left_out = throughput.left_out if throughput else ()
        return tuple(size for size in left_out if size in self.fitting)

    def gradient(self, command: str) -> str:
        """One sentence: noise scale and predicted batch size.

        Args:
            command: The command that verifies the prediction.
        """
        noise = self.reading(NoiseScaleReading)
        if noise is None:
            return "No gradient noise scale was measured, so no batch size is predicted."
        found = f"The gradient noise scale is {noise.estimate}"
        made = self.prediction
        if made is None:
            return f"{found}; no batch size is predicted: {self.unpredicted}"
        return (
            f"{found}, from which the predicted time-optimal batch size is {made.batch_size} "
            f"({made.as_fast_from} to {made.as_fast_to} within 5 %; predicted {made.speed_up:.2f} "
            f"times as fast as {made.baseline}); {CAVEAT}; verify it by a search from a quarter "
            f"of the prediction to {OFF} times it: {command}"
        )

    def as_json(self) -> dict[str, Json]:
        """Everything, as JSON takes it; a number that is not finite becomes null."""
        content = {
            "device": self.device,
            "gpu": self.gpu or None,
            "batch_sizes": self.batch_sizes,
            "baseline_batch_size": self.baseline,
            "instruments": {
                section.name: {
                    "heading": section.heading,
                    "seconds": section.seconds,
                    "failure": section.failure or None,
                    "conclusion": section.reading and section.reading.conclusion(),
                    "reading": section.reading,
                }
                for section in self.sections
            },
            "prediction": self.prediction,
            "no_prediction_because": self.unpredicted or None,
        }
        return {key: _plain(part) for key, part in content.items()}


def run_instruments(
    bench: Bench,
    *,
    names: Sequence[str],
    batch_sizes: Sequence[int],
    say: Callable[[str], None],
    finished: Callable[[ProbeReport], None] = lambda probed: None,
    seconds: float | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> ProbeReport:
    """Runs instruments one after the other; a failure costs only that instrument.

    Args:
        bench: Model and data.
        names: Files of tfbatch/instruments.
        batch_sizes: Sizes of interest, the baseline's among them, ascending.
        say: Told what begins and what failed.
        finished: Called with all results whenever an instrument has ended, so that they are
            kept whatever happens to the next one.
        seconds: What all together may take, beside starting up and finding the largest batch.
            Default: 14 times the first training steps, but 35 to 180 seconds. What an instrument
            leaves of its share is its successors'.
        stop_requested: When true, the running instrument is left and no further one begins.
    """
    modules: list[Instrument] = [INSTRUMENTS.load(name) for name in names]
    modules.sort(key=lambda module: module.ORDER)
    sections: list[Section] = []
    used = 0.0
    found = _together(bench, batch_sizes, sections)
    for place, module in enumerate(modules):
        if stop_requested():
            break
        name = module.__name__.split(".")[-1]
        say(f"{module.HEADING} ...")
        started = time.monotonic()
        reading, failure, trace = None, "", ""
        try:
            if module.SHARE and seconds is None:
                seconds = _pace_seconds(bench)
            share = module.SHARE / (sum(later.SHARE for later in modules[place:]) or 1.0)
            allowed = max((seconds or 0.0) - used, 0.0) * share if share else math.inf
            # What takes what it takes, the memory finder, tells itself what it does.
            with _telling(bench, module.HEADING) if module.SHARE else contextlib.nullcontext():
                reading = module.probe(bench, batch_sizes=found.fitting, seconds=allowed)
        except StoppedError:
            say(f"{module.HEADING}: stopped, without a result.")
            break
        except TfbatchError as error:
            failure = str(error)
        except Exception as error:  # a bug in one instrument must not cost the others' figures
            failure, trace = f"{type(error).__name__}: {error}", traceback.format_exc()
        if failure:
            say(f"{module.HEADING} failed: {failure}")
        took = time.monotonic() - started
        used += max(took - _compilation(reading), 0.0) if module.SHARE else 0.0
        sections.append(Section(name, module.HEADING, reading, failure, took, trace))
        found = _together(bench, batch_sizes, sections)
        finished(found)
    return found


def _compilation(reading: Reading | None) -> float:
    """Seconds of tracing and compilation, which no other instrument's steps are to pay for."""
    times: list[StepTime] = []
    if isinstance(reading, ThroughputReading):
        times = [*reading.step_times]
        if reading.xla and reading.xla.on:
            times.append(reading.xla.on)
    elif isinstance(reading, InputBoundReading):
        times = [
            t for share in reading.shares for t in (share.pipeline, share.model, share.together)
        ]
    found = sum(time.compilation for time in times)
    if isinstance(reading, ThroughputReading) and reading.precision:
        found += reading.precision.compilation()
    return found


@contextlib.contextmanager
def _telling(bench: Bench, heading: str) -> Iterator[None]:
    """Reports every second which instrument runs, and for how long."""
    over, started = threading.Event(), time.monotonic()

    def tick() -> None:
        while not over.wait(_TICK_SECONDS):
            bench.tell(f"{heading}: {time.monotonic() - started:.0f} s")

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _pace_seconds(bench: Bench) -> float:
    """What a model of this size and this machine need."""
    first = bench.measure(seconds_of_first_steps, bench.baseline)
    return min(max(_PACE * first, FEWEST_SECONDS), MOST_SECONDS)


def _together(bench: Bench, batch_sizes: Sequence[int], sections: list[Section]) -> ProbeReport:
    probed = ProbeReport(
        device=bench.devices.name,
        batch_sizes=tuple(batch_sizes),
        baseline=bench.baseline.batch_size,
        sections=tuple(sections),
        prediction=None,
        unpredicted="",
        gpu=bench.gpu,
    )
    try:
        return dataclasses.replace(probed, prediction=_predict(bench, probed))
    except InputError as error:
        return dataclasses.replace(probed, unpredicted=str(error))
    except Exception as error:  # a bug in the prediction must not cost what was measured
        return dataclasses.replace(probed, unpredicted=f"{type(error).__name__}: {error}")


def _predict(bench: Bench, probed: ProbeReport) -> BatchSizePrediction:
    """Noise scale and step times together, under the number of examples and the memory.

    Raises:
        InputError: Something is absent, or does not allow a prediction.
    """
    noise, throughput = probed.reading(NoiseScaleReading), probed.reading(ThroughputReading)
    if noise is None or throughput is None:
        raise InputError("It needs both the noise scale and the step times.")
    largest = bench.data.splits["train"]
    memory = probed.reading(LargestBatchReading)
    if memory:
        if memory.largest_possible < 1:
            raise InputError("No batch was measured to fit into the memory.")
        largest = int(min(largest, memory.largest_possible))
    if throughput.too_large:
        largest = min(largest, min(throughput.too_large) - 1)
    made = predict_batch_size(
        noise.estimate,
        {time.batch_size: time.seconds for time in throughput.step_times},
        fit=throughput.fit,
        baseline=probed.baseline,
        largest=largest,
    )
    if made.limited_by == "memory" and largest == bench.data.splits["train"]:
        return dataclasses.replace(made, limited_by="the number of training examples")
    return made


def _of_input(bound: InputBoundReading, batch_size: int) -> str:
    """What holds a training up, with the size at which that was measured."""
    share = bound.nearest(batch_size)
    if share.batch_size == batch_size:
        return f"training at batch size {batch_size} is {share.verdict}"
    return (
        f"training at batch size {share.batch_size}, the nearest to {batch_size} that was measured "
        f"for it, is {share.verdict}"
    )


def _joined(parts: Sequence[str]) -> str:
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]


def _plain(value: object) -> Json:
    """Dataclasses, arrays and tuples as JSON has them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
