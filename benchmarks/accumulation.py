"""Peak memory and seconds per update of a batch as a whole, and in micro-batches.

    python benchmarks/accumulation.py [--models=small_cnn,resnet] [--batch-size=512]
        [--micro=0,128,32] [--repeats=3]

Each row is the median (lowest..highest) of fresh processes, which fit images of 32 x 32 x 3 of
noise; 0 is the whole batch. The peak is VmHWM, of the whole process, and also less what the
process needs for a batch of 1.

Result: at B = 512 small_cnn needs 157 MiB above a batch of 1 as a whole, 38 MiB in micro-batches of
32 (median of 3 processes, shared CPU cores).
Evidence: benchmarks/results/accumulation.md
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_UPDATES = 4


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="small_cnn,resnet")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--micro", default="0,128,32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        model, batch_size, micro = asked.child
        measure(model, batch_size=int(batch_size), micro=int(micro))
        return
    print("| model | micro-batch | peak MiB | beyond a batch of 1, MiB | s per update |")
    print("|---|---|---|---|---|")
    for model in asked.models.split(","):
        floor = statistics.median(child(model, 1, 0)[0] for _ in range(asked.repeats))
        for micro in map(int, asked.micro.split(",")):
            found = [child(model, asked.batch_size, micro) for _ in range(asked.repeats)]
            peaks, seconds = zip(*found, strict=True)
            beyond = [peak - floor for peak in peaks]
            name = str(micro) if micro else f"{asked.batch_size}, whole"
            print(f"| {model} | {name} | {spread(peaks)} | {spread(beyond)} | ", end="")
            print(f"{spread(seconds, '.2f')} |", flush=True)


def spread(values: tuple[float, ...] | list[float], form: str = ".0f") -> str:
    """Such as "812 (799..820)"."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{form}} ({low:{form}}..{high:{form}})"


def child(model: str, batch_size: int, micro: int) -> tuple[float, float]:
    """MiB and seconds of a process of its own."""
    command = [sys.executable, __file__, "--child", model, str(batch_size), str(micro)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(lines[-2]), float(lines[-1])


def measure(name: str, *, batch_size: int, micro: int) -> None:
    """Prints this process's peak in MiB, and the seconds of an update."""
    import keras
    import numpy as np

    import tfbatch

    x = np.random.default_rng(0).random((batch_size, 32, 32, 3), np.float32)
    y = np.zeros(batch_size, np.int32)
    model = importlib.import_module(f"tfbatch.models.{name}").build((32, 32, 3), 10)
    if micro:
        tfbatch.accumulated(model, micro_batch_size=micro)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(0.01, momentum=0.9), loss=loss, jit_compile=False)
    model.fit(x, y, batch_size=batch_size, verbose=0)
    start = time.perf_counter()
    model.fit(x, y, batch_size=batch_size, epochs=_UPDATES, verbose=0)
    seconds = (time.perf_counter() - start) / _UPDATES
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    print(peak / 1024, seconds)


if __name__ == "__main__":
    main()
