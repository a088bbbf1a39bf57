"""Which batch size to train with, and which learning rate and schedule go with it.

usage: tfbatch COMMAND [--flag=value] ...

`python -m tfbatch COMMAND` and `python -m tfbatch.COMMAND` do the same.
"""

from __future__ import annotations

# Before all else: a signal that arrives while a command is imported ends it with a sentence.
from tfbatch.process.stop_signal import end_while_starting  # isort: split

import ast
import importlib
import sys
from pathlib import Path

from tfbatch.command_line.running import run_command
from tfbatch.errors import InputError, did_you_mean

COMMANDS = (
    *("tune", "train", "probe", "claims", "prepare", "report", "export"),
    *("compare", "translate"),
)


def overview() -> str:
    """What `tfbatch --help` prints: a line for each command."""
    lines = [f"  {name:<9} {summary(name)}" for name in COMMANDS]
    usage = (__doc__ or "").strip()
    return "\n".join([usage, "", "commands:", *lines, "", "tfbatch COMMAND --help lists flags."])


def summary(command: str) -> str:
    """The first line of a command's docstring; reads its source and imports nothing."""
    place = Path(__file__).with_name(command)
    file = place / "__main__.py" if place.is_dir() else place.with_suffix(".py")
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").splitlines()[0]


def command_module(command: str) -> str:
    """The module of a command: a file, or the `__main__` of a folder."""
    is_folder = Path(__file__).with_name(command).is_dir()
    return f"tfbatch.{command}.__main__" if is_folder else f"tfbatch.{command}"


def no_command(arguments: list[str]) -> int:
    """Prints the overview, or refuses what is not a command.

    Raises:
        InputError: The first argument is neither a command nor a request for help.
    """
    if arguments and arguments[0] not in ("--help", "-help", "-h", "help"):
        raise InputError(
            f"Unknown command `{arguments[0]}`.{did_you_mean(arguments[0], COMMANDS)} "
            f"Available: {', '.join(COMMANDS)}."
        )
    print(overview())
    return 0


def main() -> None:
    """Runs the command that the first argument names, and exits with its code."""
    end_while_starting()
    if sys.argv[1:] and sys.argv[1] in COMMANDS:
        module = importlib.import_module(command_module(sys.argv[1]))
        run_command(module.main, sys.argv[2:])
    else:
        run_command(no_command, sys.argv[1:])


if __name__ == "__main__":
    main()
