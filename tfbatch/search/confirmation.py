"""Verification: the best configurations and the baseline again, on fresh seeds, paired."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence

from tfbatch.configuration import Configuration
from tfbatch.estimators.recommendation import Verified
from tfbatch.search.clock import SearchClock
from tfbatch.search.config import Confirmation
from tfbatch.search.finished import FinishedTrial
from tfbatch.search.loop import BASELINE
from tfbatch.search.objective import Objective
from tfbatch.search.trial_book import TrialBook
from tfbatch.seeds import derive_seed


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A configuration to verify: the trial of the search that it comes from."""

    key: str
    configuration: Configuration


def choose_candidates(
    trials: Sequence[FinishedTrial], *, objective: Objective, batch_sizes: int
) -> list[Candidate]:
    """The best trial of each of the best batch sizes, and the baseline.

    Args:
        trials: Baseline and search trials; those without a score are left out.
        objective: The objective.
        batch_sizes: How many batch sizes.
    """
    scored = [t for t in trials if t.score is not None]
    sign = 1.0 if objective.direction == "min" else -1.0
    scored.sort(key=lambda t: sign * (t.score or 0.0))
    best: dict[int, FinishedTrial] = {}
    for trial in scored:
        best.setdefault(trial.configuration.batch_size, trial)
    chosen = list(best.values())[:batch_sizes]
    chosen += [t for t in scored if t.trial == BASELINE and t not in chosen]
    return [Candidate(t.trial, t.configuration) for t in chosen]


def run_rounds(
    candidates: Sequence[Candidate],
    *,
    confirmation: Confirmation,
    book: TrialBook,
    clock: SearchClock,
    seed: int,
    stop_requested: Callable[[], bool],
) -> None:
    """Trains every candidate with the same fresh seeds, a round for each seed.

    A round is begun only if it fits in the time that is left. The order changes from round to
    round, so that a drift of the machine does not fall on one candidate.

    Raises:
        InterruptedTrialError: The running trial was asked to stop.
    """
    for round_number in range(1, confirmation.seeds + 1):
        missing = [c for c in candidates if book.find(trial_name(c, round_number)) is None]
        seconds = book.seconds_of_trials()
        expected = len(missing) * statistics.median(seconds) if seconds else 0.0
        if missing and (stop_requested() or not clock.fits(expected)):
            return
        first = round_number % max(len(candidates), 1)
        for candidate in [*candidates[first:], *candidates[:first]]:
            book.run(
                trial_name(candidate, round_number),
                phase="confirmation",
                seed=confirmation_seed(seed, round_number),
                configuration=candidate.configuration,
            )


def verified_by_rounds(
    candidates: Sequence[Candidate], book: TrialBook
) -> dict[str, list[FinishedTrial]]:
    """The trials of each candidate in the rounds that are whole.

    Only whole rounds count, so that all candidates have the same seeds; a candidate with a trial
    that did not complete is left out.
    """
    rounds: list[list[FinishedTrial]] = []
    while candidates:
        found = [book.find(trial_name(c, len(rounds) + 1)) for c in candidates]
        whole = [t for t in found if t is not None]
        if len(whole) < len(candidates):
            break
        rounds.append(whole)
    by_candidate = {c.key: [r[i] for r in rounds] for i, c in enumerate(candidates)}
    return {
        key: trials
        for key, trials in by_candidate.items()
        if trials and all(t.score is not None for t in trials)
    }


def as_verified(trials: dict[str, list[FinishedTrial]]) -> list[Verified]:
    """What the recommendation needs to know of verified candidates."""
    return [
        Verified(
            key=key,
            scores={n: t.score for n, t in enumerate(found) if t.score is not None},
            seconds={n: t.training_seconds for n, t in enumerate(found)},
        )
        for key, found in trials.items()
    ]


def trial_name(candidate: Candidate, round_number: int) -> str:
    """Depends on the configuration, so that an extended search finds what was verified before."""
    return f"confirm-{candidate.configuration.identity()}-{round_number}"


def confirmation_seed(seed: int, round_number: int) -> int:
    """The same for every candidate of a round."""
    return derive_seed(seed, "confirmation", round_number)
