"""X8B: whether the error surface is a paraboloid, of a linear neuron and near a network's weights.

The neuron has the user's inputs, one weight each, and the squared distance to one number for each
target. Along a line through its weights the loss is a polynomial of the second degree, whatever
the data. A network's is expanded along an update that its optimizer makes in the middle of the
training:

    loss(w + d) - loss(w) = g . d + d . H d / 2 + error

with the curvature d . H d from the gradients at w - d / 10 and w + d / 10. The error counts as a
share of what the two terms are without their signs, so that it is not small where they cancel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tfbatch.claims._claim import Claim, Evidence, UntestableError
from tfbatch.claims._flat_weights import FlatLoss, joined
from tfbatch.claims.extremes import AT_ONCE, model_and_examples, stand_ins
from tfbatch.errors import InputError

if TYPE_CHECKING:
    from tfbatch.claims._court import Court
    from tfbatch.configuration import Configuration
    from tfbatch.training.context import TaskContext

CARD = "X8B"
TITLE = "whether the error surface is a paraboloid"
ORDER = 96.0
CLAIMS: tuple[Claim, ...] = ()
_CLAIM = "error-surface-is-a-paraboloid"
_RESIDUAL = 1e-6
_ERROR = 0.1
_DIRECTIONS = 8
_POINTS = 21
_PROBE = 0.1
_SECONDS = 3.0


def collect(court: Court) -> Iterator[Evidence]:
    """See tfbatch.claims.Card."""
    yield _network(court)
    yield _linear(court)


def _network(court: Court) -> Evidence:
    study = court.study
    rate = study.rate(study.base, "tuned", "epochs")
    configuration = study.configuration(study.base, rate.value)
    half = max(1, court.workload.examples // (2 * study.base))
    why, errors = "", []
    try:
        cases: list[dict[str, object]] = [
            {"configuration": configuration, "trained_steps": half, "seed": seed}
            for seed in court.seeds("verdict", court.preset.seeds)
        ]
        errors = court.measure_each(error_of_an_update, cases, seconds=_SECONDS)
    except (InputError, UntestableError) as error:
        why = str(error)
    return Evidence(
        _CLAIM,
        effects=() if why else tuple(_ERROR - value for value in errors),
        margin=0.0,
        unit="share",
        axis="one gradient",
        policy="tuned",
        finding=""
        if why
        else "10 % less the error of the second-order expansion along an update "
        f"at batch size {study.base}; the median error is {np.median(errors):.1%}",
        part="network",
        doubts=rate.doubts,
        untestable=why,
    )


def _linear(court: Court) -> Evidence:
    why, residual = "", math.nan
    try:
        residual = court.measure(residual_of_a_neuron, court.workload.baseline, seed=1)
    except (InputError, UntestableError) as error:
        why = str(error)
    return Evidence(
        _CLAIM,
        effects=() if why else (_RESIDUAL - residual,),
        margin=0.0,
        unit="share",
        axis="one gradient",
        policy="no",
        finding=""
        if why
        else f"a paraboloid leaves {residual:.1e} of the range of the loss of a "
        f"linear neuron, along {_DIRECTIONS} random lines",
        part="linear",
        untestable=why,
    )


def residual_of_a_paraboloid(places: npt.ArrayLike, losses: npt.ArrayLike) -> float:
    """What the best polynomial of the second degree leaves, over the range of the losses.

    Args:
        places: [n] along a line.
        losses: [n] the loss at each.
    """
    x, y = np.asarray(places, np.float64), np.asarray(losses, np.float64)
    design = np.stack([x**0, x, x**2], axis=1)
    found = np.linalg.lstsq(design, y, rcond=None)[0]
    return float(np.abs(y - design @ found).max() / max(float(np.ptp(y)), np.finfo(float).tiny))


def error_of_the_expansion(
    loss: Callable[[float], float], slope: Callable[[float], float]
) -> float:
    """Of the second order, along an update from 0 to 1.

    Args:
        loss: The loss at a share of the update.
        slope: Its derivative by that share.
    """
    first, second = slope(0.0), (slope(_PROBE) - slope(-_PROBE)) / (2 * _PROBE)
    error = abs(loss(1.0) - loss(0.0) - first - second / 2)
    return error / max(abs(first) + abs(second) / 2, np.finfo(float).tiny)


def residual_of_a_neuron(task: TaskContext, configuration: Configuration, *, seed: int) -> float:
    """Inside the process that trains: the largest residual over random lines, in 64 bits.

    Raises:
        InputError: There are several inputs.
    """
    del configuration  # the data alone
    examples = stand_ins(task)
    inputs, targets = (np.asarray(part, np.float64).reshape(len(part), -1) for part in examples[:2])
    inputs = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
    wanted = targets.mean(axis=1)
    generator = np.random.default_rng(seed)
    places = np.linspace(-1, 1, _POINTS)
    found = []
    for _ in range(_DIRECTIONS):
        start, line = generator.normal(size=(2, inputs.shape[1]))
        distances = (inputs @ (start[:, None] + line[:, None] * places)) - wanted[:, None]
        found.append(residual_of_a_paraboloid(places, (distances**2).mean(axis=0)))
    return max(found)


def error_of_an_update(
    task: TaskContext, configuration: Configuration, *, trained_steps: int, seed: int
) -> float:
    """Inside the process that trains: how well the second order predicts what an update does.

    Raises:
        InputError: The gradient cannot be measured.
    """
    from tfbatch.callbacks import StopAfterSteps
    from tfbatch.instruments.weights_and_examples import Weights, model_at

    _, examples = model_and_examples(task, configuration, seed=seed)
    task.heartbeat_or_stop()
    weights = Weights(trained_steps=trained_steps, seed=seed)
    model = model_at(task.programs, configuration, weights, heartbeat=task.heartbeat)
    size = configuration.batch_size
    flat = FlatLoss(model, examples, heartbeat=task.heartbeat_or_stop, at_once=max(AT_ONCE, size))
    stream = task.programs.workload.data.training(batch_size=size, seed=seed + 1, num_examples=size)
    model.fit(stream, steps_per_epoch=1, callbacks=[StopAfterSteps(1)], shuffle=False, verbose=0)
    update = joined([variable.numpy() for variable in model.trainable_variables]) - flat.start

    def loss(share: float) -> float:
        return flat(flat.start + share * update)[0]

    def slope(share: float) -> float:
        return float(flat(flat.start + share * update)[1] @ update)

    return error_of_the_expansion(loss, slope)
