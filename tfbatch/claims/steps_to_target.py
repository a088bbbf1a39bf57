"""X3: updates, examples and seconds until a target is reached, against batch size.

The rate of each size is the one that reaches the target first on tuning seeds. A run that falls
short counts with what it had made, so that its effect is a bound; more than a fifth of them forbid
a decision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from tfbatch.claims._claim import Axis, Claim, Evidence, Policy
from tfbatch.claims._pairs import (
    Contest,
    contest,
    differences,
    fell_short,
    log_steps,
    successes,
    told,
    widest,
)

if TYPE_CHECKING:
    from tfbatch.claims._court import Court
    from tfbatch.claims._preset import Purpose
    from tfbatch.estimators.first_hit import StepsToTarget

CARD = "X3"
TITLE = "updates, examples and seconds to a target metric"
ORDER = 30.0
CLAIMS: tuple[Claim, ...] = ()
STEPS_MARGIN = math.log(1.1)
"""10 % more updates or examples matter."""
SECONDS_MARGIN = math.log(1.05)
SUCCESS_MARGIN = 0.6
"""Success of 4 of 5 runs against 1 of 5 matters."""


def collect(court: Court) -> Iterator[Evidence]:
    """See tfbatch.claims.Card."""
    study = court.study
    study.prefetch(("tuned", "fixed"), ("target",))
    base, large, small = study.base, study.large, study.small
    runs = {size: study.updates_to_target(size, "tuned") for size in study.sizes}
    fixed = {size: study.updates_to_target(size, "fixed") for size in (base, large, small)}
    choosing = {size: study.updates_to_target(size, "tuned", "tuning") for size in study.sizes}
    updates = {size: log_steps(found) for size, found in runs.items()}
    examples = log_examples(runs)

    def seconds(size: int, *, policy: Policy = "tuned") -> list[float]:
        cell = (fixed if policy == "fixed" else runs)[size]
        return seconds_to_target(court, {size: cell})[size]

    def evidence(
        claim: str,
        find: Callable[[], Contest],
        margin: float,
        sizes: Sequence[int],
        finding: str,
        *,
        part: str = "",
        policy: Policy = "tuned",
        unit: str = "log ratio",
        axis: Axis = "time to target",
        bounds: bool = True,
    ) -> Evidence:
        cells = [(fixed if policy == "fixed" else runs)[size] for size in sizes]
        doubts = study.doubts(policy, "target", sizes, of_success=not bounds)
        blank = Evidence(
            claim,
            effects=(),
            margin=margin,
            unit=unit,
            axis=axis,
            policy=policy,
            finding=finding,
            part=part,
            doubts=doubts,
            censored=fell_short(*cells) if bounds else 0,
        )
        return told(blank, find)

    def between(
        one: int, other: int, effects: Callable[[int, int], tuple[float, ...]]
    ) -> Callable[[], Contest]:
        return lambda: Contest(*study.apart(one, other), effects(one, other))

    def fastest() -> Contest:
        return contest(
            negative(seconds_to_target(court, runs)),
            negative(seconds_to_target(court, choosing, "tuning")),
            study.within,
            (small, large),
            plus=-SECONDS_MARGIN,
        )

    def fewest() -> Contest:
        study.apart(small, large)
        return widest(negative(examples), negative(log_examples(choosing)))

    pair = (base, large)
    yield evidence(
        "larger-needs-more-epochs",
        between(large, base, lambda a, b: differences(examples[a], examples[b])),
        STEPS_MARGIN,
        pair,
        f"examples to the target at batch size {large} over those at {base}",
        axis="epochs",
    )
    yield evidence(
        "some-size-best-in-time",
        fastest,
        0.0,
        study.sizes,
        "seconds to the target at the better end {other} over those at {one}, the best size "
        "within, less 5 %; both chosen by other seeds",
    )
    yield evidence(
        "too-small-never-converges",
        between(base, small, lambda a, b: successes(runs[a], runs[b])),
        SUCCESS_MARGIN,
        (base, small),
        f"share of runs that reach the target within the epochs, {base} less {small}",
        unit="share",
        axis="epochs",
        bounds=False,
    )
    yield evidence(
        "too-small-unstable",
        between(base, small, lambda a, b: successes(fixed[a], fixed[b])),
        SUCCESS_MARGIN,
        (base, small),
        f"share of runs that reach the target at the same rate, {base} less {small}",
        part="success",
        policy="fixed",
        unit="share",
        axis="epochs",
        bounds=False,
    )
    yield evidence(
        "size-changes-speed-and-metric",
        fewest,
        STEPS_MARGIN,
        study.sizes,
        "examples to the target at batch size {other}, the slowest, over those at {one}, the "
        "fastest; both chosen by other seeds",
        part="speed",
        axis="epochs",
    )
    yield evidence(
        "large-fast-but-worse-in-use",
        between(base, large, lambda a, b: differences(updates[a], updates[b])),
        STEPS_MARGIN,
        pair,
        f"updates to the target at {base} over those at {large}",
        part="updates",
        axis="updates",
    )
    yield evidence(
        "small-slow-but-better-in-use",
        between(small, base, lambda a, b: differences(seconds(a), seconds(b))),
        SECONDS_MARGIN,
        (small, base),
        f"seconds to the target at {small} over those at {base}",
        part="seconds",
    )
    yield evidence(
        "bigger-is-better-at-the-same-rate",
        between(
            base,
            large,
            lambda a, b: differences(seconds(a, policy="fixed"), seconds(b, policy="fixed")),
        ),
        SECONDS_MARGIN,
        pair,
        f"seconds to the target at {base} over those at {large}, the same rate",
        part="seconds",
        policy="fixed",
    )


def log_examples(runs: Mapping[int, Sequence[StepsToTarget]]) -> dict[int, list[float]]:
    """Log examples until the target, for each size and seed."""
    return {size: [v + math.log(size) for v in log_steps(found)] for size, found in runs.items()}


def seconds_to_target(
    court: Court, runs: Mapping[int, Sequence[StepsToTarget]], purpose: Purpose = "verdict"
) -> dict[int, list[float]]:
    """Log seconds of updates alone until the target, for each size and seed."""
    return {
        size: [
            steps + seconds
            for steps, seconds in zip(
                log_steps(found), court.study.log_seconds(size, purpose), strict=True
            )
        ]
        for size, found in runs.items()
    }


def negative(table: Mapping[int, Sequence[float]]) -> dict[int, list[float]]:
    """The same so that larger is better."""
    return {size: [-value for value in values] for size, values in table.items()}
