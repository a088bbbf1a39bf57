"""One trial over several devices: two logical CPUs stand in for two GPUs."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
import tiny_model
from processes import run_warm

from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.search.preparation import check_replicas
from tfbatch.training.workload import shared_batch_size
from tfbatch.trial.derived import derive

FOLDER = str(Path(tiny_model.__file__).parent)


def run(code, *arguments):
    """Runs code in a process of its own, whose CPU may still be split; what it prints as JSON."""
    done = run_warm("-c", textwrap.dedent(code), *arguments, environment={"PYTHONPATH": FOLDER})
    return json.loads(done.stdout.splitlines()[-1])


TWO_AND_ONE = """
    import json, sys
    from pathlib import Path
    import numpy as np
    from tfbatch.training.devices import Place, claim_devices, make_strategy
    devices = claim_devices(Place(strategy="mirrored", logical_cpus=2))
    import tiny_model
    from tfbatch.configuration import Configuration
    from tfbatch.pipeline import load_data
    from tfbatch.schema import Named
    from tfbatch.trial.outcome import TrialSpec
    from tfbatch.training.program_cache import ProgramCache
    from tfbatch.training.trial import run_trial
    from tfbatch.training.workload import Workload

    data = load_data("digits")
    strategy = make_strategy("mirrored")
    found = {"replicas": devices.replicas, "workers": devices.workers}
    for name, workload in {
        "one": Workload(data, tiny_model.build),
        "two": Workload(data, tiny_model.build, strategy=strategy),
    }.items():
        programs = ProgramCache(workload)
        # one_cycle sets the momentum too
        for trial, (size, schedule) in enumerate(
            ((64, "cosine"), (32, "one_cycle"), (64, "cosine"))
        ):
            configuration = Configuration(
                batch_size=size, base_learning_rate=0.01, schedule=Named(name=schedule)
            )
            # a whole number of batches: a short last one is left out where replicas share it
            outcome = run_trial(
                programs, TrialSpec(
                    str(trial), "search", 3, configuration, 1984, 1085, workload.replicas
                )
            )
            found[f"{name}-{trial}"] = [outcome.status, outcome.steps, outcome.metrics["val_loss"]]
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found():
    return run(TWO_AND_ONE)


@pytest.mark.slow
def test_a_strategy_takes_every_device_in_one_worker(found):
    assert (found["replicas"], found["workers"]) == (2, 1)


@pytest.mark.slow
@pytest.mark.parametrize("trial", [0, 1, 2])
def test_two_replicas_train_as_one_device_does_with_the_global_batch(found, trial):
    (status, steps, loss), (other_status, other_steps, other_loss) = (
        found[f"{name}-{trial}"] for name in ("one", "two")
    )
    assert status == other_status == "completed"
    assert steps == other_steps == (62 if trial == 1 else 31)
    assert other_loss == pytest.approx(loss, rel=1e-4)


@pytest.mark.slow
def test_a_program_is_shared_under_a_strategy_too(found):
    assert found["two-0"] == found["two-2"]


def test_replicas_get_no_short_batch_and_rules_see_the_global_one():
    configuration = Configuration(batch_size=64, base_learning_rate=0.1, base_batch_size=32)
    derived = derive(configuration, num_examples=1000, total_examples=1000, replicas=2)

    assert (derived.total_examples, derived.steps) == (960, 15)
    assert derived.learning_rate == pytest.approx(0.2)
    assert derived.steps_per_execution == 1


@pytest.mark.parametrize(("examples", "size"), [(512, 512), (600, 512), (7, 4), (11, 8), (2, 2)])
def test_every_replica_gets_examples_of_every_batch_of_an_evaluation(examples, size):
    assert shared_batch_size("test", examples, 2) == size
    assert examples % size != 1


@pytest.mark.parametrize(("examples", "replicas", "enough"), [(5, 2, 6), (1, 2, 2), (9, 4, 12)])
def test_a_split_that_the_replicas_cannot_share_is_refused_before_any_trial(
    examples, replicas, enough
):
    splits = {"train": 5, "validation": 512, "test": examples}
    message = (
        rf"The test split must give each of the {replicas} replicas examples of every batch\. "
        rf"Received: {examples} examples.* Make it {enough} examples, or train without `strategy`"
    )

    with pytest.raises(InputError, match=message):
        check_replicas([64], replicas, splits)
    check_replicas([64], replicas, {**splits, "test": enough})
    check_replicas([64], 1, splits)


@pytest.mark.slow
def test_the_whole_command_prints_both_batch_sizes(tmp_path):
    def tune(*arguments):
        return run_warm(
            *("-m", "tfbatch.tune", "--search=quick", "--max_trials=2"),
            *("--model=tiny_model:build", "--trial_length=1 epochs", "--strategy=mirrored"),
            *("--logical_cpus=2", f"--run_dir={tmp_path / 'run'}", *arguments),
            cwd=FOLDER,
            check=False,
        )

    done = tune()
    assert done.returncode == 0, done.stderr
    assert "32 = 2 x 16, 64 = 2 x 32, 128 = 2 x 64" in done.stdout
    assert "tf.distribute.MirroredStrategy().scope()" in done.stdout
    assert (tmp_path / "run" / "best.keras").stat().st_size > 0

    odd = tune("--batch_sizes=33,64", "--overwrite")
    assert odd.returncode == 2
    assert "must be a multiple of 2. Received: 33" in odd.stderr
