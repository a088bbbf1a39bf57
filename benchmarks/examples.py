"""Runs the examples as a user starts them: does each end well, how long does it take?

    TFDS_DATA_DIR=FOLDER python benchmarks/examples.py [NAME ...]

Without names all of `examples/`; those of the callbacks read CIFAR-10. The tests run every one of
them short and on small images, and a single one as it is.

Result: what the tests run, and how long it takes, is with the durations of the tests.
Evidence: benchmarks/results/tests.md
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


@dataclasses.dataclass(frozen=True)
class Ended:
    """One script that has ended: its exit code, both its streams, and its seconds."""

    name: str
    code: int
    printed: str
    errors: str
    seconds: float


def run(names: Iterable[str], folder: Path) -> Iterator[Ended]:
    """Runs scripts one after the other.

    Args:
        names: Their names, without .py.
        folder: Where they run, and what they write there.
    """
    for name in names:
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, EXAMPLES / f"{name}.py"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        yield Ended(name, done.returncode, done.stdout, done.stderr, time.monotonic() - started)


def main() -> int:
    """Prints a line for each script; 1 where one failed."""
    names = sys.argv[1:] or sorted(path.stem for path in EXAMPLES.glob("*.py"))
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for ended in run(names, Path(folder)):
            failed += ended.code != 0
            word = "ended well" if ended.code == 0 else f"exit code {ended.code}\n{ended.errors}"
            print(f"{ended.name}: {ended.seconds:.0f} s, {word}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
