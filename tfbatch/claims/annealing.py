"""X7: noise early and late, by trainings that branch: one trunk, and what may come after it.

Every arm is a course of a batch size and a constant rate up to some example, then others, and all
that are compared see the same examples. The noise of an update is in proportion to rate / B (Smith
et al. 2018), so that it falls alike where the rate is divided by 5 and where the batch is
multiplied by it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from tfbatch.claims._claim import Claim, Evidence, UntestableError
from tfbatch.claims._court import Run, Training
from tfbatch.claims._pairs import Contest, contest, differences, told
from tfbatch.claims.steps_to_target import SUCCESS_MARGIN
from tfbatch.errors import InputError

if TYPE_CHECKING:
    from tfbatch.claims._batch_size_study import BatchSizeStudy
    from tfbatch.claims._court import Court
    from tfbatch.claims._preset import Purpose
    from tfbatch.configuration import Configuration
    from tfbatch.training.context import TaskContext

CARD = "X7"
TITLE = "noise early and late: branches of one training"
ORDER = 75.0
CLAIMS: tuple[Claim, ...] = ()
FACTOR = 5
"""The rate is divided by it, or the batch multiplied, at each drop."""
DROPS = (0.3, 0.6, 0.8)
"""Where in the training, as Smith et al. 2018 do for wide residual nets."""
_STARTS = (1.0, 2.0)
"""A falling rate begins at so many times the best constant one."""
_PURPOSES: tuple[Purpose, Purpose] = ("verdict", "tuning")
_NOISE = 4
"""The batch and the rate of C39 and C40 change by it."""
_NOISY = (8, 4, 2)
"""The rate of a noisy plateau over the best constant one: the highest at which runs learn."""
_LENGTHS = (1, 2, 4, 8)
"""A plateau is looked for up to so many times the length of a training."""
_LAST_PART = 2 / 3
"""A training is at rest where its metric changes by less than the margin from here on."""
_BRANCH = 0.5
"""Length of what follows a plateau, in trainings."""
_SECONDS = 5.0
_PRODUCTS = 30


@dataclasses.dataclass(frozen=True)
class Leg:
    """A part of a course.

    Attributes:
        until: Where it ends, in examples from the beginning of the training.
        size: Batch size.
        rate: Learning rate.
    """

    until: int
    size: int
    rate: float


Course = tuple[Leg, ...]


class _Branches:
    """Trains courses.

    Args:
        court: Trains.
    """

    def __init__(self, court: Court):
        self._court = court
        self.study: BatchSizeStudy = court.study
        self.examples = court.workload.examples

    def runs(self, course: Course, purpose: Purpose = "verdict") -> list[Run]:
        """One for each seed."""
        seeds = self._court.seeds(purpose, self._court.preset.count(purpose))
        return self._court.train([self._training(course, seed) for seed in seeds])

    def scores(self, course: Course, purpose: Purpose = "verdict") -> list[float]:
        """The objective at the end of each."""
        return [run.score_at(course[-1].until) for run in self.runs(course, purpose)]

    def _training(self, course: Course, seed: int) -> Training:
        parent: Training | None = None
        for number, leg in enumerate(course, 1):
            configuration = self.study.configuration(leg.size, leg.rate)
            is_trunk = number < len(course)
            parent = Training(configuration, leg.until, seed, parent=parent, is_trunk=is_trunk)
        if parent is None:
            raise InputError("A course must have at least one leg. Received: none.")
        return parent

    def constant(self, size: int, rate: float) -> Course:
        """The same from the beginning to the end."""
        return (Leg(self.examples, size, rate),)

    def in_drops(self, size: int, rate: float, *, by_size: bool = False) -> Course:
        """The rate falls, or the batch grows, by the same factor in steps."""
        ends = [round(share * self.examples) for share in (*DROPS, 1.0)]
        factors = [FACTOR**number for number in range(len(ends))]
        return tuple(
            Leg(end, size * factor, rate) if by_size else Leg(end, size, rate / factor)
            for end, factor in zip(ends, factors, strict=True)
        )

    def rest(self, size: int, rate: float, length: int, *, premise: str) -> int:
        """The examples after which a training is at rest where it should not be, by tuning seeds.

        Args:
            size: Batch size.
            rate: Learning rate.
            length: The shortest training.
            premise: What is said of a training that rests where B0 does not.

        Raises:
            UntestableError: A run diverges, its metric still changes at the end of the longest, or
                B0's best constant rate ends no better.
        """
        base, margin = self.study.base, self.study.margin
        best = statistics.fmean(self.study.scores(base, "tuned", "epochs", "tuning"))
        for times in _LENGTHS:
            runs = self.runs((Leg(times * length, size, rate),), "tuning")
            if lost := sum(run.is_lost_at(times * length) for run in runs):
                raise UntestableError(
                    f"at batch size {size} and the rate {rate:.3g} {lost} of {len(runs)} runs "
                    "diverge, and one that diverged is not at rest"
                )
            if abs(statistics.fmean(map(self.gain_at_the_end, runs))) < margin:
                break
        else:
            raise UntestableError(
                f"at batch size {size} the metric still changes after {_LENGTHS[-1] * length} "
                "examples: there is no plateau to branch from; give a longer --trial_length"
            )
        found = statistics.fmean(run.score_at(times * length) for run in runs)
        if found > best - margin:
            raise UntestableError(
                f"batch size {size} comes to rest at {abs(found):.3g} with the rate {rate:.3g}, no "
                f"worse than {abs(best):.3g} of {base} with its best constant one: {premise}"
            )
        return times * length

    @staticmethod
    def gain_at_the_end(run: Run) -> float:
        """How far its metric has risen in its last part."""
        end = run.training.examples
        return run.score_at(end) - run.score_at(_LAST_PART * end)


def collect(court: Court) -> Iterator[Evidence]:
    """See tfbatch.claims.Card."""
    branches = _Branches(court)
    if court.asks("noise-early-low-rate-late"):
        yield _decay(court, branches, "noise-early-low-rate-late", court.study.base, part="end")
        yield _early(court, branches)
    if court.asks("noisy-so-raise-or-decay"):
        yield from _noisy_plateau(court, branches)
    if court.asks("large-early"):
        yield _orders(court, branches)
    if court.asks("decay-is-annealing"):
        yield _decay(court, branches, "decay-is-annealing", court.study.small, part="decay")
        yield _growth(court, branches)
    if court.asks("stuck-so-reduce"):
        yield _plateau_of_a_large_batch(court, branches)
    if court.asks("large-stays-at-bad-optima"):
        yield _stuck(court, branches)  # last: it measures


def _evidence(
    court: Court,
    claim: str,
    part: str,
    finding: str,
    sizes: Sequence[int],
    *,
    doubts: Sequence[str] = (),
) -> Evidence:
    """Without effects; rates are the best constant ones for the epochs."""
    return Evidence(
        claim,
        effects=(),
        margin=court.study.margin,
        unit="of the metric",
        axis="epochs",
        policy="tuned",
        finding=finding,
        part=part,
        doubts=(*court.study.doubts("tuned", "epochs", sizes), *doubts),
    )


def _decay(court: Court, branches: _Branches, claim: str, size: int, *, part: str) -> Evidence:
    """A falling rate against constant ones; it may begin at more than the best of these.

    That a lower constant rate would have done as well is what a decay is doubted for.
    """
    best = court.study.rate(size, "tuned", "epochs").value
    falling = {f"from {x * best:.3g}": branches.in_drops(size, x * best) for x in _STARTS}
    constant = {f"{x * best:.3g}": branches.constant(size, x * best) for x in (1.0, 0.5)}
    blank = _evidence(
        court,
        claim,
        part,
        f"batch size {size}: the metric with a rate that falls {{one}} by {FACTOR} at "
        f"{', '.join(f'{share:.0%}' for share in DROPS)} of the training, less that at the "
        "constant rate {other}, both chosen by other seeds",
        (size,),
    )
    return _best_against_best(branches, blank, falling, constant)


def _best_against_best(
    branches: _Branches, blank: Evidence, ones: Mapping[str, Course], others: Mapping[str, Course]
) -> Evidence:
    """The evidence with the best of some courses against the best of others; see `contest`.

    Args:
        branches: Trains.
        blank: Without effects; its finding names the two courses as `{one}` and `{other}`.
        ones: Those that the claim says are better, by name.
        others: Those that it compares them with.
    """
    courses = {**ones, **others}
    names = list(courses)

    def find() -> Contest:
        judging, choosing = (
            {number: branches.scores(courses[name], purpose) for number, name in enumerate(names)}
            for purpose in _PURPOSES
        )
        split = len(ones)
        return contest(judging, choosing, range(split), range(split, len(names)))

    found = told(dataclasses.replace(blank, finding="{one} {other}"), find)
    if found.untestable:
        return found
    one, other = (names[int(number)] for number in found.finding.split())
    return dataclasses.replace(found, finding=blank.finding.format(one=one, other=other))


def _growth(court: Court, branches: _Branches) -> Evidence:
    """A growing batch less a falling rate."""
    study = court.study
    size = study.small
    rate = study.rate(size, "tuned", "epochs").value
    grown = size * FACTOR ** len(DROPS)
    blank = _evidence(
        court,
        "decay-is-annealing",
        "growth",
        f"the metric with a batch that grows from {size} to {grown} at the rate {rate:.3g}, less "
        "that with a rate that falls by the same factors",
        (size,),
    )

    def find() -> Contest:
        if grown > max(study.large, court.workload.num_examples // 2):
            raise UntestableError(
                f"a batch that grows from {size} by {FACTOR} three times is {grown}, more than "
                "half of the training examples; give a smaller --baseline=batch_size"
            )
        growing, falling = (
            branches.scores(branches.in_drops(size, rate, by_size=by_size))
            for by_size in (True, False)
        )
        return Contest(size, grown, differences(growing, falling))

    return told(blank, find)


def _early(court: Court, branches: _Branches) -> Evidence:
    """The metric at the first drop, with the noise of the batch and with a fifth of it."""
    size = court.study.base
    rate = court.study.rate(size, "tuned", "epochs").value
    until = round(DROPS[0] * branches.examples)
    blank = _evidence(
        court,
        "noise-early-low-rate-late",
        "early",
        f"the metric after {DROPS[0]:.0%} of the training at batch size {size} and the best "
        f"constant rate, less that at a {FACTOR}th of the rate, and at {FACTOR} times the batch",
        (size,),
    )
    blank = dataclasses.replace(blank, every=True)  # either one has less noise

    def find() -> Contest:
        # A training that ends there, as the others do: it is evaluated there too.
        noisy = branches.scores((Leg(until, size, rate),))
        low = branches.scores((Leg(until, size, rate / FACTOR),))
        large = branches.scores((Leg(until, _within(court, FACTOR * size), rate),))
        return Contest(size, size, differences(noisy, low), rivals=(differences(noisy, large),))

    return told(blank, find)


def _within(court: Court, size: int) -> int:
    """A size that the data allows.

    Raises:
        UntestableError: It is more than half of the data.
    """
    most = max(court.study.large, court.workload.num_examples // 2)
    if size > most:
        raise UntestableError(
            f"a batch of {size} is more than half of the training examples; give a smaller "
            "--baseline=batch_size"
        )
    return size


def _noisy_plateau(court: Court, branches: _Branches) -> Iterator[Evidence]:
    """From a plateau at a high rate: a larger batch, a lower rate, and no change."""
    study = court.study
    size = study.base

    @functools.cache
    def arms() -> tuple[float, int, dict[str, list[float]]]:
        larger = _within(court, _NOISE * size)
        rate = _noisy_rate(court, branches)
        until = branches.rest(
            size, rate, branches.examples, premise="its noise is not what is excessive"
        )
        trunk = Leg(until, size, rate)
        end = trunk.until + round(_BRANCH * branches.examples)
        ends = {
            "batch": Leg(end, larger, rate),
            "rate": Leg(end, size, rate / _NOISE),
            "nothing": Leg(end, size, rate),
        }
        lost = sum(run.is_lost_at(until) for run in branches.runs((trunk, ends["nothing"])))
        return rate, lost, {name: branches.scores((trunk, leg)) for name, leg in ends.items()}

    for part, one, other, says in (
        ("batch", "batch", "nothing", f"with {_NOISE} times the batch less without a change"),
        ("rate", "rate", "nothing", f"with a rate divided by {_NOISE} less without a change"),
        ("alike", "batch", "rate", f"with {_NOISE} times the batch less with a rate divided by it"),
    ):

        def find(one: str = one, other: str = other) -> Contest:
            *_, scores = arms()
            return Contest(size, size, differences(scores[one], scores[other]))

        where, doubts = "", []
        with contextlib.suppress(UntestableError):  # `told` says why
            rate, lost, _ = arms()
            where = f"at the rate {rate:.3g}"
            if lost:  # all of its branches are worth the untrained model, and alike
                doubts = [f"{lost} of {court.preset.seeds} runs diverge before the branches begin"]
        finding = f"from a plateau at batch size {size} {where}, the metric {says}"
        blank = _evidence(court, "noisy-so-raise-or-decay", part, finding, (size,), doubts=doubts)
        yield told(blank, find)


def _noisy_rate(court: Court, branches: _Branches) -> float:
    """The highest rate of those above the best constant one at which every tuning run learns.

    Raises:
        UntestableError: There is none.
    """
    size = court.study.base
    best = court.study.rate(size, "tuned", "epochs").value
    for factor in _NOISY:
        runs = branches.runs(branches.constant(size, factor * best), "tuning")
        if all(run.score_at(branches.examples) > run.scores[0] for run in runs):
            return factor * best
    raise UntestableError(
        f"at batch size {size} not every run learns at {_NOISY[-1]} times the best constant rate "
        f"{best:.3g}: there is no rate whose noise is excessive and that still trains"
    )


def _plateau_of_a_large_batch(court: Court, branches: _Branches) -> Evidence:
    """From a plateau at the largest batch: a quarter of it, and no change."""
    study = court.study
    size = study.large
    rate = study.rate(size, "tuned", "updates")
    blank = _evidence(
        court,
        "stuck-so-reduce",
        "",
        f"from a plateau at batch size {size} and the rate {rate.value:.3g}, the metric with a "
        f"batch of {size // _NOISE} less without a change",
        (),
        doubts=rate.doubts,
    )

    def find() -> Contest:
        study.apart(study.base, size)
        until = branches.rest(
            size, rate.value, study.length(size), premise="it does not lack noise"
        )
        trunk = Leg(until, size, rate.value)
        end = trunk.until + round(_BRANCH * study.length(size))
        reduced, same = (
            branches.scores((trunk, Leg(end, each, rate.value))) for each in (size // _NOISE, size)
        )
        return Contest(size // _NOISE, size, differences(reduced, same))

    return told(blank, find)


def _orders(court: Court, branches: _Branches) -> Evidence:
    """Large first, against small first, and against one size from beginning to end.

    Each size has its best constant rate, or the rate of B0 all along: a rate that follows the size
    is part of the order, so that both are among what the claim could mean and among its rivals.
    """
    study = court.study
    base, half, end = study.base, branches.examples // 2, branches.examples
    large = [size for size in study.sizes if size > base]
    sizes = (base, *large)
    rates = {size: study.rate(size, "tuned", "epochs").value for size in sizes}
    others: dict[str, Course] = {f"{base} alone": branches.constant(base, rates[base])}
    first: dict[str, Course] = {}
    for size in large:
        others[f"{size} alone"] = branches.constant(size, rates[size])
        for rate, how in ((rates[size], "its best rate"), (rates[base], f"the rate of {base}")):
            others[f"{base}, then {size} at {how}"] = (
                Leg(half, base, rates[base]),
                Leg(end, size, rate),
            )
            first[f"{size} at {how}, then {base}"] = (
                Leg(half, size, rate),
                Leg(end, base, rates[base]),
            )
    blank = _evidence(
        court,
        "large-early",
        "",
        "the metric with {one} less that with {other}, both chosen by other seeds",
        sizes,
    )
    if not large:
        return told(blank, lambda: Contest(*study.apart(base, study.large), ()))
    return _best_against_best(branches, blank, first, others)


def _stuck(court: Court, branches: _Branches) -> Evidence:
    """Share of runs that have come to rest below the target: the largest size less the smallest.

    The smallest that is evaluated by then: what is earlier is a straight line, which never rests.
    """
    study = court.study
    ends = (study.read_at("updates")[0], study.large)
    rates = {size: study.rate(size, "tuned", "updates").value for size in ends}
    blank = dataclasses.replace(
        _evidence(court, "large-stays-at-bad-optima", "training", "", ()),
        margin=SUCCESS_MARGIN,
        unit="share",
        axis="updates",
        doubts=(
            *study.doubts("tuned", "updates", ends),
            *study.doubts("tuned", "target", (study.base,), of_success=True),
        ),
    )

    def stuck(size: int) -> list[float]:
        until = study.examples_of(size, "updates")
        found = []
        for run in study.runs(size, rates[size]):
            end, before = run.score_at(until), run.score_at(_LAST_PART * until)
            rests = not run.diverged and abs(end - before) < study.margin
            found.append(float(rests and end < study.target))
        return found

    def find() -> Contest:
        small, large = study.apart(*ends)
        return Contest(large, small, differences(stuck(large), stuck(small)))

    found = told(blank, find)
    if found.untestable:
        return found
    large = study.large
    seeds = court.seeds("verdict", court.preset.seeds)
    updates = round(study.examples_of(large, "updates") / large)
    cases = [
        {
            "configuration": study.configuration(large, rates[large]),
            "trained_steps": updates,
            "seed": seed,
        }
        for seed in seeds
    ]
    finding = (
        f"share of runs at rest below the target {study.target:.3g} after the same updates, batch "
        f"size {large} less {ends[0]}"
    )
    try:
        spectra = court.measure_each(ends_of_the_spectrum, cases, seconds=_SECONDS)
    except (InputError, UntestableError) as error:
        return dataclasses.replace(found, finding=f"{finding}; the Hessian is not known: {error}")
    smallest, ratio = _typical(spectra)
    return dataclasses.replace(
        found,
        finding=f"{finding}; the smallest eigenvalue of the Hessian at {large} is {smallest:.2g}, "
        f"{ratio:.0%} of the largest in magnitude (medians)",
    )


def _typical(spectra: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Medians of the smallest eigenvalue, and of its share of the largest one."""
    smallest = statistics.median(low for low, _ in spectra)
    return smallest, statistics.median(low / max(abs(low), abs(high)) for low, high in spectra)


def ends_of_the_spectrum(
    task: TaskContext, configuration: Configuration, *, trained_steps: int, seed: int
) -> tuple[float, float]:
    """Inside the process that trains: the smallest and the largest eigenvalue of the Hessian.

    Raises:
        InputError: The Hessian cannot be measured.
    """
    from tfbatch.instruments.curvature import CurvatureSettings, measure_curvature_of
    from tfbatch.instruments.weights_and_examples import Weights

    found = measure_curvature_of(
        task,
        configuration,
        Weights(trained_steps, seed=seed),
        CurvatureSettings(most_products=_PRODUCTS, trace_products=2),
    ).eigenvalues
    return found.smallest.value, found.largest.value
