"""Verification: a race of the best configurations and the baseline, on paired fresh seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from tfbatch.answer.candidates import Candidate, again_name, groups_of_rounds, trial_name
from tfbatch.answer.find import judge
from tfbatch.answer.step_seconds import StepSeconds
from tfbatch.configuration import Configuration
from tfbatch.estimators.race import FIRST_EXIT
from tfbatch.request.search_config import VerificationConfig
from tfbatch.search.clock import SearchClock, side_by_side
from tfbatch.search.trainings import Trainings
from tfbatch.search.trial_runner import TrialRunner
from tfbatch.seeds import derive_seed
from tfbatch.trial.finished_trial import BASELINE
from tfbatch.trial.outcome import TrialSpec


class _Training(NamedTuple):
    """A trial of a round."""

    name: str
    seed: int
    configuration: Configuration


@dataclasses.dataclass(frozen=True)
class Verification:
    """The race of one run: who is trained with which fresh seed.

    Attributes:
        candidates: Who takes part.
        config: The most rounds, and the terms of the choice.
        runner: Runs the trials.
        seed: The run's seed.
        chance: The objective's value without learning; None where it is not known.
        step_seconds: Step times, each batch size alone: who leaves depends on what it costs, and
            must be judged as the answer does.
        trainings: What trainings cost, and the budget of the run in them; None for no budget.
    """

    candidates: Sequence[Candidate]
    config: VerificationConfig
    runner: TrialRunner
    seed: int
    chance: float | None = None
    step_seconds: StepSeconds = StepSeconds()  # noqa: RUF009 - frozen
    trainings: Trainings | None = None

    def run(
        self,
        clock: SearchClock,
        *,
        stop_requested: Callable[[], bool],
        rounds: int | None = None,
    ) -> None:
        """Trains round after round, until all is decided.

        A round is begun only if it fits in the time that is left, beside what runs. The order
        changes from round to round, so that a drift of the machine does not fall on one candidate.

        Args:
            clock: The time limit.
            stop_requested: When true, no further round is begun.
            rounds: How many of the rounds. Default: all.

        Raises:
            InterruptedTrialError: Running trials were asked to stop.
        """
        for _ in self.runner.run_all(self._plan(clock, stop_requested, rounds)):
            pass  # each is in the journal as it ends

    def missing_seconds(self) -> list[float]:
        """What may be missing of each round, in expected wall-clock seconds; 0 for a whole one.

        Rounds after all is decided are left out.
        """
        return [self._seconds(missing) for missing in self._missing_rounds()]

    def missing_trainings(self) -> list[float]:
        """The same in trainings of the baseline."""
        return [self._trainings(missing) for missing in self._missing_rounds()]

    def fits(self, clock: SearchClock) -> bool:
        """Whether the next round that is not whole fits into time and budget; not if none is."""
        missing = next((one for one in self._missing_rounds() if one), [])
        return bool(missing) and self._fit(clock, missing, begun=[])

    def _plan(
        self, clock: SearchClock, stop_requested: Callable[[], bool], rounds: int | None
    ) -> Iterator[TrialSpec | None]:
        begun: list[_Training] = []
        last = self.config.seeds if rounds is None else min(rounds, self.config.seeds)
        for number in range(1, last + 1):
            while self._unfinished(begun) and self._waits(clock, number, begun):
                yield None
            standing = self._standing(number)[-1]
            missing = self._missing(standing, number)
            if missing and (stop_requested() or not self._fit(clock, missing, begun)):
                return
            for one in self._round(standing, number):
                begun.append(one)
                yield self.runner.spec(one.name, "confirmation", one.seed, one.configuration)

    def _waits(self, clock: SearchClock, number: int, begun: Sequence[_Training]) -> bool:
        """Whether a round is not judged before what runs has ended.

        Then it is known who stays. And what does not fit beside what runs, whose seconds are
        counted as if it had just begun, may fit after it.
        """
        if number > FIRST_EXIT:
            return True
        missing = self._missing(self._standing(number)[-1], number)
        return bool(missing) and not self._fit(clock, missing, begun)

    def _fit(
        self, clock: SearchClock, missing: Sequence[_Training], begun: Sequence[_Training]
    ) -> bool:
        """Whether trainings fit into time and budget, beside those that are begun."""
        running = self._unfinished(begun)
        if not clock.fits(self._seconds([*missing, *running])):
            return False
        if self.trainings is None:
            return True
        spent = self.trainings.spent(self.runner.trials) + self._trainings(running)
        return self.trainings.fits(self._trainings(missing), spent=spent)

    def _standing(self, last: int) -> list[list[Candidate]]:
        """Who is in each round up to the last; nobody where all is decided.

        Who failed is in no further round, and where one is left of several the race is over. It
        follows from the rounds before, so that a resumed race takes the same course. While one
        of them is not whole, everybody in it is taken to stay.
        """
        found: list[list[Candidate]] = []
        for number in range(1, last + 1):
            before = found[-1] if found else self.candidates
            standing = [one for one in before if not self._failed(one, number - 1)]
            if number > FIRST_EXIT and not self._missing(standing, number - 1):
                standing = self._staying(standing, number - 1)
            found.append(standing)
        return found

    def _failed(self, one: Candidate, number: int) -> bool:
        trial = self.runner.trials.find(trial_name(one.configuration, number))
        return trial is not None and trial.score is None

    def _staying(self, standing: Sequence[Candidate], rounds: int) -> list[Candidate]:
        """Who of those in a round is in the next one."""
        if len(standing) < min(len(self.candidates), 2):
            return []
        groups = groups_of_rounds(self.runner.trials, most=rounds)
        choice = judge(
            self.runner.trials,
            groups,
            self.step_seconds,
            chance=self.chance,
            goal=self.config.goal,
            tolerance=self.config.tolerance,
        )
        if choice is None or choice.decided:
            return []
        return [one for one in standing if one.key not in choice.out]

    def _missing_rounds(self) -> list[list[_Training]]:
        rounds = enumerate(self._standing(self.config.seeds), start=1)
        return [self._missing(standing, number) for number, standing in rounds if standing]

    def _missing(self, standing: Sequence[Candidate], number: int) -> list[_Training]:
        return self._unfinished(self._round(standing, number))

    def _unfinished(self, trainings: Sequence[_Training]) -> list[_Training]:
        return [one for one in trainings if self.runner.trials.find(one.name) is None]

    def _seconds(self, trainings: Sequence[_Training]) -> float:
        """What they are expected to take, side by side."""
        of = {c.configuration.identity(): c.seconds for c in self.candidates}
        return side_by_side(
            [of[one.configuration.identity()] for one in trainings], self.runner.at_once
        )

    def _trainings(self, trainings: Sequence[_Training]) -> float:
        """What they cost in trainings of the baseline; 0 where there is no budget."""
        if self.trainings is None:
            return 0.0
        return sum(self.trainings.of_whole(one.configuration) for one in trainings)

    def _round(self, standing: Sequence[Candidate], number: int) -> list[_Training]:
        """The trials of a round."""
        first = number % max(len(standing), 1)
        paired = verification_seed(self.seed, number)
        again = derive_seed(self.seed, "confirmation", "again", number)
        found = []
        for one in [*standing[first:], *standing[:first]]:
            name = trial_name(one.configuration, number)
            found.append(_Training(name, paired, one.configuration))
            if one.key == BASELINE and len(standing) > 1:
                name = again_name(one.configuration, number)
                found.append(_Training(name, again, one.configuration))
        return found


def verification_seed(seed: int, number: int) -> int:
    """The same for every candidate of a round."""
    return derive_seed(seed, "confirmation", number)
