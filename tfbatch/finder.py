"""The Python way in: `tfbatch.find_batch_size(...)`."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tfbatch.errors import NothingLearnedError
from tfbatch.metric_direction import Goal
from tfbatch.process.stop_signal import python_interrupt
from tfbatch.python_objects import (
    Callbacks,
    Metrics,
    PythonObjects,
    options_and_objects,
    splits_of,
    user_code,
)
from tfbatch.request.execution import (
    AUTOMATIC,
    MAX_STATE_GB,
    Execution,
    JitCompile,
    WorkersPerGpu,
)
from tfbatch.request.request import Request, make_request
from tfbatch.run_folder.files import JOURNAL
from tfbatch.run_folder.folder import check_run_dir
from tfbatch.run_folder.journal import read_rows
from tfbatch.search.first_worker import locked_with_worker
from tfbatch.search.progress import Progress, progress_lines

if TYPE_CHECKING:
    import keras

    from tfbatch.answer.plan import Plan
    from tfbatch.search.result import NothingLearned, Result  # imports TensorFlow
    from tfbatch.search.run import Run


def find_batch_size(
    build_model: Callable[..., keras.Model] | str,
    data: object,
    *,
    batched: bool | None = None,
    search: str | Path = "joint",
    objective: str | None = None,
    trial_length: str | None = None,
    for_length: str | None = None,
    baseline: str = "",
    batch_sizes: list[int] | None = None,
    optimizer: str | None = None,
    max_trials: int | None = None,
    max_minutes: float | None = None,
    max_trainings: float | None = None,
    verification_seeds: int | None = None,
    tolerance: float | None = None,
    goal: Goal | None = None,
    seed: int = 1,
    run_dir: str | Path | None = None,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    records_dir: str | Path | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    precision: str = "float32",
    jit_compile: JitCompile = "auto",
    loss: object = None,
    metrics: Metrics | None = None,
    class_weight: dict[int, float] | None = None,
    model_arguments: Mapping[str, object] | None = None,
    callbacks: Callable[[], list[keras.callbacks.Callback]] | Callbacks | None = None,
    strategy: str | None = None,
    memory_budget: str | None = None,
    memory_seconds: float | None = None,
    max_state_gb: float = MAX_STATE_GB,
    data_on: str = AUTOMATIC,
    workers_per_gpu: WorkersPerGpu = 1,
    cluster: str | None = None,
    stall_minutes: float = 10.0,
    checkpoint_seconds: float = 60.0,
    verbose: int = 1,
) -> Result | NothingLearned:
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
        build_model: A function that returns a `keras.Model`; a model's name; or
            "package.module:function". It gets `input_shape`, `num_classes` and `hp` (KerasTuner's
            hyperparameters, which are then searched too) if it has parameters of these names. A
            compiled model keeps its optimizer's class, loss, metrics and `train_step`; one that is
            not gives logits, or `loss` is given.
        data: Name of a recipe in pipelines/, a path of one, or a `Recipe`; a data set without one:
            "tfds:NAME", "images:FOLDER", "npz:PATH", "synthetic"; a function
            `make_dataset(split, batch_size, seed)` that returns a tf.data.Dataset (None if there is
            no test split); arrays `(inputs, targets)` or `(inputs, targets, sample_weight)`, inputs
            and targets perhaps a dict, a tuple or a list of arrays; a tf.data.Dataset; a
            keras.utils.PyDataset; or a dict of "train", "validation" and "test" to these. Arrays,
            Datasets and PyDatasets are stored in the run folder once, and mapped by every worker.
            Whether targets are classes follows from the model's loss and output, or from a builder
            that asks for `num_classes`, never from their type.
        batched: Whether each element of a tf.data.Dataset is a batch (True) or one example
            (False). Needed only where neither its transformations nor the model show it.
        search: Name of a search in tuner_configs/, or a path of one.
        objective: "METRIC", "METRIC:min" or "METRIC:max"; the final value of any metric of the
            model. Default: the recipe's.
        trial_length: Such as "5 epochs" or "200_000 examples". Default: the recipe's.
        for_length: Length of the training that the answer is for, if that is longer than a trial:
            the answer says what is predicted for it, and the run that checks it.
        baseline: What you train with now, such as "batch_size=128,learning_rate=0.05". Default:
            the recipe's.
        batch_sizes: Batch sizes to search. Default: the search's.
        optimizer: A file of tfbatch/optimizers. Default: the search's.
        max_trials: Number of configurations that the search tries; the parts of one training count
            as one. Default: the search's.
        max_minutes: Time limit, verification and final evaluation included.
        max_trainings: What all trials may cost, in full trainings of the baseline, which itself and
            verification are included: by the examples they train on or, where the search measures
            step times first, by the seconds these take alone on the device.
        verification_seeds: Fresh seeds with which the best configurations are trained again, at
            most: what is decided earlier ends earlier. Default: the search's.
        tolerance: Deficits of the objective up to this do not matter. Default: the deviation
            between seeds, or half a point of accuracy or 2 % of a loss without learning if that
            is larger.
        goal: What decides among configurations that are as good: "time" (the training time),
            "memory" (the smaller batch), or "metric" (nothing: only a better one replaces the
            baseline). Default: the search's, "time".
        seed: Everything random derives from it, 0 to 2**31 - 1.
        run_dir: The run folder. Default: tfbatch_runs/DATA-MODEL-SEARCH.
        data_dir: The source's data folder; for TensorFlow Datasets also TFDS_DATA_DIR.
        image_size: Height and width of the images of a data set without a recipe, in pixels.
        records_dir: Folder for records; also TFBATCH_RECORDS_DIR. Default: the user's cache.
        overwrite: Remove what a run has written into the run folder and start anew.
        workers: Worker processes. Default: one per GPU, or on a CPU one per core up to eight. 0
            runs everything in this process. With one worker (or a random search) a run is
            repeated exactly by the same seed.
        precision: Keras's dtype policy: "float32", "mixed_float16" or "mixed_bfloat16".
        jit_compile: Whether XLA compiles the model; "auto" chooses as Keras does: with a GPU, where
            every layer supports it.
        loss: Keras loss, its name, or a function, for a model that is not compiled. Default:
            cross-entropy of logits.
        metrics: Keras metrics, their names, or functions, for the same. Default with the default
            loss: accuracy.
        class_weight: Weight of each class in the training loss, as `Model.fit` takes it.
        model_arguments: Further arguments of `build_model`, the same for all trials.
        callbacks: Your Keras callbacks, copied for each trial; or a function without arguments
            that makes a list of them.
        strategy: "mirrored" to train each trial on all GPUs of the machine; batch sizes are then
            global ones, shared equally by the replicas.
        memory_budget: Memory for all workers together (on GPUs: of each one), such as "8 GB", or
            "auto" for 80 % of what there is: the largest batch that fits is measured first, and
            larger ones are left out. Default: trials find out.
        memory_seconds: Seconds after which that search begins no further process: then only what
            was measured not to fit is left out. Default: on a GPU 60, or 150 where XLA compiles the
            model; on a CPU no limit.
        max_state_gb: Gigabytes on disk for the end states that trials of a search in parts go on
            from; those that were not used for longest are removed, and trained again if needed.
        data_on: Where batches are made of the examples: "device" (its memory, within the training
            graph), "host", or "auto": on a GPU with the data in a fifth of its memory.
        workers_per_gpu: Workers that share a GPU which one trial does not fill, instead of
            `workers`; "auto" measures before the first trial how many are worth it.
        cluster: The Ray cluster whose nodes run the trials: "auto" for the one that this machine
            belongs to, or "HOST:PORT" of its head; `workers` are then those of each node, and all
            nodes share `run_dir`. Default: this machine alone.
        stall_minutes: A trial that gives no heartbeat for this long is ended as "timeout".
        checkpoint_seconds: The least time between two checkpoints of a trial.
        verbose: 0 prints nothing, 1 a line for each trial.

    Returns:
        The answer with its evidence. If no trial is better than chance beyond the noise, there is
        none: a `NothingLearned` with the trials, whose `batch_size` raises NothingLearnedError
        with the remedy.

    Raises:
        InputError: Something asked for cannot be used; nothing was trained.
        DataError: Data absent or damaged.
        RunFolderError: The run folder is in use, or full.
        SearchError: No trial completed, or all that were verified failed on fresh seeds.
        StoppedError: Ctrl-C before the first trial completed. Later it ends the run with the
            answer so far, which is returned (`result.interrupted`).
        KeyboardInterrupt: Ctrl-C while data and model are opened, or a second one.
    """
    started = time.monotonic()
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
        callbacks=callbacks,
    )
    request = make_request(
        **options,
        search=search,
        objective=objective,
        trial_length=trial_length,
        for_length=for_length,
        batch_sizes=batch_sizes,
        max_trials=max_trials,
        max_minutes=max_minutes,
        max_trainings=max_trainings,
        verification_seeds=verification_seeds,
        tolerance=tolerance,
        goal=goal,
        seed=seed,
        run_dir=Path(run_dir) if run_dir else None,
        overwrite=overwrite,
        execution=Execution(
            workers=workers,
            precision=precision,
            jit_compile=jit_compile,
            stall_minutes=stall_minutes,
            checkpoint_seconds=checkpoint_seconds,
            strategy=strategy,
            memory_budget=memory_budget,
            memory_seconds=memory_seconds,
            max_state_gb=max_state_gb,
            data_on=data_on,
            workers_per_gpu=workers_per_gpu,
            cluster=cluster,
        ),
    )
    folder = check_run_dir(request.run_dir)
    progress = progress_lines(verbose)
    with python_interrupt(_announce) as stop:
        progress.on_begin = stop.keep
        try:
            result = run_request(
                request, objects, progress=progress, stop_requested=stop, started=started
            )
        except NothingLearnedError as error:
            progress.say(str(error))
            return _without_an_answer(folder, error, interrupted=stop())
    if result.failure:
        warnings.warn(
            f"The run ended early; the result is based on what had been measured: {result.failure}",
            RuntimeWarning,
            stacklevel=2,
        )
    return result


def _without_an_answer(
    run_dir: Path, error: NothingLearnedError, *, interrupted: bool
) -> NothingLearned:
    """What was measured is returned, although there is no answer."""
    from tfbatch.search.result import NothingLearned

    rows = read_rows(run_dir / JOURNAL)
    return NothingLearned(run_dir=run_dir, rows=rows, interrupted=interrupted, reason=error)


def _announce() -> None:
    """Inside a signal handler, where the console's lock may be held."""
    with contextlib.suppress(OSError, RuntimeError, AttributeError):
        sys.stderr.write("\nStopping after this batch, with the best answer so far.\n")
        sys.stderr.flush()


def run_request(
    request: Request,
    objects: PythonObjects = PythonObjects(),  # noqa: B008 - frozen
    *,
    progress: Progress,
    stop_requested: Callable[[], bool] = lambda: False,
    started: float,
) -> Result:
    """Runs a checked request: here TensorFlow is imported.

    Args:
        request: What is asked.
        objects: What a user gives in Python.
        progress: Told of everything.
        stop_requested: When true, the run ends with the best answer so far.
        started: `time.monotonic()` from which the time limit counts.
    """
    with _opened(request, objects, progress, stop_requested, started) as run:
        return run.complete()


def plan_request(
    request: Request,
    objects: PythonObjects = PythonObjects(),  # noqa: B008 - frozen
    *,
    progress: Progress,
    stop_requested: Callable[[], bool] = lambda: False,
    started: float,
) -> Plan:
    """What a checked request is going to take; nothing of it is trained, and no folder is left.

    Args:
        request: What is asked.
        objects: What a user gives in Python.
        progress: Told of everything.
        stop_requested: When true, it ends.
        started: `time.monotonic()` from which the time for opening model and data counts.

    Raises:
        SearchError: No step time could be measured.
        StoppedError: A stop was requested.
    """
    execution = dataclasses.replace(request.execution, cluster=None)
    with tempfile.TemporaryDirectory(prefix="tfbatch-dry-run-") as folder:
        planned = dataclasses.replace(
            request, run_dir=Path(folder) / "run", overwrite=False, execution=execution
        )
        with _opened(planned, objects, progress, stop_requested, started) as run:
            return run.plan()


@contextlib.contextmanager
def _opened(
    request: Request,
    objects: PythonObjects,
    progress: Progress,
    stop_requested: Callable[[], bool],
    started: float,
) -> Iterator[Run]:
    """A run with everything that it needs."""
    with locked_with_worker(request.run_dir, request.execution, progress) as (lock, warm):
        from tfbatch.search.session import open_run

        with open_run(
            request,
            user_code(request.subject, objects),
            splits=splits_of(request.subject, objects),
            progress=progress,
            stop_requested=stop_requested,
            lock=lock,
            warm=warm,
            started=started,
        ) as run:
            yield run
