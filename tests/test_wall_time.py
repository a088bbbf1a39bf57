"""Continuing a run is charged the time that has passed, once, whoever ended the session."""

import json
import signal
import subprocess
import sys
import time

import pytest

from tfbatch.errors import RunFolderError
from tfbatch.run_folder import wall_time
from tfbatch.run_folder.files import WALL_TIME
from tfbatch.run_folder.wall_time import WallTime, covered_seconds, spent_seconds


def row(end, seconds):
    """A trial that ended so many seconds after noon."""
    return {
        "finished_at": f"2026-01-01T12:{end // 60:02d}:{end % 60:02d}+00:00",
        "seconds": seconds,
    }


def test_trials_side_by_side_count_once():
    two_workers = [row(100, 100.0), row(110, 110.0), row(200, 95.0), row(215, 100.0)]

    # From noon to second 110, and from 105 to 215: 215 seconds, not 405.
    assert covered_seconds(two_workers) == 215.0


def test_time_between_sessions_does_not_count():
    assert covered_seconds([row(60, 50.0), row(600, 20.0), row(610, 5.0)]) == 75.0
    assert covered_seconds([]) == 0.0


def test_a_folder_of_an_earlier_version_is_charged_its_trials_once(tmp_path):
    assert spent_seconds(tmp_path, [row(100, 100.0), row(100, 80.0)]) == 100.0


def test_sessions_add_up(tmp_path):
    hands = [500.0]
    with WallTime(tmp_path, before=0.0, started=480.0, now=lambda: hands[0]) as first:
        assert first.seconds == 20.0
        hands[0] = 592.0 + 480.0
    rows = [row(100, 400.0), row(100, 522.0)]
    assert spent_seconds(tmp_path, rows) == 592.0

    with WallTime(tmp_path, before=592.0, started=2000.0, now=lambda: hands[0]) as second:
        hands[0] = 2030.0
        assert second.seconds == 622.0
    assert spent_seconds(tmp_path, rows) == 622.0


KILLED = """
import sys, time
from pathlib import Path
from tfbatch.run_folder import wall_time
wall_time.EVERY_SECONDS = 0.02
with wall_time.WallTime(Path(sys.argv[1]), before=100.0, started=time.monotonic()):
    time.sleep(1000)
"""


def test_a_session_that_is_killed_is_charged(tmp_path):
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)]) as process:
        while not (tmp_path / WALL_TIME).exists() or spent_seconds(tmp_path, []) < 100.2:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert spent_seconds(tmp_path, []) >= 100.2


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / WALL_TIME).write_text("{}")

    with pytest.raises(RunFolderError, match=rf"{WALL_TIME} is damaged.*Remove it"):
        spent_seconds(tmp_path, [])


def test_it_is_written_as_a_session_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(wall_time, "EVERY_SECONDS", 0.01)
    hands = [0.0]
    with WallTime(tmp_path, before=0.0, started=0.0, now=lambda: hands[0]):
        hands[0] = 7.0
        while json.loads((tmp_path / WALL_TIME).read_text())["seconds"] != 7.0:
            time.sleep(0.005)
