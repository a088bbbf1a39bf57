"""Signals that ask a command to end: Ctrl-C, SIGTERM (kill, timeout, Slurm), SIGHUP (a terminal).

While nothing is measured, one ends the command at once. From then on the first asks it to end with
what is measured, and the second ends it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from tfbatch.errors import STOPPED_EARLY, StoppedError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_AT_ONCE_SECONDS = 3.0
"""What is under way when a command ends at once, in C++ code perhaps, is not waited for longer."""


class StopSignal:
    """Asks a run to end; the second signal ends it.

    Args:
        announce: Called at the first one once there is something to keep, in the signal handler.
        signals: Which.
        ends_process: Whether the process ends when the run does, and is ended after some seconds
            where the run cannot be; not in a program of a user's.
        something_to_keep: Whether the first one only asks; see `keep`.
        nothing_kept: Called where the process is ended before it could say that nothing was
            measured.
    """

    def __init__(
        self,
        announce: Callable[[], None],
        *,
        signals: Sequence[int] = SIGNALS,
        ends_process: bool = True,
        something_to_keep: bool = True,
        nothing_kept: Callable[[], None] = lambda: None,
    ) -> None:
        self.received: int | None = None
        self._announce = announce
        self._signals = signals
        self._ends_process = ends_process
        self._count = 0
        self._something_to_keep = something_to_keep
        self._nothing_kept = nothing_kept

    def __enter__(self) -> StopSignal:
        """Installs the handlers; `nohup` stays in force."""
        ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        numbers = [s for s in self._signals if not (s == signal.SIGHUP and ignored)]
        self._before = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        """Puts the earlier handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        """Whether a signal has come."""
        return self.received is not None

    @property
    def exit_code(self) -> int:
        """0, or 128 and the signal's number."""
        return 0 if self.received is None else 128 + self.received

    def keep(self) -> None:
        """From now on something is measured: the first signal only asks."""
        self._something_to_keep = True

    @contextlib.contextmanager
    def starting_up(self) -> Iterator[None]:
        """Until `keep`, a signal ends the block at once: nothing is measured yet.

        Raises:
            StoppedError: A signal came before `keep`.
        """
        self._something_to_keep = False
        try:
            yield
        except KeyboardInterrupt as error:
            if self._count > 1 or self._something_to_keep:
                raise
            raise StoppedError(STOPPED_EARLY) from error
        finally:
            self._something_to_keep = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._count += 1
        if self.received is None:
            self.received = number
            if self._something_to_keep:
                self._announce()
                return
        elif self._count > 2 and self._ends_process:
            os._exit(self.exit_code)
        if self._ends_process:
            first = self._count == 1
            end_after(_AT_ONCE_SECONDS, self.exit_code, self._nothing_kept if first else None)
        raise KeyboardInterrupt(number)


@contextlib.contextmanager
def python_interrupt(announce: Callable[[], None]) -> Iterator[StopSignal]:
    """Ctrl-C in a notebook or a script: it asks a run to end, once there is something to keep.

    A handler of the user's own stays in force, and so does everything outside the main thread.

    Args:
        announce: See StopSignal.
    """
    stop = StopSignal(
        announce, signals=(signal.SIGINT,), ends_process=False, something_to_keep=False
    )
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        with stop:
            yield stop
    else:
        yield stop


def end_after(seconds: float, code: int, before: Callable[[], None] | None = None) -> None:
    """Ends the process after some seconds, whatever it does; workers end with it.

    Args:
        seconds: How many.
        code: Its exit code.
        before: Called before that.
    """

    def end() -> None:
        if before:
            before()
        os._exit(code)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def end_while_starting() -> None:
    """A signal ends a command that still imports its modules, with a sentence.

    Python itself would die of the signal without one, and show a traceback for Ctrl-C.
    """

    def end(number: int, frame: FrameType | None) -> None:
        del frame
        with contextlib.suppress(OSError):
            os.write(2, b"Stopped while starting up: nothing was measured.\n")
        os._exit(128 + number)

    for number in SIGNALS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, end)


def _is_program_of(package: str) -> bool:
    """Whether this process is `python -m PACKAGE...`, and not another program that imports it."""
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    return main is not None and main.name.startswith(f"{package}.")


if _is_program_of("tfbatch"):
    end_while_starting()
