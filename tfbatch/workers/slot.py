"""One worker process at a time: started when needed, watched, replaced when it ends."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

import cloudpickle
import loky
from loky.process_executor import BrokenProcessPool, ProcessPoolExecutor

from tfbatch.process.generated_files import remove_generated_files
from tfbatch.process.memory import own_resident
from tfbatch.process.tracebacks import short_traceback
from tfbatch.run_folder.file_lock import hold
from tfbatch.workers import lifeline
from tfbatch.workers.mailbox import Mailbox, TaskProgress
from tfbatch.workers.process_end import ProcessEndedError, describe_end, kernel_kills, tail


def _log_level(level: str | None) -> str:
    """The TF_CPP_MIN_LOG_LEVEL of a worker: its own warnings are read to tell how it ended.

    Args:
        level: What a user has set; a worker prints into its log, not on a terminal.
    """
    return level if level in ("0", "1") else "1" if level else "0"


# Loky ends a worker that has grown by 300 MB, which a warm program does at once. In each worker
# NumPy's linear algebra would start a thread for each core, and threads wait by spinning.
_ENVIRONMENT = {
    "LOKY_MAX_MEMORY_LEAK_SIZE": "1e18",
    "OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS", "1"),
    "TF_CPP_MIN_LOG_LEVEL": _log_level(os.environ.get("TF_CPP_MIN_LOG_LEVEL")),
}


_UNWATCHED_SECONDS = 10.0
"""Where a slot was not watched for so long, this process stood still, or did something else."""


@dataclasses.dataclass(frozen=True)
class Start:
    """What a worker process does first.

    Attributes:
        log: File for everything that it prints.
        lock: A file that it keeps locked while it lives, or None.
        function: Called before any task.
        arguments: Its arguments.
    """

    log: Path
    lock: Path | None
    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()


class TaskMailbox(Protocol):
    """What is exchanged with a running task."""

    def request_stop(self) -> None:
        """The task is to end."""

    def progress(self) -> TaskProgress:
        """How far it is."""


class TaskSlot(Protocol):
    """A place for one worker process and its tasks, one at a time: on this machine, or on a node.

    Every way in which a process can end is a ProcessEndedError of `result`, and the next task
    begins in a new process.
    """

    @property
    def mailbox(self) -> TaskMailbox:
        """What is exchanged with the running task."""

    @property
    def future(self) -> Future[Any] | None:
        """That of the task whose result has not been taken, or None."""

    @property
    def alive(self) -> bool:
        """Whether it has a process, or one that starts."""

    def submit(self, task: Callable[..., Any], *arguments: Any, **options: Any) -> Future[Any]:
        """Begins a task, whose result is taken by `result` alone."""

    def watch(self) -> None:
        """Called at intervals while a task runs: ends what has been silent for too long."""

    def result(self) -> Any:
        """Waits for the task and returns its result, or raises its exception.

        Raises:
            ProcessEndedError: The process ended before its task.
        """

    def kill(self) -> None:
        """Ends the process at once."""

    def printed(self) -> str:
        """The end of what the process has printed since its task was submitted."""

    def recycle(self) -> None:
        """Ends a process that has nothing to do; the next task begins in a new one."""

    def close(self) -> None:
        """Ends the process at once and removes what the slot has made."""


class Slot:
    """A place for one worker process, in an executor of its own: killing it harms no other.

    Args:
        start: What each of its processes does first.
        stall_seconds: After this long without a heartbeat from a task its process is ended.
        most_bytes: A process that holds more after a task, mapped files left out, is replaced.
    """

    def __init__(
        self, start: Start, *, stall_seconds: float = float("inf"), most_bytes: float = float("inf")
    ):
        self._start = start
        self._stall_seconds = stall_seconds
        self._most_bytes = most_bytes
        self._folder = tempfile.TemporaryDirectory(prefix="tfbatch-worker-")
        self.mailbox = Mailbox(Path(self._folder.name) / "mailbox")
        self._executor: Any = None
        self._future: Future[Any] | None = None
        self._silent_for: float | None = None
        self._watched_at, self._unwatched = time.monotonic(), 0.0
        self.started = 0

    @property
    def future(self) -> Future[Any] | None:
        """That of the task whose result has not been taken, or None."""
        return self._future

    def adopt(self, start: Start) -> Future[Any]:
        """Gives a slot that was only warmed up its work: its processes now begin like this."""
        self._start = start
        return self.submit(start.function, *start.arguments)

    def limit(self, *, stall_seconds: float, most_bytes: float) -> None:
        """Sets when its processes are ended."""
        self._stall_seconds, self._most_bytes = stall_seconds, most_bytes

    def submit(self, task: Callable[..., Any], *arguments: Any, **options: Any) -> Future[Any]:
        """Begins a task in the slot's process, which is started if there is none."""
        self.mailbox.clear()
        self._silent_for = None
        self._watched_at, self._unwatched = time.monotonic(), 0.0
        self._kills = kernel_kills()
        self._log_size = self._start.log.stat().st_size if self._start.log.exists() else 0
        try:
            future = self._send(task, arguments, options)
        except BrokenProcessPool:  # its process was killed while it had nothing to do
            self._shut_down()
            future = self._send(task, arguments, options)
        self._future = future
        return future

    def watch(self) -> None:
        """Ends the process if its task has been silent for too long."""
        silence = self._watched_silence()
        if self._future and silence > self._stall_seconds:
            self._silent_for = self._silent_for or silence
            self.kill()  # again: a process that is only begun has no ID yet

    def _watched_silence(self) -> float:
        """Seconds since the last heartbeat, but those in which nobody looked.

        Ctrl-Z stops the workers with this process, and so does a scheduler that suspends a job.
        """
        now, silence = time.monotonic(), self.mailbox.silence()
        passed, self._watched_at = now - self._watched_at, now
        unwatched = 0.0 if silence <= passed else self._unwatched  # there was a heartbeat since
        if passed > _UNWATCHED_SECONDS:
            unwatched = min(unwatched + passed, silence)
        self._unwatched = unwatched
        return silence - unwatched

    def result(self) -> Any:
        """Waits for the task and returns its result, or raises its exception.

        Raises:
            ProcessEndedError: The process ended before its task.
        """
        future, self._future = self._future, None
        if future is None:
            raise RuntimeError("no task was submitted")
        try:
            value, resident = future.result()
        except BrokenProcessPool as error:
            self._shut_down()
            raise self._end(error) from error
        if resident > self._most_bytes:
            self.recycle()
        return value

    def kill(self) -> None:
        """Ends the slot's process at once."""
        process = self.mailbox.process()
        if self._executor is not None and process:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def printed(self) -> str:
        """The end of what the process has printed since its task was submitted."""
        return tail(self._start.log, start=self._log_size)

    @property
    def alive(self) -> bool:
        """Whether it has a process, or one that starts."""
        return self._executor is not None

    def recycle(self) -> None:
        """Ends a process that has nothing to do; the next task begins in a new one.

        It is killed: TensorFlow's own end can hang, and no task has left anything to be done.
        """
        self._shut_down()

    def close(self) -> None:
        """Ends the process at once and removes what the slot has made."""
        self._shut_down()
        self.mailbox.close()
        self.remove_folder()  # both may be done twice

    def remove_folder(self) -> None:
        """For a slot whose own process is about to be ended: no further worker can start."""
        self._folder.cleanup()

    def _send(
        self, task: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> Future[Any]:
        if self._executor is None:
            self._open()
        # A process inherits the mask: Ctrl-C must not end it before it ignores it.
        with lifeline.deferred_signals():
            future: Future[Any] = self._executor.submit(_run, task, arguments, options)
        return future

    def _open(self) -> None:
        self.mailbox.begin(0)
        self._executor = ProcessPoolExecutor(
            max_workers=1,
            context=loky.backend.get_context("loky"),
            initializer=_begin,
            # In one piece: unpickling it imports TensorFlow, whose words belong in the log.
            initargs=(
                os.getpid(),
                self._start.log,
                self._start.lock,
                self.mailbox.path,
                cloudpickle.dumps((self._start.function, self._start.arguments)),
            ),
            env=_ENVIRONMENT,
        )
        self.started += 1

    def _shut_down(self) -> None:
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True, kill_workers=True)

    def _end(self, error: BaseException) -> ProcessEndedError:
        codes = re.findall(r"\((-?\d+)\)", str(error))
        return describe_end(
            int(codes[0]) if codes else None,
            last_words=self.printed(),
            kernel_kills=kernel_kills() - self._kills,
            silent_for=self._silent_for,
            starting=not self.mailbox.task_begun(),
        )


def warm_slot(log: Path, lock: Path | None, module: str) -> Slot:
    """A slot whose process imports a module while its parent does something else."""
    slot = Slot(Start(log, lock, importlib.import_module, (module,)))
    slot.submit(os.getpid)
    return slot


_MAILBOX: Mailbox | None = None


def worker_mailbox() -> Mailbox:
    """Inside a worker: what it shares with its parent."""
    if _MAILBOX is None:
        raise RuntimeError("this process is no worker")
    return _MAILBOX


def _begin(parent: int, log: Path, lock: Path | None, mailbox: Path, first: bytes) -> None:
    """A worker's first steps."""
    global _MAILBOX
    lifeline.follow_parent(parent)
    lifeline.ignore_signals_to_the_group()
    lifeline.write_output_to(log)
    if lock is not None:
        hold(lock)
    _MAILBOX = Mailbox(mailbox)
    _MAILBOX.begin(os.getpid())
    try:
        function, arguments = cloudpickle.loads(first)
        function(*arguments)
        remove_generated_files()
    except BaseException:  # loky would end the process without a word
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _run(
    task: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]
) -> tuple[Any, int]:
    """A task's result, and what the process holds of the memory after it.

    Raises:
        BaseException: Whatever the task raises, as it travels.
    """
    worker_mailbox().begin_task()
    try:
        value = task(*arguments, **options)
    except BaseException as error:
        travelling = as_it_travels(error)
        if travelling is error:
            raise
        raise travelling from None
    finally:
        remove_generated_files()
    return value, own_resident()


def as_it_travels(error: BaseException) -> BaseException:
    """An exception that the parent can read: one that it cannot would seem the process's end.

    Args:
        error: What a task has raised.
    """
    try:
        cloudpickle.loads(cloudpickle.dumps(error))
    except Exception:  # whatever its own code raises, such as an `__init__` of two arguments
        return RuntimeError(short_traceback(error))
    return error
