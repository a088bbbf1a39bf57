"""A text stream that outlives its reader: `tune ... | head` ends no search."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import IO


class SteadyStream(io.TextIOBase):
    """Writes to a stream, and elsewhere once that fails (a closed pipe or terminal, a full disk).

    Args:
        stream: Where to write.
        instead: Where to go on, with what had not been flushed; None for nowhere.
        lost: Called once, when the stream has failed.
    """

    def __init__(
        self,
        stream: IO[str],
        *,
        instead: IO[str] | None = None,
        lost: Callable[[], None] = lambda: None,
    ):
        self._stream: IO[str] | None = stream
        self._instead = instead
        self._lost = lost
        self._unflushed: list[str] = []

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's encoding."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def writable(self) -> bool:
        """Always."""
        return True

    def isatty(self) -> bool:
        """Whether the stream is a terminal; not once it has failed."""
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        """The descriptor of where it writes now."""
        target = self._stream or self._instead
        if target is None:
            raise io.UnsupportedOperation("the stream is closed")
        return target.fileno()

    def write(self, text: str) -> int:
        """Writes; never fails."""
        if self._stream is not None:
            self._unflushed.append(text)
            try:
                self._stream.write(self._encodable(text))
                return len(text)
            except (OSError, ValueError):
                self._give_up()
        else:
            self._write_instead(text)
        return len(text)

    def _encodable(self, text: str) -> str:
        """With escapes for what the stream's encoding lacks: that is no reason to give it up."""
        try:
            text.encode(self.encoding, getattr(self._stream, "errors", None) or "strict")
        except UnicodeEncodeError:
            return text.encode(self.encoding, "backslashreplace").decode(self.encoding)
        return text

    def flush(self) -> None:
        """Flushes; never fails."""
        if self._stream is not None:
            try:
                self._stream.flush()
                self._unflushed.clear()
            except (OSError, ValueError):
                self._give_up()

    def _give_up(self) -> None:
        broken, self._stream = self._stream, None
        with contextlib.suppress(OSError, ValueError):
            if broken is not None:
                broken.close()  # else the interpreter flushes it again at its end
        self._write_instead("".join(self._unflushed))
        self._unflushed.clear()
        self._lost()

    def _write_instead(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self._instead is not None:
                self._instead.write(text)
                self._instead.flush()
