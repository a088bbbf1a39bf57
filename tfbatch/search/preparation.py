"""How a run begins: its engine, its records, and every check before the first trial."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tfbatch.dataset_info.own_data import DataDescription, OwnData
from tfbatch.dataset_info.recipe import Recipe
from tfbatch.errors import STOPPED_EARLY, InputError, StoppedError, TfbatchError
from tfbatch.pipeline.array_storage import store_splits
from tfbatch.pipeline.user_data import OwnSplit
from tfbatch.process.gpus import (
    NOT_SEEN,
    GpuMachine,
    GpuSettings,
    gpu_notes,
    read_gpus,
    unusable,
)
from tfbatch.quantities import TrainingLength
from tfbatch.request.execution import AUTOMATIC, Execution
from tfbatch.request.model_and_data import ModelAndData
from tfbatch.run_folder.folder import RunLock
from tfbatch.search.cluster import ClusterProcesses
from tfbatch.search.compiled_optimizer import fit_baseline
from tfbatch.search.engine import Engine
from tfbatch.search.progress import Progress
from tfbatch.search.serial_engine import InProcessEngine
from tfbatch.search.worker_engine import Processes, WorkerEngine, WorkerProcesses
from tfbatch.training.context import Job, UserCode, dump_code
from tfbatch.training.data_tasks import describe_data, expect_form, prepare_data
from tfbatch.training.description import ModelDescription, describe_model
from tfbatch.training.devices import MOST_ON_A_GPU, Place, cuda_build, gpu_settings
from tfbatch.training.evaluation import Untrained
from tfbatch.training.workload import shared_batch_size
from tfbatch.trial.objective import Objective
from tfbatch.workers import Slot

_SAY_SECONDS = 10.0


@contextlib.contextmanager
def _open_engine(
    data: Recipe | OwnData,
    execution: Execution,
    code: UserCode,
    *,
    lock: RunLock,
    warm: Slot | None,
    stop_requested: Callable[[], bool],
    say: Callable[[str], None],
    advice: str = "",
) -> Iterator[Engine]:
    """Starts what runs the trials; ends it however the run ends.

    Raises:
        InputError: The user's code cannot be sent to another process, or there is no such cluster.
    """
    per_gpu = execution.workers_per_gpu
    job = Job(
        data,
        _sendable(code),
        precision=execution.precision,
        jit_compile=execution.jit_compile,
        place=Place(
            strategy=execution.strategy,
            logical_cpus=execution.logical_cpus,
            workers_per_gpu=per_gpu if isinstance(per_gpu, int) else 1,  # then it is measured
            data_sharers=MOST_ON_A_GPU if per_gpu == AUTOMATIC else None,
        ),
        data_on=execution.data_on,
    )
    engine: Engine
    if execution.workers == 0:
        engine = InProcessEngine(
            job,
            stop_requested=stop_requested,
            checkpoint_seconds=execution.checkpoint_seconds,
        )
    else:
        lock.logs.mkdir(exist_ok=True)
        workers = 1 if execution.strategy else execution.workers
        processes: Processes
        if execution.cluster is not None:
            processes = ClusterProcesses(
                job,
                address=execution.cluster,
                workers=workers,
                run_dir=lock.path,
                logs=lock.logs,
                lock=lock.workers_file,
                stop_requested=stop_requested,
                stall_minutes=execution.stall_minutes,
                say=say,
                advice=advice,
            )
        else:
            processes = WorkerProcesses(
                job,
                workers=workers,
                folder=lock.logs,
                lock=lock.workers_file,
                stop_requested=stop_requested,
                stall_minutes=execution.stall_minutes,
                warm=warm,
                advice=advice,
            )
        engine = WorkerEngine(processes, checkpoint_seconds=execution.checkpoint_seconds)
    try:
        yield engine
    finally:
        engine.close()


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Model and data, ready to be trained.

    Attributes:
        subject: Model and data with the place of what was stored, and with the compiled learning
            rate where the user gives none.
        data: What the data holds.
        model: What the model is.
        engine: Runs trials and other tasks.
        gpu_settings: What trainings on this machine's GPUs run with; None without one, and on a
            cluster, where each node has its own.
    """

    subject: ModelAndData
    data: DataDescription
    model: ModelDescription
    engine: Engine
    gpu_settings: GpuSettings | None = None


@contextlib.contextmanager
def prepared(
    subject: ModelAndData,
    execution: Execution,
    code: UserCode,
    *,
    lock: RunLock,
    progress: Progress,
    splits: Mapping[str, OwnSplit] | None = None,
    warm: Slot | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
    advice: str = "",
    searched: Mapping[str, object] | None = None,
) -> Iterator[Prepared]:
    """Prepares data and model, whatever is to be trained then; ends the processes at the end.

    Args:
        subject: Model and data.
        execution: How and where.
        code: The model's builder, and what else a user gives as code.
        lock: Lock of the folder that data of a user's own and logs are kept in.
        progress: Receives the progress.
        splits: Arrays or Datasets of this process, to be stored there.
        warm: A slot whose process has imported TensorFlow, or None.
        stop_requested: When true, what runs is ended.
        advice: A sentence for users whose task has ended with its process.
        searched: What a search says of the builder's arguments; None where nothing is searched.

    Raises:
        InputError: The data, the code or the model cannot be used.
        DataError: Data absent or damaged.
        RunFolderError: It cannot be written.
    """
    # Of a cluster each node is asked for its own, and cluster.json holds them.
    gpus = GpuMachine() if execution.cluster else checked_gpus(progress)
    with _open_engine(
        subject.data,
        execution,
        code,
        lock=lock,
        warm=warm,
        stop_requested=stop_requested,
        say=progress.say,
        advice=advice,
    ) as engine:
        subject, data, engine = _load_records(
            subject, engine, progress, own_dir=lock.data, splits=splits
        )
        progress.doing("building the model")
        options = None
        if searched is not None:
            options = {name: _options(value) for name, value in searched.items()}
        model = engine.call(describe_model, dict(subject.model_arguments), options)
        for note in model.notes:
            progress.say(note)
        settings = gpu_settings(gpus, jit_compile=model.jit_compile)
        if settings is not None:
            progress.note(f"{settings}.")
            if engine.devices.kind == "CPU" and settings.build.cuda:
                progress.note(NOT_SEEN)
        yield Prepared(fit_baseline(subject, model), data, model, engine, settings)


def _options(value: object) -> tuple[object, ...]:
    """The values of a search for an argument of the builder; none where it is a range."""
    if isinstance(value, list | tuple):
        return tuple(value)
    return () if isinstance(value, dict) else (value,)


def checked_gpus(progress: Progress) -> GpuMachine:
    """Asks the driver for the GPUs before any process opens one, and tells what stands against it.

    Raises:
        InputError: TensorFlow has no code for any of them.
    """
    gpus, build = read_gpus(), cuda_build()
    if reason := unusable(gpus, build):
        raise InputError(reason)
    for note in gpu_notes(gpus, build):
        progress.note(note)
    return gpus


def _load_records(
    subject: ModelAndData,
    engine: Engine,
    progress: Progress,
    *,
    own_dir: Path,
    splits: Mapping[str, OwnSplit] | None = None,
) -> tuple[ModelAndData, DataDescription, Engine]:
    """Prepares the data where needed, by the engine, and reports its contents.

    Args:
        subject: Model and data.
        engine: Runs the trials; its model determines how a user's own data is read.
        progress: Receives the progress.
        own_dir: Folder for a user's own data.
        splits: Arrays or Datasets of this process, to be stored there.

    Returns:
        Model and data with the place of what was stored, what the data holds, and the engine whose
        tasks find it.

    Raises:
        InputError: The data, or the data with this model, cannot be used.
        DataError: It is absent or damaged.
        RunFolderError: It cannot be written.
    """
    if splits is None:
        folder = engine.call_watched(
            lambda done, total: progress.preparing("records", done, total),
            prepare_data,
            subject.data_dir,
            subject.records_dir,
            own_dir,
        )
    else:
        expected = engine.call(expect_form, splits["train"].form)
        folder = store_splits(own_dir, splits, expected, heartbeat=_every_few_seconds(progress))
        stored = subject.data.model_copy(update={"where": str(folder)})
        subject = dataclasses.replace(subject, data=stored, dataset=str(folder))
    engine = engine.opened(folder)
    data = engine.call(describe_data)
    counts = ", ".join(f"{count:,} {split}" for split, count in data.splits.items())
    progress.say(f"{subject.data.name}: {counts} examples; {data.where}.")
    for note in data.notes:
        progress.say(note)
    return subject, data, engine


def _every_few_seconds(progress: Progress) -> Callable[[int], None]:
    """Says how much is stored, where that takes long."""
    last = time.monotonic()

    def alive(done: int) -> None:
        nonlocal last
        if time.monotonic() - last > _SAY_SECONDS:
            last = time.monotonic()
            progress.say(f"storing your data: {done:,} examples so far")

    return alive


def stop_if(stop_requested: Callable[[], bool]) -> None:
    """Ends a run that has no answer yet.

    Raises:
        StoppedError: It is to stop.
    """
    if stop_requested():
        raise StoppedError(STOPPED_EARLY)


def check_baseline(subject: ModelAndData, num_examples: int) -> None:
    """Refuses a baseline's batch size that is larger than the data.

    Raises:
        InputError: It exceeds the training examples.
    """
    if subject.baseline.batch_size > num_examples:
        raise InputError(
            f"The baseline's batch size must not exceed the {num_examples} training examples of "
            f"{subject.data.name}. Received: {subject.baseline.batch_size}. "
            "Give another one with --baseline=batch_size=N."
        )


def check_length(length: TrainingLength, batch_sizes: Sequence[int], num_examples: int) -> None:
    """Refuses batch sizes larger than a trial.

    Raises:
        InputError: A batch exceeds a trial.
    """
    examples, largest = length.examples(num_examples), max(batch_sizes)
    if largest > examples:
        raise InputError(
            f"A trial of {length} has {examples} examples: fewer than one batch of "
            f"{largest}. Lengthen it with --trial_length, or give smaller --batch_sizes."
        )


def check_comparable(objective: Objective, untrained: Untrained, progress: Progress) -> None:
    """Names metrics that depend on the batch; refuses to rank batch sizes by a training one.

    Raises:
        InputError: The objective is a training metric that depends on the batch.
    """
    for name, (large, small) in untrained.batch_dependent.items():
        what = (
            f"`{name}` of this model depends on the batch that it is computed on ({large:.4g} and "
            f"{small:.4g} for the same examples in large and in small batches)"
        )
        if objective.name == name:
            raise InputError(
                f"{what}: as a training metric it cannot compare batch sizes. Received: "
                f"--objective={objective}. Compare --objective=val_{name}, which is "
                "computed in batches of one size for all trials, or a metric of the task."
            )
        progress.say(
            f"{what}: its training values of different batch sizes are not comparable. "
            f"`val_{name}` is computed in batches of one size for all trials."
        )


def check_replicas(batch_sizes: Sequence[int], replicas: int, splits: Mapping[str, int]) -> None:
    """Refuses global batch sizes that the replicas cannot share equally, and splits.

    Args:
        batch_sizes: Of the trainings.
        replicas: Devices that share every batch.
        splits: The number of examples of each.

    Raises:
        InputError: A batch size is not a multiple of the number of replicas, or a split that is
            evaluated is too small for them.
    """
    wrong = [b for b in batch_sizes if b % replicas]
    if wrong:
        raise InputError(
            f"A batch is shared equally by the {replicas} replicas, so every batch size must be a "
            f"multiple of {replicas}. Received: {', '.join(map(str, wrong))}. Give others with "
            "--batch_sizes and --baseline."
        )
    evaluated = {name: examples for name, examples in splits.items() if name != "train"}
    for name, examples in evaluated.items() if replicas > 1 else ():
        shared_batch_size(name, examples, replicas)


def _sendable(code: UserCode) -> bytes:
    try:
        return dump_code(code)
    except TfbatchError:
        raise
    except Exception as error:  # whatever an object's own pickling raises
        part, reason = _not_sendable(code) or ("The loss or a metric", error)
        # A Dataset is a tensor of this type to TensorFlow, which names no Dataset.
        dataset = " (such as a tf.data.Dataset)" if "dtype variant" in str(reason) else ""
        raise InputError(
            f"{part} cannot be copied for a trial: {str(reason).rstrip('.')}. "
            f"Make what it refers to{dataset} inside the function."
        ) from error


def _not_sendable(code: UserCode) -> tuple[str, Exception] | None:
    """Which part of a user's code cannot be copied, and why."""
    parts = {
        "The model's builder": UserCode(code.build_model),
        "The data's function": UserCode(_nothing, make_dataset=code.make_dataset),
        "What makes the callbacks": UserCode(_nothing, callbacks=code.callbacks),
    }
    for part, alone in parts.items():
        try:
            dump_code(alone)
        except Exception as error:  # whatever an object's own pickling raises
            return part, error
    return None


def _nothing() -> None:
    """Stands for a part that is left out."""
