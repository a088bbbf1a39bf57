"""Memory of a long run: all processes of a search after 10 and after 200 tiny trials.

usage: python benchmarks/memory.py [--counts=10,200] [--arguments="--workers=2"]

Runs `python -m tfbatch.tune` on the embedded digits, with trials of a fraction of an epoch drawn at
random over several batch sizes, schedules and learning rates. Whenever the run's journal reaches
one of the counts, the resident sets of the command and all its children are added up. (The
baseline is the journal's first trial, and counts.)

Result: after 200 trials all processes hold 1.016 times the resident memory that they held after 10
(n = 1; two CPU cores of an AMD EPYC).
Evidence: benchmarks/results/memory.md
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from process_tree import Memory, measure

from tfbatch.run_folder.fingerprint import hardware, software

SEARCH = """\
description: many tiny trials
oracle: {name: random}
space:
  batch_size: [16, 32, 64, 128, 256]
  base_learning_rate: {min: 1e-3, max: 0.05, sampling: log}
  learning_rate_octaves: 0.0
  warmup_fraction: [0.0, 0.1]
  schedules: [{name: constant}, {name: linear}, {name: cosine}, {name: wsd, cooldown: [0.1, 0.3]}]
  optimizer: {name: sgd, momentum: 0.9}
confirmation: {seeds: 0}
"""
POLL_SECONDS = 0.01


def command(folder: Path, *, trials: int, length: str, arguments: str) -> list[str]:
    """The run's command line; its run folder is `folder / "run"`."""
    (folder / "many.yaml").write_text(SEARCH, encoding="utf-8")
    return [
        *(sys.executable, "-m", "tfbatch.tune", "--dataset=digits"),
        *(f"--search={folder / 'many.yaml'}", f"--max_trials={trials}"),
        *(f"--trial_length={length}", f"--run_dir={folder / 'run'}"),
        f"--records_dir={folder / 'records'}",
        *shlex.split(arguments),
    ]


def lines_in(journal: Path) -> int:
    """Trials in a journal."""
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


class RunEndedError(Exception):
    """The run ended before it was measured."""


def watch(process: subprocess.Popen[bytes], journal: Path, counts: list[int]) -> dict[int, Memory]:
    """Memory of the process and its children when the journal reaches each count.

    Raises:
        RunEndedError: The run ended before.
    """
    measured = {}
    for count in sorted(counts):
        while lines_in(journal) < count:
            if process.poll() is not None:
                raise RunEndedError(f"It ended ({process.returncode}) before trial {count}.")
            time.sleep(POLL_SECONDS)
        measured[count] = measure(process.pid)
        memory = measured[count]
        print(
            f"after {count} trials: RSS {memory.rss / 2**20:,.0f} MiB, PSS "
            f"{memory.pss / 2**20:,.0f} MiB, {memory.processes} processes",
            flush=True,
        )
    return measured


def ratios(measured: dict[int, Memory]) -> dict[str, float]:
    """Memory at the largest count over that at the smallest one."""
    first, last = measured[min(measured)], measured[max(measured)]
    pss = last.pss / first.pss if first.pss else float("nan")
    return {"rss": last.rss / first.rss, "pss": pss}


def run(counts: list[int], *, length: str, arguments: str) -> dict[int, Memory]:
    """One search of as many trials as the largest count asks for."""
    with tempfile.TemporaryDirectory(prefix="memory-") as scratch:
        folder = Path(scratch)
        log = folder / "log.txt"
        # A few more trials than are measured: the last ones are followed by the run's end.
        asked = command(folder, trials=max(counts) + 5, length=length, arguments=arguments)
        with log.open("wb") as output:
            process = subprocess.Popen(asked, stdout=output, stderr=output)
            try:
                return watch(process, folder / "run" / "trials.jsonl", counts)
            except RunEndedError as error:
                sys.exit(f"{error}\n{log.read_text(encoding='utf-8')[-3000:]}")
            finally:
                process.terminate()
                process.wait()


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", default="10,200", help="numbers of trials")
    parser.add_argument("--trial_length", default="512 examples")
    parser.add_argument("--arguments", default="", help="more flags of tfbatch.tune")
    parser.add_argument("--output", type=Path, default=Path("memory.json"))
    arguments = parser.parse_args()
    versions: dict[str, Any] = {**software(), **hardware([])}
    print(json.dumps(versions))
    began = time.monotonic()
    measured = run(
        [int(count) for count in arguments.counts.split(",")],
        length=arguments.trial_length,
        arguments=arguments.arguments,
    )
    growth = ratios(measured)
    print(
        f"last over first: RSS {growth['rss']:.3f}, PSS {growth['pss']:.3f} "
        f"({time.monotonic() - began:.0f} s)"
    )
    content = {
        "versions": versions,
        "arguments": arguments.arguments,
        "trial_length": arguments.trial_length,
        "memory": {count: dataclasses.asdict(memory) for count, memory in measured.items()},
        "ratios": growth,
    }
    arguments.output.write_text(json.dumps(content, indent=1), encoding="utf-8")
    print(f"Written: {arguments.output}")


if __name__ == "__main__":
    main()
