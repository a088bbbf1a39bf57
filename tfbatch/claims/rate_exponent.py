"""M1 and M2: how the best learning rate grows with the batch size at the same epochs.

Each seed has an optimum of its own at each batch size: the vertex of the parabola through its best
octave and the two beside it. The slope of log2 of the optima over log2 B is one exponent a seed. An
exponent is called that of a rule if it is shown to be nearer to it than to the other rule: within a
quarter of 1 (linear) or of 1/2 (square root), by two one-sided tests.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tfbatch.claims._claim import Claim, Criterion, Evidence, UntestableError
from tfbatch.claims._court import Training
from tfbatch.configuration import Configuration
from tfbatch.schema import Named

if TYPE_CHECKING:
    from tfbatch.claims._court import Court

CARD = "M1"
TITLE = "how the best learning rate grows with the batch size"
ORDER = 90.0
CLAIMS = (
    Claim(
        "M1",
        "linear-rule-holds",
        "With SGD the learning rate grows in proportion to the batch size.",
        (Criterion("M1", "exponent of the best rate over the batch size, less 1", "equivalence"),),
    ),
    Claim(
        "M2",
        "square-root-rule-holds-for-adam",
        "With Adam the learning rate grows with the square root of the batch size.",
        (
            Criterion(
                "M1", "exponent of the best rate over the batch size, less 1/2", "equivalence"
            ),
        ),
    ),
)
MARGIN = 0.25
_FIRST_OCTAVES = (-2, -1, 0, 1, 2)
_MOST_OCTAVES = 6
_MOST_OPEN = 0.2
_OF_THE_SMALL = "small-slow-but-better-in-use"
_SGD, _ADAM = Named(name="sgd", momentum=0.9), Named(name="adam")


def collect(court: Court) -> Iterator[Evidence]:
    """See tfbatch.claims.Card."""
    baseline = court.workload.baseline
    own = {"sgd": _SGD, "adam": _ADAM} | {baseline.optimizer.name: baseline.optimizer}
    cases = (
        ("linear-rule-holds", 1.0, "SGD", own["sgd"]),
        ("square-root-rule-holds-for-adam", 0.5, "Adam", own["adam"]),
    )
    sizes = _sizes(court)
    for claim, exponent, name, optimizer in cases:
        if not court.asks(claim):
            continue
        if optimizer.name != baseline.optimizer.name and court.workload.compiled:
            yield _untestable(claim, f"the model is compiled with {baseline.optimizer.name}")
            continue
        try:
            court.study.apart(sizes[0], sizes[-1])
        except UntestableError as error:
            yield _untestable(claim, str(error))
            continue
        optima, open_seeds = best_octaves(court, optimizer, sizes)
        slopes = exponents(sizes, optima)
        yield Evidence(
            claim,
            effects=tuple(slope - exponent for slope in slopes),
            margin=MARGIN,
            unit="exponent",
            axis="epochs",
            policy="tuned",
            finding=f"exponent of the best rate of {name} over batch sizes "
            f"{', '.join(map(str, sizes))}, less {exponent:g}",
            doubts=_doubts(open_seeds, court.preset.seeds),
        )
    if court.asks(_OF_THE_SMALL):
        yield _rate_of_the_small(court, sizes)


def best_octaves(
    court: Court, optimizer: Named, sizes: Sequence[int]
) -> tuple[list[list[float]], int]:
    """Log2 of the best rate of each size and seed, and how many seeds have one at an edge.

    The grid of octaves of a size grows until the best one of every seed lies within it.
    """
    octaves = {size: list(_FIRST_OCTAVES) for size in sizes}
    while True:
        court.train(
            [
                training
                for size in sizes
                for octave in octaves[size]
                for training in _trainings(court, optimizer, size, octave)
            ]
        )
        grown = False
        for size in sizes:
            scores = _scores(court, optimizer, size, octaves[size])
            for beyond in _beyond(octaves[size], scores):
                octaves[size] = sorted({*octaves[size], beyond})
                grown = True
        if not grown:
            break
    found, open_seeds = [], set()
    for size in sizes:
        scores = _scores(court, optimizer, size, octaves[size])
        middle = math.log2(center(court, optimizer, size))
        vertices = [vertex(octaves[size], row) for row in scores]
        open_seeds |= {seed for seed, (_, inside) in enumerate(vertices) if not inside}
        found.append([middle + octave for octave, _ in vertices])
    return found, len(open_seeds)


def vertex(octaves: Sequence[float], scores: Sequence[float]) -> tuple[float, bool]:
    """Where the parabola through the best score and its neighbors has its top.

    Args:
        octaves: [n] ascending, one apart.
        scores: [n] the objective, larger is better.

    Returns:
        The octave, and whether the best one lies within the grid.
    """
    best = max(range(len(scores)), key=lambda index: scores[index])
    if best in (0, len(scores) - 1):
        return octaves[best], False
    left, middle, right = scores[best - 1 : best + 2]
    bend = left - 2 * middle + right
    shift = 0.5 * (left - right) / bend if bend < 0 else 0.0
    return octaves[best] + max(-0.5, min(0.5, shift)), True


def exponents(sizes: Sequence[int], optima: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The slope of log2 of the best rate over log2 B, for each seed.

    Args:
        sizes: [n] batch sizes.
        optima: [n][seeds] log2 of the best rates.
    """
    x = [math.log2(size) for size in sizes]
    middle = sum(x) / len(x)
    squares = sum((a - middle) ** 2 for a in x)
    columns = zip(*optima, strict=True)
    return tuple(
        sum((a - middle) * y for a, y in zip(x, column, strict=True)) / squares
        for column in columns
    )


def _rate_of_the_small(court: Court, sizes: Sequence[int]) -> Evidence:
    """C35: a smaller batch needs a lower base rate; with the user's optimizer, whichever it is.

    The smaller one is a quarter of B0, not a sixteenth as in C35's other parts: M1 trains none that
    is smaller, and a training at a sixteenth makes four times as many updates.
    """
    base = court.study.base
    try:
        court.study.apart(sizes[0], base)
    except UntestableError as error:
        return dataclasses.replace(_untestable(_OF_THE_SMALL, str(error)), part="rate")
    optima, open_seeds = best_octaves(court, court.workload.baseline.optimizer, sizes)
    rows = zip(optima[sizes.index(base)], optima[0], strict=True)
    return Evidence(
        _OF_THE_SMALL,
        effects=tuple(one - other for one, other in rows),
        margin=0.5,
        unit="octaves",
        axis="epochs",
        policy="tuned",
        finding=f"octaves of the best rate at batch size {base} over that at {sizes[0]}",
        part="rate",
        doubts=_doubts(open_seeds, court.preset.seeds),
    )


def _sizes(court: Court) -> list[int]:
    """B0/4, B0, 4 B0, 16 B0, as far as the study has them."""
    base = court.study.base
    return [size for size in court.study.sizes if size >= max(1, round(base / 4))]


def center(court: Court, optimizer: Named, size: int) -> float:
    """The rate that the grid begins around: the baseline's, or the optimizer's own by its rule."""
    from tfbatch.optimizers import OPTIMIZERS
    from tfbatch.scaling_rules import scaled

    baseline = court.workload.baseline
    own = OPTIMIZERS.load(optimizer.name)
    is_own = optimizer.name == baseline.optimizer.name
    return scaled(
        own.SCALING_RULE,
        baseline.base_learning_rate if is_own else own.DEFAULT_LEARNING_RATE,
        batch_size=size,
        base_batch_size=baseline.batch_size,
    )


def _trainings(court: Court, optimizer: Named, size: int, octave: int) -> list[Training]:
    rate = center(court, optimizer, size) * 2.0**octave
    configuration: Configuration = court.study.configuration(size, rate).model_copy(
        update={"optimizer": optimizer}
    )
    seeds = court.seeds("verdict", court.preset.seeds)
    return [Training(configuration, court.workload.examples, seed) for seed in seeds]


def _scores(court: Court, optimizer: Named, size: int, octaves: Sequence[int]) -> list[list[float]]:
    """[seeds][octaves] final scores."""
    examples = court.workload.examples
    columns = [
        [run.score_at(examples) for run in court.train(_trainings(court, optimizer, size, octave))]
        for octave in octaves
    ]
    return [list(row) for row in zip(*columns, strict=True)]


def _beyond(octaves: Sequence[int], scores: Sequence[Sequence[float]]) -> list[int]:
    """Octaves to add: on the sides where some seed is best at the edge."""
    best = {list(row).index(max(row)) for row in scores}
    found = []
    if 0 in best and octaves[0] > -_MOST_OCTAVES:
        found.append(octaves[0] - 1)
    if len(octaves) - 1 in best and octaves[-1] < _MOST_OCTAVES:
        found.append(octaves[-1] + 1)
    return found


def _doubts(open_seeds: int, seeds: int) -> tuple[str, ...]:
    if open_seeds <= _MOST_OPEN * seeds:
        return ()
    return (f"the best rate of {open_seeds} of {seeds} seeds is at the edge of what was tried",)


def _untestable(claim: str, why: str) -> Evidence:
    return Evidence(
        claim,
        effects=(),
        margin=MARGIN,
        unit="exponent",
        axis="epochs",
        policy="tuned",
        finding="",
        untestable=why,
    )
