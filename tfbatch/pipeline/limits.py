"""What a training stream may be asked for, whatever the data."""

from __future__ import annotations

from typing import Protocol

from tfbatch.errors import InputError
from tfbatch.seeds import LARGEST_SEED

EVALUATION_BATCH_SIZE = 512
"""Fixed, and independent of the batch size that is trained with."""


class Countable(Protocol):
    """A data set that knows its name and its number of examples."""

    name: str

    def num_examples(self, split: str = "train") -> int:
        """Number of examples in a split."""


def check_stream(
    data: Countable, *, batch_size: int, seed: int, num_examples: int, start: int
) -> None:
    """Refuses a stream that cannot be made.

    Raises:
        InputError: A batch size, a seed or a length out of range.
    """
    available = data.num_examples("train")
    if not 1 <= batch_size <= available:
        raise InputError(
            f"`batch_size` must be from 1 to the {available} training examples of {data.name}. "
            f"Received: {batch_size}."
        )
    if not 0 <= start < num_examples:
        raise InputError(
            f"`0 <= start < num_examples` must hold. Received: {start=}, {num_examples=}."
        )
    if not 0 <= seed <= LARGEST_SEED:
        raise InputError(f"`seed` must be from 0 to {LARGEST_SEED}. Received: {seed}.")
