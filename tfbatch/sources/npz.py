"""Arrays in a NumPy .npz file: images and class indices, as in Keras's mnist.npz."""

from __future__ import annotations

import functools
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfbatch.dataset_info.recipe import Example
from tfbatch.errors import DataError, InputError
from tfbatch.sources._source import (
    SPLIT_NAMES,
    Description,
    SourceBase,
    check_split,
    random_order,
    resolve,
)

_NAMES = (("x_{}", "y_{}"), ("{}_images", "{}_labels"), ("{}_x", "{}_y"))
_WHOLE = (("x", "y"), ("images", "labels"))
_LAYOUT = (
    "It must hold images and class indices by the names x and y, or x_train and y_train and, if "
    "there are such splits, x_val, y_val, x_test, y_test (also train_images, train_labels)."
)


class Source(SourceBase):
    """The splits of an .npz file.

    Images are uint8 [examples, height, width] or [examples, height, width, channels]; labels are
    class indices from 0, integers [examples] or [examples, 1]. Other pixels are not converted:
    whether 1.0 is white or almost black cannot be told from them. A split is held in memory while
    its records are written.

    Attributes:
        path: The file; a relative path is looked for in the data folder, if one is given.
    """

    path: Path

    @classmethod
    def from_text(cls, text: str, *, data_dir: Path | None) -> SourceBase:
        """`npz:PATH`."""
        if not text:
            raise InputError("The source npz needs a file: npz:PATH.")
        return cls(path=resolve(Path(text), data_dir))

    @classmethod
    def is_there(cls, text: str, *, data_dir: Path | None) -> bool:
        """See SourceBase."""
        # pathlib's own raises for a name that is too long.
        return os.path.exists(resolve(Path(text), data_dir))  # noqa: PTH110

    def identity(self, data_dir: Path | None) -> dict[str, object]:
        """See SourceBase: name, size and checksum of each array, as the file lists them."""
        path = resolve(self.path, data_dir)
        with _open(path) as archive:
            return {"arrays": {i.filename: [i.file_size, i.CRC] for i in archive.infolist()}}

    def describe(self, data_dir: Path | None) -> Description:
        """See SourceBase."""
        path = resolve(self.path, data_dir)
        splits = _splits(path)
        if not splits:
            raise DataError(f"{path} holds {_listed(_headers(path))}. {_LAYOUT}")
        shapes = {split: _image_shape(path, x) for split, (x, _) in splits.items()}
        if len({shape[1:] for shape in shapes.values()}) > 1:
            received = ", ".join(f"{splits[s][0]} {shape}" for s, shape in shapes.items())
            raise DataError(f"{path} must hold images of one shape. Received: {received}.")
        labels = [_labels(path, y, shapes[s][0]) for s, (_, y) in splits.items()]
        classes = max(int(array.max(initial=0)) for array in labels) + 1
        if classes < 2:
            raise DataError(f"{path} must hold at least 2 classes. Received: every label is 0.")
        _, height, width, channels = next(iter(shapes.values()))
        return Description(
            num_classes=classes,
            splits={split: shape[0] for split, shape in shapes.items()},
            size=(height, width),
            channels=channels,
            encoded=False,
        )

    def num_examples(self, split: str, data_dir: Path | None) -> int:
        """See SourceBase."""
        path = resolve(self.path, data_dir)
        return int(_image_shape(path, self._arrays(split, path)[0])[0])

    def examples(self, split: str, data_dir: Path | None) -> Iterator[tuple[str, Example]]:
        """See SourceBase."""
        path = resolve(self.path, data_dir)
        names = self._arrays(split, path)
        count, *shape = _image_shape(path, names[0])
        labels = _labels(path, names[1], count)
        images = _read(path, names[0]).reshape(count, *shape)
        for index in random_order(split, count):
            yield f"{names[0]}[{index}]", {"image": images[index], "label": int(labels[index])}

    def labels(self, split: str, data_dir: Path | None) -> Iterator[int]:
        """See SourceBase. The images are not read."""
        path = resolve(self.path, data_dir)
        names = self._arrays(split, path)
        count = _image_shape(path, names[0])[0]
        labels = _labels(path, names[1], count)
        return (int(labels[index]) for index in random_order(split, count))

    def _arrays(self, split: str, path: Path) -> tuple[str, str]:
        splits = _splits(path)
        check_split(str(path), split, splits)
        return splits[split]


def _open(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}.") from error
    except PermissionError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} is not an .npz file: {error}. Write one with "
            "numpy.savez(PATH, x_train=..., y_train=...)."
        ) from error


def _splits(path: Path) -> dict[str, tuple[str, str]]:
    """The names of images and labels of each split that the file holds."""
    held = set(_headers(path))
    found: dict[str, tuple[str, str]] = {}
    for split, names in SPLIT_NAMES.items():
        for x, y in _NAMES:
            for name in names:
                if {x.format(name), y.format(name)} <= held:
                    found.setdefault(split, (x.format(name), y.format(name)))
    for pair in _WHOLE:
        if set(pair) <= held:
            found.setdefault("train", pair)
    return found


def _headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and kind of every array, without reading its content."""
    with _open(path) as archive:
        stamp = tuple((i.filename, i.CRC) for i in archive.infolist())
    return _read_headers(path, stamp)


@functools.lru_cache(maxsize=8)
def _read_headers(path: Path, stamp: Any) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    del stamp  # a changed file is read again
    headers = {}
    with _open(path) as archive:
        for name in archive.namelist():
            if not name.endswith(".npy"):
                continue
            try:
                with archive.open(name) as file:
                    version = np.lib.format.read_magic(file)
                    read = np.lib.format.read_array_header_2_0
                    if version == (1, 0):
                        read = np.lib.format.read_array_header_1_0
                    shape, _, kind = read(file)
            except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                raise DataError(f"{path}: {name} cannot be read: {error}") from error
            headers[name.removesuffix(".npy")] = (shape, kind)
    return headers


def _read(path: Path, name: str) -> npt.NDArray[Any]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return np.asarray(arrays[name])
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: {name} cannot be read: {error}") from error


def _image_shape(path: Path, name: str) -> tuple[int, int, int, Any]:
    """[examples, height, width, channels] of an array of images, which it checks."""
    shape, kind = _headers(path)[name]
    where = f"{path}: {name}"
    if kind.hasobject:
        raise DataError(
            f"{where} is a pickled array of Python objects, which is not read: it could run any "
            f"code, and its images may differ in size. Save images of one size as one uint8 array "
            "of [examples, height, width, channels], or as files in folders (images:DIR)."
        )
    if kind != np.uint8:
        raise DataError(
            f"{where} must hold uint8 pixels. Received: {kind}. Save "
            f"{_in_8_bits(path, name, kind)}; or give the arrays themselves, which keeps every "
            "value: tfbatch.find_batch_size(model, (x, y))."
        )
    if len(shape) == 3:
        shape = (*shape, 1)
    if len(shape) != 4 or shape[3] not in (1, 3, 4) or 0 in shape:
        hint = ""
        if len(shape) == 4 and shape[1] in (1, 3, 4):
            hint = f" Channels come last: save {name}.transpose(0, 2, 3, 1)."
        raise DataError(
            f"{where} must have the shape [examples, height, width] or [examples, height, width, "
            f"channels] with 1, 3 or 4 channels. Received: {list(shape)}.{hint}"
        )
    return shape


def _in_8_bits(path: Path, name: str, kind: np.dtype[Any]) -> str:
    """The expression that makes uint8 pixels of an array."""
    if kind.kind == "f":
        return f"numpy.round(255 * {name}).astype(numpy.uint8) if the values are in [0, 1]"
    if kind.kind not in "iu":
        return f"{name}.astype(numpy.uint8)"
    values = _read(path, name)
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if low >= 0 and high <= 255:
        return f"{name}.astype(numpy.uint8), which preserves values up to {high}"
    return (
        f"numpy.interp({name}, [{low}, {high}], [0, 255]).round().astype(numpy.uint8), which "
        f"maps the values {low} to {high} to 256 levels (use the same numbers for all splits)"
    )


def _labels(path: Path, name: str, count: int) -> npt.NDArray[np.int64]:
    """Class indices [examples], which it checks."""
    shape, kind = _headers(path)[name]
    where = f"{path}: {name}"
    if kind.kind not in "iu":
        raise DataError(f"{where} must hold class indices: integers from 0. Received: {kind}.")
    if shape not in ((count,), (count, 1)):
        hint = ""
        if len(shape) == 2 and shape[0] == count:
            hint = f" If each row marks its class with a 1, save {name}.argmax(axis=1)."
        raise DataError(
            f"{where} must have one label for each of the {count} images. Received: the shape "
            f"{list(shape)}.{hint}"
        )
    labels = _read(path, name).reshape(-1).astype(np.int64)
    if labels.min() < 0:
        raise DataError(f"{where} must hold class indices from 0. Received: {labels.min()}.")
    return labels


def _listed(headers: dict[str, Any]) -> str:
    return "the arrays " + ", ".join(sorted(headers)) if headers else "no array"
