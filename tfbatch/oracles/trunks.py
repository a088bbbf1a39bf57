"""Batch size and rate from stable trunks with cool-downs, then the schedules in whole runs.

A trunk is a training at a constant rate. At several lengths it is judged by a cool-down that
branches off from it, never by its own loss, which hides noise that a decay removes, unequally over
batch size and rate. A surface of few numbers (`estimators/rate_surface.py`) says what every cell
would come to at the full length, and the next training is the one of most expected gain for its
cost.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import statistics
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import threadpoolctl
from pydantic import Field, field_validator
from scipy import special

from tfbatch.estimators.rate_surface import RateSurface, SurfacePoint, SurfacePrior, as_error
from tfbatch.metric_direction import Direction
from tfbatch.oracles._cells import Cell, Cells
from tfbatch.oracles._lengths import COOL_DOWN, STABLE, Lengths, Training
from tfbatch.oracles._oracle import (
    NOTHING_KNOWN,
    Belief,
    Oracle,
    OracleSettings,
    Premises,
    Proposal,
    Stage,
    Stop,
    Told,
)

if TYPE_CHECKING:
    import keras_tuner

_OCTAVE = 1.0
_LADDER = 2.0
"""Octaves between the batch sizes that are each judged before any is left."""
_TOLD = 1.64
_SEED = 1
"""The number that all trainings have: paired, they differ by less than by chance."""
_USUAL_BRACKET = 4
_NEARLY = 0.7
_FASTER = 1.1
_SOME_CHANCE = 0.25
"""A cell that is faster by less, or as good with less of a chance, is not trained for its speed."""
_KILLED = 2
"""A training whose process has ended so often, for whatever reason, is not proposed again."""
_STAGES = ("learning rates", "batch sizes and learning rates", "schedules")
_LAST_STAGE = "a faster batch size"


class Settings(OracleSettings):
    """What a search by trunks may be told.

    Attributes:
        shares: The lengths at which a cell is judged, as shares of the run's; the last one is 1.
        cool_down: Share of a length that cools down where the space has no `wsd`.
        fewest_updates: A training of fewer judges nothing, unless it is of the run's length.
        trainings: What the search may cost, in whole trainings of the baseline's batch size, or of
            the median one if that costs more; with none whole by then, the favorite's comes on top.
        caution: The answer is what is best at its mean and so many of its deviations.
        rung: A batch size of the ladder whose first judgement costs more, in whole trainings, is
            left to what it is expected to gain.
        bracket_rung: The bracket is at the batch size nearest to the baseline's whose first
            judgement costs no more, in whole trainings, where there is one: a large batch makes
            its fewest updates late.
        worth: It ends where a further whole training would not be expected to improve the result
            by this share of the deviation between seeds.
        bracket: Whether the rate is bracketed first.
        ladder: Whether each batch size of a ladder of two octaves is judged before any is left.
        bounded: Whether the rate is held at twice the highest that has trained.
        schedules: Whether the other schedules of the space compete in whole runs at the end.
        faster: Whether a faster batch size that may be as good as the favorite is trained whole,
            on top of the price; it costs less than a training of the favorite.
    """

    in_parts: ClassVar[bool] = True
    prices: ClassVar[bool] = True
    shares: tuple[float, ...] = Field(default=(0.125, 0.25, 0.5, 1.0), min_length=1)
    cool_down: float = Field(default=0.2, gt=0, lt=1)
    fewest_updates: int = Field(default=50, ge=1)
    trainings: float = Field(default=2.5, gt=0)
    worth: float = Field(default=0.1, ge=0)
    caution: float = Field(default=0.5, ge=0)
    rung: float = Field(default=0.6, ge=0)
    bracket_rung: float = Field(default=0.3, ge=0)
    bracket: bool = True
    ladder: bool = True
    bounded: bool = True
    schedules: bool = True
    faster: bool = True

    @field_validator("shares")
    @classmethod
    def _ascending(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if list(shares) != sorted(set(shares)) or shares[0] <= 0 or shares[-1] != 1:
            raise ValueError("must be > 0, ascend, and end with 1")
        return shares

    def most_trainings(self) -> float:
        """See OracleSettings."""
        return self.trainings + (1.0 if self.faster else 0.0)

    def needed_trainings(self, max_trials: int) -> float:
        """See OracleSettings: a faster size is on top."""
        del max_trials
        return self.trainings

    def make(
        self,
        hyperparameters: keras_tuner.HyperParameters,
        *,
        direction: Direction,
        seed: int,
        total_examples: int,
        premises: Premises = NOTHING_KNOWN,
    ) -> Oracle:
        """See OracleSettings."""
        del seed  # nothing is drawn
        cells = Cells(hyperparameters, premises)
        return Trunks(
            self, cells, direction=direction, total_examples=total_examples, premises=premises
        )


@dataclasses.dataclass
class _Made:
    """A training that was proposed.

    Attributes:
        training: What it is.
        for_speed: Whether it is whole, and faster than the answer of then, which was whole, too.
        told: What it came to; None while it is open.
    """

    training: Training
    for_speed: bool = False
    told: Told | None = None


class Trunks:
    """Proposes what follows from the trials that were proposed and told so far, and nothing else.

    Args:
        settings: See Settings.
        cells: Batch sizes and rates.
        direction: Whether a good score is small ("min") or large ("max").
        total_examples: Length of a whole training.
        premises: What is known beforehand.
    """

    size = None

    def __init__(
        self,
        settings: Settings,
        cells: Cells,
        *,
        direction: Direction,
        total_examples: int,
        premises: Premises,
    ):
        self._settings, self._cells, self._direction = settings, cells, direction
        self._prices = premises.prices
        names = cells.schedules
        trunk = next((name for name in STABLE if name in names), None)
        self._lengths = Lengths(
            settings.shares,
            total_examples,
            setting=cells.setting(Cell(cells.reference, cells.start), trunk),
            trunk=trunk,
            schedule=names[0] if names else None,
            cool_down=settings.cool_down,
            fewest_updates=settings.fewest_updates,
        )
        self._rates = cells.rates(step=_OCTAVE)
        self._made: dict[str, _Made] = {}
        self._killed = collections.Counter[Training]()
        self._most_trials = premises.max_trials or math.inf
        self._tried = 0
        self._known_lengths: dict[int, tuple[int, ...]] = {}
        self._known_rates: dict[Cell, float | None] = {}
        self._fitted: RateSurface | None = None
        self._chosen: list[Cell | None] = []
        self._bound = math.inf
        self._own_schedule = premises.baseline.schedule.name if premises.baseline else None
        baseline = premises.baseline.batch_size if premises.baseline else cells.reference
        # Where the baseline is the cheapest, its price would buy no training of another size.
        costs = [self._prices.cost(size, total_examples) for size in cells.sizes]
        usual = statistics.median(costs or [0.0])
        self._one_training = max(self._prices.cost(baseline, total_examples), usual)
        self._baseline_told = premises.baseline_told or (lambda: None)
        self._prior = self._expected()

    def propose(
        self, trial: str, *, known: Proposal | None, bound: float
    ) -> Proposal | Stop | None:
        """See Oracle."""
        if bound != self._bound:
            self._bound = bound
            self._changed()
        with threadpoolctl.threadpool_limits(1):
            found = self._training(known) if known else self._next()
            if not isinstance(found, Training):
                return found
            for_speed = self._is_for_speed(found)
        proposal = known or self._proposal(found)
        self._made[trial] = _Made(found, for_speed)
        self._tried += proposal.part is None or proposal.part.parent is None
        self._changed()
        return proposal

    def tell(self, trial: str, proposal: Proposal, told: Told) -> None:
        """See Oracle."""
        del proposal
        self._made[trial].told = told
        self._changed()

    def forget(self, trial: str) -> None:
        """See Oracle: it is proposed once more."""
        self._killed[self._made.pop(trial).training] += 1
        self._changed()

    def _changed(self) -> None:
        self._fitted, self._chosen = None, []

    # What was made.

    def _proposal(self, training: Training) -> Proposal:
        parent = self._lengths.parent(training, self._trunks(training.cell))
        values = self._cells.values(training.cell, training.schedule)
        name = None
        if parent is not None:
            name = self._trunk_name(training.cell, parent)
        return Proposal(
            values,
            self._lengths.part(training, name),
            seed=_SEED if name is None else None,
        )

    def _training(self, known: Proposal) -> Training:
        schedule = str(known.values.get("schedule", self._lengths.schedule))
        return self._lengths.training(self._cells.cell(known.values), schedule, known.part)

    def _trunk_name(self, cell: Cell, length: int) -> str:
        return next(
            name
            for name, made in self._made.items()
            if made.training.kind == "trunk"
            and (made.training.cell, made.training.length) == (cell, length)
            and made.told
            and made.told.completed
        )

    def _trunks(self, cell: Cell) -> list[int]:
        """Lengths of the trunks of a cell that others can go on from."""
        return [
            made.training.length
            for made in self._of(cell)
            if made.training.kind == "trunk" and made.told and made.told.completed
        ]

    def _of(self, cell: Cell) -> list[_Made]:
        return [made for made in self._made.values() if made.training.cell == cell]

    def _open(self) -> list[Training]:
        return [made.training for made in self._made.values() if made.told is None]

    def _is_busy(self, cell: Cell) -> bool:
        return any(made.told is None for made in self._of(cell))

    def _failed(self, *, diverged: bool = False) -> set[Cell]:
        """Cells that did not complete; a schedule that fails says nothing of the trunk.

        Args:
            diverged: Those alone whose rate was too high.
        """
        own = self._lengths.schedule
        return {
            made.training.cell
            for made in self._made.values()
            if made.told and not made.told.completed and made.training.schedule == own
            if made.told.status == "diverged" or not diverged
        }

    def _lost(self) -> set[Cell]:
        """Cells whose process was killed again and again in one training."""
        own = self._lengths.schedule
        return {t.cell for t, n in self._killed.items() if n >= _KILLED and t.schedule == own}

    def _begun(self) -> set[Cell]:
        return {made.training.cell for made in self._made.values()}

    def _judged(self) -> list[tuple[Training, float]]:
        """The trainings by which cells are compared, with their scores."""
        own = self._lengths.schedule
        return [
            (made.training, made.told.score)
            for made in self._made.values()
            if made.told
            and made.told.completed
            and made.training.kind != "trunk"
            and made.training.schedule == own
        ]

    def _longest(self, cell: Cell) -> int:
        """The longest length at which a cell was judged; 0 for none."""
        return max((t.length for t, _ in self._judged() if t.cell == cell), default=0)

    def _lengths_of(self, size: int) -> tuple[int, ...]:
        """Where a batch size is judged: a length that costs nearly as much as the whole is none.

        Starting and evaluating two parts can cost more than a whole training that is short.
        """
        if size not in self._known_lengths:
            total, cell = self._lengths.total, Cell(size, self._cells.start)
            judged = self._lengths.judged(size)
            whole = self._cost(cell, total, trunks=()) if total in judged else math.inf
            self._known_lengths[size] = tuple(
                length
                for length in judged
                if length == total or self._cost(cell, length, trunks=()) <= _NEARLY * whole
            )
        return self._known_lengths[size]

    # What is known of the rates.

    def _allowed(self) -> list[Cell]:
        """Cells that may be tried: in memory, and at a rate that is not known to be too high.

        Where no other configuration may be tried, those that were begun.
        """
        left_out = self._failed() | self._lost()
        diverged = self._failed(diverged=True)
        survived = {t.cell for t, _ in self._judged()}
        begun = self._begun() if self._is_full() else None
        return [
            cell
            for size in self._cells.sizes
            if size < self._bound and self._lengths_of(size)
            for rate in self._rates
            if (cell := Cell(size, rate)) not in left_out and (begun is None or cell in begun)
            if self._is_in_reach(cell, diverged, survived)
        ]

    def _is_full(self) -> bool:
        """Whether as many configurations were begun as the search may try."""
        return self._tried >= self._most_trials

    def _is_last(self) -> bool:
        """Whether the next is the last one that may be tried: without trunks each length is one."""
        return self._lengths.trunk is None and self._tried >= self._most_trials - 1

    def _is_in_reach(self, cell: Cell, diverged: set[Cell], survived: set[Cell]) -> bool:
        if any(f.batch_size == cell.batch_size and f.rate <= cell.rate for f in diverged):
            return False
        rate = self._rate_of(cell)
        if rate is None or not self._settings.bounded:
            return True
        # Noise makes a rate that is too high for a batch too high for every smaller one.
        for other in diverged:
            if other.batch_size > cell.batch_size and (self._rate_of(other) or math.inf) <= rate:
                return False
        trained = [self._rate_of(one) or 0.0 for one in survived]
        highest = max(trained, default=math.inf)
        return rate <= 2.0 * highest * (1 + 1e-9)

    def _rate_of(self, cell: Cell) -> float | None:
        if cell not in self._known_rates:
            setting = self._cells.setting(cell, self._lengths.schedule)
            self._known_rates[cell] = setting.learning_rate if setting else None
        return self._known_rates[cell]

    def _expected(self) -> SurfacePrior:
        """The optimum rises as B^0.8 for SGD, whose rule is linear, and as B^0.6 for all others."""
        exponent = self._cells.rule_exponent()
        slope = 0.0
        if exponent is not None:
            slope = (0.8 if exponent > 0.75 else 0.6) - exponent
        return SurfacePrior(center=self._cells.start, slope=slope)

    def _point(self, cell: Cell, length: int, *, run: bool = True) -> SurfacePoint:
        """Where a training lies; or, where it is no run, the mean over all seeds."""
        return SurfacePoint(
            batch=math.log2(cell.batch_size / self._cells.reference),
            rate=cell.rate,
            remaining=math.log2(self._lengths.total / length),
            run=str(cell) if run else "",
        )

    def _full(self, cells: Sequence[Cell]) -> list[SurfacePoint]:
        return [self._point(cell, self._lengths.total, run=False) for cell in cells]

    def _surface(self) -> RateSurface | None:
        """The surface of all that was judged; what is open counts as what is expected of it."""
        if self._fitted is None:
            self._fitted = self._fit()
        return self._fitted

    def _fit(self) -> RateSurface | None:
        judged = self._judged()
        if not judged:
            return None
        points = [self._point(t.cell, t.length) for t, _ in judged]
        values = list(as_error([score for _, score in judged], self._direction))
        prior = dataclasses.replace(self._prior, origin=self._origin())
        surface = RateSurface(prior, points, values)
        own = self._lengths.schedule
        running = {(t.cell, t.length) for t in self._open() if t.schedule == own}
        if not running:
            return surface
        more = [self._point(*one) for one in sorted(running)]
        return RateSurface(
            prior, points + more, [*values, *surface.mean(more)], noise=surface.noise
        )

    def _origin(self) -> float:
        """The best rate of the bracket, seen from the reference batch size."""
        size = self._reference()
        scores = self._scores_at(size, self._lengths_of(size)[0]) if size is not None else {}
        if size is None or not scores:
            return self._cells.start
        best = min(scores, key=lambda rate: scores[rate])
        return best - self._prior.slope * math.log2(size / self._cells.reference)

    # What is next.

    def _next(self) -> Training | Stop | None:
        allowed = self._allowed()
        if not allowed:
            return None if self._open() else Stop("No cell of the space can be trained.")
        stages = (self._bracket, self._ladder, self._explore, self._finish, self._faster)
        for stage in (self._last,) if self._is_last() else stages:
            found = stage(allowed)
            if isinstance(found, Training | Stop):
                return found
            if found == "wait":
                return None
        return None if self._open() else Stop(self._why())

    def _why(self) -> str:
        spent = self._spent() / self._one_training
        if self._left() < self._prices.cost(self._cells.reference, self._lengths.total):
            return f"The search has cost {spent:.1f} whole trainings, and ends."
        return (
            f"After {spent:.1f} whole trainings nothing that could still be tried is expected to "
            "gain what it would cost: the search ends."
        )

    def _step(self, cell: Cell, length: int) -> Training:
        """The next training on the way to judging a cell at a length."""
        return self._lengths.missing(cell, length, trunks=self._trunks(cell))[0]

    def _bracket(self, allowed: Sequence[Cell]) -> Training | Literal["wait"] | None:
        """Rates an octave apart at one batch size, until it falls off on both sides."""
        size = self._reference()
        if not self._settings.bracket or size is None:
            return None
        length = self._lengths_of(size)[0]
        scores = self._scores_at(size, length)
        start = min(
            (cell for cell in allowed if cell.batch_size == size),
            key=lambda cell: (abs(cell.rate - self._cells.start), cell.rate),
            default=None,
        )
        if start is None:
            return None
        wanted = [start]
        if scores:
            best = min(scores, key=lambda rate: scores[rate])
            wanted = self._neighbors(size, best)
        elif self._is_busy(start):
            wanted = self._neighbors(size, start.rate)
        missing = [c for c in wanted if c in allowed and c.rate not in scores]
        return self._first_free([(cell, length) for cell in missing])

    def _ladder(self, allowed: Sequence[Cell]) -> Training | Literal["wait"] | None:
        """Each batch size of the ladder at its expected rate, the cheapest first."""
        surface = self._surface()
        if surface is None:
            return None
        rungs = []
        for size in self._missing_rungs(allowed):
            own = [cell for cell in allowed if cell.batch_size == size]
            best = own[int(surface.mean(self._full(own)).argmin())]
            rungs.append((best, self._lengths_of(size)[0]))
        dear = self._settings.rung * self._one_training
        rungs = [one for one in rungs if self._cost(*one) <= dear]
        return self._first_free(sorted(rungs, key=lambda one: self._cost(*one)))

    def _explore(self, allowed: Sequence[Cell]) -> Training | Literal["wait"] | None:
        """What improves the answer most for its cost."""
        surface = self._surface()
        if surface is None:
            first = allowed[0]
            return self._first_free([(first, self._lengths_of(first.batch_size)[0])])
        near = self._near(allowed, surface)
        options = [
            (cell, length)
            for cell in near
            if not self._is_busy(cell)
            and (length := self._next_length(cell))
            and self._fits(cell, length)
        ]
        if not options:
            return None
        gains = surface.gains(self._full(near), [self._point(*one) for one in options])
        costs = [self._cost(*one) / self._one_training for one in options]
        rates = [float(gain) / cost for gain, cost in zip(gains, costs, strict=True)]
        best = max(range(len(options)), key=lambda k: rates[k])
        if rates[best] < self._settings.worth * surface.noise:
            return None
        return self._step(*options[best])

    def _next_length(self, cell: Cell) -> int | None:
        """Where a cell is judged next."""
        longest = self._longest(cell)
        return next((n for n in self._lengths_of(cell.batch_size) if n > longest), None)

    def _finish(self, allowed: Sequence[Cell]) -> Training | Literal["wait"] | None:
        """The favorite to its end; then the space's other schedules at it."""
        favorite, total = self._favorite(), self._lengths.total
        if favorite is None:
            # The first ones have failed: without a whole training there is no answer.
            if self._open() or self._left() <= 0:
                return None
            return self._step(self._nearest_to_baseline(allowed), total)
        if self._longest(favorite) < total:
            if self._is_busy(favorite):
                return "wait"
            judging = (m for m in self._made.values() if m.training.kind != "trunk")
            if all(m.training.length < total for m in judging if not _has_failed(m)):
                # Without a whole training there is no answer, whatever one costs by now.
                return self._step(favorite, total)
            if self._cost(favorite, total) <= self._left():
                return self._step(favorite, total)
        made = {m.training.schedule for m in self._of(favorite) if m.training.kind == "whole"}
        for name in [] if self._is_full() else self._other_schedules():
            whole = Training(favorite, "whole", total, name)
            cost = self._prices.cost(favorite.batch_size, total)
            is_left = name not in made and self._killed[whole] < _KILLED
            if is_left and cost <= self._left():
                return whole
        return None

    def _last(self, allowed: Sequence[Cell]) -> Training | Literal["wait"] | None:
        """The favorite whole, or without one the baseline's cell or what is nearest to it."""
        favorite = self._favorite() or self._nearest_to_baseline(allowed)
        if self._is_busy(favorite):
            return "wait"
        is_whole = self._longest(favorite) == self._lengths.total
        return None if is_whole or self._is_full() else self._step(favorite, self._lengths.total)

    def _nearest_to_baseline(self, allowed: Sequence[Cell]) -> Cell:
        size, rate = self._cells.reference, self._cells.start
        return min(
            allowed, key=lambda c: (abs(math.log2(c.batch_size / size)), abs(c.rate - rate), c)
        )

    def _faster(self, allowed: Sequence[Cell]) -> Training | Literal["wait"] | None:
        """One faster cell whole: that of most speed times chance to be as good as the favorite."""
        surface, favorite, total = self._surface(), self._answer(), self._lengths.total
        if not self._settings.faster or surface is None or favorite is None:
            return None
        begun = self._begun_for_its_speed()
        if begun is not None:
            return self._rest_of(begun) if begun in allowed else None
        own = self._prices.cost(favorite.batch_size, total)
        speeds = {cell: own / self._prices.cost(cell.batch_size, total) for cell in allowed}
        cells = [cell for cell, speed in speeds.items() if speed >= _FASTER]
        chances = self._chances(surface, favorite, cells) if cells else []
        worth = {
            cell: chance * math.log2(speeds[cell])
            for cell, chance in zip(cells, chances, strict=True)
            if chance >= _SOME_CHANCE
        }
        if not worth:
            return None
        best = max(worth, key=lambda cell: worth[cell])
        if self._cost(best, total) > self._left() + self._one_training:
            return None
        return self._rest_of(best)

    def _begun_for_its_speed(self) -> Cell | None:
        """The first cell that was begun whole and is faster than the answer was."""
        return next((m.training.cell for m in self._made.values() if m.for_speed), None)

    def _is_for_speed(self, training: Training) -> bool:
        """Whether a training that begins is what `_faster` asks for, whoever has asked for it."""
        total = self._lengths.total
        if training.length < total or training.schedule != self._lengths.schedule:
            return False
        answer = self._answer()
        if answer is None or self._longest(answer) < total:
            return False
        own, other = (self._prices.cost(c.batch_size, total) for c in (training.cell, answer))
        return other >= _FASTER * own

    def _rest_of(self, cell: Cell) -> Training | Literal["wait"] | None:
        """What is missing of a whole training that was begun."""
        if self._is_busy(cell):
            return "wait"
        if cell in self._failed() or self._longest(cell) == self._lengths.total:
            return None
        return self._step(cell, self._lengths.total)

    def _chances(self, surface: RateSurface, favorite: Cell, cells: Sequence[Cell]) -> list[float]:
        """Of each cell, that it is no further than the noise behind the best of what is known."""
        target = float(surface.mean(self._full([favorite]))[0])
        baseline = self._baseline_told()
        if baseline and baseline.completed:
            scores = [baseline.score, *(one for _, one in self._judged())]
            values = as_error(scores, self._direction)
            target = min(target, float(values[0] - values[1:].min()))
        points = self._full(cells)
        mean = surface.mean(points)
        deviation = np.sqrt(np.maximum(np.diag(surface.covariance(points, points)), 1e-12))
        return [float(p) for p in special.ndtr((target + surface.noise - mean) / deviation)]

    def _near(self, allowed: Sequence[Cell], surface: RateSurface) -> list[Cell]:
        """Cells that were judged, and those within an octave of the best rate of their size."""
        judged = {t.cell for t, _ in self._judged()}
        found = []
        for size in sorted({cell.batch_size for cell in allowed}):
            own = [cell for cell in allowed if cell.batch_size == size]
            best = own[int(surface.mean(self._full(own)).argmin())]
            found += [c for c in own if c in judged or abs(c.rate - best.rate) < _OCTAVE + 1e-9]
        return found

    def _other_schedules(self) -> list[str]:
        """The schedules that compete at the end: the baseline's own first."""
        if not self._settings.schedules:
            return []
        others = [name for name in self._cells.schedules if name != self._lengths.schedule]
        return sorted(others, key=lambda name: name != self._own_schedule)

    def _reference(self) -> int | None:
        """That of the bracket: the reference, or what is near it, fits, and is judged early."""
        sizes = [size for size in self._cells.sizes if size < self._bound]
        sizes = [size for size in sizes if self._lengths_of(size)]
        if not sizes:
            return None
        wanted, start = self._cells.reference, self._cells.start
        rung = self._settings.bracket_rung
        cheap = [
            size
            for size in sizes
            if (first := self._lengths_of(size)[0]) <= rung * self._lengths.total
            and self._cost(Cell(size, start), first, trunks=()) <= rung * self._one_training
        ]
        return min(cheap or sizes, key=lambda size: (abs(math.log2(size / wanted)), size))

    def _scores_at(self, size: int, length: int) -> dict[float, float]:
        """By rate, small is good."""
        sign = 1.0 if self._direction == "min" else -1.0
        return {
            t.cell.rate: sign * score
            for t, score in self._judged()
            if (t.cell.batch_size, t.length) == (size, length)
        }

    def _neighbors(self, size: int, rate: float) -> list[Cell]:
        place = self._rates.index(rate)
        near = [self._rates[k] for k in (place + 1, place - 1) if 0 <= k < len(self._rates)]
        return [Cell(size, one) for one in near]

    def _missing_rungs(self, allowed: Sequence[Cell]) -> list[int]:
        """Batch sizes of the ladder that were not judged yet."""
        if not self._settings.ladder:
            return []
        judged = {t.cell.batch_size for t, _ in self._judged()}
        reference = self._cells.reference
        octaves = {size: math.log2(size / reference) for size in self._cells.sizes}
        on_it = [s for s, o in octaves.items() if abs(o / _LADDER - round(o / _LADDER)) < 1e-9]
        possible = {cell.batch_size for cell in allowed}
        return [size for size in on_it if size not in judged and size in possible]

    def _first_free(self, wanted: Sequence[tuple[Cell, int]]) -> Training | Literal["wait"] | None:
        """The next step towards the first of cell and length that nobody works on."""
        fitting = [one for one in wanted if self._fits(*one)]
        for cell, length in fitting:
            if not self._is_busy(cell):
                return self._step(cell, length)
        return "wait" if fitting else None

    def _favorite(self) -> Cell | None:
        """The cell of the best value that is not hoped for: mean and a share of its deviation."""
        if not self._chosen:
            self._chosen.append(self._choose())
        return self._chosen[0]

    def _answer(self) -> Cell | None:
        """The favorite, unless it can no longer be trained whole, which an answer has to be."""
        favorite, total = self._favorite(), self._lengths.total
        whole = {t.cell for t, _ in self._judged() if t.length == total}
        if favorite is None or favorite in whole or not whole:
            return favorite
        if self._is_busy(favorite) or self._cost(favorite, total) <= self._left():
            return favorite
        return self._choose(whole) or favorite

    def _choose(self, among: Collection[Cell] | None = None) -> Cell | None:
        surface = self._surface()
        judged = {t.cell for t, _ in self._judged()} if among is None else among
        cells = [cell for cell in self._allowed() if cell in judged]
        if surface is None or not cells:
            return None
        points = self._full(cells)
        deviation = np.sqrt(np.maximum(np.diag(surface.covariance(points, points)), 0.0))
        return cells[int((surface.mean(points) + self._settings.caution * deviation).argmin())]

    def _cost(self, cell: Cell, length: int, *, trunks: Sequence[int] | None = None) -> float:
        """What it still costs to judge a cell at a length, where some of its trunks are there.

        Args:
            cell: The cell.
            length: The length.
            trunks: Lengths of trunks that are there; by default what was made or is being made, and
                of the rest nothing is paid twice.
        """
        running = [t for t in self._open() if t.cell == cell] if trunks is None else []
        there = list(self._trunks(cell) if trunks is None else trunks)
        there += [training.length for training in running if training.kind == "trunk"]
        total = 0.0
        for training in self._lengths.missing(cell, length, trunks=there):
            if training not in running:
                total += self._prices.cost(cell.batch_size, self._lengths.examples(training, there))
            there.append(training.length)
        return total

    def _spent(self) -> float:
        """What the trainings so far cost, the open ones included."""
        total, trunks = 0.0, dict[Cell, list[int]]()
        for made in self._made.values():
            training = made.training
            there = trunks.setdefault(training.cell, [])
            examples = self._lengths.examples(training, there)
            total += self._prices.cost(training.cell.batch_size, examples)
            if training.kind == "trunk":
                there.append(training.length)
        return total

    def _left(self) -> float:
        """What may still be spent, and a little for rounding to whole updates."""
        return (self._settings.trainings + 0.01) * self._one_training - self._spent()

    def _fits(self, cell: Cell, length: int) -> bool:
        """Whether the favorite can still be trained to its end afterwards."""
        favorite, total = self._favorite(), self._lengths.total
        ends = favorite is None or (cell, length) == (favorite, total)
        rest = 0.0
        if favorite is not None and not ends and self._longest(favorite) < total:
            rest = self._cost(favorite, total)
        return self._cost(cell, length) + rest <= self._left()

    # What it says.

    def stages(self) -> Sequence[Stage]:
        """See StagedOracle; what is still to come is what it may take, and it may end earlier."""
        size = self._reference()
        if size is None:
            return ()
        first, total = self._lengths_of(size)[0], self._lengths.total
        done = dict.fromkeys(_STAGES, 0)
        for made in self._made.values():
            done[self._stage_of(made.training, size, first)] += made.told is not None
        start = Cell(size, self._cells.start)
        trials = len(self._lengths.missing(start, first, trunks=()))
        wanted = min(_USUAL_BRACKET, len(self._rates)) if self._settings.bracket else 0
        later = any(done[name] for name in _STAGES[1:])
        rates = 0 if later else max(wanted - done[_STAGES[0]] // trials, 0)
        rates_cost = rates * self._prices.cost(size, first)
        whole_runs = [m.training for m in self._made.values() if m.training.kind == "whole"]
        missing = set(self._other_schedules()) - {training.schedule for training in whole_runs}
        whole = self._prices.cost(size, total)
        wholes = min(len(missing), int(max(self._left(), 0.0) / whole))
        between = max(self._left() - rates_cost - wholes * whole, 0.0)
        judgements = round(between / self._prices.cost(size, first))
        left = {
            _STAGES[0]: (rates * trials, rates * first, rates_cost),
            _STAGES[1]: (judgements * trials, round(between / whole * total), between),
            _STAGES[2]: (wholes, wholes * total, wholes * whole),
        }
        found = [Stage(name, done[name], done[name] + n, e, c) for name, (n, e, c) in left.items()]
        return [*found, *self._last_stage(whole)]

    def _last_stage(self, whole: float) -> list[Stage]:
        """The faster batch size, where one of them is; what it may take.

        Args:
            whole: The cost of a whole training at the batch size of the bracket.
        """
        total = self._lengths.total
        costs = [self._prices.cost(size, total) for size in self._cells.sizes if size < self._bound]
        if not self._settings.faster or not any(_FASTER * cost <= whole for cost in costs):
            return []
        done = int(self._begun_for_its_speed() is not None)
        left = 1 - done
        return [Stage(_LAST_STAGE, done, 1, left * total, left * min(whole, self._one_training))]

    def _stage_of(self, training: Training, reference: int, first: int) -> str:
        if training.schedule != self._lengths.schedule:
            return _STAGES[2]
        bracket = training.cell.batch_size == reference and training.length == first
        return _STAGES[0] if bracket else _STAGES[1]

    def belief(self) -> Belief | None:
        """See StagedOracle."""
        with threadpoolctl.threadpool_limits(1):
            allowed = self._allowed()
            favorite = self._answer()
            if favorite is None:
                return None
            schedule = self._best_schedule(favorite)
            sizes = self._not_told(favorite, allowed)
        values = self._cells.values(favorite, schedule)
        own = schedule == self._lengths.trunk == "constant"
        between = f"; not yet told from {_listed(sizes)}" if sizes else ""
        sentence = f"now batch size {favorite.batch_size}{between}"
        return Belief(values, sentence, COOL_DOWN if own else None)

    def _best_schedule(self, cell: Cell) -> str | None:
        """That of the best whole run at a cell, the trunk's where there is none."""
        sign = 1.0 if self._direction == "min" else -1.0
        total = self._lengths.total
        whole = [
            (sign * made.told.score, made.training.schedule != self._lengths.schedule, k)
            for k, made in enumerate(self._of(cell))
            if made.told and made.told.completed
            if made.training.length == total and made.training.kind in ("whole", "cooled")
        ]
        if not whole or all(other for _, other, _ in whole):
            return self._lengths.schedule
        return self._of(cell)[min(whole)[2]].training.schedule

    def _not_told(self, favorite: Cell, allowed: Sequence[Cell]) -> list[int]:
        """Other batch sizes whose best cell may be as good."""
        surface = self._surface()
        if surface is None:
            return []
        found = []
        for size in sorted({cell.batch_size for cell in allowed} - {favorite.batch_size}):
            own = [cell for cell in allowed if cell.batch_size == size]
            best = own[int(surface.mean(self._full(own)).argmin())]
            pair = self._full([favorite, best])
            mean, covariance = surface.mean(pair), surface.covariance(pair, pair)
            variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
            if mean[1] - mean[0] < _TOLD * math.sqrt(max(variance, 0.0)):
                found.append(size)
        return found


def _has_failed(made: _Made) -> bool:
    return made.told is not None and not made.told.completed


def _listed(sizes: Collection[int]) -> str:
    *others, last = map(str, sorted(sizes))
    return f"{', '.join(others)} and {last}" if others else last
