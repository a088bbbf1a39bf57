"""A prepared data set: what training and evaluation ask for batches."""

from __future__ import annotations

from pathlib import Path

import psutil
import tensorflow as tf

from tfbatch.errors import InputError
from tfbatch.pipeline.batches import PARALLEL_CALLS, make_augment, make_normalize, prefetched
from tfbatch.pipeline.preparation import Progress, prepare_records
from tfbatch.pipeline.resident import ResidentSplit
from tfbatch.pipeline.streaming import StreamingSplit
from tfbatch.recipes import Recipe, load_recipe
from tfbatch.records.manifest import Manifest
from tfbatch.records.reader import find_damage, open_records, read_split
from tfbatch.seeds import LARGEST_SEED

RESIDENT_SHARE = 0.25
"""Decoded data up to this share of the machine's memory is kept resident."""
EVALUATION_BATCH_SIZE = 512
"""Fixed, and independent of the batch size that is trained with."""


class PreparedData:
    """One data set, ready to be trained on. Splits are read when they are first asked for.

    Args:
        recipe: The data set's recipe.
        folder: Folder of its records.
        resident_share: Share of the machine's memory that decoded data may take.

    Raises:
        InputError: An augmentation that is unknown, or parameters that it does not take.
        DataError: The records are absent or damaged.
    """

    def __init__(self, recipe: Recipe, folder: Path, *, resident_share: float = RESIDENT_SHARE):
        self.recipe = recipe
        self.folder = folder
        self.manifest: Manifest = open_records(folder)
        self.resident = self._decoded_bytes() <= resident_share * psutil.virtual_memory().total
        self._splits: dict[str, ResidentSplit | StreamingSplit] = {}
        self._normalize = make_normalize(recipe)
        make_augment(recipe, seed=0)  # a misspelt augmentation is refused now, not in each trial

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.recipe.features.image.shape

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.recipe.features.label.num_classes

    def num_examples(self, split: str = "train") -> int:
        """Number of examples in a split."""
        return self.manifest.num_examples(split)

    def training(
        self, *, batch_size: int, seed: int, num_examples: int, start: int = 0
    ) -> tf.data.Dataset:
        """The training stream: augmented, normalised, shuffled anew in each epoch.

        The stream is continuous: batches reach over the ends of epochs, and only the very last one
        can be short. The same seed gives the same order and the same augmentation for every batch
        size (resident data), or the same order of records (streaming).

        Args:
            batch_size: Examples in a batch, 1 to the number of training examples.
            seed: From 0 to 2**31 - 1.
            num_examples: Length of the whole stream, in examples.
            start: Examples to leave out at the beginning, to continue a stream.

        Returns:
            A Dataset of known cardinality with (float32 [batch, height, width, channels],
            int32 [batch]).

        Raises:
            InputError: A batch size, a seed or a length out of range.
        """
        available = self.num_examples("train")
        if not 1 <= batch_size <= available:
            raise InputError(
                f"`batch_size` must be from 1 to the {available} training examples of "
                f"{self.recipe.name}. Received: {batch_size}."
            )
        if not 0 <= start < num_examples:
            raise InputError(
                f"`0 <= start < num_examples` must hold. Received: {start=}, {num_examples=}."
            )
        if not 0 <= seed <= LARGEST_SEED:
            raise InputError(f"`seed` must be from 0 to {LARGEST_SEED}. Received: {seed}.")
        augment = make_augment(self.recipe, seed=seed)
        stream = self._split("train").training(
            batch_size=batch_size, seed=seed, start=start, stop=num_examples
        )

        def finish(x: tf.Tensor, y: tf.Tensor, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return self._normalize(augment(x, position)), y

        return prefetched(stream.map(finish, num_parallel_calls=PARALLEL_CALLS))

    def evaluation(self, split: str, *, batch_size: int = EVALUATION_BATCH_SIZE) -> tf.data.Dataset:
        """Every example of a split once, in the order of the records, not augmented."""
        dataset = self._split(split).in_order(batch_size=batch_size)
        steps = -(-self.num_examples(split) // batch_size)
        dataset = dataset.map(lambda x, y: (self._normalize(x), y))
        return prefetched(dataset.apply(tf.data.experimental.assert_cardinality(steps)))

    def raise_damage(self, split: str) -> None:
        """Raises the RecordError behind a failed stream, if the records are damaged."""
        damage = find_damage(self.folder, self.manifest, split)
        if damage:
            raise damage

    def _split(self, name: str) -> ResidentSplit | StreamingSplit:
        if name not in self._splits:
            self._splits[name] = (
                ResidentSplit(*read_split(self.folder, self.manifest, name))
                if self.resident
                else StreamingSplit(self.folder, self.manifest, name)
            )
        return self._splits[name]

    def _decoded_bytes(self) -> int:
        height, width, channels = self.recipe.features.image.shape
        examples = sum(self.manifest.num_examples(split) for split in self.manifest.splits)
        return height * width * channels * examples


def load_data(
    dataset: str | Recipe,
    *,
    data_dir: str | Path | None = None,
    records_dir: str | Path | None = None,
    resident_share: float = RESIDENT_SHARE,
    progress: Progress | None = None,
) -> PreparedData:
    """Loads a data set by its recipe's name, and prepares its records on first use.

    Args:
        dataset: A recipe, its name, or a path that ends in .yaml.
        data_dir: Folder with the source's data; for TensorFlow Datasets also TFDS_DATA_DIR.
        records_dir: Folder for records; also TFBATCH_RECORDS_DIR. Default: the user's cache.
        resident_share: Share of the machine's memory that decoded data may take, in [0, 1].
        progress: Told how far the preparation is.

    Raises:
        InputError: An unknown data set, or a recipe that does not fit its data.
        DataError: Data that is absent and cannot be fetched, or that is damaged.
    """
    recipe = dataset if isinstance(dataset, Recipe) else load_recipe(dataset)
    folder, _ = prepare_records(
        recipe,
        data_dir=Path(data_dir) if data_dir else None,
        records_dir=Path(records_dir) if records_dir else None,
        progress=progress,
    )
    return PreparedData(recipe, folder, resident_share=resident_share)
