"""`python -m tfbatch.probe`: every instrument keeps the contract; one that fails harms no other."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import os
import pickle
import re
import shlex
import types
from pathlib import Path
from typing import Any

import pytest
import tiny_model
from processes import run_warm
from rich.console import Console

import tfbatch.probe
from tfbatch.charts import Chart, Mark, Series
from tfbatch.charts.page import PageSection, page
from tfbatch.charts.plotly_figure import figure
from tfbatch.command_line.running import parse_flags
from tfbatch.errors import InputError, SearchError, StoppedError
from tfbatch.estimators.interval import Interval
from tfbatch.estimators.noise_scale import NoiseScale
from tfbatch.instruments import INSTRUMENTS, run_all
from tfbatch.instruments.input_bound import InputBoundReading, InputShare
from tfbatch.instruments.largest_batch import LargestBatchReading
from tfbatch.instruments.noise_scale import NoiseScaleReading
from tfbatch.instruments.open_bench import open_bench
from tfbatch.instruments.run_all import ProbeReport, Section, run_instruments
from tfbatch.instruments.throughput import ThroughputReading, throughput_from
from tfbatch.request.execution import Execution
from tfbatch.training.step_times import StepTime

SIZES = (16, 32, 64)
QUICK = [name for name in INSTRUMENTS.names() if name != "largest_batch"]


@pytest.fixture(scope="module")
def bench():
    with open_bench(tiny_model.build, "digits", execution=Execution(workers=0)) as opened:
        yield opened


@pytest.fixture(scope="module")
def probed(bench):
    """Every instrument that needs no process of its own."""
    return run_instruments(
        bench, names=QUICK, batch_sizes=SIZES, say=lambda text: None, seconds=2.0
    )


def test_every_instrument_declares_what_the_command_needs():
    modules = [INSTRUMENTS.load(name) for name in INSTRUMENTS.names()]

    assert {"largest_batch", "throughput", "input_bound", "noise_scale"} <= set(INSTRUMENTS.names())
    assert all(module.HEADING and module.SHARE >= 0 for module in modules)
    assert len({module.ORDER for module in modules}) == len(modules)


def check_reading(reading):
    columns, rows = reading.columns(), reading.rows()
    assert columns
    assert rows
    assert all(len(row) == len(columns) for row in rows)
    assert all(isinstance(cell, str) for row in rows for cell in row)
    assert reading.conclusion().endswith(".")
    assert pickle.loads(pickle.dumps(reading)).conclusion() == reading.conclusion()
    for chart in reading.charts():
        assert figure(chart)["data"]


@pytest.mark.quick_cases("noise_scale", "range", "input_bound", "throughput")
@pytest.mark.parametrize("name", QUICK)
def test_a_reading_keeps_the_contract(name, probed):
    section = next(section for section in probed.sections if section.name == name)

    assert section.failure == "", section.trace
    check_reading(section.reading)


def test_instruments_run_in_their_order(probed):
    orders = [INSTRUMENTS.load(section.name).ORDER for section in probed.sections]
    assert orders == sorted(orders)


def test_the_conclusion_is_of_hardware_and_of_gradient_and_says_predicted(probed):
    throughput = probed.reading(ThroughputReading)
    hardware, gradient = probed.hardware(), probed.gradient("python -m tfbatch.tune")

    assert throughput.of_knee() in hardware
    assert "bound" in hardware or "balanced" in hardware
    assert "noise scale" in gradient
    if probed.prediction:
        assert f"predicted time-optimal batch size is {probed.prediction.batch_size}" in gradient
        assert gradient.endswith("python -m tfbatch.tune")
    else:
        assert "no batch size is predicted" in gradient


VERIFIED: Any = types.SimpleNamespace(training=types.SimpleNamespace(verified=True))
"""As much of a memory report as the sentence on the hardware asks for."""


def joined(limited_by, largest, **readings):
    """A line of 16 ms and 0.5 ms an example, and a noise scale of 128: 64 is the fastest."""
    times = [
        StepTime(size, seconds, (seconds,) * 3)
        for size in (8, 16, 32, 64, 128, 256)
        if (seconds := 0.016 + 0.0005 * size)
    ]
    noise = NoiseScale(128.0, Interval(64.0, 256.0), 1.0, 128.0, 20, ())
    found = {
        "noise_scale": NoiseScaleReading(
            noise, (), (), None, None, 1.0, 16, 128, "inference", "at initial weights", 1.0
        ),
        "throughput": throughput_from(times),
        "largest_batch": LargestBatchReading(largest, limited_by, None, VERIFIED),
        **readings,
    }
    sections = tuple(Section(name, name, found[name], "", 1.0) for name in found)
    return ProbeReport("CPU", (8, 256), 8, sections, None, "")


@pytest.mark.parametrize(
    ("limited_by", "largest", "examples", "predicted"),
    [
        ("memory", 40, 1000, 40),
        ("memory", 400, 50, 50),
        ("the largest size of interest", 40, 1000, 64),
        ("memory", None, 1000, 64),
    ],
    ids=["memory", "examples", "not asked further", "nothing known"],
)
def test_memory_and_examples_hold_the_predicted_size(limited_by, largest, examples, predicted):
    data = types.SimpleNamespace(splits={"train": examples})
    bench: Any = types.SimpleNamespace(data=data)

    assert run_all._predict(bench, joined(limited_by, largest)).batch_size == predicted


def probed_on_a_gpu(**readings):
    """As `joined`, with 8 to 4,096 of interest, of which 512 and 1,024 were not measured."""
    times = [
        StepTime(size, seconds, (seconds,) * 3)
        for size in (8, 16, 32, 64, 128, 256, 2048)
        if (seconds := 0.016 + 0.0005 * size)
    ]
    throughput = throughput_from(times, left_out=(512, 1024), too_large=(4096,))
    found = joined("memory", 3000, throughput=throughput, **readings)
    return dataclasses.replace(found, batch_sizes=tuple(2**k for k in range(3, 13)))


def test_what_figures_of_a_gpu_depend_on_is_in_the_file():
    found = dataclasses.replace(joined("memory", 40), gpu="NVIDIA H100; driver 550.54.15, XLA on")
    sections = dataclasses.replace(found, sections=())

    assert sections.as_json()["gpu"] == "NVIDIA H100; driver 550.54.15, XLA on"
    assert dataclasses.replace(sections, gpu="").as_json()["gpu"] is None


def test_sizes_that_do_not_fit_are_measured_by_no_later_instrument():
    found = probed_on_a_gpu()

    assert found.fitting == tuple(2**k for k in range(3, 12))
    assert found.unmeasured == (512, 1024)
    assert dataclasses.replace(found, sections=()).fitting == found.batch_sizes


def test_no_command_is_offered_that_leaves_out_what_was_not_measured(monkeypatch):
    found = probed_on_a_gpu()
    data = types.SimpleNamespace(splits={"train": 45_000})
    bench: Any = types.SimpleNamespace(data=data)
    predicted = dataclasses.replace(found, prediction=run_all._predict(bench, found))
    monkeypatch.setattr(tfbatch.probe, "FLAGS", {})
    first, then = (tfbatch.probe._verifying(one) for one in (found, predicted))

    assert predicted.prediction is not None
    assert predicted.prediction.batch_size == 64
    assert first.endswith("--batch_sizes=8,16,32,64,128,256,512,1024,2048")
    assert then.endswith("--batch_sizes=8,16,32,64,128,256,512,1024")


def test_the_command_that_is_offered_speaks_to_people(monkeypatch):
    monkeypatch.setattr(tfbatch.probe, "FLAGS", copy.deepcopy(tfbatch.probe.FLAGS))
    given = ["--json", "--quiet", "--optimizer=adam", "--max_minutes=1"]
    parse_flags(tfbatch.probe.FLAGS, given, usage="")

    offered = shlex.split(tfbatch.probe._verifying(probed_on_a_gpu()))
    assert offered[2:4] == ["tfbatch.tune", "--optimizer=adam"]
    assert len(offered) == 5


def bound_at(*sizes):
    """The pipeline holds the training up at batch size 8, the model at any other."""
    shares = []
    for size in sizes:
        times = (StepTime(size, t, (t, t, t)) for t in (2.0 if size == 8 else 0.5, 1.0, 2.0))
        shares.append(InputShare(size, *times))
    return InputBoundReading(tuple(shares))


def test_what_bounds_the_training_is_said_of_the_knee_and_else_of_the_baseline():
    bound = bound_at(8, 128, 256)
    found = joined("memory", 40, input_bound=bound)
    without = joined("memory", 40, input_bound=bound, throughput=None)

    assert found.reading(ThroughputReading).knee.batch_size == 128
    assert found.hardware().endswith("training at batch size 128 is compute-bound.")
    assert without.hardware().endswith("training at batch size 8 is input-bound.")


def test_what_bounds_the_training_is_said_of_the_size_that_was_measured():
    """At most four sizes are: the knee need not be among them."""
    hardware = joined("memory", 40, input_bound=bound_at(8, 64, 256)).hardware()

    assert hardware.endswith(
        "training at batch size 64, the nearest to 128 that was measured for it, is compute-bound."
    )


@pytest.mark.parametrize(
    ("memory", "examples", "limited_by"),
    [
        (40, 1000, "memory"),
        (None, 40, "the number of training examples"),
        (400, 40, "the number of training examples"),
    ],
    ids=["memory", "examples", "examples before memory"],
)
def test_what_limits_a_predicted_size_is_memory_only_where_it_is(memory, examples, limited_by):
    bench: Any = types.SimpleNamespace(data=types.SimpleNamespace(splits={"train": examples}))
    made = run_all._predict(bench, joined("memory", memory))

    assert (made.batch_size, made.limited_by) == (40, limited_by)
    assert f"limited by {limited_by})" in made.conclusion()


def test_what_is_written_is_json_without_numbers_that_are_none(probed):
    content = json.loads(json.dumps(probed.as_json(), allow_nan=False))

    assert set(content["instruments"]) == set(QUICK)
    reading = content["instruments"]["throughput"]["reading"]
    measured = [time["batch_size"] for time in reading["step_times"]]
    assert sorted(measured + reading["left_out"]) == list(SIZES)


def die(context):
    os._exit(3)


class Fails:
    """Instruments that fail in other ways."""

    def __init__(self, error):
        self.error, self.order = error, 1

    def load(self, name):
        module = INSTRUMENTS.load("throughput")
        if name == "throughput":
            return module
        failing = types.ModuleType("tfbatch.instruments.failing")
        failing.__dict__.update({"HEADING": "Failing", "ORDER": self.order, "SHARE": 1.0})
        failing.__dict__["probe"] = self.probe
        return failing

    def probe(self, bench, **_):
        if self.error is None:
            bench.measure(die)
        raise self.error or AssertionError


@pytest.mark.quick_cases("bug")
@pytest.mark.parametrize(
    ("error", "message"),
    [(InputError("this and that"), "this and that"), (KeyError("bug"), "KeyError: 'bug'")],
    ids=["message", "bug"],
)
def test_a_failing_instrument_does_not_end_the_others(error, message, bench, monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(run_all, "INSTRUMENTS", Fails(error))
    found = run_instruments(
        bench, names=["failing", "throughput"], batch_sizes=(32,), say=told.append, seconds=1.0
    )

    assert [section.failure for section in found.sections] == [message, ""]
    assert f"Failing failed: {message}" in told
    assert found.reading(ThroughputReading).batch_sizes == (32,)
    assert ("Traceback" in found.sections[0].trace) == isinstance(error, KeyError)
    assert found.prediction is None
    assert "needs both" in found.unpredicted


@pytest.mark.slow
def test_an_instrument_whose_process_dies_does_not_end_the_others(monkeypatch):
    monkeypatch.setattr(run_all, "INSTRUMENTS", Fails(None))
    with open_bench(tiny_model.build, "digits") as in_worker:
        found = run_instruments(
            in_worker,
            names=["failing", "throughput"],
            batch_sizes=(32,),
            say=lambda text: None,
            seconds=1.0,
        )

    assert "A worker process ended" in found.sections[0].failure
    assert found.reading(ThroughputReading).batch_sizes == (32,)


def test_a_request_to_stop_ends_it_before_the_next_instrument(bench):
    found = run_instruments(
        bench,
        names=QUICK,
        batch_sizes=SIZES,
        say=lambda text: None,
        seconds=1.0,
        stop_requested=lambda: True,
    )

    assert found.sections == ()
    assert found.hardware() == "Of the hardware nothing is known."


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What the command writes for two instruments, run in this process."""
    folder = tmp_path_factory.mktemp("probe")
    left_out = sorted(set(INSTRUMENTS.names()) - {"throughput", "input_bound"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            tfbatch.probe, "Execution", lambda **asked: Execution(**{**asked, "workers": 0})
        )
        code = tfbatch.probe.main(
            [
                "--model=tiny_model:build",
                "--batch-sizes=16,64",
                f"--skip={','.join(left_out)}",
                "--max-minutes=0.03",
                f"--run-dir={folder}",
            ]
        )
    assert code == 0
    return folder


def test_the_command_writes_everything(written):
    content = json.loads((written / "probe.json").read_text())

    assert set(content["instruments"]) == {"throughput", "input_bound"}
    assert all(part["reading"] for part in content["instruments"].values())
    assert content["batch_sizes"] == [16, 32, 64], "the baseline's size is among them"
    assert len(content["conclusion"]) == 2
    assert "tfbatch.tune --model=tiny_model:build --batch_sizes=16,32,64" in content["verify_with"]


def test_each_instrument_is_on_disk_and_printed_when_it_has_ended(probed, tmp_path):
    """Whatever ends the next one costs that one alone."""
    out = Console(width=140, record=True, file=io.StringIO())
    request = types.SimpleNamespace(
        dataset="digits", model="mlp", data=types.SimpleNamespace(name="digits")
    )
    report = tfbatch.probe._Report(request, tmp_path, out)
    assert report.stopped() == "Stopped before anything was measured."
    for count in range(1, len(probed.sections) + 1):
        report.add(dataclasses.replace(probed, sections=probed.sections[:count]))
        content = json.loads((tmp_path / "probe.json").read_text())
        assert len(content["instruments"]) == count
    report.add(probed)

    text = " ".join(out.export_text().split())
    for section in probed.sections:
        shown = " ".join(section.reading.conclusion().split())
        assert text.count(shown) == 1
    assert f"{len(QUICK)} instruments had finished" in report.stopped()


def test_a_disk_that_is_full_costs_nothing_that_is_printed(probed, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tfbatch.run_folder.durable.os.fsync", full)
    out = Console(width=140, record=True, file=io.StringIO())
    request = types.SimpleNamespace(
        dataset="digits", model="mlp", data=types.SimpleNamespace(name="digits")
    )
    report = tfbatch.probe._Report(request, tmp_path, out)
    report.add(probed)
    report.conclude()

    text = " ".join(out.export_text(clear=False).split())
    assert "probe.json cannot be written: [Errno 28] No space left" in text
    assert "No space left" in report.unwritten
    assert report.measured == len(QUICK)


@pytest.mark.slow
def test_a_stop_in_an_instrument_keeps_those_before_it(bench, monkeypatch):
    told, kept = [], []
    failing = Fails(StoppedError("stopped"))
    monkeypatch.setattr(run_all, "INSTRUMENTS", failing)
    failing.order = 99
    found = run_instruments(
        bench,
        names=["throughput", "failing"],
        batch_sizes=(32,),
        say=told.append,
        finished=kept.append,
        seconds=1.0,
    )

    assert [section.name for section in found.sections] == ["throughput"]
    assert [len(each.sections) for each in kept] == [1]
    assert told[-1] == "Failing: stopped, without a result."


def test_the_page_loads_nothing_from_elsewhere(written):
    text = (written / "probe.html").read_text(encoding="utf-8")
    own = re.sub(r"<script\b.*?</script>", "", text, flags=re.DOTALL)

    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert len(json.loads(block[1])["figures"]) >= 3
    assert not re.search(r"(https?:)?//", own)
    assert not re.search(r"<(script|link|img|iframe)\b[^>]*\b(src|href)=", text.split("<body>")[1])
    assert "<script src" not in text


@pytest.mark.slow
def test_every_instrument_measures_under_a_strategy_too(tmp_path):
    """Two logical CPUs: what a batch is split into is said, and a gradient needs no splitting."""
    done = run_warm(
        *("-m", "tfbatch.probe", "--model=tiny_model:build"),
        *("--batch_sizes=16,32", "--baseline=batch_size=32", "--max_minutes=0.2"),
        *("--strategy=mirrored", "--logical_cpus=2", f"--run_dir={tmp_path}"),
        environment={"PYTHONPATH": str(Path(tiny_model.__file__).parent)},
    )
    found = json.loads((tmp_path / "probe.json").read_text())["instruments"]
    assert {name: part["failure"] for name, part in found.items()} == dict.fromkeys(
        INSTRUMENTS.names()
    )
    memory = found["largest_batch"]
    assert "fits is 32 (16 on each of 2 replicas)" in memory["conclusion"]
    assert memory["reading"]["report"]["replicas"] == 2
    assert "32 (16 on each of 2 replicas)" in " ".join(done.stdout.split())
    assert len(found["noise_scale"]["reading"]["by_layer"]) == 2
    assert found["curvature"]["reading"]["dimension"] == 64 * 16 + 16 + 16 * 10 + 10


def test_what_is_written_on_the_page_is_escaped():
    chart = Chart("T", "x", "y", (Series("s", (1.0, 2.0), (float("nan"), 2.0)),), (Mark(1.0, "m"),))
    section = PageSection("<b>", "a < b", ("<i>",), (("<u>",),), (chart,))
    text = page("<s>", ("<em>",), (section,)).split("<body>")[1]

    for tag in ("<b>", "<i>", "<u>", "<s>", "<em>"):
        assert tag not in text


def test_series_of_different_lengths_are_refused():
    with pytest.raises(InputError, match="same length"):
        Series("s", (1.0,), (1.0, 2.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--skip=curvatur"], "Did you mean `curvature`"),
        ([f"--skip={','.join(INSTRUMENTS.names())}"], "must leave an instrument"),
        (["--model=resnt"], "Did you mean `resnet`"),
        (["--dataset=cifar1"], "Did you mean `cifar10`"),
        (["--batch_sizes=small"], "whole numbers"),
        (["--batch_sizes=0,8"], "every batch size must be >= 1"),
        (["--max_minutes=0"], "`max_minutes` must be > 0"),
        (["--precision=half"], "`precision` must be one of"),
        (["--baseline=32"], "batch_size=128,learning_rate=0.05"),
        (["--dataset=digits", "--data=a:b"], "give one of them"),
        (["--run-dir=/proc/none"], "cannot be written"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_flag_that_cannot_be_used_is_refused(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as refused:
        tfbatch.probe.main(arguments)

    assert message in str(refused.value)
    assert list(tmp_path.iterdir()) == [], "no work was begun"


@dataclasses.dataclass(frozen=True)
class LongReading:
    """A reading of many rows."""

    def columns(self):
        return ("row",)

    def rows(self):
        return [(f"row {number}",) for number in range(15)]


class ChoosingReading(LongReading):
    """One that knows which of them to show."""

    def short_rows(self, most):
        return [("row 14",)], f"all but one of {most + 3}"


def test_the_terminal_shows_a_few_rows_and_says_what_is_left_out():
    def shown(reading):
        console = Console(width=80, record=True, file=io.StringIO())
        tfbatch.probe._show_table(console, reading)
        return console.export_text()

    assert "row 11" in shown(LongReading())
    assert "row 12" not in shown(LongReading())
    assert shown(LongReading()).endswith("\nIn probe.html alone: 3 rows more.\n")
    chosen = shown(ChoosingReading())
    assert "row 14" in chosen
    assert "row 0" not in chosen
    assert chosen.endswith("\nIn probe.html alone: all but one of 15.\n")


def test_nothing_measured_at_all_is_an_error(tmp_path, monkeypatch):
    empty = ProbeReport("CPU", (8,), 8, (), None, "")
    monkeypatch.setattr(tfbatch.probe, "_probe", lambda *_: empty)
    with pytest.raises(SearchError, match="No instrument"):
        tfbatch.probe.main([f"--run-dir={tmp_path}"])
