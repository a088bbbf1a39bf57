"""Examples per second, and how much of the time training waits for its input."""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

from tfbatch.callbacks._schedule_end import warn_of_early_end
from tfbatch.callbacks._steps import CountsSteps
from tfbatch.callbacks._watched_input import WatchedInput


class _Reached(NamedTuple):
    """Where an execution ended: when, at which step of the epoch, and WatchedInput's totals."""

    at: float = 0.0
    steps: int = 0
    totals: tuple[float, int] = (0.0, 0)


class Throughput(CountsSteps):
    """Publishes `examples_per_second` and `input_wait` of each epoch's training.

    `input_wait` is the share, 0 to 1, of the epoch's training time that was spent waiting for
    batches, the making of the epoch's iterator included. Near 0 the model is the limit, near 1
    the input is. Every batch is timed and counted, with `steps_per_execution` > 1 too; validation
    is left out, and so is the first execution of `fit`, which traces; with XLA the last one of the
    first epoch too, of three or more, since a short last batch is compiled anew. Both numbers stand
    in `History`, in TensorBoard and in the logs of every callback after this one.

    Its error: two time stamps and a copy of references, some 0.1 ms a batch, count as waiting. What
    is timed is the iterator's own request, on the host. On a GPU the host may ask for the next
    batch while kernels still run, so `input_wait` is an upper bound there. Of data in the device's
    memory (`data_on`) it is the wait for numbers of examples: their batches are part of the step.
    The `on_epoch_begin` of callbacks listed after this one counts as waiting.

    Example:
        ```python
        throughput = tfbatch.callbacks.Throughput()
        model.fit(data, callbacks=[throughput])
        print(throughput.examples_per_second, throughput.input_wait)
        ```

    Attributes:
        examples_per_second: Of the last epoch; NaN before the first one has ended.
        input_wait: Of the last epoch, 0 to 1; NaN before.
        seconds_per_step: Of the last epoch, waiting included; NaN before.

    Raises:
        InputError: At the beginning of `fit`: the model was made under a `tf.distribute` strategy.
    """

    only_looks = True

    def __init__(self) -> None:
        super().__init__()
        self._watched: WatchedInput | None = None
        self._forget()

    def _forget(self) -> None:
        self.examples_per_second = math.nan
        self.input_wait = math.nan
        self.seconds_per_step = math.nan
        self._steps = self._steps_before = self._executions = 0
        self._extra_wait = self._started = self._ended = 0.0
        self._before = (0.0, 0)
        self._whole = (0.0, self._before, 0.0)
        self._first_epoch = True
        self._reached = self._reached_before = _Reached()

    def on_train_begin(self, logs: Any = None) -> None:
        """Starts watching."""
        warn_of_early_end(self.model, self.params)
        self._stop_watching()
        self._forget()
        self._watched = WatchedInput(self.model, caller="Throughput")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Notes where the epoch starts."""
        self._steps = self._steps_before = self._executions = 0
        self._extra_wait = 0.0
        self._begin_steps()
        self._mark()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """What lies before an epoch's first batch is the making of its iterator."""
        if not self._executions:
            self._extra_wait = time.perf_counter() - self._started

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Notes the execution."""
        self._executions += 1
        self._ended = time.perf_counter()
        self._steps = self._steps_of_epoch(batch)
        if self._leaves_out_last and self._watched is not None:
            self._reached_before = self._reached
            self._reached = _Reached(self._ended, self._steps, self._watched.totals())
        if self._watched is not None and self._watched.executions == 1:
            self._whole = (self._started, self._before, self._extra_wait)
            self._steps_before, self._extra_wait = self._steps, 0.0
            self._mark()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Publishes."""
        if self._watched is None or not self._steps:
            return
        reached = _Reached(self._ended, self._steps, self._watched.totals())
        if self._steps == self._steps_before:  # the first execution was all there was
            self._started, self._before, self._extra_wait = self._whole
            self._steps_before = 0
        elif self._leaves_out_last and self._reached_before.steps > self._steps_before:
            reached = self._reached_before
        self._first_epoch = False
        waited, examples = reached.totals
        seconds = reached.at - self._started
        waiting = waited - self._before[0] + self._extra_wait
        self.examples_per_second = (examples - self._before[1]) / seconds
        self.input_wait = min(waiting / seconds, 1.0)
        self.seconds_per_step = seconds / (reached.steps - self._steps_before)
        if logs is not None:
            logs["examples_per_second"] = self.examples_per_second
            logs["input_wait"] = self.input_wait

    def on_train_end(self, logs: Any = None) -> None:
        """Stops watching."""
        self._stop_watching()

    @property
    def _leaves_out_last(self) -> bool:
        return self._first_epoch and bool(getattr(self.model, "jit_compile", False))

    def _mark(self) -> None:
        self._started = self._ended = time.perf_counter()
        self._before = self._watched.totals() if self._watched is not None else (0.0, 0)

    def _stop_watching(self) -> None:
        if self._watched is not None:
            self._watched.remove()
        self._watched = None
