"""Batch size and rate from stable trunks with cool-downs.

A trunk is a training at a constant rate. At several lengths it is judged by a cool-down that
branches off from it, never by its own loss, which hides noise that a decay removes, unequally over
batch size and rate. A surface of few numbers (`estimators/rate_surface.py`) says what every cell
would come to at the full length, and the next training is the one of most expected gain for its
cost. Other schedules compete in whole runs where the price leaves room for them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import threadpoolctl
from pydantic import Field, field_validator

from tfbatch.estimators.rate_surface import SurfacePrior
from tfbatch.metric_direction import Direction
from tfbatch.oracles._cell_ranking import OCTAVE, CellRanking, RankingRules
from tfbatch.oracles._cells import Cell, Cells
from tfbatch.oracles._lengths import STABLE, Lengths, Training
from tfbatch.oracles._made_trainings import MadeTrainings
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

_LADDER = 2.0
"""Octaves between the batch sizes that are each judged before any is left."""
_SEED = 1
"""The number that all trainings have: paired, they differ by less than by chance."""
_USUAL_BRACKET = 4
_FASTER = 1.1
_SOME_CHANCE = 0.25
"""A cell that is faster by less, or as good with less of a chance, is not trained for its speed."""
_STAGES = ("learning rates", "batch sizes and learning rates", "schedules")
_LAST_STAGE = "a faster batch size"


class Settings(OracleSettings):
    """What a search by trunks may be told.

    Attributes:
        shares: The lengths at which a cell is judged, as shares of the run's; the last one is 1.
        cool_down: Share of a length that cools down, where the space's `wsd` does not say.
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
        bounded: Whether the rate is held at twice the highest that has trained, or at the next one
            above it where those of the space stand further apart.
        schedules: Whether the other schedules of the space compete in whole runs at the end, as far
            as the price leaves room for them.
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

    def branches(self, schedules: Collection[str]) -> bool:
        """See OracleSettings: the cool-downs do."""
        return any(name in schedules for name in STABLE)

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
            prices=self._prices,
        )
        self._rates = cells.rates(step=OCTAVE)
        self._made = MadeTrainings(self._lengths, self._prices)
        self._most_trials = premises.max_trials or math.inf
        self._own_schedule = premises.baseline.schedule.name if premises.baseline else None
        baseline = premises.baseline.batch_size if premises.baseline else cells.reference
        # Where the baseline is the cheapest, its price would buy no training of another size.
        costs = [self._prices.cost(size, total_examples) for size in cells.sizes]
        usual = statistics.median(costs or [0.0])
        self._one_training = max(self._prices.cost(baseline, total_examples), usual)
        self._baseline_told = premises.baseline_told or (lambda: None)
        self._rules = RankingRules(
            direction, self._expected(), caution=settings.caution, bounded=settings.bounded
        )
        self._bound = math.inf
        self._ranking = self._rank()

    def propose(
        self, trial: str, *, known: Proposal | None, bound: float
    ) -> Proposal | Stop | None:
        """See Oracle."""
        if bound != self._bound:
            self._bound = bound
            self._ranking = self._rank()
        with threadpoolctl.threadpool_limits(1):
            found = self._training(known) if known else self._next()
            if not isinstance(found, Training):
                return found
            for_speed = self._is_for_speed(found)
        proposal = known or self._proposal(found)
        is_new = proposal.part is None or proposal.part.parent is None
        self._made.add(trial, found, for_speed=for_speed, is_new=is_new)
        self._ranking = self._rank()
        return proposal

    def tell(self, trial: str, proposal: Proposal, told: Told) -> None:
        """See Oracle."""
        del proposal
        self._made.tell(trial, told)
        self._ranking = self._rank()

    def forget(self, trial: str) -> None:
        """See Oracle: it is proposed once more."""
        self._made.forget(trial)
        self._ranking = self._rank()

    def _rank(self) -> CellRanking:
        """The cells as they stand now."""
        return CellRanking(
            self._made,
            self._cells,
            self._lengths,
            self._rules,
            bound=self._bound,
            bracket_size=self._bracket_size(),
            is_full=self._is_full(),
        )

    def _proposal(self, training: Training) -> Proposal:
        parent = self._lengths.parent(training, self._made.trunks(training.cell))
        values = self._cells.values(training.cell, training.schedule)
        name = None
        if parent is not None:
            name = self._made.trunk_name(training.cell, parent)
        return Proposal(
            values,
            self._lengths.part(training, name),
            seed=_SEED if name is None else None,
        )

    def _training(self, known: Proposal) -> Training:
        schedule = str(known.values.get("schedule", self._lengths.schedule))
        return self._lengths.training(self._cells.cell(known.values), schedule, known.part)

    def _is_full(self) -> bool:
        """Whether as many configurations were begun as the search may try."""
        return self._made.tried >= self._most_trials

    def _is_last(self) -> bool:
        """Whether the next is the last one that may be tried: without trunks each length is one."""
        return self._lengths.trunk is None and self._made.tried >= self._most_trials - 1

    def _expected(self) -> SurfacePrior:
        """The optimum rises as B^0.8 for SGD, whose rule is linear, and as B^0.6 for all others."""
        exponent = self._cells.rule_exponent()
        slope = 0.0
        if exponent is not None:
            slope = (0.8 if exponent > 0.75 else 0.6) - exponent
        return SurfacePrior(center=self._cells.start, slope=slope)

    # What is next.

    def _next(self) -> Training | Stop | None:
        if not self._ranking.allowed:
            return None if self._made.open() else Stop(self._why_none())
        stages = (self._bracket, self._ladder, self._explore, self._finish, self._faster)
        for stage in (self._last,) if self._is_last() else stages:
            found = stage(self._ranking)
            if isinstance(found, Training | Stop):
                return found
            if found == "wait":
                return None
        return None if self._made.open() else Stop(self._why())

    def _why_none(self) -> str:
        """Why no cell may be tried."""
        return self._why_full() or "No cell of the space can be trained."

    def _why_full(self) -> str:
        """That no other cell may be begun, where there are others; else ""."""
        cells = len(self._cells.sizes) * len(self._rates)
        if not self._is_full() or len(self._made.begun()) >= cells:
            return ""
        return (
            f"The {self._most_trials:g} configurations of --max_trials are begun and trained as "
            "far as they are worth it; a larger --max_trials continues the search."
        )

    def _why(self) -> str:
        spent = self._made.spent() / self._one_training
        if self._left() < self._prices.cost(self._cells.reference, self._lengths.total):
            return f"The search has cost {spent:.1f} whole trainings, and ends."
        return self._why_full() or (
            f"After {spent:.1f} whole trainings nothing that could still be tried is expected to "
            "gain what it would cost: the search ends."
        )

    def _step(self, cell: Cell, length: int) -> Training:
        """The next training on the way to judging a cell at a length."""
        return self._lengths.missing(cell, length, trunks=self._made.trunks(cell))[0]

    def _bracket(self, ranking: CellRanking) -> Training | Literal["wait"] | None:
        """Rates an octave apart at one batch size, until it falls off on both sides."""
        size = self._bracket_size()
        if not self._settings.bracket or size is None:
            return None
        length = self._lengths.judged(size)[0]
        scores = ranking.scores_at(size, length)
        start = min(
            ranking.of_size(size),
            key=lambda cell: (abs(cell.rate - self._cells.start), cell.rate),
            default=None,
        )
        if start is None:
            return None
        wanted = [start]
        if scores:
            best = min(scores, key=lambda rate: scores[rate])
            wanted = self._neighbors(size, best)
        elif self._made.is_busy(start):
            wanted = self._neighbors(size, start.rate)
        missing = [c for c in wanted if c in ranking.allowed and c.rate not in scores]
        return self._first_free([(cell, length) for cell in missing])

    def _ladder(self, ranking: CellRanking) -> Training | Literal["wait"] | None:
        """Each batch size of the ladder at its expected rate, the cheapest first."""
        surface = ranking.surface
        if surface is None:
            return None
        rungs = []
        for size in self._missing_rungs(ranking.allowed):
            best = ranking.expected_best(ranking.of_size(size), surface)
            rungs.append((best, self._lengths.judged(size)[0]))
        dear = self._settings.rung * self._one_training
        rungs = [one for one in rungs if self._made.cost(*one) <= dear]
        return self._first_free(sorted(rungs, key=lambda one: self._made.cost(*one)))

    def _explore(self, ranking: CellRanking) -> Training | Literal["wait"] | None:
        """What improves the answer most for its cost."""
        surface = ranking.surface
        if surface is None:
            first = ranking.allowed[0]
            return self._first_free([(first, self._lengths.judged(first.batch_size)[0])])
        near = ranking.near_the_best(surface)
        options = [
            (cell, length)
            for cell in near
            if not self._made.is_busy(cell)
            and (length := self._next_length(cell))
            and self._fits(cell, length)
        ]
        if not options:
            return None
        gains = surface.gains(ranking.whole(near), [ranking.point(*one) for one in options])
        costs = [self._made.cost(*one) / self._one_training for one in options]
        rates = [float(gain) / cost for gain, cost in zip(gains, costs, strict=True)]
        best = max(range(len(options)), key=lambda k: rates[k])
        if rates[best] < self._settings.worth * surface.noise:
            return None
        return self._step(*options[best])

    def _next_length(self, cell: Cell) -> int | None:
        """Where a cell is judged next."""
        longest = self._made.longest(cell)
        return next((n for n in self._lengths.judged(cell.batch_size) if n > longest), None)

    def _finish(self, ranking: CellRanking) -> Training | Literal["wait"] | None:
        """The favorite to its end; then the space's other schedules at it."""
        favorite, total = ranking.favorite, self._lengths.total
        if favorite is None:
            # The first ones have failed: without a whole training there is no answer.
            if self._made.open() or self._left() <= 0:
                return None
            return self._step(self._nearest_to_baseline(ranking), total)
        if self._made.longest(favorite) < total:
            if self._made.is_busy(favorite):
                return "wait"
            judging = (made for made in self._made if made.training.kind != "trunk")
            if all(made.training.length < total for made in judging if not made.has_failed):
                # Without a whole training there is no answer, whatever one costs by now.
                return self._step(favorite, total)
            if self._made.cost(favorite, total) <= self._left():
                return self._step(favorite, total)
        of_it = [made.training for made in self._made.of(favorite)]
        begun = {training.schedule for training in of_it if training.kind == "whole"}
        for name in [] if self._is_full() else self._other_schedules():
            whole = Training(favorite, "whole", total, name)
            cost = self._prices.cost(favorite.batch_size, total)
            is_left = name not in begun and not self._made.is_lost(whole)
            if is_left and cost <= self._left():
                return whole
        return None

    def _last(self, ranking: CellRanking) -> Training | Literal["wait"] | None:
        """The favorite whole, or without one the baseline's cell or what is nearest to it."""
        favorite = ranking.favorite or self._nearest_to_baseline(ranking)
        if self._made.is_busy(favorite):
            return "wait"
        is_whole = self._made.longest(favorite) == self._lengths.total
        return None if is_whole or self._is_full() else self._step(favorite, self._lengths.total)

    def _nearest_to_baseline(self, ranking: CellRanking) -> Cell:
        size, rate = self._cells.reference, self._cells.start
        return min(
            ranking.allowed,
            key=lambda c: (abs(math.log2(c.batch_size / size)), abs(c.rate - rate), c),
        )

    def _faster(self, ranking: CellRanking) -> Training | Literal["wait"] | None:
        """One faster cell whole: that of most speed times chance to be as good as the favorite."""
        surface, favorite, total = ranking.surface, self._answer(), self._lengths.total
        if not self._settings.faster or surface is None or favorite is None:
            return None
        begun = self._begun_for_its_speed()
        if begun is not None:
            return self._rest_of(begun) if begun in ranking.allowed else None
        own = self._prices.cost(favorite.batch_size, total)
        speeds = {cell: own / self._prices.cost(cell.batch_size, total) for cell in ranking.allowed}
        cells = [cell for cell, speed in speeds.items() if speed >= _FASTER]
        if not cells:
            return None
        baseline = self._baseline_told()
        known = baseline.score if baseline and baseline.completed else None
        chances = ranking.chances(surface, favorite, cells, known=known)
        worth = {
            cell: chance * math.log2(speeds[cell])
            for cell, chance in zip(cells, chances, strict=True)
            if chance >= _SOME_CHANCE
        }
        if not worth:
            return None
        best = max(worth, key=lambda cell: worth[cell])
        if self._made.cost(best, total) > self._left() + self._one_training:
            return None
        return self._rest_of(best)

    def _begun_for_its_speed(self) -> Cell | None:
        """The first cell that was begun whole and is faster than the answer was."""
        return next((made.training.cell for made in self._made if made.for_speed), None)

    def _is_for_speed(self, training: Training) -> bool:
        """Whether a training that begins is what `_faster` asks for, whoever has asked for it."""
        total = self._lengths.total
        if training.length < total or training.schedule != self._lengths.schedule:
            return False
        answer = self._answer()
        if answer is None or self._made.longest(answer) < total:
            return False
        own, other = (self._prices.cost(c.batch_size, total) for c in (training.cell, answer))
        return other >= _FASTER * own

    def _rest_of(self, cell: Cell) -> Training | Literal["wait"] | None:
        """What is missing of a whole training that was begun."""
        if self._made.is_busy(cell):
            return "wait"
        if cell in self._made.failed() or self._made.longest(cell) == self._lengths.total:
            return None
        return self._step(cell, self._lengths.total)

    def _other_schedules(self) -> list[str]:
        """The schedules that compete at the end: the baseline's own first."""
        if not self._settings.schedules:
            return []
        others = [name for name in self._cells.schedules if name != self._lengths.schedule]
        return sorted(others, key=lambda name: name != self._own_schedule)

    def _bracket_size(self) -> int | None:
        """The reference, or what is near it, fits, and is judged early; None where nothing fits."""
        sizes = [size for size in self._cells.sizes if size < self._bound]
        sizes = [size for size in sizes if self._lengths.judged(size)]
        if not sizes:
            return None
        wanted, start = self._cells.reference, self._cells.start
        rung = self._settings.bracket_rung
        cheap = [
            size
            for size in sizes
            if (first := self._lengths.judged(size)[0]) <= rung * self._lengths.total
            and self._lengths.cost(Cell(size, start), first) <= rung * self._one_training
        ]
        return min(cheap or sizes, key=lambda size: (abs(math.log2(size / wanted)), size))

    def _neighbors(self, size: int, rate: float) -> list[Cell]:
        place = self._rates.index(rate)
        near = [self._rates[k] for k in (place + 1, place - 1) if 0 <= k < len(self._rates)]
        return [Cell(size, one) for one in near]

    def _missing_rungs(self, allowed: Sequence[Cell]) -> list[int]:
        """Batch sizes of the ladder that were not judged yet."""
        if not self._settings.ladder:
            return []
        judged = {t.cell.batch_size for t, _ in self._made.judged()}
        reference = self._cells.reference
        octaves = {size: math.log2(size / reference) for size in self._cells.sizes}
        on_it = [s for s, o in octaves.items() if abs(o / _LADDER - round(o / _LADDER)) < 1e-9]
        possible = {cell.batch_size for cell in allowed}
        return [size for size in on_it if size not in judged and size in possible]

    def _first_free(self, wanted: Sequence[tuple[Cell, int]]) -> Training | Literal["wait"] | None:
        """The next step towards the first of cell and length that nobody works on."""
        fitting = [one for one in wanted if self._fits(*one)]
        for cell, length in fitting:
            if not self._made.is_busy(cell):
                return self._step(cell, length)
        return "wait" if fitting else None

    def _answer(self) -> Cell | None:
        """The favorite, unless it can no longer be trained whole, which an answer has to be."""
        favorite, total = self._ranking.favorite, self._lengths.total
        whole = {t.cell for t, _ in self._made.judged() if t.length == total}
        if favorite is None or favorite in whole or not whole:
            return favorite
        if self._made.is_busy(favorite) or self._made.cost(favorite, total) <= self._left():
            return favorite
        return self._ranking.best(whole) or favorite

    def _left(self) -> float:
        """What may still be spent, and a little for rounding to whole updates."""
        return (self._settings.trainings + 0.01) * self._one_training - self._made.spent()

    def _fits(self, cell: Cell, length: int) -> bool:
        """Whether the favorite can still be trained to its end afterwards."""
        favorite, total = self._ranking.favorite, self._lengths.total
        ends = favorite is None or (cell, length) == (favorite, total)
        rest = 0.0
        if favorite is not None and not ends and self._made.longest(favorite) < total:
            rest = self._made.cost(favorite, total)
        return self._made.cost(cell, length) + rest <= self._left()

    # What it says.

    def stages(self) -> Sequence[Stage]:
        """See StagedOracle; what is still to come is what it may take, and it may end earlier."""
        size = self._bracket_size()
        if size is None:
            return ()
        first, total = self._lengths.judged(size)[0], self._lengths.total
        judgement, whole = (self._prices.cost(size, length) for length in (first, total))
        last = self._last_stage(whole)
        done = dict.fromkeys(_STAGES, 0)
        for made in self._made:
            if not (last and made.for_speed):
                done[self._stage_of(made.training, size, first)] += made.told is not None
        start = Cell(size, self._cells.start)
        trials = len(self._lengths.missing(start, first, trunks=()))
        wanted = min(_USUAL_BRACKET, len(self._rates)) if self._settings.bracket else 0
        later = any(done[name] for name in _STAGES[1:])
        rates = 0 if later else max(wanted - done[_STAGES[0]] // trials, 0)
        with threadpoolctl.threadpool_limits(1):
            answer = self._answer()
        is_whole = answer is not None and self._made.longest(answer) == total
        wholes = self._schedules_left(whole) if is_whole else 0  # they compete with a whole one
        between = max(self._left() - rates * judgement - wholes * whole, 0.0)
        if self._begun_schedules():
            between = 0.0
        ends = 0 if is_whole else 1
        judgements = max(round((between - ends * whole) / judgement), 0)
        left = {
            _STAGES[0]: (rates * trials, rates * first, rates * judgement),
            _STAGES[1]: (judgements * trials + ends, round(between / whole * total), between),
            _STAGES[2]: (wholes, wholes * total, wholes * whole),
        }
        found = [Stage(name, done[name], done[name] + n, e, c) for name, (n, e, c) in left.items()]
        return [*found, *last]

    def _begun_schedules(self) -> set[str | None]:
        """The other schedules of which a whole training was begun."""
        return {made.training.schedule for made in self._made} - {self._lengths.schedule}

    def _schedules_left(self, whole: float) -> int:
        """How many others of the space may still compete; the search may end before.

        Args:
            whole: The cost of a whole training.
        """
        missing = set(self._other_schedules()) - self._begun_schedules()
        return min(len(missing), int(max(self._left(), 0.0) / whole))

    def _last_stage(self, whole: float) -> list[Stage]:
        """The faster batch size, where one of them is; what it may take.

        Args:
            whole: The cost of a whole training at the batch size of the bracket.
        """
        total = self._lengths.total
        costs = [self._prices.cost(size, total) for size in self._cells.sizes if size < self._bound]
        if not self._settings.faster or not any(_FASTER * cost <= whole for cost in costs):
            return []
        own = [made for made in self._made if made.for_speed]
        done, planned = sum(made.told is not None for made in own), max(len(own), 1)
        left = planned - done
        cost = left * min(whole, self._one_training)
        return [Stage(_LAST_STAGE, done, planned, left * total, cost)]

    def _stage_of(self, training: Training, reference: int, first: int) -> str:
        if training.schedule != self._lengths.schedule:
            return _STAGES[2]
        bracket = training.cell.batch_size == reference and training.length == first
        return _STAGES[0] if bracket else _STAGES[1]

    def belief(self) -> Belief | None:
        """See StagedOracle."""
        with threadpoolctl.threadpool_limits(1):
            favorite = self._answer()
            if favorite is None:
                return None
            schedule = self._best_schedule(favorite)
            sizes = self._ranking.not_told_from(favorite)
        values = self._cells.values(favorite, schedule)
        between = f"; not yet told from {_listed(sizes)}" if sizes else ""
        sentence = f"now batch size {favorite.batch_size}{between}"
        return Belief(values, sentence)

    def _best_schedule(self, cell: Cell) -> str | None:
        """That of the best whole run at a cell, the trunk's where there is none."""
        sign = 1.0 if self._direction == "min" else -1.0
        total = self._lengths.total
        whole = [
            (sign * made.told.score, made.training.schedule != self._lengths.schedule, k)
            for k, made in enumerate(self._made.of(cell))
            if made.told and made.told.completed
            if made.training.length == total and made.training.kind == "whole"
        ]
        if not whole or all(other for _, other, _ in whole):
            return self._lengths.schedule
        return self._made.of(cell)[min(whole)[2]].training.schedule


def _listed(sizes: Collection[int]) -> str:
    *others, last = map(str, sorted(sizes))
    return f"{', '.join(others)} and {last}" if others else last
