"""An answer follows from a run folder alone, is stored whole, and is read again as it was."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import re
import subprocess
import sys

import pytest
from rich.console import Console
from search_fixtures import BASELINE, Trainer, finished, make_config, make_runner, trials_of

from tfbatch import tune
from tfbatch.answer.answer import Answer, Contender, Measured, measured_metrics
from tfbatch.answer.candidates import again_name, choose_candidates, trial_name
from tfbatch.answer.chance import read_chance_level, write_chance_level
from tfbatch.answer.find import Left, find_answer
from tfbatch.answer.memory_limits import memory_used_up
from tfbatch.answer.step_seconds import StepSeconds
from tfbatch.answer.stored import answer_of, read_answer
from tfbatch.answer.summary import _duration, summary
from tfbatch.answer.table import table_by_batch_size
from tfbatch.configuration import Configuration
from tfbatch.errors import NothingLearnedError, RunFolderError, SearchError
from tfbatch.estimators.chance_level import ChanceLevel
from tfbatch.reporting.headline import two_sentences
from tfbatch.reporting.recorded import read_recorded
from tfbatch.request.search_config import VerificationConfig
from tfbatch.run_folder.folder import RunFolder
from tfbatch.search.clock import SearchClock
from tfbatch.search.trial_runner import InterruptedTrialError
from tfbatch.search.verification import Verification

CONFIG = make_config()
IDENTITY = {
    "objective": "val_loss:min",
    "search": CONFIG.model_dump(mode="json", include={"oracle", "space"}),
}
BUDGET = {"confirmation": CONFIG.confirmation.model_dump(mode="json")}
CHANCE = ChanceLevel(untrained=50.0)


def at(batch_size):
    return Configuration(batch_size=batch_size, base_learning_rate=0.1)


def run(path, trainer, *, sizes=(16, 64), rounds=2, chance=CHANCE):
    """A run as its folder has it; returns the trials that its runner has."""
    with RunFolder(path, identity=IDENTITY, budget=BUDGET) as folder:
        write_chance_level(path, chance)
        runner = make_runner(folder, trainer)
        runner.run(runner.spec("baseline", "baseline", 1, BASELINE))
        for number, size in enumerate(sizes, start=1):
            runner.run(runner.spec(f"search-{number:04d}", "search", number, at(size)))
        with contextlib.suppress(InterruptedTrialError):
            Verification(
                choose_candidates(runner.trials, batch_sizes=2, chance=ChanceLevel(50.0)),
                VerificationConfig(batch_sizes=2, seeds=rounds),
                runner,
                seed=7,
            ).run(SearchClock(None), stop_requested=lambda: False)
        return runner.trials


def interrupted(path):
    return run(path, Trainer(), rounds=0)


def interrupted_in_a_round(path):
    trainer = Trainer()
    trainer.interrupt_at = trial_name(at(16), 2)
    return run(path, trainer)


def out_of_memory(path):
    return run(path, Trainer({"search-0003": "oom"}), sizes=(16, 64, 512))


def failed_on_a_seed(path):
    return run(path, Trainer({trial_name(at(16), 1): "diverged"}))


def continued(path):
    run(path, Trainer(), sizes=(16,))
    return run(path, Trainer(), sizes=(16, 64))


def unfinished_journal(path):
    trials = run(path, Trainer())
    with (path / "trials.jsonl").open("a") as journal:
        journal.write('{"trial": "search-0003", "sta')
    return trials


RUNS = {
    "complete": lambda path: run(path, Trainer()),
    "interrupted before verification": interrupted,
    "interrupted in a round": interrupted_in_a_round,
    "out of memory": out_of_memory,
    "failed on a seed": failed_on_a_seed,
    "continued": continued,
    "unfinished journal": unfinished_journal,
}


@pytest.mark.parametrize("kind", RUNS)
def test_an_answer_follows_from_the_folder_alone(kind, tmp_path):
    trials = RUNS[kind](tmp_path)
    in_the_run = find_answer(
        trials,
        batch_sizes=2,
        chance=CHANCE,
        device="CPU",
        learning_rates=CONFIG.space.learning_rate_range(),
    )

    assert answer_of(tmp_path) == in_the_run
    assert in_the_run.verified is (kind != "interrupted before verification")
    assert (in_the_run.memory_used_up is not None) is (kind == "out of memory")
    assert read_answer(tmp_path) is None  # nobody has written it down
    in_the_run.write(tmp_path)
    assert read_answer(tmp_path) == in_the_run


def test_where_nothing_was_learned_the_folder_gives_the_reason(tmp_path):
    trials = run(tmp_path, Trainer(), rounds=0, chance=ChanceLevel(untrained=0.5))

    with pytest.raises(NothingLearnedError) as in_the_run:
        find_answer(trials, batch_sizes=2, chance=ChanceLevel(untrained=0.5))
    with pytest.raises(NothingLearnedError) as alone:
        answer_of(tmp_path)
    assert str(alone.value) == str(in_the_run.value)


def test_weights_that_know_before_training_are_told_what_sets_the_learning_rates(tmp_path):
    """Not the baseline: the range is the optimizer's, the search's or the compiled rate's."""
    level = ChanceLevel(untrained=0.5, constant=50.0)
    trials = run(tmp_path, Trainer(), rounds=0, chance=level)

    with pytest.raises(NothingLearnedError, match="Training improved nothing") as told:
        find_answer(trials, batch_sizes=2, chance=level)
    said = str(told.value)
    assert "a lower `base_learning_rate` (a search of your own, --search=FILE.yaml" in said
    assert "--baseline" not in said


def test_without_a_completed_trial_there_is_no_answer(tmp_path):
    run(tmp_path, Trainer({"baseline": "oom", "search-0001": "oom"}), sizes=(16,), rounds=0)

    with pytest.raises(SearchError, match="None of 2 trials completed"):
        answer_of(tmp_path)
    with pytest.raises(SearchError, match="No trial has ended yet"):
        find_answer(trials_of(), batch_sizes=2)


def test_a_run_whose_first_trial_still_runs_has_used_up_no_time(tmp_path):
    with RunFolder(tmp_path, identity=IDENTITY, budget=BUDGET):
        write_chance_level(tmp_path, CHANCE)
    said = " ".join(two_sentences(read_recorded(tmp_path)))

    assert "No trial has ended yet in this run folder: the same command" in said
    assert "time limit" not in said
    with pytest.raises(SearchError, match=r"time limit passed before .*: give more\. The same"):
        find_answer(trials_of(), batch_sizes=2, too_short="give more")


def test_the_stored_answer_begins_with_the_recommendation(tmp_path):
    run(tmp_path, Trainer())
    answer = answer_of(tmp_path).with_test("baseline", {"loss": Measured.of([1.0, 2.0])})
    answer.write(tmp_path)
    content = json.loads((tmp_path / "recommendation.json").read_text())

    one = answer.recommended
    assert list(content)[:2] == ["status", "verified_on_fresh_seeds"]
    assert content["batch_size"] == one.batch_size
    assert content["metrics"]["validation"] == {
        "loss": {"mean": one.objective().mean, "standard_deviation": pytest.approx(0.0, abs=1e-2)}
        | {"seeds": 2},
        "accuracy": content["metrics"]["validation"]["accuracy"],
    }
    assert content["baseline"]["metrics"]["test"]["loss"]["mean"] == 1.5
    assert content["baseline"]["failures"] == ""
    assert content["margin"] == answer.verification.margin
    assert content["tied_with_best"] == [c.key for c in answer.verification.tied]
    assert content["evidence"] == sorted(t.trial for c in (answer.baseline, one) for t in c.trials)
    assert json.dumps(content, allow_nan=False)


def test_a_number_that_is_not_finite_is_null_and_read_again(tmp_path):
    run(tmp_path, Trainer(), rounds=1)
    answer = answer_of(tmp_path)
    answer = answer.with_test("baseline", {"loss": Measured.of([math.nan])})
    answer.write(tmp_path)
    content = json.loads((tmp_path / "recommendation.json").read_text())
    read = read_answer(tmp_path)

    assert content["baseline"]["metrics"]["test"]["loss"]["mean"] is None
    assert math.isnan(read.baseline.metrics.test["loss"].mean)
    assert [c.half_width for c in read.verification.comparisons][1:] == [None, None]
    assert all(one.gain_half_width in (None, 0.0) for one in read.verification.comparisons)
    assert "one fresh seed" in summary(read)


def test_what_an_earlier_version_wrote_is_completed_from_the_journal(tmp_path):
    run(tmp_path, Trainer())
    answer = answer_of(tmp_path)
    for one in answer.shown():
        answer = answer.with_test(one.key, {"loss": Measured.of([0.5, 0.6])})
    answer = answer.model_copy(update={"status": "complete", "seconds": 7.0})
    before = answer.content()
    for key in ("contenders", "verification", "recommended_trial", "step_times", "versions"):
        del before[key]
    (tmp_path / "recommendation.json").write_text(json.dumps(before))

    assert read_answer(tmp_path) == answer
    run(tmp_path, Trainer(), sizes=(16, 64, 128))  # continued, and killed before its answer
    assert read_answer(tmp_path) == answer
    # Test metrics are those of what the file recommends, whatever would be recommended today.
    other = next(one for one in answer.contenders if one not in answer.shown())
    before |= {"batch_size": other.batch_size, "learning_rate": other.learning_rate}
    before |= {"evidence": [t.trial for t in other.trials], "baseline": None}
    (tmp_path / "recommendation.json").write_text(json.dumps(before))
    assert read_answer(tmp_path).recommended.key == other.key
    before["batch_size"] = 1
    (tmp_path / "recommendation.json").write_text(json.dumps(before))
    with pytest.raises(RunFolderError, match="no trials of the configuration that it recommends"):
        read_answer(tmp_path)


def test_a_verification_that_an_earlier_version_wrote_is_read_without_what_is_new(tmp_path):
    run(tmp_path, Trainer())
    content = answer_of(tmp_path).content()
    for new in ("goal", "undecided", "better_than_baseline"):
        del content[new]
    del content["verification"]["expected"]
    for one in content["verification"]["comparisons"]:
        for new in ("seeds", "gain", "gain_half_width", "better", "out"):
            del one[new]
    (tmp_path / "recommendation.json").write_text(json.dumps(content))
    read = read_answer(tmp_path)

    assert read.recommended_trial == content["recommended_trial"]
    assert (read.goal, read.undecided, read.verification.expected) == ("time", (), None)
    assert "the same command judges it anew" in summary(read)


def noisy(losses):
    """A trainer with losses by batch size, and noise of 0.01 by seed."""

    class Noisy(Trainer):
        def __call__(self, spec):
            done = super().__call__(spec)
            size = spec.configuration.batch_size
            loss = losses[size] + 0.01 * math.sin(1e4 * spec.seed * size)
            return dataclasses.replace(done, metrics=done.metrics | {"val_loss": loss})

    return Noisy()


def test_the_summary_says_what_is_better_by_how_much_and_both_sides_of_it(tmp_path):
    run(tmp_path, noisy({16: 0.5, 32: 2.0, 64: 0.9}), rounds=3, chance=ChanceLevel(untrained=5.0))
    answer = answer_of(tmp_path)
    lines = summary(answer)

    assert answer.recommended.batch_size == 16
    assert answer.content()["better_than_baseline"]["key"] == answer.recommended_trial
    assert re.search(
        r"Better than your baseline: batch size 16, val_loss 1\.[45]\d+ lower \[1\.", lines
    )
    assert "holds for all 2 compared, at every look" in lines
    assert re.search(r"Against your baseline: 2 x slower, val_loss 1\.[45]\d+ lower \[", lines)


def test_the_summary_names_what_is_not_decided_and_the_command_that_decides(tmp_path):
    run(tmp_path, noisy({16: 9.0, 32: 0.50, 64: 0.50}), rounds=3, chance=ChanceLevel(untrained=1.0))
    answer = answer_of(tmp_path)
    one = next(one for one in answer.undecided if one.question == "as good")

    assert answer.keeps_baseline
    assert answer.find(one.key).batch_size == 64
    assert one.option == f"--verification_seeds={one.seeds}"
    assert one.minutes > 0
    assert "whether batch size 64 (2 x faster) is as good within" in summary(answer)
    assert one.option in summary(answer)


def test_seconds_alone_are_not_compared_with_seconds_beside_others(tmp_path):
    """Equal costs were reported as 130 times slower where one batch size only had step times."""
    trials = run(
        tmp_path,
        noisy({16: 0.5, 32: 2.0, 64: 0.9}),
        rounds=3,
        chance=ChanceLevel(untrained=5.0),
    )
    of_one = StepSeconds(device="CPU", rounds={32: (1e-4,) * 3})
    answer = find_answer(trials, batch_sizes=2, step_seconds=of_one)

    assert not any(one.training_seconds.alone_on_the_device for one in answer.contenders)
    assert "Against your baseline: 2 x slower" in summary(answer)


@pytest.mark.parametrize(
    ("goal", "why"),
    [("metric", "nothing is shown to be better."), ("time", "better, or as good and cheaper.")],
)
def test_the_summary_names_what_the_goal_considers(tmp_path, goal, why):
    trials = run(tmp_path, noisy({16: 3.0, 32: 0.5}), sizes=(16,), rounds=3)

    assert why in summary(find_answer(trials, batch_sizes=2, goal=goal))


@pytest.mark.parametrize(
    ("ratio", "words"),
    [(1.04, "as fast"), (1.26, "1.3 x faster"), (99.7, "100 x faster"), (1 / 128, "128 x slower")],
)
def test_a_ratio_of_seconds_is_written_without_an_exponent(tmp_path, ratio, words):
    trials = run(
        tmp_path, noisy({16: 0.5, 32: 2.0}), sizes=(16,), rounds=3, chance=ChanceLevel(untrained=5)
    )
    steps = {t.configuration.batch_size: t.steps for t in trials}
    alone = StepSeconds(device="CPU", rounds={32: (ratio / steps[32],), 16: (1 / steps[16],)})

    assert f"Against your baseline: {words}, " in summary(
        find_answer(trials, batch_sizes=2, step_seconds=alone)
    )


LIMITS = {
    "none": (Left(), ""),
    "enough of both": (Left(seconds=1e9, trainings=1e9), ""),
    "no time": (Left(seconds=0.0, trainings=1e9), " and a larger --max_minutes"),
    "no budget": (Left(seconds=1e9, trainings=0.5), " and a larger --max_trainings"),
    "neither": (Left(0.0, trainings=0.5), " and a larger --max_minutes and --max_trainings"),
}


@pytest.mark.parametrize("limits", LIMITS)
def test_what_decides_names_the_limits_that_it_needs_to_be_larger_and_no_others(limits, tmp_path):
    trials = run(tmp_path, noisy({16: 9.0, 32: 0.50, 64: 0.50}), rounds=3)
    left, more = LIMITS[limits]
    minutes = {}
    for planned in (3, 90):
        answer = find_answer(
            trials, batch_sizes=2, planned=planned, chance=ChanceLevel(untrained=1.0), left=left
        )
        one = next(one for one in answer.undecided if one.question == "as good")
        assert one.option == f"--verification_seeds={max(one.seeds, planned)}{more}"
        minutes[planned] = one.minutes

    assert minutes[90] > minutes[3], "never fewer seeds than were planned"


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_baseline_that_learned_nothing_is_not_kept_from_what_did(rounds, tmp_path):
    chance = ChanceLevel(untrained=2.0, noise=0.1)
    run(tmp_path, noisy({16: 0.5, 32: 2.0, 64: 0.6}), rounds=rounds, chance=chance)
    answer = answer_of(tmp_path)

    assert answer.recommended.batch_size == 16
    mean = answer.baseline.objective().mean
    assert f"baseline has learned nothing on fresh seeds (val_loss {mean:.4f})" in summary(answer)
    assert "learned nothing" not in summary(_of_a_good_baseline(tmp_path / "other", rounds))


def _of_a_good_baseline(path, rounds):
    run(path, noisy({16: 0.5, 32: 0.7, 64: 0.6}), rounds=rounds, chance=ChanceLevel(untrained=2.0))
    return answer_of(path)


def test_where_all_that_was_verified_learned_nothing_the_baseline_is_no_answer_either(tmp_path):
    class Lucky(Trainer):
        def __call__(self, spec):
            done = super().__call__(spec)
            loss = 0.5 if spec.trial.startswith("search") else 2.0
            return dataclasses.replace(done, metrics=done.metrics | {"val_loss": loss})

    run(tmp_path, Lucky(), rounds=2, chance=ChanceLevel(untrained=2.0, noise=0.1))
    with pytest.raises(NothingLearnedError, match=r"On fresh seeds .* no better than") as why:
        answer_of(tmp_path)
    assert "Nothing was verified" not in str(why.value)


def test_times_of_one_batch_size_are_equal_where_none_were_measured_alone(tmp_path):
    class Uneven(type(noisy({32: 0.5}))):
        def __call__(self, spec):
            done = super().__call__(spec)
            slow = 3.0 if spec.configuration == BASELINE else 1.0
            return dataclasses.replace(done, training_seconds=slow)

    trainer = Uneven()
    run(tmp_path, trainer, sizes=(32,), rounds=3, chance=ChanceLevel(untrained=5.0))
    answer = answer_of(tmp_path)
    first, second = answer.contenders

    assert first.batch_size == second.batch_size == 32
    assert first.training_seconds == second.training_seconds
    assert first.training_seconds.mean == pytest.approx((3 * 2 * 3.0 + 3 * 1.0) / 9)


def test_a_second_training_that_fails_leaves_the_baselines_score_in_the_table(tmp_path):
    trainer = Trainer({again_name(BASELINE, 2): "diverged"})
    trials = run(tmp_path, trainer, rounds=2)
    answer = answer_of(tmp_path)
    text = io.StringIO()
    Console(file=text, width=300).print(table_by_batch_size(trials, answer))

    assert answer.verification.of_key("baseline")
    assert f"{answer.baseline.objective()}; diverged on 1 of 4 fresh seeds" in text.getvalue()


def test_what_is_not_verified_is_called_the_best_of_the_search_and_no_recommendation(tmp_path):
    interrupted(tmp_path)
    lines = summary(answer_of(tmp_path))

    assert lines.startswith("Best of the search, not verified: batch size ")
    assert "Recommended" not in lines
    assert "nothing is shown to be better than your baseline. The same command verifies" in lines


def test_how_much_faster_one_is_said_to_be_is_what_the_race_went_by(tmp_path):
    """One of three trainings was held up: faster by the median, slower by the mean."""

    class HeldUp(type(noisy({16: 9.0, 32: 0.5, 64: 0.5}))):
        def __call__(self, spec):
            done = super().__call__(spec)
            fast = spec.configuration.batch_size == 64
            seconds = (0.5 if fast else 1.0) + (9.0 if spec.trial == trial_name(at(64), 2) else 0.0)
            return dataclasses.replace(done, training_seconds=seconds)

    run(tmp_path, HeldUp(), rounds=3, chance=ChanceLevel(untrained=1.0))
    answer = answer_of(tmp_path)

    assert answer.find("search-0002").training_seconds.mean > 1.0
    assert "whether batch size 64 (2 x faster) is as good" in summary(answer)


@pytest.mark.parametrize(("rival", "moved"), [(0.48, True), (0.495, False)])
def test_the_mean_that_is_expected_of_a_kept_baseline_says_why_it_is_another(
    tmp_path, rival, moved
):
    run(
        tmp_path,
        noisy({16: rival, 32: 0.5, 64: 9.0}),
        rounds=3,
        chance=ChanceLevel(untrained=0.6),
    )
    lines = summary(answer_of(tmp_path))

    assert lines.startswith("Keep your baseline")
    said = "] (the mean above, less what being kept among 2 adds to it)." in lines
    assert said == moved, "only where another one was nearly chosen"


def test_a_better_one_that_is_dearer_and_within_the_band_leaves_the_baseline_in_place(tmp_path):
    run(tmp_path, noisy({16: 0.45, 32: 0.5, 64: 9.0}), rounds=3, chance=ChanceLevel(untrained=5.0))
    answer = answer_of(tmp_path)

    assert answer.keeps_baseline
    assert "Better than your baseline: batch size 16" in summary(answer)
    assert "It is kept as the cheaper one: behind in val_loss by no more than" in summary(answer)
    assert "nothing is shown" not in summary(answer)


def test_where_seeds_are_not_expected_to_decide_probability_and_tolerance_are_named(tmp_path):
    run(tmp_path, noisy({16: 9.0, 32: 0.50, 64: 0.50}), rounds=3, chance=ChanceLevel(untrained=1.0))
    answer = answer_of(tmp_path)
    one = next(one for one in answer.undecided if one.question == "as good")
    none = {"seeds": None, "minutes": None, "option": None, "probability": None}
    unlikely = {"seeds": 80, "probability": 0.314}
    tolerance = "more than 0.032: with --tolerance=0.032 it is as good"
    for update, expected in (
        (none | {"at_most": 0.0312}, ["80 seeds are not enough. ", tolerance]),
        (none | {"at_most": None}, ["With so few fresh seeds no number of them can be named"]),
        ({"at_most": None, "probability": 0.9}, [f"{one.seeds} seeds decide with a probability"]),
        (
            unlikely | {"at_most": 0.0312},
            ["80 seeds decide with a probability of 31%", tolerance],
        ),
        (
            {"probability": 0.5, "at_most": 0.0312},
            ["seeds decide with a probability of 50%, about"],
        ),
        ({"probability": None}, ["seeds are expected to decide, about"]),
    ):
        opened = one.model_copy(update=update)
        said = summary(answer.model_copy(update={"undecided": (opened,)}))
        for sentence in expected:
            assert sentence in said
        assert (tolerance in said) == (tolerance in expected)


def test_a_damaged_answer_is_an_error_with_its_remedy(tmp_path):
    run(tmp_path, Trainer(), rounds=0)
    for damaged in ("{", "[]", '{"contenders": []}', "{}"):
        (tmp_path / "recommendation.json").write_text(damaged)
        with pytest.raises(RunFolderError, match=r"(?s)\.json cannot be read.*Remove it"):
            read_answer(tmp_path)


def test_an_answer_names_one_of_its_contenders(tmp_path):
    run(tmp_path, Trainer())
    content = answer_of(tmp_path).content()

    with pytest.raises(ValueError, match="search-0009 is no contender"):
        Answer.model_validate(content | {"recommended_trial": "search-0009"})


def test_seconds_and_validations_are_those_of_a_training_that_completed():
    """One that failed has made fewer steps, also where it was the first."""
    failed = finished("first", at(32), phase="confirmation", status="diverged")
    done = finished("second", at(32), phase="confirmation", seed=2)
    trials = [
        dataclasses.replace(one, steps=steps, steps_per_epoch=10)
        for one, steps in ((failed, 2), (done, 100))
    ]
    found = Contender.of("search-0001", trials, StepSeconds(rounds={32: (0.1,)}, validation=1.0))

    assert found.training_seconds.mean == pytest.approx(10.0)
    assert (found.validation_seconds.evaluations, found.validation_seconds.mean) == (10, 10.0)


def test_where_a_callback_stops_trainings_the_figures_are_means_and_the_schedule_is_whole():
    """Early stopping: the first of three seeds made 5 of 20 epochs, and spoke for all of them."""
    stopped = [
        dataclasses.replace(
            finished(f"seed-{seed}", at(50), phase="confirmation", seed=seed),
            steps=10 * epochs,
            steps_per_epoch=10,
            examples=500 * epochs,
            total_examples=10_000,
        )
        for seed, epochs in enumerate((5, 20, 20), start=1)
    ]
    found = Contender.of("search-0001", stopped, StepSeconds(rounds={50: (0.1,)}, validation=2.0))

    assert found.training_seconds.mean == pytest.approx(15.0)
    assert (found.validation_seconds.evaluations, found.validation_seconds.mean) == (15, 30.0)
    assert found.total_examples == 10_000
    # Several devices leave out the short last batch, and the schedule ends before it.
    short = dataclasses.replace(stopped[-1], total_examples=10_049)
    assert Contender.of("search-0001", [short], StepSeconds()).total_examples == 10_000


def of_one_size():
    """Two trials of one batch size were verified, a third one was found later."""
    both = [at(64), at(64).model_copy(update={"base_learning_rate": 0.2})]
    late = at(64).model_copy(update={"base_learning_rate": 0.3})
    trials = [finished("baseline", BASELINE, loss=3.0, phase="baseline")]
    for number, (one, loss) in enumerate(zip(both, (0.56, 0.54), strict=True), start=1):
        trials.append(finished(f"search-{number:04d}", one, loss=loss))
    for seed in (1, 2, 3):
        for one, loss in zip([BASELINE, *both], (3.0, 0.5, 0.6), strict=True):
            name = trial_name(one, seed)
            loss += 0.001 * seed
            trials.append(finished(name, one, loss=loss, seed=seed, phase="confirmation"))
    return trials_of(*trials, finished("search-0003", late, loss=0.3))


def test_the_table_has_the_recommended_trial_and_the_best_of_the_search_of_its_batch_size():
    trials = of_one_size()
    answer = find_answer(trials, batch_sizes=2, chance=ChanceLevel(untrained=5.0))
    table = table_by_batch_size(trials, answer)
    columns = {column.header: list(column.cells) for column in table.columns}

    assert answer.recommended_trial == "search-0001"
    assert columns["batch size"] == ["32 (baseline)", "64", "64", "64"]
    assert columns["trials"] == ["1", "3", "", ""]
    assert columns["best of search"] == ["3.0000", "0.3000", "0.5400", "0.5600"]
    assert [bool(cell) for cell in columns["fresh seeds"]] == [True, False, True, True]
    assert ["recommended" in cell for cell in columns[""]] == [False, False, False, True]


def test_what_failed_on_fresh_seeds_is_named_and_no_verification_is_promised(tmp_path):
    broken = {trial_name(one, 1): "error" for one in (BASELINE, at(16), at(64))}
    run(tmp_path, Trainer(broken), sizes=(16, 64, 64, 128), rounds=1)
    answer = answer_of(tmp_path)

    assert not answer.verified
    lines = summary(answer)
    assert "What was verified failed: your baseline error on 1 of" in lines
    assert "; batch size 64 error on 1 of 1 fresh seeds" in lines
    assert "The same command verifies" not in lines


def test_the_largest_that_was_trained_is_that_of_the_device_whose_memory_was_used_up():
    other = dataclasses.replace(finished("search-0001", at(512)), device="NVIDIA A100")
    here = [finished("search-0002", at(64)), finished("search-0003", at(256), status="oom")]
    trials = trials_of(other, *here)

    assert memory_used_up(trials, "CPU").largest_that_fits == 64
    assert memory_used_up(trials_of(other, here[1]), "CPU").largest_that_fits is None


def test_the_level_without_learning_is_kept_also_where_it_is_not_finite(tmp_path):
    assert read_chance_level(tmp_path) is None
    write_chance_level(tmp_path, ChanceLevel(math.inf, None, 0.1))
    assert read_chance_level(tmp_path) == ChanceLevel(math.inf, None, 0.1)
    (tmp_path / "chance_level.json").write_text("[]")
    with pytest.raises(RunFolderError, match="is damaged"):
        read_chance_level(tmp_path)


def test_an_answer_is_read_without_tensorflow(tmp_path):
    run(tmp_path, Trainer()).best()
    program = f"""
import sys, pathlib
from tfbatch.answer.stored import answer_of
from tfbatch.answer.summary import summary
print(summary(answer_of(pathlib.Path({str(tmp_path)!r}))))
assert not {{"tensorflow", "keras", "keras_tuner"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Recommended: batch size")


def test_a_session_that_adds_nothing_names_the_answer_of_the_earlier_ones(tmp_path):
    assert tune._answer_before(tmp_path) == ""
    run(tmp_path, Trainer())
    answer = answer_of(tmp_path)
    answer.write(tmp_path)

    text = tune._answer_before(tmp_path)
    assert f"stands: batch size {answer.recommended.batch_size}, learning rate 0." in text
    assert str(tmp_path / "recommendation.json") in text


def test_a_metric_that_one_seed_lacks_is_left_out_of_the_means():
    """A callback that reports one every fifth epoch, and a seed that was stopped before."""
    both = measured_metrics([{"a": 1.0, "b": 2.0}, {"a": 3.0}])

    assert both == {"a": Measured(mean=2.0, standard_deviation=math.sqrt(2), seeds=2)}
    assert measured_metrics([{"a": 3.0}, {"a": 1.0, "b": 2.0}]).keys() == {"a"}
    assert measured_metrics([]) == {}


def test_a_measured_value_keeps_its_digits_however_small_it_is():
    assert str(Measured.of([3e-5, 3.1e-5])) == "3.05e-05 ± 7.07e-07 (n=2)"
    assert str(Measured.of([0.81234, 0.8145])) == "0.8134 ± 0.0015 (n=2)"
    assert str(Measured.of([0.0021])) == "0.0021 (n=1)"


@pytest.mark.parametrize("alone", [True, False])
def test_ordinary_seconds_are_written_without_an_exponent(alone):
    done = dataclasses.replace(
        finished("search-0001", at(32)), steps=1234, seconds=2345.0, training_seconds=1234.0
    )
    times = StepSeconds(device="CPU", rounds={32: (1.0,)}, validation=600.0)
    shown = _duration(Contender.of("search-0001", [done], times if alone else StepSeconds()))

    assert "1,234 s" in shown
    assert "e+" not in shown
