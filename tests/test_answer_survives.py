"""What was measured is printed and on disk, whatever fails after it."""

import dataclasses
import functools
import json
import math
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from search_fixtures import (
    BASELINE,
    NUM_EXAMPLES,
    Trainer,
    make_request_of,
    open_folder,
    outcome,
    small_derive,
)

from tfbatch.dataset_info.own_data import DataDescription
from tfbatch.errors import (
    InputError,
    NothingLearnedError,
    RecordError,
    SearchError,
    StoppedError,
)
from tfbatch.estimators.chance_level import ChanceLevel
from tfbatch.request.task import IN_PYTHON, Task
from tfbatch.request.training_config import load_training_config
from tfbatch.run_folder.files import WALL_TIME
from tfbatch.run_folder.folder import RunFolder
from tfbatch.run_folder.journal import read_rows
from tfbatch.run_folder.reuse import take_trials
from tfbatch.search.answer_writer import AnswerWriter
from tfbatch.search.clock import SearchClock
from tfbatch.search.preparation import Prepared
from tfbatch.search.progress import Progress
from tfbatch.search.run import Run
from tfbatch.search.serial_engine import SerialEngine
from tfbatch.search.snippet import keras_snippet
from tfbatch.search.space import SearchSpace
from tfbatch.training.description import ModelDescription
from tfbatch.training.evaluation import Untrained
from tfbatch.trial.derived import derive

UNTRAINED = Untrained({"loss": 9.0, "accuracy": 0.1}, 0.0, "hash")


def build(input_shape, num_classes):
    raise NotImplementedError  # looked at for its arguments, never called


class Engine(SerialEngine):
    """Trials by a closed form; the other tasks do nothing, or what `tasks` has for them."""

    def __init__(self, trainer, tasks):
        super().__init__(trainer)
        self.tasks = tasks
        self.called = []

    def wait(self, *, seconds=math.inf, stop_requested):
        self.stop_requested = stop_requested
        return super().wait(seconds=seconds)

    def call(self, task, *arguments, **_):
        name = task.__name__
        self.called.append(name)
        if name in self.tasks:
            return self.tasks[name](*arguments)
        return {"loss": 0.5, "accuracy": 0.9} if name == "evaluate_weights" else 0.0

    call_alone = call


class Told(Progress):
    def __init__(self):
        super().__init__(None)
        self.lines = []

    def say(self, text):
        self.lines.append(text)


SPLITS = {"train": NUM_EXAMPLES, "validation": 100, "test": 100}


def complete(
    path,
    trainer=None,
    *,
    stop=lambda: False,
    untrained=UNTRAINED,
    flags=None,
    splits=None,
    **tasks,
):
    """One session of tfbatch.search.run; the result and what was said."""
    minutes, only_times = tasks.pop("max_minutes", None), tasks.pop("only_times", False)
    max_trials, callbacks = tasks.pop("max_trials", 3), tasks.pop("callbacks", None)
    given = {name: tasks.pop(name) for name in ("model", "task") if name in tasks}
    request = make_request_of(
        **(flags or {}),
        objective="val_loss",
        max_trials=max_trials,
        model="resnet",
        max_minutes=minutes,
        run_dir=path,
        for_length=tasks.pop("for_length", None),
    )
    request = dataclasses.replace(request, subject=dataclasses.replace(request.subject, **given))
    request = dataclasses.replace(request, only_times=only_times)
    told = Told()
    engine = Engine(trainer or Trainer(), tasks)
    with open_folder(path) as folder:
        run = Run(
            request,
            Prepared(
                request.subject,
                DataDescription("x", splits or SPLITS, ""),
                ModelDescription(),
                engine,
            ),
            SearchSpace(request.search.space, num_examples=NUM_EXAMPLES),
            folder,
            told,
            stop,
            time.monotonic(),
            untrained,
            build_model=build,
            callbacks=callbacks,
            largest_batch_size=None,
        )
        return run.complete(), told.lines, engine


def on_disk(path):
    return json.loads((path / "recommendation.json").read_text())


def fails(error):
    def task(*_):
        raise error

    return task


def one_line(lines, start):
    (line,) = [line for line in lines if line.startswith(start)]
    assert "\n" not in line
    return line


@pytest.mark.parametrize("callbacks", ["mine:make_callbacks", IN_PYTHON, None])
def test_best_yaml_names_the_callbacks_that_the_trials_had(tmp_path, callbacks):
    complete(tmp_path, callbacks=callbacks)

    assert load_training_config(tmp_path / "best.yaml").callbacks == callbacks
    assert ("callbacks" in (tmp_path / "best.yaml").read_text()) == bool(callbacks)


@pytest.mark.parametrize(
    "given",
    [
        {"model": "__main__:build"},
        {"model": "m:f.<locals>.g"},
        {"model": "m:<lambda>"},
        {"task": Task(IN_PYTHON)},
        {"task": Task("mse", (IN_PYTHON,))},
        {"callbacks": IN_PYTHON},
    ],
    ids=str,
)
def test_no_command_is_named_for_what_was_given_in_python(tmp_path, given):
    result, _, _ = complete(tmp_path, for_length="100 epochs", **given)
    longer = result.answer.longer_run

    assert "tfbatch.train" not in longer.check_with
    assert "the script in plain Keras with total_examples=" in longer.lines()[1]
    assert "tfbatch.train" not in result.summary()


def test_the_script_of_the_longer_run_has_every_number_that_follows_from_it(tmp_path, monkeypatch):
    """It ended after the updates of a trial, in the midst of the longer schedule."""
    asked = []

    def noted(*arguments, **options):
        asked.append((arguments, options))
        return keras_snippet(*arguments, **options)

    monkeypatch.setattr("tfbatch.search.answer_writer.keras_snippet", noted)
    result, _, _ = complete(tmp_path, for_length="100 epochs", callbacks=IN_PYTHON)
    (configuration, now), options = asked[-1]
    then = derive(configuration, num_examples=NUM_EXAMPLES, total_examples=100 * NUM_EXAMPLES)
    told, script = result.answer.longer_run.check_with, result.snippet
    changed = dict(re.findall(r"(\w+)=([^ ,]+)", told))

    for name, value in changed.items():
        script = re.sub(rf"\b{name}=[^,)]+", f"{name}={value}", script)
    script = script.replace(f"StopAfterSteps({now.steps})", f"StopAfterSteps({then.steps})")
    assert f"StopAfterSteps({then.steps})" in told
    assert changed["total_examples"] == changed["num_examples"] == str(100 * NUM_EXAMPLES)
    assert script == keras_snippet(configuration, then, **options)


def test_a_command_is_named_for_what_has_a_name(tmp_path):
    result, _, _ = complete(tmp_path, for_length="100 epochs", model="m:g", callbacks="m:h")

    assert f"-m tfbatch.train --config={tmp_path}/best.yaml" in result.answer.longer_run.check_with


def test_a_run_that_comes_to_its_end_is_complete(tmp_path):
    result, lines, engine = complete(tmp_path)

    assert on_disk(tmp_path) == result.recommendation
    assert str(result) == f"{result.summary()}\nEverything is in {tmp_path}."
    assert result.recommendation["status"] == "complete"
    assert result.recommendation["metrics"]["test"]["loss"]["mean"] == 0.5
    assert result.failure is None
    assert engine.called[0] == "keep_step_times"
    assert engine.called[-1] == "save_model"
    assert json.loads((tmp_path / WALL_TIME).read_text())["seconds"] >= 0
    assert not [line for line in lines if "could not" in line]


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        ("keep_step_times", "The step times could not be measured: "),
        ("evaluate_weights", "The test split could not be evaluated: "),
        ("save_model", "best.keras could not be written: "),
    ],
)
@pytest.mark.parametrize(
    "error",
    [SearchError("A worker process ended in it: SIGKILL\nlast words"), ZeroDivisionError("x / 0")],
    ids=["killed worker", "exception"],
)
def test_a_stage_after_verification_fails_alone(tmp_path, task, sentence, error):
    result, lines, engine = complete(tmp_path, **{task: fails(error)}, callbacks="mine:make")

    assert str(error).splitlines()[0] in one_line(lines, sentence)
    assert on_disk(tmp_path) == result.recommendation
    assert result.recommendation["verified_on_fresh_seeds"]
    assert result.failure is None, "the answer is whole: exit code 0"
    assert engine.called[-1] == "save_model", "the stages after it are tried"
    assert "model.fit(" in result.snippet
    assert "callbacks=[*your_callbacks, " in result.snippet


def test_step_times_are_measured_before_anybody_can_leave_for_its_cost(tmp_path):
    """Once: the engine here measures none, and they are not tried again in the same session."""
    rounds = []

    def look(*_):
        rounds.append({row["trial"][-1] for row in read_rows(tmp_path / "trials.jsonl")[4:]})

    def train(spec):
        noise = 0.01 * math.sin(1e4 * spec.seed * spec.configuration.batch_size)
        return outcome(spec, loss=1.0 + noise)

    _, lines, _ = complete(tmp_path, train, keep_step_times=look)

    assert rounds == [{"1", "2", "3"}]
    assert read_rows(tmp_path / "trials.jsonl")[-1]["trial"].endswith("5"), "and on they went"
    said = one_line(lines, "Verifying ")
    assert re.fullmatch(
        r"Verifying \d configurations, the baseline among them, on up to 5 fresh seeds; what .*",
        said,
    )


def test_a_verification_without_a_baseline_does_not_say_that_there_is_one(tmp_path):
    _, lines, _ = complete(tmp_path, Trainer({"baseline": "oom"}))

    assert "baseline" not in one_line(lines, "Verifying ")


def test_the_step_times_that_were_measured_before_a_failure_are_used(tmp_path):
    def half(configurations, file, device):
        seconds = {str(c.batch_size): [0.25] for c in configurations}
        file.write_text(json.dumps({"device": device, "seconds": seconds}))
        raise SearchError("A worker process ended in `keep_step_times`: SIGKILL")

    result, _, _ = complete(tmp_path, keep_step_times=half)
    derived_steps = result.answer.recommended.trials[0].steps

    assert result.recommendation["training_seconds"]["alone_on_the_device"]
    assert result.recommendation["training_seconds"]["mean"] == 0.25 * derived_steps


def test_damaged_test_records_decide_the_exit_code_and_cost_no_answer(tmp_path):
    error = RecordError(Path("test-0"), 3, "its checksum differs")
    result, _, _ = complete(tmp_path, evaluate_weights=fails(error))

    assert result.failure is error
    assert error.exit_code == 3
    assert on_disk(tmp_path)["metrics"]["validation"]
    assert on_disk(tmp_path)["metrics"]["test"] is None


@pytest.mark.parametrize("phase", ["search", "confirmation"])
@pytest.mark.parametrize(
    "error", [RecordError(Path("train-0"), 3, "damaged"), RuntimeError("a bug")], ids=str
)
def test_what_ends_search_or_verification_leaves_the_answer_so_far(tmp_path, phase, error):
    inner = Trainer()
    count = []

    def train(spec):
        count.append(spec.phase)
        if count.count(phase) == 2:
            raise error
        return inner(spec)

    result, lines, _ = complete(tmp_path, train)

    assert result.failure is error
    one_line(lines, "The run ended early; what was measured stands: ")
    assert on_disk(tmp_path)["status"] == "interrupted"
    assert on_disk(tmp_path)["batch_size"] == result.batch_size
    assert not result.recommendation["verified_on_fresh_seeds"]


def test_what_ends_a_run_before_any_answer_is_raised(tmp_path):
    with pytest.raises(RecordError):
        complete(tmp_path, fails(RecordError(Path("train-0"), 3, "damaged")))


@pytest.mark.parametrize(
    "error", [RecordError(Path("train-0"), 3, "damaged"), RuntimeError("a bug")], ids=str
)
def test_what_ends_a_run_that_has_learned_nothing_so_far_is_raised(tmp_path, error):
    """It was told as "Nothing was learned", exit code 6, of a run that never came to its end."""
    ran = []

    def train(spec):
        ran.append(spec.trial)
        if len(ran) == 3:
            raise error
        return outcome(spec, loss=math.log(50))

    with pytest.raises(type(error)) as caught:
        complete(tmp_path, train, untrained=FIFTY)

    assert caught.value is error
    assert isinstance(caught.value.__cause__, NothingLearnedError)


def test_the_answer_so_far_is_on_disk_before_any_later_stage(tmp_path):
    seen = []

    def look(*_):
        seen.append(on_disk(tmp_path))

    complete(tmp_path, keep_step_times=look)

    (before,) = seen
    assert before["status"] == "interrupted", "a run that is killed now has not come to its end"
    assert before["verified_on_fresh_seeds"]


def test_what_is_believed_now_is_kept_also_where_the_best_trial_stays(tmp_path, monkeypatch):
    """A search in parts learns more between two whole trainings than its best one shows."""
    finish, seen = AnswerWriter.finish, []

    def looked_at(writer, answer, **options):
        for belief in ("batch size 64 leads", "batch size 128 leads"):
            writer.keep(answer.model_copy(update={"belief": belief}))
            seen.append(on_disk(tmp_path)["belief"])
        return finish(writer, answer, **options)

    monkeypatch.setattr(AnswerWriter, "finish", looked_at)
    complete(tmp_path)

    assert seen == ["batch size 64 leads", "batch size 128 leads"]


@pytest.mark.parametrize("task", ["evaluate_weights", "save_model"])
def test_an_answer_is_called_complete_once_its_last_stage_has_ended(tmp_path, task):
    """A run that is killed while the test split is read has not come to its end."""
    seen = []

    def look(*_):
        seen.append(on_disk(tmp_path)["status"])
        return {"loss": 0.5, "accuracy": 0.9}

    complete(tmp_path, **{task: look})

    assert set(seen) == {"interrupted"}
    assert on_disk(tmp_path)["status"] == "complete"


def test_an_answer_that_cannot_be_written_is_still_returned(tmp_path):
    """The folder of best.yaml is taken by a directory: nothing can be renamed over it."""
    with open_folder(tmp_path):
        pass
    (tmp_path / "best.yaml").mkdir()
    (tmp_path / "best.yaml" / "file").touch()
    result, lines, _ = complete(tmp_path)

    assert result.failure is not None
    assert getattr(result.failure, "exit_code", None) == 4
    assert [line for line in lines if "The answer could not be written" in line]
    assert result.batch_size == result.recommendation["batch_size"]


@pytest.mark.parametrize("task", ["keep_step_times", "evaluate_weights", "save_model"])
def test_a_signal_in_a_later_stage_leaves_the_answer(tmp_path, task):
    """A real signal; the worker engine then ends the task with StoppedError."""
    received = []
    before = signal.signal(signal.SIGTERM, lambda *_: received.append(1))

    def interrupted(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        raise StoppedError(f"`{task}` was ended: it did not stop by itself.")

    try:
        result, _, _ = complete(tmp_path, stop=lambda: bool(received), **{task: interrupted})
    finally:
        signal.signal(signal.SIGTERM, before)

    assert received
    assert result.interrupted
    assert result.failure is None
    assert on_disk(tmp_path) == result.recommendation
    assert on_disk(tmp_path)["verified_on_fresh_seeds"]
    assert on_disk(tmp_path)["status"] == "interrupted"


def test_a_continued_run_keeps_the_test_metrics_of_the_answer(tmp_path):
    complete(tmp_path)
    (tmp_path / "best.keras").touch()  # the engine here writes none
    again, _, engine = complete(tmp_path)

    assert "evaluate_weights" not in engine.called
    assert again.recommendation["metrics"]["test"]["loss"]["mean"] == 0.5
    assert again.recommendation["status"] == "complete"


def test_test_metrics_that_a_killed_session_has_not_read_are_read_and_no_others(tmp_path):
    """A session of another recommendation was killed between two contenders."""
    result, _, engine = complete(tmp_path)
    (tmp_path / "best.keras").touch()
    everyone = result.answer.tested()
    assert len(everyone) > 1
    killed = result.answer.with_test(everyone[-1].key, None)
    killed.model_copy(update={"status": "interrupted"}).write(tmp_path)
    again, _, engine = complete(tmp_path, evaluate_weights=lambda *_: {"loss": 0.7})

    tested = {one.key: one.metrics.test["loss"].mean for one in again.answer.tested()}
    assert tested.pop(everyone[-1].key) == pytest.approx(0.7)
    assert set(tested.values()) == {0.5}
    assert engine.called.count("evaluate_weights") == len(everyone[-1].completed)
    assert on_disk(tmp_path)["status"] == "complete"


def test_an_earlier_answer_that_is_damaged_costs_nothing(tmp_path):
    complete(tmp_path)
    (tmp_path / "best.keras").touch()
    (tmp_path / "recommendation.json").write_text("{")
    again, lines, engine = complete(tmp_path)

    assert {line for line in lines if "earlier answer" in line} == {
        one_line(set(lines), "The earlier answer is replaced: ")
    }
    assert "evaluate_weights" in engine.called
    assert on_disk(tmp_path) == again.recommendation
    assert again.recommendation["status"] == "complete"


FIFTY = dataclasses.replace(
    UNTRAINED,
    metrics={"loss": 4.4, "accuracy": 0.02},
    chance={"loss": ChanceLevel(4.4, math.log(50), 0.0056)},
)


def test_trials_that_learned_nothing_are_no_answer_and_not_verified(tmp_path):
    """All trials at a loss of ln 50: exit code 6, and everything measured is kept."""
    ran = []

    def train(spec):
        ran.append(spec)
        return outcome(spec, loss=math.log(50) - 1e-6)

    with pytest.raises(NothingLearnedError, match=r"best of 4 completed .* 3\.912") as caught:
        complete(tmp_path, train, untrained=FIFTY)

    assert caught.value.exit_code == 6
    assert "--trial_length" in str(caught.value)
    assert [spec.phase for spec in ran] == ["baseline"] + ["search"] * 3
    assert (tmp_path / "trials.jsonl").read_bytes().count(b"\n") == 4
    assert not (tmp_path / "recommendation.json").exists()


def test_trained_weights_that_no_trial_improves_on_are_not_called_nothing_learned(tmp_path):
    level = ChanceLevel(0.3, math.log(50), 0.0056)
    pretrained = dataclasses.replace(FIFTY, metrics={"loss": 0.3}, chance={"loss": level})

    with pytest.raises(NothingLearnedError, match=r"already has val_loss 0\.3 .* a lower `base"):
        complete(tmp_path, lambda spec: outcome(spec, loss=0.35), untrained=pretrained)


def test_what_learned_by_luck_on_one_seed_is_no_answer_either(tmp_path):
    kept = []

    def train(spec):
        if spec.phase == "confirmation":
            kept.append((tmp_path / "best.yaml").exists())
            (tmp_path / "best.keras").write_text("of an earlier session")
        return outcome(spec, loss=3.5 if spec.trial == "search-0002" else math.log(50))

    with pytest.raises(NothingLearnedError, match="On fresh seeds"):
        complete(tmp_path, train, untrained=FIFTY)

    assert kept
    assert all(kept)
    left = {file.name for file in tmp_path.iterdir()}
    assert "trials.jsonl" in left
    assert not left & {"recommendation.json", "best.yaml", "best.keras"}


@pytest.mark.parametrize("honest", [2.0, 3.6])
def test_a_search_goes_on_after_its_lucky_best_was_refuted(tmp_path, honest):
    """What a larger number of trials finds is verified, whatever fresh seeds said of another.

    Also where it is worse than the lucky one had seemed to be: 3.6 beside 3.5.
    """

    def train(spec):
        good = {"search-0002": 3.5} | ({"search-0006": honest} if len(rates) > 1 else {})
        if spec.trial in good:
            rates[spec.configuration.base_learning_rate] = good[spec.trial]
        fresh = spec.phase == "confirmation"
        known = rates.get(spec.configuration.base_learning_rate, math.log(50))
        return outcome(spec, loss=known if known == honest or not fresh else math.log(50))

    rates = {}
    with pytest.raises(NothingLearnedError, match="On fresh seeds"):
        complete(tmp_path, train, untrained=FIFTY, max_trials=4)
    rates["the next one"] = 0.0
    result, _, _ = complete(tmp_path, train, untrained=FIFTY, max_trials=8)

    assert result.answer.verified
    assert result.answer.recommended.objective().mean == pytest.approx(honest)


def test_what_failed_on_a_fresh_seed_gives_its_place_to_the_next_of_its_batch_size(tmp_path):
    class Diverging(Trainer):
        def __call__(self, spec):
            done = super().__call__(spec)
            one = spec.configuration
            if spec.phase == "confirmation" and one.batch_size == 64:
                verified.append(one.identity())
                if one.identity() == verified[0]:
                    return dataclasses.replace(done, status="diverged")
            return done

    verified = []
    result, _, _ = complete(tmp_path, Diverging(), max_trials=8, flags={"batch_sizes": [32, 64]})

    assert len(set(verified)) == 2
    assert result.recommendation["status"] == "complete"
    assert len([one for one in result.answer.contenders if one.failures]) == 1


def test_a_batch_size_gets_one_other_candidate_where_all_of_it_fail(tmp_path):
    """Else each trial of the search would be verified in turn, without a bound."""

    class Failing(Trainer):
        def __call__(self, spec):
            done = super().__call__(spec)
            verified.add((spec.phase, spec.configuration.identity()))
            if spec.phase == "confirmation" and spec.configuration != BASELINE:
                return dataclasses.replace(done, status="diverged")
            return done

    verified = set()
    complete(tmp_path, Failing(), max_trials=20, flags={"batch_sizes": [32, 64]})
    baseline = BASELINE.identity()
    fresh = {one for phase, one in verified if phase == "confirmation"} - {baseline}
    assert len({one for phase, one in verified if phase == "search"}) > 10
    assert 2 < len(fresh) <= 4


def test_that_there_is_no_test_split_is_said_once(tmp_path):
    for times in (1, 0):
        _, lines, _ = complete(tmp_path, splits={"train": NUM_EXAMPLES, "validation": 100})
        assert sum(line.startswith("There is no test split") for line in lines) == times


class Timed:
    """A trainer by whose trials alone a run's time passes: a minute each, or what is given.

    Only search-0002 learns anything, and on one seed alone.
    """

    def __init__(self, monkeypatch, path, *, verification=60.0):
        self.now, self.ran, self.kept = 0.0, [], []
        self.path, self.verification = path, verification
        clock = functools.partial(SearchClock, now=lambda: self.now)
        monkeypatch.setattr("tfbatch.search.run.SearchClock", clock)

    def __call__(self, spec):
        self.ran.append(spec)
        self.kept.append((self.path / "recommendation.json").exists())
        seconds = self.verification if spec.phase == "confirmation" else 60.0
        self.now += seconds
        loss = 3.5 if spec.trial == "search-0002" else math.log(50)
        return outcome(spec, loss=loss, seconds=seconds)


def test_the_time_that_a_refuted_verification_leaves_over_is_searched(tmp_path, monkeypatch):
    """It kept three minutes, and took half of one: there is time for another trial."""
    trainer = Timed(monkeypatch, tmp_path, verification=10.0)
    with pytest.raises(NothingLearnedError, match="On fresh seeds"):
        complete(
            tmp_path,
            trainer,
            untrained=FIFTY,
            max_minutes=10,
            max_trials=100,
            expected_trial_seconds=lambda *_: 60.0,
            flags={"verification_seeds": 1},
        )

    phases = [spec.phase for spec in trainer.ran]
    first = phases.index("confirmation")
    assert "search" in phases[first:]
    assert trainer.now > 8 * 60, "the search uses any time that verification leaves over"
    assert trainer.kept[first]
    assert not trainer.kept[-1], "what is refuted is no answer so far"
    assert not (tmp_path / "recommendation.json").exists()


def test_a_refuted_answer_is_removed_although_another_waits_for_time(tmp_path, monkeypatch):
    """All rounds of the lucky one have run, and there is no time for those of the next one."""

    class Another(Timed):
        def __call__(self, spec):
            done = super().__call__(spec)
            if spec.trial != "search-0003":
                return done
            return outcome(spec, loss=3.55, seconds=60.0)

    trainer = Another(monkeypatch, tmp_path)
    with pytest.raises(NothingLearnedError, match="Verification is incomplete"):
        complete(
            tmp_path,
            trainer,
            untrained=FIFTY,
            max_minutes=11,
            max_trials=3,
            expected_trial_seconds=lambda *_: 60.0,
            flags={"batch_sizes": [32], "verification_seeds": 2},
        )

    assert sum(spec.phase == "confirmation" for spec in trainer.ran) == 6
    assert not (tmp_path / "recommendation.json").exists()


def test_a_verification_that_its_limit_cut_short_asks_for_a_larger_one(tmp_path, monkeypatch):
    """The same command does nothing more, and had said that it continues."""
    terms = {"untrained": FIFTY, "max_trials": 100, "expected_trial_seconds": lambda *_: 60.0}
    trainer = Timed(monkeypatch, tmp_path)
    larger = r"Verification is incomplete: the same command with a larger --max_minutes continues"
    with pytest.raises(NothingLearnedError, match=larger):
        complete(tmp_path, trainer, max_minutes=20, **terms)

    rounds = {spec.trial[-1] for spec in trainer.ran if spec.phase == "confirmation"}
    assert rounds == {"1", "2"}
    with pytest.raises(NothingLearnedError, match="incomplete: the same command continues it"):
        complete(tmp_path, trainer, stop=lambda: True, **terms)


def test_all_that_was_verified_failing_leaves_no_answer_behind(tmp_path):
    class Broken(Trainer):
        def __call__(self, spec):
            done = super().__call__(spec)
            failed = spec.phase == "confirmation"
            return dataclasses.replace(done, status="error") if failed else done

    with pytest.raises(SearchError, match="Every configuration that was verified failed"):
        complete(tmp_path, Broken(), max_trials=1)

    assert not {file.name for file in tmp_path.iterdir()} & {"recommendation.json", "best.yaml"}


def test_what_is_left_after_all_that_was_verified_failed_is_not_said_to_have_fresh_seeds(
    tmp_path,
):
    class Broken(Trainer):
        def __call__(self, spec):
            status = "error" if spec.phase == "confirmation" else "completed"
            loss = 3.5 if spec.trial == "search-0001" else math.log(50)
            return outcome(spec, loss=loss, status=status)

    with pytest.raises(NothingLearnedError, match="verified failed on a fresh seed, and the") as e:
        complete(tmp_path, Broken(), untrained=FIFTY)

    assert "On fresh seeds" not in str(e.value)
    assert "has val_loss 3.912, which is no better than chance" in str(e.value)


def test_a_run_that_is_stopped_after_trials_that_failed_counts_them(tmp_path):
    ran = []

    def train(spec):
        ran.append(spec)
        return outcome(spec, status="error" if len(ran) < 3 else "interrupted")

    with pytest.raises(StoppedError, match=r"none of 2 trials had completed .* no answer yet"):
        complete(tmp_path, train, stop=lambda: len(ran) == 3)


def test_no_model_of_another_answer_stays_beside_one_whose_weights_are_gone(tmp_path):
    """All that was verified fails, and of the search only the best trial's weights are kept."""

    class Broken(Trainer):
        def __call__(self, spec):
            done = super().__call__(spec)
            if spec.phase != "confirmation":
                return done
            (tmp_path / "best.keras").write_text("of an earlier session")
            return dataclasses.replace(done, status="error")

    result, lines, _ = complete(tmp_path, Broken(), max_trials=20)

    assert not result.answer.verified
    assert "What was verified failed: " in result.summary()
    assert not (tmp_path / "best.keras").exists()
    told = one_line(lines, "best.keras is not there")
    assert f"the weights of {result.answer.recommended_trial} were not kept" in told
    assert f"`tfbatch train --config={tmp_path / 'best.yaml'}`" in told


def test_a_run_whose_weights_were_removed_keeps_its_model_and_its_test_metrics(tmp_path):
    first, _, _ = complete(tmp_path, Trainer())
    (tmp_path / "best.keras").write_text("of this answer")
    shutil.rmtree(tmp_path / "weights")
    complete(tmp_path, Trainer(), stop=lambda: True)

    for _ in range(2):
        again, lines, _ = complete(tmp_path, Trainer())
        assert again.recommendation["metrics"] == first.recommendation["metrics"]
        assert (tmp_path / "best.keras").exists()
        assert not any("were not kept" in line for line in lines)


def test_a_run_whose_weights_and_model_were_removed_keeps_its_test_metrics(tmp_path):
    """The test split is read once for each configuration, whatever else is there."""
    first, _, _ = complete(tmp_path, Trainer())
    shutil.rmtree(tmp_path / "weights")
    again, lines, engine = complete(tmp_path, Trainer())

    assert "evaluate_weights" not in engine.called
    assert again.recommendation["metrics"] == first.recommendation["metrics"]
    assert again.recommendation["metrics"]["test"]
    one_line(lines, "best.keras is not there")


def test_test_metrics_that_a_stopped_session_has_read_are_not_read_again(tmp_path):
    """Ctrl-C between two contenders: the model is not there yet, and one is read already."""
    read = []

    def stopped_at_the_second(configuration, *_):
        read.append(configuration)
        if configuration != read[0]:
            raise StoppedError("`evaluate_weights` was ended: it did not stop by itself.")
        return {"loss": 0.5}

    complete(tmp_path, evaluate_weights=stopped_at_the_second)
    again, _, _ = complete(tmp_path, evaluate_weights=lambda *_: {"loss": 0.7})

    means = [one.metrics.test["loss"].mean for one in again.answer.tested()]
    assert means[0] == 0.5
    assert means[1:] == pytest.approx([0.7] * (len(means) - 1))


def test_no_model_of_another_answer_stays_beside_one_whose_model_was_not_written(tmp_path):
    """Neither where saving it fails, nor where the session is killed before."""
    first, _, _ = complete(tmp_path, max_trials=1)
    (tmp_path / "best.keras").write_text("of the first answer")
    seen = []

    def look(*_):
        seen.append((on_disk(tmp_path)["recommended_trial"], (tmp_path / "best.keras").exists()))

    second, _, _ = complete(
        tmp_path,
        max_trials=8,
        keep_step_times=look,
        save_model=fails(SearchError("A worker process ended in it: SIGKILL")),
    )

    assert second.answer.recommended_trial != first.answer.recommended_trial
    assert seen == [(second.answer.recommended_trial, False)]
    assert not (tmp_path / "best.keras").exists()


def test_the_first_trial_is_never_stopped_for_the_end(tmp_path):
    """An end of 60 s is reserved of 54 s: the reserve may not eat the only trial."""
    untrained = dataclasses.replace(UNTRAINED, seconds=10.0)
    states = []

    def train(spec):
        states.append(engine_of[0].stop_requested())
        return outcome(spec, loss=0.5)

    engine_of = []
    original = Engine.__init__

    def remember(self, *arguments):
        original(self, *arguments)
        engine_of.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "__init__", remember)
        result, _, _ = complete(tmp_path, train, untrained=untrained, max_minutes=0.9)

    assert states == [False], "one trial, which was not stopped; then only the end is left"
    assert result.recommendation["trials"] == 1


def test_a_trial_that_cannot_fit_is_refused_before_it_begins(tmp_path):
    trainer = Trainer()
    with pytest.raises(InputError, match=r"--trial_length=\"[0-9.]+ epochs\"") as caught:
        complete(tmp_path, trainer, max_minutes=2, expected_trial_seconds=lambda *_: 900.0)

    assert "about 15.0 min" in str(caught.value)
    assert trainer.ran == []


def test_a_prediction_that_fails_costs_only_itself(tmp_path):
    result, lines, _ = complete(
        tmp_path, max_minutes=100, expected_trial_seconds=fails(SearchError("SIGKILL"))
    )

    one_line(lines, "The duration of a trial could not be predicted: ")
    assert result.recommendation["status"] == "complete"


def measured(without=()):
    """Stands in for keep_step_times; some batch sizes have no time."""

    def task(configurations, file, device):
        sizes = {c.batch_size for c in configurations}.difference(without)
        seconds = {str(size): [0.25] * 5 for size in sizes}
        file.write_text(json.dumps({"device": device, "seconds": seconds}))

    return task


def test_where_only_times_are_measured_nothing_is_trained(tmp_path):
    """Although the budget would allow more trials."""
    first, _, _ = complete(tmp_path)
    trainer = Trainer()
    again, lines, _ = complete(
        tmp_path,
        trainer,
        only_times=True,
        max_trials=5,
        keep_step_times=measured(),
    )

    assert trainer.ran == []
    assert again.answer.recommended.configuration == first.answer.recommended.configuration
    assert (
        again.answer.recommended.training_seconds.mean
        == 0.25 * small_derive(again.answer.recommended.configuration).steps
    )
    assert [line for line in lines if line.startswith("Measuring the step times")]


def test_a_run_of_other_hardware_has_its_time_limit_for_itself(tmp_path):
    """Its trials took an hour each; here are 30 minutes, of which other hardware has used none."""
    complete(tmp_path / "there")
    journal = tmp_path / "there" / "trials.jsonl"
    slow = [
        json.loads(row) | {"finished_at": f"2026-01-{day:02}T12:00:00+00:00", "seconds": 3600.0}
        for day, row in enumerate(journal.read_text().splitlines(), start=1)
    ]
    journal.write_text("".join(json.dumps(row) + "\n" for row in slow))
    take_trials(tmp_path / "there", tmp_path / "here")
    assert on_disk(tmp_path / "here")["status"] == "interrupted"
    result, _, engine = complete(
        tmp_path / "here",
        only_times=True,
        max_minutes=30,
        keep_step_times=measured(),
    )

    assert "keep_step_times" in engine.called
    assert result.answer.recommended.training_seconds.alone_on_the_device
    assert result.answer.status == on_disk(tmp_path / "here")["status"] == "complete"
    assert result.answer.seconds < 30 * 60


def test_seconds_of_other_hardware_never_decide(tmp_path):
    first, _, _ = complete(tmp_path / "there")
    size = first.answer.recommended.batch_size
    take_trials(tmp_path / "there", tmp_path / "here")
    here = {"path": tmp_path / "here", "only_times": True}

    with pytest.raises(InputError, match=r"must leave time to measure step times: 2\d s for"):
        complete(**here, max_minutes=0.2)
    with pytest.raises(SearchError, match=f"Step times of batch sizes .*{size}.* are missing"):
        complete(**here, keep_step_times=fails(SearchError("out of memory")))
    with pytest.raises(SearchError, match="are those of the other hardware"):
        complete(**here, keep_step_times=measured(without=[size]))
    with pytest.raises(StoppedError):
        complete(**here, stop=lambda: True)
    assert on_disk(tmp_path / "here")["status"] == "interrupted"


def test_other_settings_are_taken_while_no_trial_is_finished(tmp_path):
    """The advice to shorten the trials must not ask for --overwrite in an empty folder."""
    with RunFolder(tmp_path, identity={"trial_length": "30 epochs"}, budget={}) as folder:
        (folder.path / "tensorboard").mkdir()
    with RunFolder(tmp_path, identity={"trial_length": "1 epochs"}, budget={}) as folder:
        assert not (folder.path / "tensorboard").exists(), "of a trial of another length"
        folder.journal.append({"trial": "baseline"})
    with (
        pytest.raises(InputError, match="trial_length: 1 epochs -> 2 epochs"),
        RunFolder(tmp_path, identity={"trial_length": "2 epochs"}, budget={}),
    ):
        pass
