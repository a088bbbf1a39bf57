"""The search loop: baseline, then ask, run, tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tfbatch.answer.candidates import choose_candidates
from tfbatch.configuration import Configuration
from tfbatch.errors import SearchError
from tfbatch.request.search_config import SearchConfig
from tfbatch.search.clock import SearchClock, side_by_side
from tfbatch.search.oracles import TEACHES_NOTHING, AskTell, told_score
from tfbatch.search.progress import Progress
from tfbatch.search.space import SearchSpace
from tfbatch.search.trial_runner import InterruptedTrialError, TrialRunner
from tfbatch.search.verification import missing_seconds
from tfbatch.seeds import derive_seed
from tfbatch.trial.finished_trial import BASELINE, FinishedTrial
from tfbatch.trial.outcome import TrialSpec
from tfbatch.trial.trials import Trials

HOPELESS_AFTER = 3
"""A search whose first trials all fail is ended: the model cannot be trained."""


class Search:
    """One search.

    Args:
        config: The search's YAML.
        space: Its space for the data set.
        runner: Runs trials and keeps them.
        clock: The time limit.
        seed: The run's seed.
        untrained: The objective's value before any training.
        progress: Told of the search's progress.
        largest_batch_size: No larger one is tried; None where nothing was measured.
        chance: The objective's value without learning, where it is known.
    """

    def __init__(
        self,
        config: SearchConfig,
        *,
        space: SearchSpace,
        runner: TrialRunner,
        clock: SearchClock,
        seed: int,
        untrained: float,
        progress: Progress,
        largest_batch_size: int | None = None,
        chance: float | None = None,
    ):
        self._config = config
        self._space = space
        self._objective = runner.trials.objective
        self._runner = runner
        self._clock = clock
        self._seed = seed
        self._untrained = untrained
        self._progress = progress
        self._largest = largest_batch_size or max(space.batch_sizes)
        self._chance = chance
        self._scores: list[float] = []
        self._replaced = 0
        self._next = 0  # the baseline
        self._oracle = AskTell(
            config.oracle, space=space, objective=self._objective, seed=derive_seed(seed, "oracle")
        )

    @property
    def _trials(self) -> Trials:
        return self._runner.trials

    def run(self, baseline: Configuration, *, stop_requested: Callable[[], bool]) -> None:
        """Runs the baseline and the search's trials, as far as budget and time allow.

        Trials of an earlier session are replayed to the oracle in order, not run again. A
        second call goes on where the first one ended, if there is time again.

        Raises:
            InterruptedTrialError: Running trials were asked to stop.
            SearchError: The first trials all failed.
        """
        if stop_requested() and not self._trials:
            raise InterruptedTrialError(BASELINE)
        if not self._next:
            self._announce()
        for trial in self._runner.run_all(self._plan(baseline, stop_requested)):
            self._finished(trial)

    def _plan(
        self, baseline: Configuration, stop_requested: Callable[[], bool]
    ) -> Iterator[TrialSpec]:
        """Yields trial after trial, each when a place for it is free."""
        if not self._next:
            self._next = 1
            seed = derive_seed(self._seed, BASELINE)
            yield self._runner.spec(BASELINE, "baseline", seed, baseline)
        while self._next <= self._config.max_trials:
            number, name = self._next, f"search-{self._next:04d}"
            known = self._trials.find(name)
            if known is None and (stop_requested() or not self._another_fits()):
                return
            before = self._space.values(known.configuration) if known else None
            values = self._oracle.ask(name, known=before)
            if values is None:
                self._progress.say(
                    f"The oracle finds no untried configuration after {number - 1} trials."
                )
                self._next = self._config.max_trials + 1
                return
            tried = before or self._fitting(values)
            if tried is None:
                self._progress.say("No batch size of the search fits in memory: it ends here.")
                self._next = self._config.max_trials + 1
                return
            self._next += 1
            if tried != values:
                # Another version of a library proposes otherwise, or it does not fit.
                self._oracle.replace(tried, name)
            configuration = self._space.configuration(tried)
            seed = derive_seed(self._seed, name)
            yield self._runner.spec(name, "search", seed, configuration)

    def _fitting(self, values: dict[str, Any]) -> dict[str, Any] | None:
        """A proposal, with another batch size if memory was used up at its own or a smaller one."""
        wall = self._trials.memory_wall(self._runner.device)
        sizes = [size for size in self._sizes() if wall is None or size < wall]
        if not sizes:
            return None
        proposed = self._space.configuration(values).batch_size
        if proposed in sizes:
            return values
        # Spread evenly over those that fit: the largest alone would get every such trial.
        self._replaced += 1
        return {**values, "batch_size": sizes[-1 - (self._replaced - 1) % len(sizes)]}

    def _sizes(self) -> list[int]:
        return [size for size in self._space.batch_sizes if size <= self._largest]

    def verification_reserve(self) -> float:
        """Seconds kept for verification.

        Where no further round of it fits, the search goes on, and the reserve is the time in
        which a better configuration would get the rounds that the others have.
        """
        c = self._config.confirmation
        candidates = choose_candidates(
            self._trials,
            batch_sizes=c.batch_sizes,
            chance=self._chance,
        )
        rounds = missing_seconds(candidates, rounds=c.seeds, runner=self._runner)
        done = next((n for n, seconds in enumerate(rounds) if seconds), len(rounds))
        if done < len(rounds) and self._clock.fits(rounds[done]):
            return self._clock.verification_reserve(rounds[done:])
        expected = self._trials.median_seconds()
        return side_by_side([expected] * done, self._runner.at_once)

    def _finished(self, trial: FinishedTrial) -> None:
        if trial.trial != BASELINE:
            self._tell(trial)
        if trial.score is not None:
            self._scores.append(trial.score)
        self._end_if_hopeless()

    def _tell(self, trial: FinishedTrial) -> None:
        if trial.status in TEACHES_NOTHING:
            self._oracle.forget(trial.trial)
            return
        score = told_score(
            trial.score,
            objective=self._objective,
            untrained=self._untrained,
            others=self._scores,
        )
        self._oracle.tell(score, trial.trial)

    def _another_fits(self) -> bool:
        return self._clock.fits(self._trials.median_seconds(), reserve=self.verification_reserve())

    def _end_if_hopeless(self) -> None:
        trials = self._trials
        if len(trials) >= HOPELESS_AFTER and all(
            trial.status not in ("completed", "diverged") for trial in trials
        ):
            raise SearchError(
                f"The first {len(trials)} trials, the baseline among them, all failed; the last "
                f"one ({trials[-1].status}):\n{trials[-1].message}"
            )

    def _announce(self) -> None:
        done = len(self._trials.of_phase("search"))
        if self._trials:
            self._progress.say(f"Continuing: {len(self._trials)} trials are in the journal.")
        else:
            sizes = ", ".join(map(str, self._sizes()))
            better = "higher" if self._objective.direction == "max" else "lower"
            self._progress.say(
                f"Up to {self._config.max_trials} trials after the baseline, over batch sizes "
                f"{sizes}, by the final {self._objective.name} ({better} is better). Ctrl-C ends "
                "with the best answer so far; the same command continues."
            )
        size = self._oracle.size
        if size is not None and size > self._config.max_trials:
            self._progress.say(
                f"The grid has {size} configurations; with --max_trials={size} all of them run."
            )
        for name, held in self._space.held_numbers().items():
            self._progress.say(
                f"At batch size {', '.join(map(str, held))} the optimizer's {name} would leave its "
                "range and is held at the end of it."
            )
        self._progress.begin(
            done=done,
            total=self._config.max_trials,
            seconds_left=lambda: self._clock.left,
        )
