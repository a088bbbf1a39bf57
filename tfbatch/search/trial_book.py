"""Runs each trial once: the journal is asked before and written after."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from tfbatch.configuration import Configuration
from tfbatch.errors import RunFolderError
from tfbatch.run_folder.durable import FREE_SPACE, is_disk_full
from tfbatch.run_folder.folder import RunFolder
from tfbatch.search.columns import log_to_tensorboard
from tfbatch.search.finished import FinishedTrial, make_row, read_row
from tfbatch.search.objective import Objective
from tfbatch.search.outcome_policy import final_status, score_of
from tfbatch.search.progress import Progress
from tfbatch.training.derived import Derived
from tfbatch.training.outcome import Outcome, Phase, TrialSpec

RunTrial = Callable[[TrialSpec], Outcome]
"""The one seam between the search and whatever trains."""


class InterruptedTrialError(Exception):
    """The running trial was asked to stop; it is not in the journal."""


class TrialBook:
    """All trials of a run.

    Args:
        folder: The open run folder.
        run_trial: Trains one specification.
        derive: Derived values of a configuration.
        objective: The objective.
        total_examples: Length of every trial.
        progress: Told of every trial.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        run_trial: RunTrial,
        derive: Callable[[Configuration], Derived],
        objective: Objective,
        total_examples: int,
        progress: Progress,
    ):
        self._folder = folder
        self._run_trial = run_trial
        self._derive = derive
        self._objective = objective
        self._total_examples = total_examples
        self._progress = progress
        self.trials = [read_row(row) for row in folder.journal.rows]
        for trial in self.trials:  # one may have been killed between journal and TensorBoard
            self._log(trial)

    def find(self, trial: str) -> FinishedTrial | None:
        """A finished trial by its name, or None."""
        return next((t for t in self.trials if t.trial == trial), None)

    def completed(self, *phases: Phase) -> list[FinishedTrial]:
        """The completed trials of some phases, in the order of their end."""
        return [t for t in self.trials if t.phase in phases and t.score is not None]

    def best(self, *, without: Collection[str] = ()) -> FinishedTrial | None:
        """The best completed trial of baseline and search, some left out by name."""
        best = None
        for trial in self.completed("baseline", "search"):
            if trial.trial in without:
                continue
            if best is None or self._better(trial, best):
                best = trial
        return best

    def seconds_of_trials(self) -> list[float]:
        """Wall-clock seconds of the completed trials."""
        return [t.seconds for t in self.trials if t.status == "completed"]

    def weights_file(self, trial: str) -> Path:
        """Where a trial's final weights are kept."""
        return self._folder.weights / f"{trial}.weights.h5"

    def run(
        self, trial: str, *, phase: Phase, seed: int, configuration: Configuration
    ) -> FinishedTrial:
        """Runs a trial, or returns it if it has finished before.

        The weights are on disk before the journal says that the trial is finished, and the journal
        is on disk before anybody is told.

        Raises:
            InterruptedTrialError: The trial was asked to stop.
            RunFolderError: The journal cannot be written.
        """
        found = self.find(trial)
        if found:
            return found
        derived = self._derive(configuration)
        spec = TrialSpec(
            trial=trial,
            phase=phase,
            seed=seed,
            configuration=configuration,
            total_examples=self._total_examples,
            log_dir=self._folder.tensorboard / trial,
            weights_file=self.weights_file(trial),
        )
        # A killed trial can have left half of its curves.
        shutil.rmtree(self._folder.tensorboard / trial, ignore_errors=True)
        self._progress.trial_started(spec, derived)
        outcome = final_status(self._run_trial(spec), self._objective)
        if outcome.status == "interrupted":
            shutil.rmtree(self._folder.tensorboard / trial, ignore_errors=True)
            raise InterruptedTrialError(trial)
        finished = self._write(spec, derived, outcome)
        if phase != "confirmation":
            self._keep_best_weights(finished)
        self._progress.trial_finished(finished, self.best())
        return finished

    def _write(self, spec: TrialSpec, derived: Derived, outcome: Outcome) -> FinishedTrial:
        value = outcome.metrics.get(self._objective.name)
        row = make_row(
            spec,
            derived,
            outcome,
            score=score_of(outcome.status, value),
            finished_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        )
        self._folder.journal.append(row)
        finished = read_row(row)
        self.trials.append(finished)
        self._log(finished)
        return finished

    def _log(self, finished: FinishedTrial) -> None:
        """Writes the HParams row, which can be written again from the journal at any time."""
        try:
            log_to_tensorboard(
                self._folder.tensorboard, finished, derived=self._derive(finished.configuration)
            )
        except Exception as error:
            if not is_disk_full(error):
                raise
            raise RunFolderError(f"The disk is full: {error}. {FREE_SPACE}") from error

    def _keep_best_weights(self, finished: FinishedTrial) -> None:
        best = self.best()
        for trial in self.trials:
            if trial.phase != "confirmation" and (best is None or trial.trial != best.trial):
                self.weights_file(trial.trial).unlink(missing_ok=True)

    def _better(self, first: FinishedTrial, second: FinishedTrial) -> bool:
        if first.score is None or second.score is None:
            return second.score is None and first.score is not None
        return self._objective.better(first.score, second.score)
