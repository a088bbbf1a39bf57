"""Trials in worker processes, several at a time."""

from __future__ import annotations

import abc
import collections
import concurrent.futures
import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate

from tfbatch.errors import STOPPED_EARLY, SearchError, StoppedError
from tfbatch.process.gpus import read_gpus
from tfbatch.process.limits import whole_cores
from tfbatch.process.memory import worker_bytes
from tfbatch.process.out_of_memory import follows_out_of_memory
from tfbatch.run_folder.files import worker_log
from tfbatch.search.engine import Calls, Finished, OnProgress, Running, memory_failure
from tfbatch.training.checkpoint import CHECKPOINT_SECONDS
from tfbatch.training.context import (
    Job,
    P,
    R,
    TaskContext,
    begin_worker,
    describe_devices,
    perform,
    worker_alone,
)
from tfbatch.training.devices import MOST_WORKERS, Devices
from tfbatch.training.node_check import NodeCheck
from tfbatch.training.trial import run_spec
from tfbatch.trial.outcome import Outcome, Phase, TrialSpec
from tfbatch.trial_status import Status
from tfbatch.workers import ProcessEndedError, Slot
from tfbatch.workers.slot import Start, TaskSlot

_POLL_SECONDS = 0.1
STALL_MINUTES = 10.0
"""A trial without a heartbeat for this long is ended."""
GRACE_SECONDS = 3.0
"""A task that is asked to stop and does not (it traces, or is in one long step) is then ended."""
LAST_SECONDS = 7.0
"""What is begun after the user's request to stop, such as saving the model, is ended then."""
_STARTS = 2
_HIDE_A_GPU = "A GPU that cannot be used is left out by CUDA_VISIBLE_DEVICES, such as 0,2,3."
SEARCHED: Phase = "search"
MEASURED: Phase = "measured"
"""Of what is compared in seconds; every phase but the search's is placed alike."""


class Processes(abc.ABC):
    """Warm worker processes, and one task at a time in each of their slots.

    Args:
        job: What all tasks have in common.
        stop_requested: When true, the user asks to stop.
        advice: A sentence for users whose task has ended with its process.

    Attributes:
        slots: Each keeps its place in the list.
    """

    slots: list[TaskSlot]
    _advice = ""

    def __init__(self, job: Job, *, stop_requested: Callable[[], bool], advice: str = ""):
        self.job, self.stop_requested = job, stop_requested
        self.slots = []
        self._stop_seen: float | None = None
        if advice:
            self._advice = f"\n{advice}"

    @property
    @abc.abstractmethod
    def devices(self) -> Devices:
        """What the workers have on which seconds are compared, once the first has started up."""

    @abc.abstractmethod
    def open_to(self, phase: Phase) -> Sequence[int]:
        """Numbers of the slots that may run a trial of a phase, busy ones perhaps included."""

    @abc.abstractmethod
    def device_of(self, number: int) -> str:
        """The kind of device of a slot."""

    @abc.abstractmethod
    def _caller(self) -> TaskSlot:
        """The slot of single tasks."""

    @abc.abstractmethod
    def _apart(self, caller: TaskSlot) -> TaskSlot | None:
        """Another slot with the whole machine of this one; None if it has that itself."""

    @abc.abstractmethod
    def _beside(self, caller: TaskSlot) -> Sequence[TaskSlot]:
        """Slots that may hold memory of the GPU on which a slot apart from this one trains."""

    @abc.abstractmethod
    def share_gpus(self, workers: int) -> None:
        """See Engine."""

    @abc.abstractmethod
    def of_one_gpu(self) -> Sequence[int]:
        """Numbers of the slots of the first GPU."""

    @abc.abstractmethod
    def admit(self, records: Path, expected: NodeCheck) -> None:
        """From now on nodes are compared with this, and those that are alike get trials."""

    def submit(
        self,
        slot: TaskSlot,
        records: Path | None,
        task: Callable[..., object],
        *arguments: object,
        **options: object,
    ) -> None:
        """Begins a task in a slot."""
        slot.submit(perform, records, task, *arguments, **options)

    def perform(
        self,
        records: Path | None,
        task: Callable[..., object],
        arguments: Sequence[object],
        options: Mapping[str, object],
        *,
        on_progress: OnProgress | None,
        alone: bool,
    ) -> Any:
        """Runs a task in the first worker; see Engine."""
        caller = self._caller()
        apart = self._apart(caller) if alone else None
        if apart is None:
            return self._perform(caller, records, task, arguments, options, on_progress)
        if not self.stop_requested():  # what is left to be done then begins no process
            for slot in self._beside(caller):
                if slot.future is None:  # its allocator keeps what its largest trial took
                    slot.recycle()
        try:
            return self._perform(apart, records, task, arguments, options, on_progress)
        finally:
            apart.close()

    def perform_each(
        self,
        records: Path | None,
        task: Callable[..., Any],
        cases: Sequence[Mapping[str, object]],
        ended: Callable[[int, Any], None],
        numbers: Sequence[int] | None = None,
    ) -> None:
        """Runs a task for each case in whichever worker is free; see Engine.

        Args:
            records: Where the prepared data is.
            task: Module-level.
            cases: The arguments of each by name.
            ended: Told of each case's index and result.
            numbers: Those of the slots that it runs in; None for every one that measures. One of
                these that cannot start is left out while there is another.
        """
        waiting = collections.deque(range(len(cases)))
        running: dict[int, TaskSlot] = {}
        failure: Exception | None = None
        self.devices  # noqa: B018 - all workers are started
        chosen = self.open_to(MEASURED) if numbers is None else numbers
        slots = [self.slots[number] for number in chosen]
        if numbers is None:
            slots = self._that_start(slots)
        for slot in slots:
            if slot.future is not None:
                self.first_result(slot)
        while running or (waiting and failure is None and not self.stop_requested()):
            for slot in slots if failure is None and not self.stop_requested() else []:
                if waiting and slot not in running.values():
                    case = waiting.popleft()
                    self.submit(slot, records, task, **cases[case])
                    running[case] = slot
            over = [
                n for n, slot in running.items() if look_after(slot, stop=self.stop_requested())
            ]
            for case in over:
                slot = running.pop(case)
                try:
                    ended(case, self._result(task.__name__, slot))
                except Exception as error:
                    if numbers is None and len(slots) > 1 and _did_not_start(error):
                        slots.remove(slot)
                        waiting.appendleft(case)
                    else:
                        failure = failure or error
            if self.stop_requested() and self._is_over(GRACE_SECONDS):
                for slot in running.values():
                    slot.kill()
            futures = [slot.future for slot in running.values() if slot.future]
            concurrent.futures.wait(
                futures, timeout=_POLL_SECONDS, return_when=concurrent.futures.FIRST_COMPLETED
            )
        if self.stop_requested() and (waiting or failure):
            raise StoppedError(f"`{task.__name__}` was stopped.") from failure
        if failure:
            raise failure

    def first_result(self, slot: TaskSlot) -> Devices:
        """What a process has found that was only starting up.

        Raises:
            SearchError: It cannot start.
            StoppedError: The user has asked to stop.
        """
        try:
            found: Devices = self.started(slot)
        except ProcessEndedError as error:
            raise _cannot_start(error) from error
        return found

    def started(self, slot: TaskSlot) -> Any:
        """The result of a process's first task: a stop does not wait until TensorFlow is imported.

        Raises:
            ProcessEndedError: It cannot start.
            StoppedError: The user has asked to stop.
        """
        while slot.future is not None and not slot.future.done():
            if self.stop_requested():
                raise StoppedError(STOPPED_EARLY)
            slot.watch()
            concurrent.futures.wait([slot.future], timeout=_POLL_SECONDS)
        return slot.result()

    def rest(self) -> None:
        """See Engine."""
        for slot in self.slots:
            if slot.future is None:
                slot.recycle()

    def close(self) -> None:
        """See Engine."""
        for slot in self.slots:
            slot.close()

    def _perform(
        self,
        slot: TaskSlot,
        records: Path | None,
        task: Callable[..., Any],
        arguments: Sequence[Any],
        options: Mapping[str, Any],
        on_progress: OnProgress | None,
    ) -> Any:
        name = task.__name__
        begun_after_stop = self.stop_requested()
        if begun_after_stop and not slot.alive:
            raise StoppedError(
                f"`{name}` was left out: there is no time to start a process for it."
            )
        self.submit(slot, records, task, *arguments, **options)
        before = slot.mailbox.progress()
        while not look_after(slot, stop=self.stop_requested()):
            concurrent.futures.wait(filter(None, [slot.future]), timeout=_POLL_SECONDS)
            now = slot.mailbox.progress()
            if on_progress and now != before:
                on_progress(now.done, now.total)
            before = now
            if self.stop_requested() and self._is_over(
                LAST_SECONDS if begun_after_stop else GRACE_SECONDS
            ):
                slot.kill()
                with contextlib.suppress(ProcessEndedError):
                    slot.result()
                raise StoppedError(f"`{name}` was ended: it did not stop by itself.")
        return self._result(name, slot)

    def _result(self, name: str, slot: TaskSlot) -> Any:
        """What a task has returned.

        Raises:
            SearchError: Its process ended, or memory was used up.
        """
        try:
            return slot.result()
        except ProcessEndedError as error:
            raise SearchError(
                f"A worker process ended in `{name}`: {error.message}{self._advice}"
            ) from error
        except Exception as error:
            failure = memory_failure(name, error, slot.printed(), shared=len(self.slots) > 1)
            if failure is None:
                raise
            raise failure from error

    def _is_over(self, seconds: float) -> bool:
        """Whether the user asked to stop so long ago."""
        self._stop_seen = self._stop_seen or time.monotonic()
        return time.monotonic() > self._stop_seen + seconds

    def _that_start(self, slots: Sequence[TaskSlot]) -> list[TaskSlot]:
        """Those whose process has started up.

        Raises:
            SearchError: None can.
            StoppedError: The user has asked to stop.
        """
        found: list[TaskSlot] = []
        failure: ProcessEndedError | None = None
        for slot in slots:
            try:
                if slot.future is not None:  # it was only starting up
                    self.started(slot)
                found.append(slot)
            except ProcessEndedError as error:
                failure = error
        if failure and not found:
            raise _cannot_start(failure) from failure
        return found


class WorkerProcesses(Processes):
    """The worker processes of this machine.

    Args:
        job: What all tasks have in common.
        workers: Number of workers; None for one per GPU, or the default of a CPU.
        folder: The run folder, for the workers' output.
        lock: File that every worker keeps locked while it lives, or None.
        stop_requested: When true, the user asks to stop.
        stall_minutes: A task without a heartbeat for this long is ended.
        warm: A slot whose process has imported TensorFlow, to be the first.
        advice: See Processes.
    """

    def __init__(
        self,
        job: Job,
        *,
        workers: int | None,
        folder: Path,
        lock: Path | None,
        stop_requested: Callable[[], bool],
        stall_minutes: float,
        warm: Slot | None,
        advice: str = "",
    ):
        super().__init__(job, stop_requested=stop_requested, advice=advice)
        self._workers, self._folder, self._lock = workers, folder, lock
        self._stall_seconds = stall_minutes * 60
        self._devices: Devices | None = None
        first = self._slot(0) if warm is None else self._adopted(warm)
        first.submit(describe_devices)
        self._first, self.slots = first, [first]

    @property
    def devices(self) -> Devices:
        """What the first worker has found; the others are started then, and warm up beside it."""
        if self._devices is None:
            self._devices = self.first_result(self.slots[0])
            self._first.limit(**self._limits())  # by the GPUs that it has found, not by cores
            self.slots += [self._slot(n) for n in range(1, self._devices.workers)]
            for slot in self.slots[1:]:
                slot.submit(describe_devices)
        return self._devices

    def open_to(self, phase: Phase) -> Sequence[int]:
        """See Processes: every phase runs in every worker."""
        del phase
        return range(self.devices.workers)

    def share_gpus(self, workers: int) -> None:
        """See Engine; the processes start with their first task."""
        self._devices = self.devices.shared_by(workers)
        place = dataclasses.replace(self.job.place, workers_per_gpu=workers)
        self.job = dataclasses.replace(self.job, place=place)
        self.close()
        self.slots = [self._slot(number) for number in range(self._devices.workers)]

    def of_one_gpu(self) -> Sequence[int]:
        """See Processes: workers take the GPUs in turn."""
        return range(0, self.devices.workers, max(self.devices.gpus, 1))

    def admit(self, records: Path, expected: NodeCheck) -> None:
        """No node to admit."""

    def device_of(self, number: int) -> str:
        """See Processes."""
        del number
        return self.devices.kind

    def _caller(self) -> TaskSlot:
        """The first worker, or where the user's stop has ended that one's trial, any that lives."""
        self.devices  # noqa: B018 - the first worker has started up
        idle = [slot for slot in self.slots if slot.alive and slot.future is None]
        return idle[0] if idle and self.stop_requested() else self.slots[0]

    def _apart(self, caller: TaskSlot) -> TaskSlot | None:
        return None if self.devices.workers == 1 else self._slot(0, whole=True)

    def _beside(self, caller: TaskSlot) -> Sequence[TaskSlot]:
        del caller
        return [self.slots[n] for n in self.of_one_gpu()] if self.devices.gpus else []

    def _slot(self, number: int, *, whole: bool = False) -> Slot:
        return Slot(self._begin(number, whole=whole), **self._limits())

    def _adopted(self, warm: Slot) -> Slot:
        warm.limit(**self._limits())
        try:
            self.started(warm)
            warm.adopt(self._begin(0, whole=False))
            self.started(warm)
        except ProcessEndedError as error:
            raise _cannot_start(error) from error
        return warm

    def _begin(self, number: int, *, whole: bool) -> Start:
        place = dataclasses.replace(
            self.job.place.apart(self.devices) if whole else self.job.place,
            slot=number,
            workers=self._workers,
            whole=whole or self._workers == 1,
        )
        job = dataclasses.replace(self.job, place=place)
        log = worker_log(self._folder, "alone" if whole else number)
        return Start(log, self._lock, begin_worker, (job,))

    def _limits(self) -> dict[str, float]:
        workers = self._devices.workers if self._devices else self._workers
        return {
            "stall_seconds": self._stall_seconds,
            "most_bytes": worker_bytes(workers or min(whole_cores(), MOST_WORKERS)),
        }


def look_after(slot: TaskSlot, *, stop: bool) -> bool:
    """Passes on a request to stop, and ends what is silent; whether the slot's task is over."""
    if stop:
        slot.mailbox.request_stop()
    slot.watch()
    return _has_ended(slot)


def _has_ended(slot: TaskSlot) -> bool:
    return slot.future is None or slot.future.done()


def _did_not_start(error: Exception) -> bool:
    """Whether a task's error is that its process could not start."""
    return isinstance(error.__cause__, ProcessEndedError) and error.__cause__.starting


def _cannot_start(error: ProcessEndedError) -> SearchError:
    gpus = f"\n{_HIDE_A_GPU}" if read_gpus().gpus else ""
    return SearchError(f"A worker process cannot start: {error.message}{gpus}")


class WorkerEngine(Calls):
    """Trials in worker processes; this one holds the oracle and the journal and touches no device.

    Args:
        processes: The workers, of this machine or of a cluster.
        checkpoint_seconds: The least time between two checkpoints of a trial.
        records: Where the prepared data is; None before it is prepared.
    """

    def __init__(
        self,
        processes: Processes,
        *,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
        records: Path | None = None,
    ):
        self._processes, self._records = processes, records
        self._checkpoint_seconds = checkpoint_seconds
        self._running: dict[int, tuple[TrialSpec, float]] = {}
        self._stop_seen: float | None = None
        self._stopped: set[int] = set()
        self._unclaimed: list[Finished] = []
        self._starts: collections.Counter[str] = collections.Counter()
        self._failed_starts: collections.Counter[int] = collections.Counter()

    @property
    def devices(self) -> Devices:
        """See TrialEngine."""
        return self._processes.devices

    @property
    def free(self) -> bool:
        """Whether a worker has nothing to do, or none is left at all: one may come.

        Then a trial that is to run waits for it; see TrialRunner.run_all.
        """
        return bool(self._idle(SEARCHED)) or not self._running

    def stop_requested(self) -> bool:
        """See Engine."""
        return self._processes.stop_requested()

    def opened(self, records: Path) -> WorkerEngine:
        """See Engine."""
        return WorkerEngine(
            self._processes,
            checkpoint_seconds=self._checkpoint_seconds,
            records=records,
        )

    def can_start(self, phase: Phase) -> bool:
        """See TrialEngine: seconds are compared, and answers verified, on one kind of device."""
        return bool(self._idle(phase))

    def start(self, spec: TrialSpec) -> None:
        """See TrialEngine."""
        number = self._idle(spec.phase)[0]
        slot = self._processes.slots[number]
        if slot.future is not None:  # it was only starting up
            try:
                self._processes.started(slot)
            except ProcessEndedError:  # the trial's first try
                self._starts[spec.trial] += 1
                self._failed_starts[number] += 1
        self._processes.submit(slot, self._records, run_spec, spec, self._checkpoint_seconds)
        self._running[number] = (spec, time.perf_counter())

    def running(self) -> list[Running]:
        """See TrialEngine."""
        now, slots = time.perf_counter(), self._processes.slots
        return [
            Running(spec, slots[number].mailbox.progress(), now - started)
            for number, (spec, started) in list(self._running.items())
        ]

    def end_trials(self) -> list[Finished]:
        """See TrialEngine."""
        slots = self._processes.slots
        while late := [n for n in self._running if not _has_ended(slots[n])]:
            self._stopped.update(late)
            for number in late:
                slots[number].kill()  # again: a process that is only begun has no ID yet
            futures = [f for n in late if (f := slots[n].future)]
            concurrent.futures.wait(futures, timeout=_POLL_SECONDS)
        found, self._unclaimed = self._unclaimed, []
        for number in list(self._running):
            with contextlib.suppress(Exception):  # of one costs no other
                end = self._finished(number, lambda: True)
                found += [end] if end else []
        self._stopped.clear()
        return found

    def wait(
        self, *, seconds: float = float("inf"), stop_requested: Callable[[], bool] | None = None
    ) -> list[Finished]:
        """See TrialEngine."""
        asked = stop_requested or self.stop_requested
        deadline = time.monotonic() + seconds
        slots, idle = self._processes.slots, len(self._idle(SEARCHED))
        while True:
            ended = [n for n in self._running if self._look_after(slots[n], asked)]
            self._end_what_does_not_stop()
            found = self._ends_of(ended, asked)
            if found or time.monotonic() > deadline or len(self._idle(SEARCHED)) > idle:
                return found
            if not self._running:
                time.sleep(_POLL_SECONDS)
                continue
            running = [f for n in self._running if (f := slots[n].future)]
            concurrent.futures.wait(
                running, timeout=_POLL_SECONDS, return_when=concurrent.futures.FIRST_COMPLETED
            )

    def own_process(self, log: Path) -> Start:
        """See Engine."""
        job = self._processes.job
        place = job.place.apart(self._processes.devices)
        return worker_alone(dataclasses.replace(job, place=place), self._records, log)

    def admit(self, expected: NodeCheck) -> None:
        """See Engine."""
        if self._records is None:
            raise RuntimeError("the data must be prepared first")
        self._processes.admit(self._records, expected)

    def rest(self) -> None:
        """See Engine."""
        self._processes.rest()

    def close(self) -> None:
        """Ends every worker at once."""
        self._processes.close()

    def _perform(
        self,
        task: Callable[..., Any],
        arguments: Sequence[Any],
        options: Mapping[str, Any],
        *,
        on_progress: OnProgress | None = None,
        alone: bool = False,
    ) -> Any:
        return self._processes.perform(
            self._records, task, arguments, options, on_progress=on_progress, alone=alone
        )

    def call_each(
        self,
        task: Callable[Concatenate[TaskContext, P], R],
        cases: Sequence[Mapping[str, object]],
        ended: Callable[[int, R], None],
    ) -> None:
        """See Engine."""
        self._processes.perform_each(self._records, task, cases, ended)

    def call_side_by_side(
        self,
        task: Callable[Concatenate[TaskContext, P], R],
        case: Mapping[str, object],
    ) -> list[R]:
        """See Engine."""
        numbers = self._processes.of_one_gpu()
        found: dict[int, R] = {}
        self._processes.perform_each(
            self._records, task, [case] * len(numbers), found.__setitem__, numbers
        )
        return [found[number] for number in range(len(numbers))]

    def share_gpus(self, workers: int) -> None:
        """See Engine."""
        self._processes.share_gpus(workers)

    def _idle(self, phase: Phase) -> list[int]:
        """Slots without a trial; one that cannot start would cost trial after trial."""
        numbers = self._processes.open_to(phase)
        sound = [n for n in numbers if self._failed_starts[n] < _STARTS] or numbers
        return [n for n in sound if n not in self._running]

    def _look_after(self, slot: TaskSlot, stop_requested: Callable[[], bool]) -> bool:
        """See `look_after`; notes when trials were first asked to stop."""
        stop = stop_requested()
        if stop:
            self._stop_seen = self._stop_seen or time.monotonic()
        return look_after(slot, stop=stop)

    def _end_what_does_not_stop(self) -> None:
        """Running trials that were asked to stop some time ago; each costs itself alone."""
        if self._stop_seen is None or time.monotonic() < self._stop_seen + GRACE_SECONDS:
            return
        for number in set(self._running) - self._stopped:
            self._stopped.add(number)
            self._processes.slots[number].kill()

    def _ends_of(
        self, numbers: Sequence[int], stop_requested: Callable[[], bool]
    ) -> list[Finished]:
        """How trials ended; where one raises, those before it are kept for `end_trials`."""
        found: list[Finished] = []
        for number in numbers:
            try:
                end = self._finished(number, stop_requested)
            except BaseException:
                self._unclaimed += found
                raise
            found += [end] if end else []
        return found

    def _finished(self, number: int, stop_requested: Callable[[], bool]) -> Finished | None:
        """How a trial ended; None if its process could not start and is started once more."""
        spec, started = self._running.pop(number)
        slot = self._processes.slots[number]
        try:
            outcome: Outcome = slot.result()
        except ProcessEndedError as error:
            seconds = time.perf_counter() - started
            ending: Status = "interrupted" if number in self._stopped else error.ending
            if error.starting and ending != "interrupted":  # the trial itself is not to blame
                self._starts[spec.trial] += 1
                self._failed_starts[number] += 1
                again = self._starts[spec.trial] < _STARTS and self.can_start(spec.phase)
                if again and not stop_requested():
                    self.start(spec)
                    return None
                ending = "killed"
            self._stopped.discard(number)
            message = f"{spec.trial}: {error.message}"
            device = self._processes.device_of(number)
            return spec, Outcome(ending, {}, 0, 0, seconds, 0.0, message, device)
        self._stopped.discard(number)
        self._failed_starts.pop(number, None)
        if outcome.status == "error" and follows_out_of_memory(outcome.message, slot.printed()):
            outcome = dataclasses.replace(outcome, status="oom")
        return spec, outcome
