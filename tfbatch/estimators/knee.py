"""The knee of the throughput curve: the batch size beyond which the device gains little."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import numpy.typing as npt

from tfbatch.errors import InputError
from tfbatch.estimators.interval import Interval
from tfbatch.estimators.vectors import Array, checked_array

NEAR_THE_BEST = 0.9
_RESAMPLES = 2000
_SEED = 0

Edge = Literal["smallest", "largest"]


@dataclasses.dataclass(frozen=True)
class Knee:
    """The smallest measured batch size with 90 % of the best measured throughput.

    Attributes:
        batch_size: The knee.
        interval: Range that holds it in 95 % of the resampled rounds; approximate, and never finer
            than the measured sizes. Simulated coverage at 2 to 5 % noise: 88 to 100 % from 5
            rounds on, 61 to 100 % with 3.
        agreement: Share of the resampled rounds that give exactly this size.
        throughput: Examples per second of each measured size, from the medians, in their order.
        open_ended: Whether the best throughput is that of the largest size: a larger one may be
            faster still, and the knee larger.
        edge: "smallest" or "largest" where `batch_size` is an end of what was measured, and so no
            knee: it may lie beyond. None where it lies inside.
    """

    batch_size: int
    interval: Interval
    agreement: float
    throughput: tuple[float, ...]
    open_ended: bool
    edge: Edge | None = None

    def __str__(self) -> str:
        """For a table, e.g. "64 [32, 64], in 93 % of the resampled rounds"."""
        more = "; the largest size is the fastest" if self.open_ended else ""
        if self.edge:
            more += f"; no knee: it is the {self.edge} measured size"
        return (
            f"{self.batch_size} {self.interval}, in {self.agreement:.0%} of the resampled "
            f"rounds{more}"
        )


def find_knee(
    batch_sizes: npt.ArrayLike,
    seconds: npt.ArrayLike,
    *,
    share: float = NEAR_THE_BEST,
    level: float = 0.95,
) -> Knee:
    """The knee among the measured sizes, with whole rounds resampled for its uncertainty.

    A round measures every size once, in turn, so that what slows the machine in a round slows all
    sizes and a resampled round stays comparable. In an affine model `a + b * B` without noise the
    knee is `share / (1 - share) * a / b`: 9 a / b.

    Args:
        batch_sizes: [sizes] batch sizes, ascending.
        seconds: [rounds, sizes] seconds of a step.
        share: Share of the best throughput that counts as near enough.
        level: Coverage of the interval.

    Raises:
        InputError: Sizes that do not ascend, another shape, values that are not > 0, a share or
            level that is not between 0 and 1.
    """
    sizes = checked_array(batch_sizes, name="batch_sizes")
    rounds = checked_array(seconds, name="seconds", dimensions=2)
    if rounds.shape[1] != len(sizes) or (np.diff(sizes) <= 0).any():
        raise InputError(
            "`batch_sizes` must ascend and `seconds` must be [rounds, sizes]. Received: "
            f"{sizes.tolist()} and an array of shape {rounds.shape}."
        )
    if not (0 < share <= 1 and 0 < level < 1):
        raise InputError(f"`share` and `level` must be > 0 and < 1. Received: {share=}, {level=}.")
    medians = np.median(rounds, axis=0)
    knee = int(_knees(sizes, medians[None], share)[0])
    drawn = np.random.default_rng(_SEED).integers(len(rounds), size=(_RESAMPLES, len(rounds)))
    resampled = _knees(sizes, np.median(rounds[drawn], axis=1), share)
    ends = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    throughput = sizes / medians
    edges: dict[int, Edge] = {int(sizes[0]): "smallest", int(sizes[-1]): "largest"}
    return Knee(
        batch_size=knee,
        interval=Interval(float(ends[0]), float(ends[1]), level),
        agreement=float((resampled == knee).mean()),
        throughput=tuple(throughput.tolist()),
        open_ended=bool(throughput.argmax() == len(sizes) - 1),
        edge=edges.get(knee),
    )


def _knees(sizes: Array, medians: Array, share: float) -> Array:
    """The knee of each row of [rows, sizes] seconds."""
    throughput = sizes / medians
    enough = throughput >= share * throughput.max(axis=1, keepdims=True) * (1 - 1e-12)
    found: Array = sizes[enough.argmax(axis=1)]
    return found
