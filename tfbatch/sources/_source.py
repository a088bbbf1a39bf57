"""What every source is."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from tfbatch.errors import InputError
from tfbatch.recipes import Example, PixelRange
from tfbatch.schema import Strict


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
        pixel_range: See `tfbatch.recipes.ImageFeature`.
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
    def identity(self, data_dir: Path | None) -> dict[str, Any]:
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
