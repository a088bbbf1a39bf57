"""One HTML page of sentences, tables and interactive figures, which opens without a network.

Everything that is drawn or sorted stands once in the page, in the JSON of its element `data`; see
`Page.data`. Plotly is inside it too, compressed: 1.9 MB in place of 4.8.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import gzip
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from tfbatch.charts import Picture
from tfbatch.charts.plotly_figure import figure
from tfbatch.schema import JsonObject

Cell = str | float | int | None
"""What a table holds: None where there is nothing."""
_FOLDER = Path(__file__).parent
_SENTENCE = 80
"""A cell with more letters is a sentence."""


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table that can be sorted.

    Attributes:
        name: Its heading.
        digits: Significant digits that are shown of its numbers; None for text and whole numbers.
    """

    name: str
    digits: int | None = None


@dataclasses.dataclass(frozen=True)
class SortableTable:
    """A table that the reader sorts and filters.

    Attributes:
        caption: What its rows are.
        columns: Its columns.
        rows: Its cells.
        details: Longer texts, each once.
        details_of: For each row the number of its text in `details`, or None.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    details: tuple[str, ...] = ()
    details_of: tuple[int | None, ...] = ()


@dataclasses.dataclass(frozen=True)
class PageSection:
    """A part of the page: sentences, a table, figures.

    Attributes:
        heading: Its heading.
        text: What it says: one paragraph, or several.
        columns: Headings of its table.
        rows: Cells of its table.
        charts: Its figures.
        table: A long table, or None.
        level: 2, or 3 for a part of the one before it.
        notes: Paragraphs below the figures.
    """

    heading: str
    text: str | Sequence[str] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    charts: Sequence[Picture] = ()
    table: SortableTable | None = None
    level: int = 2
    notes: Sequence[str] = ()

    @property
    def of_sentences(self) -> bool:
        """Whether cells of its table hold sentences, which a small screen shows one below another.

        A line break in a cell begins a new line.
        """
        return any(len(cell) > _SENTENCE for row in self.rows for cell in row)

    @property
    def paragraphs(self) -> list[str]:
        """The sentences, without empty ones."""
        texts = [self.text] if isinstance(self.text, str) else self.text
        return [text for text in texts if text]


@dataclasses.dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes:
        title: Title and heading.
        introduction: Paragraphs before the sections.
        sections: The parts.
    """

    title: str
    introduction: Sequence[str]
    sections: Sequence[PageSection]

    def data(self) -> JsonObject:
        """The figures and the long tables, by the id of the element that shows them.

        A figure is what tfbatch.charts.plotly_figure.figure makes. A table is {"columns", "digits",
        "rows", "details", "details_of"}.
        """
        figures: dict[str, Any] = {}
        tables: dict[str, Any] = {}
        for number, section in enumerate(self.sections):
            for place, picture in enumerate(section.charts):
                figures[figure_id(number, place)] = figure(picture)
            if section.table is not None:
                tables[f"table-{number}"] = _table(section.table)
        return {"figures": figures, "tables": tables}

    def html(self) -> str:
        """The page as text."""
        text: str = _template().render(
            page=self,
            figure_id=figure_id,
            style=_read("page.css"),
            program=_read("page.js"),
            data=_for_a_script(self.data()),
            plotly=_plotly(),
        )
        return text


def page(title: str, introduction: Sequence[str], sections: Sequence[PageSection]) -> str:
    """The page as text; see `Page`."""
    return Page(title, introduction, sections).html()


def figure_id(section: int, place: int) -> str:
    """The id of a section's figure."""
    return f"figure-{section}-{place}"


def _table(table: SortableTable) -> JsonObject:
    return {
        "columns": [column.name for column in table.columns],
        "digits": [column.digits for column in table.columns],
        "rows": [[_finite(cell) for cell in row] for row in table.rows],
        "details": list(table.details),
        "details_of": list(table.details_of),
    }


def _finite(cell: Cell) -> Cell:
    """JSON has no NaN and no infinity: they stand as text."""
    return str(cell) if isinstance(cell, float) and not math.isfinite(cell) else cell


def _for_a_script(content: JsonObject) -> str:
    """JSON that ends no script element, whatever it holds (HTML standard, 4.12.1.3)."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


@functools.cache
def _plotly() -> str:
    """Plotly's whole program, compressed: no smaller bundle is packaged."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode("ascii")


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_read("page.html"))
