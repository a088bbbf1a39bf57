"""Wall-clock seconds of all sessions on a run folder: what a time limit is charged."""

from __future__ import annotations

import datetime
import json
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType

from tfbatch.errors import RunFolderError
from tfbatch.run_folder.durable import write_whole
from tfbatch.run_folder.files import WALL_TIME
from tfbatch.run_folder.journal import Row

EVERY_SECONDS = 10.0
"""How often it is written: so much of a session that is killed is not charged."""


class WallTime:
    """Keeps on disk the time spent on a run folder, even if the session is killed.

    Args:
        folder: The run folder, which is locked.
        before: Seconds that earlier sessions used.
        started: When this session began, as `now` tells it.
        now: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        folder: Path,
        *,
        before: float,
        started: float,
        now: Callable[[], float] = time.monotonic,
    ):
        self._path = folder / WALL_TIME
        self._started = started - before
        self._now = now
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep_on, daemon=True)

    @property
    def seconds(self) -> float:
        """Seconds of all sessions."""
        return self._now() - self._started

    def write(self) -> None:
        """Writes the seconds down.

        Raises:
            RunFolderError: The file cannot be written.
        """
        write_whole(self._path, json.dumps({"seconds": round(self.seconds, 1)}) + "\n")

    def __enter__(self) -> WallTime:
        """Writes them now, and from now on every few seconds."""
        self.write()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Writes them a last time; a full disk is the run's own error, where it matters."""
        self._over.set()
        self._thread.join()
        self._try()

    def _keep_on(self) -> None:
        while not self._over.wait(EVERY_SECONDS):
            self._try()

    def _try(self) -> None:
        try:
            self.write()
        except RunFolderError:
            return  # the journal cannot be written either, and says so


def spent_seconds(folder: Path, rows: Iterable[Row]) -> float:
    """What earlier sessions on a run folder used, in wall-clock seconds.

    A folder without the file (of an earlier version) is charged the time in which at least one of
    its trials ran: trials side by side count once.

    Args:
        folder: The run folder.
        rows: The journal's rows.

    Raises:
        RunFolderError: The file is damaged.
    """
    path = folder / WALL_TIME
    if not path.exists():
        return covered_seconds(rows)
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["seconds"])
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"{path} is damaged: {error!r}. Remove it: the time is then taken from the trials."
        ) from error


def covered_seconds(rows: Iterable[Row]) -> float:
    """Length of the union of the times in which trials ran, in seconds.

    Args:
        rows: Rows with `finished_at` (ISO 8601) and `seconds`; one without them is left out.
    """
    spans = []
    for row in rows:
        if not {"finished_at", "seconds"} <= row.keys():  # changed by hand: read_row refuses it
            continue
        end = datetime.datetime.fromisoformat(row["finished_at"]).timestamp()
        spans.append((end - float(row["seconds"]), end))
    covered, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered
