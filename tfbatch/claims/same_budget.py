"""X4: the final metric against batch size, at the same epochs or the same updates.

Each cell has a learning rate of its own: B0's best one for all ("fixed"), that by the optimizer's
rule ("scaled"), or the best one at that size and budget ("tuned", on tuning seeds). The metric is
that of the validation split at the end, never the best epoch, on fresh seeds. A size that is not
evaluated by then is left out: before the first evaluation nothing is known but a straight line.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from tfbatch.claims._batch_size_study import BatchSizeStudy, Budget
from tfbatch.claims._claim import Axis, Claim, Evidence, Policy, UntestableError
from tfbatch.claims._pairs import Contest, contest, differences, falls, told, widest

if TYPE_CHECKING:
    from tfbatch.claims._court import Court
    from tfbatch.configuration import Configuration
    from tfbatch.training.context import TaskContext

CARD = "X4"
TITLE = "the final metric at the same epochs and at the same updates"
ORDER = 40.0
CLAIMS: tuple[Claim, ...] = ()
OSCILLATION_MARGIN = math.log(1.1)
_BUDGETS: tuple[tuple[Budget, Axis], ...] = (("epochs", "epochs"), ("updates", "updates"))
_POLICIES: tuple[Policy, ...] = ("fixed", "scaled", "tuned")
_OF_OPERATIONS = "equal-epochs-equal-work"
_OF_METRICS = (
    "same-epochs-large-is-worse",
    "large-can-match-small",
    "larger-is-more-accurate-direction",
    "large-fast-but-worse-in-use",
    "small-slow-but-better-in-use",
    "bigger-is-better-at-the-same-rate",
    "1000-is-worse-than-100",
    "some-size-best-in-metric",
    "smaller-generalizes-better",
    "size-changes-speed-and-metric",
    "choose-casually",
)
_CASUAL = (60, 64)
_NEAR = 2.0
"""A batch size stands for one within this factor."""
_LATE = 0.5
"""Oscillation is that of the second half of the epochs."""


def collect(court: Court) -> Iterator[Evidence]:
    """See tfbatch.claims.Card."""
    if court.asks(*_OF_METRICS):
        yield from _metrics(court)
    if court.asks(_OF_OPERATIONS):
        yield _operations(court)


def _metrics(court: Court) -> Iterator[Evidence]:
    study = court.study
    study.prefetch(_POLICIES, ("epochs",))
    study.prefetch(("tuned",), ("updates",))
    base, large, small = study.base, study.large, study.small
    for policy in _POLICIES:
        yield _metric(study, "same-epochs-large-is-worse", base, large, policy=policy, part=policy)
    yield _metric(study, "large-can-match-small", large, base)
    yield _metric(study, "large-fast-but-worse-in-use", base, large, part="metric")
    yield _metric(study, "small-slow-but-better-in-use", small, base, part="metric")
    yield _metric(
        study, "bigger-is-better-at-the-same-rate", large, base, policy="fixed", part="metric"
    )
    yield from _hundred_and_thousand(study)
    for budget, axis in _BUDGETS:
        yield from _over_all_sizes(study, budget, axis)
    for claim, one, other in (
        ("larger-is-more-accurate-direction", base, large),
        ("large-fast-but-worse-in-use", base, large),
        ("small-slow-but-better-in-use", small, base),
        ("bigger-is-better-at-the-same-rate", base, large),
    ):
        yield _oscillation(court, claim, one, other)
    yield _casual(court)


def _metric(
    study: BatchSizeStudy,
    claim: str,
    one: int,
    other: int,
    *,
    policy: Policy = "tuned",
    budget: Budget = "epochs",
    part: str = "",
) -> Evidence:
    """The metric at one size less that at another."""
    axis: Axis = "updates" if budget == "updates" else "epochs"

    def find() -> Contest:
        scores = [study.scores(size, policy, budget) for size in study.apart(one, other)]
        return Contest(one, other, differences(*scores))

    blank = Evidence(
        claim,
        effects=(),
        margin=study.margin,
        unit="of the metric",
        axis=axis,
        policy=policy,
        finding="metric at batch size {one} less that at {other}",
        part=part,
        doubts=study.doubts(policy, budget, (one, other)),
    )
    return told(blank, find)


def _hundred_and_thousand(study: BatchSizeStudy) -> Iterator[Evidence]:
    sizes = [min(study.sizes, key=functools.partial(_octaves, n)) for n in (100, 1000)]
    near = all(
        _octaves(n, size) <= math.log2(_NEAR) for n, size in zip((100, 1000), sizes, strict=True)
    )
    cells: tuple[tuple[str, Policy, Budget], ...] = (
        ("fixed", "fixed", "epochs"),
        ("tuned", "tuned", "epochs"),
        ("same updates", "tuned", "updates"),
    )
    for part, policy, budget in cells:
        if near:
            yield _metric(
                study, "1000-is-worse-than-100", *sizes, policy=policy, budget=budget, part=part
            )
        else:
            yield Evidence(
                "1000-is-worse-than-100",
                effects=(),
                margin=study.margin,
                unit="of the metric",
                axis="epochs",
                policy=policy,
                finding="",
                part=part,
                untestable=f"of {', '.join(map(str, study.sizes))} none is near 100 and 1000",
            )


def _octaves(number: int, size: int) -> float:
    return abs(math.log2(size / number))


def _over_all_sizes(study: BatchSizeStudy, budget: Budget, axis: Axis) -> Iterator[Evidence]:
    sizes = study.read_at(budget)
    table = {size: study.scores(size, "tuned", budget) for size in sizes}
    choosing = {size: study.scores(size, "tuned", budget, "tuning") for size in sizes}
    doubts = study.doubts("tuned", budget, sizes)
    unread = [str(size) for size in study.sizes if size not in sizes]
    without = f"; left out, for it is not evaluated so early: {', '.join(unread)}" if unread else ""

    def evidence(claim: str, find: Callable[[], Contest], finding: str, part: str) -> Evidence:
        blank = Evidence(
            claim,
            effects=(),
            margin=study.margin,
            unit="of the metric",
            axis=axis,
            policy="tuned",
            finding=f"{finding}{without}",
            part=part,
            doubts=doubts,
        )
        return told(blank, find)

    def fall() -> Contest:
        return Contest(*study.apart(sizes[0], sizes[-1]), falls(table))

    def spread() -> Contest:
        study.apart(study.small, study.large)
        return widest(table, choosing)

    yield evidence(
        "some-size-best-in-metric",
        lambda: contest(table, choosing, study.between(sizes), (sizes[0], sizes[-1])),
        "metric at batch size {one}, the best within, less that at {other}, the better end; both "
        "chosen by other seeds",
        budget,
    )
    yield evidence(
        "smaller-generalizes-better",
        fall,
        "fall of the fitted metric from batch size {one} to {other}",
        budget,
    )
    if budget == "epochs":
        yield evidence(
            "size-changes-speed-and-metric",
            spread,
            "metric at batch size {one}, the best, less that at {other}, the worst; both chosen by "
            "other seeds",
            "metric",
        )


def _oscillation(court: Court, claim: str, one: int, other: int) -> Evidence:
    """Of the metric in the second half of the epochs, at the same rate."""
    study = court.study
    last = study.examples_of(study.base, "epochs")
    rate = study.rate(study.base, "fixed", "epochs")
    cells = [
        [run.oscillation(_LATE * last, last) for run in study.runs(size, rate.value)]
        for size in (one, other)
    ]
    seen = [(a, b) for a, b in zip(*cells, strict=True) if a is not None and b is not None]
    pairs = [(a, b) for a, b in seen if a and b]
    doubts = list(rate.doubts)
    if missing := len(cells[0]) - len(seen):  # those that are left oscillate least
        doubts.append(
            f"{missing} of {len(cells[0])} pairs diverged or have fewer than four evaluations in "
            "the second half: take a lower --baseline=learning_rate or a longer --trial_length"
        )
    if still := len(seen) - len(pairs):  # of nothing there is no logarithm
        doubts.append(
            f"in {still} of {len(cells[0])} pairs the metric of one does not oscillate at all in "
            "the second half: take another --objective"
        )
    blank = Evidence(
        claim,
        effects=(),
        margin=OSCILLATION_MARGIN,
        unit="log ratio",
        axis="epochs",
        policy="fixed",
        finding="oscillation of the metric at batch size {one} over that at {other}",
        part="oscillation",
        doubts=tuple(doubts),
    )
    effects = tuple(math.log(a / b) for a, b in pairs)
    return told(blank, lambda: Contest(*study.apart(one, other), effects))


def _casual(court: Court) -> Evidence:
    """60 against 64 at the same rate."""
    study = court.study
    rate = study.rate(study.base, "fixed", "epochs")
    last = study.examples_of(study.base, "epochs")

    def find() -> Contest:
        most = court.workload.num_examples
        if most < max(_CASUAL):
            raise UntestableError(f"{most} training examples are fewer than a batch of 64")
        cells = [[run.score_at(last) for run in study.runs(size, rate.value)] for size in _CASUAL]
        return Contest(*_CASUAL, differences(*cells))

    blank = Evidence(
        "choose-casually",
        effects=(),
        margin=study.margin,
        unit="of the metric",
        axis="epochs",
        policy="fixed",
        finding="metric at batch size {one} less that at {other}",
        part="metric",
        doubts=(*rate.doubts, *study.margin_doubts),
    )
    return told(blank, find)


def _operations(court: Court) -> Evidence:
    study = court.study
    untestable, worst = "", math.nan
    try:
        counted = court.measure(operations_per_example, court.workload.baseline, study.sizes)
        base = counted[study.sizes.index(study.base)]
        worst = max((abs(count / base - 1) for count in counted), default=0.0)
    except UntestableError as error:
        untestable = str(error)
    return Evidence(
        _OF_OPERATIONS,
        effects=() if untestable else (0.02 - worst,),
        margin=0.0,
        unit="share",
        axis="epochs",
        policy="no",
        finding=f"operations of the gradient per example differ by at most {worst:.2%} between "
        "batch sizes; those of the optimizer, which grow with the number of updates, not counted",
        untestable=untestable,
    )


def operations_per_example(
    task: TaskContext, configuration: Configuration, batch_sizes: Sequence[int]
) -> tuple[float, ...]:
    """Inside the process that trains: floating-point operations of loss and gradient."""
    import tensorflow as tf

    from tfbatch.gradients.loss import gradients_of

    workload = task.programs.workload
    found = []
    for size in batch_sizes:
        task.heartbeat_or_stop()
        at_size = configuration.model_copy(update={"batch_size": size})
        model = workload.compiled(at_size, total_examples=size, seed=1)
        batch = next(iter(workload.data.training(batch_size=size, seed=1, num_examples=size)))

        @tf.function  # type: ignore[untyped-decorator]
        def gradient(*parts: tf.Tensor) -> list[tf.Tensor]:
            return gradients_of(model, parts, training=False)  # noqa: B023

        graph = gradient.get_concrete_function(*batch).graph
        options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
        options["output"] = "none"
        profile = tf.compat.v1.profiler.profile(graph, options=options)
        found.append(float(profile.total_float_ops) / size)
    return tuple(found)
