"""SIGTERM at random moments of the smallest probe: what is printed, on disk, and when it ends.

    python benchmarks/probe_signals.py --moments=20

Prints for each moment the seconds from the signal to the end, the exit code, the instruments that
were printed and those in probe.json, and processes that were left over. Ends with 1 where an
ending took more than 10 s, or printed and written do not agree, or a process was left.

Result: 20 of 20 moments right, the end came after at most 8.0 s (two shared CPU cores at load 12 to
16).
Evidence: benchmarks/results/probe_signals.md
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

COMMAND = ("-m", "tfbatch.probe", "--model=mlp", "--batch_sizes=16,32", "--max_minutes=0.1")
ALLOWED_SECONDS = 10.0
FIRST_SECONDS = 0.5
"""Before that Python itself is starting, and the signal ends it as any process."""


_LEFT_SECONDS = 60.0
"""A process that still runs after these is left over; on a busy machine the end takes seconds."""


def ended_at(
    moment: float, number: int = signal.SIGTERM, *, begun: bool = False
) -> dict[str, object]:
    """Runs the probe, sends a signal after `moment` seconds, and tells what came of it.

    Args:
        moment: Seconds from the start of the process.
        number: The signal.
        begun: Count them from its first file in the run folder, however long Python took to start.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = subprocess.Popen(
            [sys.executable, *COMMAND, f"--run_dir={folder}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ,
        )
        while begun and not any(Path(folder).iterdir()) and run.poll() is None:
            time.sleep(0.02)
        time.sleep(moment)
        children = psutil.Process(run.pid).children(recursive=True) if run.poll() is None else []
        run.send_signal(number)
        began = time.monotonic()
        text, _ = run.communicate()
        seconds = time.monotonic() - began
        _, left = psutil.wait_procs(children, timeout=_LEFT_SECONDS)
        path = Path(folder) / "probe.json"
        written = json.loads(path.read_text())["instruments"] if path.exists() else {}
        printed = [name for name, part in written.items() if part["heading"] + " (" in text]
        return {
            "moment": round(moment, 1),
            "seconds": round(seconds, 1),
            "exit": run.returncode,
            "printed": len(printed),
            "written": len(written),
            "says nothing was": "nothing was measured" in text or "before anything was" in text,
            "left": [process.pid for process in left if process.is_running()],
            "text": text,
        }


def is_right(found: dict[str, object]) -> bool:
    """Within 10 s; what is on disk is printed, or it says that nothing was measured."""
    told = bool(found["written"]) or bool(found["says nothing was"])
    finished = found["exit"] == 0
    quick = float(str(found["seconds"])) <= ALLOWED_SECONDS
    return finished or (
        (quick and told and found["exit"] == 143)
        and found["printed"] == found["written"]
        and not found["left"]
    )


def main() -> int:
    """Prints a line for each moment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--longest", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draws = random.Random(given.seed)
    wrong = 0
    for _ in range(given.moments):
        found = ended_at(draws.uniform(FIRST_SECONDS, given.longest))
        wrong += not is_right(found)
        shown = {name: value for name, value in found.items() if name != "text"}
        print("ok" if is_right(found) else "WRONG", shown, flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
