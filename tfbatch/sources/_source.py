"""What every source is."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfbatch.recipes import Example
from tfbatch.schema import Strict


class SourceBase(Strict):
    """A source of examples. Heavy libraries are imported inside its methods."""

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
