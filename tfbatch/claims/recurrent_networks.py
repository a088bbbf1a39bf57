"""X18: batch normalization in a recurrent network, against layer normalization and none.

A gated recurrent unit (Cho et al. 2014) reads the user's data as a sequence: the rows of an image,
the steps of a series, or the tokens of a text. What its inputs and its state add to the gates is
normalized before they are added:

- "none": neither.
- "inputs": what the inputs add, over the examples and steps of a batch (Laurent et al. 2016,
  arXiv 1510.01378).
- "steps": both, each step by statistics and a gain of its own, which begins at 0.1 (Cooijmans et
  al. 2017, arXiv 1603.09025, whose steps share the gain).
- "layer": both, each example by itself (Ba et al. 2016, arXiv 1607.06450).

Each has the rate with the best accuracy of other seeds. The claim holds against every kind of batch
normalization, and fails where the one that other seeds chose does not harm.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tfbatch.claims._claim import Claim, Evidence, UntestableError
from tfbatch.claims._pairs import contest, told
from tfbatch.claims._tuned_rates import Cell, tuned_rates
from tfbatch.errors import InputError
from tfbatch.estimators.interval import mean_and_deviation

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from tfbatch.claims._court import Court
    from tfbatch.claims._preset import Purpose
    from tfbatch.training.context import TaskContext

CARD = "X18"
TITLE = "batch normalization in a recurrent network"
ORDER = 120.0
CLAIMS: tuple[Claim, ...] = ()
NONE, INPUTS, STEPS, LAYER = KINDS = ("none", "inputs", "steps", "layer")
BATCH = (INPUTS, STEPS)
_MARGIN = 0.5
"""Points of accuracy, or a deviation between seeds where that is more."""
_MIDDLE = 0.05
_UNITS = {"tiny": 32, "small": 64, "full": 128}
_EPOCHS = {"tiny": 6, "small": 12, "full": 24}
_MOST_EXAMPLES = {"tiny": 2048, "small": 8192, "full": 32768}
_MOST_STEPS = 64
_EMBEDDED = 16
_SECONDS = 6.0


def collect(court: Court) -> Iterator[Evidence]:
    """See tfbatch.claims.Card."""
    if not court.asks("normalization-has-limits"):
        return
    name = court.preset.name
    size = {
        "batch_size": court.workload.baseline.batch_size,
        "units": _UNITS[name],
        "epochs": _EPOCHS[name],
        "most_examples": _MOST_EXAMPLES[name],
    }
    cells = [Cell(f"normalization {kind}", {"kind": kind, **size}, _MIDDLE) for kind in KINDS]
    why, rates = "", [_MIDDLE] * len(cells)
    doubts: tuple[str, ...] = ()
    tables: dict[Purpose, dict[str, list[float]]] = {}
    chance = 0.0
    try:
        found = tuned_rates(court, accuracies_of, cells, seconds=_SECONDS)
    except (InputError, UntestableError) as error:  # rehearsed, or not a sequence
        why = str(error)
    else:
        rates = [rate.value for rate in found]
        doubts = tuple(doubt for rate in found for doubt in rate.doubts)
    purposes: tuple[Purpose, ...] = ("tuning", "pilot", "verdict")
    asked = [
        (purpose, cell, rate, seed)
        for purpose in purposes
        for cell, rate in zip(cells, rates, strict=True)
        for seed in court.seeds(purpose, court.preset.count(purpose))
        if purpose != "pilot" or cell is cells[0]
    ]
    cases = [{**cell.case, "rates": [rate], "seed": seed} for _, cell, rate, seed in asked]
    try:
        scores = court.measure_each(accuracies_of, cases, seconds=_SECONDS)
        chance = court.measure(share_of_the_largest_class, most_examples=_MOST_EXAMPLES[name])
    except (InputError, UntestableError) as error:
        why = str(error)
    else:
        for (purpose, cell, _, _), (score,) in zip(asked, scores, strict=True):
            kind = str(cell.case["kind"])
            tables.setdefault(purpose, {}).setdefault(kind, []).append(score)
    yield verdict_of(tables, rates, doubts, why, chance=chance)


def verdict_of(
    tables: dict[Purpose, dict[str, list[float]]],
    rates: Sequence[float],
    doubts: tuple[str, ...],
    why: str,
    *,
    chance: float,
) -> Evidence:
    """The evidence from the accuracies.

    Args:
        tables: Accuracy in points of each seed, by what the seeds are for and by normalization.
        rates: Of each normalization.
        doubts: What forbids a decision.
        why: It cannot be tested; empty where it can.
        chance: Accuracy in points of who knows nothing but the largest class.
    """
    blank = Evidence(
        "normalization-has-limits",
        effects=(),
        margin=_MARGIN,
        unit="points of accuracy",
        axis="epochs",
        policy="tuned",
        finding="",
        part="recurrent",
        doubts=doubts,
        untestable=why,
    )
    if why:
        return blank
    verdict, tuning = (
        {number: tables[purpose][kind] for number, kind in enumerate(KINDS)}
        for purpose in ("verdict", "tuning")
    )
    margin = max(_MARGIN, mean_and_deviation(tables["pilot"][NONE])[1])
    if max(map(statistics.fmean, verdict.values())) < chance + margin:
        doubts = (*doubts, f"no network learns more than the largest class, {chance:.1f} %")
    listed = ", ".join(
        f"{kind} {statistics.fmean(verdict[number]):.1f} at the rate {rates[number]:g}"
        for number, kind in enumerate(KINDS)
    )
    return told(
        dataclasses.replace(
            blank,
            margin=margin,
            doubts=doubts,
            finding="accuracy of a recurrent network on this data alone, read as sequences of one "
            "length, without normalization less that with batch "
            f"normalization (the kind that other seeds chose; it must be so of each): {listed}",
        ),
        lambda: contest(
            verdict, tuning, [KINDS.index(NONE)], [KINDS.index(kind) for kind in BATCH]
        ),
    )


def share_of_the_largest_class(task: TaskContext, *, most_examples: int) -> float:
    """Inside the process that trains: of the validation split, in points.

    Raises:
        InputError: The data is not one input with one class each.
    """
    from tfbatch.claims._small_training import labeled_examples

    _, truth, classes = labeled_examples(task, "validation", most=most_examples)
    return float(100 * np.bincount(truth, minlength=classes).max() / len(truth))


def accuracies_of(
    task: TaskContext,
    *,
    kind: str,
    batch_size: int,
    units: int,
    epochs: int,
    most_examples: int,
    rates: Sequence[float],
    seed: int,
) -> tuple[float, ...]:
    """Inside the process that trains: accuracy on the validation split, in points.

    Args:
        task: Holds the data.
        kind: The normalization.
        batch_size: Examples in a batch.
        units: Width of the state.
        epochs: Passes over the examples.
        most_examples: Of a split.
        rates: One training has each of these learning rates.
        seed: Of weights and order.

    Raises:
        InputError: The data is not sequences with one class each.
    """
    import tensorflow as tf

    from tfbatch.claims._small_training import SmallTraining, batches, labeled_examples, seeded

    inputs, labels, classes = labeled_examples(task, "train", most=most_examples)
    sequences = sequences_of(inputs)
    count, size = len(sequences), min(batch_size, len(sequences))
    fresh_inputs, truth, _ = labeled_examples(task, "validation", most=most_examples)
    fresh = sequences_of(fresh_inputs)
    if fresh.ndim == 2:  # tokens that training never saw are one
        fresh = np.minimum(fresh, sequences.max() + 1)
    with seeded(seed):
        model = network(sequences, classes, kind=kind, units=units)
    training = SmallTraining(
        model,
        lambda y, logits: tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits),
        tf.constant(sequences),
        tf.constant(labels),
    )

    def trained(rate: float) -> float:
        training.restart()
        order = batches(count, size, seed)
        for _ in range(max(1, epochs * count // size)):
            training.step(next(order), rate)
            task.heartbeat_or_stop()
        logits = training.outputs(fresh).numpy()
        right = (logits.argmax(axis=1) == truth) & np.isfinite(logits).all(axis=1)
        return float(100 * right.mean())

    return tuple(map(trained, rates))


def sequences_of(inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[examples, steps, features] numbers, or [examples, steps] tokens; the first 64 steps.

    Args:
        inputs: Images, whose rows are the steps; series; or texts as whole numbers.

    Raises:
        InputError: They are neither.
    """
    whole_numbers = np.issubdtype(inputs.dtype, np.integer)
    if inputs.ndim == 4:  # images
        inputs = inputs.reshape(*inputs.shape[:2], -1)
    if inputs.ndim == 3:
        return inputs[:, :_MOST_STEPS].astype(np.float32)
    if inputs.ndim == 2 and whole_numbers:
        tokens: npt.NDArray[np.int32] = np.maximum(inputs[:, :_MOST_STEPS], 0).astype(np.int32)
        return tokens
    raise InputError(
        "this experiment needs images, series of the shape (steps, features) or texts as whole "
        f"numbers; the inputs have the shape {inputs.shape[1:]}"
    )


def network(sequences: npt.NDArray[Any], classes: int, *, kind: str, units: int) -> keras.Model:
    """The recurrent network, whose last state gives the logits.

    Args:
        sequences: What it is to read; see `sequences_of`.
        classes: Number of logits.
        kind: The normalization.
        units: Width of the state.
    """
    import keras
    import tensorflow as tf
    from keras import layers

    steps = sequences.shape[1]

    class State(layers.Layer):  # type: ignore[misc]  # Keras ships no types
        """Reads [batch, steps, 3 * units] of what the inputs add to the gates."""

        def __init__(self) -> None:
            super().__init__()
            self.add = layers.Dense(3 * units, kernel_initializer="orthogonal", use_bias=False)
            own = {NONE: 0, STEPS: steps}.get(kind, 1)
            self.of_inputs = [_normalization(kind) for _ in range(own)]
            self.of_state = [_normalization(kind) for _ in range(0 if kind == INPUTS else own)]
            self.bias = self.add_weight(shape=(3 * units,), initializer="zeros")

        def build(self, shape: tuple[int | None, ...]) -> None:
            self.add.build((None, units))
            for layer in (*self.of_inputs, *self.of_state):
                layer.build((None, *shape[1:]) if kind == INPUTS else (None, 3 * units))

        def call(self, added: tf.Tensor, training: bool = False) -> tf.Tensor:
            if kind == INPUTS:
                added = self.of_inputs[0](added, training=training)
            state = tf.zeros([tf.shape(added)[0], units])
            for step in range(steps):
                inputs, recurrent = added[:, step], self.add(state)
                if kind in (STEPS, LAYER):
                    number = step if kind == STEPS else 0
                    inputs = self.of_inputs[number](inputs, training=training)
                    recurrent = self.of_state[number](recurrent, training=training)
                update, reset, new = tf.split(inputs + self.bias, 3, axis=1)
                old_update, old_reset, old = tf.split(recurrent, 3, axis=1)
                update = tf.sigmoid(update + old_update)
                reset = tf.sigmoid(reset + old_reset)
                state = update * state + (1 - update) * tf.tanh(new + reset * old)
            return state

    if sequences.ndim == 2:
        inputs = keras.Input((steps,), dtype="int32")
        hidden = layers.Embedding(int(sequences.max()) + 2, _EMBEDDED)(inputs)
    else:
        hidden = inputs = keras.Input(sequences.shape[1:])
    hidden = State()(layers.Dense(3 * units, use_bias=False)(hidden))
    return keras.Model(inputs, layers.Dense(classes)(hidden))


def _normalization(kind: str) -> keras.layers.Layer:
    """Without an offset: the gates have one."""
    from keras import initializers, layers

    if kind == LAYER:
        return layers.LayerNormalization(center=False)
    gain = initializers.Constant(0.1 if kind == STEPS else 1.0)
    return layers.BatchNormalization(momentum=0.9, center=False, gamma_initializer=gain)
