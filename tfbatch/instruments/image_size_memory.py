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
from tfbatch.largest_batch.search import NOISE
from tfbatch.largest_batch.training_load import TrainingLoad, find_usable_memory
from tfbatch.pipeline.trainable_data import EVALUATION_BATCH_SIZE, Data
from tfbatch.quantities import bytes_of
from tfbatch.request.execution import Execution
from tfbatch.training.context import TaskContext
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.workload import Workload

_LINE_POINTS = 4  # the largest sizes: the small ones lie on the floor that start-up leaves
_BATCH_SIZES = (8, 16, 32, 64, 128)
_CLEARLY = 3  # noises of a peak by which the line must rise to show growth


def measure_memory_by_image_size(
    build_model: Callable[..., keras.Model] | str,
    data: object,
    *,
    image_sizes: Sequence[int],
    batch_sizes: Sequence[int] | None = None,
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
        batch_sizes: Batch sizes, in increasing order, at most the number of training examples; none
            follows after one that does not fit. Default: 8, 16, 32, 64 and 128, as far as there are
            examples.
        memory_budget: See find_max_batch_size; default: 0.8 of the usable memory.
        precision: Keras's dtype policy.
        **options: Of model and data, see open_bench: optimizer, baseline, loss, metrics,
            class_weight, model_arguments, data_dir, image_size, records_dir.

    Returns:
        The measured peaks, and for each image size a line with a PREDICTED largest batch, where
            memory was shown to grow with the batch.

    Raises:
        InputError: Sizes that do not grow, that do not fit, or larger than the training split.
        DataError: Data absent or damaged.
    """
    budget = bytes_of(memory_budget)
    images = _growing("image_sizes", image_sizes)
    asked = None if batch_sizes is None else _growing("batch_sizes", batch_sizes)
    with open_bench(
        build_model,
        data,
        execution=Execution(workers=1, precision=precision),
        **options,
    ) as bench:
        batches = _within(asked, bench.data.splits["train"])
        usable = bench.measure(find_usable_memory)
        bench.rest()
        bytes_allowed = budget or (1 - MARGIN) * usable.size_bytes
        one = bench.configuration(1)

        def climb_of(image_size: int) -> Climb:
            return bench.task(measure_resized, one, image_size)

        first = climb_of(images[0])
        with open_prober(bench, first, usable=usable, budget_bytes=bytes_allowed) as prober:
            return measure_image_sizes(
                lambda size: dataclasses.replace(prober, climb=climb_of(size)),
                images,
                batch_sizes=batches,
            )


def _growing(name: str, sizes: Sequence[int]) -> list[int]:
    """The sizes as Python's own whole numbers, which a process can write down.

    Raises:
        InputError: Fewer than two, or such as do not grow.
    """
    asked = list(sizes)
    whole = all(float(size).is_integer() and size >= 1 for size in asked)
    if len(asked) < 2 or not whole or sorted(set(asked)) != asked:
        raise InputError(
            f"`{name}` must be at least two whole numbers >= 1 that grow. Received: {asked}."
        )
    return [int(size) for size in asked]


def _within(asked: Sequence[int] | None, examples: int) -> list[int]:
    """The batch sizes to run: those asked for, or the usual ones as far as there are examples.

    Raises:
        InputError: One that was asked for exceeds the training examples, or there are too few.
    """
    if asked is None:
        usual = [size for size in _BATCH_SIZES if size <= examples]
        if len(usual) < 2:
            raise InputError(
                "`batch_sizes` must be given where there are fewer training examples than "
                f"{_BATCH_SIZES[1]}. Received: None for {examples}. Give two sizes or more, at "
                f"most {examples}."
            )
        return usual
    if asked[-1] > examples:
        raise InputError(
            f"`batch_sizes` must not exceed the {examples} training examples. "
            f"Received: {asked[-1]}."
        )
    return list(asked)


@dataclasses.dataclass(frozen=True)
class AtImageSize:
    """Memory at one size of the images.

    Attributes:
        image_size: Height and width in pixels.
        peaks: Peak of the process after each batch size, in order; the last may be over the budget.
        predicted: The largest batch under the budget, PREDICTED by the line through them; it says
            nothing where memory was not shown to grow.
    """

    image_size: int
    peaks: tuple[Peak, ...]
    predicted: MemoryPrediction

    @property
    def grows(self) -> bool:
        """Whether memory was shown to grow with the batch.

        Whether the line rises, from its smallest batch to its largest, by more than 3 % of the last
        peak: three times what a peak is known to.
        """
        line = self.peaks[-_LINE_POINTS:]
        rise = self.predicted.bytes_per_example * (line[-1].size - line[0].size)
        return rise > _CLEARLY * NOISE * line[-1].peak_bytes


class ImageSizeRow(TypedDict):
    """A size of the images, for a table; None where memory was not shown to grow."""

    image_size: int
    megabytes_per_example: float | None
    fixed_megabytes: int
    predicted_largest_batch_size: int | None
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
        """The p of `bytes_per_example = c * area**p`, by least squares of logarithms, or nan.

        Of the image sizes at which memory was shown to grow with the batch; nan for fewer than two.
        """
        growing = [found for found in self.sizes if found.grows]
        if len(growing) < 2:
            return math.nan
        areas = [2 * math.log(found.image_size) for found in growing]
        costs = [found.predicted.bytes_per_example for found in growing]
        return float(np.polyfit(areas, np.log(costs), 1)[0])

    def rows(self) -> list[ImageSizeRow]:
        """A row for each size of the images."""
        return [
            {
                "image_size": found.image_size,
                "megabytes_per_example": (
                    round(found.predicted.bytes_per_example / 1e6, 3) if found.grows else None
                ),
                "fixed_megabytes": round(found.predicted.fixed_bytes / 1e6),
                "predicted_largest_batch_size": found.predicted.batch_size if found.grows else None,
                "measured_up_to": max(_fitting(found.peaks, self.budget_bytes)),
            }
            for found in self.sizes
        ]

    def __str__(self) -> str:
        """The table and the conclusion."""
        lines = [", ".join(f"{key}={value}" for key, value in row.items()) for row in self.rows()]
        return "\n".join([*lines, self.conclusion()])

    def conclusion(self) -> str:
        """What follows, in words."""
        growing = [found for found in self.sizes if found.grows]
        under = f"under {self.budget_bytes / 1e6:,.0f} MB the predicted largest batch"
        said = []
        if len(growing) > 1:
            first, last = growing[0], growing[-1]
            said.append(
                "What an example costs grows with the image's area to the power "
                f"{self.area_exponent:.2f}: {under} goes from {first.predicted.batch_size} at "
                f"{first.image_size} pixels to {last.predicted.batch_size} at {last.image_size}."
            )
        else:
            said.append("How what an example costs grows with the image's area is not known.")
            said += [
                f"At {found.image_size} pixels {under} is {found.predicted.batch_size}."
                for found in growing
            ]
        if flat := [str(found.image_size) for found in self.sizes if not found.grows]:
            said.append(
                f"Memory was not shown to grow with the batch at {', '.join(flat)} pixels: measure "
                "larger batch sizes there (`batch_sizes`)."
            )
        return " ".join(said)


def _fitting(peaks: Sequence[Peak], budget_bytes: float) -> list[int]:
    """The batch sizes whose peak is within the budget: the last that was run may not be."""
    return [peak.size for peak in peaks if peak.peak_bytes <= budget_bytes]


def measure_image_sizes(
    prober_of: Callable[[int], Prober], image_sizes: Sequence[int], *, batch_sizes: Sequence[int]
) -> ImageSizeMemory:
    """One fresh process for each size of the images, through growing batch sizes.

    Args:
        prober_of: `prober_of(image_size)` runs batch sizes on images of a size.
        image_sizes: Heights and widths in pixels.
        batch_sizes: Batch sizes in increasing order; none follows after one that does not fit.

    Raises:
        InputError: Fewer than two batch sizes fit at an image size; the model refuses the shape.
    """
    found = []
    for image_size in image_sizes:
        prober = prober_of(image_size)
        run = prober.run(batch_sizes)
        peaks = run.written.peaks
        fitting = _fitting(peaks, prober.budget_bytes)
        if len(fitting) < 2:
            raise InputError(
                f"At {image_size} pixels at least two of the batch sizes "
                f"{', '.join(map(str, batch_sizes))} must run within the budget. Received: "
                f"{len(fitting)} that do ({run.outcome}). Give a larger budget or smaller ones."
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
