"""`tfbatch.measure_memory_by_image_size(...)`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import Unpack

from tfbatch.bench import BenchOptions, open_bench
from tfbatch.byte_sizes import bytes_of
from tfbatch.errors import InputError
from tfbatch.measuring.memory import SHARE
from tfbatch.request.execution import Execution

if TYPE_CHECKING:
    from tfbatch.instruments.image_size_memory import ImageSizeMemory


def measure_memory_by_image_size(
    build_model: Callable[..., Any] | str,
    data: Any,
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
        **options: See tfbatch.bench.open_bench: optimizer, baseline, loss, metrics, class_weight,
            model_arguments, data_dir, image_size, records_dir.

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
        from tfbatch.instruments.image_size_memory import measure_image_sizes, measure_resized
        from tfbatch.instruments.largest_batch import open_prober
        from tfbatch.instruments.peak_memory import device_memory

        device, usable, _ = bench.measure(device_memory)
        bench.engine.rest()
        bytes_allowed = budget or SHARE * usable
        with open_prober(bench, device=device, usable=usable, budget_bytes=bytes_allowed) as prober:
            first = (None, measure_resized, bench.configuration(1))
            return measure_image_sizes(
                lambda size: dataclasses.replace(prober, arguments=(*first, size)),
                image_sizes,
                batch_sizes=batch_sizes,
            )
