"""X16: seconds to the target against batch size, as a recommendation would weigh them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from tfbatch.claims._claim import Claim, Evidence
from tfbatch.claims._pairs import Contest, contest, differences, fell_short
from tfbatch.claims.steps_to_target import SECONDS_MARGIN, negative, seconds_to_target
from tfbatch.errors import InputError

if TYPE_CHECKING:
    from tfbatch.claims._court import Court
    from tfbatch.estimators.first_hit import StepsToTarget

CARD = "X16"
TITLE = "the fastest batch size to the target, and what rules of thumb lose"
ORDER = 50.0
CLAIMS: tuple[Claim, ...] = ()
_USUAL = (20, 500)
_REGRET = math.log(1.1)


def collect(court: Court) -> Iterator[Evidence]:
    """See tfbatch.claims.Card."""
    study = court.study
    study.prefetch(("tuned",), ("target", "epochs"))
    runs = {size: study.updates_to_target(size, "tuned") for size in study.sizes}
    choosing = {size: study.updates_to_target(size, "tuned", "tuning") for size in study.sizes}
    fast = negative(seconds_to_target(court, runs))
    chosen_by = negative(seconds_to_target(court, choosing, "tuning"))
    doubts = study.doubts("tuned", "target", study.sizes)
    short = fell_short(*runs.values())
    others = study.sizes[:-1]

    def evidence(
        claim: str, found: Contest | None, margin: float, finding: str, part: str = ""
    ) -> Evidence:
        return Evidence(
            claim,
            effects=found.effects if found else (),
            rivals=found.rivals if found else (),
            alternatives=found.alternatives if found else (),
            margin=margin,
            unit="log ratio",
            axis="time to target",
            policy="tuned",
            finding=finding,
            part=part,
            doubts=doubts,
            censored=short,
        )

    largest = contest(fast, chosen_by, (study.large,), others)
    for claim in ("as-large-as-possible", "fill-the-memory", "feed-the-hardware"):
        yield evidence(
            claim,
            largest,
            SECONDS_MARGIN,
            f"seconds to the target at {largest.other}, the best of {_listed(others)} by other "
            f"seeds, over those at {study.large}",
            "time to target",
        )
    better = differences(
        study.scores(study.large, "tuned", "epochs"), study.scores(study.base, "tuned", "epochs")
    )
    yield Evidence(
        "as-large-as-possible",
        effects=tuple(study.margin + value for value in better),
        margin=0.0,
        unit="of the metric",
        axis="epochs",
        policy="tuned",
        finding=f"the margin {study.margin:.3g} less what batch size {study.large} loses to "
        f"{study.base}",
        part="metric",
        doubts=study.doubts("tuned", "epochs", (study.large, study.base)),
    )
    usual = [size for size in study.sizes if _USUAL[0] <= size <= _USUAL[1]]
    unusual = [size for size in study.sizes if size not in usual]
    found = contest(fast, chosen_by, usual, unusual) if usual and unusual else None
    yield evidence(
        "tens-to-hundreds",
        found,
        SECONDS_MARGIN,
        f"seconds to the target at the best of {_listed(unusual)} over those at the best of "
        f"{_listed(usual)}, both chosen by other seeds",
    )
    predicted = predicted_size(court, choosing)
    if isinstance(predicted, str):
        yield dataclasses.replace(evidence("weigh-and-choose", None, 0.0, ""), untestable=predicted)
    else:
        rest = [size for size in study.sizes if size != predicted]
        found = contest(fast, chosen_by, (predicted,), rest, plus=_REGRET)
        yield evidence(
            "weigh-and-choose",
            found,
            0.0,
            f"10 % less what batch size {predicted}, predicted from other seeds by the hyperbola "
            f"of the steps times the step times, loses to {found.other}, the best of the rest by "
            "them",
        )


def predicted_size(court: Court, runs: Mapping[int, Sequence[StepsToTarget]]) -> int | str:
    """The size that the fitted hyperbola of the updates makes fastest, or why there is none.

    McCandlish et al. 2018: updates(B) = least * (1 + critical / B).

    Args:
        court: Has the times of the steps.
        runs: Updates to the target of the tuning seeds, so that what judges does not predict.
    """
    from tfbatch.estimators.critical_batch_size import fit_critical_batch_size

    try:
        found = fit_critical_batch_size([run for cell in runs.values() for run in cell])
    except InputError as error:
        return str(error)
    study = court.study
    steps = found.hyperbola.steps
    return min(
        study.sizes,
        key=lambda size: math.log(steps(size)) + study.log_seconds(size, "tuning")[0],
    )


def _listed(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes))
