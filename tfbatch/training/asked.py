"""What a model builder asks of `hp`: found by building the model with other values, too."""

from __future__ import annotations

import dataclasses
import gc
import heapq
import itertools
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from tfbatch.process.out_of_memory import is_out_of_memory
from tfbatch.schema import JsonObject

if TYPE_CHECKING:
    import keras_tuner

MOST_BUILDS = 32
"""Builds beside the first; one of a large model takes a second."""
REPLACED = ("batch_size", "learning_rate", "lr")
"""Hyperparameters of a user's builder that stand for what tfbatch itself searches."""
_KEPT = 8
"""Models that may lie in memory until they are collected."""
_FEW = 8
"""Values of an `Int` that are all tried; of one with more, its two ends."""

Given: TypeAlias = Mapping[str, Sequence[object]]
"""What a user says of arguments by name: one value, several, or none where it is a range."""
Build: TypeAlias = "Callable[[Mapping[str, object]], keras_tuner.HyperParameters]"
"""Builds with values, and returns what was asked."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a builder asks for.

    Attributes:
        entries: Each as KerasTuner's own configuration, parents first.
        notes: What a user should know, a sentence each.
        untried: Names whose values were not all tried, because there were too many builds.
    """

    entries: tuple[JsonObject, ...]
    notes: tuple[str, ...] = ()
    untried: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Of all that it asks for."""
        return list(dict.fromkeys(entry["config"]["name"] for entry in self.entries))


def first_values(given: Given) -> dict[str, object]:
    """The first value of everything that a user says."""
    return {name: options[0] for name, options in given.items() if options}


def ask(
    first: keras_tuner.HyperParameters,
    build: Build,
    *,
    given: Given,
    taken: Collection[str] = (),
    heartbeat: Callable[[], None] = lambda: None,
) -> Asked:
    """Builds with each value of every choice in turn, until nothing new is asked.

    A question that is asked with some values only, outside of any `conditional_scope`, becomes
    conditional on these values, so that no trial has a value that its model does not use.

    Args:
        first: What was asked with the first value of all that is given, and the defaults.
        build: Builds with values; what it raises is told, and left to the trials.
        given: What the user says: a single value is never changed.
        taken: Names of the parameters that the builder takes beside `hp`.
        heartbeat: Called before each build.
    """
    asking = _Asking(build, given, heartbeat)
    asking.begin(first, taken)
    asking.go_on()
    untried = tuple(dict.fromkeys(asking.untried))
    if untried:
        asking.notes.append(
            f"The builder asks `hp` for so much that {MOST_BUILDS} builds could not try it all. "
            f"What it asks for only with other values of {', '.join(map(_code, untried))} is not "
            "searched: ask for it in every build, inside `with hp.conditional_scope(...)`."
        )
    return Asked(tuple(asking.entries()), tuple(asking.notes), untried)


@dataclasses.dataclass(frozen=True, eq=False)
class _Question:
    """A hyperparameter as a build asks for it.

    Attributes:
        key: Equal where all of it is.
        name: Its name.
        entry: KerasTuner's configuration; empty for a parameter of the builder itself.
        options: Values to build with; none where they change nothing that is asked.
        whole: Whether these are all of its values.
    """

    key: str
    name: str
    entry: JsonObject
    options: Sequence[Any] = ()
    whole: bool = True


@dataclasses.dataclass(frozen=True, eq=False)
class _Built:
    """What one build has asked.

    Attributes:
        chosen: The values that make it another one than the first.
        values: Of all that is active.
        asked: The questions by key, also inside of scopes that are not active.
        active: Keys of those that are.
    """

    chosen: Mapping[str, object]
    values: Mapping[str, object]
    asked: Mapping[str, _Question]
    active: Collection[str]


@dataclasses.dataclass(frozen=True, eq=False)
class _Contrast:
    """Builds that differ in the value of one question alone."""

    question: _Question
    by_value: Mapping[Any, _Built]
    whole: bool

    def values_with(self, key: str) -> list[Any]:
        """The values with which something is asked; empty where it is with all or none."""
        found = [value for value, built in self.by_value.items() if key in built.asked]
        return found if len(found) < len(self.by_value) else []


class _Asking:
    """The builds so far, and those to come: choices before numbers, and wide ranges last."""

    def __init__(self, build: Build, given: Given, heartbeat: Callable[[], None]):
        self._build, self._given, self._heartbeat = build, given, heartbeat
        self._built: list[_Built] = []
        self._contrasts: list[_Contrast] = []
        self._pending: list[tuple[int, int, _Built, _Question]] = []
        self._seen: set[str] = set()
        self._order = itertools.count()
        self._scopes: dict[str, list[tuple[str, list[object]]]] = {}
        self._open: set[str] = set()
        self._left = MOST_BUILDS
        self.notes: list[str] = []
        self.untried: list[str] = []

    def begin(self, first: keras_tuner.HyperParameters, taken: Collection[str]) -> None:
        """Reads the first build; parameters with several values are varied as questions are."""
        built = self._read(first, {})
        asked = {question.name for question in built.asked.values()}
        for name in taken:
            options = self._given.get(name, ())
            if len(options) > 1 and name not in asked:
                self._pend(built, _Question(name, name, {}, options))

    def go_on(self) -> None:
        """Builds until nothing is left to try."""
        while True:
            if self._pending:
                *_, built, question = heapq.heappop(self._pending)
                self._vary(built, question)
            elif (chosen := self._closed_scope()) is not None:
                self._try(chosen)
            else:
                return

    def entries(self) -> Iterator[JsonObject]:
        """What was asked, with the conditions under which it was."""
        questions = {key: one for built in self._built for key, one in built.asked.items()}
        conditions: dict[str, list[JsonObject]] = {}
        told = set()
        for key, question in questions.items():
            config = question.entry["config"]
            conditions[key] = [*config["conditions"], *self._conditions(question, conditions)]
            identity = json.dumps([question.name, conditions[key]])
            if identity not in told:
                told.add(identity)
                yield {**question.entry, "config": {**config, "conditions": conditions[key]}}

    def _conditions(
        self, question: _Question, known: Mapping[str, list[JsonObject]]
    ) -> list[JsonObject]:
        """The values of others with which alone it is asked, beyond its own scopes."""
        where = [built for built in self._built if question.key in built.asked]
        own = question.entry["config"]["conditions"]
        found: list[JsonObject] = []
        for contrast in self._contrasts:
            values, name = contrast.values_with(question.key), contrast.question.name
            if not values or any(condition["config"]["name"] == name for condition in own):
                continue
            # Values between those that were tried may ask for it, too: then as the parent itself.
            one = {"class_name": "Parent", "config": {"name": name, "values": values}}
            for condition in [one] if contrast.whole else known.get(contrast.question.key, []):
                holds = all(_holds(condition, built.values) for built in where)
                if holds and condition not in [*own, *found]:
                    found.append(condition)
        return found

    def _vary(self, built: _Built, question: _Question) -> None:
        by_value, whole = {built.values[question.name]: built}, question.whole
        for value in question.options:
            if value in by_value:
                continue
            if not self._left:
                self.untried.append(question.name)
                whole = False
                break
            other = self._try({**built.chosen, question.name: value})
            if other is not None:
                by_value[value] = other
        self._contrasts.append(_Contrast(question, by_value, whole))

    def _try(self, chosen: Mapping[str, object]) -> _Built | None:
        """Builds with some values; None where that fails, as a trial with them would."""
        self._heartbeat()
        self._left -= 1
        if self._left % _KEPT == 0:
            gc.collect()  # models hold themselves
        try:
            asked = self._built_with(chosen)
        except Exception as error:  # of the user's own code
            values = ", ".join(f"{name}={value!r}" for name, value in chosen.items())
            reason = (str(error).strip().splitlines() or [""])[0]
            self.notes.append(
                f"The model cannot be built with {values}, so trials with these values will fail: "
                f"{type(error).__name__}: {reason}"
            )
            return None
        return self._read(asked, chosen)

    def _built_with(self, chosen: Mapping[str, object]) -> keras_tuner.HyperParameters:
        try:
            return self._build(chosen)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        gc.collect()  # the models before may have taken it
        return self._build(chosen)

    def _read(self, hp: keras_tuner.HyperParameters, chosen: Mapping[str, object]) -> _Built:
        asked, active, inactive_names = {}, {}, set()
        for parameter in hp.space:
            question = self._question(parameter)
            asked[question.key] = question
            if hp.is_active(parameter):
                active[question.key] = (question.name, hp.values[question.name])
            else:
                inactive_names.add(question.name)
        values = {**first_values(self._given), **chosen}
        values = {name: value for name, value in values.items() if name not in inactive_names}
        built = _Built(chosen, {**values, **dict(active.values())}, asked, active)
        self._built.append(built)
        for scope in hp.inactive_scopes:
            stack = [(condition.name, list(condition.values)) for condition in scope]
            self._scopes.setdefault(json.dumps(stack), stack)
        for scope in hp.active_scopes:
            self._open.add(json.dumps([(one.name, list(one.values)) for one in scope]))
        for key in active:
            self._pend(built, asked[key])
        return built

    def _pend(self, built: _Built, question: _Question) -> None:
        if question.options and question.key not in self._seen:
            self._seen.add(question.key)
            numbers = question.entry.get("class_name") == "Int"
            rank = 2 if not question.whole else int(numbers)
            heapq.heappush(self._pending, (rank, next(self._order), built, question))

    def _closed_scope(self) -> dict[str, object] | None:
        """Values that open the next scope that no build has opened, as KerasTuner's tuner does."""
        for key, stack in list(self._scopes.items()):
            del self._scopes[key]
            possible = {n: [v for v in values if self._may_be(n, v)] for n, values in stack}
            if key in self._open or not all(possible.values()):
                continue
            if self._left:
                return {name: values[0] for name, values in possible.items()}
            self.untried += possible
        return None

    def _may_be(self, name: str, value: object) -> bool:
        options = self._given.get(name)
        return not options or value in options

    def _question(self, parameter: Any) -> _Question:
        entry = {"class_name": type(parameter).__name__, "config": parameter.get_config()}
        key, name = json.dumps(entry), parameter.name
        given = self._given.get(name)
        if name in REPLACED or (given and len(given) == 1):
            return _Question(key, name, entry)
        options, whole = (given, True) if given else _options(parameter)
        # Of a range of the user's, no values are known but the builder's own.
        return _Question(key, name, entry, options, whole=bool(given) or (whole and given is None))


def _options(parameter: Any) -> tuple[list[Any], bool]:
    """Values to build with, and whether these are all; none for what is asked for its number."""
    kind = type(parameter).__name__
    if kind in ("Choice", "Boolean"):
        return list(parameter.values), True
    if kind != "Int":
        return [], True
    low, high = parameter.min_value, parameter.max_value
    values = range(low, high + 1) if parameter.step is None else parameter.values
    few = [int(value) for value in itertools.islice(values, _FEW + 1)]
    return (few, True) if len(few) <= _FEW else ([low, parameter.prob_to_value(1 - 1e-9)], False)


def _holds(condition: JsonObject, values: Mapping[str, object]) -> bool:
    parent = condition["config"]
    return parent["name"] in values and values[parent["name"]] in parent["values"]


def _code(name: str) -> str:
    return f"`{name}`"
