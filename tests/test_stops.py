"""Real signals in the late stages of a real run, and a training that repeats a trial to the bit."""

import json
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from processes import begin_warm, run_warm

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import stops  # noqa: E402


@pytest.mark.slow
@pytest.mark.parametrize(
    ("until", "number", "verified"),
    [
        ("confirm-", signal.SIGTERM, None),
        ("Measuring the step times", signal.SIGINT, True),
        ("Evaluating the recommendation", signal.SIGTERM, True),
    ],
)
def test_a_signal_in_a_late_stage_leaves_the_answer(tmp_path, until, number, verified):
    shutil.copy(stops.TINY_MODEL, tmp_path)
    run_dir = tmp_path / "run"
    few = ("--max_trials=2", "--verification_seeds=2")
    found = stops.stop(
        tmp_path, run_dir, *few, after=0.2, number=number, until=until, begin=begin_warm
    )

    assert found.wrong == ()
    assert found.completed > 0
    content = json.loads((run_dir / "recommendation.json").read_text())
    assert verified in (None, content["verified_on_fresh_seeds"])


def _datasets(group):
    names = []
    group.visit(names.append)
    return [name for name in names if isinstance(group[name], h5py.Dataset)]


def weights(path):
    """Every weight of the model's layers in a .keras file."""
    found = {}
    with (
        zipfile.ZipFile(path) as archive,
        archive.open("model.weights.h5") as file,
        h5py.File(file, "r") as whole,
    ):
        for name in _datasets(whole["layers"]):
            found[name] = whole["layers"][name][()]
    return found


def same(first, second):
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys()
    return all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_train_and_the_printed_script_are_the_trial_to_the_last_bit(tmp_path):
    """Trials have one thread; with another number sums are rounded otherwise."""

    def run(*command):
        return run_warm(*command, cwd=tmp_path).stdout

    printed = run(
        *("-m", "tfbatch.tune", "--batch_sizes=256", "--baseline=batch_size=256", "--workers=2"),
        *("--trial_length=2 epochs", "--max_trials=2", "--verification_seeds=1", "--run_dir=run"),
    )
    run("-m", "tfbatch.train", "--config=run/best.yaml", "--output=trained.keras")
    script = printed.split("The recommendation in plain Keras:\n\n")[1].split("By batch size")[0]
    script = "\n".join(line for line in script.splitlines() if not line.startswith(" " * 20))
    (tmp_path / "script.py").write_text(f"{script}\nmodel.save('script.keras')\n")
    run("script.py")
    other = run(
        *("-m", "tfbatch.train", "--config=run/best.yaml", "--output=other.keras", "--threads=2")
    )

    assert same(tmp_path / "run/best.keras", tmp_path / "trained.keras")
    assert same(tmp_path / "run/best.keras", tmp_path / "script.keras")
    assert "Training with 2 threads, where the trials had 1" in other


BUSY = """
import os, signal, time
from tfbatch.process import stop_signal
from tfbatch.process.stop_signal import StopSignal

stop_signal._AT_ONCE_SECONDS = 0.1
said = lambda: os.write(2, b"nothing was measured")
with StopSignal(lambda: None, nothing_kept=said) as stop, stop.starting_up():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except KeyboardInterrupt:
        pass
    while True:  # as C++ code does, which hears of no exception
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            pass
"""


def test_a_start_that_cannot_be_left_says_that_nothing_was_measured():
    done = subprocess.run([sys.executable, "-c", BUSY], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, "nothing was measured")
