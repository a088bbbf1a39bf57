"""X9: first-order and second-order optimizers on batches of several sizes.

All get the same number of gradient evaluations, each of one batch, those of line searches counted,
and are judged by the loss of all examples at the end, as a share of that of the initial weights;
1 % of it is good enough. Conjugate gradients and L-BFGS are SciPy's. They make some iterations on a
batch and begin anew on the next, so that the two gradients of a difference are of the same
examples, as Le et al. 2011 do ("On optimization methods for deep learning", where batches of
thousands come from). How many iterations is tuned by other seeds for each batch size, as the rates
of SGD, Adam and Adagrad are. With all examples in a batch they never begin anew.

SciPy cannot be given a number of evaluations that ends a line search: what counts them raises.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tfbatch.claims._claim import Claim, Evidence, UntestableError
from tfbatch.claims._flat_weights import FlatLoss, Indices, Vector
from tfbatch.claims._pairs import Contest, differences, told
from tfbatch.claims.extremes import model_and_examples
from tfbatch.errors import InputError

if TYPE_CHECKING:
    from tfbatch.claims._court import Court
    from tfbatch.claims._preset import Purpose
    from tfbatch.configuration import Configuration
    from tfbatch.training.context import TaskContext

CARD = "X9"
TITLE = "first-order and second-order optimizers on small and large batches"
ORDER = 98.0
CLAIMS: tuple[Claim, ...] = ()
_HURT = "second-order-hurt-by-small"
_THOUSANDS = "second-order-needs-thousands"
_MARGIN = math.log(1.25)
_GOOD = math.log(1.1)
"""A batch is large enough whose loss is at most 10 % above that of the full batch."""
_MANY = 1000
_SIZES = (16, 64, 256, 1024)
_MOST_EXAMPLES = 4096
"""Examples that stand for the whole data; in shorter trainings fewer."""
_EVALUATIONS = 100
"""In a training of the data's own length."""
_DIVERGED = 3.0
"""A loss of so many times that of the initial weights counts as theirs."""
_REACHED = 0.01
"""A loss below this share of that of the initial weights counts as this share."""
_FIRST_ORDER = {"SGD": 0.1, "Adam": 0.003, "Adagrad": 0.03}
"""Learning rates that a search begins at; without momentum."""
_SECOND_ORDER = {"conjugate gradient": "CG", "L-BFGS": "L-BFGS-B"}
_OCTAVES = (-2, 0, 2)
_FARTHEST = 12
_ITERATIONS = (1, 3, 10)
_WHOLE = 10**6
"""More iterations than there are evaluations: one batch only."""
_NOTHING = 1e-12
"""A gradient that is 0 up to rounding."""
_CASE_SECONDS = 5.0
"""Beside its gradients: a process's first one is traced."""
_USUALLY_TRIED = 4
"""Rates or numbers of iterations of a cell, for the plan."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """An optimizer on batches of a size.

    Attributes:
        method: Its name.
        size: The batch size.
    """

    method: str
    size: int

    @property
    def first_order(self) -> bool:
        """Whether it has a learning rate; else iterations on a batch."""
        return self.method in _FIRST_ORDER


@dataclasses.dataclass(frozen=True)
class TunedNumber:
    """What was tuned for a cell.

    Attributes:
        value: Octaves from the first learning rate, or iterations on a batch.
        doubt: Why it may not be the best one; empty where it is.
    """

    value: int
    doubt: str = ""


def collect(court: Court) -> Iterator[Evidence]:
    """See tfbatch.claims.Card."""
    measured = _Measured(court)
    if court.asks(_HURT):
        for method in _SECOND_ORDER:
            yield _hurt(measured, method)
    if court.asks(_THOUSANDS):
        for method in _SECOND_ORDER:
            yield _thousands(measured, method)


class _Measured:
    """Losses at the end of each cell that is asked for, with what the tuning seeds chose for it.

    Args:
        court: Measures.
    """

    def __init__(self, court: Court):
        self._court = court
        most = round(_MOST_EXAMPLES * min(1.0, court.preset.length))
        self.count = min(court.workload.num_examples, most)
        self.sizes = (*(size for size in _SIZES if size < self.count), self.count)
        self.evaluations = round(_EVALUATIONS * court.preset.length)

    def losses(self, cell: Cell) -> list[float]:
        """Log of the loss of all examples at the end over that before, of each verdict seed.

        Raises:
            UntestableError: The gradient cannot be measured.
        """
        return self._found[cell][1]

    def tuned(self, cell: Cell) -> tuple[TunedNumber, float]:
        """What was chosen, and the mean of the log of the loss of the tuning seeds with it."""
        setting, _, choosing = self._found[cell]
        return setting, statistics.fmean(choosing)

    @functools.cached_property
    def _found(self) -> dict[Cell, tuple[TunedNumber, list[float], list[float]]]:
        asked = self._asked()
        late = [cell for cell in asked if cell.method == "Adagrad"]
        # What is measured together is kept together, and older folders know nothing of Adagrad.
        return self._tuned_and_measured(
            [cell for cell in asked if cell not in late]
        ) | self._tuned_and_measured(late)

    def _tuned_and_measured(
        self, cells: Sequence[Cell]
    ) -> dict[Cell, tuple[TunedNumber, list[float], list[float]]]:
        if not cells:
            return {}
        tried: dict[Cell, dict[int, list[float]]] = {cell: {} for cell in cells}
        while wanted := {c: more for c in cells if (more := further(c, tried[c], self.count))}:
            runs = [(cell, value) for cell, values in wanted.items() for value in values]
            for (cell, value), ends in zip(runs, self._ends(runs, "tuning"), strict=True):
                tried[cell][value] = ends
        settings = {cell: chosen(cell, tried[cell]) for cell in cells}
        runs = [(cell, setting.value) for cell, setting in settings.items()]
        return {
            cell: (settings[cell], ends, tried[cell][settings[cell].value])
            for cell, ends in zip(cells, self._ends(runs, "verdict"), strict=True)
        }

    def _asked(self) -> list[Cell]:
        """Of all claims that are asked for, so that the workers never wait for each other."""
        ends = (self.sizes[0], self.sizes[-1])
        wanted: list[Cell] = []
        if self._court.asks(_HURT):
            wanted += [Cell(name, b) for name in (*_SECOND_ORDER, *_FIRST_ORDER) for b in ends]
        if self._court.asks(_THOUSANDS) and self.count >= _MANY:
            wanted += [Cell(name, b) for name in _SECOND_ORDER for b in self.sizes]
        return list(dict.fromkeys(wanted))

    def _ends(self, runs: Sequence[tuple[Cell, int]], purpose: Purpose) -> list[list[float]]:
        """Of each run, one value for each seed.

        Raises:
            UntestableError: The gradient cannot be measured.
        """
        court = self._court
        is_cut = self.count < min(court.workload.num_examples, _MOST_EXAMPLES)
        # Named only where it differs, so that what older folders have measured is found.
        cut = {"most_examples": self.count} if is_cut else {}
        cases = [
            {
                "configuration": court.workload.baseline,
                "runs": [(cell.method, cell.size, value) for cell, value in runs],
                "evaluations": self.evaluations,
                "seed": seed,
                **cut,
            }
            for seed in court.seeds(purpose, court.preset.count(purpose))
        ]
        examples = self._all_examples()
        try:
            found = court.measure_each(
                losses_at_the_end, cases, seconds=_CASE_SECONDS, examples=examples
            )
        except (InputError, UntestableError) as error:
            raise UntestableError(str(error)) from error
        shares = [[log_share(loss, ends[0]) for loss in ends[1:]] for ends in found]
        return [list(values) for values in zip(*shares, strict=True)]

    def _all_examples(self) -> int:
        """For a plan, which sees the first call alone: all trainings, for each tuning seed."""
        preset = self._court.preset
        each = self.evaluations * sum(cell.size for cell in self._asked())
        return round(each * (_USUALLY_TRIED + preset.seeds / preset.tuning_seeds))


def log_share(loss: float, before: float) -> float:
    """Log of a loss over that of the initial weights, from 1 % on.

    Where a model can learn its examples by heart the loss falls without end, and the log of what is
    nearly nothing would be all that counts.
    """
    if not loss <= _DIVERGED * before:
        return 0.0
    return math.log(max(loss / before, _REACHED))


def further(cell: Cell, tried: Mapping[int, Sequence[float]], count: int) -> list[int]:
    """What is to be tried next; nothing where the best one lies within what was tried.

    Args:
        cell: The optimizer and the batch size.
        tried: Log losses by what was tried.
        count: Number of examples: with all of them in a batch nothing is to be tuned.
    """
    if not cell.first_order:
        wanted = (_WHOLE,) if cell.size == count else (*_ITERATIONS, _WHOLE)
        return [value for value in wanted if value not in tried]
    if not tried:
        return list(_OCTAVES)
    best = _best(tried)
    for edge, step in ((min(tried), -2), (max(tried), 2)):
        if best == edge and abs(edge) < _FARTHEST:
            return [edge + step]
    return [value for value in (best - 1, best + 1) if value not in tried and best % 2 == 0]


def chosen(cell: Cell, tried: Mapping[int, Sequence[float]]) -> TunedNumber:
    """The best of what was tried."""
    best = _best(tried)
    if cell.first_order and best in (min(tried), max(tried)):
        rate = f"the best rate of {cell.method} at batch size {cell.size}"
        return TunedNumber(best, f"{rate} is at the edge of those that were tried")
    return TunedNumber(best)


def _best(tried: Mapping[int, Sequence[float]]) -> int:
    return min(tried, key=lambda value: statistics.fmean(tried[value]))


def _hurt(measured: _Measured, method: str) -> Evidence:
    """What a small batch costs it, over what it costs each optimizer of the first order."""
    small, full = measured.sizes[0], measured.sizes[-1]
    blank = _blank(_HURT, method, _MARGIN)

    def find() -> Contest:
        if small == full:
            raise UntestableError(f"{full} training examples are no more than a small batch")
        costs = {
            name: differences(*(measured.losses(Cell(name, size)) for size in (small, full)))
            for name in (method, *_FIRST_ORDER)
        }
        best = min(_FIRST_ORDER, key=lambda name: measured.tuned(Cell(name, small))[1])
        effects = {name: differences(costs[method], costs[name]) for name in _FIRST_ORDER}
        rest = tuple(values for name, values in effects.items() if name != best)
        return Contest(small, full, effects[best], rivals=rest, alternatives=rest)

    found = told(blank, find)
    if found.untestable:
        return found
    names = (method, *_FIRST_ORDER)
    cells = [Cell(name, size) for name in names for size in (small, full)]
    first = ", ".join(_FIRST_ORDER)
    ends = "; ".join(
        f"{name} " + " and ".join(_typical(measured.losses(Cell(name, b))) for b in (small, full))
        for name in names
    )
    hurt = statistics.fmean(found.effects) >= _MARGIN
    # What a batch costs is more than what is seen of it where the full one is at the floor, and
    # less where the small one is.
    higher, lower = (small, full) if hurt else (full, small)
    return dataclasses.replace(
        found,
        censored=_at_the_floor(
            measured.losses(Cell(method, higher)),
            *(measured.losses(Cell(name, lower)) for name in _FIRST_ORDER),
        ),
        finding=f"log loss of all {full} examples after {measured.evaluations} gradients, batch "
        f"size {small} less the full batch, {method} less {first}; shares of the initial loss left "
        f"at both: {ends}",
        doubts=_doubts(measured, cells),
    )


def _thousands(measured: _Measured, method: str) -> Evidence:
    """What the best batch of about a thousand examples or fewer loses to the full one.

    That too small a batch loses more must be so of every size; that it does not, of the one that
    the tuning seeds chose. A size that is more than half of the data is nearly the full batch, and
    is not chosen.
    """
    sizes, full = measured.sizes, measured.sizes[-1]
    cells = [Cell(method, size) for size in sizes]
    blank = _blank(_THOUSANDS, method, 0.0)

    def find() -> Contest:
        if measured.count < _MANY:
            raise UntestableError(
                f"the training split has {measured.count} examples, fewer than {_MANY}; give a "
                "larger data set"
            )
        of_full = measured.losses(cells[-1])
        excess = {
            cell.size: tuple(loss - _GOOD for loss in differences(measured.losses(cell), of_full))
            for cell in cells[:-1]
        }
        half = [cell for cell in cells if 2 * cell.size <= full]
        chosen_size = min(half, key=lambda cell: measured.tuned(cell)[1]).size
        rivals = tuple(excess[size] for size in excess if size != chosen_size)
        return Contest(chosen_size, full, excess[chosen_size], rivals=rivals)

    found = told(dataclasses.replace(blank, finding="{one}"), find)
    if found.untestable:
        return found
    logs = [measured.losses(cell) for cell in cells]
    needed = smallest_good(sizes, [statistics.fmean(values) for values in logs])
    ends = ", ".join(f"{_typical(v)} at {size}" for v, size in zip(logs, sizes, strict=True))
    enough = statistics.fmean(found.effects) < 0
    return dataclasses.replace(
        found,
        finding=f"{method}: log loss of all {full} examples after {measured.evaluations} gradients "
        f"with a batch of {found.finding}, chosen by other seeds, over the full batch's, less log "
        f"1.1; by the means a batch of {needed:.0f} comes within 10 %; shares of the initial loss "
        f"left: {ends}",
        censored=_at_the_floor(logs[-1]) if enough else 0,
    )


def _blank(claim: str, method: str, margin: float) -> Evidence:
    return Evidence(
        claim,
        effects=(),
        margin=margin,
        unit="log ratio",
        axis="gradient evaluations",
        policy="tuned",
        finding="",
        part=method,
    )


def _at_the_floor(*cells: Sequence[float]) -> int:
    """Number of seeds of which some loss is below what counts, so that it is only a bound."""
    return sum(min(logs) <= math.log(_REACHED) for logs in zip(*cells, strict=True))


def _doubts(measured: _Measured, cells: Sequence[Cell]) -> tuple[str, ...]:
    doubts = (measured.tuned(cell)[0].doubt for cell in cells)
    return tuple(doubt for doubt in doubts if doubt)


def _typical(logs: Sequence[float]) -> str:
    return f"{math.exp(statistics.fmean(logs)):.1%}"


def smallest_good(sizes: Sequence[int], losses: Sequence[float]) -> float:
    """The batch size from which on the loss is at most 10 % above that of the full batch.

    Interpolated in the logs of both; the smallest size where all are good.

    Args:
        sizes: Batch sizes, ascending; the last is the full batch.
        losses: Log of the loss at each.
    """
    excess = [loss - losses[-1] for loss in losses]
    last = next((i for i in reversed(range(len(sizes))) if excess[i] > _GOOD), None)
    if last is None:
        return float(sizes[0])
    share = (excess[last] - _GOOD) / (excess[last] - excess[last + 1])
    return float(sizes[last] * (sizes[last + 1] / sizes[last]) ** share)


def losses_at_the_end(
    task: TaskContext,
    *,
    configuration: Configuration,
    runs: Sequence[tuple[str, int, int]],
    evaluations: int,
    seed: int,
    most_examples: int = _MOST_EXAMPLES,
) -> tuple[float, ...]:
    """Inside the process that trains: the loss of all examples before, and after each run.

    Args:
        task: Model and data.
        configuration: What the model is built with.
        runs: The optimizer, the batch size and what was tuned for them; see TunedNumber.
        evaluations: Gradients of one batch that each may take.
        seed: Of the initial weights and the batches.
        most_examples: The first so many stand for the whole data.

    Raises:
        InputError: The gradient cannot be measured, or the loss is not positive.
    """
    model, examples = model_and_examples(task, configuration, seed=seed, most=most_examples)
    loss = FlatLoss(model, examples, heartbeat=task.heartbeat_or_stop)
    before = loss(loss.start)[0]
    if before <= 0:
        raise InputError("the loss is not positive, so that no ratio of two can be taken")
    found = []
    for method, size, value in runs:
        batches = batches_of(loss.count, size, np.random.default_rng(seed))
        minimize = _minimizer(method, value)
        found.append(loss(minimize(loss, loss.start, batches, evaluations))[0])
    return (before, *found)


LossAndGradient = Callable[[Vector, Indices], tuple[float, Vector]]
Minimizer = Callable[[LossAndGradient, Vector, Iterator[Indices], int], Vector]


def _minimizer(method: str, value: int) -> Minimizer:
    if method in _FIRST_ORDER:
        rate = _FIRST_ORDER[method] * 2.0**value
        step = {"SGD": descend, "Adam": adam, "Adagrad": adagrad}[method]
        return lambda loss, start, batches, most: step(loss, start, batches, most, rate=rate)
    return lambda loss, start, batches, most: on_batches(
        loss, start, batches, most, method=_SECOND_ORDER[method], iterations=value
    )


def batches_of(count: int, size: int, generator: np.random.Generator) -> Iterator[Indices]:
    """Batches without end, each example once before any is drawn again; none is short."""
    while True:
        order = generator.permutation(count)
        yield from (order[first : first + size] for first in range(0, count - size + 1, size))


def descend(
    loss: LossAndGradient,
    weights: Vector,
    batches: Iterator[Indices],
    evaluations: int,
    *,
    rate: float,
) -> Vector:
    """Plain descent."""
    for _ in range(evaluations):
        weights = weights - rate * loss(weights, next(batches))[1]
    return weights


def adam(
    loss: LossAndGradient,
    weights: Vector,
    batches: Iterator[Indices],
    evaluations: int,
    *,
    rate: float,
) -> Vector:
    """Kingma & Ba 2015, algorithm 1, with their decays."""
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    for update in range(1, evaluations + 1):
        gradient = loss(weights, next(batches))[1]
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        mean, square = first / (1 - 0.9**update), second / (1 - 0.999**update)
        weights = weights - rate * mean / (np.sqrt(square) + 1e-8)
    return weights


def adagrad(
    loss: LossAndGradient,
    weights: Vector,
    batches: Iterator[Indices],
    evaluations: int,
    *,
    rate: float,
) -> Vector:
    """Duchi et al. 2011, with a diagonal matrix."""
    squares = np.zeros_like(weights)
    for _ in range(evaluations):
        gradient = loss(weights, next(batches))[1]
        squares += gradient**2
        weights = weights - rate * gradient / (np.sqrt(squares) + 1e-8)
    return weights


class _SpentError(Exception):
    """All evaluations are used up, within a line search."""


def on_batches(
    loss: LossAndGradient,
    start: Vector,
    batches: Iterator[Indices],
    evaluations: int,
    *,
    method: str,
    iterations: int,
) -> Vector:
    """SciPy's minimizer, some iterations on each batch; what a line search ends at counts."""
    from scipy import optimize

    spent, weights = 0, start

    def accepted(found: Vector) -> None:
        nonlocal weights
        weights = found.copy()

    while spent < evaluations:
        batch = next(batches)

        def counted(tried: Vector, batch: Indices = batch) -> tuple[float, Vector]:
            nonlocal spent
            if spent == evaluations:
                raise _SpentError
            spent += 1
            return loss(tried, batch)

        # Nothing but the number of iterations or of evaluations is to end it.
        options = {"maxiter": iterations, "gtol": _NOTHING}
        if method == "L-BFGS-B":
            options |= {"ftol": 0.0, "maxfun": evaluations}
        try:
            optimize.minimize(
                counted, weights, method=method, jac=True, callback=accepted, options=options
            )
        except _SpentError:
            break
    return weights
