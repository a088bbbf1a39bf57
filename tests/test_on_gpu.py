"""The script of the checks on a GPU: order, time, and what is written when one part fails."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from processes import HANG_SECONDS, wait_until

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "on_gpu.py"


@pytest.fixture(scope="module")
def on_gpu():
    spec = importlib.util.spec_from_file_location("on_gpu", SCRIPT)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["on_gpu"] = module
    assert spec.loader is not None
    spec.loader.exec_module(module)
    return module


def test_a_part_that_fails_or_takes_all_the_time_costs_no_other_what_it_found(on_gpu):
    """Ten minutes: 60 s, an abort after 10 s, one that is ended at 400 s; the rest has 130 s."""
    clock = [0.0]
    takes = {"first": 60.0, "aborts": 10.0, "hangs": 1e9, "next": 200.0, "last": 1.0}
    allowed: dict[str, float] = {}
    written: list[list[str]] = []

    def run(part, seconds):
        allowed[part.name] = seconds
        took = min(takes[part.name], seconds)
        clock[0] += took
        outcome = "out of time" if took < takes[part.name] else "done"
        return on_gpu.Ended(part.name, "failed" if part.name == "aborts" else outcome, took)

    parts = [on_gpu.Part(name, 400.0, lambda examples, keep: None) for name in takes]
    ended = on_gpu.run_all(
        parts,
        run,
        minutes=10.0,
        written=lambda ended: written.append([one.outcome for one in ended]),
        now=lambda: clock[0],
    )

    assert [one.outcome for one in ended] == [
        "done", "failed", "out of time", "out of time", "no time"
    ]  # fmt: skip
    assert allowed == {"first": 400.0, "aborts": 400.0, "hangs": 400.0, "next": 130.0}
    assert [len(one) for one in written] == [1, 2, 3, 4, 5], "written after each"
    assert clock[0] == 600.0


def test_all_parts_begin_with_what_is_there_and_are_each_shorter_than_the_whole(on_gpu):
    assert on_gpu.PARTS[0].name == "facts"
    assert on_gpu.MOST_MINUTES < 10
    *first, last = on_gpu.PARTS
    assert sum(part.seconds for part in first) <= 60 * on_gpu.MOST_MINUTES
    assert last.seconds >= 150, "compiling every size is allowed to take so long"


def test_what_a_part_had_found_stays_where_it_is_ended_or_fails(on_gpu, tmp_path, monkeypatch):
    """Processes as the script starts them: one is ended in the middle of its work."""
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os, sys, time\n"
        "part = sys.argv[1].removeprefix('--part=')\n"
        "folder = sys.argv[2].removeprefix('--output=')\n"
        "open(os.path.join(folder, part + '.json'), 'w').write(json.dumps({'peak': 5}))\n"
        "open(os.path.join(folder, part + ' has written'), 'w').close()\n"
        "time.sleep(1e6) if part == 'hangs' else os.abort()\n"
    )
    monkeypatch.setattr(on_gpu, "__file__", str(script))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # a GPU would be sampled

    class TimeIsOver(subprocess.Popen):
        def wait(self, timeout=None):
            if timeout == 10.0:
                wait_until((tmp_path / "hangs has written").exists)
                raise subprocess.TimeoutExpired("hangs", 10.0)
            return super().wait(timeout)

    monkeypatch.setattr(on_gpu.subprocess, "Popen", TimeIsOver)
    run = on_gpu.in_a_process(tmp_path, 10)
    hangs = run(on_gpu.Part("hangs", 0, lambda examples, keep: None), 10.0)
    aborts = run(on_gpu.Part("aborts", 0, lambda examples, keep: None), HANG_SECONDS)

    assert (hangs.outcome, hangs.findings) == ("out of time", {"peak": 5})
    assert (aborts.outcome, aborts.findings) == ("failed", {"peak": 5})
    assert "exit code -6" in aborts.message


def test_the_report_holds_tables_findings_and_the_end_of_a_log(on_gpu):
    table = [["batch size", "step (ms)"], ["8", "1.5"]]
    done = on_gpu.Ended("knee", "done", 12.0, {"knee": "none", "table": table})
    failed = on_gpu.Ended("wall", "failed", 3.0, message="exit code -6\nAborted")
    text = on_gpu.report([done, failed])

    assert "## knee: done, 12 s" in text
    assert "| batch size | step (ms) |\n| --- | --- |\n| 8 | 1.5 |" in text
    assert "- knee: none" in text
    assert "exit code -6\nAborted" in text


@pytest.mark.slow
def test_it_runs_without_a_gpu(tmp_path):
    command = [sys.executable, str(SCRIPT), f"--output={tmp_path}", "--parts=facts,knee,callbacks"]
    long = ["--patience=60", "--minutes=600"]
    subprocess.run([*command, "--examples=400", *long], check=True, timeout=HANG_SECONDS)
    found = json.loads((tmp_path / "facts.json").read_text())

    assert found["auto_is_as_in_keras"]
    compared = json.loads((tmp_path / "knee.json").read_text())["precision"]
    assert (compared["policy"], compared["used"]) == ("mixed_bfloat16", "float32")
    assert "## knee: done" in (tmp_path / "on_gpu.md").read_text()
    waits = json.loads((tmp_path / "callbacks.json").read_text())
    assert waits["sleeps_20_ms"]["seconds_per_step"] > 0.02
    assert len(waits["losses_whole_and_accumulated"]) == 2
