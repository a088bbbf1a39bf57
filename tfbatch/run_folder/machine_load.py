"""The share of the cores that other processes use: it lengthens measured times."""

from __future__ import annotations

import contextlib
import dataclasses
import time

import psutil

from tfbatch.process.limits import affinity

BUSY_SHARE = 0.2
"""Other processes that take more than this share of the cores are worth a sentence."""
FEWEST_SECONDS = 1.0
"""A shorter look says nothing: the kernel counts in hundredths of a second."""


@dataclasses.dataclass(frozen=True)
class LoadSample:
    """Counters of the kernel at one moment.

    Attributes:
        time: A monotonic clock, in seconds.
        busy: Seconds that the cores which this process may use were busy, by whomever.
        own: Seconds of them used by this process and its descendants.
    """

    time: float
    busy: float
    own: float


@dataclasses.dataclass(frozen=True)
class MachineLoad:
    """The cores that other processes used, over some seconds.

    Attributes:
        cores: Cores that this process may use: its affinity, and its control group's quota.
        others: Cores that other processes (and, on a virtual machine, other machines) took of
            them, on average.
        seconds: Length of the observation.
    """

    cores: float
    others: float
    seconds: float

    @property
    def busy(self) -> bool:
        """Whether measured seconds are notably longer than on an idle machine."""
        return self.seconds >= FEWEST_SECONDS and self.others > BUSY_SHARE * self.cores

    @property
    def available(self) -> float:
        """Cores that remain."""
        return max(self.cores - self.others, 0.0)


def sample_load() -> LoadSample:
    """The counters now."""
    return LoadSample(time.monotonic(), _busy_seconds(), _own_seconds())


def load_between(first: LoadSample, last: LoadSample, *, cores: float) -> MachineLoad:
    """The load from one moment to another.

        others = (busy - own) / seconds, between 0 and the cores

    Args:
        first: The earlier sample.
        last: The later one.
        cores: See `usable_cores`.
    """
    seconds = last.time - first.time
    if seconds <= 0:
        return MachineLoad(cores, 0.0, 0.0)
    others = ((last.busy - first.busy) - (last.own - first.own)) / seconds
    return MachineLoad(cores, min(max(others, 0.0), cores), seconds)


def _busy_seconds() -> float:
    every = psutil.cpu_times(percpu=True)
    mine = [every[n] for n in affinity() if n < len(every)]
    # `guest` is part of `user`; `steal` is what other virtual machines take.
    names = ("user", "nice", "system", "irq", "softirq", "steal")
    return sum(getattr(core, name, 0.0) for core in mine for name in names)


def _own_seconds() -> float:
    process = psutil.Process()
    times = process.cpu_times()
    ended = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    total = times.user + times.system + ended
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has just ended
            times = child.cpu_times()
            total += times.user + times.system
    return float(total)
