"""The memory finder's answer against exhaustive bisection, for each model.

    python benchmarks/largest_batch.py --dataset=cifar10 --budgets=mlp:1100,resnet:1300

The true limit is the largest batch whose peak (the median of `--repeats` fresh processes) stays
within the budget, found by bisection to 2 %. Budgets are in MiB, of the whole process.

Result: answer / true limit is 0.937 to 1.026 in nine runs and 0.873 in one, which was made with
another setting of the noise (one run a row; two CPU cores of an AMD EPYC, TensorFlow 2.21, Keras
3.15.1).
Evidence: benchmarks/results/largest_batch.md
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tfbatch.instruments.open_bench import open_bench
from tfbatch.largest_batch.measurement import measure_memory, open_prober
from tfbatch.largest_batch.training_load import UsableMemory, measure_training
from tfbatch.request.execution import Execution

CLOSE = 0.02


def main() -> None:
    """Prints a row for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--budgets", required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--records_dir", type=Path)
    flags = parser.parse_args()
    print("model budget answer peak processes seconds verdict predicted true share spread")
    for entry in flags.budgets.split(","):
        model, budget = entry.split(":")
        print(*row(model, int(budget), flags), flush=True)


def row(model: str, budget: int, flags: argparse.Namespace) -> list[object]:
    """The finder's answer, and the true limit."""
    limit = budget * 2**20
    unlimited = Execution(workers=1, memory_seconds=math.inf)
    with open_bench(
        model, flags.dataset, records_dir=flags.records_dir, execution=unlimited
    ) as bench:
        began = time.monotonic()
        found = measure_memory(bench, budget_bytes=limit, margin=0.0, evaluation=False).training
        seconds = time.monotonic() - began
        climb = bench.task(measure_training, bench.configuration(1), 1)
        usable = UsableMemory("CPU", 2**40, 1)
        with open_prober(bench, climb, usable=usable, budget_bytes=limit) as prober:

            def peaks(size: int) -> list[int]:
                runs = [prober.run([size]) for _ in range(flags.repeats)]
                return [run.peaks[0].peak_bytes if run.peaks else 2**62 for run in runs]

            low, high, spread = 0, 0, 0.0
            while found.batch_size and (not low or not high or high - low > max(1, CLOSE * low)):
                outwards = int(low * 1.06) + 1 if low else int(high * 0.95) or found.batch_size
                size = (low + high) // 2 if low and high else outwards
                measured = peaks(size)
                middle = statistics.median(measured)
                spread = max(spread, (max(measured) - min(measured)) / middle)
                low, high = (size, high) if middle <= limit else (low, size)
            predicted = found.predicted.batch_size if found.predicted else "-"
    return [
        *(model, budget, found.batch_size, (found.peak_bytes or 0) >> 20, len(found.runs)),
        *(round(seconds), found.answer.verdict, predicted, low),
        *(round(found.batch_size / max(low, 1), 3), f"{spread:.1%}"),
    ]


if __name__ == "__main__":
    main()
