"""Optimizers a search can use, one file each.

A file declares a Keras optimizer:

- `KERAS_NAME`, the class, of keras.optimizers or of `MODULE` if the file has one;
- `BASE_LEARNING_RATE`, lowest and highest: the range searched at the base batch size;
- `DEFAULT_LEARNING_RATE`, Keras's own;
- `SCALING_RULE`, its default rule;
- `PARAMETERS`, the arguments of the class that a search can set, with their defaults;
- `ROLES`, what those numbers are that a rule or a timescale can act on (see `ROLE_NAMES`);
- `SLOTS`, if it has any that depend on more than gradients (see `SLOT_KINDS`).

Every optimizer has `SHARED_PARAMETERS` too. What a configuration may write for one instead of a
number that goes stale with the batch size, such as `beta_2_half_life`, is in
tfbatch.trial.optimizer_numbers.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from tfbatch.errors import InputError
from tfbatch.plug_ins import Registry

if TYPE_CHECKING:
    import keras

    from tfbatch.optimizers._lars import LARS

OWN = "own"
"""Stands for the optimizer of a compiled model, of a class that no file here names."""


class _Optimizers(Registry):
    """The files of this folder, and `own`, which nobody can choose and only a model can bring."""

    def check(self, name: str) -> str:
        """See Registry."""
        return name if name == OWN else super().check(name)

    def load(self, name: str) -> ModuleType:
        """See Registry."""
        module = f"{__name__}._own"
        return importlib.import_module(module) if name == OWN else super().load(name)


OPTIMIZERS = _Optimizers(__name__, kind="optimizer", folder=__path__)

ROLE_NAMES = {
    "momentum": "Decay of a sum of gradients in each step.",
    "first_moment": "Decay of an average of gradients in each step.",
    "second_moment": "Decay of an average of squared gradients in each step.",
    "epsilon": "Added to the root of the second moment.",
    "squared_epsilon": "Added to the second moment under its root.",
    "weight_decay": "Share of a weight that is subtracted, times the learning rate, in each step.",
    "l2": "Share of a weight that is added to its gradient.",
    "trust_coefficient": "Share of a layer's norm that it moves in a step of learning rate 1.",
    "weight_average": "Decay of an average of the weights in each step.",
}

SLOT_KINDS = {
    "velocity": "Decayed sum of steps: the learning rate is in it.",
    "corrected_average": "Average that begins at zero, and is divided by 1 - decay ** updates.",
}


class OptimizerSlot(NamedTuple):
    """What an optimizer remembers in an attribute: a list of variables.

    Attributes:
        kind: One of `SLOT_KINDS`.
        decay: The parameter that says how fast it is forgotten.
    """

    kind: str
    decay: str


SHARED_PARAMETERS: dict[str, float | bool | None] = {"global_clipnorm": None, "ema_momentum": None}
"""Of every optimizer; `global_clipnorm` 0 is off, as None is."""

_SHARED_ROLES = {"ema_momentum": "weight_average"}


def parameters_of(name: str) -> dict[str, float | bool | None]:
    """The arguments that an optimizer's class takes from a configuration, with their defaults.

    Raises:
        InputError: An unknown optimizer.
    """
    return {**OPTIMIZERS.load(name).PARAMETERS, **SHARED_PARAMETERS}


def slots_of(name: str) -> dict[str, OptimizerSlot]:
    """What an optimizer remembers that depends on more than the gradients, by attribute.

    Raises:
        InputError: An unknown optimizer.
    """
    written: dict[str, tuple[str, str]] = getattr(OPTIMIZERS.load(name), "SLOTS", {})
    return {attribute: OptimizerSlot(*slot) for attribute, slot in written.items()}


def roles_of(name: str) -> dict[str, str]:
    """What an optimizer's numbers are, by parameter.

    Raises:
        InputError: An unknown optimizer.
    """
    return {**OPTIMIZERS.load(name).ROLES, **_SHARED_ROLES}


def keras_arguments(name: str, numbers: Mapping[str, object]) -> dict[str, object]:
    """What the class of keras.optimizers gets beside the learning rate, for all its numbers.

    Raises:
        InputError: An unknown optimizer.
    """
    arguments = {**parameters_of(name), **numbers}
    average = arguments.pop("ema_momentum")
    if average:
        arguments |= {"use_ema": True, "ema_momentum": average}
    if not arguments["global_clipnorm"]:
        del arguments["global_clipnorm"]
    if OPTIMIZERS.load(name).PARAMETERS.get("weight_decay", 0.0) is None:
        # With 0.0 Keras multiplies every weight by 1 in each step, a fifth of a small model's time.
        arguments["weight_decay"] = arguments["weight_decay"] or None
    return arguments


def build_optimizer(
    name: str,
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
    **numbers: object,
) -> keras.optimizers.Optimizer:
    """Makes a Keras optimizer.

    Args:
        name: A file of tfbatch/optimizers.
        learning_rate: A float or a Keras schedule.
        **numbers: Of its parameters; the others have their defaults.

    Returns:
        A `keras.optimizers.Optimizer`.

    Raises:
        InputError: An unknown optimizer, or `own`.
        ValueError: Keras refuses a number.
    """
    if name == OWN:
        raise InputError(
            "The optimizer `own` is that of a compiled model. Compile the model in its builder, or "
            f"choose another optimizer: {', '.join(OPTIMIZERS.names())}."
        )
    return class_of(name)(learning_rate, **keras_arguments(name, numbers))


def module_of(name: str) -> str:
    """Where the class of an optimizer is found, such as "keras.optimizers".

    Raises:
        InputError: An unknown optimizer.
    """
    return getattr(OPTIMIZERS.load(name), "MODULE", "keras.optimizers")


def class_of(name: str) -> type[keras.optimizers.Optimizer]:
    """The Keras class of an optimizer.

    Raises:
        InputError: An unknown optimizer.
    """
    module = importlib.import_module(module_of(name))
    found: type[Any] = getattr(module, OPTIMIZERS.load(name).KERAS_NAME)
    return found


def __getattr__(name: str) -> Any:
    if name == "LARS":  # it needs Keras, which takes seconds to import
        return importlib.import_module("tfbatch.optimizers._lars").LARS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "LARS",
    "OPTIMIZERS",
    "OWN",
    "ROLE_NAMES",
    "SHARED_PARAMETERS",
    "SLOT_KINDS",
    "OptimizerSlot",
    "build_optimizer",
    "class_of",
    "keras_arguments",
    "module_of",
    "parameters_of",
    "roles_of",
    "slots_of",
]
