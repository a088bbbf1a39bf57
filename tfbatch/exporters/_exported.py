"""What an exporter returns, where it writes, and how it asks for its package."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from tfbatch.errors import InputError


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written, and where.

    Attributes:
        destination: A path or a URI.
        written: Number of trials that were written now.
        present: Number of trials that were there already.
        next_step: A command that shows or uploads it; empty if there is none.
    """

    destination: str
    written: int
    present: int
    next_step: str = ""

    def __str__(self) -> str:
        """One sentence, and the next step."""
        trials = "1 trial" if self.written == 1 else f"{self.written} trials"
        there = f" ({self.present} were there already)" if self.present else ""
        following = f"\nNext:\n  {self.next_step}" if self.next_step else ""
        return f"{trials} written to {self.destination}{there}.{following}"


def command_of(*words: str, package: str) -> str:
    """A command as a shell takes it, and what it needs that no extra of tfbatch installs."""
    return f"{shlex.join(words)}    (needs `pip install {package}`)"


def path_of(destination: str) -> Path:
    """A destination as a path, absolute, with `~` as the home directory.

    Raises:
        InputError: It begins with `~NAME`, and there is no user of that name.
    """
    try:
        return Path(destination).expanduser().resolve()
    except RuntimeError as error:
        raise InputError(
            f"`destination` must be a path: {error} Received: {destination}. Write the folder out."
        ) from error


@contextlib.contextmanager
def needs(*packages: str) -> Iterator[None]:
    """Turns a module that is not installed into the command that installs it.

    Args:
        packages: What pip has to install for the block.

    Raises:
        InputError: A module is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(
            f"This export needs the module `{error.name}`, which is not installed. Install it: "
            f"{sys.executable} -m pip install {' '.join(packages)}"
        ) from error


@contextlib.contextmanager
def missing_driver(name: str, url: str) -> Iterator[None]:
    """Turns a database driver that is not installed into a sentence that says so.

    Args:
        name: Who writes, for the sentence.
        url: The database.

    Raises:
        InputError: A driver is not installed.
        ImportError: What every database needs is not installed.
    """
    try:
        yield
    except ImportError as error:
        if error.name in ("alembic", "sqlalchemy"):  # of `name` itself, see `needs`
            raise
        raise InputError(
            f"{name} cannot write to {url}: its database needs a driver that is not installed. "
            "Install one that SQLAlchemy names for it, such as psycopg2-binary for PostgreSQL, "
            f"or give a file: --destination=sqlite:///{name.lower()}.db. "
            f"({error.__cause__ or error})"
        ) from error
