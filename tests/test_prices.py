"""What training costs is measured before a search that proposes by it, once."""

import json

import pytest
import tiny_model
from contexts import context_of

from tfbatch.answer.prices import MeasuredPrices, read_prices
from tfbatch.answer.step_seconds import read_step_seconds
from tfbatch.configuration import Configuration
from tfbatch.errors import RecordError, RunFolderError, SearchError
from tfbatch.run_folder.files import PRICES, STEP_TIMES
from tfbatch.schema import Named
from tfbatch.search.prices import prices_of
from tfbatch.search.progress import Progress
from tfbatch.training import prices as measuring
from tfbatch.training.devices import Devices
from tfbatch.training.prices import in_order, measure_prices
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.step_times import StepTimesFile
from tfbatch.training.workload import Workload

BASELINE = Configuration(
    batch_size=32, base_learning_rate=0.01, optimizer=Named(name="sgd", momentum=0.9)
)


def of_sizes(*sizes):
    return [BASELINE.model_copy(update={"batch_size": size}) for size in sizes]


@pytest.fixture(scope="module")
def programs(digits):
    return ProgramCache(Workload(digits, tiny_model.build))


def test_the_ends_and_the_middle_come_first():
    assert in_order([8, 16, 32, 64, 128, 32]) == [128, 8, 32, 64, 16]
    assert in_order([8]) == [8]
    assert in_order([8, 16]) == [16, 8]
    assert in_order([]) == []


def test_prices_are_measured_and_kept(programs, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "ROUND_SECONDS", 0.02)
    found = measure_prices(
        context_of(programs), of_sizes(300, 16), tmp_path / STEP_TIMES, "CPU", seconds=1e9
    )
    kept = read_step_seconds(tmp_path)

    assert found.step_seconds.keys() == {16, 300}
    assert {size: kept.median(size) for size in kept.rounds} == found.step_seconds
    assert {len(rounds) for rounds in kept.rounds.values()} == {3}
    assert kept.validation == found.evaluation_seconds > 0
    assert found.start_seconds > 0
    assert found.missing == {}


def test_a_size_that_cannot_be_built_or_comes_too_late_is_missing(programs, tmp_path, monkeypatch):
    def paced(programs, configuration, *, executions, **_):
        if configuration.batch_size == 300:
            raise ValueError("no such shape\nand more")
        return {64: 30.0, 16: 0.01}[configuration.batch_size]

    monkeypatch.setattr(measuring, "time_training", paced)
    task, file = context_of(programs), tmp_path / STEP_TIMES
    found = measure_prices(task, of_sizes(300, 64, 16), file, "CPU", seconds=1e9)
    assert found.missing == {300: "ValueError: no such shape"}
    assert found.step_seconds == {64: 30.0, 16: 0.01}
    rounds = read_step_seconds(tmp_path).rounds
    assert (len(rounds[64]), len(rounds[16])) == (1, 3), "slow ones are looked at once"

    late = measure_prices(task, of_sizes(64, 16), file, "CPU", seconds=-1.0)
    assert late.step_seconds == {64: 30.0}
    assert late.missing == {16: "the time for it was over"}


def test_compilation_pushes_no_size_out(programs, tmp_path, monkeypatch):
    """100 s to compile each size, three steps of 1 s: all are measured in 30 s of steps."""
    now = [0.0]

    def compiled_first(programs, configuration, *, executions, warmup, at_once):
        first = configuration.batch_size not in seen
        seen.add(configuration.batch_size)
        now[0] += 100.0 * first + (executions + warmup) * at_once
        return 1.0

    seen: set[int] = set()
    monkeypatch.setattr(measuring, "time_training", compiled_first)
    monkeypatch.setattr("tfbatch.interleaved_rounds.time.perf_counter", lambda: now[0])
    found = measure_prices(
        context_of(programs), of_sizes(300, 16, 64), tmp_path / STEP_TIMES, "CPU", seconds=30.0
    )

    assert found.step_seconds.keys() == {16, 64, 300}
    assert found.missing == {}


def test_damaged_records_end_the_run(programs, tmp_path, monkeypatch):
    def damaged(*_, **__):
        raise RecordError(tmp_path, 0, "damaged")

    monkeypatch.setattr(measuring, "time_training", damaged)
    with pytest.raises(RecordError):
        measure_prices(
            context_of(programs), of_sizes(16), tmp_path / STEP_TIMES, "CPU", seconds=1.0
        )


class Engine:
    """Measures by heart; a batch size from `wall` on ends the process."""

    devices = Devices("CPU", (), 3, 1)

    def __init__(self, wall=1e9):
        self.wall, self.called = wall, []

    def call_alone(self, task, configurations, file, device, *, seconds):
        sizes = [one.batch_size for one in configurations]
        self.called.append((sizes, seconds))
        for size in sizes:
            if size >= self.wall:
                raise SearchError("A worker process ended\nits log")
            StepTimesFile(file, device).keep(size, [size * 1e-4])
        return MeasuredPrices(device=device, step_seconds={size: size * 1e-4 for size in sizes})


def prices(folder, engine, sizes=(8, 64, 512), minutes=None):
    return prices_of(engine, BASELINE, sizes, folder, Progress(None), max_minutes=minutes)


def test_a_run_that_is_resumed_has_the_same_prices(tmp_path):
    """Also after step times of its own were added."""
    first = prices(tmp_path, Engine(), minutes=2.0)
    engine = Engine()
    (tmp_path / STEP_TIMES).unlink()

    assert prices(tmp_path, engine) == first == read_prices(tmp_path)
    assert engine.called == []
    assert first.prices(1000).cost(512, 5120) == pytest.approx(10 * 0.0512)


def test_prices_of_an_earlier_version_which_kept_the_number_of_workers_are_read(tmp_path):
    found = prices(tmp_path, Engine())
    kept = json.loads((tmp_path / PRICES).read_text())
    assert "workers" not in kept
    (tmp_path / PRICES).write_text(json.dumps({**kept, "workers": 3}))
    assert read_prices(tmp_path) == found


def test_the_time_for_it_is_a_share_of_the_limit(tmp_path):
    engine = Engine()
    prices(tmp_path, engine, minutes=2.0)
    assert engine.called == [([512, 8, 64, 32], pytest.approx(6.0))]


def test_a_size_that_ends_its_process_costs_itself_and_larger_ones(tmp_path):
    engine = Engine(wall=512)
    found = prices(tmp_path, engine, sizes=(8, 64, 512, 1024))

    assert [called for called, _ in engine.called] == [
        [1024, 8, 64, 512, 32],
        [8, 64, 512, 32],
        [8, 64, 32],
    ]
    assert found.step_seconds.keys() == {8, 32, 64}
    assert found.missing == {1024: "A worker process ended", 512: "A worker process ended"}


def test_without_any_price_the_search_counts_examples(tmp_path):
    found = prices(tmp_path, Engine(wall=0))

    assert found.step_seconds == {}
    assert found.prices(1000).unit == "examples"
    assert read_prices(tmp_path) == found


def test_damaged_prices_are_refused(tmp_path):
    for content in ("{", json.dumps({"device": "CPU"})):
        (tmp_path / PRICES).write_text(content)
        with pytest.raises(RunFolderError, match=r"cannot be measured again: .*--overwrite"):
            read_prices(tmp_path)
