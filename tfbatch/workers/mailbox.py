"""A few bytes that a worker and its parent share: a request to stop, and heartbeats."""

from __future__ import annotations

import mmap
import struct
import time
from pathlib import Path

_SIZE = 40
_STOP, _BEAT, _COUNT, _PROCESS = 0, 8, 16, 32


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
        """The worker says who it is."""
        struct.pack_into("<q", self._map, _PROCESS, process)

    def process(self) -> int:
        """The worker's process ID; 0 before it has begun."""
        return int(struct.unpack_from("<q", self._map, _PROCESS)[0])

    def clear(self) -> None:
        """The parent takes the request back, and counts as having heard a heartbeat."""
        self._map[_STOP] = 0
        self.report(0, 0)

    def stop_requested(self) -> bool:
        """Whether the worker is to end what it does."""
        return self._map[_STOP] != 0

    def report(self, done: int, total: int) -> None:
        """The worker gives a heartbeat, and says how far it is."""
        struct.pack_into("<qq", self._map, _COUNT, done, total)
        struct.pack_into("<d", self._map, _BEAT, time.monotonic())

    def progress(self) -> tuple[int, int]:
        """(done, total) as last reported; (0, 0) before."""
        done, total = struct.unpack_from("<qq", self._map, _COUNT)
        return int(done), int(total)

    def silence(self) -> float:
        """Seconds since the last heartbeat."""
        return time.monotonic() - float(struct.unpack_from("<d", self._map, _BEAT)[0])

    def close(self) -> None:
        """Unmaps the file."""
        self._map.close()
