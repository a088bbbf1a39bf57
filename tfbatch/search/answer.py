"""The answer of a run: which configuration, verified how, against which baseline."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tfbatch.configuration import Configuration
from tfbatch.errors import SearchError
from tfbatch.estimators.recommendation import Choice, choose
from tfbatch.search.confirmation import Candidate, as_verified, verified_by_rounds
from tfbatch.search.finished import FinishedTrial
from tfbatch.search.loop import BASELINE
from tfbatch.search.objective import Objective
from tfbatch.search.trial_book import TrialBook
from tfbatch.statistics import mean_and_deviation


@dataclasses.dataclass(frozen=True)
class Measured:
    """A metric over seeds: mean, standard deviation (NaN for one seed), number of seeds."""

    mean: float
    deviation: float
    seeds: int


@dataclasses.dataclass(frozen=True)
class Contender:
    """One configuration with the trials that speak for it.

    Attributes:
        key: The trial of the search that it comes from.
        configuration: The configuration.
        learning_rate: Peak learning rate at its batch size.
        trials: Its verification trials, or, if there are none, its trial of the search.
    """

    key: str
    configuration: Configuration
    learning_rate: float
    trials: tuple[FinishedTrial, ...]

    def validation(self) -> dict[str, Measured]:
        """Every metric of its trials."""
        return summarise([t.metrics for t in self.trials])

    def training_seconds(self) -> Measured:
        """Seconds of training steps."""
        times = [t.training_seconds for t in self.trials]
        return Measured(*mean_and_deviation(times), len(times))


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a run has found.

    Attributes:
        recommended: The recommended configuration.
        baseline: The baseline, or None if it did not complete.
        choice: The comparison on fresh seeds, or None where there was no time for any: then the
            recommendation is the best of the search, chosen and measured on the same seed.
        contenders: All configurations that were compared, by key.
    """

    recommended: Contender
    baseline: Contender | None
    choice: Choice | None
    contenders: dict[str, Contender]

    @property
    def verified(self) -> bool:
        """Whether the figures come from fresh seeds."""
        return self.choice is not None


def summarise(metrics: Sequence[dict[str, float]]) -> dict[str, Measured]:
    """Mean and deviation of each metric over several trainings."""
    names = metrics[0] if metrics else {}
    return {
        name: Measured(*mean_and_deviation([m[name] for m in metrics]), len(metrics))
        for name in names
    }


def find_answer(
    candidates: Sequence[Candidate], *, book: TrialBook, objective: Objective
) -> Answer:
    """Decides among what was measured.

    Raises:
        SearchError: No trial has completed.
    """
    best = book.best()
    if best is None:
        raise SearchError(_nothing_completed(book))
    verified = verified_by_rounds(candidates, book)
    if not verified:
        first = book.find(BASELINE)
        baseline = _contender(BASELINE, [first]) if first and first.score is not None else None
        recommended = _contender(best.trial, [best])
        return Answer(recommended, baseline, None, {best.trial: recommended})
    choice = choose(
        as_verified(verified),
        direction=objective.direction,
        smallest_margin=objective.smallest_margin,
    )
    contenders = {key: _contender(key, trials) for key, trials in verified.items()}
    of_baseline = next((c for c in contenders.values() if _is_baseline(c, book)), None)
    return Answer(contenders[choice.recommended], of_baseline, choice, contenders)


def _contender(key: str, trials: Sequence[FinishedTrial]) -> Contender:
    return Contender(key, trials[0].configuration, trials[0].learning_rate, tuple(trials))


def _is_baseline(contender: Contender, book: TrialBook) -> bool:
    first = book.find(BASELINE)
    return first is not None and contender.configuration == first.configuration


def _nothing_completed(book: TrialBook) -> str:
    if not book.trials:
        return (
            "The time was over before the first trial ended. Give more time with --max_minutes, "
            'or shorten the trials with --trial_length="1 epochs".'
        )
    last = book.trials[-1]
    return (
        f"None of {len(book.trials)} trials completed. The last one ({last.trial}) ended as "
        f"{last.status}: {last.message}"
    )
