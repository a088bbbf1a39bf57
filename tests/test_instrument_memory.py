"""The largest batch: real processes of known memory, real limits, and real ends."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import resource
import types
from pathlib import Path

import keras
import memory_load
import numpy as np
import psutil
import pytest
import tensorflow as tf
import tiny_model
from processes import HANG_SECONDS

from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.instruments.image_size_memory import ResizedData, measure_memory_by_image_size
from tfbatch.instruments.largest_batch import find_max_batch_size
from tfbatch.instruments.open_bench import open_bench
from tfbatch.largest_batch import fresh_process
from tfbatch.largest_batch.fresh_process import (
    Peak,
    Prober,
    ProcessRun,
    Written,
    climb,
    read_written,
)
from tfbatch.largest_batch.measurement import MemoryReport, measure_memory, open_prober
from tfbatch.largest_batch.search import (
    MOST_RUNS,
    Accumulation,
    plan_accumulation,
    search_largest,
    verify_accumulation,
)
from tfbatch.largest_batch.training_load import (
    UsableMemory,
    _Evaluation,
    _Prediction,
    lengthened,
    longest_shapes,
    measure_training,
)
from tfbatch.pipeline.function_data import FunctionData, count_examples
from tfbatch.process.memory import peak_resident
from tfbatch.quantities import bytes_of
from tfbatch.request.execution import Execution
from tfbatch.training.context import begin_worker
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.workload import Workload
from tfbatch.workers.slot import Slot, Start

pytestmark = pytest.mark.usefixtures("one_at_a_time")

MEGABYTE = 2**20


@pytest.fixture
def make_prober(tmp_path):
    def make(budget_megabytes, *, first=memory_load.nothing, arguments=(), **options):
        limit = options.pop("limit_megabytes", 3000)
        return Prober(
            Start(tmp_path / "log", None, first, arguments),
            functools.partial(memory_load.linear, {"per_example": MEGABYTE, **options}),
            budget_bytes=budget_megabytes * MEGABYTE,
            limit_bytes=limit * MEGABYTE,
            stall_seconds=HANG_SECONDS,
        )

    return make


@pytest.fixture(scope="module")
def floor(tmp_path_factory):
    """Peak of such a process without any load, in megabytes."""
    start = Start(tmp_path_factory.mktemp("floor") / "log", None, memory_load.nothing)
    prober = Prober(
        start, functools.partial(memory_load.linear, {"per_example": 1}), budget_bytes=2**40
    )
    return prober.run([1]).written.started_bytes / MEGABYTE


def report_of(found, budget_megabytes):
    return MemoryReport(
        budget_megabytes * MEGABYTE, "stated", "CPU", 1, "10, as asked", found, None, None
    )


@pytest.mark.quick_cases("150")
@pytest.mark.parametrize("limit", [3, 29, 150, 700])
def test_the_answer_is_within_a_tenth_below_the_true_limit(make_prober, floor, limit):
    """With one megabyte an example, the true limit is the budget above the floor."""
    found = search_largest(make_prober(floor + limit), cap=100_000)

    assert 0.9 * limit - 1 <= found.batch_size <= limit + 1
    assert len(found.runs) <= (4 if limit > 100 else 5)
    assert found.runs[-1].alone or any(run.sizes == (found.batch_size,) for run in found.runs)
    assert found.peak_bytes == pytest.approx((floor + found.batch_size) * MEGABYTE, rel=0.03)


@pytest.mark.slow
def test_the_caller_uses_no_memory_of_what_it_measures(make_prober, floor):
    before = peak_resident()
    search_largest(make_prober(floor + 900), cap=1000)

    assert peak_resident() - before < 100 * MEGABYTE


def test_the_peak_of_a_child_is_not_that_of_its_parent(make_prober, floor):
    """`ru_maxrss` of a child begins at its parent's: 1,932 MB for a child of 9 MB."""
    block = np.ones(400 * MEGABYTE, np.uint8)
    run = make_prober(2000).run([1])

    assert peak_resident() > block.nbytes
    assert run.peaks[0].peak_bytes / MEGABYTE < floor + 50
    assert run.highest_bytes / MEGABYTE < floor + 50


def test_a_peak_begins_without_what_was_freed_before(tmp_path):
    slot = Slot(Start(tmp_path / "log", None, memory_load.nothing))
    try:
        slot.submit(memory_load.peaks_around_a_beginning)
        before, after, again = slot.result()
    finally:
        slot.close()

    assert before > 300 * MEGABYTE
    assert after < before - 250 * MEGABYTE
    assert after + 80 * MEGABYTE < again < before, "what is taken from here on is counted"


def test_a_cap_is_run_and_not_passed(make_prober, floor):
    found = search_largest(make_prober(floor + 500), cap=100)

    assert (found.batch_size, found.answer.verdict) == (100, "cap")
    assert max(size for run in found.runs for size in run.sizes) == 100
    assert found.runs[-1].sizes == (100,), "verified in a process of its own"


def test_only_multiples_of_the_replicas_are_run(make_prober, floor):
    found = search_largest(make_prober(floor + 100), cap=99, replicas=3)

    assert found.batch_size % 3 == 0
    assert 84 <= found.batch_size <= 99
    assert all(peak.size % 3 == 0 for run in found.runs for peak in run.peaks)


class Refusing:
    """A prober whose training refuses to accumulate."""

    def run(self, sizes):
        raise InputError("masked outputs")


def test_a_loss_that_no_cut_keeps_costs_the_plan_alone():
    made = verify_accumulation(lambda steps: Refusing(), 128, largest=64)

    assert (made.peak_bytes, made.refused) == (None, "masked outputs")


def test_a_cap_below_the_replicas_is_refused(make_prober):
    with pytest.raises(InputError, match="at least 1 for each replica"):
        search_largest(make_prober(100), cap=1, replicas=2)


def test_nothing_fits_is_said_with_what_was_measured(make_prober, floor):
    found = search_largest(make_prober(floor / 2), cap=1000)

    assert (found.batch_size, found.answer.verdict) == (0, "nothing fits")
    assert len(found.runs) == 2
    conclusion = report_of(found, floor / 2).conclusion()
    assert conclusion.startswith("Nothing fits: a batch of 1 peaks at ")
    assert f"the budget is {floor / 2 * MEGABYTE / 1e6:,.0f} MB" in conclusion
    assert f"{found.started_bytes / 1e6:,.0f} MB" in conclusion


def test_validation_that_alone_does_not_fit_is_told_from_training(make_prober, floor):
    found = search_largest(make_prober(floor + 100, finish=300 * MEGABYTE), cap=1000)

    assert found.batch_size == 0
    assert len(found.runs) <= 3
    assert "the batch of validation the rest" in report_of(found, floor + 100).conclusion()


def test_validation_beside_training_lowers_no_answer_that_fits(make_prober, floor):
    found = search_largest(make_prober(floor + 200, finish=100 * MEGABYTE), cap=1000)

    assert 180 <= found.batch_size <= 201


def test_a_failure_of_the_code_ends_the_search_with_its_traceback(make_prober, floor):
    prober = make_prober(floor + 500, breaks_at=32, breaks="refuse")
    with pytest.raises(InputError, match="batch size of 32, and not for lack of memory") as caught:
        search_largest(prober, cap=1000)

    assert "ValueError: the loss of this model is odd" in str(caught.value)
    assert "memory_load.py" in str(caught.value)


@pytest.mark.quick_cases("abort_like", "hang")
@pytest.mark.parametrize(
    ("breaks", "outcome"),
    [
        ("exceed_address_space", "oom"),
        ("abort_like_an_allocator", "oom"),
        ("kill_itself", "killed"),
        ("hang", "timeout"),
        ("balloon", "oom"),
    ],
)
def test_a_size_that_ends_its_process_is_too_large(make_prober, floor, breaks, outcome):
    """The search goes on below it, with what the dead process had measured."""
    prober = make_prober(floor + 500, breaks_at=64, breaks=breaks, limit_megabytes=floor + 600)
    found = search_largest(prober, cap=1000)

    assert found.runs[0].outcome == outcome
    assert [peak.size for peak in found.runs[0].peaks] == [8, 16, 32]
    assert 57 <= found.batch_size <= 63
    assert len(found.runs) <= MOST_RUNS
    assert {"batch_size": 64, "outcome": outcome, "peak_megabytes": None}.items() <= next(
        row for row in report_of(found, floor + 500).rows() if row["batch_size"] == 64
    ).items()


def test_a_process_is_ended_before_it_takes_the_machines_memory(make_prober, floor):
    prober = make_prober(floor + 50, limit_megabytes=floor + 200, breaks_at=1, breaks="balloon")
    run = prober.run([1])

    assert run.outcome == "oom"
    assert run.message.startswith("Its memory passed ")
    assert (floor + 200) * MEGABYTE < run.highest_bytes < (floor + 1100) * MEGABYTE


def test_a_size_for_which_the_allocator_had_to_clear_up_does_not_fit(make_prober, floor):
    """Three sizes of 8 and 32 and 128: 128 ran, beyond 100 the wall is near."""
    prober = make_prober(floor + 300, breaks_at=100, breaks="clear_up")
    found = search_largest(prober, cap=1000, growth=4)

    assert found.runs[0].sizes == (8, 32, 128, 512, 1000)
    assert found.runs[0].outcome == "oom"
    assert "allocator had to clear up" in found.runs[0].message
    assert 85 <= found.batch_size < 100


def test_what_smaller_sizes_left_behind_may_be_cleared_up(make_prober, floor):
    """A climb frees what it took before: its largest size fits where it has no need to alone."""
    prober = make_prober(floor + 300, breaks_at=100, breaks="clear_up_after_others")
    run = prober.run([8, 32, 128])

    assert (run.outcome, run.message) == ("ok", "")
    assert [peak.size for peak in run.peaks] == [8, 32, 128]
    assert prober.run([128]).outcome == "ok"


def test_what_is_found_so_far_is_told_while_it_runs(tmp_path):
    record = tmp_path / "record"
    lines = [["started", 5], ["running", 8], ["peak", 8, 120_000_000], ["running", 32]]
    record.write_text("".join(json.dumps(line) + "\n" for line in lines))

    assert fresh_process._doing(record, (8, 32, 128), 12.0, 6e9) == (
        "trying batch sizes 8 to 128 in a fresh process: batch size 32 after 8 took 120 of 6,000 "
        "MB, 12 s"
    )


def test_memory_that_others_hold_and_predictions_limit_are_told(make_prober, floor):
    found = search_largest(make_prober(floor + 30), cap=10)
    report = dataclasses.replace(
        report_of(found, floor + 30), prediction=found, held_by_others=2 * 10**9
    )

    assert "The largest batch of `predict` that fits is 10." in report.conclusion()
    assert "Other processes held 2,000 MB of the GPU: alone on it, more may fit." in (
        report.conclusion()
    )
    assert {row["kind"] for row in report.rows()} == {"training", "prediction"}


def test_evaluation_and_prediction_take_whole_batches_of_validation(digits, monkeypatch):
    seen: list[tuple[str, int]] = []
    programs = ProgramCache(Workload(digits, tiny_model.build))
    configuration = Configuration(batch_size=1, base_learning_rate=0.1)
    for name, load in (("evaluate", _Evaluation), ("predict", _Prediction)):
        kept = getattr(keras.Model, name)

        def noted(model, batches, *, kept=kept, name=name, **options):
            seen.extend((name, len(batch[0])) for batch in batches)
            return kept(model, batches, **options)

        monkeypatch.setattr(keras.Model, name, noted)
        one = load(programs, configuration, lambda: None)
        assert one.begin() > 0
        assert one.step(32) > 0
        assert one.finish() is None

    assert seen == [("evaluate", 32)] * 2 + [("predict", 32)] * 2


def test_processes_that_all_hang_are_not_called_out_of_memory(make_prober):
    found = search_largest(make_prober(3000, breaks_at=1, breaks="hang"), cap=1000)

    assert found.batch_size == 0
    conclusion = report_of(found, 3000).conclusion()
    assert "need not be for lack of memory: a batch of 1 ended as timeout" in conclusion
    assert "no heartbeat" in conclusion


def test_the_kernels_kill_is_out_of_memory_and_spares_the_caller(make_prober, floor):
    own = [x for x in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in x]
    if not own:
        pytest.skip("no memory controller of version 1")
    parent = own[0].split(":", 2)[2]
    group = Path(f"/sys/fs/cgroup/memory{parent}") / f"tfbatch-finder-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(int((floor + 300) * MEGABYTE)))
    except OSError as error:
        pytest.skip(f"control groups cannot be made here: {error}")
    try:
        prober = make_prober(
            3000, first=memory_load.join, arguments=(str(group),), breaks_at=128, breaks="balloon"
        )
        found = search_largest(prober, cap=1000)
    finally:
        group.rmdir()

    assert found.runs[0].outcome == "oom"
    assert "The kernel killed its process because memory was exhausted" in found.runs[0].message
    assert 115 <= found.batch_size <= 127


def test_a_climb_runs_no_size_that_is_seen_not_to_fit(tmp_path):
    class Load:
        peaks = {8: 108, 16: 116, 32: 132, 64: 164}

        def begin(self):
            return 100

        def step(self, size):
            return self.peaks[size]

        def finish(self):
            return 170

    record = tmp_path / "record"
    climb(Load(), [8, 16, 32, 64, 128], budget_bytes=200, record=record, now=lambda: 0.0)

    peaks = tuple(Peak(size, peak) for size, peak in Load.peaks.items())
    assert read_written(record) == Written(100, peaks, 170, None)


def test_a_slow_climb_ends_once_memory_grows(tmp_path):
    class Load:
        def begin(self):
            return 100

        def step(self, size):
            return 100 + size

        def finish(self):
            return None

    clock = iter(range(0, 10_000, 30))
    climb(
        Load(),
        [8, 16, 32, 64, 128],
        budget_bytes=1000,
        record=tmp_path / "record",
        now=lambda: next(clock),
    )

    assert [peak.size for peak in read_written(tmp_path / "record").peaks] == [8, 16, 32, 64]


def test_a_record_whose_last_line_was_cut_is_read(tmp_path):
    lines = [["started", 5], ["running", 8], ["peak", 8, 9], ["running", 16], ["peak", 16, 12345]]
    whole = "\n".join(json.dumps(line) for line in lines)
    (tmp_path / "record").write_text(whole[:-4])

    assert read_written(tmp_path / "record") == Written(5, (Peak(8, 9),), None, 16)
    assert read_written(tmp_path / "absent") == Written()


@pytest.mark.parametrize(
    ("target", "largest", "replicas", "expected"),
    [
        (128, 32, 1, (32, 4)),
        (128, 50, 1, (32, 4)),
        (100, 33, 1, (25, 4)),
        (509, 100, 1, (85, 6)),
        (64, 63, 1, (32, 2)),
        (96, 40, 2, (32, 3)),
        (100, 40, 4, (20, 5)),
        (101, 40, 4, (36, 3)),
        (7, 1, 1, (1, 7)),
    ],
)
def test_micro_batches_make_the_target_batch(target, largest, replicas, expected):
    micro, steps = plan_accumulation(target, largest=largest, replicas=replicas)

    assert (micro, steps) == expected
    assert micro <= largest
    assert micro % replicas == 0
    assert target <= micro * steps


@pytest.mark.parametrize(
    ("target", "largest", "replicas", "expected"),
    [
        (101, 40, 1, (33, 3)),
        (1437, 64, 1, (62, 23)),
        (397, 10, 1, (10, 39)),
        (101, 4, 4, (4, 25)),
        (100, 33, 1, (25, 4)),
    ],
)
def test_a_target_of_all_training_examples_is_planned_with_no_more_than_there_are(
    target, largest, replicas, expected
):
    """Rounded up it would be 102, 1,449, 400 or 104: no stream has as many."""
    found = plan_accumulation(target, largest=largest, replicas=replicas, most=target)

    assert found == expected
    assert math.prod(found) <= target


class Limited:
    """A prober of data that has so many training examples; any batch of them fits."""

    budget_bytes = 100.0

    def __init__(self, steps, examples):
        self._steps, self._examples = steps, examples

    def run(self, sizes):
        if sizes[0] * self._steps > self._examples:
            raise InputError(f"`batch_size` must be from 1 to the {self._examples} examples.")
        written = Written(1, (Peak(sizes[0], 10),))
        return ProcessRun(tuple(sizes), "ok", written, "", 1.0, 0)


def test_a_plan_near_the_number_of_examples_can_be_run():
    made = verify_accumulation(lambda steps: Limited(steps, 101), 101, largest=40, most=101)

    assert isinstance(made, Accumulation)
    assert (made.refused, made.peak_bytes) == ("", 10)
    assert (made.target, made.batch_size) == (101, 99)


def test_accumulation_is_run_and_shrunk_until_its_sums_fit(make_prober, floor):
    """The sums of gradients take 40 MB here, which a micro-batch of 64 leaves no room for."""
    holding = make_prober(floor + 70, per_example=MEGABYTE * 1.8)
    made = verify_accumulation(lambda steps: holding, 128, largest=64)

    assert isinstance(made, Accumulation)
    assert made.batch_size == 128
    assert made.peak_bytes <= (floor + 70) * MEGABYTE
    assert made.micro_batch_size == 32


def sequences(split, batch_size, seed):
    """Forty sequences of 1 to 9 numbers, the longest one last."""
    del batch_size, seed
    count = {"train": 40, "validation": 10}.get(split)
    if count is None:
        return None
    lengths = [1 + n % 7 for n in range(count - 1)] + [9]

    def examples():
        for length in lengths:
            yield np.ones((length, 2), np.float32), np.int32(length)

    specs = (tf.TensorSpec([None, 2], tf.float32), tf.TensorSpec([], tf.int32))
    made = tf.data.Dataset.from_generator(examples, output_signature=specs)
    return made.apply(tf.data.experimental.assert_cardinality(count))


def test_inputs_of_variable_length_are_padded_to_the_longest(tmp_path):
    folder, _ = count_examples(sequences, tmp_path, name="sequences", heartbeat=lambda count: None)
    data = FunctionData(sequences, folder, name="sequences")
    longest = longest_shapes(data, heartbeat=lambda: None)
    stream = data.training(batch_size=4, seed=1, num_examples=8)

    assert longest == ((9, 2), ())
    for before, (x, y) in zip(stream, lengthened(stream, longest), strict=True):
        assert (x.shape, y.shape) == ((4, 9, 2), (4,))
        assert before[0].shape[1] < 9
        assert float(tf.reduce_sum(x)) == float(tf.reduce_sum(before[0]))


def test_inputs_of_one_length_are_left_alone(digits):
    assert longest_shapes(digits, heartbeat=lambda: None) is None
    stream = digits.training(batch_size=4, seed=1, num_examples=8)
    assert lengthened(stream, None) is stream


def test_images_are_resized_in_the_pipeline(digits):
    resized = ResizedData(digits, 12)
    x, y = next(iter(resized.training(batch_size=4, seed=1, num_examples=8)))

    assert resized.input_shape == (12, 12, 1)
    assert (x.shape, y.shape) == ((4, 12, 12, 1), (4,))
    assert next(iter(resized.evaluation("validation")))[0].shape[1:] == (12, 12, 1)
    with pytest.raises(InputError, match=r"inputs of \[height, width, channels\]"):
        ResizedData(dataclasses.make_dataclass("Flat", [("input_shape", tuple, (3,))])(), 12)


WIDE = 1 << 16
BUDGET = 1000 * MEGABYTE


def arrays(count=600):
    random = np.random.default_rng(0)
    return random.normal(size=(count, 16)).astype(np.float32), np.arange(count) % 3


def wide(input_shape, num_classes):
    """A hidden layer of 64 Ki units: some megabytes for each example."""
    inputs = keras.Input(input_shape)
    hidden = keras.layers.Dense(WIDE, activation="gelu")(inputs)
    return keras.Model(inputs, keras.layers.Dense(num_classes)(hidden))


class Odd(keras.Model):
    """A model whose step raises."""

    def train_step(self, data):
        raise ValueError("this step is odd")


def odd(input_shape, num_classes):
    inputs = keras.Input(input_shape)
    return Odd(inputs, keras.layers.Dense(num_classes)(inputs))


@pytest.mark.slow
def test_a_model_whose_step_raises_is_not_out_of_memory():
    with pytest.raises(InputError, match="not for lack of memory") as caught:
        find_max_batch_size(odd, arrays(), memory_budget="2 GB", memory_seconds=math.inf, verbose=0)

    assert "ValueError: this step is odd" in str(caught.value)
    assert "def train_step" in str(caught.value) or "in train_step" in str(caught.value)


@pytest.mark.slow
def test_the_largest_batch_of_a_real_training_is_verified():
    report = find_max_batch_size(
        wide,
        arrays(),
        memory_budget=BUDGET,
        memory_seconds=math.inf,
        target_batch_size=450,
        evaluation=False,
        verbose=0,
    )

    assert 0 < report.batch_size < 450
    assert report.training.peak_bytes <= BUDGET
    assert any(run.sizes == (report.batch_size,) for run in report.training.runs)
    made = report.accumulation
    assert made.batch_size >= 450
    assert made.micro_batch_size <= report.batch_size
    assert 0 < made.peak_bytes <= BUDGET
    asked = f"`tfbatch.accumulated(model, micro_batch_size={made.micro_batch_size})`"
    assert asked in report.conclusion()
    assert "gradient_accumulation_steps" not in report.conclusion()


@pytest.mark.slow
def test_replicas_share_the_largest_batch():
    report = find_max_batch_size(
        wide,
        arrays(),
        memory_budget="3 GB",
        memory_seconds=math.inf,
        largest=21,
        strategy="mirrored",
        logical_cpus=2,
        evaluation=False,
        verbose=0,
    )

    assert (report.batch_size, report.replicas, report.per_replica_batch_size) == (20, 2, 10)
    assert "20 (10 on each of 2 replicas)" in report.conclusion()


def begin_limited(job, records, megabytes):
    """A process whose address space ends this many megabytes above what it has at its start."""
    begin_worker(job, records)
    limit = psutil.Process().memory_info().vms + megabytes * MEGABYTE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


@pytest.mark.slow
def test_tensorflow_that_dies_of_bad_alloc_is_out_of_memory():
    """Under RLIMIT_AS TensorFlow aborts, with no ResourceExhaustedError."""
    usable = UsableMemory("CPU", 2**40, 1)
    with (
        open_bench(wide, arrays(), execution=Execution(workers=1)) as bench,
        open_prober(
            bench,
            bench.task(measure_training, bench.configuration(1), 1),
            usable=usable,
            budget_bytes=2**36,
        ) as prober,
    ):
        start = prober.start
        limited = dataclasses.replace(
            start, function=begin_limited, arguments=(*start.arguments, 1200)
        )
        run = dataclasses.replace(prober, start=limited).run([8, 480])

    assert run.outcome == "oom"
    assert run.written.running == 480
    assert [peak.size for peak in run.peaks] == [8]


@pytest.mark.slow
def test_an_example_of_a_larger_image_costs_more():
    found = measure_memory_by_image_size(
        "small_cnn", "digits", image_sizes=(32, 128), batch_sizes=(64, 128, 256)
    )

    # 16 times the area: measured 4 to 9 times, since the allocator's own growth counts in both.
    small, large = (at.predicted.bytes_per_example for at in found.sizes)
    assert large > 2 * small
    assert 0.25 < found.area_exponent < 1.6  # of the side it would be twice that
    assert "predicted largest batch" in found.conclusion()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.5 GB", 1.5e9),
        ("800MiB", 800 * 2**20),
        ("2 tib", 2 * 2**40),
        ("1_000", 1000.0),
        (5e8, 5e8),
        (None, None),
    ],
)
def test_a_budget_is_bytes_or_a_text(text, expected):
    assert bytes_of(text) == expected


@pytest.mark.parametrize("budget", ["lots", "5 parsecs", -1, 0, True, float("nan"), "1.2.3 GB"])
def test_a_budget_that_is_none_is_refused_before_any_work(budget):
    with pytest.raises(InputError, match="`memory_budget` must be > 0"):
        find_max_batch_size("small_cnn", "digits", memory_budget=budget)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"safety_margin": 1.0}, "`safety_margin` must be at least 0 and below 1"),
        ({"largest": 0}, "`largest` must be a whole number >= 1"),
        ({"largest": 16.5}, r"`largest` must be a whole number >= 1\. Received: 16\.5"),
        ({"target_batch_size": -3}, "`target_batch_size` must be a whole number >= 1"),
    ],
)
def test_bad_options_are_refused_before_any_work(options, message):
    with pytest.raises(InputError, match=message):
        find_max_batch_size("small_cnn", "digits", **options)


def test_a_target_of_more_than_all_training_examples_is_refused_before_anything_is_run():
    bench = types.SimpleNamespace(data=types.SimpleNamespace(splits={"train": 100}))
    with pytest.raises(InputError, match=r"at most the number of training examples, 100:.*101\."):
        measure_memory(bench, budget_bytes=None, margin=0.0, target_batch_size=101)
