"""Bayesian optimization of batch size and learning rate for a KerasTuner search of a user's own."""

from __future__ import annotations

import math
from typing import Any

import keras_tuner
import threadpoolctl

from tfbatch.errors import InputError, did_you_mean
from tfbatch.oracles._bayesian import SpreadBayesianOracle
from tfbatch.oracles._memory_bound import _MemoryBound


class ScaledLearningRateOracle(_MemoryBound, SpreadBayesianOracle):
    """Searches batch size and learning rate together, as `tfbatch tune` does by default.

    The best learning rate moves with the batch size. A search over the two as they are must find
    that out; this one searches the rate in coordinates in which it moves less:

        learning_rate = base * (batch_size / base_batch_size) ** learning_rate_exponent

    **The range of the hyperparameter `learning_rate` is the range of `base`**, which is meant for
    `base_batch_size`; `hp` gives a trial the learning rate to train with, which at other batch
    sizes lies outside of it where the rule says so. Declare

    - `hp.Choice("batch_size", [16, 32, 64], ordered=True)`, or an `hp.Int`;
    - `hp.Float("learning_rate", 1e-3, 0.05, sampling="log")`;
    - and whatever else the model asks for: it is searched too, as declared.

    The first `num_initial_points` trials are scrambled Sobol points, then a Gaussian process
    (KerasTuner's) proposes, never the same values twice. A trial whose score is not finite, or that
    failed, counts as the worst so far, so that the search stays away; a score that is not finite
    does not count towards `max_consecutive_failed_trials`. Lack of memory bounds the batch size as
    `with_memory_bound` says, except between a chief and its workers. Random numbers are saved: a
    search that is reloaded goes on as if it had never stopped.

    What `tfbatch tune` does beyond that needs more than an oracle: trials of equal length in
    examples, schedules and momenta that follow the batch size, a baseline, fresh seeds for the
    best ones, and step times. `get_best_hyperparameters` is the best of single runs.

    Example:
        ```python
        oracle = tfbatch.oracles.ScaledLearningRateOracle(objective="val_accuracy", max_trials=24)
        tuner = keras_tuner.Tuner(oracle=oracle, hypermodel=DigitsModel(), directory="search")
        tuner.search(x, y, validation_data=(x_val, y_val), epochs=5)
        ```

    A batch size that is declared in `HyperModel.fit`, not in `build`, is unknown before the first
    trial: that one trains with its default and an unscaled rate.

    Args:
        objective: As for any oracle of KerasTuner.
        max_trials: Number of trials, at least 1.
        num_initial_points: Trials that are spread before the first Gaussian process, at least 1.
        batch_size: The name of the batch size among the hyperparameters.
        learning_rate: That of the learning rate, an `hp.Float`.
        learning_rate_octaves: That of a factor of two to the power of this, which is in the
            learning rate too; for a space that has one, as that of `tune` has.
        base_batch_size: The batch size that the range of the learning rate is meant for.
        learning_rate_exponent: How the best rate grows with the batch size: 1 for SGD (Goyal et al.
            2017, arXiv 1706.02677), 0.5 for Adam and its kin (Malladi et al. 2022, arXiv
            2205.10287), 0 to search the rate as it is.
        hyperparameters: A space, or None for that of the hypermodel.
        seed: Positive (KerasTuner takes 0 for "random").
        alpha: Variance of the noise in scores of unit variance; see
            keras_tuner.oracles.BayesianOptimizationOracle.
        beta: How much uncertainty is worth, in deviations.
        tune_new_entries: See keras_tuner.Oracle.
        allow_new_entries: See keras_tuner.Oracle.
        max_retries_per_trial: See keras_tuner.Oracle.
        max_consecutive_failed_trials: See keras_tuner.Oracle.

    Raises:
        InputError: A number that is out of range; later, at the first proposal, a learning rate
            that is no `hp.Float`, or batch sizes that are no numbers; at the second, a space
            without one of the two.
    """

    def __init__(
        self,
        objective: str | keras_tuner.Objective | None = None,
        max_trials: int = 24,
        *,
        num_initial_points: int = 12,
        batch_size: str = "batch_size",
        learning_rate: str = "learning_rate",
        learning_rate_octaves: str = "learning_rate_octaves",
        base_batch_size: int = 32,
        learning_rate_exponent: float = 1.0,
        hyperparameters: keras_tuner.HyperParameters | None = None,
        seed: int = 1,
        alpha: float = 1e-4,
        beta: float = 2.6,
        tune_new_entries: bool = True,
        allow_new_entries: bool = True,
        max_retries_per_trial: int = 0,
        max_consecutive_failed_trials: int = 3,
    ):
        if min(max_trials, num_initial_points, base_batch_size, seed) < 1:
            raise InputError(
                "`max_trials`, `num_initial_points`, `base_batch_size` and `seed` must be >= 1. "
                f"Received: {max_trials=}, {num_initial_points=}, {base_batch_size=}, {seed=}."
            )
        if not math.isfinite(learning_rate_exponent):
            raise InputError(
                "`learning_rate_exponent` must be a finite number, such as 1 for SGD. "
                f"Received: {learning_rate_exponent!r}."
            )
        super().__init__(
            objective=objective,
            max_trials=max_trials,
            num_initial_points=num_initial_points,
            alpha=alpha,
            beta=beta,
            hyperparameters=hyperparameters,
            seed=seed,
            tune_new_entries=tune_new_entries,
            allow_new_entries=allow_new_entries,
            max_retries_per_trial=max_retries_per_trial,
            max_consecutive_failed_trials=max_consecutive_failed_trials,
        )
        self._hyperparameter = batch_size
        self._learning_rate, self._octaves = learning_rate, learning_rate_octaves
        self._base_batch_size, self._exponent = base_batch_size, learning_rate_exponent
        self._base_rates: dict[str, float] = {}

    def populate_space(self, trial_id: str) -> dict[str, object]:
        """The next trial's values, with the learning rate at its batch size."""
        self._check_space()
        points = self.num_initial_points  # type: ignore[has-type]
        failed = sum(trial.status == "FAILED" for trial in self.trials.values())
        # A trial without a score is a first point too; one with a score there must be.
        self.num_initial_points = max(points - failed, 1)
        try:
            # One thread: the proposal would depend on their number.
            with threadpoolctl.threadpool_limits(1):
                proposal: dict[str, Any] = super().populate_space(trial_id)
        finally:
            self.num_initial_points = points
        values = proposal["values"]
        if not values:
            return proposal
        if self._hyperparameter in values and self._learning_rate in values:
            self._base_rates[trial_id] = float(values[self._learning_rate])
        return {**proposal, "values": self._trained(values)}

    def get_state(self) -> dict[str, object]:
        """With the base learning rates, which would else be rounded."""
        return {**super().get_state(), "base_learning_rates": self._base_rates}

    def set_state(self, state: dict[str, Any]) -> None:
        """With the base learning rates."""
        super().set_state(state)
        self._base_rates = state["base_learning_rates"]

    def _check_space(self) -> None:
        by_name = {parameter.name: parameter for parameter in self.hyperparameters.space}
        rate = by_name.get(self._learning_rate)
        if rate is not None and not isinstance(rate, keras_tuner.engine.hyperparameters.Float):
            raise InputError(
                "The learning rate is scaled with the batch size, and must be a range: declare it "
                f'as hp.Float("{self._learning_rate}", 1e-3, 0.1, sampling="log"). '
                f"Received: {rate!r}."
            )
        for argument, name in (
            ("batch_size", self._hyperparameter),
            ("learning_rate", self._learning_rate),
        ):
            # What `HyperModel.fit` asks for is known after the first trial.
            if name not in by_name and self.end_order:
                raise InputError(
                    f"The space has no hyperparameter `{name}`.{did_you_mean(name, by_name)} "
                    f"It has: {', '.join(by_name) or 'none'}. Give the name to the oracle, "
                    f'{argument}="...".'
                )

    def _factor(self, values: dict[str, Any]) -> float:
        """What the base learning rate is multiplied by."""
        size = values.get(self._hyperparameter, self._base_batch_size)
        octaves: float = values.get(self._octaves, 0.0)
        return float((size / self._base_batch_size) ** self._exponent * 2.0**octaves)

    def _trained(self, searched: dict[str, Any]) -> dict[str, Any]:
        """Searched values as a trial gets them."""
        if self._learning_rate not in searched:
            return searched
        rate = float(searched[self._learning_rate]) * self._factor(searched)
        return {**searched, self._learning_rate: rate}

    def _searched(self, trial: Any) -> dict[str, Any]:
        """The inverse, for a trial."""
        values: dict[str, Any] = trial.hyperparameters.values
        if self._learning_rate not in values:
            return values
        rate = self._base_rates.get(trial.trial_id)
        if rate is None:
            rate = values[self._learning_rate] / self._factor(values)
        return {**values, self._learning_rate: rate}

    def _duplicate(self, values: dict[str, Any]) -> bool:
        """Whether searched values were tried: what is remembered are those of the trials."""
        return bool(super()._duplicate(self._trained(values)))

    def _is_result(self, trial: Any) -> bool:
        """KerasTuner fails a trial whose score is no number; what ended by an error has none.

        An error's message is no sign of it: between a chief and its workers it is lost.
        """
        diverged = trial.score is not None and not math.isfinite(trial.score)
        return diverged or super()._is_result(trial)

    def _value(self, trial: Any) -> float | None:
        """A score that is not finite, and a failure, count as the worst of all."""
        if _has_score(trial):
            return super()._value(trial)
        known = trial.status in ("COMPLETED", "FAILED") and not self._lacked_memory(trial)
        return math.inf if known else None


def _has_score(trial: Any) -> bool:
    return trial.status == "COMPLETED" and math.isfinite(trial.score)
