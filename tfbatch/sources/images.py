"""A folder of image files, one folder for each class."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pydantic
from pydantic import Field

from tfbatch.dataset_info.recipe import SPLITS, Example, PixelRange
from tfbatch.encoded_images import has_alpha, listed, shown
from tfbatch.errors import DataError, InputError, did_you_mean
from tfbatch.schema import validate
from tfbatch.sources._layout import Layout, Role, read_layout
from tfbatch.sources._source import (
    SAMPLE,
    Description,
    SourceBase,
    check_split,
    common_size,
    random_order,
    resolve,
)

Files = list[tuple[Path, int]]
"""Each image with its class index."""

_OPTION = re.compile(r",\s*(\w+)=")
_OPTIONS = (*SPLITS, "splits", "pixel_range")


class Source(SourceBase):
    """FOLDER/CLASS/*.png, or FOLDER/SPLIT/CLASS/*.png.

    As `keras.utils.image_dataset_from_directory` has it: the classes are the folders' names in
    alphabetical order, a class may have folders within, hidden files and other suffixes are left
    out. Folders with usual names of splits (`train`, `Training`, `val`, `TEST`, ...) that hold
    folders of classes are splits; without any all images are in the split `train`.

    Attributes:
        folder: The folder; a relative path is looked for in the data folder, if one is given.
        splits: The folder of each split, such as {"train": "Training", "test": "Testing"}, where
            the names do not say it; "none" where every folder is a class.
        pixel_range: For a recipe that is derived: its `features.image.pixel_range`.
    """

    folder: Path
    splits: dict[Role, str] | Literal["none"] | None = None
    pixel_range: PixelRange | None = Field(default=None, exclude=True)

    @pydantic.model_serializer(mode="wrap")
    def _without_defaults(self, serialize: Any) -> dict[str, Any]:
        """Records of folders without options keep their hash."""
        return {key: value for key, value in serialize(self).items() if value is not None}

    @classmethod
    def from_text(cls, text: str, *, data_dir: Path | None) -> SourceBase:
        """`images:DIR`, or `images:DIR,train=FOLDER,test=FOLDER,pixel_range=0:4095`."""
        if not text:
            raise InputError("The source images needs a folder: images:DIR.")
        folder, options = _parse(text, data_dir)
        splits: Any = {
            key: options[key] for key in ("train", "validation", "test") if key in options
        }
        if "splits" in options:
            if splits or options["splits"] != "none":
                raise InputError(
                    "`splits` must be `none`, without any folder for a split. Received: "
                    f"images:{text}."
                )
            splits = "none"
        arguments = {"folder": resolve(Path(folder), data_dir), "splits": splits or None}
        if "pixel_range" in options:
            arguments["pixel_range"] = tuple(options["pixel_range"].split(":"))
        try:
            str(arguments["folder"]).encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"The path of the folder must be UTF-8: {shown(str(arguments['folder']))} is not. "
                "Rename it, or give a link to it."
            ) from error
        return validate(cls, arguments, where=f"images:{text}")

    @classmethod
    def is_there(cls, text: str, *, data_dir: Path | None) -> bool:
        """See SourceBase."""
        # pathlib's own raises for a name that is too long.
        return os.path.isdir(resolve(Path(text), data_dir))  # noqa: PTH112

    def identity(self, data_dir: Path | None) -> dict[str, object]:
        """See SourceBase: path, size and time of change of every image."""
        folder = resolve(self.folder, data_dir)
        digest = hashlib.sha256()
        for files in self._splits(data_dir).values():
            for path, label in files:
                status = _status_of(path)
                name = path.relative_to(folder).as_posix()
                line = f"{name}\0{label}\0{status.st_size}\0{status.st_mtime_ns}\n"
                digest.update(line.encode("utf-8", "surrogateescape"))
        return {"files": digest.hexdigest()}

    def describe(self, data_dir: Path | None) -> Description:
        """See SourceBase. Size and channels are those of a sample of the training images."""
        layout = self._layout(data_dir)
        if layout.unclear:
            raise InputError(layout.unclear)
        splits = _files_of(layout)
        sample = _sample(layout.roles.get("train", "train"), splits)
        named = ((str(path), _bytes_of(path, sample)) for path in sample)
        size, channels = common_size(named, pixel_range=self.pixel_range)
        return Description(
            num_classes=1 + max(label for _, label in splits[layout.roles.get("train", "train")]),
            splits={split: len(found) for split, found in splits.items()},
            roles={role: split for role, split in layout.roles.items() if split in splits},
            size=size,
            same_size=len(sample) == sum(map(len, splits.values())),
            channels=channels,
            encoded=True,
            pixel_range=self.pixel_range,
        )

    def notes(self, data_dir: Path | None) -> tuple[str, ...]:
        """See SourceBase: which folder is which split, what is left out, transparency."""
        layout = self._layout(data_dir)
        splits = _files_of(layout)
        sample = _sample(layout.roles.get("train", "train"), splits)
        alpha = sum(map(has_alpha, sample))
        if not alpha:
            return layout.notes
        note = f"Alpha channels are dropped, as Keras does: {alpha} of {len(sample)} images looked "
        return (*layout.notes, f"{note}at have one.")

    def num_examples(self, split: str, data_dir: Path | None) -> int:
        """See SourceBase."""
        return len(self._files(split, data_dir))

    def examples(self, split: str, data_dir: Path | None) -> Iterator[tuple[str, Example]]:
        """See SourceBase. The key of an example is the path of its file."""
        return self.examples_from(0, split, data_dir)

    def examples_from(
        self, start: int, split: str, data_dir: Path | None
    ) -> Iterator[tuple[str, Example]]:
        """See SourceBase. Files before `start` are not read."""
        files = self._files(split, data_dir)
        every = [path for path, _ in files]
        for index in random_order(split, len(files))[start:]:
            path, label = files[index]
            yield str(path), {"image": _bytes_of(path, every), "label": label}

    def labels(self, split: str, data_dir: Path | None) -> Iterator[int]:
        """See SourceBase. No file is read."""
        files = self._files(split, data_dir)
        return (files[index][1] for index in random_order(split, len(files)))

    def _files(self, split: str, data_dir: Path | None) -> Files:
        splits = self._splits(data_dir)
        check_split(str(resolve(self.folder, data_dir)), split, splits)
        return splits[split]

    def _splits(self, data_dir: Path | None) -> dict[str, Files]:
        layout = self._layout(data_dir)
        if layout.unclear and not layout.splits:
            raise InputError(layout.unclear)
        return _files_of(layout)

    def _layout(self, data_dir: Path | None) -> Layout:
        return read_layout(resolve(self.folder, data_dir), self.splits)


def _files_of(layout: Layout) -> dict[str, Files]:
    """The images of each split, sorted by path; their classes are those of train."""
    classes = sorted(layout.splits[layout.roles.get("train", "train")])
    labels = {name: label for label, name in enumerate(classes)}
    splits = {
        split: [(path, labels[name]) for name in sorted(held) for path in held[name]]
        for split, held in layout.splits.items()
    }
    return {split: files for split, files in splits.items() if files}


def _sample(split: str, splits: dict[str, Files]) -> list[Path]:
    """Images that are looked at to describe all."""
    files = splits[split]
    return [files[index][0] for index in random_order(split, len(files))[:SAMPLE]]


def _bytes_of(path: Path, every: list[Path]) -> bytes:
    """A file's bytes.

    Raises:
        DataError: It may not be read; names all of `every` for which it is so.
    """
    try:
        return path.read_bytes()
    except PermissionError as error:
        denied = [str(each) for each in every if each == path or not os.access(each, os.R_OK)]
        raise DataError(
            f"{len(denied)} of {len(every)} images cannot be read (permission denied): "
            f"{listed(denied)}. Change their permissions, or remove them from the data."
        ) from error


def _status_of(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise DataError(
            f"{shown(str(path))} cannot be read: {error.strerror}. Try again when nothing is "
            "changing the folder."
        ) from error


def _parse(text: str, data_dir: Path | None) -> tuple[str, dict[str, str]]:
    """The folder and the options of DIR,KEY=VALUE,...; a folder may have such a name itself."""
    starts = [match.start() for match in _OPTION.finditer(text)]
    ends = [len(text), *reversed(starts)]
    end = next((e for e in ends if Source.is_there(text[:e], data_dir=data_dir)), None)
    if end is None:
        end = starts[0] if starts else len(text)
    options: dict[str, str] = {}
    for part in filter(None, text[end:].split(",")):
        key, _, value = (piece.strip() for piece in part.partition("="))
        if key not in _OPTIONS or key in options or not value:
            raise InputError(
                f"After the folder, images: takes {', '.join(f'{o}=' for o in _OPTIONS)}, each "
                f"once.{did_you_mean(key, _OPTIONS)} Received: {part!r} in images:{text}."
            )
        options[key] = value
    return text[:end], options
