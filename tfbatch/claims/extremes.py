"""X8: one example in a batch, and all of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tfbatch.claims._claim import Claim, Evidence, UntestableError
from tfbatch.claims._flat_weights import FlatLoss, Vector
from tfbatch.claims._pairs import Contest, contest, fell_short, successes, told
from tfbatch.claims.steps_to_target import SUCCESS_MARGIN, negative, seconds_to_target
from tfbatch.errors import InputError
from tfbatch.optimizers import parameters_of

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf

    from tfbatch.claims._court import Court
    from tfbatch.claims._preset import Purpose
    from tfbatch.configuration import Configuration
    from tfbatch.training.context import TaskContext

CARD = "X8"
TITLE = "one example in a batch, and all of them"
ORDER = 95.0
CLAIMS: tuple[Claim, ...] = ()
_MONOTONE_MARGIN = 0.1
_SAME = 1e-4
"""Two gradients are equal up to rounding in 32 bits."""
_MOST_EXAMPLES = 1024
"""Examples that stand for the whole data where every update looks at all of them."""
_MOST_IN_A_BATCH = 256
"""The same where all of them are one batch: its memory is that of a training's with as many."""
AT_ONCE = 128
"""Examples of a mean gradient or loss that are in memory together, if B0 is no more than that."""
_MOST_HALVINGS = 30
_SECONDS = 2.0
_UPDATES = 30
_USUAL = 64
_PURPOSES: tuple[Purpose, Purpose] = ("verdict", "tuning")


def collect(court: Court) -> Iterator[Evidence]:
    """See tfbatch.claims.Card."""
    if court.asks("full-batch-is-a-mini-batch"):
        yield _special_case(court)
    if court.asks("sgd-has-no-guarantee"):
        yield _monotone(court)
    if court.asks("one-example-hardly-converges"):
        yield _one_example(court)
    if court.asks("only-64-and-1"):
        yield _only_two(court)
    if court.asks("full-batch-unsuited"):
        yield _full_batch(court)


def _one_example(court: Court) -> Evidence:
    study = court.study

    def find() -> Contest:
        sizes = study.apart(study.base, 1)
        base, one = (study.updates_to_target(size, "tuned") for size in sizes)
        return Contest(*sizes, successes(base, one))

    blank = Evidence(
        "one-example-hardly-converges",
        effects=(),
        margin=SUCCESS_MARGIN,
        unit="share",
        axis="epochs",
        policy="tuned",
        finding="share of runs that reach the target within the epochs, {one} less {other}",
        doubts=study.doubts("tuned", "target", (study.base, 1), of_success=True),
    )
    return told(blank, find)


def _only_two(court: Court) -> Evidence:
    study, most = court.study, court.workload.num_examples
    sizes = sorted({*study.sizes, 1, min(_USUAL, most)})
    others = [size for size in sizes if size not in (1, _USUAL)]

    def find() -> Contest:
        if most < _USUAL or not others:
            raise UntestableError(
                f"{most} training examples are fewer than a batch of {_USUAL}"
                if most < _USUAL
                else f"no other size than 1 and {_USUAL} is tried; give another --baseline"
            )
        judging, choosing = (
            {size: study.scores(size, "tuned", "epochs", purpose) for size in sizes}
            for purpose in _PURPOSES
        )
        return contest(judging, choosing, (1, _USUAL), others, plus=study.margin)

    blank = Evidence(
        "only-64-and-1",
        effects=(),
        margin=0.0,
        unit="of the metric",
        axis="epochs",
        policy="tuned",
        finding=f"the margin {study.margin:.3g} less what {{one}}, the better of 1 and {_USUAL}, "
        "loses to {other}, the best other size; both chosen by other seeds",
        doubts=study.doubts("tuned", "epochs", sizes),
    )
    return told(blank, find)


def _full_batch(court: Court) -> Evidence:
    """Seconds to the target of the full batch, over twice those of the best size."""
    study, full = court.study, court.workload.num_examples
    blank = Evidence(
        "full-batch-unsuited",
        effects=(),
        margin=0.0,
        unit="log ratio",
        axis="time to target",
        policy="tuned",
        finding="seconds to the target with all {other} examples in a batch, over twice those at "
        "{one}, the best size by other seeds",
    )
    try:
        study.apart(study.small, full)
        study.log_seconds(full)  # first: what cannot be timed is not trained
        runs, choosing = (
            {
                size: study.updates_to_target(size, "tuned", purpose)
                for size in dict.fromkeys((*study.sizes, full))
            }
            for purpose in _PURPOSES
        )
        doubts = study.doubts("tuned", "target", (*study.sizes, full))
    except UntestableError as error:
        return dataclasses.replace(blank, finding="", untestable=str(error))
    blank = dataclasses.replace(blank, doubts=doubts, censored=fell_short(*runs.values()))
    return told(
        blank,
        lambda: contest(
            negative(seconds_to_target(court, runs)),
            negative(seconds_to_target(court, choosing, "tuning")),
            [size for size in study.sizes if size != full],
            (full,),
            plus=-math.log(2),
        ),
    )


def _special_case(court: Court) -> Evidence:
    untestable, difference = "", math.nan
    try:
        difference = court.measure(full_against_parts, court.workload.baseline)
    except (InputError, UntestableError) as error:
        untestable = str(error)
    return Evidence(
        "full-batch-is-a-mini-batch",
        effects=() if untestable else (_SAME - difference,),
        margin=0.0,
        unit="share",
        axis="one gradient",
        policy="no",
        finding="relative difference of the gradient of all examples and the mean of those of "
        f"shuffled mini-batches: {difference:.1e}",
        untestable=untestable,
    )


def _monotone(court: Court) -> Evidence:
    study, optimizer = court.study, court.workload.baseline.optimizer
    untestable, descents = "", []
    descend = "plain descent"
    try:
        if optimizer.name != "sgd":
            raise InputError(
                f"the claim is of SGD, and the rate that of {optimizer.name}: give --optimizer=sgd"
            )
        rate = study.rate(study.base, "fixed", "epochs").value
        # What a momentum m adds up to: plain descent takes steps 1 / (1 - m) times as large.
        plain = rate / (1 - float({**parameters_of("sgd"), **optimizer.arguments}["momentum"]))
        case = {
            "configuration": study.configuration(study.base, plain),
            "trained_steps": math.ceil(court.workload.examples / study.base),
        }
        seeds = court.seeds("verdict", court.preset.seeds)
        cases = [{**case, "seed": seed} for seed in seeds]
        descents = court.measure_each(descents_after_training, cases, seconds=_SECONDS)
        descend = _at_rates([one.rate for one in descents], plain)
    except (InputError, UntestableError) as error:
        untestable = str(error)
    return Evidence(
        "sgd-has-no-guarantee",
        effects=() if untestable else tuple(one.full - one.sgd for one in descents),
        margin=_MONOTONE_MARGIN,
        unit="share",
        axis="updates",
        policy="fixed",
        finding=f"share of {_UPDATES} updates of {descend} that lower the loss of all examples "
        f"after a training with batch size {study.base}, the full batch less that size",
        untestable=untestable,
    )


def _at_rates(rates: Sequence[float], asked: float) -> str:
    """What descends, and where it had to be slower than was asked for."""
    lower = [rate for rate in rates if rate < 0.9 * asked]  # rounded where it was asked for
    if not lower:
        return f"plain descent at the rate {asked:.3g}"
    return (
        f"plain descent at the rate {asked:.3g} ({len(lower)} of {len(rates)} trainings diverge at "
        f"it: there at half of it and less, down to {min(lower):.3g})"
    )


def full_against_parts(task: TaskContext, configuration: Configuration) -> float:
    """Inside the process that trains: how far the gradient of all is from the mean of its parts.

    All of them are one batch: that is the claim.

    Raises:
        InputError: The gradient cannot be measured, or is 0.
    """
    import numpy as np

    from tfbatch.gradients.loss import gradients_of

    most = max(_MOST_IN_A_BATCH, 2 * configuration.batch_size)
    model, examples = model_and_examples(task, configuration, seed=1, most=most)
    whole = [g.numpy().astype(np.float64) for g in gradients_of(model, examples, training=False)]
    count = len(examples[-1])
    order = np.random.default_rng(1).permutation(count)
    parts = [np.zeros_like(g) for g in whole]
    for first in range(0, count, configuration.batch_size):
        task.heartbeat_or_stop()
        chosen = order[first : first + configuration.batch_size]
        batch = taken(examples, chosen)
        for total, g in zip(parts, gradients_of(model, batch, training=False), strict=True):
            total += len(chosen) / count * g.numpy().astype(np.float64)
    squares = sum(((a - b) ** 2).sum() for a, b in zip(whole, parts, strict=True))
    length = sum((g**2).sum() for g in whole)
    if length == 0:
        raise InputError("the gradient of all examples is 0: there is nothing to compare")
    return float(math.sqrt(squares / length))


@dataclasses.dataclass(frozen=True)
class Descents:
    """How many updates of plain descent lower the loss of all examples.

    Attributes:
        full: Share of those with all examples in a batch; NaN where no training before it ends.
        sgd: Share of those with the mini-batch.
        rate: What both descend with: that of the configuration, halved until the training before
            does not diverge.
    """

    full: float
    sgd: float
    rate: float


def descents_after_training(
    task: TaskContext, configuration: Configuration, *, trained_steps: int, seed: int
) -> Descents:
    """Inside the process that trains: how many updates lower the loss, full batch and mini-batch.

    Both begin where a training with the mini-batch ends: in the first updates the gradient is so
    large that every batch descends.

    Args:
        task: Model and data.
        configuration: The mini-batch and the rate of both.
        trained_steps: Updates of the training before, plain descent too.
        seed: Of weights and batches.

    Raises:
        InputError: The gradient cannot be measured.
    """
    import numpy as np

    model, examples = model_and_examples(task, configuration, seed=seed)
    size, rate = configuration.batch_size, configuration.base_learning_rate
    loss = FlatLoss(model, examples, heartbeat=task.heartbeat_or_stop, at_once=max(AT_ONCE, size))
    for _ in range(_MOST_HALVINGS + 1):
        generator = np.random.default_rng(seed)
        start = _trained(loss, size, rate, trained_steps, generator)
        if start is not None:
            full, sgd = (
                _share_of_falls(loss, start, count, rate, generator) for count in (loss.count, size)
            )
            return Descents(full, sgd, rate)
        rate /= 2
    return Descents(math.nan, math.nan, rate)


def _trained(
    loss: FlatLoss, size: int, rate: float, steps: int, generator: np.random.Generator
) -> Vector | None:
    """The weights after so many updates of plain descent; None where it diverges.

    That is, where the loss ends twice as high as it began, or as no number.
    """
    before, _ = loss(loss.start)
    weights = loss.start
    for _ in range(steps):
        value, gradient = loss(weights, generator.permutation(loss.count)[:size])
        if not math.isfinite(value):
            return None
        weights = weights - rate * gradient
    return weights if loss(weights)[0] - before <= abs(before) else None


def _share_of_falls(
    loss: FlatLoss, weights: Vector, size: int, rate: float, generator: np.random.Generator
) -> float:
    """The share of some updates that lower the loss of all examples; NaN where it has no value."""
    whole, gradient = loss(weights)
    falls = 0
    for _ in range(_UPDATES):
        if size < loss.count:
            _, gradient = loss(weights, generator.permutation(loss.count)[:size])
        weights = weights - rate * gradient
        before, (whole, gradient) = whole, loss(weights)
        if not math.isfinite(whole):
            return math.nan
        falls += whole < before
    return falls / _UPDATES


def model_and_examples(
    task: TaskContext, configuration: Configuration, *, seed: int, most: int = _MOST_EXAMPLES
) -> tuple[tf.keras.Model, tuple[tf.Tensor, ...]]:
    """A fresh model, and the examples that stand for the data: at most so many, always the same.

    Raises:
        InputError: The gradient cannot be measured from outside `fit`, or is not that of a mean
            over the examples; or there are several inputs.
    """
    from tfbatch.gradients.loss import MeanLossCheck

    examples = stand_ins(task, most)
    workload = task.programs.workload
    model = workload.compiled(configuration, total_examples=len(examples[-1]), seed=seed)
    MeanLossCheck(model)(examples)
    return model, examples


def stand_ins(task: TaskContext, most: int = _MOST_EXAMPLES) -> tuple[tf.Tensor, ...]:
    """The examples that stand for the data: at most so many, always the same.

    Raises:
        InputError: There are several inputs.
    """
    import tensorflow as tf

    from tfbatch.instruments.weights_and_examples import without_augmentation

    data = without_augmentation(task.programs.workload.data)
    count = min(most, data.num_examples("train"))
    examples: tuple[tf.Tensor, ...] = next(
        iter(data.training(batch_size=count, seed=1, num_examples=count))
    )
    if any(tf.nest.is_nested(part) for part in examples):
        raise InputError("this experiment needs one input and one target")
    return examples


def taken(examples: Sequence[tf.Tensor], chosen: np.ndarray) -> tuple[tf.Tensor, ...]:
    """Some of the examples."""
    import tensorflow as tf

    return tuple(tf.gather(part, chosen) for part in examples)
