"""How long report.html takes to be drawn and to open, with 12, 200 and 2,000 trials.

usage: python benchmarks/report.py [--repeats=3] [--counts=12,200,2000]

Runs are made without training (tests/reported_runs.py). All seconds are CPU time, so that
other work on the machine lengthens them less: "drawn" of this process, for the page; the others of
the main thread of headless Chromium, whose WebGL runs on the CPU. "opened": the text is there,
Plotly is loaded, and the figures on the screen are drawn; "everything": all figures, which a
reader's browser draws as they come near the screen. Beside them the wall-clock time to open.

Result: opens in 1.5 to 1.8 s of CPU time with 12, 200 and 2,000 trials (n = 3 each); the page has
  2.0 to 2.7 MB and at most 2,400 elements.
Evidence: benchmarks/results/report.md
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from browsers import new_browser, wait_for
from reported_runs import clean_run, row_of, searched, write_run
from search_fixtures import BASELINE

from tfbatch.reporting.page import write_report

READY = "return document.documentElement.dataset.ready || ''"
FIRST = "return !!document.querySelector('.plot .main-svg')"
EVERYTHING = "const done = arguments[0]; window.drawAllFigures().then(() => done());"
ELEMENTS = "return document.querySelectorAll('*').length"


def make(folder: Path, count: int) -> Path:
    """A run folder with so many trials in its search."""
    if count <= 200:
        return clean_run(folder / f"run-{count}", count)
    rows = [row_of("baseline", "baseline", 1, BASELINE)]
    rows += [
        row_of(f"search-{number:04d}", "search", number, one)
        for number, one in enumerate(searched(count - 1), start=1)
    ]
    return write_run(folder / f"run-{count}", rows)


def main() -> None:
    """Runs the benchmark and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--counts", default="12,200,2000")
    arguments = parser.parse_args()
    print(f"load average of the last minute: {psutil.getloadavg()[0]:.1f}")
    print("trials  MB    drawn s           opened s          everything s      wall s  elements")
    with tempfile.TemporaryDirectory() as folder:
        for count in map(int, arguments.counts.split(",")):
            run = make(Path(folder), count)
            write_report(run)  # imports, and Plotly compressed, once
            drawn, opened = [], []
            for _ in range(arguments.repeats):
                begun = time.process_time()
                page = write_report(run)
                drawn.append(time.process_time() - begun)
                opened.append(_opened(page, Path(tempfile.mkdtemp(dir=folder))))
            first, everything, wall, elements = zip(*opened, strict=True)
            print(
                f"{count:>6}  {page.stat().st_size / 1e6:.2f}  {_shown(drawn)}  {_shown(first)}  "
                f"{_shown(everything)}  {statistics.median(wall):.1f}  {max(elements):.0f}",
                flush=True,
            )


def _opened(page: Path, profile: Path) -> tuple[float, float, float, float]:
    """CPU seconds to open and to draw everything, wall-clock seconds to open, elements."""
    with new_browser(profile, webgl=True) as browser:
        browser.set_window_size(1280, 900)
        browser.set_script_timeout(300)
        # CPU time of the thread in place of wall-clock time.
        browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        begun = time.monotonic()
        browser.get(page.as_uri())
        wait_for(lambda: browser.execute_script(READY) and browser.execute_script(FIRST))
        wall, first = time.monotonic() - begun, _thread_seconds(browser)
        browser.execute_async_script(EVERYTHING)
        return first, _thread_seconds(browser), wall, browser.execute_script(ELEMENTS)


def _thread_seconds(browser: Any) -> float:
    found = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return next(float(one["value"]) for one in found if one["name"] == "ThreadTime")


def _shown(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.2f} [{min(seconds):.2f}, {max(seconds):.2f}]"


if __name__ == "__main__":
    main()
