"""Hashes of what a user gives as objects and functions: a run must not go on with other ones.

Two calls that give the same have the same hashes. What changes from one call to the next although
the same is given, such as an address, a counter or the place of a log file, is therefore left out.
"""

from __future__ import annotations

import ast
import contextlib
import enum
import functools
import hashlib
import inspect
import re
import textwrap
import tokenize
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from tfbatch.run_folder.folder import GIVEN
from tfbatch.schema import JsonObject, content_hash

if TYPE_CHECKING:
    from tfbatch.training.context import UserCode

_UNKNOWN = "unknown"
"""Stands for the text of what was typed at a prompt, or is written in C."""
_BY_NAME = ("keras", "tensorflow", "tfbatch", "numpy", "builtins")
"""Another version of these has other texts, and the same meaning."""
_NO_MATTER = {"name", "verbose", "filename", "filepath", "log_dir"}
"""Arguments that change no training."""
_WRAPPED = ("fn", "_fn", "_fn_kwargs")
"""What Keras's wrappers of functions keep, such as Huber's delta; their `get_config` may not."""
_PLACE_OR_TIME = re.compile(r"[/\\]|\d{4}")
_DEEPEST = 8
_UNREADABLE = (OSError, TypeError, SyntaxError, tokenize.TokenError)
"""What `inspect.getsource` raises for what was typed at a prompt, or is not a function."""


def code_identity(
    code: UserCode, compiled_with: str = "", asked: Sequence[JsonObject] = ()
) -> dict[str, object]:
    """What of a user's code makes two runs comparable.

    `given` holds a hash of each thing that is given as an object, and nothing of what has a name.

    Args:
        code: What the user gives as code.
        compiled_with: `hash_of` what the model's builder compiles; "" for nothing.
        asked: What it was found to ask of `hp`: a build that failed once may have hidden some.
    """
    compilation = code.compilation
    parts = {
        "loss": compilation.loss,
        "metrics": compilation.metrics,
        "callbacks": code.callbacks,
    }
    given = {name: hash_of(part) for name, part in parts.items() if not _is_named(part)}
    if compiled_with:
        given["compiled_with"] = compiled_with
    if asked:
        given["hyperparameters"] = content_hash(sorted(map(content_hash, asked)))
    return {"model_source": source_hash(code.build_model), GIVEN: given}


def source_hash(function: Callable[..., object]) -> str:
    """Changes when the text of a function changes: its old trials are another model's."""
    try:
        return content_hash(inspect.getsource(function))
    except _UNREADABLE:
        return _UNKNOWN


def hash_of(value: object, *, sources: bool = True) -> str:
    """The same for objects that are made in the same way.

    Args:
        value: A Keras object, a function, a class, or a collection of such things.
        sources: Whether functions and classes count by their text, not by their name alone. A
            process to which they travel may be unable to read it.
    """
    return content_hash(_Described(sources).of(value))


def _is_named(part: object) -> bool:
    """Whether it is not given, or by names alone."""
    if isinstance(part, list | tuple):
        return all(isinstance(one, str) for one in part)
    return part is None or isinstance(part, str)


class _Described:
    """Plain data that stands for an object.

    Args:
        sources: See `hash_of`.
    """

    def __init__(self, sources: bool):
        self._sources = sources
        self._within: list[int] = []

    def of(self, value: Any) -> object:
        """Of any object; what lies too deep, or holds itself, is its kind alone."""
        value = value.item() if isinstance(value, np.generic) else value
        if value is None or isinstance(value, bool | int | float | complex):
            return repr(value)
        if isinstance(value, str | bytes):
            return _text(value)
        if id(value) in self._within or len(self._within) >= _DEEPEST:
            return type(value).__name__
        self._within.append(id(value))
        try:
            return self._collection(value)
        finally:
            self._within.pop()

    def _collection(self, value: Any) -> object:
        variable = isinstance(value, tf.Variable | keras.Variable)
        if variable or (tf.is_tensor(value) and hasattr(value, "numpy")):
            value = np.asarray(value)
        if isinstance(value, Mapping):
            pairs = [[str(key), self.of(part)] for key, part in value.items()]
            return sorted(pairs, key=lambda pair: str(pair[0]))
        if isinstance(value, list | tuple):
            return [self.of(part) for part in value]
        if isinstance(value, set | frozenset):
            return sorted(content_hash(self.of(part)) for part in value)
        if isinstance(value, np.ndarray):
            return [str(value.dtype), list(value.shape), _numbers(value)]
        if isinstance(value, enum.Enum):
            return value.name
        return self._code(value)

    def _code(self, value: Any) -> object:
        if isinstance(value, functools.partial):
            return [self.of(value.func), self.of(value.args), self.of(value.keywords)]
        if isinstance(value, types.MethodType):
            return [self._function(value.__func__), self.of(value.__self__)]
        with contextlib.suppress(ValueError):  # a wrapper of itself
            value = inspect.unwrap(value)
        if isinstance(value, type):
            return self._kind(value)
        if inspect.isroutine(value):
            return self._function(value)
        return [self._kind(type(value)), self._arguments(value)]

    def _function(self, function: Any) -> object:
        """Its text, and the values that this one was made with."""
        cells = (cell for cell in getattr(function, "__closure__", None) or ())
        kept = [_content(cell) for cell in cells]
        made_with = [
            getattr(function, "__defaults__", None),
            getattr(function, "__kwdefaults__", None),
        ]
        return [self._kind(function), self.of(kept), self.of(made_with)]

    def _kind(self, thing: Any) -> object:
        """A function or a class: its name and, where it is the user's, its text."""
        name = getattr(thing, "__qualname__", type(thing).__qualname__)
        module = str(getattr(thing, "__module__", "") or "builtins")
        if not self._sources or module.split(".")[0] in _BY_NAME:
            return [name]
        return [name, _source(thing)]

    def _arguments(self, value: Any) -> object:
        """What an object was made with: its configuration, and attributes named as arguments."""
        names = {*_WRAPPED, *_parameters(type(value))}
        own = getattr(value, "__dict__", {})
        found = {name: own[name] for name in [*names, *(f"_{n}" for n in names)] if name in own}
        kept = {**_configuration(value), **found}
        if "seed" in kept and _draws_its_seed(value):
            del kept["seed"]
        if "min_delta" in kept and isinstance(value, keras.callbacks.Callback):
            kept["min_delta"] = abs(kept["min_delta"])  # Keras turns its sign in `fit`
        return self.of({k: v for k, v in kept.items() if k.lstrip("_") not in _NO_MATTER})


def _draws_its_seed(value: object) -> bool:
    """Whether Keras drew the seed of an initializer or a layer: another one in each process."""
    if isinstance(value, keras.initializers.Initializer):
        return getattr(value, "_init_seed", None) is None
    return isinstance(value, keras.layers.Layer)


def _text(value: str | bytes) -> str:
    """A text; a date or a path says where something is written, and when."""
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    return "(a place or a time)" if _PLACE_OR_TIME.search(value) else value


def _numbers(array: np.ndarray) -> str:
    """A hash of an array's bytes; none of objects, whose bytes are addresses."""
    if array.dtype.hasobject:
        return ""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return hashlib.sha256(flat.data).hexdigest()


def _content(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not set yet
        return None


def _parameters(kind: type) -> Iterator[str]:
    """Names of all arguments that a class and its bases take."""
    for one in kind.__mro__:
        if (made := vars(one).get("__init__")) is not None:
            with contextlib.suppress(TypeError, ValueError):  # written in C
                yield from inspect.signature(made).parameters


def _configuration(value: Any) -> dict[str, Any]:
    """What Keras writes down of a loss, a metric or a schedule."""
    if isinstance(value, keras.losses.Loss | keras.metrics.Metric):
        with contextlib.suppress(NotImplementedError, TypeError, ValueError):
            return dict(value.get_config())
    return {}


def _source(thing: Any) -> str:
    try:
        text = textwrap.dedent(inspect.getsource(thing))
    except _UNREADABLE:
        return _UNKNOWN
    return _lambda_in(text) if getattr(thing, "__name__", "") == "<lambda>" else text


def _lambda_in(text: str) -> str:
    """The lambda in the lines where it stands, which may hold a whole call with its numbers."""
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except SyntaxError:  # a part of a call
        return _UNKNOWN
    found = {ast.unparse(node) for node in nodes if isinstance(node, ast.Lambda)}
    return found.pop() if len(found) == 1 else _UNKNOWN
