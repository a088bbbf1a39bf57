"""Makes a data set ready in this process, of whatever kind it is: records, arrays, a function."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tfbatch.dataset_info.own_data import STORED, OwnData
from tfbatch.dataset_info.recipe import Recipe
from tfbatch.pipeline.array_data import StoredData
from tfbatch.pipeline.array_storage import store_data
from tfbatch.pipeline.classes import Expect, expect_without_model
from tfbatch.pipeline.dataset_names import check_no_size, check_own, find_dataset
from tfbatch.pipeline.function_data import FunctionData, MakeDataset, count_examples, takes_a_split
from tfbatch.pipeline.recipe_data import PreparedData
from tfbatch.pipeline.recipe_records import Progress, default_records_root, prepare_records
from tfbatch.pipeline.trainable_data import Data
from tfbatch.plug_ins import find_function


def load_data(
    dataset: str | Path | Recipe,
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
    where = Path(data_dir) if data_dir else None
    if isinstance(dataset, Recipe):
        check_no_size(dataset, image_size)
        spec: Recipe | OwnData = dataset
    else:
        spec = find_dataset(str(dataset), data_dir=where, image_size=image_size)
    check_own(spec, batched=batched, classes=classes)
    if isinstance(spec, OwnData) and batched is not None:
        spec = spec.model_copy(update={"batched": batched})
    return prepare_data(
        spec,
        expect=functools.partial(expect_without_model, classes=classes),
        data_dir=where,
        records_dir=Path(records_dir) if records_dir else None,
        progress=progress,
    )


def prepare_folder(
    spec: Recipe | OwnData,
    make_dataset: MakeDataset | None,
    *,
    data_dir: Path | None,
    records_dir: Path | None,
    own_dir: Path | None = None,
    expect: Expect = expect_without_model,
    progress: Progress | None = None,
) -> tuple[Path, bool]:
    """Makes the folder that any process of this machine opens the data from.

    Args:
        spec: The data.
        make_dataset: The user's function, for data of that kind.
        data_dir: The source's data folder.
        records_dir: Folder for records.
        own_dir: Folder for what is kept of a user's own data. Default: beside the records.
        expect: Asks the model about a user's own data.
        progress: Told how far it is.

    Returns:
        The folder, and whether it had to be made.

    Raises:
        InputError: The data cannot be used.
        DataError: It is absent or damaged.
        RunFolderError: A folder cannot be written.
    """
    if isinstance(spec, Recipe):
        return prepare_records(spec, data_dir=data_dir, records_dir=records_dir, progress=progress)
    if spec.kind == "stored":
        return Path(spec.where).expanduser().resolve(), False
    if make_dataset is None:
        make_dataset = find_function(spec.where, flag="--data")
    root = own_dir or (records_dir or default_records_root()).expanduser().resolve() / spec.name

    def alive(done: int) -> None:
        if progress:
            progress("train", done, 0)

    options: Any = {"batched": spec.batched, "expect": expect, "heartbeat": alive}
    if takes_a_split(make_dataset):
        return count_examples(make_dataset, root, name=spec.name, **options)
    return store_data(root, make_dataset(), **options), True


def open_prepared(spec: Recipe | OwnData, folder: Path, make_dataset: MakeDataset | None) -> Data:
    """Opens data that `prepare_folder` has prepared.

    Raises:
        DataError: It is absent or damaged.
    """
    if isinstance(spec, Recipe):
        return PreparedData(spec, folder)
    if (folder / STORED).exists() or spec.kind == "stored":
        return StoredData(folder, name=spec.name)
    make_dataset = make_dataset or find_function(spec.where, flag="--data")
    return FunctionData(make_dataset, folder, name=spec.name)


def prepare_data(
    spec: Recipe | OwnData,
    *,
    data_dir: Path | None,
    records_dir: Path | None,
    expect: Expect = expect_without_model,
    progress: Callable[[str, int, int], None] | None = None,
) -> Data:
    """Prepares data and opens it; see `prepare_folder`."""
    folder, _ = prepare_folder(
        spec, None, data_dir=data_dir, records_dir=records_dir, expect=expect, progress=progress
    )
    return open_prepared(spec, folder, None)
