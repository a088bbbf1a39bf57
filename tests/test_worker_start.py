"""A worker process that cannot start is no trial's fault, and one that does not stop is ended."""

from __future__ import annotations

import time
import types
from pathlib import Path

import pytest
from search_fixtures import BASELINE

from tfbatch.errors import SearchError, StoppedError
from tfbatch.search import worker_engine
from tfbatch.search.engine import memory_failure
from tfbatch.search.worker_engine import WorkerEngine
from tfbatch.training.devices import Devices
from tfbatch.trial.outcome import Outcome, TrialSpec
from tfbatch.workers import ProcessEndedError

SPEC = TrialSpec("search-0001", "search", 1, BASELINE, 2500, 1000)
FULL = ProcessEndedError("oom", "cudaSetDevice() on GPU:0 failed", starting=True)
DONE = Outcome("completed", {"val_loss": 0.5}, 2500, 79, 3.0, 2.0)


class FakeSlot:
    """Ends each task as it is told to."""

    def __init__(self, *ends, log=""):
        self.ends, self.log = list(ends), log
        self.submitted = 0
        self.killed = 0
        self.future = None
        self.mailbox = self

    def submit(self, *_):
        self.submitted += 1

    def result(self):
        end = self.ends.pop(0)
        if isinstance(end, ProcessEndedError):
            raise end
        return end

    def printed(self):
        return self.log

    def kill(self):
        self.killed += 1

    def request_stop(self):
        """Nothing: it does not stop."""


def never():
    return False


def make_engine(slot):
    """An engine without any process."""
    devices = Devices("GPU", ("GPU:0",), 1, 1)
    processes = types.SimpleNamespace(slots=[slot], devices=devices, stop_requested=never)
    return WorkerEngine(processes, records=Path())  # type: ignore[arg-type]


def test_a_start_without_memory_is_tried_again_before_the_trial_runs():
    slot = FakeSlot(FULL, DONE)
    engine = make_engine(slot)
    engine.start(SPEC)

    assert engine._finished(0, never) is None
    assert engine._finished(0, never) == (SPEC, DONE)
    assert slot.submitted == 2


def test_a_start_that_fails_twice_teaches_nothing_of_the_batch_size():
    engine = make_engine(FakeSlot(FULL, FULL))
    engine.start(SPEC)
    assert engine._finished(0, never) is None
    ended = engine._finished(0, never)

    assert ended is not None
    assert (ended[1].status, ended[1].message) == (
        "killed",
        "search-0001: cudaSetDevice() on GPU:0 failed",
    )


def test_the_kernels_kill_during_a_trial_is_out_of_memory_at_once():
    engine = make_engine(FakeSlot(ProcessEndedError("oom", "The kernel killed it.")))
    engine.start(SPEC)
    ended = engine._finished(0, never)

    assert ended is not None
    assert ended[1].status == "oom"


@pytest.mark.parametrize(
    ("log", "status"), [("CUDA_ERROR_OUT_OF_MEMORY: out of memory\n", "oom"), ("", "error")]
)
def test_cudnn_that_cannot_be_opened_is_judged_by_the_log(log, status):
    failed = Outcome("error", {}, 0, 0, 1.0, 0.0, "Could not create cudnn handle: ...")
    engine = make_engine(FakeSlot(failed, log=log))
    engine.start(SPEC)
    ended = engine._finished(0, never)

    assert ended is not None
    assert ended[1].status == status


def test_a_trial_that_does_not_stop_is_ended_after_the_grace_time(monkeypatch):
    slot = FakeSlot(ProcessEndedError("killed", "Its process ended by SIGKILL."))
    engine = make_engine(slot)
    engine.start(SPEC)
    engine._stop_seen = time.monotonic()
    engine._end_what_does_not_stop()
    assert slot.killed == 0
    monkeypatch.setattr(worker_engine, "GRACE_SECONDS", 0.0)
    engine._end_what_does_not_stop()
    engine._end_what_does_not_stop()
    ended = engine._finished(0, never)

    assert slot.killed == 1
    assert ended is not None
    assert ended[1].status == "interrupted"  # and never in the journal


def test_a_task_without_memory_is_an_error_for_users():
    failure = memory_failure("measure_untrained", RuntimeError("CUDA_ERROR_OUT_OF_MEMORY"))

    assert isinstance(failure, SearchError)
    assert "nvidia-smi" in str(failure)
    assert memory_failure("measure_untrained", RuntimeError("shapes do not match")) is None
    assert memory_failure("prepare", StoppedError("out of memory")) is None
