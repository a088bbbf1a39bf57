"""A training's curves for TensorBoard: one run for each, whose x axis is examples trained on.

Keras's own callback writes two runs for a training, `train` and `validation`, over epochs; batch
sizes compare by examples, and a metric of both splits in one chart. A tag is the name in Keras's
logs: `loss`, `val_loss`, `learning_rate`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2, metadata
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from tfbatch.run_folder.files import SET_ASIDE

_LAYOUT_SUFFIX = ".tfbatch_layout"


class CurveWriter:
    """Writes the points of a training's curves; the file is made with the first one.

    With TensorBoard's own writer: TensorFlow's would open the GPU in a process that must not.

    Args:
        log_dir: The training's folder.
    """

    def __init__(self, log_dir: Path):
        self._log_dir = log_dir
        self._writer: EventFileWriter | None = None

    def write(
        self, examples: int, values: Mapping[str, float], *, seconds: float | None = None
    ) -> None:
        """Writes what was measured after so many examples; it is on disk when this returns.

        Args:
            examples: The position on the x axis.
            values: By tag.
            seconds: When it was measured, in seconds since 1970. Default: now.
        """
        if self._writer is None:
            self._writer = EventFileWriter(str(self._log_dir))
        summary = Summary()
        for name, value in values.items():
            summary.MergeFrom(scalar_pb(name, value))
        seconds = time.time() if seconds is None else seconds
        self._writer.add_event(Event(wall_time=seconds, step=examples, summary=summary))
        self._writer.flush()

    def close(self) -> None:
        """Ends the file; another point begins another one."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def set_aside(log_dir: Path) -> None:
    """Moves curves into a folder of their own below, which is a run of its own for TensorBoard.

    The HParams view takes the last point of a curve in a row's own folder for the final value,
    which a training that failed does not have.

    Args:
        log_dir: The training's folder; nothing writes into it any more.
    """
    _move(_files(log_dir), log_dir / SET_ASIDE)


def move_after(log_dir: Path, examples: int, to: Path) -> None:
    """Moves the curves that lie beyond an example: those of a part that went on with a training.

    Args:
        log_dir: The training's folder; nothing writes into it any more.
        examples: Where the part began.
        to: The part's own folder.
    """
    _move([file for file in _files(log_dir) if _begins_after(file, examples)], to)


def _files(log_dir: Path) -> list[Path]:
    return [p for p in log_dir.glob("*.tfevents.*") if ".tfbatch_" not in p.name]


def _move(files: Sequence[Path], to: Path) -> None:
    if files:
        to.mkdir(parents=True, exist_ok=True)
    for file in files:
        file.rename(to / file.name)


def _begins_after(file: Path, examples: int) -> bool:
    points = (event.step for event in EventFileLoader(str(file)).Load() if event.summary.value)
    return next(points, 0) > examples


def write_layout(log_dir: Path, charts: Mapping[str, Sequence[str]]) -> None:
    """Lays out the CUSTOM SCALARS page, in place of an earlier layout.

    Args:
        log_dir: The folder that is given to TensorBoard.
        charts: The tags of each chart, by its title; the first chart is a category of its own.
    """
    made = [
        layout_pb2.Chart(
            title=title,
            multiline=layout_pb2.MultilineChartContent(tag=[f"^{re.escape(t)}$" for t in tags]),
        )
        for title, tags in charts.items()
    ]
    layout = layout_pb2.Layout(
        category=[
            layout_pb2.Category(title="What is compared", chart=made[:1]),
            layout_pb2.Category(title="Everything by examples trained on", chart=made[1:]),
        ]
    )
    summary = Summary()
    summary.value.add(
        tag=metadata.CONFIG_SUMMARY_TAG,
        metadata=metadata.create_summary_metadata(),
        tensor=TensorProto(
            dtype=DT_STRING,
            string_val=[layout.SerializeToString()],
            tensor_shape=TensorShapeProto(),
        ),
    )
    earlier = list(log_dir.glob(f"*{_LAYOUT_SUFFIX}"))
    writer = EventFileWriter(str(log_dir), filename_suffix=_LAYOUT_SUFFIX)
    try:
        writer.add_event(Event(wall_time=time.time(), step=0, summary=summary))
    finally:
        writer.close()
    for file in earlier:
        file.unlink(missing_ok=True)
