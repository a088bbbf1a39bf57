"""How long report.html takes to be drawn and to open, with 12, 200 and 2,000 trials.

usage: python benchmarks/report.py [--repeats=3] [--counts=12,200,2000]

Runs are made without training (tests/reported_runs.py). "drawn" is the command's work in this
process, imports included in the first; "first picture" is the time from the request of the page to
the first figure in headless Chromium, whose WebGL runs on the CPU; "everything" draws all figures,
which a reader's browser does as they come near the screen. The page's text is there before them.

Result: see the file below.
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

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from browsers import new_browser, wait_for
from reported_runs import clean_run, row_of, searched, write_run
from search_fixtures import BASELINE

from tfbatch.reporting.page import write_report

READY = "return document.documentElement.dataset.ready || ''"
MEASURED = """
const done = arguments[0];
const since = () => performance.now() / 1000;
const first = () => document.querySelector('.plot .main-svg');
const look = () => {
  if (!first()) { setTimeout(look, 5); return; }
  const one = since();
  const text = performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd / 1000;
  window.drawAllFigures().then(() => done([text, one, since(),
    document.querySelectorAll('*').length]));
};
look();
"""


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
    print("trials  MB    drawn s  text s  first picture s  everything s  elements")
    with tempfile.TemporaryDirectory() as folder:
        for count in map(int, arguments.counts.split(",")):
            run = make(Path(folder), count)
            drawn, opened = [], []
            for _ in range(arguments.repeats):
                begun = time.process_time()
                page = write_report(run)
                drawn.append(time.process_time() - begun)
                with new_browser(tempfile.mkdtemp(dir=folder), webgl=True) as browser:
                    browser.set_window_size(1280, 900)
                    browser.set_script_timeout(300)
                    browser.get(page.as_uri())
                    wait_for(lambda browser=browser: browser.execute_script(READY))
                    opened.append(browser.execute_async_script(MEASURED))
            text, first, everything, elements = zip(*opened, strict=True)
            print(
                f"{count:>6}  {page.stat().st_size / 1e6:.2f}  {_shown(drawn)}  {_shown(text)}  "
                f"{_shown(first)}  {_shown(everything)}  {elements[0]}"
            )


def _shown(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.2f} [{min(seconds):.2f}, {max(seconds):.2f}]"


if __name__ == "__main__":
    main()
