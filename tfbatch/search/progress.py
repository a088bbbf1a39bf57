"""Tells a person how far a run is: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from tfbatch.search.finished import FinishedTrial
from tfbatch.training.derived import Derived
from tfbatch.training.outcome import TrialSpec

LINE_SECONDS = 5.0
"""Without a terminal, what a long measurement is doing is a line no more often than this."""


class Progress:
    """Plain lines, one for each trial; `LiveProgress` adds a bar on a terminal.

    Args:
        console: Where to print; None prints nothing.
    """

    def __init__(self, console: Console | None):
        self._console = console
        self._left: Callable[[], float] = lambda: float("inf")
        self._done = 0
        self._total = 0
        self._last_line = float("-inf")

    def begin(self, *, done: int, total: int, seconds_left: Callable[[], float]) -> None:
        """Starts counting search trials."""
        self._done, self._total, self._left = done, total, seconds_left
        self._refresh()

    def say(self, text: str) -> None:
        """One line of text."""
        if self._console:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def doing(self, text: str) -> None:
        """What a long measurement is doing now; may be called as often as one likes."""
        now = time.monotonic()
        if now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            self.say(text)

    def preparing(self, split: str, done: int, total: int) -> None:
        """Records are being written; told every 1,000 examples."""
        if done == total or done % 10_000 == 0:
            self.say(f"preparing records: {split} {done:,} of {total:,} examples")

    def trial_started(self, spec: TrialSpec, derived: Derived) -> None:
        """A trial begins."""
        self._refresh(
            f"{spec.trial}: batch size {spec.configuration.batch_size}, "
            f"learning rate {derived.learning_rate:.3g}, {spec.configuration.schedule.name}"
        )

    def trial_finished(self, trial: FinishedTrial, best: FinishedTrial | None) -> None:
        """A trial is in the journal."""
        if trial.phase == "search":
            self._done += 1
        result = trial.status if trial.score is None else f"{trial.score:.4f}"
        count = f" {self._done}/{self._total}" if trial.phase == "search" else ""
        best_text = f"; best so far {best.score:.4f} ({best.trial})" if best else ""
        left = self._left()
        left_text = f"; {left / 60:.1f} min left" if left < float("inf") else ""
        c = trial.configuration
        self.say(
            f"{trial.trial}{count}: batch size {c.batch_size}, learning rate "
            f"{trial.learning_rate:.3g}, {c.schedule.name}: {result} "
            f"in {trial.seconds:.1f} s{best_text}{left_text}"
        )
        if trial.status in ("error", "oom"):
            self.say(f"{trial.trial} did not complete ({trial.status}):\n{trial.message}")
        elif trial.status == "diverged":
            self.say(f"{trial.trial} diverged: {trial.message}")
        self._refresh("", best)

    def end(self) -> None:
        """Stops the display."""

    def _refresh(self, running: str = "", best: FinishedTrial | None = None) -> None:
        """Updates the bar, where there is one."""


class LiveProgress(Progress):
    """A bar under the lines: trials done, best so far, time left.

    Args:
        console: A terminal.
    """

    def __init__(self, console: Console):
        super().__init__(console)
        self._bar = RichProgress(
            TextColumn("[bold]{task.fields[stage]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[best]}"),
            TextColumn("[dim]{task.fields[running]}"),
            console=console,
            transient=True,
            # library noise goes to the log of the run, not to the terminal
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task("", total=None, stage="", left="", best="", running="")
        self._preparing = self._bar.add_task("", total=None, stage="", left="", best="", running="")
        self._bar.update(self._preparing, visible=False)
        self._bar.start()

    def doing(self, text: str) -> None:
        """See Progress."""
        self._bar.update(self._task, running=text)

    def preparing(self, split: str, done: int, total: int) -> None:
        """See Progress."""
        self._bar.update(
            self._preparing,
            visible=done < total,
            completed=done,
            total=total,
            stage=f"preparing {split}",
        )

    def end(self) -> None:
        """Removes the bar."""
        self._bar.stop()

    def _refresh(self, running: str = "", best: FinishedTrial | None = None) -> None:
        left = self._left()
        self._bar.update(
            self._task,
            stage="trials",
            completed=self._done,
            total=self._total or None,
            running=running,
            left=f"{left / 60:.1f} min left" if left < float("inf") else "",
        )
        if best:
            self._bar.update(self._task, best=f"best {best.score:.4f}")
