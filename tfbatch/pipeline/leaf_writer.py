"""Appends chunks of examples to the files of a folder of stored arrays."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfbatch.errors import InputError
from tfbatch.pipeline.stored_format import Leaf, leaf_files


def check_texts(array: npt.NDArray[Any], where: str, *, first: int = 0) -> None:
    """Refuses an array of Python objects that are not all texts.

    Args:
        array: The objects, with the examples in the first dimension.
        where: What it is called in messages.
        first: Number of the first example.

    Raises:
        InputError: Names the first example that holds another object.
    """
    if all(isinstance(value, str | bytes) for value in array.ravel()):
        return
    for row, value in enumerate(array if array.ndim == 1 else array.reshape(len(array), -1)):
        values = [value] if array.ndim == 1 else list(value)
        odd = [v for v in values if not isinstance(v, str | bytes)]
        if not odd:
            continue
        if row == 0 and not any(isinstance(v, str | bytes) for v in array.ravel()[:1000]):
            raise InputError(
                f"{where} is an array of Python objects ({type(odd[0]).__name__}), which "
                "TensorFlow has no type for. Give an array of numbers, such as "
                'x.astype("float32"), or of text; for a DataFrame of several types a dict of its '
                "columns, dict(frame)."
            )
        columns = (
            "" if array.ndim == 1 else " Give columns of several types as a dict, dict(frame)."
        )
        raise InputError(
            f"{where} holds {odd[0]!r} ({type(odd[0]).__name__}) among texts, in example "
            f"{first + row} counted from 0. Texts must be str or bytes: fill what is missing, such "
            f'as column.fillna(""), and turn numbers into text with .astype(str).{columns}'
        )


def append_all(
    folder: Path,
    split: str,
    chunks: Iterator[list[Any]],
    heartbeat: Callable[[int], None],
    *,
    names: Sequence[str],
) -> tuple[tuple[Leaf, ...], int]:
    """Writes every chunk; returns what the leaves are and how many examples there were.

    Args:
        folder: Where to write.
        split: Name of the split.
        chunks: Each leaf of some examples.
        heartbeat: Told the number of examples now and then.
        names: What each leaf is called in messages.

    Raises:
        InputError: Values that cannot be stored, or that change their type or shape.
    """
    writers: list[_LeafWriter] = []
    count = 0
    with contextlib.ExitStack() as stack:
        for chunk in chunks:
            if not writers:
                writers = [
                    stack.enter_context(_LeafWriter(folder, split, number, name))
                    for number, name in enumerate(names)
                ]
            for writer, rows in zip(writers, chunk, strict=True):
                writer.append(rows)
            count += len(chunk[0])
            heartbeat(count)
        leaves = tuple(writer.leaf() for writer in writers)
    return leaves, count


class _LeafWriter:
    """Appends the rows of one leaf of one split; only at the end is it known if lengths differ."""

    def __init__(self, folder: Path, split: str, number: int, name: str):
        values, lengths = leaf_files(folder, split, number)
        self._where = f"Your `{split}` data: {name}"
        self._count = 0
        self._values, self._lengths = values.open("wb"), lengths.open("wb")
        self._lengths_file = lengths
        self._dtype: str | None = None
        self._shapes: set[tuple[int, ...]] = set()
        self._variable = False

    def __enter__(self) -> _LeafWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._values.close()
        self._lengths.close()
        if self._dtype != "string" and not self._variable:
            self._lengths_file.unlink()

    def append(self, rows: Any) -> None:
        whole = isinstance(rows, np.ndarray)
        for array in [rows] if whole else rows:
            self._append(np.asarray(array), whole=whole)
        scalar = all(shape == () for shape in self._shapes)
        self._variable |= not scalar and (not whole or len(self._shapes) > 1)

    def _append(self, array: npt.NDArray[Any], *, whole: bool) -> None:
        shape = array.shape[1:] if whole else array.shape
        if array.dtype.kind in "OSU":
            self._check("string", shape)
            if shape:
                raise InputError(
                    f"{self._where}: text must be one string for each example. Received: "
                    f"{shape} for each. Give each column as an input of its own, such as x[:, 0]."
                )
            texts = self._encoded(np.atleast_1d(array))
            self._values.write(b"".join(texts))
            self._write_lengths([len(text) for text in texts])
            return
        if array.dtype == np.float64:  # as Keras's own `fit` does with arrays
            array = array.astype(np.float32)
        self._check(array.dtype.name, shape)
        self._values.write(np.ascontiguousarray(array).data)
        length = shape[0] if shape else 0
        self._write_lengths([length] * (len(array) if whole else 1))

    def _encoded(self, array: npt.NDArray[Any]) -> list[bytes]:
        """Texts as UTF-8."""
        if array.dtype == object:
            check_texts(array, self._where, first=self._count)
        try:
            return [t.encode() if isinstance(t, str) else bytes(t) for t in array]
        except UnicodeEncodeError as error:
            raise InputError(
                f"{self._where} holds text that is not Unicode: {error}. Mend it with "
                'text.encode("utf-8", "replace").decode().'
            ) from error

    def _check(self, dtype: str, shape: tuple[int, ...]) -> None:
        if self._dtype not in (None, dtype):
            raise InputError(f"{self._where} changes its type from {self._dtype} to {dtype}.")
        self._dtype = dtype
        self._shapes.add(shape)
        if len({s[1:] for s in self._shapes}) > 1 or len({len(s) for s in self._shapes}) > 1:
            shown = " and ".join(map(str, sorted(self._shapes)[:2]))
            raise InputError(
                f"{self._where} has examples of shapes {shown}: only their first dimension may "
                "differ. Resize images in a `map`, or describe them by a recipe, which resizes."
            )

    def _write_lengths(self, lengths: Sequence[int]) -> None:
        self._count += len(lengths)
        self._lengths.write(np.asarray(lengths, np.int64).data)

    def leaf(self) -> Leaf:
        shape = next(iter(self._shapes))
        if self._variable:
            shape = shape[1:]
        return Leaf(dtype=self._dtype or "", shape=shape, variable=self._variable)
