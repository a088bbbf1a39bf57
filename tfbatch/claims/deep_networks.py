"""X10: from which batch size on deep networks begin to converge, at the same rates.

AlexNet, GoogLeNet and VGG-16 as in tfbatch/models, without normalization, see the user's images,
shrunk to 32 pixels. The rates are the papers' 0.01, with momentum 0.9, and 4 times less and more.
A network has begun to converge where the training loss stays below 0.9 log(classes) for three
evaluations: a loss of log(classes) is that of knowing nothing.

Two budgets. After the same updates the smallest batch size is sought that has begun, at each rate:
a larger one has seen more examples by then. After the same examples the failures of batch sizes 4
and 32 are counted, at the papers' rate.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from tfbatch.claims._claim import Claim, Evidence, UntestableError
from tfbatch.claims._pairs import differences
from tfbatch.claims.steps_to_target import SUCCESS_MARGIN
from tfbatch.errors import InputError

if TYPE_CHECKING:
    from tfbatch.claims._court import Court
    from tfbatch.claims._preset import Purpose
    from tfbatch.claims._small_training import SmallTraining
    from tfbatch.training.context import TaskContext

CARD = "X10"
TITLE = "from which batch size on deep networks begin to converge"
ORDER = 100.0
CLAIMS: tuple[Claim, ...] = ()
NETWORKS = ("alexnet", "googlenet", "vgg")
SHALLOW, DEEP = NETWORKS[:2]
RATES = (0.0025, 0.01, 0.04)
PAPERS = 0.01
USUAL = 32
"""The batch size at which the claim sees the two networks differ."""
_OCTAVE = 1.0
_SMALLEST = 4
_LARGEST = {"tiny": 64, "small": 512, "full": 512}
_UPDATES = {"tiny": 100, "small": 400, "full": 2000}
_EVALUATIONS = 20
"""Of a training of so many updates."""
_LEARNED = 0.9
_KEPT = 3
_SIDE = 32
_MOST_EXAMPLES = 2048
_EVALUATED = 128
_HOPELESS = 3.0
"""Times log(classes): a loss above has diverged."""
_SECONDS = 20.0
"""Of a case with 100 updates, about."""


@dataclasses.dataclass(frozen=True)
class Start:
    """A training of a network, until it has begun to converge or its budget is used up.

    Attributes:
        rate: The learning rate.
        size: The batch size.
        updates: After which it had begun; None where it did not.
    """

    rate: float
    size: int
    updates: int | None

    def within(self, updates: float) -> bool:
        """Whether it had begun after so many updates."""
        return self.updates is not None and self.updates <= updates


Starts = Mapping[str, Sequence[Sequence[Start]]]
"""Of each network, for each seed, all its trainings."""


def collect(court: Court) -> Iterator[Evidence]:
    """See tfbatch.claims.Card."""
    sizes, updates = sizes_of(court), _UPDATES[court.preset.name]
    purposes: tuple[Purpose, ...] = ("tuning", "verdict")
    cells = [
        (purpose, network, seed)
        for purpose in purposes
        for seed in court.seeds(purpose, court.preset.count(purpose))
        for network in NETWORKS
    ]
    cases = [
        {"network": network, "sizes": sizes, "updates": updates, "seed": seed}
        for _, network, seed in cells
    ]
    why, tables = "", {purpose: _empty() for purpose in purposes}
    try:
        found = court.measure_each(starts_of, cases, seconds=_SECONDS * updates / 100)
    except (InputError, UntestableError) as error:
        why = str(error)
    else:
        for (purpose, network, _), starts in zip(cells, found, strict=True):
            tables[purpose][network].append(starts)
    if court.asks("deeper-needs-larger"):
        yield _deeper(tables["verdict"], tables["tuning"], sizes, updates, why)
    if court.asks("too-small-unstable"):
        yield _unstable(tables["verdict"], tables["tuning"], updates, why)


def _empty() -> dict[str, list[tuple[Start, ...]]]:
    return {network: [] for network in NETWORKS}


def sizes_of(court: Court) -> tuple[int, ...]:
    """Powers of two from 4 on, as far as the preset and half of the data go; 32 is one of them."""
    most = min(_LARGEST[court.preset.name], max(USUAL, court.workload.num_examples // 2))
    return tuple(2**n for n in range(int(math.log2(_SMALLEST)), int(math.log2(most)) + 1))


def starts_of(
    task: TaskContext, *, network: str, sizes: Sequence[int], updates: int, seed: int
) -> tuple[Start, ...]:
    """Inside the process that trains: from the smallest size up to the first that begins in time.

    At the papers' rate the smallest size is given as many examples as 32 has, which is always
    tried. Of VGG this is all.

    Args:
        task: Holds the data.
        network: A model of tfbatch/models.
        sizes: Ascending.
        updates: The budget.
        seed: Of weights, dropout and order.

    Raises:
        InputError: The data is not images with one class each.
    """
    import tensorflow as tf

    from tfbatch.claims._small_training import SmallTraining, labeled_images, seeded
    from tfbatch.models import MODELS

    images, labels, classes = labeled_images(task, most=_MOST_EXAMPLES, side=_SIDE)
    with seeded(seed):
        model = MODELS.load(network).build(tuple(images.shape[1:]), classes)
    training = SmallTraining(
        model,
        lambda y, logits: tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits),
        tf.constant(images),
        tf.constant(labels),
    )

    def start(rate: float, size: int, longest: int) -> Start:
        every = max(1, updates // _EVALUATIONS)
        found = first_start(
            training, math.log(classes), rate, size, longest, every, seed, task.heartbeat_or_stop
        )
        return Start(rate, size, found)

    found = [start(PAPERS, sizes[0], updates * USUAL // sizes[0]), start(PAPERS, USUAL, updates)]
    for rate in RATES if network in (SHALLOW, DEEP) else ():
        known = {one.size: one for one in found if one.rate == rate}
        for size in sizes:
            one = known.get(size) or start(rate, size, updates)
            if size not in known:
                found.append(one)
            if one.within(updates):
                break
    return tuple(found)


def first_start(
    training: SmallTraining,
    chance: float,
    rate: float,
    size: int,
    longest: int,
    every: int,
    seed: int,
    heartbeat: Callable[[], None],
) -> int | None:
    """Updates after which a training from the initial weights has begun to converge, or None.

    Args:
        training: The network and its examples.
        chance: Loss of knowing nothing.
        rate: The learning rate.
        size: The batch size.
        longest: Updates at most.
        every: So many updates lie between two evaluations.
        seed: Of the order.
        heartbeat: Called at each evaluation.
    """
    from tfbatch.claims._small_training import batches

    count = training.examples
    looked_at, order = range(min(_EVALUATED, count)), batches(count, size, seed)
    training.restart()
    below = 0
    for update in range(1, longest + 1):
        training.step(next(order), rate)
        if update % every:
            continue
        heartbeat()
        loss = training.loss(looked_at)
        if not loss < _HOPELESS * chance:  # not a number either
            return None
        below = below + 1 if loss < _LEARNED * chance else 0
        if below == _KEPT:
            return update
    return None


def _deeper(
    verdict: Starts, tuning: Starts, sizes: Sequence[int], updates: int, why: str
) -> Evidence:
    blank = Evidence(
        "deeper-needs-larger",
        effects=(),
        margin=_OCTAVE,
        unit="octaves",
        axis="updates",
        policy="fixed",
        finding="",
        untestable=why,
    )
    if why:
        return blank
    usable = [rate for rate in RATES if _is_usable(tuning, rate, updates)]
    if not usable:
        rates = ", ".join(map(str, RATES))
        why = (
            f"neither {SHALLOW} nor {DEEP} begins to converge in {updates} updates at the rates "
            f"{rates} and any batch size up to {sizes[-1]}; take a larger --preset"
        )
        return dataclasses.replace(blank, untestable=why)
    gaps = {rate: gap_in_octaves(verdict, rate, sizes, updates) for rate in usable}
    both = [r for r in usable if not _never_begin(tuning, (SHALLOW, DEEP), r, sizes, updates)]
    chosen = max(
        both or usable, key=lambda r: statistics.fmean(gap_in_octaves(tuning, r, sizes, updates))
    )
    tuned = statistics.fmean(tuned_gap(verdict, tuning, sizes, updates))
    return dataclasses.replace(
        blank,
        effects=gaps[chosen],
        alternatives=tuple(gaps[rate] for rate in usable if rate != chosen),
        finding=f"smallest batch size at which {DEEP} begins to converge within {updates} updates "
        f"over that of {SHALLOW}, in octaves, at the rate {chosen:g}, chosen by other seeds; their "
        f"medians are {_median(verdict[DEEP], chosen, sizes, updates)} and "
        f"{_median(verdict[SHALLOW], chosen, sizes, updates)}; at each one's best rate the mean "
        f"gap is {tuned:.1f} octaves",
        censored=_bounds(verdict, chosen, usable, sizes, updates),
    )


def smallest_start(
    starts: Sequence[Start], rate: float, sizes: Sequence[int], updates: int
) -> int | None:
    """The smallest batch size at which a network begins to converge in time; None for none."""
    return min(
        (s.size for s in starts if s.rate == rate and s.within(updates) and s.size in sizes),
        default=None,
    )


def gap_in_octaves(
    table: Starts, rate: float, sizes: Sequence[int], updates: int
) -> tuple[float, ...]:
    """Octaves between the smallest starting sizes of the two networks, seed by seed.

    A network that begins nowhere counts as if it did at twice the largest size, a bound.
    """
    deep, shallow = (_octaves(table[network], rate, sizes, updates) for network in (DEEP, SHALLOW))
    return differences(deep, shallow)


def tuned_gap(
    verdict: Starts, tuning: Starts, sizes: Sequence[int], updates: int
) -> tuple[float, ...]:
    """The same where each network has the rate with which it begins at the smallest size."""

    def tuned(network: str) -> list[float]:
        def mean(rate: float) -> float:
            return statistics.fmean(_octaves(tuning[network], rate, sizes, updates))

        return _octaves(verdict[network], min(RATES, key=mean), sizes, updates)

    return differences(tuned(DEEP), tuned(SHALLOW))


def _median(seeds: Sequence[Sequence[Start]], rate: float, sizes: Sequence[int], n: int) -> str:
    """The median of the smallest starting sizes, of two the larger; ">64" where that is none."""
    size = round(2 ** statistics.median_high(_octaves(seeds, rate, sizes, n)))
    return str(size) if size <= sizes[-1] else f">{sizes[-1]}"


def _octaves(
    seeds: Sequence[Sequence[Start]], rate: float, sizes: Sequence[int], updates: int
) -> list[float]:
    found = [smallest_start(starts, rate, sizes, updates) for starts in seeds]
    return [math.log2(size or 2 * sizes[-1]) for size in found]


def _is_usable(tuning: Starts, rate: float, updates: int) -> bool:
    """Whether in each seed that chooses some size starts one of the two."""
    pairs = zip(tuning[SHALLOW], tuning[DEEP], strict=True)
    return all(
        any(start.rate == rate and start.within(updates) for start in (*one, *other))
        for one, other in pairs
    )


def _bounds(
    table: Starts, chosen: float, usable: Sequence[float], sizes: Sequence[int], updates: int
) -> int:
    """Seeds that do not show what the effects say, for a network begins at no size.

    That a larger batch helps is shown, at the chosen rate, where both begin at some size: one that
    never does may need another rate. That the deep one needs none is not shown where it never
    begins, at any rate.
    """
    if statistics.fmean(gap_in_octaves(table, chosen, sizes, updates)) >= _OCTAVE:
        return _never_begin(table, (SHALLOW, DEEP), chosen, sizes, updates)
    return max(_never_begin(table, (DEEP,), rate, sizes, updates) for rate in usable)


def _never_begin(
    table: Starts, networks: Sequence[str], rate: float, sizes: Sequence[int], updates: int
) -> int:
    """Seeds in which one of the networks begins at no size."""
    seeds = zip(*(table[network] for network in networks), strict=True)
    return sum(
        any(smallest_start(starts, rate, sizes, updates) is None for starts in seed)
        for seed in seeds
    )


def _unstable(verdict: Starts, tuning: Starts, updates: int, why: str) -> Evidence:
    blank = Evidence(
        "too-small-unstable",
        effects=(),
        margin=SUCCESS_MARGIN,
        unit="share",
        axis="epochs",
        policy="fixed",
        finding="",
        part="deep nets",
        untestable=why,
    )
    if why:
        return blank
    examples = updates * USUAL
    # Where neither size begins, nothing is told of the two.
    told = [name for name in NETWORKS if all(map(any, began(tuning[name], examples)))]
    if not told:
        untestable = (
            f"no network begins to converge at batch size {_SMALLEST} or {USUAL} within "
            f"{examples:,} examples at the rate {PAPERS:g}; take a larger --preset"
        )
        return dataclasses.replace(blank, untestable=untestable)
    pairs = {name: began(verdict[name], examples) for name in told}
    seeds = list(zip(*pairs.values(), strict=True))
    listed = ", ".join(
        f"{name} {sum(not small for small, _ in found)} and {sum(not usual for _, usual in found)}"
        for name, found in pairs.items()
    )
    return dataclasses.replace(
        blank,
        effects=tuple(statistics.fmean(usual - small for small, usual in row) for row in seeds),
        finding=f"of {len(seeds)} runs do not begin to converge at batch size {_SMALLEST} and at "
        f"{USUAL}, within the same {examples:,} examples at the rate {PAPERS:g}: {listed}",
        censored=sum(not all(map(any, row)) for row in seeds),
    )


def began(seeds: Sequence[Sequence[Start]], examples: int) -> list[tuple[bool, bool]]:
    """Whether the smallest size, and 32, begin to converge at the papers' rate.

    Args:
        seeds: The trainings of a network.
        examples: The budget.
    """

    def one(starts: Sequence[Start], size: int) -> bool:
        (found,) = (start for start in starts if (start.rate, start.size) == (PAPERS, size))
        return found.within(examples / size)

    return [(one(starts, _SMALLEST), one(starts, USUAL)) for starts in seeds]
