"""Exporters write each trial once, as what it is, and change nothing in the run folder."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from search_fixtures import BASELINE, finished
from wandb_file import read_offline_run

import tfbatch
from tfbatch.curves_log import CurveWriter, set_aside
from tfbatch.errors import InputError, RunFolderError
from tfbatch.exporters import EXPORTERS, export_run
from tfbatch.exporters._trial import answer_metrics, read_curves, trial_of
from tfbatch.hparams_log import write_trial
from tfbatch.run_folder.folder import RunFolder
from tfbatch.run_folder.reader import read_run
from tfbatch.run_folder.trials_table import csv_text
from tfbatch.schema import Named

pytestmark = pytest.mark.filterwarnings("ignore:.*noload.*")  # MLflow with SQLAlchemy 2.1

IDENTITY = {"dataset": {"name": "digits", "splits": ["a", "b"]}, "model": "small_cnn", "seed": 1}
ANSWER = {
    "status": "complete",
    "batch_size": 64,
    "learning_rate": 0.02,
    "schedule": {"name": "wsd", "cooldown": 0.3},
    "optimizer": {"name": "sgd", "momentum": 0.9},
    "metrics": {"validation": {"loss": {"mean": 0.25, "seeds": 2}}, "test": None},
}
WSD = BASELINE.model_copy(update={"batch_size": 64, "schedule": Named(name="wsd", cooldown=0.3)})
ROWS: list[dict[str, Any]] = [
    finished("baseline", BASELINE, phase="baseline", loss=0.1 + 0.2).row,
    finished("search-0001", WSD, loss=1 / 3).row,
    finished("search-0002", WSD, loss=math.nan, status="diverged").row
    | {"metric_loss": math.inf, "metric_low": -math.inf},
    {k: v for k, v in finished("search-0003", WSD).row.items() if not k.startswith("metric_")}
    | {"status": "error", "score": None, "message": "x" * 9000 + " ü\nthe end"},
]


@pytest.fixture
def run_dir(tmp_path, monkeypatch):
    """A run folder with an answer; the working directory is an empty one beside it."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_DIR", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "my-run"
    with RunFolder(path, identity=IDENTITY, budget={"max_trials": 3}) as folder:
        for row in ROWS:
            folder.journal.append(row)
    (path / "recommendation.json").write_text(json.dumps(ANSWER))
    (path / "best.yaml").write_text("batch_size: 64\n")
    (path / "fingerprint.json").write_text(json.dumps({"software": {"keras": "3.13"}}))
    for part, losses in (("train", [2.0, 1.0]), ("validation", [2.5, 1.5])):
        with tf.summary.create_file_writer(str(path / "tensorboard/baseline" / part)).as_default():
            for epoch, loss in enumerate(losses):
                tf.summary.scalar("epoch_loss", loss, step=epoch)
                tf.summary.scalar("evaluation_loss_vs_iterations", 9.0, step=epoch)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return path


def export(run_dir, to, destination=None):
    """Skips the test where the exporter's package is not installed."""
    try:
        return export_run(run_dir, to=to, destination=destination)
    except InputError as error:
        if "is not installed" in str(error):
            pytest.skip(str(error))
        raise


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """Made once: MLflow makes the tables of a new SQLite file step by step, for seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    if not importlib.util.find_spec("mlflow"):
        return None
    import mlflow

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)
        mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}").get_experiment_by_name("tfbatch")
    return path


@pytest.fixture
def uri(empty_store, tmp_path):
    """An MLflow store of the test's own."""
    if empty_store is None:
        pytest.skip("mlflow is not installed")
    return f"sqlite:///{shutil.copy(empty_store, tmp_path)}"


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "trials.csv"
    }


@pytest.mark.quick_cases("csv", "mlflow")
@pytest.mark.parametrize("name", EXPORTERS.names())
def test_an_exporter_writes_every_trial_and_leaves_the_run_folder_as_it_was(
    name, run_dir, empty_store
):
    if empty_store:
        shutil.copy(empty_store, Path.cwd())  # MLflow's default
    before = contents(run_dir)
    with RunFolder(run_dir, identity=IDENTITY, budget={"max_trials": 3}):  # a run in progress
        first = export(run_dir, name)
        again = export(run_dir, name)

    assert (first.written, first.present) == (len(ROWS), 0)
    assert again.written + again.present == len(ROWS)
    assert again.destination == first.destination
    assert "4 trials written to" in str(first)
    assert contents(run_dir) == before


@pytest.mark.quick_cases("csv", "mlflow")
@pytest.mark.parametrize("name", EXPORTERS.names())
def test_an_exporter_takes_a_run_without_an_answer_and_with_a_torn_line(name, run_dir, empty_store):
    if empty_store:
        shutil.copy(empty_store, Path.cwd())  # MLflow's default
    (run_dir / "recommendation.json").unlink()
    (run_dir / "fingerprint.json").unlink()
    journal = run_dir / "trials.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    before = contents(run_dir)

    assert export(run_dir, name).written == len(ROWS) - 1
    assert contents(run_dir) == before


def test_a_mean_that_is_not_finite_is_exported_as_such():
    found = answer_metrics({"metrics": {"validation": {"r2": {"mean": None}}, "test": None}})
    assert math.isnan(found["validation/r2"])


def test_csv_is_written_where_it_is_asked_for(run_dir, tmp_path):
    export_run(run_dir, to="csv", destination=tmp_path / "here.csv")
    export_run(run_dir, to="csv")

    assert (tmp_path / "here.csv").read_bytes() == (run_dir / "trials.csv").read_bytes()
    assert (tmp_path / "here.csv").read_bytes().decode() == csv_text(ROWS)
    with pytest.raises(InputError, match="must be a file in a folder that exists"):
        export_run(run_dir, to="csv", destination=tmp_path / "no" / "where.csv")


class Mlflow:
    """What a store holds of the fixture's run."""

    def __init__(self, uri):
        import mlflow

        self.client = mlflow.MlflowClient(tracking_uri=uri)
        experiment = self.client.get_experiment_by_name("tfbatch")
        runs = list(self.client.search_runs([experiment.experiment_id]))
        self.runs = {run.info.run_name: run for run in runs}
        self.count = len(runs)

    def history(self, run, metric):
        found = self.client.get_metric_history(self.runs[run].info.run_id, metric)
        return sorted((point.step, point.value) for point in found)


def test_mlflow_has_a_nested_run_for_each_trial(run_dir, uri):
    export(run_dir, "mlflow", uri)
    store = Mlflow(uri)
    search, trial = store.runs["my-run"], store.runs["search-0001"]

    assert set(store.runs) == {"my-run", *(row["trial"] for row in ROWS)}
    assert store.count == 5
    for row in ROWS:
        tags = store.runs[row["trial"]].data.tags
        assert tags["mlflow.parentRunId"] == search.info.run_id
        assert (tags["status"], tags["phase"]) == (row["status"], row["phase"])
        assert tags["seed"] == str(row["seed"])
    assert trial.data.params["schedule_cooldown"] == "0.3"
    assert trial.data.params["learning_rate"] == str(ROWS[1]["learning_rate"])
    assert trial.data.metrics["val_loss"] == 1 / 3
    assert trial.data.metrics["examples"] == ROWS[1]["examples"]
    assert trial.info.end_time - trial.info.start_time == 1000 * ROWS[1]["seconds"]
    assert store.history("baseline", "val_loss") == [(0, 0.1 + 0.2)]
    assert store.history("baseline", "epoch/loss") == [(0, 2.0), (1, 1.0)]
    assert store.history("baseline", "epoch/val_loss") == [(0, 2.5), (1, 1.5)]
    assert store.history("baseline", "epoch/examples") == [(0, 1024), (1, 2048)]
    assert search.data.params["dataset.name"] == "digits"
    assert search.data.tags["recommended.schedule.cooldown"] == "0.3"
    assert search.data.tags["software.keras"] == "3.13"
    assert search.data.metrics == {"validation/loss": 0.25}
    artifacts = {file.path for file in store.client.list_artifacts(search.info.run_id)}
    assert {"recommendation.json", "best.yaml"} <= artifacts


def test_mlflow_shows_what_failed_as_what_it_is(run_dir, uri):
    export(run_dir, "mlflow", uri)
    diverged, failed = (Mlflow(uri).runs[f"search-000{n}"] for n in (2, 3))

    assert math.isnan(diverged.data.metrics["val_loss"])
    # A SQL store keeps infinity as the largest float: the tag says what it was.
    assert diverged.data.metrics["loss"] == sys.float_info.max
    assert "loss=inf" in diverged.data.tags["not_finite"]
    assert "low=-inf" in diverged.data.tags["not_finite"]
    assert (diverged.info.status, failed.info.status) == ("FAILED", "FAILED")
    assert failed.data.tags["message"].endswith("ü\nthe end")
    assert "score" not in failed.data.metrics


def test_mlflow_keeps_infinity_in_a_file_store(run_dir, tmp_path, monkeypatch):
    uri = f"file:{tmp_path}/mlruns"
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for expected in (4, 0):
        assert export(run_dir, "mlflow", uri).written == expected
    metrics = Mlflow(uri).runs["search-0002"].data.metrics

    assert (metrics["loss"], metrics["low"]) == (math.inf, -math.inf)
    assert math.isnan(metrics["val_loss"])


def test_mlflow_adds_what_is_new_and_mends_what_was_cut_off(run_dir, uri, tmp_path):
    export(run_dir, "mlflow", uri)
    store = Mlflow(uri)
    store.client.update_run(store.runs["search-0001"].info.run_id, status="RUNNING")
    moved = shutil.move(run_dir, tmp_path / "elsewhere")
    with RunFolder(moved, identity=IDENTITY, budget={"max_trials": 9}) as folder:
        folder.journal.append(finished("search-0004", BASELINE).row)
    answer = ANSWER | {"batch_size": 32, "metrics": {"validation": {"loss": {"mean": 0.125}}}}
    (moved / "recommendation.json").write_text(json.dumps(answer))

    exported = export(moved, "mlflow", uri)
    now = Mlflow(uri)

    assert (exported.written, exported.present) == (2, 3)
    assert now.count == 6
    search = now.runs["my-run"]
    assert search.info.run_id == store.runs["my-run"].info.run_id
    assert search.data.tags["recommended.batch_size"] == "32"
    assert search.data.metrics["validation/loss"] == 0.125
    assert now.runs["search-0001"].info.run_id != store.runs["search-0001"].info.run_id


def test_mlflow_keeps_two_runs_of_equal_settings_apart(run_dir, uri, tmp_path):
    other = tmp_path / "other"
    with RunFolder(other, identity=IDENTITY, budget={}) as folder:
        folder.journal.append(ROWS[0] | {"finished_at": "2026-01-02T00:00:00+00:00"})
    export(run_dir, "mlflow", uri)

    assert export(other, "mlflow", uri).written == 1
    assert Mlflow(uri).count == 7


def test_mlflow_says_why_a_store_cannot_be_used(run_dir):
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    with pytest.raises(InputError, match=r"MLflow cannot write to nonsense://x: .+"):
        export_run(run_dir, to="mlflow", destination="nonsense://x")


def test_wandb_writes_one_offline_run_for_each_trial(run_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")  # the exporter stays offline all the same
    target = Path(export(run_dir, "wandb", str(tmp_path / "out")).destination)
    key = read_run(run_dir).key
    runs = {folder.name.split("-", 3)[3]: read_offline_run(folder) for folder in target.iterdir()}
    answer = next(run for name, run in runs.items() if "answer" in name)

    assert {f"{key}-{row['trial']}" for row in ROWS} < set(runs)
    assert len(runs) == 5
    trial = runs[f"{key}-search-0001"]
    assert trial["run"].run_group == f"my-run-{key}"
    assert trial["run"].display_name == "search-0001"
    assert list(trial["run"].tags) == ["completed", "search", "seed 1"]
    assert trial["config"]["schedule_cooldown"] == 0.3
    assert trial["config"]["learning_rate"] == ROWS[1]["learning_rate"]
    assert (trial["summary"]["val_loss"], trial["exit_code"]) == (1 / 3, 0)
    history = runs[f"{key}-baseline"]["history"]
    points = [p for p in history if "epoch/loss" in p]
    assert [(p["_step"], p["epoch/loss"], p["epoch/val_loss"]) for p in points] == [
        (0, 2.0, 2.5),
        (1, 1.0, 1.5),
    ]
    assert [p["epoch/examples"] for p in points] == [1024, 2048]
    diverged = runs[f"{key}-search-0002"]
    assert math.isnan(diverged["summary"]["val_loss"])
    assert (diverged["summary"]["loss"], diverged["summary"]["low"]) == (math.inf, -math.inf)
    assert diverged["exit_code"] == 1
    assert runs[f"{key}-search-0003"]["run"].notes.endswith("the end")
    assert answer["config"]["recommended.batch_size"] == 64
    assert answer["summary"]["validation/loss"] == 0.25
    assert {"recommendation.json", "best.yaml"} <= answer["files"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["wandb"]


def test_wandb_adds_what_is_new(run_dir, tmp_path):
    first = export(run_dir, "wandb")
    with RunFolder(run_dir, identity=IDENTITY, budget={}) as folder:
        folder.journal.append(finished("search-0004", BASELINE).row)
    shutil.rmtree(next(Path(first.destination).glob("*-search-0001")))
    again = export(run_dir, "wandb")

    assert (again.written, again.present) == (2, 3)
    assert len(list(Path(first.destination).glob("offline-run-*"))) == 7  # one for each answer


def studies(url):
    optuna = pytest.importorskip("optuna")
    names = optuna.get_all_study_names(url)
    return {name: optuna.load_study(study_name=name, storage=url) for name in names}


def test_optuna_has_a_study_of_the_search_and_one_of_the_verification(run_dir, tmp_path):
    with RunFolder(run_dir, identity=IDENTITY, budget={}) as folder:
        for seed in (7, 8):
            row = finished(f"confirm-x-{seed}", WSD, loss=0.5, phase="confirmation", seed=seed).row
            folder.journal.append(row)
        part = finished("search-0004", BASELINE, loss=0.1).row | {"to_examples": 64, "examples": 64}
        folder.journal.append(part)
        # A branch to the end of a shorter schedule, one to the full length, a short training.
        branch = {"parent": "search-0004", "from_examples": 64, "course_from": 64}
        others = (
            branch | {"total_examples": 128, "to_examples": 128, "examples": 128},
            branch,
            {"total_examples": 1250, "examples": 1250},
        )
        for number, changes in enumerate(others, start=5):
            row = finished(f"search-000{number}", BASELINE, loss=0.05).row
            folder.journal.append(row | changes)
    exported = export(run_dir, "optuna", str(tmp_path / "study.db"))
    key = read_run(run_dir).key
    found = studies(exported.destination)
    search, verification = found[f"my-run-{key}"], found[f"my-run-{key}-verification"]

    assert (exported.written, exported.next_step) == (
        10,
        f"optuna-dashboard {exported.destination}    (needs `pip install optuna-dashboard`)",
    )
    states = {trial.user_attrs["trial"]: trial.state.name for trial in search.trials}
    assert states == {
        "baseline": "COMPLETE",
        "search-0001": "COMPLETE",
        "search-0002": "FAIL",
        "search-0003": "FAIL",
        "search-0004": "PRUNED",
        "search-0005": "PRUNED",
        "search-0006": "PRUNED",
        "search-0007": "PRUNED",
    }
    assert search.best_trial.user_attrs["trial"] == "baseline"
    assert search.direction.name == "MINIMIZE"
    baseline, trial = search.trials[0], search.trials[1]
    assert trial.params["batch_size"] == 64
    assert trial.params["learning_rate"] == ROWS[1]["learning_rate"]
    assert trial.params["schedule_cooldown"] == 0.3
    assert "schedule_cooldown" not in baseline.params
    assert trial.value == 1 / 3
    assert trial.duration.total_seconds() == ROWS[1]["seconds"]
    assert baseline.intermediate_values == {1024: 2.5, 2048: 1.5}
    assert search.trials[2].user_attrs["val_loss"] == "nan"
    assert search.user_attrs["recommended.batch_size"] == 64
    assert [t.user_attrs["seed"] for t in verification.trials] == ["7", "8"]


@pytest.mark.parametrize(
    ("name", "destination", "argument"),
    [
        ("mlflow", "sqlite:///{}/mlflow.db", "--backend-store-uri=sqlite:///{}/mlflow.db"),
        ("optuna", "sqlite:///{}/optuna.db", "sqlite:///{}/optuna.db"),
        ("wandb", "{}", "{}/wandb/offline-run-*"),
    ],
)
def test_the_next_step_of_a_folder_with_a_space_is_one_that_a_shell_takes(
    name, destination, argument, run_dir, tmp_path
):
    pytest.importorskip(name, reason=f"not installed: pip install -e '.[{name}]'")
    folder = tmp_path / "my folder"
    folder.mkdir()
    exported = export(run_dir, name, destination.format(folder))
    command, _, about = exported.next_step.partition("    (")
    words = shlex.split(command)

    assert words[-1].startswith(argument.format(folder))
    assert len(words) == {"mlflow": 3, "optuna": 2, "wandb": 3}[name]
    assert "'*" not in command, "the shell lists the folders"
    needed = {"mlflow": "mlflow", "optuna": "optuna-dashboard"}.get(name)
    assert about == (f"needs `pip install {needed}`)" if needed else "uploads them)")


def test_optuna_adds_what_is_new_and_begins_anew_with_a_new_choice(run_dir, tmp_path):
    url = export(run_dir, "optuna").destination
    moved = Path(shutil.move(run_dir, tmp_path / "elsewhere"))
    with RunFolder(moved, identity=IDENTITY, budget={}) as folder:
        folder.journal.append(finished("search-0004", WSD, loss=0.2).row)
    first = export(moved, "optuna")
    cosine = WSD.model_copy(update={"schedule": Named(name="cosine")})
    with RunFolder(moved, identity=IDENTITY, budget={}) as folder:
        folder.journal.append(finished("search-0005", cosine, loss=0.2).row)
    second = export(moved, "optuna")

    assert (first.written, first.present) == (1, len(ROWS))
    assert (second.written, second.present) == (6, 0)
    (study,) = studies(url).values()
    assert len(study.trials) == 6
    with pytest.raises(InputError, match="must be a file in a folder that exists"):
        export_run(moved, to="optuna", destination=tmp_path / "no" / "where.db")
    with pytest.raises(InputError, match="Optuna cannot write to nonsense://x"):
        export_run(moved, to="optuna", destination="nonsense://x")


def test_curves_are_read_up_to_a_cut_and_a_repeated_epoch_counts_once(run_dir):
    (file,) = (run_dir / "tensorboard/baseline/train").iterdir()
    whole = file.read_bytes()
    with tf.summary.create_file_writer(str(file.parent), filename_suffix=".later").as_default():
        tf.summary.scalar("epoch_loss", 0.5, step=1)  # a continued trial wrote it again
    points = read_curves(run_dir / "tensorboard", ROWS[0])
    assert [point.values["loss"] for point in points] == [2.0, 0.5]

    later = next(path for path in file.parent.iterdir() if path != file)
    later.unlink()
    file.write_bytes(whole[:-100])
    points = read_curves(run_dir / "tensorboard", ROWS[0])
    assert [point.values.get("loss") for point in points] == [2.0, None]
    assert [point.values["val_loss"] for point in points] == [2.5, 1.5]
    assert read_curves(run_dir / "tensorboard", ROWS[1]) == []

    part = ROWS[0] | {"from_examples": 320, "examples": 2000}
    assert [p.values["examples"] for p in read_curves(run_dir / "tensorboard", part)][:2] == [
        1344,
        2000,
    ]


def test_curves_by_examples_are_those_of_a_trial_and_of_each_part_of_a_training(tmp_path):
    """The second part goes on in the first one's curves; the HParams row repeats the last point."""
    writer = CurveWriter(tmp_path / "one")
    for examples, loss in ((64, 2.0), (128, 1.0), (192, 0.5), (200, 0.25)):
        writer.write(examples, {"val_loss": loss})
    writer.close()
    write_trial(
        tmp_path / "one", values={"a": 1}, metrics={"val_loss": 0.25}, status="completed", step=200
    )
    about = {"trial": "search-0002", "batch_size": 32, "steps_per_epoch": 2, "total_examples": 200}
    whole = {**about, "curves": "one", "examples": 200}
    first = {**whole, "to_examples": 128, "examples": 128}
    second = {**whole, "from_examples": 128}

    def read(row):
        return [
            (p.epoch, p.values["examples"], p.values["val_loss"])
            for p in read_curves(tmp_path, row)
        ]

    assert read(whole) == [(0, 64, 2.0), (1, 128, 1.0), (2, 192, 0.5), (3, 200, 0.25)]
    assert read(first) == [(0, 64, 2.0), (1, 128, 1.0)]
    assert read(second) == [(0, 192, 0.5), (1, 200, 0.25)]
    assert read({**whole, "curves": "another"}) == []
    for _ in range(2):
        set_aside(tmp_path / "one")
    assert read(whole)[:3] == [(0, 64, 2.0), (1, 128, 1.0), (2, 192, 0.5)]
    (row,) = (tmp_path / "one").glob("*.tfevents.*")
    assert row.name.endswith(".tfbatch_hparams")


def test_no_value_of_a_row_is_lost_between_parameters_metrics_and_tags():
    row = ROWS[1] | {"of_tomorrow": 7, "text_of_tomorrow": "a", "score": 0.5}
    trial = trial_of(row)

    named = {*trial.parameters, *trial.tags, *trial.metrics}
    assert named == {key.removeprefix("metric_") for key in row}
    assert trial.metrics["of_tomorrow"] == 7
    assert trial.tags["text_of_tomorrow"] == "a"
    assert {"batch_size", "optimizer", "schedule_cooldown"} <= set(trial.parameters)


def test_the_key_of_a_run_outlives_a_move_and_further_trials(run_dir, tmp_path):
    key = read_run(run_dir).key
    moved = Path(shutil.move(run_dir, tmp_path / "moved"))
    with RunFolder(moved, identity=IDENTITY, budget={}) as folder:
        folder.journal.append(finished("search-0004", BASELINE).row)

    assert read_run(moved).key == key


@pytest.mark.parametrize("name", ["mlflow", "optuna", "wandb"])
def test_a_package_that_is_not_installed_is_one_sentence_with_the_command(
    name, run_dir, monkeypatch
):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError) as caught:
        export_run(run_dir, to=name)

    assert f"needs the module `{name}`, which is not installed" in str(caught.value)
    assert f"Install it: {sys.executable} -m pip install {name}" in str(caught.value)
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("name", ["mlflow", "optuna"])
def test_a_database_without_its_driver_is_one_sentence_with_the_remedy(name, run_dir):
    pytest.importorskip(name)
    if importlib.util.find_spec("psycopg2"):
        pytest.skip("psycopg2 is installed")
    with pytest.raises(InputError, match=r"needs a driver that is not installed.*psycopg2"):
        export_run(run_dir, to=name, destination="postgresql://localhost/study")


def test_a_file_that_mlflow_cannot_write_is_refused_at_once(run_dir, tmp_path):
    """MLflow tries ten times, for 100 seconds, and raises what is not its own."""
    pytest.importorskip("mlflow")
    with pytest.raises(InputError, match=r"must be a file that can be written.*/mlflow\.db"):
        export_run(run_dir, to="mlflow", destination=f"sqlite:///{tmp_path}")
    with pytest.raises(InputError, match=r"MLflow cannot write to|file that can be written"):
        export_run(run_dir, to="mlflow", destination="sqlite:////proc/nope/m.db")
    with pytest.raises(InputError, match="MLflow cannot write to"):
        export_run(run_dir, to="mlflow", destination=f"sqlite:///{tmp_path}/{'m' * 300}.db")


def test_a_package_that_mlflow_imports_late_is_named(run_dir, tmp_path, monkeypatch):
    """It is not the driver of a database."""
    pytest.importorskip("mlflow")

    def write(self, uri):
        raise ModuleNotFoundError("No module named 'alembic'", name="alembic")

    monkeypatch.setattr("tfbatch.exporters.mlflow._Writer.write", write)
    with pytest.raises(InputError, match="needs the module `alembic`"):
        export_run(run_dir, to="mlflow", destination=f"sqlite:///{tmp_path}/m.db")


@pytest.mark.parametrize("name", ["csv", "optuna", "wandb"])
def test_the_home_of_a_user_that_there_is_not_is_refused(name, run_dir):
    pytest.importorskip("pandas" if name == "csv" else name)
    with pytest.raises(InputError, match=r"`destination` must be a path: .*~nobody-here/x"):
        export_run(run_dir, to=name, destination="~nobody-here/x")


def test_what_is_no_run_folder_is_refused(run_dir, tmp_path):
    with pytest.raises(InputError, match=r"Unknown exporter `mlflo`. Did you mean `mlflow`\?"):
        export_run(run_dir, to="mlflo")
    with pytest.raises(InputError, match=r"must be a run folder.*no trials\.jsonl in it"):
        export_run(tmp_path, to="csv")
    with RunFolder(tmp_path / "new", identity={}, budget={}), pytest.raises(InputError) as caught:
        export_run(tmp_path / "new", to="csv")
    assert "No trial has ended" in str(caught.value)
    (run_dir / "recommendation.json").write_text('{"status": ')
    with pytest.raises(RunFolderError, match=r"recommendation\.json cannot be read"):
        export_run(run_dir, to="csv")
    (run_dir / "trials.jsonl").write_text("{}\n{}\n")
    with pytest.raises(RunFolderError, match="line 1"):
        export_run(run_dir, to="csv")


@pytest.mark.quick_cases("csv", "another")
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--to=csv", "--run_dir=RUN"], 0, "4 trials written to"),
        (["--to=csv"], 2, "Add --run_dir=RUN"),
        (["--run_dir=RUN"], 2, "Add --to="),
        (["--to=excel", "--run_dir=RUN"], 2, "Unknown exporter `excel`"),
        (["--to=csv", "--run_dir=."], 2, "must be a run folder of tfbatch"),
        (["--to=csv", "--run_dir=RUN", "--destination=~nobody-here/x"], 2, "must be a path"),
    ],
    ids=["csv", "no folder", "no exporter", "unknown exporter", "another folder", "no home"],
)
def test_the_command_says_what_it_did(arguments, code, message, run_dir):
    done = subprocess.run(
        [sys.executable, "-m", "tfbatch.export"]
        + [argument.replace("RUN", str(run_dir)) for argument in arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(tfbatch.__file__).parent.parent)},
        check=False,
    )

    assert done.returncode == code, done.stderr
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_real_run_is_exported_with_its_curves(tmp_path, uri, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = tfbatch.find_batch_size(
        "small_cnn",
        "digits",
        search="quick",
        max_trials=1,
        trial_length="2 epochs",
        run_dir=tmp_path / "run",
        workers=0,
        verbose=0,
    )
    csv = (result.run_dir / "trials.csv").read_bytes()
    result.export("csv", destination=tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == csv
    exported = result.export("mlflow", destination=uri)
    store = Mlflow(exported.destination)

    assert exported.written == len(result.rows)
    for row in result.rows:
        history = store.history(row["trial"], "epoch/val_loss")
        assert [step for step, _ in history] == [0, 1]
        assert history[-1][1] == pytest.approx(row["metric_val_loss"], rel=1e-6)
        assert store.history(row["trial"], "epoch/examples")[-1][1] == row["examples"]
    tags = store.runs["run"].data.tags
    assert tags["recommended.batch_size"] == str(result.batch_size)
