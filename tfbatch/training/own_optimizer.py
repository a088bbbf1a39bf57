"""The optimizer that a user's builder compiled: which plug-in it is, and others like it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from tfbatch.errors import InputError
from tfbatch.loss_scaling import unwrapped
from tfbatch.optimizers import OPTIMIZERS, OWN, class_of
from tfbatch.schema import Named
from tfbatch.training.by_value import check_configuration


def named_like(optimizer: keras.optimizers.Optimizer) -> Named:
    """A compiled optimizer as a configuration names it: its plug-in, and the plug-in's numbers.

    The plug-in is the one of the same Keras class; an optimizer of another class is `own`, whose
    only tunable number is the learning rate.
    """
    inner = unwrapped(optimizer)
    config = _settings(inner)
    for name in OPTIMIZERS.names():
        if type(inner) is class_of(name):
            return Named(name=name, **_numbers(config, OPTIMIZERS.load(name).PARAMETERS))
    return Named(name=OWN, **_numbers(config, {}))


def _numbers(config: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: config.get(key) for key in (*parameters, "global_clipnorm")}
    # A decay of None is none, and no search may put the plug-in's own in its place.
    for key, default in parameters.items():
        if default is not None and key in config and config[key] is None:
            found[key] = 0.0
    found["ema_momentum"] = config.get("ema_momentum") if config.get("use_ema") else None
    return {key: value for key, value in found.items() if value is not None}


def check_kept(compiled: keras.optimizers.Optimizer) -> None:
    """Refuses an optimizer whose settings would differ from the compiled one's in trials.

    Each trial gets a new one made from its `get_config()`, with its own learning rate.

    Raises:
        InputError: The class cannot be made from its configuration, or loses an argument in it.
    """
    inner = unwrapped(compiled)
    config = _settings(inner)
    if not isinstance(config.get("learning_rate"), int | float):
        config["learning_rate"] = 0.0  # the schedule is replaced: it need not be made again
    try:
        made = type(inner).from_config(config)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{type(inner).__name__} cannot be made from its own `get_config()`: {error}. "
            "Let `get_config` return what `__init__` takes, and `__init__` take **kwargs for "
            "Keras's own arguments."
        ) from error
    if config.get("use_ema"):
        raise InputError(
            "The compiled optimizer averages the weights in every step, over other spans of the "
            f"training at each batch size. Received: use_ema=True, ema_momentum="
            f"{config['ema_momentum']}. Remove `use_ema` from it, and let the trials average with "
            "`ema_half_life_fraction`, a share of the training, in the search's or the baseline's "
            "optimizer."
        )
    check_configuration(inner, made)


def learning_rate_of(optimizer: keras.optimizers.Optimizer) -> float | None:
    """The constant learning rate that an optimizer was made with, or None for a schedule."""
    found = _settings(unwrapped(optimizer)).get("learning_rate")
    # It was a float32 variable in between: 0.003, not 0.003000000026.
    return float(f"{found:.7g}") if isinstance(found, int | float) else None


def optimizer_like(
    compiled: keras.optimizers.Optimizer,
    numbers: Mapping[str, object],
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
) -> keras.optimizers.Optimizer:
    """An optimizer of the compiled one's class and settings, with other numbers.

    Args:
        compiled: The compiled optimizer; it is not changed.
        numbers: What differs, by name, such as `settings_beside` says; None turns a setting off.
        learning_rate: A number or a schedule.

    Raises:
        InputError: The class refuses the numbers beside its settings, or cannot be made from its
            own configuration.
    """
    inner = unwrapped(compiled)
    config = {**_settings(inner), **numbers, "learning_rate": learning_rate}
    try:
        return type(inner).from_config(config)
    except (TypeError, ValueError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in numbers.items())
        raise InputError(
            f"{type(inner).__name__} cannot be made from its own `get_config()` with another "
            f"learning rate{given and ' and '}{given}: {error}"
        ) from error


def _settings(optimizer: Any) -> dict[str, Any]:
    """Its `get_config()`, "learning_rate" None for a function or a schedule that has none."""
    state = vars(optimizer)
    schedule = state.get("_learning_rate")
    abstract = keras.optimizers.schedules.LearningRateSchedule
    bare = isinstance(schedule, abstract) and type(schedule).get_config is abstract.get_config
    if not bare and (isinstance(schedule, abstract) or not callable(schedule)):
        return dict(optimizer.get_config())
    state["_learning_rate"] = None
    try:
        return {**optimizer.get_config(), "learning_rate": None}
    finally:
        state["_learning_rate"] = schedule
