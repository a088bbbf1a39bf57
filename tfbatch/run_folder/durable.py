"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from tfbatch.errors import RunFolderError


def write_whole(path: Path, text: str) -> None:
    """Writes a text file beside its place, flushes it to disk and renames it into place.

    Raises:
        RunFolderError: It cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise RunFolderError(f"{path} cannot be written: {error}.") from error
