"""A run folder as it is read by others: nothing in it is locked or changed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from tfbatch.errors import InputError, RunFolderError
from tfbatch.run_folder import files
from tfbatch.run_folder.folder import GIVEN
from tfbatch.run_folder.journal import Row, encode_row, read_rows
from tfbatch.schema import JsonObject, content_hash

_FILES = (
    *(files.RECOMMENDATION, files.BEST_CONFIGURATION, files.SETTINGS, files.FINGERPRINT),
    files.CLUSTER,
)


@dataclasses.dataclass(frozen=True)
class RecordedRun:
    """What a run folder holds, of a run that has ended or that still goes on.

    Attributes:
        path: The folder, absolute.
        settings: What makes two runs comparable: the `identity` of config.json.
        rows: The journal's rows; at least one.
        fingerprint: Hardware and software; empty if the run has not written it.
        recommendation: The content of recommendation.json, or None if there is no answer yet.
    """

    path: Path
    settings: JsonObject
    rows: list[Row]
    fingerprint: JsonObject
    recommendation: JsonObject | None

    @property
    def key(self) -> str:
        """16 hexadecimal digits that stay with a run when its folder is moved or continued.

        They follow from the settings and the first finished trial, which never change: a second
        run with equal settings has another key, for its first trial ended at another time.
        """
        # A run that an earlier version began gains this one when it is continued.
        settings = {name: value for name, value in self.settings.items() if name != GIVEN}
        return content_hash([settings, encode_row(self.rows[0])])

    @property
    def tensorboard(self) -> Path:
        """Folder with the curves of trial NAME in `NAME/train` and `NAME/validation`."""
        return self.path / files.TENSORBOARD

    def files(self) -> list[Path]:
        """The files beside the journal that say what was asked and what came out."""
        return [self.path / name for name in _FILES if (self.path / name).exists()]


def read_run(path: Path) -> RecordedRun:
    """Reads a run folder, also one in which a run goes on.

    Raises:
        InputError: It is no run folder, or no trial has ended in it.
        RunFolderError: A file in it is damaged.
    """
    path = path.expanduser().resolve()
    settings = read_settings(path)
    rows = read_rows(path / files.JOURNAL)
    if not rows:
        raise InputError(
            f"No trial has ended in {path} yet: there is nothing to export. Run the same command "
            "again when one has."
        )
    return RecordedRun(
        path=path,
        settings=settings,
        rows=rows,
        fingerprint=_read(path / files.FINGERPRINT) or {},
        recommendation=_read(path / files.RECOMMENDATION),
    )


def read_settings(path: Path) -> JsonObject:
    """What makes two runs comparable: the `identity` of config.json.

    Raises:
        InputError: The folder is no run folder.
        RunFolderError: The file is damaged.
    """
    return _part_of_settings(path, "identity")


def read_budget(path: Path) -> JsonObject:
    """What may change when a run is continued: the `budget` of config.json.

    Raises:
        InputError: The folder is no run folder.
        RunFolderError: The file is damaged.
    """
    return _part_of_settings(path, "budget")


def _part_of_settings(path: Path, part: str) -> JsonObject:
    content, journal = _read(path / files.SETTINGS), path / files.JOURNAL
    if not journal.exists() or content is None:
        absent = files.SETTINGS if journal.exists() else files.JOURNAL
        raise InputError(
            f"`run_dir` must be a run folder of tfbatch. Received: {path} (no {absent} in it)."
        )
    if part not in content:
        raise RunFolderError(f"{path / files.SETTINGS} is damaged: it has no `{part}`.")
    found: JsonObject = content[part]
    return found


def _read(path: Path) -> JsonObject | None:
    """A JSON object; None where there is no such file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise RunFolderError(f"{path} is damaged: it must hold a JSON object.")
    return content
