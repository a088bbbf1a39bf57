"""The value of each metric of a model on the validation split without learning."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
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
from tfbatch.training.constant_loss import constant_loss, weighted_in_training_only
from tfbatch.training.workload import Workload

Array = npt.NDArray[Any]
_ACCURACIES = (
    keras.metrics.SparseCategoricalAccuracy,
    keras.metrics.CategoricalAccuracy,
    keras.metrics.BinaryAccuracy,
)
_ERRORS = (
    keras.metrics.MeanSquaredError,
    keras.metrics.MeanAbsoluteError,
    keras.metrics.RootMeanSquaredError,
)
_ERROR_FUNCTIONS = {
    keras.losses.mean_squared_error: keras.metrics.MeanSquaredError,
    keras.losses.mean_absolute_error: keras.metrics.MeanAbsoluteError,
}


def chance_levels(
    model: Any, workload: Workload, untrained: Mapping[str, float]
) -> dict[str, ChanceLevel]:
    """The level of each metric; with the best constant prediction's where that is known.

    It is known of the loss, whatever it is, unless a model adds penalties to it or computes it by
    itself; of accuracies, squared and absolute errors, and areas under a ROC curve. For other
    metrics the untrained model alone counts: a constant may have the best precision or recall.

    Args:
        model: The compiled model.
        workload: Its data.
        untrained: Every metric of the untrained model on the validation split.
    """
    levels = {name: ChanceLevel(value) for name, value in untrained.items()}
    if not _computes_as_keras(model):
        return levels
    targets = _targets(model, workload)
    for name, output, metric in _named_metrics(model.metrics):
        if name in untrained and output in targets:
            found = _of_metric(metric, targets[output], untrained[name], workload.class_weight)
            levels[name] = found or levels[name]
    if "loss" not in untrained or model.losses:
        return levels  # penalties of weights are no part of a constant prediction's loss
    weighted = workload.class_weight or weighted_in_training_only(workload)
    simple = set(targets) == {""} and targets[""].weights is None and not weighted
    known = _closed_form(_kind_of(model.loss), targets[""].values) if simple else None
    known = known or constant_loss(model, workload)
    if known:
        levels["loss"] = ChanceLevel(untrained["loss"], known[0], known[1])
    return levels


@dataclasses.dataclass(frozen=True)
class _Targets:
    """The validation targets of one output, [examples, ...], and their weights [examples]."""

    values: Array
    weights: Array | None


def _of_metric(
    metric: Any, targets: _Targets, untrained: float, class_weight: Mapping[int, float] | None
) -> ChanceLevel | None:
    values, kind = targets.values, _kind_of_metric(metric)
    if kind in _ACCURACIES:
        if (found := _constant_accuracy(kind, targets, class_weight)) is None:
            return None
        constant, examples = found
        return ChanceLevel(untrained, constant, accuracy_noise(max(untrained, constant), examples))
    if kind is keras.metrics.AUC:
        return _area(metric, values, untrained)
    if kind in _ERRORS and values.ndim <= 2:
        columns = values.reshape(len(values), -1)
        squared = float(np.var(columns, axis=0).mean())
        if kind is keras.metrics.MeanSquaredError:
            return ChanceLevel(untrained, squared, squared_error_noise(squared, len(values)))
        if kind is keras.metrics.RootMeanSquaredError:
            least = max(squared - squared_error_noise(squared, len(values)), 0.0)
            root = math.sqrt(squared)
            return ChanceLevel(untrained, root, root - math.sqrt(least))
        absolute = float(np.abs(columns - np.median(columns, axis=0)).mean())
        return ChanceLevel(untrained, absolute, absolute_error_noise(absolute, len(values)))
    return None


def _kind_of_metric(metric: Any) -> type[Any] | None:
    function = getattr(metric, "_fn", None)
    if type(metric) is keras.metrics.MeanMetricWrapper and function in _ERROR_FUNCTIONS:
        kind: type[Any] = _ERROR_FUNCTIONS[function]
        return kind
    return type(metric)


def _constant_accuracy(
    kind: Any, targets: _Targets, class_weight: Mapping[int, float] | None
) -> tuple[float, int] | None:
    """The accuracy of the best constant prediction, and the predictions that it is a mean of.

    With weights in training the class of most weight counts: what is better than always predicting
    it may be worse than always predicting the most frequent one.
    """
    values = targets.values
    if kind is keras.metrics.BinaryAccuracy:
        columns = values.reshape(-1, values.shape[-1]) if values.ndim > 1 else values[:, None]
        if not np.isin(columns, (0, 1)).all():
            return None
        if columns.shape[1] > 1 or values.ndim > 2:
            share = columns.mean(axis=0)
            return float(np.maximum(share, 1 - share).mean()), values.size
        classes = columns[:, 0].astype(np.int64)
    elif kind is keras.metrics.CategoricalAccuracy:
        if values.ndim < 2 or values.shape[-1] < 2:
            return None
        classes = values.argmax(axis=-1).ravel()
    else:
        classes = values.ravel().astype(np.int64)
    if not len(classes) or classes.min() < 0:
        return None
    counts = np.bincount(np.unique(classes, return_inverse=True)[1])
    weights = targets.weights
    if class_weight:
        weights = np.array([class_weight.get(int(label), 1.0) for label in classes])
    if weights is None or len(weights) != len(classes):
        return constant_accuracy(counts.tolist()), len(classes)
    weighted = np.bincount(np.unique(classes, return_inverse=True)[1], weights)
    return float(counts[weighted.argmax()] / len(classes)), len(classes)


def _area(metric: Any, values: Array, untrained: float) -> ChanceLevel | None:
    """The level of an area under a ROC curve, for classes 0 and 1: 0.5 without knowledge."""
    positives, negatives = int((values == 1).sum()), int((values == 0).sum())
    single = values.size == len(values)
    if not single or not positives or not negatives or metric.curve.value != "ROC":
        return None
    return ChanceLevel(untrained, 0.5, auc_noise(positives, negatives))


def _named_metrics(metrics: Any, output: str = "") -> Iterator[tuple[str, str, Any]]:
    """The name in Keras's logs, the output's name and the metric, for each compiled metric."""
    for metric in metrics:
        inner = getattr(metric, "metrics", None)
        if isinstance(inner, list):
            flat = getattr(metric, "_flat_metrics", None)
            own = getattr(metric, "output_name", None) or output
            yield from _named_metrics([m for m in flat if m] if flat else inner, own)
        else:
            yield f"{output}_{metric.name}" if output else metric.name, output, metric


def _computes_as_keras(model: Any) -> bool:
    """Whether the loss is the compiled one on the targets, and nothing of the model's own."""
    return all(
        getattr(type(model), name) is getattr(keras.Model, name)
        for name in ("compute_loss", "test_step")
    )


def _kind_of(loss: Any) -> str | None:
    """Which of Keras's own losses that have a closed form, without label smoothing."""
    try:
        loss = keras.losses.get(loss) if isinstance(loss, str) else loss
    except ValueError:
        return None
    if isinstance(loss, keras.losses.Loss):
        if getattr(loss, "label_smoothing", 0.0) or loss.reduction != "sum_over_batch_size":
            return None
        if getattr(loss, "ignore_class", None) is not None or getattr(loss, "axis", -1) != -1:
            return None
        kinds = {
            keras.losses.SparseCategoricalCrossentropy: "indices",
            keras.losses.CategoricalCrossentropy: "rows",
            keras.losses.BinaryCrossentropy: "binary",
            keras.losses.MeanSquaredError: "squared_error",
            keras.losses.MeanAbsoluteError: "absolute_error",
        }
        return kinds.get(type(loss))
    functions = {
        keras.losses.sparse_categorical_crossentropy: "indices",
        keras.losses.categorical_crossentropy: "rows",
        keras.losses.binary_crossentropy: "binary",
        keras.losses.mean_squared_error: "squared_error",
        keras.losses.mean_absolute_error: "absolute_error",
    }
    return functions.get(loss) if callable(loss) and loss.__hash__ else None


def _closed_form(kind: str | None, values: Array) -> tuple[float, float] | None:
    """The best constant's loss and its noise, where a formula is known; see `constant_loss`."""
    count, single = len(values), values.size == len(values)
    if kind in ("squared_error", "absolute_error") and values.ndim <= 2:
        columns = values.reshape(count, -1)
        if kind == "squared_error":
            squared = float(np.var(columns, axis=0).mean())
            return squared, squared_error_noise(squared, count)
        absolute = float(np.abs(columns - np.median(columns, axis=0)).mean())
        return absolute, absolute_error_noise(absolute, count)
    if kind == "rows" and values.ndim == 2 and values.shape[1] > 1:
        counts = values.sum(axis=0)
    elif (kind == "indices" and single) or (
        kind == "binary" and single and np.isin(values, (0, 1)).all()
    ):
        counts = np.unique(values, return_counts=True)[1]
    else:
        return None
    return constant_cross_entropy(counts.tolist()), cross_entropy_noise(count)


def _targets(model: Any, workload: Workload) -> dict[str, _Targets]:
    """The validation targets by output name, "" for a single one; what is no array is left out."""
    spec = workload.data.evaluation("validation").element_spec
    if not isinstance(spec, tuple) or len(spec) < 2:
        return {}
    collected: dict[str, list[tuple[Array, Array | None]]] = {}
    for batch in workload.data.evaluation("validation"):
        named = _by_output(model, batch[1])
        weights = keras.tree.flatten(batch[2]) if len(batch) > 2 else [None]
        for number, (name, target) in enumerate(named.items()):
            if not isinstance(target, tf.Tensor) or target.dtype == tf.string or not target.ndim:
                continue
            weight = weights[number if len(weights) == len(named) else 0]
            weight = None if weight is None else np.asarray(weight)
            collected.setdefault(name, []).append((target.numpy(), weight))
    return {
        name: _Targets(
            np.concatenate([values for values, _ in parts]),
            None if parts[0][1] is None else np.concatenate([w for _, w in parts if w is not None]),
        )
        for name, parts in collected.items()
        if len({values.shape[1:] for values, _ in parts}) == 1
    }


def _by_output(model: Any, targets: Any) -> dict[str, Any]:
    if not tf.nest.is_nested(targets):
        return {"": targets}
    if isinstance(targets, Mapping):
        return {str(key): target for key, target in targets.items()}
    names = getattr(model, "output_names", None) or []
    return dict(zip(names, keras.tree.flatten(targets), strict=False))
