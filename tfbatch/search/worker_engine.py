"""Trials in worker processes, several at a time."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tfbatch.errors import STOPPED_EARLY, SearchError, StoppedError
from tfbatch.out_of_memory import follows_out_of_memory
from tfbatch.process_memory import worker_bytes
from tfbatch.run_folder.files import worker_log
from tfbatch.search.chief import SILENT_SECONDS, Board
from tfbatch.search.engine import Finished, Progress, Running, memory_failure
from tfbatch.training.checkpoint import CHECKPOINT_SECONDS
from tfbatch.training.devices import MOST_WORKERS, Devices
from tfbatch.training.runner import Job, begin_worker, describe_devices, perform
from tfbatch.trial.outcome import Outcome, Phase, Status, TrialSpec
from tfbatch.workers import ProcessEndedError, Slot
from tfbatch.workers.slot import Start

_POLL_SECONDS = 0.1
STALL_MINUTES = 10.0
"""A trial without a heartbeat for this long is ended."""
GRACE_SECONDS = 3.0
"""A task that is asked to stop and does not (it traces, or is in one long step) is then ended."""
LAST_SECONDS = 7.0
"""What is begun after the user's request to stop, such as saving the model, is ended then."""
_STARTS = 2


class WorkerEngine:
    """Warm worker processes; this one holds the oracle and the journal and touches no device.

    Args:
        job: What all tasks have in common.
        workers: Number of workers; None for one per GPU, or the default of a CPU.
        folder: The run folder, for the workers' output.
        lock: File that every worker keeps locked while it lives, or None.
        stop_requested: When true, running tasks end.
        stall_minutes: A task without a heartbeat for this long is ended.
        checkpoint_seconds: The least time between two checkpoints of a trial.
        warm: A slot whose process has imported tfbatch.training.runner, to be the first.
    """

    def __init__(
        self,
        job: Job,
        *,
        workers: int | None,
        folder: Path,
        lock: Path | None,
        stop_requested: Callable[[], bool],
        stall_minutes: float = STALL_MINUTES,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
        warm: Slot | None = None,
    ):
        self.job, self._workers, self._folder, self._lock = job, workers, folder, lock
        self.stop_requested = stop_requested  # the run adds the end of its time
        self._users_stop = stop_requested
        self._stop_seen: float | None = None
        self._users_stop_seen: float | None = None
        self._stopped: set[int] = set()
        self._starts: collections.Counter[str] = collections.Counter()
        self.on_progress: Progress | None = None
        self._stall_seconds = stall_minutes * 60
        self._checkpoint_seconds = checkpoint_seconds
        self.records: Path | None = None
        self._running: dict[int, tuple[TrialSpec, float]] = {}
        self.board: Board | None = None
        self._slots = [self._slot(0) if warm is None else self._adopted(warm)]
        self._slots[0].submit(describe_devices)
        self._devices: Devices | None = None

    @property
    def devices(self) -> Devices:
        """What the first worker has found; the others are started then, and warm up beside it."""
        if self._devices is None:
            self._devices = self._first(self._slots[0])
            self._slots += [self._slot(n) for n in range(1, self._devices.workers)]
            for slot in self._slots[1:]:
                slot.submit(describe_devices)
        return self._devices

    @property
    def free(self) -> bool:
        """Whether a worker has nothing to do."""
        return len(self._running) < self.devices.workers or bool(self.board and self.board.free())

    def can_start(self, phase: Phase) -> bool:
        """Whether a trial of a phase can be started now.

        Joined machines run trials of the search alone: verification's weights are kept here.
        """
        local = len(self._running) < self.devices.workers
        return local or (phase == "search" and self.free)

    def open(self, folder: Path) -> None:
        """Says where the records are."""
        self.records = folder

    def start(self, spec: TrialSpec) -> None:
        """See Engine."""
        idle = [n for n in range(self.devices.workers) if n not in self._running]
        if not idle and self.board:
            # One that has just ceased to ask may still take it; if not, that is noticed.
            self.board.post(self.board.free(SILENT_SECONDS)[0], spec)
            return
        number = idle[0]
        slot = self._slots[number]
        if slot.future is not None:  # it was only starting up
            self._first(slot)
        slot.submit(perform, "run_trial", self.records, spec, self._checkpoint_seconds)
        self._running[number] = (spec, time.perf_counter())

    def running(self) -> list[Running]:
        """See Engine."""
        now = time.perf_counter()
        return [
            Running(spec, self._slots[number].mailbox.progress(), now - started)
            for number, (spec, started) in list(self._running.items())
        ]

    def wait(self, seconds: float = float("inf")) -> list[Finished]:
        """See Engine; returns nothing if that takes longer than `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            ended = [n for n in self._running if self._look_after(self._slots[n])]
            self._end_what_does_not_stop()
            ends = [self._finished(n) for n in ended]
            found = [end for end in ends if end] + self._joined()
            if found or time.monotonic() > deadline:
                return found
            if not self._running:
                time.sleep(_POLL_SECONDS)
                continue
            running = [f for n in self._running if (f := self._slots[n].future)]
            concurrent.futures.wait(
                running, timeout=_POLL_SECONDS, return_when=concurrent.futures.FIRST_COMPLETED
            )

    def _joined(self) -> list[Finished]:
        """Trials that joined machines have ended; all that still run, if they are to stop."""
        if self.board is None:
            return []
        found = self.board.ended()
        if self.stop_requested():
            stopped = Outcome("interrupted", {}, 0, 0, 0.0, 0.0)
            found += [(spec, stopped) for spec in self.board.abandon()]
        return found

    def stop_trial(self, trial: str) -> None:
        """Asks one running trial to end."""
        for number, (spec, _) in self._running.items():
            if spec.trial == trial:
                self._slots[number].mailbox.request_stop()

    def call(self, task: str, *arguments: Any) -> Any:
        """Runs one of the Runner's tasks in the first worker, while no trial runs.

        Raises:
            SearchError: Its process ended, or memory was used up.
            StoppedError: The user requested a stop, and it did not end soon enough.
        """
        self.devices  # noqa: B018 - the first worker has started up
        return self._call(self._caller(), task, *arguments)

    def _caller(self) -> Slot:
        """The first worker, or where the user's stop has ended that one's trial, any that lives."""
        idle = [slot for slot in self._slots if slot.alive and slot.future is None]
        return idle[0] if idle and self._users_stop() else self._slots[0]

    def call_alone(self, task: str, *arguments: Any) -> Any:
        """Runs a task with the whole machine: one worker's share would show other times."""
        if self.devices.workers == 1:
            return self.call(task, *arguments)
        slot = self._slot(0, whole=True)
        try:
            return self._call(slot, task, *arguments)
        finally:
            slot.close()

    def rest(self) -> None:
        """Ends idle workers, and frees their memory; the next task starts them anew."""
        for slot in self._slots:
            if slot.future is None:
                slot.recycle()

    def close(self) -> None:
        """Ends every worker at once, and tells those of other machines that it is over."""
        if self.board:
            self.board.close()
        for slot in self._slots:
            slot.close()

    def _slot(self, number: int, *, whole: bool = False) -> Slot:
        return Slot(self._begin(number, whole=whole), **self._limits())

    def _adopted(self, warm: Slot) -> Slot:
        try:
            self._started(warm)
            warm.limit(**self._limits())
            warm.adopt(self._begin(0, whole=False))
            self._started(warm)
        except ProcessEndedError as error:
            raise SearchError(f"A worker process cannot start: {error.message}") from error
        return warm

    def _begin(self, number: int, *, whole: bool) -> Start:
        place = dataclasses.replace(
            self.job.place,
            slot=number,
            workers=self._workers,
            whole=whole or self._workers == 1,
        )
        job = dataclasses.replace(self.job, place=place)
        log = worker_log(self._folder, "alone" if whole else number)
        return Start(log, self._lock, begin_worker, (job,))

    def _limits(self) -> dict[str, float]:
        return {
            "stall_seconds": self._stall_seconds,
            "most_bytes": worker_bytes(self._workers or min(os.cpu_count() or 1, MOST_WORKERS)),
        }

    def _look_after(self, slot: Slot) -> bool:
        """Passes on a request to stop, and ends what is silent; whether its task is over."""
        if self.stop_requested():
            self._stop_seen = self._stop_seen or time.monotonic()
            slot.mailbox.request_stop()
        slot.watch()
        return slot.future is None or slot.future.done()

    def _end_what_does_not_stop(self) -> None:
        """Running trials that were asked to stop some time ago; each costs itself alone."""
        if self._stop_seen is None or time.monotonic() < self._stop_seen + GRACE_SECONDS:
            return
        for number in set(self._running) - self._stopped:
            self._stopped.add(number)
            self._slots[number].kill()

    def _call(self, slot: Slot, task: str, *arguments: Any) -> Any:
        begun_after_stop = self._users_stop()
        if begun_after_stop and not slot.alive:
            raise StoppedError(
                f"`{task}` was left out: there is no time to start a process for it."
            )
        slot.submit(perform, task, self.records, *arguments)
        before = slot.mailbox.progress()
        while not self._look_after(slot):
            concurrent.futures.wait([slot.future], timeout=_POLL_SECONDS)  # type: ignore[list-item]
            now = slot.mailbox.progress()
            if self.on_progress and now != before:
                self.on_progress(now.done, now.total)
            before = now
            if self._users_stop() and self._is_over(
                LAST_SECONDS if begun_after_stop else GRACE_SECONDS
            ):
                slot.kill()
                with contextlib.suppress(ProcessEndedError):
                    slot.result()
                raise StoppedError(f"`{task}` was ended: it did not stop by itself.")
        try:
            return slot.result()
        except ProcessEndedError as error:
            raise SearchError(
                f"A worker process ended in `{task}`: {error.message}\n"
                "`--workers=0` runs everything in one process, where a debugger can look."
            ) from error
        except Exception as error:
            failure = memory_failure(task, error, slot.printed())
            if failure is None:
                raise
            raise failure from error

    def _is_over(self, seconds: float) -> bool:
        """Whether the user asked to stop so long ago."""
        self._users_stop_seen = self._users_stop_seen or time.monotonic()
        return time.monotonic() > self._users_stop_seen + seconds

    def _started(self, slot: Slot) -> Any:
        """The result of a process's first task: a stop does not wait until TensorFlow is imported.

        Raises:
            StoppedError: The user has asked to stop.
        """
        while slot.future is not None and not slot.future.done():
            if self._users_stop():
                raise StoppedError(STOPPED_EARLY)
            concurrent.futures.wait([slot.future], timeout=_POLL_SECONDS)
        return slot.result()

    def _first(self, slot: Slot) -> Devices:
        try:
            found: Devices = self._started(slot)
        except ProcessEndedError as error:
            raise SearchError(f"A worker process cannot start: {error.message}") from error
        return found

    def _finished(self, number: int) -> Finished | None:
        """How a trial ended; None if its process could not start and is started once more."""
        spec, started = self._running.pop(number)
        slot = self._slots[number]
        try:
            outcome: Outcome = slot.result()
        except ProcessEndedError as error:
            seconds = time.perf_counter() - started
            ending: Status = "interrupted" if number in self._stopped else error.ending
            if error.starting and ending != "interrupted":  # the trial itself is not to blame
                self._starts[spec.trial] += 1
                if self._starts[spec.trial] < _STARTS and not self.stop_requested():
                    self.start(spec)
                    return None
                ending = "killed"
            self._stopped.discard(number)
            message = f"{spec.trial}: {error.message}"
            return spec, Outcome(ending, {}, 0, 0, seconds, 0.0, message, self.devices.kind)
        self._stopped.discard(number)
        if outcome.status == "error" and follows_out_of_memory(outcome.message, slot.printed()):
            outcome = dataclasses.replace(outcome, status="oom")
        return spec, outcome
