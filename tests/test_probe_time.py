"""The probe's time: what an instrument leaves of its share goes to its successors."""

from __future__ import annotations

import types
from typing import Any

import pytest

from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.instruments import INSTRUMENTS, run_all
from tfbatch.instruments.largest_batch import LargestBatchReading
from tfbatch.instruments.run_all import run_instruments
from tfbatch.training.devices import Devices


class Instruments:
    """Fakes that take given seconds of a clock that nothing else moves.

    Args:
        taken: Seconds that each takes, by name, in their order.
        shares: Their parts of the time.
        broken: Those that fail when their time is over.
    """

    def __init__(self, taken, shares, broken=""):
        self.now = 1000.0
        self.allowed: dict[str, float] = {}
        self._taken, self._shares, self._broken = taken, shares, broken

    def load(self, name):
        def probe(bench, *, batch_sizes, seconds):
            self.allowed[name] = seconds
            self.now += self._taken[name]
            if name == self._broken:
                raise InputError("no figure")
            return object()

        module = types.ModuleType(f"tfbatch.instruments.{name}")
        order = list(self._taken).index(name)
        module.__dict__.update(
            {"HEADING": name, "ORDER": order, "SHARE": self._shares[name], "probe": probe}
        )
        return module


class Bench:
    """What run_instruments asks of one."""

    devices = Devices("CPU", (), 1, 1)
    tell = staticmethod(lambda text: None)
    gpu = ""
    baseline = Configuration(batch_size=8, base_learning_rate=0.1)

    def __init__(self, first_steps=0.0):
        self.first_steps, self.asked = first_steps, 0

    def configuration(self, batch_size):
        return self.baseline.model_copy(update={"batch_size": batch_size})

    def measure(self, function, *arguments):
        self.asked += 1
        return self.first_steps


def run(instruments, monkeypatch, seconds=60.0, bench=None):
    monkeypatch.setattr(run_all, "INSTRUMENTS", instruments)
    clock = types.SimpleNamespace(monotonic=lambda: instruments.now)
    monkeypatch.setattr(run_all, "time", clock)
    names = sorted(instruments._taken, reverse=True)  # they are put in their order
    return run_instruments(
        bench or Bench(), names=names, batch_sizes=(8,), say=lambda text: None, seconds=seconds
    )


SHARES = {"free": 0.0, "one": 3.0, "two": 2.0, "three": 1.0}


@pytest.mark.parametrize("broken", ["", "one"], ids=["all measure", "the first fails"])
@pytest.mark.parametrize(
    ("taken", "allowed"),
    [
        ((100.0, 30.0, 20.0, 10.0), (30.0, 20.0, 10.0)),
        ((100.0, 6.0, 36.0, 10.0), (30.0, 36.0, 18.0)),
        ((100.0, 0.0, 0.0, 0.0), (30.0, 40.0, 60.0)),
        ((0.0, 45.0, 5.0, 10.0), (30.0, 10.0, 10.0)),
        ((100.0, 70.0, 1.0, 1.0), (30.0, 0.0, 0.0)),
    ],
    ids=["as shared", "one is quick", "all are quick", "one is slow", "one takes it all"],
)
def test_what_is_left_is_shared_by_those_that_follow(taken, allowed, broken, monkeypatch):
    """60 s in parts of 3, 2 and 1; the one without a share takes what it takes, of no one's."""
    fakes = Instruments(dict(zip(SHARES, taken, strict=True)), SHARES, broken)
    found = run(fakes, monkeypatch)

    assert list(fakes.allowed) == list(SHARES)
    assert fakes.allowed == pytest.approx(
        {"free": float("inf"), **dict(zip(("one", "two", "three"), allowed, strict=True))}
    )
    assert [section.seconds for section in found.sections] == pytest.approx(taken)


@pytest.mark.parametrize(("first", "total"), [(1.0, 35.0), (5.0, 70.0), (100.0, 180.0)])
def test_the_whole_time_follows_from_the_first_steps_and_has_bounds(first, total, monkeypatch):
    fakes = Instruments({"free": 9.0, "one": 5.0, "two": 0.0}, SHARES)
    bench = Bench(first)
    run(fakes, monkeypatch, None, bench)

    assert fakes.allowed["one"] == pytest.approx(total * 3 / 5)
    assert fakes.allowed["two"] == pytest.approx(total - 5)
    assert bench.asked == 1


def test_what_does_not_fit_into_memory_is_no_size_of_those_that_follow(monkeypatch):
    """The memory finder comes first: 8 and 16 fit, 32 does not."""
    given: dict[str, tuple[int, ...]] = {}

    class Finding(Instruments):
        def load(self, name):
            module = super().load(name)

            def probe(bench, *, batch_sizes, seconds):
                given[name] = tuple(batch_sizes)
                return LargestBatchReading(20, "memory", None, report=None)

            module.probe = probe
            return module

    fakes = Finding({"free": 9.0, "one": 1.0}, SHARES)
    monkeypatch.setattr(run_all, "INSTRUMENTS", fakes)
    run_instruments(
        Bench(), names=["free", "one"], batch_sizes=(8, 16, 32), say=lambda text: None, seconds=9.0
    )

    assert given == {"free": (8, 16, 32), "one": (8, 16)}


def test_instruments_without_a_share_need_no_first_steps(monkeypatch):
    bench = Bench()
    run(Instruments({"free": 9.0}, SHARES), monkeypatch, None, bench)

    assert bench.asked == 0


@pytest.mark.parametrize("name", ["noise_scale", "learning_rate_range", "curvature"])
def test_a_gradient_is_looked_at_near_a_batch_of_128_in_the_time_given(name):
    """Nearest by ratio: 300 is 2.3 times as large, 40 is a 3.2th."""
    measured: list[Any] = []

    class Noting(Bench):
        def measure(self, function, *arguments):
            measured.extend(arguments)
            return

    INSTRUMENTS.load(name).probe(Noting(), batch_sizes=(8, 40, 300, 1024), seconds=7.0)

    assert measured[0].batch_size == 300
    assert measured[-1].seconds == 7.0
