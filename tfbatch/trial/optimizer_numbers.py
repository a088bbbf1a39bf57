"""The optimizer's numbers at a batch size, from what a configuration says of them.

A configuration may write a number of an optimizer in three ways. `P` stands for a parameter, and
its role is what tfbatch.optimizers says:

- `P` itself, and `one_minus_P` for a decay: meant for the base batch size, and scaled by the rule;
- `P_half_life` for a decay, in examples: the number of each batch size follows, whatever the rule;
- `P_epochs` for a weight decay, and `ema_half_life_fraction`: timescales of the training.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from tfbatch.configuration import Configuration
from tfbatch.errors import InputError, did_you_mean
from tfbatch.optimizers import keras_arguments, parameters_of, roles_of
from tfbatch.scaling_rules import check_rule, scaled_number
from tfbatch.schema import Named

Form = Literal["number", "one_minus", "half_life", "epochs", "fraction"]

_DECAYS = ("momentum", "first_moment", "second_moment")
_LIMITS = {
    "momentum": (0.0, 0.99),
    "first_moment": (0.0, 0.99),
    "second_moment": (0.5, 0.99999),
    "epsilon": (1e-10, math.inf),
    "squared_epsilon": (1e-20, math.inf),
}
_EMA_FRACTION = "ema_half_life_fraction"


@dataclasses.dataclass(frozen=True)
class Option:
    """A key that a configuration may have for an optimizer.

    Attributes:
        parameter: The parameter of the optimizer that it sets.
        form: How it is written.
    """

    parameter: str
    form: Form


@dataclasses.dataclass(frozen=True)
class OptimizerNumbers:
    """An optimizer's numbers at one batch size.

    Attributes:
        values: Every parameter.
        derived: Those that are not as the configuration or the defaults have them.
        held: Those that a rule or a half-life would have taken out of their range.
    """

    values: dict[str, float | bool | None]
    derived: tuple[str, ...]
    held: tuple[str, ...]


def options_of(optimizer: str) -> dict[str, Option]:
    """Every key that a configuration may have for an optimizer.

    Raises:
        InputError: An unknown optimizer.
    """
    roles = roles_of(optimizer)
    options: dict[str, Option] = {}
    for parameter in parameters_of(optimizer):
        role = roles.get(parameter)
        if role == "weight_average":  # itself it would be counted in steps
            options[_EMA_FRACTION] = Option(parameter, "fraction")
            continue
        options[parameter] = Option(parameter, "number")
        if role in _DECAYS:
            options[f"one_minus_{parameter}"] = Option(parameter, "one_minus")
            options[f"{parameter}_half_life"] = Option(parameter, "half_life")
        if role == "weight_decay":
            options[f"{parameter}_epochs"] = Option(parameter, "epochs")
    return options


def find_option(optimizer: str, key: str) -> Option:
    """What a key of a configuration means for an optimizer.

    Raises:
        InputError: An unknown optimizer or key.
    """
    options = options_of(optimizer)
    if key not in options:
        own = [name for name, option in options.items() if option.form == "number"]
        raise InputError(
            f"The optimizer {optimizer} has no parameter `{key}`.{did_you_mean(key, options)} "
            f"Available: {', '.join([*own, _EMA_FRACTION])}, and timescales."
        )
    return options[key]


def numbers_at(
    configuration: Configuration, *, learning_rate: float, num_examples: int, total_examples: int
) -> OptimizerNumbers:
    """The numbers that a configuration's optimizer has at its batch size.

        def decay(half_life):  # also of the weights' average: half_life = fraction * total_examples
            return 2 ** (-batch_size / half_life)

        def weight_decay(epochs):  # Wang & Aitchison 2024, arXiv 2405.13698
            return batch_size / (learning_rate * num_examples * epochs)

    A decay is held in [0, 0.99], that of a second moment in [0.5, 0.99999], and an epsilon above
    1e-10. (Averages of fewer than one step or of the whole training teach nothing, and an epsilon
    that is smaller is lost in float32.) A number that the configuration itself has is never moved.

    Args:
        configuration: The configuration.
        learning_rate: Peak learning rate at its batch size.
        num_examples: Size of the training split.
        total_examples: Length of the training.

    Raises:
        InputError: An unknown key, a value out of range, one number written twice, or a rule that
            is for other optimizers.
    """
    name, rule = configuration.optimizer.name, configuration.scaling_rule.name
    roles = roles_of(name)
    check_rule(rule, roles=roles, optimizer=name)
    values, complements = parameters_of(name), []
    by_timescale: dict[str, float | None] = {}
    for parameter, (key, option) in _written(configuration).items():
        value = _checked(configuration, key, option)
        if option.form == "number":
            values[parameter] = value
        elif option.form == "one_minus":
            values[parameter] = 1.0 - value
            complements.append(parameter)
        elif option.form == "half_life":
            by_timescale[parameter] = 2.0 ** (-configuration.batch_size / value)
        elif option.form == "fraction":
            by_timescale[parameter] = (
                2.0 ** (-configuration.batch_size / (value * total_examples)) if value else None
            )
        else:
            share = _share_of_weights(configuration, key, value, num_examples)
            by_timescale[parameter] = share / learning_rate
    at_base = {p: at for p in roles if p not in by_timescale and (at := values[p])}
    by_rule = {p: _scaled(configuration, roles[p], value) for p, value in at_base.items()}
    by_rule = {p: value for p, value in by_rule.items() if value != at_base[p]}
    exact = {**by_timescale, **by_rule}
    found = {p: _limited(roles[p], value, given=at_base.get(p)) for p, value in exact.items()}
    return OptimizerNumbers(
        values={**values, **found},
        derived=tuple(dict.fromkeys([*complements, *found])),
        held=tuple(p for p, value in exact.items() if value != found[p]),
    )


def settings_beside(optimizer: Named, numbers: Mapping[str, object]) -> dict[str, object]:
    """What a trial's optimizer has that may differ from the one that its model is compiled with.

    What the configuration says is off, such as a `weight_decay` of 0, is None: it is turned off.
    What it does not name and is off by default is left out, and stays as it was compiled.

    Args:
        optimizer: As the configuration names it.
        numbers: All of its numbers at a batch size; see `numbers_at`.

    Raises:
        InputError: An unknown optimizer or key.
    """
    settings = keras_arguments(optimizer.name, numbers)
    named = {find_option(optimizer.name, key).parameter for key in optimizer.arguments}
    off: dict[str, object] = {"global_clipnorm": None} if "global_clipnorm" in named else {}
    return {**off, **{k: v for k, v in settings.items() if v is not None or k in named}}


def _scaled(configuration: Configuration, role: str, value: float) -> float:
    return scaled_number(
        configuration.scaling_rule.name,
        role,
        value,
        batch_size=configuration.batch_size,
        base_batch_size=configuration.base_batch_size,
    )


def _share_of_weights(
    configuration: Configuration, key: str, epochs: float, num_examples: int
) -> float:
    """What one step takes away of the weights: learning rate times weight decay."""
    share = configuration.batch_size / (num_examples * epochs)
    if share >= 1:
        raise InputError(
            f"`{key}` of {configuration.optimizer.name} must be > batch size / training examples = "
            f"{share * epochs:.3g}, or one step takes away the whole weights. "
            f"Received: {epochs!r} at batch size {configuration.batch_size}."
        )
    return share


def _limited(role: str, value: float | None, *, given: float | None) -> float | None:
    """A number within its role's range, widened to hold the one at the base batch size."""
    if value is None or role not in _LIMITS:
        return value
    low, high = _LIMITS[role]
    if given is not None:
        low, high = min(low, given), max(high, given)
    return min(max(value, low), high)


def _written(configuration: Configuration) -> dict[str, tuple[str, Option]]:
    """What a configuration has for each parameter of its optimizer: the key, and what it means."""
    optimizer = configuration.optimizer
    written: dict[str, tuple[str, Option]] = {}
    for key in optimizer.arguments:
        option = find_option(optimizer.name, key)
        if option.parameter in written:
            raise InputError(
                f"The optimizer {optimizer.name} must have its {option.parameter} once. Received: "
                f"`{written[option.parameter][0]}` and `{key}`."
            )
        written[option.parameter] = (key, option)
    return written


def _checked(configuration: Configuration, key: str, option: Option) -> Any:
    """A value of the configuration; whole numbers become floats, which Keras insists on."""
    optimizer = configuration.optimizer
    value = optimizer.arguments[key]
    default = parameters_of(optimizer.name)[option.parameter]
    if isinstance(default, bool) or isinstance(value, bool):
        if isinstance(default, bool) and isinstance(value, bool):
            return value
        kind = "true or false" if isinstance(default, bool) else "a number"
        raise InputError(f"`{key}` of {optimizer.name} must be {kind}. Received: {value!r}.")
    if value is None and default is None and option.form == "number":
        return None
    if not isinstance(value, int | float):
        raise InputError(f"`{key}` of {optimizer.name} must be a number. Received: {value!r}.")
    ranges = {
        "one_minus": ("in [0, 1]", 0 <= value <= 1),
        "fraction": ("in [0, 1]", 0 <= value <= 1),
        "half_life": ("> 0", value > 0),
        "epochs": ("> 0", value > 0),
        "number": (">= 0", value >= 0),
    }
    rule, holds = ranges[option.form]
    if not holds:
        raise InputError(f"`{key}` of {optimizer.name} must be {rule}. Received: {value!r}.")
    return float(value)
