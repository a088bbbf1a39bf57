"""Step time, the knee, and what holds the training up, for anybody's model and data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tfbatch.bench import open_bench

if TYPE_CHECKING:
    from tfbatch.instruments.input_bound import InputBound
    from tfbatch.instruments.throughput import Throughput


@dataclasses.dataclass(frozen=True)
class Speed:
    """How fast a training is, by batch size.

    Attributes:
        throughput: Step times, the line through them, and the knee.
        input_bound: Whether input or model is the bottleneck; None if it was not asked for.
    """

    throughput: Throughput
    input_bound: InputBound | None

    def conclusion(self) -> str:
        """What follows, in words."""
        text = self.throughput.conclusion()
        return f"{text} {self.input_bound.conclusion()}" if self.input_bound else text


def measure_throughput(
    build_model: Callable[..., Any] | str,
    data: Any,
    *,
    batch_sizes: Sequence[int] = (8, 16, 32, 64, 128, 256),
    odd_sizes: bool = False,
    input_bound: bool = True,
    seconds: float = 60.0,
    **given: Any,
) -> Speed:
    """Measures seconds of a step for several batch sizes, each alone on the device.

    Rounds are interleaved, so that a drift of the machine falls on all sizes alike; tracing and
    the first steps of each round are left out. Where it fits, a line t = a + b * batch_size is
    given with its residual; the knee is the smallest size with 90 % of the best throughput.

    Example:
        ```python
        speed = tfbatch.measure_throughput("small_cnn", "digits", batch_sizes=[16, 64, 256])
        print(speed.conclusion())
        ```

    Args:
        build_model: As in `find_batch_size`.
        data: As in `find_batch_size`.
        batch_sizes: What to measure; none may exceed the training split.
        odd_sizes: Also neighbours that are odd, or multiples of 8, 10 and 32.
        input_bound: Whether to time pipeline and model apart as well.
        seconds: About what each of the two may take; where it is short, large sizes are left out.
        **given: Of tfbatch.bench.open_bench, such as `loss`, `optimizer`, `data_dir`.

    Raises:
        InputError: Something asked for cannot be used.
        DataError: Data absent or damaged.
    """
    with open_bench(build_model, data, **given) as bench:
        from tfbatch.instruments.input_bound import measure_input_bound
        from tfbatch.instruments.throughput import measure_throughput_of, with_odd_sizes

        count = bench.data.splits["train"]
        sizes = with_odd_sizes(batch_sizes) if odd_sizes else sorted(set(batch_sizes))
        configurations = [bench.configuration(size) for size in sizes if size <= count]
        speed = bench.measure(measure_throughput_of, configurations, seconds)
        bound = None
        if input_bound:
            plain = [c for c in configurations if c.batch_size in batch_sizes]
            bound = bench.measure(measure_input_bound, plain, seconds)
        return Speed(speed, bound)
