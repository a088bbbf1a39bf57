"""Signals as they come: to a process or to its group, once or twice, at any stage of a run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from processes import HANG_SECONDS, WarmProcess

from tfbatch.errors import StoppedError
from tfbatch.process.stop_signal import StopSignal, python_interrupt
from tfbatch.run_folder.journal import Journal

TRACING = """
import time
from pathlib import Path
import keras

HERE = Path(__file__).parent


class Traced(keras.layers.Layer):
    def call(self, x, training=None):
        if training and (HERE / "slowly").exists():
            (HERE / "tracing").touch()
            time.sleep(3600)  # in the worker's main thread: no callback is asked meanwhile
        return x


def build(input_shape, num_classes):
    inputs = keras.Input(input_shape)
    flat = Traced()(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, keras.layers.Dense(num_classes)(flat))
"""
ON_IMPORT = """
import importlib.abc, os, signal, sys


class SignalOnImport(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "{module}" and "--run_dir=run" in sys.orig_argv:  # not in a worker
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.{signal})


sys.meta_path.insert(0, SignalOnImport())
"""


def test_the_first_signal_asks_and_the_second_ends():
    asked = []
    with StopSignal(lambda: asked.append(1), ends_process=False) as stop:
        signal.raise_signal(signal.SIGHUP)
        assert (stop(), stop.exit_code, asked) == (True, 129, [1])
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert stop.exit_code == 129


def test_while_nothing_is_measured_a_signal_ends_at_once():
    with StopSignal(lambda: None, ends_process=False) as stop:
        with pytest.raises(StoppedError, match="there is no answer yet"), stop.starting_up():
            signal.raise_signal(signal.SIGTERM)
        assert stop.exit_code == 143


def test_once_something_is_measured_a_signal_during_the_same_block_only_asks():
    with StopSignal(lambda: None, ends_process=False) as stop, stop.starting_up():
        stop.keep()
        signal.raise_signal(signal.SIGTERM)
        assert stop()


def test_handlers_are_put_back_and_nohup_stays():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal(lambda: None, ends_process=False) as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_in_python_asks_once_there_is_something_to_keep():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with python_interrupt(lambda: None) as stop, pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with python_interrupt(lambda: None) as stop:
            stop.keep()
            signal.raise_signal(signal.SIGINT)
            assert stop()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        heard = []
        signal.signal(signal.SIGINT, lambda *_: heard.append(1))
        with python_interrupt(lambda: None) as stop:
            signal.raise_signal(signal.SIGINT)
        assert (heard, stop()) == ([1], False)
    finally:
        signal.signal(signal.SIGINT, before)


MODULE = ("-m", "tfbatch.tune")
CONSOLE = ("-c", "from tfbatch.__main__ import main; main()", "tune")
AT_ONCE = "Stopped while starting up: nothing was measured."


@pytest.mark.quick_cases("command0", "command3")
@pytest.mark.parametrize(
    ("command", "module", "number", "words"),
    [
        (MODULE, "tfbatch.finder", signal.SIGTERM, AT_ONCE),
        (MODULE, "tfbatch.finder", signal.SIGINT, AT_ONCE),
        (CONSOLE, "tfbatch.finder", signal.SIGINT, AT_ONCE),
        (MODULE, "tfbatch.search.session", signal.SIGTERM, "Stopped before the first trial ended"),
    ],
)
def test_a_signal_while_modules_are_imported_ends_with_a_sentence(
    tmp_path, command, module, number, words
):
    (tmp_path / "sitecustomize.py").write_text(ON_IMPORT.format(module=module, signal=number.name))
    done = subprocess.run(
        [sys.executable, *command, "--run_dir=run"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 128 + number
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "trials.jsonl").exists()


def start(folder, model, *more):
    return WarmProcess(
        *("-m", "tfbatch.tune", f"--model={model}", "--search=quick", "--trial_length=2 epochs"),
        *("--max_trials=999", "--run_dir=run", *more),
        cwd=folder,
        start_new_session=True,
    )


def wait_for_rows(folder, count, process):
    journal = folder / "run" / "trials.jsonl"
    while not journal.exists() or journal.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def group_of(process):
    main = psutil.Process(process.pid)
    return [main, *main.children(recursive=True)]


def check_answer(folder, out):
    content = json.loads((folder / "run" / "recommendation.json").read_text())
    assert content["status"] == "interrupted"
    assert Journal(folder / "run" / "trials.jsonl").rows
    assert f"batch size {content['batch_size']}, learning rate" in out
    assert (folder / "run" / "trials.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_whole_group_ends_with_the_answer_and_no_process_left(tmp_path, number):
    """As a terminal, `timeout`, systemd and Slurm send it: the workers get it too."""
    shutil.copy(Path(__file__).with_name("tiny_model.py"), tmp_path)
    process = start(tmp_path, "tiny_model:build")
    wait_for_rows(tmp_path, 2, process)
    everyone = group_of(process)
    os.killpg(process.pid, number)
    out, err = process.communicate()

    assert process.returncode == 128 + number, err
    assert "Traceback" not in out + err
    check_answer(tmp_path, out)
    assert {row["status"] for row in Journal(tmp_path / "run" / "trials.jsonl").rows} == {
        "completed"
    }
    psutil.wait_procs(everyone, timeout=HANG_SECONDS)
    assert [p for p in everyone if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.slow
def test_a_worker_that_traces_for_an_hour_holds_no_end(tmp_path):
    (tmp_path / "traced.py").write_text(TRACING)
    process = start(tmp_path, "traced:build", "--batch_sizes=32,64,128,256")
    wait_for_rows(tmp_path, 1, process)
    (tmp_path / "slowly").touch()
    while not (tmp_path / "tracing").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    out, err = process.communicate()

    assert process.returncode == 143, err
    assert "Traceback" not in out + err
    check_answer(tmp_path, out)


@pytest.mark.slow
def test_a_second_signal_ends_at_once_and_loses_no_trial(tmp_path):
    (tmp_path / "traced.py").write_text(TRACING)
    process = start(tmp_path, "traced:build")
    wait_for_rows(tmp_path, 2, process)
    process.send_signal(signal.SIGTERM)
    assert process.stderr
    while "Repeat to quit at once" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate()

    assert process.returncode == 143
    assert "Traceback" not in out
    assert len(Journal(tmp_path / "run" / "trials.jsonl").rows) >= 2


PYTHON = """
    import signal
    import tfbatch
    from tiny_model import build

    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started this
    result = tfbatch.find_batch_size(
        build, "digits", search="quick", trial_length="2 epochs", max_trials=999, run_dir="run"
    )
    print("interrupted:", result.interrupted, result.recommendation["batch_size"])
"""


@pytest.mark.slow
def test_ctrl_c_in_a_script_keeps_the_answer_so_far(tmp_path):
    shutil.copy(Path(__file__).with_name("tiny_model.py"), tmp_path)
    (tmp_path / "script.py").write_text(textwrap.dedent(PYTHON))
    process = WarmProcess("script.py", cwd=tmp_path, start_new_session=True)
    wait_for_rows(tmp_path, 2, process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate()

    assert process.returncode == 0, err
    assert "interrupted: True" in out
    assert "Stopping after this batch" in err
