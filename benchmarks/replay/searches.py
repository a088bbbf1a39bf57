"""The searches that are compared, by name, and what each is made of."""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from replay.opponents import IEpoch, OptunaOracle, RandomSearch, values_of
from replay.plan import TablePlan
from replay.simulate import UNTRAINED, Cell, Engine
from replay.table import Metric, Table
from tfbatch.metric_direction import Direction
from tfbatch.oracles import BATCH_SIZE, Oracle, Premises, Prices, Setting, Told, make_settings
from tfbatch.oracles._oracle import Values
from tfbatch.request.search_config import Space
from tfbatch.schema import Named
from tfbatch.trial.objective import Objective

if TYPE_CHECKING:
    import keras_tuner

    from tfbatch.search.space import SearchSpace

ENGINES = {
    "examples": Engine("examples"),
    # benchmarks/results/trials.md: 193 ms of a trial are no compiled step; two trials side by side
    # make 1.33 x more in an hour than one after another.
    "tfbatch": Engine("tfbatch", start_up_seconds=0.193, workers=2, slower=2 / 1.33),
    # There too: 4.85 s a trial where the bare loop of one process takes 1.85.
    "keras_tuner": Engine("keras_tuner", start_up_seconds=3.0),
}
"""What trains; "examples" is one worker whose time nobody counts, and whose prices are examples."""


_KERAS_TUNERS_COLLISIONS = 20
"""Draws of what was tried after which it takes a space for exhausted; tfbatch allows more."""


def baseline_of(plan: TablePlan) -> Cell:
    """What a user trains with before any search."""
    return Cell(plan.base_batch_size, 0.0, "cosine")


@dataclasses.dataclass(frozen=True)
class Task:
    """One simulated search: what it is made for.

    Attributes:
        table: The table.
        metric: What it is told.
        engine: What trains.
        seed: Of its proposals; positive.
        start: What the user trains with before it; None for the table's own baseline.
        baseline_told: What that came to, with the first seed; None where nobody looked.
    """

    table: Table
    metric: Metric
    engine: Engine
    seed: int
    start: Cell | None = None
    baseline_told: Told | None = None

    @property
    def baseline(self) -> Cell:
        """What the user trains with before it."""
        return self.start or baseline_of(self.table.plan)

    @property
    def direction(self) -> Direction:
        """Whether a good score is small or large."""
        return "min" if self.metric == "loss" else "max"

    def space(self) -> Space:
        """The space of a table, as a search's YAML would say it."""
        plan = self.table.plan
        cool_down = plan.cool_down * plan.total_examples
        share = cool_down / (plan.total_examples - plan.warmup_examples)
        return Space(
            batch_size=plan.batch_sizes,
            base_batch_size=plan.base_batch_size,
            base_learning_rate=plan.base_learning_rate,
            scaling_rule=Named(name=plan.scaling_rule),
            learning_rate_octaves=plan.octaves,
            warmup_fraction=plan.warmup_examples / plan.total_examples,
            schedules=(
                Named(name="wsd", cooldown=share, shape="linear"),
                Named(name="cosine"),
            ),
            optimizer=Named(name="sgd", momentum=plan.momentum),
        )

    @functools.cached_property
    def _declared(self) -> SearchSpace:
        from tfbatch.search.space import SearchSpace

        return SearchSpace(self.space(), num_examples=self.table.plan.epoch_examples)

    def hyperparameters(self) -> keras_tuner.HyperParameters:
        """The space, declared."""
        return self._declared.hyperparameters()

    def premises(self) -> Premises:
        """What a search knows before it begins, as in a run."""
        baseline = self._setting(values_of(self.baseline))
        objective = Objective(f"val_{self.metric}", self.direction)
        return Premises(
            self._prices(),
            baseline,
            self._setting,
            baseline_told=(lambda: self.baseline_told) if self.baseline_told else None,
            margin=objective.smallest_margin(UNTRAINED[self.metric]),
        )

    def _setting(self, values: Values) -> Setting:
        configuration = self._declared.configuration(dict(values))
        return Setting(
            batch_size=configuration.batch_size,
            learning_rate=self._declared.learning_rate(configuration),
            schedule=configuration.schedule,
            warmup_fraction=configuration.warmup_fraction,
        )

    def _prices(self) -> Prices:
        if self.engine.name == "examples":
            return Prices(epoch_examples=self.table.plan.epoch_examples)
        slower, table = self.engine.slower, self.table
        evaluation = table.about.get("validation_seconds")
        return Prices(
            {size: slower * statistics.median(all_) for size, all_ in table.step_seconds.items()},
            evaluation_seconds=slower * float(evaluation) if isinstance(evaluation, float) else 0.0,
            epoch_examples=table.plan.epoch_examples,
            start_seconds=self.engine.start_up_seconds,
        )


Make = Callable[[Task], Oracle]


def ours(name: str, **parameters: object) -> Make:
    """An oracle of tfbatch with its settings."""
    settings = make_settings(name, **parameters)

    def make(task: Task) -> Oracle:
        return settings.make(
            task.hyperparameters(),
            direction=task.direction,
            seed=task.seed,
            total_examples=task.table.plan.total_examples,
            premises=task.premises(),
        )

    return make


def i_epoch(epochs: int, *, candidates: int, finalists: int) -> Make:
    """See IEpoch."""

    def make(task: Task) -> Oracle:
        return IEpoch(
            task.table.plan,
            epochs=epochs,
            candidates=candidates,
            finalists=finalists,
            direction=task.direction,
            seed=task.seed,
        )

    return make


def optuna_search(*, halving: bool, reduction: int = 3) -> Make:
    """Multivariate TPE, over whole trainings or with asynchronous successive halving."""

    def make(task: Task) -> Oracle:
        import optuna

        sampler = optuna.samplers.TPESampler(
            multivariate=True, constant_liar=task.engine.workers > 1, seed=task.seed
        )
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=reduction)
        epochs = task.table.plan.total_examples // task.table.plan.epoch_examples
        rungs = tuple(r for r in (reduction**k for k in range(10)) if r < epochs)
        return OptunaOracle(
            task.table.plan,
            sampler=sampler,
            pruner=pruner if halving else None,
            rungs=rungs if halving else (),
            direction=task.direction,
        )

    return make


def hyperband(task: Task) -> Oracle:
    """KerasTuner's, with its own factor, and rounds of whole epochs."""
    from tfbatch.oracles._hyperband import HyperbandInParts

    plan = task.table.plan
    return HyperbandInParts(
        task.hyperparameters(),
        direction=task.direction,
        seed=task.seed,
        total_examples=plan.total_examples,
        units=plan.total_examples // plan.epoch_examples,
        factor=3,
        batch_size_of=lambda values: int(values[BATCH_SIZE]),
    )


def random_search(task: Task) -> Oracle:
    """Whole trainings in random order."""
    return RandomSearch(task.table.plan, seed=task.seed)


SEARCHES: Mapping[str, Callable[..., Make]] = {
    "random": lambda: random_search,
    "keras_tuner_random": lambda: random_of_keras_tuner,
    "keras_tuner_bayesian": lambda: bayesian_of_keras_tuner,
    "keras_tuner_hyperband": lambda: hyperband,
    "optuna_tpe": lambda: optuna_search(halving=False),
    "optuna_tpe_asha": lambda **given: optuna_search(halving=True, **given),
    "bayesian": lambda **given: ours("bayesian", **given),
    "tpe": lambda **given: ours("tpe", **given),
    "hyperband": lambda **given: ours("hyperband", **given),
    "trunks": lambda **given: ours("trunks", **given),
    "trunks_first": lambda **given: ours("trunks_first", **given),
    "trunks_first_always": lambda **given: ours("trunks_first", gain=None, **given),
} | {
    f"{k}_epoch": lambda k=k, candidates=42, finalists=3: i_epoch(
        k, candidates=candidates, finalists=finalists
    )
    for k in (1, 2, 5)
}
"""By name; what is given are the parameters of its settings."""


def bayesian_of_keras_tuner(task: Task) -> Oracle:
    """KerasTuner's Gaussian process as it comes."""
    import keras_tuner

    return _of_keras_tuner(keras_tuner.oracles.BayesianOptimizationOracle, task)


def random_of_keras_tuner(task: Task) -> Oracle:
    """KerasTuner's independent draws as they come."""
    import keras_tuner

    return _of_keras_tuner(keras_tuner.oracles.RandomSearchOracle, task)


def _of_keras_tuner(oracle: type[keras_tuner.Oracle], task: Task) -> Oracle:
    from tfbatch.oracles import KerasTunerOracle

    found = KerasTunerOracle(
        oracle, task.hyperparameters(), direction=task.direction, seed=task.seed
    )
    found._oracle._max_collisions = _KERAS_TUNERS_COLLISIONS
    return found


def make_search(name: str, **parameters: Any) -> Make:
    """A search by its name.

    Raises:
        LookupError: There is none of this name.
    """
    if name not in SEARCHES:
        raise LookupError(f"Unknown search {name}. There are {', '.join(SEARCHES)}.")
    return SEARCHES[name](**parameters)
