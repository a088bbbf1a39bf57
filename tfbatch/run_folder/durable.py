"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from tfbatch.errors import RunFolderError

FREE_SPACE = "Free some space and run the same command again: every finished trial is kept."
LET_WRITE = "Make its folder writable and run the same command again: every finished trial is kept."


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, also one of TensorFlow's, says that nothing more can be written."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    return any(text in str(error) for text in ("No space left on device", "Disk quota exceeded"))


def cannot_be_written(path: Path, error: OSError, *, otherwise: str = LET_WRITE) -> RunFolderError:
    """What is raised for an error of writing, with the remedy for its kind.

    Args:
        path: What was to be written.
        error: Why it was not.
        otherwise: The remedy where the disk is not full.
    """
    remedy = FREE_SPACE if is_disk_full(error) else otherwise
    return RunFolderError(f"{path} cannot be written: {error}. {remedy}")


def write_whole(path: Path, text: str, *, otherwise: str = LET_WRITE) -> None:
    """Writes a text file beside its place, flushes it to disk and renames it into place.

    What UTF-8 cannot hold, such as the bytes of a folder's name of another encoding, is escaped.

    Args:
        path: The file.
        text: Its content.
        otherwise: The remedy where it cannot be written, and the disk is not full.

    Raises:
        RunFolderError: It cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise cannot_be_written(path, error, otherwise=otherwise) from error
