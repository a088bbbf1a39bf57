"""Which batch size is measured next: from both ends, then toward the knee, then between.

    seconds = {}
    while (size := next_size(sizes, seconds, affordable=fits_the_time)) is not None:
        seconds[size] = time_a_step(size)

A device may be no slower for a thousand examples than for eight, so that the small sizes tell
nothing of the large ones: whoever begins with the small ones and runs out of time has measured the
flat part alone, and takes its end for the knee.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence

from tfbatch.estimators.knee import NEAR_THE_BEST


def next_size(
    sizes: Sequence[int],
    seconds: Mapping[int, float],
    *,
    affordable: Callable[[int], bool] = lambda size: True,
    wanted: Collection[int] = (),
    too_large: int | None = None,
) -> int | None:
    """The next size to measure; None where nothing is left that can be measured.

    The order: the smallest; the largest; the middle one; what is wanted; sizes between the knee as
    it stands and its neighbors, half of them ruled out by each; then those in the widest gap, the
    upper one of two. After one that is too large, the largest that fits is found by halving.

    Args:
        sizes: All sizes, ascending.
        seconds: Seconds of a step of each size that was measured, as far as they are known yet.
        affordable: Whether the time allows for a size. The smallest is measured in any case, what
            lies above the largest measured one is tried from the largest down.
        wanted: Sizes that come before any other inner one, such as the baseline's.
        too_large: The smallest size that was seen not to fit into memory; it and all above it are
            left alone.
    """
    fitting = [size for size in sizes if too_large is None or size < too_large]
    left = [size for size in fitting if size not in seconds]
    if not seconds:
        return left[0] if left else None
    top = max(seconds)
    above = [size for size in left if size > top]
    if too_large is not None:
        above = above[: len(above) // 2 + 1]
    ordered = itertools.chain(
        reversed(above),
        marks(sizes, top, wanted),
        _halves(_around_the_knee(left, seconds)),
        _halves(sorted(_gaps(left, seconds), key=lambda gap: (len(gap), gap[0]), reverse=True)),
    )
    return next((size for size in ordered if size in left and affordable(size)), None)


def marks(sizes: Sequence[int], top: int, wanted: Collection[int] = ()) -> list[int]:
    """What is measured before any other size between the ends: the middle, and what is wanted.

    Args:
        sizes: All sizes, ascending.
        top: The largest that could be measured.
        wanted: See `next_size`.
    """
    reached = [size for size in sizes if size <= top]
    return [reached[len(reached) // 2], *(size for size in reached if size in wanted)]


def _halves(gaps: list[list[int]]) -> list[int]:
    """The middle of each gap first, then what is left of it from the top down."""
    middles = [gap[len(gap) // 2] for gap in gaps]
    return [*middles, *(size for gap in gaps for size in reversed(gap))]


def _gaps(left: Sequence[int], seconds: Mapping[int, float]) -> list[list[int]]:
    """What is not measured between two neighbors that are, ascending."""
    between = [
        [size for size in left if low < size < high]
        for low, high in itertools.pairwise(sorted(seconds))
    ]
    return [gap for gap in between if gap]


def _around_the_knee(left: Sequence[int], seconds: Mapping[int, float]) -> list[list[int]]:
    """The gaps that the knee may lie in: below it, and beside the best throughput."""
    throughput = {size: size / seconds[size] for size in sorted(seconds)}
    best = max(throughput, key=lambda size: throughput[size])
    knee = next(s for s in throughput if throughput[s] >= NEAR_THE_BEST * throughput[best])
    gaps = _gaps(left, seconds)
    below = [gap for gap in gaps if gap[-1] < knee]
    return [
        *(gap for gap in below[-1:] if not any(gap[-1] < size < knee for size in seconds)),
        *(gap for gap in gaps if _beside(gap, best, seconds)),
    ]


def _beside(gap: Sequence[int], size: int, measured: Collection[int]) -> bool:
    """Whether no measured size lies between a gap and a measured size."""
    low, high = (gap[-1], size) if gap[-1] < size else (size, gap[0])
    return not any(low < one < high for one in measured)
