"""A run that is killed at any moment loses nothing that it announced, and doubles nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tfbatch.run_folder.journal import Journal

APPENDERS = """
import os, random, signal, sys, time
from pathlib import Path
from tfbatch.run_folder.journal import Journal

path, kills, rng = Path(sys.argv[1]), int(sys.argv[2]), random.Random(sys.argv[3])
announced, torn = 0, 0

def append_for_ever(pipe):
    journal = Journal(path)
    while True:
        number = len(journal.rows)
        journal.append({"trial": f"search-{number:06d}", "message": str(number) * 60_000})
        os.write(pipe, number.to_bytes(8, "big"))

for _ in range(kills):
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        append_for_ever(theirs)
    os.close(theirs)
    os.read(ours, 8)  # it is in its loop
    time.sleep(rng.uniform(0, 0.01))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    told = [0]
    while data := os.read(ours, 8):
        told.append(int.from_bytes(data, "big"))
    os.close(ours)
    content = path.read_bytes()
    torn += not content.endswith(b"\\n")
    rows = Journal(path).rows
    assert [row["trial"] for row in rows] == [f"search-{n:06d}" for n in range(len(rows))]
    assert all(row["message"] == str(n) * 60_000 for n, row in enumerate(rows))
    assert len(rows) > max(announced, *told), "an announced row is lost"
    assert path.read_bytes() == content[: content.rfind(b"\\n") + 1]
    announced = len(rows) - 1
    if len(rows) > 200:  # large rows are torn more often, and take space
        path.unlink()
        announced = 0
print(torn)
"""


def test_a_journal_whose_writer_is_killed_has_whole_lines_only(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", APPENDERS, str(path), "60", "seed 1"],
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout, done.stderr)

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 1, "no kill fell into a write: the test has tried nothing"
    assert Journal(path).rows
