"""Every instrument by its contract, all of them together, and the probe command."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

import tfbatch
import tfbatch.probe
from tfbatch.bench import open_bench
from tfbatch.errors import InputError
from tfbatch.instruments import INSTRUMENTS
from tfbatch.measuring.probing import run_instruments
from tfbatch.search.request import Execution

IN_THIS_PROCESS = [name for name in INSTRUMENTS.names() if name != "largest_batch"]
"""The largest batch is found in processes of its own: tests/test_instrument_memory.py."""


@pytest.fixture(scope="module")
def bench(records_dir):
    with open_bench("mlp", "digits", execution=Execution(workers=0)) as opened:
        yield opened


@pytest.fixture(scope="module")
def probed(bench):
    return run_instruments(
        bench,
        names=IN_THIS_PROCESS,
        batch_sizes=[16, 32],
        say=lambda _: None,
        seconds=5.0,
        stop_requested=lambda: False,
    )


@pytest.mark.parametrize("name", INSTRUMENTS.names())
def test_every_instrument_declares_what_the_command_needs(name):
    module = INSTRUMENTS.load(name)

    assert module.HEADING
    assert module.ORDER > 0
    assert module.SHARE >= 0


@pytest.mark.parametrize("name", IN_THIS_PROCESS)
def test_every_instrument_gives_a_reading(probed, name):
    reading = probed.reading(name)

    assert dataclasses.is_dataclass(reading)
    assert {len(row) for row in reading.rows()} == {len(reading.columns())}
    assert reading.conclusion().endswith(".")
    for chart in reading.charts():
        assert chart.series


def test_what_follows_is_two_sentences_and_plain_json(probed):
    assert "knee is batch size" in probed.hardware()
    assert "noise scale is" in probed.gradient("COMMAND")
    if probed.prediction:
        assert "predicted time-optimal" in probed.gradient("COMMAND")
        assert "COMMAND" in probed.gradient("COMMAND")
    text = json.dumps(probed.as_json(), allow_nan=False)
    assert all(name in text for name in IN_THIS_PROCESS)


def test_an_instrument_that_fails_does_not_end_the_others(bench, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("of the model's own code")

    monkeypatch.setattr(INSTRUMENTS.load("throughput"), "probe", fail)
    found = run_instruments(
        bench,
        names=["throughput", "curvature"],
        batch_sizes=[16, 32],
        say=lambda _: None,
        seconds=1.0,
        stop_requested=lambda: False,
    )

    assert found.reading("throughput") is None
    assert found.reading("curvature") is not None
    (failed,) = (section for section in found.sections if section.name == "throughput")
    assert "of the model's own code" in failed.failure
    assert "ZeroDivisionError" in failed.trace
    assert found.prediction is None
    assert found.unpredicted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--skip=curvatur"], "Did you mean `curvature`"),
        (["--output_dir=/proc/none"], "cannot be written"),
        (["--model=rsnet"], "Did you mean `resnet`"),
        ([f"--skip={','.join(INSTRUMENTS.names())}"], "must leave an instrument"),
    ],
    ids=["instrument", "folder", "model", "nothing"],
)
def test_bad_flags_are_refused(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        tfbatch.probe.main([f"--output_dir={tmp_path}", *arguments])


@pytest.mark.slow
def test_the_command_writes_whole_json_and_a_page_that_opens_offline(tmp_path, capfd):
    skipped = ",".join(n for n in INSTRUMENTS.names() if n not in ("throughput", "noise_scale"))
    arguments = ["--model=mlp", "--batch_sizes=16,32", "--max_minutes=0.1"]

    code = tfbatch.probe.main([*arguments, f"--output_dir={tmp_path}", f"--skip={skipped}"])

    assert code == 0
    page = (tmp_path / "probe.html").read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=", page)
    content = json.loads((tmp_path / "probe.json").read_text(encoding="utf-8"))
    assert len(content["conclusion"]) == 2
    assert "tfbatch.tune" in content["verify_with"]
    assert "knee is batch size" in capfd.readouterr().out
