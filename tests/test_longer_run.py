"""What an answer says of a training that is longer than its trials: a prediction, with evidence."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from search_fixtures import BASELINE, Trainer, make_request_of, make_runner

import tfbatch.train
from tfbatch.answer.find import find_answer
from tfbatch.answer.longer_run import KEPT_RATES, LongerRun
from tfbatch.answer.stored import read_answer
from tfbatch.answer.summary import summary
from tfbatch.command_line.running import parse_flags
from tfbatch.errors import InputError
from tfbatch.quantities import TrainingLength
from tfbatch.request.request import check_for_length
from tfbatch.request.training_config import Reported, TrainingConfig
from tfbatch.run_folder.folder import RunFolder

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "longer_runs.md"


def longer(times=4.0, metric="val_loss", **more):
    return LongerRun.predict(
        TrainingLength.parse("100 epochs"),
        times=times,
        batch_size=64,
        learning_rate=0.02,
        metric=metric,
        run_dir=Path("my run"),
        **more,
    )


@pytest.mark.parametrize(
    ("times", "metric", "measured"),
    [
        (1.5, "val_loss", (2, "loss")),
        (2.7, "val_accuracy", (2, "accuracy")),
        (5.0, "val_mean_absolute_error", (4, "loss")),
        (40.0, "val_accuracy", (10, "accuracy")),
    ],
)
def test_the_figures_are_those_of_the_nearest_length_that_was_measured(times, metric, measured):
    found = longer(times, metric)

    assert (found.measured_times, found.measured_by) == measured
    assert ("nothing longer than 10 x was measured" in found.prediction) == (times > 10)
    assert "a prediction" in found.prediction
    assert "keep batch size 64 and learning rate 0.02" in found.prediction
    assert "within an octave (a factor of two: here 0.01 to 0.04)" in found.prediction


def test_the_figures_are_those_of_the_benchmark():
    """One seed, both tables together: n = 36 cells each, of which the page gives per cent."""
    page = RESULTS.read_text(encoding="utf-8")
    counted = {}
    for row in re.findall(r"^\| (digits_\w+, \w+) \|(.*)\|$", page, flags=re.MULTILINE):
        metric = row[0].split(", ")[1]
        four, _, two, _ = (cell.strip().removesuffix(" %").split("/") for cell in row[1].split("|"))
        for times, (_, kept, in_full) in ((4, four), (2, two)):
            right, full, cases = counted.get((times, metric), (0, 0, 0))
            right += round(36 * int(kept) / 100)
            full += round(36 * int(in_full) / 100)
            counted[times, metric] = (right, full, cases + 36)
    found = {(one.times, one.metric): (one.right, one.in_full, one.cases) for one in KEPT_RATES}

    assert {key: found[key] for key in counted} == counted
    assert len(counted) == 4
    assert "kept 3 of 9 in loss and 5 of 9 in accuracy" in page
    assert "6 and 4 of 9" in page
    assert (found[10, "loss"], found[10, "accuracy"]) == ((3, 6, 9), (5, 4, 9))


def finished_run(path):
    with RunFolder(path, identity={}, budget={}) as folder:
        runner = make_runner(folder, Trainer())
        runner.run(runner.spec("baseline", "baseline", 1, BASELINE))
        return runner.trials


def test_the_answer_says_it_and_is_read_again_as_it_was(tmp_path):
    trials = finished_run(tmp_path)
    plain = find_answer(trials, batch_sizes=2)
    told = plain.model_copy(update={"longer_run": longer()})

    assert summary(told).endswith("\n".join(longer().lines()))
    assert told.content()["longer_run"]["prediction"] == longer().prediction
    told.write(tmp_path)
    assert read_answer(tmp_path) == told
    assert "prediction" not in summary(plain)


def test_the_command_has_the_records_folder_of_the_run():
    *_, last = shlex.split(longer(records_dir=Path("/my records")).check_with)

    assert last == "--records_dir=/my records"


def test_the_command_trains_the_answer_for_the_longer_length():
    python, option, module, *given = shlex.split(longer().check_with)
    assert (python, option, module) == (sys.executable, "-m", "tfbatch.train")
    parse_flags(tfbatch.train.FLAGS, given, usage="")
    try:
        before = config()
        after = tfbatch.train._with_flags(before)
        assert tfbatch.train.FLAGS.config == "my run/best.yaml"
    finally:
        tfbatch.train.FLAGS.unparse_flags()
        tfbatch.train.FLAGS.length = None

    assert str(after.trial_length) == "100 epochs"
    assert after.reported is None  # that was another length
    assert after.configuration == before.configuration


def config():
    return TrainingConfig(
        dataset="digits",
        model="mlp",
        trial_length=TrainingLength.parse("5 epochs"),
        seed=1,
        configuration=BASELINE,
        reported=Reported(metric="val_loss", mean=0.1, deviation=None, seeds=1),
    )


def asked(tmp_path, **changes):
    return make_request_of(**{"run_dir": tmp_path / "run", "for_length": "10 epochs", **changes})


def test_a_default_length_that_the_time_may_shorten_refuses_no_longer_run_yet(tmp_path):
    """digits has trials of 20 epochs where nothing else is said."""
    assert str(asked(tmp_path, max_minutes=1.0).for_length) == "10 epochs"
    for given in ({}, {"max_minutes": 1.0, "trial_length": "10 epochs"}):
        with pytest.raises(InputError, match="must be longer than a trial"):
            asked(tmp_path, **given)
    (tmp_path / "run").mkdir()  # an earlier session may have shortened it
    assert str(asked(tmp_path).for_length) == "10 epochs"


def test_lengths_of_two_units_are_compared_where_the_data_is_known():
    epochs, examples = TrainingLength.parse("2 epochs"), TrainingLength.parse("1000 examples")
    check_for_length(examples, epochs)
    check_for_length(examples, epochs, num_examples=499)
    check_for_length(None, epochs, num_examples=499)
    with pytest.raises(InputError, match="must be longer than a trial"):
        check_for_length(examples, epochs, num_examples=500)
