"""Finds a user's model builder, and calls it with what it asks for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import keras

from tfbatch.errors import InputError, did_you_mean
from tfbatch.models import MODELS, check_model_name, is_keras_application
from tfbatch.pipeline.elements import InputShape
from tfbatch.plug_ins import find_function

if TYPE_CHECKING:
    import keras_tuner

BuildModel: TypeAlias = "Callable[..., keras.Model]"
_OFFERED = ("input_shape", "num_classes", "hp")


def find_model_builder(name: str) -> BuildModel:
    """The builder of a name.

    Args:
        name: A file of tfbatch/models, a model of keras.applications, or
            `package.module:function`.

    Raises:
        InputError: There is no such model, module or function, or it requires an unavailable
            argument.
    """
    check_model_name(name)
    if is_keras_application(name):
        return _application(name)
    if ":" not in name:
        by_name: BuildModel = MODELS.load(name).build
        return by_name
    builder = find_function(name, flag="--model")
    check_builder(builder)
    return builder


def check_builder(builder: BuildModel) -> None:
    """Refuses a builder that requires an unavailable argument.

    Raises:
        InputError: It is a model, or has a required parameter other than `input_shape`,
            `num_classes` and `hp`.
    """
    if isinstance(builder, keras.Model):
        raise InputError(
            "The model must be given as a function that builds it, because every trial begins with "
            "a new one. Received: a keras.Model. Give a function, such as "
            "lambda: keras.models.clone_model(model) for one that is not compiled."
        )
    required = required_parameters(builder)
    unknown = [name for name in required if name not in _OFFERED]
    if unknown and not (len(required) == len(unknown) == 2):  # (shape, classes), in this order
        raise InputError(
            "A model builder gets what it asks for by name: `input_shape`, `num_classes`, or `hp` "
            f"(KerasTuner's hyperparameters). It also asks for: {', '.join(unknown)}. "
            f"Received: {getattr(builder, '__name__', builder)}{inspect.signature(builder)}."
        )


def call_builder(
    builder: BuildModel,
    *,
    input_shape: InputShape,
    num_classes: int | None,
    arguments: Mapping[str, object],
    hp: Callable[[], keras_tuner.HyperParameters],
) -> keras.Model:
    """Calls a builder with what it asks for.

    Args:
        builder: A builder that `check_builder` accepts.
        input_shape: Shape of one input.
        num_classes: Number of classes, or None.
        arguments: Further arguments by name. One that has `hp` gets those that it names as
            parameters, and the others by asking.
        hp: Makes KerasTuner hyperparameters with the arguments as values; called if it asks.

    Raises:
        InputError: It asks for the number of classes where there is none, or does not take an
            argument that was given.
    """
    parameters = _parameters(builder)
    if asks_for_classes(builder) and num_classes is None:
        raise InputError(
            "The model builder asks for `num_classes`, but the targets are not classes: neither "
            "whole numbers from 0 nor one-hot rows. Number class labels from 0, for "
            "example with np.unique(labels, return_inverse=True)[1]; for another task, set the "
            "output size in the builder."
        )
    offered = {"input_shape": input_shape, "num_classes": num_classes}
    if num_classes is None and "num_classes" in parameters:  # it has a default
        del offered["num_classes"]
    if not parameters or not any(name in parameters for name in _OFFERED):
        values = list(offered.values()) if len(required_parameters(builder)) == 2 else []
        return builder(*values, **arguments)
    given = {name: value for name, value in offered.items() if name in parameters}
    if "hp" in parameters:
        return builder(**given, **named_arguments(builder, arguments), hp=hp())
    return builder(**given, **arguments)


def named_arguments(builder: BuildModel, arguments: Mapping[str, object]) -> dict[str, object]:
    """Those arguments that a builder with `hp` is called with; it asks `hp` for the others.

    Of its `**options` nothing is known before it has asked: they get none.
    """
    free = own_parameters(builder)
    return {name: value for name, value in arguments.items() if name in free}


def own_parameters(builder: BuildModel) -> list[str]:
    """The names of a builder's parameters beside those that every builder may have."""
    return [
        name
        for name, p in _parameters(builder).items()
        if name not in _OFFERED and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]


def asks_for_classes(builder: BuildModel) -> bool:
    """Whether a builder cannot do without a number of classes, so that targets must be classes."""
    asked = _parameters(builder).get("num_classes")
    return asked is not None and asked.default is asked.empty


def asks_hyperparameters(builder: BuildModel) -> bool:
    """Whether a builder asks for KerasTuner's hyperparameters."""
    return "hp" in _parameters(builder)


def check_arguments(builder: BuildModel, arguments: Iterable[str]) -> None:
    """Refuses arguments that a builder does not take; what it asks `hp` for is not known yet.

    Raises:
        InputError: The builder has no parameter of an argument's name.
    """
    parameters = _parameters(builder)
    if "hp" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    free = own_parameters(builder)
    for name in arguments:
        if name not in free:
            raise InputError(
                f"The model builder takes no argument `{name}`.{did_you_mean(name, free)} "
                f"It takes: {', '.join(free) or 'none'}."
            )


def check_asked(builder: BuildModel, arguments: Iterable[str], asked: Sequence[str]) -> None:
    """Refuses arguments that a builder with `hp` neither takes nor asks for.

    Args:
        builder: The builder.
        arguments: Names of what is given.
        asked: Names of all that it asks `hp` for.

    Raises:
        InputError: It would train without an argument, and nobody would know.
    """
    free = own_parameters(builder)
    for name in arguments:
        if name not in [*free, *asked]:
            raise InputError(
                "An argument of a model builder with `hp` must be one that it asks `hp` for, or a "
                f"parameter that it names. Received: `{name}`."
                f"{did_you_mean(name, [*free, *asked])} It asks for: "
                f"{', '.join(asked) or 'nothing'}; its parameters: {', '.join(free) or 'none'}. "
                f"If it asks for `{name}` only with certain values of others, give those, too."
            )


def _parameters(builder: BuildModel) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(builder).parameters
    except ValueError:  # some built-in callables do not tell
        return {}


def required_parameters(builder: BuildModel) -> list[str]:
    """The parameters that a call must give; `*args` and `**kwargs` may stay empty."""
    return [
        name
        for name, p in _parameters(builder).items()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]


def _application(name: str) -> BuildModel:
    """A model of keras.applications, untrained, with logits."""

    def build(input_shape: Any, num_classes: int) -> Any:
        return getattr(keras.applications, name)(
            weights=None,
            input_shape=input_shape,
            classes=num_classes,
            classifier_activation=None,
        )

    build.__name__ = build.__qualname__ = name
    return build
