"""The names of a run folder's files and folders: here and nowhere else."""

from __future__ import annotations

from pathlib import Path

LOCK = ".lock"
"""Held by the process that directs the run."""
WORKERS_LOCK = ".workers"
"""Held by every worker process while it lives."""
SETTINGS = "config.json"
"""What makes two runs comparable, and the budget."""
FINGERPRINT = "fingerprint.json"
"""Hardware, software, and the load of other processes."""
JOURNAL = "trials.jsonl"
"""One line for each finished trial: the truth about a run."""
OPEN_TRIALS = "open_trials.json"
"""What the search has proposed for the trials that run."""
TRIALS_CSV = "trials.csv"
"""The journal as a table."""
RECOMMENDATION = "recommendation.json"
"""The answer."""
REPORT = "report.html"
"""The answer and its evidence as figures, on one page."""
BEST_CONFIGURATION = "best.yaml"
"""The recommended training, for `python -m tfbatch.train --config`."""
BEST_MODEL = "best.keras"
"""The model of the recommended training's first seed."""
CHANCE_LEVEL = "chance_level.json"
"""The objective's value without learning, which every answer must beat."""
STEP_TIMES = "step_times.json"
"""Seconds of a step at each verified batch size, alone on the device."""
PRICES = "prices.json"
"""What training costs at each batch size, where the search proposes by it; never changed."""
GPU_SHARING = "gpu_sharing.json"
"""How many trials share a GPU, with `--workers_per_gpu=auto`."""
MEMORY_LIMIT = "memory_limit.json"
"""The largest batch that fits, with `--memory_budget`."""
REUSED = "reused.json"
"""Of a run with `--from`: whose trials it has, and what that assumes."""
CLUSTER = "cluster.json"
"""The nodes of a Ray cluster that have run trials, their GPUs, and the kind that verifies."""
WALL_TIME = "wall_time.json"
"""Seconds of all sessions."""
LIBRARY_LOG = "tensorflow.log"
"""What libraries print in the process that directs the run."""
WORKER_LOGS = "logs"
"""What worker processes print."""
EVIDENCE = "evidence"
"""Of a court: what each card has found, a file each."""
MEASUREMENTS = "measurements"
"""Of a court: what was measured without a trial, a file each."""
VERDICTS = "verdicts.json"
"""Of a court: its verdicts."""
VERDICTS_PAGE = "verdicts.html"
"""Of a court: its verdicts and their evidence, on one page."""
OWN_DATA = "data"
"""A user's own arrays and Datasets."""
TENSORBOARD = "tensorboard"
"""Curves, and rows of the HParams view."""
APPENDIX = "appendix"
"""The appendix of a paper, with its figures."""
SET_ASIDE = "curves"
"""Below the folder of a trial that failed: its curves, which end in no final value."""
WEIGHTS = "weights"
"""Weights that later steps of a run need."""
CHECKPOINTS = "checkpoints"
"""Checkpoints of running trials."""
PARTIAL = "partial-"
"""How the name of a checkpoint begins that is being written."""
STATES = "states"
"""End states of trials that others may go on from."""


def weights_file(run_dir: Path, trial: str) -> Path:
    """Where a trial's final weights are kept."""
    return run_dir / WEIGHTS / f"{trial}.weights.h5"


def kept_weights(run_dir: Path) -> dict[str, Path]:
    """The files of final weights that there are, by their trials' names."""
    files = (run_dir / WEIGHTS).glob("*.weights.h5")
    return {file.name.removesuffix(".weights.h5"): file for file in files}


def checkpoint_file(run_dir: Path, trial: str) -> Path:
    """Where a running trial keeps its last epoch."""
    return run_dir / CHECKPOINTS / f"{trial}.npz"


def partial_file(checkpoint: Path) -> Path:
    """Where a checkpoint is written before it is renamed into its place."""
    return checkpoint.with_name(f"{PARTIAL}{checkpoint.name}")


def state_file(run_dir: Path, trial: str) -> Path:
    """Where a trial keeps its end state."""
    return run_dir / STATES / f"{trial}.npz"


def worker_log(logs: Path, worker: int | str) -> Path:
    """What a worker prints, by its number; "alone" is the one that measures without others."""
    return logs / f"worker-{worker}.log"


def curves_name(
    trial: str,
    *,
    batch_size: int,
    learning_rate: float,
    schedule: str,
    seed: int,
    branch_at: int = 0,
) -> str:
    """The folder of a trial's curves below TENSORBOARD: what TensorBoard calls the run.

    Such as "batch 64, rate 0.02, wsd, seed 7, search-0003". A branch also says at which example it
    leaves its parent.
    """
    branch = f", branch at {branch_at}" if branch_at else ""
    said = f"batch {batch_size}, rate {learning_rate:.3g}, {schedule}, seed {seed}"
    return f"{said}{branch}, {trial}"


def curves_of(trial: str, curves: str | None) -> str:
    """The folder of a finished trial's curves below TENSORBOARD, by what the journal says of it.

    Args:
        trial: Its name: earlier versions called the folder so.
        curves: The folder, where the journal names one.
    """
    return curves or trial
