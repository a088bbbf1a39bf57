"""Verification: the best configurations and the baseline again, on fresh seeds, paired."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterator, Sequence

from tfbatch.configuration import Configuration
from tfbatch.estimators.recommendation import Verified
from tfbatch.search.clock import SearchClock, side_by_side
from tfbatch.search.step_seconds import StepSeconds
from tfbatch.search.trial_runner import TrialRunner
from tfbatch.seeds import derive_seed
from tfbatch.trial.finished import BASELINE, FinishedTrial
from tfbatch.trial.outcome import TrialSpec
from tfbatch.trial.trials import Trials

_NOT_MEASURED = StepSeconds()
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
    trials: Trials, *, batch_sizes: int, chance: float | None = None
) -> list[Candidate]:
    """The best searched trial of each of the best batch sizes, and the baseline.

    The baseline takes no batch size's place: the best trial of the search is verified also where
    the baseline has its batch size. Trials that lie hopelessly behind the best one are left out.

    Args:
        trials: Finished trials; those of the verification and those without a score are left out.
        batch_sizes: How many batch sizes.
        chance: The objective's value without learning; None where it is not known: then no trial
            is left out for its quality.
    """
    scored = trials.searched().ranked()
    baseline = [t for t in scored if t.trial == BASELINE]
    same = {t.configuration.identity() for t in baseline}
    best: dict[int, FinishedTrial] = {}
    for trial in scored:
        if trial.trial != BASELINE and trial.configuration.identity() not in same:
            best.setdefault(trial.configuration.batch_size, trial)
    chosen = list(best.values())[:batch_sizes]
    if chance is not None and scored:
        farthest = HOPELESS_SHARE * abs(chance - _score(scored[0]))
        chosen = [t for t in chosen if abs(_score(t) - _score(scored[0])) <= farthest]
    chosen = sorted([*chosen, *baseline], key=scored.index)
    return [Candidate(t.trial, t.configuration, t.seconds) for t in chosen]


def _score(trial: FinishedTrial) -> float:
    return trial.score if trial.score is not None else math.nan


def run_rounds(
    candidates: Sequence[Candidate],
    *,
    rounds: int,
    runner: TrialRunner,
    clock: SearchClock,
    seed: int,
    stop_requested: Callable[[], bool],
    at_least: int = 1,
) -> None:
    """Trains every candidate with the same fresh seeds, a round for each seed.

    A round is begun only if it fits in the time that is left. The order changes from round to
    round, so that a drift of the machine does not fall on one candidate.

    Args:
        candidates: What to verify.
        rounds: Number of rounds.
        runner: Runs the trials.
        clock: The time limit.
        seed: The run's seed.
        stop_requested: When true, no further round is begun.
        at_least: This many rounds must fit together: an earlier verification has as many, and fewer
            would replace it.

    Raises:
        InterruptedTrialError: Running trials were asked to stop.
    """
    seconds = missing_seconds(candidates, rounds=rounds, runner=runner)
    if not clock.fits(sum(seconds[:at_least])):
        return
    plan = _rounds(
        candidates,
        rounds=rounds,
        runner=runner,
        clock=clock,
        seed=seed,
        stop_requested=stop_requested,
    )
    runner.run_all(lambda: next(plan, None))


def missing_seconds(
    candidates: Sequence[Candidate], *, rounds: int, runner: TrialRunner
) -> list[float]:
    """What is missing of each round, in expected wall-clock seconds; 0 for a whole one."""
    find = runner.trials.find
    return [
        side_by_side(
            [c.seconds for c in candidates if find(trial_name(c.configuration, n)) is None],
            runner.at_once,
        )
        for n in range(1, rounds + 1)
    ]


def _rounds(
    candidates: Sequence[Candidate],
    *,
    rounds: int,
    runner: TrialRunner,
    clock: SearchClock,
    seed: int,
    stop_requested: Callable[[], bool],
) -> Iterator[TrialSpec]:
    for number in range(1, rounds + 1):
        missing = missing_seconds(candidates, rounds=number, runner=runner)[-1]
        if missing and (stop_requested() or not clock.fits(missing)):
            return
        first = number % max(len(candidates), 1)
        for candidate in [*candidates[first:], *candidates[:first]]:
            yield runner.spec(
                trial_name(candidate.configuration, number),
                phase="confirmation",
                seed=confirmation_seed(seed, number),
                configuration=candidate.configuration,
            )


def verified_groups(
    trials: Trials, *, batch_sizes: int, chance: float | None = None
) -> dict[str, list[FinishedTrial]]:
    """The verification trials of every configuration that was in whole rounds, by its key.

    A round is whole when every candidate of its time has been trained; what was verified in an
    earlier session stays verified when new candidates were not. Every configuration with the same
    rounds is in, also one with a trial that did not complete. Empty if no round is whole.
    """
    for candidates in _candidate_sets(trials, batch_sizes, chance):
        rounds = 0
        while candidates and all(
            trials.find(trial_name(c.configuration, rounds + 1)) for c in candidates
        ):
            rounds += 1
        if rounds:
            return _with_rounds(trials, rounds)
    return {}


def as_verified(
    groups: dict[str, list[FinishedTrial]], step_seconds: StepSeconds = _NOT_MEASURED
) -> list[Verified]:
    """What the recommendation needs to know; configurations with a failed trial are left out."""
    # Seconds of different kinds cannot be compared: all alone, or all as they were.
    alone = all(step_seconds.of(trials[0]) for trials in groups.values())
    return [
        Verified(
            key=key,
            scores={n: t.score for n, t in enumerate(trials) if t.score is not None},
            seconds={
                n: statistics.median(step_seconds.of(t)) if alone else t.training_seconds
                for n, t in enumerate(trials)
            },
        )
        for key, trials in groups.items()
        if all(t.score is not None for t in trials)
    ]


def trial_name(configuration: Configuration, number: int) -> str:
    """Depends on the configuration, so that an extended search finds what was verified before."""
    return f"confirm-{configuration.identity()}-{number}"


def confirmation_seed(seed: int, number: int) -> int:
    """The same for every candidate of a round."""
    return derive_seed(seed, "confirmation", number)


def _candidate_sets(
    trials: Trials, batch_sizes: int, chance: float | None
) -> list[list[Candidate]]:
    """The candidates now, then those of each earlier verification, newest first."""

    def candidates(trials: Trials) -> list[Candidate]:
        return choose_candidates(trials, batch_sizes=batch_sizes, chance=chance)

    sets = [candidates(trials)]
    for index in reversed(range(len(trials))):
        starts = trials[index].phase == "confirmation" and trials[index - 1].phase != "confirmation"
        if starts:
            sets.append(candidates(trials[:index]))
    return sets


def _with_rounds(trials: Trials, rounds: int) -> dict[str, list[FinishedTrial]]:
    """Every configuration that has all of the first `rounds` rounds."""
    groups: dict[str, list[FinishedTrial]] = {}
    identities: set[str] = set()
    for trial in trials:
        identity = trial.configuration.identity()
        if trial.phase == "confirmation" or identity in identities:
            continue
        identities.add(identity)
        found = [trials.find(trial_name(trial.configuration, n + 1)) for n in range(rounds)]
        whole = [t for t in found if t is not None]
        if len(whole) == rounds:
            groups[trial.trial] = whole
    return groups
