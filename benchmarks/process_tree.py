"""Memory of a process and all its descendants together."""

from __future__ import annotations

import contextlib
import dataclasses
import threading

import psutil


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of all processes of a tree.

    Attributes:
        rss: Resident sets added up: a page that two processes share counts twice.
        pss: Each shared page divided among its processes; 0 where the system does not tell.
        processes: Their number.
    """

    rss: int
    pss: int
    processes: int


def measure(pid: int, *, pss: bool = True) -> Memory:
    """Reads the memory of a tree now; a process that ends meanwhile counts as nothing.

    Args:
        pid: The root.
        pss: Whether to read the proportional sets, which takes milliseconds for each process.
    """
    resident = proportional = count = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                resident += process.memory_info().rss
                if pss:
                    proportional += getattr(process.memory_full_info(), "pss", 0)
                count += 1
    return Memory(resident, proportional, count)


class PeakMemory(threading.Thread):
    """Samples the memory of a tree until it is told to stop.

    Attributes:
        peak_rss: Largest resident set seen.
        final_rss: The last one that was not zero.
        peak_pss: Largest proportional set seen.
    """

    _SECONDS = 0.5
    _SAMPLES_A_PSS = 6

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.peak_rss = self.final_rss = self.peak_pss = 0
        self._pid = pid
        self._ended = threading.Event()

    def run(self) -> None:
        """See threading.Thread."""
        number = 0
        while not self._ended.wait(self._SECONDS):
            memory = measure(self._pid, pss=number % self._SAMPLES_A_PSS == 0)
            self.peak_rss = max(self.peak_rss, memory.rss)
            self.peak_pss = max(self.peak_pss, memory.pss)
            self.final_rss = memory.rss or self.final_rss
            number += 1

    def end(self) -> None:
        """Ends the sampling."""
        self._ended.set()
        self.join()
