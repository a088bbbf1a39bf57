"""Opens a run folder: makes it, locks it, refuses another run's, keeps its settings."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import filelock

from tfbatch.errors import InputError, RunFolderError
from tfbatch.run_folder import files
from tfbatch.run_folder.durable import write_whole
from tfbatch.run_folder.file_lock import wait_until_released
from tfbatch.run_folder.journal import Journal, whole_lines
from tfbatch.schema import JsonObject

WORKER_SECONDS = 15.0
"""Workers end within a second of their parent; they are waited for this long."""
GIVEN = "given"
"""In an identity: hashes of the loss, metrics and callbacks that a user gives as objects."""
OF_THE_MACHINE: JsonObject = {"data_on": "host", "jit_compile": None}
"""Settings that are left to the machine by default, and what they are where none is said."""
_KEPT = (files.LOCK, files.WORKERS_LOCK, files.LIBRARY_LOG, files.WORKER_LOGS, files.OWN_DATA)
_WRITTEN = (
    *(files.FINGERPRINT, files.JOURNAL, files.OPEN_TRIALS, files.TRIALS_CSV, files.REPORT),
    *(files.RECOMMENDATION, files.BEST_CONFIGURATION, files.BEST_MODEL, files.CHANCE_LEVEL),
    *(files.STEP_TIMES, files.PRICES, files.GPU_SHARING, files.MEMORY_LIMIT, files.REUSED),
    *(files.CLUSTER, files.WALL_TIME, files.EVIDENCE, files.MEASUREMENTS, files.VERDICTS),
    *(files.VERDICTS_PAGE, files.TENSORBOARD, files.APPENDIX, files.WEIGHTS),
    *(files.CHECKPOINTS, files.STATES, files.SETTINGS),
)
"""What a run that starts anew removes; whatever else lies in the folder is the user's."""
_PARTIAL = (*(f".{name}.partial" for name in _WRITTEN), f".partial-{files.BEST_MODEL}")
"""What a killed process has left of these."""


class RunLock:
    """A run folder's lock, held by one process at a time; entering it again is counted.

    It passes on only when the worker processes of the run before have ended too.

    Args:
        path: The folder; made where absent.

    Raises:
        InputError: The folder cannot be written.
        RunFolderError: Another process holds it, or workers of an ended run live on.
    """

    def __init__(self, path: Path):
        self.path = path.expanduser().resolve()
        self._lock = filelock.FileLock(self.path / files.LOCK, timeout=0)

    @property
    def workers_file(self) -> Path:
        """The file that every worker process of the run keeps locked while it lives."""
        return self.path / files.WORKERS_LOCK

    @property
    def logs(self) -> Path:
        """Folder for what worker processes print."""
        return self.path / files.WORKER_LOGS

    @property
    def data(self) -> Path:
        """Folder for a user's own data, each in a folder named by what it holds."""
        return self.path / files.OWN_DATA

    def __enter__(self) -> RunLock:
        """Locks the folder."""
        first = not self._lock.is_locked
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            ended = not first or wait_until_released(self.workers_file, seconds=WORKER_SECONDS)
        except filelock.Timeout as error:
            raise RunFolderError(
                f"Another run has {self.path} open. Wait for it, end it, or choose another folder "
                "with --run_dir=DIR."
            ) from error
        except OSError as error:
            raise InputError(
                f"The run folder {self.path} cannot be written: {error}. "
                "Choose another one with --run_dir=DIR."
            ) from error
        if not ended:
            self._lock.release()
            raise RunFolderError(
                f"Worker processes of an ended run still use {self.path} after "
                f"{WORKER_SECONDS:.0f} s. End them, or choose another folder with --run_dir=DIR."
            )
        return self

    def __exit__(self, *_: object) -> None:
        """Unlocks the folder."""
        self._lock.release()


class RunFolder:
    """One run's folder, locked against a second run for as long as it is open.

    Example:
        ```python
        with RunFolder(Path("run"), identity={"dataset": "digits"}, budget={}) as run:
            run.journal.append({"trial": "baseline", "score": 0.5})
        ```

    Args:
        path: The folder; made where absent.
        identity: Everything that makes two runs comparable. A folder that was begun with another
            identity is refused, with the difference, as soon as a trial is in its journal.
        budget: What may change from one run to the next (limits of trials and time).
        overwrite: Remove what a run has written into the folder and start anew.
        lock: The folder's lock, where it is held already.

    Raises:
        InputError: The folder cannot be written, holds other files, or was begun with other
            settings.
        RunFolderError: Another process has it open, or its files are damaged.
    """

    def __init__(
        self,
        path: Path,
        *,
        identity: dict[str, object],
        budget: dict[str, object],
        overwrite: bool = False,
        lock: RunLock | None = None,
    ):
        self.path = path.expanduser().resolve()
        self._identity = json.loads(json.dumps(identity))
        self._budget = json.loads(json.dumps(budget))
        self._overwrite = overwrite
        self._lock = lock or RunLock(path)

    @property
    def tensorboard(self) -> Path:
        """Folder for TensorBoard."""
        return self.path / files.TENSORBOARD

    @property
    def weights(self) -> Path:
        """Folder for weights that later steps of the run need."""
        return self.path / files.WEIGHTS

    def __enter__(self) -> RunFolder:
        """Locks the folder and reads its journal."""
        self._lock.__enter__()
        try:
            self._open()
        except BaseException:
            self._lock.__exit__()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Unlocks the folder."""
        self._lock.__exit__()

    def _open(self) -> None:
        check_run_dir(self.path)
        if self._overwrite:
            self._clear()
        settings = self.path / files.SETTINGS
        if settings.exists() and not self._compare(settings):
            self._clear()
        write_whole(
            settings, json.dumps({"identity": self._identity, "budget": self._budget}, indent=1)
        )
        self.weights.mkdir(exist_ok=True)
        self.journal = Journal(self.path / files.JOURNAL)

    def _clear(self) -> None:
        # The settings go last: a run that is killed here must still know the folder as its own.
        for entry in sorted(self.path.iterdir(), key=lambda entry: entry.name == files.SETTINGS):
            if entry.name not in (*_WRITTEN, *_PARTIAL):
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def _compare(self, settings: Path) -> bool:
        """Whether the settings are the same; others are taken where nothing was finished."""
        try:
            before = json.loads(settings.read_text(encoding="utf-8"))["identity"]
        except ValueError as error:
            raise RunFolderError(
                f"{settings} is damaged: {error}. Start anew with --overwrite."
            ) from error
        before = _named_as_now(_without_place(before), self._identity)
        changes = differences(before, _as_far_as_known(self._identity, before))
        if changes and not _has_trials(self.path) and not (self.path / files.MEASUREMENTS).exists():
            return False
        if changes:
            raise InputError(
                f"{self.path} was begun with other settings:\n"
                + "\n".join(f"  {change}" for change in changes)
                + "\nTrials of different settings cannot be compared. "
                + self._remedy(_flags_that_keep(before, _as_far_as_known(self._identity, before)))
            )
        return True

    def _remedy(self, flags: str) -> str:
        if flags:
            return (
                f"To go on as it was begun, add {flags}, or choose another folder (--run_dir=DIR)."
            )
        if (self.path / files.REUSED).exists():  # another folder would hold the same trials
            return "Give the flags of the run that its trials were taken from with --from."
        return "Choose another folder with --run_dir=DIR, or start anew with --overwrite."


def _flags_that_keep(before: object, now: JsonObject) -> str:
    """The flags with which a run goes on as it was begun; empty where others are needed too."""
    if not isinstance(before, dict):
        return ""
    there, here = OF_THE_MACHINE | before, OF_THE_MACHINE | now
    changed = {name for name in there.keys() | here.keys() if there.get(name) != here.get(name)}
    if any(name not in OF_THE_MACHINE or there[name] is None for name in changed):
        return ""
    return " ".join(f"--{name}={str(there[name]).lower()}" for name in sorted(changed))


def begun_with(path: Path) -> JsonObject:
    """The settings that the trials of a run folder were made with.

    Empty where it has no trials, and where its settings are damaged: opening the folder refuses it.
    """
    try:
        content = json.loads((path / files.SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    found = content.get("identity") if isinstance(content, dict) else None
    return found if isinstance(found, dict) and _has_trials(path) else {}


def _has_trials(path: Path) -> bool:
    journal = path / files.JOURNAL
    return journal.exists() and bool(whole_lines(journal.read_bytes()))


def check_run_dir(path: Path) -> Path:
    """Makes a run folder and refuses one that cannot be used, before any work.

    Returns:
        The folder, absolute.

    Raises:
        InputError: It cannot be written, or it holds files that are not a run's.
    """
    path = path.expanduser().resolve()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
        ours = _is_run(path) or all(
            p.name.startswith(".") or p.name in _KEPT for p in path.iterdir()
        )
    except OSError as error:
        raise InputError(
            f"The run folder {path} cannot be written: {error}. "
            "Choose another one with --run_dir=DIR."
        ) from error
    if not ours:
        raise InputError(
            f"{path} holds files but no run of tfbatch (no {files.SETTINGS} of its own). "
            "Choose another folder with --run_dir=DIR."
        )
    return path


def _is_run(path: Path) -> bool:
    """Whether tfbatch began the folder: `config.json` alone is a name that anybody uses."""
    settings = path / files.SETTINGS
    if not settings.exists():
        return False
    try:
        content = json.loads(settings.read_text(encoding="utf-8"))
    except ValueError:  # damaged
        return (path / files.JOURNAL).exists()
    return isinstance(content, dict) and content.keys() >= {"identity", "budget"}


def _without_place(identity: Any) -> Any:
    """Without the place of stored arrays, which earlier versions kept: a folder may be moved."""
    data = identity.get("dataset") if isinstance(identity, dict) else None
    if not isinstance(data, dict) or data.get("kind") != "stored":
        return identity
    return {**identity, "dataset": {k: v for k, v in data.items() if k != "where"}}


def _as_far_as_known(identity: Any, before: Any) -> Any:
    """Without what the settings of earlier versions do not say: what was given as objects."""
    if not isinstance(before, dict) or GIVEN in before:
        return identity
    return {key: value for key, value in identity.items() if key != GIVEN}


def _named_as_now(before: Any, now: Any) -> Any:
    """With the brackets that earlier versions did not set around what cannot be imported."""
    if isinstance(before, dict) and isinstance(now, dict):
        return {key: _named_as_now(value, now.get(key)) for key, value in before.items()}
    same = isinstance(now, str) and before == re.sub(r":<(.+)>$", r":\1", now)
    return now if same else before


def differences(before: object, now: object, key: str = "") -> list[str]:
    """Lines such as "space.batch_size.max: 512 -> 1024" for everything that differs."""
    if isinstance(before, dict) and isinstance(now, dict):
        lines = []
        for name in [*before, *(n for n in now if n not in before)]:
            place = f"{key}.{name}" if key else name
            lines += differences(before.get(name, "(absent)"), now.get(name, "(absent)"), place)
        return lines
    return [] if before == now else [f"{key}: {_shown(before)} -> {_shown(now)}"]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
