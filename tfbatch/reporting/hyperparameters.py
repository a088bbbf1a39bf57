"""What a search varied, under the names that every figure and table of the report uses."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import NamedTuple

from tfbatch.charts import ParallelAxis
from tfbatch.trial.finished_trial import FinishedTrial

Value = float | int | str
_LOGARITHMIC = 10.0
"""A range of positive numbers of this ratio or more is read on a logarithmic axis."""
_OF_THE_RATE = ("base_learning_rate", "base_batch_size", "learning_rate_octaves", "scaling_rule")
"""With the batch size they make the peak learning rate, which stands for them."""
_NAMES = {
    "batch_size": "batch size",
    "learning_rate": "learning rate",
    "warmup_fraction": "warm-up",
}
_FIRST = ("batch_size", "learning_rate", "schedule", "warmup_fraction")
_ARGUMENTS_OF = ("schedule", "optimizer", "model")


@dataclasses.dataclass(frozen=True)
class Hyperparameter:
    """One thing that differs between trials.

    Attributes:
        key: Its key in the journal, such as "optimizer_weight_decay".
        name: Its name for a reader, such as "optimizer weight_decay".
        values: Of each trial; None where a trial does not have it.
    """

    key: str
    name: str
    values: tuple[Value | None, ...]

    @property
    def numbers(self) -> tuple[float, ...]:
        """Its values; empty where one is no number, or absent."""
        found = tuple(float(v) for v in self.values if isinstance(v, int | float))
        return found if len(found) == len(self.values) else ()

    @property
    def texts(self) -> tuple[str, ...]:
        """Its values as names."""
        return tuple(map(str, self.values))

    @property
    def has_fractions(self) -> bool:
        """Whether a value is a number with digits behind the point."""
        return any(isinstance(value, float) for value in self.values)

    @property
    def logarithmic(self) -> bool:
        """Whether it is read on a logarithmic axis."""
        if self.key in ("batch_size", "learning_rate"):
            return True
        low, high = min(self.numbers, default=0.0), max(self.numbers, default=0.0)
        return low > 0 and high >= _LOGARITHMIC * low

    def axis(self) -> ParallelAxis:
        """Its axis of parallel coordinates; one of names where it is not a number everywhere."""
        numbers = self.numbers
        if numbers:
            return ParallelAxis(self.name, numbers, log=self.logarithmic)
        names = tuple(sorted({*self.texts}))
        places = tuple(float(names.index(text)) for text in self.texts)
        return ParallelAxis(self.name, places, names)


class Varied(NamedTuple):
    """What varies among some trials, and the trials that have all of it.

    Attributes:
        hyperparameters: Each has at least 2 values.
        trials: The trials; without those, such as the baseline, that lack one of them.
        left_out: Names of what varies, but is not there in every trial of the search, such as an
            argument of one of several schedules.
    """

    hyperparameters: tuple[Hyperparameter, ...]
    trials: tuple[FinishedTrial, ...]
    left_out: tuple[str, ...]


def varied(trials: Sequence[FinishedTrial]) -> Varied:
    """What varies among trials: batch size, peak learning rate, schedule, warm-up and the rest.

    What every trial of the search has is kept; a trial that lacks some of it is left out. The base
    learning rate, its offset and the scaling rule are one with the peak learning rate.
    """
    every = differing(trials)
    searched = [n for n, trial in enumerate(trials) if trial.phase == "search"]
    kept = [one for one in every if all(one.values[n] is not None for n in searched)]
    with_all = [n for n in range(len(trials)) if all(one.values[n] is not None for one in kept)]
    parts = (
        dataclasses.replace(one, values=tuple(one.values[n] for n in with_all)) for one in kept
    )
    return Varied(
        tuple(one for one in parts if len(set(one.values)) > 1),
        tuple(trials[n] for n in with_all),
        tuple(one.name for one in every if one not in kept),
    )


def differing(trials: Sequence[FinishedTrial]) -> list[Hyperparameter]:
    """What has two values or more, absent ones not counted, in the order of a table's columns."""
    rows = [trial.configuration.flat() | {"learning_rate": trial.learning_rate} for trial in trials]
    keys = dict.fromkeys((*_FIRST, *(key for row in rows for key in row)))
    found = (
        Hyperparameter(key, _name(key), tuple(_value(row.get(key)) for row in rows))
        for key in keys
        if not key.startswith(_OF_THE_RATE)
    )
    return [one for one in found if len({*one.values} - {None}) > 1]


def _name(key: str) -> str:
    role, _, argument = key.partition("_")
    if role in _ARGUMENTS_OF and argument:
        return f"{role} {argument}"
    return _NAMES.get(key, key)


def _value(value: object) -> Value | None:
    """As a number or a text: also True and a list are names of themselves."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return json.dumps(value)
