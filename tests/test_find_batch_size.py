"""The whole way on real digits, with a tiny budget: what it returns, writes, reads and repeats."""

from __future__ import annotations

import ast
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import filelock
import keras
import keras_tuner
import numpy as np
import pytest
import tiny_model
from contexts import context_of
from processes import run_warm

import tfbatch
from tfbatch.dataset_info.recipe import load_recipe
from tfbatch.errors import InputError, NothingLearnedError, RunFolderError, SearchError
from tfbatch.pipeline import recipe_data
from tfbatch.request.training_config import load_training_config
from tfbatch.run_folder.journal import Journal
from tfbatch.training import trial
from tfbatch.training.evaluation import evaluate_weights
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.workload import Workload

pytestmark = pytest.mark.usefixtures("short_rounds")

BUDGET: dict[str, Any] = {
    "search": "quick",
    "max_trials": 3,
    "trial_length": "1 epochs",
    "batch_sizes": [32, 64],
    "seed": 3,
    "workers": 0,
    "verbose": 0,
}
FILES = ("best.keras", "best.yaml", "config.json", "fingerprint.json", "recommendation.json")


class Reader:
    """Notes which splits are read, and how many trials are in the journal by then."""

    def __init__(self, run_dir, patch):
        self.read: list[tuple[str, int]] = []
        real = recipe_data.read_split

        def read_split(folder, manifest, split):
            journal = run_dir / "trials.jsonl"
            lines = journal.read_bytes().count(b"\n") if journal.exists() else 0
            self.read.append((split, lines))
            return real(folder, manifest, split)

        patch.setattr(recipe_data, "read_split", read_split)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "digits"


@pytest.fixture(scope="module")
def reader(run_dir):
    with pytest.MonkeyPatch.context() as patch:
        yield Reader(run_dir, patch)


@pytest.fixture(scope="module")
def result(run_dir, reader):
    return tfbatch.find_batch_size(tiny_model.build, "digits", run_dir=run_dir, **BUDGET)


@pytest.fixture(scope="module")
def content(result):
    written: dict[str, Any] = json.loads((result.run_dir / "recommendation.json").read_text())
    return written


def rows_of(result, key):
    trials = {t.trial for t in result.answer.find(key).trials}
    return [row for row in result.rows if row["trial"] in trials]


def test_a_run_is_baseline_search_and_verification(result):
    phases = [row["phase"] for row in result.rows]

    assert phases[:4] == ["baseline", "search", "search", "search"]
    assert set(phases[4:]) == {"confirmation"}
    assert len(phases) - 4 == 3 * (len(result.answer.contenders) + 1) >= 9, "the baseline twice"
    assert {row["status"] for row in result.rows} == {"completed"}
    assert {row["batch_size"] for row in result.rows} <= {32, 64}
    assert {row["total_examples"] for row in result.rows} == {1085}


def test_the_test_split_is_read_once_and_at_the_very_end(result, reader):
    splits = [split for split, _ in reader.read]

    assert splits.count("test") == 1
    assert reader.read[-1] == ("test", len(result.rows))
    assert set(splits) == {"train", "validation", "test"}


def test_the_run_folder_holds_everything(result, run_dir):
    assert result.run_dir == run_dir
    for name in FILES:
        assert (run_dir / name).stat().st_size > 0
    assert not [p.name for p in run_dir.rglob("*partial*")]
    assert Journal(run_dir / "trials.jsonl").rows == result.rows
    for row in result.rows:
        assert row["curves"].startswith(f"batch {row['batch_size']}, rate ")
        assert row["curves"].endswith(f", seed {row['seed']}, {row['trial']}")
        assert list((run_dir / "tensorboard" / row["curves"]).glob("events.out.tfevents.*"))
    settings = json.loads((run_dir / "config.json").read_text())
    assert settings["budget"]["max_trials"] == 3
    assert settings["identity"]["seed"] == 3
    assert settings["identity"]["search"]["space"]["batch_size"] == [32, 64]
    # What "auto" came to, as run folders had it before there was "auto": those go on.
    assert settings["identity"]["jit_compile"] is False
    assert "jit_compile: false" in (run_dir / "best.yaml").read_text()


def test_the_recommendation_says_what_the_result_says(result, content):
    recommended = result.answer.recommended

    assert content == result.recommendation
    assert content["status"] == "complete"
    assert content["verified_on_fresh_seeds"] is True
    assert content["objective"] == "val_loss:min"
    assert content["batch_size"] == result.batch_size == recommended.configuration.batch_size
    assert content["learning_rate"] == result.learning_rate == recommended.learning_rate
    assert content["trials"] == len(result.rows)
    assert content["seconds"] > sum(row["seconds"] for row in result.rows) * 0.99
    assert content["schedule"]["name"] == recommended.configuration.schedule.name
    assert content["schedule"]["total_examples"] == 1085
    assert content["optimizer"] == {"name": "sgd", "momentum": 0.9}
    assert set(content["evidence"]) <= {row["trial"] for row in result.rows}
    assert len(set(content["evidence"])) == len(content["evidence"])
    assert json.dumps(content, allow_nan=False)


def test_validation_figures_are_those_of_the_journal(result, content):
    shown = {result.answer.recommended.key: content, "baseline": content["baseline"]}
    for key, part in shown.items():
        rows = rows_of(result, key)
        assert len(rows) == (6 if key == "baseline" else 3)
        for name in ("loss", "accuracy"):
            values = [row[f"metric_val_{name}"] for row in rows]
            measured = part["metrics"]["validation"][name]
            assert measured["mean"] == pytest.approx(statistics.fmean(values))
            assert measured["standard_deviation"] == pytest.approx(statistics.stdev(values))
            assert measured["seeds"] == len(rows)
        steps = json.loads((result.run_dir / "step_times.json").read_text())["seconds"]
        times = [rows[0]["steps"] * t for t in steps[str(rows[0]["batch_size"])]]
        assert part["training_seconds"]["mean"] == pytest.approx(statistics.fmean(times))
        assert part["training_seconds"]["alone_on_the_device"] is True


@pytest.mark.slow
def test_test_figures_are_those_of_the_kept_weights(result, content, digits):
    workload = Workload(digits, tiny_model.build)
    contender = result.answer.recommended
    measured = [
        evaluate_weights(
            context_of(ProgramCache(workload)),
            contender.configuration,
            result.run_dir / "weights" / f"{trial.trial}.weights.h5",
            split="test",
            seed=1,
        )
        for trial in contender.trials
    ]

    for name in ("loss", "accuracy"):
        shown = content["metrics"]["test"][name]
        assert shown["mean"] == pytest.approx(statistics.fmean(m[name] for m in measured))
        assert shown["seeds"] == len(contender.trials)
    for one in result.answer.contenders:
        assert one.metrics.test["loss"].seeds == len(one.trials), "each that was verified is tested"


def test_contenders_share_their_fresh_seeds(result):
    seeds = [
        [row["seed"] for row in rows_of(result, one.key) if "again" not in row["trial"]]
        for one in result.answer.contenders
    ]

    assert all(sorted(found) == sorted(seeds[0]) for found in seeds)
    searched = {row["seed"] for row in result.rows if row["phase"] != "confirmation"}
    assert not searched & set(seeds[0])


def test_the_best_model_is_of_the_first_fresh_seed(result, digits):
    model = keras.models.load_model(result.run_dir / "best.keras")
    first = rows_of(result, result.answer.recommended.key)[0]
    measured = model.evaluate(digits.evaluation("validation"), verbose=0, return_dict=True)

    assert measured["loss"] == pytest.approx(first["metric_val_loss"], rel=1e-6)
    assert int(model.optimizer.iterations) == first["steps"]


def test_a_frame_has_a_row_for_each_trial(result):
    frame = result.to_dataframe()

    assert list(frame["trial"]) == [row["trial"] for row in result.rows]
    assert {"batch_size", "learning_rate", "score", "metric_val_accuracy", "seconds"} <= set(frame)
    assert np.isfinite(frame["score"]).all()
    assert frame["learning_rate"].to_list() == [row["learning_rate"] for row in result.rows]


def test_the_summary_names_recommendation_and_baseline(result):
    summary = result.summary()

    assert f"batch size {result.batch_size}, learning rate {result.learning_rate:.4g}" in summary
    assert "aseline" in summary
    assert "(n=3)" in summary or "(n=6)" in summary
    assert "your baseline" in summary
    assert "freed of the choice" in summary


def test_running_it_again_trains_nothing_and_leaves_the_test_split_alone(
    result, content, run_dir, monkeypatch
):
    def forbidden(*arguments, **more):
        raise AssertionError("nothing is left to be trained")

    journal = (run_dir / "trials.jsonl").read_bytes()
    reader = Reader(run_dir, monkeypatch)
    monkeypatch.setattr(trial, "run_trial", forbidden)
    again = tfbatch.find_batch_size(tiny_model.build, "digits", run_dir=run_dir, **BUDGET)

    assert (run_dir / "trials.jsonl").read_bytes() == journal
    assert "test" not in [split for split, _ in reader.read]
    assert again.recommendation | {"seconds": 0} == content | {"seconds": 0}
    assert again.snippet == result.snippet
    assert again.summary() == result.summary()


@pytest.mark.slow
def test_a_larger_budget_searches_further(result, run_dir, tmp_path):
    copy = shutil.copytree(run_dir, tmp_path / "copy")
    more = tfbatch.find_batch_size(
        tiny_model.build, "digits", run_dir=copy, **BUDGET | {"max_trials": 4}
    )

    assert more.rows[: len(result.rows)] == result.rows
    assert "search-0004" in [row["trial"] for row in more.rows]
    assert more.recommendation["status"] == "complete"


def test_other_settings_on_the_same_folder_are_refused(result, run_dir):
    with pytest.raises(InputError, match=r"objective: val_loss:min -> val_accuracy:max"):
        tfbatch.find_batch_size(
            tiny_model.build, "digits", run_dir=run_dir, **BUDGET, objective="val_accuracy"
        )


def test_a_run_folder_in_use_is_refused(result, run_dir):
    with (
        filelock.FileLock(run_dir / ".lock"),
        pytest.raises(RunFolderError, match=rf"Another run has {run_dir} open"),
    ):
        tfbatch.find_batch_size(tiny_model.build, "digits", run_dir=run_dir, **BUDGET)


def test_another_model_on_the_same_folder_is_refused(result, run_dir):
    with pytest.raises(InputError, match=r"model: tiny_model:build -> small_cnn"):
        tfbatch.find_batch_size("small_cnn", "digits", run_dir=run_dir, **BUDGET)


@pytest.mark.slow
def test_the_snippet_is_a_script_with_the_reported_figures(result, tmp_path):
    (tmp_path / "recommended.py").write_text(result.snippet)
    here = {"PYTHONPATH": str(Path(tiny_model.__file__).parent)}
    done = run_warm("recommended.py", cwd=tmp_path, environment=here)
    first = rows_of(result, result.answer.recommended.key)[0]
    model = keras.models.load_model(result.run_dir / "best.keras")
    data = tfbatch.load_data("digits")
    expected = model.evaluate(data.evaluation("test"), verbose=0, return_dict=True)
    printed = ast.literal_eval(done.stdout.splitlines()[-1].removeprefix("test: "))

    assert printed["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert printed["accuracy"] == pytest.approx(expected["accuracy"])
    assert f"val_loss: {first['metric_val_loss']:.4f}" in done.stdout
    assert f"val_accuracy: {first['metric_val_accuracy']:.4f}" in done.stdout


@pytest.mark.slow
def test_training_from_best_yaml_gives_the_reported_figures(result):
    path = result.run_dir / "best.yaml"
    config = load_training_config(path)
    rows = rows_of(result, result.answer.recommended.key)
    first = rows[0]
    assert config.configuration == result.answer.recommended.configuration
    assert (config.seed, str(config.trial_length)) == (first["seed"], "1 epochs")
    assert config.reported
    shown = result.recommendation["metrics"]["validation"]["loss"]
    assert (config.reported.mean, config.reported.seeds) == (shown["mean"], shown["seeds"])
    assert shown["seeds"] == len(rows)

    where_the_model_is = Path(tiny_model.__file__).parent
    done = run_warm("-m", "tfbatch.train", f"--config={path}", cwd=where_the_model_is)
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)

    assert f"loss {first['metric_val_loss']:.4f}" in lines["validation"]
    assert f"accuracy {first['metric_val_accuracy']:.4f}" in lines["validation"]
    assert lines["reported by the search"] == str(config.reported)


@pytest.mark.slow
def test_a_kept_baseline_is_not_measured_on_test_again(tmp_path, monkeypatch):
    """With learning rates of nothing the search cannot beat the baseline."""
    (tmp_path / "hopeless.yaml").write_text(
        "description: learns nothing\n"
        "oracle: {name: random}\n"
        "space: {batch_size: [64], base_learning_rate: {min: 1e-9, max: 1e-8},"
        " learning_rate_octaves: 0, schedules: [{name: linear}]}\n"
        "confirmation: {batch_sizes: 1, seeds: 1}\n"
    )
    arguments: dict[str, Any] = {
        "search": str(tmp_path / "hopeless.yaml"),
        "max_trials": 1,
        "trial_length": "0.5 epochs",
        "baseline": "batch_size=32,learning_rate=0.05",
        "run_dir": tmp_path / "run",
        "workers": 0,
        "verbose": 0,
    }
    first = tfbatch.find_batch_size(tiny_model.build, load_recipe("digits"), **arguments)
    reader = Reader(tmp_path / "run", monkeypatch)
    again = tfbatch.find_batch_size(tiny_model.build, load_recipe("digits"), **arguments)

    assert first.recommendation["keeps_baseline"] is True
    assert first.recommendation["metrics"]["test"]
    assert "Keep your baseline" in first.summary()
    assert "test" not in [split for split, _ in reader.read]
    assert again.recommendation["metrics"] == first.recommendation["metrics"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"objective": keras_tuner.Objective("val_mae", "min")},
            r'such as "val_mae:min".*Objective',
        ),
        ({"baseline": {"batch_size": 64}}, r'"batch_size=128,learning_rate=0.05".*dict'),
        ({"workers": "2"}, r"whole number from 0 .* Received: '2'"),
        ({"objective": "val_acuracy:max"}, r"no metric `val_acuracy`\. Did you mean `val_accurac"),
        ({"batch_sizes": [32, 2000]}, r"must not exceed the 1085 training .*Received: 2000"),
        ({"baseline": "batch_size=1086"}, r"baseline's batch size must not exceed the 1085"),
        ({"optimizer": "adan"}, r"Unknown optimizer `adan`\. Did you mean `adam`\?"),
        ({"build_model": 3}, r"`build_model` must be a function or a name\. Received: int"),
        ({"build_model": lambda shape: None}, r"It also asks for: shape"),
        ({"data": "digts"}, r"Unknown data set `digts`\. Did you mean `digits`\?"),
        ({"data": None}, r"`data` must be a data set.s name.* Received: None"),
        ({"seed": -1}, r"`seed` must be from 0 to"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_used_is_refused_before_any_training(tmp_path, changes, message):
    arguments = {
        "build_model": tiny_model.build,
        "data": "digits",
        "run_dir": tmp_path / "run",
    } | BUDGET

    with pytest.raises(InputError, match=message):
        tfbatch.find_batch_size(**arguments | changes)
    assert not (tmp_path / "run" / "trials.jsonl").exists()
    assert not (tmp_path / "run" / "config.json").exists()


def test_random_labels_give_their_trials_and_no_answer(tmp_path, capsys):
    """Nothing measured is lost to an exception; what only an answer has says why there is none."""

    def build(num_classes):
        return keras.Sequential([keras.Input((2,)), keras.layers.Dense(num_classes)])

    random = np.random.default_rng(0)
    result = tfbatch.find_batch_size(
        build,
        (random.normal(size=(60, 2)), random.integers(0, 2, 60)),
        search="quick",
        baseline="learning_rate=1e-9",
        batch_sizes=[32],
        max_trials=1,
        trial_length="1 epochs",
        run_dir=tmp_path / "run",
        workers=0,
    )

    assert [row["phase"] for row in result.rows] == ["baseline", "search"]
    assert len(result.to_dataframe()) == 2
    assert not result.interrupted
    assert "--trial_length" in result.summary()
    assert str(result) == f"{result.summary()}\nEverything is in {tmp_path / 'run'}."
    assert "steps_per_epoch" in result.rows[0]
    assert "steps_per_epoch" not in repr(result)
    assert result.summary() in " ".join(capsys.readouterr().out.split())
    for attribute in ("batch_size", "learning_rate", "recommendation", "answer"):
        with pytest.raises(NothingLearnedError, match="Nothing was learned"):
            getattr(result, attribute)
    with pytest.raises(AttributeError, match="bach_size"):
        result.bach_size  # noqa: B018


def test_without_an_answer_the_folder_is_absolute_too(tmp_path, monkeypatch):
    def run_request(request, *_, **__):
        (request.run_dir / "trials.jsonl").touch()
        raise NothingLearnedError("Nothing was learned.")

    monkeypatch.setattr(tfbatch.finder, "run_request", run_request)
    monkeypatch.chdir(tmp_path)
    found = tfbatch.find_batch_size("mlp", "digits", run_dir="run", workers=0, verbose=0)

    assert found.run_dir == tmp_path / "run"


def test_where_nan_in_the_inputs_lets_no_trial_complete_the_error_says_so(tmp_path):
    inputs, targets = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % 2
    damaged = np.where(np.arange(120).reshape(60, 2) % 6 == 1, np.nan, inputs)

    with pytest.raises(SearchError, match=r"None of 2 trials completed.* 20 .*NaN or infinite"):
        tfbatch.find_batch_size(
            lambda: keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]),
            {"train": (damaged, targets), "validation": (inputs, targets)},
            search="quick",
            batch_sizes=[32],
            max_trials=1,
            trial_length="1 epochs",
            run_dir=tmp_path / "run",
            workers=0,
        )
