"""Seconds before the first training step of `python -m tfbatch.tune`, and after the last trial.

usage: python benchmarks/startup.py [--rounds=5] [--arguments="--workers=2"]

A trial is one update long (32 examples), so that the first trial's line says that the first
training step has finished; it also holds that trial's evaluation, so the figure is an upper limit.
Records are prepared beforehand, as they are in all runs but the first.

Result: first output after 0.34 s, first trial after 7.8 s, from the last trial to the printed
result 12.8 s (medians, n = 3; two CPU cores of an AMD EPYC).
Evidence: benchmarks/results/startup.md
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from memory import lines_in

from tfbatch.run_folder.fingerprint import hardware, software

TRIAL = re.compile(r"^\S+( \d+/\d+)?: batch size ")
RESULT = "The recommendation in plain Keras"
POLL_SECONDS = 0.005


@dataclasses.dataclass(frozen=True)
class Times:
    """One run, in seconds.

    Attributes:
        first_output: Start to the first line.
        first_journaled: Start to the first trial in the journal.
        first_trial: Start to the first trial's line.
        result: The last trial in the journal to the first line of the result.
        end: The last trial in the journal to the end of the process.
        total: Start to end.
    """

    first_output: float
    first_journaled: float
    first_trial: float
    result: float
    end: float
    total: float


class JournalClock(threading.Thread):
    """Notes when the journal grew for the first and for the last time."""

    def __init__(self, journal: Path):
        super().__init__(daemon=True)
        self.first = self.last = float("nan")
        self._journal = journal
        self._ended = threading.Event()

    def run(self) -> None:
        """See threading.Thread."""
        seen = 0
        while not self._ended.wait(POLL_SECONDS):
            count = lines_in(self._journal)
            if count > seen:
                self.last = time.monotonic()
                self.first = self.last if seen == 0 else self.first
                seen = count

    def end(self) -> None:
        """Ends the watch."""
        self._ended.set()
        self.join()


def stamped(command: list[str]) -> tuple[list[tuple[float, str]], float, float]:
    """Runs a command; returns its lines with the time of each, its start and its end.

    Raises:
        SystemExit: It failed.
    """
    began = time.monotonic()
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout
        lines = [(time.monotonic(), line.rstrip()) for line in process.stdout]
    if process.returncode:
        sys.exit("\n".join(line for _, line in lines))
    return lines, began, time.monotonic()


def measure(folder: Path, *, records: Path, trials: int, arguments: str) -> Times:
    """One run in an empty folder.

    Raises:
        SystemExit: It printed no trial or no result.
    """
    run_dir = folder / "run"
    clock = JournalClock(run_dir / "trials.jsonl")
    clock.start()
    command = [
        *(sys.executable, "-m", "tfbatch.tune", "--dataset=digits", "--search=quick"),
        *("--batch_sizes=16,32", "--baseline=batch_size=32", "--trial_length=32 examples"),
        *(f"--max_trials={trials}", f"--run_dir={run_dir}", f"--records_dir={records}"),
        *shlex.split(arguments),
    ]
    lines, began, ended = stamped(command)
    clock.end()
    trial = next((stamp for stamp, line in lines if TRIAL.match(line)), None)
    result = next((stamp for stamp, line in lines if line.startswith(RESULT)), None)
    if trial is None or result is None:
        sys.exit("No trial or no result among the lines:\n" + "\n".join(t for _, t in lines))
    return Times(
        first_output=lines[0][0] - began,
        first_journaled=clock.first - began,
        first_trial=trial - began,
        result=result - clock.last,
        end=ended - clock.last,
        total=ended - began,
    )


def repeat(rounds: int, *, trials: int, arguments: str) -> list[dict[str, float]]:
    """Some runs; one more before them prepares the records and fills the disk's cache."""
    runs = []
    with tempfile.TemporaryDirectory(prefix="startup-") as scratch:
        for number in range(rounds + 1):
            folder = Path(scratch) / str(number)
            folder.mkdir()
            records = Path(scratch) / "records"
            runs.append(measure(folder, records=records, trials=trials, arguments=arguments))
    return [dataclasses.asdict(times) for times in runs[1:]]


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--arguments", default="", help="more flags of tfbatch.tune")
    parser.add_argument("--output", type=Path, default=Path("startup.json"))
    arguments = parser.parse_args()
    versions: dict[str, Any] = {**software(), **hardware([])}
    print(json.dumps(versions))
    runs = repeat(arguments.rounds, trials=arguments.trials, arguments=arguments.arguments)
    for name in runs[0]:
        values = [run[name] for run in runs]
        print(
            f"{name}: {statistics.median(values):.2f} s "
            f"({min(values):.2f}-{max(values):.2f}, n={len(values)})"
        )
    content = {"versions": versions, "arguments": arguments.arguments, "runs": runs}
    arguments.output.write_text(json.dumps(content, indent=1), encoding="utf-8")
    print(f"Written: {arguments.output}")


if __name__ == "__main__":
    main()
