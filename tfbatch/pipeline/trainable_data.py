"""What training asks of a data set, whether a recipe describes it or it is a user's own."""

from __future__ import annotations

from typing import Protocol

import tensorflow as tf

from tfbatch.dataset_info.content import DataContent
from tfbatch.dataset_info.own_data import DataDescription
from tfbatch.errors import InputError
from tfbatch.pipeline.elements import InputShape
from tfbatch.seeds import LARGEST_SEED

EVALUATION_BATCH_SIZE = 512
"""Fixed, and independent of the batch size that is trained with."""


class Data(Protocol):
    """A data set in this process.

    Attributes:
        name: What it is called in messages.
    """

    name: str

    @property
    def soft_labels(self) -> bool:
        """Whether targets are a probability for each class, not a class index."""

    @property
    def content(self) -> DataContent:
        """The findings of a look at the examples; empty for records, checked when written."""

    @property
    def input_shape(self) -> InputShape:
        """Shape of one input; for several inputs, the same structure of shapes."""

    @property
    def num_classes(self) -> int | None:
        """Number of classes, or None where the targets are no class indices."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that there are: "train" and "validation" at least."""

    def describe(self) -> DataDescription:
        """What a process without the data must know."""

    def num_examples(self, split: str = "train") -> int:
        """Number of examples in a split."""

    def training(
        self, *, batch_size: int, seed: int, num_examples: int, start: int = 0
    ) -> tf.data.Dataset:
        """The training stream from `start` to `num_examples`; only its last batch can be short."""

    def evaluation(self, split: str, *, batch_size: int = EVALUATION_BATCH_SIZE) -> tf.data.Dataset:
        """Every example of a split once."""

    def raise_damage(self, split: str) -> None:
        """Raises the DataError behind a failed stream, if the data is damaged."""


def check_stream(data: Data, *, batch_size: int, seed: int, num_examples: int, start: int) -> None:
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
