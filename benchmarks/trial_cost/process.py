"""One engine in one process, begun by the driver: `python -m trial_cost.process JOB`."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from trial_cost.parts import FOLDER
from trial_cost.plan import Job, Trained

ENGINES = {
    "bare": "bare:in_graph",
    "bare_python_loop": "bare:in_python",
    "bare_side_by_side": "side_by_side:run",
    "keras_tuner": "with_keras_tuner:with_guide_data",
    "keras_tuner_resident": "with_keras_tuner:with_resident_data",
    "optuna": "with_optuna:with_guide_data",
    "optuna_resident": "with_optuna:with_resident_data",
    "tfbatch": "with_tfbatch:run",
    "tfbatch_one_worker": "with_tfbatch:run_in_one_worker",
}
"""Module and function of each engine."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What an engine tells at its end.

    Attributes:
        ready_at: `time.monotonic()` after all imports; the clock is the machine's, not a process's.
        trained: Every trial that was run.
    """

    ready_at: float
    trained: tuple[Trained, ...]


def start(job: Job, log: IO[str]) -> subprocess.Popen[str]:
    """Begins an engine's process; what the libraries print goes to `log`."""
    folder = str(Path(__file__).parents[1])
    path = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-m", "trial_cost.process", str(job.write())],
        env={"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ, "PYTHONPATH": path},
        stdout=log,
        stderr=log,
        text=True,
    )


def outcome_of(job: Job) -> Outcome:
    """What the engine told."""
    data = json.loads(_told(job).read_text(encoding="utf-8"))
    return Outcome(data["ready_at"], tuple(Trained(**trained) for trained in data["trained"]))


def engine(name: str) -> Callable[[Job], list[Trained]]:
    """Imports an engine with all its libraries."""
    module, function = ENGINES[name].split(":")
    found: Callable[[Job], list[Trained]] = getattr(
        importlib.import_module(f"trial_cost.{module}"), function
    )
    return found


def main(path: Path) -> None:
    """Runs the job."""
    job = Job.read(path)
    run = engine(job.engine)
    if job.threads:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(job.threads)
        tf.config.threading.set_inter_op_parallelism_threads(job.threads)
    if os.environ.get(FOLDER) and job.engine != "bare_side_by_side":  # that imports nothing
        from trial_cost.timed import install

        install(job.engine)
    ready_at = time.monotonic()
    outcome = Outcome(ready_at, tuple(run(job)))
    _told(job).write_text(json.dumps(dataclasses.asdict(outcome)), encoding="utf-8")


def _told(job: Job) -> Path:
    return job.folder / "outcome.json"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
