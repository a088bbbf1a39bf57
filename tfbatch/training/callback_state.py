"""What a user's callbacks have counted and kept, carried from one part of a training to the next.

Each part of a training is a `fit` of its own, maybe in another process, with callbacks that are
made anew: without this, a best score or a number of epochs would be that of the part alone.
"""

from __future__ import annotations

import collections
import contextlib
import io
import pickle
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

_ATOMS = (type(None), bool, int, float, complex, str, bytes)
_COLLECTIONS = (list, tuple, set, frozenset, collections.deque)
_KERAS_OWN = frozenset({"_model", "_params", "params", "validation_data"})
"""What Keras gives to a callback in each `fit`."""
_MADE_BY = {
    "numpy": ("_reconstruct", "_frombuffer", "scalar", "ndarray", "dtype"),
    "collections": ("deque", "OrderedDict"),
    "builtins": ("set", "frozenset", "complex"),
    "_codecs": ("encode",),
}
"""What pickle calls to make plain values, by the first name of the module."""


def is_plain(value: object) -> bool:
    """Whether a value is a number, a text, an array, or a collection of such things.

    Nothing else is carried: a model, a variable or an open file belongs to its process.
    """
    if isinstance(value, np.ndarray | np.generic):
        return not value.dtype.hasobject
    if type(value) in (dict, collections.OrderedDict):
        return all(is_plain(one) for pair in value.items() for one in pair)  # type: ignore[attr-defined]
    if type(value) in _COLLECTIONS:
        return all(is_plain(one) for one in value)  # type: ignore[attr-defined]
    return type(value) in _ATOMS


def begin_anew(callbacks: Sequence[keras.callbacks.Callback]) -> list[str]:
    """Attributes of a user's own callbacks that are not carried, as `Class.attribute`.

    Functions are none of them, and of Keras's callbacks it is known that they make anew what they
    need.

    Args:
        callbacks: As they are before a training.
    """
    return [
        f"{type(callback).__name__}.{name}"
        for callback in callbacks
        if not type(callback).__module__.startswith("keras.")
        for name, value in _own(callback)
        if not callable(value) and not is_plain(value)
    ]


def kept(callbacks: Sequence[keras.callbacks.Callback]) -> bytes:
    """The plain attributes of callbacks, to be written beside a training's state."""
    found = [(_kind(c), {n: v for n, v in _own(c) if is_plain(v)}) for c in callbacks]
    return pickle.dumps(found)


class CarryOn(keras.callbacks.Callback):  # type: ignore[misc]
    """Gives callbacks what those of the part before had kept, when `fit` has begun with them.

    It must come behind them: a callback may set its counters to 0 when a training begins.

    Args:
        callbacks: Of this part.
        before: What `kept` made of those of the part before; None for the first part.
    """

    def __init__(self, callbacks: Sequence[keras.callbacks.Callback], before: bytes | None):
        super().__init__()
        self._callbacks, self._before = callbacks, before

    def on_train_begin(self, logs: Any = None) -> None:
        """Sets the attributes; where the part before had another class, nothing."""
        if self._before is None:
            return
        before = _PlainUnpickler(io.BytesIO(self._before)).load()
        for callback, (kind, values) in zip(self._callbacks, before, strict=False):
            if kind == _kind(callback):
                for name, value in values.items():
                    with contextlib.suppress(AttributeError):  # one that cannot be set
                        setattr(callback, name, value)


class _PlainUnpickler(pickle.Unpickler):
    """Makes plain values alone: a run folder may have come from elsewhere."""

    def find_class(self, module: str, name: str) -> Any:
        """See pickle.Unpickler."""
        if name in _MADE_BY.get(module.partition(".")[0], ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no plain value")


def _own(callback: keras.callbacks.Callback) -> Iterator[tuple[str, object]]:
    attributes: Mapping[str, object] = vars(callback)
    return ((name, value) for name, value in attributes.items() if name not in _KERAS_OWN)


def _kind(callback: keras.callbacks.Callback) -> str:
    return f"{type(callback).__module__}.{type(callback).__qualname__}"
