"""Model and data made ready to be measured, outside any search."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from tfbatch.bench import Bench
from tfbatch.optimizers import OPTIMIZERS
from tfbatch.python_objects import (
    Metrics,
    PythonObjects,
    options_and_objects,
    splits_of,
    user_code,
)
from tfbatch.request.execution import Execution
from tfbatch.request.model_and_data import (
    ModelAndData,
    baseline_configuration,
    resolve_model_and_data,
)
from tfbatch.run_folder.folder import RunLock
from tfbatch.schema import Named
from tfbatch.search.progress import Progress

if TYPE_CHECKING:
    import keras

DEFAULT_OPTIMIZER = Named(name="sgd", momentum=0.9)
"""What is measured where neither the user nor the model names one; the default search's too."""


class BenchOptions(TypedDict, total=False):
    """What all measuring functions take beside model and data; open_bench says what each is."""

    batched: bool | None
    optimizer: str | None
    baseline: str
    loss: object
    metrics: Metrics | None
    class_weight: dict[int, float] | None
    model_arguments: Mapping[str, object] | None
    data_dir: str | Path | None
    image_size: int | None
    records_dir: str | Path | None


@contextlib.contextmanager
def open_bench(
    build_model: Callable[..., keras.Model] | str,
    data: object,
    *,
    batched: bool | None = None,
    optimizer: str | None = None,
    baseline: str = "",
    loss: object = None,
    metrics: Metrics | None = None,
    class_weight: dict[int, float] | None = None,
    model_arguments: Mapping[str, object] | None = None,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    records_dir: str | Path | None = None,
    execution: Execution | None = None,
    progress: Progress | None = None,
) -> Iterator[Bench]:
    """Prepares model and data as `find_batch_size` does, and ends the process at the end.

    Args:
        build_model: See find_batch_size.
        data: The data, see find_batch_size.
        batched: Whether each element of a Dataset is a batch, see find_batch_size.
        optimizer: A file of tfbatch/optimizers, for a model that is not compiled.
        baseline: Batch size and learning rate, such as "batch_size=128,learning_rate=0.05".
        loss: Loss of a model that is not compiled.
        metrics: Its metrics.
        class_weight: Weight of each class in the training loss.
        model_arguments: Further arguments of the builder.
        data_dir: The source's data folder.
        image_size: Size of the images of a data set without a recipe, in pixels.
        records_dir: Folder for records.
        execution: Precision, XLA, strategy; `workers=0` for this process. Default: one worker.
        progress: Receives the progress.

    Raises:
        InputError: Something asked for cannot be used.
        DataError: Data absent or damaged.
    """
    options, objects = options_and_objects(
        build_model,
        data,
        batched=batched,
        image_size=image_size,
        model_arguments=model_arguments,
        baseline=baseline,
        optimizer=optimizer,
        data_dir=data_dir,
        records_dir=records_dir,
        loss=loss,
        metrics=metrics,
        class_weight=class_weight,
    )
    execution = execution or Execution(workers=1)
    subject = resolve_model_and_data(apart=execution.workers != 0, **options)
    with open_subject(subject, objects, execution, progress or Progress(None)) as bench:
        yield bench


@contextlib.contextmanager
def open_subject(
    subject: ModelAndData,
    objects: PythonObjects,
    execution: Execution,
    progress: Progress,
    *,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Iterator[Bench]:
    """The same for model and data that are checked already; see `open_bench`.

    Args:
        subject: Model and data.
        objects: What was given as objects.
        execution: How the process runs.
        progress: Receives the progress.
        stop_requested: When true, what runs is ended with a StoppedError.
    """
    from tfbatch.search.preparation import prepared

    with (
        tempfile.TemporaryDirectory(prefix="tfbatch-") as folder,
        RunLock(Path(folder) / "run") as lock,
        prepared(
            subject,
            execution,
            user_code(subject, objects),
            lock=lock,
            progress=progress,
            splits=splits_of(subject, objects),
            stop_requested=stop_requested,
        ) as ready,
    ):
        model = ready.model
        try:
            optimizer = model.optimizer or _optimizer(ready.subject.optimizer)
            rule = OPTIMIZERS.load(optimizer.name).SCALING_RULE
            yield Bench(
                data=ready.data,
                model=model,
                baseline=baseline_configuration(
                    ready.subject,
                    optimizer=optimizer,
                    scaling_rule=Named(name=rule),
                ),
                process=ready.engine,
                stall_seconds=execution.stall_minutes * 60,
                tell=progress.measuring,
                gpu=str(ready.gpu_settings) if ready.gpu_settings else "",
                memory_seconds=execution.memory_seconds,
            )
        finally:
            progress.end()


def _optimizer(name: str | None) -> Named:
    """The default one, or another with the defaults of its file."""
    return DEFAULT_OPTIMIZER if name in (None, DEFAULT_OPTIMIZER.name) else Named(name=str(name))
