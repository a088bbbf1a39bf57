"""A whole run: opens data, model and folder, checks them, and hands over to `run`."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfbatch.bench import Bench
from tfbatch.errors import RunFolderError
from tfbatch.pipeline.user_data import OwnSplit
from tfbatch.process.gpu_utilization import GpuSampler
from tfbatch.process.limits import usable_cores
from tfbatch.request.request import Request, check_for_length
from tfbatch.request.search_config import SearchConfig
from tfbatch.run_folder.fingerprint import record_gpu_utilization, record_load
from tfbatch.run_folder.folder import RunFolder, RunLock
from tfbatch.run_folder.machine_load import LoadSample, load_between, sample_load
from tfbatch.run_folder.trials_table import csv_at_the_end
from tfbatch.schema import content_hash
from tfbatch.search.answer_writer import report_at_the_end
from tfbatch.search.compiled_optimizer import fit_search
from tfbatch.search.engine import Engine
from tfbatch.search.memory_limit import limit_memory
from tfbatch.search.preparation import (
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
from tfbatch.training.evaluation import measure_untrained
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
        ) as ready,
    ):
        subject, data, model, engine = ready.subject, ready.data, ready.model, ready.engine
        num_examples = data.splits["train"]
        request = dataclasses.replace(
            request,
            subject=subject,
            search=_trainable(fit_search(request.search, model), model, progress),
            # What was left to Keras is recorded as what it came to.
            execution=dataclasses.replace(request.execution, jit_compile=model.jit_compile),
        )
        space = SearchSpace(
            request.search.space,
            num_examples=num_examples,
            model_arguments=subject.model_arguments,
            model_hyperparameters=model.hyperparameters,
        )
        check_baseline(subject, num_examples)
        sizes = [*space.batch_sizes, subject.baseline.batch_size]
        check_length(request.trial_length, sizes, num_examples)
        check_for_length(request.for_length, request.trial_length, num_examples)
        check_replicas(sizes, engine.devices.replicas)
        _say_replicas(engine, space, progress)
        if request.search.oracle.in_parts and model.begin_anew:
            progress.say(callbacks_in_parts(model.begin_anew))
        engine.call(check_optimizers, space.optimizer_options())
        stop_if(stop_requested)
        baseline = request.baseline_configuration(space.scaling_rule)
        progress.doing("evaluating the untrained model")
        untrained = engine.call(measure_untrained, baseline)
        for note in untrained.notes:
            progress.say(note)
        names = [*untrained.metrics, *(f"val_{name}" for name in untrained.metrics)]
        request.objective.check(names, untrained.directions)
        check_comparable(request.objective, untrained, progress)
        request, trial_seconds = settle_length(
            request,
            engine=engine,
            baseline=baseline,
            batch_sizes=space.batch_sizes,
            splits=data.splits,
            untrained=untrained,
            left=math.inf
            if request.max_minutes is None
            else request.max_minutes * 60 - (time.monotonic() - started),
            progress=progress,
        )
        folder = RunFolder(
            request.run_dir,
            identity=request.identity(
                records=data.identity,
                model_source=_source_hash(code.build_model),
                model_built=untrained.model_hash,
                trial_examples=request.trial_length.examples(num_examples),
                # Not in the files of runs before there was a choice.
                **({} if data.data_on == "host" else {"data_on": data.data_on}),
            ),
            budget=request.budget(),
            overwrite=request.overwrite,
            lock=lock,
        )
        with (
            folder,
            report_at_the_end(folder.path, progress),
            csv_at_the_end(folder.path, folder.journal.rows, progress.say),
            contextlib.nullcontext()
            if request.execution.cluster  # its processes are no descendants of this one
            else _load_told(folder.path, progress, load_before),
            contextlib.nullcontext()
            if request.execution.cluster or engine.devices.kind == "CPU"
            else _gpus_told(folder.path, progress),
        ):
            engine.admit(
                NodeCheck(
                    data=data.identity,
                    model=untrained.model_hash,
                    baseline=baseline,
                    data_dir=subject.data_dir,
                    records_dir=subject.records_dir,
                    own_dir=lock.data,
                )
            )
            largest = None
            if request.execution.memory_budget is not None:
                bench = Bench(
                    data=data,
                    model=model,
                    baseline=request.baseline_configuration(request.search.space.rule),
                    process=engine,
                    stall_seconds=request.execution.stall_minutes * 60,
                    tell=progress.measuring,
                    memory_seconds=request.execution.memory_seconds,
                )
                largest = limit_memory(
                    bench,
                    request.execution.memory_budget,
                    space.batch_sizes,
                    folder.path,
                    progress,
                )
            run = Run(
                request,
                ready,
                space,
                folder,
                progress,
                stop_requested,
                started,
                untrained,
                build_model=code.build_model,
                largest_batch_size=largest,
                trial_seconds=trial_seconds,
            )
            yield run


def _trainable(search: SearchConfig, model: ModelDescription, progress: Progress) -> SearchConfig:
    """The search, by whole trainings alone where it has a way to do without parts and must."""
    whole = search.oracle.in_whole_trainings()
    if not model.whole_only or whole is None or whole is search.oracle:
        return search
    most = min(search.max_trials, math.ceil(search.oracle.most_trainings() or search.max_trials))
    progress.say(
        f"Trainings cannot go on in parts here ({model.whole_only}), so that the search makes "
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


def _source_hash(build_model: Callable[..., Any]) -> str:
    """Changes when the builder's text changes: its old trials are another model's."""
    try:
        return content_hash(inspect.getsource(build_model))
    except (OSError, TypeError):  # typed at a prompt, or not a function
        return "unknown"
