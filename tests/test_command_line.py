"""The commands as a shell sees them: streams, exit codes, signals."""

from __future__ import annotations

import configparser
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import WarmProcess, run_warm, wait_until

import tfbatch.__main__
import tfbatch.tune
from tfbatch import errors
from tfbatch.command_line import running
from tfbatch.run_folder.journal import Journal

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = sorted(
    path.parent.name if path.stem == "__main__" else path.stem
    for path in [*(ROOT / "tfbatch").glob("*.py"), *(ROOT / "tfbatch").glob("*/__main__.py")]
    if path.stem != "command_line" and "run_command(main)" in path.read_text(encoding="utf-8")
)
HEAVY = (
    *("tensorflow", "keras", "keras_tuner", "tensorflow_datasets"),
    *("scipy", "sklearn", "pandas"),
)
BLOCKER = f"""
import importlib.abc, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise SystemExit(f"imported {{name}}")

sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    """An environment in which importing TensorFlow ends the process with code 1."""
    folder = tmp_path_factory.mktemp("blocker")
    (folder / "sitecustomize.py").write_text(BLOCKER)
    return {**os.environ, "PYTHONPATH": str(folder)}


def command(name, *arguments, cwd, environment=None):
    return subprocess.run(
        [sys.executable, "-m", f"tfbatch.{name}", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def refused(done, code=2):
    """Checks that a command ended with one message and nothing else; returns it."""
    assert done.returncode == code, done.stderr or done.stdout
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr + done.stdout
    return done.stderr


def test_the_blocker_blocks(light, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "import tensorflow"], env=light, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.strip()) == (1, "imported tensorflow")


def overview(*arguments, cwd, environment=None):
    return subprocess.run(
        [sys.executable, "-m", "tfbatch", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_command_is_known_here():
    assert {"prepare", "train", "tune"} <= set(COMMANDS)
    assert sorted(tfbatch.__main__.COMMANDS) == COMMANDS


def test_the_overview_has_a_line_for_each_command_without_tensorflow(light, tmp_path):
    done = overview("--help", cwd=tmp_path, environment=light)

    assert (done.returncode, done.stderr) == (0, "")
    for name in COMMANDS:
        (line,) = (line for line in done.stdout.splitlines() if line.split()[:1] == [name])
        assert line.endswith(f" {sys.modules['tfbatch.__main__'].summary(name)}")
    assert all(len(line) <= 100 for line in done.stdout.splitlines())


def test_an_unknown_command_is_refused_with_the_closest_one(light, tmp_path):
    done = overview("tun", cwd=tmp_path, environment=light)

    assert "Did you mean `tune`?" in refused(done)


def test_the_console_command_is_the_module_itself(monkeypatch):
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    script = settings["options.entry_points"]["console_scripts"].strip()
    name, _, place = script.partition(" = ")
    module, _, function = place.partition(":")
    called = []
    monkeypatch.setattr(tfbatch.__main__, "end_while_starting", lambda: None)
    monkeypatch.setattr(
        tfbatch.__main__, "run_command", lambda main, arguments: called.append((main, arguments))
    )
    monkeypatch.setattr(sys, "argv", [name, "tune", "--max_trials=2"])
    getattr(sys.modules[module], function)()

    assert name == "tfbatch"
    assert called[0] == (tfbatch.tune.main, ["--max_trials=2"])


@pytest.mark.quick_cases("tune", "train")
@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_shown_without_tensorflow(name, light, tmp_path):
    done = command(name, "--help", cwd=tmp_path, environment=light)

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert f"usage: tfbatch {name}" in done.stdout
    assert "flags:" in done.stdout
    assert "exit codes:" in done.stdout
    assert all(len(line) <= 100 for line in done.stdout.splitlines())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.quick_cases("tune", "export")
@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_flag_is_refused_with_the_closest_one(name, light, tmp_path):
    flag = {
        "export": "run-dir",
        "report": "page",
        "compare": "rows",
        "translate": "batch-size",
    }.get(name, "records-dir")
    done = command(name, f"--{flag}r=x", cwd=tmp_path, environment=light)

    assert f"Did you mean: {flag.replace('-', '_')}" in refused(done)
    assert done.stdout == ""


SEARCH = "description: x\noracle: {name: random}\nspace: {schedules: [{name: cosin}]}\n"
RECIPE = (ROOT / "pipelines" / "digits.yaml").read_text(encoding="utf-8")
CONFIG = (
    "dataset: digits\nmodel: small_cnn\ntrial_length: 1 epochs\nseed: 1\n"
    "configuration: {batch_size: 8, base_learning_rate: 0.1, schedule: {name: linear}}\n"
)
REFUSED = {
    "data set": ("tune", ["--dataset=digts"], r"Unknown data set `digts`. Did you mean `digits`?"),
    "recipe file": ("tune", ["--dataset=none.yaml"], "No data set file `none.yaml`."),
    "malformed recipe": ("tune", ["--dataset=bad.yaml"], "bad.yaml: line 2, column 1: "),
    "wrong recipe": ("tune", ["--dataset=wrong.yaml"], "wrong.yaml: shards: Input should be"),
    "model": ("tune", ["--model=smal_cnn"], "Unknown model `smal_cnn`. Did you mean `small_cnn`?"),
    "model reference": ("tune", ["--model=a:b c"], "`--model` must be a model's name or package."),
    "search": ("tune", ["--search=joit"], "Unknown search `joit`. Did you mean `joint`?"),
    "search file": ("tune", ["--search=search.yaml"], "search.yaml: space: Unknown schedule `cosi"),
    "optimizer": ("tune", ["--optimizer=adan"], "Unknown optimizer `adan`. Did you mean `adam`?"),
    "objective": ("tune", ["--objective=val_loss:low"], "must be NAME, NAME:min or NAME:max."),
    "objective without name": ("tune", ["--objective=:max"], "must be NAME, NAME:min or NAME:max."),
    "no direction": ("tune", ["--objective=val_f"], 'val_f:max" (--objective=val_f:min).'),
    "steps": ("tune", ["--trial_length=100 steps"], "Steps are not allowed"),
    "no length": ("tune", ["--trial_length=0 epochs"], "must be a positive number of epochs"),
    "no longer run": (
        "tune",
        ["--for_length=5 epochs"],
        "longer than a trial, which takes 20 epochs. Received",
    ),
    "no trials": ("tune", ["--max_trials=0"], "flag --max_trials=0"),
    "half a trial": ("tune", ["--max_trials=1.5"], "flag --max_trials=1.5"),
    "no time": ("tune", ["--max_minutes=0"], "`max_minutes` must be > 0. Received: 0.0."),
    "no number": ("tune", ["--max_minutes=nan"], "`max_minutes` must be > 0. Received: nan."),
    "negative seed": ("tune", ["--seed=-1"], "flag --seed=-1"),
    "large seed": ("tune", ["--seed=3000000000"], "`seed` must be from 0 to 2147483647."),
    "batch size 0": ("tune", ["--batch_sizes=0,32"], "every batch size must be >= 1. Received: 0"),
    "half a batch": ("tune", ["--batch_sizes=32,4.5"], "must be whole numbers, such as "),
    "no batch sizes": ("tune", ["--batch_sizes="], "--batch_sizes"),
    "baseline": ("tune", ["--baseline=batch=3"], '"batch_size=128,learning_rate=0.05"'),
    "baseline of 0": ("tune", ["--baseline=batch_size=0"], "--baseline: batch_size: Input should"),
    "stray": ("tune", ["cifar10"], "Unexpected argument `cifar10`: flags begin with --."),
    "run folder": ("tune", ["--run_dir=file/run"], "file/run cannot be written: "),
    "nobody's home": ("tune", ["--run_dir=~nobody0/run"], "home directory. Received: '~nobody0/r"),
    "nobody's records": ("prepare", ["--records_dir=~nobody0"], "home directory. Received: '~no"),
    "long name": ("tune", [f"--dataset={'x' * 300}"], "Unknown data set `xxx"),
    "foreign folder": ("tune", ["--run_dir=foreign"], "foreign holds files but no run of tfbatch"),
    "no config": ("train", [], "`--config` is required"),
    "absent config": ("train", ["--config=none.yaml"], "none.yaml: cannot be read: No such file"),
    "wrong config": ("train", ["--config=search.yaml"], "search.yaml: dataset: is required."),
    "output": ("train", ["--config=c.yaml", "--output=model.h5"], "`--output` must end in .keras."),
    "output folder": ("train", ["--config=c.yaml", "--output=no/x.keras"], "no is absent or not"),
    "length": ("train", ["--config=c.yaml", "--length=9 steps"], "Steps are not allowed"),
    "batch size": ("train", ["--config=c.yaml", "--batch_size=0"], "flag --batch_size=0"),
    "seed of a training": (
        "train",
        ["--config=c.yaml", "--seed=3000000000"],
        "`seed` must be from 0 to 2147483647. Received: 3000000000.",
    ),
    "prepare": ("prepare", ["--dataset=digts"], "Unknown data set `digts`. Did you mean `digits`?"),
}


FORKING = """
import json, os, runpy, sys, tempfile, traceback
# What all commands need:
import tfbatch.finder, tfbatch.search.progress, tfbatch.request.training_config

ends = {}
for case, (name, *arguments) in json.load(sys.stdin).items():
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if child == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.argv = [name, *arguments]
            try:
                runpy.run_module(f"tfbatch.{name}", run_name="__main__")
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            os._exit(99)  # a command ends its process itself
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for stream in (out, err):
            stream.seek(0)
        ends[case] = code, out.read(), err.read()
print(json.dumps(ends))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    (folder / "file").touch()
    (folder / "foreign").mkdir()
    (folder / "foreign" / "thesis.tex").touch()
    (folder / "bad.yaml").write_text("shards: [1, 2\n")
    (folder / "wrong.yaml").write_text(RECIPE.replace("shards: 1", "shards: 0"))
    (folder / "search.yaml").write_text(SEARCH)
    (folder / "c.yaml").write_text(CONFIG)
    return folder


@pytest.fixture(scope="module")
def ends(place, light):
    """How each command of REFUSED ends: processes of their own, forked from one to save imports."""
    commands = {case: [name, *arguments] for case, (name, arguments, _) in REFUSED.items()}
    before = sorted(place.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-c", FORKING],
        input=json.dumps(commands),
        cwd=place,
        env=light,
        capture_output=True,
        text=True,
        check=True,
    )
    assert sorted(place.rglob("*")) == before, "a refused command left something behind"
    return {
        case: subprocess.CompletedProcess(commands[case], code, out, err)
        for case, (code, out, err) in json.loads(done.stdout).items()
    }


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_one_message_without_tensorflow(case, ends):
    assert REFUSED[case][2] in refused(ends[case])
    assert ends[case].stdout == ""


@pytest.mark.slow
def test_what_only_the_data_can_tell_is_one_message_too(tmp_path):
    """The batch size is known to be too large when the records have been read."""
    arguments = ("-m", "tfbatch.tune", "--batch-sizes=32,2000", "--run-dir", "run")
    done = run_warm(*arguments, cwd=tmp_path, check=False)

    message = "must not exceed the 1085 training examples. Received: 2000."
    assert message in refused(done)
    assert not (tmp_path / "run" / "trials.jsonl").exists()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.TfbatchError("why"), 1),
        (errors.InputError("why"), 2),
        (errors.ConfigurationError("why"), 2),
        (errors.DataError("why"), 3),
        (errors.RunFolderError("why"), 4),
        (errors.SearchError("why"), 5),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_error_becomes_its_message_and_its_code(error, code, monkeypatch, capsys):
    def main(arguments):
        raise error

    codes: list[int] = []
    monkeypatch.setattr(running.os, "_exit", codes.append)
    running.run_command(main)

    assert codes == [code]
    assert capsys.readouterr().err == "error: why\n"
    assert f"  {code}    " in running.EXIT_CODES


@pytest.mark.parametrize(
    ("notes", "said"),
    [
        ((), "Ended by Ctrl-C. Everything finished before is on disk.\n"),
        (("No epoch is.",), "Ended by Ctrl-C. No epoch is.\n"),
    ],
)
def test_ctrl_c_says_what_is_on_disk(notes, said, monkeypatch, capsys):
    def main(arguments):
        stopped = KeyboardInterrupt(signal.SIGINT)
        for note in notes:
            stopped.add_note(note)
        raise stopped

    codes: list[int] = []
    monkeypatch.setattr(running.os, "_exit", codes.append)
    running.run_command(main)

    assert codes == [130]
    assert capsys.readouterr().err == said


def test_a_bug_shows_its_traceback(monkeypatch, capsys):
    codes: list[int] = []
    monkeypatch.setattr(running.os, "_exit", codes.append)
    running.run_command(lambda arguments: 1 // 0)

    assert codes == [1]
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.fixture(scope="module")
def long_search(tmp_path_factory):
    """A folder with a model of no depth and a search that would take hours."""
    folder = tmp_path_factory.mktemp("long")
    (folder / "flat.py").write_text(
        "import keras\n\n\ndef build(input_shape, num_classes):\n"
        "    inputs = keras.Input(input_shape)\n"
        "    flat = keras.layers.Flatten()(inputs)\n"
        "    return keras.Model(inputs, keras.layers.Dense(num_classes)(flat))\n"
    )
    return folder


def start(folder, run_dir, *more):
    return WarmProcess(
        *("-m", "tfbatch.tune", "--model=flat:build", "--search=quick"),
        *("--trial-length=1 epochs", "--max-trials=999", "--workers=1", *more),
        f"--run-dir={run_dir}",
        cwd=folder,
    )


@pytest.mark.slow
def test_ctrl_c_ends_a_run_with_the_best_answer_so_far(long_search, tmp_path):
    run_dir = tmp_path / "run"
    journal = run_dir / "trials.jsonl"
    process = start(long_search, run_dir)
    wait_until(lambda: journal.exists() and journal.read_bytes().count(b"\n") >= 2, process=process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()

    assert process.returncode == 130, err
    assert "Stopping after this batch" in err
    assert "Traceback" not in out + err
    rows = Journal(journal).rows
    assert 2 <= len(rows) < 900, "it did not run to its end"
    content = json.loads((run_dir / "recommendation.json").read_text())
    best = min(rows, key=lambda row: row["score"])
    assert content["status"] == "interrupted"
    assert content["verified_on_fresh_seeds"] is False
    assert content["metrics"]["test"] is None, "test is for the final answer"
    assert "Not verified on fresh seeds" in out
    assert content["batch_size"] == best["batch_size"]
    assert content["learning_rate"] == best["learning_rate"]
    assert f"batch size {best['batch_size']}, learning rate {best['learning_rate']:.4g}" in out
    assert (run_dir / "best.yaml").exists()
    assert "python -m tfbatch.train --config=" in out


@pytest.mark.slow
def test_sigterm_before_the_first_trial_ends_says_that_there_is_no_answer(long_search, tmp_path):
    run_dir = tmp_path / "run"
    process = start(long_search, run_dir, "--trial-length=1000 epochs")
    wait_until((run_dir / "config.json").exists, process=process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()

    assert process.returncode == 143, err
    assert "there is no answer yet" in err
    assert "Traceback" not in out + err
    assert Journal(run_dir / "trials.jsonl").rows == []
