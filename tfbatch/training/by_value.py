"""Copies a user's objects, for another process or another trial: Keras's own as they are.

Keras reduces its objects to `get_config()` when they are pickled or copied: an argument that a
class does not return falls back to its default without a word, and a class that is not registered
is not found again.
"""

from __future__ import annotations

import collections
import contextlib
import copyreg
import io
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import cloudpickle
import keras
import numpy as np

from tfbatch.errors import InputError
from tfbatch.loss_scaling import unwrapped
from tfbatch.schema import JsonObject

Value = TypeVar("Value")


_AS_THEY_ARE = (
    keras.losses.Loss,
    keras.metrics.Metric,
    keras.optimizers.schedules.LearningRateSchedule,
)
"""Plain objects: their attributes are all of them."""
_TRACKING = "keras.src.utils.tracking"
"""Where Keras's own lists and dicts are, which metrics keep: filled by pickle before they have the
attributes that filling needs."""
_COLLECTIONS = (collections.OrderedDict, dict, list, set)
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_REMEDY = (
    "Let `get_config` return every argument of the class, as Keras's saving needs it; or make the "
    "object inside the function that builds the model (callbacks: inside one that makes them)."
)


def dumps(value: object) -> bytes:
    """An object as bytes for another process, classes and functions of `__main__` by value.

    Losses, metrics and learning-rate schedules of Keras travel attribute by attribute. Layers,
    models and optimizers travel by Keras's own saving. What Keras makes from a configuration is
    compared with the original in both cases: it is also what a saved model holds when it is loaded.

    Raises:
        InputError: A layer, a model or an optimizer cannot be made again from its configuration; or
            what Keras makes of any object's configuration has another attribute.
    """
    file = io.BytesIO()
    _Pickler(file).dump(value)
    return file.getvalue()


class HasConfiguration(Protocol):
    """An object of Keras: a layer, a loss, a metric, an optimizer."""

    def get_config(self) -> JsonObject:
        """The arguments that it is made of again."""

    @classmethod
    def from_config(cls, config: JsonObject) -> HasConfiguration:
        """Makes it again."""


def copied(value: Value) -> Value:
    """A copy that shares no variable with the original, the same that a worker process would get.

    Raises:
        InputError: See `dumps`.
    """
    copy: Value = cloudpickle.loads(dumps(value))
    return copy


def check_configuration(original: object, made: object) -> None:
    """Refuses an object that lost an argument when it was made from its configuration.

    Args:
        original: A loss, a metric, a layer, a model, an optimizer.
        made: What was made from its configuration.

    Raises:
        InputError: A plain attribute of a class that is not Keras's own differs.
    """
    if lost := _lost(original, made):
        raise InputError(f"{lost} {_REMEDY}")


def lost_in_configuration(value: HasConfiguration) -> str:
    """What an object of Keras loses in its own `get_config()`, in a sentence; "" for nothing.

    A class that cannot be made from its configuration at all loses nothing silently: Keras
    reports it when a saved model is loaded.
    """
    made = again = None
    with contextlib.suppress(TypeError, ValueError, NotImplementedError):
        made = type(value).from_config(value.get_config())
        again = type(value).from_config(value.get_config())
    return "" if made is None else _lost(value, made, again)


def _lost(original: Any, made: Any, again: Any = None) -> str:
    """The first plain attribute of a user's class that differs, in a sentence; "" for none.

    What differs between `made` and `again`, made from the same configuration, is no argument: a
    time, or a number drawn at random.
    """
    third = made if again is None else again
    for one, other, twin in zip(_parts(original), _parts(made), _parts(third), strict=False):
        kind = type(one)
        if kind.__module__.split(".")[0] == "keras":
            continue
        for name, value in vars(one).items():
            found = vars(other).get(name)
            same = found == value or (found != found and value != value)  # NaN is NaN
            drawn = repr(vars(twin).get(name)) != repr(found)
            if name not in _STATE and isinstance(value, _PLAIN) and not same and not drawn:
                return (
                    f"`get_config` of {kind.__name__} is incomplete: what Keras makes from it, "
                    f"such as a copy or a loaded model, has {name}={found!r}. Received: "
                    f"{name}={value!r}."
                )
    return ""


_STATE = {"built", "name", "_name", "_path", "_auto_config", "_build_shapes_dict", "_is_compiled"}
_STATE |= {"_called", "_lock", "_iterations", "stop_training", "_initial_epoch", "compiled"}
_STATE |= {"_jit_compile", "steps_per_execution", "_run_eagerly", "_supports_jit", "_parent_path"}
"""What a use of an object changes, or where it lies."""


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def reducer_override(self, value: Any) -> Any:
        """Bypasses Keras's reduction, where it is not the user's own."""
        if isinstance(value, keras.Variable):
            return _variable, (*_description(value),), None
        if type(value).__module__ == _TRACKING and isinstance(value, _COLLECTIONS):
            kind = next(kind for kind in _COLLECTIONS if isinstance(value, kind))
            return type(value), (kind(value),), dict(vars(value))
        if isinstance(value, type) or not _keras_reduces(value):
            return super().reducer_override(value)
        if isinstance(value, _AS_THEY_ARE):
            if lost := lost_in_configuration(value):
                raise InputError(f"{lost} {_REMEDY}")
            return copyreg.__newobj__, (type(value),), dict(vars(value))  # type: ignore[attr-defined]
        custom = {type(part).__name__: type(part) for part in _parts(value)}
        custom = {k: v for k, v in custom.items() if v.__module__.split(".")[0] != "keras"}
        try:
            function, arguments = value.__reduce__()
            made = _made_again(function, arguments, custom)
        except (TypeError, ValueError, NotImplementedError) as error:
            raise InputError(
                f"{type(value).__name__} cannot be recreated from its `get_config()`: "
                f"{' '.join(str(error).split())} {_REMEDY}"
            ) from error
        check_configuration(value, made)
        return _made_again, (function, arguments, custom)


def _keras_reduces(value: Any) -> bool:
    """Whether pickling an object asks Keras's saving: one that does not say how itself."""
    reduce = getattr(type(value), "__reduce__", None)
    return getattr(reduce, "__module__", "") == "keras.src.saving.keras_saveable"


def _made_again(
    function: Callable[..., Any], arguments: tuple[Any, ...], custom: dict[str, type]
) -> Any:
    """Loads what Keras has saved; its classes need neither be registered nor importable."""
    for part in arguments:
        part.seek(0)
    with keras.saving.custom_object_scope(custom):
        return function(*arguments)


def _parts(value: Any) -> Iterator[Any]:
    """An object and, of a layer or model, every layer in it, in a fixed order."""
    if isinstance(value, keras.Layer):
        yield from value._flatten_layers(include_self=True, recursive=True)
        if isinstance(value, keras.Model) and value.compiled:
            yield from (part for part in keras.tree.flatten(value.loss) if callable(part))
            for metric in value.metrics:
                yield from keras.tree.flatten(getattr(metric, "_user_metrics", None) or ())
            if value.optimizer is not None:
                yield unwrapped(value.optimizer)
    else:
        yield unwrapped(value)


def _description(variable: Any) -> tuple[Any, ...]:
    return (
        np.asarray(variable),
        variable.dtype,
        variable.trainable,
        getattr(variable, "aggregation", "none"),
        getattr(variable, "synchronization", "auto"),
        variable.name,
        variable.regularizer,
        variable.constraint,
    )


def _variable(
    value: np.ndarray,
    dtype: str,
    trainable: bool,
    aggregation: str,
    synchronization: str,
    name: str,
    regularizer: Any,
    constraint: Any,
) -> Any:
    """A variable made anew, so that it is that of the strategy whose scope it is made in."""
    made = keras.Variable(
        value,
        dtype=dtype,
        trainable=trainable,
        aggregation=aggregation,
        synchronization=synchronization,
        name=name,
    )
    made.regularizer, made.constraint = regularizer, constraint
    return made
