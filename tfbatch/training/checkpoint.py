"""A long training's last epoch on disk: weights, optimizer, random generators, position."""

from __future__ import annotations

import dataclasses
import glob
import json
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfbatch.callbacks import DivergenceGuard, TrainingClock
from tfbatch.errors import InputError
from tfbatch.run_folder.durable import cannot_be_written
from tfbatch.run_folder.files import PARTIAL, partial_file
from tfbatch.schema import JsonObject
from tfbatch.training.callback_state import CarryOn
from tfbatch.training.program import weights_of

CHECKPOINT_SECONDS = 60.0
"""A training is written down at the first end of an epoch after this many seconds, and again."""
_SCHEMA = 2
_POSITION, _CALLBACKS = "position", "callbacks"
"""Names in the file, beside those of the variables."""


@dataclasses.dataclass(frozen=True)
class Position:
    """How far a training is.

    Attributes:
        epochs: Whole epochs that were trained and evaluated.
        steps: Updates made in them.
        seconds: Wall-clock seconds that they took.
        training_seconds: Seconds of training steps alone.
        first_loss: The first batch's loss.
        first_update: The optimizer's update with which its schedule begins: 0 but for a branch. One
            that float16 skips is not counted by the optimizer, so it does not follow from `steps`.
    """

    epochs: int = 0
    steps: int = 0
    seconds: float = 0.0
    training_seconds: float = 0.0
    first_loss: float | None = None
    first_update: int = 0


class CheckpointFile:
    """One training's checkpoint: one file, replaced as a whole.

    Its size is that of the weights and the optimizer's slots; while it is replaced there are two.

    Args:
        path: The file (.npz).
        identity: What the training is; a checkpoint of another one is not used.
        course: `course(steps)` says what the training is in its first updates: a checkpoint of one
            that is the same so far is used too. None: of no other one.
        shared: Whether other processes may write a checkpoint in its place at the same time.
    """

    def __init__(
        self,
        path: Path,
        *,
        identity: str,
        course: Callable[[int], str] | None = None,
        shared: bool = False,
    ):
        self.path = path
        self._identity, self._course = identity, course
        self._partial = _partial_of(path, os.getpid()) if shared else partial_file(path)

    def read_position(self) -> Position:
        """How far the kept training is; the beginning where there is none."""
        kept = read_state(self.path)
        if kept is None:
            return Position()
        identity, course = kept.pop("identity", None), kept.pop("course", None)
        try:
            position = Position(**kept)
        except TypeError:  # another version's
            return Position()
        if identity == self._identity or self._is_the_same_so_far(course, position):
            return position
        return Position()

    def restore(self, model: keras.Model) -> None:
        """Gives a compiled model the kept values."""
        restore_state(self.path, model)

    def read_callbacks(self) -> bytes | None:
        """What the user's callbacks had kept at the kept position."""
        return read_callbacks(self.path)

    def write(
        self,
        model: keras.Model,
        position: Position,
        callbacks: bytes = b"",
    ) -> None:
        """Writes a model's values: whole or not at all.

        Args:
            model: The model.
            position: How far it is.
            callbacks: What the user's have kept.

        Raises:
            RunFolderError: They cannot be written; the earlier checkpoint is still there.
        """
        course = {"course": self._course(position.steps)} if self._course else {}
        kept = {"identity": self._identity, **course, **dataclasses.asdict(position)}
        write_state(self.path, model, kept, partial=self._partial, callbacks=callbacks)

    def remove(self) -> None:
        """Removes what this training has left: what came of it is on disk.

        A checkpoint that another training has written in its place stays, as does what a process
        that still runs is writing.
        """
        kept = read_state(self.path)
        if kept and kept.get("identity") == self._identity:
            self.path.unlink(missing_ok=True)
        self._partial.unlink(missing_ok=True)
        for file in self.path.parent.glob(f"{PARTIAL}*-{glob.escape(self.path.name)}"):
            process = file.name.split("-")[1]
            if process.isdecimal() and not _is_running(int(process)):
                file.unlink(missing_ok=True)

    def _is_the_same_so_far(self, course: str | None, position: Position) -> bool:
        if self._course is None or course is None:  # of train, or written before there was one
            return False
        return course == self._course(position.steps)


class WriteCheckpoint(keras.callbacks.Callback):  # type: ignore[misc]
    """Writes a checkpoint at the ends of epochs, the last one left out.

    Args:
        file: Where.
        before: How far the training was when `fit` began.
        clock: Counts updates.
        guard: Knows the first batch's loss.
        epochs: Number of epochs of the whole training, or of this part of it.
        epochs_before: Epochs of the parts before this one, which `fit` counts too.
        every_seconds: The least time between two.
        carry_on: Says what the user's callbacks have kept; it comes before this one.
    """

    def __init__(
        self,
        file: CheckpointFile,
        before: Position,
        *,
        clock: TrainingClock,
        guard: DivergenceGuard,
        epochs: int,
        epochs_before: int = 0,
        every_seconds: float,
        carry_on: CarryOn | None = None,
    ):
        super().__init__()
        self._carry_on = carry_on
        self._file, self._before = file, before
        self._clock, self._guard = clock, guard
        self._epochs, self._every_seconds = epochs, every_seconds
        self._epochs_before = epochs_before
        self._started = self._last = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Writes, if it is time and the training goes on."""
        now, done = time.perf_counter(), epoch - self._epochs_before + 1
        if done == self._epochs or self.model.stop_training:
            return
        if now - self._last < self._every_seconds:
            return
        position = Position(
            epochs=done,
            steps=self._before.steps + self._clock.steps,
            seconds=self._before.seconds + now - self._started,
            training_seconds=self._before.training_seconds + self._clock.seconds,
            first_loss=self._guard.first_loss,
            first_update=self._before.first_update,
        )
        kept = self._carry_on.kept() if self._carry_on else b""
        self._file.write(self.model, position, kept)
        self._last = time.perf_counter()


def state(model: keras.Model) -> list[keras.Variable]:
    """Every variable that a training changes: weights, random generators, optimizer."""
    return [*weights_of(model), *model.optimizer.variables]


def write_state(
    path: Path,
    model: keras.Model,
    kept: JsonObject,
    *,
    partial: Path,
    callbacks: bytes = b"",
) -> None:
    """Writes the state of a compiled model to one file (.npz): whole or not at all.

    Args:
        path: The file; its folder is made where absent.
        model: The model.
        kept: What else is to be known of it, for JSON.
        partial: Where it is written before it is renamed.
        callbacks: What the user's have kept; see `tfbatch.training.callback_state`.

    Raises:
        RunFolderError: It cannot be written; what was there before still is.
    """
    arrays = {_variable(n): v.numpy() for n, v in enumerate(state(model))}
    position = json.dumps({"schema": _SCHEMA, "variables": len(arrays), **kept})
    arrays[_CALLBACKS] = np.frombuffer(callbacks, np.uint8)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, position=np.array(position), **arrays)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise cannot_be_written(path, error) from error
    finally:
        partial.unlink(missing_ok=True)


def read_state(path: Path) -> JsonObject | None:
    """What `write_state` kept beside the variables; None if there is no file, or a damaged one."""
    try:
        with zipfile.ZipFile(path) as whole:
            # A training must not start from a damaged weight: every checksum is compared.
            if whole.testzip():
                return None
        with np.load(path) as archive:
            kept: dict[str, Any] = json.loads(str(archive["position"]))
            names = [_POSITION, _CALLBACKS, *map(_variable, range(kept.pop("variables")))]
            # A name that was damaged into another's hides its own content from the checksums.
            if kept.pop("schema") != _SCHEMA or sorted(names) != sorted(archive.files):
                return None
        return kept
    except Exception:  # what is raised depends on where the file is damaged
        return None


def read_callbacks(path: Path) -> bytes | None:
    """What the user's callbacks had kept, of a file that `read_state` has found whole."""
    with np.load(path) as archive:
        return archive[_CALLBACKS].tobytes() or None


def restore_state(path: Path, model: keras.Model) -> None:
    """Gives a compiled model the values of a file that `read_state` has found whole.

    Raises:
        InputError: They are those of a model or an optimizer with other variables; the model is as
            it was.
    """
    if not model.optimizer.built:  # one that scales the loss would make new variables
        model.optimizer.build(model.trainable_variables)
    with np.load(path) as archive:
        variables = state(model)
        if len(variables) != _variables(archive):
            raise InputError(
                f"The state in {path.name} must have the variables of the model and its optimizer, "
                f"{len(variables)}. Received: {_variables(archive)}. What has slots, such as a "
                "momentum above 0, must have them in both."
            )
        for number, variable in enumerate(variables):
            _check_alike(path, variable, archive[_variable(number)])
        for number, variable in enumerate(variables):
            value = archive[_variable(number)]
            if value.dtype.kind == "V":  # bfloat16 is not among the types of NumPy's files
                value = value.view(variable.numpy().dtype)
            variable.assign(value)


def _check_alike(path: Path, variable: keras.Variable, value: np.ndarray) -> None:
    """Refuses a kept value that is another variable's.

    Raises:
        InputError: It has another shape or type.
    """
    now = variable.numpy()
    same_type = now.dtype == value.dtype or (
        value.dtype.kind == "V" and value.dtype.itemsize == now.dtype.itemsize
    )
    if now.shape == value.shape and same_type:
        return
    raise InputError(
        f"The state in {path.name} must have the variables of the model and its optimizer: "
        f"{variable.path} is {now.dtype} {list(now.shape)}. Received: {value.dtype} "
        f"{list(value.shape)}. The model was another one then: build that one again, or remove "
        f"{path} to begin anew."
    )


def _partial_of(path: Path, process: int) -> Path:
    """Where one of several processes writes a checkpoint before it is renamed."""
    return path.with_name(f"{PARTIAL}{process}-{path.name}")


def _is_running(process: int) -> bool:
    """Whether a process of this machine still runs."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def _variable(number: int) -> str:
    return f"variable_{number}"


def _variables(archive: Any) -> int:
    return len(archive.files) - 2
