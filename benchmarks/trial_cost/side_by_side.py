"""As many bare loops as there are cores, each with one thread and its share of the trials.

What a machine can do at best with small networks: two loops of one thread each do more than one
loop of two threads. This process itself imports no TensorFlow: the loops' start-up is in
all of its figures.
"""

from __future__ import annotations

import os
import subprocess
import sys

from trial_cost.plan import Job, Pair, Trained
from trial_cost.process import outcome_of, start


def run(job: Job) -> list[Trained]:
    """Runs one bare loop for each core.

    Raises:
        CalledProcessError: One of them failed.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = shares(job.pairs, min(cores or 1, len(job.pairs)))
    running = []
    for number, pairs in enumerate(parts):
        folder = job.folder / f"part-{number}"
        folder.mkdir()
        seed = job.seed + sum(map(len, parts[:number]))
        part = Job("bare", pairs, job.data_dir, folder, seed=seed, threads=1)
        running.append((part, start(part, sys.stderr)))
    for _, process in running:
        if process.wait():
            raise subprocess.CalledProcessError(process.returncode, "bare")
    return [trained for part, _ in running for trained in outcome_of(part).trained]


def shares(pairs: tuple[Pair, ...], count: int) -> list[tuple[Pair, ...]]:
    """Deals the pairs out, each batch size in turn, so that the shares cost alike."""
    return [tuple(sorted(pairs)[number::count]) for number in range(count)]
