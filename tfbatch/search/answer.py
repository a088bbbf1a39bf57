"""The answer of a run: which configuration, verified how, against which baseline."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence

from tfbatch.configuration import Configuration
from tfbatch.errors import NothingLearnedError, SearchError
from tfbatch.estimators.chance_level import ChanceLevel
from tfbatch.estimators.recommendation import Choice, choose
from tfbatch.run_folder.files import JOURNAL
from tfbatch.search.confirmation import as_verified, verified_groups
from tfbatch.search.step_seconds import StepSeconds
from tfbatch.statistics import mean_and_deviation
from tfbatch.trial.finished import BASELINE, FinishedTrial
from tfbatch.trial.objective import Objective
from tfbatch.trial.trials import Trials

_NOT_MEASURED = StepSeconds()


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
        alone: Seconds of all its training steps, alone on the device: one for each round in which
            they were measured; empty where they were not.
        validation_alone: Seconds of all its evaluations on the validation split, alone; None where
            they were not measured.
        device: Where both were measured, such as "CPU, 2 threads".
    """

    key: str
    configuration: Configuration
    learning_rate: float
    trials: tuple[FinishedTrial, ...]
    alone: tuple[float, ...] = ()
    validation_alone: float | None = None
    device: str = ""

    @property
    def validations(self) -> int:
        """Number of evaluations in one of its trials."""
        first = self.trials[0]
        return math.ceil(first.steps / first.steps_per_epoch)

    @property
    def completed(self) -> tuple[FinishedTrial, ...]:
        """Its trials with a score."""
        return tuple(t for t in self.trials if t.score is not None)

    @property
    def failures(self) -> str:
        """Such as "diverged on 1 of 3 fresh seeds"; empty if every trial completed."""
        ends = Counter(t.status for t in self.trials if t.score is None)
        return ", ".join(f"{s} on {n} of {len(self.trials)} fresh seeds" for s, n in ends.items())

    def validation(self) -> dict[str, Measured]:
        """Every metric of its completed trials."""
        return summarize([t.metrics for t in self.completed])

    def training_seconds(self) -> Measured:
        """Seconds of training steps: alone on the device, or else as they were in the trials."""
        if self.alone:
            return Measured(*mean_and_deviation(list(self.alone)), len(self.alone))
        times = [t.training_seconds for t in self.completed or self.trials]
        return Measured(*mean_and_deviation(times), len(times))

    def trial_seconds(self) -> float:
        """Mean seconds of its whole trials as measured: beside others, building included."""
        return mean_and_deviation([t.seconds for t in self.completed or self.trials])[0]


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a run has found.

    Attributes:
        recommended: The recommended configuration.
        baseline: The baseline, or None if it never completed.
        choice: The comparison on fresh seeds, or None where there was none: then the
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

    @property
    def keeps_baseline(self) -> bool:
        """Whether the recommendation is the baseline itself."""
        return self.baseline is not None and self.recommended.key == self.baseline.key


def summarize(metrics: Sequence[dict[str, float]]) -> dict[str, Measured]:
    """Mean and deviation of each metric over several trainings."""
    names = metrics[0] if metrics else {}
    return {
        name: Measured(*mean_and_deviation([m[name] for m in metrics]), len(metrics))
        for name in names
    }


def find_answer(
    trials: Trials,
    *,
    batch_sizes: int,
    step_seconds: StepSeconds = _NOT_MEASURED,
    chance: ChanceLevel | None = None,
    too_short: str = "give more time with --max_minutes, or shorten the trials",
) -> Answer:
    """Decides among what was measured.

    Args:
        trials: All trials of the run.
        batch_sizes: How many batch sizes are verified.
        step_seconds: Step times, each batch size alone.
        chance: The objective's level without learning; None where it is not known.
        too_short: What to do where no trial has ended.

    Raises:
        SearchError: No trial has completed.
        NothingLearnedError: The answer would be a configuration that is no better than chance.
    """
    objective, first_best = trials.objective, trials.searched().best()
    if first_best is None or first_best.score is None:
        raise SearchError(_nothing_completed(trials, too_short))
    if chance and not chance.beaten_by(first_best.score, objective.direction):
        raise NothingLearnedError(_nothing_learned(trials, first_best, chance))
    answer = _decide(trials, batch_sizes, step_seconds, chance)
    mean = answer.recommended.validation()[objective.name].mean
    if chance and not chance.beaten_by(mean, objective.direction):
        raise NothingLearnedError(
            f"On fresh seeds the best configuration comes to {objective.name} {mean:.4g} on "
            f"average, which is no better than chance. {_lengthen(chance, objective)}"
        )
    return answer


def _decide(
    trials: Trials,
    batch_sizes: int,
    step_seconds: StepSeconds,
    chance: ChanceLevel | None,
) -> Answer:
    level = chance.without_knowledge() if chance else math.nan
    groups = verified_groups(
        trials,
        batch_sizes=batch_sizes,
        chance=level if math.isfinite(level) else None,
    )
    contenders = {key: _contender(key, group, step_seconds) for key, group in groups.items()}
    first = trials.find(BASELINE)
    if first is not None and first.score is not None and BASELINE not in contenders:
        contenders[BASELINE] = _contender(BASELINE, [first], step_seconds)
    baseline = contenders.get(BASELINE)
    verified = as_verified(groups, step_seconds)
    if verified:
        choice = choose(
            verified,
            direction=trials.objective.direction,
            smallest_margin=trials.objective.smallest_margin,
            incumbent=BASELINE,
        )
        return Answer(contenders[choice.recommended], baseline, choice, contenders)
    best = trials.searched().best(without=groups)  # what failed on fresh seeds is not recommended
    if best is None:
        raise SearchError("Every configuration that was verified failed on a fresh seed.")
    contenders[best.trial] = _contender(best.trial, [best], step_seconds)
    return Answer(contenders[best.trial], baseline, None, contenders)


def _contender(key: str, trials: Sequence[FinishedTrial], step_seconds: StepSeconds) -> Contender:
    first = trials[0]
    found = Contender(
        key,
        first.configuration,
        first.learning_rate,
        tuple(trials),
        tuple(step_seconds.of(first)),
        device=step_seconds.device,
    )
    if step_seconds.validation is None:
        return found
    seconds = found.validations * step_seconds.validation
    return dataclasses.replace(found, validation_alone=seconds)


def _nothing_completed(trials: Trials, too_short: str) -> str:
    if not trials:
        return (
            f"The time limit passed before the first trial ended: {too_short}. The same command "
            "with other values is accepted, since no trial is in the journal."
        )
    last = trials[-1]
    return (
        f"None of {len(trials)} trials completed. The last one ({last.trial}) ended as "
        f"{last.status}: {last.message}"
    )


def _nothing_learned(trials: Trials, best: FinishedTrial, chance: ChanceLevel) -> str:
    objective, completed = trials.objective, len(trials.searched().completed())
    if chance.knows_before_training(objective.direction):
        other = (
            ""
            if objective.name == "val_loss"
            else ", or take an objective that still moves (--objective=val_loss)"
        )
        return (
            f"Training improved nothing: the model that the builder returns already has "
            f"{objective.name} {chance.untrained:.4g} (the best constant prediction "
            f"{chance.constant:.4g}), and the best of {completed} completed trials ({best.trial}, "
            f"batch size {best.configuration.batch_size}, learning rate {best.learning_rate:.3g}) "
            f"has {best.score:.4g}. If its weights are trained already, search smaller learning "
            f"rates (a --baseline with a small one){other}. If they are random, lengthen the "
            "trials (--trial_length) or search other rates. Either with another --run_dir or with "
            f"--overwrite. Nothing was verified; every trial is in {JOURNAL} of the run folder."
        )
    return (
        f"Nothing was learned: the best of {completed} completed trials ({best.trial}, batch size "
        f"{best.configuration.batch_size}, learning rate {best.learning_rate:.3g}) has "
        f"{objective.name} {best.score:.4g}, which is not better than chance beyond the noise of "
        f"the validation examples. {_lengthen(chance, objective)}"
    )


def _lengthen(chance: ChanceLevel, objective: Objective) -> str:
    constant = (
        "" if chance.constant is None else f", the best constant prediction {chance.constant:.4g}"
    )
    return (
        f"The untrained model has {chance.untrained:.4g}{constant}, and chance alone can gain "
        f"{chance.noise:.2g} on the validation examples. Lengthen the trials (--trial_length, "
        "with another --run_dir or with --overwrite), or search other learning rates. Nothing was "
        f"verified; every trial is in {JOURNAL} of the run folder."
    )
