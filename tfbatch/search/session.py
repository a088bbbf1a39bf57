"""A whole run: opens data, model and folder, checks them, and hands over to `run`."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tfbatch.bench import Bench
from tfbatch.configuration import Configuration
from tfbatch.errors import InputError, RunFolderError
from tfbatch.optimizers import OPTIMIZERS
from tfbatch.pipeline.user_data import OwnSplit
from tfbatch.process.gpu_utilization import GpuSampler
from tfbatch.process.limits import usable_cores
from tfbatch.request.execution import AUTOMATIC, Execution
from tfbatch.request.request import Request, check_for_length
from tfbatch.request.search_config import SearchConfig
from tfbatch.run_folder.files import JOURNAL
from tfbatch.run_folder.fingerprint import record_gpu_utilization, record_load
from tfbatch.run_folder.folder import OF_THE_MACHINE, RunFolder, RunLock, begun_with
from tfbatch.run_folder.journal import read_rows
from tfbatch.run_folder.machine_load import LoadSample, load_between, sample_load
from tfbatch.run_folder.trials_table import csv_at_the_end
from tfbatch.run_folder.wall_time import spent_seconds
from tfbatch.search.answer_writer import report_at_the_end
from tfbatch.search.clock import FINISHING_SECONDS
from tfbatch.search.compiled_optimizer import fit_search
from tfbatch.search.engine import Engine
from tfbatch.search.memory_limit import limit_memory
from tfbatch.search.preparation import (
    Prepared,
    check_baseline,
    check_comparable,
    check_length,
    check_replicas,
    prepared,
    stop_if,
)
from tfbatch.search.progress import Progress
from tfbatch.search.run import Run
from tfbatch.search.space import SearchSpace
from tfbatch.search.trial_length import settle_length
from tfbatch.training.context import UserCode
from tfbatch.training.description import ModelDescription, check_optimizers
from tfbatch.training.evaluation import Untrained, measure_untrained
from tfbatch.training.given_objects import code_identity
from tfbatch.training.node_check import NodeCheck
from tfbatch.workers import Slot


@contextlib.contextmanager
def open_run(
    request: Request,
    code: UserCode,
    *,
    splits: Mapping[str, OwnSplit] | None = None,
    progress: Progress,
    stop_requested: Callable[[], bool],
    lock: RunLock,
    warm: Slot | None = None,
    started: float | None = None,
) -> Iterator[Run]:
    """Opens a run that begins or is continued, and closes whatever it needs.

    Args:
        request: What is asked.
        code: The model's builder, and what else a user gives as code.
        splits: Arrays or Datasets to be stored in the run folder.
        progress: Told of everything.
        stop_requested: When true, the run ends with the best answer so far.
        lock: The run folder's lock.
        warm: A slot whose process has imported TensorFlow, or None.
        started: `time.monotonic()` of the command's start, from which the time limit counts.

    Raises:
        InputError: Something asked for cannot be used; nothing was trained.
        DataError: Data absent or damaged.
        RunFolderError: The run folder is in use, or full.
        StoppedError: A stop was requested.
    """
    started = time.monotonic() if started is None else started
    stop_if(stop_requested)
    load_before = sample_load()
    _say_if_time_is_over(request, progress)
    request = _as_taken(request, progress) if request.only_times else request
    progress.doing("starting the first worker process")
    with (
        lock,
        prepared(
            request.subject,
            request.execution,
            code,
            lock=lock,
            progress=progress,
            splits=splits,
            warm=warm,
            stop_requested=stop_requested,
            advice=_advice(request.execution, lock.logs),
            searched=request.search.space.model,
        ) as ready,
    ):
        engine = ready.engine
        request = _for_model(request, ready, progress)
        space = _checked_space(request, ready, progress)
        stop_if(stop_requested)
        baseline = request.baseline_configuration(space.scaling_rule)
        untrained = _measured_untrained(request, engine, baseline, progress)
        spent = time.monotonic() - started
        request, trial_seconds = settle_length(
            request,
            engine=engine,
            baseline=baseline,
            batch_sizes=space.batch_sizes,
            splits=ready.data.splits,
            untrained=untrained,
            left=math.inf if request.max_minutes is None else request.max_minutes * 60 - spent,
            progress=progress,
        )
        check_for_length(request.for_length, request.trial_length, ready.data.splits["train"])
        folder = _folder_of(request, ready, code, untrained, lock)
        with folder, _noted(folder, request, engine, progress, load_before):
            engine.admit(
                NodeCheck(
                    data=ready.data.identity,
                    model=untrained.model_hash,
                    baseline=baseline,
                    data_dir=ready.subject.data_dir,
                    records_dir=ready.subject.records_dir,
                    own_dir=lock.data,
                )
            )
            yield Run(
                request,
                ready,
                space,
                folder,
                progress,
                stop_requested,
                started,
                untrained,
                build_model=code.build_model,
                callbacks=code.callbacks_name,
                largest_batch_size=_largest_batch_size(request, ready, space, folder, progress),
                trial_seconds=trial_seconds,
            )


def _say_if_time_is_over(request: Request, progress: Progress) -> None:
    """Before any process starts: a session that can begin no trial takes its time, too."""
    if request.max_minutes is None or request.overwrite:
        return
    journal = request.run_dir / JOURNAL
    rows = read_rows(journal) if journal.exists() else []
    spent = spent_seconds(request.run_dir, rows) if rows else 0.0
    if spent >= 60 * request.max_minutes - FINISHING_SECONDS:
        progress.say(
            f"The {request.max_minutes:g} min of --max_minutes are used up: the sessions on "
            f"{request.run_dir} took {spent / 60:.1f}. No further trial begins without a larger "
            "--max_minutes."
        )


def _as_taken(request: Request, progress: Progress) -> Request:
    """With XLA and the place of the batches as the trials have them that were taken from a run.

    What is left to the machine comes to something else on another one, and would be refused. A run
    that trains further is refused there instead: it names the flags.
    """
    before = begun_with(request.run_dir)
    execution = request.execution
    had = OF_THE_MACHINE | before if before else {}
    taken = {
        name: had[name]
        for name in OF_THE_MACHINE
        if had.get(name) is not None and getattr(execution, name) == AUTOMATIC
    }
    if taken:
        flags = " ".join(f"--{name}={str(value).lower()}" for name, value in taken.items())
        progress.say(f"As in the trials that were taken: {flags}.")
    return dataclasses.replace(request, execution=dataclasses.replace(execution, **taken))


def _advice(execution: Execution, logs: Path) -> str:
    """Where to look when a process has ended in a task: not everything can run without workers."""
    try:
        dataclasses.replace(execution, workers=0)
    except InputError:
        return f"What it has printed is in {logs}."
    return "`--workers=0` runs everything in one process, where a debugger can look."


def _for_model(request: Request, ready: Prepared, progress: Progress) -> Request:
    """What is asked, with what follows from the model."""
    model = ready.model
    return dataclasses.replace(
        request,
        subject=ready.subject,
        search=_trainable(fit_search(request.search, model), model, progress),
        # What was left to Keras is recorded as what it came to.
        execution=dataclasses.replace(request.execution, jit_compile=model.jit_compile),
    )


def _checked_space(request: Request, ready: Prepared, progress: Progress) -> SearchSpace:
    """The space of the search on this data.

    Raises:
        InputError: Sizes, lengths or an optimizer that data, devices or model cannot have.
    """
    subject, model, engine = ready.subject, ready.model, ready.engine
    num_examples = ready.data.splits["train"]
    space = SearchSpace(
        request.search.space,
        num_examples=num_examples,
        model_arguments=subject.model_arguments,
        model_hyperparameters=model.hyperparameters,
    )
    check_baseline(subject, num_examples)
    sizes = [*space.batch_sizes, subject.baseline.batch_size]
    check_length(request.trial_length, sizes, num_examples)
    check_replicas(sizes, engine.devices.replicas, ready.data.splits)
    _say_replicas(engine, space, progress)
    if request.search.oracle.in_parts and model.begin_anew:
        progress.say(callbacks_in_parts(model.begin_anew))
    engine.call(check_optimizers, space.optimizer_options())
    return space


def _measured_untrained(
    request: Request, engine: Engine, baseline: Configuration, progress: Progress
) -> Untrained:
    """The untrained model, which knows the objective.

    Raises:
        InputError: It does not, or trials could not be compared by it.
    """
    progress.doing("evaluating the untrained model")
    untrained = engine.call(measure_untrained, baseline)
    if request.subject.task.class_weight and request.objective.name == "val_loss":
        progress.say(
            "`class_weight` weights the training alone: val_loss, by which trials are compared, is "
            "not weighted. A metric of your model, such as --objective=val_auc, may say more."
        )
    for note in untrained.notes:
        progress.say(note)
    names = [*untrained.metrics, *(f"val_{name}" for name in untrained.metrics)]
    request.objective.check(names, untrained.directions, several=untrained.several)
    check_comparable(request.objective, untrained, progress)
    return untrained


def _folder_of(
    request: Request, ready: Prepared, code: UserCode, untrained: Untrained, lock: RunLock
) -> RunFolder:
    """The run folder, not yet opened, with all that makes two runs comparable."""
    data = ready.data
    return RunFolder(
        request.run_dir,
        identity=request.identity(
            records=data.identity,
            **code_identity(code, ready.model.compiled_with, ready.model.hyperparameters),
            model_built=untrained.model_hash,
            trial_examples=request.trial_length.examples(data.splits["train"]),
            # Not in the files of runs before there was a choice.
            **({} if data.data_on == "host" else {"data_on": data.data_on}),
        ),
        budget=request.budget(),
        overwrite=request.overwrite,
        lock=lock,
    )


@contextlib.contextmanager
def _noted(
    folder: RunFolder,
    request: Request,
    engine: Engine,
    progress: Progress,
    load_before: LoadSample,
) -> Iterator[None]:
    """What is written and told at the end of a run, however it ends."""
    with contextlib.ExitStack() as at_the_end:
        at_the_end.enter_context(report_at_the_end(folder.path, progress))
        at_the_end.enter_context(csv_at_the_end(folder.path, folder.journal.rows, progress.say))
        if not request.execution.cluster:  # its processes are no descendants of this one
            at_the_end.enter_context(_load_told(folder.path, progress, load_before))
            if engine.devices.kind != "CPU":
                at_the_end.enter_context(_gpus_told(folder.path, progress))
        yield


def _largest_batch_size(
    request: Request, ready: Prepared, space: SearchSpace, folder: RunFolder, progress: Progress
) -> int | None:
    """The largest one that fits, where it is to be measured; None where it is not."""
    execution = request.execution
    if execution.memory_budget is None:
        return None
    bench = Bench(
        data=ready.data,
        model=ready.model,
        baseline=request.baseline_configuration(request.search.space.rule),
        process=ready.engine,
        stall_seconds=execution.stall_minutes * 60,
        tell=progress.measuring,
        memory_seconds=execution.memory_seconds,
    )
    return limit_memory(bench, execution.memory_budget, space.batch_sizes, folder.path, progress)


def _trainable(search: SearchConfig, model: ModelDescription, progress: Progress) -> SearchConfig:
    """The search, by whole trainings alone where it has a way to do without parts and must.

    Raises:
        InputError: It has none, and needs what the compiled optimizer cannot do.
    """
    whole = search.oracle.in_whole_trainings()
    schedules = [schedule.name for schedule in search.space.schedules]
    no_branches = model.no_branches if search.oracle.branches(schedules) else ""
    if whole is None and no_branches:
        raise InputError(
            f"The oracle {search.oracle.name} continues trainings under another schedule, so the "
            f"model must be compiled with one of the optimizers {', '.join(OPTIMIZERS.names())}. "
            f"Received: another one ({no_branches}). Compile the model with one of these, or give "
            "--search=joint, which makes whole trainings."
        )
    reason = model.whole_only or no_branches
    if not reason or whole is None or whole is search.oracle:
        return search
    most = min(search.max_trials, math.ceil(search.oracle.most_trainings() or search.max_trials))
    progress.say(
        f"Trainings cannot go on in parts here ({reason}), so that the search makes "
        f"whole ones alone, by {whole.name}: up to {most} (--search=joint makes as many as "
        "--max_trials says)."
    )
    return search.model_copy(update={"oracle": whole, "max_trials": most})


def callbacks_in_parts(begin_anew: Sequence[str]) -> str:
    """What a search in parts says of a user's callbacks.

    Args:
        begin_anew: Attributes that are not carried from part to part.
    """
    return (
        "This search trains in parts, each with new callbacks. The numbers, texts, arrays and "
        "collections of them that yours keep go on from part to part; what begins anew in each: "
        f"{', '.join(begin_anew)}. --search=joint trains every trial in one piece."
    )


@contextlib.contextmanager
def _load_told(folder: Path, progress: Progress, before: LoadSample) -> Iterator[None]:
    """Says at both ends whether other processes take cores, and notes how many."""
    cores = usable_cores()
    at_start = load_between(before, sample_load(), cores=cores)
    record_load(folder, at_start=at_start)
    if at_start.busy:
        progress.say(
            f"The machine is busy: other processes use {at_start.others:.1f} of {cores:.1f} "
            "cores. All times are longer than on an idle machine."
        )
    begun = sample_load()
    try:
        yield
    finally:
        during = load_between(begun, sample_load(), cores=cores)
        with contextlib.suppress(RunFolderError):  # whatever ends the run is told
            record_load(folder, during_run=during)
        if during.busy:
            progress.say(
                f"During the run other processes used {during.others:.1f} of {cores:.1f} cores: "
                "its times are longer than on an idle machine."
            )


@contextlib.contextmanager
def _gpus_told(folder: Path, progress: Progress) -> Iterator[None]:
    """Says at the end how busy this machine's GPUs were."""
    sampler = GpuSampler()
    try:
        with sampler:
            yield
    finally:
        if (found := sampler.utilization()) is not None:
            with contextlib.suppress(RunFolderError):  # whatever ends the run is told
                record_gpu_utilization(folder, found)
            progress.say(f"During the run: {found}.")


def _say_replicas(engine: Engine, space: SearchSpace, progress: Progress) -> None:
    replicas = engine.devices.replicas
    if replicas > 1:
        sizes = ", ".join(f"{b} = {replicas} x {b // replicas}" for b in space.batch_sizes)
        progress.say(
            f"{replicas} replicas share every batch. Global batch sizes, of which learning-rate "
            f"rules and schedules speak = replicas x batch size of each: {sizes}."
        )
