"""With --json every command prints one document on the standard output, and nothing else there."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shlex
from pathlib import Path

import pytest
from processes import run_warm
from rich.table import Table
from search_fixtures import Trainer, make_request_of
from test_answer import CHANCE, CONFIG, run
from test_plan import PLAN

import tfbatch.compare
import tfbatch.finder
import tfbatch.probe
import tfbatch.report
import tfbatch.train
import tfbatch.training.single
import tfbatch.translate
import tfbatch.tune
from tfbatch.answer.find import find_answer
from tfbatch.command_line.machine_output import SCHEMA_VERSION, Document, json_text
from tfbatch.command_line.results import RESULTS, TrainResult
from tfbatch.configuration import Configuration
from tfbatch.errors import InputError, NothingLearnedError, RunFolderError
from tfbatch.finder import plan_request
from tfbatch.instruments.run_all import ProbeReport, Section
from tfbatch.quantities import TrainingLength
from tfbatch.request.task import IN_PYTHON
from tfbatch.request.training_config import Reported, TrainingConfig
from tfbatch.run_folder.files import RECOMMENDATION
from tfbatch.schema import Named, write_yaml
from tfbatch.search.progress import Progress
from tfbatch.search.result import Result

BEST = TrainingConfig(
    dataset="digits",
    model="tiny_model:build",
    trial_length=TrainingLength.parse("1 epochs"),
    seed=1,
    configuration=Configuration(
        batch_size=256, base_learning_rate=0.1, schedule=Named(name="linear")
    ),
    reported=Reported(metric="val_loss", mean=1.798, deviation=0.1587, seeds=3),
)
"""What `tune` writes as best.yaml."""


@dataclasses.dataclass(frozen=True)
class Reading:
    largest: int = 64

    def columns(self):
        return ("size",)

    def rows(self):
        return [("64",)]

    def charts(self):
        return []

    def conclusion(self):
        return "It fits."


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("json") / "run"
    trials = run(folder, Trainer())
    answer = find_answer(
        trials,
        batch_sizes=2,
        chance=CHANCE,
        device="CPU",
        learning_rates=CONFIG.space.learning_rate_range(),
    )
    answer.write(folder)
    return folder


def tune(run_dir, monkeypatch, *, fails=None, interrupted=False, failure=None):
    def run_request(request, objects, *, progress, stop_requested, started):
        progress.say("a trial has ended")
        os.write(1, b"a library speaks\n")  # as C++ code does
        if fails:
            raise fails
        answer = tfbatch.answer.stored.read_answer(run_dir)
        return Result(
            run_dir=run_dir,
            rows=[],
            interrupted=interrupted,
            failure=failure,
            answer=answer,
            table=Table("the table"),
            snippet="the script",
        )

    monkeypatch.setattr(tfbatch.tune, "run_request", run_request)
    monkeypatch.setattr(tfbatch.tune, "check_run_dir", lambda path: run_dir)
    return tfbatch.tune.main, [f"--run_dir={run_dir}"]


def probe(run_dir, monkeypatch):
    section = Section("largest_batch", "What fits", Reading(), "", 1.0)
    probed = ProbeReport("CPU", (8, 64), 32, (section,), None, "nothing to go by")
    monkeypatch.setattr(tfbatch.probe, "_probe", lambda *_: probed)
    return tfbatch.probe.main, [f"--run_dir={run_dir.parent / 'probe'}"]


def train(run_dir, monkeypatch):
    config = run_dir.parent / "best.yaml"
    config.write_text(write_yaml(BEST.model_dump(mode="json"), comment="the best training"))
    return tfbatch.train.main, [f"--config={config}"]


def compare(run_dir, monkeypatch):
    return tfbatch.compare.main, [str(run_dir), "--rows=search-0001,search-0002"]


def report(run_dir, monkeypatch):
    return tfbatch.report.main, [str(run_dir)]


def translate(run_dir, monkeypatch):
    return tfbatch.translate.main, ["--batch_size=32", "--to=64", "--optimizer=sgd"]


COMMANDS = {f.__name__: f for f in (tune, probe, train, report, compare, translate)}
SPOKEN = {
    "tune": "the table",
    "probe": "It fits.",
    "train": "test: ",
    "translate": "sgd",
    "report": "Written",
}


def test_the_pages_name_the_commands_that_print_a_document():
    docs = Path(__file__).parent.parent / "docs"
    sentences = {
        "commands.md": r"((?:`\w+`|,| |and)+) have `--json`",
        "json.md": "the commands (.*?) print",
    }
    for page, said in sentences.items():
        sentence = re.search(said, (docs / page).read_text(encoding="utf-8"))
        assert sentence, page
        assert set(re.findall(r"`(\w+)`", sentence[1])) == set(RESULTS) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_prints_one_document_of_its_schema(name, run_dir, monkeypatch, capfd):
    main, arguments = COMMANDS[name](run_dir, monkeypatch)
    assert main([*arguments, "--json", "--quiet"]) == 0
    printed = capfd.readouterr()

    document = Document[RESULTS[name]].model_validate_json(printed.out)
    assert (document.schema_version, document.command) == (SCHEMA_VERSION, name)
    assert document.exit_code == 0
    assert document.tfbatch
    again = json.loads(document.model_dump_json())
    assert again == json.loads(printed.out)
    assert SPOKEN.get(name, "The difference") not in printed.err


def test_a_training_repeats_what_the_search_reported_of_it(run_dir, monkeypatch, capfd):
    found = trained(run_dir, monkeypatch, capfd)

    assert found["reported"] == "val_loss 1.7980 ± 0.1587 (n=3)"
    assert found["diverged"] is None


def test_a_training_without_the_trials_callbacks_does_not_repeat_it(run_dir, monkeypatch, capfd):
    lacks = BEST.model_copy(update={"callbacks": IN_PYTHON})
    monkeypatch.setattr(tfbatch.train, "load_training_config", lambda _: lacks)

    assert trained(run_dir, monkeypatch, capfd)["reported"] is None


def test_a_training_that_diverged_says_so_to_programs_and_to_people(run_dir, monkeypatch, capfd):
    assert trained(run_dir, monkeypatch, capfd, "the loss grew")["diverged"] == "the loss grew"
    main, arguments = train(run_dir, monkeypatch)
    main([*arguments, "--quiet"])

    assert capfd.readouterr().out.startswith("The training diverged: the loss grew.\n")


def trained(run_dir, monkeypatch, capfd, diverged=None):
    """The result that `train --json --quiet` prints, and nothing else."""

    def train_once(*_, say, **__):
        say("Training with 2 threads")
        return tfbatch.training.single.Trained({"validation": {"loss": 1.0}}, diverged)

    monkeypatch.setattr(tfbatch.training.single, "train_once", train_once)
    main, arguments = train(run_dir, monkeypatch)
    main([*arguments, "--json", "--quiet"])
    printed = capfd.readouterr()
    assert printed.err == ""
    return json.loads(printed.out)["result"]


def test_without_quiet_people_read_the_standard_error(run_dir, monkeypatch, capfd):
    main, arguments = tune(run_dir, monkeypatch)
    main([*arguments, "--json"])
    printed = capfd.readouterr()

    assert json.loads(printed.out)["result"]["answer"]["recommended_trial"]
    for said in ("a trial has ended", "the table", "the script", "Recommended:"):
        assert said in printed.err
    assert "a library speaks" not in printed.out + printed.err


def test_quiet_alone_leaves_the_result_and_drops_the_progress(run_dir, monkeypatch, capfd):
    main, arguments = tune(run_dir, monkeypatch)
    main([*arguments, "--quiet"])
    printed = capfd.readouterr()

    assert "the table" in printed.out
    assert "a trial has ended" not in printed.out + printed.err


def test_the_answer_in_the_document_is_recommendation_json(run_dir, monkeypatch, capfd):
    main, arguments = tune(run_dir, monkeypatch)
    main([*arguments, "--json"])

    result = json.loads(capfd.readouterr().out)["result"]
    assert result["answer"] == json.loads((run_dir / RECOMMENDATION).read_text())
    assert RECOMMENDATION in result["files"]


def test_a_search_that_learned_nothing_says_so_with_its_exit_code(run_dir, monkeypatch, capfd):
    main, arguments = tune(run_dir, monkeypatch, fails=NothingLearnedError("no better than chance"))
    code = main([*arguments, "--json"])

    document = json.loads(capfd.readouterr().out)
    assert (code, document["exit_code"]) == (6, 6)
    assert document["result"]["status"] == "nothing_learned"
    assert document["result"]["message"] == "no better than chance"
    assert document["result"]["answer"] is None


def test_a_plan_is_one_document_and_leaves_no_run_folder(tmp_path, run_dir, monkeypatch, capfd):
    def plan_request(request, objects, *, progress, stop_requested, started):
        progress.say("measuring")
        os.write(1, b"a library speaks\n")
        return PLAN

    monkeypatch.setattr(tfbatch.tune, "plan_request", plan_request)
    code = tfbatch.tune.main([f"--run_dir={tmp_path / 'new'}", "--dry_run", "--json"])
    printed = capfd.readouterr()

    document = Document[RESULTS["tune"]].model_validate_json(printed.out)
    assert (code, document.exit_code, document.result.status) == (0, 0, "planned")
    assert document.result.plan == PLAN
    assert (document.result.answer, document.result.files) == (None, ())
    assert not (tmp_path / "new").exists()
    assert "measuring" in printed.err
    assert "has trials already" not in printed.err

    tfbatch.tune.main([f"--run_dir={run_dir}", "--dry_run"])
    assert "the plan is that of a new run" in " ".join(capfd.readouterr().out.split())


def test_a_plan_is_made_in_a_folder_that_nobody_keeps(tmp_path, monkeypatch):
    asked = []

    class Run:
        def plan(self):
            asked[0].run_dir.mkdir()
            (asked[0].run_dir / "trials.jsonl").touch()
            return PLAN

    @contextlib.contextmanager
    def opened(request, *_):
        asked.append(request)
        yield Run()

    monkeypatch.setattr(tfbatch.finder, "_opened", opened)
    request = make_request_of(run_dir=tmp_path / "mine", overwrite=True)
    plan = plan_request(request, progress=Progress(None), started=0.0)

    assert plan == PLAN
    assert asked[0].run_dir != request.run_dir
    assert not asked[0].overwrite
    assert not asked[0].run_dir.parent.exists()
    assert list(tmp_path.iterdir()) == []


def test_the_next_command_searches_further_and_speaks_to_people(run_dir, monkeypatch, capfd):
    main, arguments = tune(run_dir, monkeypatch)
    monkeypatch.setattr(tfbatch.tune, "take_trials", lambda source, run_dir: "Taken.")
    more = ["--from=other", "--json", "--max_minutes=3", "--seed=2"]
    main([*arguments, *more])
    said = " ".join(capfd.readouterr().err.split())
    (command,) = re.findall(r"-m tfbatch\.tune (.*?) \(searches further\)", said)

    # That of tuner_configs/joint.yaml, doubled.
    assert shlex.split(command)[-2:] == ["--max_trials=48", "--max_minutes=6"]
    assert "--seed=2" in command
    assert "--from" not in command
    assert "--json" not in command


@pytest.mark.parametrize("end", [{"interrupted": True}, {"failure": RunFolderError("full")}])
@pytest.mark.parametrize("more", [[], ["--search=trunks"], ["--max_minutes=3.0"]])
def test_after_a_stop_the_same_command_is_offered_with_its_own_limits(
    run_dir, monkeypatch, capfd, more, end
):
    main, arguments = tune(run_dir, monkeypatch, **end)
    main([*arguments, *more])
    said = " ".join(capfd.readouterr().out.split())
    (command,) = re.findall(r"-m tfbatch\.tune (.*?) \(goes on\)", said)

    assert sorted(shlex.split(command)) == sorted([f"--run_dir={run_dir}", *more])


@pytest.mark.parametrize(
    ("more", "offered"),
    [
        ((), False),
        (("--max_minutes=3",), True),
        (("--max_trainings=9",), True),
        (("--max_trials=4",), True),
    ],
)
def test_a_search_that_ends_at_its_own_price_is_offered_only_what_limited_it(
    run_dir, monkeypatch, capfd, more, offered
):
    main, arguments = tune(run_dir, monkeypatch)
    main([*arguments, "--search=trunks", *more])
    said = " ".join(capfd.readouterr().out.split())

    assert "(HPARAMS shows every trial)" in said
    assert ("(searches further)" in said) == offered


def test_the_command_that_trains_has_the_records_folder(run_dir, tmp_path, monkeypatch, capfd):
    main, arguments = tune(run_dir, monkeypatch)
    monkeypatch.chdir(tmp_path)
    main([*arguments, "--records_dir=my records"])
    said = " ".join(capfd.readouterr().out.split())
    (command,) = re.findall(r"-m tfbatch\.train (.*?) \(on a CPU", said)

    best = f"--config={run_dir / 'best.yaml'}"
    assert shlex.split(command) == [best, f"--records_dir={tmp_path / 'my records'}"]


def test_a_path_that_is_no_utf_8_leaves_the_document_whole():
    metrics = {"test": {"loss": float("nan"), "accuracy": 0.5}}
    texts = [
        json_text("train", TrainResult(metrics=metrics, diverged=None, output=path, reported="±"))
        for path in ("/tmp/café", os.fsdecode(b"/tmp/caf\xe9"))
    ]
    found = [json.loads(text.encode())["result"] for text in texts]

    assert os.fsencode(found[1].pop("output")) == b"/tmp/caf\xe9"
    assert found[1] == {key: value for key, value in found[0].items() if key != "output"}
    assert found[0]["metrics"] == {"test": {"loss": None, "accuracy": 0.5}}


@pytest.mark.parametrize("flag", ["--chief=a:1", "--join=a:1", "-join"])
def test_a_flag_that_was_removed_names_what_took_its_place(flag):
    with pytest.raises(InputError, match=r"was removed: .* with `--cluster=auto`"):
        tfbatch.tune.main([flag])


def test_the_documented_schemas_are_those_of_the_code():
    """`make docs` puts them on the page; the page itself names every command."""
    page = (Path(__file__).parent.parent / "docs" / "json.md").read_text(encoding="utf-8")

    for name, result in RESULTS.items():
        assert f"`{name}`" in page
        schema = Document[result].model_json_schema()
        assert schema["properties"]["schema_version"]["const"] == SCHEMA_VERSION


@pytest.mark.slow
def test_a_search_from_a_shell_prints_its_document_alone(tmp_path):
    ended = run_warm(
        *("-m", "tfbatch.tune", "--json", "--search=quick", "--max_trials=1"),
        *("--trial_length=1 epochs", "--batch_sizes=64", "--workers=1", "--run_dir=run"),
        cwd=tmp_path,
    )

    document = Document[RESULTS["tune"]].model_validate_json(ended.stdout)
    assert document.result.answer.recommended.batch_size in (32, 64)
    assert "search-0001" in ended.stderr
