"""An oracle that learns which batch sizes do not fit in memory, and proposes none as large again.

KerasTuner's own loop takes an error for lack of memory for a failed trial: three in a row end the
search, and its Bayesian oracle leaves failed trials out and proposes the same region again.
"""

from __future__ import annotations

import collections
import math
from typing import Any

import keras_tuner

from tfbatch.errors import InputError
from tfbatch.process.out_of_memory import is_out_of_memory

_DRAWS = 100
"""Of eight batch sizes with one below the bound, that misses it once in 600,000 times."""


def with_memory_bound(
    oracle: type[keras_tuner.Oracle], *, hyperparameter: str = "batch_size"
) -> type[keras_tuner.Oracle]:
    """A subclass of an oracle that learns an upper bound of the batch size from trials.

    A trial that ends with an error for lack of memory is no failure: it does not count towards
    `max_consecutive_failed_trials`, is not tried again, and no value as large is proposed from
    then on (the same model, precision and device are assumed for all trials). The bound is saved
    with the oracle.

    Between KerasTuner's chief and its workers (`KERASTUNER_ORACLE_IP`) no bound is learned: an
    error's message does not reach the chief, where a lack of memory is a failure like any other.
    Give such a search batch sizes that fit, or a larger `max_consecutive_failed_trials`.

    Example:
        ```python
        Oracle = tfbatch.oracles.with_memory_bound(keras_tuner.oracles.BayesianOptimizationOracle)
        tuner = keras_tuner.Tuner(
            oracle=Oracle(objective="val_loss", max_trials=20), hypermodel=build_model
        )
        ```

    Args:
        oracle: A class derived from keras_tuner.Oracle.
        hyperparameter: The name of the batch size among the hyperparameters.

    Returns:
        The subclass; the class itself where it has such a bound already.

    Raises:
        InputError: The class is no oracle; later, at a proposal, batch sizes that are no numbers.
    """
    if not (isinstance(oracle, type) and issubclass(oracle, keras_tuner.Oracle)):
        raise InputError(
            "`oracle` must be a class derived from keras_tuner.Oracle, such as "
            f"keras_tuner.oracles.RandomSearchOracle. Received: {oracle!r}."
        )
    if issubclass(oracle, _MemoryBound):
        return oracle
    name = f"{oracle.__name__}WithMemoryBound"
    return type(name, (_MemoryBound, oracle), {"_hyperparameter": hyperparameter})


class _MemoryBound:
    """Mixed in before an oracle's class."""

    _hyperparameter = "batch_size"
    smallest_that_failed: float | None = None

    def populate_space(self, trial_id: str) -> Any:
        """The oracle's proposal; in place of a batch size above the bound another one below it.

        The oracle is asked once for each trial: Hyperband counts every answer as a place in its
        bracket. "IDLE" and "STOPPED" come without values.

        Raises:
            InputError: The batch sizes are declared as something else than numbers.
        """
        self._check_numbers()
        proposal = super().populate_space(trial_id)  # type: ignore[misc]
        values = proposal.get("values")
        if not self._is_too_large(values):
            return proposal
        moved = self._moved(values)
        if moved is not None and self._duplicate(moved) and not self._in_brackets():  # type: ignore[attr-defined]
            moved = self._random_values()
        if moved is None:
            return {"status": "STOPPED", "values": None}
        return {**proposal, "values": moved}

    def _check_numbers(self) -> None:
        """Refuses texts, of which "128" is less than "64"."""
        name = self._hyperparameter
        for parameter in self.hyperparameters.space:  # type: ignore[attr-defined]
            # The values of a choice are of one type.
            if parameter.name == name and isinstance(parameter.default, str | bool):
                raise InputError(
                    "The batch sizes of a search must be numbers: declare them as "
                    f'hp.Choice("{name}", [32, 64], ordered=True). Received: {parameter!r}.'
                )

    def accepts(self, values: dict[str, Any]) -> bool:
        """Called by `SobolOracle` for each of its points."""
        return not self._is_too_large(values)

    def _random_values(self) -> dict[str, Any] | None:
        """What every stock oracle draws from: again until below the bound; None if exhausted."""
        for _ in range(_DRAWS):
            values: dict[str, Any] | None = super()._random_values()  # type: ignore[misc]
            if not self._is_too_large(values):
                return values
        moved = self._moved(values or {})
        return None if moved is None or self._duplicate(moved) else moved  # type: ignore[attr-defined]

    def _get_next_combination(self, values: dict[str, Any]) -> dict[str, Any] | None:
        """The grid's next point below the bound: one left out would end all that follow it."""
        following: dict[str, Any] | None = super()._get_next_combination(values)  # type: ignore[misc]
        while self._is_too_large(following):
            following = super()._get_next_combination(following)  # type: ignore[misc]
        return following

    def end_trial(self, trial: Any) -> None:
        """Takes a lack of memory for a result."""
        if trial.status in ("INVALID", "FAILED") and is_out_of_memory(trial.message or ""):
            value = trial.hyperparameters.values.get(self._hyperparameter)
            if value is not None:
                known = self.smallest_that_failed
                self.smallest_that_failed = value if known is None else min(known, value)
                # KerasTuner has no status for it: INVALID is retried, FAILED ends the search.
                trial.status = "FAILED"
                # Hyperband promotes only from a full round of completed trials: another takes the
                # place of this one.
                for bracket in getattr(self, "_brackets", ()):
                    first = bracket["rounds"][0]
                    first[:] = [place for place in first if place["id"] != trial.trial_id]
        super().end_trial(trial)  # type: ignore[misc]

    def _check_consecutive_failures(self) -> None:
        """Leaves out trials that lacked memory, which are results."""
        everything = self.end_order  # type: ignore[has-type]
        self.end_order = [
            trial_id
            for trial_id in everything
            if not self._is_result(self.trials[trial_id])  # type: ignore[attr-defined]
        ]
        try:
            super()._check_consecutive_failures()  # type: ignore[misc]
        finally:
            self.end_order = everything

    def _is_result(self, trial: Any) -> bool:
        """Whether a trial that failed says something of its values, and nothing of the program."""
        return self._lacked_memory(trial)

    def _lacked_memory(self, trial: Any) -> bool:
        return is_out_of_memory(trial.message or "")

    def get_state(self) -> Any:
        """With the bound."""
        return {**super().get_state(), "smallest_that_failed": self.smallest_that_failed}  # type: ignore[misc]

    def set_state(self, state: Any) -> None:
        """With the bound."""
        super().set_state(state)  # type: ignore[misc]
        self.smallest_that_failed = state.get("smallest_that_failed")

    def _in_brackets(self) -> bool:
        """Whether it is Hyperband, where each trial has a place that another one cannot take."""
        return hasattr(self, "_brackets")

    def _is_too_large(self, values: dict[str, Any] | None) -> bool:
        if self.smallest_that_failed is None or not values:
            return False
        value = values.get(self._hyperparameter)
        return value is not None and value >= self.smallest_that_failed

    def _moved(self, values: dict[str, Any]) -> dict[str, Any] | None:
        """The values with a batch size below the bound; None if there is none.

        That is the one tried least often, and the larger of two: the largest alone would get every
        trial that lies above. What was tried already comes last. In a range, sizes above half the
        bound come after the others, smaller ones first: the next below would lack memory as well.
        """
        name, bound = self._hyperparameter, self.smallest_that_failed or math.inf
        space = self.get_space().space  # type: ignore[attr-defined]
        declared = [parameter for parameter in space if parameter.name == name]
        is_range = any(isinstance(parameter, _Int) for parameter in declared)
        below = [v for parameter in declared for v in _values(parameter) if v < bound]
        trials = self.trials.values()  # type: ignore[attr-defined]
        tried = collections.Counter(trial.hyperparameters.values.get(name) for trial in trials)

        def order(value: Any) -> tuple[Any, ...]:
            near = is_range and value > bound / 2
            return near, tried[value], value if near else -value

        moved = [{**values, name: value} for value in sorted(below, key=order)]
        untried = (other for other in moved if not self._duplicate(other))  # type: ignore[attr-defined]
        return next(untried, moved[0] if moved else None)


_Int = keras_tuner.engine.hyperparameters.Int


def _values(parameter: Any) -> list[Any]:
    """KerasTuner lists an `Int` with logarithmic steps as floats, which `fit` refuses."""
    whole = isinstance(parameter, _Int)
    return [int(value) if whole else value for value in parameter.values]
