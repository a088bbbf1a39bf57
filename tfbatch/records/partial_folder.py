"""A folder that becomes visible when it is whole: built beside its place, then renamed into it.

    PARENT/.partial-NAME-TOKEN         what a run builds, or what a killed run has left
    PARENT/.partial-NAME-TOKEN.lock    held by the process that builds it, as long as it lives

What a killed run has left is taken over by the next run of the same name, and removed by a run of
another name. Two runs at once build a folder each; the first to finish wins.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import filelock

from tfbatch.errors import RunFolderError

_PREFIX = ".partial-"


@contextlib.contextmanager
def partial_folder(
    folder: Path, *, progress: Callable[[Path], int], hopeless: tuple[type[Exception], ...]
) -> Iterator[Path]:
    """A folder beside `folder` to build it in: what a killed run has left, or a new one.

    It is removed at the end of the block. After an error it stays to be continued, if there is any
    progress in it, but not after one that the same command would meet again.

    Args:
        folder: The final folder.
        progress: How much of a partial folder is finished; 0 where nothing can be continued.
        hopeless: The errors after which nothing can be continued.
    """
    with contextlib.ExitStack() as held:
        partial = _take_over(folder, progress, held) or _new(folder, held)
        keep = False
        try:
            yield partial
        except hopeless:
            raise
        except BaseException:
            keep = progress(partial) > 0
            raise
        finally:
            if not keep:
                _remove(partial)


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A new folder in `parent`, for what has no name before it is whole, to be renamed.

    What killed runs have left there is removed, but not what another process is building. What
    is not renamed is removed at the end of the block.
    """
    _remove_unlocked(parent.glob(f"{_PREFIX}*"))
    with contextlib.ExitStack() as held:
        partial = _new(parent / "unnamed", held)
        try:
            yield partial
        finally:
            _remove(partial)


def remove_leftovers(folder: Path) -> None:
    """Removes what killed runs of `folder` have left: those whose lock nobody holds."""
    _remove_unlocked(folder.parent.glob(f"{_PREFIX}{folder.name}-*"))


def check_place(folder: Path, *, proof: str) -> None:
    """Refuses a place that something else has taken.

    Raises:
        RunFolderError: The folder exists, with something in it, but is not whole.
    """
    taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if taken and not (folder / proof).exists():
        raise RunFolderError(
            f"{folder} is in the way: it holds no {proof}, so it is not ours. Delete it."
        )


def rename_into_place(built: Path, folder: Path, *, proof: str) -> None:
    """Renames a whole folder to its final name, or leaves it where another run was first.

    Args:
        built: The folder, on disk.
        folder: Its final name.
        proof: Name of a file that every whole folder has.

    Raises:
        RunFolderError: Another folder has that name.
    """
    try:
        built.rename(folder)
    except OSError:
        if (folder / proof).exists():  # another run was first, with the same bytes
            return
        check_place(folder, proof=proof)
        raise
    flush_to_disk(folder.parent)


def flush_to_disk(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _new(folder: Path, held: contextlib.ExitStack) -> Path:
    partial = folder.parent / f"{_PREFIX}{folder.name}-{secrets.token_hex(4)}"
    held.enter_context(filelock.FileLock(f"{partial}.lock"))
    partial.mkdir()  # after the lock: a folder without a held lock is a leftover
    return partial


def _take_over(
    folder: Path, progress: Callable[[Path], int], held: contextlib.ExitStack
) -> Path | None:
    """The leftover that has got furthest, locked; the other leftovers are removed."""
    mine = folder.parent.glob(f"{_PREFIX}{folder.name}-*")
    leftovers = sorted((p for p in mine if p.is_dir()), key=progress, reverse=True)
    taken = next((p for p in leftovers if progress(p) and _lock(p, held)), None)
    _remove_unlocked(folder.parent.glob(f"{_PREFIX}*"))  # the one that was taken is locked
    return taken


def _remove_unlocked(partials: Iterable[Path]) -> None:
    for partial in partials:
        with contextlib.ExitStack() as held:
            if _lock(partial, held):
                _remove(partial)


def _lock(partial: Path, held: contextlib.ExitStack) -> bool:
    """Whether nobody holds the folder's lock: then this process does."""
    if not partial.is_dir():
        return False
    with contextlib.suppress(filelock.Timeout):
        held.enter_context(filelock.FileLock(f"{partial}.lock", timeout=0))
        return partial.is_dir()  # or its owner has just finished
    return False


def _remove(partial: Path) -> None:
    shutil.rmtree(partial, ignore_errors=True)
    Path(f"{partial}.lock").unlink(missing_ok=True)
