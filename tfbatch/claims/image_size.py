"""X13: the size of the images against the batch that fits, and against the best one.

The images are resized in the pipeline. What an example costs in memory is the slope of the peaks of
a process that trains at growing batch sizes, each image size in a process of its own, some times.
The best batch size is the one with the fewest seconds to a target, which is each image size's own.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfbatch.claims._batch_size_study import BatchSizeStudy
from tfbatch.claims._changed_data import DataChange
from tfbatch.claims._claim import Claim, Evidence, UntestableError
from tfbatch.claims._pairs import fell_short, log_steps, moves_up, told
from tfbatch.claims.data_size import reaching
from tfbatch.claims.steps_to_target import SECONDS_MARGIN
from tfbatch.errors import InputError
from tfbatch.process.memory import begin_peak_resident

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tfbatch.claims._court import Court
    from tfbatch.claims._preset import Purpose
    from tfbatch.configuration import Configuration
    from tfbatch.estimators.first_hit import StepsToTarget
    from tfbatch.largest_batch.fresh_process import Load
    from tfbatch.training.context import TaskContext

CARD = "X13"
TITLE = "the batch that fits and the best one at several image sizes"
ORDER = 98.0
CLAIMS: tuple[Claim, ...] = ()
_CLAIM = "20-to-64-by-input-size"
_SCALES = (0.5, 1.0, 1.5)
_USUAL = (20, 64)
_EXPONENT = 2.0
_EXPONENT_MARGIN = 0.3
_TIMES = 3
_CLIMB = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
_LARGEST = 2048
_LINE_POINTS = 4  # the largest sizes: the small ones lie on the floor that start-up leaves
_BUDGET = 0.5
"""Of the memory that can be used."""


def collect(court: Court) -> Iterator[Evidence]:
    """See tfbatch.claims.Card."""
    yield _best_size(court)
    yield _memory(court)


def _best_size(court: Court) -> Evidence:
    """Whether the best batch size of small images is larger than that of large ones."""
    blank = Evidence(
        _CLAIM,
        effects=(),
        margin=SECONDS_MARGIN,
        unit="log ratio",
        axis="time to target",
        policy="tuned",
        finding="",
        part="best size",
    )
    studies = {
        scale: court.bare_study
        if scale == 1
        else BatchSizeStudy(court, change=DataChange(image_scale=scale), sizes=court.study.sizes)
        for scale in _SCALES
    }
    small, large = _SCALES[0], _SCALES[-1]
    try:
        choosing, judging, chosen_by, seconds = {}, {}, {}, {}
        for scale in (small, large, 1.0):
            study = studies[scale]
            study.prefetch(("tuned",), ("target",))
            choosing[scale] = reaching(_updates(study, study.sizes, "tuning"))
            judging[scale] = _updates(study, tuple(choosing[scale]), "verdict")
            chosen_by[scale] = _speed(study, choosing[scale], "tuning")
            seconds[scale] = _speed(study, judging[scale], "verdict")
        shift = moves_up(seconds[large], seconds[small], chosen_by[large], chosen_by[small])
    except UntestableError as error:
        return dataclasses.replace(blank, untestable=str(error))
    doubts = [
        f"{text}, with images {scale:g} times as wide"
        for scale in (small, large)
        for text in studies[scale].doubts("tuned", "target", studies[scale].sizes, of_success=True)
    ]
    cells = [judging[large][size] for size in shift.before]
    cells += [judging[small][size] for size in shift.after]
    best = {
        scale: max(chosen_by[scale], key=lambda s: sum(chosen_by[scale][s])) for scale in _SCALES
    }
    usual = sum(_USUAL[0] <= size <= _USUAL[1] for size in best.values())
    blank = dataclasses.replace(
        blank,
        doubts=(*doubts, *shift.edge(court.study.sizes)),
        censored=fell_short(*cells),
        finding=f"what the best size of images {small:g} times as wide saves there in seconds to "
        f"the target over the best one of {large:g} times, and the reverse, the smaller of the "
        "two; the best sizes by other seeds: "
        + ", ".join(f"{size} at {scale:g} times" for scale, size in best.items())
        + f", {usual} of {len(best)} within {_USUAL[0]} to {_USUAL[1]}",
    )
    return told(blank, lambda: shift.contest)


def _updates(
    study: BatchSizeStudy, sizes: tuple[int, ...], purpose: Purpose
) -> dict[int, list[StepsToTarget]]:
    return {size: study.updates_to_target(size, "tuned", purpose) for size in sizes}


def _speed(
    study: BatchSizeStudy, runs: Mapping[int, list[StepsToTarget]], purpose: Purpose
) -> dict[int, list[float]]:
    """Minus log seconds to the target, on images of this size."""
    return {
        size: [
            -steps - seconds
            for steps, seconds in zip(
                log_steps(cell), study.log_seconds(size, purpose), strict=True
            )
        ]
        for size, cell in runs.items()
    }


def _memory(court: Court) -> Evidence:
    """The exponent of the side in what an example costs, less 2."""
    sizes = climb_of(court.workload.num_examples)
    effects, every, untestable = [], [], ""
    try:
        for attempt in range(_TIMES):
            costs = [
                court.measure(
                    bytes_of_an_example,
                    court.workload.baseline,
                    sizes=sizes,
                    change=DataChange(image_scale=scale),
                    attempt=attempt,
                )
                for scale in _SCALES
            ]
            effects.append(exponent(_SCALES, costs) - _EXPONENT)
            every.append(costs)
    except (InputError, UntestableError) as error:
        untestable = str(error)
    mean = _EXPONENT + (statistics.fmean(effects) if effects else math.nan)
    kilobytes = ", ".join(
        f"{statistics.fmean(cost) / 1e3:.3g}" for cost in zip(*every, strict=True)
    )
    return Evidence(
        _CLAIM,
        effects=() if untestable else tuple(effects),
        margin=_EXPONENT_MARGIN,
        unit="exponent",
        axis="memory",
        policy="no",
        finding=f"bytes of an example grow with the side of the images to the power {mean:.2f}, "
        f"less 2: {kilobytes} kB at {', '.join(f'{scale:g}' for scale in _SCALES)} times the "
        f"width, by peaks of {_TIMES} processes each at batch sizes {', '.join(map(str, sizes))}",
        part="memory",
        untestable=untestable,
    )


def climb_of(num_examples: int) -> tuple[int, ...]:
    """Batch sizes at which memory is measured."""
    most = min(num_examples, _LARGEST)
    return tuple(sorted({max(1, round(most * share)) for share in _CLIMB}))


def exponent(scales: tuple[float, ...], costs: list[float]) -> float:
    """The p of `cost = c * scale**p`, by least squares of logarithms."""
    return float(np.polyfit(np.log(scales), np.log(costs), 1)[0])


@dataclasses.dataclass(frozen=True)
class _FromHere:
    """A load whose peaks begin when its data is there: reading it can take more than any batch."""

    load: Load

    def begin(self) -> int:
        peak = self.load.begin()
        begin_peak_resident()
        return peak

    def step(self, size: int) -> int:
        return self.load.step(size)

    def finish(self) -> int | None:
        return self.load.finish()


def bytes_of_an_example(
    task: TaskContext,
    configuration: Configuration,
    *,
    sizes: tuple[int, ...],
    change: DataChange,
    attempt: int,
) -> float:
    """Inside the process that trains, alone: what each further example of a batch adds to the peak.

    Args:
        task: Model and data.
        configuration: What to train with; the batch size is replaced.
        sizes: Batch sizes, ascending; those that do not fit into half of the memory are left out.
        change: How the data differs.
        attempt: Tells apart what is measured several times.

    Raises:
        UntestableError: Memory does not grow with the batch.
    """
    from tfbatch.claims._changed_training import changed_programs
    from tfbatch.device_memory import begin_peaks
    from tfbatch.estimators.memory_line import predict_largest_batch_size
    from tfbatch.largest_batch.fresh_process import climb, read_written
    from tfbatch.largest_batch.training_load import TrainingLoad, find_usable_memory

    del attempt
    begin_peaks()
    budget = _BUDGET * find_usable_memory(task).size_bytes
    load = TrainingLoad(
        changed_programs(task, change), configuration, task.heartbeat_or_stop, validate=False
    )
    with tempfile.TemporaryDirectory(prefix="tfbatch-probe-") as folder:
        record = Path(folder) / "peaks"
        climb(_FromHere(load), sizes, budget_bytes=budget, record=record, now=time.monotonic)
        peaks = read_written(record).peaks[-_LINE_POINTS:]
    few = f"batch sizes {', '.join(map(str, sizes))} on this device"
    if len(peaks) < 2:
        raise UntestableError(f"fewer than two of {few} fit into half of its memory")
    found = predict_largest_batch_size(
        [peak.size for peak in peaks],
        [peak.peak_bytes for peak in peaks],
        budget_bytes=budget,
    )
    if not found.bytes_per_example > 0:
        raise UntestableError(
            f"memory is not seen to grow over {few}; use a larger model, or several --workers, so "
            "that each measurement has a process of its own"
        )
    return found.bytes_per_example
