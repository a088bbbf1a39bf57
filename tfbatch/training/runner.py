"""Everything that a search asks of a process that trains: a worker's, or its own."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import cloudpickle
import keras
import tensorflow as tf

from tfbatch.configuration import Configuration
from tfbatch.errors import STOPPED_EARLY, InputError, StoppedError, TfbatchError
from tfbatch.optimizers import OWN
from tfbatch.own_data import DataDescription, OwnData
from tfbatch.pipeline.classes import Expected
from tfbatch.pipeline.element import Form
from tfbatch.pipeline.kinds import open_prepared, prepare_folder
from tfbatch.recipes import Recipe
from tfbatch.schedules import LearningRateInExamples, follow_momentum
from tfbatch.training.by_value import dumps
from tfbatch.training.callbacks import check_callbacks
from tfbatch.training.compilation import Compilation
from tfbatch.training.description import ModelDescription, describe_model
from tfbatch.training.devices import Devices, Place, claim_devices, make_strategy
from tfbatch.training.evaluation import Untrained, evaluate_weights, measure_untrained, save_model
from tfbatch.training.expectation import expect
from tfbatch.training.model_builder import BuildModel, check_arguments
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.step_times import (
    StepTimesFile,
    expected_trial_seconds,
    measure_step_times,
    seconds_of_validation,
)
from tfbatch.training.trial import run_trial
from tfbatch.training.workload import Workload, build_before_data, make_optimizer
from tfbatch.trial.derived import derive
from tfbatch.trial.outcome import Outcome, TrialSpec
from tfbatch.workers.slot import worker_mailbox


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
        jit_compile: Whether XLA compiles the model.
        place: Which share of the machine is used.
    """

    data: Recipe | OwnData
    code: bytes
    precision: str = "float32"
    jit_compile: bool = False
    place: Place = dataclasses.field(default_factory=Place)


@dataclasses.dataclass(frozen=True)
class UserCode:
    """What a user gives as code.

    Attributes:
        build_model: The model's builder.
        callbacks: Makes Keras callbacks, new ones for each trial; or None.
        make_dataset: Gives the data; None where it is named or stored.
        compilation: Loss and metrics of a model that is not compiled.
    """

    build_model: BuildModel
    callbacks: Callable[[], list[Any]] | None = None
    make_dataset: Callable[..., Any] | None = None
    compilation: Compilation = dataclasses.field(default_factory=Compilation)


def dump_code(code: UserCode) -> bytes:
    """A user's code for another process: by value where it is defined in a notebook.

    Raises:
        InputError: A Keras object would lose an argument; see tfbatch.training.by_value.
    """
    return dumps(code)


class Runner:
    """The tasks, in one process. The data is opened by the first task that needs it.

    Args:
        job: What all tasks have in common.
        signs: What the process shares with whoever directs it.
    """

    def __init__(self, job: Job, signs: Signs):
        self._job = job
        self._signs = signs
        self._code: UserCode = cloudpickle.loads(job.code)
        self._folder: Path | None = None
        self._loaded: ProgramCache | None = None

    def prepare(
        self, data_dir: Path | None, records_dir: Path | None, own_dir: Path | None
    ) -> tuple[Path, bool]:
        """Makes the data ready for all processes; see tfbatch.pipeline.kinds."""

        def progress(split: str, done: int, total: int) -> None:
            del split
            self._signs.report(done, total)
            if self._signs.stop_requested():
                raise StoppedError(STOPPED_EARLY)

        return prepare_folder(
            self._job.data,
            self._code.make_dataset,
            data_dir=data_dir,
            records_dir=records_dir,
            own_dir=own_dir,
            expect=self.expect,
            progress=progress,
        )

    def expect(self, form: Form) -> Expected:
        """Infers the form of data before it is read; see tfbatch.training.expectation."""
        code = self._code
        return expect(
            form,
            code.build_model,
            code.compilation,
            build=lambda input_shape: build_before_data(
                code.build_model,
                input_shape=input_shape,
                precision=self._job.precision,
                strategy=make_strategy(self._job.place.strategy),
            ),
        )

    def open(self, folder: Path) -> None:
        """Says where the data is."""
        if folder != self._folder:
            self._folder, self._loaded = folder, None

    def describe_data(self) -> DataDescription:
        """What the data holds."""
        return self._programs().workload.data.describe()

    def describe_model(self, arguments: Sequence[str]) -> ModelDescription:
        """What the model is; refuses arguments that its builder does not take.

        Raises:
            InputError: The model, an argument or a callback cannot be used.
        """
        check_arguments(self._code.build_model, dict.fromkeys(arguments))
        try:
            notes = check_callbacks((self._code.callbacks or list)())
            found = describe_model(self._programs().workload)
        except TfbatchError:
            raise
        except Exception as error:  # of the user's own code: shown whole, before any trial
            raise InputError(
                f"The model or the callbacks cannot be built:\n{traceback.format_exc()}"
            ) from error
        return dataclasses.replace(found, notes=(*found.notes, *notes))

    def check_optimizers(self, configurations: Sequence[Configuration]) -> None:
        """Makes each optimizer: a typing error must not wait for the trials.

        Raises:
            InputError: An optimizer refuses a value, or has no momentum for a schedule to set.
        """
        for configuration in configurations:
            if configuration.optimizer.name == OWN:  # made with every build
                continue
            length = 1000 * configuration.batch_size  # any: Keras judges numbers, not their sizes
            derived = derive(configuration, num_examples=length, total_examples=length)
            schedule = LearningRateInExamples(
                configuration.schedule.name,
                learning_rate=1.0,
                batch_size=1,
                total_examples=1,
                parameters=configuration.schedule.arguments,
            )
            follow_momentum(make_optimizer(configuration, schedule, derived))

    def measure_untrained(self, configuration: Configuration) -> Untrained:
        """See tfbatch.training.evaluation."""
        return measure_untrained(self._programs(), configuration)

    def run_trial(self, spec: TrialSpec, checkpoint_seconds: float) -> Outcome:
        """See tfbatch.training.trial."""
        return run_trial(
            self._programs(),
            spec,
            stop_requested=self._signs.stop_requested,
            user_callbacks=self._callbacks,
            checkpoint_seconds=checkpoint_seconds,
        )

    def evaluate_weights(
        self, configuration: Configuration, weights: Path, split: str, seed: int
    ) -> dict[str, float]:
        """See tfbatch.training.evaluation."""
        return evaluate_weights(self._programs(), configuration, weights, split=split, seed=seed)

    def save_model(
        self,
        configuration: Configuration,
        weights: Path,
        seed: int,
        total_examples: int,
        path: Path,
    ) -> None:
        """See tfbatch.training.evaluation."""
        save_model(
            self._programs().workload,
            configuration,
            weights,
            seed=seed,
            total_examples=total_examples,
            path=path,
        )

    def measure(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls an instrument's function: `function(programs, *arguments, heartbeat=...)`.

        Args:
            function: Module-level, so that it travels by its name.
            arguments: Its further arguments.
        """
        return function(self._programs(), *arguments, heartbeat=lambda: self._signs.report(0, 0))

    def step_times(self, configurations: Sequence[Configuration], file: Path, device: str) -> None:
        """Measures step times and one validation, and keeps each on disk as it is measured.

        Args:
            configurations: What to measure, at most one for each batch size.
            file: Where they are kept; see tfbatch.training.step_times.StepTimesFile.
            device: What is measured on.

        Raises:
            StoppedError: A stop was requested.
        """
        kept = StepTimesFile(file, device)
        programs = self._programs()
        measure_step_times(programs, configurations, heartbeat=self._alive, measured=kept.keep)
        self._alive()
        kept.keep_validation(seconds_of_validation(programs, configurations[0]))

    def expected_trial_seconds(
        self, configuration: Configuration, total_examples: int, validation_seconds: float
    ) -> float:
        """See tfbatch.training.step_times."""
        return expected_trial_seconds(
            self._programs(),
            configuration,
            total_examples=total_examples,
            validation_seconds=validation_seconds,
            heartbeat=self._alive,
        )

    def _alive(self) -> None:
        """A heartbeat; ends a measurement that is asked to stop."""
        self._signs.report(0, 0)
        if self._signs.stop_requested():
            raise StoppedError("the run was asked to stop")

    def _programs(self) -> ProgramCache:
        if self._loaded is None:
            if self._folder is None:
                raise RuntimeError("`open` must be called first")
            workload = Workload(
                open_prepared(self._job.data, self._folder, self._code.make_dataset),
                self._code.build_model,
                compilation=self._code.compilation,
                precision=self._job.precision,
                jit_compile=self._job.jit_compile,
                strategy=make_strategy(self._job.place.strategy),
            )
            self._loaded = ProgramCache(workload)
        return self._loaded

    def _callbacks(self) -> list[Any]:
        return [*(self._code.callbacks or list)(), Heartbeat(self._signs.report)]


class Heartbeat(keras.callbacks.Callback):  # type: ignore[misc]
    """Reports how far a training is, and that an evaluation goes on.

    Args:
        report: Called with (epochs done, epochs in all, share of the running epoch); cheap.
    """

    def __init__(self, report: Callable[[int, int, float], None]):
        super().__init__()
        self._report = report
        self._epoch, self._within = 0, 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Reports."""
        self._epoch, self._within = epoch, 0.0
        self._beat()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Reports."""
        self._within = min((batch + 1) / (self.params["steps"] or float("inf")), 1.0)
        self._beat()

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Reports."""
        self._beat()

    def _beat(self) -> None:
        self._report(self._epoch, self.params["epochs"], self._within)


_RUNNER: Runner | None = None
_DEVICES: Devices | None = None


def begin_worker(job: Job) -> None:
    """Inside a worker, before any task.

    The devices are opened here: a GPU without room for this process is not a trial's fault.
    """
    global _RUNNER, _DEVICES
    _DEVICES = claim_devices(job.place)
    tf.config.list_logical_devices()
    _RUNNER = Runner(job, worker_mailbox())


def describe_devices() -> Devices:
    """Inside a worker: what it has."""
    if _DEVICES is None:
        raise RuntimeError("this process is no worker")
    return _DEVICES


def perform(task: str, folder: Path | None, *arguments: Any) -> Any:
    """Inside a worker: runs one of the Runner's tasks by name.

    Args:
        task: Name of a method of Runner.
        folder: Where the records are, if they are known.
        arguments: The method's arguments.
    """
    if _RUNNER is None:
        raise RuntimeError("this process is no worker")
    if folder is not None:
        _RUNNER.open(folder)
    return getattr(_RUNNER, task)(*arguments)
