"""The verdict page: what people ask first, then every test as a row of a forest plot."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tfbatch.charts import Band, Chart, Mark, Series
from tfbatch.charts.page import Column, PageSection, SortableTable, page
from tfbatch.claims import find_claim
from tfbatch.claims._verdicts import (
    SYMBOLS,
    JudgedClaim,
    JudgedPart,
    Verdicts,
    part_name,
    what_it_takes,
)

_ROWS = 12
"""Rows of one forest plot."""
_FARTHEST = 8.0
"""Effects are drawn up to so many margins."""
_QUESTIONS = (
    ("Is a bigger batch faster here?", ("bigger-is-faster", "larger-needs-more-epochs")),
    (
        "Is the largest that fits worth it?",
        ("as-large-as-possible", "fill-the-memory", "some-size-best-in-time"),
    ),
    (
        "I changed the batch: the learning rate by how much?",
        ("linear-rule-holds", "square-root-rule-holds-for-adam"),
    ),
    (
        "Does the metric fall with the batch, and what must be equal for that?",
        (
            "same-epochs-large-is-worse",
            "smaller-generalizes-better",
            "1000-is-worse-than-100",
            "large-can-match-small",
        ),
    ),
    (
        "Powers of two?",
        ("powers-of-two-beat-tens", "no-need-for-powers-of-two", "cpu-dislikes-powers-of-two"),
    ),
    ("Does accumulation stand in for a large batch?", ("accumulation-equals-large-batch",)),
    (
        "Batch normalization at a small batch?",
        ("normalization-needs-large", "normalization-repairs-few-updates"),
    ),
    ("Grow the batch during the training?", ("large-early", "noisy-so-raise-or-decay")),
    ("Is any of it above the noise of seeds?", ("size-changes-speed-and-metric",)),
)
_CONTRADICTIONS = (
    (
        ("as-large-as-possible", "bigger-is-better-at-the-same-rate"),
        ("same-epochs-large-is-worse", "smaller-generalizes-better"),
        "what is equal (epochs, updates or seconds), and whether the rate was tuned",
    ),
    (
        ("powers-of-two-beat-tens", "multiples-of-8"),
        ("no-need-for-powers-of-two", "choose-casually", "cpu-dislikes-powers-of-two"),
        "the device, and how much speed is worth speaking of (2 % here)",
    ),
    (
        ("bigger-is-faster", "large-fast-but-worse-in-use"),
        ("larger-needs-more-epochs",),
        "the axis: updates and seconds of an epoch, or epochs to the target",
    ),
    (
        ("too-small-never-converges", "too-small-unstable"),
        ("small-slow-but-better-in-use", "smaller-generalizes-better"),
        "the learning rate: fixed, or tuned at the small batch",
    ),
    (
        ("large-early",),
        ("noise-early-low-rate-late",),
        "when in the training the noise is",
    ),
    (
        ("normalization-repairs-few-updates",),
        ("same-epochs-large-is-worse",),
        "whether the model normalizes, and the epochs",
    ),
)


def verdict_page(verdicts: Verdicts) -> str:
    """The page as HTML, which opens without a network."""
    sections = [
        PageSection(
            "What people ask",
            "",
            ("question", "what this machine says"),
            [(text, answer) for text, answer in _answers(verdicts) if answer],
        ),
        PageSection(
            "Every test",
            (
                "One row is one test. Effects are in margins: the margin is the smallest effect "
                "that matters, fixed before the run, and the claim's side is the right one. A dot "
                "is one pair of seeds or one round of timing; the bar is the 95 % interval of "
                f"their mean. What lies beyond {_FARTHEST:g} margins is drawn at the edge. A test "
                "whose statistic holds its threshold already is in halves of its interval."
            ),
            charts=_forests(verdicts),
        ),
        PageSection(
            "Claims that contradict each other",
            "",
            ("one side", "the other side", "what explains it"),
            [
                (_side(verdicts, one), _side(verdicts, other), why)
                for one, other, why in _CONTRADICTIONS
                if _side(verdicts, one) or _side(verdicts, other)
            ],
        ),
        PageSection("All verdicts", table=_table(verdicts)),
        PageSection(
            "What the verdicts are limited to",
            f"{verdicts.subject}, preset {verdicts.preset}, seed {verdicts.seed}, on this machine.",
            ("what", "here"),
            _limits(verdicts),
        ),
    ]
    title = f"What is said about batch size, tried: {verdicts.subject}"
    return page(title, verdicts.summary().splitlines()[:2], sections)


def _answers(verdicts: Verdicts) -> list[tuple[str, str]]:
    return [(text, _side(verdicts, names)) for text, names in _QUESTIONS]


def _side(verdicts: Verdicts, names: Sequence[str]) -> str:
    """The verdicts on some claims, those that were tried, in one cell."""
    found = []
    for name in names:
        tried = [one for one in verdicts.judged if one.claim.name == name]
        statement = find_claim(name).statement.rstrip(".")
        if tried:
            found.append(f"{_word(tried[0])}: {statement}{_why(tried[0])}.")
    return " ".join(found)


def _why(one: JudgedClaim) -> str:
    """The finding of the part that decides."""
    for part in one.parts:
        if part.verdict.word == one.verdict.word and part.evidence and part.evidence.finding:
            verdict = part.verdict
            if not math.isfinite(verdict.estimate):
                return ""
            return f" ({part.evidence.finding}: {verdict.estimate:+.3g} {verdict.interval})"
    return ""


def _word(one: JudgedClaim) -> str:
    label = f" ({one.verdict.label})" if one.verdict.label else ""
    return f"{SYMBOLS[one.verdict.word]} {one.verdict.word}{label}"


def _forests(verdicts: Verdicts) -> list[Chart]:
    rows = [
        (one, part)
        for one in verdicts.judged
        for part in one.parts
        if part.evidence and part.evidence.effects and math.isfinite(part.verdict.estimate)
    ]
    return [_forest(rows[first : first + _ROWS]) for first in range(0, len(rows), _ROWS)]


def _forest(rows: Sequence[tuple[JudgedClaim, JudgedPart]]) -> Chart:
    dots_x: list[float] = []
    dots_y: list[float] = []
    about: list[str] = []
    bars_x: list[float] = []
    bars_y: list[float] = []
    for place, (_, part) in enumerate(rows):
        scale, verdict = _scale(part), part.verdict
        for effect in part.evidence.effects if part.evidence else ():
            dots_x.append(_clamped(effect / scale))
            dots_y.append(float(place))
            about.append(f"{effect:+.4g} {part.evidence.unit if part.evidence else ''}")
        ends = [_clamped(end / scale) for end in (verdict.interval.low, verdict.interval.high)]
        bars_x += [*ends, ends[-1]]  # a place without a value leaves a gap
        bars_y += [float(place), float(place), math.nan]
    means = tuple(_clamped(part.verdict.estimate / _scale(part)) for _, part in rows)
    return Chart(
        f"{rows[0][0].claim.number} to {rows[-1][0].claim.number}",
        "effect in margins; the claim is right on the right side",
        "",
        (
            Series("pairs", tuple(dots_x), tuple(dots_y), kind="points", about=tuple(about)),
            Series("95 % interval", tuple(bars_x), tuple(bars_y), kind="line"),
            Series(
                "mean",
                means,
                tuple(map(float, range(len(rows)))),
                kind="points",
                about=tuple(_row_name(one, part) for one, part in rows),
            ),
        ),
        marks=(Mark(0.0, "no effect"),),
        log_x=False,
        log_y=False,
        bands=(Band(-1.0, 1.0, "within the margin", across="x"),),
        y_names=tuple(_row_name(one, part) for one, part in rows),
    )


def _scale(part: JudgedPart) -> float:
    """The margin; of a test without one half of its interval."""
    verdict = part.verdict
    if verdict.margin > 0:
        return verdict.margin
    half = (verdict.interval.high - verdict.interval.low) / 2
    return half or abs(verdict.estimate) or 1.0


def _clamped(value: float) -> float:
    return max(-_FARTHEST, min(_FARTHEST, value))


def _row_name(one: JudgedClaim, part: JudgedPart) -> str:
    return f"{SYMBOLS[part.verdict.word]} {one.claim.number} {one.claim.name}{part_name(part)}"


def _table(verdicts: Verdicts) -> SortableTable:
    rows = []
    details = []
    for one in verdicts.judged:
        for part in one.parts:
            verdict, evidence = part.verdict, part.evidence
            known = math.isfinite(verdict.estimate)
            rows.append(
                (
                    one.claim.number,
                    f"{one.claim.name}{part_name(part)}",
                    f"{SYMBOLS[verdict.word]} {verdict.word}",
                    verdict.estimate if known else None,
                    str(verdict.interval) if known else None,
                    verdict.margin if known else None,
                    verdict.pairs,
                    evidence.axis if evidence else None,
                    evidence.policy if evidence else None,
                    None if math.isnan(one.adjusted_p) else one.adjusted_p,
                )
            )
            text = f"{one.claim.statement}\nDecides: {part.part.statistic} ({part.part.kind})."
            if evidence and evidence.finding:
                text += f"\nFound: {evidence.finding}."
            if verdict.reason:
                text += f"\n{what_it_takes(part)}"
            details.append(text)
    columns = (
        Column("claim"),
        Column("name"),
        Column("verdict"),
        Column("effect", 3),
        Column("95 % interval"),
        Column("margin", 3),
        Column("n"),
        Column("equal"),
        Column("rate"),
        Column("Holm's p", 2),
    )
    return SortableTable("tests", columns, tuple(rows), tuple(details), tuple(range(len(details))))


def _limits(verdicts: Verdicts) -> list[tuple[str, str]]:
    """The fingerprint, flat."""
    found = []
    for group, content in verdicts.fingerprint.items():
        if isinstance(content, dict):
            found += [(f"{group}: {key}", str(value)) for key, value in content.items()]
        else:
            found.append((group, str(content)))
    return found
