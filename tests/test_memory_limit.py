"""`--memory_budget`: what is measured not to fit is never tried."""

from __future__ import annotations

import json
import math
import types

import pytest
import test_instrument_memory
from search_fixtures import (
    BASELINE,
    NUM_EXAMPLES,
    Trainer,
    make_config,
    make_runner,
    open_folder,
)

import tfbatch
from tfbatch.answer.memory_limits import read_memory_limit
from tfbatch.errors import InputError, RunFolderError
from tfbatch.process import memory as process_memory
from tfbatch.request.execution import Execution
from tfbatch.run_folder.files import MEMORY_LIMIT
from tfbatch.search import memory_limit
from tfbatch.search.clock import SearchClock
from tfbatch.search.loop import Search
from tfbatch.search.memory_limit import limit_memory
from tfbatch.search.progress import Progress
from tfbatch.search.space import SearchSpace
from tfbatch.training.devices import Devices

SIZES = (16, 64, 256)
RUNS = [
    ("training", "ok", 100, 800),
    ("training", "ok", 16, 200),
    ("training", "ok", 16, 210),
    ("training", "ok", 32, None),
    ("training", "oom", 256, 990),
    ("evaluation", "ok", 64, 400),
]


def bench_of(*, workers=2, kind="CPU", baseline=32):
    devices = Devices(kind, ("gpu",) * workers if kind != "CPU" else (), workers, workers)
    baseline = types.SimpleNamespace(batch_size=baseline)
    return types.SimpleNamespace(devices=devices, baseline=baseline, memory_seconds=60.0)


@pytest.fixture
def measured(monkeypatch):
    """What each call of the instrument was asked; 100 fits."""
    calls = []

    def measure_memory(bench, **options):
        calls.append(options)
        return types.SimpleNamespace(
            batch_size=min(100, options["largest"]),
            device=bench.devices.kind,
            training=types.SimpleNamespace(
                cut_short=False, settled=True, smallest_that_failed=None
            ),
            conclusion=lambda: "100 fits.",
            rows=lambda: [
                {"kind": kind, "outcome": outcome, "batch_size": size, "peak_megabytes": peak}
                for kind, outcome, size, peak in RUNS
            ],
        )

    monkeypatch.setattr(memory_limit, "measure_memory", measure_memory)
    return calls


def limit(budget, folder, sizes=SIZES, **of_bench):
    return limit_memory(bench_of(**of_bench), budget, sizes, folder, Progress(None))


def test_workers_share_the_budget_on_a_cpu_and_not_on_gpus(measured, tmp_path):
    assert limit("8 GB", tmp_path, workers=4) == 100
    assert limit("auto", tmp_path, workers=4) == 100
    (tmp_path / MEMORY_LIMIT).unlink()
    assert limit("8 GB", tmp_path, workers=4, kind="A100") == 100
    on_cpu, automatic, on_gpu = measured
    assert (on_cpu["budget_bytes"], on_cpu["margin"]) == (2e9, 0.0)
    assert automatic["budget_bytes"] is None
    assert automatic["margin"] == pytest.approx(0.8)  # four workers keep 20 % each
    assert on_gpu["budget_bytes"] == 8e9
    assert {call["largest"] for call in measured} == {256}


def test_what_was_measured_is_kept_for_the_same_budget_alone(measured, tmp_path):
    limit("8 GB", tmp_path)
    limit("8 GB", tmp_path)
    assert len(measured) == 1
    limit("6 GB", tmp_path)
    limit("6 GB", tmp_path, workers=1)
    assert len(measured) == 3
    kept = read_memory_limit(tmp_path)
    assert (kept.memory_budget, kept.workers, kept.largest_batch_size) == ("6 GB", 1, 100)
    # Of what was trained and fitted, the most of each size.
    assert [(p.batch_size, p.megabytes) for p in kept.peaks] == [(16, 210), (100, 800)]


def test_what_was_measured_on_another_device_is_measured_again(measured, tmp_path):
    for kind in ("NVIDIA A100", "NVIDIA A100", "NVIDIA T4", "CPU", "CPU"):
        limit("auto", tmp_path, kind=kind)

    assert len(measured) == 3
    assert read_memory_limit(tmp_path).device == "CPU"


def test_what_was_measured_in_more_memory_is_measured_again_unless_it_was_stated(
    measured, tmp_path, monkeypatch
):
    def of_machine(gigabytes, budget):
        monkeypatch.setattr(process_memory, "usable_memory", lambda: gigabytes * 1e9)
        limit(budget, tmp_path)
        return len(measured)

    assert [of_machine(size, "auto") for size in (64, 64.01, 16)] == [1, 1, 2]
    assert read_memory_limit(tmp_path).automatic_bytes == pytest.approx(0.8 * 16e9 / 2)
    assert [of_machine(size, "8 GB") for size in (16, 64)] == [3, 3]
    assert read_memory_limit(tmp_path).automatic_bytes is None


def test_a_larger_space_is_measured_again_unless_its_end_is_known(measured, tmp_path):
    assert limit("8 GB", tmp_path, sizes=(16, 64)) == 64
    assert limit("8 GB", tmp_path) == 100
    assert limit("8 GB", tmp_path, sizes=(*SIZES, 1024)) == 100
    assert [call["largest"] for call in measured] == [64, 256]


def test_what_cannot_be_searched_is_refused_with_the_remedy(measured, tmp_path):
    with pytest.raises(InputError, match=r"128 as the smallest.*8 GB for 2 workers.*100 fits"):
        limit("8 GB", tmp_path, sizes=(128, 256))
    with pytest.raises(InputError, match=r"baseline.*128.*--baseline=batch_size=100"):
        limit("8 GB", tmp_path, baseline=128)


def test_a_damaged_file_is_an_error_with_its_remedy(measured, tmp_path):
    (tmp_path / MEMORY_LIMIT).write_text('{"workers": 1}', encoding="utf-8")
    with pytest.raises(RunFolderError, match="Remove it: memory is measured again"):
        limit("8 GB", tmp_path)


@pytest.mark.parametrize("wrong", ["lots", "0 GB", "-1"])
def test_a_budget_that_is_none_is_refused(wrong):
    with pytest.raises(InputError, match=r"`memory_budget` must be > 0.*Or give auto"):
        Execution(memory_budget=wrong)


def test_a_budget_needs_processes():
    with pytest.raises(InputError, match="needs worker processes"):
        Execution(memory_budget="auto", workers=0)


def test_a_search_tries_no_larger_batch(tmp_path):
    config = make_config(max_trials=12)
    space = SearchSpace(config.space, num_examples=NUM_EXAMPLES)
    largest = sorted(space.batch_sizes)[1]
    with open_folder(tmp_path) as folder:
        runner = make_runner(folder, Trainer({}))
        Search(
            config,
            baseline=BASELINE,
            space=space,
            runner=runner,
            clock=SearchClock(None),
            seed=7,
            untrained=2.3,
            progress=Progress(None),
            largest_batch_size=largest,
        ).run(stop_requested=lambda: False)
        tried = {t.configuration.batch_size for t in runner.trials if t.phase == "search"}
    assert tried == {size for size in space.batch_sizes if size <= largest}


@pytest.mark.slow
def test_a_real_search_leaves_out_what_does_not_fit(tmp_path):
    x, _ = test_instrument_memory.arrays()
    result = tfbatch.find_batch_size(
        test_instrument_memory.wide,
        (x, x[:, :3].argmax(axis=1)),  # what can be learned in a few updates
        batch_sizes=[8, 32, 400],
        baseline="batch_size=8",
        max_trials=3,
        verification_seeds=1,
        trial_length="1 epoch",
        workers=1,
        memory_budget=f"{test_instrument_memory.BUDGET:.0f}",
        memory_seconds=math.inf,
        run_dir=tmp_path,
        verbose=0,
    )
    kept = json.loads((tmp_path / MEMORY_LIMIT).read_text(encoding="utf-8"))
    assert 32 <= kept["largest_batch_size"] < 400
    assert {row["batch_size"] for row in result.rows} == {8, 32}
    assert {row["status"] for row in result.rows} == {"completed"}
    assert result.recommendation["memory_limit"] == kept
    assert kept["conclusion"] in result.summary()
