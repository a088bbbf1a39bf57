"""An exception's traceback as a person reads it: their own lines, without TensorFlow's graph."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

_FRAME = re.compile(r'^  File "(?P<path>[^"]+)", line \d+')
_LIBRARIES = re.compile(r"/(?:site|dist)-packages/(?:keras|tensorflow|loky|cloudpickle)/")
_PACKAGE = f"{Path(__file__).parent.parent}/"
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_MOST_LINES = 40
_LAST_LINES = 15


def short_traceback(error: BaseException) -> str:
    """The traceback without the frames of Keras, TensorFlow and tfbatch, cut to 40 lines.

    TensorFlow lists in the message of an error where the graph's node was made: 60 lines and more.
    All frames are kept where none is the user's.
    """
    lines = _ANSI.sub("", "".join(traceback.format_exception(error))).splitlines()
    own = _without_libraries(lines)
    if not any(_FRAME.match(line) for line in own):
        own = lines
    return "\n".join(_cut(own)) + "\n"


def _without_libraries(lines: list[str]) -> list[str]:
    kept: list[str] = []
    dropping = False
    for line in lines:
        frame = _FRAME.match(line)
        if frame:
            dropping = bool(_LIBRARIES.search(frame["path"])) or frame["path"].startswith(_PACKAGE)
        elif dropping and line.strip() and not line.startswith("    "):
            dropping = False
        if not dropping and (line or kept[-1:] != [""]):
            kept.append(line)
    return kept


def _cut(lines: list[str]) -> list[str]:
    more = len(lines) - _MOST_LINES
    if more <= 0:
        return lines
    first = _MOST_LINES - _LAST_LINES
    return [*lines[:first], f"  ... {more} lines left out ...", *lines[-_LAST_LINES:]]
