"""What a search is, as tuner_configs/NAME.yaml describes it. Imports no TensorFlow."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    SerializeAsAny,
    Tag,
    field_serializer,
    field_validator,
    model_validator,
)

from tfbatch.errors import ConfigurationError, InputError
from tfbatch.metric_direction import Goal
from tfbatch.optimizers import OPTIMIZERS, roles_of
from tfbatch.oracles import OracleSettings, make_settings
from tfbatch.plug_ins import YamlFolder
from tfbatch.scaling_rules import check_rule, rule_parameters, scaled
from tfbatch.schedules import SCHEDULES, make_family
from tfbatch.schema import Named, Strict, as_named, as_written, load, validate
from tfbatch.trial.optimizer_numbers import find_option

SEARCHES = YamlFolder("tuner_configs", kind="search", variable="TFBATCH_SEARCH_DIR")


class Range(Strict):
    """A searched interval, e.g. `{min: 1e-3, max: 0.1, sampling: log}`."""

    min: float
    max: float
    sampling: Literal["linear", "log"] = "linear"

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.min < self.max or (self.sampling == "log" and self.min <= 0):
            rule = "`0 < min < max`" if self.sampling == "log" else "`min < max`"
            raise ValueError(f"{rule} must hold")
        return self


def _form(value: object) -> str:
    """Which form is meant: without it, an error would list what is wrong with every other one."""
    if isinstance(value, dict | Range):
        return "range"
    return "list" if isinstance(value, list | tuple) else "value"


Numbers = Annotated[tuple[float, ...], Field(min_length=1)]
Searched = Annotated[
    Annotated[float, Tag("value")]
    | Annotated[Numbers, Tag("list")]
    | Annotated[Range, Tag("range")],
    Discriminator(_form),
]
"""One value (not searched), a list of values, or a range."""


class BatchSizeGrid(Strict):
    """Powers of two from `min` to `max`, and never over an eighth of the training split."""

    min: int = Field(default=8, ge=1)
    max: int = Field(default=1024, ge=1)

    def sizes(self, num_examples: int) -> list[int]:
        """The grid for a training split of `num_examples`.

        Raises:
            InputError: It is empty.
        """
        highest = min(self.max, max(num_examples // 8, 1))
        sizes = [2**k for k in range(31) if self.min <= 2**k <= highest]
        if not sizes:
            raise InputError(
                f"No power of two lies between `batch_size.min` and min(`batch_size.max`, "
                f"training examples / 8). Received: min={self.min}, max={self.max}, "
                f"{num_examples} training examples. Give the batch sizes with --batch_sizes "
                "(in Python: batch_sizes=[2, 4])."
            )
        return sizes


def _batch_size_form(value: object) -> str:
    return "range" if isinstance(value, dict | BatchSizeGrid) else "list"


BatchSizes = Annotated[
    Annotated[BatchSizeGrid, Tag("range")]
    | Annotated[tuple[int, ...], Field(min_length=1), Tag("list")],
    Discriminator(_batch_size_form),
]


def check_batch_sizes(sizes: Sequence[int]) -> None:
    """Refuses what is no list of batch sizes, whatever the data.

    Raises:
        InputError: It is empty, or has one below 1.
    """
    if not sizes or min(sizes) < 1:
        raise InputError(
            "batch_size: there must be one, and every batch size must be >= 1. Received: "
            f"{', '.join(map(str, sizes)) or 'none'}."
        )


def batch_sizes_of(chosen: BatchSizeGrid | Sequence[int], num_examples: int) -> list[int]:
    """The batch sizes that are meant for a training split of `num_examples`, smallest first.

    Raises:
        InputError: One that is larger than the training split, or an empty grid.
    """
    if isinstance(chosen, BatchSizeGrid):
        return chosen.sizes(num_examples)
    too_large = [size for size in chosen if size > num_examples]
    if too_large:
        raise InputError(
            f"A batch size must not exceed the {num_examples} training examples. "
            f"Received: {', '.join(map(str, too_large))}. Give smaller ones with --batch_sizes "
            "(in Python: batch_sizes=[...])."
        )
    return sorted(set(chosen))


class Space(Strict):
    """What is searched; see tfbatch.configuration for the meaning of each.

    `base_learning_rate` is by default the range of the optimizer, `scaling_rule` its rule. What a
    rule and an optimizer take is searched like a schedule's parameters; the keys that an optimizer
    has beside Keras's own are in tfbatch.trial.optimizer_numbers. Schedules with a warm-up of
    their own, such as one_cycle, are tried with a `warmup_fraction` of 0. `model` holds arguments
    of the model's builder, each a value, a list of values or a range.
    """

    batch_size: BatchSizes = BatchSizeGrid()
    base_batch_size: int = Field(default=32, ge=1)
    base_learning_rate: Searched | None = None
    scaling_rule: Named | None = None
    learning_rate_octaves: Searched = Range(min=-1, max=1)
    warmup_fraction: Searched = 0.0
    schedules: Annotated[tuple[Named, ...], Field(min_length=1)]
    optimizer: Named = Named(name="sgd")
    model: dict[str, object] = {}

    @field_validator("scaling_rule", mode="before")
    @classmethod
    def _named_rule(cls, value: Any) -> Any:
        return as_named(value)

    @field_serializer("scaling_rule")
    def _written_rule(self, rule: Named | None) -> str | dict[str, Any] | None:
        return None if rule is None else as_written(rule)

    @property
    def rule(self) -> Named:
        """The scaling rule: the optimizer's own where the search has none."""
        return self.scaling_rule or Named(name=OPTIMIZERS.load(self.optimizer.name).SCALING_RULE)

    @property
    def searched_learning_rate(self) -> Searched:
        """What is searched for `base_learning_rate`: the optimizer's range where none is given."""
        if self.base_learning_rate is not None:
            return self.base_learning_rate
        low, high = OPTIMIZERS.load(self.optimizer.name).BASE_LEARNING_RATE
        return Range(min=low, max=high, sampling="log")

    def learning_rate_range(self) -> tuple[float, float]:
        """Lowest and highest base learning rate, the offset around the rule included."""
        rates, octaves = _ends(self.searched_learning_rate), _ends(self.learning_rate_octaves)
        return min(rates) * 2.0 ** min(octaves), max(rates) * 2.0 ** max(octaves)

    @model_validator(mode="after")
    def _plug_ins(self) -> Space:
        names = [schedule.name for schedule in self.schedules]
        if len(set(names)) < len(names):
            raise ValueError("schedules: each schedule may be listed once")
        for schedule in self.schedules:
            SCHEDULES.check(schedule.name)
            for parameters in parameter_options(schedule):
                make_family(schedule.name, **parameters)
        return self

    @model_validator(mode="after")
    def _rule_and_optimizer(self) -> Space:
        for key, value in self.model.items():
            _check_argument(key, value)
        optimizer, rule = self.optimizer, self.rule
        for key, value in optimizer.arguments.items():
            find_option(optimizer.name, key)
            as_options(value, where=f"optimizer {optimizer.name}: {key}")
        check_rule(rule.name, roles=roles_of(optimizer.name), optimizer=optimizer.name)
        given = {
            key: as_options(value, where=f"scaling_rule {rule.name}: {key}")
            for key, value in rule.arguments.items()
        }
        for key in given or rule_parameters(rule.name):
            for option in given.get(key, [None]):
                first = {name: options[0] for name, options in given.items()}
                scaled(
                    rule.name,
                    1.0,
                    batch_size=1,
                    base_batch_size=1,
                    parameters={**first, key: option},
                )
        return self

    @model_validator(mode="after")
    def _in_range(self) -> Space:
        if isinstance(self.batch_size, tuple):
            check_batch_sizes(self.batch_size)
        for value in _ends(self.base_learning_rate):
            if value <= 0:
                raise ValueError(f"base_learning_rate: every value must be > 0. Received: {value}")
        for value in _ends(self.warmup_fraction):
            if not 0 <= value <= 1:
                raise ValueError(
                    f"warmup_fraction: every value must be in [0, 1]. Received: {value}"
                )
            if value and all(has_own_warmup(schedule.name) for schedule in self.schedules):
                raise ValueError(
                    f"warmup_fraction: must be 0, since {self.schedules[0].name} begins with a "
                    f"warm-up of its own. Received: {value}"
                )
        return self


class VerificationConfig(Strict):
    """Fresh seeds for the best configurations, paired.

    Attributes:
        batch_sizes: The best configuration of each of that many batch sizes.
        seeds: Trainings of each, at most: who is decided about leaves earlier. The baseline is
            trained twice as often.
        goal: What decides among configurations that are as good as one another: the training time,
            the memory (the smaller batch), or nothing ("metric").
        tolerance: Deficits of the objective up to this do not matter. Default: the deviation
            between seeds, or half a point of accuracy or 2 % of a loss without learning if that is
            larger.
    """

    batch_sizes: int = Field(default=3, ge=1)
    seeds: int = Field(default=5, ge=0)
    goal: Goal = "time"
    tolerance: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class SearchConfig(Strict):
    """One search; what `oracle` may hold, its file in tfbatch/oracles says."""

    description: str
    oracle: SerializeAsAny[OracleSettings]
    max_trials: int = Field(default=24, ge=1)
    space: Space
    confirmation: VerificationConfig = VerificationConfig()

    @field_validator("oracle", mode="before")
    @classmethod
    def _plug_in(cls, value: Any) -> Any:
        written = as_named(value)
        return (
            make_settings(**written) if isinstance(written, dict) and "name" in written else value
        )


def load_search(name: str) -> SearchConfig:
    """Loads tuner_configs/NAME.yaml, or a path that ends in .yaml.

    Raises:
        ConfigurationError: No such file, or a key in it that cannot be used.
    """
    path: Path = SEARCHES.find(name)
    return load(SearchConfig, path)


def as_options(value: object, *, where: str) -> list[object]:
    """The values that a searched parameter can take: one, a list's, or the ends of a range.

    Args:
        value: As written in YAML.
        where: The parameter's name, for messages.

    Raises:
        ConfigurationError: A mapping that is no range, or an empty list.
    """
    if isinstance(value, dict):
        found = as_range(value, where=where)
        return [found.min, found.max]
    if isinstance(value, list | tuple):
        if not value:
            raise ConfigurationError(f"{where}: a list of values must not be empty")
        return list(value)
    return [value]


def parameter_options(schedule: Named) -> list[dict[str, object]]:
    """All combinations of the values that a schedule's parameters can take; see `as_options`.

    Raises:
        InputError: There is no such schedule.
        ConfigurationError: A value that `as_options` refuses.
    """
    SCHEDULES.check(schedule.name)
    options = {
        key: as_options(value, where=f"schedule {schedule.name}: {key}")
        for key, value in schedule.arguments.items()
    }
    return [
        dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())
    ]


def has_own_warmup(schedule: str) -> bool:
    """Whether a schedule begins below its peak, and so takes no warm-up in front of it."""
    return bool(SCHEDULES.load(schedule).Family.own_warmup)


def _check_argument(key: str, value: object) -> None:
    """Refuses an argument of a model's builder that no trial can have.

    Raises:
        ConfigurationError: A value of another kind than a journal holds, or a list of several.
    """
    kinds = set(map(_kind_of, as_options(value, where=f"model: {key}")))
    if None in kinds or len(kinds) > 1:
        raise ConfigurationError(
            f"model: {key}: every value must be a finite number, a text, or true or false, and all "
            f"of one kind. Received: {value!r}. In place of null give a text that the builder "
            f"takes for it, or leave `{key}` out."
        )


def _kind_of(value: object) -> str | None:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "number" if math.isfinite(value) else None
    if isinstance(value, Range):
        return "number"
    return "text" if isinstance(value, str) else None


def as_range(value: dict[str, object], *, where: str = "range") -> Range:
    """Reads `{min: ..., max: ..., sampling: ...}`.

    Raises:
        ConfigurationError: It is none; the message begins with `where`.
    """
    return validate(Range, value, where=where)


def _ends(searched: Searched | None) -> tuple[float, ...]:
    if isinstance(searched, Range):
        return searched.min, searched.max
    if isinstance(searched, tuple):
        return searched
    return () if searched is None else (searched,)
