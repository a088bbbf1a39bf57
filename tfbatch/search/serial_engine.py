"""Trials one after the other, in this process."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tfbatch.search.engine import Finished, Progress, Running, memory_failure
from tfbatch.training.checkpoint import CHECKPOINT_SECONDS
from tfbatch.training.devices import Devices
from tfbatch.training.runner import Job, Runner
from tfbatch.trial.outcome import Outcome, Phase, TrialSpec
from tfbatch.workers.mailbox import TaskProgress


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
        """See Engine."""
        del phase
        return self.free

    def start(self, spec: TrialSpec) -> None:
        """See Engine."""
        self._waiting.append(spec)

    def wait(self) -> list[Finished]:
        """See Engine."""
        spec = self._waiting.popleft()
        self._running, self._began, self.progress = spec, time.perf_counter(), TaskProgress()
        try:
            return [(spec, self._run_trial(spec))]
        finally:
            self._running = None

    def running(self) -> list[Running]:
        """See Engine."""
        spec = self._running
        if spec is None:
            return []
        return [Running(spec, self.progress, time.perf_counter() - self._began)]


class InProcessEngine(SerialEngine):
    """`--workers=0`: everything in this process, where a debugger and a profiler see it.

    Args:
        job: What all tasks have in common.
        stop_requested: When true, the running task ends.
    """

    def __init__(
        self,
        job: Job,
        *,
        stop_requested: Callable[[], bool],
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
    ):
        self.stop_requested = stop_requested
        self.on_progress: Progress | None = None
        self.job = job
        self.records: Path | None = None
        self._runner = Runner(job, self)
        super().__init__(lambda spec: self._runner.run_trial(spec, checkpoint_seconds))

    def report(self, done: int, total: int, within: float = 0.0) -> None:
        """See tfbatch.training.runner.Signs."""
        self.progress = TaskProgress(done, total, within)
        if self.on_progress:
            self.on_progress(done, total)

    def open(self, folder: Path) -> None:
        """Says where the records are."""
        self.records = folder
        self._runner.open(folder)

    def call(self, task: str, *arguments: Any) -> Any:
        """Runs one of the Runner's tasks by name.

        Raises:
            SearchError: Memory was exhausted.
        """
        try:
            return getattr(self._runner, task)(*arguments)
        except Exception as error:
            failure = memory_failure(task, error)
            if failure is None:
                raise
            raise failure from error

    def call_alone(self, task: str, *arguments: Any) -> Any:
        """The same: nothing else runs."""
        return self.call(task, *arguments)

    def rest(self) -> None:
        """Nothing to end."""

    def close(self) -> None:
        """Nothing to end."""
