"""Which cells may be tried, what each would come to at the full length, and which one is best."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from tfbatch.estimators.rate_surface import RateSurface, SurfacePoint, SurfacePrior, as_error
from tfbatch.metric_direction import Direction
from tfbatch.oracles._cells import Cell, Cells
from tfbatch.oracles._lengths import Lengths
from tfbatch.oracles._made_trainings import MadeTrainings

OCTAVE = 1.0
"""The step between rates."""
_TOLD = 1.64


@dataclasses.dataclass(frozen=True)
class RankingRules:
    """What a ranking goes by, whatever was made.

    Attributes:
        direction: Whether a good score is small ("min") or large ("max").
        prior: What is expected of the surface before anything was judged.
        caution: The best is that at its mean and so many of its deviations.
        bounded: Whether the rate is held at twice the highest that has trained, or at the next one
            above it where those of the space stand further apart.
    """

    direction: Direction
    prior: SurfacePrior
    caution: float
    bounded: bool


class CellRanking:
    """The cells as they stand at one moment: of what is made later it knows nothing.

    Args:
        made: What was made so far.
        cells: Batch sizes and rates.
        lengths: The lengths of trainings.
        rules: See RankingRules.
        bound: Batch sizes from here on do not fit into memory.
        bracket_size: The batch size at which rates were bracketed; None for no such size.
        is_full: Whether no other cell may be begun.
    """

    def __init__(
        self,
        made: MadeTrainings,
        cells: Cells,
        lengths: Lengths,
        rules: RankingRules,
        *,
        bound: float,
        bracket_size: int | None,
        is_full: bool,
    ):
        self._made, self._cells, self._lengths, self._rules = made, cells, lengths, rules
        self._bound, self._bracket_size, self._is_full = bound, bracket_size, is_full

    @functools.cached_property
    def allowed(self) -> list[Cell]:
        """Cells that may be tried: in memory, and at a rate that is not known to be too high.

        Where no other configuration may be tried, those that were begun.
        """
        left_out = self._made.failed() | self._made.lost()
        diverged = self._made.failed(diverged=True)
        survived = {training.cell for training, _ in self._made.judged()}
        begun = self._made.begun() if self._is_full else None
        return [
            cell
            for size in self._cells.sizes
            if size < self._bound and self._lengths.judged(size)
            for rate in self._rates
            if (cell := Cell(size, rate)) not in left_out and (begun is None or cell in begun)
            if self._is_in_reach(cell, diverged, survived)
        ]

    @functools.cached_property
    def _rates(self) -> tuple[float, ...]:
        """All rates, ascending."""
        return self._cells.rates(step=OCTAVE)

    def of_size(self, batch_size: int) -> list[Cell]:
        """The allowed ones of a batch size."""
        return [cell for cell in self.allowed if cell.batch_size == batch_size]

    def _is_in_reach(self, cell: Cell, diverged: set[Cell], survived: set[Cell]) -> bool:
        if any(f.batch_size == cell.batch_size and f.rate <= cell.rate for f in diverged):
            return False
        rate = self._rate_of(cell)
        if rate is None or not self._rules.bounded:
            return True
        # Noise makes a rate that is too high for a batch too high for every smaller one.
        for other in diverged:
            if other.batch_size > cell.batch_size and (self._rate_of(other) or math.inf) <= rate:
                return False
        trained = [self._rate_of(one) or 0.0 for one in survived]
        highest = max(trained, default=math.inf) * (1 + 1e-9)
        if rate <= 2.0 * highest:
            return True
        # The values of a list may stand further apart: the next one would never be in reach.
        lower = max((one for one in self._rates if one < cell.rate), default=None)
        below = None if lower is None else self._rate_of(Cell(cell.batch_size, lower))
        return below is not None and below <= highest

    def _rate_of(self, cell: Cell) -> float | None:
        return self._cells.learning_rate(cell, self._lengths.schedule)

    def point(self, cell: Cell, length: int, *, run: bool = True) -> SurfacePoint:
        """Where a training lies; or, where it is no run, the mean over all seeds."""
        return SurfacePoint(
            batch=math.log2(cell.batch_size / self._cells.reference),
            rate=cell.rate,
            remaining=math.log2(self._lengths.total / length),
            run=str(cell) if run else "",
        )

    def whole(self, cells: Sequence[Cell]) -> list[SurfacePoint]:
        """Where the means of whole trainings lie."""
        return [self.point(cell, self._lengths.total, run=False) for cell in cells]

    @functools.cached_property
    def surface(self) -> RateSurface | None:
        """The surface of all that was judged; what is open counts as what is expected of it."""
        judged = self._made.judged()
        if not judged:
            return None
        points = [self.point(t.cell, t.length) for t, _ in judged]
        values = list(as_error([score for _, score in judged], self._rules.direction))
        prior = dataclasses.replace(self._rules.prior, origin=self._origin())
        surface = RateSurface(prior, points, values)
        own = self._lengths.schedule
        running = {(t.cell, t.length) for t in self._made.open() if t.schedule == own}
        if not running:
            return surface
        more = [self.point(*one) for one in sorted(running)]
        return RateSurface(
            prior, points + more, [*values, *surface.mean(more)], noise=surface.noise
        )

    def _origin(self) -> float:
        """The best rate of the bracket, seen from the reference batch size."""
        size = self._bracket_size
        scores = self.scores_at(size, self._lengths.judged(size)[0]) if size is not None else {}
        if size is None or not scores:
            return self._cells.start
        best = min(scores, key=lambda rate: scores[rate])
        return best - self._rules.prior.slope * math.log2(size / self._cells.reference)

    def scores_at(self, batch_size: int, length: int) -> dict[float, float]:
        """What a batch size came to at a length, by rate; small is good."""
        sign = 1.0 if self._rules.direction == "min" else -1.0
        return {
            t.cell.rate: sign * score
            for t, score in self._made.judged()
            if (t.cell.batch_size, t.length) == (batch_size, length)
        }

    def expected_best(self, cells: Sequence[Cell], surface: RateSurface) -> Cell:
        """Of some cells, that of the best mean."""
        return cells[int(surface.mean(self.whole(cells)).argmin())]

    @functools.cached_property
    def favorite(self) -> Cell | None:
        """The cell of the best value that is not hoped for: mean and a share of its deviation."""
        return self.best({training.cell for training, _ in self._made.judged()})

    def best(self, among: Collection[Cell]) -> Cell | None:
        """The same, of some cells; None where none of them may be tried."""
        surface = self.surface
        cells = [cell for cell in self.allowed if cell in among]
        if surface is None or not cells:
            return None
        points = self.whole(cells)
        deviation = np.sqrt(np.maximum(np.diag(surface.covariance(points, points)), 0.0))
        return cells[int((surface.mean(points) + self._rules.caution * deviation).argmin())]

    def near_the_best(self, surface: RateSurface) -> list[Cell]:
        """Cells that were judged, and those within an octave of the best rate of their size."""
        judged = {training.cell for training, _ in self._made.judged()}
        found = []
        for size in sorted({cell.batch_size for cell in self.allowed}):
            own = self.of_size(size)
            best = self.expected_best(own, surface)
            found += [c for c in own if c in judged or abs(c.rate - best.rate) < OCTAVE + 1e-9]
        return found

    def chances(
        self, surface: RateSurface, favorite: Cell, cells: Sequence[Cell], *, known: float | None
    ) -> list[float]:
        """Of each cell, that it is no further than the noise behind the best of what is known.

        Args:
            surface: The surface.
            favorite: The best of the search.
            cells: The cells.
            known: What the baseline's own training came to; None for not yet.
        """
        target = float(surface.mean(self.whole([favorite]))[0])
        if known is not None:
            scores = [known, *(one for _, one in self._made.judged())]
            values = as_error(scores, self._rules.direction)
            target = min(target, float(values[0] - values[1:].min()))
        points = self.whole(cells)
        mean = surface.mean(points)
        deviation = np.sqrt(np.maximum(np.diag(surface.covariance(points, points)), 1e-12))
        chances: NDArray[np.float64] = special.ndtr((target + surface.noise - mean) / deviation)
        return [float(chance) for chance in chances]

    def not_told_from(self, favorite: Cell) -> list[int]:
        """Other batch sizes whose best cell may be as good."""
        surface = self.surface
        if surface is None:
            return []
        found = []
        for size in sorted({cell.batch_size for cell in self.allowed} - {favorite.batch_size}):
            pair = self.whole([favorite, self.expected_best(self.of_size(size), surface)])
            mean, covariance = surface.mean(pair), surface.covariance(pair, pair)
            variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
            if mean[1] - mean[0] < _TOLD * math.sqrt(max(variance, 0.0)):
                found.append(size)
        return found
