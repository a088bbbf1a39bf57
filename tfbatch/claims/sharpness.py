"""X6: how sharp the loss is where batch sizes end, at the same training loss.

B0 and the large size train at the rates that were tuned for the ends of their trainings, B0's and
the large one's of as many updates as it gets. Sharpness falls with the loss, so both are looked at
where their training loss is that of the one which ends higher: the other is trained until it
crosses that, and looked at where it was nearest to it. Pairs whose losses still differ by more than
10 % are left out, and of a metric that is the loss, what is left of the difference is taken off. On
a fixed sample without augmentation, in inference mode:

- the largest eigenvalue of the Hessian H (Lanczos), which judges, and its trace (Hutchinson 1989);
- the rise of the loss within a small box, in percent (Keskar et al. 2016, arXiv 1609.04836,
  metric 2.1: half-lengths 1e-3 (|w| + 1), at most 10 iterations of L-BFGS-B);
- the largest eigenvalue of |w| H |w|. A network of ReLUs whose layers are multiplied by a and 1/a
  gives the same outputs, and has another H (Dinh et al. 2017, arXiv 1703.04933): this one is the
  same (the scaling by weights of Kwon et al. 2021, arXiv 2102.11600).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tfbatch.claims._claim import Claim, Evidence, UntestableError
from tfbatch.claims._flat_weights import FlatLoss, Vector
from tfbatch.claims.extremes import taken
from tfbatch.errors import InputError

if TYPE_CHECKING:
    from tfbatch.claims._batch_size_study import Rate
    from tfbatch.claims._court import Court, Workload
    from tfbatch.configuration import Configuration
    from tfbatch.estimators.lanczos import Product
    from tfbatch.training.context import TaskContext

CARD = "X6"
TITLE = "sharpness of the loss at the same training loss"
ORDER = 97.0
CLAIMS: tuple[Claim, ...] = ()
_CLAIM = "large-falls-into-sharp-minima"
_MARGIN = math.log(1.5)
_EQUAL = 0.1
"""Training losses within this share of each other are equal."""
_UNEQUAL_SHARE = 0.2
_EXAMPLES = 1024
_AT_ONCE = 128
_LOOKS = 100
"""How often the training loss is looked at in a training; ten times as often near the end."""
_NEAR = 1.5
_PRODUCTS = 30
_TRACE_PRODUCTS = 20
_CONVERGED = 0.1
_BOX = 1e-3
_BOX_ITERATIONS = 10
_PASSES = 230
"""About what the looks, products and box of one model cost, in gradients of the sample."""
_CASE_SECONDS = 10.0
"""Beside them."""


@dataclasses.dataclass(frozen=True)
class Sharpness:
    """A trained model, and how sharp its loss is.

    Attributes:
        training_loss: Of the sample.
        validation_loss: Of the validation split.
        metric: The objective, as the model reports it.
        largest: The largest eigenvalue of H.
        error: Its error bound as a share of it.
        trace: Of H.
        box: The rise of the loss within the box, in percent.
        normalized: The largest eigenvalue of |w| H |w|.
    """

    training_loss: float
    validation_loss: float
    metric: float
    largest: float
    error: float
    trace: float
    box: float
    normalized: float

    @property
    def gap(self) -> float:
        """What the model has not learned from its training: validation less training loss."""
        return self.validation_loss - self.training_loss


Pair = tuple[Sharpness, Sharpness]
"""B0 and the large size, of one seed."""


def collect(court: Court) -> Iterator[Evidence]:
    """See tfbatch.claims.Card."""
    study, why = court.study, ""
    rates: list[Rate] = []
    pairs: list[Pair] = []
    others: dict[float, list[Pair]] = {}
    try:
        study.apart(study.base, study.large)
        rates = [study.rate(study.base, "tuned", "epochs")]
        rates.append(study.rate(study.large, "tuned", "updates"))
        margin = study.margin
        pairs = _measured(court, [rate.value for rate in rates])
        others = {
            rate: [pair for pair in _measured(court, [rates[0].value, rate]) if _are_equal(pair)]
            for rate in study.alike(study.large, "updates")
        }
    except (InputError, UntestableError) as error:
        why, margin = str(error), court.workload.smallest_margin
    equal = [pair for pair in pairs if _are_equal(pair)]
    doubts = (*(doubt for rate in rates for doubt in rate.doubts), *_lost(court, equal))
    parts = (
        (("sharpness", _MARGIN, "log ratio"), _sharper, (*doubts, *_rough(equal))),
        (("metric", margin, "of the metric"), functools.partial(_worse, court.workload), doubts),
    )
    found = "" if why else _finding(study.base, study.large, equal, [r.value for r in rates])
    for rate, at_rate in others.items():
        found += f"; {_at_another_rate(rate, at_rate)}"
    for (part, least, unit), effect, against in parts:
        # Another rate is as good for all that tuning knows, and sharpness follows the rate.
        at_others = tuple(tuple(effect(*pair) for pair in at_rate) for at_rate in others.values())
        yield Evidence(
            _CLAIM,
            effects=tuple(effect(*pair) for pair in equal),
            rivals=at_others,
            alternatives=at_others,
            margin=least,
            unit=unit,
            axis="training loss",
            policy="tuned",
            finding=found,
            part=part,
            doubts=() if why else against,
            untestable=why,
        )


def _sharper(small: Sharpness, large: Sharpness) -> float:
    return math.log(large.largest / small.largest)


def _at_another_rate(rate: float, pairs: Sequence[Pair]) -> str:
    if not pairs:
        return f"at the rate {rate:g}, which tuning does not tell from it, no seed has the same"
    one, other = (statistics.median(pair[side].largest for pair in pairs) for side in (0, 1))
    return (
        f"at the rate {rate:g}, which tuning does not tell from that of the large size, they are "
        f"{one:.3g} and {other:.3g}"
    )


def _worse(workload: Workload, small: Sharpness, large: Sharpness) -> float:
    """By how much the large size's metric is worse than that of the small one.

    Training losses that are equal within 10 % still differ, and a loss of the validation split
    differs with them, by more than the margin where they are large: so it counts by what it is
    above its training's.
    """
    if workload.metric == "val_loss":
        return large.gap - small.gap
    sign = 1.0 if workload.larger_is_better else -1.0
    return sign * (small.metric - large.metric)


def _measured(court: Court, rates: Sequence[float]) -> list[Pair]:
    """A pair for each seed whose trainings learned something.

    Raises:
        InputError: Curvature cannot be measured.
    """
    study = court.study
    sizes = (study.base, study.large)
    lengths = [study.length(size) for size in sizes]
    cases = [
        {
            "configurations": [
                study.configuration(size, rate) for size, rate in zip(sizes, rates, strict=True)
            ],
            "lengths": lengths,
            "metric": court.workload.metric.removeprefix("val_"),
            "seed": seed,
        }
        for seed in court.seeds("verdict", court.preset.seeds)
    ]
    sample = min(_EXAMPLES, court.workload.num_examples)
    found = court.measure_each(
        sharpness_at_the_same_loss,
        cases,
        seconds=_CASE_SECONDS,
        examples=sum(lengths) + len(sizes) * _PASSES * sample,
    )
    return [(pair[0], pair[1]) for pair in found if pair]


def _are_equal(pair: Pair) -> bool:
    """Whether its training losses are, and both have positive curvature."""
    one, other = pair
    return _same(one.training_loss, other.training_loss) and min(one.largest, other.largest) > 0


def _same(one: float, other: float) -> bool:
    return _apart(one, other) <= math.log1p(_EQUAL)


def _apart(one: float, other: float) -> float:
    """Of two losses, in logarithms; infinite where one is not positive, or no number."""
    if not 0 < min(one, other) <= max(one, other) < math.inf:
        return math.inf
    return abs(math.log(one / other))


def _lost(court: Court, equal: Sequence[Pair]) -> list[str]:
    lost = court.preset.seeds - len(equal)
    if lost <= _UNEQUAL_SHARE * court.preset.seeds:
        return []
    return [
        f"{lost} of {court.preset.seeds} pairs have no training loss in common (within "
        f"{_EQUAL:.0%}), no positive curvature, or learned nothing"
    ]


def _rough(equal: Sequence[Pair]) -> list[str]:
    rough = sum(max(one.error, other.error) > _CONVERGED for one, other in equal)
    if not rough:
        return []
    return [f"{rough} pairs have an eigenvalue that is uncertain by more than 10 %"]


def _finding(base: int, large: int, pairs: Sequence[Pair], rates: Sequence[float]) -> str:
    if not pairs:
        return f"no seed has the same training loss at batch sizes {base} and {large}"

    def both(value: Callable[[Sharpness], float]) -> str:
        one, other = (statistics.median(value(pair[side]) for pair in pairs) for side in (0, 1))
        return f"{one:.3g} and {other:.3g}"

    runs = [pair[side] for side in (0, 1) for pair in pairs]
    sharp = [math.log(run.largest) for run in runs]
    loss = [math.log(run.training_loss) for run in runs]
    size = [float(side) for side in (0, 1) for _ in pairs]
    gaps = [run.gap for run in runs]
    apart = statistics.fmean(math.log(b.training_loss / a.training_loss) for a, b in pairs)
    stable = [statistics.median(pair[side].largest for pair in pairs) for side in (0, 1)]
    return (
        f"at training losses of {both(lambda run: run.training_loss)} (in the mean "
        f"{math.expm1(apart):+.1%} apart), batch sizes {base} and {large} have the largest "
        f"eigenvalue {both(lambda run: run.largest)}, scaled by the weights "
        f"{both(lambda run: run.normalized)}, the trace {both(lambda run: run.trace)}, Keskar's "
        f"sharpness {both(lambda run: run.box)} %, the generalization gap "
        f"{both(lambda run: run.gap)}; the rate times the eigenvalue is "
        f"{rates[0] * stable[0]:.2g} and {rates[1] * stable[1]:.2g} (plain descent of the full "
        "batch is unstable above 2, with momentum m above 2 + 2 m); the correlation of sharpness "
        f"and gap at equal training loss is {partial_correlation(sharp, gaps, [loss]):+.2f}, at "
        f"equal batch size too {partial_correlation(sharp, gaps, [loss, size]):+.2f} "
        f"({len(runs)} models)"
    )


def partial_correlation(
    one: Sequence[float], other: Sequence[float], given: Sequence[Sequence[float]]
) -> float:
    """Of two quantities, what is linear in others taken out of both; NaN where nothing is left.

    Args:
        one: [n].
        other: [n].
        given: The others, [n] each.
    """
    design = np.stack([np.ones(len(one)), *(np.asarray(values) for values in given)], axis=1)
    left = []
    for values in (np.asarray(one), np.asarray(other)):
        rest = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
        if np.linalg.norm(rest) <= 1e-9 * np.linalg.norm(values):
            return math.nan
        left.append(rest / np.linalg.norm(rest))
    return float(left[0] @ left[1])


def box_sharpness(
    loss: Callable[[Vector], tuple[float, Vector]],
    weights: Vector,
    *,
    half_length: float = _BOX,
    iterations: int = _BOX_ITERATIONS,
) -> float:
    """Keskar et al.'s metric 2.1: 100 (largest loss in the box - loss) / (1 + loss).

    Args:
        loss: Loss and gradient at some weights.
        weights: The middle of the box.
        half_length: Of the box, as a multiple of |w| + 1 for each weight.
        iterations: Of L-BFGS-B, which looks for the largest loss.
    """
    from scipy import optimize

    def fall(weights: Vector) -> tuple[float, Vector]:
        value, gradient = loss(weights)
        return -value, -gradient

    middle = loss(weights)[0]
    lengths = half_length * (np.abs(weights) + 1)
    found = optimize.minimize(
        fall,
        weights,
        method="L-BFGS-B",
        jac=True,
        bounds=optimize.Bounds(weights - lengths, weights + lengths),
        options={"maxiter": iterations},
    )
    return 100 * float(-found.fun - middle) / (1 + middle)


def scaled_by(weights: Vector, product: Product) -> Product:
    """The product of |w| H |w|."""
    scale = np.abs(weights)
    return lambda vector: scale * product(scale * vector)


def sharpness_at_the_same_loss(
    task: TaskContext,
    *,
    configurations: Sequence[Configuration],
    lengths: Sequence[int],
    metric: str,
    seed: int,
) -> tuple[Sharpness, ...]:
    """Inside the process that trains: two trainings where they have the same training loss.

    Args:
        task: Model and data.
        configurations: What to train with.
        lengths: Examples of each training.
        metric: The objective's name, without `val_`.
        seed: Of both: initial weights, order and augmentation.

    Returns:
        One for each configuration; nothing where one learned nothing.

    Raises:
        InputError: Curvature cannot be measured, or the loss is not positive.
    """
    small, large = (
        _Trainer(task, configuration, length, seed)
        for configuration, length in zip(configurations, lengths, strict=True)
    )
    first = small.train()
    if not math.isfinite(first):
        return ()
    kept = small.model.get_weights()
    second = large.train(until=first)
    if not math.isfinite(second):
        return ()
    if min(first, second) <= 0:
        raise InputError("the training loss is not positive, so that no two of it can be compared")
    of_large = large.sharpness(metric)
    if second <= first or _same(first, second):
        small.put(kept)
    else:  # the large size ends higher
        small.train(until=second)
    return small.sharpness(metric), of_large


class _Trainer:
    """One configuration's training under a seed, stopped at a loss, and measured there.

    Args:
        task: Model and data.
        configuration: What to train with.
        length: Examples of the training.
        seed: Of weights, order and augmentation.

    Raises:
        InputError: There are several inputs or targets.
    """

    def __init__(self, task: TaskContext, configuration: Configuration, length: int, seed: int):
        import tensorflow as tf

        from tfbatch.instruments.weights_and_examples import (
            on_one_device_in_float32,
            training_batches,
        )

        self._task, self._configuration, self._seed = task, configuration, seed
        self._programs = on_one_device_in_float32(task.programs)
        workload = self._programs.workload
        self._steps = max(1, length // configuration.batch_size)
        count = min(_EXAMPLES, workload.data.num_examples("train"))
        sample = training_batches(workload, batch_size=count, batches=1, seed=1, augmented=False)
        self._examples = next(iter(sample))
        if any(tf.nest.is_nested(part) for part in self._examples):
            raise InputError("this experiment needs one input and one target")
        parts = [np.arange(count)[first : first + _AT_ONCE] for first in range(0, count, _AT_ONCE)]
        self._batches = [taken(self._examples, part) for part in parts]

    def _begin(self) -> None:
        import tensorflow as tf

        from tfbatch.gradients.loss import batch_loss

        self.model = self._programs.begin(
            self._configuration,
            total_examples=self._steps * self._configuration.batch_size,
            seed=self._seed,
            steps_per_execution=1,
        )
        model = self.model
        self._loss_of_batch = tf.function(
            lambda batch: batch_loss(model, batch, training=False),
            reduce_retracing=True,
            autograph=False,
        )

    def put(self, weights: Sequence[np.ndarray]) -> None:
        """Gives the model weights that it had."""
        self._begin()
        self.model.set_weights(weights)

    def train(self, *, until: float = 0.0) -> float:
        """Trains to the end or to a training loss; returns its own, NaN if it learned nothing."""
        from tensorflow.keras.callbacks import LambdaCallback

        from tfbatch.callbacks import StopAfterSteps
        from tfbatch.training.class_weights import weighted_by_class

        self._begin()
        before = self._loss()
        every, near = max(1, self._steps // _LOOKS), max(1, self._steps // (10 * _LOOKS))
        now, nearest = math.inf, math.log1p(_EQUAL)
        kept: list[np.ndarray] = []

        def look(batch: int, logs: object = None) -> None:
            nonlocal now, nearest
            del logs
            self._task.heartbeat_or_stop()
            if (batch + 1) % (near if now <= _NEAR * until else every):
                return
            now = self._loss()
            # The first loss that is low enough within 10 % would be the higher one in every pair.
            if (off := _apart(now, until)) <= nearest:
                nearest, kept[:] = off, self.model.get_weights()
            if not math.isfinite(now) or (kept and now <= until):
                self.model.stop_training = True

        size, workload = self._configuration.batch_size, self._programs.workload
        stream = workload.data.training(
            batch_size=size, seed=self._seed, num_examples=self._steps * size
        )
        self.model.fit(
            weighted_by_class(stream, workload.class_weight),
            steps_per_epoch=self._steps,
            callbacks=[StopAfterSteps(self._steps), LambdaCallback(on_train_batch_end=look)],
            shuffle=False,
            verbose=0,
        )
        if kept:
            self.model.set_weights(kept)
        reached = self._loss()
        return reached if reached < before else math.nan

    def _loss(self) -> float:
        sizes = [len(batch[-1]) for batch in self._batches]
        losses = [float(self._loss_of_batch(batch)) for batch in self._batches]
        return sum(map(math.prod, zip(sizes, losses, strict=True))) / sum(sizes)

    def sharpness(self, metric: str) -> Sharpness:
        """Of the model as it is; batch normalization has the statistics of the sample."""
        from tfbatch.estimators.hutchinson import estimate_trace
        from tfbatch.estimators.lanczos import extreme_eigenvalues
        from tfbatch.gradients import HessianProduct
        from tfbatch.layers import recalibrate_batch_normalization
        from tfbatch.training.evaluation import evaluate

        recalibrate_batch_normalization(self.model, self._batches)
        training_loss = self._loss()
        validation = evaluate(self.model, self._programs.workload, "validation")
        hessian = HessianProduct(self.model, self._batches)
        beat = self._task.heartbeat_or_stop

        def product(vector: Vector) -> Vector:
            beat()
            return hessian(vector)

        flat = FlatLoss(self.model, self._examples, heartbeat=beat)
        plain, scaled = (
            extreme_eigenvalues(each, dimension=hessian.dimension, most_products=_PRODUCTS).largest
            for each in (product, scaled_by(flat.start, product))
        )
        trace = estimate_trace(product, dimension=hessian.dimension, products=_TRACE_PRODUCTS)
        return Sharpness(
            training_loss=training_loss,
            validation_loss=validation["loss"],
            metric=validation[metric],
            largest=plain.value,
            error=plain.error_bound / abs(plain.value) if plain.value else math.inf,
            trace=trace.trace,
            box=box_sharpness(flat, flat.start),
            normalized=scaled.value,
        )
