"""Stops the smallest `tune` by real signals: is what was measured printed and on disk, how soon?

usage: python benchmarks/stops.py [--stops=20] [--seed=1] [--signal=TERM|INT|KILL]

One run without a signal tells how long a run takes; each stop then begins anew in a folder of its
own and gets its signal at a random moment of that time. A row says what the run was doing, how
many trials were in the journal, how many seconds after the signal it had ended, and what is wrong:
an answer that is not printed or not on disk though a trial had completed, a missing word where
none had, a traceback, another exit code.

SIGKILL leaves no time for a word. With it one run is killed at all of the moments, each time begun
again with the same command, and at last finished: its trials must then be those of the run that
nobody killed, each of them once, and its answer whole.

Result: 20 of 20 runs were right and ended within 3.5 s of the signal, the nine with trials with the
answer printed and on disk (two CPU cores); beside twenty other processes within 6.4 s.
Evidence: benchmarks/results/stops.md
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

SEARCH = """\
description: a few trials of a small space, in an order that no outcome changes
oracle: {name: random}
max_trials: 5
space:
  batch_size: [32, 64, 128]
  base_learning_rate: {min: 5e-3, max: 0.5, sampling: log}
  learning_rate_octaves: 0.0
  warmup_fraction: [0.0, 0.1]
  schedules: [{name: linear}, {name: wsd, cooldown: [0.1, 0.3]}]
confirmation: {batch_sizes: 2, seeds: 2}
"""
"""What is searched by a run that is killed."""
_NOTHING = ("no answer yet", "nothing was measured", "before there was an answer")
Begin = Callable[..., "subprocess.Popen[str]"]
"""Begins a command: `(arguments, cwd=, stdout=, stderr=)`."""
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


@dataclasses.dataclass(frozen=True)
class _Begun:
    """A process that was begun and got a signal: `after` seconds; it ended `seconds` later."""

    code: int
    after: float
    seconds: float
    last_line: str
    printed: str
    words: str


def _begin_and_signal(
    begin: Begin, arguments: list[str], folder: Path, *, after: float, number: int, until: str
) -> _Begun:
    started = time.monotonic()
    out_file, err_file = folder / "out", folder / "err"
    with out_file.open("w") as out, err_file.open("w") as err:
        process = begin(arguments, cwd=folder, stdout=out, stderr=err)
        while until and process.poll() is None:
            if any(line.startswith(until) for line in out_file.read_text().splitlines()):
                break
            time.sleep(0.01)
        try:
            process.wait(None if math.isinf(after) else after)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        sent = time.monotonic()
        before = out_file.read_text()
        code = process.wait()
    return _Begun(
        code=code,
        after=sent - started,
        seconds=time.monotonic() - sent,
        last_line=(before.splitlines() or [""])[-1][:60],
        printed=out_file.read_text(),
        words=err_file.read_text(),
    )


def _rows(journal: Path) -> list[dict[str, object]]:
    return (
        [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    )


def stop(
    folder: Path,
    run_dir: Path,
    *more: str,
    after: float,
    number: int,
    until: str = "",
    begin: Begin = subprocess.Popen,
) -> Stop:
    """Begins a run and stops it.

    Args:
        folder: Where the model is.
        run_dir: The run folder.
        more: Further flags of the command.
        after: Seconds to wait.
        number: The signal.
        until: Wait first for a line that begins like this.
        begin: What begins the command, as subprocess.Popen does.
    """
    arguments = command(run_dir, *more)
    begun = _begin_and_signal(begin, arguments, folder, after=after, number=number, until=until)
    code, printed, words = begun.code, begun.printed, begun.words
    journal = run_dir / "trials.jsonl"
    rows = _rows(journal)
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
        after=None if code == 0 else begun.after,
        last_line=begun.last_line,
        trials=len(rows),
        completed=len(completed),
        seconds=begun.seconds,
        wrong=tuple(wrong),
    )


@dataclasses.dataclass(frozen=True)
class Killed:
    """One run that was killed again and again.

    Attributes:
        alive: How many of the kills came before its end.
        trials: Trials in its journal at the end.
        wrong: What is wrong, a clause each.
    """

    alive: int
    trials: int
    wrong: tuple[str, ...]


def kill(
    folder: Path, moments: Iterable[tuple[str, float]], *, begin: Begin = subprocess.Popen
) -> Killed:
    """Kills one run at several moments, finishes it, and compares it with an undisturbed one.

    Args:
        folder: Where the model is; the runs get their folders there.
        moments: For each kill the beginning of the line to wait for, and seconds to wait then.
        begin: What begins a command, as subprocess.Popen does.
    """
    (folder / "search.yaml").write_text(SEARCH)
    options = ("--search=search.yaml", "--seed=5")
    alive, wrong = 0, []
    for until, after in moments:
        again = command(folder / "killed", *options)
        begun = _begin_and_signal(
            begin, again, folder, after=after, number=signal.SIGKILL, until=until
        )
        alive += begun.code == -signal.SIGKILL
        if begun.code not in (0, -signal.SIGKILL):
            wrong.append(f"exit code {begun.code}: {begun.words}")
        print(f"killed after {begun.after:.1f} s: {begun.last_line!r}", flush=True)
    for name in ("killed", "whole"):
        # A signal that never comes: it ends by itself.
        done = _begin_and_signal(
            begin, command(folder / name, *options), folder, after=math.inf, number=0, until=""
        )
        if done.code != 0 or "The recommendation in plain Keras" not in done.printed:
            wrong.append(f"{name}: exit code {done.code}: {done.words}")
    return Killed(alive, len(_rows(folder / "killed" / "trials.jsonl")), (*wrong, *_unlike(folder)))


def _unlike(folder: Path) -> Iterator[str]:
    """What the killed run has otherwise than the whole one."""
    killed, whole = (_rows(folder / name / "trials.jsonl") for name in ("killed", "whole"))
    if len({row["trial"] for row in killed}) < len(killed):
        yield "a trial is in the journal twice"
    if _outcomes(killed) != _outcomes(whole):
        yield "the trials are not those of the whole run"
    answer = json.loads((folder / "killed" / "recommendation.json").read_text())
    if answer["status"] != "complete" or not answer["metrics"]["test"]:
        yield "the answer is not complete"
    if list((folder / "killed").rglob("*partial*")):
        yield "half a file is left"


def _outcomes(rows: list[dict[str, object]]) -> dict[object, dict[str, object]]:
    """What each trial came to, but for its times."""
    timed = ("seconds", "training_seconds", "finished_at")
    return {row["trial"]: {k: v for k, v in row.items() if k not in timed} for row in rows}


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
        subprocess.run(command(folder / "timed"), cwd=folder, check=True, capture_output=True)
        whole = time.monotonic() - started
        print(f"a whole run: {whole:.1f} s", flush=True)
        if number == signal.SIGKILL:
            ended = kill(folder, [("", draws.uniform(1.0, whole)) for _ in range(arguments.stops)])
            wrong = ", ".join(ended.wrong) or "right"
            print(f"{ended.alive} kills, then {ended.trials} trials: {wrong}")
            return
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
