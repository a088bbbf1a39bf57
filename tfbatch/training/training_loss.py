"""The training loss of an untrained model: what a training's own losses are compared with."""

from __future__ import annotations

import math

import keras
import numpy as np
import tensorflow as tf

from tfbatch.pipeline.trainable_data import EVALUATION_BATCH_SIZE
from tfbatch.training.class_weights import with_class_weight
from tfbatch.training.workload import Workload
from tfbatch.trial.outcome import JUDGED_EXAMPLES, TrainingLoss

_MOST_EXAMPLES = 2048
_FEWEST_EXAMPLES = 256


def measure_training_loss(model: keras.Model, workload: Workload) -> TrainingLoss | None:
    """The loss that `fit` would report for a model, on the first examples of a training stream.

    Class weights, sample weights, weights of outputs, regularization and augmentation are in it,
    none of which a validation loss need have: ten times heavier positives alone would look like a
    divergence. It is computed in inference, on as many examples as validation has, between 256 and
    2,048.

    Args:
        model: A compiled model; it is not changed.
        workload: Its data and class weights.

    Returns:
        The loss, or None where it is not finite.

    Raises:
        RecordError: The training records are damaged.
    """
    share, wanted = (
        workload.replicas,
        max(_FEWEST_EXAMPLES, workload.data.num_examples("validation")),
    )
    count = min(wanted, _MOST_EXAMPLES, workload.data.num_examples("train"))
    batch_size = min(count, EVALUATION_BATCH_SIZE) // share * share
    if not batch_size:
        return None
    stream = workload.data.training(
        batch_size=batch_size, seed=1, num_examples=count // batch_size * batch_size
    )
    class_weight = workload.class_weight
    if class_weight and not tf.nest.is_nested(stream.element_spec[1]):
        stream = stream.map(lambda *batch: with_class_weight(batch, class_weight))
    try:
        loss = float(model.evaluate(stream, verbose=0, return_dict=True)["loss"])
        examples = JUDGED_EXAMPLES * _scatter(stream)
    except tf.errors.OpError:
        workload.data.raise_damage("train")
        raise
    return TrainingLoss(loss, math.ceil(examples)) if math.isfinite(loss) else None


def _scatter(stream: tf.data.Dataset) -> float:
    """By how much weights raise the variance of a mean: E[w^2] / E[w]^2 (Kish 1965), at least 1."""
    if len(stream.element_spec) < 3:
        return 1.0
    collected: list[list[np.ndarray]] = []
    for batch in stream:
        leaves = [np.asarray(leaf, "float64") for leaf in keras.tree.flatten(batch[2])]
        collected.append([leaf.reshape(len(leaf), -1).mean(axis=1) for leaf in leaves])
    scatter = 1.0
    for parts in zip(*collected, strict=True):
        weights = np.concatenate(parts)
        if weights.mean() > 0:
            scatter = max(scatter, float(np.mean(weights**2) / weights.mean() ** 2))
    return scatter
