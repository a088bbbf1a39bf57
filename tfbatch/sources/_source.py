"""What all sources share: the base class, the order of examples, image sizes, names of splits."""

from __future__ import annotations

import itertools
import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from tfbatch.dataset_info.recipe import Example, PixelRange
from tfbatch.encoded_images import UnreadableImageError, decodable, without_frame
from tfbatch.errors import DataError, InputError, did_you_mean
from tfbatch.schema import Strict

SPLIT_NAMES: dict[str, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
"""The usual names of each split, in the order of preference."""
SAMPLE = 256
"""Images that are looked at where a source does not say what size they have."""
_ORDER_SEED = 20150503


class Description(Strict):
    """What a source knows of its data: enough to derive a recipe.

    Attributes:
        num_classes: Number of classes.
        splits: Number of examples in each of the source's splits.
        size: (height, width) of every image, or None where they differ.
        same_size: Whether the source promises `size`; False if it was only seen in a sample.
        channels: 1 for grey, 3 for colour, 4 for colour with transparency.
        encoded: Whether the images are encoded bytes.
        roles: The source's split for train, validation and test, where the source knows it.
        pixel_range: See `tfbatch.dataset_info.recipe.ImageFeature`.
    """

    num_classes: int
    splits: dict[str, int]
    size: tuple[int, int] | None
    same_size: bool = True
    channels: Literal[1, 3, 4]
    encoded: bool
    roles: dict[str, str] = {}
    pixel_range: PixelRange | None = None


class SourceBase(Strict):
    """A source of examples. Heavy libraries are imported inside its methods."""

    @classmethod
    def from_text(cls, text: str, *, data_dir: Path | None) -> SourceBase:
        """Makes the source of what follows its name in `NAME:TEXT` (empty for `NAME` alone).

        Raises:
            InputError: The text says nothing to this source.
        """
        del data_dir
        name = cls.__module__.rpartition(".")[2]
        if text:
            raise InputError(f"The source {name} takes nothing after `{name}:`. Received: {text}.")
        return cls()

    @classmethod
    def is_there(cls, text: str, *, data_dir: Path | None) -> bool:
        """Whether there is a file or folder by the whole of `TEXT`; then no `@96` in it is a size.

        Override it where the text is a path.
        """
        del text, data_dir
        return False

    @abstractmethod
    def identity(self, data_dir: Path | None) -> dict[str, object]:
        """What tells these bytes from other bytes: plain data that is hashed into folder names.

        Args:
            data_dir: The user's data folder, or None for the source's own default.

        Raises:
            DataError: The data is absent and cannot be fetched; the message has the remedy.
        """

    @abstractmethod
    def num_examples(self, split: str, data_dir: Path | None) -> int:
        """Number of examples in one of the source's splits.

        Raises:
            InputError: The source has no such split.
        """

    @abstractmethod
    def examples(self, split: str, data_dir: Path | None) -> Iterator[tuple[str, Example]]:
        """Yields `(key, example)` in a fixed order that does not depend on the class."""

    @abstractmethod
    def describe(self, data_dir: Path | None) -> Description:
        """Tells what a recipe needs to know of the data.

        Raises:
            InputError: What is image and what is class cannot be told.
            DataError: The data is absent, or cannot be used.
        """

    def notes(self, data_dir: Path | None) -> tuple[str, ...]:
        """What a user should know of how the data was read, a sentence each; often nothing."""
        del data_dir
        return ()

    def labels(self, split: str, data_dir: Path | None) -> Iterator[int]:
        """Yields the class index of each example, in the order of `examples`.

        Override it where classes can be read without the images.
        """
        for _, example in self.examples(split, data_dir):
            yield example["label"]

    def examples_from(
        self, start: int, split: str, data_dir: Path | None
    ) -> Iterator[tuple[str, Example]]:
        """Yields what `examples` yields after its first `start`: a preparation is continued.

        Override it where leaving out is cheaper than reading.
        """
        return itertools.islice(self.examples(split, data_dir), start, None)


def random_order(split: str, count: int) -> npt.NDArray[np.int64]:
    """A fixed random order: files and arrays are often sorted by their class."""
    words = [_ORDER_SEED, *split.encode()]
    return np.random.default_rng(words).permutation(count)


def common_size(
    images: Iterable[tuple[str, bytes]], *, pixel_range: PixelRange | None = None
) -> tuple[tuple[int, int] | None, Literal[1, 3]]:
    """(height, width) of encoded images, or None where they differ; 1 channel if all are grey.

    Damaged images are passed over: all of them are named when the records are written.

    Args:
        images: Name and encoded bytes of each.
        pixel_range: See `tfbatch.encoded_images.decodable`.

    Raises:
        DataError: None of them can be decoded.
        InputError: One of more than 8 bits, without a `pixel_range`.
    """
    import tensorflow as tf

    sizes, grey, unreadable = set(), True, []
    for name, encoded in images:
        try:
            plain = decodable(name, encoded, pixel_range)
            shape = tf.io.decode_image(plain, expand_animations=False).shape
        except UnreadableImageError as error:
            unreadable.append(error)
            continue
        except tf.errors.InvalidArgumentError as error:
            unreadable.append(UnreadableImageError(name, without_frame(error)))
            continue
        sizes.add((int(shape[0]), int(shape[1])))
        grey = grey and shape[2] in (1, 2)  # two: grey with transparency
    if unreadable and not sizes:
        raise DataError(
            f"None of {len(unreadable)} images can be decoded. The first: {unreadable[0]}"
        )
    return sizes.pop() if len(sizes) == 1 else None, 1 if grey else 3


def check_split(source: str, split: str, splits: Iterable[str]) -> None:
    """Raises InputError, with the closest name, for a split that a source has not."""
    names = list(splits)
    if split not in names:
        raise InputError(
            f"{source} has no split `{split}`.{did_you_mean(split, names)} "
            f"Available: {', '.join(names)}."
        )


def resolve(path: Path, data_dir: Path | None) -> Path:
    """The absolute path: beneath the data folder where it is there, else as it is."""
    try:
        path = path.expanduser()
    except RuntimeError as error:
        raise InputError(f"The path {path} cannot be used: {error}") from error
    # pathlib's own raises for a name that is too long.
    if data_dir and os.path.exists(data_dir.expanduser() / path):  # noqa: PTH110
        path = data_dir.expanduser() / path
    return path.resolve()
