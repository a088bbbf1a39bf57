"""The Python way in: `tfbatch.find_batch_size(...)`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfbatch.errors import InputError
from tfbatch.recipes import Recipe
from tfbatch.run_folder.folder import RunLock, check_run_dir
from tfbatch.search.progress import Progress
from tfbatch.search.request import Execution, Request, make_request
from tfbatch.workers import warm_slot

if TYPE_CHECKING:
    from tfbatch.search.result import Result  # imports TensorFlow


def find_batch_size(
    build_model: Callable[..., Any] | str,
    data: str | Path | Recipe,
    *,
    search: str = "joint",
    objective: str | None = None,
    trial_length: str | None = None,
    baseline: str = "",
    batch_sizes: list[int] | None = None,
    optimizer: str | None = None,
    max_trials: int | None = None,
    max_minutes: float | None = None,
    seed: int = 1,
    run_dir: str | Path | None = None,
    data_dir: str | Path | None = None,
    records_dir: str | Path | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    precision: str = "float32",
    jit_compile: bool = False,
    callbacks: Callable[[], list[Any]] | None = None,
    strategy: str | None = None,
    stall_minutes: float = 10.0,
    checkpoint_seconds: float = 60.0,
    verbose: int = 1,
) -> Result:
    """Searches batch size jointly with learning rate and decay schedule, and verifies the best.

    The same call on the same run folder continues it: no finished trial is run again, and a larger
    budget extends the search.

    Example:
        ```python
        result = tfbatch.find_batch_size("small_cnn", "digits", max_trials=8)
        print(result.batch_size, result.learning_rate)
        print(result.to_dataframe()[["batch_size", "learning_rate", "score"]])
        ```

    Args:
        build_model: `build_model(input_shape, num_classes)` that returns an uncompiled
            `keras.Model` with logits; or a model's name; or "package.module:function".
        data: Name of a recipe in pipelines/, a path of one, or a `Recipe`.
        search: Name of a search in tuner_configs/, or a path of one.
        objective: "METRIC", "METRIC:min" or "METRIC:max"; the final value of any metric of the
            model. Default: the recipe's.
        trial_length: Such as "5 epochs" or "200_000 examples". Default: the recipe's.
        baseline: What you train with now, such as "batch_size=128,learning_rate=0.05". Default:
            the recipe's.
        batch_sizes: Batch sizes to search. Default: the search's.
        optimizer: A file of tfbatch/optimizers. Default: the search's.
        max_trials: Number of trials of the search. Default: the search's.
        max_minutes: Time limit, verification and final evaluation included.
        seed: Everything random derives from it, 0 to 2**31 - 1.
        run_dir: The run folder. Default: tfbatch_runs/DATA-MODEL-SEARCH.
        data_dir: The source's data folder; for TensorFlow Datasets also TFDS_DATA_DIR.
        records_dir: Folder for records; also TFBATCH_RECORDS_DIR. Default: the user's cache.
        overwrite: Remove what is in the run folder and start anew.
        workers: Worker processes. Default: one per GPU, or on a CPU one per core up to eight. 0
            runs everything in this process. With one worker (or a random search) a run is
            repeated exactly by the same seed.
        precision: Keras's dtype policy: "float32", "mixed_float16" or "mixed_bfloat16".
        jit_compile: Whether XLA compiles the model.
        callbacks: A function without arguments that makes a list of your Keras callbacks; called
            for every trial.
        strategy: "mirrored" to train each trial on all GPUs of the machine; batch sizes are then
            global ones, shared equally by the replicas.
        stall_minutes: A trial that gives no sign of life for so long is ended as "timeout".
        checkpoint_seconds: The least time between two checkpoints of a trial.
        verbose: 0 prints nothing, 1 a line for each trial.

    Raises:
        InputError: Something asked for cannot be used; nothing was trained.
        DataError: Data absent or damaged.
        RunFolderError: The run folder is in use, or full.
        SearchError: No trial completed.
    """
    started = time.monotonic()
    named = isinstance(build_model, str)
    if not named and not callable(build_model):
        raise InputError(
            f"`build_model` must be a function or a name. Received: {type(build_model).__name__}."
        )
    request = make_request(
        dataset=str(data) if isinstance(data, Path) else data,
        model=str(build_model) if named else _reference(build_model),
        search=search,
        objective=objective,
        trial_length=trial_length,
        baseline=baseline,
        batch_sizes=batch_sizes,
        optimizer=optimizer,
        max_trials=max_trials,
        max_minutes=max_minutes,
        seed=seed,
        run_dir=Path(run_dir) if run_dir else None,
        data_dir=Path(data_dir) if data_dir else None,
        records_dir=Path(records_dir) if records_dir else None,
        overwrite=overwrite,
        check_model=named,
        execution=Execution(
            workers=workers,
            precision=precision,
            jit_compile=jit_compile,
            stall_minutes=stall_minutes,
            checkpoint_seconds=checkpoint_seconds,
            strategy=strategy,
        ),
    )
    check_run_dir(request.run_dir)
    from rich.console import Console  # a command has its own console

    progress = Progress(Console() if verbose else None)
    return run_request(
        request,
        None if named else build_model,
        progress=progress,
        callbacks=callbacks,
        started=started,
    )


def run_request(
    request: Request,
    build_model: Any,
    *,
    progress: Progress,
    stop_requested: Callable[[], bool] = lambda: False,
    callbacks: Callable[[], list[Any]] | None = None,
    started: float,
) -> Result:
    """Runs a checked request: here TensorFlow is imported.

    Args:
        request: What is asked.
        build_model: The builder, or None to find it by `request.model`.
        progress: Told of everything.
        stop_requested: When true, the run ends with the best answer so far.
        callbacks: Makes a user's Keras callbacks, or None.
        started: `time.monotonic()` from which the time limit counts.
    """
    with RunLock(request.run_dir) as lock:
        warm = None
        if request.execution.workers != 0:  # it imports TensorFlow beside this process
            lock.logs.mkdir(exist_ok=True)
            log = lock.logs / "worker-0.log"
            warm = warm_slot(log, lock.workers_file, "tfbatch.training.runner")
        try:
            from tfbatch.search.session import run_search
            from tfbatch.training.workload import check_builder, find_model_builder

            if build_model is None:
                build_model = find_model_builder(request.model)
            check_builder(build_model)
            return run_search(
                request,
                build_model,
                progress=progress,
                stop_requested=stop_requested,
                lock=lock,
                warm=warm,
                callbacks=callbacks,
                started=started,
            )
        finally:
            if warm:
                warm.close()


def _reference(build_model: Any) -> str:
    """`package.module:function` of a function, as `--model` takes it."""
    name = getattr(build_model, "__qualname__", type(build_model).__qualname__)
    return f"{getattr(build_model, '__module__', '__main__')}:{name}"
