"""One set of trainings at several batch sizes, read on every axis that people argue about.

Each training has a constant learning rate, so that its first part is what a shorter one would have
been: one run of a seed is read after the same epochs, the same updates, and where it reaches a
target. The rate is searched for each question by seeds of its own, which also choose
between sizes; targets and margins come from pilot seeds; verdicts rest on fresh ones, paired across
batch sizes: a seed fixes the initial weights and the order of the examples for all of them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from tfbatch.claims._changed_data import DataChange
from tfbatch.claims._claim import Policy, UntestableError
from tfbatch.claims._court import Run, Training
from tfbatch.claims._preset import Purpose
from tfbatch.configuration import Configuration
from tfbatch.estimators.first_hit import StepsToTarget, first_hit_that_stays
from tfbatch.estimators.interval import mean_and_deviation
from tfbatch.scaling_rules import scaled
from tfbatch.schema import Named

if TYPE_CHECKING:
    from tfbatch.claims._court import Court
    from tfbatch.training.step_times import StepTime

Budget = Literal["epochs", "updates", "target"]
"""After the same examples, the same updates, or as soon as the target."""
_FIRST_OCTAVES = (-2, -1, 0, 1, 2)
_MOST_OCTAVES = 6
_NEXT_OCTAVE = 1.5
"""The rates next to one are nearer than this; the grid is one of octaves."""
_TARGET_SHARE = 0.6
"""The target is what all pilot runs of the baseline reach after this share of their training."""
_FEWEST_EVALUATIONS = 5
"""A hit at 60 % of a training, and the two evaluations that confirm it."""
_RELIABLE = 0.8
"""Share of B0's pilot runs that must reach the target."""
_MOST_OF_DATA = 0.5
"""The largest batch size, as a share of the training split."""
_LEAST_MARGIN = 1e-6
"""Where nothing tells how large a difference of the metric is: the rule needs one above 0."""


@dataclasses.dataclass(frozen=True)
class Rate:
    """A learning rate for one batch size.

    Attributes:
        value: The rate.
        doubts: Why it may not be the best one: it lies at the edge of what was tried.
        falls_short: That no tuning run reaches the target with it nor with any other; empty where
            one does. It forbids what counts updates, not what counts successes.
    """

    value: float
    doubts: tuple[str, ...] = ()
    falls_short: str = ""


class BatchSizeStudy:
    """The trainings that most cards read.

    Args:
        court: Trains.
        normalization: The model's `normalization`, or None for the model as it is.
        change: How the data of its trainings differs from the user's. Of a share of the data they
            have as many epochs as of all.
        sizes: The batch sizes, B0 among them; None for those of the preset, as far as the data
            allows. Trainings of a size have as many epochs as in the court's own study.

    Attributes:
        base: The baseline's batch size, B0.
    """

    def __init__(
        self,
        court: Court,
        *,
        normalization: str | None = None,
        change: DataChange | None = None,
        sizes: Sequence[int] | None = None,
    ):
        self._court, self._change, self._own_sizes = court, change, sizes is None
        self._model = dict(court.workload.baseline.model)
        if normalization is not None:
            self._model["normalization"] = normalization
        workload = court.workload
        self.base = workload.baseline.batch_size
        share = change.share if change else 1.0
        self._examples = round(share * workload.examples)
        self._num_examples = max(1, round(share * workload.num_examples))
        most = max(self.most(self._num_examples), self.base)
        asked = {max(1, round(self.base * factor)) for factor in court.preset.factors}
        self._sizes = sizes or sorted({min(size, most) for size in asked} | {self.base})

    @staticmethod
    def most(num_examples: int) -> int:
        """The largest batch size that is tried with so many training examples."""
        return int(num_examples * _MOST_OF_DATA)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The batch sizes, ascending, but those that ran out of memory; B0 is one of them."""
        too_large = self._court.too_large - {self.base}
        return tuple(size for size in self._sizes if size not in too_large)

    @property
    def large(self) -> int:
        """The largest size: 16 times B0 as far as the data allows."""
        return self.sizes[-1]

    @property
    def small(self) -> int:
        """The smallest size."""
        return self.sizes[0]

    def apart(self, one: int, other: int) -> tuple[int, int]:
        """Two sizes to be compared.

        Raises:
            UntestableError: They are one.
        """
        if one != other:
            return one, other
        if one < self.large or one == 1:
            raise UntestableError(
                f"the baseline's batch size is {one} itself; give a larger one, such as "
                f"--baseline=batch_size={max(32, 4 * one)}"
            )
        raise UntestableError(
            f"the baseline's batch size {one} is the largest that is tried with "
            f"{self._num_examples} training examples; give a smaller one, such as "
            f"--baseline=batch_size={max(1, one // 16)}"
        )

    @property
    def within(self) -> tuple[int, ...]:
        """The sizes between the smallest and the largest.

        Raises:
            UntestableError: There are none.
        """
        return self.between(self.sizes)

    def between(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Some sizes but the first and the last.

        Raises:
            UntestableError: There are none.
        """
        if len(sizes) < 3:
            raise UntestableError(
                f"of batch sizes {' and '.join(map(str, sizes))} none is between the extremes: "
                f"{self._num_examples} training examples are too few"
            )
        return tuple(sizes[1:-1])

    def length(self, size: int) -> int:
        """Examples in a training: as many as B0's, or as many updates where that is more."""
        examples = self._examples
        return max(examples, math.ceil(self.examples_of(size, "updates")))

    def examples_of(self, size: int, budget: Budget) -> float:
        """Where a training of a size is read; at its end for "target"."""
        examples = float(self._examples)
        if budget == "epochs":
            return examples
        if budget == "updates":  # as many as B0's training has, where the largest size can
            large = self.large if self._own_sizes else self._court.study.large
            longest = min(large / self.base, self._court.preset.longest)
            return examples * longest * min(size / large, 1.0)  # the full batch: no longer
        return float(self.length(size))

    def first_evaluation(self, size: int) -> int:
        """Examples before the first evaluation of a training: what is earlier is not measured.

        Between it and the untrained model a run is read as a straight line, which makes a curve
        that falls fast at first look too bad.
        """
        share = self._change.share if self._change else 1.0
        every = self._court.workload.evaluated_every
        asked = self._num_examples if every is None else max(1, round(share * every))
        return min(math.ceil(asked / size) * size, self.length(size))

    def read_at(self, budget: Budget) -> tuple[int, ...]:
        """The sizes that are evaluated by where a budget reads them, ascending.

        Where the updates are the same a small batch has seen so few examples that it may not be.
        """
        return tuple(size for size in self.sizes if not self._is_unread(size, budget))

    def _is_unread(self, size: int, budget: Budget) -> bool:
        return math.ceil(self.examples_of(size, budget)) < self.first_evaluation(size)

    def log_seconds(self, size: int, purpose: Purpose = "verdict") -> list[float]:
        """Log seconds of a step of a size, one value for each seed.

        The first third of the rounds chooses ("tuning"), and the others judge: each verdict seed
        has rounds of its own, so that what is uncertain in the times is in the intervals.

        Raises:
            UntestableError: The size could not be timed.
        """
        rounds = [math.log(seconds) for seconds in self._step_time(size).rounds]
        first = choosing_rounds(len(rounds))
        if purpose == "tuning":
            return [statistics.median(rounds[:first])] * self._court.preset.count(purpose)
        count = self._court.preset.count(purpose)
        judging = rounds[first:]
        return [
            statistics.fmean(judging[seed::count] or [judging[seed % len(judging)]])
            for seed in range(count)
        ]

    def _step_time(self, size: int) -> StepTime:
        if size not in self._step_times:
            self._step_times |= {
                one.batch_size: one
                for one in self._court.step_times((*self.sizes, size), self._change)
            }
        if size not in self._step_times:
            raise UntestableError(too_slow(size))
        return self._step_times[size]

    @functools.cached_property
    def _step_times(self) -> dict[int, StepTime]:
        return {one.batch_size: one for one in self._court.step_times(self.sizes, self._change)}

    def configuration(self, size: int, rate: float) -> Configuration:
        """The baseline at another size and constant rate."""
        return self._court.workload.baseline.model_copy(
            update={
                "batch_size": size,
                "base_batch_size": size,
                "base_learning_rate": float(f"{rate:.4g}"),
                "scaling_rule": Named(name="none"),
                "model": self._model,
            }
        )

    def runs(self, size: int, rate: float, purpose: Purpose = "verdict") -> list[Run]:
        """One run for each seed, in the order of the seeds."""
        seeds = self._court.seeds(purpose, self._court.preset.count(purpose))
        configuration = self.configuration(size, rate)
        return self._court.train(
            [self._training(configuration, self.length(size), seed) for seed in seeds]
        )

    def _training(self, configuration: Configuration, examples: int, seed: int) -> Training:
        return Training(configuration, examples, seed, change=self._change)

    def prefetch(self, policies: Sequence[Policy], budgets: Sequence[Budget]) -> None:
        """Runs all that some questions need, with no pause between sizes."""
        self._search_together()
        rates = {
            (size, self.rate(size, policy, budget).value)
            for budget in budgets
            for size in self.read_at(budget)
            for policy in policies
        }
        seeds = self._court.seeds("verdict", self._court.preset.seeds)
        self._court.train(
            [
                self._training(self.configuration(size, rate), self.length(size), seed)
                for seed in seeds
                for size, rate in sorted(rates)
            ]
        )

    def rate(self, size: int, policy: Policy, budget: Budget) -> Rate:
        """The learning rate of a size: B0's best one, that by the rule, or its own best one."""
        if policy == "tuned":
            return self._best_rate(size, budget)
        own = self._best_rate(self.base, "epochs")
        if policy == "fixed":
            return own
        baseline = self._court.workload.baseline
        value = scaled(
            baseline.scaling_rule.name,
            own.value,
            batch_size=size,
            base_batch_size=self.base,
            parameters=baseline.scaling_rule.arguments,
        )
        return Rate(value, own.doubts)

    def alike(self, size: int, budget: Literal["epochs", "updates"]) -> tuple[float, ...]:
        """The next lower and the next higher rate that tuning does not tell from the best one.

        A metric is nearly the same at them; what follows the rate itself, such as the sharpness
        that a training ends in, is not. Not told means within two standard errors of the
        difference of two means over the tuning seeds, 2 * margin * sqrt(2 / seeds).
        """
        best = self._best_rate(size, budget).value
        costs = {self._rate_at(size, o): cost for o, cost in self._tried[size, budget].items()}
        error = self.margin * math.sqrt(2 / self._court.preset.tuning_seeds)
        near = [rate for rate in costs if 0 < abs(math.log2(rate / best)) < _NEXT_OCTAVE]
        return tuple(
            rate
            for rate in sorted(near)
            if costs[rate].learned and costs[rate].loss - costs[best].loss <= 2 * error
        )

    def scores(
        self, size: int, policy: Policy, budget: Budget, purpose: Purpose = "verdict"
    ) -> list[float]:
        """The objective of each seed, larger is better."""
        rate = self.rate(size, policy, budget)
        examples = self.examples_of(size, budget)
        return [run.score_at(examples) for run in self.runs(size, rate.value, purpose)]

    def doubts(
        self, policy: Policy, budget: Budget, sizes: Sequence[int], *, of_success: bool = False
    ) -> tuple[str, ...]:
        """What forbids a verdict on the rates of some sizes.

        Args:
            policy: How the rate follows the size.
            budget: What the rate is the best one for.
            sizes: The sizes.
            of_success: Whether the verdict is on how many runs reach the target.
        """
        rates = [self.rate(size, policy, budget) for size in sizes]
        target = self._target_doubts if budget == "target" else ()
        short = () if of_success else (rate.falls_short for rate in rates if rate.falls_short)
        unread = (
            f"batch size {size} is read after {self.examples_of(size, budget):.0f} examples, and "
            f"first evaluated after {self.first_evaluation(size)}: give a longer --trial_length"
            for size in sizes
            if self._is_unread(size, budget)
        )
        of_rates = (doubt for rate in rates for doubt in rate.doubts)
        return tuple(dict.fromkeys([*target, *of_rates, *short, *unread, *self.margin_doubts]))

    @functools.cached_property
    def margin(self) -> float:
        """The smallest difference of the objective that matters, from pilot seeds.

        The deviation between seeds, or half a point of an accuracy or 2 % of a loss without
        learning where that is larger. Above 0 where none of them is; see `margin_doubts`.
        """
        workload = self._court.workload
        known = max(workload.smallest_margin, _LEAST_MARGIN * abs(workload.untrained))
        return max(self._pilot_deviation, known) or _LEAST_MARGIN

    @property
    def margin_doubts(self) -> tuple[str, ...]:
        """Why no difference can be said to matter; empty where one can."""
        workload = self._court.workload
        if workload.smallest_margin or workload.untrained or self._pilot_deviation:
            return ()
        return (
            f"no two pilot runs of batch size {self.base} differ in {workload.metric}, so that "
            "nothing tells which difference of it matters: give another --objective or a longer "
            "--trial_length",
        )

    @functools.cached_property
    def _pilot_deviation(self) -> float:
        return mean_and_deviation([run.score_at(self._examples) for run in self._pilot])[1]

    @functools.cached_property
    def target(self) -> float:
        """What all pilot runs of B0 have reached after 60 % of their training.

        The median of them is no target: where the metric hardly rises any more, half of the seeds
        end below it. Runs that diverged set none.
        """
        examples = _TARGET_SHARE * self._examples
        runs = [run for run in self._pilot if not run.diverged] or self._pilot
        return min(run.score_at(examples) for run in runs)

    @functools.cached_property
    def _target_doubts(self) -> tuple[str, ...]:
        """Why nothing can be said of who reaches the target, of successes neither."""
        whole = [run for run in self._pilot if not run.diverged] or self._pilot
        evaluations = min(len(run.examples) - 1 for run in whole)
        if evaluations < _FEWEST_EVALUATIONS:
            return (
                f"a training has {evaluations} evaluations, and a target that is reached and kept "
                f"takes {_FEWEST_EVALUATIONS}: give a longer --trial_length",
            )
        reached = sum(self._updates(run).reached for run in self._pilot)
        if reached < _RELIABLE * len(self._pilot):
            return (
                f"{reached} of {len(self._pilot)} pilot runs of batch size {self.base} reach the "
                "target",
            )
        if self.target <= self._court.workload.untrained + self.margin:
            return ("the target is no better than the untrained model",)
        return ()

    @functools.cached_property
    def _pilot(self) -> list[Run]:
        return self.runs(self.base, self._best_rate(self.base, "epochs").value, "pilot")

    def updates_to_target(
        self, size: int, policy: Policy, purpose: Purpose = "verdict"
    ) -> list[StepsToTarget]:
        """Of each seed; one that falls short counts as above its whole length."""
        rate = self.rate(size, policy, "target")
        return [self._updates(run) for run in self.runs(size, rate.value, purpose)]

    def _updates(self, run: Run) -> StepsToTarget:
        size = run.training.configuration.batch_size
        if len(run.examples) > 1:
            found = first_hit_that_stays(
                [examples / size for examples in run.examples[1:]],
                run.scores[1:],
                batch_size=size,
                target=self.target,
                direction="max",
            )
            if found.reached:
                return found
        return StepsToTarget(size, run.training.examples / size, reached=False)

    def _best_rate(self, size: int, budget: Budget) -> Rate:
        known = self._best_rates
        if (size, budget) not in known:
            known[size, budget] = self._search(size, budget)
        return known[size, budget]

    @functools.cached_property
    def _best_rates(self) -> dict[tuple[int, Budget], Rate]:
        return {}

    @functools.cached_property
    def _tried(self) -> dict[tuple[int, Budget], dict[int, _Cost]]:
        return {}

    def _search(self, size: int, budget: Budget) -> Rate:
        """The best of a grid of octaves, which grows until the best one lies within it.

        Where no rate learns anything it grows on both sides: all of them may be too high.
        """
        octaves = list(_FIRST_OCTAVES)
        while True:
            costs = {octave: self._cost(size, octave, budget) for octave in octaves}
            best = min(octaves, key=lambda octave: (costs[octave], abs(octave)))
            edges = {octaves[0]: -1, octaves[-1]: 1}
            open_edges = [best] if costs[best].learned else list(edges)
            beyond = [edge + edges[edge] for edge in open_edges if edge in edges]
            further = [octave for octave in beyond if abs(octave) <= _MOST_OCTAVES]
            if not further:
                self._tried[size, budget] = costs
                return self._found(size, best, costs[best], "" if not beyond else _where(beyond))
            octaves = sorted({*octaves, *further})

    def _found(self, size: int, octave: int, cost: _Cost, edge: str) -> Rate:
        doubts = (f"the best rate at batch size {size} is {edge} that was tried",) if edge else ()
        if not cost.learned:
            doubts = (f"no rate that was tried learns anything at batch size {size}",)
        short = f"no rate reaches the target at batch size {size}" if cost.all_fall_short else ""
        return Rate(self._rate_at(size, octave), doubts, short)

    def _search_together(self) -> None:
        """The first octaves of all sizes, with no pause between them."""
        seeds = self._court.seeds("tuning", self._court.preset.tuning_seeds)
        self._court.train(
            [
                self._training(
                    self.configuration(size, self._rate_at(size, octave)), self.length(size), seed
                )
                for octave in _FIRST_OCTAVES
                for size in self.sizes
                for seed in seeds
            ]
        )

    def _rate_at(self, size: int, octave: int) -> float:
        """So many factors of two above what the optimizer's rule makes of the baseline's rate."""
        baseline = self._court.workload.baseline
        at_rule = scaled(
            baseline.scaling_rule.name,
            baseline.base_learning_rate,
            batch_size=size,
            base_batch_size=self.base,
            parameters=baseline.scaling_rule.arguments,
        )
        return at_rule * 2.0**octave

    def _cost(self, size: int, octave: int, budget: Budget) -> _Cost:
        """What the best rate has least of."""
        runs = self.runs(size, self._rate_at(size, octave), "tuning")
        score = statistics.fmean(run.score_at(self.examples_of(size, budget)) for run in runs)
        learned = any(run.score_at(run.training.examples) > run.scores[0] for run in runs)
        if budget != "target":
            return _Cost(0, 0.0, -score, learned=learned)
        updates = [self._updates(run) for run in runs]
        failures = sum(not one.reached for one in updates)
        log_updates = statistics.fmean(math.log(one.steps) for one in updates)
        return _Cost(
            failures, log_updates, -score, learned=learned, all_fall_short=failures == len(runs)
        )


def too_slow(size: int) -> str:
    """Why there is no time of a size, and what gives one."""
    return (
        f"a step of batch size {size} takes too long on this device to be timed, or too much "
        "memory; take a faster or larger one, or a smaller --baseline=batch_size"
    )


def choosing_rounds(count: int) -> int:
    """How many of the first rounds of timing choose a size, so that the others can judge it."""
    return max(1, count // 3)


@dataclasses.dataclass(frozen=True, order=True)
class _Cost:
    """What the best rate has least of: runs that fall short, then updates, then loss at the end.

    Where no run reaches the target the loss alone decides, so that the search is led to where one
    may.

    Attributes:
        failures: Runs that fall short of the target, where there is one.
        log_updates: Mean log of the updates to it; of a run that fell short those that it made.
        loss: The mean objective, smaller is better.
        learned: Whether any run ends better than the untrained model.
        all_fall_short: Whether no run reaches the target.
    """

    failures: int
    log_updates: float
    loss: float
    learned: bool = dataclasses.field(compare=False)
    all_fall_short: bool = dataclasses.field(default=False, compare=False)


def _where(beyond: Sequence[int]) -> str:
    return "the lowest" if beyond[0] < 0 else "the highest"
