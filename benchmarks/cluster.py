"""What a trial costs more on a node of a Ray cluster than in a worker process of this machine.

usage: python benchmarks/cluster.py [--tasks=200]

A cluster of one node is started here. A task that does nothing is sent to a worker process of this
machine and to one on the node in turns, with as many bytes of arguments as a trial has: what the
second takes longer is the way through the actor, which a trial has once.

Result: 7.0 ms more (median of 200 pairs, two busy cores of an Intel Xeon): at most 5 % of a trial
of 0.14 s or longer. Whole trials of one second took 1.05 to 1.08 x as long (3 pairs).
Evidence: benchmarks/results/trials.md
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from ray.cluster_utils import Cluster

from tfbatch.run_folder.fingerprint import hardware, software
from tfbatch.workers.ray_slot import RaySlot, Seat, connect, disconnect, living_nodes
from tfbatch.workers.slot import Slot, Start, TaskSlot

ARGUMENTS = bytes(10_000)
STORE = 80 * 2**20


def main() -> None:
    """Measures, and prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=200)
    tasks = parser.parse_args().tasks
    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": STORE}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    connect(cluster.address)
    try:
        with tempfile.TemporaryDirectory() as folder:
            start = Start(Path(folder) / "log", None, os.getpid)
            seat = Seat(living_nodes()[0], cpus=1, gpus=0)
            slots: dict[str, TaskSlot] = {
                "this machine": Slot(start),
                "node": RaySlot(seat, "0", start, stall_seconds=float("inf")),
            }
            seconds = measure(slots, tasks)
            for slot in slots.values():
                slot.close()
    finally:
        disconnect()
        cluster.shutdown()
    print(f"{hardware([])}\n{software()}")
    for name, found in seconds.items():
        low, middle, high = statistics.quantiles(found, n=4)
        print(f"{name}: median {middle * 1e3:.1f} ms, quartiles {low * 1e3:.1f}, {high * 1e3:.1f}")
    there, here = seconds["node"], seconds["this machine"]
    more = statistics.median(a - b for a, b in zip(there, here, strict=True))
    print(f"more on the node: median {more * 1e3:.1f} ms of {tasks} pairs")
    print(f"5 % of a trial of {more / 0.05:.2f} s")


def measure(slots: dict[str, TaskSlot], tasks: int) -> dict[str, list[float]]:
    """Seconds of each task from its start to its result, without those of the processes' start."""
    found: dict[str, list[float]] = {name: [] for name in slots}
    for number in range(tasks + 1):
        for name, slot in slots.items():
            begun = time.perf_counter()
            slot.submit(len, ARGUMENTS)
            slot.result()
            if number:
                found[name].append(time.perf_counter() - begun)
    return found


if __name__ == "__main__":
    main()
