"""X16: seconds to the target against batch size, as a recommendation would weigh them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from tfbatch.claims._claim import Claim, Evidence, UntestableError
from tfbatch.claims._pairs import Contest, contest, differences, fell_short, told
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
    doubts = study.doubts("tuned", "target", study.sizes)
    short = fell_short(*runs.values())
    others = study.sizes[:-1]

    def evidence(
        claim: str, find: Callable[[], Contest], margin: float, finding: str, part: str = ""
    ) -> Evidence:
        blank = Evidence(
            claim,
            effects=(),
            margin=margin,
            unit="log ratio",
            axis="time to target",
            policy="tuned",
            finding=finding,
            part=part,
            doubts=doubts,
            censored=short,
        )
        return told(blank, find)

    def fastest(ones: Sequence[int], rest: Sequence[int], *, plus: float = 0.0) -> Contest:
        fast = negative(seconds_to_target(court, runs))
        chosen_by = negative(seconds_to_target(court, choosing, "tuning"))
        return contest(fast, chosen_by, ones, rest, plus=plus)

    def largest() -> Contest:
        study.apart(study.small, study.large)
        return fastest((study.large,), others)

    def usual() -> Contest:
        ones = [size for size in study.sizes if _USUAL[0] <= size <= _USUAL[1]]
        rest = [size for size in study.sizes if size not in ones]
        if not (ones and rest):
            raise UntestableError(
                f"of batch sizes {_listed(study.sizes)} {'none' if rest else 'all'} are within "
                f"{_USUAL[0]} to {_USUAL[1]}; give another --baseline=batch_size"
            )
        return fastest(ones, rest)

    def predicted() -> Contest:
        study.apart(study.small, study.large)
        size = predicted_size(court, choosing)
        rest = [other for other in study.sizes if other != size]
        return fastest((size,), rest, plus=_REGRET)

    def metric() -> Contest:
        large, base = study.apart(study.large, study.base)
        better = differences(*(study.scores(size, "tuned", "epochs") for size in (large, base)))
        return Contest(large, base, tuple(study.margin + value for value in better))

    for claim in ("as-large-as-possible", "fill-the-memory", "feed-the-hardware"):
        yield evidence(
            claim,
            largest,
            SECONDS_MARGIN,
            f"seconds to the target at {{other}}, the best of {_listed(others)} by other seeds, "
            "over those at {one}",
            "time to target",
        )
    of_metric = Evidence(
        "as-large-as-possible",
        effects=(),
        margin=0.0,
        unit="of the metric",
        axis="epochs",
        policy="tuned",
        finding=f"the margin {study.margin:.3g} less what batch size {{one}} loses to {{other}}",
        part="metric",
        doubts=study.doubts("tuned", "epochs", (study.large, study.base)),
    )
    yield told(of_metric, metric)
    yield evidence(
        "tens-to-hundreds",
        usual,
        SECONDS_MARGIN,
        f"seconds to the target at {{other}}, the best outside of {_USUAL[0]} to {_USUAL[1]}, over "
        "those at {one}, the best within, both chosen by other seeds",
    )
    yield evidence(
        "weigh-and-choose",
        predicted,
        0.0,
        "10 % less what batch size {one}, predicted from other seeds by the hyperbola of the steps "
        "times the step times, loses to {other}, the best of the rest by them",
    )


def predicted_size(court: Court, runs: Mapping[int, Sequence[StepsToTarget]]) -> int:
    """The size that the fitted hyperbola of the updates makes fastest.

    McCandlish et al. 2018: updates(B) = least * (1 + critical / B).

    Args:
        court: Has the times of the steps.
        runs: Updates to the target of the tuning seeds, so that what judges does not predict.

    Raises:
        UntestableError: There is no such hyperbola, or a size could not be timed.
    """
    from tfbatch.estimators.critical_batch_size import fit_critical_batch_size

    try:
        found = fit_critical_batch_size([run for cell in runs.values() for run in cell])
    except InputError as error:
        raise UntestableError(str(error)) from error
    study = court.study
    steps = found.hyperbola.steps
    return min(
        study.sizes,
        key=lambda size: math.log(steps(size)) + study.log_seconds(size, "tuning")[0],
    )


def _listed(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes))
