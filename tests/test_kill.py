"""A run that is killed at any moment loses nothing that it announced, and doubles nothing."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

APPENDERS = """
import json, os, random, signal, sys, time, types
from pathlib import Path
from tfbatch.run_folder import journal as journal_module
from tfbatch.run_folder.journal import Journal

path, rng = Path(sys.argv[1]), random.Random(sys.argv[2])
announced, kills, torn = -1, 0, 0

def message(number):
    return str(number % 10) * 500_000  # a large row takes longer to write

def append_for_ever(announce, about_to_write):
    def dumps(*arguments, **options):
        text = json.dumps(*arguments, **options)
        os.write(about_to_write, b"x")
        return text

    journal_module.json = types.SimpleNamespace(dumps=dumps, loads=json.loads)
    journal = Journal(path)
    while True:
        number = len(journal.rows)
        journal.append({"trial": f"search-{number:06d}", "message": message(number)})
        os.write(announce, number.to_bytes(8, "big"))

while (kills < 40 or torn < 3) and kills < 400:
    kills += 1
    ours, theirs = os.pipe()
    writing, about_to_write = os.pipe()
    child = os.fork()
    if child == 0:
        append_for_ever(theirs, about_to_write)
    os.close(theirs)
    os.close(about_to_write)
    for _ in range(rng.randint(1, 3)):
        os.read(writing, 1)
    time.sleep(rng.choice([0, rng.uniform(0, 0.0005), rng.uniform(0, 0.01)]))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while data := os.read(ours, 8):
        announced = int.from_bytes(data, "big")
    os.close(ours)
    os.close(writing)
    content = path.read_bytes() if path.exists() else b""
    torn += not content.endswith(b"\\n") and bool(content)
    rows = Journal(path).rows
    assert [row["trial"] for row in rows] == [f"search-{n:06d}" for n in range(len(rows))]
    assert all(row["message"] == message(n) for n, row in enumerate(rows))
    assert len(rows) > announced, "an announced row is lost"
    assert path.read_bytes() == content[: content.rfind(b"\\n") + 1]
    if len(rows) > 8:
        path.unlink()
        announced = -1
print(kills, torn)
"""


def test_a_journal_whose_writer_is_killed_has_whole_lines_only(tmp_path):
    path = tmp_path / "trials.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", APPENDERS, str(path), "seed 1"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    kills, torn = map(int, done.stdout.split())
    print(f"{torn} of {kills} kills fell into a write")
    assert kills >= 40
    assert torn >= 1, "no kill fell into a write: nothing was tried"


KILLS = 20
SEARCH = """\
description: ten trials of a small space
oracle: {name: random}
max_trials: 10
space:
  batch_size: [32, 64, 128]
  base_learning_rate: {min: 5e-3, max: 0.5, sampling: log}
  learning_rate_octaves: 0.0
  warmup_fraction: [0.0, 0.1]
  schedules: [{name: linear}, {name: wsd, cooldown: [0.1, 0.3]}]
confirmation: {batch_sizes: 2, seeds: 2}
"""


class Run:
    """`python -m tfbatch.tune` on one run folder, begun again and again."""

    def __init__(self, folder, run_dir):
        self.folder = folder
        self.journal = run_dir / "trials.jsonl"
        self._command = [
            *(sys.executable, "-u", "-m", "tfbatch.tune", "--search=search.yaml"),
            *("--model=tiny_model:build", "--trial_length=2 epochs", "--seed=5"),
            f"--run_dir={run_dir}",
        ]

    def finish(self):
        done = subprocess.run(
            self._command, cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def kill(self, moment, delay):
        """Begins the run and kills it some time after a moment; False if it ended before."""
        lines = self._lines()
        with subprocess.Popen(
            self._command,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout
            if moment == "after the data":
                for line in process.stdout:
                    if line.startswith("digits: "):
                        break
            elif moment == "after a row":
                while self._lines() == lines and process.poll() is None:
                    time.sleep(0.001)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(delay)
            alive = process.poll() is None
            process.kill()
            _, stderr = process.communicate()
            assert alive or process.returncode == 0, stderr
        return alive

    def _lines(self):
        return self.journal.read_bytes().count(b"\n") if self.journal.exists() else 0

    def outcomes(self):
        """What each trial came to; fails if one is there twice."""
        rows = [json.loads(line) for line in self.journal.read_text().splitlines()]
        assert len({row["trial"] for row in rows}) == len(rows)
        timed = ("seconds", "training_seconds", "finished_at")
        return {row["trial"]: {k: v for k, v in row.items() if k not in timed} for row in rows}


@pytest.mark.slow
def test_a_run_that_is_killed_twenty_times_comes_to_the_same_trials(tmp_path):
    shutil.copy(Path(__file__).with_name("tiny_model.py"), tmp_path)
    (tmp_path / "search.yaml").write_text(SEARCH)
    whole = Run(tmp_path, tmp_path / "whole")
    whole.finish()
    killed = Run(tmp_path, tmp_path / "killed")
    rng = random.Random(20)
    moments = ["from the start"] * 5 + ["after the data"] * 7 + ["after a row"] * (KILLS - 12)
    rng.shuffle(moments)

    alive = 0
    for moment in moments:
        longest = {"from the start": 6.0, "after the data": 4.0, "after a row": 0.1}[moment]
        alive += killed.kill(moment, rng.uniform(0, longest))
    output = killed.finish()

    print(f"{alive} of {KILLS} kills came before the end")
    assert alive >= KILLS // 2, "the run was over before it was killed"
    assert killed.outcomes() == whole.outcomes()
    assert len(whole.outcomes()) >= 1 + 10 + 2 * 2
    assert "The recommendation in plain Keras" in output
    content = json.loads((tmp_path / "killed" / "recommendation.json").read_text())
    assert content["status"] == "complete"
    assert content["metrics"]["test"]
    assert not list((tmp_path / "killed").rglob("*partial*"))
