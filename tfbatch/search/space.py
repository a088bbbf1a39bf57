"""The search space: the only place where hyperparameters are declared to KerasTuner."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import keras_tuner

from tfbatch.configuration import Configuration
from tfbatch.request.search_config import (
    Searched,
    Space,
    as_options,
    batch_sizes_of,
    has_own_warmup,
    parameter_options,
)
from tfbatch.schedules import make_family
from tfbatch.schema import JsonObject, Named
from tfbatch.search.hyperparameters import (
    as_given,
    as_searched,
    declare,
    first_of_each,
    is_fixed,
    is_number,
)
from tfbatch.search.model_hyperparameters import MODEL, of_the_model
from tfbatch.trial.derived import Derived, derive


class SearchSpace:
    """A space for one data set: declares hyperparameters and turns their values into settings.

    Args:
        space: The space of the search's YAML.
        num_examples: Size of the training split.
        model_arguments: Arguments of the model's builder, the same for all trials.
        model_hyperparameters: What the builder asks of `hp`, as KerasTuner's own configurations.
            What the user gives under the same name takes its place.

    Raises:
        InputError: A batch size that is larger than the training split, an empty grid, or a number
            of the optimizer that has no meaning for one of the batch sizes.

    Attributes:
        batch_sizes: The batch sizes that are searched.
        scaling_rule: The rule, with the first of each of its parameters' values.
    """

    def __init__(
        self,
        space: Space,
        *,
        num_examples: int,
        model_arguments: Mapping[str, object] | None = None,
        model_hyperparameters: Sequence[JsonObject] = (),
    ):
        self.batch_sizes = batch_sizes_of(space.batch_size, num_examples)
        self.scaling_rule = first_of_each(space.rule)
        self._numbers: dict[str, Searched] = {
            "base_learning_rate": space.searched_learning_rate,
            "learning_rate_octaves": space.learning_rate_octaves,
            "warmup_fraction": space.warmup_fraction,
        }
        self._space = space
        self._with_warmup = [s.name for s in space.schedules if not has_own_warmup(s.name)]
        given = {**{k: as_given(v) for k, v in space.model.items()}, **(model_arguments or {})}
        self._model_arguments = {k: v for k, v in given.items() if is_fixed(v)}
        self._model = of_the_model(model_hyperparameters, given)
        self._num_examples = num_examples
        self._plug_ins = {
            f"{role}_{key}": as_searched(value)
            for role, named in (("scaling_rule", space.rule), ("optimizer", space.optimizer))
            for key, value in named.arguments.items()
        }
        self._ends = [self._derive(configuration) for configuration in self.optimizer_options()]

    def hyperparameters(self) -> keras_tuner.HyperParameters:
        """Declares everything that is searched; a schedule's parameter is active only with it."""
        hp = keras_tuner.HyperParameters()
        if len(self.batch_sizes) > 1:
            hp.Choice("batch_size", self.batch_sizes, ordered=True)
        names = self.schedule_names
        warmup_for_all = self._with_warmup == names
        for name, value in {**self._numbers, **self._plug_ins}.items():
            if name != "warmup_fraction" or warmup_for_all:
                declare(hp, name, value)
        if len(names) > 1:
            hp.Choice("schedule", names)
        if self._with_warmup and not warmup_for_all:
            with hp.conditional_scope("schedule", self._with_warmup):
                declare(hp, "warmup_fraction", self._numbers["warmup_fraction"])
        for schedule in self._space.schedules:
            searched = list(self._schedule_parameters(schedule))
            if len(names) > 1 and searched:
                with hp.conditional_scope("schedule", [schedule.name]):
                    for key, value in searched:
                        declare(hp, f"schedule_{schedule.name}_{key}", value)
            else:
                for key, value in searched:
                    declare(hp, f"schedule_{schedule.name}_{key}", value)
        hp.merge(self._model)
        return hp

    def configuration(self, values: JsonObject) -> Configuration:
        """The configuration that a set of hyperparameter values means."""

        def value_of(name: str, searched: Any) -> Any:
            return searched if is_fixed(searched) else values[name]

        fallback = self._space.schedules[0].name
        schedule = next(
            s for s in self._space.schedules if s.name == values.get("schedule", fallback)
        )
        parameters = {
            key: value_of(f"schedule_{schedule.name}_{key}", as_searched(value))
            for key, value in schedule.arguments.items()
        }

        def plug_in(role: str, named: Named) -> Named:
            names = {key: f"{role}_{key}" for key in named.arguments}
            given = {key: value_of(name, self._plug_ins[name]) for key, name in names.items()}
            return Named(name=named.name, **given)

        return Configuration(
            batch_size=int(values.get("batch_size", self.batch_sizes[0])),
            base_batch_size=self._space.base_batch_size,
            scaling_rule=plug_in("scaling_rule", self._space.rule),
            schedule=Named(name=schedule.name, **parameters),
            optimizer=plug_in("optimizer", self._space.optimizer),
            model=self._model_arguments
            | {
                name.removeprefix(MODEL): value
                for name, value in values.items()
                if name.startswith(MODEL) and name in self._model_names
            },
            **{
                name: value_of(name, searched)
                for name, searched in self._numbers_for(schedule.name).items()
            },
        )

    def values(self, configuration: Configuration) -> JsonObject:
        """The inverse of `configuration`: the values of the active hyperparameters."""
        flat = configuration.flat()
        values: dict[str, Any] = {}
        if len(self.batch_sizes) > 1:
            values["batch_size"] = configuration.batch_size
        numbers = self._numbers_for(configuration.schedule.name)
        for name, searched in {**numbers, **self._plug_ins}.items():
            if not is_fixed(searched):
                values[name] = flat[name]
        if len(self._space.schedules) > 1:
            values["schedule"] = configuration.schedule.name
        schedule = next(s for s in self._space.schedules if s.name == configuration.schedule.name)
        for key, _ in self._schedule_parameters(schedule):
            values[f"schedule_{schedule.name}_{key}"] = configuration.schedule.arguments[key]
        for hyperparameter in self._model.space:
            name = hyperparameter.name
            if (key := name.removeprefix(MODEL)) in configuration.model:
                value = configuration.model[key]
                # Earlier versions wrote 1 and 0 into their journals where switches are searched.
                is_switch = isinstance(hyperparameter.default, bool)
                values[name] = bool(value) if is_switch else value
        return values

    def learning_rate(self, configuration: Configuration) -> float:
        """The peak learning rate at the configuration's batch size, by its scaling rule."""
        return self._derive(configuration).learning_rate

    def _numbers_for(self, schedule: str) -> dict[str, Searched]:
        """The numbers with a schedule: one with a warm-up of its own gets no other."""
        own = {} if schedule in self._with_warmup else {"warmup_fraction": 0.0}
        return {**self._numbers, **own}

    @property
    def _model_names(self) -> list[str]:
        return list(dict.fromkeys(hyperparameter.name for hyperparameter in self._model.space))

    def range_of(self, name: str) -> Searched:
        """What is searched for one of the numbers, e.g. "base_learning_rate"."""
        return self._numbers[name]

    def parameter_names(self) -> list[str]:
        """Flat names of the searched numbers of schedules, rule and optimizer."""
        names = [
            f"schedule_{key}"
            for schedule in self._space.schedules
            for key, value in self._schedule_parameters(schedule)
            if is_number(value)
        ]
        searched = (name for name, value in self._plug_ins.items() if is_number(value))
        numbers = [
            hyperparameter.name
            for hyperparameter in self._model.space
            if not isinstance(hyperparameter.default, str | bool)
        ]
        return list(dict.fromkeys([*names, *searched, *numbers]))

    def model_choices(self) -> dict[str, tuple[str, ...] | tuple[bool, ...]]:
        """Searched arguments of the model's builder that are no numbers, with their values.

        They are of the type that a trial's row has: a filter by another finds none.
        """
        return {
            hyperparameter.name: tuple(hyperparameter.values)
            for hyperparameter in self._model.space
            if isinstance(hyperparameter.default, str | bool)
        }

    def derived_numbers(self) -> list[str]:
        """The optimizer's numbers that are derived for a batch size, rather than configured."""
        return sorted({name for derived in self._ends for name in derived.derived_numbers})

    def held_numbers(self) -> dict[str, list[int]]:
        """Batch sizes at which a number is held at the end of its range, by the number's name."""
        held: dict[str, list[int]] = {}
        for size in self.batch_sizes:
            options = (self._derive(c) for c in self._options(size))
            for name in sorted({name for derived in options for name in derived.held_numbers}):
                held.setdefault(name, []).append(size)
        return held

    def optimizer_options(self) -> list[Configuration]:
        """Every end of the optimizer's and the rule's ranges, for smallest and largest batch size.

        They are made before any trial.

        Each with a schedule that sets the momentum, where one is searched. Not made here: an
        optimizer has variables, and this process touches no device.
        """
        sizes = sorted({min(self.batch_sizes), max(self.batch_sizes)})
        return [configuration for size in sizes for configuration in self._options(size)]

    def _options(self, batch_size: int) -> Iterator[Configuration]:
        first = Configuration(
            batch_size=batch_size,
            base_learning_rate=1.0,
            base_batch_size=self._space.base_batch_size,
            scaling_rule=first_of_each(self._space.rule),
            schedule=self._setting_the_momentum(),
            optimizer=first_of_each(self._space.optimizer),
            model=self._model_arguments,
        )
        yield first
        for role, named in (
            ("scaling_rule", self._space.rule),
            ("optimizer", self._space.optimizer),
        ):
            given: Named = getattr(first, role)
            for key, value in named.arguments.items():
                for option in as_options(value, where=f"{role} {named.name}: {key}")[1:]:
                    other = Named(name=named.name, **{**given.arguments, key: option})
                    yield first.model_copy(update={role: other})

    def _setting_the_momentum(self) -> Named:
        """A schedule that sets the momentum, where one is searched: an optimizer must have it."""
        for schedule in self._space.schedules:
            for parameters in parameter_options(schedule):
                if make_family(schedule.name, **parameters).sets_momentum():
                    return Named(name=schedule.name, **parameters)
        return Named(name="constant")

    def _derive(self, configuration: Configuration) -> Derived:
        examples = self._num_examples
        return derive(configuration, num_examples=examples, total_examples=examples)

    @property
    def schedule_names(self) -> list[str]:
        """The schedules that are searched."""
        return [schedule.name for schedule in self._space.schedules]

    @staticmethod
    def _schedule_parameters(schedule: Named) -> Iterator[tuple[str, Searched]]:
        for key, value in schedule.arguments.items():
            searched = as_searched(value)
            if not is_fixed(searched):
                yield key, cast(Searched, searched)
