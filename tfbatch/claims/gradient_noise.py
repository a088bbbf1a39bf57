"""X5: how far the gradient of a batch is from that of all examples, during a training at B0.

At given weights, without augmentation and dropout, for draws of B of the N training examples:

    E|g_B - G|^2 = tr(S) / B * (1 - B / N)
    alignment    = mean cosine of g_B and G
    noise scale  = tr(S) / |G|^2

G is the gradient of all N, known exactly, so that nothing is corrected for bias. The replicates are
seeds of the training and of the draws.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import statistics
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tfbatch.claims._claim import Claim, Evidence, UntestableError
from tfbatch.errors import InputError

if TYPE_CHECKING:
    import keras
    import numpy as np

    from tfbatch.claims._court import Court
    from tfbatch.configuration import Configuration
    from tfbatch.training.context import TaskContext

CARD = "X5"
TITLE = "distance of a batch's gradient from that of all examples"
ORDER = 60.0
CLAIMS: tuple[Claim, ...] = ()
SHARES = (0.05, 0.25, 0.5, 1.0)
"""Where in the training is looked."""
_SECONDS = 15.0
_MIDDLE = SHARES.index(0.5)
_FEWEST_DRAWS, _MOST_DRAWS = 8, 256
_MOST_ELSEWHERE = 64
"""At the states whose slope is not looked at."""
_CHUNK = 256
_ALIGNED = 0.9
_GAIN = 0.025
_SLOPE_MARGIN = 0.5
_SHARE_MARGIN = 0.1


@dataclasses.dataclass(frozen=True)
class GradientNoise:
    """The gradients at one state of a training.

    Attributes:
        batch_sizes: The sizes.
        squared_distances: Mean |g_B - G|^2 of each.
        alignments: Mean cosine of g_B and G of each.
        squared_gradient: |G|^2.
    """

    batch_sizes: tuple[int, ...]
    squared_distances: tuple[float, ...]
    alignments: tuple[float, ...]
    squared_gradient: float

    def slope(self, examples: int) -> float:
        """Of log |g_B - G|^2 over log B, the share of the data that a batch is corrected for.

        Args:
            examples: N, the number of training examples.
        """
        x = [math.log(size) for size in self.batch_sizes]
        y = [
            math.log(distance / (1 - size / examples))
            for size, distance in zip(self.batch_sizes, self.squared_distances, strict=True)
        ]
        middle = statistics.fmean(x)
        squares = sum((value - middle) ** 2 for value in x)
        return sum((a - middle) * b for a, b in zip(x, y, strict=True)) / squares

    def noise_scale(self, examples: int) -> float:
        """tr(S) / |G|^2, the geometric mean over the sizes.

        Args:
            examples: N, the number of training examples.
        """
        traces = [
            math.log(distance * size / (1 - size / examples))
            for size, distance in zip(self.batch_sizes, self.squared_distances, strict=True)
        ]
        return math.exp(statistics.fmean(traces)) / self.squared_gradient

    def noise_share(self, size: int) -> float:
        """Share of |g_B|^2 that is noise."""
        distance = self.squared_distances[self.batch_sizes.index(size)]
        return distance / (distance + self.squared_gradient)

    def gain_beyond(self, factor: int) -> float | None:
        """What alignment gains beyond so many times the first size that has 0.9 of it.

        None where that is beyond the measured sizes.
        """
        aligned = [
            size
            for size, value in zip(self.batch_sizes, self.alignments, strict=True)
            if value >= _ALIGNED
        ]
        beyond = [size for size in self.batch_sizes if aligned and size >= factor * aligned[0]]
        if not beyond:
            return None
        return 1.0 - self.alignments[self.batch_sizes.index(beyond[0])]


def collect(court: Court) -> Iterator[Evidence]:
    """See tfbatch.claims.Card."""
    study, examples = court.study, court.workload.num_examples
    sizes = [size for size in study.sizes if size < examples]
    if len(sizes) < 2:
        yield from _untestable(f"{examples} training examples are too few for two batch sizes")
        return
    rate = study.rate(study.base, "tuned", "epochs")
    try:
        asked: list[dict[str, object]] = [
            {
                "configuration": study.configuration(study.base, rate.value),
                "batch_sizes": sizes,
                "seed": seed,
                "examples": court.workload.examples,
            }
            for seed in court.seeds("verdict", court.preset.seeds)
        ]
        seeds = court.measure_each(
            gradient_noise_during,
            asked,
            seconds=_SECONDS,
            examples=looked_at(sizes, examples),
        )
    except (InputError, UntestableError) as error:
        yield from _untestable(str(error))
        return
    middle = [states[_MIDDLE] for states in seeds]

    def told(
        claim: str,
        effects: Sequence[float],
        margin: float,
        finding: str,
        *,
        part: str = "",
        open_seeds: tuple[str, ...] = (),
    ) -> Evidence:
        doubts = (*rate.doubts, *open_seeds)
        return _evidence(claim, effects, margin, finding, part=part, doubts=doubts)

    slopes = [state.slope(examples) for state in middle]
    yield told(
        "larger-is-more-accurate-direction",
        [-slope - 0.8 for slope in slopes],
        0.0,
        f"slope of log variance over log B is {statistics.fmean(slopes):.3f}; -1 is expected",
        part="direction",
    )
    yield told(
        "larger-is-closer-to-true-gradient",
        [-slope for slope in slopes],
        _SLOPE_MARGIN,
        f"slope of log squared distance over log B is {statistics.fmean(slopes):.3f}",
    )
    gains = [state.gain_beyond(4) for state in middle]
    known = [_GAIN - gain for gain in gains if gain is not None]
    yield told(
        "direction-stops-changing",
        known,
        0.0,
        f"gain in alignment beyond 4 times the size that has {_ALIGNED}, below {_GAIN:.1%}",
        open_seeds=(
            (f"alignment of {_ALIGNED} is reached too late in {len(gains) - len(known)} seeds",)
            if len(known) < len(gains)
            else ()
        ),
    )
    scales = [[state.noise_scale(examples) for state in states] for states in seeds]
    columns = list(zip(*scales, strict=True))
    typical = ", ".join(f"{statistics.median(column):.0f}" for column in columns)
    first, *later = (tuple(math.log(value / study.base) for value in column) for column in columns)
    # "Always": at every state. Noise grows as the gradient falls, so that the first fails first.
    yield dataclasses.replace(
        told(
            "sample-noise-always-sufficient",
            first,
            0.0,
            f"noise scale {typical} after {', '.join(f'{s:.0%}' for s in SHARES)} of the training "
            f"at batch size {study.base}",
        ),
        rivals=tuple(later),
        every=True,
    )
    yield told(
        "too-large-loses-randomness",
        [s.noise_share(sizes[0]) - s.noise_share(sizes[-1]) for s in middle],
        _SHARE_MARGIN,
        f"share of noise in the squared gradient at {sizes[0]} less that at {sizes[-1]}",
        part="noise",
    )


def gradient_noise_during(
    task: TaskContext,
    configuration: Configuration,
    batch_sizes: Sequence[int],
    *,
    seed: int,
    examples: int,
) -> tuple[GradientNoise, ...]:
    """Inside the process that trains: the gradients at each state of one training.

    Raises:
        InputError: The model's gradient cannot be measured from outside `fit`.
        StoppedError: A stop was requested.
    """
    from tfbatch.gradients.loss import why_not
    from tfbatch.instruments.weights_and_examples import Weights, model_at

    found = []
    for share in SHARES:
        task.heartbeat_or_stop()
        steps = max(1, round(share * examples / configuration.batch_size))
        weights = Weights(trained_steps=steps, seed=seed)
        model = model_at(task.programs, configuration, weights, heartbeat=task.heartbeat)
        if reason := why_not(model):
            raise InputError(f"the model's gradients cannot be measured: {reason}")
        most = _MOST_DRAWS if share == SHARES[_MIDDLE] else _MOST_ELSEWHERE
        found.append(_measure(task, model, batch_sizes, seed, most))
    return tuple(found)


def _measure(
    task: TaskContext, model: keras.Model, batch_sizes: Sequence[int], seed: int, most: int
) -> GradientNoise:
    """The gradients at the model's weights.

    Raises:
        InputError: The gradient of a batch is no mean over its examples, by class weights or by
            the loss; or that of all examples is 0.
    """
    import numpy as np
    import tensorflow as tf

    from tfbatch.gradients.loss import MeanLossCheck, gradients_of
    from tfbatch.instruments.weights_and_examples import without_augmentation

    workload = task.programs.workload
    if workload.class_weight:
        raise InputError("class weights make the gradient of a batch no mean over its examples")
    data = without_augmentation(workload.data)
    total = data.num_examples("train")
    check_mean = MeanLossCheck(model)  # of the first batch alone

    # Eagerly: each state has a model of its own, and a trace costs more than all its draws.
    def gradient(batch: tuple[tf.Tensor, ...]) -> tf.Tensor:
        parts = gradients_of(model, batch, training=False)
        return tf.concat([tf.reshape(part, [-1]) for part in parts], axis=0)

    def gradients(size: int, examples: int, number: int) -> Iterator[tuple[int, np.ndarray]]:
        stream = data.training(batch_size=size, seed=seed + number, num_examples=examples)
        for batch in stream:
            task.heartbeat_or_stop()
            check_mean(batch)
            count = len(tf.nest.flatten(batch[0])[0])
            yield count, gradient(batch).numpy().astype(np.float64)

    # One pass holds every example once.
    whole = (count * value for count, value in gradients(min(_CHUNK, total), total, 0))
    full = functools.reduce(operator.add, whole) / total
    if not full.any():
        raise InputError("the gradient of all examples is 0: no batch has a direction to compare")
    distances, alignments = [], []
    for number, size in enumerate(batch_sizes):
        squares, cosines = [], []
        for _, draw in gradients(size, draws_of(size, total, most) * size, number + 1):
            squares.append(float(((draw - full) ** 2).sum()))
            length = float(np.linalg.norm(draw) * np.linalg.norm(full))
            cosines.append(float(draw @ full) / length if length else 0.0)
        distances.append(statistics.fmean(squares))
        alignments.append(statistics.fmean(cosines))
    return GradientNoise(
        tuple(batch_sizes), tuple(distances), tuple(alignments), float(full @ full)
    )


def looked_at(batch_sizes: Sequence[int], examples: int) -> int:
    """Examples whose gradient is taken in one training: all of them at each state, and the draws.

    Args:
        batch_sizes: The sizes that are drawn.
        examples: Of the training split.
    """
    states = (_MOST_DRAWS, *[_MOST_ELSEWHERE] * (len(SHARES) - 1))
    return sum(
        examples + sum(size * draws_of(size, examples, most) for size in batch_sizes)
        for most in states
    )


def draws_of(size: int, examples: int, most: int = _MOST_DRAWS) -> int:
    """How many batches of a size are drawn: as many as one pass over the data has, within bounds.

    The log of a mean of few small batches is too low where few examples carry the gradient.

    Args:
        size: Examples in a batch.
        examples: Of the training split.
        most: Draws at most: each is a gradient.
    """
    return max(_FEWEST_DRAWS, min(most, examples // size))


_PARTS = (
    ("larger-is-more-accurate-direction", "direction"),
    ("larger-is-closer-to-true-gradient", ""),
    ("direction-stops-changing", ""),
    ("sample-noise-always-sufficient", ""),
    ("too-large-loses-randomness", "noise"),
)


def _evidence(
    claim: str,
    effects: Sequence[float],
    margin: float,
    finding: str,
    *,
    part: str = "",
    doubts: tuple[str, ...] = (),
    untestable: str = "",
) -> Evidence:
    return Evidence(
        claim,
        effects=tuple(effects),
        margin=margin,
        unit="",
        axis="one gradient",
        policy="tuned",
        finding=finding,
        part=part,
        doubts=doubts,
        untestable=untestable,
    )


def _untestable(why: str) -> Iterator[Evidence]:
    for claim, part in _PARTS:
        yield _evidence(claim, (), 0.0, "", part=part, untestable=why)
