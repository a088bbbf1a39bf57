"""Runs one trial in this process: the one seam `run_trial(spec) -> Outcome`."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
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
from tfbatch.run_folder.durable import FREE_SPACE, is_disk_full
from tfbatch.training.derived import Derived
from tfbatch.training.outcome import Outcome, Status, TrialSpec
from tfbatch.training.workload import Workload


def never() -> bool:
    """The default of `stop_requested`."""
    return False


def run_trial(
    workload: Workload,
    spec: TrialSpec,
    *,
    stop_requested: Callable[[], bool] = never,
    verbose: int = 0,
) -> Outcome:
    """Trains one configuration and evaluates it on the validation split after each epoch.

    Out of memory, divergence and exceptions of the model's code are outcomes; damaged records are
    not, since every trial after them would be wrong too.

    Args:
        workload: Model builder and data.
        spec: The trial.
        stop_requested: Asked after every batch; when true the trial ends as "interrupted".
        verbose: Keras's `verbose`.

    Raises:
        RecordError: The records are damaged.
        RunFolderError: The disk is full.
    """
    started = time.perf_counter()
    clock = TrainingClock()
    model: Any = None
    try:
        with _fresh_session():
            model, result = _train(workload, spec, clock, stop_requested, verbose)
    except RecordError:
        raise
    except Exception as error:
        if is_disk_full(error):  # TensorFlow calls it out of memory when it writes curves
            raise RunFolderError(f"The disk is full: {error}. {FREE_SPACE}") from error
        if isinstance(error, tf.errors.OpError):
            # A stream ends so when a record is damaged: say which one.
            workload.data.raise_damage("train")
            workload.data.raise_damage("validation")
        if isinstance(error, tf.errors.ResourceExhaustedError):
            result = _failed("oom", f"TensorFlow is out of memory: {error.message}", clock)
        else:
            result = _failed("error", traceback.format_exc(), clock)
    if result.status == "completed" and spec.weights_file:
        save_weights(model, spec.weights_file)
    return dataclasses.replace(result, seconds=time.perf_counter() - started)


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


def _train(
    workload: Workload,
    spec: TrialSpec,
    clock: TrainingClock,
    stop_requested: Callable[[], bool],
    verbose: int,
) -> tuple[Any, Outcome]:
    derived = workload.derive(spec.configuration, spec.total_examples)
    model = workload.compiled(
        spec.configuration, total_examples=spec.total_examples, seed=spec.seed
    )
    guard, stop = DivergenceGuard(), StopOnRequest(stop_requested)
    history = fit(
        model,
        workload,
        derived,
        batch_size=spec.configuration.batch_size,
        seed=spec.seed,
        callbacks=[guard, stop, clock],
        log_dir=spec.log_dir,
        verbose=verbose,
    )
    status: Status = "completed"
    if stop.stopped:
        status = "interrupted"
    elif guard.diverged:
        status = "diverged"
    return model, Outcome(
        status=status,
        metrics={name: float(values[-1]) for name, values in history.history.items()},
        examples=min(clock.steps * spec.configuration.batch_size, spec.total_examples),
        steps=clock.steps,
        seconds=0.0,
        training_seconds=clock.seconds,
        message=guard.reason,
    )


def fit(
    model: Any,
    workload: Workload,
    derived: Derived,
    *,
    batch_size: int,
    seed: int,
    callbacks: list[Any],
    log_dir: Path | None = None,
    verbose: int = 0,
) -> Any:
    """Plain `Model.fit` over a training's stream; returns Keras's History."""
    logs = [keras.callbacks.TensorBoard(str(log_dir), write_graph=False)] if log_dir else []
    return model.fit(
        workload.data.training(
            batch_size=batch_size, seed=seed, num_examples=derived.total_examples
        ),
        epochs=derived.epochs,
        steps_per_epoch=derived.steps_per_epoch,
        validation_data=workload.data.evaluation("validation"),
        callbacks=[*callbacks, *logs, StopAfterSteps(derived.steps)],
        shuffle=False,  # the stream is shuffled; Keras warns that it cannot do it again
        verbose=verbose,
    )


@contextlib.contextmanager
def _fresh_session() -> Any:
    """Frees the graph and the variables of the trial before: else memory grows with each trial."""
    keras.backend.clear_session()
    try:
        yield
    finally:
        gc.collect()


def _failed(status: Status, message: str, clock: TrainingClock) -> Outcome:
    return Outcome(status, {}, 0, clock.steps, 0.0, clock.seconds, message)
