"""Optuna's multivariate tree-structured Parzen estimator."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tfbatch.metric_direction import Direction
from tfbatch.oracles._oracle import (
    NOTHING_KNOWN,
    InterchangeableSettings,
    Oracle,
    Premises,
    Proposal,
    Told,
    Values,
)

if TYPE_CHECKING:
    import keras_tuner
    import optuna

_DRAWS = 16
"""Of the estimator for one proposal, where they are repeated or too large."""
_BLIND_DRAWS = 1000
"""After those: of a hundred configurations the last untried one is missed once in 20,000 times."""
_BELOW_ONE = 1 - 1e-9
"""KerasTuner's whole numbers on a logarithmic scale are too large by one at a share of 1."""


class Settings(InterchangeableSettings):
    """A tree-structured Parzen estimator after `initial_trials` that are spread over the space.

    Two densities are estimated, of the best trials and of the others; the next trial is drawn where
    their ratio is largest (Bergstra et al. 2011, Algorithms for hyper-parameter optimization;
    Watanabe 2023, arXiv 2304.11127). The densities are multivariate: what goes together, such as a
    batch size and its learning rate, is learned together.
    """

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
        return _Tpe(
            hyperparameters,
            direction=direction,
            seed=seed,
            initial_trials=self.initial_trials,
        )


@dataclasses.dataclass(frozen=True)
class _Tried:
    """A trial; open where it has no score and was not forgotten."""

    values: Values
    score: float | None = None
    forgotten: bool = False


class _Tpe:
    """Proposes what follows from the trials in the order of their proposals, and nothing else.

    Each draw has a sampler of its own, seeded by the number of the proposal: a replayed proposal
    draws nothing, and those after it are the same. (One sampler would have to draw anew what is
    known already, rejected draws included.) The study is made for each proposal too, which takes
    0.1 ms a trial: what was tried in place of a proposal then needs no correction in it.
    """

    size = None

    def __init__(
        self,
        hyperparameters: keras_tuner.HyperParameters,
        *,
        direction: Direction,
        seed: int,
        initial_trials: int,
    ):
        from tfbatch.oracles._spread import spread_points

        self._coordinates = _coordinates(hyperparameters)
        self._direction, self._seed, self._initial_trials = direction, seed, initial_trials
        self._first: list[dict[str, Any]] = spread_points(
            hyperparameters, count=initial_trials, seed=seed
        )
        self._trials: dict[str, _Tried] = {}

    def propose(self, trial: str, *, known: Proposal | None, bound: float) -> Proposal | None:
        """See Oracle."""
        proposal = known or self._untried(bound)
        if proposal is not None:
            self._trials[trial] = _Tried(proposal.values)
        return proposal

    def tell(self, trial: str, proposal: Proposal, told: Told) -> None:
        """See Oracle."""
        self._trials[trial] = _Tried(proposal.values, told.score)

    def forget(self, trial: str) -> None:
        """See Oracle."""
        self._trials[trial] = dataclasses.replace(self._trials[trial], forgotten=True)

    def _untried(self, bound: float) -> Proposal | None:
        number = len(self._trials)
        tried = {_key(one.values) for one in self._trials.values()}
        with _quiet_optuna():
            for values in itertools.chain(
                self._first[number:], self._estimated(number), self._blind(number)
            ):
                proposal = Proposal(values)
                if proposal.fits(bound) and _key(values) not in tried:
                    return proposal
        return None

    def _estimated(self, number: int) -> Iterator[Values]:
        """What the estimator draws for a proposal, again and again."""
        import optuna

        study = self._study()
        for attempt in range(_DRAWS):
            drawn = np.random.SeedSequence((self._seed, number, attempt)).generate_state(1)
            study.sampler = optuna.samplers.TPESampler(
                n_startup_trials=self._initial_trials,
                multivariate=True,
                group=True,  # parameters that are not always active have densities of their own
                constant_liar=True,  # keeps away from what is open
                seed=int(drawn[0]),
            )
            asked = study.ask()
            values: dict[str, Any] = {}
            for coordinate in self._coordinates:
                if coordinate.name not in values and coordinate.is_active(values):
                    values[coordinate.name] = coordinate.ask(asked)
            # It stays open in this study, so that the next draw keeps away from a refused one. In a
            # space of choices the estimator would draw what it likes best again and again.
            yield values

    def _study(self) -> optuna.Study:
        """In memory, with all trials that have a score or are open."""
        import optuna

        ended, running = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.RUNNING
        study = optuna.create_study(
            direction="minimize" if self._direction == "min" else "maximize"
        )
        for tried in self._trials.values():
            if tried.forgotten:
                continue
            active = self._active(tried.values)
            study.add_trial(
                optuna.trial.create_trial(
                    state=running if tried.score is None else ended,
                    value=tried.score,
                    params={one.key: one.place(tried.values[one.name]) for one in active},
                    distributions={one.key: one.distribution for one in active},
                )
            )
        return study

    def _active(self, values: Values) -> list[_Coordinate]:
        """The coordinate of each value: of those of its name the first whose conditions hold."""
        active: dict[str, _Coordinate] = {}
        for one in self._coordinates:
            if one.name in values and one.is_active(values):
                active.setdefault(one.name, one)
        return list(active.values())

    def _blind(self, number: int) -> Iterator[Values]:
        """Independent draws."""
        rng = np.random.default_rng((self._seed, number))
        for _ in range(_BLIND_DRAWS):
            values: dict[str, Any] = {}
            for coordinate in self._coordinates:
                if coordinate.name not in values and coordinate.is_active(values):
                    values[coordinate.name] = coordinate.at(float(rng.random()))
            yield values


class _Coordinate:
    """A hyperparameter as Optuna is told of it.

    A range is a number in [0, 1], on its own scale; a choice is the place of the value, among
    numbers in ascending order and among anything else without one.

    Args:
        parameter: KerasTuner's.
        key: Its name in Optuna, which has one distribution for each.
    """

    def __init__(self, parameter: Any, key: str):
        from keras_tuner.engine import hyperparameters as kinds
        from optuna import distributions

        self.name: str = parameter.name
        self.key = key
        self.distribution: distributions.BaseDistribution
        self._parameter = parameter
        self._values: list[Any] = []
        if isinstance(parameter, kinds.Float | kinds.Int):
            self.distribution = distributions.FloatDistribution(0.0, 1.0)
            return
        self._values = list(parameter.values)
        if getattr(parameter, "ordered", False):
            self._values.sort()
            self.distribution = distributions.IntDistribution(0, len(self._values) - 1)
        else:
            places = tuple(range(len(self._values)))
            self.distribution = distributions.CategoricalDistribution(places)

    def is_active(self, values: Values) -> bool:
        """Whether a configuration has it, as far as it is chosen."""
        return all(condition.is_active(values) for condition in self._parameter.conditions)

    def ask(self, trial: optuna.Trial) -> Any:
        """The value that Optuna chooses."""
        places = range(len(self._values))
        if not places:
            return self.at(trial.suggest_float(self.key, 0.0, 1.0))
        if getattr(self._parameter, "ordered", False):
            return self._values[trial.suggest_int(self.key, 0, places[-1])]
        return self._values[trial.suggest_categorical(self.key, tuple(places))]

    def at(self, share: float) -> Any:
        """The value at a share in [0, 1] of all."""
        return self._parameter.prob_to_value(min(share, _BELOW_ONE))

    def place(self, value: Any) -> float | int:
        """The inverse of `ask`."""
        if self._values:
            return self._values.index(value)
        return float(min(max(self._parameter.value_to_prob(value), 0.0), 1.0))


def _coordinates(hyperparameters: keras_tuner.HyperParameters) -> list[_Coordinate]:
    """One for each declaration: a name may be declared again under other conditions."""
    found: list[_Coordinate] = []
    for parameter in hyperparameters.space:
        before = sum(one.name == parameter.name for one in found)
        key = f"{parameter.name} ({before + 1})" if before else parameter.name
        found.append(_Coordinate(parameter, key))
    return found


def _key(values: Values) -> frozenset[tuple[str, Any]]:
    return frozenset(values.items())


@contextlib.contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Without messages and without warnings of experimental arguments; undone afterwards."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
