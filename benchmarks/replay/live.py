"""Searches that train: each in a process of its own, which says its answer whenever it changes.

All have the space of a replay table: its batch sizes, rates and schedules, trainings of its full
length. tfbatch's searches are real runs with workers, journal and curves. The rivals are the loops
of KerasTuner and Optuna as their guides show them, with a plain Keras model on arrays in memory,
and Keras's own layers for the augmentation of a table that has some.
"""

from __future__ import annotations

import functools
import json
import math
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from replay.make import CIFAR10_PART
from replay.plan import OCTAVES, TablePlan
from replay.searches import ENGINES, Task
from replay.simulate import Cell
from replay.table import Metric, Table
from tfbatch.metric_direction import Direction
from tfbatch.oracles import (
    BATCH_SIZE,
    NOTHING_KNOWN,
    Oracle,
    OracleSettings,
    Premises,
    Proposal,
    StagedOracle,
    Told,
    make_settings,
)

if TYPE_CHECKING:
    import keras
    import keras_tuner

MOST_TRIALS = 25
"""Of every search: the cap of the simulated ones, in whole trainings."""


def say(cell: Cell, score: float) -> None:
    """Tells whoever has started this process what would be answered now."""
    answer = {"batch_size": cell.batch_size, "octaves": cell.octaves, "schedule": cell.schedule}
    print(json.dumps({**answer, "score": score}), flush=True)


class Standing:
    """The best whole training so far.

    Args:
        metric: "loss", of which the smallest is best, or "accuracy".
    """

    def __init__(self, metric: Metric):
        self._sign = 1.0 if metric == "loss" else -1.0
        self._best = math.inf

    def hear(self, cell: Cell, score: float) -> None:
        """Says the answer if it is another one."""
        if math.isfinite(score) and self._sign * score < self._best:
            self._best = self._sign * score
            say(cell, score)


def _cell(values: Mapping[str, Any]) -> Cell:
    schedule = "cosine" if values["schedule"] == "cosine" else "wsd"
    return Cell(int(values[BATCH_SIZE]), float(values[OCTAVES]), schedule)


class Heard(OracleSettings):
    """Settings of an oracle of tfbatch, whose answers are said as it is told of trials.

    Attributes:
        name: Of no file: these settings are given to a search in Python.
        of: The oracle's own.
        metric: What is judged.
    """

    in_parts: ClassVar[bool] = True
    prices: ClassVar[bool] = True
    name: str = "heard"
    of: OracleSettings
    metric: Metric

    def make(
        self,
        hyperparameters: keras_tuner.HyperParameters,
        *,
        direction: Direction,
        seed: int,
        total_examples: int,
        premises: Premises = NOTHING_KNOWN,
    ) -> Oracle:
        """See OracleSettings."""
        oracle = self.of.make(
            hyperparameters,
            direction=direction,
            seed=seed,
            total_examples=total_examples,
            premises=premises,
        )
        tell, standing = oracle.tell, Standing(self.metric)

        def told(trial: str, proposal: Proposal, told: Told) -> None:
            tell(trial, proposal, told)
            if isinstance(oracle, StagedOracle):
                belief = oracle.belief()
                if belief is not None:
                    say(_cell(belief.values), told.score)
            elif told.completed:
                standing.hear(_cell(proposal.values), told.score)

        oracle.tell = told  # type: ignore[method-assign]
        return oracle


def with_tfbatch(oracle: str, task: Task, dataset: str, folder: Path, **settings: object) -> None:
    """A run of tfbatch with its default number of workers, its verification left out."""
    import time

    from tfbatch.finder import run_request
    from tfbatch.quantities import TrainingLength
    from tfbatch.request.execution import Execution
    from tfbatch.request.model_and_data import resolve_model_and_data
    from tfbatch.request.request import Request
    from tfbatch.request.search_config import SearchConfig, VerificationConfig
    from tfbatch.search.progress import progress_lines
    from tfbatch.trial.objective import Objective

    plan, own = task.table.plan, task.baseline
    rate = plan.learning_rate(own.batch_size, own.octaves)
    direction = "min" if task.metric == "loss" else "max"
    subject = resolve_model_and_data(
        apart=True,
        dataset=dataset,
        model=plan.model,
        baseline=f"batch_size={own.batch_size},learning_rate={rate}",
    )
    search = SearchConfig(
        description="a live race",
        oracle=Heard(of=make_settings(oracle, **settings), metric=task.metric),
        max_trials=(10 if oracle.startswith("trunks") else 1) * MOST_TRIALS,
        space=task.space(),
        confirmation=VerificationConfig(batch_sizes=1, seeds=0),
    )
    request = Request(
        subject=subject,
        search=search,
        objective=Objective.parse(f"val_{task.metric}:{direction}"),
        trial_length=TrainingLength(amount=plan.total_examples, unit="examples"),
        seed=task.seed,
        max_minutes=None,
        execution=Execution(),
        run_dir=folder / "run",
        overwrite=False,
    )
    run_request(request, progress=progress_lines(0), started=time.monotonic())


class Rival:
    """A plain Keras training of a table's cell.

    Args:
        task: The table, the metric and the seed.
        dataset: A recipe's name or path.
    """

    def __init__(self, task: Task, dataset: str):
        import keras

        import tfbatch

        self.task, self.plan = task, task.table.plan
        data = tfbatch.load_data(dataset)
        self._parts = {}
        for split in ("train", "validation"):
            batches = list(data.evaluation(split).as_numpy_iterator())
            self._parts[split] = tuple(np.concatenate(part) for part in zip(*batches, strict=True))
        self._input_shape, self._classes = data.input_shape, data.num_classes
        keras.utils.set_random_seed(task.seed)

    def compiled(self, cell: Cell) -> keras.Model:
        """The table's network with the cell's optimizer and schedule."""
        import keras

        from tfbatch.models import MODELS

        network = MODELS.load(self.plan.model).build(self._input_shape, self._classes)
        if self.plan.data == CIFAR10_PART:  # as its recipe: flipped, and moved by up to two pixels
            share = 2 / self._input_shape[0]
            moved = keras.layers.RandomTranslation(share, share, "constant", "nearest")
            network = keras.Sequential([keras.layers.RandomFlip("horizontal"), moved, network])
        network.compile(
            optimizer=keras.optimizers.SGD(self._schedule(cell), momentum=self.plan.momentum),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        return network

    def fit(self, network: keras.Model, cell: Cell, **options: Any) -> keras.callbacks.History:
        """Trains for the table's length, with Keras's own loop over arrays."""
        options = {"epochs": self._epochs, "verbose": 0, **options}
        x, y = self._parts["train"]
        return network.fit(
            x, y, batch_size=cell.batch_size, validation_data=self._parts["validation"], **options
        )

    @property
    def _epochs(self) -> int:
        return round(self.plan.total_examples / self.plan.epoch_examples)

    def _schedule(self, cell: Cell) -> keras.optimizers.schedules.LearningRateSchedule:
        import keras

        updates = math.ceil(self.plan.epoch_examples / cell.batch_size)
        total = self._epochs * updates
        warmup = round(total * self.plan.warmup_examples / self.plan.total_examples)
        peak = self.plan.learning_rate(cell.batch_size, cell.octaves)
        if cell.schedule == "cosine":
            return keras.optimizers.schedules.CosineDecay(
                0.0, total - warmup, warmup_target=peak, warmup_steps=warmup
            )
        return stable(peak, total, warmup=warmup, cool_down=self.plan.cool_down)


def stable(peak: float, total: int, *, warmup: int, cool_down: float) -> Any:
    """A warm-up, a constant rate, and a straight line to 0 over the last share of the updates."""
    import keras

    class WarmupStableDecay(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
        def __call__(self, step: Any) -> Any:
            step = keras.ops.cast(step, "float32")
            rising = (step + 1.0) / max(warmup, 1)
            falling = (total - step) / (cool_down * total)
            return peak * keras.ops.clip(keras.ops.minimum(rising, falling), 0.0, 1.0)

        def get_config(self) -> dict[str, Any]:
            return {"peak": peak, "total": total, "warmup": warmup, "cool_down": cool_down}

    return WarmupStableDecay()


def _choices(plan: TablePlan) -> dict[str, list[Any]]:
    return {
        BATCH_SIZE: list(plan.batch_sizes),
        OCTAVES: list(plan.octaves),
        "schedule": ["wsd", "cosine"],
    }


def with_keras_tuner(tuner_class: str, task: Task, dataset: str, folder: Path) -> None:
    """A tuner of KerasTuner over a HyperModel whose `fit` takes the batch size."""
    import keras_tuner

    rival, standing = Rival(task, dataset), Standing(task.metric)
    choices = _choices(rival.plan)

    class Network(keras_tuner.HyperModel):  # type: ignore[misc]
        def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
            return rival.compiled(
                _cell({name: hp.Choice(name, values) for name, values in choices.items()})
            )

        def fit(
            self, hp: keras_tuner.HyperParameters, model: keras.Model, *_: Any, **options: Any
        ) -> Any:
            return rival.fit(model, _cell(hp.values), callbacks=options.get("callbacks"))

    class Said(getattr(keras_tuner, tuner_class)):  # type: ignore[misc]
        def on_trial_end(self, trial: keras_tuner.engine.trial.Trial) -> None:
            super().on_trial_end(trial)
            if trial.score is not None:
                standing.hear(_cell(trial.hyperparameters.values), trial.score)

    direction = "min" if task.metric == "loss" else "max"
    tuner = Said(
        Network(),
        objective=keras_tuner.Objective(f"val_{task.metric}", direction),
        max_trials=MOST_TRIALS,
        seed=task.seed,
        directory=str(folder),
        project_name="keras_tuner",
    )
    with np.errstate(all="ignore"):
        tuner.search(verbose=0)


def with_optuna(task: Task, dataset: str, folder: Path) -> None:
    """Optuna's multivariate TPE, a new model for each trial, in memory."""
    import keras
    import optuna

    del folder
    rival, standing = Rival(task, dataset), Standing(task.metric)
    choices = _choices(rival.plan)
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def objective(trial: optuna.Trial) -> float:
        keras.backend.clear_session()
        named = {n: trial.suggest_categorical(n, values) for n, values in choices.items()}
        cell = _cell(named)
        history = rival.fit(rival.compiled(cell), cell)
        score = float(history.history[f"val_{task.metric}"][-1])
        standing.hear(cell, score)
        return score  # NaN fails the trial, and the study goes on

    study = optuna.create_study(
        direction="minimize" if task.metric == "loss" else "maximize",
        sampler=optuna.samplers.TPESampler(multivariate=True, seed=task.seed),
    )
    study.optimize(objective, n_trials=MOST_TRIALS)


CONTESTANTS: Mapping[str, Callable[[Task, str, Path], None]] = {
    "tfbatch": functools.partial(with_tfbatch, "bayesian", initial_trials=12),
    "tfbatch_trunks": functools.partial(with_tfbatch, "trunks"),
    "tfbatch_trunks_first": functools.partial(with_tfbatch, "trunks_first"),
    "tfbatch_random": functools.partial(with_tfbatch, "random"),
    "keras_tuner_bayesian": functools.partial(with_keras_tuner, "BayesianOptimization"),
    "keras_tuner_random": functools.partial(with_keras_tuner, "RandomSearch"),
    "optuna_tpe": with_optuna,
}
"""`tfbatch` is the oracle of the default search, `tfbatch_random` the engine with the simplest."""


def run(name: str, path: Path, dataset: str, metric: Metric, seed: int, start: Cell | None) -> None:
    """Runs one contestant to its end.

    Args:
        name: Of CONTESTANTS.
        path: The table's file.
        dataset: The recipe of its data: a name or a path.
        metric: What it searches by.
        seed: Of its proposals and its trainings.
        start: What the user trains with before it; None for the table's own baseline.
    """
    task = Task(Table.read(path), metric, ENGINES["tfbatch"], seed, start)
    say(task.baseline, math.nan)  # everybody's answer until something is better
    with tempfile.TemporaryDirectory(prefix="live-race-") as folder:
        CONTESTANTS[name](task, dataset, Path(folder))


if __name__ == "__main__":
    name, path, dataset, metric, seed, *start = sys.argv[1:]
    own = Cell.of_user(start[0]) if start else None
    run(name, Path(path), dataset, metric, int(seed), own)  # type: ignore[arg-type]
