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

    It is forked from one that imports them once for the whole session, and is used like a
    subprocess.Popen with text and pipes. What tests the import itself, or ends together with its
    parent, needs a process of its own: subprocess.Popen.

    Args:
        arguments: "-c" and a program, "-m" and a module, or a script; then sys.argv[1:].
        cwd: Where it runs, and what it can import from.
        environment: Variables that differ from this process's.
        stdout: An open file that it writes to; a pipe without one.
        stderr: The same.
        start_new_session: Whether it leads a process group of its own.
    """

    def __init__(
        self,
        *arguments,
        cwd=None,
        environment=None,
        stdout=None,
        stderr=None,
        start_new_session=False,
    ):
        stdin, self.stdin = _pipe("w")
        self.stdout, out = _output(stdout)
        self.stderr, err = _output(stderr)
        ends = (stdin, out, err)
        place = str(cwd or Path.cwd())
        variables = {**os.environ, **(environment or {})}
        self._process = _FORK_SERVER.Process(
            target=_become,
            args=([str(one) for one in arguments], place, variables, ends, start_new_session),
        )
        self._process.start()
        for end in ends:
            end.close()
        self.pid = self._process.pid

    @property
    def returncode(self):
        return self.poll()

    def kill(self):
        self._process.kill()

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def poll(self):
        """The exit code, or None while it runs; below 0 it is a signal."""
        return self._process.exitcode

    def wait(self, timeout=None):
        """Waits for the end and returns the exit code."""
        timeout = HANG_SECONDS if timeout is None else timeout
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a warm process", timeout)
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
            if stream:
                stream.close()


def begin_warm(command, **options):
    """A WarmProcess of a command that names this Python, for what is given a subprocess.Popen."""
    python, *arguments = command
    assert python == sys.executable
    return WarmProcess(*(one for one in arguments if one != "-u"), **options)


def run_warm(*arguments, cwd=None, environment=None, check=True):
    """Runs a WarmProcess to its end; returns its exit code and what it has printed.

    Args:
        arguments: As a WarmProcess has them.
        cwd: The same.
        environment: The same.
        check: Whether the end must be a good one.
    """
    with WarmProcess(*arguments, cwd=cwd, environment=environment) as process:
        out, err = process.communicate()
        assert process.poll() == 0 or not check, err
        return subprocess.CompletedProcess(arguments, process.poll(), out, err)


def _output(file):
    """What is read of it, or None where it goes into a file, and the child's end."""
    if file is None:
        return tuple(reversed(_pipe("r")))
    return None, Connection(os.dup(file.fileno()), readable=False)


def _pipe(ours):
    """The child's end as what goes to another process, and ours as a text file."""
    reading, writing = os.pipe()
    if ours == "w":
        return Connection(reading, writable=False), os.fdopen(writing, "w")
    return Connection(writing, readable=False), os.fdopen(reading)


def _become(arguments, place, variables, ends, start_new_session):
    """Inside the new process: what `python -u ARGUMENTS` does."""
    if start_new_session:
        os.setsid()
    for number, end in enumerate(ends):
        os.dup2(end.fileno(), number)
        end.close()
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, mode, 1) for n, mode in enumerate("rww"))
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
