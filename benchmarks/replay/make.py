"""Makes a table with the package itself: a run for each seed, in which the plan is the search.

A run that was stopped goes on where it was: what has ended is in its journal.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from replay.oracle import Settings
from replay.plan import TablePlan, Training
from replay.table import Curve, Table, Trained
from tfbatch.answer.step_seconds import StepSeconds, read_step_seconds
from tfbatch.configuration import Configuration
from tfbatch.errors import NothingLearnedError
from tfbatch.exporters._trial import read_curves
from tfbatch.finder import run_request
from tfbatch.instruments.open_bench import open_bench
from tfbatch.oracles import Part
from tfbatch.process.stop_signal import python_interrupt
from tfbatch.quantities import TrainingLength
from tfbatch.request.execution import Execution
from tfbatch.request.model_and_data import resolve_model_and_data
from tfbatch.request.request import Request
from tfbatch.request.search_config import SearchConfig, Space, VerificationConfig
from tfbatch.run_folder.files import FINGERPRINT, JOURNAL, STEP_TIMES, TENSORBOARD
from tfbatch.run_folder.wall_time import spent_seconds
from tfbatch.schema import JsonObject, Named
from tfbatch.search.progress import progress_lines
from tfbatch.trial.finished_trial import FinishedTrial
from tfbatch.trial.objective import Objective
from tfbatch.trial.trials import Trials
from tfbatch.trial_status import Status

CIFAR10_PART = "cifar10_part"
TRAIN, VALIDATION, TEST = 10_000, 2_500, 1_000
"""Images of CIFAR-10's training split, in its order; nothing here asks for the test split."""
SPARE_TRIALS = 50
"""For trainings whose process was killed, which are made again."""

_RECIPE = """\
description: 10,000 images of CIFAR-10 to train on, 2,500 to validate, 1,000 to test
source: {{name: npz, path: {path}}}
splits: {{train: train, validation: validation, test: test}}
features:
  image: {{kind: image, shape: [32, 32, 3], stored: raw}}
  label: {{kind: label, num_classes: 10}}
normalization: {{mean: [0.4914, 0.4822, 0.4465], standard_deviation: [0.2470, 0.2435, 0.2616]}}
augmentation:
  - {{name: horizontal_flip}}
  - {{name: random_crop, padding: 2}}
trial_length: 8 epochs
objective: val_loss:min
"""


def dataset_of(plan: TablePlan, folder: Path, *, data_dir: Path | None) -> str:
    """What finds the plan's data: a recipe's name, or the path of one that is written here.

    Args:
        plan: The plan.
        folder: Where all that is made lies.
        data_dir: The folder of TensorFlow Datasets that holds cifar10/, or None for its default.
    """
    if plan.data != CIFAR10_PART:
        return plan.data
    recipe, arrays = (folder / "data" / f"{CIFAR10_PART}.{end}" for end in ("yaml", "npz"))
    if not recipe.exists():
        import tensorflow_datasets as tfds

        recipe.parent.mkdir(parents=True, exist_ok=True)
        count = TRAIN + VALIDATION + TEST
        examples = tfds.load("cifar10", split=f"train[:{count}]", data_dir=data_dir, batch_size=-1)
        images, labels = (examples[key].numpy() for key in ("image", "label"))
        ends = (0, TRAIN, TRAIN + VALIDATION, count)
        spans = zip(("train", "val", "test"), itertools.pairwise(ends), strict=True)
        split = {
            f"{name}_{which}": values[low:high]
            for which, (low, high) in spans
            for name, values in (("x", images), ("y", labels))
        }
        np.savez(arrays, **split)
        recipe.write_text(_RECIPE.format(path=arrays.resolve()), encoding="utf-8")
    return str(recipe)


def configuration_of(plan: TablePlan, batch_size: int) -> Configuration:
    """A trunk at 0 octaves: for step times."""
    return Configuration(
        batch_size=batch_size,
        base_learning_rate=plan.base_learning_rate,
        base_batch_size=plan.base_batch_size,
        scaling_rule=Named(name=plan.scaling_rule),
        optimizer=Named(name="sgd", momentum=plan.momentum),
    )


def request_of(
    plan: TablePlan, dataset: str, run_dir: Path, *, seed: int, workers: int | None
) -> Request:
    """The search that makes one seed of a plan."""
    space = Space(
        batch_size=plan.batch_sizes,
        base_batch_size=plan.base_batch_size,
        base_learning_rate=plan.base_learning_rate,
        scaling_rule=Named(name=plan.scaling_rule),
        learning_rate_octaves=plan.octaves,
        warmup_fraction=plan.warmup_examples / plan.total_examples,
        schedules=(Named(name="constant"), Named(name="cosine")),
        optimizer=Named(name="sgd", momentum=plan.momentum),
    )
    search = SearchConfig(
        description=f"the replay table {plan.name}",
        oracle=Settings(plan=plan),
        max_trials=len(plan.trainings()) + SPARE_TRIALS,
        space=space,
        confirmation=VerificationConfig(batch_sizes=1, seeds=0),
    )
    return Request(
        subject=resolve_model_and_data(
            apart=workers != 0,
            dataset=dataset,
            model=plan.model,
            baseline=f"batch_size={plan.base_batch_size},learning_rate={plan.base_learning_rate}",
        ),
        search=search,
        objective=Objective.parse("val_loss:min"),
        trial_length=TrainingLength(amount=plan.total_examples, unit="examples"),
        seed=seed,
        max_minutes=None,
        execution=Execution(workers=workers),
        run_dir=run_dir,
        overwrite=False,
    )


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the parts of a table lie while it is made."""

    folder: Path
    plan: TablePlan

    @property
    def step_times(self) -> Path:
        """The folder of the step times."""
        return self.folder / self.plan.name

    def run_dir(self, seed: int) -> Path:
        """The run folder of one seed."""
        return self.folder / self.plan.name / f"seed-{seed}"

    def trials(self, seed: int) -> Trials:
        """What is in a run's journal; none where it has not begun."""
        if not (self.run_dir(seed) / JOURNAL).exists():
            objective = Objective.parse("val_loss:min")
            return Trials(objective=objective, total_examples=self.plan.total_examples)
        return Trials.read(self.run_dir(seed))


def make_runs(
    place: Place, dataset: str, *, seeds: tuple[int, ...], workers: int | None, verbose: int = 1
) -> bool:
    """Makes the runs of some seeds, or goes on with them.

    Returns:
        False if Ctrl-C ended it.
    """
    for seed in seeds:
        request = request_of(place.plan, dataset, place.run_dir(seed), seed=seed, workers=workers)
        request.run_dir.mkdir(parents=True, exist_ok=True)
        progress = progress_lines(verbose)
        progress.say(f"{place.plan.name}, seed {seed} of {place.plan.seeds}")
        with python_interrupt(lambda: print("Stopping.", flush=True)) as stop:
            progress.on_begin = stop.keep
            try:
                result = run_request(
                    request, progress=progress, stop_requested=stop, started=time.monotonic()
                )
            except NothingLearnedError as error:  # all that was asked for is in the journal
                progress.say(str(error))
            else:
                if result.failure:
                    raise result.failure
            if stop():
                return False
    return True


def measure_step_times(
    place: Place, dataset: str, *, workers: int | None = None, verbose: int = 1
) -> StepSeconds:
    """Seconds of an update at each batch size, alone on the machine; kept, and measured once.

    Raises:
        ValueError: The training split has not the size that the plan names.
    """
    plan, known = place.plan, read_step_seconds(place.step_times)
    if all(known.rounds.get(size) for size in plan.batch_sizes) and known.validation is not None:
        return known
    from tfbatch.training.step_times import keep_step_times

    place.step_times.mkdir(parents=True, exist_ok=True)
    execution = Execution(workers=0 if workers == 0 else 1)
    said = progress_lines(verbose)
    with open_bench(plan.model, dataset, execution=execution, progress=said) as bench:
        found = bench.data.splits["train"]
        if found != plan.epoch_examples:
            raise ValueError(
                f"`epoch_examples` of {plan.name} must be the size of the training split. "
                f"Received: {plan.epoch_examples}, and {plan.data} has {found}."
            )
        bench.measure(
            keep_step_times,
            [configuration_of(plan, size) for size in plan.batch_sizes],
            place.step_times / STEP_TIMES,
            bench.devices.name,
        )
    return read_step_seconds(place.step_times)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What making a table takes, all seeds together.

    Attributes:
        trainings: How many, parts and branches counted singly.
        seconds: Of their updates and evaluations one after another, by the measured step times;
            starting trials is not in it.
        done: Trainings that have ended, or that nothing can go on to since their trunk failed.
        left_seconds: What is left, by what the finished ones took; None before the first ones.
    """

    trainings: int
    seconds: float
    done: int
    left_seconds: float | None


def estimate(place: Place, times: StepSeconds) -> Estimate:
    """A prediction from step times; from finished trials where there are some.

    Args:
        place: The plan and its runs.
        times: Step times of every batch size, and of an evaluation.
    """
    plan, every = place.plan, place.plan.trainings()
    step = {size: statistics.median(times.rounds[size]) for size in plan.batch_sizes}
    cost = {t: plan.seconds(t, step, times.validation or 0.0) for t in every}
    total = plan.seeds * sum(cost.values())
    made: list[Training] = []
    wall = 0.0
    for seed in range(1, plan.seeds + 1):
        trials = place.trials(seed)
        ended = dict(_named(plan, trials))
        made += [*ended, *_without_parent(plan, ended)]
        wall += spent_seconds(place.run_dir(seed), [t.row for t in trials]) if trials else 0.0
    done = sum(cost[training] for training in made)
    return Estimate(
        trainings=plan.seeds * len(every),
        seconds=total,
        done=len(made),
        left_seconds=(total - done) * wall / done if done else None,
    )


def collect(place: Place, times: StepSeconds, *, command: str) -> Table:
    """The table of all that is in the journals."""
    plan = place.plan
    runs: JsonObject = {}
    trained: list[Trained] = []
    for seed in range(1, plan.seeds + 1):
        run_dir = place.run_dir(seed)
        trials = place.trials(seed)
        if not trials:
            continue
        runs[str(seed)] = _fingerprint(run_dir)
        trained += _trained(plan, trials, run_dir, seed)
    about: JsonObject = {
        "command": command,
        "device": times.device,
        "validation_seconds": times.validation,
        "runs": runs,
    }
    return Table(plan, trained, step_seconds=times.rounds, about=about)


def _named(plan: TablePlan, trials: Trials) -> Iterator[tuple[Training, FinishedTrial]]:
    """Which training of the plan each trial is; of one that was made again, the last one."""
    found: dict[str, Training] = {}
    last: dict[Training, FinishedTrial] = {}
    for trial in sorted(trials.of_phase("search"), key=lambda t: t.trial):
        values = {
            "batch_size": trial.configuration.batch_size,
            "learning_rate_octaves": trial.configuration.learning_rate_octaves,
        }
        found[trial.trial] = plan.training(
            values, _part(plan, trial), found[trial.parent] if trial.parent else None
        )
        last[found[trial.trial]] = trial
    yield from last.items()


def _part(plan: TablePlan, trial: FinishedTrial) -> Part | None:
    """What was proposed for a trial of the journal."""
    if trial.parent is None and trial.to_examples is None:
        return None
    branched = trial.course_from > 0 and trial.course_from == trial.from_examples
    total = trial.total_examples
    return Part(
        to_examples=None if trial.length == total else trial.length,
        total_examples=None if total == plan.total_examples else total,
        parent=trial.parent,
        schedule=trial.configuration.schedule if branched else None,
    )


def _without_parent(
    plan: TablePlan, made: Mapping[Training, FinishedTrial]
) -> dict[Training, Status]:
    """What was never begun since its parent failed, with the parent's status."""
    absent: dict[Training, Status] = {}
    for training in plan.trainings():
        parent = plan.parent(training)
        if training in made or parent is None:
            continue
        if parent in absent:
            absent[training] = absent[parent]
        elif parent in made and made[parent].score is None:
            absent[training] = made[parent].status
    return absent


def _trained(plan: TablePlan, trials: Trials, run_dir: Path, seed: int) -> Iterator[Trained]:
    made = dict(_named(plan, trials))
    for training, status in _without_parent(plan, made).items():
        nothing = Curve(np.zeros(0, "i4"), np.zeros(0, "f4"), np.zeros(0, "f4"))
        yield Trained(training, seed, status, math.nan, math.nan, 0, 0, 0.0, nothing)
    for training, trial in made.items():
        before = trials.find(trial.parent) if trial.parent else None
        completed = trial.status == "completed"
        yield Trained(
            training=training,
            seed=seed,
            status=trial.status,
            loss=trial.metrics["val_loss"] if completed else math.nan,
            accuracy=trial.metrics["val_accuracy"] if completed else math.nan,
            examples=trial.examples - trial.from_examples,
            steps=trial.steps - (before.steps if before else 0),
            seconds=trial.training_seconds - (before.training_seconds if before else 0.0),
            curve=_curve(run_dir, trial),
            random_seed=trial.seed,
        )


def _curve(run_dir: Path, trial: FinishedTrial) -> Curve:
    points = read_curves(run_dir / TENSORBOARD, trial.row)
    seen = [p.values for p in points if "val_loss" in p.values]
    return Curve(
        np.array([values["examples"] for values in seen], np.int32),
        np.array([values["val_loss"] for values in seen], np.float32),
        np.array([values["val_accuracy"] for values in seen], np.float32),
    )


def _fingerprint(run_dir: Path) -> JsonObject:
    found: JsonObject = json.loads((run_dir / FINGERPRINT).read_text(encoding="utf-8"))
    return found
