"""The search space: the only place where hyperparameters are declared to KerasTuner."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras_tuner

from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.optimizers import OPTIMIZERS
from tfbatch.schedules import make_family
from tfbatch.schema import Named
from tfbatch.search.config import (
    BatchSizeGrid,
    Range,
    Searched,
    Space,
    as_options,
    as_range,
    has_own_warmup,
    parameter_options,
)


class SearchSpace:
    """A space for one data set: declares hyperparameters and turns their values into settings.

    Args:
        space: The space of the search's YAML.
        num_examples: Size of the training split.

    Raises:
        InputError: A batch size that is larger than the training split, an empty grid, or what the
            optimizer does not take.
    """

    def __init__(self, space: Space, *, num_examples: int):
        module = OPTIMIZERS.load(space.optimizer.name)
        low, high = module.BASE_LEARNING_RATE
        default = Range(min=low, max=high, sampling="log")
        self.batch_sizes = _batch_sizes(space, num_examples)
        self.scaling_rule = space.scaling_rule or module.SCALING_RULE
        self._numbers: dict[str, Searched] = {
            "base_learning_rate": (
                default if space.base_learning_rate is None else space.base_learning_rate
            ),
            "learning_rate_octaves": space.learning_rate_octaves,
            "warmup_fraction": space.warmup_fraction,
        }
        self._space = space
        self._with_warmup = [s.name for s in space.schedules if not has_own_warmup(s.name)]
        self._optimizer = {
            f"optimizer_{key}": _searched(value) for key, value in space.optimizer.arguments.items()
        }

    def hyperparameters(self) -> keras_tuner.HyperParameters:
        """Declares everything that is searched; a schedule's parameter is active only with it."""
        hp = keras_tuner.HyperParameters()
        if len(self.batch_sizes) > 1:
            hp.Choice("batch_size", self.batch_sizes, ordered=True)
        names = [schedule.name for schedule in self._space.schedules]
        warmup_for_all = self._with_warmup == names
        for name, value in {**self._numbers, **self._optimizer}.items():
            if name != "warmup_fraction" or warmup_for_all:
                _declare(hp, name, value)
        if len(names) > 1:
            hp.Choice("schedule", names)
        if self._with_warmup and not warmup_for_all:
            with hp.conditional_scope("schedule", self._with_warmup):
                _declare(hp, "warmup_fraction", self._numbers["warmup_fraction"])
        for schedule in self._space.schedules:
            searched = list(self._schedule_parameters(schedule))
            if len(names) > 1 and searched:
                with hp.conditional_scope("schedule", [schedule.name]):
                    for key, value in searched:
                        _declare(hp, f"schedule_{schedule.name}_{key}", value)
            else:
                for key, value in searched:
                    _declare(hp, f"schedule_{schedule.name}_{key}", value)
        return hp

    def configuration(self, values: dict[str, Any]) -> Configuration:
        """The configuration that a set of hyperparameter values means."""

        def value_of(name: str, searched: Any) -> Any:
            return searched if _is_fixed(searched) else values[name]

        fallback = self._space.schedules[0].name
        schedule = next(
            s for s in self._space.schedules if s.name == values.get("schedule", fallback)
        )
        parameters = {
            key: value_of(f"schedule_{schedule.name}_{key}", _searched(value))
            for key, value in schedule.arguments.items()
        }
        optimizer = {
            name.removeprefix("optimizer_"): value_of(name, searched)
            for name, searched in self._optimizer.items()
        }
        return Configuration(
            batch_size=int(values.get("batch_size", self.batch_sizes[0])),
            base_batch_size=self._space.base_batch_size,
            scaling_rule=self.scaling_rule,
            schedule=Named(name=schedule.name, **parameters),
            optimizer=Named(name=self._space.optimizer.name, **optimizer),
            **{
                name: value_of(name, searched)
                for name, searched in self._numbers_for(schedule.name).items()
            },
        )

    def values(self, configuration: Configuration) -> dict[str, Any]:
        """The inverse of `configuration`: the values of the active hyperparameters."""
        flat = configuration.flat()
        values: dict[str, Any] = {}
        if len(self.batch_sizes) > 1:
            values["batch_size"] = configuration.batch_size
        numbers = self._numbers_for(configuration.schedule.name)
        for name, searched in {**numbers, **self._optimizer}.items():
            if not _is_fixed(searched):
                values[name] = flat[name]
        if len(self._space.schedules) > 1:
            values["schedule"] = configuration.schedule.name
        schedule = next(s for s in self._space.schedules if s.name == configuration.schedule.name)
        for key, _ in self._schedule_parameters(schedule):
            values[f"schedule_{schedule.name}_{key}"] = configuration.schedule.arguments[key]
        return values

    def _numbers_for(self, schedule: str) -> dict[str, Searched]:
        """The numbers with a schedule: one with a warm-up of its own gets no other."""
        own = {} if schedule in self._with_warmup else {"warmup_fraction": 0.0}
        return {**self._numbers, **own}

    def range_of(self, name: str) -> Searched:
        """What is searched for one of the numbers, e.g. "base_learning_rate"."""
        return self._numbers[name]

    def parameter_names(self) -> list[str]:
        """Flat names of the searched numbers of schedules and optimizer."""
        names = [
            f"schedule_{key}"
            for schedule in self._space.schedules
            for key, value in self._schedule_parameters(schedule)
            if isinstance(value, Range) or not isinstance(value[0], str)  # type: ignore[index]
        ]
        searched = (name for name, value in self._optimizer.items() if not _is_fixed(value))
        return list(dict.fromkeys([*names, *searched]))

    def optimizer_options(self) -> list[Configuration]:
        """Every end of every range of the optimizer's parameters, to be made before any trial.

        Each with a schedule that sets the momentum, where one is searched. Not made here: an
        optimizer has variables, and this process touches no device.
        """
        optimizer = self._space.optimizer
        options = [
            {key: option}
            for key, value in optimizer.arguments.items()
            for option in as_options(value, where=f"optimizer {optimizer.name}: {key}")
        ]
        schedules = [
            Named(name=schedule.name, **parameters)
            for schedule in self._space.schedules
            for parameters in parameter_options(schedule)
            if make_family(schedule.name, **parameters).sets_momentum()
        ]
        return [
            Configuration(
                batch_size=1,
                base_learning_rate=1,
                schedule=schedule,
                optimizer=Named(name=optimizer.name, **parameters),
            )
            for schedule in schedules[:1] or [Named(name="constant")]
            for parameters in (options or [{}] if schedules else options)
        ]

    @property
    def schedule_names(self) -> list[str]:
        """The schedules that are searched."""
        return [schedule.name for schedule in self._space.schedules]

    @staticmethod
    def _schedule_parameters(schedule: Named) -> Iterator[tuple[str, Searched]]:
        for key, value in schedule.arguments.items():
            searched = _searched(value)
            if not _is_fixed(searched):
                yield key, searched


def _batch_sizes(space: Space, num_examples: int) -> list[int]:
    if isinstance(space.batch_size, BatchSizeGrid):
        return space.batch_size.sizes(num_examples)
    too_large = [size for size in space.batch_size if size > num_examples]
    if too_large:
        raise InputError(
            f"A batch size must not exceed the {num_examples} training examples. "
            f"Received: {', '.join(map(str, too_large))}."
        )
    return sorted(set(space.batch_size))


def _searched(value: Any) -> Any:
    """A parameter's value as written in YAML: a mapping is a Range, whole numbers become floats.

    (KerasTuner refuses a choice between 0 and 0.1, of two types.)
    """
    if isinstance(value, dict):
        return as_range(value)
    if isinstance(value, list | tuple):
        return [_searched(option) for option in value]
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if whole else value


def _is_fixed(searched: Any) -> bool:
    if isinstance(searched, list | tuple):
        return False
    return not isinstance(searched, Range)


def _declare(hp: keras_tuner.HyperParameters, name: str, searched: Any) -> None:
    if isinstance(searched, Range):
        hp.Float(name, searched.min, searched.max, sampling=searched.sampling)
    elif isinstance(searched, list | tuple):
        numeric = all(isinstance(value, int | float) for value in searched)
        hp.Choice(name, list(searched), ordered=numeric)
