"""The curves of a trial, read from its event files by TensorBoard's own reader."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tfbatch.run_folder.journal import Row

_EPOCH = "epoch_"


@dataclasses.dataclass(frozen=True)
class Point:
    """What was measured at the end of one epoch.

    Attributes:
        epoch: The epoch, counted from 0 as Keras and TensorBoard do.
        seconds: When it was measured, in seconds since 1970.
        values: `loss`, `val_loss`, `learning_rate`... as 32-bit floats, and `examples`, the number
            of examples trained on.
    """

    epoch: int
    seconds: float
    values: dict[str, float]


def read_curves(tensorboard: Path, row: Row) -> list[Point]:
    """The epochs of a trial in their order; empty where there are no event files.

    A file that was cut is read up to the cut. Where a continued trial wrote an epoch twice, the
    later value counts.

    Args:
        tensorboard: The run's TensorBoard folder.
        row: The trial's row in the journal.
    """
    points: dict[int, Point] = {}
    for part, prefix in (("train", ""), ("validation", "val_")):
        folder = tensorboard / row["trial"] / part
        if not any(folder.glob("*.tfevents.*")):
            continue
        for tag, epoch, seconds, value in _scalars(folder):
            examples = float(_examples(epoch, row))
            point = points.setdefault(epoch, Point(epoch, seconds, {"examples": examples}))
            point.values[prefix + tag.removeprefix(_EPOCH)] = value
    return [points[epoch] for epoch in sorted(points)]


def _scalars(folder: Path) -> list[tuple[str, int, float, float]]:
    """Tag, epoch, wall-clock time and value of every scalar that Keras wrote at an epoch's end."""
    # They import TensorFlow where it is installed: not before there is something to read.
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    accumulator = EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0})
    accumulator.Reload()
    tags = accumulator.Tags()
    found = [
        (tag, event.step, event.wall_time, float(make_ndarray(event.tensor_proto)))
        for tag in tags["tensors"]
        if tag.startswith(_EPOCH)
        for event in accumulator.Tensors(tag)
    ]
    return sorted(found, key=lambda scalar: scalar[2])


def _examples(epoch: int, row: Row) -> int:
    """Examples trained on at the end of an epoch; the last one can be short."""
    full = (epoch + 1) * int(row["steps_per_epoch"]) * int(row["batch_size"])
    return min(full, int(row["examples"] or row["total_examples"]))
