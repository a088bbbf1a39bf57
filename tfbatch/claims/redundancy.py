"""X5D: what an example is worth in a small batch and in a large one, and what copies of it cost.

The efficiency of a batch size is the share of its examples that the most frugal size would have
needed to the target: 1 / (1 + B / critical) where the hyperbola of McCandlish et al. 2018 holds.

The control copies every example 3 times. Nothing is learned from a copy that the original does not
tell: the full batch looks at all of them in each update, and small batches drawn from four copies
of the data are what they were before. Both descend plainly at the same rate until the loss of all
examples has fallen by what the full batch reaches in 20 updates.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from tfbatch.claims._claim import Claim, Evidence, UntestableError
from tfbatch.claims._flat_weights import FlatLoss, Indices, Vector
from tfbatch.claims._pairs import Contest, fell_short, told
from tfbatch.claims.extremes import model_and_examples, taken
from tfbatch.claims.steps_to_target import log_examples
from tfbatch.errors import InputError

if TYPE_CHECKING:
    from tfbatch.claims._court import Court
    from tfbatch.configuration import Configuration
    from tfbatch.training.context import TaskContext

CARD = "X5D"
TITLE = "what an example is worth in a batch, and what copies of it cost"
ORDER = 65.0
CLAIMS: tuple[Claim, ...] = ()
_CLAIM = "small-avoids-redundancy"
_EFFICIENCY_MARGIN = 0.1
_COPIES_MARGIN = math.log(2)
_COPIES = 4
_UPDATES = 20
_LONGEST = 8
"""The small batch gets so many times the updates of the full one."""
_MOST_EXAMPLES = 256
_NEARLY = 0.99
_SECONDS = 4.0


@dataclasses.dataclass(frozen=True)
class CostOfCopies:
    """Examples until the loss is reached, copies counted.

    Attributes:
        full: With all examples in a batch.
        small: In small batches.
        reached: Whether both reach it.
        why: Why this seed tells nothing; empty where it does.
    """

    full: float
    small: float
    reached: bool
    why: str = ""


def collect(court: Court) -> Iterator[Evidence]:
    """See tfbatch.claims.Card."""
    yield _copies(court)  # first: it needs the rate of one size alone
    yield _efficiency(court)


def _efficiency(court: Court) -> Evidence:
    study = court.study
    runs = {size: study.updates_to_target(size, "tuned") for size in study.sizes}
    choosing = {size: study.updates_to_target(size, "tuned", "tuning") for size in study.sizes}

    def find() -> Contest:
        small, large = study.apart(study.small, study.large)
        frugal = min(statistics.fmean(values) for values in log_examples(choosing).values())
        examples = log_examples(runs)
        pairs = zip(examples[small], examples[large], strict=True)
        effects = tuple(math.exp(frugal - a) - math.exp(frugal - b) for a, b in pairs)
        return Contest(small, large, effects)

    ends = (study.small, study.large)
    blank = Evidence(
        _CLAIM,
        effects=(),
        margin=_EFFICIENCY_MARGIN,
        unit="share",
        axis="epochs",
        policy="tuned",
        finding="efficiency per example at batch size {one} less that at {other}, relative to the "
        "most frugal size by other seeds",
        part="efficiency",
        doubts=study.doubts("tuned", "target", ends),
        censored=fell_short(*(runs[size] for size in ends)),
    )
    return told(blank, find)


def _copies(court: Court) -> Evidence:
    study = court.study
    rate = study.rate(study.base, "fixed", "epochs")
    configuration = study.configuration(study.base, rate.value)
    cases: list[dict[str, object]] = [
        {"configuration": configuration, "copies": copies, "seed": seed}
        for seed in court.seeds("verdict", court.preset.seeds)
        for copies in (1, _COPIES)
    ]
    why, pairs = "", []
    try:
        costs = court.measure_each(cost_of_copies, cases, seconds=_SECONDS)
    except (InputError, UntestableError) as error:
        why = str(error)
    else:
        pairs = list(zip(costs[::2], costs[1::2], strict=True))
        why = next((cost.why for cost in costs if cost.why), "")
    found = [(one, many) for one, many in pairs if not (one.why or many.why)]
    lost = len(pairs) - len(found)
    unknown = (
        (f"{lost} of {lost + len(found)} seeds tell nothing: {why}",) if found and lost else ()
    )
    effects = [math.log(many.full / one.full * one.small / many.small) for one, many in found]
    return Evidence(
        _CLAIM,
        effects=tuple(effects),
        margin=_COPIES_MARGIN,
        unit="log ratio",
        axis="epochs",
        policy="fixed",
        finding=f"examples of the full batch over those of small ones, with {_COPIES} copies of "
        "the data over with one",
        part="copies",
        doubts=(*rate.doubts, *unknown),
        censored=sum(not (one.reached and many.reached) for one, many in found),
        untestable="" if found else why,
    )


def cost_of_copies(
    task: TaskContext, configuration: Configuration, *, copies: int, seed: int
) -> CostOfCopies:
    """Inside the process that trains: plain descent, with all examples in a batch and with few.

    Raises:
        InputError: The gradient cannot be measured.
    """
    model, examples = model_and_examples(task, configuration, seed=seed)
    count = min(len(examples[-1]), _MOST_EXAMPLES)
    chosen = taken(examples, np.arange(count))
    loss = FlatLoss(model, chosen, heartbeat=task.heartbeat_or_stop)
    return descend(
        loss,
        loss.start,
        count=count,
        copies=copies,
        size=max(1, min(configuration.batch_size, count // 8)),
        rate=configuration.base_learning_rate,
        generator=np.random.default_rng(seed),
    )


def descend(
    loss: Callable[[Vector, Indices], tuple[float, Vector]],
    start: Vector,
    *,
    count: int,
    copies: int,
    size: int,
    rate: float,
    generator: np.random.Generator,
) -> CostOfCopies:
    """Descends with the full batch, then with small ones to the same loss.

    Args:
        loss: Loss and gradient at some weights, the mean over the examples with these indices.
        start: The initial weights.
        count: Number of examples without copies.
        copies: How often each is there.
        size: Of a small batch.
        rate: The learning rate of both.
        generator: Draws the small batches.
    """
    originals = np.arange(count)
    everything = np.tile(originals, copies)
    weights, values = start, []
    for _ in range(_UPDATES + 1):
        value, slope = loss(weights, everything)
        values.append(value)
        weights = weights - rate * slope
    before, *losses = values
    if not losses[-1] < before:
        why = f"{_UPDATES} updates of the full batch do not lower the loss"
        return CostOfCopies(math.nan, math.nan, reached=False, why=why)
    target = before - _NEARLY * (before - losses[-1])
    full = 1 + next(index for index, value in enumerate(losses) if value <= target)
    weights, order = start, np.empty(0, np.intp)
    for update in range(1, _LONGEST * _UPDATES + 1):
        if len(order) < size:
            order = generator.permutation(everything)
        batch, order = order[:size], order[size:]
        weights = weights - rate * loss(weights, batch)[1]
        if loss(weights, originals)[0] <= target:
            return CostOfCopies(float(full * len(everything)), float(update * size), reached=True)
    most = _LONGEST * _UPDATES * size
    return CostOfCopies(float(full * len(everything)), float(most), reached=False)
