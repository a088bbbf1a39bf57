"""The search for the largest batch has a deadline: what was not measured is never a limit."""

from __future__ import annotations

import concurrent.futures
import contextlib
import copy
import dataclasses
import functools
import json
import math
import types
from pathlib import Path
from typing import Any

import memory_load
import pytest
from processes import HANG_SECONDS, run_warm
from test_probe import VERIFIED, joined

import tfbatch
import tfbatch.probe
from tfbatch.answer.memory_limits import MemoryLimit, read_memory_limit
from tfbatch.command_line.running import parse_flags
from tfbatch.errors import InputError, SearchError, StoppedError
from tfbatch.estimators.memory_line import predict_largest_batch_size
from tfbatch.estimators.memory_search import LargestBatch
from tfbatch.instruments import largest_batch, run_all
from tfbatch.instruments.largest_batch import PROCESSES, TIME, LargestBatchReading
from tfbatch.largest_batch import fresh_process, measurement, search
from tfbatch.largest_batch.deadline import Deadline, allowed_seconds
from tfbatch.largest_batch.fresh_process import CUT_SHORT, Peak, Prober, ProcessRun, Written
from tfbatch.largest_batch.measurement import MemoryReport, measure_memory
from tfbatch.largest_batch.search import (
    Accumulation,
    LargestSize,
    search_largest,
    verify_accumulation,
)
from tfbatch.largest_batch.training_load import UsableMemory, find_usable_memory
from tfbatch.request.execution import Execution
from tfbatch.request.request import make_request
from tfbatch.run_folder.files import MEMORY_LIMIT
from tfbatch.search import memory_limit
from tfbatch.search.memory_limit import limit_memory
from tfbatch.search.progress import Progress
from tfbatch.training.devices import Devices
from tfbatch.workers.slot import Start

FLOOR, BUDGET = 100, 1100
"""An example takes a byte: 1,000 would fit."""


class Clock:
    """A clock that only a process moves on."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@dataclasses.dataclass(frozen=True)
class Simulated(Prober):
    """A prober whose processes take 10 s each, and end in the middle where the time is over."""

    clock: Clock = dataclasses.field(default_factory=Clock)
    breaks_at: float = math.inf
    validation: int = 0
    begun: list[tuple[int, ...]] = dataclasses.field(default_factory=list)

    def run(self, sizes):
        sizes = tuple(sizes)
        if self.deadline.over:
            return ProcessRun(sizes, CUT_SHORT, Written(), "", 0.0, 0)
        self.begun.append(sizes)
        ends = self.clock.now + 10
        if ends > self.deadline.ends:  # it was ended in the middle of its largest size
            self.clock.now = self.deadline.ends
            written = Written(FLOOR, self._peaks(sizes[:-1]), None, sizes[-1])
            return ProcessRun(sizes, CUT_SHORT, written, "", 0.0, 0)
        self.clock.now = ends
        ran = [size for size in sizes if size < self.breaks_at and FLOOR + size <= BUDGET]
        broken = next((size for size in sizes if self.breaks_at <= size <= BUDGET), None)
        finished = None if broken else max(FLOOR + max(ran, default=0), FLOOR + self.validation)
        written = Written(FLOOR, self._peaks(ran), finished, broken)
        return ProcessRun(sizes, "oom" if broken else "ok", written, "", 10.0, 0)

    def _peaks(self, sizes):
        return tuple(Peak(size, FLOOR + size) for size in sizes)


def simulated(seconds, **options):
    clock = options.pop("clock", None) or Clock()
    return Simulated(
        Start(Path("unused"), None, memory_load.nothing),
        lambda sizes, budget_bytes, record: fresh_process.Ended("ok"),
        budget_bytes=BUDGET,
        deadline=Deadline.begin(seconds, clock),
        clock=clock,
        **options,
    )


def found_in(seconds, *, cap=100_000, **options):
    return search_largest(simulated(seconds, **options), cap=cap)


def report_of(found, **options):
    told = {"allowed_seconds": 60.0, "more_seconds": 120.0, **options}
    stages = (told.pop("evaluation", None), told.pop("accumulation", None))
    return MemoryReport(BUDGET, "stated", "CPU", 1, "10, as asked", found, *stages, **told)


def limits_of(found):
    return (found.cut_short, found.batch_size, found.smallest_that_failed, len(found.runs))


def test_enough_time_gives_the_answer_that_no_deadline_gives():
    found, unlimited = found_in(1000.0), found_in(math.inf)

    assert limits_of(found)[0] is False
    assert found == unlimited
    assert 900 <= found.batch_size <= 1000


def test_no_process_is_begun_when_there_is_no_time_at_all():
    prober = simulated(0.0)
    found = search_largest(prober, cap=1000)

    assert (limits_of(found), prober.begun) == ((True, 0, None, 0), [])
    assert report_of(found).conclusion() == (
        "No training batch was measured: nothing is known of the largest that fits. The time for "
        "this search, 60 s, was over. More time: --memory_seconds=120, in Python "
        "memory_seconds=120."
    )


def test_before_the_first_failure_the_limit_may_lie_above():
    found = found_in(10.0)  # one climb: 8 to 512

    assert limits_of(found) == (True, 512, None, 1)
    conclusion = report_of(found).conclusion()
    assert "The largest training batch that was measured to fit is 512" in conclusion
    assert "not verified in a process of its own" in conclusion
    assert "none was measured not to fit: the true limit may lie above" in conclusion
    assert "--memory_seconds=120" in conclusion


def test_between_a_fit_and_a_failure_neither_is_called_the_limit():
    found = found_in(20.0, breaks_at=600)

    (tried,) = found.runs[1].sizes
    assert tried >= 600
    assert limits_of(found) == (True, 512, tried, 2)
    conclusion = report_of(found).conclusion()
    assert f"was measured not to fit is {tried}: the true limit may lie between" in conclusion
    assert "that fits is" not in conclusion


def test_what_ran_in_its_own_process_is_called_verified_also_where_more_may_fit():
    found = found_in(30.0, breaks_at=800)

    assert limits_of(found) == (True, 703, 938, 3)
    assert found.runs[2].sizes == (703,)
    assert "(the time was over; verified, 3 processes)" in report_of(found).conclusion()


def test_a_failure_alone_leaves_smaller_sizes_open():
    found = found_in(10.0, breaks_at=8)

    assert limits_of(found) == (True, 0, 8, 1)
    assert "not to fit is 8: the largest that fits is smaller" in report_of(found).conclusion()


def test_a_size_that_ran_when_the_time_was_over_is_neither_a_fit_nor_a_failure():
    found = found_in(15.0)

    assert found.runs[1].outcome == CUT_SHORT
    assert found.runs[1].probes() == ()
    assert limits_of(found) == (True, 512, None, 2)
    assert {row["outcome"] for row in report_of(found).rows()} == {"ok"}


def test_a_last_process_that_is_ended_is_no_answer_either(monkeypatch):
    monkeypatch.setattr(search, "MOST_RUNS", 2)

    assert limits_of(found_in(15.0)) == (True, 512, None, 2)
    assert found_in(1000.0, breaks_at=600).answer.verdict == "stopped"


def test_a_limit_that_is_not_known_when_the_processes_are_used_up_is_not_named(monkeypatch):
    monkeypatch.setattr(search, "MOST_RUNS", 2)
    found = found_in(1000.0, breaks_at=600)

    assert limits_of(found) == (False, 512, 1024, 2)
    assert not found.settled
    conclusion = report_of(found).conclusion()
    assert "The largest training batch that was measured to fit is 512" in conclusion
    assert "not to fit is 1024: the true limit may lie between them" in conclusion
    assert "memory_seconds" not in conclusion


def test_a_climb_that_is_ended_keeps_what_it_had_measured():
    found = found_in(5.0, cap=64)

    assert found.runs[0].written.running == 64
    assert limits_of(found) == (True, 32, None, 1)


def test_where_validation_alone_is_too_large_no_size_is_said_to_fit():
    found = found_in(10.0, cap=64, validation=2000)

    assert [peak.size for peak in found.runs[0].peaks] == [8, 16, 32, 64]
    assert limits_of(found) == (True, 0, None, 1)


def test_a_process_that_died_in_validation_shows_no_size_that_fits():
    class Dying(Simulated):
        def run(self, sizes):
            run = super().run(sizes)
            return dataclasses.replace(
                run, outcome="oom", written=dataclasses.replace(run.written, finished_bytes=None)
            )

    clock = Clock()
    prober = Dying(
        Start(Path("unused"), None, memory_load.nothing),
        simulated(1.0).climb,
        budget_bytes=BUDGET,
        deadline=Deadline.begin(10.0, clock),
        clock=clock,
    )
    assert limits_of(search_largest(prober, cap=64)) == (True, 0, 64, 1)


def test_sizes_of_an_answer_that_is_cut_short_are_those_of_all_replicas():
    found = search_largest(simulated(20.0, breaks_at=600), cap=3000, replicas=2)

    assert found.cut_short
    assert found.smallest_that_failed == found.runs[1].sizes[0]
    assert found.batch_size % 2 == 0


def test_micro_batches_that_there_is_no_time_for_are_not_said_not_to_fit():
    over = simulated(0.0)
    ended = simulated(5.0)

    assert verify_accumulation(lambda steps: over, 128, largest=64) is None
    assert verify_accumulation(lambda steps: ended, 128, largest=64) is None
    assert verify_accumulation(lambda steps: simulated(20.0), 128, largest=64).peak_bytes == 164


class Slot:
    """A process that never ends of itself; the clock strikes when it is watched."""

    made: list[Slot] = []

    def __init__(self, start, stall_seconds):
        self.future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.mailbox = types.SimpleNamespace(process=lambda: 1)
        self.closed = self.killed = False
        Slot.made.append(self)

    def submit(self, task, *arguments):
        return self.future

    def watch(self):
        Slot.clock.now += 100
        if self.killed and not self.future.done():
            self.future.set_result(None)  # as in life, some time after it was killed

    def kill(self):
        self.killed = True

    def result(self):
        raise fresh_process.ProcessEndedError("killed", "killed")

    def close(self):
        self.closed = True


@pytest.fixture
def slots(monkeypatch):
    Slot.made, Slot.clock = [], Clock()
    monkeypatch.setattr(fresh_process, "Slot", Slot)
    monkeypatch.setattr(fresh_process, "peak_resident", lambda process: 500)
    return Slot.made


def watched(seconds, **options):
    return Prober(
        Start(Path("unused"), None, memory_load.nothing),
        simulated(1.0).climb,
        budget_bytes=BUDGET,
        deadline=Deadline.begin(seconds, Slot.clock),
        **options,
    )


def test_a_running_process_is_ended_when_the_time_is_over(slots):
    run = watched(50.0).run([8, 16])

    assert (run.outcome, run.probes()) == (CUT_SHORT, ())
    assert [slot.closed for slot in slots] == [True]


def test_a_process_that_is_over_its_limit_failed_whatever_the_time(slots):
    run = watched(50.0, limit_bytes=400).run([8])

    assert (run.outcome, slots[0].killed) == ("oom", True)


def test_no_process_is_begun_when_the_time_is_over(slots):
    run = watched(0.0).run([8])

    assert (run.outcome, slots) == (CUT_SHORT, [])


def test_a_process_is_not_started_again_when_the_time_is_over(slots, monkeypatch):
    def watch(slot):
        Slot.clock.now += 100
        slot.future.set_result(None)

    def result(slot):
        raise fresh_process.ProcessEndedError("oom", "no room", starting=True)

    monkeypatch.setattr(Slot, "watch", watch)
    monkeypatch.setattr(Slot, "result", result)
    assert watched(50.0).run([8]).outcome == CUT_SHORT
    assert len(slots) == 1


def test_a_largest_size_that_was_to_run_once_more_alone_counts_as_not_measured(monkeypatch):
    """Its process was cleared up for; whether smaller sizes were to blame was not found out."""

    def watched_once(prober, sizes, record):
        lines = [["started", 5], ["peak", 8, 9], ["running", 16], ["peak", 16, 12]]
        record.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        clock.now += 100
        return fresh_process._End("oom", "cleared up", 12, cleared_up=True)

    clock = Clock()
    monkeypatch.setattr(Prober, "_watched", watched_once)
    prober = Prober(
        Start(Path("unused"), None, memory_load.nothing),
        simulated(1.0).climb,
        budget_bytes=BUDGET,
        deadline=Deadline.begin(50.0, clock),
    )
    run = prober.run([8, 16])

    assert run.outcome == CUT_SHORT
    assert [probe.batch_size for probe in run.probes()] == [8]


def test_a_real_process_that_runs_when_the_time_is_over_has_ended_before_the_answer(tmp_path):
    running = tmp_path / "running"
    options = {"per_example": 1, "breaks_at": 32, "breaks": "hang", "tells": str(running)}
    deadline = Deadline(60.0, 60.0, lambda: 100.0 if running.exists() else 0.0)
    prober = Prober(
        Start(tmp_path / "log", None, memory_load.nothing),
        functools.partial(memory_load.linear, options),
        budget_bytes=2**40,
        stall_seconds=HANG_SECONDS,
        deadline=deadline,
    )
    run = prober.run([8, 16, 32])

    assert (run.outcome, run.written.running) == (CUT_SHORT, 32)
    assert [probe.batch_size for probe in run.probes()] == [8, 16]


def bench_of(*, seconds=None, xla=False, examples=400, clock=None, kind="CPU"):
    """A bench with a training split that takes at most `examples`, of 60 validation examples."""

    def measure(function):
        assert function is find_usable_memory
        return UsableMemory("CPU", BUDGET, 1)

    return types.SimpleNamespace(
        data=types.SimpleNamespace(splits={"train": examples, "validation": 60}),
        model=types.SimpleNamespace(jit_compile=xla),
        memory_seconds=seconds,
        measure=measure,
        rest=lambda: None,
        configuration=lambda size: size,
        task=lambda function, *arguments: function.__name__,
        devices=Devices(kind, (), 1, 1),
        baseline=types.SimpleNamespace(batch_size=32),
    )


@pytest.fixture
def stages(monkeypatch):
    """Of each process that was begun, what it measured; a process takes 10 s, or fails."""
    begun: list[str] = []
    failing: dict[str, Exception] = {}
    clock = Clock()

    class Noting(Simulated):
        def run(self, sizes):
            begun.append(self.climb)
            if error := failing.get(self.climb):
                raise error
            return super().run(sizes)

    @contextlib.contextmanager
    def open_prober(bench, climb, *, usable, budget_bytes, deadline):
        yield Noting(
            Start(Path("unused"), None, memory_load.nothing),
            climb,
            budget_bytes=budget_bytes,
            deadline=deadline,
            clock=clock,
        )

    monkeypatch.setattr(measurement, "open_prober", open_prober)

    def measure(bench, **options):
        return measure_memory(bench, budget_bytes=BUDGET, margin=0.0, now=clock, **options)

    return types.SimpleNamespace(begun=begun, failing=failing, measure=measure)


def test_training_is_measured_before_evaluation_and_prediction(stages):
    """A climb and a verification are two processes, of 10 s each."""
    report = stages.measure(bench_of(seconds=30.0), prediction=True)

    assert stages.begun == ["measure_training", "measure_training", "measure_evaluation"]
    assert (report.training.cut_short, report.batch_size) == (False, 400)
    assert report.evaluation.cut_short
    assert report.prediction.cut_short
    conclusion = report.conclusion()
    assert "The largest training batch that fits is 400" in conclusion
    assert "The largest evaluation batch that was measured to fit is 60; none" in conclusion
    assert "No batch of `predict` was measured" in conclusion
    assert conclusion.endswith("More time: --memory_seconds=60, in Python memory_seconds=60.")


def test_without_time_for_training_nothing_else_is_begun_and_all_of_it_is_told(stages):
    report = stages.measure(bench_of(seconds=0.0), prediction=True, target_batch_size=200)

    assert (stages.begun, report.batch_size, report.cut_short) == ([], 0, True)
    conclusion = report.conclusion()
    for words in ("No training batch", "No evaluation batch", "No batch of `predict`"):
        assert f"{words} was measured" in conclusion
    assert "Micro-batches for a batch of 200 were not measured." in conclusion
    assert "does not fit" not in conclusion


def test_micro_batches_without_time_are_told_where_the_largest_batch_is_known(stages):
    bench = bench_of(seconds=20.0, examples=3000)
    report = stages.measure(bench, evaluation=False, target_batch_size=2000)

    assert (report.training.cut_short, report.accumulation, report.cut_short) == (False, None, True)
    assert "Micro-batches for a batch of 2000 were not measured." in report.conclusion()


def test_a_target_above_the_largest_allowed_is_not_said_not_to_fit(stages):
    bench = bench_of(seconds=1000.0)
    report = stages.measure(bench, largest=64, target_batch_size=256, evaluation=False)

    assert (report.batch_size, report.training.answer.verdict) == (64, "cap")
    conclusion = report.conclusion()
    assert "A batch of 256 was not run (the largest allowed is 64): `tfbatch.acc" in conclusion
    assert "does not fit" not in conclusion


def test_a_target_above_what_the_time_allowed_for_is_not_said_not_to_fit():
    made = Accumulation(2000, 500, 4, 600)
    early = report_of(found_in(10.0), accumulation=made)
    failed = LargestBatch(512, 1024, "cut short", "the time was over", 2)
    later = report_of(LargestSize(failed, (), None), accumulation=made)
    refused = report_of(
        found_in(10.0), accumulation=dataclasses.replace(made, peak_bytes=None, refused="No room.")
    )

    assert "A batch of 2000 was not run (the time was over): `tfbatch.acc" in early.conclusion()
    assert "A batch of 2000 does not fit: `tfbatch.accumulated" in later.conclusion()
    assert (
        "A batch of 2000 was not run (the time was over), and 4 micro-batches of 500 with the sum "
        "of their gradients do not fit: No room."
    ) in refused.conclusion()


def test_a_target_of_about_all_examples_is_planned_within_them(stages):
    bench = bench_of(seconds=1000.0, examples=1997)
    report = stages.measure(bench, evaluation=False, target_batch_size=1997)

    assert report.training.answer.verdict == "found"
    assert report.batch_size < 1997
    assert 1900 < report.accumulation.batch_size <= 1997
    assert (
        "A batch of 1997 was not run (the line through the peaks ends at 1000): `tfbatch.acc"
    ) in report.conclusion()


def test_a_target_between_what_fits_and_what_failed_is_not_said_not_to_fit():
    """An answer is found as soon as it is within 10 % of the largest that may fit."""
    found = LargestSize(LargestBatch(90, 100, "found", "100 does not fit", 3), (), None)
    between = report_of(found, accumulation=Accumulation(95, 48, 2, 600))
    at_failure = report_of(found, accumulation=Accumulation(100, 50, 2, 600))

    assert "A batch of 95 was not run (100 does not fit): `tfbatch.acc" in between.conclusion()
    assert "A batch of 100 does not fit: `tfbatch.acc" in at_failure.conclusion()


@pytest.mark.parametrize("error", [InputError("No metric."), SearchError("No room.")], ids=str)
def test_an_evaluation_that_fails_costs_nothing_of_what_was_found_of_the_training(stages, error):
    stages.failing["measure_evaluation"] = error
    report = stages.measure(bench_of(seconds=1000.0), prediction=True)

    assert (report.batch_size, report.evaluation, report.cut_short) == (400, None, False)
    assert report.prediction.batch_size == 60
    conclusion = report.conclusion()
    assert "The largest training batch that fits is 400" in conclusion
    assert f"The largest evaluation batch was not found: {error}" in conclusion


def test_a_training_that_fails_and_a_stop_in_an_evaluation_are_told_at_once(stages):
    stages.failing["measure_evaluation"] = StoppedError("stop")
    with pytest.raises(StoppedError):
        stages.measure(bench_of(seconds=1000.0))
    stages.failing["measure_training"] = InputError("not for lack of memory")
    with pytest.raises(InputError, match="not for lack of memory"):
        stages.measure(bench_of(seconds=1000.0))


def test_fewer_validation_examples_than_replicas_cost_the_evaluation_alone(stages):
    bench = bench_of(seconds=1000.0)
    bench.measure = lambda function: UsableMemory("CPU", BUDGET, 2)
    bench.data.splits["validation"] = 1
    report = stages.measure(bench)

    assert (report.batch_size, report.evaluation) == (400, None)
    assert "an example for each of the 2 replicas. Received: 1." in report.conclusion()
    assert stages.begun == ["measure_training"] * 2


def test_micro_batches_without_room_for_any_cost_nothing_of_what_was_found(stages):
    bench = bench_of(seconds=1000.0, examples=3000)
    error = SearchError("memory is exhausted even without a batch.")

    def task(function, *arguments):  # only the plan for micro-batches has several steps
        name: str = function.__name__
        return f"{name} in steps" if arguments[1:] and arguments[1] > 1 else name

    bench.task = task
    stages.failing["measure_training in steps"] = error
    report = stages.measure(bench, evaluation=False, target_batch_size=2000)

    assert report.batch_size > 900
    assert report.accumulation.refused == str(error)


def test_without_linuxs_proc_no_process_is_begun(monkeypatch):
    monkeypatch.setattr(measurement, "peak_resident", lambda: None)
    with pytest.raises(InputError, match="must be read from Linux's /proc"):
        measure_memory(bench_of(), budget_bytes=BUDGET, margin=0.0)


def test_a_measurement_that_came_to_its_end_says_nothing_of_time(stages):
    report = stages.measure(bench_of(seconds=1000.0), prediction=True)

    assert not report.cut_short
    assert "memory_seconds" not in report.conclusion()


def test_the_processes_of_a_bench_have_the_deadline_that_they_are_given():
    bench: Any = bench_of()
    start = Start(Path("unused"), None, memory_load.nothing)
    bench.own_process, bench.stall_seconds = lambda log: start, 600.0
    bench.stop_requested, bench.tell = bool, print
    usable, deadline = UsableMemory("CPU", BUDGET, 1), Deadline.begin(5.0, Clock())
    climb = simulated(1.0).climb
    with measurement.open_prober(
        bench, climb, usable=usable, budget_bytes=BUDGET, deadline=deadline
    ) as prober:
        assert prober.deadline is deadline


@pytest.mark.parametrize(
    ("seconds", "xla", "kind", "expected"),
    [
        (None, False, "NVIDIA A100", 60.0),
        (None, True, "NVIDIA A100", 150.0),
        (None, True, "CPU", math.inf),
        (7.0, True, "CPU", 7.0),
        (0.0, False, "NVIDIA A100", 0.0),
    ],
)
def test_the_time_is_what_was_asked_or_follows_from_device_and_xla(seconds, xla, kind, expected):
    assert allowed_seconds(bench_of(seconds=seconds, xla=xla, kind=kind)) == expected


@pytest.mark.parametrize(("seconds", "more"), [(0.0, 150.0), (100.0, 200.0)])
def test_more_time_is_twice_as_much_and_no_less_than_the_default(stages, seconds, more):
    assert stages.measure(bench_of(seconds=seconds, xla=True)).more_seconds == more


@pytest.mark.parametrize("wrong", [-1.0, math.nan])
def test_a_time_that_is_none_is_refused(wrong):
    with pytest.raises(InputError, match=r"`memory_seconds` must be >= 0, or inf for no limit"):
        Execution(memory_seconds=wrong)


def test_a_time_for_a_search_that_nobody_asked_for_is_refused():
    with pytest.raises(InputError, match=r"which `memory_budget` asks for.*memory_seconds=30"):
        make_request(
            search="joint",
            dataset="digits",
            model="small_cnn",
            execution=Execution(memory_seconds=30.0),
        )


# What `tune` makes of it.

SIZES = (16, 64, 256, 1024)


@pytest.fixture
def tuned(monkeypatch, tmp_path):
    """`tuned(found, seconds)`: the largest size to try; `found` is what would be measured."""
    told: list[str] = []
    calls: list[float] = []
    progress = Progress(None)
    monkeypatch.setattr(progress, "say", told.append)

    def limit(found, seconds=60.0, sizes=SIZES, baseline=32):
        def measure_memory(bench, **options):
            calls.append(bench.memory_seconds)
            return report_of(found, allowed_seconds=bench.memory_seconds)

        monkeypatch.setattr(memory_limit, "measure_memory", measure_memory)
        bench: Any = bench_of(seconds=seconds)
        bench.baseline.batch_size = baseline
        return limit_memory(bench, "auto", sizes, tmp_path, progress)

    limit.told, limit.calls = told, calls  # type: ignore[attr-defined]
    return limit


def test_tune_leaves_out_nothing_that_was_not_measured(tuned):
    assert tuned(found_in(0.0)) is None
    assert not any(text.startswith("Left out") for text in tuned.told)
    assert "Kept, though not measured to fit: 16, 64, 256, 1024." in " ".join(tuned.told)


def test_tune_leaves_out_what_failed_and_keeps_what_lies_between(tuned):
    found = found_in(20.0, breaks_at=600)
    assert (found.batch_size, 600 <= found.smallest_that_failed <= 1024) == (512, True)

    assert tuned(found, sizes=(64, 512, 550, 1024)) == found.smallest_that_failed - 1
    assert "Left out, as too large: 1024." in tuned.told
    assert any(text.startswith("Kept, though not measured to fit: 550.") for text in tuned.told)


def test_tune_keeps_what_lies_between_where_the_processes_were_used_up(
    tuned, tmp_path, monkeypatch
):
    monkeypatch.setattr(search, "MOST_RUNS", 2)
    found = found_in(1000.0, breaks_at=600)

    assert tuned(found, sizes=(64, 512, 550, 1024)) == 1023
    assert "Left out, as too large: 1024." in tuned.told
    assert any(text.startswith("Kept, though not measured to fit: 550.") for text in tuned.told)
    kept = read_memory_limit(tmp_path)
    assert (kept.processes_used_up, kept.cut_short_after, kept.settled) == (True, None, False)
    tuned(found, sizes=(64, 512, 550, 1024))
    assert len(tuned.calls) == 1, "the same would be found again"


def test_tune_refuses_only_what_was_measured_not_to_fit(tuned):
    failed_at_8 = found_in(10.0, breaks_at=8)
    with pytest.raises(InputError, match="No batch size of the search fits"):
        tuned(failed_at_8)
    with pytest.raises(InputError, match="baseline's batch size must fit") as caught:
        tuned(failed_at_8, sizes=(4,))
    assert "--baseline=batch_size=0" not in str(caught.value)
    assert tuned(failed_at_8, sizes=(4, 64), baseline=4) == 7


def test_what_was_cut_short_is_kept_as_such_and_measured_again_with_more_time(tuned, tmp_path):
    tuned(found_in(10.0), seconds=10.0)
    kept = read_memory_limit(tmp_path)
    assert (kept.cut_short_after, kept.largest_batch_size) == (10.0, 512)
    assert kept.smallest_that_failed is None

    tuned(found_in(10.0), seconds=10.0)  # as much time: no more would be found
    tuned(found_in(10.0), seconds=5.0)
    assert tuned.calls == [10.0]
    tuned(found_in(10.0), seconds=10.0, sizes=(16, 4096))
    assert tuned.calls == [10.0, 10.0]
    found = found_in(1000.0)
    assert tuned(found, seconds=60.0) == found.batch_size
    assert tuned.calls == [10.0, 10.0, 60.0]
    assert read_memory_limit(tmp_path).cut_short_after is None
    tuned(found, seconds=120.0)
    assert len(tuned.calls) == 3, "what came to its end is not measured again"


def test_what_an_earlier_version_wrote_is_complete(tmp_path):
    old = MemoryLimit(
        memory_budget="1 GB",
        workers=1,
        device="CPU",
        largest_asked=128,
        largest_batch_size=64,
        conclusion="measured",
    ).model_dump(
        exclude={
            "cut_short_after",
            "smallest_that_failed",
            "processes_used_up",
            "automatic_bytes",
        }
    )
    (tmp_path / MEMORY_LIMIT).write_text(json.dumps(old), encoding="utf-8")

    kept = read_memory_limit(tmp_path)
    assert (kept.cut_short_after, kept.largest_possible) == (None, 64)
    assert kept.answers("1 GB", 1, 128, device="CPU", seconds=math.inf)


# What the probe makes of it.


@pytest.mark.parametrize(
    ("largest", "failed", "fitting", "predicted"),
    [
        (None, None, (8, 256), 64),
        (16, None, (8, 256), 64),  # the fastest predicted one was not measured to be too large
        (16, 200, (8,), 64),
        (16, 41, (8,), 40),
    ],
)
def test_the_probe_goes_past_what_fits_and_not_to_what_failed(largest, failed, fitting, predicted):
    reading = LargestBatchReading(largest, TIME, None, None, failed)  # type: ignore[arg-type]
    probed = joined("", None, largest_batch=reading)
    bench: Any = types.SimpleNamespace(data=types.SimpleNamespace(splits={"train": 1000}))

    assert probed.fitting == fitting
    assert run_all._predict(bench, probed).batch_size == predicted
    hardware = probed.hardware()
    assert "the time was over: the largest that fits is not known" in hardware
    assert "verified" not in hardware
    assert ("one of" in hardware) == (failed is not None)


def test_where_nothing_fits_no_size_is_possible():
    reading = LargestBatchReading(None, "memory", None, VERIFIED, 1)
    probed = joined("", None, largest_batch=reading)
    bench: Any = types.SimpleNamespace(data=types.SimpleNamespace(splits={"train": 1000}))

    assert reading.largest_possible == 0
    assert probed.fitting == (8,)
    assert "nothing fits into memory" in probed.hardware()
    with pytest.raises(InputError, match="No batch was measured to fit into the memory"):
        run_all._predict(bench, probed)


@pytest.fixture
def reading_of(monkeypatch):
    """The probe's reading of what a search has found, with 512 as the largest of interest."""

    def reading(found: LargestSize, largest: int = 512):
        monkeypatch.setattr(largest_batch, "measure_memory", lambda bench, **o: report_of(found))
        bench: Any = bench_of()
        return largest_batch.probe(bench, batch_sizes=(8, largest), seconds=math.inf)

    return reading


def test_the_probes_reading_of_a_search_whose_processes_were_used_up(reading_of, monkeypatch):
    monkeypatch.setattr(search, "MOST_RUNS", 2)
    reading = reading_of(found_in(1000.0, breaks_at=600), largest=2000)

    assert (reading.largest_batch_size, reading.limited_by) == (512, PROCESSES)
    assert reading.largest_possible == 1023
    assert reading.charts()[0].marks[0].label == "largest measured to fit 512"
    hardware = reading.of_hardware()
    assert hardware.startswith("a batch of 512 fits, one of 1024 does not (its processes were used")
    assert "verified" not in hardware


def test_only_what_ran_by_itself_is_called_verified(reading_of):
    found = found_in(1000.0)
    climb = dataclasses.replace(found, runs=found.runs[:1])
    answer = LargestBatch(512, 514, "found", "514 does not fit", 7)
    reading = reading_of(dataclasses.replace(climb, answer=answer), largest=2000)

    assert "is 512 (not verified by itself; limited by memory)" in reading.of_hardware()
    assert reading.charts()[0].marks[0].label == "largest measured to fit 512"
    assert "(verified; limited by" in reading_of(found, largest=2000).of_hardware()


def test_nothing_is_predicted_of_memory_that_was_not_shown_to_grow(reading_of):
    line = predict_largest_batch_size([8, 16, 32], [7e8] * 3, budget_bytes=1e10)
    assert not line.interval.bounded
    reading = reading_of(dataclasses.replace(found_in(1000.0), predicted=line))

    assert reading.predicted_batch_size is None
    assert "predicts" not in reading.conclusion()


def test_the_probes_reading_of_a_search_that_was_cut_short(reading_of):
    reading = reading_of(found_in(20.0, breaks_at=600))
    assert (reading.largest_batch_size, reading.limited_by) == (512, TIME)
    assert reading.largest_possible == reading.smallest_that_failed - 1
    assert reading.charts()[0].marks[0].label == "largest measured to fit 512"
    assert "would fit" not in reading.conclusion()
    assert reading_of(found_in(1000.0)).limited_by == "the largest size of interest"


def test_the_search_that_a_probe_offers_does_not_have_the_probes_time(monkeypatch):
    monkeypatch.setattr(tfbatch.probe, "FLAGS", copy.deepcopy(tfbatch.probe.FLAGS))
    parse_flags(tfbatch.probe.FLAGS, ["--memory_seconds=5", "--precision=float32"], usage="")

    assert tfbatch.probe.execution_from_flags().memory_seconds == 5.0
    offered = tfbatch.probe._verifying(joined("memory", 40))
    assert "--precision=float32" in offered
    assert "memory_seconds" not in offered


@pytest.mark.slow
def test_a_real_search_without_time_says_so_and_tries_all_sizes(tmp_path):
    done = run_warm(
        *("-m", "tfbatch.tune", "--model=small_cnn", "--dataset=digits", "--batch_sizes=32,64"),
        *("--baseline=batch_size=32", "--max_trials=2", "--trial_length=1 epoch", "--workers=1"),
        *("--verification_seeds=0", "--memory_budget=auto", "--memory_seconds=0"),
        f"--run_dir={tmp_path / 'run'}",
    )
    said = " ".join(done.stdout.split())
    kept = read_memory_limit(tmp_path / "run")

    assert (kept.cut_short_after, kept.largest_batch_size, kept.peaks) == (0.0, 0, ())
    assert "No training batch was measured" in said
    assert "--memory_seconds=60" in said
    assert "Kept, though not measured to fit: 32, 64." in said
    rows = [json.loads(line) for line in (tmp_path / "run/trials.jsonl").read_text().splitlines()]
    assert {row["status"] for row in rows} == {"completed"}
