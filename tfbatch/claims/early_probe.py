"""X12: does the beginning of a training tell which batch size and rate end best?

The candidates are the batch sizes of the study with their fixed, scaled and tuned rates. Each is
judged by its objective after a tenth of the training, and by the one at the end of the epochs, on
the same seed: nothing is trained for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tfbatch.claims._claim import Claim, Evidence, Policy

if TYPE_CHECKING:
    from tfbatch.claims._court import Court

CARD = "X12"
TITLE = "whether the first tenth of a training tells which batch size is best"
ORDER = 80.0
CLAIMS: tuple[Claim, ...] = ()
SHARE = 0.1
_CORRELATION_MARGIN = 0.3
_POLICIES: tuple[Policy, ...] = ("fixed", "scaled", "tuned")


def collect(court: Court) -> Iterator[Evidence]:
    """See tfbatch.claims.Card."""
    study = court.study
    study.prefetch(_POLICIES, ("epochs",))
    candidates = sorted(
        {
            (size, study.rate(size, policy, "epochs").value)
            for size in study.sizes
            for policy in _POLICIES
        }
    )
    end = float(court.workload.examples)
    runs = [study.runs(size, rate) for size, rate in candidates]
    early = [[run.score_at(SHARE * end) for run in cell] for cell in runs]
    final = [[run.score_at(end) for run in cell] for cell in runs]
    columns = list(zip(zip(*early, strict=True), zip(*final, strict=True), strict=True))
    text = f"{len(candidates)} candidates, after {SHARE:.0%} of the epochs and at their end"
    for part, effects, margin, unit in (
        ("ranking", [rank_correlation(a, b) for a, b in columns], _CORRELATION_MARGIN, "tau"),
        ("regret", [study.margin - regret(a, b) for a, b in columns], 0.0, "of the metric"),
    ):
        yield Evidence(
            "probe-with-a-part",
            effects=tuple(effects),
            margin=margin,
            unit=unit,
            axis="epochs",
            policy="tuned",
            finding=text,
            part=part,
        )


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Kendall's tau-b; 0 where one of them does not vary."""
    from scipy import stats

    found = float(stats.kendalltau(one, other).statistic)
    return found if found == found else 0.0


def regret(early: Sequence[float], final: Sequence[float]) -> float:
    """What the best early candidate ends below the best final one."""
    chosen = max(range(len(early)), key=lambda index: early[index])
    return max(final) - final[chosen]
