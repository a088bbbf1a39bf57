"""A few bytes that a worker and its parent share: a request to stop, and heartbeats."""

from __future__ import annotations

import dataclasses
import mmap
import struct
import time
from pathlib import Path

_SIZE = 56
_STOP, _BEAT, _COUNT, _PROCESS, _BEGUN = 0, 8, 16, 40, 48


@dataclasses.dataclass(frozen=True)
class TaskProgress:
    """How far a task is.

    Attributes:
        done: Parts that are done, such as epochs or examples.
        total: Parts in all; 0 where that is not known.
        within: Share of the next part that is done, from 0 to 1.
    """

    done: int = 0
    total: int = 0
    within: float = 0.0

    @property
    def fraction(self) -> float:
        """Share of the whole task that is done; 0 where the total is not known."""
        return min((self.done + self.within) / self.total, 1.0) if self.total else 0.0


class Mailbox:
    """A mapped file. Whoever is killed leaves no lock behind in it, since there is none.

    Args:
        path: The file; made where absent.
    """

    def __init__(self, path: Path):
        self.path = path
        if not path.exists() or path.stat().st_size != _SIZE:
            path.write_bytes(bytes(_SIZE))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _SIZE)

    def request_stop(self) -> None:
        """The parent asks the worker to end what it does."""
        self._map[_STOP] = 1

    def begin(self, process: int) -> None:
        """The worker's process ID is noted."""
        self._write(_PROCESS, struct.pack("<q", process))

    def process(self) -> int:
        """The worker's process ID; 0 before it has begun."""
        return int(struct.unpack_from("<q", self._map, _PROCESS)[0])

    def clear(self) -> None:
        """Before a task: withdraws the request, and counts as a heartbeat."""
        self._map[_STOP] = 0
        self._map[_BEGUN] = 0
        self.report(0, 0)

    def begin_task(self) -> None:
        """The worker has started up and begins the task."""
        self._map[_BEGUN] = 1
        self.report(0, 0)

    def task_begun(self) -> bool:
        """Whether the worker has begun the task."""
        return self._map[_BEGUN] != 0

    def stop_requested(self) -> bool:
        """Whether the worker is to end what it does."""
        return self._map[_STOP] != 0

    def report(self, done: int, total: int, within: float = 0.0) -> None:
        """A heartbeat of the worker, and how far its task is; see TaskProgress."""
        self._write(_COUNT, struct.pack("<qqd", done, total, within))
        self._write(_BEAT, struct.pack("<d", time.monotonic()))

    def progress(self) -> TaskProgress:
        """As last reported; nothing done of nothing before, and after `close`."""
        try:
            return TaskProgress(*struct.unpack_from("<qqd", self._map, _COUNT))
        except ValueError:  # closed: a display may ask once more
            return TaskProgress()

    def silence(self) -> float:
        """Seconds since the last heartbeat."""
        return time.monotonic() - float(struct.unpack_from("<d", self._map, _BEAT)[0])

    def _write(self, place: int, content: bytes) -> None:
        """In one piece: `struct.pack_into` sets all bytes to 0 first, which the other process sees.

        A heartbeat of 0 is one of before the machine was started, and its worker would be ended.
        """
        self._map[place : place + len(content)] = content

    def close(self) -> None:
        """Unmaps the file."""
        self._map.close()
