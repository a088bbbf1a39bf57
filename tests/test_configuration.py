"""A configuration travels through YAML, JSON and the journal's flat rows without a change."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pydantic
import pytest

from tfbatch.configuration import Configuration
from tfbatch.errors import ConfigurationError
from tfbatch.schema import Named

CONFIGURATIONS = {
    "defaults": Configuration(batch_size=1, base_learning_rate=1e-300),
    "everything": Configuration(
        batch_size=512,
        base_learning_rate=0.1 + 0.2,
        base_batch_size=64,
        scaling_rule="square_root",
        learning_rate_octaves=-0.5,
        warmup_fraction=0.03,
        schedule=Named(name="wsd", cooldown=0.3, shape="linear", final_fraction=0.0),
        optimizer=Named(name="adamw", weight_decay=1e-4, beta_1=0.8),
    ),
    "a rule with a parameter": Configuration(
        batch_size=8,
        base_learning_rate=0.1,
        scaling_rule=Named(name="power", alpha=0.7),
        optimizer=Named(name="sgd", nesterov=True, momentum_half_life=500.0),
    ),
    "names within names": Configuration(
        batch_size=32,
        base_learning_rate=0.1,
        schedule=Named(name="cosine", schedule_x=1),
        optimizer=Named(name="sgd", optimizer_name="x"),
    ),
}
EACH = pytest.mark.parametrize("configuration", CONFIGURATIONS.values(), ids=CONFIGURATIONS)


@EACH
def test_flat_rows_hold_everything(configuration):
    row = json.loads(json.dumps({"trial": "x", **configuration.flat(), "steps": 5, "message": ""}))

    assert Configuration.from_flat(row) == configuration
    assert not any(isinstance(value, dict | list) for value in row.values())


@EACH
def test_a_dump_holds_everything(configuration):
    dumped = json.loads(json.dumps(configuration.model_dump(mode="json")))

    assert Configuration.model_validate(dumped) == configuration


def test_parameters_of_other_trials_in_a_table_are_ignored():
    """In a table of trials an empty cell is None."""
    one, other = CONFIGURATIONS["defaults"], CONFIGURATIONS["everything"]
    table = pd.DataFrame([one.flat(), other.flat()]).astype(object)
    rows = table.where(table.notna(), None).to_dict(orient="records")

    assert [Configuration.from_flat(row) for row in rows] == [one, other]


def test_flat_names_say_whose_parameter_it_is():
    flat = CONFIGURATIONS["everything"].flat()

    assert flat["schedule"] == "wsd"
    assert flat["schedule_cooldown"] == 0.3
    assert flat["optimizer"] == "adamw"
    assert flat["optimizer_weight_decay"] == 1e-4
    assert flat["learning_rate_octaves"] == -0.5


def test_equal_configurations_and_no_others_have_the_same_identity():
    everything = CONFIGURATIONS["everything"]
    changes: list[dict[str, Any]] = [
        {},
        {"batch_size": 256},
        {"base_learning_rate": 0.3},
        {"base_batch_size": 32},
        {"scaling_rule": Named(name="linear")},
        {"scaling_rule": Named(name="power", alpha=0.5)},
        {"scaling_rule": Named(name="power", alpha=0.6)},
        {"learning_rate_octaves": 0.5},
        {"warmup_fraction": 0.0},
        {"schedule": Named(name="wsd", cooldown=0.2)},
        {"schedule": Named(name="cosine", cooldown=0.3)},
        {"optimizer": Named(name="adamw", weight_decay=1e-4)},
    ]
    identities = [everything.model_copy(update=change).identity() for change in changes]

    assert len(set(identities)) == len(changes)
    assert Configuration.from_flat(everything.flat()).identity() == identities[0]
    assert all(identity.isalnum() and len(identity) == 8 for identity in identities)


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 0},
        {"batch_size": 32.5},
        {"batch_size": None},
        {"base_learning_rate": 0.0},
        {"base_learning_rate": -0.1},
        {"base_learning_rate": float("inf")},
        {"base_learning_rate": float("nan")},
        {"base_batch_size": 0},
        {"warmup_fraction": -0.1},
        {"warmup_fraction": 1.1},
        {"learning_rate_octaves": float("nan")},
        {"schedule": "cosine"},
        {"schedule": {"cooldown": 0.1}},
        {"steps": 100},
    ],
    ids=str,
)
def test_a_value_out_of_range_is_refused(change):
    data = CONFIGURATIONS["defaults"].model_dump() | change

    with pytest.raises(pydantic.ValidationError, match=next(iter(change))):
        Configuration.model_validate(data)


def test_a_rule_without_parameters_is_its_name_alone():
    """As it was before rules had any: old rows and files are read, and keep their identity."""
    short = Configuration(batch_size=1, base_learning_rate=0.1, scaling_rule="square_root")

    assert short.scaling_rule == Named(name="square_root")
    assert short.model_dump(mode="json")["scaling_rule"] == "square_root"
    written = CONFIGURATIONS["a rule with a parameter"]
    assert written.model_dump(mode="json")["scaling_rule"] == {"name": "power", "alpha": 0.7}
    assert written.flat()["scaling_rule_alpha"] == 0.7


def test_a_row_of_before_there_were_rules_has_the_default():
    row = CONFIGURATIONS["defaults"].flat()
    del row["scaling_rule"]

    assert Configuration.from_flat(row) == CONFIGURATIONS["defaults"]


@pytest.mark.parametrize("key", ["batch_size", "base_learning_rate", "schedule", "optimizer"])
def test_a_row_without_a_key_is_refused_by_its_name(key):
    row = CONFIGURATIONS["defaults"].flat()
    del row[key]

    with pytest.raises(ConfigurationError, match=f"journal: {key}"):
        Configuration.from_flat(row)


def test_a_configuration_cannot_be_changed():
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        CONFIGURATIONS["defaults"].batch_size = 2
