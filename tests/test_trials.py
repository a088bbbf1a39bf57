"""The trials of a run as a value: found, ranked, and read from a run folder."""

from __future__ import annotations

import pytest
from search_fixtures import (
    ACCURACY,
    BASELINE,
    TOTAL_EXAMPLES,
    Trainer,
    finished,
    make_runner,
    trials_of,
)

from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.run_folder.folder import RunFolder
from tfbatch.trial.trials import Trials


def at(batch_size):
    return Configuration(batch_size=batch_size, base_learning_rate=0.1)


TRIALS = trials_of(
    finished("baseline", BASELINE, loss=0.9, phase="baseline"),
    finished("search-0001", at(16), loss=0.5),
    finished("search-0002", at(512), status="oom"),
    finished("search-0003", at(16), loss=0.3),
    finished("search-0004", at(256), status="oom"),
    finished("search-0005", at(64), loss=0.3),
    finished("confirm-x-1", at(16), loss=0.1, phase="confirmation"),
)


def names(trials):
    return [trial.trial for trial in trials]


def test_parts_of_a_run_are_trials_too():
    assert names(TRIALS.of_batch_size(16).searched()) == ["search-0001", "search-0003"]
    assert names(TRIALS.of_phase("baseline", "confirmation")) == ["baseline", "confirm-x-1"]
    assert names(TRIALS[2:4].completed()) == ["search-0003"]
    assert TRIALS.batch_sizes() == [16, 32, 64, 256, 512]


def test_the_best_is_the_first_of_equal_ones_and_obeys_the_direction():
    searched = TRIALS.searched()

    assert names(searched.ranked()) == ["search-0003", "search-0005", "search-0001", "baseline"]
    assert searched.best().trial == "search-0003"
    assert searched.best(without=["search-0003"]).trial == "search-0005"
    assert trials_of(*searched, objective=ACCURACY).best().trial == "baseline"
    assert trials_of().best() is None


def test_memory_is_used_up_on_one_kind_of_device():
    assert TRIALS.memory_wall("CPU") == 256
    assert TRIALS.memory_wall("NVIDIA H100") is None


@pytest.mark.parametrize(
    ("fitted", "status", "wall"),
    [
        (128, "completed", 256),
        (256, "completed", 512),
        (300, "diverged", 512),
        (512, "completed", None),
        (512, "killed", 256),
    ],
)
def test_a_size_that_has_fitted_is_no_wall(fitted, status, wall):
    """Of two models with one batch size the larger one may lack memory."""
    trials = TRIALS.with_one_more(finished("search-0006", at(fitted), status=status))

    assert trials.memory_wall("CPU") == wall


def test_one_more_trial_leaves_the_trials_as_they_were():
    more = TRIALS.with_one_more(finished("search-0006", at(8)))

    assert (len(TRIALS), len(more)) == (7, 8)
    assert more.find("search-0006").configuration.batch_size == 8
    assert TRIALS.find("search-0006") is None


def test_the_trials_of_a_folder_are_those_of_its_runner(tmp_path):
    identity = {"objective": "val_loss:min"}
    with RunFolder(tmp_path, identity=identity, budget={}) as folder:
        runner = make_runner(folder, Trainer({"search-0001": "oom"}))
        runner.run(runner.spec("baseline", "baseline", 1, BASELINE))
        runner.run(runner.spec("search-0001", "search", 2, at(64)))
        with (tmp_path / "trials.jsonl").open("a") as journal:
            journal.write('{"trial": "search-0002", "sta')  # being written

        read = Trials.read(tmp_path)

    assert list(read) == list(runner.trials)
    assert read.total_examples == runner.trials.total_examples == TOTAL_EXAMPLES
    assert (read.objective, len(read)) == (runner.trials.objective, 2)
    with pytest.raises(InputError, match=r"must be a run folder.*no trials\.jsonl"):
        Trials.read(tmp_path / "weights")
