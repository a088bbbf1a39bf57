"""X12: does the beginning of a training tell which batch size and rate end best?

The candidates are the batch sizes of the study with their fixed, scaled and tuned rates. Each is
judged by its objective after a tenth of the training (where one of them is first evaluated later,
after that share), and by the one at the end of the epochs, on the same seed: nothing is trained for
it. What an early choice loses is measured at the end of the
training that it would go on with, against a candidate that the tuning seeds chose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tfbatch.claims._claim import Claim, Evidence, Policy, UntestableError
from tfbatch.claims._pairs import Contest, Table, contest

if TYPE_CHECKING:
    from tfbatch.claims._court import Court

CARD = "X12"
TITLE = "whether the first tenth of a training tells which batch size is best"
ORDER = 80.0
CLAIMS: tuple[Claim, ...] = ()
SHARE = 0.1
_LATEST = 0.25
"""What is later is no beginning."""
_CORRELATION_MARGIN = 0.3
_POLICIES: tuple[Policy, ...] = ("fixed", "scaled", "tuned")


def collect(court: Court) -> Iterator[Evidence]:
    """See tfbatch.claims.Card."""
    study = court.study
    try:
        study.apart(study.small, study.large)
        share = share_of(court)
    except UntestableError as error:
        yield from _untestable(str(error), study.margin)
        return
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
    early = [[run.score_at(share * end) for run in cell] for cell in runs]
    final = [[run.score_at(end) for run in cell] for cell in runs]
    tuned = {
        candidates.index((size, study.rate(size, "tuned", "epochs").value)): study.scores(
            size, "tuned", "epochs", "tuning"
        )
        for size in study.sizes
    }
    loss = regret(early, final, tuned, margin=study.margin)
    reference = "batch size {}, learning rate {:.3g}".format(*candidates[loss.other])
    text = f"{len(candidates)} candidates, after {share:.0%} of the epochs and at their end"
    taus = [
        rank_correlation(a, b)
        for a, b in zip(zip(*early, strict=True), zip(*final, strict=True), strict=True)
    ]

    def evidence(part: str, found: Contest, margin: float, unit: str, finding: str) -> Evidence:
        return Evidence(
            "probe-with-a-part",
            effects=found.effects,
            rivals=found.rivals,
            alternatives=found.alternatives,
            margin=margin,
            unit=unit,
            axis="epochs",
            policy="tuned",
            finding=finding,
            part=part,
            doubts=study.doubts("tuned", "epochs", study.sizes),
        )

    yield evidence("ranking", Contest(0, 0, tuple(taus)), _CORRELATION_MARGIN, "tau", text)
    yield evidence(
        "regret",
        loss,
        0.0,
        "of the metric",
        f"{text}; the margin {study.margin:.3g} less what the early choice loses to {reference}, "
        "the best by other seeds",
    )


def share_of(court: Court) -> float:
    """Where candidates are judged early: not before the first evaluation of any, which is a line.

    Raises:
        UntestableError: That is no beginning any more.
    """
    study = court.study
    first = {study.first_evaluation(size): size for size in study.sizes}
    share = max(SHARE, max(first) / court.workload.examples)
    if share > _LATEST:
        raise UntestableError(
            f"batch size {first[max(first)]} is first evaluated after {share:.0%} of the epochs, "
            "which is no beginning of a training: give a longer --trial_length"
        )
    return share


def _untestable(why: str, margin: float) -> Iterator[Evidence]:
    for part in ("ranking", "regret"):
        yield Evidence(
            "probe-with-a-part",
            effects=(),
            margin=margin,
            unit="",
            axis="epochs",
            policy="tuned",
            finding="",
            part=part,
            untestable=why,
        )


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Kendall's tau-b; 0 where one of them does not vary."""
    from scipy import stats

    found = float(stats.kendalltau(one, other).statistic)
    return found if found == found else 0.0


_CHOICE = -1


def regret(
    early: Sequence[Sequence[float]],
    final: Sequence[Sequence[float]],
    choosing: Table,
    *,
    margin: float,
) -> Contest:
    """The margin less what each seed's early choice ends below a candidate that does well.

    The best end of a seed is no reference: of equal candidates the luckiest is ahead of any choice.

    Args:
        early: [candidates][seeds] the objective after the beginning.
        final: [candidates][seeds] the objective at the end.
        choosing: Candidate to its objective at the end of other seeds, which choose the reference.
        margin: What may be lost.
    """
    chosen = [max(range(len(row)), key=row.__getitem__) for row in zip(*early, strict=True)]
    table = dict(enumerate(final)) | {
        _CHOICE: [final[candidate][seed] for seed, candidate in enumerate(chosen)]
    }
    return contest(table, choosing, (_CHOICE,), range(len(final)), plus=margin)
