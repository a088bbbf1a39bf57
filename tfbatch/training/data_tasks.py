"""Tasks on the data of a run: it is prepared, and described, in a process that trains."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tfbatch.dataset_info.own_data import DataDescription
from tfbatch.errors import STOPPED_EARLY, StoppedError
from tfbatch.pipeline.classes import Expected
from tfbatch.pipeline.elements import ElementForm
from tfbatch.pipeline.load import prepare_folder
from tfbatch.training.context import TaskContext
from tfbatch.training.devices import make_strategy
from tfbatch.training.expectation import expect
from tfbatch.training.workload import build_before_data


def prepare_data(
    task: TaskContext, data_dir: Path | None, records_dir: Path | None, own_dir: Path | None
) -> Path:
    """Makes the data ready for all processes; see tfbatch.pipeline.load.prepare_folder.

    Args:
        task: The job, and where progress is reported.
        data_dir: The source's data folder.
        records_dir: Folder for records.
        own_dir: Folder for what is kept of a user's own data.

    Returns:
        The folder that every process opens it from.

    Raises:
        StoppedError: A stop was requested.
    """

    def progress(split: str, done: int, total: int) -> None:
        del split
        task.signs.report(done, total)
        if task.signs.stop_requested():
            raise StoppedError(STOPPED_EARLY)

    folder, _ = prepare_folder(
        task.job.data,
        task.code.make_dataset,
        data_dir=data_dir,
        records_dir=records_dir,
        own_dir=own_dir,
        expect=lambda form: expect_form(task, form),
        progress=progress,
    )
    return folder


def expect_form(task: TaskContext, form: ElementForm) -> Expected:
    """Infers the form of data before it is read; see tfbatch.training.expectation."""
    code = task.code
    return expect(
        form,
        code.build_model,
        code.compilation,
        build=lambda input_shape: build_before_data(
            code.build_model,
            input_shape=input_shape,
            precision=task.job.precision,
            strategy=make_strategy(task.job.place.strategy),
        ),
    )


def describe_data(task: TaskContext) -> DataDescription:
    """What the data holds, and where its examples live while a model trains."""
    description, placement = task.data.describe(), task.placement
    where = description.where
    if placement.on == "device":
        where = f"{where}; batches are made in the device's memory ({placement.reason})"
    elif task.job.data_on == "device":
        where = f"{where}; they stay on the host, since {placement.reason}"
    return dataclasses.replace(description, where=where, data_on=placement.on)
