"""The best learning rate of each cell of a card whose trainings are its own, by tuning seeds."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from tfbatch.claims._batch_size_study import Rate

if TYPE_CHECKING:
    from tfbatch.claims._court import Court

_FIRST_OCTAVES = (-4, -2, 0, 2, 4)
_MOST_OCTAVES = 8


@dataclasses.dataclass(frozen=True)
class Cell:
    """What has a rate of its own, such as a batch size.

    Attributes:
        name: For a sentence, such as "batch size 16".
        case: Arguments by keyword.
        middle: The rate in the middle of those that are tried first.
    """

    name: str
    case: Mapping[str, object]
    middle: float


def tuned_rates(
    court: Court,
    function: Callable[..., tuple[float, ...]],
    cells: Sequence[Cell],
    *,
    seconds: float,
) -> list[Rate]:
    """The rate of each cell whose mean score is best, two octaves apart, then one.

    Five rates are tried first, and further ones while the best lies at the edge; then the two
    octaves beside the best.

    Args:
        court: Measures, with tuning seeds alone.
        function: `function(context, **case, rates, seed)` -> a score of each rate, larger is
            better; NaN of a training that diverged.
        cells: What is tuned, all at once.
        seconds: Of one rate, about.

    Raises:
        InputError: The cells cannot be measured.
    """
    seeds = court.seeds("tuning", court.preset.tuning_seeds)
    tried: list[dict[int, float]] = [{} for _ in cells]

    def measure(wanted: Sequence[Sequence[int]]) -> None:
        asked = [(number, octaves) for number, octaves in enumerate(wanted) if octaves]
        cases = [
            {
                **cells[number].case,
                "rates": [rate_at(cells[number], octave) for octave in octaves],
                "seed": seed,
            }
            for number, octaves in asked
            for seed in seeds
        ]
        most = max((len(octaves) for _, octaves in asked), default=0)
        scores = court.measure_each(function, cases, seconds=most * seconds) if cases else []
        for index, (number, octaves) in enumerate(asked):
            own = scores[index * len(seeds) : (index + 1) * len(seeds)]
            for octave, values in zip(octaves, zip(*own, strict=True), strict=True):
                finite = all(map(math.isfinite, values))
                tried[number][octave] = statistics.fmean(values) if finite else -math.inf

    measure([_FIRST_OCTAVES for _ in cells])
    while any(further := [_beyond(scores) for scores in tried]):
        measure(further)
    measure([_beside(scores) for scores in tried])
    return [_found(cell, scores) for cell, scores in zip(cells, tried, strict=True)]


def rate_at(cell: Cell, octave: int) -> float:
    """So many factors of two above the cell's middle rate."""
    return float(f"{cell.middle * 2.0**octave:.4g}")


def _best(scores: Mapping[int, float]) -> int:
    return max(scores, key=lambda octave: (scores[octave], -abs(octave)))


def _beyond(scores: Mapping[int, float]) -> list[int]:
    """The next octaves where the best one is at the edge, as far as they go."""
    best = _best(scores)
    step = {min(scores): -2, max(scores): 2}.get(best, 0)
    return [best + step] if step and abs(best + step) <= _MOST_OCTAVES else []


def _beside(scores: Mapping[int, float]) -> list[int]:
    best = _best(scores)
    return [octave for octave in (best - 1, best + 1) if min(scores) < octave < max(scores)]


def _found(cell: Cell, scores: Mapping[int, float]) -> Rate:
    best = _best(scores)
    doubts: tuple[str, ...] = ()
    if not math.isfinite(scores[best]):
        doubts = (f"every rate that was tried diverges at {cell.name}",)
    elif best in (min(scores), max(scores)):
        edge = "the lowest" if best == min(scores) else "the highest"
        doubts = (f"the best rate at {cell.name} is {edge} that was tried",)
    return Rate(rate_at(cell, best), doubts)
