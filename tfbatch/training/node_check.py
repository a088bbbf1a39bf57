"""What a node has in common with the search before it gets a trial, and what differs there."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.process.gpus import GpuMachine, GpuSettings
from tfbatch.training.compilation import uses_xla
from tfbatch.training.context import TaskContext
from tfbatch.training.data_tasks import describe_data, prepare_data
from tfbatch.training.devices import gpu_settings
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


@dataclasses.dataclass(frozen=True)
class CheckedNode:
    """A node that has what it takes.

    Attributes:
        records: The folder of the prepared data on it.
        gpu_settings: What its trainings run with; None without a GPU.
    """

    records: Path
    gpu_settings: GpuSettings | None = None


def check_node(
    task: TaskContext, records: Path, expected: NodeCheck, gpus: GpuMachine
) -> CheckedNode:
    """Finds or prepares the data here, and compares it and the model with what is expected.

    Args:
        task: The job.
        records: The folder of the prepared data, as the search has it.
        expected: What is compared.
        gpus: The GPUs of this node.

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
    return CheckedNode(records, describe_gpus(task, gpus, expected.baseline))


def describe_gpus(
    task: TaskContext, gpus: GpuMachine, baseline: Configuration
) -> GpuSettings | None:
    """What trainings on this node's GPUs run with; None without one.

    Args:
        task: The job, with its data. Left to Keras, XLA compiles its model on one node and not on
            another.
        gpus: The GPUs of this node.
        baseline: The configuration that the model is built with.
    """
    if not gpus.gpus:
        return None
    workload = task.programs.workload
    model = workload.build(1, arguments=baseline.model, seed_tensorflow=False)
    return gpu_settings(gpus, jit_compile=uses_xla(model, workload.jit_compile))
