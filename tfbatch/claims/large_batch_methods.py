"""X4A: what methods for very large batches recover of the metric that the large batch loses.

Each trains for the same epochs at the large size, its rate searched there as all rates are. The gap
is that of the tuned rates at B0 and at the large size; where none is shown there is nothing to
recover. That no method helps must be so of all, and one that recovers half is enough against it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tfbatch.claims._batch_size_study import BatchSizeStudy
from tfbatch.claims._claim import Claim, Evidence, UntestableError
from tfbatch.claims._pairs import Contest, differences, told
from tfbatch.claims.rate_exponent import center
from tfbatch.schema import Named

if TYPE_CHECKING:
    from tfbatch.claims._court import Court
    from tfbatch.configuration import Configuration

CARD = "X4A"
TITLE = "what methods for very large batches recover"
ORDER = 45.0
CLAIMS: tuple[Claim, ...] = ()
_WARMUP = 0.1


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to train with a very large batch.

    Attributes:
        name: What it is called.
        optimizer: The optimizer.
        warmup_fraction: Share of the training that is warm-up.
    """

    name: str
    optimizer: Named
    warmup_fraction: float = 0.0


class _Study(BatchSizeStudy):
    """Trainings by a method, as long as the epochs.

    Args:
        court: Trains.
        method: The method.
    """

    def __init__(self, court: Court, method: Method):
        super().__init__(court)
        self._method = method

    def length(self, size: int) -> int:
        """Of every size: a warm-up is a share of the whole."""
        return self._court.workload.examples

    def configuration(self, size: int, rate: float) -> Configuration:
        """That of the baseline, with the method."""
        method = self._method
        return (
            super()
            .configuration(size, rate)
            .model_copy(
                update={
                    "optimizer": method.optimizer,
                    "warmup_fraction": method.warmup_fraction,
                }
            )
        )

    def _rate_at(self, size: int, octave: int) -> float:
        return center(self._court, self._method.optimizer, size) * 2.0**octave


def collect(court: Court) -> Iterator[Evidence]:
    """See tfbatch.claims.Card."""
    study = court.study
    ends = (study.base, study.large)
    base, large = (study.scores(size, "tuned", "epochs") for size in ends)
    doubts = list(study.doubts("tuned", "epochs", ends))

    def find() -> Contest:
        study.apart(*ends)
        _check_gap(study, differences(base, large), doubts)
        studies = [_Study(court, method) for method in methods]
        halfway = [(a + b) / 2 for a, b in zip(base, large, strict=True)]
        first, *others = (
            differences(halfway, one.scores(study.large, "tuned", "epochs")) for one in studies
        )
        doubts.extend(
            f"{method.name}: {doubt}"
            for method, one in zip(methods, studies, strict=True)
            for doubt in one.doubts("tuned", "epochs", (study.large,))
        )
        return Contest(study.large, study.base, first, rivals=tuple(others))

    methods = methods_for(court)
    blank = Evidence(
        "no-algorithm-for-very-large",
        effects=(),
        margin=0.0,
        unit="of the metric",
        axis="epochs",
        policy="tuned",
        finding=f"half of what batch size {study.large} loses to {study.base} less what the best "
        f"of {', '.join(method.name for method in methods)} recovers",
        every=True,
    )
    yield dataclasses.replace(told(blank, find), doubts=tuple(doubts))


def methods_for(court: Court) -> tuple[Method, ...]:
    """The methods; a compiled model keeps its optimizer."""
    own = court.workload.baseline.optimizer
    found = [Method("a warm-up", own, _WARMUP)]
    if not court.workload.compiled:
        if own.name != "sgd" or not own.arguments.get("momentum"):
            found.append(Method("SGD with momentum", Named(name="sgd", momentum=0.9)))
        found += [
            Method(name.upper(), Named(name=name), _WARMUP)
            for name in ("lars", "lamb")
            if name != own.name
        ]
    return tuple(found)


def _check_gap(study: BatchSizeStudy, gap: tuple[float, ...], doubts: list[str]) -> None:
    """Refuses where the large size is not shown to lose.

    Raises:
        UntestableError: There is no gap.
    """
    from tfbatch.estimators.verdict import judge

    found = judge(gap, kind="difference", margin=study.margin)
    if found.word != "HOLDS" and not doubts:
        raise UntestableError(
            f"batch size {study.large} is not shown to lose to {study.base} within the same epochs "
            f"({found.estimate:+.3g} {found.interval}): there is nothing to recover"
        )
