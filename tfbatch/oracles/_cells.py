"""A space as batch sizes and learning rates: cells, and the hyperparameters that mean one."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tfbatch.oracles._oracle import BATCH_SIZE, Premises, Setting, Values

if TYPE_CHECKING:
    import keras_tuner

BASE_RATE = "base_learning_rate"
OCTAVES = "learning_rate_octaves"
SCHEDULE = "schedule"
_DIGITS = 6
_WITHIN = 10.0**-_DIGITS
"""A rate is rounded, which can lead out of the space by less than this."""


@dataclasses.dataclass(frozen=True, order=True)
class Cell:
    """A batch size and a learning rate.

    Attributes:
        batch_size: Examples in an update.
        rate: log2 of what stands before the scaling rule: of the base learning rate times two to
            the power of the octaves, or the octaves where the base is fixed.
    """

    batch_size: int
    rate: float


class Cells:
    """The batch sizes and learning rates of a space.

    All other hyperparameters are held: a choice at its default, a range at its middle.

    Args:
        hyperparameters: The space.
        premises: What is known beforehand.

    Attributes:
        sizes: The batch sizes, smallest first.
        schedules: Names of the schedules.
        reference: The batch size of the space that is nearest to the baseline's.
        start: The baseline's rate, or the space's nearest; the middle of the space without one.
    """

    def __init__(self, hyperparameters: keras_tuner.HyperParameters, premises: Premises):
        self._space = list(hyperparameters.space)
        by_name = {parameter.name: parameter for parameter in self._space}
        self._setting = premises.setting
        self._base, self._octaves = by_name.get(BASE_RATE), by_name.get(OCTAVES)
        self._searches_size = BATCH_SIZE in by_name
        self._learning_rates: dict[tuple[Cell, str | None], float | None] = {}
        any_setting = premises.setting(self._held({}))
        baseline = premises.baseline
        fallback = any_setting or baseline
        if self._searches_size:
            self.sizes = tuple(sorted(int(size) for size in by_name[BATCH_SIZE].values))
        else:
            self.sizes = (fallback.batch_size if fallback else 1,)
        names = by_name[SCHEDULE].values if SCHEDULE in by_name else ()
        self.schedules = tuple(names or ((any_setting.schedule.name,) if any_setting else ()))
        wanted = baseline.batch_size if baseline else self.sizes[len(self.sizes) // 2]
        self.reference = min(self.sizes, key=lambda size: (abs(math.log2(size / wanted)), size))
        self.start = self._start(baseline)

    def learning_rate(self, cell: Cell, schedule: str | None) -> float | None:
        """The peak rate that a cell means; None where nobody says what a proposal means."""
        if (cell, schedule) not in self._learning_rates:
            setting = self.setting(cell, schedule)
            self._learning_rates[cell, schedule] = setting.learning_rate if setting else None
        return self._learning_rates[cell, schedule]

    def rates(self, *, step: float) -> tuple[float, ...]:
        """The rates of the space, ascending: its own list, or from `start` in steps of octaves.

        Between the values of a list that stand far apart there are none.
        """
        if self._listed is not None:
            return tuple(sorted(self._listed))
        low, high = min(self._intervals)[0], max(end for _, end in self._intervals)
        first = math.ceil((low - self.start - _WITHIN) / step)
        last = math.floor((high - self.start + _WITHIN) / step)
        found = (_key(self.start + step * k) for k in range(first, last + 1))
        # What is proposed for a rate must be found again as that rate, in a journal.
        return tuple(rate for rate in found if _key(self._nearest(rate)) == rate)

    def values(self, cell: Cell, schedule: str | None = None) -> Values:
        """The active hyperparameters that mean a cell, with one of the schedules."""
        chosen: dict[str, Any] = dict(self._rate_values(cell.rate))
        if self._searches_size:
            chosen[BATCH_SIZE] = cell.batch_size
        if schedule is not None and len(self.schedules) > 1:
            chosen[SCHEDULE] = schedule
        return self._held(chosen)

    def cell(self, values: Values) -> Cell:
        """The cell that hyperparameters mean; all others of them are disregarded."""
        base = math.log2(float(values[BASE_RATE])) if self._base is not None else 0.0
        octaves = float(values[OCTAVES]) if self._octaves is not None else 0.0
        size = int(values[BATCH_SIZE]) if self._searches_size else self.sizes[0]
        return Cell(size, _key(base + octaves))

    def setting(self, cell: Cell, schedule: str | None = None) -> Setting | None:
        """What a cell means."""
        return self._setting(self.values(cell, schedule))

    def rule_exponent(self) -> float | None:
        """The power of the batch size by which the rate grows at the reference."""
        if len(self.sizes) < 2:
            return None
        low, high = self.sizes[0], self.sizes[-1]
        ends = [self.setting(Cell(size, self.start)) for size in (low, high)]
        if ends[0] is None or ends[1] is None:
            return None
        return math.log(ends[1].learning_rate / ends[0].learning_rate) / math.log(high / low)

    @property
    def _listed(self) -> Mapping[float, tuple[float, float]] | None:
        """Base and octaves of each rate, logarithm and all, where there are finitely many."""
        if _is_range(self._base) or _is_range(self._octaves):
            return None
        bases, octaves = _options(self._base, logarithm=True), _options(self._octaves)
        pairs = sorted(itertools.product(bases, octaves), key=lambda pair: abs(pair[1]))
        return {_key(sum(pair)): pair for pair in reversed(pairs)}

    @property
    def _intervals(self) -> list[tuple[float, float]]:
        """Where the rates of a space with a range lie, ascending."""
        bases = _pieces(self._base, logarithm=True)
        octaves = _pieces(self._octaves)
        return sorted((a + c, b + d) for (a, b), (c, d) in itertools.product(bases, octaves))

    def _nearest(self, rate: float) -> float:
        """The rate of the space that is nearest, where it has a range."""
        near = [min(max(rate, low), high) for low, high in self._intervals]
        return min(near, key=lambda one: abs(one - rate))

    def _rate_values(self, rate: float) -> Mapping[str, float]:
        """The base and the octaves nearest to 0 that together are a rate."""
        base, octaves = self._pair(rate)
        found = {}
        if self._base is not None:
            found[BASE_RATE] = _own(self._base, 2.0**base)
        if self._octaves is not None:
            found[OCTAVES] = _own(self._octaves, octaves)
        return found

    def _pair(self, rate: float) -> tuple[float, float]:
        listed = self._listed
        if listed is not None:
            return listed[rate]
        bases, octaves = _options(self._base, logarithm=True), _options(self._octaves)
        tried = octaves
        if _is_range(self._octaves):
            wanted = [0.0, *(rate - base for base in bases)]
            tried = tuple(min(max(o, min(octaves)), max(octaves)) for o in wanted)
        pairs = [(rate - o, o) for o in sorted(tried, key=abs)]
        if not _is_range(self._base):
            pairs = [(b, o) for b, o in pairs if min(abs(b - base) for base in bases) < _WITHIN]
        base, chosen = next(
            pair for pair in pairs if min(bases) - _WITHIN <= pair[0] <= max(bases) + _WITHIN
        )
        return min(max(base, min(bases)), max(bases)), chosen

    def _start(self, baseline: Setting | None) -> float:
        rates = self._listed
        ends = [(rate, rate) for rate in rates] if rates is not None else self._intervals
        middle = (min(low for low, _ in ends) + max(high for _, high in ends)) / 2

        def nearest(wanted: float) -> float:
            if rates is not None:
                return min(rates, key=lambda rate: abs(rate - wanted))
            return _key(self._nearest(wanted))

        near = nearest(middle)
        setting = self.setting(Cell(baseline.batch_size, near)) if baseline else None
        if baseline is None or setting is None:
            return near
        return nearest(near + math.log2(baseline.learning_rate / setting.learning_rate))

    def _held(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """The chosen hyperparameters, and the others that are active with them."""
        values: dict[str, Any] = {}
        for parameter in self._space:
            if all(condition.is_active(values) for condition in parameter.conditions):
                held = _middle(parameter)
                values[parameter.name] = chosen.get(parameter.name, held)
        return values


def _key(rate: float) -> float:
    """Equal for rates that are the same but for rounding."""
    return round(rate, _DIGITS) + 0.0


def _is_range(parameter: Any) -> bool:
    return hasattr(parameter, "min_value")


def _middle(parameter: Any) -> Any:
    return parameter.prob_to_value(0.5) if _is_range(parameter) else parameter.default


def _own(parameter: Any, value: float) -> float:
    """A choice's own value that this one is but for rounding; of a range any value is its own."""
    if _is_range(parameter):
        return value
    nearest: float = min(parameter.values, key=lambda listed: abs(listed - value))
    return nearest


def _pieces(parameter: Any, *, logarithm: bool = False) -> list[tuple[float, float]]:
    """Ends of a range; of a choice those of each value, which are the same."""
    options = _options(parameter, logarithm=logarithm)
    return [(options[0], options[-1])] if _is_range(parameter) else [(one, one) for one in options]


def _options(parameter: Any, *, logarithm: bool = False) -> tuple[float, ...]:
    """The values of a choice, the ends of a range; 0 for what is not searched."""
    if parameter is None:
        return (0.0,)
    found = (
        (parameter.min_value, parameter.max_value)
        if _is_range(parameter)
        else sorted(parameter.values)
    )
    return tuple(math.log2(value) if logarithm else float(value) for value in found)
