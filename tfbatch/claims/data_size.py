"""X16N: whether more data wants larger batches, and whether both are worth a try on little data.

The best size is the one with the fewest seconds to a target, of those that reach it in their
trainings. The target of each amount of data is what its own pilot runs reach, and trainings have as
many epochs on all of them, so that little data means few updates, as in practice. A best size is a
noisy thing: that of all the data is shown to be larger by two advantages, not by a difference of
two minima (`moves_up`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from tfbatch.claims._batch_size_study import BatchSizeStudy
from tfbatch.claims._changed_data import DataChange
from tfbatch.claims._claim import Claim, Evidence, UntestableError
from tfbatch.claims._pairs import fell_short, moves_up, told, widest
from tfbatch.claims.steps_to_target import SECONDS_MARGIN, negative, seconds_to_target

if TYPE_CHECKING:
    from tfbatch.claims._court import Court
    from tfbatch.claims._preset import Purpose
    from tfbatch.estimators.first_hit import StepsToTarget

CARD = "X16N"
TITLE = "the best batch size of a part of the data and of all"
ORDER = 96.0
CLAIMS: tuple[Claim, ...] = ()
_CLAIM = "small-data-try-both"
_SMALL = 0.25
_SHARES = (_SMALL, 0.5, 1.0)
_FEWEST_SIZES = 3


def collect(court: Court) -> Iterator[Evidence]:
    """See tfbatch.claims.Card."""
    yield _both(court)
    yield _growth(court)


def _studies(court: Court) -> dict[float, BatchSizeStudy]:
    """Of each share of the data, a part with the sizes that the smallest allows.

    Raises:
        UntestableError: It allows fewer than three.
    """
    base = court.bare_study
    examples = round(_SMALL * court.workload.num_examples)
    sizes = [size for size in base.sizes if size <= base.most(examples)]
    if len(sizes) < _FEWEST_SIZES or base.base not in sizes:
        raise UntestableError(
            f"a quarter of {court.workload.num_examples} training examples is too few for batch "
            f"sizes about {base.base}; give more data, or a smaller --baseline=batch_size"
        )
    parts = {
        share: BatchSizeStudy(court, change=DataChange(share=share), sizes=sizes)
        for share in _SHARES
        if share < 1
    }
    return {**parts, 1.0: base}


def _both(court: Court) -> Evidence:
    """Whether the size matters to the metric on little data."""
    blank = Evidence(
        _CLAIM,
        effects=(),
        margin=1.0,
        unit="of the metric",
        axis="epochs",
        policy="tuned",
        finding=f"with {_SMALL:.0%} of the data, metric at batch size {{one}}, the best, less that "
        "at {other}, the worst; both chosen by other seeds",
        part="both",
    )
    try:
        study = _studies(court)[_SMALL]
        study.prefetch(("tuned",), ("epochs", "target"))
        judging, choosing = (
            {size: study.scores(size, "tuned", "epochs", purpose) for size in study.sizes}
            for purpose in _PURPOSES
        )
        blank = dataclasses.replace(
            blank, margin=study.margin, doubts=study.doubts("tuned", "epochs", study.sizes)
        )
    except UntestableError as error:
        return dataclasses.replace(blank, finding="", untestable=str(error))
    return told(blank, lambda: widest(judging, choosing))


def _growth(court: Court) -> Evidence:
    """Whether the best size of all the data is larger than that of a quarter."""
    blank = Evidence(
        _CLAIM,
        effects=(),
        margin=SECONDS_MARGIN,
        unit="log ratio",
        axis="time to target",
        policy="tuned",
        finding="",
        part="growth",
    )
    try:
        studies = _studies(court)
        sizes = studies[_SMALL].sizes
        choosing = {share: _updates(study, sizes, "tuning") for share, study in studies.items()}
        ends = (_SHARES[0], _SHARES[-1])
        for share in ends:
            studies[share].prefetch(("tuned",), ("target",))
        choosing = {share: reaching(runs) for share, runs in choosing.items()}
        judging = {share: _updates(studies[share], choosing[share], "verdict") for share in ends}
        chosen_by = {
            share: negative(seconds_to_target(court, runs, "tuning"))
            for share, runs in choosing.items()
        }
        tables = [negative(seconds_to_target(court, judging[share])) for share in ends]
        shift = moves_up(*tables, *(chosen_by[share] for share in ends))
    except UntestableError as error:
        return dataclasses.replace(blank, untestable=str(error))
    doubts = [
        f"{text}, with {share:.0%} of the data"
        for share in ends
        for text in studies[share].doubts("tuned", "target", sizes, of_success=True)
    ]
    cells = [
        judging[share][size]
        for share, sizes in zip(ends, (shift.before, shift.after), strict=True)
        for size in sizes
    ]
    best = {share: max(table, key=lambda s: sum(table[s])) for share, table in chosen_by.items()}
    blank = dataclasses.replace(
        blank,
        doubts=(*doubts, *shift.edge(sizes)),
        censored=fell_short(*cells),
        finding="what the best size of all the data saves there in seconds to the target over the "
        f"best one of {_SMALL:.0%} of it, and the reverse, the smaller of the two; the best sizes "
        f"by other seeds: {_listed(best)}, a slope of {_slope(best):.2f} in logarithms",
    )
    return told(blank, lambda: shift.contest)


_PURPOSES: tuple[Purpose, Purpose] = ("verdict", "tuning")


def reaching(
    runs: Mapping[int, list[StepsToTarget]],
) -> dict[int, list[StepsToTarget]]:
    """The sizes all of whose runs reach the target: where they do not, seconds are only bounds.

    Raises:
        UntestableError: There is none.
    """
    found = {size: cell for size, cell in runs.items() if all(run.reached for run in cell)}
    if not found:
        raise UntestableError(
            f"of batch sizes {', '.join(map(str, runs))} none reaches the target in its trainings; "
            "give a longer --trial_length"
        )
    return found


def _updates(
    study: BatchSizeStudy, sizes: Iterable[int], purpose: Purpose
) -> dict[int, list[StepsToTarget]]:
    return {size: study.updates_to_target(size, "tuned", purpose) for size in sizes}


def _listed(best: dict[float, int]) -> str:
    return ", ".join(f"{size} with {share:.0%}" for share, size in best.items())


def _slope(best: dict[float, int]) -> float:
    """Of the log of the best size over the log of the size of the data."""
    x, y = ([math.log(value) for value in values] for values in (best, best.values()))
    return float(np.polyfit(x, y, 1)[0])
