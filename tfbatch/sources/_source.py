"""What every source is."""

from __future__ import annotations

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
