"""Memory against the size of the images: what an example costs at each, and how it grows."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict, cast

import keras
import numpy as np
import tensorflow as tf
from typing_extensions import Unpack

from tfbatch.configuration import Configuration
from tfbatch.dataset_info.content import DataContent
from tfbatch.dataset_info.own_data import DataDescription
from tfbatch.errors import InputError
from tfbatch.estimators.memory_line import MemoryPrediction, predict_largest_batch_size
from tfbatch.instruments.largest_batch import MARGIN
from tfbatch.instruments.open_bench import BenchOptions, open_bench
from tfbatch.largest_batch.fresh_process import Climb, Ended, Peak, Prober, climb
from tfbatch.largest_batch.measurement import open_prober
from tfbatch.largest_batch.training_load import TrainingLoad, find_usable_memory
from tfbatch.pipeline.trainable_data import EVALUATION_BATCH_SIZE, Data
from tfbatch.quantities import bytes_of
from tfbatch.request.execution import Execution
from tfbatch.training.context import TaskContext
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.workload import Workload

_LINE_POINTS = 4  # the largest sizes: the small ones lie on the floor that start-up leaves


def measure_memory_by_image_size(
    build_model: Callable[..., keras.Model] | str,
    data: object,
    *,
    image_sizes: Sequence[int],
    batch_sizes: Sequence[int] = (8, 16, 32, 64, 128),
    memory_budget: float | str | None = None,
    precision: str = "float32",
    **options: Unpack[BenchOptions],
) -> ImageSizeMemory:
    """Measures what an example costs in memory at several sizes of the images.

    One fresh process for each size trains at growing batch sizes. Memory that grows with the area
    makes the batch that fits shrink with it: twice the side, a quarter of the batch.

    Args:
        build_model: See find_batch_size; a builder that takes `input_shape`.
        data: Data of images: they are resized in the pipeline.
        image_sizes: Heights and widths in pixels, in increasing order.
        batch_sizes: Batch sizes, in increasing order; those that do not fit are left out.
        memory_budget: See find_max_batch_size; default: 0.8 of the usable memory.
        precision: Keras's dtype policy.
        **options: Of model and data, see open_bench: optimizer, baseline, loss, metrics,
            class_weight, model_arguments, data_dir, image_size, records_dir.

    Returns:
        The measured peaks, and for each image size a line with a PREDICTED largest batch.

    Raises:
        InputError: Sizes that do not grow, or that do not fit.
        DataError: Data absent or damaged.
    """
    budget = bytes_of(memory_budget)
    for name, sizes in (("image_sizes", image_sizes), ("batch_sizes", batch_sizes)):
        if len(sizes) < 2 or sorted(set(sizes)) != list(sizes) or sizes[0] < 1:
            raise InputError(
                f"`{name}` must be at least two numbers >= 1 that grow. Received: {list(sizes)}."
            )
    with open_bench(
        build_model,
        data,
        execution=Execution(workers=1, precision=precision),
        **options,
    ) as bench:
        usable = bench.measure(find_usable_memory)
        bench.rest()
        bytes_allowed = budget or (1 - MARGIN) * usable.size_bytes
        one = bench.configuration(1)

        def climb_of(image_size: int) -> Climb:
            return bench.task(measure_resized, one, image_size)

        first = climb_of(image_sizes[0])
        with open_prober(bench, first, usable=usable, budget_bytes=bytes_allowed) as prober:
            return measure_image_sizes(
                lambda size: dataclasses.replace(prober, climb=climb_of(size)),
                image_sizes,
                batch_sizes=batch_sizes,
            )


@dataclasses.dataclass(frozen=True)
class AtImageSize:
    """Memory at one size of the images.

    Attributes:
        image_size: Height and width in pixels.
        peaks: Peak of the process after each batch size, in order.
        predicted: The largest batch under the budget, PREDICTED by the line through them.
    """

    image_size: int
    peaks: tuple[Peak, ...]
    predicted: MemoryPrediction


class ImageSizeRow(TypedDict):
    """A size of the images, for a table."""

    image_size: int
    megabytes_per_example: float
    fixed_megabytes: int
    predicted_largest_batch_size: float
    measured_up_to: int


@dataclasses.dataclass(frozen=True)
class ImageSizeMemory:
    """Memory against the size of the images.

    Attributes:
        sizes: What was measured at each.
        budget_bytes: Bytes that a process was allowed.
    """

    sizes: tuple[AtImageSize, ...]
    budget_bytes: float

    @property
    def area_exponent(self) -> float:
        """The p of `bytes_per_example = c * area**p`, by least squares of logarithms, or nan."""
        if len(self.sizes) < 2:
            return math.nan
        areas = [2 * math.log(found.image_size) for found in self.sizes]
        costs = [max(found.predicted.bytes_per_example, 1.0) for found in self.sizes]
        return float(np.polyfit(areas, np.log(costs), 1)[0])

    def rows(self) -> list[ImageSizeRow]:
        """A row for each size of the images."""
        return [
            {
                "image_size": found.image_size,
                "megabytes_per_example": round(found.predicted.bytes_per_example / 1e6, 3),
                "fixed_megabytes": round(found.predicted.fixed_bytes / 1e6),
                "predicted_largest_batch_size": found.predicted.batch_size,
                "measured_up_to": found.peaks[-1].size,
            }
            for found in self.sizes
        ]

    def __str__(self) -> str:
        """The table and the conclusion."""
        lines = [", ".join(f"{key}={value}" for key, value in row.items()) for row in self.rows()]
        return "\n".join([*lines, self.conclusion()])

    def conclusion(self) -> str:
        """What follows, in words."""
        first, last = self.sizes[0], self.sizes[-1]
        return (
            f"What an example costs grows with the image's area to the power "
            f"{self.area_exponent:.2f}: under {self.budget_bytes / 1e6:,.0f} MB the predicted "
            f"largest batch goes from {first.predicted.batch_size} at {first.image_size} pixels to "
            f"{last.predicted.batch_size} at {last.image_size}."
        )


def measure_image_sizes(
    prober_of: Callable[[int], Prober], image_sizes: Sequence[int], *, batch_sizes: Sequence[int]
) -> ImageSizeMemory:
    """One fresh process for each size of the images, through growing batch sizes.

    Args:
        prober_of: `prober_of(image_size)` runs batch sizes on images of a size.
        image_sizes: Heights and widths in pixels.
        batch_sizes: Batch sizes in increasing order; those that do not fit are left out.

    Raises:
        InputError: Fewer than two batch sizes fit at an image size; the model refuses the shape.
    """
    found = []
    for image_size in image_sizes:
        prober = prober_of(image_size)
        run = prober.run(batch_sizes)
        peaks = run.written.peaks
        if len(peaks) < 2:
            raise InputError(
                f"At {image_size} pixels at least two of the batch sizes "
                f"{', '.join(map(str, batch_sizes))} must run within the budget. Received: "
                f"{len(peaks)} that do ({run.outcome}). Give a larger budget or smaller ones."
            )
        line = predict_largest_batch_size(
            [peak.size for peak in peaks[-_LINE_POINTS:]],
            [peak.peak_bytes for peak in peaks[-_LINE_POINTS:]],
            budget_bytes=prober.budget_bytes,
            margin=0.0,
        )
        found.append(AtImageSize(image_size, peaks, line))
    return ImageSizeMemory(tuple(found), prober.budget_bytes)


def measure_resized(
    task: TaskContext,
    configuration: Configuration,
    image_size: int,
    sizes: Sequence[int],
    budget_bytes: float,
    record: Path,
) -> Ended:
    """The peak of training at growing batch sizes, on images resized to `image_size`.

    See tfbatch.largest_batch.training_load.measure_training for the other arguments.
    """
    workload = task.programs.workload
    resized = Workload(
        ResizedData(workload.data, image_size),
        workload.build_model,
        compilation=workload.compilation,
        precision=workload.precision,
        jit_compile=workload.jit_compile,
        strategy=workload.strategy,
    )
    load = TrainingLoad(ProgramCache(resized), configuration, task.heartbeat, validate=False)
    return climb(load, sizes, budget_bytes=budget_bytes, record=record, now=time.monotonic)


class ResizedData:
    """A data set of images, each enlarged or shrunk in its pipeline.

    Args:
        data: Inputs are one float image each, [height, width, channels].
        image_size: Height and width to resize to, in pixels.

    Raises:
        InputError: The inputs are no images.
    """

    def __init__(self, data: Data, image_size: int):
        shape = data.input_shape
        if not isinstance(shape, tuple) or len(shape) != 3:
            raise InputError(
                "Memory against the image size needs inputs of [height, width, channels]. "
                f"Received: {shape}."
            )
        self._data, self._image_size = data, image_size
        self._channels = cast(int, shape[2])
        self.name = data.name

    @property
    def soft_labels(self) -> bool:
        """See Data."""
        return self._data.soft_labels

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) after resizing."""
        return (self._image_size, self._image_size, self._channels)

    @property
    def num_classes(self) -> int | None:
        """See Data."""
        return self._data.num_classes

    @property
    def content(self) -> DataContent:
        """See Data."""
        return self._data.content

    @property
    def splits(self) -> tuple[str, ...]:
        """See Data."""
        return self._data.splits

    def describe(self) -> DataDescription:
        """See Data."""
        return self._data.describe()

    def num_examples(self, split: str = "train") -> int:
        """See Data."""
        return self._data.num_examples(split)

    def training(
        self, *, batch_size: int, seed: int, num_examples: int, start: int = 0
    ) -> tf.data.Dataset:
        """See Data."""
        stream = self._data.training(
            batch_size=batch_size, seed=seed, num_examples=num_examples, start=start
        )
        return stream.map(self._resize)

    def evaluation(self, split: str, *, batch_size: int = EVALUATION_BATCH_SIZE) -> tf.data.Dataset:
        """See Data."""
        return self._data.evaluation(split, batch_size=batch_size).map(self._resize)

    def raise_damage(self, split: str) -> None:
        """See Data."""
        self._data.raise_damage(split)

    def _resize(self, images: tf.Tensor, *rest: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return (tf.image.resize(images, (self._image_size, self._image_size)), *rest)
