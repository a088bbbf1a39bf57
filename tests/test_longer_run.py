"""What is kept for a longer training, and the command that checks it."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tfbatch import train, tune
from tfbatch.answer.answer import Answer
from tfbatch.answer.longer_run import longer_run
from tfbatch.command_line.running import parse_flags
from tfbatch.errors import InputError
from tfbatch.quantities import TrainingLength
from tfbatch.request.training_config import load_training_config

RUN = Path(__file__).parent.parent / "docs" / "run"
CONFIG = """\
dataset: digits
model: small_cnn
trial_length: 1 epochs
seed: 1
configuration: {batch_size: 8, base_learning_rate: 0.1, schedule: {name: linear}}
reported: {metric: val_loss, mean: 0.5, deviation: null, seeds: 1}
"""


def test_batch_size_and_rate_are_kept_and_the_command_trains_that_long(tmp_path):
    text = (RUN / "recommendation.json").read_text(encoding="utf-8")
    found = longer_run(
        Answer.model_validate_json(text), TrainingLength.parse("100 epochs"), tmp_path
    )

    assert (found.batch_size, found.learning_rate) == (64, pytest.approx(0.01998, abs=1e-5))
    low, high = found.learning_rate_range
    assert (high / found.learning_rate, found.learning_rate / low) == (2.0, 2.0)
    assert "a prediction" in found.sentence()
    assert found.check_with in found.sentence()

    (tmp_path / "best.yaml").write_text(CONFIG, encoding="utf-8")
    parse_flags(train.FLAGS, shlex.split(found.check_with)[3:], usage="")
    config = train._with_flags(load_training_config(Path(train.FLAGS.config)))
    assert config.trial_length == TrainingLength(amount=100, unit="epochs")
    assert config.reported is None  # that was another length


@pytest.mark.parametrize("text", ["5 epochs", "4 epochs"])
def test_what_is_no_longer_than_a_trial_is_refused(text):
    parse_flags(tune.FLAGS, [f"--for_length={text}"], usage="")
    with pytest.raises(InputError, match=r"longer than a trial \(5 epochs\)"):
        tune._longer_length(TrainingLength(amount=5, unit="epochs"))
    assert tune._longer_length(TrainingLength(amount=3, unit="epochs")).unit == "epochs"
