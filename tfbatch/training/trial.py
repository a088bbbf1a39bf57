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
from tfbatch.errors import RecordError, RunFolderError, SearchError
from tfbatch.process.out_of_memory import is_out_of_memory, memory_message
from tfbatch.process.tracebacks import short_traceback
from tfbatch.run_folder.durable import FREE_SPACE, cannot_be_written, is_disk_full
from tfbatch.training.callback_state import CarryOn
from tfbatch.training.checkpoint import (
    CHECKPOINT_SECONDS,
    CheckpointFile,
    Position,
    WriteCheckpoint,
    read_callbacks,
)
from tfbatch.training.class_weights import weighted_by_class
from tfbatch.training.context import TaskContext
from tfbatch.training.curves import WriteCurves
from tfbatch.training.data_place import evaluation_stream, training_stream
from tfbatch.training.devices import device_kind
from tfbatch.training.end_state import (
    EndState,
    KeepEndState,
    align,
    check_state,
    go_on,
    read_end_state,
)
from tfbatch.training.program import held_by
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.single_values import single_values
from tfbatch.training.workload import Workload
from tfbatch.trial.derived import Derived
from tfbatch.trial.outcome import Outcome, TrialSpec
from tfbatch.trial_status import Status


def never() -> bool:
    """The default of `stop_requested`."""
    return False


def run_trial(
    programs: ProgramCache,
    spec: TrialSpec,
    *,
    stop_requested: Callable[[], bool] = never,
    user_callbacks: Callable[[], list[keras.callbacks.Callback]] = list,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    verbose: int = 0,
) -> Outcome:
    """Trains one configuration and evaluates it on the validation split after each epoch.

    Out of memory, divergence and exceptions of the model's code are outcomes; damaged records are
    not, since every trial after them would be wrong too.

    Args:
        programs: Data, model builder and the programs traced so far.
        spec: The trial. One that was killed continues from its checkpoint, which is kept until
            whoever has asked for the trial has its outcome on disk, and removes it. A parent whose
            end state is not kept any more is trained again first.
        stop_requested: Asked between executions; when true the trial ends as "interrupted".
        user_callbacks: Makes a user's Keras callbacks, new ones for each trial.
        checkpoint_seconds: The least time between two checkpoints.
        verbose: Keras's `verbose`.

    Raises:
        RecordError: The records are damaged.
        RunFolderError: The disk is full.
        SearchError: Its end state is to be kept and cannot be.
    """
    trial = _Trial(programs, spec, stop_requested, user_callbacks, checkpoint_seconds)
    try:
        result = trial.run(verbose)
    except (RecordError, RunFolderError, SearchError):
        raise
    except Exception as error:
        result = _failed(trial, error)
    wanted = spec.keep_if is None or spec.keep_if.holds(result.metrics)
    if result.status == "completed" and spec.weights_file and wanted:
        save_weights(trial.model, spec.weights_file)
    seconds = trial.before.seconds + time.perf_counter() - trial.started
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


def save_weights(model: keras.Model, path: Path) -> None:
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
        raise cannot_be_written(path, error) from error
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
        self.started = time.perf_counter()
        self.checkpoint = (
            CheckpointFile(
                spec.checkpoint_file,
                identity=spec.identity(),
                course=None if spec.parent else spec.course,  # it counts a trial's own updates
            )
            if spec.checkpoint_file
            else None
        )
        self._stop_requested = stop_requested
        self._stop = StopOnRequest(stop_requested)
        self._make_callbacks = user_callbacks
        self._checkpoint_seconds = checkpoint_seconds

    def run(self, verbose: int) -> Outcome:
        spec, workload, derived = self.spec, self.programs.workload, self.spec.derived
        if self.checkpoint:
            self.before = self.checkpoint.read_position()
        state = None
        if spec.parent and not self.before.steps:
            state = read_end_state(spec.parent)
            if state is None:
                ended = self._train_again(spec.parent)
                if ended.status != "completed":
                    return ended
                state = read_end_state(spec.parent)
            if state is None:
                raise RunFolderError(f"The end state of {spec.parent.trial} cannot be read back.")
            self.before, self.started = state.position, time.perf_counter()
        self.model = self._begin(state)
        user_callbacks = self._make_callbacks()
        carry_on = CarryOn(user_callbacks, self._callbacks_before(state))
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
            begin=spec.from_examples,
            end=spec.end_examples,
            epochs_before=spec.epochs_before,
            callbacks=[
                *user_callbacks,
                carry_on,
                guard,
                self._stop,
                self.clock,
                *self._checkpoints(guard, carry_on),
            ],
            log_dir=spec.log_dir,
            verbose=verbose,
        )
        status: Status = "completed"
        if self._stop.stopped and self._steps < spec.steps:
            status = "interrupted"
        elif guard.diverged:
            status = "diverged"
        elif (spec.state_file or spec.parent) and self._steps < spec.steps:
            return self.outcome("error", metrics={}, message=self._cut_short())
        return self.outcome(
            status,
            metrics=single_values({n: values[-1] for n, values in history.history.items()}),
            message=guard.reason,
        )

    @property
    def _steps(self) -> int:
        """Updates of this trial alone."""
        return min(self.before.steps + self.clock.steps, self.spec.steps)

    def _cut_short(self) -> str:
        return (
            "A part of a training must reach its end: others go on from there, or are compared "
            f"with it. A callback stopped it after {self._steps} of {self.spec.steps} updates. "
            "Leave out what stops a training, such as EarlyStopping, or choose a search whose "
            "trials are whole."
        )

    def outcome(self, status: Status, *, metrics: dict[str, float], message: str) -> Outcome:
        """What it came to, `seconds` and `device` left open."""
        spec, steps = self.spec, self._steps
        examples = spec.from_examples + steps * spec.derived.batch_size
        return Outcome(
            status=status,
            metrics=metrics,
            examples=min(examples, spec.end_examples),
            steps=spec.steps_before + steps,
            seconds=0.0,
            training_seconds=self.before.training_seconds + self.clock.seconds,
            message=message,
        )

    def _begin(self, state: EndState | None) -> Any:
        """The model where the trial begins, or where it was interrupted."""
        spec, own = self.spec, self.before.steps
        model = self.programs.begin_trial(spec, first_step=own)
        if spec.state_file or spec.parent:
            check_state(model)
        if self.checkpoint and own:
            self.checkpoint.restore(model)
            align(model, self.before.first_update)
        elif state:
            first = go_on(model, spec, state)
            self.before = dataclasses.replace(self.before, first_update=first)
        return model

    def _callbacks_before(self, state: EndState | None) -> bytes | None:
        """What the user's callbacks had kept where this trial begins."""
        if self.checkpoint and self.before.epochs:
            return self.checkpoint.read_callbacks()
        file = self.spec.parent.state_file if self.spec.parent and state else None
        return read_callbacks(file) if file else None

    def _train_again(self, parent: TrialSpec) -> Outcome:
        """Trains a parent for its state alone; its outcome is known."""
        file = self.spec.parents_checkpoint_file
        again = dataclasses.replace(
            parent,
            log_dir=None,
            weights_file=None,
            checkpoint_file=file,
        )
        ended = run_trial(
            self.programs,
            again,
            stop_requested=self._stop_requested,
            user_callbacks=self._make_callbacks,
            checkpoint_seconds=self._checkpoint_seconds,
        )
        if ended.status in ("completed", "interrupted"):
            return ended
        # What happened to the parent, such as a lack of memory, says nothing of this configuration.
        message = (
            f"Its parent {parent.trial} was trained again for its state, and ended as "
            f"{ended.status!r}: {ended.message}"
        )
        return self.outcome("error", metrics={}, message=message)

    def _checkpoints(
        self, guard: DivergenceGuard, carry_on: CarryOn
    ) -> list[keras.callbacks.Callback]:
        spec, found = self.spec, []
        if self.checkpoint:
            found.append(
                WriteCheckpoint(
                    self.checkpoint,
                    self.before,
                    clock=self.clock,
                    guard=guard,
                    epochs=-(-spec.steps // spec.derived.steps_per_epoch),
                    epochs_before=spec.epochs_before,
                    every_seconds=self._checkpoint_seconds,
                    carry_on=carry_on,
                )
            )
        if spec.state_file:
            found.append(
                KeepEndState(
                    spec,
                    self.before,
                    clock=self.clock,
                    guard=guard,
                    carry_on=carry_on,
                )
            )
        return found


class AveragedWeights(keras.callbacks.SwapEMAWeights):  # type: ignore[misc]
    """Evaluates the average of the weights, and gives them back bit for bit.

    Keras swaps two variables by adding and subtracting, which changes their last bits: a training
    would depend on where it is evaluated, and parts of it would not equal the whole.
    """

    def _tf_swap_variables(self, optimizer: Any) -> None:
        self._backend_swap_variables(optimizer)


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
    model: keras.Model,
    workload: Workload,
    derived: Derived,
    *,
    seed: int,
    callbacks: list[keras.callbacks.Callback],
    before: Position = Position(),  # noqa: B008 - frozen
    begin: int = 0,
    end: int | None = None,
    epochs_before: int = 0,
    log_dir: Path | None = None,
    verbose: int = 0,
) -> keras.callbacks.History:
    """Plain `Model.fit` over a training's stream, or over a part of it; returns its History.

    Args:
        model: A compiled model in the state that `begin` and `before` say.
        workload: The data.
        derived: Batch size and pace of evaluations.
        seed: Of the stream.
        callbacks: Keras's.
        before: What was done of this part before it was interrupted.
        begin: Examples of the stream before this part.
        end: Where in the stream it ends. Default: at the end of the training.
        epochs_before: Epochs of the parts before this one: a callback sees them go on.
        log_dir: For TensorBoard.
        verbose: Keras's.
    """
    end = derived.total_examples if end is None else end
    steps = -(-(end - begin) // derived.batch_size)
    logs: list[keras.callbacks.Callback] = []
    if log_dir:
        logs.append(
            WriteCurves(
                log_dir,
                batch_size=derived.batch_size,
                steps_per_epoch=derived.steps_per_epoch,
                begin=begin,
                end=end,
                epochs_before=epochs_before,
            )
        )
    # Keras leaves the average of the weights in the model at the end: it is what is scored too.
    swap = [AveragedWeights()] if derived.optimizer.get("ema_momentum") else []
    stream = training_stream(
        model,
        workload,
        batch_size=derived.batch_size,
        seed=seed,
        num_examples=end,
        start=begin + before.steps * derived.batch_size,
    )
    # What a program makes of data in the device's memory has its weights.
    weights = None if held_by(model) else workload.class_weight
    return model.fit(
        weighted_by_class(stream, weights),
        epochs=epochs_before + -(-steps // derived.steps_per_epoch),
        initial_epoch=epochs_before + before.epochs,
        steps_per_epoch=derived.steps_per_epoch,
        validation_data=evaluation_stream(model, workload, "validation"),
        # The curves are on disk before a checkpoint says that their epoch is over.
        callbacks=[*swap, *logs, *callbacks, StopAfterSteps(steps - before.steps)],
        shuffle=False,  # the stream is shuffled; Keras warns that it cannot do it again
        verbose=verbose,
    )
