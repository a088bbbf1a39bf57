"""Bad input is refused before any work: one message that says what mends it, and exit code 2."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from processes import HANG_SECONDS

import tfbatch.train
import tfbatch.tune
from tfbatch.claims._request import make_court_request
from tfbatch.command_line.running import EXIT_CODES
from tfbatch.dataset_info.recipe import RECIPES, load_recipe
from tfbatch.errors import ConfigurationError, InputError
from tfbatch.pipeline.dataset_names import find_dataset
from tfbatch.request.request import make_request
from tfbatch.request.search_config import SEARCHES

FLAGS_AND_MESSAGES = {
    "unknown data set": (["--dataset=cifar1"], "Did you mean `cifar10`"),
    "unknown model": (["--model=resnt"], "Did you mean `resnet`"),
    "ill-formed model": (["--model=a:b:c"], "package.module:function"),
    "unknown search": (["--search=jiont"], "Did you mean `joint`"),
    "unknown optimizer": (["--optimizer=adm"], "Did you mean `adam`"),
    "unknown flag": (["--max_trails=3"], "max_trials"),
    "flag with a wrong kind": (["--max_trials=many"], "max_trials"),
    "no trials": (["--max_trials=0"], "max_trials"),
    "no time": (["--max_minutes=0"], "`max_minutes` must be > 0"),
    "negative seed": (["--seed=-1"], "seed"),
    "steps as a length": (["--trial_length=100 steps"], "Steps are not allowed"),
    "no longer than a trial": (
        ["--trial_length=5 epochs", "--for_length=5 epochs"],
        "must be longer than a trial, which takes 5 epochs",
    ),
    "no direction": (["--objective=val_thing"], "--objective=val_thing:min"),
    "wrong direction": (["--objective=val_loss:up"], "NAME:min or NAME:max"),
    "batch size zero": (["--batch_sizes=0,32"], "every batch size must be >= 1"),
    "batch size in words": (["--batch_sizes=small"], "whole numbers"),
    "baseline in another form": (["--baseline=32"], "batch_size=128,learning_rate=0.05"),
    "baseline with a name twice": (
        ["--baseline=learning_rate=0.1,batch_size=32,learning_rate=0.2"],
        "names `learning_rate` twice",
    ),
    "a class twice": (["--class_weight=0=1,0=5"], "names `0` twice"),
    "a class in two forms": (["--class_weight=0=1,00=5"], "must name each class once"),
    "a class weight that is none": (["--class_weight=0=true"], '"0=1,1=5"'),
    "a model's argument twice": (["--model_arguments=a=1,a=2"], "names `a` twice"),
    "a model's argument None": (["--model_arguments=a=1,b=None"], "Leave `b` out"),
    "negative baseline": (["--baseline=learning_rate=-1"], "learning_rate"),
    "stray argument": (["digits"], "flags begin with --"),
}


@pytest.mark.parametrize(
    ("arguments", "message"), FLAGS_AND_MESSAGES.values(), ids=FLAGS_AND_MESSAGES.keys()
)
def test_a_flag_that_cannot_be_used_is_refused(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as refused:
        tfbatch.tune.main(arguments)
    assert message in str(refused.value)
    assert refused.value.exit_code == 2
    assert not list(tmp_path.iterdir())  # no work was begun


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("description: [", "line 1"),
        ("description: a\ndescription: b", "duplicate key"),
        ("description: a\nsauce: {name: digits}", "Did you mean `source`"),
        ("- a list", "must hold a mapping"),
    ],
    ids=["syntax", "repeated key", "misspelt key", "no mapping"],
)
def test_a_malformed_recipe_names_file_and_key(text, message, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError) as refused:
        tfbatch.tune.main([f"--dataset={recipe}", f"--run_dir={tmp_path / 'run'}"])
    assert str(refused.value).startswith(str(recipe))
    assert message in str(refused.value)


def test_a_run_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match=r"--run_dir=DIR"):
        tfbatch.tune.main([f"--run_dir={tmp_path / 'file' / 'run'}"])


def test_train_needs_a_configuration():
    with pytest.raises(InputError, match=r"--config=RUN/best\.yaml"):
        tfbatch.train.main([])


WITHOUT_TENSORFLOW = """
import runpy, sys
sys.argv = ["tune", *sys.argv[1:]]
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "keras", "keras_tuner"):
            raise SystemExit(f"{name} was imported")
sys.meta_path.insert(0, Refuse())
runpy.run_module("tfbatch.tune", run_name="__main__")
"""


@pytest.mark.quick_cases("name", "help")
@pytest.mark.parametrize(
    ("arguments", "code", "stream", "message"),
    [
        (["--help"], 0, "stdout", "--max_minutes"),
        (["--max-trials=x"], 2, "stderr", "max_trials"),
        (["--run-dir=/proc/none"], 2, "stderr", "cannot be written"),
        (["--dataset=digit"], 2, "stderr", "Did you mean `digits`?"),
    ],
    ids=["help", "flag error", "folder", "name"],
)
def test_help_and_bad_input_need_no_tensorflow(arguments, code, stream, message):
    """Dashes are accepted, errors are one message on stderr, and exit codes are as documented."""
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=HANG_SECONDS, check=False
    )
    assert done.returncode == code, done.stderr
    assert message in getattr(done, stream)
    assert "Traceback" not in done.stderr
    if code == 0:
        assert EXIT_CODES in done.stdout


def test_the_home_folder_is_found_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(RECIPES.find("digits"), tmp_path / "mine.yaml")
    recipe = {"dataset": "~/mine.yaml", "model": "small_cnn"}
    run = {"run_dir": Path("~/run"), "records_dir": Path("~/records"), "data_dir": Path("~/data")}

    for request in (
        make_request(search="joint", **recipe, **run),
        make_court_request(**recipe, **run),
    ):
        assert request.run_dir == tmp_path / "run"
        assert request.subject.records_dir == tmp_path / "records"
        assert request.subject.data_dir == tmp_path / "data"
        assert request.subject.dataset == str(tmp_path / "mine.yaml")
    with pytest.raises(InputError, match=rf"`weights_file` must be a file. Received: {tmp_path}"):
        tfbatch.measure_curvature("small_cnn", "digits", weights_file="~/absent.weights.h5")


IMAGES = np.zeros((8, 4, 4, 1), "float32"), np.zeros(8, "int64")


def make_dataset(split, batch_size, seed):
    raise NotImplementedError


@pytest.mark.parametrize("data", [IMAGES, make_dataset, load_recipe("digits")], ids=type)
def test_a_size_of_images_is_refused_for_data_given_in_python(tmp_path, data):
    with pytest.raises(InputError, match=r"Received: image_size=96 with .*\. (Resize|Set)"):
        tfbatch.find_batch_size("small_cnn", data, image_size=96, run_dir=tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["batched", "classes"])
def test_named_data_states_its_own_form(form):
    for data in ("digits", load_recipe("digits")):
        with pytest.raises(InputError, match=rf"`{form}` is for your own .* Leave it out\."):
            tfbatch.load_data(data, **{form: True})


ARGUMENTS = {
    "max_minutes": "15",
    "max_trainings": "3",
    "seed": "1",
    "stall_minutes": "10",
    "memory_seconds": "60",
    "checkpoint_seconds": None,
}


@pytest.mark.parametrize(("name", "value"), ARGUMENTS.items(), ids=ARGUMENTS)
def test_what_is_no_number_is_refused_by_its_name(tmp_path, name, value):
    remedy = "Leave it out" if value is None else "Write it without quotation marks"
    with pytest.raises(InputError, match=rf"`{name}` must be a number\. Received: .* {remedy}"):
        tfbatch.find_batch_size("small_cnn", "digits", run_dir=tmp_path / "run", **{name: value})
    assert not list(tmp_path.iterdir())


def test_the_claims_and_a_translation_refuse_the_same(tmp_path):
    for name in ("max_minutes", "seed"):
        with pytest.raises(InputError, match=rf"`{name}` must be a number"):
            tfbatch.try_claims("small_cnn", "digits", run_dir=tmp_path / "run", **{name: "1"})
    for name in ("to", "learning_rate"):
        with pytest.raises(InputError, match=rf"`{name}` must be a number"):
            tfbatch.translate_batch_size(**{"batch_size": 256, "to": 512, name: "1"})


def _own_metric(y_true, y_pred):
    return y_pred - y_true


@pytest.mark.parametrize(
    ("made", "written"),
    [
        (lambda: "accuracy", "'accuracy'"),
        (keras.metrics.AUC, "AUC(...)"),
        (lambda: keras.metrics.AUC, "AUC()"),
        (lambda: _own_metric, "_own_metric"),
        (lambda: {"accuracy"}, "..."),
    ],
    ids=["name", "object", "class", "function", "set"],
)
def test_one_metric_is_to_be_given_in_a_list(tmp_path, made, written):
    expected = re.escape(f"Write metrics=[{written}].")
    with pytest.raises(InputError, match=f"must be a list .* {expected}"):
        tfbatch.find_batch_size(
            "small_cnn", "digits", loss="mse", metrics=made(), run_dir=tmp_path / "run"
        )


@pytest.mark.parametrize(
    "asked",
    [
        lambda: make_request(search="~nobody-here/s.yaml", dataset="digits", model="small_cnn"),
        lambda: make_request(search="joint", dataset="~nobody-here/d.yaml", model="small_cnn"),
        lambda: tfbatch.translate_batch_size(256, 512, run_dir="~nobody-here/run"),
        lambda: tfbatch.measure_curvature("mlp", "digits", weights_file="~nobody-here/w.h5"),
        lambda: find_dataset("~nobody-here/arrays"),
        lambda: find_dataset("tfds:~nobody-here/data"),
    ],
    ids=["search", "recipe", "run", "weights", "stored arrays", "folder of tfds"],
)
def test_the_home_of_a_user_that_there_is_not_is_told_in_every_path(asked):
    with pytest.raises(InputError, match=r"Received: '~nobody-here/.*Write the folder out"):
        asked()


def test_a_file_may_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(SEARCHES.find("joint"), "~draft.yaml")

    assert SEARCHES.find("~draft.yaml") == Path("~draft.yaml")


def test_a_path_may_be_a_path_of_pathlib(tmp_path):
    shutil.copy(SEARCHES.find("joint"), tmp_path / "mine.yaml")
    shutil.copy(RECIPES.find("digits"), tmp_path / "digits.yaml")
    request = make_request(search=tmp_path / "mine.yaml", dataset="digits", model="small_cnn")

    assert request.run_dir.name == "digits-small_cnn-mine"
    data = tfbatch.load_data(tmp_path / "digits.yaml", records_dir=tmp_path / "records")
    assert data.num_examples("train") > 1000
