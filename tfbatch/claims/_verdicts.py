"""The verdicts of a session: as values, as JSON, and as a table for the terminal."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from tfbatch.claims._claim import Claim, Criterion, Evidence
from tfbatch.claims._court import seeds_for
from tfbatch.claims._preset import PURPOSES, find_preset
from tfbatch.errors import InputError, RunFolderError
from tfbatch.estimators.verdict import ONE_SIDED, Verdict, all_of, holm
from tfbatch.run_folder.files import FINGERPRINT
from tfbatch.schema import JsonObject

if TYPE_CHECKING:
    from rich.console import JustifyMethod
    from rich.table import Table

SYMBOLS = {
    "HOLDS": "✓",
    "DOES NOT HOLD": "✗",
    "INCONCLUSIVE": "?",
    "NOT TESTABLE HERE": "-",
    "NOT TRIED YET": "·",
}


@dataclasses.dataclass(frozen=True)
class JudgedPart:
    """One test of a claim with what it came to.

    Attributes:
        part: The test.
        evidence: What was found; None where it was not made.
        verdict: The rule's word.
    """

    part: Criterion
    evidence: Evidence | None
    verdict: Verdict


@dataclasses.dataclass(frozen=True)
class JudgedClaim:
    """A claim with its verdict.

    Attributes:
        claim: The claim.
        parts: Its tests.
        verdict: That on the whole claim: it holds only if all parts do.
        adjusted_p: Holm's adjusted p-value, over the claims of the session; NaN where there is
            none.
    """

    claim: Claim
    parts: tuple[JudgedPart, ...]
    verdict: Verdict
    adjusted_p: float = math.nan


@dataclasses.dataclass(frozen=True)
class Verdicts:
    """What a session of the court found: on this machine, this model and this data.

    Attributes:
        run_dir: The run folder.
        claims: What was asked.
        evidence: What the cards have found.
        missing: Cards that have not ended, each with the reason.
        preset: How large the experiments were.
        seed: Everything random derived from it.
        subject: The model and the data.
        fingerprint: Hardware, software and load that the verdicts are limited to.
        failure: What the first card has failed by that did; None where none has.
    """

    run_dir: Path
    claims: tuple[Claim, ...]
    evidence: tuple[Evidence, ...]
    missing: tuple[tuple[str, str], ...]
    preset: str
    seed: int
    subject: str
    fingerprint: JsonObject
    failure: Exception | None = None

    @functools.cached_property
    def judged(self) -> tuple[JudgedClaim, ...]:
        """Every claim with its verdict, in their order."""
        parts = [tuple(self._judge(claim, part) for part in claim.parts) for claim in self.claims]
        words = [all_of([one.verdict for one in judged]) for judged in parts]
        adjusted = holm([word.p_value for word in words])
        rows = zip(self.claims, parts, words, adjusted, strict=True)
        return tuple(JudgedClaim(*row) for row in rows)

    def __getitem__(self, name: str) -> JudgedClaim:
        """A claim by its name or number.

        Raises:
            InputError: It was not asked for.
        """
        for one in self.judged:
            if name in (one.claim.name, one.claim.number):
                return one
        known = ", ".join(claim.name for claim in self.claims)
        raise InputError(f"`{name}` was not tried in this session. Tried: {known}.")

    def count(self, word: str) -> int:
        """How many claims have this verdict."""
        return sum(one.verdict.word == word for one in self.judged)

    def _judge(self, claim: Claim, part: Criterion) -> JudgedPart:
        for one in self.evidence:
            if (one.claim, one.part) == (claim.name, part.name):
                return JudgedPart(part, one, _word_on(one, part))
        why = dict(self.missing).get(part.card, f"card {part.card} has not told of it yet")
        return JudgedPart(part, None, Verdict("NOT TRIED YET", reason=why))

    def to_json(self) -> str:
        """Everything, as verdicts.json holds it; numbers that are not finite are null.

        The effects of trainings are in the order of the verdict seeds.
        """
        content = {
            "subject": self.subject,
            "preset": self.preset,
            "seed": self.seed,
            "seeds": {
                purpose: seeds_for(self.seed, purpose, find_preset(self.preset).count(purpose))
                for purpose in PURPOSES
            },
            "error_rate": ONE_SIDED,
            "missing": dict(self.missing),
            "claims": [_claim_as_json(one) for one in self.judged],
            "fingerprint": self.fingerprint,
        }
        return json.dumps(_finite(content), indent=1, allow_nan=False)

    def table(self) -> Table:
        """A row for every test of every claim."""
        from rich.table import Table

        table = Table(title=f"{self.subject}: verdicts (preset {self.preset}, seed {self.seed})")
        table.add_column("claim", no_wrap=True)
        table.add_column("verdict", no_wrap=True)
        for heading in ("effect", "margin", "n", "equal; rate", "Holm's p"):
            side: JustifyMethod = "left" if heading == "equal; rate" else "right"
            table.add_column(heading, justify=side, no_wrap=heading == "effect")
        for one in self.judged:
            if len(one.parts) > 1:
                table.add_row(_named(one), _worded(one.verdict), "", "", "", "", _p(one))
            for part in one.parts:
                table.add_row(*_cells(one, part))
        return table

    def summary(self) -> str:
        """What the verdicts are worth, in a few lines."""
        counts = ", ".join(f"{self.count(word)} {word}" for word in SYMBOLS if self.count(word))
        lines = [
            f"{len(self.claims)} claim{'s' * (len(self.claims) != 1)}: {counts}.",
            f"On this machine, this model and this data: {self.subject}. A verdict is uncorrected: "
            f"each calls HOLDS what is not so at most {ONE_SIDED:.1%} of the time, what chooses "
            "between batch sizes included; Holm's p is over all claims of this table.",
        ]
        lines += [
            f"{one.claim.name}{part_name(part)}: {what_it_takes(part)}"
            for one in self.judged
            for part in one.parts
            if part.verdict.word in ("INCONCLUSIVE", "NOT TESTABLE HERE")
        ]
        lines += [f"Card {card} {self._how_far(card)}: {why}." for card, why in self.missing]
        return "\n".join(lines)

    def _how_far(self, card: str) -> str:
        """Of a card that has not ended: what it had told of by then is judged."""
        parts = (part for one in self.judged for part in one.parts)
        told = any(part.part.card == card and part.evidence for part in parts)
        return "has not told of everything" if told else "is missing"


def fingerprint_of(run_dir: Path) -> JsonObject:
    """Hardware, software and load, as the run folder has them; empty before they are written.

    Raises:
        RunFolderError: The file is damaged.
    """
    path = run_dir / FINGERPRINT
    try:
        found: JsonObject = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise RunFolderError(
            f"{path} is damaged: {error!r}. Remove it: the same command writes it anew."
        ) from error
    return found


def _word_on(evidence: Evidence, part: Criterion) -> Verdict:
    """The rule's word. Evidence that the rule refuses costs its own part, not the session."""
    try:
        return evidence.verdict(part.kind)
    except InputError as error:
        return Verdict("INCONCLUSIVE", reason=f"the rule cannot judge what was found: {error}")


def _cells(one: JudgedClaim, part: JudgedPart) -> tuple[str, ...]:
    """A row: of the claim itself where it has one test, else of the test."""
    verdict, evidence = part.verdict, part.evidence
    alone = len(one.parts) == 1
    name = _named(one) if alone else f"     {part.part.name}"
    if evidence is None or not math.isfinite(verdict.estimate):
        return (name, _worded(verdict), "", "", "", "", "")
    return (
        name,
        _worded(verdict),
        f"{verdict.estimate:+.3g} {verdict.interval if verdict.pairs > 1 else ''}".strip(),
        f"{verdict.margin:.3g}",
        str(verdict.pairs),
        f"{evidence.axis}; {evidence.policy}",
        _p(one) if alone else "",
    )


def _named(one: JudgedClaim) -> str:
    return f"{one.claim.number:<4} {one.claim.name}"


def _worded(verdict: Verdict) -> str:
    word = f"{SYMBOLS[verdict.word]} {verdict.word}"
    if verdict.label:
        word += f" ({verdict.label})"
    return f"{word} preview" if verdict.preview else word


def _p(one: JudgedClaim) -> str:
    return "" if math.isnan(one.adjusted_p) else f"{one.adjusted_p:.2g}"


def part_name(part: JudgedPart) -> str:
    """Such as " (epochs)"; nothing for the only part of a claim."""
    return f" ({part.part.name})" if part.part.name else ""


def by_chance(part: JudgedPart) -> bool:
    """Whether more pairs would decide a part that is not decided, and it is known how many."""
    found = part.evidence
    doubted = found is None or bool(found.doubts or found.censored)
    return not doubted and math.isfinite(part.verdict.detectable)


def what_it_takes(part: JudgedPart) -> str:
    """Why a part is not decided, which effect could have been seen, and what it would take."""
    verdict = part.verdict
    text = f"{verdict.word}: {verdict.reason}"
    if verdict.word == "INCONCLUSIVE" and by_chance(part):
        text += f"; an effect of {verdict.detectable:.3g} would have been seen"
        if verdict.needed and verdict.needed > verdict.pairs:
            text += f", and one of the margin with {verdict.needed} pairs"
    return text + "."


def _claim_as_json(one: JudgedClaim) -> JsonObject:
    return {
        "number": one.claim.number,
        "name": one.claim.name,
        "statement": one.claim.statement,
        "verdict": one.verdict.word,
        "label": one.verdict.label,
        "holm_p": one.adjusted_p,
        "parts": [
            {
                "name": part.part.name,
                "card": part.part.card,
                "statistic": part.part.statistic,
                "kind": part.part.kind,
                "verdict": dataclasses.asdict(part.verdict),
                "evidence": dataclasses.asdict(part.evidence) if part.evidence else None,
            }
            for part in one.parts
        ],
    }


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
