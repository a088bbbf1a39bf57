"""The colors of every figure: the page's style is their one place."""

from __future__ import annotations

import functools
import re
from pathlib import Path

PALETTE = tuple(f"series-{number}" for number in range(1, 7))
"""Names of the colors of series that have no role, in their order."""


def color(name: str) -> str:
    """A color of the light page, as CSS has it, by its name or that of a role."""
    return _light()[name]


@functools.cache
def _light() -> dict[str, str]:
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return dict(re.findall(r"--([a-z0-9-]+): ([^;]+);", style[: style.index("}")]))
