"""Shows the progress of a run: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tfbatch.quantities import four_decimals
from tfbatch.trial.finished_trial import FinishedTrial

if TYPE_CHECKING:
    from tfbatch.search.engine import Running  # imports TensorFlow

FIRST_SILENCE, LATER_SILENCE = 30.0, 60.0
"""Without a terminal, a line tells what runs after so many seconds without one, and then again."""
_REFRESHES_A_SECOND = 2.0
MEASURING_SECONDS = 5.0
"""Without a terminal, what a long measurement tries is a line no more often than this."""


def progress_lines(verbose: int) -> Progress:
    """Lines for a function of Python; none for `verbose=0`."""
    return Progress(Console() if verbose else None)


class Progress:
    """Plain lines: one for each trial, and one at intervals while no trial ends.

    Args:
        console: Where to print; None prints nothing.
        now: A clock, in seconds.
    """

    def __init__(self, console: Console | None, *, now: Callable[[], float] = time.monotonic):
        self._console = console
        self._now = now
        self.on_begin: Callable[[], None] = lambda: None  # from then on there is what to keep
        self._left: Callable[[], float] = lambda: float("inf")
        self._trainings_left: Callable[[], float] = lambda: float("inf")
        self._running: Callable[[], list[Running]] = list
        self._done = 0
        self._total = 0
        self._best: FinishedTrial | None = None
        self._doing, self._doing_since = "", now()
        self._measuring_line = now()
        self._last_line, self._silence = now(), FIRST_SILENCE
        self._ended = threading.Event()
        self._ticker: threading.Thread | None = None

    def watch(self, running: Callable[[], list[Running]]) -> None:
        """Source of the running trials; read from another thread."""
        self._running = running

    def begin(
        self,
        *,
        done: int,
        total: int,
        seconds_left: Callable[[], float],
        trainings_left: Callable[[], float] = lambda: float("inf"),
    ) -> None:
        """Starts counting the search's configurations: from now on there are results to keep."""
        self._done, self._total = done, total
        self._left, self._trainings_left = seconds_left, trainings_left
        self.on_begin()

    def say(self, text: str) -> None:
        """One line of text. While no trial runs, it is also the current activity until the next."""
        self.doing(text)
        self._print(text)

    def note(self, text: str) -> None:
        """One line of text that says nothing of what goes on."""
        self._print(text)

    def doing(self, text: str) -> None:
        """The current activity, shown on a display and reported if it takes long.

        May be called often.
        """
        self._doing, self._doing_since = text.splitlines()[0] if text else "", self._now()
        self._start()

    def measuring(self, text: str) -> None:
        """What a long measurement tries now: a line every few seconds. May be called often."""
        now = self._now()
        if now - self._measuring_line >= MEASURING_SECONDS:
            self._measuring_line = now
            self._print(text)

    def preparing(self, split: str, done: int, total: int) -> None:
        """Records are being written, told every 1,000 examples; or a user's data is being read.

        How many examples that has, and thus `total`, is not known before: 0.
        """
        if not total:
            if done:
                self.measuring(_reading(done))
            return
        text = f"preparing records: {split} {done:,} of {total:,} examples"
        if (done == total or done % 10_000 == 0) and text != self._doing:
            self.say(text)

    def trial_finished(
        self,
        trial: FinishedTrial,
        best: FinishedTrial | None,
        *,
        another: bool = True,
        total_examples: int | None = None,
    ) -> None:
        """A trial is in the journal.

        Args:
            trial: The trial.
            best: The best so far.
            another: Whether it tries another configuration than its parent.
            total_examples: The length of the run's trials, if it may be of another.
        """
        if trial.phase == "search":
            self._done += another
        self._best = best
        result = trial.status if trial.score is None else four_decimals(trial.score)
        count = f" {self._done}/{self._total}" if trial.phase == "search" else ""
        best_text = f"; best so far {four_decimals(best.score)} ({best.trial})" if best else ""  # type: ignore[arg-type]
        c = trial.configuration
        is_short = total_examples is not None and trial.total_examples != total_examples
        is_part = is_short or not trial.is_whole or trial.parent
        part = f" up to example {trial.length:,}" if is_part else ""
        self._print(
            f"{trial.trial}{count}: batch size {c.batch_size}, learning rate "
            f"{trial.learning_rate:.3g}, {c.schedule.name}{part}: {result} "
            f"in {trial.seconds:.1f} s{best_text}{self._left_text()}"
        )
        if trial.status == "error":
            self._print(f"{trial.trial} did not complete (error):\n{trial.message.rstrip()}")
        elif trial.status == "diverged":
            self._print(f"{trial.trial} diverged: {trial.message}")
        elif trial.status != "completed":
            why = trial.message.strip().splitlines()[:1]
            self._print(" ".join((f"{trial.trial} did not complete ({trial.status}).", *why)))
        self._doing, self._doing_since = "", self._now()

    def status(self) -> str:
        """What runs now, how far it is and what time is left, in one line; "" if nothing does."""
        running = self._running()
        if running:
            parts = [", ".join(map(_in_words, running))]
            if self._total:
                parts.append(f"{self._done} of {self._total} trials done")
            return f"running {'; '.join(parts)}{self._left_text()}"
        return f"now: {self._since()}" if self._doing else ""

    def tick(self) -> None:
        """Prints the status if nothing was printed for long."""
        if self._now() - self._last_line < self._silence:
            return
        line = self.status()
        if line:
            self._print(line)
        self._last_line, self._silence = self._now(), LATER_SILENCE

    def end(self) -> None:
        """Stops the display; may be called twice. Whoever ran the trials may have ended before."""
        self._running = list
        self._ended.set()

    def _print(self, text: str) -> None:
        if self._console:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)
        self._last_line, self._silence = self._now(), FIRST_SILENCE

    def _left_text(self) -> str:
        left, trainings = self._left(), self._trainings_left()
        text = f"; {max(left, 0) / 60:.1f} min left" if left < float("inf") else ""
        if trainings < float("inf"):
            text += f"; {max(trainings, 0):.1f} trainings left"
        return text

    def _since(self) -> str:
        """What goes on, and since when if it was told some time ago."""
        seconds = self._now() - self._doing_since
        return f"{self._doing} ({seconds:.0f} s)" if seconds >= 1 else self._doing

    def _start(self) -> None:
        """Begins to look once a second whether a line is due."""
        if self._ticker is None and self._console is not None and not self._ended.is_set():
            self._ticker = threading.Thread(target=self._tick_until_the_end, daemon=True)
            self._ticker.start()

    def _tick_until_the_end(self) -> None:
        while not self._ended.wait(1.0):
            self.tick()


class LiveProgress(Progress):
    """Under the lines, refreshed each second: every running trial with its epochs, the time left.

    Args:
        console: A terminal.
        now: A clock, in seconds.
    """

    def __init__(self, console: Console, *, now: Callable[[], float] = time.monotonic):
        super().__init__(console, now=now)
        self._began = now()
        self._prepared = ("", 0, 0)
        self._live = Live(
            get_renderable=self.render,
            console=console,
            refresh_per_second=_REFRESHES_A_SECOND,
            transient=True,
            # library noise goes to the log of the run, not to the terminal
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def measuring(self, text: str) -> None:
        """See Progress."""
        if text != self._doing:
            self.doing(text)

    def preparing(self, split: str, done: int, total: int) -> None:
        """See Progress."""
        if done and not total:
            self.measuring(_reading(done))
        self._prepared = (f"preparing {split}", done, total) if done < total else ("", 0, 0)

    def end(self) -> None:
        """Removes the display."""
        super().end()
        self._live.stop()

    def render(self) -> RenderableType:
        """What the terminal shows now."""
        running = self._running()
        text, done, total = self._prepared
        rows = [self._summary()]
        if text:
            rows.append((text, done / total, f"{done:,} of {total:,} examples"))
        rows += [_row(one) for one in running]
        lines: list[RenderableType] = [_grid(rows)]
        if self._doing and not running and not text:
            lines.append(Text(self._since(), "dim"))
        return Group(*lines)

    def _summary(self) -> tuple[str, float | None, str]:
        parts = [_minutes(self._now() - self._began)]
        if self._left() < float("inf"):
            parts.append(f"{_minutes(max(self._left(), 0))} left")
        if self._best is not None:
            parts.append(f"best {four_decimals(self._best.score)} ({self._best.trial})")  # type: ignore[arg-type]
        if not self._total:
            return "starting", None, ", ".join(parts)
        count = f"{self._done} of {self._total} trials"
        return count, min(self._done / self._total, 1.0), ", ".join(parts)

    def _start(self) -> None:
        """The display refreshes itself."""


def _reading(done: int) -> str:
    return f"reading your data: {done:,} examples so far"


def _row(running: Running) -> tuple[str, float, str]:
    size = running.spec.configuration.batch_size
    where = f"{_epoch(running)}, {_minutes(running.seconds)}"
    return f"{running.spec.trial}: batch size {size}", running.progress.fraction, where


def _in_words(running: Running) -> str:
    size = running.spec.configuration.batch_size
    return f"{running.spec.trial} (batch size {size}, {_epoch(running)}, {running.seconds:.0f} s)"


def _epoch(running: Running) -> str:
    at = running.progress
    return f"epoch {min(at.done + 1, at.total)} of {at.total}" if at.total else "building"


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _grid(rows: Iterable[tuple[str, float | None, str]]) -> Table:
    """Text, bar and text of each row."""
    table = Table.grid(padding=(0, 1))
    for text, share, more in rows:
        bar = "" if share is None else ProgressBar(total=1.0, completed=share, width=24)
        table.add_row(Text(text, no_wrap=True), bar, Text(more, no_wrap=True))
    return table
