"""What is wanted of a metric: whether it is to be minimized or maximized, for all of tfbatch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import keras

Direction = Literal["min", "max"]
Goal = Literal["metric", "time", "memory"]
"""What decides among configurations whose metric is as good; "metric": nothing else does."""

# What Keras says of its own metrics (`Metric._direction`), by the names that they log; a test
# compares them with the installed Keras. Importing it here would cost every command seconds.
_KERAS: dict[Direction, str] = {
    "min": "loss categorical_hinge hinge squared_hinge binary_crossentropy crossentropy ce bce "
    "categorical_crossentropy sparse_categorical_crossentropy kl_divergence poisson logcosh "
    "log_cosh_error mean_absolute_error mae mean_absolute_percentage_error mape mse msle "
    "mean_squared_error mean_squared_logarithmic_error root_mean_squared_error",
    "max": "accuracy acc binary_accuracy categorical_accuracy sparse_categorical_accuracy auc "
    "sparse_top_k_categorical_accuracy top_k_categorical_accuracy precision recall iou "
    "precision_at_recall recall_at_precision sensitivity_at_specificity f1_score fbeta_score "
    "specificity_at_sensitivity concordance_correlation pearson_correlation f_beta_score io_u "
    "binary_io_u mean_io_u one_hot_io_u one_hot_mean_io_u cosine_similarity r2_score",
}
# Usual short forms that Keras does not have, and what tfbatch's own callbacks and trials log.
_OTHERS: dict[Direction, str] = {
    "min": "error error_rate rmse kld nll huber divergence perplexity input_wait memory_mb seconds",
    "max": "f1 r2 dice sensitivity specificity examples_per_second",
}
_DIRECTIONS: dict[str, Direction] = {
    name: direction
    for table in (_KERAS, _OTHERS)
    for direction, names in table.items()
    for name in names.split()
}
_KERAS_WORDS: dict[str, Direction] = {"up": "max", "down": "min"}


def direction_of(name: str, metrics: Iterable[keras.Metric] = ()) -> Direction | None:
    """The direction of a value in Keras's logs; None if neither Keras nor its name determines it.

    Keras's own knowledge comes first: the metric object of the model that logs the name. Without
    one the end of the name decides, since Keras logs a metric of one output as `OUTPUT_METRIC`:
    `val_ratio_loss_accuracy` is an accuracy, `precision_loss` a loss, and `accuracy_ratio`
    is unknown.

    Args:
        name: A name in the logs, such as "val_auc_1".
        metrics: `model.metrics` of the compiled model that logs it, where there is one.
    """
    logged = re.sub(r"_\d+$", "", name.removeprefix("val_"))
    if name.startswith("gap_"):  # of `GeneralizationGap`: between training and validation
        return "min"
    own = {
        metric.name: known for metric in leaf_metrics(metrics) if (known := _own_direction(metric))
    }
    found = _by_the_end(name.removeprefix("val_"), own) or _by_the_end(logged, own)
    return found or _by_the_end(logged.lower(), _DIRECTIONS)


def is_accuracy(name: str) -> bool:
    """Whether a value in Keras's logs is an accuracy: a share of right answers."""
    return bool(re.search(r"(^|_)acc(uracy)?(_\d+)?$", name.lower()))


def _by_the_end(name: str, directions: dict[str, Direction]) -> Direction | None:
    words = name.split("_")
    for first in range(len(words)):  # the longest ending first
        if found := directions.get("_".join(words[first:])):
            return found
    return None


def _own_direction(metric: Any) -> Direction | None:
    """What Keras says of a metric, or that it is the mean of one of Keras's losses."""
    if found := _KERAS_WORDS.get(getattr(metric, "_direction", None) or ""):
        return found
    function = getattr(metric, "_fn", None)
    return "min" if getattr(function, "__module__", "").startswith("keras.src.losses.") else None


def leaf_metrics(metrics: Iterable[keras.Metric]) -> Iterable[keras.Metric]:
    """The metrics in `model.metrics`: Keras keeps the compiled ones inside one of its own."""
    for metric in metrics:
        inner = getattr(metric, "metrics", None)
        if isinstance(inner, list):
            yield from leaf_metrics(inner)
        else:
            yield metric
