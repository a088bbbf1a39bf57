"""Stops the smallest `tune` by real signals: is what was measured printed and on disk, how soon?

usage: python benchmarks/stops.py [--stops=20] [--seed=1] [--signal=TERM]

One run without a signal tells how long a run takes; each stop then begins anew in a folder of its
own and gets its signal at a random moment of that time. A row says what the run was doing, how
many trials were in the journal, how many seconds after the signal it had ended, and what is wrong:
an answer that is not printed or not on disk though a trial had completed, a missing word where
none had, a traceback, another exit code.

Result: 20 of 20 runs were right and ended within 3.5 s of the signal, the nine with trials with the
answer printed and on disk (two CPU cores); beside twenty other processes within 6.4 s.
Evidence: benchmarks/results/stops.md
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_NOTHING = ("no answer yet", "nothing was measured", "before there was an answer")
TINY_MODEL = Path(__file__).parents[1] / "tests" / "tiny_model.py"


@dataclasses.dataclass(frozen=True)
class Stop:
    """One run that was stopped.

    Attributes:
        after: Seconds from its start to the signal; None where it ended before.
        last_line: What it had printed last before the signal.
        trials: Trials in the journal at the end.
        completed: Those with a score.
        seconds: From the signal to the end of the process.
        wrong: What is wrong, a clause each.
    """

    after: float | None
    last_line: str
    trials: int
    completed: int
    seconds: float
    wrong: tuple[str, ...]


def command(run_dir: Path, *more: str) -> list[str]:
    """The smallest search: the digits, a model of two dense layers."""
    return [
        *(sys.executable, "-u", "-m", "tfbatch.tune", "--model=tiny_model:build"),
        *("--trial_length=2 epochs", "--max_trials=5", f"--run_dir={run_dir}", *more),
    ]


def stop(folder: Path, run_dir: Path, *, after: float, number: int, until: str = "") -> Stop:
    """Begins a run and stops it.

    Args:
        folder: Where the model is.
        run_dir: The run folder.
        after: Seconds to wait.
        number: The signal.
        until: Wait first for a line that begins like this.
    """
    started = time.monotonic()
    out_file, err_file = folder / f"{run_dir.name}.out", folder / f"{run_dir.name}.err"
    with out_file.open("w") as out, err_file.open("w") as err:
        process = subprocess.Popen(command(run_dir), cwd=folder, stdout=out, stderr=err)
        while until and process.poll() is None:
            if any(line.startswith(until) for line in out_file.read_text().splitlines()):
                break
            time.sleep(0.01)
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        sent = time.monotonic()
        before = out_file.read_text()
        code = process.wait()
    seconds = time.monotonic() - sent
    printed, words = out_file.read_text(), err_file.read_text()
    journal = run_dir / "trials.jsonl"
    lines = journal.read_text().splitlines() if journal.exists() else []
    rows = [json.loads(line) for line in lines]
    completed = [row for row in rows if row["score"] is not None]
    answer = run_dir / "recommendation.json"
    wrong = []
    if code not in (0, 128 + number):
        wrong.append(f"exit code {code}")
    if "Traceback" in printed + words:
        wrong.append("a traceback")
    if completed and not answer.exists():
        wrong.append("no answer on disk")
    elif completed:
        size = json.loads(answer.read_text())["batch_size"]
        if f"batch size {size}, learning rate" not in printed.split("By batch size")[-1]:
            wrong.append("the answer is not printed")
    elif code and not any(said in words for said in _NOTHING):
        wrong.append("it does not say that there is no answer")
    return Stop(
        after=None if code == 0 else sent - started,
        last_line=(before.splitlines() or [""])[-1][:60],
        trials=len(rows),
        completed=len(completed),
        seconds=seconds,
        wrong=tuple(wrong),
    )


def main() -> None:
    """Prints a row for each stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stops", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--signal", default="TERM")
    arguments = parser.parse_args()
    number = signal.Signals[f"SIG{arguments.signal}"]
    draws = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(TINY_MODEL, folder)
        started = time.monotonic()
        subprocess.run(command(folder / "whole"), cwd=folder, check=True, capture_output=True)
        whole = time.monotonic() - started
        print(f"a whole run: {whole:.1f} s", flush=True)
        longest = 0.0
        for n in range(arguments.stops):
            after = draws.uniform(1.0, whole)
            found = stop(folder, folder / f"stop-{n}", after=after, number=number)
            longest = max(longest, found.seconds)
            moment = "ended before" if found.after is None else f"{found.after:.1f} s"
            print(
                f"{moment}: {found.trials} trials, {found.completed} completed; ended after "
                f"{found.seconds:.1f} s; {', '.join(found.wrong) or 'right'}; {found.last_line!r}",
                flush=True,
            )
        print(f"longest: {longest:.1f} s")


if __name__ == "__main__":
    main()
