"""The answer while a search goes on: shown when its batch size changes, kept when it changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from tfbatch.oracles import BATCH_SIZE, Belief, Stage
from tfbatch.quantities import four_decimals
from tfbatch.search.progress import Progress
from tfbatch.trial.finished_trial import BASELINE, FinishedTrial
from tfbatch.trial.trials import Trials

SHARE = 0.02
"""Writing the answer takes at most this share of the time; a search of quick trials waits."""


class AnswerSoFar:
    """Looks after each trial of a search whether the answer is another one.

    Args:
        progress: Told of a batch size that leads, and of a stage that begins.
        keep: Writes the answer as it is now.
        margin: Differences of the objective up to this do not matter.
        now: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        progress: Progress,
        keep: Callable[[], None],
        *,
        margin: float,
        now: Callable[[], float] = time.monotonic,
    ):
        self._progress, self._keep, self._margin, self._now = progress, keep, margin, now
        self._told: object = None
        self._kept: tuple[str, str] = ("", "")
        self._stage = ""
        self._next_time = -float("inf")

    def look(self, trials: Trials, belief: Belief | None, stages: Sequence[Stage] = ()) -> None:
        """What changed with a trial that has ended.

        Args:
            trials: All that have finished.
            belief: What the oracle would answer, where it says so.
            stages: The oracle's stages, where it has any.
        """
        self._tell_stage(stages)
        best = trials.searched().best()
        leader = belief.values.get(BATCH_SIZE) if belief else best and _size(best)
        if leader is not None and leader != self._told:
            if belief or (best and best.trial != BASELINE):
                sentence = belief.sentence if belief else _sentence(trials, best, self._margin)
                self._progress.note(f"{sentence[0].upper()}{sentence[1:].rstrip('.')}.")
            self._told = leader
        if best is None:
            return
        current = (best.trial, belief.sentence if belief else "")
        if current == self._kept or self._now() < self._next_time:
            return
        begun = self._now()
        self._keep()
        self._kept = current
        self._next_time = self._now() + (self._now() - begun) / SHARE

    def _tell_stage(self, stages: Sequence[Stage]) -> None:
        current = next((stage for stage in stages if stage.done < stage.planned), None)
        if current is None or current.name == self._stage:
            return
        self._stage = current.name
        names = [stage.name for stage in stages]
        self._progress.note(
            f"Stage {names.index(current.name) + 1} of {len(names)}: {current.name} "
            f"({current.planned - current.done} trials)."
        )


def _sentence(trials: Trials, best: FinishedTrial | None, margin: float) -> str:
    """Such as "now batch size 64 (search-0003, val_loss 0.5102); not told from 32"."""
    if best is None:
        return ""
    searched = trials.searched()
    near = [
        size
        for size in searched.batch_sizes()
        if size != _size(best) and _distance(searched.of_batch_size(size), best) <= margin
    ]
    told = (
        f"not told from {', '.join(map(str, near))}, within {margin:.3g} of it"
        if near
        else "each batch size was tried with few learning rates and one seed"
    )
    score = f"{trials.objective.name} {four_decimals(best.score)}"  # type: ignore[arg-type]
    return f"now batch size {_size(best)} ({best.trial}, {score}); {told}"


def _size(trial: FinishedTrial) -> int:
    return trial.configuration.batch_size


def _distance(trials: Trials, best: FinishedTrial) -> float:
    """How far the best of some trials lies behind."""
    found = trials.best()
    if found is None or found.score is None or best.score is None:
        return float("inf")
    return abs(found.score - best.score)
