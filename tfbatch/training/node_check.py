"""What a node of a cluster must have in common with the search before it gets a trial."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.training.context import TaskContext
from tfbatch.training.data_tasks import describe_data, prepare_data
from tfbatch.training.evaluation import measure_untrained


@dataclasses.dataclass(frozen=True)
class NodeCheck:
    """What is compared.

    Attributes:
        data: The identity of the data.
        model: The hash of the model that is built.
        baseline: The configuration that it was built with.
        data_dir: The source's data folder.
        records_dir: Folder for records.
        own_dir: Folder in the shared run folder for a user's own data.
    """

    data: str
    model: str
    baseline: Configuration
    data_dir: Path | None
    records_dir: Path | None
    own_dir: Path


def check_node(task: TaskContext, records: Path, expected: NodeCheck) -> Path:
    """Finds or prepares the data here, and compares it and the model with what is expected.

    Args:
        task: The job.
        records: The folder of the prepared data, as the search has it.
        expected: What is compared.

    Returns:
        The folder of the prepared data on this node.

    Raises:
        InputError: The data or the model is another one: results could not be compared.
        DataError: The data is absent or damaged.
    """
    if not records.exists():
        folders = (expected.data_dir, expected.records_dir, expected.own_dir)
        records = prepare_data(task, *folders)
    task = task.opened(records)
    identity = describe_data(task).identity
    if identity != expected.data:
        raise InputError(
            f"Its data differs from the search's ({identity} and {expected.data}). Put the data "
            "into a folder that all nodes share, and name it with --data_dir or --records_dir."
        )
    built = measure_untrained(task, expected.baseline).model_hash
    if built != expected.model:
        raise InputError(
            "Its model is not the search's: layers, settings or weights differ. Use the same code "
            "on every node."
        )
    return records
