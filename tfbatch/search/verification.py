"""Verification: the best configurations and the baseline again, on fresh seeds, paired."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from tfbatch.answer.candidates import Candidate, trial_name
from tfbatch.search.clock import SearchClock, side_by_side
from tfbatch.search.trial_runner import TrialRunner
from tfbatch.seeds import derive_seed
from tfbatch.trial.outcome import TrialSpec


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
    for _ in runner.run_all(plan):  # each is in the journal as it ends
        pass


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
                seed=verification_seed(seed, number),
                configuration=candidate.configuration,
            )


def verification_seed(seed: int, number: int) -> int:
    """The same for every candidate of a round."""
    return derive_seed(seed, "confirmation", number)
