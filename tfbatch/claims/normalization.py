"""X11: batch normalization at small and at large batches, as differences of differences.

What a batch size costs a model with batch normalization is compared with what it costs the same
model without, or with group normalization, which knows no batch. Every cell has a tuned rate. It
needs a builder that takes `normalization`, as the models of tfbatch do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tfbatch.claims._batch_size_study import BatchSizeStudy
from tfbatch.claims._claim import Claim, Evidence, UntestableError
from tfbatch.claims._pairs import Contest, differences, told

if TYPE_CHECKING:
    from tfbatch.claims._court import Court

CARD = "X11"
TITLE = "batch normalization at small and at large batches"
ORDER = 85.0
CLAIMS: tuple[Claim, ...] = ()
_SMALL = 2
"""One example has no variance."""


def collect(court: Court) -> Iterator[Evidence]:
    """See tfbatch.claims.Card."""
    base, large = court.study.base, court.study.large
    cells = (
        ("normalization-repairs-few-updates", "", "none", "batch", base, large),
        ("normalization-needs-large", "", "batch", "group", base, _SMALL),
        ("normalization-has-limits", "small", "batch", "group", base, _SMALL),
    )
    for claim, part, one, other, good, bad in cells:
        if court.asks(claim):
            yield _difference(court, claim, part, one, other, good, bad)


def _difference(
    court: Court, claim: str, part: str, one: str, other: str, good: int, bad: int
) -> Evidence:
    """What the bad size costs with one normalization less what it costs with the other."""
    known = court.workload.normalizations
    absent = [kind for kind in (one, other) if kind not in known]
    doubts: tuple[str, ...] = ()
    studies: list[BatchSizeStudy] = []
    if not absent and good != bad:
        studies = [BatchSizeStudy(court, normalization=kind) for kind in (one, other)]
        doubts = tuple(d for s in studies for d in s.doubts("tuned", "epochs", (good, bad)))

    def find() -> Contest:
        if absent:
            raise UntestableError("the model's builder takes no `normalization`")
        court.study.apart(good, bad)
        costs = [
            differences(s.scores(good, "tuned", "epochs"), s.scores(bad, "tuned", "epochs"))
            for s in studies
        ]
        return Contest(good, bad, differences(*costs))

    blank = Evidence(
        claim,
        effects=(),
        margin=court.study.margin,
        unit="of the metric",
        axis="epochs",
        policy="tuned",
        finding=f"what batch size {bad} loses to {good} with normalization {one} less that with "
        f"{other}",
        part=part,
        doubts=doubts,
    )
    return told(blank, find)
