"""X16: seconds to the target against batch size, as a recommendation would weigh them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from tfbatch.claims._claim import Claim, Evidence
from tfbatch.claims._pairs import differences, fell_short, gains
from tfbatch.claims.steps_to_target import SECONDS_MARGIN, seconds_to_target
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
    seconds = seconds_to_target(court, runs)
    fast = {size: [-value for value in values] for size, values in seconds.items()}
    doubts = study.doubts("tuned", "target", study.sizes)
    short = fell_short(*runs.values())
    others = study.sizes[:-1]

    def evidence(
        claim: str, effects: tuple[float, ...], margin: float, finding: str, part: str = ""
    ) -> Evidence:
        return Evidence(
            claim,
            effects=effects,
            margin=margin,
            unit="log ratio",
            axis="time to target",
            policy="tuned",
            finding=finding,
            part=part,
            doubts=doubts,
            censored=short,
        )

    for claim in ("as-large-as-possible", "fill-the-memory", "feed-the-hardware"):
        yield evidence(
            claim,
            gains(fast, (study.large,), others),
            SECONDS_MARGIN,
            f"seconds to the target at the best of {_listed(others)} over those at {study.large}",
            "time to target",
        )
    yield Evidence(
        "as-large-as-possible",
        effects=differences(
            study.scores(study.large, "tuned", "epochs"),
            study.scores(study.base, "tuned", "epochs"),
        ),
        margin=study.margin,
        unit="of the metric",
        axis="epochs",
        policy="tuned",
        finding=f"metric at batch size {study.large} less that at {study.base}",
        part="metric",
        doubts=study.doubts("tuned", "epochs", (study.large, study.base)),
    )
    usual = [size for size in study.sizes if _USUAL[0] <= size <= _USUAL[1]]
    unusual = [size for size in study.sizes if size not in usual]
    yield evidence(
        "tens-to-hundreds",
        gains(fast, usual, unusual) if usual and unusual else (),
        SECONDS_MARGIN,
        f"seconds to the target at the best of {_listed(unusual)} over those at the best of "
        f"{_listed(usual)}",
    )
    predicted = predicted_size(court, runs)
    if isinstance(predicted, str):
        yield dataclasses.replace(evidence("weigh-and-choose", (), 0.0, ""), untestable=predicted)
    else:
        losses = gains(fast, study.sizes, (predicted,))
        yield evidence(
            "weigh-and-choose",
            tuple(_REGRET - loss for loss in losses),
            0.0,
            f"10 % less what batch size {predicted}, predicted by the hyperbola of the steps times "
            "the measured step times, loses to the best one",
        )


def predicted_size(court: Court, runs: Mapping[int, Sequence[StepsToTarget]]) -> int | str:
    """The size that the fitted hyperbola of the updates makes fastest, or why there is none.

    McCandlish et al. 2018: updates(B) = least * (1 + critical / B).
    """
    from tfbatch.estimators.critical_batch_size import fit_critical_batch_size

    try:
        found = fit_critical_batch_size([run for cell in runs.values() for run in cell])
    except InputError as error:
        return str(error)
    study = court.study
    steps = found.hyperbola.steps
    return min(study.sizes, key=lambda size: steps(size) * study.seconds(size))


def _listed(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes))
