"""A process that trains: how it begins, and what every function gets that is called in it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar

import cloudpickle
import tensorflow as tf

from tfbatch.dataset_info.own_data import OwnData
from tfbatch.dataset_info.recipe import Recipe
from tfbatch.errors import StoppedError
from tfbatch.pipeline.load import open_prepared
from tfbatch.pipeline.trainable_data import Data
from tfbatch.request.execution import JitCompile
from tfbatch.training.by_value import dumps
from tfbatch.training.compilation import Compilation
from tfbatch.training.data_place import Placement, place_data
from tfbatch.training.devices import (
    Devices,
    Place,
    claim_devices,
    make_strategy,
    workers_on_a_gpu,
)
from tfbatch.training.model_builder import BuildModel
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.workload import Workload
from tfbatch.workers.slot import Start, worker_mailbox

if TYPE_CHECKING:
    import keras

P = ParamSpec("P")
R = TypeVar("R")


class Signs(Protocol):
    """What the process shares with whoever directs it."""

    def stop_requested(self) -> bool:
        """Whether the running task is to end."""

    def report(self, done: int, total: int, within: float = 0.0) -> None:
        """A heartbeat, and how far the task is; see tfbatch.workers.mailbox.TaskProgress."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What all tasks of a run have in common; it travels to every worker.

    Attributes:
        data: The data set.
        code: `dump_code(UserCode(...))`.
        precision: Keras's dtype policy.
        jit_compile: Whether XLA compiles the model; "auto" as Keras chooses.
        place: Which share of the machine is used.
        data_on: Where the examples live: "auto", "device" or "host"; see training.data_place.
    """

    data: Recipe | OwnData
    code: bytes
    precision: str = "float32"
    jit_compile: JitCompile = False
    place: Place = dataclasses.field(default_factory=Place)
    data_on: str = "auto"


@dataclasses.dataclass(frozen=True)
class UserCode:
    """What a user gives as code.

    Attributes:
        build_model: The model's builder.
        callbacks: Makes Keras callbacks, new ones for each trial; or None.
        make_dataset: Gives the data; None where it is named or stored.
        compilation: Loss and metrics of a model that is not compiled.
        callbacks_name: `package.module:function` of `callbacks`, "(given in Python)", or None.
    """

    build_model: BuildModel
    callbacks: Callable[[], list[keras.callbacks.Callback]] | None = None
    make_dataset: Callable[..., object] | None = None
    compilation: Compilation = dataclasses.field(default_factory=Compilation)
    callbacks_name: str | None = None


def dump_code(code: UserCode) -> bytes:
    """A user's code for another process: by value where it is defined in a notebook.

    Raises:
        InputError: A Keras object would lose an argument; see tfbatch.training.by_value.
    """
    return dumps(code)


def load_code(job: Job) -> UserCode:
    """What `dump_code` was given, in this process."""
    code: UserCode = cloudpickle.loads(job.code)
    return code


@dataclasses.dataclass(frozen=True, eq=False)
class TaskContext:
    """The first argument of every task, that is of every function which an engine calls.

    Attributes:
        job: What all tasks have in common.
        code: What the user gives as code.
        signs: What the process shares with whoever directs it.
        records: Where the prepared data is; None before it is prepared.
    """

    job: Job
    code: UserCode
    signs: Signs
    records: Path | None = None

    def opened(self, records: Path) -> TaskContext:
        """The same with the prepared data, which the first task that needs it opens."""
        return self if records == self.records else dataclasses.replace(self, records=records)

    @functools.cached_property
    def programs(self) -> ProgramCache:
        """Data, model builder and the programs that were traced in this process.

        Raises:
            RuntimeError: No data is prepared yet.
            DataError: The data is absent or damaged.
        """
        return ProgramCache(
            Workload(
                self.data,
                self.code.build_model,
                compilation=self.code.compilation,
                precision=self.job.precision,
                jit_compile=self.job.jit_compile,
                strategy=self._strategy,
                held=self.placement.held,
            )
        )

    @functools.cached_property
    def data(self) -> Data:
        """The prepared data.

        Raises:
            RuntimeError: No data is prepared yet.
            DataError: It is absent or damaged.
        """
        if self.records is None:
            raise RuntimeError("the data must be prepared first")
        return open_prepared(self.job.data, self.records, self.code.make_dataset)

    @functools.cached_property
    def placement(self) -> Placement:
        """Where its examples live.

        Raises:
            DataError: It is absent or damaged.
        """
        return place_data(
            self.data,
            self.job.data_on,
            sharers=self.job.place.data_sharers or workers_on_a_gpu(self.job.place),
            strategy=self._strategy,
            class_weight=self.code.compilation.class_weight,
            callbacks=self.code.callbacks,
        )

    @functools.cached_property
    def _strategy(self) -> tf.distribute.Strategy | None:
        return make_strategy(self.job.place.strategy)

    def heartbeat(self) -> None:
        """Says that the task lives."""
        self.signs.report(0, 0)

    def heartbeat_or_stop(self) -> None:
        """Says that the task lives, and ends it if that is asked for.

        Raises:
            StoppedError: A stop was requested.
        """
        self.heartbeat()
        if self.signs.stop_requested():
            raise StoppedError("the run was asked to stop")


_CONTEXT: TaskContext | None = None
_DEVICES: Devices | None = None


def begin_worker(job: Job, records: Path | None = None) -> None:
    """Inside a worker, before any task.

    The devices are opened here: a GPU without room for this process is not a trial's fault.
    """
    global _CONTEXT, _DEVICES
    _DEVICES = claim_devices(job.place)
    tf.config.list_logical_devices()
    _CONTEXT = TaskContext(job, load_code(job), worker_mailbox(), records)


def worker_alone(job: Job, records: Path | None, log: Path) -> Start:
    """How a worker begins that has the whole machine.

    Args:
        job: What all tasks have in common.
        records: Where the prepared data is.
        log: File for everything that it prints.
    """
    place = dataclasses.replace(job.place, slot=0, workers=1, whole=True)
    return Start(log, None, begin_worker, (dataclasses.replace(job, place=place), records))


def describe_devices() -> Devices:
    """Inside a worker: what it has."""
    if _DEVICES is None:
        raise RuntimeError("this process is no worker")
    return _DEVICES


def perform(
    records: Path | None,
    task: Callable[Concatenate[TaskContext, P], R],
    *arguments: P.args,
    **options: P.kwargs,
) -> R:
    """Inside a worker: runs a task.

    Args:
        records: Where the prepared data is; None for where it was.
        task: Module-level, so that it travels by its name.
        arguments: What it takes after the context.
        options: The same by name.
    """
    global _CONTEXT
    if _CONTEXT is None:
        raise RuntimeError("this process is no worker")
    if records is not None:
        _CONTEXT = _CONTEXT.opened(records)
    return task(_CONTEXT, *arguments, **options)
