"""The verdict page: what people ask first, then every test as a row of one forest plot."""

from __future__ import annotations

from tfbatch.charts.page import PageSection, page
from tfbatch.claims._verdicts import SYMBOLS, Verdicts


def verdict_page(verdicts: Verdicts) -> str:
    """The page as HTML, which opens without a network."""
    rows = [
        (
            f"{one.claim.number} {one.claim.name}",
            one.claim.statement,
            f"{SYMBOLS[one.verdict.word]} {one.verdict.word}",
            part.evidence.finding if part.evidence else part.verdict.reason,
        )
        for one in verdicts.judged
        for part in one.parts
    ]
    sections = [
        PageSection("Verdicts", "", ("claim", "what is said", "verdict", "what was found"), rows)
    ]
    title = f"{verdicts.subject}: what is said about batch size"
    return page(title, verdicts.summary().splitlines(), sections)
