"""`python -m tfbatch.probe`: every instrument by its contract, failures told, nothing lost."""

from __future__ import annotations

import dataclasses
import json
import math
import re

import numpy as np
import pytest

import tfbatch
import tfbatch.probe
from tfbatch.bench import open_bench
from tfbatch.errors import InputError
from tfbatch.instruments import INSTRUMENTS
from tfbatch.probe import FLAGS, Found, conclusion, prediction
from tfbatch.search.request import Execution

SMALL = ["--workers=0", "--minutes=0.05", "--batch_sizes=16,32", "--model=mlp"]


@pytest.fixture(scope="module")
def bench(records_dir):
    with open_bench("mlp", "digits", execution=Execution(workers=0)) as opened:
        yield opened


@pytest.fixture(scope="module")
def readings(bench):
    found = {}
    for name in INSTRUMENTS.names():
        found[name] = INSTRUMENTS.load(name).probe(bench, batch_sizes=[16, 32], seconds=1.0)
    return found


@pytest.mark.parametrize("name", INSTRUMENTS.names())
def test_every_instrument_gives_a_reading(readings, name):
    module, reading = INSTRUMENTS.load(name), readings[name]

    assert module.HEADING
    assert module.ORDER > 0
    assert module.SHARE > 0
    assert dataclasses.is_dataclass(reading)
    assert {len(row) for row in reading.rows()} == {len(reading.columns())}
    assert reading.conclusion().endswith(".")
    for chart in reading.charts():
        assert chart.series


def test_instruments_come_in_an_order():
    orders = [INSTRUMENTS.load(name).ORDER for name in INSTRUMENTS.names()]
    assert len(set(orders)) == len(orders) >= 5


def test_the_command_writes_a_page_that_opens_offline_and_whole_json(tmp_path, capfd):
    assert tfbatch.probe.main([*SMALL, f"--output_dir={tmp_path}", "--skip=curvature"]) == 0

    page = (tmp_path / "probe.html").read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=", page)
    content = json.loads((tmp_path / "probe.json").read_text(encoding="utf-8"))
    assert set(content["instruments"]) == set(INSTRUMENTS.names()) - {"curvature"}
    assert "processes of its own" in content["failures"]["memory"]
    assert len(content["conclusion"]) == 2
    printed = capfd.readouterr().out
    assert "Hardware: from batch size" in printed
    assert "Gradient: " in printed


def test_an_instrument_that_fails_does_not_end_the_others(tmp_path, monkeypatch, capfd):
    def fail(*_, **__):
        raise ZeroDivisionError("of the model's own code")

    monkeypatch.setattr(INSTRUMENTS.load("throughput"), "probe", fail)
    others = [n for n in INSTRUMENTS.names() if n not in ("throughput", "input_bound")]
    skipped = ",".join(["input_bound", *others[1:]])
    arguments = [*SMALL, f"--output_dir={tmp_path}", f"--skip={skipped}"]

    assert tfbatch.probe.main(arguments) == 0

    content = json.loads((tmp_path / "probe.json").read_text(encoding="utf-8"))
    assert content["failures"]["throughput"] == "ZeroDivisionError: of the model's own code"
    assert list(content["instruments"]) == others[:1]
    assert "ZeroDivisionError" in capfd.readouterr().out
    assert "Nothing is predicted" in content["conclusion"][1]


def test_the_prediction_is_called_one_and_names_what_verifies_it(bench, readings):
    FLAGS(["probe"])
    found = Found(readings=readings)
    predicted = prediction(found, bench)

    assert isinstance(predicted, str) or predicted.batch_size >= 1
    hardware, gradient = conclusion(found, bench)
    assert hardware.startswith("Hardware: ")
    if not isinstance(predicted, str):
        assert "Not verified; verify with: python -m tfbatch.tune" in gradient
        assert "redicted" in gradient


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--skip=curvatur"], "unknown instrument `curvatur`"),
        (["--output_dir=/proc/none"], "cannot be written"),
        (["--model=rsnet"], "Did you mean `resnet`"),
        (["--batch_sizes=0", "--workers=0"], "must be from 1 to the 1085 training examples"),
    ],
)
def test_bad_flags_are_refused(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        tfbatch.probe.main([f"--output_dir={tmp_path}", *arguments])


def test_numbers_that_json_has_not_become_null():
    plain = tfbatch.probe._plain({"a": math.inf, 3: np.float32(0.5), "c": (math.nan, np.arange(2))})
    assert plain == {"a": None, "3": 0.5, "c": [None, [0, 1]]}
