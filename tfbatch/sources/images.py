"""A folder of image files, one folder for each class."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfbatch.errors import DataError, InputError
from tfbatch.recipes import Example
from tfbatch.sources._images import SAMPLE, check_split, common_size, random_order
from tfbatch.sources._source import Description, SourceBase

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
"""Those of `keras.utils.image_dataset_from_directory`; other files are left out."""

Files = list[tuple[Path, int]]
"""Each image with its class index."""


class Source(SourceBase):
    """FOLDER/CLASS/*.png, or FOLDER/SPLIT/CLASS/*.png with a split `train`.

    As `keras.utils.image_dataset_from_directory` has it: the classes are the folders' names in
    alphabetical order, a class may have folders within, hidden files and other suffixes are left
    out. Without splits all images are in the split `train`.

    Attributes:
        folder: The folder; a relative path is looked for in the data folder, if one is given.
    """

    folder: Path

    @classmethod
    def from_text(cls, text: str, *, data_dir: Path | None) -> SourceBase:
        """`images:DIR`."""
        if not text:
            raise InputError("The source images needs a folder: images:DIR.")
        return cls(folder=_resolve(Path(text), data_dir))

    def identity(self, data_dir: Path | None) -> dict[str, Any]:
        """See SourceBase: path, size and time of change of every image."""
        folder = _resolve(self.folder, data_dir)
        digest = hashlib.sha256()
        for files in self._splits(data_dir).values():
            for path, label in files:
                status = path.stat()
                name = path.relative_to(folder).as_posix()
                digest.update(f"{name}\0{label}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        return {"files": digest.hexdigest()}

    def describe(self, data_dir: Path | None) -> Description:
        """See SourceBase. Size and channels are those of a sample of the training images."""
        splits = self._splits(data_dir)
        first = "train" if "train" in splits else next(iter(splits))
        files = splits[first]
        sample = [files[index][0] for index in random_order(first, len(files))[:SAMPLE]]
        size, channels = common_size((str(path), path.read_bytes()) for path in sample)
        return Description(
            num_classes=1 + max(label for _, label in files),
            splits={split: len(found) for split, found in splits.items()},
            size=size,
            same_size=len(sample) == sum(map(len, splits.values())),
            channels=channels,
            encoded=True,
        )

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
        for index in random_order(split, len(files))[start:]:
            path, label = files[index]
            yield str(path), {"image": path.read_bytes(), "label": label}

    def labels(self, split: str, data_dir: Path | None) -> Iterator[int]:
        """See SourceBase. No file is read."""
        files = self._files(split, data_dir)
        return (files[index][1] for index in random_order(split, len(files)))

    def _files(self, split: str, data_dir: Path | None) -> Files:
        splits = self._splits(data_dir)
        check_split(str(_resolve(self.folder, data_dir)), split, splits)
        return splits[split]

    def _splits(self, data_dir: Path | None) -> dict[str, Files]:
        """The images of each split, sorted by path; their classes are those of train."""
        folder = _resolve(self.folder, data_dir)
        inner = _folders(folder)
        has_splits = any(path.name == "train" and _folders(path) for path in inner)
        found = {path.name: _classes(path) for path in inner} if has_splits else {}
        found = found or {"train": _classes(folder)}
        names = sorted(found["train"])
        if len(names) < 2:
            raise DataError(
                f"{folder / 'train' if has_splits else folder} must have a folder of images for "
                f"each of at least 2 classes. Received: {', '.join(names) or 'none'}."
            )
        splits = {}
        for split, classes in found.items():
            for name, paths in classes.items():
                if not paths and split == "train":
                    raise DataError(
                        f"The class `{name}` has no image ({', '.join(SUFFIXES)}) in {folder}. "
                        "Delete its folder, or put its images there."
                    )
            unknown = sorted(set(classes) - set(names))
            if unknown:
                raise DataError(
                    f"{folder / split} has classes that {folder / 'train'} has not: "
                    f"{', '.join(unknown)}. Each split has a folder for each class."
                )
            splits[split] = [(p, names.index(n)) for n in sorted(classes) for p in classes[n]]
        return {split: files for split, files in splits.items() if files}


def _resolve(path: Path, data_dir: Path | None) -> Path:
    """The absolute path: beneath the data folder where it is there, else as it is."""
    path = path.expanduser()
    if data_dir and (data_dir.expanduser() / path).is_dir():
        path = data_dir.expanduser() / path
    return path.resolve()


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder that are not hidden, sorted."""
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise DataError(
            f"The folder of images {folder} cannot be read: {error.strerror}. Give one that holds "
            "a folder of images for each class."
        ) from error


def _classes(folder: Path) -> dict[str, list[Path]]:
    """The images of each class."""
    return {
        inner.name: sorted(
            path
            for path in inner.rglob("*")
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
        )
        for inner in _folders(folder)
    }
