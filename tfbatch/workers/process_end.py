"""How a worker process ended, and what that says."""

from __future__ import annotations

import functools
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from tfbatch.process.limits import CGROUPS, control_groups
from tfbatch.process.out_of_memory import out_of_memory_line

Ending = Literal["oom", "killed", "timeout"]

_LAST_LINES = 15
_TAIL_BYTES = 4096


class ProcessEndedError(Exception):
    """A worker process ended before what it was doing.

    Attributes:
        ending: "oom" if the kernel or the process's own last output reports it; "timeout" if it was
            ended for its silence; else "killed".
        message: What is known, with the last lines that the process printed.
        starting: Whether it ended before its task began, so the task is not the cause.
    """

    def __init__(self, ending: Ending, message: str, *, starting: bool = False):
        super().__init__(message)
        self.ending: Ending = ending
        self.message = message
        self.starting = starting

    def __reduce__(self) -> tuple[Callable[..., ProcessEndedError], tuple[Ending, str]]:
        """It travels between machines, which an exception with two arguments does not by itself."""
        return functools.partial(type(self), starting=self.starting), (self.ending, self.message)


def describe_end(
    exit_code: int | None,
    *,
    last_words: str,
    kernel_kills: int,
    silent_for: float | None,
    starting: bool = False,
) -> ProcessEndedError:
    """Tells from the traces of a process why it ended.

    Args:
        exit_code: As Python gives it: minus the signal's number for a signal; None if unknown.
        last_words: The end of what it printed.
        kernel_kills: Processes that the kernel killed for lack of memory in the meantime.
        silent_for: Seconds of silence for which it was ended by its parent, or None.
        starting: Whether its task had not begun.
    """
    ending, message = _why(exit_code, last_words, kernel_kills, silent_for)
    if starting:
        message = f"Before its task began: {message}"
    return ProcessEndedError(ending, message, starting=starting)


def _why(
    exit_code: int | None, last_words: str, kernel_kills: int, silent_for: float | None
) -> tuple[Ending, str]:
    lines = last_words.strip().splitlines()
    words = "".join(f"\n{line}" for line in ["Its last output:", *lines[-_LAST_LINES:]] if lines)
    if silent_for is not None:
        return "timeout", f"It gave no heartbeat for {silent_for:.0f} s and was ended.{words}"
    if exit_code == -signal.SIGKILL and kernel_kills > 0:
        return "oom", "The kernel killed its process because memory was exhausted."
    how = _signal_name(exit_code)
    refusal = out_of_memory_line(last_words)
    if exit_code not in (None, 0, -signal.SIGKILL) and refusal:
        return "oom", f"An allocator failed: its process ended by {how}: {refusal}"
    return "killed", f"Its process ended by {how}.{words}"


def tail(path: Path, *, start: int) -> str:
    """The last lines that were written to a file since it had `start` bytes."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, 2)
            file.seek(max(start, end - _TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def kernel_kills(root: Path = Path("/")) -> int:
    """A count that grows whenever the kernel kills a process for lack of memory.

    The sum of the control group's own count and the machine's: a worker can be in a group of its
    own, and in a container the machine's count may be hidden.

    Args:
        root: Where /proc and /sys are.
    """
    count = 0
    for file in (*_group_counts(root), root / "proc/vmstat"):
        try:
            found = re.search(r"^oom_kill (\d+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
        except OSError:
            continue
        count += int(found[1]) if found else 0
    return count


def _group_counts(root: Path) -> Iterator[Path]:
    for controllers, group in control_groups(root):
        if "memory" in controllers:
            yield root / CGROUPS / "memory" / group / "memory.oom_control"
        elif not controllers:
            yield root / CGROUPS / group / "memory.events"


def _signal_name(exit_code: int | None) -> str:
    if exit_code is None:
        return "an unknown cause"
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return f"signal {-exit_code}"
