"""The objective's value without learning, kept in the run folder: an answer must beat it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from tfbatch.errors import RunFolderError
from tfbatch.estimators.chance_level import ChanceLevel
from tfbatch.run_folder.durable import write_whole
from tfbatch.run_folder.files import CHANCE_LEVEL
from tfbatch.run_folder.journal import decode_row, encode_row


def write_chance_level(run_dir: Path, level: ChanceLevel) -> None:
    """Writes it down, so that the answer follows from the folder alone.

    Raises:
        RunFolderError: It cannot be written.
    """
    content = encode_row(dataclasses.asdict(level))
    write_whole(run_dir / CHANCE_LEVEL, json.dumps(content, allow_nan=False) + "\n")


def read_chance_level(run_dir: Path) -> ChanceLevel | None:
    """What was written; None where nothing is known, as of a training metric.

    Raises:
        RunFolderError: The file is damaged.
    """
    path = run_dir / CHANCE_LEVEL
    if not path.exists():
        return None
    try:
        return ChanceLevel(**decode_row(json.loads(path.read_text(encoding="utf-8"))))
    except (ValueError, TypeError, AttributeError) as error:
        raise RunFolderError(
            f"{path} is damaged: {error!r}. Remove it: it is measured again."
        ) from error
