"""Which models can share one traced program: a key for everything that is not a variable."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import json
from collections.abc import Iterator
from typing import Any, TypeVar

import keras
import numpy as np
import tensorflow as tf

T = TypeVar("T", bound=type)

# Not tfbatch itself: a model's file there may hold classes of its own.
_TRUSTED = (
    *("keras", "tensorflow", "numpy", "ml_dtypes"),
    *("builtins", "collections", "functools", "threading", "_thread", "inspect"),
)
_HARMLESS = (bool, int, float, complex, str, bytes)
_SET_BY_COMPILE = (
    *("optimizer", "loss", "jit_compile", "stop_training", "steps_per_execution"),
    *("_compile_loss", "_compile_metrics", "_compile_config", "_compiled_trainable_state"),
    *("_loss_tracker", "_jit_compile", "_run_eagerly"),
)


def reusable(cls: T) -> T:
    """Declares a `keras.Model` or layer class of your own fit for sharing a traced program.

    Its behavior must follow from `get_config()`, from its weights, and from attributes that are
    plain values or arrays. tfbatch then traces it once for all trials with an equal configuration;
    without the declaration it is traced anew in each trial.

    Example:
        ```python
        @tfbatch.reusable
        class Residual(keras.layers.Layer): ...
        ```
    """
    cls._tfbatch_reusable = True  # type: ignore[attr-defined]
    return cls


def structure_key(model: keras.Model, build_model: object) -> str | None:
    """A hash that is equal for two builds only if one traced program serves both.

    It covers the builder's source and plain closure, every layer's class, configuration and plain
    attributes (arrays by content: an adapted Normalization holds its mean as a constant), the
    words of vocabularies, the shape, dtype and trainability of every variable, and the losses and
    metrics of a model that its builder compiles. Values of variables are not in it, nor is a
    compiled model's optimizer, which is replaced.

    Args:
        model: A built model whose names were counted from the beginning, as its builder returns it.
        build_model: Its builder.

    Returns:
        The key, or None for a model that must be traced anew in each trial: with a class, a
        function or a method of the user's own that is not declared `reusable`.
    """
    layers = list(model._flatten_layers(include_self=True, recursive=True))
    compilation = _compilation(model)
    if cause_of_retracing(model):
        return None
    try:
        config = keras.saving.serialize_keras_object(model)
    except (TypeError, ValueError, NotImplementedError):  # a layer that cannot be serialized
        return None
    config.pop("compile_config", None)
    try:
        words = [_value(layer.get_vocabulary()) for layer in layers if _has_words(layer)]
    except Exception:  # of a layer of the user's own
        return None
    variables = [[str(v.dtype), list(v.shape), bool(v.trainable)] for v in model.variables]
    attributes = [_plain(_attributes(layer)) for layer in layers]
    compiled = [[_value(part), _plain(_vars(part))] for part in _parts(compilation)]
    compiled.append(_value(compilation))  # which output each belongs to
    return _digest([_builder(build_model), config, variables, attributes, compiled, words])


def _has_words(layer: Any) -> bool:
    """Whether a table holds its vocabulary: after `adapt` its configuration has none."""
    return callable(getattr(layer, "get_vocabulary", None))


def cause_of_retracing(model: keras.Model) -> str:
    """What cannot be seen into, for which a model is traced anew in each trial.

    Args:
        model: A built model.

    Returns:
        Such as "`Scale` is a class of your own", or an empty text where there is nothing such.
    """
    layers = list(model._flatten_layers(include_self=True, recursive=True))
    for layer in layers:
        if _is_foreign(layer):
            return _of_your_own(layer)
        if _differs_by_instance(layer):
            return f"What the layer `{layer.name}` computes is not part of its configuration"
    parts = [_attributes(layer) for layer in layers] + list(_operations(layers))
    for part in (*_parts_of_objects(_compilation(model)), *_parts(parts)):
        if _is_foreign(part):
            return _of_your_own(part)
    # A second optimizer's slots would go on from trial to trial.
    if any(isinstance(part, keras.optimizers.Optimizer) for part in _parts(parts)):
        return "The model holds a second optimizer"
    return ""


def _of_your_own(value: Any) -> str:
    """The sentence of a class or a function of the user's."""
    if inspect.isroutine(value):
        return f"`{getattr(value, '__name__', value)}` is a function of your own"
    kind = value if isinstance(value, type) else type(value)
    if _module(kind).split(".")[0] in _TRUSTED:  # it wraps one
        return f"A {kind.__name__} holds a function of your own"
    return f"`{kind.__name__}` is a class of your own"


def is_of_the_user(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether an optimizer's class is neither Keras's nor tfbatch's, and not declared reusable.

    What it computes need not follow from `get_config()`.
    """
    own = type(optimizer)
    return _is_foreign(own) and _module(own).split(".")[0] != __name__.split(".")[0]


def unknown_variables(model: keras.Model) -> list[str]:
    """TensorFlow's own variables in the attributes of layers: Keras neither lists nor saves them.

    Returns:
        Such as "counter.total", for the attribute `total` of the layer `counter`.
    """
    return [
        f"{layer.name}.{name}"
        for layer in model._flatten_layers()
        for name, value in _attributes(layer).items()
        if any(isinstance(part, tf.Variable) for part in _parts(value))
    ]


def _compilation(model: keras.Model) -> dict[str, Any]:
    """What a builder gave `compile`, without what each trial replaces."""
    if not model.compiled:
        return {}
    replaced = ("optimizer", "jit_compile", "steps_per_execution")
    given = model._compile_config.config
    return {name: value for name, value in given.items() if name not in replaced}


def _vars(value: Any) -> dict[str, Any]:
    """What a loss or a metric holds, such as the function that it wraps."""
    kinds = (keras.losses.Loss, keras.metrics.Metric)
    return dict(vars(value)) if isinstance(value, kinds) else {}


def _parts_of_objects(value: Any) -> Iterator[Any]:
    """`_parts`, and those of what losses and metrics hold."""
    for part in _parts(value):
        yield part
        yield from _parts_of_objects(_vars(part))


def _attributes(layer: Any) -> dict[str, Any]:
    """A layer's own attributes.

    Without the methods that Keras itself wraps on every object, its set of nodes, which it names by
    the addresses of objects, TensorFlow's lists of the same attributes, and what `compile` sets.
    """
    own = type(layer)
    return {
        name: value
        for name, value in vars(layer).items()
        if name != "_nodes"
        and not name.startswith("_self_")
        and not (name in _SET_BY_COMPILE and isinstance(layer, keras.Model))
        and getattr(getattr(value, "__wrapped__", None), "__func__", None)
        is not getattr(own, name, value)
    }


def _operations(layers: list[Any]) -> Iterator[Any]:
    """Operations between layers, and the arguments of all calls: none of them is a layer."""
    for model in layers:
        for operation in getattr(model, "operations", ()):
            if not isinstance(operation, keras.layers.Layer):
                yield [operation, vars(operation)]
            for node in operation._inbound_nodes:
                yield [node.arguments.args, node.arguments.kwargs]


def _differs_by_instance(layer: Any) -> bool:
    """A method replaced on one object, or a Lambda: what they compute is in no configuration."""
    own = type(layer)
    return own.__name__ == "Lambda" or any(
        callable(value) and inspect.isroutine(getattr(own, name, None))
        for name, value in _attributes(layer).items()
    )


def _is_foreign(value: Any) -> bool:
    """A function, or an object of a class, of the user's own that is not declared reusable."""
    if value is None or isinstance(value, _HARMLESS):
        return False
    owner = value if isinstance(value, type) or inspect.isroutine(value) else type(value)
    if isinstance(owner, type) and vars(owner).get("_tfbatch_reusable", False):
        return False
    if _module(owner).split(".")[0] not in _TRUSTED:
        return True
    return _is_foreign(getattr(value, "__wrapped__", None))


def _module(owner: Any) -> str:
    """Where a class or a function was written; `functools.wraps` copies another's `__module__`."""
    scope = getattr(owner, "__globals__", None)
    if scope is not None:
        return str(scope.get("__name__"))
    return getattr(owner, "__module__", None) or "builtins"


def _parts(value: Any) -> Iterator[Any]:
    """The values in a mapping or a sequence, at any depth."""
    if isinstance(value, dict):
        for part in value.values():
            yield from _parts(part)
    elif isinstance(value, list | tuple | set | frozenset):
        for part in value:
            yield from _parts(part)
    elif isinstance(value, functools.partial):
        yield from _parts([value.func, value.args, value.keywords])
    else:
        yield value


def _builder(build_model: Any) -> list[Any]:
    """Source and closure, as far as they can be read."""
    try:
        source = inspect.getsource(build_model)
        closure = inspect.getclosurevars(build_model)
    except (OSError, TypeError, ValueError):  # sent to a worker by value, or no function
        return [getattr(build_model, "__qualname__", type(build_model).__qualname__)]
    return [source, _plain(dict(closure.nonlocals)), _plain(dict(closure.globals))]


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """What can be compared by value; arrays and tensors by their content."""
    return {key: part for key, value in values.items() if (part := _value(value)) is not None}


def _value(value: Any) -> Any:
    # Plain values first: they are nearly all, and TensorFlow's question of a tensor is slow.
    if isinstance(value, (*_HARMLESS, np.dtype)):
        return repr(value)
    if isinstance(value, tf.Variable | keras.Variable):
        return None
    if isinstance(value, np.ndarray | np.generic) or (
        hasattr(value, "numpy") and tf.is_tensor(value)
    ):
        array = np.asarray(value)
        content = repr(array.tolist()) if array.dtype == object else array.tobytes()
        data = content.encode() if isinstance(content, str) else content
        return [str(array.dtype), list(array.shape), hashlib.sha256(data).hexdigest()]
    if isinstance(value, list | tuple):
        return [type(value).__name__, *map(_value, value)]
    if isinstance(value, set | frozenset):
        return sorted(json.dumps(_value(part)) for part in value)
    if isinstance(value, dict):
        return {repr(key): _value(part) for key, part in value.items()}
    return _described(value)


def _described(value: Any) -> Any:
    """A function or class by its name, an object by its class and configuration."""
    if value is None:
        return None
    if isinstance(value, type) or inspect.isroutine(value):
        return f"{_module(value)}.{getattr(value, '__qualname__', '')}"
    if isinstance(value, functools.partial):
        return _value([value.func, value.args, value.keywords])
    config = None
    if hasattr(value, "get_config") and not isinstance(value, keras.Operation):
        with contextlib.suppress(TypeError, ValueError, NotImplementedError):
            config = keras.saving.serialize_keras_object(value)
    return [_described(type(value)), config]


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()
