"""The end states on disk: those that were not used for longest go where they take too much."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from tfbatch.run_folder.files import STATES, state_file
from tfbatch.trial.finished_trial import FinishedTrial


class KeptStates:
    """The end states of a run's trials.

    A state that is gone costs time alone: its trial is trained again when another goes on from it.

    Args:
        run_dir: The run folder; no trial runs in it.
        most_bytes: What they may take together, when a trial has ended. Those that running trials
            go on from are kept in any case.
    """

    def __init__(self, run_dir: Path, *, most_bytes: int):
        self._run_dir, self._most_bytes = run_dir, most_bytes
        for partial in (run_dir / STATES).glob("partial-*"):  # of a process that was killed
            partial.unlink(missing_ok=True)

    def prune(self, trials: Sequence[FinishedTrial], *, needed: Collection[str]) -> list[str]:
        """Removes the states that were not used for longest, until the others fit.

        A state is used when its trial ends, and again when one that went on from it does: what many
        branch off from stays longer than what none goes on from.

        Args:
            trials: All of them, in the order of their ends.
            needed: Names of those whose states are in use.

        Returns:
            Names of those whose states were removed.
        """
        # The folder is listed: asking for each trial's file took a system call for each.
        there = {state.name: state for state in (self._run_dir / STATES).glob("*.npz")}
        if not there:
            return []
        used = [name for trial in trials for name in (trial.trial, trial.parent) if name]
        last_used_first = dict.fromkeys(reversed(used))
        sizes = {
            name: _size(there[file])
            for name in reversed(last_used_first)
            if (file := state_file(self._run_dir, name).name) in there
        }
        left, removed = sum(sizes.values()), []
        for trial, size in sizes.items():
            if left <= self._most_bytes:
                break
            if size and trial not in needed:
                state_file(self._run_dir, trial).unlink(missing_ok=True)
                left -= size
                removed.append(trial)
        return removed


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
