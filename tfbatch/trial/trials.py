"""The finished trials of a run: what an answer rests on, read from the folder or while it runs."""

from __future__ import annotations

import bisect
import collections
import dataclasses
import functools
import statistics
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

from tfbatch.errors import RunFolderError
from tfbatch.run_folder.files import JOURNAL, SETTINGS
from tfbatch.run_folder.journal import read_rows
from tfbatch.run_folder.reader import read_settings
from tfbatch.trial.finished_trial import BASELINE, FinishedTrial, read_row
from tfbatch.trial.objective import Objective
from tfbatch.trial.outcome import Phase

_FITTED = ("completed", "diverged")
"""Ends of trials whose batch had room in memory."""


@dataclasses.dataclass(frozen=True)
class Own:
    """What a trial did itself, without its ancestors.

    Attributes:
        examples: Examples trained on.
        steps: Updates.
        training_seconds: Seconds of training steps.
        seconds: Wall-clock seconds of the whole trial.
    """

    examples: int
    steps: int
    training_seconds: float
    seconds: float


class Trials(Sequence[FinishedTrial]):
    """Finished trials in the order of their end; nothing changes them.

    Example:
        ```python
        trials = Trials.read(Path("tfbatch_runs/digits-small_cnn-joint"))
        trials.of_batch_size(128).best()
        ```

    Args:
        trials: The trials.
        objective: What they are compared by.
        total_examples: The run's length, that of its baseline; None where it is not known.
    """

    def __init__(
        self,
        trials: Iterable[FinishedTrial] = (),
        *,
        objective: Objective,
        total_examples: int | None,
    ):
        self._trials = tuple(trials)
        self.objective = objective
        self.total_examples = total_examples

    @classmethod
    def read(cls, run_dir: Path) -> Trials:
        """The trials of a run folder, also of one in which a run goes on.

        Before its baseline has ended the run's length is not known.

        Raises:
            InputError: It is no run folder.
            RunFolderError: A file in it is damaged.
        """
        named = read_settings(run_dir).get("objective")
        if not isinstance(named, str):
            raise RunFolderError(
                f"{run_dir / SETTINGS} is damaged: its `identity` must name an `objective`, such "
                f"as val_loss:min. Received: {named!r}. Restore the file from a copy."
            )
        objective = Objective.parse(named)
        trials = [read_row(row) for row in read_rows(run_dir / JOURNAL)]
        lengths = (trial.total_examples for trial in trials if trial.trial == BASELINE)
        return cls(trials, objective=objective, total_examples=next(lengths, None))

    def __len__(self) -> int:
        """Number of trials."""
        return len(self._trials)

    @overload
    def __getitem__(self, index: int) -> FinishedTrial: ...

    @overload
    def __getitem__(self, index: slice) -> Trials: ...

    def __getitem__(self, index: int | slice) -> FinishedTrial | Trials:
        """A trial, or those of a part of the run."""
        return self._part(self._trials[index]) if isinstance(index, slice) else self._trials[index]

    def __iter__(self) -> Iterator[FinishedTrial]:
        """In the order of their end."""
        return iter(self._trials)

    def __repr__(self) -> str:
        """Such as "Trials(3, val_loss:min)"."""
        return f"Trials({len(self)}, {self.objective})"

    def with_one_more(self, trial: FinishedTrial) -> Trials:
        """These and one that has ended."""
        more = self._part((*self._trials, trial))
        # What is known of these is carried over: a search asks for it after every trial, and with
        # thousands of them looking through all takes most of a trial's time here.
        if "_ranked" in vars(self):
            ranked = list(self._ranked)
            if trial.score is not None:
                bisect.insort_right(ranked, trial, key=self._place)
            vars(more)["_ranked"] = tuple(ranked)
        if "_searched" in vars(self):
            before = self._searched
            searched = before.with_one_more(trial) if self._is_searched(trial) else before
            vars(more)["_searched"] = searched
        return more

    def find(self, name: str) -> FinishedTrial | None:
        """A trial by its name, or None."""
        return self._by_name.get(name)

    def of_phase(self, *phases: Phase) -> Trials:
        """Those of some phases."""
        return self._part(t for t in self if t.phase in phases)

    def of_batch_size(self, batch_size: int) -> Trials:
        """Those of one batch size."""
        return self._part(t for t in self if t.configuration.batch_size == batch_size)

    def of_full_length(self) -> Trials:
        """Whole trainings of the run's length.

        Left out are parts and branches, which no one configuration describes from the beginning
        to their end, and shorter or longer trainings. None are there where the length is not known.
        """
        return self._part(t for t in self if self._is_of_full_length(t))

    def completed(self) -> Trials:
        """Those that have a score."""
        return self._part(t for t in self if t.score is not None)

    def searched(self) -> Trials:
        """What an answer chooses among: the baseline and the search's own, of full length."""
        return self._searched

    def configurations(self) -> int:
        """How many configurations they try; see `TrialSpec.tries_another`."""
        pace = {t.trial: (t.configuration.batch_size, t.learning_rate) for t in self}
        return sum(t.parent is None or pace.get(t.parent) != pace[t.trial] for t in self)

    def batch_sizes(self) -> list[int]:
        """Their batch sizes, smallest first."""
        return sorted({t.configuration.batch_size for t in self})

    def ranked(self) -> list[FinishedTrial]:
        """The completed ones, best first; of equal ones the earlier is first."""
        return list(self._ranked)

    def best(self, *, without: Collection[str] = ()) -> FinishedTrial | None:
        """The best completed one, the first of equal ones; None if there is none.

        Args:
            without: Names of trials that are left out.
        """
        return next((t for t in self._ranked if t.trial not in without), None)

    def own(self, trial: FinishedTrial) -> Own:
        """What a trial did itself; a journal counts what its ancestors did with it."""
        parent = self.find(trial.parent) if trial.parent else None
        if parent is None:
            return Own(trial.examples, trial.steps, trial.training_seconds, trial.seconds)
        return Own(
            max(trial.examples - parent.examples, 0),
            max(trial.steps - parent.steps, 0),
            max(trial.training_seconds - parent.training_seconds, 0.0),
            max(trial.seconds - parent.seconds, 0.0),
        )

    def median_seconds(self) -> float:
        """Median wall-clock seconds of the completed trials; 0 if there are none."""
        seconds = [t.seconds for t in self if t.status == "completed"]
        return statistics.median(seconds) if seconds else 0.0

    def memory_wall(self, device: str) -> int | None:
        """The smallest batch size at which memory was used up on a kind of device, or None.

        One that has fitted there, or a smaller one, is no wall: a larger model was the reason, or
        what else took the memory.
        """
        memory = _Memory()
        for trial in self:
            if trial.device == device:
                memory.add(trial)
        return memory.walls[-1]

    def memory_walls_before(self) -> dict[str, int | None]:
        """For each trial by its name, the wall on its device as it was known when it began.

        The trials are in the order of their ends: what ended before one may have begun beside it.
        So it is the last wall that the trial lies below.
        """
        memory = collections.defaultdict[str, _Memory](_Memory)
        found: dict[str, int | None] = {}
        for trial in self:
            here, size = memory[trial.device], trial.configuration.batch_size
            walls = reversed(here.walls)
            found[trial.trial] = next(wall for wall in walls if wall is None or size < wall)
            here.add(trial)
        return found

    @functools.cached_property
    def _by_name(self) -> dict[str, FinishedTrial]:
        return {t.trial: t for t in self._trials}

    @functools.cached_property
    def _searched(self) -> Trials:
        return self._part(t for t in self if self._is_searched(t))

    def _is_searched(self, trial: FinishedTrial) -> bool:
        return trial.phase in ("baseline", "search") and self._is_of_full_length(trial)

    def _is_of_full_length(self, trial: FinishedTrial) -> bool:
        return trial.is_whole and trial.total_examples == self.total_examples

    @functools.cached_property
    def _ranked(self) -> tuple[FinishedTrial, ...]:
        return tuple(sorted((t for t in self if t.score is not None), key=self._place))

    def _place(self, trial: FinishedTrial) -> float:
        """Small is good."""
        sign = 1.0 if self.objective.direction == "min" else -1.0
        return sign * (trial.score or 0.0)

    def _part(self, trials: Iterable[FinishedTrial]) -> Trials:
        return Trials(trials, objective=self.objective, total_examples=self.total_examples)


@dataclasses.dataclass
class _Memory:
    """What trials have shown of the memory of a kind of device, in the order of their ends.

    Attributes:
        fitted: The largest batch size that has fitted.
        failed: Those at which memory was used up.
        walls: The smallest one above what has fitted, as it was after each change; None for none.
    """

    fitted: int = 0
    failed: set[int] = dataclasses.field(default_factory=set)
    walls: list[int | None] = dataclasses.field(default_factory=lambda: [None])

    def add(self, trial: FinishedTrial) -> None:
        """One more has ended."""
        size = trial.configuration.batch_size
        if trial.status == "oom":
            self.failed.add(size)
        elif trial.status in _FITTED and size > self.fitted:
            self.fitted = size
        else:
            return
        wall = min((one for one in self.failed if one > self.fitted), default=None)
        if wall != self.walls[-1]:
            self.walls.append(wall)
