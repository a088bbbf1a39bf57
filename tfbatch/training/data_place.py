"""Where the examples of a training live: in the device's memory, or on the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from tfbatch.pipeline.array_data import StoredData
from tfbatch.pipeline.device_data import DeviceForm, HeldData, StaysOnHostError
from tfbatch.pipeline.elements import Nest
from tfbatch.pipeline.recipe_data import PreparedData
from tfbatch.pipeline.trainable_data import Data, check_stream
from tfbatch.process.gpus import read_gpus
from tfbatch.training.class_weights import every_class_weight, with_class_weight
from tfbatch.training.program import held_by
from tfbatch.training.workload import Workload

if TYPE_CHECKING:
    import keras

DEVICE_SHARE = 0.2
"""Data up to this share of a GPU's memory is held there, that of all workers on it together."""


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the examples are, and why.

    Attributes:
        held: The data in the device's memory; None where it stays on the host.
        reason: A clause.
    """

    held: HeldData | None
    reason: str

    @property
    def on(self) -> str:
        """The same as `DataDescription.data_on`."""
        return "host" if self.held is None else "device"


def place_data(
    data: Data,
    wanted: str,
    *,
    sharers: int = 1,
    strategy: tf.distribute.Strategy | None = None,
    class_weight: dict[int, float] | None = None,
    callbacks: Callable[[], Sequence[keras.callbacks.Callback]] | None = None,
) -> Placement:
    """Decides where the examples of a process's trainings live.

    Args:
        data: The data.
        wanted: "device", "host", or "auto": on a GPU, where they fit into `DEVICE_SHARE` of it.
        sharers: Workers that hold the data on one GPU, each for itself.
        strategy: What distributes batches of the host's over devices, or None.
        class_weight: Weight by class; those that `fit` makes of it are part of a training batch.
        callbacks: Makes a user's callbacks, or None. One with `reads_batches` keeps them on the
            host, unless the device is asked for.
    """
    gpus = tf.config.list_logical_devices("GPU")
    if wanted == "host":
        return Placement(None, "as asked")
    if wanted == "auto" and not gpus:
        return Placement(None, "there is no GPU")
    if strategy is not None:
        return Placement(None, "a strategy distributes batches of the host's")
    if not isinstance(data, PreparedData | StoredData):
        return Placement(None, "its batches are made by a function")
    try:
        form = data.device_form()
    except StaysOnHostError as error:
        return Placement(None, str(error))
    weights = every_class_weight(class_weight, data.content.weighted_classes(data.num_classes))
    if weights:
        form = _weighted(form, weights)
    needed = form.stored_bytes * sharers
    size = f"{needed / 1e6:,.0f} MB"
    if wanted == "auto":
        there = min((gpu.memory_bytes for gpu in read_gpus().gpus), default=None)
        if there is None:
            return Placement(None, "the driver does not tell the GPU's memory")
        if needed > DEVICE_SHARE * there:
            shown = f"{there / 1e6:,.0f} MB"
            return Placement(
                None, f"{size} exceed {DEVICE_SHARE:.0%} of the GPU's memory ({shown})"
            )
        if readers := [
            one for one in (callbacks or list)() if getattr(one, "reads_batches", False)
        ]:
            return Placement(None, f"{type(readers[0]).__name__} reads the batches")
    return Placement(HeldData(form, "GPU:0" if gpus else "CPU:0"), size)


def _weighted(form: DeviceForm, class_weight: dict[int, float]) -> DeviceForm:
    """The same with the weight of each training example's class, as Keras's `fit` computes it."""

    def finish(
        streams: list[list[tf.Tensor]], position: tf.Tensor, keys: tf.Tensor, training: bool
    ) -> Nest:
        batch: Any = form.finish(streams, position, keys, training)
        return with_class_weight(batch, class_weight) if training else batch

    return form._replace(finish=finish)


def training_stream(
    model: keras.Model,
    workload: Workload,
    *,
    batch_size: int,
    seed: int,
    num_examples: int,
    start: int = 0,
) -> tf.data.Dataset:
    """What `fit` of a model is given: batches, or what its program makes them of.

    Args:
        model: A compiled model.
        workload: The data.
        batch_size: Examples in a batch.
        seed: Of the stream.
        num_examples: Where in the stream it ends.
        start: Where it begins.

    Raises:
        InputError: A batch size, a seed or a length out of range.
    """
    stream = {"batch_size": batch_size, "seed": seed, "num_examples": num_examples, "start": start}
    held = held_by(model)
    if held is None:
        return workload.data.training(**stream)
    check_stream(workload.data, **stream)
    return held.training(**stream, at_once=model.steps_per_execution)


def evaluation_stream(model: keras.Model, workload: Workload, split: str) -> tf.data.Dataset:
    """What `evaluate` of a model is given: every example of a split once."""
    held = held_by(model)
    return workload.evaluation(split) if held is None else held.evaluation(split)
