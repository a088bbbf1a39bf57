"""Where a trial's second goes: the clock of named parts, and the table of what it has measured.

A part's time is its own: that of a part which it calls is taken off. Processor seconds (user and
system, of all threads of the process) are counted beside those of the clock: on a busy machine they
are the ones to compare, and waiting is in the clock's alone.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import gc
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = "TRIAL_PARTS_FOLDER"
"""Environment variable: where each process writes its times, one line a trial."""

STEPS = "training: the compiled steps"
EVALUATION = "validation: the compiled steps"
FIT = "`fit`: Keras's loop, metrics, the end of the streams"
CALLBACKS = "`fit`: callbacks"
REST = "all else in the worker"
WAIT = "between two trials"
ONCE = ("traced: the first execution", "program: compiled, built")
"""Parts of a worker's first trial alone."""


class Clock:
    """Self times of nested parts, summed for each trial: [clock's seconds, processor's seconds].

    Args:
        path: Where the times of each trial become a line.
    """

    def __init__(self, path: Path):
        self._path = path
        self._inner: list[list[float]] = []
        self._times: dict[str, list[float]] = collections.defaultdict(lambda: [0.0, 0.0])

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts what is done inside, without the parts inside of it."""
        began = time.perf_counter(), time.process_time()
        self._inner.append([0.0, 0.0])
        try:
            yield
        finally:
            took = time.perf_counter() - began[0], time.process_time() - began[1]
            inner = self._inner.pop()
            self.add(name, took[0] - inner[0], took[1] - inner[1])
            if self._inner:
                self._inner[-1] = [a + b for a, b in zip(self._inner[-1], took, strict=True)]

    def add(self, name: str, wall: float, processor: float) -> None:
        """Counts a time that was measured elsewhere."""
        self._times[name][0] += wall
        self._times[name][1] += processor

    def write(self, trial: str) -> None:
        """Writes what was counted since the last line."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"trial": trial, "parts": self._times}) + "\n")
        self._times.clear()

    def time(self, owner: Any, names: str, part: str) -> None:
        """Replaces functions or methods, given by name, by timed ones."""
        for name in names.split():
            found = getattr(owner, name)

            @functools.wraps(found)
            def timed(*arguments: Any, _found: Any = found, **options: Any) -> Any:
                with self.part(part):
                    return _found(*arguments, **options)

            setattr(owner, name, timed)

    def time_collections(self, part: str) -> None:
        """Counts Python's garbage collections."""
        running: list[contextlib.AbstractContextManager[None]] = []

        def note(phase: str, _: dict[str, int]) -> None:
            if phase == "start":
                running.append(self.part(part))
                running[-1].__enter__()
            elif running:
                running.pop().__exit__(None, None, None)

        gc.callbacks.append(note)


def table(folder: Path) -> list[str]:
    """The report: a trial's parts, the bare loop's beside them, and what is done once."""
    rows = [(p.stem, json.loads(x)) for p in sorted(folder.iterdir()) for x in p.open()]
    bare = _later([(name, row) for name, row in rows if name.startswith("bare")], first=1)
    trials = [(name, row) for name, row in rows if name.startswith("worker")]
    ours = _later([pair for pair in trials if not pair[1]["trial"].startswith("once")], first=1)
    text = [
        f"a trial, in ms: {len(ours)} trials of tfbatch, {len(bare)} of bare loops side by side; "
        "the first of each process is left out",
        "| part | processor, mean | processor, median | clock, median | bare, processor, mean |",
        "| --- | --- | --- | --- | --- |",
    ]
    names = sorted({n for parts in ours for n in parts}, key=lambda n: -_of(ours, n, 1)[0])
    for name in names:
        mean, median = _of(ours, name, 1)
        shown = f"{_of(bare, name, 1)[0]:.0f}" if any(name in parts for parts in bare) else ""
        text.append(
            f"| {name} | {mean:.1f} | {median:.1f} | {_of(ours, name, 0)[1]:.1f} | {shown} |"
        )
    whole, loop = (sum(_of(found, name, 1)[0] for name in names) for found in (ours, bare))
    text.append(f"| all | {whole:.0f} | | | {loop:.0f} |")
    steps = [sum(_of(found, n, 1)[0] for n in (STEPS, EVALUATION)) for found in (ours, bare)]
    text += [
        f"processor time of a trial over the bare loop's: {whole / loop:.2f}; of its compiled "
        f"steps alone: {steps[0] / steps[1]:.2f}; all that is no step: {whole - steps[0]:.0f} ms",
        "once, in processor seconds:",
    ]
    for name, row in trials:
        once = row["trial"].removeprefix("once: ")
        spent = sum(p[1] for n, p in row["parts"].items() if once != row["trial"] or n in ONCE)
        if spent >= 0.05:
            what = "" if once != row["trial"] else ": its program, traced"
            text.append(f"  {name}, {once}{what}: {spent:.2f}")
    parent = [row["parts"] for _, row in rows if row["trial"] == "search"][:1]
    text.append("the process that directs the search, in ms a trial (clock, processor):")
    for name, part in sorted(parent[0].items(), key=lambda item: -item[1][1]) if parent else ():
        clock, processor = (1000 * seconds / (len(ours) or 1) for seconds in part)
        text.append(f"  {name}: {clock:.1f}, {processor:.1f}")
    return text


def _later(rows: list[tuple[str, Any]], *, first: int) -> list[dict[str, list[float]]]:
    """The parts of all but the first trials of each process."""
    by_process = collections.defaultdict(list)
    for name, row in rows:
        by_process[name].append(row["parts"])
    return [parts for found in by_process.values() for parts in found[first:]]


def _of(trials: list[dict[str, list[float]]], name: str, which: int) -> tuple[float, float]:
    """Mean and median of a part, in ms; which: 0 the clock's, 1 the processor's."""
    found = [1000 * parts.get(name, (0.0, 0.0))[which] for parts in trials] or [0.0]
    return statistics.mean(found), statistics.median(found)
