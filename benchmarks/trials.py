"""Seconds a trial: bare loops, KerasTuner, Optuna and this package on the same 24 trials.

usage: python benchmarks/trials.py --data_dir=DIR [--rounds=3] [--engines=bare,keras_tuner,...]
       python benchmarks/trials.py --data_dir=DIR --parts [--rounds=1]

Each trial trains a network of six convolutions for one epoch on 8,000 images of CIFAR-10 and
evaluates it on 2,000: six batch sizes, four schedules. Each engine is a process of its own, timed
from its start to its end. Rounds are interleaved, and begin with another engine each; ratios are
taken within a round. The first line of each engine's report divides all its seconds by the 24
listed trials, also where it trains more of its own accord. See benchmarks/trial_cost for what each
engine is. Optuna is in the extra `benchmarks` of this package.

With `--parts` bare loops side by side and tfbatch are run, and a table tells where the time of a
trial goes, part by part; the timing itself takes a few ms of each trial.

Result: seconds a trial in two runs (n = 1 each): bare loop 1.85 and 2.31, tfbatch with two workers
2.60 and 2.31, with one 3.47 and 3.04, KerasTuner with resident data 4.85 and 4.26 (two busy CPU
cores of an AMD EPYC).
Evidence: benchmarks/results/trials.md
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from process_tree import PeakMemory
from trial_cost.parts import FOLDER, table
from trial_cost.plan import Job, grid
from trial_cost.process import ENGINES, outcome_of, start
from trial_cost.report import Run, lines

from tfbatch.run_folder.fingerprint import hardware, software

IN_PARTS = ("bare_side_by_side", "tfbatch")


def versions() -> dict[str, Any]:
    """Hardware and software; the rivals' versions too."""
    found: dict[str, Any] = {**software(), **hardware([])}
    try:
        found["optuna"] = importlib.metadata.version("optuna")
    except importlib.metadata.PackageNotFoundError:
        found["optuna"] = "not installed"
    return found


def write_images(source: str | None, target: Path) -> None:
    """Writes the images in a process of their own: this one stays without TensorFlow."""
    subprocess.run(
        [sys.executable, "-m", "trial_cost.images", source or "", str(target)],
        cwd=Path(__file__).parent,
        env={"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ},
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def run_engine(job: Job, number: int) -> Run:
    """Runs one engine to its end.

    Raises:
        SystemExit: It failed; its last lines are shown.
    """
    log = job.folder / "log.txt"
    with log.open("w", encoding="utf-8") as file:
        began, before = time.monotonic(), _children_seconds()
        process = start(job, file)
        memory = PeakMemory(process.pid)
        memory.start()
        code = process.wait()
        seconds = time.monotonic() - began
    memory.end()
    if code:
        sys.exit(f"{job.engine} failed ({code}):\n{log.read_text(encoding='utf-8')[-3000:]}")
    outcome = outcome_of(job)
    return Run(
        engine=job.engine,
        round=number,
        trials=len(job.pairs),
        trained=len(outcome.trained),
        seconds=seconds,
        start_seconds=outcome.ready_at - began,
        processor_seconds=_children_seconds() - before,
        peak_rss=memory.peak_rss,
        final_rss=memory.final_rss,
        peak_pss=memory.peak_pss,
        accuracies=tuple(dataclasses.astuple(trained) for trained in outcome.trained),
    )


def _children_seconds() -> float:
    """Processor seconds of all processes that were begun here and have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def compare(engines: list[str], *, rounds: int, trials: int, data_dir: str | None) -> Iterator[Run]:
    """All rounds; prints a line for each run."""
    with tempfile.TemporaryDirectory(prefix="trials-") as scratch:
        images = Path(scratch) / "data"
        write_images(data_dir, images)
        for number in range(1, rounds + 1):
            first = (number - 1) % len(engines)
            for engine in (*engines[first:], *engines[:first]):
                folder = Path(scratch) / f"{number}-{engine}"
                folder.mkdir()
                job = Job(engine, grid(trials, seed=number), images, folder, seed=number)
                run = run_engine(job, number)
                shutil.rmtree(folder)
                print(
                    f"round {number}, {engine}: {run.seconds:.1f} s for {run.trials} trials, "
                    f"{run.seconds_a_trial:.2f} s each",
                    flush=True,
                )
                yield run


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", default=os.environ.get("TFDS_DATA_DIR"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engines", default=",".join(ENGINES), help="any of the default ones")
    parser.add_argument("--parts", action="store_true", help="where the time of a trial goes")
    parser.add_argument("--trials", type=int, default=24, help="fewer for a quick look")
    parser.add_argument("--output", type=Path, default=Path("trials.json"))
    arguments = parser.parse_args()
    engines = list(IN_PARTS) if arguments.parts else arguments.engines.split(",")
    unknown = [engine for engine in engines if engine not in ENGINES]
    if unknown:
        parser.error(f"unknown engine {unknown[0]}; available: {', '.join(ENGINES)}")
    print(json.dumps(versions()))
    content: dict[str, Any] = {"versions": versions(), "runs": []}
    runs = []
    with tempfile.TemporaryDirectory(prefix="parts-") as parts:
        if arguments.parts:
            os.environ[FOLDER] = parts
        for run in compare(
            engines, rounds=arguments.rounds, trials=arguments.trials, data_dir=arguments.data_dir
        ):
            runs.append(run)
            content["runs"].append(dataclasses.asdict(run))
            # After each run: what took minutes to measure is not lost with a later one.
            arguments.output.write_text(json.dumps(content, indent=1), encoding="utf-8")
        print("\n".join(lines(runs)))
        if arguments.parts:
            print("\n".join(table(Path(parts))))
    print(f"Written: {arguments.output}")


if __name__ == "__main__":
    main()
