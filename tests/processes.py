"""What tests share that start processes: warm ones, limits that only a hang reaches, and events.

A test's outcome never depends on how fast the machine is.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from unittest import mock

HANG_SECONDS = 1800
"""Of a process that should have ended by itself, on the slowest machine."""
LONG_AGO = -1e6
_FORK_SERVER = multiprocessing.get_context("forkserver")
_FORK_SERVER.set_forkserver_preload(["tensorflow", "keras"])


def wait_until(true, *, process=None):
    """Waits for an event; fails after a hang, or when the process that is to cause it has ended."""
    end = time.monotonic() + HANG_SECONDS
    while not true():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def with_long_enough_pauses(measure, holds, *, seconds):
    """What is measured with a pause of so many seconds, or of ten and thirty times as many.

    A pause dominates what the machine does beside it, if not at first then when it is longer.
    """
    for factor in (1, 10, 30):
        found = measure(seconds * factor)
        if holds(found):
            break
    return found


def fall_silent():
    """Inside a worker: hangs, and the last heartbeat was longer ago than any limit.

    The parent need not wait for a limit to pass, so that the limit can be one that no slow machine
    reaches by itself.
    """
    from tfbatch.workers.slot import worker_mailbox

    with mock.patch("time.monotonic", return_value=LONG_AGO):
        worker_mailbox().report(0, 0)
    time.sleep(HANG_SECONDS)


class WarmProcess:
    """`python ARGUMENTS` in a new process that has imported TensorFlow and Keras, and run nothing.

    It is forked from one that imports them once for the whole session. What tests the import
    itself, or ends together with its parent, needs a process of its own: subprocess.Popen.

    Args:
        arguments: "-c" and a program, "-m" and a module, or a script; then sys.argv[1:].
        cwd: Where it runs, and what it can import from.
        environment: Variables that differ from this process's.
    """

    def __init__(self, *arguments, cwd=None, environment=None):
        stdin, self.stdin = _pipe("w")
        self.stdout, stdout = reversed(_pipe("r"))
        self.stderr, stderr = reversed(_pipe("r"))
        ends = (stdin, stdout, stderr)
        place = str(cwd or Path.cwd())
        variables = {**os.environ, **(environment or {})}
        self._process = _FORK_SERVER.Process(
            target=_become, args=([str(one) for one in arguments], place, variables, ends)
        )
        self._process.start()
        for end in ends:
            end.close()
        self.pid = self._process.pid

    def kill(self):
        self._process.kill()

    def poll(self):
        """The exit code, or None while it runs; below 0 it is a signal."""
        return self._process.exitcode

    def wait(self):
        """Waits for the end and returns the exit code."""
        self._process.join(HANG_SECONDS)
        assert self._process.exitcode is not None, "it hangs"
        return self._process.exitcode

    def communicate(self, text=""):
        """What it writes to stdout and stderr until its end, after this text on its stdin."""
        with ThreadPoolExecutor() as threads:
            written = [threads.submit(stream.read) for stream in (self.stdout, self.stderr)]
            self.stdin.write(text)
            self.stdin.close()
            self.wait()
            return tuple(one.result() for one in written)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.poll() is None:
            self.kill()
        self.wait()
        for stream in (self.stdin, self.stdout, self.stderr):
            stream.close()


def run_warm(*arguments, cwd=None, environment=None):
    """Runs a WarmProcess to its end, which must be a good one; returns what it has printed."""
    with WarmProcess(*arguments, cwd=cwd, environment=environment) as process:
        out, err = process.communicate()
        assert process.poll() == 0, err
    return subprocess.CompletedProcess(arguments, 0, out, err)


def _pipe(ours):
    """The child's end as what goes to another process, and ours as a text file."""
    reading, writing = os.pipe()
    if ours == "w":
        return Connection(reading, writable=False), os.fdopen(writing, "w")
    return Connection(writing, readable=False), os.fdopen(reading)


def _become(arguments, place, variables, ends):
    """Inside the new process: what `python ARGUMENTS` does."""
    for number, end in enumerate(ends):
        os.dup2(end.fileno(), number)
        end.close()
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(place)
    paths = [place, *filter(None, variables.get("PYTHONPATH", "").split(":"))]
    sys.path[:] = [*paths, *(path for path in sys.path if path not in paths)]
    first, *rest = arguments
    if first == "-c":
        program, *rest = rest
        sys.argv = ["-c", *rest]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(program, "<string>", "exec"), main.__dict__)
    elif first == "-m":
        module, *rest = rest
        sys.argv = [module, *rest]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(str(Path(place) / first), run_name="__main__")
    sys.stdout.flush()
