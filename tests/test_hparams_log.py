"""Reads what tfbatch.hparams_log writes back through TensorBoard's own HParams backend."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest
from google.protobuf import json_format
from tensorboard import context as request_context
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import (
    api_pb2,
    backend_context,
    get_experiment,
    list_session_groups,
)

from tfbatch import hparams_log
from tfbatch.hparams_log import Column, Metric, RealInterval, write_experiment, write_trial

COLUMNS = (
    Column("schedule", "schedule", domain=("cosine", "constant")),
    Column("batch_size", "batch size", "Examples in one step.", domain=(128, 32, 64)),
    Column("learning_rate", "learning rate", domain=RealInterval(1e-5, 1)),
    Column("nesterov", domain=(False, True)),
    Column("final_fraction", "final fraction", domain=RealInterval(0.0, 1.0)),
    Column("added_later"),
)
METRICS = (Metric("val_loss", "min"), Metric("val_accuracy", "max"), Metric("seconds"))
STATUSES = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]


@dataclasses.dataclass(frozen=True)
class Backend:
    """The server side of the HParams view, asked the way the page asks it."""

    context: backend_context.Context
    runs: frozenset[str]

    @classmethod
    def of(cls, log_dir):
        multiplexer = plugin_event_multiplexer.EventMultiplexer()
        multiplexer.AddRunsFromDirectory(str(log_dir))
        multiplexer.Reload()
        provider = data_provider.MultiplexerDataProvider(multiplexer, str(log_dir))
        context = backend_context.Context(base_plugin.TBContext(data_provider=provider))
        return cls(context, frozenset(multiplexer.Runs()))

    def experiment(self):
        request = api_pb2.GetExperimentRequest()
        handler = get_experiment.Handler(
            request_context.RequestContext(), self.context, "", request
        )
        return handler.run()

    def rows(self, *column_parameters):
        request = json_format.ParseDict(
            {
                "allowedStatuses": STATUSES,
                "colParams": column_parameters,
                "sliceSize": 100,
            },
            api_pb2.ListSessionGroupsRequest(),
        )
        handler = list_session_groups.Handler(
            request_context.RequestContext(), self.context, "", request
        )
        # The page gets JSON, which cannot hold every value.
        groups = json_format.MessageToDict(handler.run()).get("sessionGroups", [])
        return {group["name"]: group for group in groups}


def _metrics_of(row):
    return {metric["name"]["tag"]: metric["value"] for metric in row.get("metricValues", [])}


def _write_search(log_dir, trials):
    write_experiment(log_dir, columns=COLUMNS, metrics=METRICS)
    for trial, (metrics, status) in trials.items():
        values: dict[str, Any] = {"batch_size": 32, "learning_rate": 0.1, "schedule": "constant"}
        write_trial(log_dir / trial, values=values, metrics=metrics, status=status)


def test_columns_have_domains_and_names(tmp_path):
    write_experiment(tmp_path, columns=COLUMNS, metrics=METRICS)
    infos = {info.name: info for info in Backend.of(tmp_path).experiment().hparam_infos}
    assert list(infos["batch_size"].domain_discrete) == [32, 64, 128]
    assert infos["batch_size"].type == api_pb2.DATA_TYPE_FLOAT64
    assert infos["batch_size"].display_name == "batch size"
    assert infos["batch_size"].description == "Examples in one step."
    assert list(infos["schedule"].domain_discrete) == ["constant", "cosine"]
    assert infos["schedule"].type == api_pb2.DATA_TYPE_STRING
    assert infos["learning_rate"].domain_interval.min_value == 1e-5
    assert infos["learning_rate"].domain_interval.max_value == 1.0
    assert infos["nesterov"].type == api_pb2.DATA_TYPE_BOOL
    assert sorted(infos["_status"].domain_discrete) == sorted(hparams_log.STATUSES)
    assert infos["added_later"].WhichOneof("domain") is None


def test_status_and_first_columns_are_the_ones_displayed(tmp_path):
    write_experiment(tmp_path, columns=COLUMNS, metrics=METRICS)
    names = [info.name for info in Backend.of(tmp_path).experiment().hparam_infos]
    assert names[: hparams_log.DISPLAYED_COLUMNS] == [
        "_status",
        "batch_size",
        "learning_rate",
        "nesterov",
        "schedule",
    ]
    assert names[hparams_log.DISPLAYED_COLUMNS :] == ["added_later", "final_fraction"]


def test_numbers_without_bounds_are_numbers(tmp_path):
    write_experiment(
        tmp_path, columns=[Column("rate", domain=RealInterval(low=0))], metrics=METRICS
    )
    infos = {info.name: info for info in Backend.of(tmp_path).experiment().hparam_infos}
    assert infos["rate"].type == api_pb2.DATA_TYPE_FLOAT64
    assert infos["rate"].WhichOneof("domain") is None


@pytest.mark.parametrize(
    ("choices", "domain"),
    [
        (tuple(2**power for power in range(9)), "domain_discrete"),
        (tuple(2**power for power in range(10)), "domain_interval"),
        (tuple("abcdefghij"), "domain_discrete"),
    ],
)
def test_long_lists_of_numbers_stay_filterable(tmp_path, choices, domain):
    write_experiment(tmp_path, columns=[Column("choice", domain=choices)], metrics=METRICS)
    infos = {info.name: info for info in Backend.of(tmp_path).experiment().hparam_infos}
    assert infos["choice"].WhichOneof("domain") == domain


def test_metrics_say_which_direction_is_better(tmp_path):
    write_experiment(tmp_path, columns=COLUMNS, metrics=METRICS)
    infos = Backend.of(tmp_path).experiment().metric_infos
    assert [(info.name.tag, info.name.group) for info in infos] == [
        ("val_loss", ""),
        ("val_accuracy", ""),
        ("seconds", ""),
    ]
    assert [info.display_name for info in infos] == [
        "val_loss (lower is better)",
        "val_accuracy (higher is better)",
        "seconds",
    ]
    assert [info.description for info in infos] == ["Lower is better.", "Higher is better.", ""]


def test_values_keep_their_type_and_missing_ones_are_left_out(tmp_path):
    write_experiment(tmp_path, columns=COLUMNS, metrics=METRICS)
    values: dict[str, Any] = {
        "batch_size": np.int64(64),
        "learning_rate": np.float32(0.5),
        "nesterov": True,
        "schedule": "cosine",
        "final_fraction": None,
        "not_a_number": math.nan,
        "infinite": math.inf,
    }
    metrics: dict[str, Any] = {"val_loss": 0.25, "val_accuracy": np.float32(0.75)}
    write_trial(tmp_path / "one", values=values, metrics=metrics, status="completed")
    row = Backend.of(tmp_path).rows()["one"]
    assert row["hparams"] == {
        "batch_size": 64.0,
        "learning_rate": 0.5,
        "nesterov": True,
        "schedule": "cosine",
        "_status": "completed",
    }
    assert _metrics_of(row) == {"val_loss": 0.25, "val_accuracy": 0.75}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e39])
def test_metrics_that_are_not_finite_are_left_out(tmp_path, value):
    _write_search(tmp_path, {"one": ({"val_loss": value, "seconds": 2.0}, "diverged")})
    row = Backend.of(tmp_path).rows()["one"]
    assert row["hparams"]["_status"] == "diverged"
    assert _metrics_of(row) == {"seconds": 2.0}


def test_every_trial_has_a_row_and_sorting_works(tmp_path):
    trials: dict[str, tuple[dict[str, float], str]] = {
        "a": ({"val_loss": 0.3}, "completed"),
        "b": ({"val_loss": math.nan}, "diverged"),
        "c": ({"val_loss": 0.1}, "completed"),
        "d": ({}, "oom"),
        "e": ({"val_loss": 0.2}, "completed"),
        "f": ({}, "error"),
    }
    _write_search(tmp_path, trials)
    backend = Backend.of(tmp_path)
    metric = {"metric": {"tag": "val_loss"}}
    assert list(backend.rows()) == list("abcdef")
    assert list(backend.rows({**metric, "order": "ORDER_ASC"})) == list("ceabdf")
    assert list(backend.rows({**metric, "order": "ORDER_DESC"}))[:3] == list("aec")
    status = {"hparam": "_status", "filterDiscrete": ["oom", "error"]}
    assert list(backend.rows(status)) == ["d", "f"]


def test_conditional_columns_can_be_sorted_and_filtered(tmp_path):
    write_experiment(tmp_path, columns=COLUMNS, metrics=METRICS)
    fractions: Sequence[float | None] = (0.2, None, 0.1)
    for trial, fraction in zip("abc", fractions, strict=True):
        values = {"final_fraction": fraction}
        write_trial(tmp_path / trial, values=values, metrics={}, status="completed")
    backend = Backend.of(tmp_path)
    column = {"hparam": "final_fraction"}
    assert list(backend.rows({**column, "order": "ORDER_ASC"})) == ["c", "a", "b"]
    interval = {"minValue": 0.0, "maxValue": 0.15}
    shown = backend.rows({**column, "filterInterval": interval, "excludeMissingValues": True})
    assert list(shown) == ["c"]


def test_a_second_declaration_takes_the_place_of_the_first(tmp_path):
    foreign_file = tmp_path / "events.out.tfevents.1.host.1.0.v2"
    foreign_file.write_bytes(b"")
    write_experiment(tmp_path, columns=COLUMNS[:2], metrics=METRICS[:1])
    write_experiment(tmp_path, columns=COLUMNS, metrics=METRICS)
    experiment = Backend.of(tmp_path).experiment()
    assert len(experiment.hparam_infos) == len(COLUMNS) + 1
    assert len(experiment.metric_infos) == len(METRICS)
    assert foreign_file.exists()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_repeated_trial_takes_the_place_of_the_first(tmp_path):
    _write_search(tmp_path, {"one": ({"val_loss": 0.5, "seconds": 1.0}, "diverged")})
    _write_search(tmp_path, {"one": ({"val_loss": 0.25}, "completed")})
    rows = Backend.of(tmp_path).rows()
    assert list(rows) == ["one"]
    assert rows["one"]["hparams"]["_status"] == "completed"
    assert _metrics_of(rows["one"]) == {"val_loss": 0.25}


def test_equal_trial_names_in_two_searches_are_two_rows(tmp_path):
    _write_search(tmp_path / "first", {"one": ({"val_loss": 0.5}, "completed")})
    _write_search(tmp_path / "second", {"one": ({"val_loss": 0.25}, "completed")})
    rows = Backend.of(tmp_path).rows()
    assert {name: _metrics_of(row)["val_loss"] for name, row in rows.items()} == {
        "first/one": 0.5,
        "second/one": 0.25,
    }


def test_keras_callback_in_the_same_folder_adds_no_rows(tmp_path):
    write_experiment(tmp_path, columns=COLUMNS, metrics=METRICS)
    trial_dir = tmp_path / "one"
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    callback = keras.callbacks.TensorBoard(
        str(trial_dir), write_graph=False, histogram_freq=0, profile_batch=0
    )
    inputs, targets = np.zeros((8, 2), "float32"), np.zeros((8, 1), "float32")
    model.fit(inputs, targets, validation_data=(inputs, targets), callbacks=[callback], verbose=0)
    metrics = {"val_loss": 0.5}
    write_trial(trial_dir, values={"batch_size": 32}, metrics=metrics, status="completed")
    backend = Backend.of(tmp_path)
    assert backend.runs == {".", "one", "one/train", "one/validation"}
    assert {name: _metrics_of(row) for name, row in backend.rows().items()} == {"one": metrics}
    assert [info.name.tag for info in backend.experiment().metric_infos] == [
        "val_loss",
        "val_accuracy",
        "seconds",
    ]


def test_unusable_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown status 'failed'"):
        write_trial(tmp_path, values={}, metrics={}, status="failed")
    with pytest.raises(ValueError, match="'_status' is written from the status"):
        write_trial(tmp_path, values={"_status": "x"}, metrics={}, status="error")
    with pytest.raises(TypeError):
        write_trial(tmp_path, values={"a": [1]}, metrics={}, status="error")  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="more than once: batch_size"):
        write_experiment(tmp_path, columns=[COLUMNS[1], COLUMNS[1]], metrics=[])
    with pytest.raises(ValueError, match="more than once: _status"):
        write_experiment(tmp_path, columns=[Column("_status")], metrics=[])
    with pytest.raises(ValueError, match="more than once: seconds"):
        write_experiment(tmp_path, columns=[], metrics=[METRICS[2], METRICS[2]])
    with pytest.raises(ValueError, match="Empty domain"):
        write_experiment(tmp_path, columns=[Column("empty", domain=())], metrics=[])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("low", "high"), [(1.0, 0.0), (0.0, math.nan)])
def test_intervals_are_ascending(low, high):
    with pytest.raises(ValueError, match="not an interval"):
        RealInterval(low, high)
