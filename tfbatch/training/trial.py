"""Runs one trial in this process: the one seam `run_trial(spec) -> Outcome`."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfbatch.callbacks import DivergenceGuard, StopAfterSteps, StopOnRequest, TrainingClock
from tfbatch.errors import RecordError, RunFolderError
from tfbatch.process.out_of_memory import is_out_of_memory, memory_message
from tfbatch.process.tracebacks import short_traceback
from tfbatch.run_folder.durable import FREE_SPACE, is_disk_full
from tfbatch.training.checkpoint import (
    CHECKPOINT_SECONDS,
    CheckpointFile,
    Position,
    WriteCheckpoint,
)
from tfbatch.training.context import TaskContext
from tfbatch.training.devices import device_kind
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.workload import Workload
from tfbatch.trial.derived import Derived
from tfbatch.trial.outcome import Outcome, Status, TrialSpec


def never() -> bool:
    """The default of `stop_requested`."""
    return False


def run_trial(
    programs: ProgramCache,
    spec: TrialSpec,
    *,
    stop_requested: Callable[[], bool] = never,
    user_callbacks: Callable[[], list[Any]] = list,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    verbose: int = 0,
) -> Outcome:
    """Trains one configuration and evaluates it on the validation split after each epoch.

    Out of memory, divergence and exceptions of the model's code are outcomes; damaged records are
    not, since every trial after them would be wrong too.

    Args:
        programs: Data, model builder and the programs traced so far.
        spec: The trial. One that was killed continues from its checkpoint.
        stop_requested: Asked between executions; when true the trial ends as "interrupted".
        user_callbacks: Makes a user's Keras callbacks, new ones for each trial.
        checkpoint_seconds: The least time between two checkpoints.
        verbose: Keras's `verbose`.

    Raises:
        RecordError: The records are damaged.
        RunFolderError: The disk is full.
    """
    started = time.perf_counter()
    trial = _Trial(programs, spec, stop_requested, user_callbacks, checkpoint_seconds)
    try:
        result = trial.run(verbose)
    except (RecordError, RunFolderError):
        raise
    except Exception as error:
        result = _failed(trial, error)
    wanted = spec.keep_if is None or spec.keep_if.holds(result.metrics)
    if result.status == "completed" and spec.weights_file and wanted:
        save_weights(trial.model, spec.weights_file)
    if result.status != "interrupted" and trial.checkpoint:
        trial.checkpoint.remove()
    seconds = trial.before.seconds + time.perf_counter() - started
    return dataclasses.replace(result, seconds=seconds, device=device_kind())


def run_spec(task: TaskContext, spec: TrialSpec, checkpoint_seconds: float) -> Outcome:
    """The task of a trial: `run_trial` with the process's programs and the user's callbacks."""

    def callbacks() -> list[Any]:
        return [*(task.code.callbacks or list)(), Heartbeat(task.signs.report)]

    return run_trial(
        task.programs,
        spec,
        stop_requested=task.signs.stop_requested,
        user_callbacks=callbacks,
        checkpoint_seconds=checkpoint_seconds,
    )


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


def save_weights(model: Any, path: Path) -> None:
    """Saves a model's weights: whole or not at all.

    Raises:
        RunFolderError: They cannot be written; nothing is left of them.
    """
    partial = path.with_name(f"partial-{path.name}")
    try:
        # HDF5 crashes the process on a full disk: it writes elsewhere, and Python copies.
        with tempfile.TemporaryDirectory() as folder:
            model.save_weights(Path(folder) / path.name)
            shutil.copyfile(Path(folder) / path.name, partial)
        partial.replace(path)
    except OSError as error:
        raise RunFolderError(f"{path} cannot be written: {error}. {FREE_SPACE}") from error
    finally:
        partial.unlink(missing_ok=True)


class _Trial:
    """One trial with what is known of it when something goes wrong."""

    def __init__(
        self,
        programs: ProgramCache,
        spec: TrialSpec,
        stop_requested: Callable[[], bool],
        user_callbacks: Callable[[], list[Any]],
        checkpoint_seconds: float,
    ):
        self.programs = programs
        self.spec = spec
        self.clock = TrainingClock()
        self.model: Any = None
        self.before = Position()
        self.checkpoint = (
            CheckpointFile(spec.checkpoint_file, identity=spec.identity(), course=spec.course)
            if spec.checkpoint_file
            else None
        )
        self._stop = StopOnRequest(stop_requested)
        self._user_callbacks = user_callbacks
        self._checkpoint_seconds = checkpoint_seconds

    def run(self, verbose: int) -> Outcome:
        spec, workload, derived = self.spec, self.programs.workload, self.spec.derived
        if self.checkpoint:
            self.before = self.checkpoint.read_position()
        self.model = self.programs.begin_trial(spec, first_step=self.before.steps)
        if self.checkpoint and self.before.steps:
            self.checkpoint.restore(self.model)
        guard = DivergenceGuard(
            first_loss=self.before.first_loss or spec.untrained_loss,
            fewest_batches=-(-spec.judged_examples // derived.batch_size),
        )
        history = fit(
            self.model,
            workload,
            derived,
            seed=spec.seed,
            before=self.before,
            callbacks=[
                *self._user_callbacks(),
                guard,
                self._stop,
                self.clock,
                *self._checkpoints(guard, derived.epochs),
            ],
            log_dir=spec.log_dir,
            verbose=verbose,
        )
        status: Status = "completed"
        if self._stop.stopped:
            status = "interrupted"
        elif guard.diverged:
            status = "diverged"
        return self.outcome(
            status,
            metrics={name: float(values[-1]) for name, values in history.history.items()},
            message=guard.reason,
        )

    def outcome(self, status: Status, *, metrics: dict[str, float], message: str) -> Outcome:
        """What it came to, `seconds` and `device` left open."""
        spec = self.spec
        steps = min(self.before.steps + self.clock.steps, spec.derived.steps)
        return Outcome(
            status=status,
            metrics=metrics,
            examples=min(steps * spec.derived.batch_size, spec.total_examples),
            steps=steps,
            seconds=0.0,
            training_seconds=self.before.training_seconds + self.clock.seconds,
            message=message,
        )

    def _checkpoints(self, guard: DivergenceGuard, epochs: int) -> list[WriteCheckpoint]:
        if self.checkpoint is None:
            return []
        return [
            WriteCheckpoint(
                self.checkpoint,
                self.before,
                clock=self.clock,
                guard=guard,
                epochs=epochs,
                every_seconds=self._checkpoint_seconds,
            )
        ]


def _failed(trial: _Trial, error: Exception) -> Outcome:
    """The outcome of an exception in a trial.

    Raises:
        RecordError: The records are damaged.
        RunFolderError: The disk is full.
    """
    if is_disk_full(error):  # TensorFlow calls it out of memory when it writes curves
        raise RunFolderError(f"The disk is full: {error}. {FREE_SPACE}") from error
    if isinstance(error, tf.errors.OpError):
        # A stream ends so when a record is damaged: say which one.
        trial.programs.workload.data.raise_damage("train")
        trial.programs.workload.data.raise_damage("validation")
    traceback.print_exception(error)  # whole, with TensorFlow's graph: a worker's goes to its log
    status: Status = "error"
    message = short_traceback(error)
    if is_out_of_memory(error):
        status, message = "oom", f"Out of memory: {memory_message(error)}"
    trial.programs.clear()  # what an exception leaves of a program is not trusted
    return trial.outcome(status, metrics={}, message=message)


def fit(
    model: Any,
    workload: Workload,
    derived: Derived,
    *,
    seed: int,
    callbacks: list[Any],
    before: Position = Position(),  # noqa: B008 - frozen
    log_dir: Path | None = None,
    verbose: int = 0,
) -> Any:
    """Plain `Model.fit` over a training's stream, or over the rest of it; returns its History."""
    logs = [keras.callbacks.TensorBoard(str(log_dir), write_graph=False)] if log_dir else []
    # Keras leaves the average of the weights in the model at the end: it is what is scored too.
    swap = [keras.callbacks.SwapEMAWeights()] if derived.optimizer.get("ema_momentum") else []
    return model.fit(
        workload.data.training(
            batch_size=derived.batch_size,
            seed=seed,
            num_examples=derived.total_examples,
            start=before.steps * derived.batch_size,
        ),
        epochs=derived.epochs,
        class_weight=workload.class_weight,
        initial_epoch=before.epochs,
        steps_per_epoch=derived.steps_per_epoch,
        validation_data=workload.evaluation("validation"),
        # The curves are on disk before a checkpoint says that their epoch is over.
        callbacks=[*swap, *logs, *callbacks, StopAfterSteps(derived.steps - before.steps)],
        shuffle=False,  # the stream is shuffled; Keras warns that it cannot do it again
        verbose=verbose,
    )
