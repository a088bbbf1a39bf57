"""What is searched, as a space writes it: a range, options, or one value."""

from __future__ import annotations

from collections.abc import Sequence

import keras_tuner

from tfbatch.request.search_config import Range, as_options, as_range
from tfbatch.schema import Named


def as_searched(value: object) -> object:
    """A parameter's value as written in YAML: a mapping is a Range, whole numbers become floats.

    (KerasTuner refuses a choice between 0 and 0.1, of two types.)
    """
    if isinstance(value, dict):
        return as_range(value)
    if isinstance(value, list | tuple):
        return [as_searched(option) for option in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def as_given(value: object) -> object:
    """An argument of the model's builder: a whole number stays one, but in a list of fractions."""
    if isinstance(value, dict):
        return as_range(value)
    if isinstance(value, list | tuple) and any(isinstance(option, float) for option in value):
        return as_searched(value)
    return value


def first_of_each(named: Named) -> Named:
    """A plug-in with the first value of each of its parameters."""
    arguments = named.arguments.items()
    return Named(name=named.name, **{k: as_options(v, where=k)[0] for k, v in arguments})


def is_number(searched: object) -> bool:
    """Whether numbers are searched, and not words or switches."""
    if isinstance(searched, list | tuple):
        return not isinstance(searched[0], str | bool)
    return isinstance(searched, Range)


def is_fixed(searched: object) -> bool:
    """Whether there is one value only, and nothing to search."""
    if isinstance(searched, list | tuple):
        return False
    return not isinstance(searched, Range)


def declare(hp: keras_tuner.HyperParameters, name: str, searched: object) -> None:
    """Declares a hyperparameter to KerasTuner; a single value is none."""
    if isinstance(searched, Range):
        hp.Float(name, searched.min, searched.max, sampling=searched.sampling)
    elif isinstance(searched, list | tuple):
        if isinstance(searched[0], bool):  # of these a KerasTuner choice makes 0 and 1
            _declare_switch(hp, name, searched)
        else:
            hp.Choice(name, list(searched), ordered=not isinstance(searched[0], str))


def _declare_switch(hp: keras_tuner.HyperParameters, name: str, searched: Sequence[object]) -> None:
    """Declares true and false, the first one of the list as the default; or one of them alone."""
    if len(set(searched)) > 1:
        hp.Boolean(name, default=searched[0])
    else:
        hp.Fixed(name, searched[0])
