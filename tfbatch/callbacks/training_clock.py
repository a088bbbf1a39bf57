"""Seconds of training alone: no tracing, no validation."""

from __future__ import annotations

import math
import time
from typing import Any

from tfbatch.callbacks._steps import CountsSteps


class TrainingClock(CountsSteps):
    """Measures the time of training steps.

    The first executions (tracing, allocation) and everything between epochs (validation,
    callbacks) are left out; `seconds` extrapolates the rest to all steps. With XLA the last
    execution is left out too: a short last batch is compiled anew.

    Example:
        ```python
        clock = tfbatch.callbacks.TrainingClock()
        model.fit(data, callbacks=[clock])
        print(clock.seconds)
        ```

    Args:
        warmup_executions: Calls of the compiled program that are left out at the beginning.
        whole_batches: Whether no batch is short, so that the last execution counts in any case.
    """

    only_looks = True

    def __init__(self, warmup_executions: int = 3, *, whole_batches: bool = False) -> None:
        super().__init__()
        self._warmup_executions = warmup_executions
        self._whole_batches = whole_batches
        self.on_train_begin()

    def on_train_begin(self, logs: Any = None) -> None:
        """Starts anew."""
        self.steps = 0
        self._executions = 0
        self._measured_steps = self._last_steps = 0
        self._measured_seconds = self._last_seconds = 0.0
        self._fastest_step = math.inf
        self._last = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Restarts after a validation."""
        self._last = time.perf_counter()
        self._before = self.steps
        self._begin_steps()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Adds the time since the last batch."""
        now = time.perf_counter()
        steps = self._before + self._steps_of_epoch(batch) - self.steps
        self.steps += steps
        self._fastest_step = min(self._fastest_step, (now - self._last) / max(steps, 1))
        self._executions += 1
        if self._executions > self._warmup_executions:
            self._last_steps, self._last_seconds = steps, now - self._last
            self._measured_steps += self._last_steps
            self._measured_seconds += self._last_seconds
        self._last = now

    @property
    def seconds(self) -> float:
        """Seconds for all steps at the pace of those measured.

        Of so few executions that all of them may have been traced or allocated for, it is the pace
        of the fastest.
        """
        steps, seconds = self._measured_steps, self._measured_seconds
        if self._leaves_out_last and steps > self._last_steps:
            steps, seconds = steps - self._last_steps, seconds - self._last_seconds
        if steps:
            return seconds / steps * self.steps
        return self._fastest_step * self.steps if self._executions else 0.0

    @property
    def _leaves_out_last(self) -> bool:
        return not self._whole_batches and bool(getattr(self.model, "jit_compile", False))
