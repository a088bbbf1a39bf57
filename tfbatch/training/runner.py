"""Everything that a search asks of a process that trains: a worker's, or its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import cloudpickle
import keras

from tfbatch.configuration import Configuration
from tfbatch.errors import STOPPED_EARLY, StoppedError
from tfbatch.pipeline import PreparedData, prepare_records
from tfbatch.recipes import Recipe
from tfbatch.schedules import LearningRateInExamples, follow_momentum
from tfbatch.training.devices import Devices, Place, claim_devices, make_strategy
from tfbatch.training.evaluation import Untrained, evaluate_weights, measure_untrained, save_model
from tfbatch.training.outcome import Outcome, TrialSpec
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.step_times import StepTime, measure_step_times
from tfbatch.training.trial import run_trial
from tfbatch.training.workload import Workload, make_optimizer
from tfbatch.workers.slot import worker_mailbox


class Signs(Protocol):
    """What the process shares with whoever directs it."""

    def stop_requested(self) -> bool:
        """Whether the running task is to end."""

    def report(self, done: int, total: int) -> None:
        """A sign of life, and how far the task is."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What all tasks of a run have in common; it travels to every worker.

    Attributes:
        recipe: The data set.
        code: `dump_code(build_model, user_callbacks)`.
        precision: Keras's dtype policy.
        jit_compile: Whether XLA compiles the model.
        place: Which share of the machine is used.
    """

    recipe: Recipe
    code: bytes
    precision: str = "float32"
    jit_compile: bool = False
    place: Place = dataclasses.field(default_factory=Place)


def dump_code(build_model: Any, user_callbacks: Any) -> bytes:
    """A user's functions for another process: by value where they are defined in a notebook."""
    data: bytes = cloudpickle.dumps((build_model, user_callbacks))
    return data


class Runner:
    """The tasks, in one process. The data is opened by the first task that needs it.

    Args:
        job: What all tasks have in common.
        signs: What the process shares with whoever directs it.
    """

    def __init__(self, job: Job, signs: Signs):
        self._job = job
        self._signs = signs
        self._build_model, self._user_callbacks = cloudpickle.loads(job.code)
        self._folder: Path | None = None
        self._loaded: ProgramCache | None = None

    def prepare(self, data_dir: Path | None, records_dir: Path | None) -> tuple[Path, bool]:
        """Writes the records where they are absent; see tfbatch.pipeline.prepare_records."""

        def progress(split: str, done: int, total: int) -> None:
            del split
            self._signs.report(done, total)
            if self._signs.stop_requested():
                raise StoppedError(STOPPED_EARLY)

        return prepare_records(
            self._job.recipe, data_dir=data_dir, records_dir=records_dir, progress=progress
        )

    def open(self, folder: Path) -> None:
        """Says where the records are."""
        if folder != self._folder:
            self._folder, self._loaded = folder, None

    def check_optimizers(self, configurations: Sequence[Configuration]) -> None:
        """Makes each optimizer: a typing error must not wait for the trials.

        Raises:
            InputError: An optimizer refuses a value, or has no momentum for a schedule to set.
        """
        for configuration in configurations:
            schedule = configuration.schedule
            follow_momentum(
                make_optimizer(
                    configuration,
                    LearningRateInExamples(
                        schedule.name,
                        learning_rate=1.0,
                        batch_size=1,
                        total_examples=1,
                        parameters=schedule.arguments,
                    ),
                )
            )

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

    def step_times(self, configurations: Sequence[Configuration]) -> list[StepTime]:
        """See tfbatch.training.step_times."""
        return measure_step_times(
            self._programs(), configurations, sign_of_life=lambda: self._signs.report(0, 0)
        )

    def _programs(self) -> ProgramCache:
        if self._loaded is None:
            if self._folder is None:
                raise RuntimeError("`open` must be called first")
            workload = Workload(
                PreparedData(self._job.recipe, self._folder),
                self._build_model,
                precision=self._job.precision,
                jit_compile=self._job.jit_compile,
                strategy=make_strategy(self._job.place.strategy),
            )
            self._loaded = ProgramCache(workload)
        return self._loaded

    def _callbacks(self) -> list[Any]:
        return [*(self._user_callbacks or list)(), SignOfLife(self._signs.report)]


class SignOfLife(keras.callbacks.Callback):  # type: ignore[misc]
    """Reports how far a training is, and that an evaluation goes on.

    Args:
        report: Called with (epochs done, epochs in all); cheap.
    """

    def __init__(self, report: Callable[[int, int], None]):
        super().__init__()
        self._report = report
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Reports."""
        self._epoch = epoch
        self._report(self._epoch, self.params["epochs"])

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Reports."""
        self._report(self._epoch, self.params["epochs"])

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Reports."""
        self._report(self._epoch, self.params["epochs"])


_RUNNER: Runner | None = None
_DEVICES: Devices | None = None


def begin_worker(job: Job) -> None:
    """Inside a worker, before any task."""
    global _RUNNER, _DEVICES
    _DEVICES = claim_devices(job.place)
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
