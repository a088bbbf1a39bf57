"""The value of each metric of a model on the validation split without learning."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfbatch.errors import TfbatchError
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
from tfbatch.training.misfit import in_one_line
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
_MOST_BYTES = 2**28
"""Of an output's validation targets, which are read into memory."""
_MOST_CLASSES = 2**20
_CHUNK = 2**20
_ERROR_FUNCTIONS = {
    keras.losses.mean_squared_error: keras.metrics.MeanSquaredError,
    keras.losses.mean_absolute_error: keras.metrics.MeanAbsoluteError,
}


def chance_levels(
    model: keras.Model,
    workload: Workload,
    untrained: Mapping[str, float],
    report: Callable[[str], None],
) -> dict[str, ChanceLevel]:
    """The level of each metric; with the best constant prediction's where that is known.

    It is known of the loss, whatever it is, unless a model adds penalties to it or computes it by
    itself; of accuracies, squared and absolute errors, and areas under a ROC curve. For other
    metrics the untrained model alone counts: a constant may have the best precision or recall.
    The same holds where Keras masks outputs, and for metrics that Keras weights.

    Args:
        model: The compiled model.
        workload: Its data.
        untrained: Every metric of the untrained model on the validation split.
        report: Called with a sentence for the user where the loss's constant cannot be computed.
    """
    levels = {name: ChanceLevel(value) for name, value in untrained.items()}
    if not _computes_as_keras(model):
        return levels
    outputs = keras.tree.flatten(_outputs(model, workload))
    if any(getattr(output, "_keras_mask", None) is not None for output in outputs):
        return levels
    metrics = [
        (name, output, metric)
        for name, output, metric in _named_metrics(model.metrics)
        if name in untrained and _has_constant(metric, model.loss)
    ]
    weighted = bool(workload.class_weight) or weighted_in_training_only(workload)
    factors = getattr(getattr(model, "_compile_loss", None), "_user_loss_weights", None)
    kind = None if weighted or factors is not None else _kind_of(model.loss)
    asked = {output for _, output, _ in metrics} | ({""} if kind else set())
    targets = _targets(model, workload, asked) if asked else {}
    units = _units(model, outputs)
    for name, output, metric in metrics:
        if output in targets:
            found = _of_metric(
                metric, targets[output], untrained[name], workload, units.get(output)
            )
            levels[name] = found or levels[name]
    if "loss" not in untrained or model.losses:
        return levels  # penalties of weights are no part of a constant prediction's loss
    simple = kind is not None and "" in targets and targets[""].weights is None
    known = _closed_form(kind, targets[""].values) if simple else None
    known = known or _fitted(model, workload, report)
    if known:
        levels["loss"] = ChanceLevel(untrained["loss"], known[0], known[1])
    return levels


def _fitted(
    model: Any, workload: Workload, report: Callable[[str], None]
) -> tuple[float, float] | None:
    try:
        return constant_loss(model, workload)
    except TfbatchError:
        raise
    except Exception as error:  # of a loss of a user's own, which may take no constant
        report(
            "The loss of the best constant prediction is not known, so that only the untrained "
            f"model tells whether a trial learned. Its computation ended with {in_one_line(error)}"
        )
        return None


@dataclasses.dataclass(frozen=True)
class _Targets:
    """The validation targets of one output, [examples, ...], and their weights [examples]."""

    values: Array
    weights: Array | None


def _outputs(model: Any, workload: Workload) -> Any:
    """The model's symbolic outputs, or its predictions for a batch where it has no graph."""
    if getattr(model, "outputs", None):
        return model.outputs
    inputs = next(iter(workload.data.evaluation("validation")))[0]
    return model(inputs, training=False) if model._call_has_training_arg else model(inputs)


def _units(model: Any, outputs: Sequence[Any]) -> dict[str, int]:
    """The length of the last axis of each output, by its name; "" for a single one."""
    names = [""] if len(outputs) == 1 else getattr(model, "output_names", None) or []
    return {
        str(name): output.shape[-1]
        for name, output in zip(names, outputs, strict=False)
        if len(output.shape) > 1 and output.shape[-1]
    }


def _has_constant(metric: Any, loss: Any) -> bool:
    """Whether its best constant is known: not where the loss ignores a class that it counts."""
    kind = _kind_of_metric(metric)
    ignores = any(
        getattr(one, "ignore_class", None) is not None for one in keras.tree.flatten(loss)
    )
    if kind in _ACCURACIES:
        return not ignores
    return kind in _ERRORS or kind is keras.metrics.AUC


def _of_metric(
    metric: Any, targets: _Targets, untrained: float, workload: Workload, units: int | None
) -> ChanceLevel | None:
    values, kind = targets.values, _kind_of_metric(metric)
    weighted_elsewhere = weighted_in_training_only(workload)
    if kind in _ACCURACIES:
        if weighted_elsewhere and not workload.class_weight:
            return None
        found = _constant_accuracy(kind, targets, workload.class_weight, units)
        if found is None:
            return None
        constant, examples = found
        return ChanceLevel(untrained, constant, accuracy_noise(max(untrained, constant), examples))
    if kind is keras.metrics.AUC:
        return _area(metric, values, untrained)
    if targets.weights is not None or workload.class_weight or weighted_elsewhere:
        return None  # a weighted loss may rightly end at a larger error than the mean's
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
    kind: Any, targets: _Targets, class_weight: Mapping[int, float] | None, units: int | None
) -> tuple[float, int] | None:
    """The accuracy of the best constant prediction, and the predictions that it is a mean of.

    With weights in training the class of most weight counts: what is better than always predicting
    it may be worse than always predicting the most frequent one.
    """
    values, limit = targets.values, _MOST_CLASSES
    if kind is keras.metrics.BinaryAccuracy:
        columns = values.reshape(-1, values.shape[-1]) if values.ndim > 1 else values[:, None]
        if not np.isin(columns, (0, 1)).all():
            return None
        if columns.shape[1] > 1 or values.ndim > 2:
            if targets.weights is not None or class_weight:
                return None
            share = columns.mean(axis=0)
            return float(np.maximum(share, 1 - share).mean()), values.size
        classes = columns[:, 0]
    elif kind is keras.metrics.CategoricalAccuracy:
        if values.ndim < 2 or values.shape[-1] < 2:
            return None
        classes = values.argmax(axis=-1).ravel()
    else:
        classes, limit = values.ravel(), units or _MOST_CLASSES
    weights = None if targets.weights is None else targets.weights.ravel()
    if not len(classes) or (weights is not None and len(weights) != len(classes)):
        return None
    if not (classes.min() >= 0 and classes.max() < limit):  # NaN, or what no model predicts
        return None
    counts = _sums(classes)
    if class_weight:
        weighted = counts * [class_weight.get(label, 1.0) for label in range(len(counts))]
    elif weights is not None:
        weighted = _sums(classes, weights)
    else:
        return constant_accuracy(counts.tolist()), len(classes)
    return float(counts[weighted.argmax()] / len(classes)), len(classes)


def _sums(classes: Array, weights: Array | None = None) -> Array:
    """The number of labels of each class, or their weight; np.bincount copies to 64 bits."""
    total = np.zeros(int(classes.max()) + 1)
    for start in range(0, len(classes), _CHUNK):
        part = slice(start, start + _CHUNK)
        found = np.bincount(
            classes[part].astype(np.int64), None if weights is None else weights[part]
        )
        total[: len(found)] += found
    return total


def _area(metric: Any, values: Array, untrained: float) -> ChanceLevel | None:
    """The level of an area under a ROC curve, for classes 0 and 1: 0.5 without knowledge."""
    positives, negatives = int((values == 1).sum()), int((values == 0).sum())
    single = values.size == len(values)
    if not single or not positives or not negatives or metric.curve.value != "ROC":
        return None
    return ChanceLevel(untrained, 0.5, auc_noise(positives, negatives))


def _named_metrics(metrics: Any, output: str = "") -> Iterator[tuple[str, str, Any]]:
    """The name in Keras's logs, the output's name and the metric, of each that is not weighted."""
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
        if not np.allclose(values.sum(axis=1), 1, atol=1e-3):
            return None
        counts = values.sum(axis=0)
    elif (kind == "indices" and single) or (
        kind == "binary" and single and np.isin(values, (0, 1)).all()
    ):
        counts = np.unique(values, return_counts=True)[1]
    else:
        return None
    return constant_cross_entropy(counts.tolist()), cross_entropy_noise(count)


def _targets(model: Any, workload: Workload, asked: Set[str]) -> dict[str, _Targets]:
    """The validation targets of the outputs that are asked for; "" is a single one.

    What is no array of numbers, varies in shape or takes more than `_MOST_BYTES` is left out, and
    an output without a weight where others have one.
    """
    spec = workload.data.evaluation("validation").element_spec
    if not isinstance(spec, tuple) or len(spec) < 2:
        return {}
    collected: dict[str, list[_Targets]] = {name: [] for name in asked}
    sizes = dict.fromkeys(asked, 0)
    for batch in workload.data.evaluation("validation"):
        named = _by_output(model, batch[1])
        weights = _by_output(model, batch[2]) if len(batch) > 2 else {}
        every = next(iter(weights.values())) if len(weights) == 1 else None
        for name, target in named.items():
            if name not in collected:
                continue
            weight = weights.get(name, every)
            arrays = (target,) if weight is None else (target, weight)
            known = all(map(_is_numeric, arrays)) and (weight is None) == (len(batch) < 3)
            sizes[name] += sum(array.numpy().nbytes for array in arrays) if known else 0
            if not known or sizes[name] > _MOST_BYTES:
                del collected[name]
                continue
            part = _Targets(target.numpy(), None if weight is None else weight.numpy())
            collected[name].append(part)
        if not collected:
            break
    return {name: found for name, parts in collected.items() if (found := _joined(parts))}


def _is_numeric(value: Any) -> bool:
    return isinstance(value, tf.Tensor) and value.dtype != tf.string and bool(value.shape.rank)


def _joined(parts: Sequence[_Targets]) -> _Targets | None:
    weights = [part.weights for part in parts if part.weights is not None]
    shapes = {part.values.shape[1:] for part in parts}
    if len(shapes) != 1 or len({found.shape[1:] for found in weights}) > 1:
        return None
    return _Targets(
        np.concatenate([part.values for part in parts]),
        np.concatenate(weights) if weights else None,
    )


def _by_output(model: Any, targets: Any) -> dict[str, Any]:
    if not tf.nest.is_nested(targets):
        return {"": targets}
    if isinstance(targets, Mapping):
        return {str(key): target for key, target in targets.items()}
    names = getattr(model, "output_names", None) or []
    return dict(zip(names, keras.tree.flatten(targets), strict=False))
