"""The answer of a run: which configuration, verified how, against which baseline."""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence

from tfbatch.answer.answer import Answer, Contender, Open, Verification
from tfbatch.answer.candidates import as_verified, failed, seconds_beside, verified_groups
from tfbatch.answer.edges import Edges, edges_of
from tfbatch.answer.memory_limits import memory_used_up
from tfbatch.answer.step_seconds import StepSeconds
from tfbatch.configuration import Configuration
from tfbatch.errors import NothingLearnedError, SearchError
from tfbatch.estimators.chance_level import ChanceLevel
from tfbatch.estimators.race import FIRST_EXIT
from tfbatch.estimators.recommendation import Choice, Undecided, choose
from tfbatch.metric_direction import Goal
from tfbatch.run_folder.files import JOURNAL
from tfbatch.trial.finished_trial import BASELINE, FinishedTrial
from tfbatch.trial.objective import Objective
from tfbatch.trial.trials import Trials


def _as_one(configuration: Configuration) -> float:
    del configuration
    return 1.0


@dataclasses.dataclass(frozen=True)
class Left:
    """What is left of a run's limits, for further trainings; infinite where there is no limit.

    Attributes:
        seconds: Of the time.
        at_once: Trainings that share them side by side.
        trainings: Of the budget in trainings.
        price: What a training of a configuration takes of that budget.
    """

    seconds: float = math.inf
    at_once: int = 1
    trainings: float = math.inf
    price: Callable[[Configuration], float] = _as_one

    def too_small(self, *, seconds: float, trainings: float) -> list[str]:
        """The options that so many more seconds and trainings need to be larger."""
        found = {
            "--max_minutes": seconds / self.at_once > self.seconds,
            "--max_trainings": trainings > self.trainings,
        }
        return [option for option, is_too_small in found.items() if is_too_small]


NO_LIMITS = Left()


class RefutedError(NothingLearnedError):
    """What seemed to have learned has not, on fresh seeds, or has failed on them."""


class AllFailedError(SearchError):
    """Every configuration of the search was verified, and failed on a fresh seed."""


def find_answer(
    trials: Trials,
    *,
    batch_sizes: int,
    step_seconds: StepSeconds = StepSeconds(),  # noqa: B008 - frozen
    chance: ChanceLevel | None = None,
    learning_rates: tuple[float, float] | None = None,
    device: str | None = None,
    goal: Goal = "time",
    tolerance: float | None = None,
    planned: int = 0,
    left: Left = NO_LIMITS,
    too_short: str | None = None,
) -> Answer:
    """Decides among what was measured.

    Args:
        trials: All trials of the run.
        batch_sizes: How many batch sizes are verified.
        step_seconds: Step times, each batch size alone.
        chance: The objective's level without learning; None where it is not known.
        learning_rates: Lowest and highest base learning rate that was searched, or None.
        device: Kind of device whose memory is reported. Default: that of the last trial.
        goal: What decides among configurations that are as good as one another.
        tolerance: Deficits up to this do not matter. Default: see `choose`.
        planned: The fresh seeds that were asked for.
        left: What is left for more of them.
        too_short: What to do where the time limit passed before a trial ended; None where the first
            one may still run.

    Returns:
        The answer, without metrics on the test split: reading those is the last step of a run.

    Raises:
        SearchError: No trial has completed.
        NothingLearnedError: The answer would be a configuration that is no better than chance.
        RefutedError: So is all that was verified, on fresh seeds; or that failed on them.
        AllFailedError: Every configuration that was verified failed.
    """
    objective, first_best = trials.objective, trials.searched().best()
    if first_best is None or first_best.score is None:
        raise SearchError(_nothing_completed(trials, too_short))
    if chance and not chance.beaten_by(first_best.score, objective.direction):
        raise NothingLearnedError(_nothing_learned(trials, first_best, chance))
    level = chance.without_knowledge() if chance else math.nan
    seeds = planned or FIRST_EXIT
    groups = verified_groups(trials, batch_sizes=batch_sizes, chance=chance, seeds=seeds)
    decided = functools.partial(
        decide,
        trials,
        groups,
        step_seconds,
        chance=level,
        goal=goal,
        tolerance=tolerance,
        planned=planned,
        left=left,
        incumbent=BASELINE if _may_be_kept(groups, chance, objective) else None,
    )
    answer = decided()
    if chance and not _has_learned(answer.recommended, chance, objective):
        learned = _learned(answer, chance)
        if not learned:
            raise _refuted(answer, chance)
        answer = decided(among=learned)  # it was as good and cheaper, within the band
    edges = edges_of(trials, learning_rates) if learning_rates else Edges()
    used_up = memory_used_up(trials, device or trials[-1].device)
    return answer.model_copy(
        update={"best_learning_rate_at_edge": edges, "memory_used_up": used_up}
    )


def decide(
    trials: Trials,
    groups: Mapping[str, Sequence[FinishedTrial]],
    step_seconds: StepSeconds,
    *,
    chance: float | None = None,
    goal: Goal = "time",
    tolerance: float | None = None,
    planned: int = 0,
    left: Left = NO_LIMITS,
    incumbent: str | None = BASELINE,
    among: Collection[str] | None = None,
) -> Answer:
    """The answer that some verified groups give; without groups, the best of the search.

    Args:
        trials: All trials of the run, one of them completed.
        groups: The verification's trials by the contender's key.
        step_seconds: Step times, each batch size alone.
        chance: The objective's value without learning; NaN or None where it is not known.
        goal: What decides among configurations that are as good as one another.
        tolerance: Deficits up to this do not matter. Default: see `choose`.
        planned: The fresh seeds that were asked for.
        left: What is left for more of them.
        incumbent: What is kept unless something is shown; None where nothing is to be kept.
        among: Keys of the groups that may be recommended; None for all.

    Raises:
        AllFailedError: Every configuration that was verified failed.
    """
    evidence = dict(groups)
    baseline = trials.find(BASELINE)
    if baseline is not None and baseline.score is not None:
        evidence.setdefault(BASELINE, [baseline])
    choice = judge(
        trials,
        {key: one for key, one in groups.items() if among is None or key in among},
        step_seconds,
        chance=chance,
        goal=goal,
        tolerance=tolerance,
        incumbent=incumbent,
    )
    if choice:
        recommended = choice.recommended
    else:
        best = trials.searched().best(without=groups)  # what failed there is not recommended
        if best is None:
            raise AllFailedError("Every configuration that was verified failed on a fresh seed.")
        recommended = best.trial
        evidence[best.trial] = [best]
    # As in the race: one that failed may have no step time, and must not cost the others theirs.
    timed = [one[0] for one in evidence.values() if not failed(one)]
    times = step_seconds.where_all_have_some(timed or [one[0] for one in evidence.values()])
    beside = seconds_beside(evidence)
    return Answer(
        objective=trials.objective,
        recommended_trial=recommended,
        contenders=tuple(
            Contender.of(key, one, times, beside=beside) for key, one in evidence.items()
        ),
        verification=Verification.of(choice) if choice else None,
        goal=goal,
        undecided=tuple(_open(one, groups, choice, planned, left) for one in choice.undecided)
        if choice
        else (),
        step_times=step_seconds,
        trials=len(trials),
    )


def judge(
    trials: Trials,
    groups: Mapping[str, Sequence[FinishedTrial]],
    step_seconds: StepSeconds = StepSeconds(),  # noqa: B008 - frozen
    *,
    chance: float | None = None,
    goal: Goal = "time",
    tolerance: float | None = None,
    incumbent: str | None = BASELINE,
) -> Choice | None:
    """The choice among verified groups; None without any, or where all have failed.

    Args:
        trials: All trials of the run.
        groups: The verification's trials by the contender's key.
        step_seconds: Step times, each batch size alone.
        chance: The objective's value without learning; NaN or None where it is not known.
        goal: What decides among configurations that are as good as one another.
        tolerance: Deficits up to this do not matter. Default: see `choose`.
        incumbent: See `choose`.
    """
    verified = as_verified(groups, step_seconds)
    if not verified:
        return None
    return choose(
        verified,
        direction=trials.objective.direction,
        smallest_margin=trials.objective.smallest_margin(chance),
        incumbent=incumbent,
        tolerance=tolerance,
        goal=goal,
    )


def _may_be_kept(
    groups: Mapping[str, Sequence[FinishedTrial]], chance: ChanceLevel | None, objective: Objective
) -> bool:
    """Whether the baseline has learned something: what has not is kept from nothing better."""
    scores = [t.score for t in groups.get(BASELINE, ()) if t.score is not None]
    if chance is None or not scores:
        return True
    return chance.beaten_by(statistics.fmean(scores), objective.direction)


def _has_learned(one: Contender, chance: ChanceLevel, objective: Objective) -> bool:
    return chance.beaten_by(one.objective().mean, objective.direction)


def _learned(answer: Answer, chance: ChanceLevel) -> list[str]:
    """Keys of the verified configurations that are better than chance on fresh seeds."""
    compared = answer.verification.comparisons if answer.verification else ()
    keys = {one.key for one in compared}
    learned = (one for one in answer.contenders if one.key in keys)
    return [one.key for one in learned if _has_learned(one, chance, answer.objective)]


def _refuted(answer: Answer, chance: ChanceLevel) -> RefutedError:
    """Why there is no answer although a trial of the search has learned something."""
    objective, best = answer.objective, answer.recommended
    mean = best.objective().mean
    end = (
        f"which is no better than chance. {_lengthen(chance, objective)} Every trial is in "
        f"{JOURNAL} of the run folder."
    )
    if answer.verified:
        return RefutedError(
            f"On fresh seeds the best configuration comes to {objective.name} {mean:.4g} on "
            f"average, {end}"
        )
    return RefutedError(
        "Every configuration that was verified failed on a fresh seed, and the best trial that is "
        f"left ({best.key}) has {objective.name} {mean:.4g}, {end}"
    )


def _open(
    one: Undecided,
    groups: Mapping[str, Sequence[FinishedTrial]],
    choice: Choice,
    planned: int,
    left: Left,
) -> Open:
    """What more seeds would decide, and what they cost."""
    at_most = one.at_most if math.isfinite(one.at_most) else None
    if one.seeds is None:
        return Open(
            key=one.key,
            question=one.question,
            seeds=None,
            minutes=None,
            option=None,
            at_most=at_most,
        )
    seeds, seconds, trainings = max(one.seeds, planned), 0.0, 0.0
    standing = [compared for compared in choice.comparisons if not compared.out]
    for compared in standing:
        share = max(seeds - compared.seeds, 0) / compared.seeds
        trials = groups[compared.key]
        seconds += share * sum(trial.seconds for trial in trials)
        trainings += share * len(trials) * left.price(trials[0].configuration)
    larger = left.too_small(seconds=seconds, trainings=trainings)
    more = f" and a larger {' and '.join(larger)}" if larger else ""
    return Open(
        key=one.key,
        question=one.question,
        seeds=one.seeds,
        minutes=round(seconds / 60, 2),
        option=f"--verification_seeds={seeds}{more}",
        probability=one.probability,
        at_most=at_most,
    )


def _nothing_completed(trials: Trials, too_short: str | None) -> str:
    if not trials and too_short is None:
        return "No trial has ended yet in this run folder: the same command starts or continues it."
    if not trials:
        return (
            f"The time limit passed before the first trial ended: {too_short}. The same command "
            "with other values is accepted, since no trial is in the journal."
        )
    last, parts = trials[-1], len(trials.completed())
    if parts:
        return (
            f"No trial was trained to the run's length, which an answer needs: {parts} of "
            f"{len(trials)} completed, as parts of trainings. The same command goes on with them; "
            "give it more time or trainings."
        )
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
            f"has {best.score:.4g}. If its weights are trained already, search a lower "
            f"`base_learning_rate` (a search of your own, --search=FILE.yaml, sets its range)"
            f"{other}. If they are random, lengthen the "
            "trials (--trial_length) or search other rates. Either with another --run_dir or with "
            f"--overwrite. Nothing was verified; every trial is in {JOURNAL} of the run folder."
        )
    return (
        f"Nothing was learned: the best of {completed} completed trials ({best.trial}, batch size "
        f"{best.configuration.batch_size}, learning rate {best.learning_rate:.3g}) has "
        f"{objective.name} {best.score:.4g}, which is not better than chance beyond the noise of "
        f"the validation examples. {_lengthen(chance, objective)} Nothing was verified; every "
        f"trial is in {JOURNAL} of the run folder."
    )


def _lengthen(chance: ChanceLevel, objective: Objective) -> str:
    constant = (
        "" if chance.constant is None else f", the best constant prediction {chance.constant:.4g}"
    )
    return (
        f"The untrained model has {chance.untrained:.4g}{constant}, and chance alone can gain "
        f"{chance.noise:.2g} on the validation examples. Lengthen the trials (--trial_length, "
        "with another --run_dir or with --overwrite), or search other learning rates."
    )
