"""Trials one after the other, in this process."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate

from tfbatch.errors import StoppedError
from tfbatch.search.engine import Calls, Finished, OnProgress, Running, memory_failure
from tfbatch.training.checkpoint import CHECKPOINT_SECONDS
from tfbatch.training.context import Job, P, R, TaskContext, UserCode, load_code, worker_alone
from tfbatch.training.devices import Devices
from tfbatch.training.node_check import NodeCheck
from tfbatch.training.trial import run_spec
from tfbatch.trial.outcome import Outcome, Phase, TrialSpec
from tfbatch.workers.mailbox import TaskProgress
from tfbatch.workers.slot import Start


class SerialEngine:
    """One trial at a time, by a function of this process: for debugging and tests.

    Args:
        run_trial: Trains one specification.
        devices: What it runs on.
    """

    def __init__(
        self,
        run_trial: Callable[[TrialSpec], Outcome],
        devices: Devices = Devices("CPU", (), 1, 1),  # noqa: B008 - frozen
    ):
        self._run_trial = run_trial
        self.devices = devices
        self._waiting: collections.deque[TrialSpec] = collections.deque()
        self._running: TrialSpec | None = None
        self._began = 0.0
        self.progress = TaskProgress()

    @property
    def free(self) -> bool:
        """Whether no trial waits."""
        return not self._waiting

    def can_start(self, phase: Phase) -> bool:
        """See TrialEngine."""
        del phase
        return self.free

    def start(self, spec: TrialSpec) -> None:
        """See TrialEngine."""
        self._waiting.append(spec)

    def wait(
        self, *, seconds: float = float("inf"), stop_requested: Callable[[], bool] | None = None
    ) -> list[Finished]:
        """See TrialEngine; a trial that runs ends before this returns."""
        del seconds, stop_requested
        spec = self._waiting.popleft()
        self._running, self._began, self.progress = spec, time.perf_counter(), TaskProgress()
        try:
            return [(spec, self._run_trial(spec))]
        finally:
            self._running = None

    def running(self) -> list[Running]:
        """See TrialEngine."""
        spec = self._running
        if spec is None:
            return []
        return [Running(spec, self.progress, time.perf_counter() - self._began)]

    def end_trials(self) -> list[Finished]:
        """See TrialEngine; one that runs has ended before anyone can ask."""
        self._waiting.clear()
        return []


class InProcessEngine(SerialEngine, Calls):
    """`--workers=0`: everything in this process, where a debugger and a profiler see it.

    Args:
        job: What all tasks have in common.
        stop_requested: When true, the running task ends.
        checkpoint_seconds: The least time between two checkpoints of a trial.
        code: The job's code, if it is loaded already.
        records: Where the prepared data is.
    """

    def __init__(
        self,
        job: Job,
        *,
        stop_requested: Callable[[], bool],
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
        code: UserCode | None = None,
        records: Path | None = None,
    ):
        self._users_stop = self._stop = stop_requested
        self._checkpoint_seconds = checkpoint_seconds
        self._on_progress: OnProgress | None = None
        self._context = TaskContext(job, code or load_code(job), signs=self, records=records)
        super().__init__(lambda spec: run_spec(self._context, spec, checkpoint_seconds))

    def stop_requested(self) -> bool:
        """See Engine; while a trial runs, whether that one is to end."""
        return self._stop()

    def report(self, done: int, total: int, within: float = 0.0) -> None:
        """See tfbatch.training.context.Signs."""
        self.progress = TaskProgress(done, total, within)
        if self._on_progress:
            self._on_progress(done, total)

    def opened(self, records: Path) -> InProcessEngine:
        """See Engine."""
        return InProcessEngine(
            self._context.job,
            stop_requested=self._users_stop,
            checkpoint_seconds=self._checkpoint_seconds,
            code=self._context.code,
            records=records,
        )

    def wait(
        self, *, seconds: float = float("inf"), stop_requested: Callable[[], bool] | None = None
    ) -> list[Finished]:
        """See TrialEngine; a trial that runs ends before this returns."""
        self._stop = stop_requested or self._users_stop
        try:
            return super().wait(seconds=seconds)
        finally:
            self._stop = self._users_stop

    def call_each(
        self,
        task: Callable[Concatenate[TaskContext, P], R],
        cases: Sequence[Mapping[str, object]],
        ended: Callable[[int, R], None],
    ) -> None:
        """See Engine; one after the other."""
        for index, case in enumerate(cases):
            if self._users_stop():
                raise StoppedError(f"`{task.__name__}` was stopped.")
            ended(index, self._perform(task, (), case))

    def call_side_by_side(
        self,
        task: Callable[Concatenate[TaskContext, P], R],
        case: Mapping[str, object],
    ) -> list[R]:
        """See Engine; this process is the only worker."""
        return [self._perform(task, (), case)]

    def share_gpus(self, workers: int) -> None:
        """See Engine; this process is the only worker.

        Raises:
            RuntimeError: There are to be more.
        """
        if workers > 1:
            raise RuntimeError("one process is one worker")

    def own_process(self, log: Path) -> Start:
        """See Engine."""
        return worker_alone(self._context.job, self._context.records, log)

    def admit(self, expected: NodeCheck) -> None:
        """No node to admit."""

    def rest(self) -> None:
        """Nothing to end."""

    def close(self) -> None:
        """Nothing to end."""

    def _perform(
        self,
        task: Callable[..., Any],
        arguments: Sequence[Any],
        options: Mapping[str, Any],
        *,
        on_progress: OnProgress | None = None,
        alone: bool = False,
    ) -> Any:
        self._on_progress = on_progress
        try:
            return task(self._context, *arguments, **options)
        except Exception as error:
            failure = memory_failure(task.__name__, error)
            if failure is None:
                raise
            raise failure from error
        finally:
            self._on_progress = None
