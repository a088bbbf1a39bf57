"""Finds the data set that a text means: a recipe, a source without one, or a user's own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tfbatch.errors import InputError
from tfbatch.own_data import OwnData, own_data_of
from tfbatch.pipeline.derivation import derive_recipe, is_derived
from tfbatch.recipes import Recipe, load_recipe

if TYPE_CHECKING:
    from tfbatch.pipeline.data import Data

Progress = Callable[[str, int, int], None]


def find_dataset(
    text: str, *, data_dir: Path | None = None, image_size: int | None = None
) -> Recipe | OwnData:
    """The data set of a name.

    Args:
        text: A recipe's name, a path of one (.yaml), a source with a data set that has none
            (`tfds:NAME`, `images:FOLDER`, ...), `package.module:function`, or a folder of stored
            arrays.
        data_dir: The source's data folder.
        image_size: Height and width of the images of a data set without a recipe.

    Raises:
        InputError: There is no such data set, or its images' size is not to be chosen.
        DataError: Data without a recipe that is absent or cannot be used.
    """
    if is_derived(text):
        return derive_recipe(text, data_dir=data_dir, image_size=image_size)
    if image_size is not None:
        raise InputError(
            "`image_size` is for a data set without a recipe, such as tfds:NAME: a recipe has "
            f"`features.image.shape`. Received: {image_size} for {text!r}."
        )
    if text.endswith((".yaml", ".yml")):
        return load_recipe(text)
    return own_data_of(text) or load_recipe(text)


def load_data(
    dataset: str | Recipe,
    *,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    records_dir: str | Path | None = None,
    batched: bool | None = None,
    classes: bool | None = None,
    progress: Progress | None = None,
) -> Data:
    """Loads a data set, and prepares it on first use.

    Args:
        dataset: A recipe, or anything that `--dataset` or `--data` takes: a recipe's name, a path
            that ends in .yaml, `package.module:function`, or a folder of stored arrays.
        data_dir: Folder with the source's data; for TensorFlow Datasets also TFDS_DATA_DIR.
        image_size: Height and width of the images of a data set without a recipe, in pixels.
        records_dir: Folder for records; also TFBATCH_RECORDS_DIR. Default: the user's cache.
        batched: Whether each element of a function's Datasets is a batch. Default: as their
            transformations show it.
        classes: Whether the targets of a function's data are classes, which a search reads off the
            model's loss. Default: if they are one-hot, or whole numbers from 0 without a gap.
        progress: Told how far the preparation is: (split, examples done, examples in all).

    Raises:
        InputError: An unknown data set, or one that cannot be used.
        DataError: Data that is absent and cannot be fetched, or that is damaged.
    """
    from tfbatch.pipeline.classes import expect_without_model
    from tfbatch.pipeline.kinds import prepare_data

    where = Path(data_dir) if data_dir else None
    if isinstance(dataset, Recipe):
        if image_size is not None:
            raise InputError(
                "`image_size` is for a data set without a recipe. Received: "
                f"image_size={image_size} with a recipe. Set `features.image.shape` in the recipe."
            )
        spec: Recipe | OwnData = dataset
    else:
        spec = find_dataset(dataset, data_dir=where, image_size=image_size)
    if isinstance(spec, OwnData) and batched is not None:
        spec = spec.model_copy(update={"batched": batched})
    return prepare_data(
        spec,
        expect=functools.partial(expect_without_model, classes=classes),
        data_dir=where,
        records_dir=Path(records_dir) if records_dir else None,
        progress=progress,
    )
