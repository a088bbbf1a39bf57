"""Derives the recipe of a data set in a process of its own: looking at images opens devices."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tfbatch.dataset_info.recipe import Recipe
from tfbatch.errors import DataError
from tfbatch.pipeline.dataset_names import derive_recipe
from tfbatch.workers import ProcessEndedError, warm_slot


def derive_apart(text: str, *, data_dir: Path | None, image_size: int | None) -> Recipe:
    """See tfbatch.pipeline.dataset_names.derive_recipe.

    The process that directs a search runs no TensorFlow operation: on a GPU it would take the
    memory that its workers need.

    Raises:
        InputError: The data set cannot be described.
        DataError: It is absent, or the process that looked at it ended.
    """
    with tempfile.TemporaryDirectory(prefix="tfbatch-") as folder:
        slot = warm_slot(Path(folder) / "deriving.log", None, "tfbatch.pipeline.dataset_names")
        try:
            slot.result()
            slot.submit(_derive, text, data_dir, image_size)
            recipe: Recipe = slot.result()
            return recipe
        except ProcessEndedError as error:
            raise DataError(f"The process that looked at {text} ended: {error.message}") from error
        finally:
            slot.close()


def _derive(text: str, data_dir: Path | None, image_size: int | None) -> Recipe:
    return derive_recipe(text, data_dir=data_dir, image_size=image_size)
