"""One place decides whether a metric is to be small or large, and Keras's own knowledge leads."""

from __future__ import annotations

import inspect

import keras
import numpy as np
import pytest

from tfbatch.callbacks import HParams
from tfbatch.errors import InputError
from tfbatch.hparams_log import declared
from tfbatch.metric_direction import direction_of
from tfbatch.trial.objective import Objective

_ARGUMENTS = {"num_classes": 2, "target_class_ids": [0], "recall": 0.5, "precision": 0.5}


def keras_metrics():
    made = []
    for kind in vars(keras.metrics).values():
        if inspect.isclass(kind) and issubclass(kind, keras.metrics.Metric):
            names = [
                n for n, p in inspect.signature(kind).parameters.items() if p.default is p.empty
            ]
            arguments = {name: _ARGUMENTS.get(name, 0.5) for name in names if name != "kwargs"}
            made.append(kind(**arguments))
    return made


def test_every_metric_of_keras_has_the_direction_that_keras_gives_it():
    words = {"up": "max", "down": "min", None: None}
    metrics = keras_metrics()
    assert len(metrics) > 40
    for metric in metrics:
        expected = words[getattr(metric, "_direction", None)]
        assert direction_of(f"val_{metric.name}") == expected, metric.name


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("val_auc", "max"),
        ("loss_ratio_accuracy", "max"),
        ("val_head_auc_2", "max"),
        ("head_loss", "min"),
        ("val_precision_loss", "min"),
        ("val_MSE", "min"),
        ("gap_accuracy", "min"),
        ("val_examples_per_second", "max"),
        ("val_my_error_rate", "min"),
        ("accuracy_ratio", None),
        ("backlossless", None),
        ("batch_size", None),
        ("false_negatives", None),
    ],
)
def test_the_end_of_a_name_tells_since_keras_puts_the_output_before_it(name, direction):
    assert direction_of(name) == direction


class Distance(keras.metrics.MeanSquaredError):
    """A metric whose name says nothing, or the wrong thing, and whose object says it."""


def test_the_models_own_metric_outweighs_its_name(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=[Distance(name="fit_accuracy"), Distance(name="score")])
    model.fit(
        np.ones((4, 2)), np.ones((4, 1)), verbose=0, callbacks=[HParams(tmp_path, derived=False)]
    )

    assert direction_of("val_fit_accuracy", model.metrics) == "min"
    assert direction_of("val_score", model.metrics) == "min"
    shown = {metric.name: metric.direction for metric in declared(tmp_path)[1]}
    assert shown == {"loss": "min", "fit_accuracy": "min", "score": "min"}


def test_the_mean_of_one_of_keras_losses_is_to_be_small_also_where_its_name_is_a_scores():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    losses = [keras.losses.cosine_similarity, keras.losses.dice, keras.losses.huber]
    model.compile("sgd", "mse", metrics=[*losses, keras.metrics.CosineSimilarity(name="angle")])
    model.evaluate(np.ones((4, 2)), np.ones((4, 2)), verbose=0)

    for loss in losses:
        assert direction_of(f"val_{loss.__name__}", model.metrics) == "min"
    assert direction_of("val_angle", model.metrics) == "max"


def test_an_objective_whose_name_contradicts_the_models_metric_is_asked_for():
    names, directions = ["val_fit_accuracy"], {"fit_accuracy": direction_of("mse")}

    with pytest.raises(InputError, match=r"metric with that name says min\. Give the direction"):
        Objective.parse("val_fit_accuracy").check(names, directions)
    Objective.parse("val_fit_accuracy:max").check(names, directions)
