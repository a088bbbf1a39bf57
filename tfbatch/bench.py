"""Model and data made ready to be measured, outside any search."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from tfbatch.errors import InputError
from tfbatch.given import Given, as_dataset, reference, splits_of, task_of, user_code
from tfbatch.request.execution import Execution
from tfbatch.request.request import Request, make_request
from tfbatch.run_folder.folder import RunLock
from tfbatch.search.progress import Progress
from tfbatch.workbench import Bench


class BenchOptions(TypedDict, total=False):
    """What all measuring functions take beside model and data; open_bench says what each is."""

    batched: bool | None
    optimizer: str | None
    baseline: str
    loss: Any
    metrics: Sequence[Any] | Mapping[str, Any] | None
    class_weight: dict[int, float] | None
    model_arguments: dict[str, Any] | None
    data_dir: str | Path | None
    image_size: int | None
    records_dir: str | Path | None


@contextlib.contextmanager
def open_bench(
    build_model: Callable[..., Any] | str,
    data: Any,
    *,
    batched: bool | None = None,
    optimizer: str | None = None,
    baseline: str = "",
    loss: Any = None,
    metrics: Sequence[Any] | Mapping[str, Any] | None = None,
    class_weight: dict[int, float] | None = None,
    model_arguments: dict[str, Any] | None = None,
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
    named = isinstance(build_model, str)
    if not named and not callable(build_model):
        raise InputError(
            f"`build_model` must be a function or a name. Received: {type(build_model).__name__}."
        )
    dataset, make_dataset, payload = as_dataset(data)
    with tempfile.TemporaryDirectory(prefix="tfbatch-") as folder:
        request = make_request(
            dataset=dataset,
            batched=batched,
            image_size=image_size,
            model=str(build_model) if named else reference(build_model),
            search="joint",
            objective=None,
            trial_length=None,
            baseline=baseline,
            batch_sizes=None,
            optimizer=optimizer,
            max_trials=None,
            max_minutes=None,
            seed=1,
            run_dir=Path(folder) / "run",
            data_dir=Path(data_dir) if data_dir else None,
            records_dir=Path(records_dir) if records_dir else None,
            overwrite=False,
            check_model=named,
            model_arguments=model_arguments,
            task=task_of(loss, metrics, class_weight),
            execution=execution or Execution(workers=1),
        )
        given = Given(
            build_model=None if named else build_model,
            make_dataset=make_dataset,
            payload=payload,
            loss=loss,
            metrics=metrics,
        )
        with open_request(request, given, progress or Progress(None)) as bench:
            yield bench


@contextlib.contextmanager
def open_request(
    request: Request,
    given: Given,
    progress: Progress,
    *,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Iterator[Bench]:
    """The same for a request that is checked already; see `open_bench`.

    Args:
        request: What is asked.
        given: What was given as objects.
        progress: Receives the progress.
        stop_requested: When true, what runs is ended with a StoppedError.
    """
    with RunLock(request.run_dir) as lock:
        from tfbatch.search.adaptation import adapt
        from tfbatch.search.opening import load_records, make_bench, open_engine
        from tfbatch.training.description import describe_model

        splits = splits_of(request, given)
        code = user_code(request, given)
        with open_engine(
            request, code, lock=lock, warm=None, stop_requested=stop_requested
        ) as engine:
            request, data, engine = load_records(
                request, engine, progress, own_dir=lock.data, splits=splits
            )
            progress.doing("building the model")
            model = engine.call(describe_model, list(request.model_arguments))
            for note in model.notes:
                progress.say(note)
            try:
                described = adapt(request, model)
                yield make_bench(described, data, model, engine, progress)
            finally:
                progress.end()
