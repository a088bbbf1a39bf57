"""Which configurations are verified on fresh seeds, and what of their trials counts."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from tfbatch.answer.step_seconds import StepSeconds
from tfbatch.configuration import Configuration
from tfbatch.estimators.chance_level import ChanceLevel
from tfbatch.estimators.race import FIRST_EXIT
from tfbatch.estimators.recommendation import Verified
from tfbatch.trial.finished_trial import BASELINE, FinishedTrial
from tfbatch.trial.objective import Objective
from tfbatch.trial.trials import Trials

HOPELESS_SHARE = 0.1
"""A trial that lies behind the best one by more than this share of what that one has learned is not
verified: it could be recommended only as a tie, and seeds differ by less."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A configuration to verify.

    Attributes:
        key: The trial of the search (or the baseline) that it comes from.
        configuration: The configuration.
        seconds: What that trial took.
    """

    key: str
    configuration: Configuration
    seconds: float


def choose_candidates(
    trials: Trials, *, batch_sizes: int, chance: ChanceLevel | None = None, seeds: int = FIRST_EXIT
) -> list[Candidate]:
    """The best searched trial of each of the best batch sizes, and the baseline.

    The baseline takes no batch size's place: the best trial of the search is verified also where
    the baseline has its batch size. Trials that lie hopelessly behind the best one are left out.
    What has failed on a fresh seed, or has learned nothing on its own ones, is not that best one
    and takes no place: it would shut out all that is behind it, for good. The next of its batch
    size is a candidate in its place; where that is disproved too, only what the search finds
    afterwards: else all its trials would be verified, one after the other.

    Args:
        trials: Finished trials; those of the verification and those without a score are no
            candidates.
        batch_sizes: How many batch sizes.
        chance: The objective's level without learning; None where it is not known: then no trial
            is left out for its quality.
        seeds: The fresh seeds that are planned.
    """
    ranked = trials.searched().ranked()
    disproved = _disproved(trials, chance, seeds)
    baseline = [t for t in ranked if t.trial == BASELINE]
    same = {t.identity for t in baseline}
    shut_out = disproved | _behind_two(trials, disproved - same)
    scored = [t for t in ranked if t.identity not in shut_out]
    places = {trial.trial: place for place, trial in enumerate(ranked)}
    best: dict[int, FinishedTrial] = {}
    for trial in scored:
        if trial.trial != BASELINE and trial.identity not in same:
            best.setdefault(trial.configuration.batch_size, trial)
    chosen = list(best.values())[:batch_sizes]
    level = chance.known() if chance else None
    if level is not None and scored:
        farthest = HOPELESS_SHARE * abs(level - _score(scored[0]))
        chosen = [t for t in chosen if abs(_score(t) - _score(scored[0])) <= farthest]
    if disproved and scored and _is_chance(scored[:1], chance, trials.objective):
        chosen = []  # what is left has not even seemed to have learned
    chosen = sorted([*chosen, *baseline], key=lambda t: places[t.trial])
    return [Candidate(t.trial, t.configuration, t.seconds) for t in chosen]


def _disproved(trials: Trials, chance: ChanceLevel | None, seeds: int) -> set[str]:
    """Identities of what fresh seeds have shown to fail, or to be no better than chance.

    Where all that was verified has failed, the machine may be the reason: then the next ones would
    fail too, one after another. And before the first rounds have run the seeds may be unlucky ones.
    """
    fresh: dict[str, list[FinishedTrial]] = {}
    for trial in trials:
        if trial.phase == "confirmation" and not _is_again(trial):
            fresh.setdefault(trial.identity, []).append(trial)
    all_failed = all(failed(several) for several in fresh.values())
    enough = min(FIRST_EXIT, seeds)
    return {
        identity
        for identity, several in fresh.items()
        if (failed(several) and not all_failed)
        or (len(several) >= enough and _is_chance(several, chance, trials.objective))
    }


def _behind_two(trials: Trials, disproved: set[str]) -> set[str]:
    """Identities of batch sizes with two that are disproved, of trials from before the last was.

    What has been verified itself is none of them.
    """
    fresh, sizes = set[str](), dict[int, set[str]]()
    last: dict[int, int] = {}
    for number, trial in enumerate(trials):
        if trial.phase != "confirmation":
            continue
        fresh.add(trial.identity)
        if trial.identity in disproved:
            size = trial.configuration.batch_size
            sizes.setdefault(size, set()).add(trial.identity)
            last[size] = number
    return {
        trial.identity
        for number, trial in enumerate(trials)
        if trial.phase != "confirmation"
        and trial.identity not in fresh
        and len(sizes.get(trial.configuration.batch_size, ())) > 1
        and number < last[trial.configuration.batch_size]
    }


def _is_chance(
    several: Sequence[FinishedTrial], chance: ChanceLevel | None, objective: Objective
) -> bool:
    """Whether their mean is no better than chance, where that is known."""
    scores = [trial.score for trial in several if trial.score is not None]
    if chance is None or not scores:
        return False
    return not chance.beaten_by(statistics.fmean(scores), objective.direction)


def to_verify(
    trials: Trials, *, batch_sizes: int, chance: ChanceLevel | None = None, seeds: int = FIRST_EXIT
) -> list[Candidate]:
    """The candidates now, and what was verified before: it takes part until it leaves.

    Otherwise what a longer search has put behind others would stay undecided for good.

    Args:
        trials: See `choose_candidates`, like the others.
        batch_sizes: How many batch sizes the candidates now may have.
        chance: The objective's level without learning, or None.
        seeds: The fresh seeds that are planned.
    """
    found = choose_candidates(trials, batch_sizes=batch_sizes, chance=chance, seeds=seeds)
    chosen, verified = {one.key for one in found}, groups_of_rounds(trials)
    earlier = [t for t in trials if t.trial in verified and t.trial not in chosen]
    return found + [Candidate(t.trial, t.configuration, t.seconds) for t in earlier]


def _score(trial: FinishedTrial) -> float:
    return trial.score if trial.score is not None else math.nan


def trial_name(configuration: Configuration, number: int) -> str:
    """Depends on the configuration, so that an extended search finds what was verified before."""
    return f"confirm-{configuration.identity()}-{number}"


def again_name(configuration: Configuration, number: int) -> str:
    """The baseline's second training of a round, with a seed of its own."""
    return f"confirm-{configuration.identity()}-again-{number}"


def verified_groups(
    trials: Trials, *, batch_sizes: int, chance: ChanceLevel | None = None, seeds: int = FIRST_EXIT
) -> dict[str, list[FinishedTrial]]:
    """The verification's trials of every configuration that has some, by its key.

    A verification counts once every candidate of its time has been trained with the first fresh
    seed; what was verified in an earlier session stays verified when new candidates were not. Empty
    if there is none.
    """
    for candidates in _candidate_sets(trials, batch_sizes, chance, seeds):
        if candidates and all(trials.find(trial_name(c.configuration, 1)) for c in candidates):
            return groups_of_rounds(trials)
    return {}


def as_verified(
    groups: Mapping[str, Sequence[FinishedTrial]],
    step_seconds: StepSeconds = StepSeconds(),  # noqa: B008 - frozen
) -> list[Verified]:
    """What the recommendation needs to know; see `failed` for who is left out.

    Configurations of one batch size cost the same, as in the step times measured alone: seconds
    beside others differ by what else ran, and nobody is replaced for that.
    """
    compared = [trials[0] for trials in groups.values() if not failed(trials)]
    alone = step_seconds.where_all_have_some(compared)
    beside = seconds_beside(groups)
    found = []
    for key, trials in groups.items():
        if failed(trials):
            continue
        paired = {round_of(t): t for t in trials if not _is_again(t)}
        found.append(
            Verified(
                key=key,
                scores={n: _score(t) for n, t in paired.items()},
                seconds={
                    n: statistics.median(alone.of(t) or beside[t.configuration.batch_size])
                    for n, t in paired.items()
                },
                batch_size=trials[0].configuration.batch_size,
                again={
                    round_of(t): t.score for t in trials if _is_again(t) and t.score is not None
                },
            )
        )
    return found


def seconds_beside(groups: Mapping[str, Sequence[FinishedTrial]]) -> dict[int, list[float]]:
    """Training seconds of completed trainings as they were beside others, by batch size."""
    found: dict[int, list[float]] = {}
    for trial in itertools.chain.from_iterable(groups.values()):
        if trial.score is not None:
            found.setdefault(trial.configuration.batch_size, []).append(trial.training_seconds)
    return found


def failed(trials: Sequence[FinishedTrial]) -> bool:
    """Whether a configuration did not complete on a seed that all of them are trained with.

    The baseline's second trainings only add to what is known of it: one that fails is missing.
    """
    return any(t.score is None for t in trials if not _is_again(t))


def _is_again(trial: FinishedTrial) -> bool:
    return trial.trial == again_name(trial.configuration, round_of(trial))


def round_of(trial: FinishedTrial) -> int:
    """The number of a verification trial's round; 0 of another trial."""
    return int(trial.trial.rpartition("-")[2]) if trial.phase == "confirmation" else 0


def _candidate_sets(
    trials: Trials, batch_sizes: int, chance: ChanceLevel | None, seeds: int
) -> list[list[Candidate]]:
    """The candidates now, then those of each earlier verification, newest first."""

    def candidates(trials: Trials) -> list[Candidate]:
        return choose_candidates(trials, batch_sizes=batch_sizes, chance=chance, seeds=seeds)

    sets = [candidates(trials)]
    for index in reversed(range(len(trials))):
        starts = trials[index].phase == "confirmation" and trials[index - 1].phase != "confirmation"
        if starts:
            sets.append(candidates(trials[:index]))
    return sets


def groups_of_rounds(
    trials: Trials, *, least: int = 1, most: int | None = None
) -> dict[str, list[FinishedTrial]]:
    """The trials of every configuration that has the first rounds, by its key.

    Those of the baseline's second trainings come last.

    Args:
        trials: All trials of the run.
        least: Rounds that a configuration must have.
        most: Rounds beyond this are left out.
    """
    groups: dict[str, list[FinishedTrial]] = {}
    verified = {trial.identity for trial in trials if trial.phase == "confirmation"}
    for trial in _one_of_each(trials) if verified else ():
        if trial.identity not in verified:
            continue
        paired = _first_rounds(trials, trial_name, trial.configuration, most)
        if len(paired) >= least:
            again = _first_rounds(trials, again_name, trial.configuration, len(paired))
            groups[trial.trial] = [*paired, *again]
    return groups


def _one_of_each(trials: Trials) -> list[FinishedTrial]:
    """The trial that gives a configuration its key: the baseline, or else the best; by their end.

    They are those that `choose_candidates` chooses among.
    """
    searched = trials.searched()
    ranked = sorted(searched.ranked(), key=lambda t: t.trial != BASELINE)
    names: dict[str, str] = {}
    for trial in ranked:
        names.setdefault(trial.identity, trial.trial)
    keys = set(names.values())
    return [trial for trial in searched if trial.trial in keys]


def _first_rounds(
    trials: Trials,
    name: Callable[[Configuration, int], str],
    configuration: Configuration,
    most: int | None,
) -> list[FinishedTrial]:
    found: list[FinishedTrial] = []
    while most is None or len(found) < most:
        trial = trials.find(name(configuration, len(found) + 1))
        if trial is None:
            break
        found.append(trial)
    return found
