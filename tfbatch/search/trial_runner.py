"""Runs each trial once: the journal is asked before and written after."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import math
import re
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

from tfbatch.configuration import Configuration
from tfbatch.curves_log import move_after, set_aside
from tfbatch.errors import InputError, RunFolderError
from tfbatch.hparams_log import has_row, write_trial
from tfbatch.oracles import Part
from tfbatch.request.execution import MAX_STATE_GB
from tfbatch.run_folder.durable import FREE_SPACE, is_disk_full
from tfbatch.run_folder.files import (
    CHECKPOINTS,
    PARTIAL,
    checkpoint_file,
    curves_name,
    kept_weights,
    partial_file,
    state_file,
    weights_file,
)
from tfbatch.run_folder.folder import RunFolder
from tfbatch.search.engine import Finished, TrialEngine
from tfbatch.search.kept_states import KeptStates
from tfbatch.search.progress import Progress
from tfbatch.trial.derived import Derived
from tfbatch.trial.finished_trial import (
    FinishedTrial,
    final_status,
    make_row,
    read_row,
    score_of,
)
from tfbatch.trial.objective import Objective
from tfbatch.trial.outcome import (
    JUDGED_EXAMPLES,
    BetterThan,
    Outcome,
    Phase,
    TrainingLoss,
    TrialSpec,
)
from tfbatch.trial.trials import Trials

_ANCESTOR = re.compile("-(?=search-|baseline)")
"""What follows in the name of a checkpoint is an ancestor that a trial trains again."""
_ASK_SECONDS = 1.0


class InterruptedTrialError(Exception):
    """The running trials were asked to stop; they are not in the journal."""


class TrialRunner:
    """Runs trials and keeps what they came to.

    Args:
        folder: The open run folder.
        engine: Runs the trials.
        objective: The objective.
        num_examples: Size of the training split.
        total_examples: Length of every trial, unless it is a part of a training.
        training_loss: The training loss before any training.
        progress: Told of every trial.
        stop_requested: When true, running trials end. Default: when the user asks for it.
        max_state_gb: Gigabytes that end states may take on disk.
        evaluated_every: Examples between two evaluations; None for a pass over the training split.

    Attributes:
        trials: Those that have finished, of earlier sessions too.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        engine: TrialEngine,
        objective: Objective,
        num_examples: int,
        total_examples: int,
        progress: Progress,
        training_loss: TrainingLoss | None = None,
        stop_requested: Callable[[], bool] | None = None,
        max_state_gb: float = MAX_STATE_GB,
        evaluated_every: int | None = None,
    ):
        self._folder = folder
        self._engine = engine
        self._stop_requested = stop_requested
        self._interrupted: list[str] = []
        self._running: dict[str, TrialSpec] = {}
        self._ended: list[Finished] = []
        self._states = KeptStates(folder.path, most_bytes=int(max_state_gb * 1e9))
        self._max_state_gb, self._told_of_states = max_state_gb, False
        self._objective = objective
        self._num_examples, self._total_examples = num_examples, total_examples
        self._evaluated_every = evaluated_every
        self._progress = progress
        progress.watch(engine.running)
        self._training_loss = training_loss
        self.trials = Trials(
            map(read_row, folder.journal.rows), objective=objective, total_examples=total_examples
        )
        for trial in self._without_row():
            self._log(trial, self._spec_of(trial))
        self._remove_left_checkpoints()

    @property
    def total_examples(self) -> int:
        """Length of every trial that is whole."""
        return self._total_examples

    @property
    def device(self) -> str:
        """Kind of device that trains, such as "CPU"."""
        return self._engine.devices.kind

    @property
    def at_once(self) -> int:
        """Trials that run at a time."""
        return self._engine.devices.workers

    def spec(
        self,
        trial: str,
        phase: Phase,
        seed: int,
        configuration: Configuration,
        part: Part | None = None,
    ) -> TrialSpec:
        """A trial of this run.

        Args:
            trial: Its name.
            phase: What it is for.
            seed: Its seed.
            configuration: What to train with.
            part: The part of a training that it is, or its length; None for a whole one of the
                run's length.

        Raises:
            InputError: There cannot be such a part.
        """
        if part is None:
            return self._spec(trial, phase, seed, configuration)
        _check_part(trial, part)
        found = None if part.parent is None else self.trials.find(part.parent)
        if part.parent is not None and (found is None or found.score is None):
            raise InputError(
                f"{trial} can only go on from a trial that has completed. Received: {part.parent}."
            )
        parent = self._with_state(self._spec_of(found)) if found else None
        if found and parent and found.examples < parent.end_examples:
            raise InputError(
                f"{trial} can only go on from a trial that has reached its end. Received: "
                f"{found.trial}, which a callback stopped at example {found.examples} of "
                f"{parent.end_examples}."
            )
        course_from = parent.course_from if parent else 0
        if parent and part.schedule:
            course_from = parent.end_examples
        spec = self._spec(
            trial,
            phase,
            seed,
            configuration,
            total_examples=part.total_examples,
            to_examples=part.to_examples,
            parent=parent,
            course_from=course_from,
        )
        spec.check()
        return spec

    def _spec_of(self, trial: FinishedTrial) -> TrialSpec:
        """The specification of a finished trial, as its row has it."""
        found = None if trial.parent is None else self.trials.find(trial.parent)
        return self._spec(
            trial.trial,
            trial.phase,
            trial.seed,
            trial.configuration,
            total_examples=trial.total_examples,
            to_examples=trial.to_examples,
            parent=self._with_state(self._spec_of(found)) if found else None,
            course_from=trial.course_from,
        )

    def _spec(
        self,
        trial: str,
        phase: Phase,
        seed: int,
        configuration: Configuration,
        *,
        total_examples: int | None = None,
        to_examples: int | None = None,
        parent: TrialSpec | None = None,
        course_from: int = 0,
    ) -> TrialSpec:
        loss = self._training_loss
        total = self._total_examples if total_examples is None else total_examples
        spec = TrialSpec(
            trial=trial,
            phase=phase,
            seed=seed,
            configuration=configuration,
            total_examples=total,
            num_examples=self._num_examples,
            replicas=self._engine.devices.replicas,
            evaluated_every=self._evaluated_every,
            checkpoint_file=checkpoint_file(self._folder.path, trial),
            untrained_loss=loss.value if loss else None,
            judged_examples=loss.judged_examples if loss else JUDGED_EXAMPLES,
            to_examples=to_examples,
            parent=parent,
            course_from=course_from,
        )
        if to_examples is not None and to_examples < total:  # one that others may go on from
            spec = self._with_state(spec)
        if spec.is_whole and total == self._total_examples:  # an answer may be this trial
            spec = dataclasses.replace(spec, weights_file=self.weights_file(trial))
        return spec

    def _with_state(self, spec: TrialSpec) -> TrialSpec:
        return dataclasses.replace(spec, state_file=state_file(self._folder.path, spec.trial))

    @property
    def run_dir(self) -> Path:
        """The run folder."""
        return self._folder.path

    def weights_file(self, trial: str) -> Path:
        """Where a trial's final weights are kept."""
        return weights_file(self._folder.path, trial)

    def run_all(self, plan: Iterator[TrialSpec | None]) -> Generator[FinishedTrial, None, None]:
        """Keeps the engine busy with the trials of a plan, until all have ended.

        A trial that has finished before is not run again. The weights are on disk before the
        journal says that a trial is finished, and the journal is on disk before anybody is told.
        After an error, or when nobody asks for more, what runs is ended: it would take the machine
        from what is done then.

        Args:
            plan: Asked for the next trial when the engine is free, and not before. None is none
                for now: it is asked again when a running trial has ended.

        Yields:
            Every trial, in the order of their ends.

        Raises:
            InterruptedTrialError: Trials were asked to stop; what ended before is kept.
            RunFolderError: The journal cannot be written.
        """
        try:
            yield from self._run_all(plan)
        except BaseException:
            self._end_running()
            raise

    def _run_all(self, plan: Iterator[TrialSpec | None]) -> Iterator[FinishedTrial]:
        held = None
        while True:
            while self._engine.free and not self._interrupted:
                held = held or next(plan, None)
                if held is None:
                    break
                found = self.trials.find(held.trial)
                if found:
                    yield found
                elif self._engine.can_start(held.phase):
                    self._start(held)
                else:
                    break
                held = None
            if not self._running:
                if held is None or self._interrupted:
                    break
                if self._stop_requested and self._stop_requested():
                    raise InterruptedTrialError(held.trial)
            # Where nothing runs and nothing can be started, the node for it may still come.
            seconds = math.inf if self._running else _ASK_SECONDS
            # Kept until each is in the journal: whoever gets the first one may end with an error.
            self._ended = self._engine.wait(seconds=seconds, stop_requested=self._stop_requested)
            while self._ended:
                spec, outcome = self._ended.pop(0)
                del self._running[spec.trial]
                if outcome.status == "interrupted":
                    self._drop(spec)
                else:
                    yield self._finish(spec, outcome)
        if self._interrupted:
            names, self._interrupted = ", ".join(self._interrupted), []
            raise InterruptedTrialError(names)

    def _end_running(self) -> None:
        """Ends what runs; a trial that has ended meanwhile is kept."""
        ended, self._ended = self._ended, []
        for spec, outcome in [*ended, *self._engine.end_trials()]:
            if outcome.status == "interrupted":
                self._remove_half_curves(spec)
            elif spec.trial in self._running:
                del self._running[spec.trial]
                with contextlib.suppress(Exception):  # the first error is the one to be told
                    self._finish(spec, outcome)
        self._running.clear()
        self._interrupted.clear()

    def run(self, spec: TrialSpec) -> FinishedTrial:
        """Runs one trial, or returns it if it has finished before; see `run_all`."""
        (finished,) = self.run_all(iter([spec]))
        return finished

    def _start(self, spec: TrialSpec) -> None:
        if spec.phase != "confirmation":
            spec = dataclasses.replace(spec, keep_if=self._better_than_best())
        # Derived here, once: it travels to the process that trains.
        spec = spec.with_curves_in(self._curves_of(spec, spec.derived))
        self._remove_half_curves(spec)
        if spec.parent and spec.parent.state_file and not spec.parent.state_file.exists():
            self._progress.say(
                f"{spec.trial}: the end state of {spec.parent.trial}, from which it goes on, is no "
                "longer kept. It is trained again first; a larger --max_state_gb keeps more."
            )
        self._engine.start(spec)
        self._running[spec.trial] = spec

    def _remove_left_checkpoints(self) -> None:
        """Those of finished trials: their process was killed before it could remove them."""
        for file in (self._folder.path / CHECKPOINTS).glob("*.npz"):
            of = file.stem.removeprefix(PARTIAL)
            if self.trials.find(_ANCESTOR.split(of, maxsplit=1)[0]):
                file.unlink(missing_ok=True)

    def _better_than_best(self) -> BetterThan | None:
        best = self.trials.searched().best()
        if best is None or best.score is None:
            return None
        return BetterThan(self._objective.name, self._objective.direction, best.score)

    def _drop(self, spec: TrialSpec) -> None:
        """An interrupted trial: without a checkpoint nothing of it is kept."""
        self._interrupted.append(spec.trial)
        self._remove_half_curves(spec)

    def _curves_of(self, spec: TrialSpec, derived: Derived) -> Path:
        """Where its curves go: what goes on with a schedule goes on with its parent's."""
        parent = self.trials.find(spec.parent.trial) if spec.parent else None
        if parent and parent.course_from == spec.course_from:
            return self._folder.tensorboard / parent.curves
        return self._own_curves_of(spec, derived)

    def _own_curves_of(self, spec: TrialSpec, derived: Derived) -> Path:
        return self._folder.tensorboard / curves_name(
            spec.trial,
            batch_size=derived.batch_size,
            learning_rate=derived.learning_rate,
            schedule=spec.configuration.schedule.name,
            seed=spec.seed,
            branch_at=spec.course_from,
        )

    def _remove_half_curves(self, spec: TrialSpec) -> None:
        """A killed trial that begins anew can have left half of its curves."""
        folder = spec.log_dir
        if not folder or not _is_own(folder.name, spec.trial):
            return
        if spec.checkpoint_file and not spec.checkpoint_file.exists():
            shutil.rmtree(folder, ignore_errors=True)

    def _finish(self, spec: TrialSpec, outcome: Outcome) -> FinishedTrial:
        outcome = final_status(outcome, self._objective)
        finished = self._write(spec, outcome)
        # Only now: until the journal's line is on disk nothing else has the training.
        _remove_checkpoints(spec)
        if spec.phase != "confirmation":
            self._keep_best_weights()
        # A parent whose state is gone is trained again, perhaps from that of its own parent.
        in_use = {name for running in self._running.values() for name in running.ancestors()}
        removed = self._states.prune(self.trials, needed=in_use)
        if removed and not self._told_of_states:
            self._told_of_states = True
            self._progress.say(
                f"End states of trials take more than --max_state_gb={self._max_state_gb:g}: those "
                "that were not used for longest are removed. A trial that goes on from one of them "
                "trains it again first."
            )
        self._progress.trial_finished(
            finished,
            self.trials.searched().best(),
            another=spec.tries_another,
            total_examples=self._total_examples,
        )
        return finished

    def _write(self, spec: TrialSpec, outcome: Outcome) -> FinishedTrial:
        if outcome.status != "completed" and spec.log_dir:  # its parent's curves end where it began
            spec = spec.with_curves_in(self._own_curves_of(spec, spec.derived))
        value = outcome.metrics.get(self._objective.name)
        row = make_row(
            spec,
            outcome,
            score=score_of(outcome.status, value),
            finished_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        self._folder.journal.append(row)
        finished = read_row(row)
        self.trials = self.trials.with_one_more(finished)
        self._log(finished, spec)
        return finished

    def _without_row(self) -> list[FinishedTrial]:
        """Trials of earlier sessions whose HParams row is to be written, in the order of their end.

        Those that have none, and the last one: between its journal line and its row the process
        may have been killed. All others were written before the next trial's line was. Parts of a
        training share a row.
        """
        last = self.trials[-1].curves if self.trials else ""
        written = {
            name: name != last and has_row(self._folder.tensorboard / name)
            for name in dict.fromkeys(trial.curves for trial in self.trials)
        }
        return [trial for trial in self.trials if not written[trial.curves]]

    def _log(self, finished: FinishedTrial, spec: TrialSpec) -> None:
        """Writes the HParams row, which can be written again from the journal at any time.

        Its columns are declared by tfbatch.search.columns. A part that failed has a row of its own:
        what it went on from ended as it did.
        """
        folder = self._folder.tensorboard / finished.curves
        failed = finished.status != "completed"
        if failed and not _is_own(finished.curves, finished.trial):
            return  # of an earlier version: the row is its parent's
        try:
            if failed:
                self._take_from_parent(finished, folder)
                set_aside(folder)
            write_trial(
                folder,
                values={
                    **finished.configuration.flat(),
                    **spec.derived.flat(),
                    "steps": spec.steps_before + spec.steps,  # a part makes some of its schedule's
                    # Parts of one training are one row: it began where its schedule did.
                    "from_examples": spec.course_from,
                    "to_examples": finished.length,
                    "phase": finished.phase,
                    "seed": finished.seed,
                    "training_seconds": finished.training_seconds,
                },
                metrics=finished.metrics,
                status=finished.status,
                step=finished.examples,
            )
        except Exception as error:
            if not is_disk_full(error):
                raise
            raise RunFolderError(f"The disk is full: {error}. {FREE_SPACE}") from error

    def _take_from_parent(self, failed: FinishedTrial, folder: Path) -> None:
        """Moves its curves out of those that it went on with, unless others went on there too."""
        parent = self.trials.find(failed.parent) if failed.parent else None
        if parent is None or parent.course_from != failed.course_from:
            return
        others = (t for t in self.trials if t.curves == parent.curves)
        if not any(t.from_examples >= failed.from_examples for t in others):
            move_after(self._folder.tensorboard / parent.curves, failed.from_examples, folder)

    def _keep_best_weights(self) -> None:
        searched = self.trials.searched()
        best = searched.best()
        # The folder is listed: it holds a few files, however many trials there were.
        for name, file in kept_weights(self._folder.path).items():
            trial = searched.find(name)
            if trial and (best is None or trial.trial != best.trial):
                file.unlink(missing_ok=True)


def _remove_checkpoints(spec: TrialSpec) -> None:
    """Those of a trial, and of its ancestors that it trained again; a kill leaves halves of one."""
    while spec.checkpoint_file:
        spec.checkpoint_file.unlink(missing_ok=True)
        partial_file(spec.checkpoint_file).unlink(missing_ok=True)
        if spec.parent is None:
            break
        spec = dataclasses.replace(spec.parent, checkpoint_file=spec.parents_checkpoint_file)


def _is_own(curves: str, trial: str) -> bool:
    """Whether a folder of curves is a trial's alone, not that of the parent it goes on from."""
    return curves == trial or curves.endswith(f", {trial}")


def _check_part(trial: str, part: Part) -> None:
    """Refuses what no trial can be.

    Raises:
        InputError: A length is not positive, or there is nothing that the schedule branches from.
    """
    lengths = (part.to_examples, part.total_examples)
    if any(length is not None and length < 1 for length in lengths):
        raise InputError(
            f"The lengths of {trial} must be numbers of examples, at least 1, or None. Received: "
            f"to_examples={part.to_examples}, total_examples={part.total_examples}."
        )
    if part.schedule and part.parent is None:
        raise InputError(
            f"{trial} must have a parent to branch off with a schedule of its part. Received: "
            f"{part.schedule} without one. A trial that begins anew has the schedule of its values."
        )
