"""This package, through `tfbatch.find_batch_size` and a search of exactly the listed pairs.

Nothing of it is left out: the records are written anew in each run, the untrained model is
measured, the baseline (32, constant) is trained besides the listed pairs, curves, journal and
weights go to disk, and the best model is evaluated on test and saved. All of that counts.

The search draws at random, as KerasTuner does, and KerasTuner's oracle gives up after 21
repetitions in a row. With `SEED` it finds all 24 pairs; `run` fails where it does not.
"""

from __future__ import annotations

import collections
import json
from pathlib import Path
from typing import Any

import tfbatch
from trial_cost import images, plan
from trial_cost.plan import Job, Pair, Trained
from trial_cost.timed import build

SEED = 1
BASELINE = Pair(32, "constant")

RECIPE = f"""\
description: a part of CIFAR-10
source: {{name: tfds, dataset: {images.NAME}}}
splits: {{train: train, validation: validation, test: test}}
features:
  image: {{kind: image, shape: [32, 32, 3], stored: encoded}}
  label: {{kind: label, num_classes: 10}}
normalization: {{mean: {list(images.MEAN)}, standard_deviation: {list(images.STANDARD_DEVIATION)}}}
trial_length: 1 epoch
objective: val_accuracy:max
baseline: {{batch_size: {BASELINE.batch_size}, learning_rate: {BASELINE.learning_rate}}}
"""

SEARCH = f"""\
description: the batch sizes and schedules of the comparison
oracle: {{name: random}}
max_trials: {len(plan.BATCH_SIZES) * len(plan.SCHEDULES)}
space:
  batch_size: {list(plan.BATCH_SIZES)}
  base_batch_size: {plan.BASE_BATCH_SIZE}
  base_learning_rate: {plan.BASE_LEARNING_RATE}
  scaling_rule: linear
  learning_rate_octaves: 0.0
  warmup_fraction: 0.0
  schedules:
    - {{name: constant}}
    - {{name: linear}}
    - {{name: cosine}}
    - {{name: wsd, cooldown: {plan.COOLDOWN}, shape: one_minus_sqrt}}
  optimizer: {{name: sgd, momentum: {plan.MOMENTUM}}}
confirmation: {{seeds: 0}}
"""


def run(job: Job) -> list[Trained]:
    """Runs the search with the default number of workers: the whole machine.

    Raises:
        RuntimeError: The trials are not the listed ones, or one did not complete.
    """
    return _run(job, workers=None)


def run_in_one_worker(job: Job) -> list[Trained]:
    """Runs the search in one worker, with all threads.

    Raises:
        RuntimeError: The trials are not the listed ones, or one did not complete.
    """
    return _run(job, workers=1)


def _run(job: Job, *, workers: int | None) -> list[Trained]:
    (job.folder / "part.yaml").write_text(RECIPE, encoding="utf-8")
    (job.folder / "pairs.yaml").write_text(SEARCH, encoding="utf-8")
    search(job, workers=workers)
    rows = read_rows(job.folder / "run")
    _check(rows, job.pairs)
    return [Trained(r["batch_size"], r["schedule"], r["metric_val_accuracy"]) for r in rows]


def search(job: Job, *, workers: int | None) -> None:
    """The one call that is measured; its run folder is `job.folder / "run"`."""
    tfbatch.find_batch_size(
        build,
        job.folder / "part.yaml",
        search=str(job.folder / "pairs.yaml"),
        batch_sizes=sorted({pair.batch_size for pair in job.pairs}),
        max_trials=len(job.pairs),
        trial_length="1 epoch",
        seed=SEED,
        run_dir=job.folder / "run",
        data_dir=job.data_dir,
        records_dir=job.folder / "records",
        workers=workers,
        verbose=0,
    )


def read_rows(run_dir: Path) -> list[dict[str, Any]]:
    """The journal of a run."""
    lines = (run_dir / "trials.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _check(rows: list[dict[str, Any]], pairs: tuple[Pair, ...]) -> None:
    """A comparison of other trials, or of shortened ones, would be none."""
    short = [row["trial"] for row in rows if row["examples"] != plan.TRAIN]
    if short:
        raise RuntimeError(f"These trials were not trained to their end: {', '.join(short)}.")
    ran = collections.Counter(Pair(row["batch_size"], row["schedule"]) for row in rows)
    expected = collections.Counter((BASELINE, *pairs))
    if len(pairs) < len(plan.BATCH_SIZES) * len(plan.SCHEDULES):
        return  # a quick look: fewer trials are drawn from the whole grid
    if ran != expected:
        raise RuntimeError(
            f"The search did not run the listed trials: missing {expected - ran}, "
            f"too many {ran - expected}. Choose another SEED."
        )
