"""Results as HTML, which a notebook shows: sentences and tables, nothing that loads anything."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

_CELL = "padding: 2px 10px; text-align: left"


def paragraphs(texts: Iterable[str], *, first_is_strong: bool = False) -> str:
    """Sentences, one paragraph each; line ends in them are kept."""
    parts = []
    for number, text in enumerate(filter(None, texts)):
        said = html.escape(text).replace("\n", "<br>")
        said = f"<strong>{said}</strong>" if first_is_strong and number == 0 else said
        parts.append(f"<p>{said}</p>")
    return "".join(parts)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, strong: str = "") -> str:
    """A table.

    Args:
        columns: Headings.
        rows: Cells.
        strong: Rows whose first cell is this are set in bold.
    """
    head = "".join(f'<th style="{_CELL}">{html.escape(name)}</th>' for name in columns)
    body = []
    for row in rows:
        weight = "; font-weight: bold" if strong and row[0] == strong else ""
        cells = (f'<td style="{_CELL}{weight}">{html.escape(cell)}</td>' for cell in row)
        body.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def preformatted(text: str) -> str:
    """Text whose columns stay."""
    return f"<pre>{html.escape(text)}</pre>"
