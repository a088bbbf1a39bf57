"""X17: what the data does to the final metric, against what the batch size does.

The data as it is, with wrong labels, with inputs that nobody normalized, with classes of unequal
size, and in one order: each with a learning rate of its own, at B0. Against it stand batch sizes
with rates of their own, on the data as it is; the largest is left out, which has too few updates in
the same epochs. The range of several noisy means is too wide. So other seeds choose the extremes of
both, and the range of the data must be wider than the difference of any two sizes.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from tfbatch.claims._batch_size_study import BatchSizeStudy
from tfbatch.claims._changed_data import DataChange
from tfbatch.claims._claim import Claim, Evidence, UntestableError
from tfbatch.claims._pairs import Contest, differences

if TYPE_CHECKING:
    from tfbatch.claims._court import Court
    from tfbatch.claims._preset import Purpose

CARD = "X17"
TITLE = "the final metric on changed data, against that at other batch sizes"
ORDER = 97.0
CLAIMS: tuple[Claim, ...] = ()
_CLEAN = "the data as it is"
_CHANGES = {
    "20 % wrong labels": DataChange(label_noise=0.2),
    "inputs from 0 to 255": DataChange(raw_inputs=True),
    "classes of 10 to 1": DataChange(imbalance=10.0),
    "no shuffling": DataChange(shuffled=False),
}
_FEWEST_CHANGES = 2
Scores = Mapping[str, Sequence[float]]


def collect(court: Court) -> Iterator[Evidence]:
    """See tfbatch.claims.Card."""
    study = court.bare_study
    sizes = study.sizes[:-1] if len(study.sizes) > 2 else study.sizes
    study.prefetch(("tuned",), ("epochs",))
    judging, choosing, notes = _levels(court)
    blank = Evidence(
        "data-matters-more",
        effects=(),
        margin=study.margin,
        unit="of the metric",
        axis="epochs",
        policy="tuned",
        finding="",
    )
    try:
        if len(judging) <= _FEWEST_CHANGES or len(choosing) < 2:
            raise UntestableError(f"too few changes of the data can be made: {'; '.join(notes)}")
        study.apart(sizes[0], sizes[-1])
        of_sizes, choosing_sizes = (
            {str(size): study.scores(size, "tuned", "epochs", purpose) for size in sizes}
            for purpose in _PURPOSES
        )
    except UntestableError as error:
        yield dataclasses.replace(blank, untestable=str(error))
        return
    contest = against(judging, choosing, of_sizes, choosing_sizes)
    text = (
        f"range of the metric over {', '.join(judging)}, less that over batch sizes "
        f"{', '.join(of_sizes)}: {_described(judging, choosing)} at batch size {study.base}, "
        f"{_described(of_sizes, choosing_sizes)}; extremes chosen by other seeds"
    )
    if study.large not in sizes:
        notes.append(_left_out(study, sizes))
    yield dataclasses.replace(
        blank,
        effects=contest.effects,
        rivals=contest.rivals,
        alternatives=contest.alternatives,
        finding="; ".join([text, *notes]),
        doubts=study.doubts("tuned", "epochs", sizes),
    )


def _left_out(study: BatchSizeStudy, sizes: Sequence[int]) -> str:
    """What the largest size, which has too few updates, would add to the range of the sizes."""
    large = study.large

    def mean(size: int, purpose: Purpose) -> float:
        return statistics.fmean(study.scores(size, "tuned", "epochs", purpose))

    best = max(sizes, key=lambda size: mean(size, "tuning"))
    lost = mean(best, "verdict") - mean(large, "verdict")
    return f"batch size {large}, left out for its few updates, loses {lost:.3g} to {best}"


def _described(table: Scores, choosing: Scores) -> str:
    best, worst = extremes(choosing)
    width = statistics.fmean(differences(table[best], table[worst]))
    return f"{width:.3g} between {best} and {worst}"


_PURPOSES: tuple[Purpose, Purpose] = ("verdict", "tuning")


def _levels(court: Court) -> tuple[dict[str, list[float]], dict[str, list[float]], list[str]]:
    """The metric of each data at B0, that of the seeds that choose, and what is to be said.

    Where the best rate of a change is not known its metric is too bad: such a change is not chosen,
    so that the range is not too wide, and counts where the claim is to fail.
    """
    study = court.bare_study
    base = study.base
    judging = {_CLEAN: study.scores(base, "tuned", "epochs")}
    choosing = {_CLEAN: study.scores(base, "tuned", "epochs", "tuning")}
    notes = []
    for name, change in _CHANGES.items():
        changed = BatchSizeStudy(court, change=change, sizes=(base,))
        try:
            judging[name] = changed.scores(base, "tuned", "epochs")
            if doubts := changed.doubts("tuned", "epochs", (base,)):
                notes.append(f"{name} not chosen: {'; '.join(doubts)}")
            else:
                choosing[name] = changed.scores(base, "tuned", "epochs", "tuning")
        except UntestableError as error:
            notes.append(f"without {name}: {error}")
    return judging, choosing, notes


def against(data: Scores, choosing_data: Scores, sizes: Scores, choosing_sizes: Scores) -> Contest:
    """The range over some data less that over some sizes, the extremes chosen by other seeds.

    The chosen pair of data is one pair, no wider than the range: that is shown to be wider than the
    difference of every pair of sizes. That it is not, is shown of every pair of data against the
    chosen pair of sizes.

    Args:
        data: The values of the seeds that judge for each data, larger is better.
        choosing_data: Those of the seeds that choose. What it lacks is not chosen.
        sizes: The values of the seeds that judge for each size.
        choosing_sizes: Those of the seeds that choose.
    """
    pair_of_data, pair_of_sizes = extremes(choosing_data), extremes(choosing_sizes)

    def effects(one: tuple[str, str], other: tuple[str, str]) -> tuple[float, ...]:
        wide, narrow = (
            differences(table[best], table[worst])
            for table, (best, worst) in ((data, one), (sizes, other))
        )
        return differences(wide, narrow)

    return Contest(
        0,
        0,
        effects(pair_of_data, pair_of_sizes),
        rivals=tuple(
            effects(pair_of_data, pair)
            for pair in itertools.permutations(sizes, 2)
            if pair != pair_of_sizes
        ),
        alternatives=tuple(
            effects(pair, pair_of_sizes)
            for pair in itertools.permutations(data, 2)
            if pair != pair_of_data
        ),
    )


def extremes(choosing: Scores) -> tuple[str, str]:
    """The best and the worst."""
    order = sorted(choosing, key=lambda name: statistics.fmean(choosing[name]))
    return order[-1], order[0]
