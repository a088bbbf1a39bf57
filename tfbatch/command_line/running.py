"""What all commands share: flags, exit codes, signals, and a terminal free of library noise.

absl exits with 1 on --help and on every flag error, and refuses `--run-dir` for `run_dir`; here
--help exits 0, a flag error 2, and dashes are accepted.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING, Any, TextIO, cast

from absl import flags

from tfbatch.errors import InputError, TfbatchError
from tfbatch.process.generated_files import remove_generated_files
from tfbatch.process.steady_stream import SteadyStream
from tfbatch.process.stop_signal import SIGNALS
from tfbatch.process.stop_signal import StopSignal as StopSignal
from tfbatch.schema import expanded

if TYPE_CHECKING:
    from rich.console import Console

EXIT_CODES = """\
exit codes:
  0    done
  1    an unexpected error (a bug): the traceback is shown
  2    the request cannot be carried out; nothing was trained
  3    data is missing, cannot be fetched, or is damaged
  4    the run folder is in use, full or damaged
  5    no trial could be completed, or all failed on fresh seeds
  6    no trial learned anything: lengthen the trials
  130  ended by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP: the best answer so far was printed and saved
"""


def parse_flags(
    values: flags.FlagValues, arguments: list[str], *, usage: str, folders: int = 0
) -> list[str]:
    """Parses a command's arguments; prints help and exits 0 where it is asked for.

    Args:
        values: The command's flags.
        arguments: Without the program's name.
        usage: The command's docstring.
        folders: How many folders may be named without a flag.

    Returns:
        The folders.

    Raises:
        InputError: An unknown flag, a value of the wrong kind or none, a stray argument.
    """
    if any(a in ("--help", "-help", "-h", "--helpfull", "--helpshort") for a in arguments):
        print(help_text(values, usage))
        raise SystemExit(0)
    for name in values:  # a second call in one process begins with the defaults
        values[name].unparse()
    try:
        stray = values(["tfbatch", *map(_with_underscores, arguments)])[1:]
    except flags.Error as error:
        raise InputError(f"{error} See --help.") from error
    _refuse_empty(values)
    if len(stray) > folders:
        raise InputError(
            f"Unexpected argument `{stray[folders]}`: flags begin with --. See --help."
        )
    return list(stray)


def _refuse_empty(values: flags.FlagValues) -> None:
    """An empty text, as of a shell variable that is not set, would silently mean the default.

    Raises:
        InputError: A flag has one, and its default is another.
    """
    for name in values:
        flag = values[name]
        if flag.present and flag.value == "" and flag.default != "":
            raise InputError(
                f"`--{name}` must have a value. Received: an empty one (is a variable of the shell "
                "not set?). Give a value, or leave the flag out."
            )


def path_of(text: str | None) -> Path | None:
    """A flag's path with `~` expanded, which a shell leaves alone after `=`; None for an empty one.

    Raises:
        InputError: The home directory of an unknown user.
    """
    return expanded(text) if text else None


def parse_arguments(text: str, *, flag: str) -> dict[str, bool | int | float | str]:
    """Reads "name=value,name=value"; a value is a number, true or false (in any case), or text.

    Raises:
        InputError: Another form, a name that is there twice, or Python's None.
    """
    found: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key:
            raise InputError(f"`{flag}` must be written as NAME=VALUE,... Received: {text!r}.")
        if key in found:
            raise InputError(
                f"`{flag}` must name each once: it names `{key}` twice. Received: {text!r}. Leave "
                "out one of them."
            )
        if value == "None":  # would be the text; "none" may be one that a model knows
            raise InputError(
                f"`{flag}` must give numbers, true, false or texts. Received: {part!r}. Leave "
                f"`{key}` out: its default is used."
            )
        found[key] = _value(value)
    return found


def _value(text: str) -> bool | int | float | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def help_text(values: flags.FlagValues, usage: str) -> str:
    """The command's docstring, its flags with their defaults, and the exit codes."""
    lines = [usage.strip(), "", "flags:"]
    for name in sorted(set(values)):
        flag = values[name]
        default = "" if flag.default in (None, "") else f" (default: {flag.default})"
        lines.append(f"  --{name}")
        lines += textwrap.wrap(
            f"{flag.help}{default}", 96, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    return "\n".join([*lines, "", EXIT_CODES])


def run_command(main: Callable[[list[str]], int], arguments: list[str] | None = None) -> None:
    """Runs a command's `main(arguments)` and exits with its code; errors become messages.

    A closed pipe (`| head`) does not end the command: further output is dropped.

    Args:
        main: The command.
        arguments: What stands behind the command's name. Defaults to this program's arguments.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _steady(sys.stdout), _steady(sys.stderr)
    try:
        code = _code_of(main, sys.argv[1:] if arguments is None else arguments)
        _flush(sys.stdout, sys.stderr)
        remove_generated_files()
        # TensorFlow's threads can hang in the interpreter's teardown; everything is on disk.
        os._exit(code)
    finally:
        sys.stdout, sys.stderr = before


def _code_of(main: Callable[[list[str]], int], arguments: list[str]) -> int:
    def interrupt(number: int, frame: FrameType | None) -> None:
        del frame
        raise KeyboardInterrupt(number)

    try:
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, interrupt)
        return main(arguments)
    except TfbatchError as error:
        print(f"error: {error}", file=sys.stderr or sys.stdout)
        return error.exit_code
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        print(error.code, file=sys.stderr)  # as Python does
        return 1
    except KeyboardInterrupt as error:
        number = error.args[0] if error.args else signal.SIGINT
        by = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        kept = getattr(error, "__notes__", None) or ["Everything finished before is on disk."]
        print(f"Ended by {by}. {' '.join(kept)}", file=sys.stderr)
        return 128 + int(number)
    except Exception:
        traceback.print_exc()
        return 1


def _steady(stream: TextIO | None) -> TextIO:
    # It is None where it was closed before Python began.
    return cast(TextIO, stream and SteadyStream(stream))


def _flush(*streams: IO[str] | SteadyStream | None) -> None:
    for stream in streams:
        with contextlib.suppress(OSError, ValueError):  # closed, a full disk, a broken pipe
            if stream is not None:  # closed before Python began
                stream.flush()


def say(console: Console, text: str) -> None:
    """Prints text as it is: no markup, no wrapping of what may be copied."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def announcer(console: Console, text: str) -> Callable[[], None]:
    """Reports at once that a signal has arrived."""
    return direct_writer(console, f"{text} Repeat to quit at once.")


def direct_writer(console: Console, text: str) -> Callable[[], None]:
    """Prints a line without rich: a signal handler must not wait for rich's lock."""
    line = f"\n{text}\n".encode()

    def write() -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody reads it, or it is closed
            os.write(console.file.fileno(), line)

    return write


@contextlib.contextmanager
def library_noise_to(path: Path, *, kept: bool = True) -> Iterator[tuple[Console, Console]]:
    """Sends everything that libraries print to a file, also what C++ code writes.

    Once nobody reads the standard output or error (`| head`, a closed terminal), the file takes
    what would go there too, and the command goes on.

    Args:
        path: The file.
        kept: Whether it is there after the command, so that its path is worth a sentence.

    Yields:
        Consoles that still reach the real standard output and standard error.
    """
    from rich.console import Console

    _flush(sys.stdout, sys.stderr)
    real = _duplicate(1), _duplicate(2)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    noise = os.fdopen(log, "w", encoding="utf-8", errors="replace")
    where = f" and writes to {path}" if kept else ""

    def tell() -> None:
        err.write(f"The standard output is closed: the command continues{where}.\n")
        err.flush()

    err = SteadyStream(_text(real[1]), instead=noise)
    out = SteadyStream(_text(real[0]), instead=noise, lost=tell)
    faulthandler.enable(file=real[1])  # a crash in C++ code is not silent
    width = None if out.isatty() else 140
    try:
        files = cast(TextIO, out), cast(TextIO, err)
        yield Console(file=files[0], width=width), Console(file=files[1], width=width)
    finally:
        faulthandler.disable()
        _flush(sys.stdout, sys.stderr, out, err)
        os.dup2(real[0], 1)
        os.dup2(real[1], 2)
        for descriptor in real:
            os.close(descriptor)
        for stream in (out, err, noise):
            with contextlib.suppress(OSError):
                stream.close()


def _text(descriptor: int) -> TextIO:
    """A stream of its own for a descriptor."""
    return os.fdopen(os.dup(descriptor), "w", encoding="utf-8", errors="replace")


def _duplicate(descriptor: int) -> int:
    """A copy of a standard stream; of nothing where it is closed."""
    try:
        return os.dup(descriptor)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)


def _with_underscores(argument: str) -> str:
    """`--run-dir=a-b` -> `--run_dir=a-b`."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}"
