"""Makes data ready in this process, of whatever kind it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tfbatch.own_data import STORED, OwnData
from tfbatch.pipeline.classes import Expect, expect_without_model
from tfbatch.pipeline.counting import MakeDataset, count_examples, takes_a_split
from tfbatch.pipeline.data import Data
from tfbatch.pipeline.own_function import FunctionData
from tfbatch.pipeline.preparation import default_records_root, prepare_records
from tfbatch.pipeline.prepared_data import PreparedData
from tfbatch.pipeline.stored_data import StoredData
from tfbatch.pipeline.storing import store_data
from tfbatch.recipes import Recipe
from tfbatch.references import find_function

Progress = Callable[[str, int, int], None]


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
    progress: Any = None,
) -> Data:
    """Prepares data and opens it; see `prepare_folder`."""
    folder, _ = prepare_folder(
        spec, None, data_dir=data_dir, records_dir=records_dir, expect=expect, progress=progress
    )
    return open_prepared(spec, folder, None)
