"""A worker process that cannot start is no trial's fault, and one that does not stop is ended."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import threading
import time
import types
from pathlib import Path

import pytest
from search_fixtures import (
    BASELINE,
    NUM_EXAMPLES,
    make_config,
    open_folder,
    outcome,
    runner_of,
)

from tfbatch.errors import RunFolderError, SearchError, StoppedError
from tfbatch.process.memory import worker_bytes
from tfbatch.request.execution import Execution
from tfbatch.search import worker_engine
from tfbatch.search.clock import SearchClock
from tfbatch.search.engine import memory_failure
from tfbatch.search.loop import Search
from tfbatch.search.progress import Progress
from tfbatch.search.session import _advice
from tfbatch.search.space import SearchSpace
from tfbatch.search.worker_engine import WorkerEngine, WorkerProcesses
from tfbatch.training.context import Job
from tfbatch.training.devices import MOST_WORKERS, Devices
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


def make_engine(*slots, stop_requested=never):
    """An engine without any process."""
    processes = WorkerProcesses.__new__(WorkerProcesses)
    processes.slots, processes.stop_requested = list(slots), stop_requested
    processes._devices = Devices("GPU", ("GPU:0",), len(slots), 1)
    return WorkerEngine(processes, records=Path())


def over(failure=None):
    """What a slot has whose first task has ended."""
    future = concurrent.futures.Future()
    if failure:
        future.set_exception(failure)
    else:
        future.set_result(None)
    return future


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


@pytest.mark.parametrize(("second", "status"), [(DONE, "completed"), (FULL, "killed")])
def test_a_further_worker_that_cannot_start_is_started_once_more(second, status):
    slot = FakeSlot(FULL, second)
    slot.future = over()
    engine = make_engine(slot)
    engine.start(SPEC)
    ended = engine._finished(0, never)

    assert ended is not None
    assert ended[1].status == status
    assert slot.submitted == 1


def test_a_worker_that_cannot_start_costs_no_second_trial_while_another_lives():
    engine = make_engine(FakeSlot(FULL, FULL), FakeSlot(DONE))
    engine.start(SPEC)
    assert engine._finished(0, never) is None
    assert engine._finished(0, never)[1].status == "killed"
    engine.start(SPEC)

    assert engine._finished(1, never) == (SPEC, DONE)


class HangingSlot(FakeSlot):
    """Starts up for ever, and is ended when somebody looks after it."""

    def __init__(self):
        super().__init__(ProcessEndedError("timeout", "It gave no heartbeat.", starting=True))
        self.future = concurrent.futures.Future()

    def watch(self):
        self.future.set_result(None)


def test_a_worker_that_hangs_while_it_starts_is_ended(monkeypatch):
    looks = iter([False] * 9)
    gpu = types.SimpleNamespace(gpus=("H100",))
    monkeypatch.setattr(worker_engine, "read_gpus", lambda: gpu)
    slot = HangingSlot()
    engine = make_engine(slot, stop_requested=lambda: next(looks, True))
    with pytest.raises(SearchError, match=r"(?s)cannot start: It gave no.*CUDA_VISIBLE_DEVICES"):
        engine._processes.first_result(slot)


class EndableSlot(FakeSlot):
    """Its task runs until it is killed, or a test ends it."""

    def submit(self, *_):
        self.submitted += 1
        self.future = concurrent.futures.Future()

    def watch(self):
        """Nothing: no task is silent."""

    def kill(self):
        self.killed += 1
        self.future.set_result(ProcessEndedError("killed", "Its process ended by SIGKILL."))

    def result(self):
        future, self.future = self.future, None
        self.ends = [future.result()]
        return super().result()


@pytest.fixture
def running(tmp_path):
    """Two trials that run, their runner, and what it has ended; a third one is never proposed."""
    slots = [EndableSlot() for _ in range(3)]
    engine = make_engine(*slots)
    with open_folder(tmp_path) as folder:
        yield slots, engine, runner_of(folder, engine)


def test_an_error_ends_the_trials_that_run_and_keeps_what_had_ended(running):
    slots, engine, runner = running

    def plan():
        yield runner.spec("search-0001", "search", 1, BASELINE)
        yield runner.spec("search-0002", "search", 2, BASELINE)
        slots[0].future.set_result(outcome(runner.spec("search-0001", "search", 1, BASELINE)))
        raise ValueError("a bug of an oracle")

    with pytest.raises(ValueError, match="a bug of an oracle"):
        list(runner.run_all(plan()))
    assert [slot.killed for slot in slots] == [0, 1, 0]
    assert [trial.trial for trial in runner.trials] == ["search-0001"]
    assert engine.running() == []


@pytest.mark.parametrize("raising", [0, 1, 2])
def test_an_error_of_one_trials_process_loses_no_other_that_has_ended(raising):
    slots = [EndableSlot() for _ in range(3)]
    engine = make_engine(*slots)
    for number, slot in enumerate(slots):
        engine.start(dataclasses.replace(SPEC, trial=f"search-{number}"))
        if number == raising:
            slot.future.set_exception(RunFolderError("its curves cannot be written"))
        else:
            slot.future.set_result(DONE)

    with pytest.raises(RunFolderError, match="cannot be written"):
        engine.wait()
    ended = engine.end_trials()
    others = [f"search-{number}" for number in range(3) if number != raising]
    assert [(spec.trial, outcome) for spec, outcome in ended] == [(name, DONE) for name in others]
    assert engine.end_trials() == []


def both_end(runner, slots, second):
    """A plan of two trials that end before anybody looks."""
    specs = [runner.spec(f"search-000{number}", "search", number, BASELINE) for number in (1, 2)]
    yield from specs
    slots[0].future.set_result(outcome(specs[0]))
    if second is None:
        slots[1].future.set_result(outcome(specs[1]))
    else:
        slots[1].future.set_exception(second)


def test_an_error_of_one_trials_process_leaves_the_other_in_the_journal(running):
    slots, _, runner = running
    with pytest.raises(RunFolderError, match="cannot be written"):
        list(runner.run_all(both_end(runner, slots, RunFolderError("it cannot be written"))))
    assert [trial.trial for trial in runner.trials] == ["search-0001"]


def test_who_ends_after_the_first_of_two_trials_that_end_at_once_loses_none(running):
    slots, _, runner = running
    ended = runner.run_all(both_end(runner, slots, None))
    assert next(ended).trial == "search-0001"
    ended.close()
    assert [trial.trial for trial in runner.trials] == ["search-0001", "search-0002"]


def test_who_ends_with_an_error_between_two_trials_leaves_none_running(running):
    slots, engine, runner = running

    config, begin = make_config(), engine.start

    def start(spec):
        begin(spec)
        if spec.trial == "baseline":
            slots[0].future.set_result(outcome(spec))

    def look(_):
        assert len(engine._running) == 2
        raise ValueError("a bug of who looks on")

    engine.start = start
    search = Search(
        config,
        baseline=BASELINE,
        space=SearchSpace(config.space, num_examples=NUM_EXAMPLES),
        runner=runner,
        clock=SearchClock(None),
        seed=7,
        untrained=2.3,
        progress=Progress(None),
        on_trial=look,
    )
    with pytest.raises(ValueError, match="a bug of who looks on"):
        search.run(stop_requested=never)
    assert [slot.killed for slot in slots] == [0, 1, 1]
    assert engine.running() == []


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


class ThreadSlot:
    """Runs each task in a thread."""

    def __init__(self):
        self.pool = concurrent.futures.ThreadPoolExecutor(1)
        self.future = None
        self.mailbox = self
        self.asked_to_stop, self.taken = threading.Event(), threading.Event()

    def submit(self, task, *arguments, **options):
        self.future = self.pool.submit(task, *arguments, **options)

    def result(self):
        future, self.future = self.future, None
        self.taken.set()
        return future.result()

    def request_stop(self):
        self.asked_to_stop.set()

    def watch(self):
        """Nothing: no task is silent."""

    def printed(self):
        return ""

    def kill(self):
        """Nothing: what runs here ends when it is asked to."""


@pytest.fixture
def two_workers(monkeypatch):
    """Two workers in threads, and whether they are to stop."""
    slots, stop = [ThreadSlot(), ThreadSlot()], threading.Event()
    processes = WorkerProcesses.__new__(WorkerProcesses)
    processes.slots, processes._stop_seen = slots, None
    processes._devices = Devices("CPU", (), 2, 1)
    processes.stop_requested = stop.is_set
    monkeypatch.setattr(worker_engine, "perform", lambda records, task, **case: task(slots, **case))
    return WorkerEngine(processes, records=Path()), stop


def test_cases_run_side_by_side_and_each_is_told_at_once(two_workers):
    engine, _ = two_workers
    told, second_was_told = {}, threading.Event()

    def task(_, *, number):
        if number == 0:
            second_was_told.wait()
        return 10 * number

    def ended(index, result):
        told[index] = result
        if index == 1:
            second_was_told.set()

    engine.call_each(task, [{"number": n} for n in range(5)], ended)
    assert told == {0: 0, 1: 10, 2: 20, 3: 30, 4: 40}
    assert next(iter(told)) == 1


def test_a_case_that_fails_ends_none_that_runs(two_workers):
    engine, _ = two_workers
    told, begun, first_begun = {}, [], threading.Event()

    def task(slots, *, number):
        begun.append(number)
        if number == 1:
            first_begun.wait()
            raise ValueError("a bug")
        first_begun.set()
        slots[1].taken.wait()  # the other one's failure is known
        return number

    with pytest.raises(ValueError, match="a bug"):
        engine.call_each(task, [{"number": n} for n in range(9)], told.__setitem__)
    assert sorted(begun) == [0, 1]
    assert told == {0: 0}


def test_a_stop_reaches_the_cases_that_run_and_begins_no_other(two_workers):
    engine, stop = two_workers
    told, begun = {}, []

    def task(slots, *, number):
        begun.append(number)
        if number == 0:
            return number
        stop.set()
        slots[1].asked_to_stop.wait()
        raise StoppedError("the run was asked to stop")

    def ended(index, result):
        stop.wait()
        told[index] = result

    with pytest.raises(StoppedError):
        engine.call_each(task, [{"number": n} for n in range(9)], ended)
    assert sorted(begun) == [0, 1]
    assert told == {0: 0}


def test_cases_that_were_not_begun_for_a_stop_are_no_result(two_workers):
    engine, stop = two_workers
    told = {}

    def task(_, *, number):
        stop.set()
        return number

    with pytest.raises(StoppedError):
        engine.call_each(task, [{"number": n} for n in range(9)], told.__setitem__)
    assert set(told) <= {0, 1}


class DeadSlot(ThreadSlot):
    """Its process cannot start; in the first seconds it seems that it could."""

    def __init__(self, *, known):
        super().__init__()
        if known:
            self.future = over(FULL)

    def submit(self, task, *arguments, **options):
        self.future = over(FULL)


@pytest.mark.parametrize("known", [True, False])
def test_cases_run_without_a_worker_that_cannot_start(two_workers, known):
    engine, _ = two_workers
    engine._processes.slots[0] = DeadSlot(known=known)
    told = {}
    engine.call_each(
        lambda _, *, number: number, [{"number": n} for n in range(3)], told.__setitem__
    )
    assert told == {0: 0, 1: 1, 2: 2}


def test_cases_end_where_no_worker_can_start(two_workers):
    engine, _ = two_workers
    engine._processes.slots[:] = [DeadSlot(known=True), DeadSlot(known=True)]
    with pytest.raises(SearchError, match="cannot start: cudaSetDevice"):
        engine.call_each(print, [{"number": 1}], {}.__setitem__)


@pytest.mark.parametrize(
    ("execution", "said"),
    [
        (Execution(), "`--workers=0` runs"),
        (Execution(cluster="auto"), "is in /logs."),
        (Execution(memory_budget="auto"), "is in /logs."),
        (Execution(strategy="mirrored"), "is in /logs."),
    ],
)
def test_no_option_is_advised_that_is_refused(execution, said):
    assert said in _advice(execution, Path("/logs"))


def test_fewer_workers_are_advised_where_there_are_several():
    failure = RuntimeError("CUDA_ERROR_OUT_OF_MEMORY")
    assert "--workers" not in str(memory_failure("prepare", failure))
    assert "--workers" in str(memory_failure("prepare", failure, shared=True))


def test_the_memory_of_a_machine_is_divided_by_its_workers_and_not_by_its_cores(
    tmp_path, monkeypatch
):
    """A worker that is replaced between trials for its size loses every program that XLA made."""
    devices = Devices("GPU", ("GPU:0",), workers=1, threads=16)
    limits: list[float] = []

    class Limited(FakeSlot):
        def __init__(self, start, *, stall_seconds, most_bytes):
            super().__init__(devices)
            self.future = concurrent.futures.Future()
            self.future.set_result(None)
            limits.append(most_bytes)

        def limit(self, *, stall_seconds, most_bytes):
            limits.append(most_bytes)

    monkeypatch.setattr(worker_engine, "Slot", Limited)
    monkeypatch.setattr(worker_engine, "whole_cores", lambda: 16)
    processes = WorkerProcesses(
        Job(data=None, code=b""),
        workers=None,
        folder=tmp_path,
        lock=None,
        stop_requested=never,
        stall_minutes=1.0,
        warm=None,
    )
    assert processes.devices is devices

    assert limits == [worker_bytes(MOST_WORKERS), worker_bytes(1)]
