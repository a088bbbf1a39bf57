"""Draws a run by batch size as an SVG: speed, memory and the tuned metric; the picture of README.

usage: python docs/picture.py [RUN] [--output=docs/search.svg]

RUN is a run folder of `tfbatch tune`; by default docs/run, which holds the journal, the answer, the
settings and the step times of the search that README shows. It is the first figure of that run's
report.html, as a still picture.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tfbatch.charts.svg import svg
from tfbatch.errors import InputError
from tfbatch.reporting.by_batch_size import by_batch_size
from tfbatch.reporting.recorded import read_recorded

HERE = Path(__file__).parent


def draw(run: Path) -> str:
    """The picture of a run as the text of an SVG.

    Raises:
        InputError: It is no run folder, or no trial has ended in it.
    """
    picture = by_batch_size(read_recorded(run))
    if picture is None:
        raise InputError(f"No trial has ended in {run} yet. Run the same command when one has.")
    return svg(picture)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, default=HERE / "run")
    parser.add_argument("--output", type=Path, default=HERE / "search.svg")
    arguments = parser.parse_args()
    arguments.output.write_text(draw(arguments.run), encoding="utf-8")


if __name__ == "__main__":
    main()
