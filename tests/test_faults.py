"""Faults in real worker processes: each costs its own trial, and nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest
import tensorflow as tf
import tiny_model
from processes import WarmProcess, fall_silent, run_warm

import tfbatch
from tfbatch.errors import InputError, RunFolderError
from tfbatch.run_folder.folder import RunLock

pytestmark = pytest.mark.usefixtures("one_at_a_time")

SEARCH = """\
description: every batch size once
oracle: {name: random}
max_trials: 10
space:
  batch_size: [16, 32, 64, 128, 256]
  base_learning_rate: [0.01, 0.05]
  learning_rate_octaves: 0.0
  schedules: [{name: linear}]
confirmation: {batch_sizes: 1, seeds: 1}
"""


ONCE = SEARCH.replace("[0.01, 0.05]", "0.01")


@pytest.fixture
def search(tmp_path):
    path = tmp_path / "search.yaml"
    path.write_text(ONCE)
    return str(path)


def faults():
    """One fault for each batch size, known by the number of updates in an epoch."""
    import os
    import resource
    import signal

    import keras
    import psutil
    import tensorflow as tf

    class Fault(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch, logs=None):
            steps = self.params["steps"]
            if 30 < steps < 40:  # batch size 32
                raise RuntimeError("the user's own mistake")
            if 15 < steps < 20:  # 64
                os.kill(os.getpid(), signal.SIGKILL)
            if 8 < steps < 11:  # 128
                fall_silent()
            if steps < 6:  # 256
                limit = psutil.Process().memory_info().vms + 2**28
                resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
                tf.zeros([2**29])

    return [Fault()]


@pytest.mark.slow
def test_every_fault_costs_its_own_trial_and_is_told_apart(tmp_path, search):
    result = tfbatch.find_batch_size(
        tiny_model.build,
        "digits",
        search=search,
        trial_length="1 epochs",
        baseline="batch_size=16",
        run_dir=tmp_path / "run",
        workers=2,
        callbacks=faults,
        max_trials=5,
        verbose=0,
    )
    rows = result.rows
    ended = {
        size: {row["status"] for row in rows if row["batch_size"] == size}
        for size in {row["batch_size"] for row in rows}
    }

    assert ended[16] == {"completed"}
    assert ended[32] == {"error"}
    assert ended[64] == {"killed"}
    assert ended[128] == {"timeout"}
    assert ended[256] == {"oom"}
    names = [row["trial"] for row in rows]
    assert len(names) == len(set(names))
    assert sorted(n for n in names if n.startswith("search")) == [
        f"search-{n:04d}" for n in range(1, 6)
    ]
    messages = {row["status"]: row["message"] for row in rows}
    assert "the user's own mistake" in messages["error"]
    assert "SIGKILL" in messages["killed"]
    assert "no heartbeat" in messages["timeout"]
    assert result.batch_size == 16
    assert "used up at batch size 256; the largest that was trained is 16" in result.summary()


SCRIPT = """
    import sys, keras, tfbatch               # no `if __name__ == "__main__"` below

    WIDTH = 8

    def build(input_shape, num_classes):
        inputs = keras.Input(input_shape)
        hidden = keras.layers.Dense(WIDTH)(keras.layers.Flatten()(inputs))
        return keras.Model(inputs, keras.layers.Dense(num_classes)(hidden))

    class Mine(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            print("mine was called", flush=True)

    result = tfbatch.find_batch_size(
        build, "digits", search="quick", max_trials=2, trial_length="1 epochs", workers=1,
        run_dir=sys.argv[1], callbacks=lambda: [Mine()], verbose=0,
    )
    from tensorflow.python.eager import context
    print("rows", len(result.rows), "device touched", context.context()._context_handle is not None)
"""


@pytest.mark.slow
def test_an_unguarded_script_can_search_and_its_process_touches_no_device(tmp_path):
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    done = run_warm("script.py", tmp_path / "run", cwd=tmp_path)

    assert "device touched False" in done.stdout
    rows = (tmp_path / "run" / "trials.jsonl").read_text().splitlines()
    assert f"rows {len(rows)}" in done.stdout
    log = (tmp_path / "run" / "logs" / "worker-0.log").read_text()
    assert log.count("mine was called") == len(rows), "new callbacks for every trial"


def test_what_cannot_be_sent_to_a_worker_is_refused_before_any_work(tmp_path):
    lock = threading.Lock()

    def build(input_shape, num_classes):
        with lock:
            return tiny_model.build(input_shape, num_classes)

    message = r"^The model's builder cannot be copied for a trial.* inside the function"
    with pytest.raises(InputError, match=message):
        tfbatch.find_batch_size(build, "digits", run_dir=tmp_path / "run", workers=1)
    assert not (tmp_path / "run" / "trials.jsonl").exists()


def test_a_function_that_refers_to_a_dataset_is_told_to_make_it_itself(tmp_path):
    dataset = tf.data.Dataset.range(8)

    def make_dataset(split, batch_size, seed):
        return dataset.batch(batch_size)

    message = r"^The data's function cannot be copied.*\w\. Make what .*tf\.data\.Dataset\) inside"
    with pytest.raises(InputError, match=message):
        tfbatch.find_batch_size(tiny_model.build, make_dataset, run_dir=tmp_path / "run", workers=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": -1}, r"`workers` must be a whole number from 0 .* Received: -1"),
        ({"precision": "float16"}, r"`precision` must be one of .* Received: 'float16'"),
        ({"stall_minutes": 0}, r"`stall_minutes` must be > 0\. Received: 0"),
        ({"checkpoint_seconds": -1.0}, r"`checkpoint_seconds` must be >= 0\. Received: -1"),
        ({"strategy": "parameter_server"}, r"`strategy` must be mirrored"),
        ({"strategy": "mirrored", "workers": 2}, r"every trial takes all devices.*workers=2"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_wrong_execution_is_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        tfbatch.find_batch_size("small_cnn", "digits", run_dir=tmp_path, **changes)


def test_a_second_run_is_refused_before_it_starts_a_worker(tmp_path):
    with RunLock(tmp_path), pytest.raises(RunFolderError, match="Another run has"):
        tfbatch.find_batch_size("small_cnn", "digits", run_dir=tmp_path, workers=1, verbose=0)
    assert not (tmp_path / "logs").exists()


def test_a_lock_waits_for_the_workers_of_the_run_before(tmp_path, monkeypatch):
    holder = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import sys, time; from pathlib import Path;"
            "from tfbatch.run_folder.file_lock import hold; hold(Path(sys.argv[1]));"
            "print('held', flush=True); time.sleep(9999)",
            str(tmp_path / ".workers"),
        ],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout
    assert holder.stdout.readline() == b"held\n"
    monkeypatch.setattr("tfbatch.run_folder.folder.WORKER_SECONDS", 0.2)
    with pytest.raises(RunFolderError, match="Worker processes of an ended run"):
        RunLock(tmp_path).__enter__()
    holder.kill()
    holder.wait()
    with RunLock(tmp_path):
        pass
    holder.stdout.close()


@pytest.mark.slow
def test_workers_killed_at_random_moments_cost_their_trials_alone(tmp_path):
    """Those trials are in the journal as killed; every other one is as in an undisturbed run."""
    (tmp_path / "search.yaml").write_text(ONCE.replace("max_trials: 10", "max_trials: 4"))

    def start(run_dir, workers):
        return WarmProcess(
            *("-m", "tfbatch.tune", "--search=search.yaml", "--model=tiny_model:build"),
            *("--trial_length=20 epochs", f"--workers={workers}", f"--run_dir={run_dir}"),
            cwd=tmp_path,
            environment={"PYTHONPATH": str(Path(tiny_model.__file__).parent)},
        )

    def rows_of(run_dir):
        lines = (run_dir / "trials.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert len({row["trial"] for row in rows}) == len(rows)
        return {row["trial"]: row for row in rows if row["phase"] != "confirmation"}

    undisturbed = start(tmp_path / "whole", 1)
    told = undisturbed.communicate()
    assert undisturbed.returncode == 0, told
    disturbed = start(tmp_path / "run", 2)
    kills = _kill_workers(psutil.Process(disturbed.pid), tmp_path / "run" / "trials.jsonl")
    told = disturbed.communicate()
    whole, rows = rows_of(tmp_path / "whole"), rows_of(tmp_path / "run")

    assert disturbed.returncode == 0, told
    killed = {name for name, row in rows.items() if row["status"] == "killed"}
    assert 0 < len(killed) <= kills
    assert rows.keys() == whole.keys()
    for name in rows.keys() - killed:
        assert rows[name]["metric_val_loss"] == whole[name]["metric_val_loss"], name


def _kill_workers(parent, journal):
    """Kills a worker some time after the first line of the journal, and after the third."""
    kills = 0
    for number in (1, 3):
        while not journal.exists() or journal.read_bytes().count(b"\n") < number:
            time.sleep(0.02)
        time.sleep(0.05 * number)
        workers = [c for c in parent.children() if "loky" in " ".join(c.cmdline())]
        workers = [w for w in workers if "resource_tracker" not in " ".join(w.cmdline())]
        if workers:
            os.kill(workers[number % len(workers)].pid, signal.SIGKILL)
            kills += 1
    return kills
