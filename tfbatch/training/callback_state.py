"""What a user's callbacks have counted and kept, carried from one part of a training to the next.

Each part of a training is a `fit` of its own, maybe in another process, with callbacks that are
made anew: without this, a best score or a number of epochs would be that of the part alone.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import inspect
import io
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

_ATOMS = (type(None), bool, int, float, complex, str, bytes, bytearray)
_MAPPINGS = (dict, collections.OrderedDict, collections.Counter)
_COLLECTIONS = (list, tuple, set, frozenset, collections.deque)
_DEEPEST = 20
"""Collections within one another; what is nested deeper, or holds itself, is not carried."""
_KERAS_OWN = frozenset({"_model", "_params", "params", "validation_data"})
"""What Keras gives to a callback in each `fit`."""
_OF_KERAS = {
    "EarlyStopping": {"wait", "best", "best_epoch"},
    "ModelCheckpoint": {"best", "_batches_seen_since_last_saving"},
}
"""What is carried of Keras's callbacks; the others begin anew: they open files and profilers."""
_MADE_BY = {
    "numpy": ("_reconstruct", "_frombuffer", "scalar", "ndarray", "dtype"),
    "collections": ("deque", "OrderedDict", "Counter"),
    "builtins": ("set", "frozenset", "complex", "bytearray"),
    "_codecs": ("encode",),
}
"""What pickle calls to make plain values, by the first name of the module."""


def is_plain(value: object, depth: int = 0) -> bool:
    """Whether a value is a number, a text, an array, or a collection of such things.

    Nothing else is carried: a model, a variable or an open file belongs to its process.
    """
    if isinstance(value, np.ndarray | np.generic):
        known = type(value) in (np.ndarray, value.dtype.type)
        return known and value.dtype.kind in "biufcSUmM" and _is_of_numpy(value.dtype)
    if depth >= _DEEPEST:
        return False
    if type(value) in _MAPPINGS:
        pairs: Any = value
        return all(is_plain(one, depth + 1) for pair in pairs.items() for one in pair)
    if type(value) in _COLLECTIONS:
        ones: Any = value
        return all(is_plain(one, depth + 1) for one in ones)
    return type(value) in _ATOMS


def _is_of_numpy(dtype: np.dtype[Any]) -> bool:
    return dtype.type.__module__ == "numpy"  # bfloat16 is not


def begin_anew(callbacks: Sequence[keras.callbacks.Callback]) -> list[str]:
    """Attributes of a user's own callbacks that are not carried, as `Class.attribute`.

    Functions and classes are left out: they keep nothing. Of Keras's own callbacks it is known what
    they need.

    Args:
        callbacks: As they are before a training.
    """
    return [
        f"{type(callback).__name__}.{name}"
        for callback in callbacks
        if not _is_of_keras(callback)
        for name, value in _own(callback)
        if not (inspect.isroutine(value) or inspect.isclass(value) or is_plain(value))
    ]


class CarryOn(keras.callbacks.Callback):  # type: ignore[misc]
    """Gives callbacks what those of the part before had kept, and says what these have.

    It must come behind them: a callback may set its counters to 0 when a training begins. What is
    as it was then is not kept: options and data are those of each part's own callback.

    Args:
        callbacks: Of this part.
        before: What `kept` said of those of the part before; None for the first part.
    """

    def __init__(self, callbacks: Sequence[keras.callbacks.Callback], before: bytes | None):
        super().__init__()
        self._callbacks = list(callbacks)
        self._before: dict[str, dict[str, bytes]] = _load(before) if before else {}
        self._digests: dict[str, dict[str, bytes]] = {}

    def on_train_begin(self, logs: Any = None) -> None:
        """Sets the attributes of callbacks that have one of their class in the part before."""
        named = list(_named(self._callbacks))
        self._digests = {
            name: {attribute: _digest(value) for attribute, value in _plain(callback)}
            for name, callback in named
        }
        for name, callback in named:
            for attribute, value in self._before.get(name, {}).items():
                # An attribute that refuses is the callback's own affair, and begins anew.
                with contextlib.suppress(Exception):
                    setattr(callback, attribute, _load(value))

    def kept(self) -> bytes:
        """The plain attributes that have changed, now or in a part before."""
        found = {}
        for name, callback in _named(self._callbacks):
            start, before = self._digests.get(name, {}), self._before.get(name, {})
            found[name] = {
                attribute: pickle.dumps(value)
                for attribute, value in _plain(callback)
                if attribute in before or _digest(value) != start.get(attribute)
            }
        return pickle.dumps(found)


class _PlainUnpickler(pickle.Unpickler):
    """Makes plain values alone: a run folder may have come from elsewhere."""

    def find_class(self, module: str, name: str) -> Any:
        """See pickle.Unpickler."""
        if name in _MADE_BY.get(module.partition(".")[0], ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no plain value")


def _load(content: bytes) -> Any:
    return _PlainUnpickler(io.BytesIO(content)).load()


def _digest(value: object) -> bytes:
    """Of a plain value, without a copy of its arrays: a callback may hold all of a user's data."""
    arrays: list[pickle.PickleBuffer] = []
    digest = hashlib.sha256(pickle.dumps(value, protocol=5, buffer_callback=arrays.append))
    for array in arrays:
        digest.update(array.raw())
    return digest.digest()


def _plain(callback: keras.callbacks.Callback) -> Iterator[tuple[str, object]]:
    return ((name, value) for name, value in _own(callback) if is_plain(value))


def _own(callback: keras.callbacks.Callback) -> Iterator[tuple[str, object]]:
    """The attributes that may be carried."""
    allowed = _OF_KERAS.get(type(callback).__name__, set()) if _is_of_keras(callback) else None
    for name, value in vars(callback).items():
        if name not in _KERAS_OWN and (allowed is None or name in allowed):
            yield name, value


def _is_of_keras(callback: keras.callbacks.Callback) -> bool:
    return type(callback).__module__.partition(".")[0] == "keras"


def _named(
    callbacks: Sequence[keras.callbacks.Callback],
) -> Iterator[tuple[str, keras.callbacks.Callback]]:
    """Each with a name of its own: its class, and the how manyth of it that it is."""
    seen = collections.Counter[str]()
    for callback in callbacks:
        kind = type(callback).__qualname__
        seen[kind] += 1
        yield f"{kind} {seen[kind]}", callback
