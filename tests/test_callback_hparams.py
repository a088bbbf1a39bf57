"""The rows and columns that a plain `fit` leaves in TensorBoard's HParams view."""

from __future__ import annotations

import copy
import math

import keras
import numpy as np
import pytest
from several_optimizers import several_optimizers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util.tensor_util import make_ndarray
from test_hparams_log import Backend

from tfbatch.callbacks import HParams
from tfbatch.errors import InputError
from tfbatch.hparams_log import Column, Metric, RealInterval, declared, write_experiment

X, Y = np.ones((8, 2), "float32"), np.ones((8, 1), "float32")


def fit(*callbacks, rate=0.01):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(rate), "mse", metrics=["mae"])
    return model.fit(X, Y, batch_size=4, epochs=2, callbacks=list(callbacks), verbose=0).history


def test_every_fit_is_a_row_with_what_was_chosen_what_follows_and_the_final_metrics(tmp_path):
    first = HParams(tmp_path, {"batch_size": 4, "schedule": "constant"})
    history = fit(first)
    second = copy.deepcopy(first)
    fit(second)

    rows = Backend.of(tmp_path).rows()
    assert sorted(rows) == ["fit-0001", "fit-0002"]
    assert (first.folder.name, second.folder.name) == ("fit-0001", "fit-0002")
    values = rows["fit-0001"]["hparams"]
    assert values["batch_size"] == 4
    assert values["schedule"] == "constant"
    assert values["learning_rate"] == pytest.approx(0.01)
    assert (values["steps_per_epoch"], values["epochs"], values["parameters"]) == (2, 2, 3)
    assert values["_status"] == "completed"
    metrics = {m["name"]["tag"]: m["value"] for m in rows["fit-0001"]["metricValues"]}
    assert metrics == pytest.approx({name: history[name][-1] for name in ("loss", "mae")})


def test_several_optimizers_have_a_row_without_a_learning_rate(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(several_optimizers(), "mse")
    model.fit(X, Y, batch_size=4, callbacks=[HParams(tmp_path)], verbose=0)

    (row,) = Backend.of(tmp_path).rows().values()
    assert row["hparams"]["optimizer"].startswith("multi_optimizer")
    assert "learning_rate" not in row["hparams"]


def test_a_metric_with_a_value_for_each_class_has_no_column(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, activation="softmax")])
    model.compile("sgd", "mse", metrics=[keras.metrics.F1Score()])
    model.fit(X, np.eye(3)[[0, 1, 2, 0, 1, 2, 0, 1]], callbacks=[HParams(tmp_path)], verbose=0)

    (row,) = Backend.of(tmp_path).rows().values()
    assert [metric["name"]["tag"] for metric in row["metricValues"]] == ["loss"]


def scalars(folder):
    loaded = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    loaded.Reload()
    tags = [tag for tag in loaded.Tags()["tensors"] if not tag.startswith("_hparams_")]
    found = {
        tag: [(e.step, float(make_ndarray(e.tensor_proto))) for e in loaded.Tensors(tag)]
        for tag in tags
    }
    return {tag: sorted(set(points)) for tag, points in found.items()}


def test_the_final_metrics_are_the_ends_of_curves_over_updates(tmp_path):
    hparams = HParams(tmp_path)
    history = fit(hparams)

    found = scalars(hparams.folder)
    assert found.keys() == {"loss", "mae"}
    for name, points in found.items():
        assert [step for step, _ in points] == [2, 4]
        assert [value for _, value in points] == pytest.approx(history[name])
    times = [
        event.wall_time
        for file in hparams.folder.glob("*.tfevents.*")
        for event in EventFileLoader(str(file)).Load()
        if any(value.tag == "loss" for value in event.summary.value)
    ]
    assert len(set(times)) >= 2, "each epoch has its own time"


def test_a_model_that_trains_with_an_optimizer_of_its_own_has_curves_over_its_batches(tmp_path):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, inputs):
            return self.dense(inputs)

        def train_step(self, data):
            return {"loss": keras.ops.mean(self(data[0]))}

    model, hparams = Own(), HParams(tmp_path)
    model.compile(loss="mse")
    model.fit(X, Y, batch_size=4, epochs=2, callbacks=[hparams], verbose=0)

    assert [step for step, _ in scalars(hparams.folder)["loss"]] == [2, 4]


def test_curves_of_a_training_that_diverged_end_in_no_final_value(tmp_path):
    hparams = HParams(tmp_path)
    fit(hparams, rate=1e30)

    assert "loss" not in scalars(hparams.folder)
    (row,) = Backend.of(tmp_path).rows().values()
    assert "loss" not in {m["name"]["tag"] for m in row.get("metricValues", [])}


def test_the_columns_of_earlier_fits_are_kept_and_directions_shown(tmp_path):
    fit(HParams(tmp_path, {"batch_size": 4}, derived=False))
    fit(HParams(tmp_path, {"units": 3}, derived=False, directions={"mae": "max"}))

    columns, metrics = declared(tmp_path)

    assert {column.name for column in columns} == {"batch_size", "units"}
    assert {metric.name: metric.direction for metric in metrics} == {"loss": "min", "mae": "max"}


def test_a_training_that_overflows_is_a_row_with_its_status(tmp_path):
    assert not math.isfinite(fit(HParams(tmp_path), rate=1e30)["loss"][-1])

    (row,) = Backend.of(tmp_path).rows().values()
    assert row["hparams"]["_status"] == "diverged"


def test_what_was_declared_is_read_back_as_it_was(tmp_path):
    columns = [
        Column("a", "letter a", "Text.", ("x", "y")),
        Column("b", "b", "", RealInterval(0.0, 2.0)),
        Column("c", "c", "", RealInterval()),
        Column("d", "d"),
    ]
    metrics = [Metric("loss", "min"), Metric("accuracy", "max"), Metric("seconds")]

    write_experiment(tmp_path, columns=columns, metrics=metrics)

    assert declared(tmp_path) == (columns, metrics)
    assert declared(tmp_path / "absent") == ([], [])


@pytest.mark.parametrize(
    "arguments",
    [
        {"hparams": {"layers": [1, 2]}},
        {"hparams": {"_status": "completed"}},
        {"directions": {"loss": "down"}},
    ],
    ids=["list", "status", "direction"],
)
def test_what_the_view_cannot_show_is_refused_before_training(arguments):
    with pytest.raises(InputError, match=r"must be .* Received"):
        HParams("logs", **arguments)
