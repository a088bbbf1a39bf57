"""The verdict page: what people ask first, then every test as a row of a forest plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tfbatch.charts import Band, Chart, Mark, Series
from tfbatch.charts.page import Column, PageSection, SortableTable, page
from tfbatch.claims import find_claim
from tfbatch.claims._verdicts import (
    SYMBOLS,
    JudgedClaim,
    JudgedPart,
    Verdicts,
    by_chance,
    part_name,
    what_it_takes,
)

if TYPE_CHECKING:
    from tfbatch.claims._claim import Axis
    from tfbatch.estimators.verdict import Kind  # imports SciPy

_ROWS = 12
"""Rows of one forest plot."""
_FARTHEST = 8.0
"""Effects are drawn up to so many margins."""
_AXES: tuple[tuple[tuple[Kind, ...], str, str, str], ...] = (
    (
        ("difference",),
        "effect in margins; right of 0 it is as the claim says, from 1 on it matters",
        "no effect",
        "too small to matter",
    ),
    (
        ("equivalence",),
        "difference in margins; within the band it is as the claim says",
        "equal",
        "as good as equal",
    ),
    (
        ("threshold", "exact"),
        "distance from the threshold in halves of the interval; right of 0 the claim holds",
        "threshold",
        "",
    ),
)
"""Kinds of claims, their axis, what 0 is, and what lies within the margin."""
_KIND_NAMES: dict[Kind, str] = {
    "difference": "Differences",
    "equivalence": "Equalities",
    "threshold": "Thresholds",
    "exact": "Thresholds",
}
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
        "Batch normalization at a small batch, and in a recurrent network?",
        (
            "normalization-needs-large",
            "normalization-repairs-few-updates",
            "normalization-has-limits",
        ),
    ),
    (
        "Does a deep network need a larger batch to begin to learn?",
        ("deeper-needs-larger", "too-small-unstable"),
    ),
    ("Several devices: the batch of one times their number?", ("best-size-times-devices",)),
    (
        "Is it the data that decides, its amount, or the size of its images?",
        ("data-matters-more", "small-data-try-both", "20-to-64-by-input-size"),
    ),
    (
        "Grow the batch during the training?",
        ("large-early", "noisy-so-raise-or-decay", "decay-is-annealing"),
    ),
    (
        "Does it matter at all, above the noise of seeds?",
        ("size-changes-speed-and-metric", "choose-casually"),
    ),
)
_CONTRADICTIONS = (
    (
        ("as-large-as-possible", "bigger-is-better-at-the-same-rate"),
        (
            "same-epochs-large-is-worse",
            "smaller-generalizes-better",
            "large-falls-into-sharp-minima",
        ),
        "what is equal (epochs, updates, seconds or the training loss), and whether the rate was "
        "tuned",
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
        ("second-order-needs-thousands",),
        ("tens-to-hundreds",),
        "the optimizer: what searches along a line needs a gradient that is nearly exact",
    ),
    (
        ("fill-the-memory",),
        ("small-data-try-both", "20-to-64-by-input-size"),
        "how much data there is, and how large its images are",
    ),
    (
        ("choose-casually",),
        ("size-changes-speed-and-metric", "some-size-best-in-time"),
        "how far apart the sizes are: neighbors such as 60 and 64, or the smallest and the largest",
    ),
    (
        ("data-matters-more",),
        ("size-changes-speed-and-metric",),
        "what the batch size is compared with: changes of the data, or nothing",
    ),
    (
        ("large-early",),
        ("noise-early-low-rate-late",),
        "when in the training the noise is",
    ),
    (
        ("small-escapes-bad-optima", "large-stays-at-bad-optima", "stuck-so-reduce"),
        ("bigger-is-better-at-the-same-rate",),
        "whether there is a trap at all, and rate / B, which the noise is in proportion to",
    ),
    (
        ("normalization-repairs-few-updates",),
        ("same-epochs-large-is-worse",),
        "whether the model normalizes, and the epochs",
    ),
    (
        ("normalization-needs-large", "normalization-has-limits"),
        ("normalization-repairs-few-updates", "large-helps-keypoints"),
        "from how many examples the statistics come, and how many updates are left",
    ),
)


_EQUAL: dict[Axis, str] = {
    "epochs": "after the same epochs",
    "updates": "after the same updates",
    "time to target": "until the target is reached",
    "training loss": "at the same training loss",
    "gradient evaluations": "after as many gradients",
}
"""What a comparison of trainings holds equal."""


def verdict_page(verdicts: Verdicts) -> str:
    """The page as HTML, which opens without a network."""
    sections = [
        PageSection(
            "What people ask",
            (
                "Effects are above 0 where a claim is right. A metric counts so that more is "
                "better: a loss with the other sign. A claim of several parts holds only if all "
                "of them do, and each part has its word.",
            ),
            ("question", "what this machine says"),
            [(text, answer) for text, answer in _answers(verdicts) if answer],
        ),
        PageSection(
            "Every test",
            (
                "One row is one test. A small circle is one pair of seeds or one round of timing, "
                "the large dot is their mean with its 95 % interval. Effects are in margins: the "
                "margin is the smallest effect that matters, fixed before the run. What lies "
                f"beyond {_FARTHEST:g} is drawn at the edge. Below a name: the verdict, the effect "
                "that would have been seen where it is INCONCLUSIVE, what was equal, and the rate.",
            ),
            charts=_forests(verdicts),
        ),
        PageSection(
            "Claims that contradict each other",
            "",
            ("one side", "the other side", "what explains it"),
            [
                (_side(verdicts, one, brief=True), _side(verdicts, other, brief=True), why)
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


def _side(verdicts: Verdicts, names: Sequence[str], *, brief: bool = False) -> str:
    """The verdicts on some claims, those that were tried, a line each."""
    found = []
    for name in names:
        tried = [one for one in verdicts.judged if one.claim.name == name]
        statement = find_claim(name).statement.rstrip(".")
        if tried:
            found.append(f"{_word(tried[0])}: {statement}{_why(tried[0], brief=brief)}.")
    return "\n".join(found)


def _why(one: JudgedClaim, *, brief: bool) -> str:
    """The figures of the part that decides, or why it does not; the words of all parts."""
    part = _deciding(one)
    verdict, evidence = part.verdict, part.evidence
    several = len(one.parts) > 1
    told = []
    if evidence and not evidence.untestable and not brief:
        if math.isfinite(verdict.estimate):
            told.append(f"{evidence.finding}:{_figures(part)} {evidence.unit}")
        equal = _EQUAL.get(evidence.axis, "")
        rates = f"{evidence.policy} rates" if evidence.policy != "no" else ""
        told.append(", ".join(filter(None, (equal, rates))))
    if verdict.reason and not brief:
        told.append(verdict.reason)
    if several:
        words = ", ".join(map(_word_of_part, one.parts))
        told.append(words if brief else f"its parts: {words}")
    elif brief:
        told.append(_figures(part))
    told = [text.strip() for text in told if text.strip()]
    return f" ({'; '.join(told)})" if told else ""


def _deciding(one: JudgedClaim) -> JudgedPart:
    """The part whose verdict is that of the claim; its p may be another."""
    return max(
        one.parts,
        key=lambda part: (
            part.verdict.word == one.verdict.word,
            part.verdict.interval == one.verdict.interval,
        ),
    )


def _word_of_part(part: JudgedPart) -> str:
    return f"{part.part.name} {SYMBOLS[part.verdict.word]}{_figures(part)}"


def _figures(part: JudgedPart) -> str:
    """The effect and its interval; nothing where there is none."""
    if not math.isfinite(part.verdict.estimate):
        return ""
    return f" {part.verdict.estimate:+.3g} {_interval(part)}".rstrip()


def _interval(part: JudgedPart) -> str:
    interval = part.verdict.interval
    return f"[{interval.low:.3g}, {interval.high:.3g}]" if part.verdict.pairs > 1 else ""


def _word(one: JudgedClaim) -> str:
    label = f" ({one.verdict.label})" if one.verdict.label else ""
    return f"{SYMBOLS[one.verdict.word]} {one.verdict.word}{label}"


def _forests(verdicts: Verdicts) -> list[Chart]:
    """What is right of 0, and what the margin is for, depends on the kind of a claim."""
    found = []
    for kinds, axis, mark, band in _AXES:
        rows = [
            (one, part)
            for one in verdicts.judged
            for part in one.parts
            if part.part.kind in kinds
            and part.evidence
            and part.evidence.effects
            and math.isfinite(part.verdict.estimate)
        ]
        found += [
            _forest(rows[first : first + _ROWS], axis, mark, band)
            for first in range(0, len(rows), _ROWS)
        ]
    return found


def _forest(
    rows: Sequence[tuple[JudgedClaim, JudgedPart]], axis: str, mark: str, band: str
) -> Chart:
    dots = [
        (_clamped(effect / _scale(part)), float(place), _about(effect, part))
        for place, (_, part) in enumerate(rows)
        for effect in (part.evidence.shown_by(part.verdict) if part.evidence else ())
    ]
    dots_x, dots_y, about = zip(*dots, strict=True)
    low, mean, high = (
        tuple(_clamped(value / _scale(part)) for (_, part), value in zip(rows, values, strict=True))
        for values in (
            [part.verdict.interval.low for _, part in rows],
            [part.verdict.estimate for _, part in rows],
            [part.verdict.interval.high for _, part in rows],
        )
    )
    return Chart(
        f"{_KIND_NAMES[rows[0][1].part.kind]}: {rows[0][0].claim.number} to "
        f"{rows[-1][0].claim.number}",
        axis,
        "",
        (
            Series("pairs", dots_x, dots_y, kind="points", about=about, symbol="circle-open"),
            Series(
                "mean and its 95 % interval",
                mean,
                tuple(map(float, range(len(rows)))),
                low=low,
                high=high,
                kind="points",
                role="best",
                about=tuple(_about(part.verdict.estimate, part) for _, part in rows),
            ),
        ),
        marks=(Mark(0.0, mark),),
        log_x=False,
        log_y=False,
        bands=(Band(-1.0, 1.0, band, across="x"),) if band else (),
        y_names=tuple(_row_name(one, part) for one, part in rows),
        names_above=True,
    )


def _about(effect: float, part: JudgedPart) -> str:
    return f"{effect:+.4g} {part.evidence.unit if part.evidence else ''}".strip()


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
    """The test, and below it its verdict, what was equal, and what would have been seen."""
    verdict, evidence = part.verdict, part.evidence
    first = f"{SYMBOLS[verdict.word]} {one.claim.number} {one.claim.name}{part_name(part)}"
    told = [verdict.word + (f" ({verdict.label})" if verdict.label else "")]
    if verdict.word == "INCONCLUSIVE" and by_chance(part):
        told.append(f"{verdict.detectable / _scale(part):.2g} would be seen")
    if evidence:
        told += [evidence.axis] + ([evidence.policy] if evidence.policy != "no" else [])
    return f"{first}\n{', '.join(told)}"


def _table(verdicts: Verdicts) -> SortableTable:
    rows = []
    details = []
    for one in verdicts.judged:
        for part in one.parts:
            verdict, evidence = part.verdict, part.evidence
            known = math.isfinite(verdict.estimate)
            rows.append(
                (
                    f"{one.claim.number} {one.claim.name}{part_name(part)}",
                    f"{SYMBOLS[verdict.word]} {verdict.word}",
                    verdict.estimate if known else None,
                    _interval(part) if known else None,
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
