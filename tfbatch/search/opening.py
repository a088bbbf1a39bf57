"""How a run begins: its engine, its records, and every check before the first trial."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from tfbatch.configuration import Configuration
from tfbatch.errors import STOPPED_EARLY, InputError, StoppedError
from tfbatch.pipeline import PreparedData
from tfbatch.run_folder.folder import RunLock
from tfbatch.search.chief import Board, Chief
from tfbatch.search.engine import InProcessEngine, WorkerEngine
from tfbatch.search.progress import Progress
from tfbatch.search.request import Request
from tfbatch.search.space import SearchSpace
from tfbatch.training.devices import Place
from tfbatch.training.runner import Job, dump_code
from tfbatch.training.workload import BuildModel
from tfbatch.workers import Slot

Callbacks = Callable[[], list[Any]]
AnyEngine = InProcessEngine | WorkerEngine


@contextlib.contextmanager
def open_engine(
    request: Request,
    build_model: BuildModel,
    callbacks: Callbacks | None,
    *,
    lock: RunLock,
    warm: Slot | None,
    stop_requested: Callable[[], bool],
) -> Iterator[AnyEngine]:
    """Starts what runs the trials; ends it however the run ends.

    Raises:
        InputError: The model's builder or the callbacks cannot be sent to another process.
    """
    execution = request.execution
    job = Job(
        request.recipe,
        _sendable(build_model, callbacks),
        precision=execution.precision,
        jit_compile=execution.jit_compile,
        place=Place(strategy=execution.strategy, logical_cpus=execution.logical_cpus),
    )
    engine: AnyEngine
    if execution.workers == 0:
        engine = InProcessEngine(
            job,
            stop_requested=stop_requested,
            checkpoint_seconds=execution.checkpoint_seconds,
        )
    else:
        lock.logs.mkdir(exist_ok=True)
        engine = WorkerEngine(
            job,
            workers=1 if execution.strategy else execution.workers,
            folder=lock.logs,
            lock=lock.workers_file,
            stop_requested=stop_requested,
            stall_minutes=execution.stall_minutes,
            checkpoint_seconds=execution.checkpoint_seconds,
            warm=warm,
        )
    try:
        yield engine
    finally:
        engine.close()


def open_to_others(
    request: Request, engine: AnyEngine, *, records: str, model_built: str, baseline: Configuration
) -> None:
    """Lets other machines join the search, if that is asked for.

    Raises:
        InputError: The address cannot be listened on, or the model cannot be imported elsewhere.
    """
    address = request.execution.chief
    if address is None or isinstance(engine, InProcessEngine):
        return
    if request.model.startswith("__main__:") or "<" in request.model:
        raise InputError(
            f"Machines that join must import the model, and cannot import `{request.model}`. Put "
            "its builder into a module, and give it as package.module:function."
        )
    engine.board = Board(
        {
            "recipe": request.recipe.model_dump(mode="json", by_alias=True),
            "model": request.model,
            "precision": request.execution.precision,
            "jit_compile": request.execution.jit_compile,
            "records": records,
            "model_built": model_built,
            "baseline": baseline.model_dump(mode="json"),
        }
    )
    Chief(address, engine.board)


def load_records(request: Request, engine: AnyEngine, progress: Progress) -> PreparedData:
    """Prepares the records where they are absent, by the engine, and says what there is."""
    engine.on_progress = lambda done, total: progress.preparing("records", done, total)
    folder, written = engine.call("prepare", request.data_dir, request.records_dir)
    engine.on_progress = None
    engine.open(folder)
    data = PreparedData(request.recipe, folder)
    counts = ", ".join(f"{data.num_examples(s):,} {s}" for s in ("train", "validation", "test"))
    progress.say(
        f"{request.recipe.name}: {counts} examples; records "
        f"{'written to' if written else 'in'} {folder}; "
        f"{'resident in memory' if data.resident else 'streamed from disk'}."
    )
    return data


def stop_if(stop_requested: Callable[[], bool]) -> None:
    """Ends a run that has no answer yet.

    Raises:
        StoppedError: It is to stop.
    """
    if stop_requested():
        raise StoppedError(STOPPED_EARLY)


def check_batch_sizes(request: Request, space: SearchSpace, num_examples: int) -> None:
    """Refuses batch sizes larger than the data or than a trial.

    Raises:
        InputError: As it says.
    """
    if request.baseline.batch_size > num_examples:
        raise InputError(
            f"The baseline's batch size must not exceed the {num_examples} training examples of "
            f"{request.recipe.name}. Received: {request.baseline.batch_size}. "
            "Give another one with --baseline=batch_size=N."
        )
    length = request.trial_length.examples(num_examples)
    largest = max(*space.batch_sizes, request.baseline.batch_size)
    if largest > length:
        raise InputError(
            f"A trial of {request.trial_length} has {length} examples: fewer than one batch of "
            f"{largest}. Lengthen it with --trial_length, or give smaller --batch_sizes."
        )


def check_replicas(request: Request, space: SearchSpace, replicas: int) -> None:
    """Refuses global batch sizes that the replicas cannot share equally.

    Raises:
        InputError: As it says.
    """
    wrong = [b for b in (*space.batch_sizes, request.baseline.batch_size) if b % replicas]
    if wrong:
        raise InputError(
            f"A batch is shared equally by the {replicas} replicas, so every batch size must be a "
            f"multiple of {replicas}. Received: {', '.join(map(str, wrong))}. Give others with "
            "--batch_sizes and --baseline."
        )


def _sendable(build_model: BuildModel, callbacks: Callbacks | None) -> bytes:
    try:
        return dump_code(build_model, callbacks)
    except Exception as error:  # whatever an object's own pickling raises
        raise InputError(
            f"The model's builder or the callbacks cannot be sent to a worker process: {error}. "
            "Make what they refer to inside the function, or run in this process with workers=0."
        ) from error
