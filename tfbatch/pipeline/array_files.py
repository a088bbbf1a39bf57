"""The files of a folder of stored arrays: what they hold, how they are written and read.

FOLDER/stored.json             what is where: a `Stored`
FOLDER/content.json            what a look at the examples has shown: a `DataContent`
FOLDER/examples.txt            a hash of the data that is the same in any order of the examples
FOLDER/SPLIT-LEAF.bin          the values of one leaf, one example after the other
FOLDER/SPLIT-LEAF-lengths.bin  int64 [examples]: lengths, where examples differ in length
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from tfbatch.dataset_info.content import DataContent
from tfbatch.dataset_info.own_data import STORED
from tfbatch.errors import DataError, InputError
from tfbatch.pipeline.classes import ClassIndices, ClassReader, Expected
from tfbatch.pipeline.elements import Chunk, Template, check_texts
from tfbatch.schema import Strict

if TYPE_CHECKING:
    import tensorflow as tf

CONTENT = "content.json"
EXAMPLES = "examples.txt"
_CHUNK_EXAMPLES = 65_536


class Leaf(Strict):
    """One array of all examples of a split.

    Attributes:
        dtype: NumPy's name of the type of a value; "string" for byte strings of any length.
        shape: Shape of one example; with a variable length, without its first dimension.
        variable: Whether examples differ in length.
    """

    dtype: str
    shape: tuple[int, ...]
    variable: bool = False


class Stored(Strict):
    """What a folder of stored arrays holds.

    Attributes:
        format_version: Version of this form.
        template: The structure of an element; see tfbatch.pipeline.elements.
        leaves: Its leaves, in order.
        splits: Number of examples of each split.
        num_classes: Number of classes, or None where the targets are no class indices.
        class_counts: Training examples of each class.
        one_hot: Whether targets are one-hot rows of those classes.
        notes: What a user should know.
    """

    format_version: Literal[1] = 1
    template: list[Template]
    leaves: tuple[Leaf, ...]
    splits: dict[str, int]
    num_classes: int | None = None
    class_counts: tuple[int, ...] = ()
    one_hot: bool = False
    notes: tuple[str, ...] = ()


def leaf_files(folder: Path, split: str, number: int) -> tuple[Path, Path]:
    """The files of one leaf: its values, and the lengths of its examples."""
    return folder / f"{split}-{number}.bin", folder / f"{split}-{number}-lengths.bin"


def read_stored(folder: Path) -> Stored:
    """Reads a folder's description.

    Raises:
        DataError: It is absent or cannot be read.
    """
    try:
        return Stored.model_validate_json((folder / STORED).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} holds no stored data that can be read: {error}") from error


def read_content(folder: Path) -> DataContent:
    """Reads the findings of a look at the examples; none for data of an earlier version.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        return DataContent.model_validate_json((folder / CONTENT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return DataContent()
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / CONTENT} cannot be read: {error}") from error


def read_leaf(
    folder: Path, split: str, number: int, leaf: Leaf, count: int
) -> tf.types.experimental.TensorLike:
    """One leaf of all examples of a split, mapped into memory.

    Returns:
        An array [examples, ...]; where examples differ in length, and for text, the values of all
        of them and their lengths, int64 [examples].

    Raises:
        DataError: A file is absent, or does not have the size that it must have.
    """
    values, lengths_file = leaf_files(folder, split, number)
    text = leaf.dtype == "string"
    inner = () if text else leaf.shape
    lengths, rows = None, count
    try:
        if leaf.variable or text:
            lengths = np.fromfile(lengths_file, np.int64)
            rows = int(lengths.sum())
        array = _map(values, np.dtype(np.uint8 if text else leaf.dtype), (rows, *inner))
        if lengths is not None and len(lengths) != count:
            raise ValueError(f"{lengths_file} holds {len(lengths)} lengths of {count}")
    except (OSError, ValueError) as error:
        raise DataError(
            f"The stored data in {folder} is damaged: {error}. Delete the folder; the same call "
            "stores the data again."
        ) from error
    return array if lengths is None else (array, lengths)


def _map(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Maps a file copy-on-write: TensorFlow then uses its pages without a copy."""
    size, expected = path.stat().st_size, dtype.itemsize * math.prod(shape)
    if size != expected:
        raise ValueError(f"{path} has {size} bytes, not {expected}")
    if not size:
        return np.zeros(shape, dtype)
    return np.asarray(np.memmap(path, dtype, "c", shape=shape))


def read_classes(
    folder: Path, stored: Stored, split: str, expected: Expected
) -> ClassIndices | None:
    """The classes of a split's examples, or None if their targets are not classes."""
    number = stored.template[1]
    if not isinstance(number, int):  # several targets
        return None
    leaf = stored.leaves[number]
    if leaf.dtype == "string" or leaf.variable or len(leaf.shape) > 1:
        return None
    targets = read_leaf(folder, split, number, leaf, stored.splits[split])
    reader = ClassReader(expected)
    for low in range(0, len(targets), _CHUNK_EXAMPLES):
        reader.add(targets[low : low + _CHUNK_EXAMPLES])
    return reader.found()


def append_all(
    folder: Path,
    split: str,
    chunks: Iterator[Chunk],
    heartbeat: Callable[[int], None],
    *,
    names: Sequence[str],
) -> tuple[tuple[Leaf, ...], int]:
    """Writes every chunk; returns what the leaves are and how many examples there were.

    Args:
        folder: Where to write.
        split: Name of the split.
        chunks: Each leaf of some examples.
        heartbeat: Called at intervals with the number of examples.
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
                f"{self._where} holds text that is not Unicode: {error}. Fix it with "
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
