"""What a folder of stored arrays holds, and how it is read.

FOLDER/stored.json             what is where: a `Stored`
FOLDER/content.json            what a look at the examples has shown: a `DataContent`
FOLDER/SPLIT-LEAF.bin          the values of one leaf, one example after the other
FOLDER/SPLIT-LEAF-lengths.bin  int64 [examples]: lengths, where examples differ in length
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tfbatch.data_content import DataContent
from tfbatch.errors import DataError
from tfbatch.own_data import STORED
from tfbatch.pipeline.classes import ClassIndices, ClassReader, Expected
from tfbatch.schema import Strict

CONTENT = "content.json"
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
        template: The structure of an element; see tfbatch.pipeline.element.
        leaves: Its leaves, in order.
        splits: Number of examples of each split.
        num_classes: Number of classes, or None where the targets are no class indices.
        class_counts: Training examples of each class.
        one_hot: Whether targets are one-hot rows of those classes.
        notes: What a user should know.
    """

    format_version: Literal[1] = 1
    template: Any
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


def read_leaf(folder: Path, split: str, number: int, leaf: Leaf, count: int) -> Any:
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
