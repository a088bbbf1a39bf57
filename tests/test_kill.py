"""A run that is killed at any moment loses nothing that it announced, and doubles nothing."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from processes import begin_warm

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import stops

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
    whole = content[: content.rfind(b"\\n") + 1]
    assert path.read_bytes() in (whole, content + b"\\n")  # its end alone may be missing
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


STAGES = ("digits: ", "search-", "confirm-", "Measuring the step times", "Evaluating the rec")


@pytest.mark.slow
def test_a_run_that_is_killed_in_each_of_its_stages_comes_to_the_same_trials(tmp_path):
    """At twenty random moments of a run: `benchmarks/stops.py --signal=KILL`."""
    shutil.copy(stops.TINY_MODEL, tmp_path)
    draws = random.Random(20)
    moments = [(line, draws.uniform(0, 0.2)) for line in STAGES]
    found = stops.kill(tmp_path, moments, begin=begin_warm)

    assert found.wrong == ()
    assert found.alive > len(STAGES) / 2, "the run was over before it was killed"
    assert found.trials >= 1 + 5 + 2 * 2
