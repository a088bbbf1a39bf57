"""The loss's curvature: ends and trace of the Hessian's spectrum, by Hessian-vector products.

The largest eigenvalue bounds the learning rate of gradient descent to 2 / eigenvalue. Full-batch
training drives it there (Cohen et al. 2021, arXiv 2103.00065), so that it is as much a property of
the learning rate as of the minimum.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfbatch.charts import Chart
from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.estimators.hutchinson import Trace, estimate_trace
from tfbatch.estimators.lanczos import ExtremeEigenvalues, extreme_eigenvalues
from tfbatch.gradients import untouched
from tfbatch.instruments import Bench
from tfbatch.instruments.short_training import train_for
from tfbatch.training.program_cache import ProgramCache

HEADING = "Curvature"
ORDER = 60
SHARE = 1.5
EXAMPLES = 512
PRODUCTS = 20
_BASIS_BYTES = 1 << 30
_FEWEST_PRODUCTS = 3


@dataclasses.dataclass(frozen=True)
class CurvatureStage:
    """The Hessian of the loss at one point of a training.

    Attributes:
        examples: Examples trained on before.
        eigenvalues: Both ends of the spectrum.
        trace: The sum of all eigenvalues.
    """

    examples: int
    eigenvalues: ExtremeEigenvalues
    trace: Trace


@dataclasses.dataclass(frozen=True)
class Curvature:
    """The Hessian of the loss on a fixed sample, in the inference mode.

    Attributes:
        stages: Where it was measured, in order.
        sample: Examples in the sample.
        dimension: Number of trainable weights.
    """

    stages: tuple[CurvatureStage, ...]
    sample: int
    dimension: int

    def columns(self) -> tuple[str, ...]:
        """See tfbatch.instruments.Reading."""
        return ("after examples", "largest eigenvalue", "smallest", "trace", "2 / largest")

    def rows(self) -> list[tuple[str, ...]]:
        """See tfbatch.instruments.Reading."""
        return [
            (
                f"{stage.examples:,}",
                str(stage.eigenvalues.largest),
                str(stage.eigenvalues.smallest),
                str(stage.trace),
                f"{_bound(stage):.3g}",
            )
            for stage in self.stages
        ]

    def conclusion(self) -> str:
        """See tfbatch.instruments.Reading."""
        last = self.stages[-1]
        state = "" if last.eigenvalues.converged else " (not converged)"
        return (
            f"After {last.examples:,} examples the Hessian's eigenvalues reach from "
            f"{last.eigenvalues.smallest.value:.3g} to {last.eigenvalues.largest.value:.3g}{state} "
            f"on {self.sample} examples: full-batch gradient descent without momentum is predicted "
            f"to be unstable above a learning rate of {_bound(last):.2g}."
        )

    def charts(self) -> tuple[Chart, ...]:
        """See tfbatch.instruments.Reading."""
        return ()


def measure_curvature(
    programs: ProgramCache,
    configuration: Configuration,
    examples: Sequence[int],
    sample: int,
    products: int,
    *,
    sign_of_life: Callable[[], None],
) -> Curvature:
    """Measures the curvature at some points of one training.

    Args:
        programs: Data, model builder and traced programs.
        configuration: What is trained with between the points.
        examples: Examples trained on before each point, ascending; 0 for the untrained model.
        sample: Examples of the training split on which the loss is taken; one batch of them must
            fit in memory, twice over.
        products: Hessian-vector products for the eigenvalues, and as many for the trace.
        sign_of_life: Called now and then.

    Raises:
        InputError: Too few products, or an operation of the model without a second derivative.
    """
    if products < _FEWEST_PRODUCTS:
        raise InputError(f"`products` must be >= {_FEWEST_PRODUCTS}. Received: {products}.")
    data = programs.workload.data
    sample = min(sample, data.num_examples("train"))
    batch = next(iter(data.evaluation("train", batch_size=sample)))
    stages, dimension = [], 0
    for at, model in train_for(programs, configuration, examples, sign_of_life=sign_of_life):
        hessian = HessianProduct(model, batch, sign_of_life=sign_of_life)
        dimension = hessian.dimension
        most = max(min(products, _BASIS_BYTES // (8 * dimension)), _FEWEST_PRODUCTS)
        with untouched(model):
            ends = extreme_eigenvalues(hessian, dimension=dimension, most_products=most)
            trace = estimate_trace(hessian, dimension=dimension, products=products)
        stages.append(CurvatureStage(at, ends, trace))
    return Curvature(tuple(stages), sample, dimension)


class HessianProduct:
    """`product(v)` is the Hessian of a model's loss times v, float64 [dimension].

    The loss is the compiled one on a fixed batch, regularisation included, in the inference mode.

    Args:
        model: A built, compiled model.
        batch: (inputs, targets) or (inputs, targets, sample_weight).
        sign_of_life: Called before each product.
    """

    def __init__(self, model: Any, batch: Any, *, sign_of_life: Callable[[], None] = lambda: None):
        self._model = model
        self._batch = batch
        self._sign_of_life = sign_of_life
        self._shapes = [tuple(v.shape) for v in model.trainable_variables]
        self._sizes = [math.prod(shape) for shape in self._shapes]
        self.dimension = sum(self._sizes)
        self._in_graph = tf.function(self._product)

    def __call__(self, vector: np.ndarray) -> np.ndarray:
        """The product."""
        self._sign_of_life()
        parts = np.split(vector.astype(np.float32), np.cumsum(self._sizes)[:-1])
        try:
            found = self._in_graph(
                [tf.reshape(part, shape) for part, shape in zip(parts, self._shapes, strict=True)]
            )
        except LookupError as error:  # TensorFlow's way to say that there is no gradient
            raise InputError(
                f"The model has an operation without a second derivative: {error}"
            ) from error
        return np.concatenate([np.asarray(part, np.float64).ravel() for part in found])

    def _product(self, vectors: list[Any]) -> list[Any]:
        x, y, *rest = self._batch
        weights = rest[0] if rest else None
        variables = [v.value for v in self._model.trainable_variables]
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                predicted = self._model(x, training=False)
                loss = self._model.compute_loss(
                    x=x, y=y, y_pred=predicted, sample_weight=weights, training=False
                )
            gradients = inner.gradient(loss, variables, unconnected_gradients="zero")
            along = tf.add_n(
                [
                    tf.reduce_sum(tf.convert_to_tensor(g) * v)
                    for g, v in zip(gradients, vectors, strict=True)
                ]
            )
        found = outer.gradient(along, variables, unconnected_gradients="zero")
        return [tf.convert_to_tensor(part) for part in found]


def probe(bench: Bench, *, batch_sizes: Sequence[int], seconds: float) -> Curvature:
    """See tfbatch.instruments.Probe: untrained, and after a short training."""
    configuration = bench.configuration(bench.request.baseline.batch_size)
    short = seconds < 10
    length = min(bench.data.splits["train"], round(200 * seconds))
    found: Curvature = bench.measure(
        measure_curvature,
        configuration,
        (length,) if short else (0, length),
        EXAMPLES // 4 if short else EXAMPLES // 2,
        PRODUCTS // 2,
    )
    return found


def _bound(stage: CurvatureStage) -> float:
    largest = stage.eigenvalues.largest.value
    return 2.0 / largest if largest > 0 else math.inf
