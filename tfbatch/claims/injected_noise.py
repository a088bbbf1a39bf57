"""X7N: whether noise alone does what a small batch is praised for.

The full batch descends with a Gaussian noise that is added to its gradient, and without. The noise
is as large as that of a batch of B0 at the same weights, |g_B - G|^2 in the mean, which is drawn
anew at each update; in its directions it is the same on all sides, as that of a batch is not. Both
make the same updates, from the same weights. A third arm makes them with batches: g_B is G and the
noise g_B - G, so that this is the noise which has the covariance of a batch's. Noise that does not
do what this one does stands for nothing, whichever of the two does more. Each has the best of three
rates, since the best one of a training with noise need not be that of one without.

All examples are looked at in each update, so that at most 512 of them stand for the data.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tfbatch.claims._claim import Claim, Evidence, UntestableError
from tfbatch.claims._pairs import Contest, contest, told
from tfbatch.claims.extremes import model_and_examples, taken
from tfbatch.errors import InputError

if TYPE_CHECKING:
    import tensorflow as tf

    from tfbatch.claims._court import Court
    from tfbatch.claims._preset import Purpose
    from tfbatch.configuration import Configuration
    from tfbatch.training.context import TaskContext

CARD = "X7N"
TITLE = "the full batch with the noise of a small one"
ORDER = 76.0
CLAIMS: tuple[Claim, ...] = ()
_CLAIMS = ("small-escapes-bad-optima", "too-large-loses-randomness")
_MOST_EXAMPLES = 512
_MOST_UPDATES = 300
_SECONDS = 5.0
"""Of a case, beside its gradients."""
Arm = tuple[float, float]
"""The share of the gradient that is a batch's own, and the variance of the noise that is added to
the rest, in that of a batch of B0."""
_NONE, _NOISE, _FOUR_TIMES, _BATCH = ARMS = ((0.0, 0.0), (0.0, 1.0), (0.0, 4.0), (1.0, 0.0))
_LABELS = {
    _NONE: "without any",
    _NOISE: "the noise of a batch of {size}",
    _FOUR_TIMES: "four times the variance of a batch of {size}",
    _BATCH: "batches of {size}",
}
_UNLIKE = {
    True: "batches themselves do better than the full batch, and noise that is alike in all "
    "directions does not: it does not stand for theirs",
    False: "noise that is alike in all directions does better than the full batch, and batches "
    "themselves do not: it does not stand for theirs",
}
"""Why nothing is decided, by whether it is batches that do better."""
_RATES = (1.0, 2.0, 0.5)
"""Multiples of the rate: every arm is tried at each."""


def collect(court: Court) -> Iterator[Evidence]:
    """See tfbatch.claims.Card."""
    asked = [claim for claim in _CLAIMS if court.asks(claim)]
    if not asked:
        return
    study = court.study
    rate = study.rate(study.base, "fixed", "epochs")
    size = study.base
    finding, found, why = "", Contest(0, 0, ()), ""
    unlike: tuple[str, ...] = ()
    try:
        scores = {purpose: _scores(court, rate.value, purpose) for purpose in ("verdict", "tuning")}
        names = [_LABELS[arm].format(size=size) + _at(f) for arm, f in scores["verdict"]]
        of_arm = {
            arm: [n for n, (one, _) in enumerate(scores["verdict"]) if one == arm] for arm in ARMS
        }
        judging, choosing = (
            dict(enumerate(scores[purpose].values())) for purpose in ("verdict", "tuning")
        )
        found = contest(judging, choosing, of_arm[_NOISE] + of_arm[_FOUR_TIMES], of_arm[_NONE])
        batches = max(of_arm[_BATCH], key=lambda n: statistics.fmean(choosing[n]))
        batch, full = (statistics.fmean(judging[n]) for n in (batches, found.other))
        helps = batch - full >= study.margin
        if helps != (statistics.fmean(found.effects) >= study.margin):
            unlike = (_UNLIKE[helps],)
        finding = (
            f"the metric of the full batch with {names[found.one]} less {names[found.other]}, both "
            f"chosen by other seeds; {names[batches]} of the same examples are better by "
            f"{batch - full:.3g} than the latter"
        )
    except (InputError, UntestableError) as error:
        why = str(error)
    for claim in asked:
        blank = Evidence(
            claim,
            effects=(),
            margin=study.margin,
            unit="of the metric",
            axis="updates",
            policy="fixed",
            finding=finding,
            part="injected",
            doubts=(*rate.doubts, *unlike),
            untestable=why,
        )
        yield blank if why else told(blank, lambda: found)


def _at(factor: float) -> str:
    return "" if factor == 1 else f" at {factor:g} times the rate"


def _scores(court: Court, rate: float, purpose: Purpose) -> dict[tuple[Arm, float], list[float]]:
    """The objective of each seed, for each arm at each multiple of the rate.

    Raises:
        InputError: The gradient cannot be measured.
        UntestableError: The data has no more examples than a batch.
    """
    study, workload = court.study, court.workload
    size = study.base
    most = min(_MOST_EXAMPLES, workload.num_examples)
    if size >= most:
        raise UntestableError(
            f"a batch of {size} is all of the {most} examples that stand for the data; give a "
            "smaller --baseline=batch_size"
        )
    seeds = court.seeds(purpose, court.preset.count(purpose))
    updates = min(_MOST_UPDATES, math.ceil(workload.examples / size))
    cases: list[dict[str, object]] = [
        {
            "configuration": study.configuration(size, factor * rate),
            "arms": ARMS,
            "updates": updates,
            "seed": seed,
            "metric": workload.metric.removeprefix("val_"),
        }
        for factor in _RATES
        for seed in seeds
    ]
    examples = len(ARMS) * updates * (most + size)
    # A plan sees the judging seeds alone, which come first.
    tuned = 1 + court.preset.tuning_seeds / court.preset.seeds
    found = court.measure_each(
        descend_with_noise, cases, seconds=_SECONDS, examples=round(tuned * examples)
    )
    sign = 1.0 if workload.larger_is_better else -1.0

    def oriented(value: float) -> float:
        """What has diverged is worth as much as the untrained model."""
        return max(sign * value, workload.untrained) if math.isfinite(value) else workload.untrained

    return {
        (arm, factor): [oriented(values[column]) for values in found[low : low + len(seeds)]]
        for low, factor in zip(itertools.count(0, len(seeds)), _RATES, strict=False)
        for column, arm in enumerate(ARMS)
    }


def descend_with_noise(
    task: TaskContext,
    configuration: Configuration,
    *,
    arms: Sequence[Arm],
    updates: int,
    seed: int,
    metric: str,
) -> tuple[float, ...]:
    """Inside the process that trains: a metric of the validation split after each arm.

    Args:
        task: Model and data.
        configuration: The rate, and the batch whose noise is added.
        arms: See Arm.
        updates: How many each makes.
        seed: Of the initial weights, the batches and the noise.
        metric: Its name.

    Raises:
        InputError: The gradient cannot be measured.
    """
    import numpy as np
    import tensorflow as tf

    from tfbatch.gradients.loss import gradients_of
    from tfbatch.training.evaluation import evaluate

    workload = task.programs.workload
    if workload.class_weight:
        raise InputError("class weights make the gradient of a batch no mean over its examples")
    model, examples = model_and_examples(task, configuration, seed=seed)
    count = min(_MOST_EXAMPLES, len(examples[-1]))
    examples = taken(examples, np.arange(count))
    model.optimizer.build(model.trainable_variables)
    states = [variable.value for variable in model.non_trainable_variables]
    everything = [*model.variables, *model.optimizer.variables]
    initial = [variable.numpy() for variable in everything]

    def step(chosen: tf.Tensor, own: tf.Tensor, variance: tf.Tensor, key: tf.Tensor) -> None:
        before = [tf.identity(state) for state in states]
        batch = gradients_of(model, taken(examples, chosen), training=True)
        for state, value in zip(states, before, strict=True):  # a batch is only looked at
            state.assign(value)
        full = gradients_of(model, examples, training=True)
        noise = noise_like(batch, full, key)
        model.optimizer.apply(
            [
                g + own * (b - g) + tf.sqrt(variance) * n
                for g, b, n in zip(full, batch, noise, strict=True)
            ],
            model.trainable_variables,
        )

    update = tf.function(step, autograph=False)
    found = []
    for own, variance in arms:
        for variable, value in zip(everything, initial, strict=True):
            variable.assign(value)
        generator = np.random.default_rng(seed)
        for number in range(updates):
            task.heartbeat_or_stop()
            chosen = generator.permutation(count)[: configuration.batch_size]
            update(
                tf.constant(chosen, tf.int32),
                tf.constant(own),
                tf.constant(variance),
                tf.constant([seed % 2**31, number], tf.int32),
            )
        found.append(evaluate(model, workload, "validation")[metric])
    return tuple(found)


def noise_like(
    batch: Sequence[tf.Tensor], full: Sequence[tf.Tensor], key: tf.Tensor
) -> list[tf.Tensor]:
    """A Gaussian noise, alike in all directions, of the mean squared norm of `batch` - `full`.

    Args:
        batch: The gradient of a batch, by weight.
        full: That of all examples.
        key: Two integers, which make the draw.
    """
    import tensorflow as tf

    squares = tf.add_n([tf.reduce_sum((b - g) ** 2) for b, g in zip(batch, full, strict=True)])
    dimension = sum(math.prod(part.shape) for part in full)
    deviation = tf.sqrt(squares / dimension)
    keys = [tf.random.experimental.stateless_fold_in(key, index) for index in range(len(full))]
    return [
        deviation * tf.random.stateless_normal(part.shape, one, dtype=part.dtype)
        for part, one in zip(full, keys, strict=True)
    ]
