"""What `python -m tfbatch.train --config` reads."""

from __future__ import annotations

from typing import Any

import pytest

import tfbatch.train
from tfbatch.configuration import Configuration
from tfbatch.errors import ConfigurationError, InputError
from tfbatch.quantities import TrainingLength
from tfbatch.request.task import IN_PYTHON
from tfbatch.request.training_config import Reported, TrainingConfig, load_training_config
from tfbatch.schema import Named, write_yaml

WRITTEN: dict[str, Any] = {
    "dataset": "digits",
    "data_dir": None,
    "model": "small_cnn",
    "trial_length": "2.5 epochs",
    "seed": 2031897783,
    "configuration": {
        "batch_size": 64,
        "base_learning_rate": 0.043469928537507245,
        "scaling_rule": "linear",
        "learning_rate_octaves": -0.5,
        "schedule": {"name": "wsd", "cooldown": 0.1},
        "optimizer": {"name": "sgd", "momentum": 0.9},
    },
    "reported": {"metric": "val_loss", "mean": 1.798, "deviation": 0.1587, "seeds": 3},
}


def load(folder, data):
    path = folder / "best.yaml"
    path.write_text(write_yaml(data, comment="a comment"))
    return load_training_config(path)


def test_a_written_training_is_read_exactly(tmp_path):
    config = load(tmp_path, WRITTEN)

    assert config == TrainingConfig(
        dataset="digits",
        model="small_cnn",
        trial_length=TrainingLength(amount=2.5, unit="epochs"),
        seed=2031897783,
        configuration=Configuration(
            batch_size=64,
            base_learning_rate=0.043469928537507245,
            learning_rate_octaves=-0.5,
            schedule=Named(name="wsd", cooldown=0.1),
            optimizer=Named(name="sgd", momentum=0.9),
        ),
        reported=Reported(metric="val_loss", mean=1.798, deviation=0.1587, seeds=3),
    )
    assert load(tmp_path, config.model_dump(mode="json")) == config


def test_what_is_optional_may_be_left_out(tmp_path):
    needed = {k: v for k, v in WRITTEN.items() if k not in ("data_dir", "reported")}
    config = load(tmp_path, needed)

    assert (config.data_dir, config.reported) == (None, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sead": 1}, r"sead: is not a known key\. Did you mean `seed`\?"),
        ({"seed": -1}, r"seed: .*greater than or equal to 0\. Received: -1"),
        ({"trial_length": "100 steps"}, r"trial_length: .*Steps are not allowed"),
        ({"trial_length": "0 epochs"}, r"trial_length: .*positive number"),
        ({"model": None}, r"model: .*string"),
        ({"configuration": {"batch_size": 64}}, r"configuration\.base_learning_rate: is required"),
        (
            {"configuration": {**WRITTEN["configuration"], "batchsize": 1}},
            r"configuration\.batchsize: is not a known key\. Did you mean `batch_size`\?",
        ),
        ({"reported": {"metric": "val_loss"}}, r"reported\.mean: is required"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_key_is_named_with_its_file(tmp_path, change, message):
    with pytest.raises(ConfigurationError, match=rf"best\.yaml: {message}"):
        load(tmp_path, WRITTEN | change)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"none\.yaml: cannot be read: No such file"):
        load_training_config(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("deviation", "shown"),
    [(0.00341, "val_loss 0.6812 ± 0.0034 (n=3)"), (None, "val_loss 0.6812 (n=3)")],
    ids=["seeds", "one seed"],
)
def test_what_was_reported_is_shown_with_its_spread(deviation, shown):
    assert str(Reported(metric="val_loss", mean=0.68123, deviation=deviation, seeds=3)) == shown


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": IN_PYTHON}, r"names that Keras knows\. Received: loss \(given in Python\)"),
        ({"loss": "mse", "metrics": ["mae", IN_PYTHON]}, r"Received: metrics \(given in Python\)"),
        ({"dataset": IN_PYTHON}, r"`dataset` must name data that a command can find\."),
        ({"dataset": "__main__:make_dataset"}, r"`dataset` must be .* one script or notebook"),
        ({"model": "__main__:build"}, r"`model` must be .* one script or notebook"),
        ({"model": "mine:<lambda>"}, r"`model` must be .* one script or notebook"),
        ({"model": "mine:make.<locals>.build"}, r"`model` must be .* one script or notebook"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_was_given_in_python_is_refused_with_the_way_to_train_it(tmp_path, change, message):
    """Before any data is prepared: what has no name cannot be found."""
    load(tmp_path, WRITTEN | change)  # it can be read

    with pytest.raises(InputError, match=message) as refused:
        tfbatch.train.main([f"--config={tmp_path / 'best.yaml'}"])
    assert "`result.snippet`" in str(refused.value)
