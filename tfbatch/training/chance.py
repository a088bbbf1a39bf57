"""The value of each metric of a model on the validation split without learning."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbatch.estimators.chance_level import (
    ChanceLevel,
    absolute_error_noise,
    accuracy_noise,
    auc_noise,
    constant_accuracy,
    constant_cross_entropy,
    cross_entropy_noise,
    squared_error_noise,
)
from tfbatch.metric_direction import leaf_metrics
from tfbatch.training.workload import Workload

_ACCURACIES = (
    *("accuracy", "acc", "binary_accuracy"),
    *("categorical_accuracy", "sparse_categorical_accuracy"),
)
_SQUARED_ERRORS = ("mse", "mean_squared_error")
_ABSOLUTE_ERRORS = ("mae", "mean_absolute_error")
_CROSS_ENTROPIES = (
    keras.losses.SparseCategoricalCrossentropy,
    keras.losses.CategoricalCrossentropy,
    keras.losses.BinaryCrossentropy,
)


def chance_levels(
    model: Any, workload: Workload, untrained: Mapping[str, float]
) -> dict[str, ChanceLevel]:
    """The level of each metric; with the constant prediction's where loss and targets define it.

    That is so for one output with cross-entropy of classes, one for each example, or a mean
    squared or absolute error, and no penalty added to the loss. Elsewhere the untrained model alone
    counts.

    Args:
        model: The compiled model.
        workload: Its data.
        untrained: Every metric of the untrained model on the validation split.
    """
    levels = {name: ChanceLevel(value) for name, value in untrained.items()}
    kind = _kind_of(model.loss) if _computes_as_keras(model) else None
    targets = _targets(workload) if kind else None
    if targets is None:
        return levels
    if kind == "cross_entropy":
        counts = _class_counts(targets)
        if counts is None:
            return levels
        constants = dict.fromkeys(_ACCURACIES, constant_accuracy(counts))
        constants["loss"] = constant_cross_entropy(counts)
        levels |= _areas(model, untrained, targets)
    else:
        squared = float(np.var(targets, axis=0).mean())
        absolute = float(np.abs(targets - np.median(targets, axis=0)).mean())
        constants = dict.fromkeys(_SQUARED_ERRORS, squared)
        constants |= dict.fromkeys(_ABSOLUTE_ERRORS, absolute)
        constants["loss"] = squared if kind == "squared_error" else absolute
    if model.losses:  # penalties of weights are no part of a constant prediction's loss
        del constants["loss"]
    for name in levels.keys() & constants.keys():
        levels[name] = _level(name, untrained[name], constants[name], len(targets), kind)
    return levels


def _areas(
    model: Any, untrained: Mapping[str, float], targets: np.ndarray
) -> dict[str, ChanceLevel]:
    """The levels of areas under a ROC curve, for classes 0 and 1: 0.5 without knowledge."""
    positives = int((targets == 1).sum())
    negatives = int((targets == 0).sum())
    if targets.shape[1] > 1 or not positives or not negatives:
        return {}
    noise = auc_noise(positives, negatives)
    return {
        metric.name: ChanceLevel(untrained[metric.name], 0.5, noise)
        for metric in leaf_metrics(model.metrics)
        if type(metric) is keras.metrics.AUC
        and metric.curve.value == "ROC"
        and metric.name in untrained
    }


def _level(
    name: str, untrained: float, constant: float, examples: int, kind: str | None
) -> ChanceLevel:
    if name in _ACCURACIES:
        return ChanceLevel(untrained, constant, accuracy_noise(max(untrained, constant), examples))
    if kind == "cross_entropy":
        return ChanceLevel(untrained, constant, cross_entropy_noise(examples))
    if name in _ABSOLUTE_ERRORS or (name == "loss" and kind == "absolute_error"):
        return ChanceLevel(untrained, constant, absolute_error_noise(constant, examples))
    return ChanceLevel(untrained, constant, squared_error_noise(constant, examples))


def _computes_as_keras(model: Any) -> bool:
    """Whether the loss is the compiled one on the targets, and nothing of the model's own."""
    return all(
        getattr(type(model), name) is getattr(keras.Model, name)
        for name in ("compute_loss", "test_step")
    )


def _kind_of(loss: Any) -> str | None:
    """Of Keras's own, without label smoothing: "cross_entropy", "squared_error" or absolute."""
    try:
        loss = keras.losses.get(loss) if isinstance(loss, str) else loss
    except ValueError:
        return None
    if type(loss) in _CROSS_ENTROPIES:
        return None if getattr(loss, "label_smoothing", 0.0) else "cross_entropy"
    if type(loss) is keras.losses.MeanSquaredError:
        return "squared_error"
    if type(loss) is keras.losses.MeanAbsoluteError:
        return "absolute_error"
    functions = {
        keras.losses.sparse_categorical_crossentropy: "cross_entropy",
        keras.losses.categorical_crossentropy: "cross_entropy",
        keras.losses.binary_crossentropy: "cross_entropy",
        keras.losses.mean_squared_error: "squared_error",
        keras.losses.mean_absolute_error: "absolute_error",
    }
    return functions.get(loss) if callable(loss) and loss.__hash__ else None


def _targets(workload: Workload) -> np.ndarray | None:
    """The validation split's targets, a row each; None for several outputs or weights."""
    parts = []
    for batch in workload.data.evaluation("validation"):
        if not isinstance(batch, tuple) or len(batch) != 2 or not isinstance(batch[1], tf.Tensor):
            return None
        if batch[1].dtype == tf.string or not 1 <= batch[1].shape.rank <= 2:
            return None
        target = batch[1].numpy()
        parts.append(target.reshape(len(target), -1))
    return np.concatenate(parts) if parts else None


def _class_counts(targets: np.ndarray) -> list[float] | None:
    """Examples of each class: of indices, 0 and 1, or a probability for each class."""
    if targets.shape[1] > 1:
        return [float(n) for n in targets.sum(axis=0)]
    return [float(n) for n in collections.Counter(targets[:, 0].tolist()).values()]
