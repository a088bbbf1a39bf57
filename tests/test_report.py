"""The report: its numbers are the journal's, its checks find what is wrong, any run has one."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import math
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf
from reported_runs import (
    BUDGET,
    IDENTITY,
    SIZES,
    clean_run,
    configuration,
    row_of,
    searched,
    verified,
    write_run,
)
from search_fixtures import BASELINE, TOTAL_EXAMPLES, trials_of

import tfbatch.report
from tfbatch.answer.answer import Contender
from tfbatch.answer.best_learning_rates import bracket_of, brackets_of, exponent_of
from tfbatch.answer.candidates import again_name, trial_name
from tfbatch.answer.memory_limits import MemoryLimit, MemoryPeak, MemoryUsedUp
from tfbatch.answer.summary import summary
from tfbatch.charts import Stack
from tfbatch.configuration import Configuration
from tfbatch.errors import InputError, RunFolderError
from tfbatch.reporting import checks
from tfbatch.reporting.all_trials import parallel, table
from tfbatch.reporting.by_batch_size import by_batch_size, memory_chart, notes, wall_marks
from tfbatch.reporting.checks import checks_of
from tfbatch.reporting.finalists import forest, paired_differences, reference_of
from tfbatch.reporting.fixed_rate import at_the_baselines_rate
from tfbatch.reporting.headline import cost_of, failed_checks, two_sentences
from tfbatch.reporting.importance import importance_of, importance_sentence
from tfbatch.reporting.landscape import landscape, slope_note
from tfbatch.reporting.learning_curves import learning_curves
from tfbatch.reporting.page import report_page, write_report
from tfbatch.reporting.recorded import read_recorded
from tfbatch.reporting.to_target import steps_to_target, to_target_chart, to_target_sentence
from tfbatch.run_folder.folder import RunFolder
from tfbatch.schema import Named
from tfbatch.search.answer_writer import report_at_the_end
from tfbatch.trial.finished_trial import read_row
from tfbatch.trial.outcome import TrialSpec

LOSSES = [0.9, 0.7, 0.65]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    path = clean_run(tmp_path_factory.mktemp("runs") / "clean")
    write_curve(path, trial_name(BASELINE, 1), LOSSES)
    return path


def write_curve(run_dir, trial, losses):
    """As Keras's callback writes it."""
    folder = run_dir / "tensorboard" / trial / "validation"
    with tf.summary.create_file_writer(str(folder)).as_default():
        for epoch, loss in enumerate(losses):
            tf.summary.scalar("epoch_loss", loss, step=epoch)


@pytest.fixture(scope="module")
def run(run_dir):
    return read_recorded(run_dir)


@pytest.fixture(scope="module")
def text(run_dir):
    return write_report(run_dir).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def data(text):
    return block_of(text)


@pytest.fixture(scope="module")
def rows(run_dir):
    lines = (run_dir / "trials.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def block_of(text):
    """The page's one block of numbers."""
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(block)


def trace(data, name):
    """A line of any figure by its name."""
    figures = data["figures"].values()
    (found,) = (t for f in figures for t in f["data"] if t["name"] == name)
    return found


def said(text):
    """The page's sentences and static tables."""
    body = text.split("<main")[1].split("<script")[0]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def best_rows(rows):
    found = {}
    for row in sorted((r for r in rows if r["phase"] == "search"), key=lambda r: r["score"]):
        found.setdefault(row["batch_size"], row)
    return dict(sorted(found.items()))


def fresh(rows):
    """Rows on fresh seeds by configuration."""
    groups = collections.defaultdict(list)
    for row in rows:
        if row["phase"] == "confirmation":
            groups[row["batch_size"], row["learning_rate"]].append(row)
    return groups


def test_throughput_is_recomputed_from_the_step_times(run_dir, data):
    times = json.loads((run_dir / "step_times.json").read_text())["seconds"]
    drawn = trace(data, "alone on the device")

    assert drawn["x"] == [float(size) for size in times]
    for size, shown, above in zip(times, drawn["y"], drawn["error_y"]["array"], strict=True):
        assert shown == pytest.approx(int(size) / statistics.median(times[size]))
        assert shown + above == pytest.approx(int(size) / min(times[size]))


def test_the_tuned_metric_is_recomputed_from_the_journal(rows, data):
    drawn, best = trace(data, "best of the search"), best_rows(rows)

    assert drawn["x"] == list(best)
    assert drawn["y"] == [row["score"] for row in best.values()]
    shown = [t for f in data["figures"].values() for t in f["data"] if "fresh seeds" in t["name"]]
    points = {(x, y) for t in shown for x, y in zip(t["x"], t["y"], strict=True)}
    means = {
        (size, statistics.mean(row["score"] for row in group))
        for (size, _), group in fresh(rows).items()
    }
    assert sorted(x for x, _ in points) == sorted(size for size, _ in means)
    assert sorted(y for _, y in points) == pytest.approx(sorted(mean for _, mean in means))
    for one in shown:
        for x, y, half in zip(one["x"], one["y"], one["error_y"]["array"], strict=True):
            group = next(
                g
                for (size, _), g in fresh(rows).items()
                if size == x and statistics.mean(r["score"] for r in g) == pytest.approx(y)
            )
            t = {3: 4.302653, 6: 2.570582}[len(group)]  # quantiles with 2 and 5 degrees
            deviation = statistics.stdev(row["score"] for row in group)
            assert half == pytest.approx(t * deviation / math.sqrt(len(group)), rel=1e-5)


def made(size, rate):
    """A loss whose logarithm is a quadratic surface."""
    far = math.log2(rate / (0.1 * math.sqrt(size / 32)))
    return math.exp(-1 + 0.04 * far**2 + 0.05 * math.log2(size / 32) ** 2)


def test_the_line_at_the_baselines_rate_is_predicted_only_where_nothing_was_tried(tmp_path):
    rows = [row_of("baseline", "baseline", 1, BASELINE)]
    for size, far in itertools.product(SIZES, (-2.9, -1.5, 0.0, 1.5)):
        rate = 0.1 * math.sqrt(size / 32) * 2.0**far
        row = row_of(f"search-{len(rows):04d}", "search", 1, configuration(size, rate))
        rows.append(row | {"score": made(size, rate)})
    run = read_recorded(write_run(tmp_path / "predicted", rows, answer=False))
    series = {one.name: one for one in by_batch_size(run).charts[-1].series}
    predicted = series["predicted at learning rate 0.01"]
    assert predicted.x == (8.0, 16.0, 32.0, 64.0)  # at 128 the nearest is 1.4 octaves away
    assert predicted.y == pytest.approx([made(size, 0.01) for size in predicted.x])
    # Of one further size it is a measurement, and the others are predicted beside it.
    further = row_of("further", "search", 1, configuration(64, 0.01)) | {"score": made(64, 0.01)}
    both = at_the_baselines_rate(
        read_recorded(write_run(tmp_path / "both", [*rows, further], answer=False))
    )
    assert (set(both.tried), set(both.predicted)) == ({16, 32, 64}, {8, 16, 32, 64})
    assert both.tried[64] == pytest.approx(both.predicted[64].mean)
    assert "joins the trials" in both.source
    assert "prediction, no measurement" in both.source
    rows = [row_of("baseline", "baseline", 1, BASELINE)]
    rows += [
        row_of(f"search-{n:04d}", "search", n, configuration(size, 0.011))
        for n, size in enumerate((8, 64, 128), start=1)
    ]
    # Half an octave away and better: a rate that is nearly the baseline's is meant, no tuned one.
    farther = row_of("search-0004", "search", 4, configuration(64, 0.014))
    run = read_recorded(write_run(tmp_path / "run", [*rows, farther | {"score": 0.001}]))
    series = {one.name: one for one in by_batch_size(run).charts[-1].series}
    tried = series["at learning rate 0.01 (trials)"]
    assert tried.x == (8.0, 32.0, 64.0, 128.0)
    assert set(tried.y) == {row["score"] for row in rows}


def test_the_run_of_the_readme_determines_the_line_at_the_baselines_rate():
    """Two or three trials of most batch sizes, and one that learned nothing."""
    run = read_recorded(Path(__file__).parents[1] / "docs" / "run")
    found = at_the_baselines_rate(run)
    chart = by_batch_size(run).charts[-1]
    (line,) = (one for one in chart.series if one.kind == "dashed")

    assert tuple(found.predicted) == (8, 16, 32, 64, 128, 256)  # none far from what was tried
    assert line.name == "predicted at learning rate 0.01"
    assert line.y == tuple(one.mean for one in found.predicted.values())
    assert all(one.low < one.mean < one.high for one in found.predicted.values())
    assert "prediction, no measurement" in found.source
    nearest = {32: 0.541}  # of the search: at a rate of 0.00954
    assert found.predicted[32].mean == pytest.approx(nearest[32], abs=0.01)


@pytest.mark.parametrize(
    ("sizes", "noise", "reason"),
    [
        ((8, 16), 0.0, "no surface predicts it: A surface needs 3 batch sizes"),
        ((8, 16, 32, 64), 0.3, "do not determine it: the 95 % intervals of a quadratic surface"),
    ],
)
def test_why_there_is_no_line_at_the_baselines_rate_is_said(sizes, noise, reason, tmp_path):
    rows = [row_of("baseline", "baseline", 1, BASELINE)]
    for number, size in enumerate(s for s in sizes for _ in range(4)):
        one = configuration(size, 0.1 * math.sqrt(size / 32) * (0.05, 1, 2, 4)[number % 4])
        row = row_of(f"search-{number:04d}", "search", number, one)
        rows.append(row | {"score": row["score"] + noise * (number * 7 % 5)})
    run = read_recorded(write_run(tmp_path / "run", rows, answer=False))
    found = at_the_baselines_rate(run)

    assert (found.tried, found.predicted) == ({}, {})
    assert reason in found.source
    assert found.source in notes(run)
    assert not any("at learning rate" in s.name for s in by_batch_size(run).charts[-1].series)


def test_the_landscape_and_its_fit_are_recomputed_from_the_journal(rows, run, data):
    drawn = trace(data, "trials of the run's length")
    trials = [row for row in rows if row["phase"] in ("baseline", "search")]

    assert list(zip(drawn["x"], drawn["y"], drawn["marker"]["color"], strict=True)) == [
        (row["batch_size"], row["learning_rate"], row["score"]) for row in trials
    ]
    found = exponent_of(brackets_of(run.trials))
    assert found.exponent == pytest.approx(0.5, abs=0.05)  # as the losses were made
    line = trace(data, f"fitted: exponent {found.exponent:.2g}")
    slope = math.log(line["y"][-1] / line["y"][0]) / math.log(line["x"][-1] / line["x"][0])
    assert slope == pytest.approx(found.exponent)
    rule = next(
        t for f in data["figures"].values() for t in f["data"] if t["name"].startswith("rule ")
    )
    rates = dict(zip(rule["x"], rule["y"], strict=True))
    assert rates[128.0] == pytest.approx(4 * rates[32.0])  # the linear rule
    one = run.answer.recommended
    assert rates[float(one.batch_size)] == pytest.approx(one.learning_rate)


def test_learning_curves_are_recomputed_from_what_keras_logged(run_dir, rows, data):
    (row,) = (row for row in rows if row["trial"] == trial_name(BASELINE, 1))
    times = json.loads((run_dir / "step_times.json").read_text())["seconds"]["32"]
    (drawn,) = (
        t for f in data["figures"].values() for t in f["data"] if t["name"].startswith("baseline: ")
    )
    updates, seconds = drawn["meta"]["in_other_units"]
    examples = [min(n * row["steps_per_epoch"] * 32, TOTAL_EXAMPLES) for n in (1, 2, 3)]

    assert drawn["y"] == pytest.approx(LOSSES)
    assert drawn["x"] == examples
    assert updates == [math.ceil(count / 32) for count in examples]
    assert seconds == pytest.approx([count * statistics.median(times) for count in updates])


def test_the_forest_is_recomputed_from_the_journal(rows, run, data):
    groups, base = fresh(rows), BASELINE.base_learning_rate
    against = {row["seed"]: row["score"] for row in groups[32, base]}
    expected = sorted(
        against[row["seed"]] - row["score"]
        for key, group in groups.items()
        if key != (32, base)
        for row in group
    )

    assert sorted(trace(data, "one seed")["x"]) == pytest.approx(expected)
    for one in paired_differences(run):
        compared = run.answer.verification.of_key(one.key)
        assert (one.gain, one.half_width) == (compared.gain, compared.gain_half_width)


def test_the_importance_is_recomputed_by_optuna(rows, data):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    trials = [row for row in rows if row["phase"] in ("baseline", "search")]
    space = {
        "batch size": optuna.distributions.FloatDistribution(8, 128, log=True),
        "learning rate": optuna.distributions.FloatDistribution(
            min(row["learning_rate"] for row in trials),
            max(row["learning_rate"] for row in trials),
            log=True,
        ),
        "schedule": optuna.distributions.CategoricalDistribution(["constant", "linear", "wsd"]),
        "warm-up": optuna.distributions.FloatDistribution(0.0, 0.1),
    }
    keys = ("batch_size", "learning_rate", "schedule", "warmup_fraction")
    study = optuna.create_study()
    for row in trials:
        values = dict(zip(space, (row[key] for key in keys), strict=True))
        study.add_trial(
            optuna.trial.create_trial(params=values, distributions=space, value=row["score"])
        )
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    expected = optuna.importance.get_param_importances(study, evaluator=evaluator)

    assert trace(data, "PED-ANOVA")["x"] == pytest.approx(sorted(expected.values(), reverse=True))


def test_the_table_and_the_lines_have_every_trial(rows, data):
    (table,) = data["tables"].values()
    (lines,) = (t for f in data["figures"].values() for t in f["data"] if t["type"] == "parcoords")
    column = {name: number for number, name in enumerate(table["columns"])}

    assert len(table["rows"]) == len(rows)
    for name, key in (
        ("trial", "trial"),
        ("val_loss", "score"),
        ("batch size", "batch_size"),
        ("learning rate", "learning_rate"),
        ("updates", "steps"),
        ("seconds", "seconds"),
        ("val_accuracy", "metric_val_accuracy"),
        ("seed", "seed"),
    ):
        assert [cells[column[name]] for cells in table["rows"]] == [row[key] for row in rows]
    assert lines["dimensions"][-1]["values"] == [row["score"] for row in rows]
    assert [10**v for v in lines["dimensions"][0]["values"]] == pytest.approx(
        [row["batch_size"] for row in rows]
    )


def test_the_page_says_what_the_terminal_says_and_what_the_answer_has(run, text, rows):
    sentences = two_sentences(run)
    told = summary(run.answer)

    assert sentences[0].removesuffix(".") in told
    assert sentences[1] in told
    header = re.sub(r"\s+", " ", text.split("<header>")[1].split("</header>")[0])
    assert all(sentence in header for sentence in sentences)
    shown = said(text)
    for one in run.answer.shown():
        for measured in one.metrics.validation.values():
            assert str(measured) in shown
    cost = cost_of(run)
    assert cost.examples == sum(row["examples"] for row in rows)
    assert cost.trial_seconds == pytest.approx(sum(row["seconds"] for row in rows))
    assert cost.trainings == pytest.approx(cost.examples / TOTAL_EXAMPLES)
    assert str(cost) in shown


def test_seconds_that_are_not_known_are_not_counted(run):
    row = run.trials[1].row | {"trial": "untimed", "seconds": math.nan}
    untimed = dataclasses.replace(run, trials=trials_of(run.trials[0], read_row(row)))
    cost = cost_of(untimed)

    assert (cost.trial_seconds, cost.untimed) == (run.trials[0].seconds, 1)
    assert f"2 trials, at least {cost.trial_seconds:.3g} s on their workers" in str(cost)


def test_a_clean_run_passes_every_check_that_applies(run, text):
    found = {check.name: check.verdict for check in checks_of(run.answer, run.trials)}

    assert set(found.values()) == {"PASS", "NOT APPLICABLE"}
    assert sum(verdict == "NOT APPLICABLE" for verdict in found.values()) == 2  # test, lengths
    assert said(text).count(" PASS ") == 5


def only_failure(check, answer, trials):
    """The evidence of the one check that fails."""
    failed = [one for one in checks_of(answer, trials) if one.verdict == "FAIL"]
    assert [one.name for one in failed] == [check(answer, trials).name]
    return failed[0].evidence


def test_a_learning_rate_at_the_end_of_what_was_tried_is_found(run):
    size = next(c.batch_size for c in run.answer.contenders if c.key != "baseline")
    best = bracket_of(run.trials, size).best
    lower = [
        t
        for t in run.trials
        if t.configuration.batch_size != size or t.phase != "search" or t.learning_rate <= best
    ]
    trials = trials_of(*lower)

    evidence = only_failure(checks.learning_rate_bracketed, shortened(run.answer, trials), trials)
    assert f"{size}: best {best:.3g} between" in evidence
    assert "and no bound above" in evidence
    assert "Of no finalist, and not claimed to be tuned" in evidence


def tried(rate, score, *, length=TOTAL_EXAMPLES, status="completed"):
    """A trial of batch size 64 at a learning rate."""
    row = row_of(f"at-{rate}-{length}", "search", 1, configuration(64, rate), status=status)
    row |= {"total_examples": length, "examples": length}
    return read_row(row | ({"score": score} if status == "completed" else {}))


def test_a_rate_that_was_better_in_shorter_trainings_bounds_nothing():
    whole = [tried(0.05, 0.4), tried(0.1, 0.3)]
    half = TOTAL_EXAMPLES // 2
    better = [tried(0.1, 0.8, length=half), tried(0.2, 0.5, length=half)]
    worse = [tried(0.1, 0.8, length=half), tried(0.2, 0.9, length=half)]
    alone = [tried(0.2, 0.9, length=half)]
    turned = [tried(0.2, 0.5, length=half), tried(0.4, 0.6, length=half)]
    diverged = [tried(0.2, None, length=half, status="diverged")]

    for beside, above in (
        (better, None),
        (worse, 0.2),
        (alone, None),  # nothing to compare it with
        (turned, 0.4),
        (diverged, 0.2),
    ):
        found = bracket_of(trials_of(*whole, *beside), 64)
        assert (found.best, found.below, found.above) == (0.1, 0.05, above)
        assert found.closed == (above is not None)


def test_a_higher_rate_that_was_stopped_in_its_decay_bounds_nothing():
    """A lower one does: in the middle of a decay it looks better than it ends."""

    def stopped(rate, score):
        part = {"trial": f"part-{rate}", "score": score, "to_examples": TOTAL_EXAMPLES // 2}
        return read_row(tried(rate, score).row | part)

    whole = (tried(0.1, 0.3), stopped(0.1, 0.5), stopped(0.05, 0.6), stopped(0.2, 0.6))
    found = bracket_of(trials_of(*whole), 64)

    assert (found.below, found.above) == (0.05, None)


def test_a_rate_that_was_tried_twice_does_not_bound_itself():
    same = [tried(0.1 * (1 - 1e-8), 0.4), tried(0.1, 0.3), tried(0.1 * (1 + 1e-8), 0.4)]

    assert not bracket_of(trials_of(*same), 64).closed
    assert bracket_of(trials_of(*same, tried(0.08, 0.5), tried(0.13, 0.5)), 64).closed


def test_a_lower_rate_that_diverged_bounds_nothing_and_rates_that_are_one_count_once():
    lower = tried(0.05, None, status="diverged")
    found = bracket_of(trials_of(lower, tried(0.1, 0.3), tried(0.101, 0.3), tried(0.2, 0.5)), 64)

    assert (found.below, found.above) == (None, 0.2)
    assert (found.trials, found.rates) == (4, 3)


def shortened(answer, trials):
    return answer.model_copy(update={"trials": len(trials)})


def test_a_trial_that_the_journal_does_not_have_is_found(run):
    name = run.answer.recommended.trials[-1].trial
    trials = trials_of(*(t for t in run.trials if t.trial != name))
    answer = shortened(run.answer, trials)

    assert run.answer.recommended_trial in only_failure(checks.tuning_shown, answer, trials)


@pytest.mark.parametrize("change", [{"score": 0.01}, {"seed": 77}])
def test_an_answer_that_is_not_what_the_journal_has_is_found(change, run):
    first, *others = run.answer.recommended.trials
    answer = changed_contender(run.answer, trials=(first.model_copy(update=change), *others))
    found = checks.tuning_shown(answer, run.trials)

    assert (found.verdict, checks.tuning_shown(run.answer, run.trials).verdict) == ("FAIL", "PASS")
    assert f"Other than in the journal: {first.trial}." in found.evidence


def test_a_figure_of_the_answer_that_its_trials_do_not_give_is_found(run):
    one = run.answer.recommended
    halved = {
        k: m.model_copy(update={"mean": m.mean / 2}) for k, m in one.metrics.validation.items()
    }
    metrics = one.metrics.model_copy(update={"validation": halved})
    for change in ({"metrics": metrics}, {"learning_rate": 9.9}):
        answer = changed_contender(run.answer, **change)

        assert f"Other than in the journal: {one.key}." in only_failure(
            checks.tuning_shown, answer, run.trials
        )


def test_the_answers_of_real_runs_are_what_their_journals_have():
    run = read_recorded(Path(__file__).parents[1] / "docs" / "run")

    assert checks.tuning_shown(run.answer, run.trials).verdict == "PASS"


def test_a_test_split_that_a_trial_of_the_search_read_is_found(run):
    row = run.trials.of_phase("search")[0].row | {"metric_test_loss": 0.3}
    read = read_row(row)
    trials = trials_of(*(read if t.trial == read.trial else t for t in run.trials))

    evidence = only_failure(checks.test_split_read_once, run.answer, trials)
    assert f"read by a trial, before the answer: {read.trial}" in evidence


def changed_contender(answer, **changes):
    """The answer with another recommended contender."""
    one = answer.recommended
    other = one.model_copy(update=changes)
    contenders = tuple(other if c.key == one.key else c for c in answer.contenders)
    return answer.model_copy(update={"contenders": contenders})


@pytest.mark.parametrize(
    ("seed", "words"), [(1, "seeds that the search had: 1"), (77, "rounds whose seeds differ: 1")]
)
def test_a_seed_that_is_not_fresh_or_not_shared_is_found(seed, words, run):
    first, *others = run.answer.recommended.trials
    first = first.model_copy(update={"seed": seed})
    answer = changed_contender(run.answer, trials=(first, *others))
    row = run.trials.find(first.trial).row | {"seed": seed}
    trials = trials_of(*(read_row(row) if t.trial == first.trial else t for t in run.trials))

    assert words in only_failure(checks.fresh_seeds, answer, trials)


def test_a_seed_that_counts_twice_is_found(run):
    first, _, third = run.answer.recommended.trials
    answer = changed_contender(run.answer, trials=(first, first, third))

    found = checks.fresh_seeds(answer, run.trials)
    assert (found.verdict, "a seed counted twice" in found.evidence) == ("FAIL", True)


def test_finalists_of_different_lengths_are_found(run):
    name = run.answer.recommended.trials[0].trial
    row = run.trials.find(name).row | {"total_examples": 5000}
    trials = trials_of(*(read_row(row) if t.trial == name else t for t in run.trials))

    assert "trained on different numbers of examples: 2500, 5000" in only_failure(
        checks.fresh_seeds, run.answer, trials
    )


def test_a_recommended_one_that_failed_on_a_seed_is_found(run):
    """Its mean is that of the seeds on which it did not fail."""
    first, *others = run.answer.recommended.trials
    failed = {"status": "diverged", "score": None}
    answer = changed_contender(run.answer, trials=(first.model_copy(update=failed), *others))
    row = run.trials.find(first.trial).row | failed
    trials = trials_of(*(read_row(row) if t.trial == first.trial else t for t in run.trials))

    found = checks.fresh_seeds(answer, trials)
    assert found.verdict == "FAIL"
    assert f"the recommended one failed on a seed: {first.trial}" in found.evidence


def test_a_best_of_the_search_that_was_not_verified_is_found(run):
    answer = run.answer.model_copy(update={"verification": None})

    assert "too good on average" in only_failure(checks.fresh_seeds, answer, run.trials)
    (sentence,) = failed_checks(dataclasses.replace(run, answer=answer))
    assert sentence.startswith("This run does not support (see Checks): the comparison is on fresh")


def test_a_recommended_one_that_was_not_verified_beside_others_is_found(run):
    compared = checks.compared_sizes(run.answer)
    inner = next(size for size in SIZES[1:-1] if size not in compared)
    best = run.trials.of_phase("search").of_batch_size(inner).best()
    stranger = Contender.of(best.trial, [best], run.answer.step_times)
    contenders = (*run.answer.contenders, stranger)
    update = {"contenders": contenders, "recommended_trial": best.trial}
    answer = run.answer.model_copy(update=update)

    evidence = only_failure(checks.fresh_seeds, answer, run.trials)
    assert f"the recommended {best.trial} has none" in evidence


def test_a_test_split_that_was_read_too_often_or_for_others_is_found(run):
    one = run.answer.recommended
    clean = run.answer.with_test(one.key, one.metrics.validation)
    often = {k: m.model_copy(update={"seeds": 9}) for k, m in one.metrics.validation.items()}
    read_twice = run.answer.with_test(one.key, often)
    stranger = one.model_copy(update={"key": "search-0001"})
    stranger = clean.model_copy(update={"contenders": (*clean.contenders, stranger)})
    stranger = stranger.with_test("search-0001", one.metrics.validation)

    assert checks.test_split_read_once(clean, run.trials).verdict == "PASS"
    evidence = only_failure(checks.test_split_read_once, read_twice, run.trials)
    assert f"read more often than trained: {one.key}" in evidence
    evidence = checks.test_split_read_once(stranger, run.trials).evidence
    assert "not verified, and read: search-0001" in evidence


def test_an_output_that_is_called_test_is_no_test_split(run):
    of_output = {"metric_test_out_loss": 0.5, "metric_val_test_out_loss": 0.6}
    trials = trials_of(*(read_row(t.row | of_output) for t in run.trials))
    early = trials_of(*(read_row(t.row | {"metric_test_loss": 0.5}) for t in run.trials))

    assert checks.test_split_read_once(run.answer, trials).verdict == "NOT APPLICABLE"
    evidence = only_failure(checks.test_split_read_once, run.answer, early)
    assert "read by a trial, before the answer: baseline" in evidence


def test_an_optimum_at_an_edge_is_found(run):
    size = run.answer.recommended.batch_size
    compared = checks.compared_sizes(run.answer)
    within = trials_of(*(t for t in run.trials if t.configuration.batch_size in compared))

    evidence = only_failure(checks.not_at_an_edge, shortened(run.answer, within), within)
    end = "smallest" if size == compared[0] else "largest"
    assert f"batch size {size} is the {end} that was searched" in evidence
    edges = run.answer.best_learning_rate_at_edge.model_copy(update={"high": (size,)})
    answer = run.answer.model_copy(update={"best_learning_rate_at_edge": edges})
    assert f"of {size} is at the upper end" in only_failure(
        checks.not_at_an_edge, answer, run.trials
    )


def up_to(run, largest, **limits):
    """The clean run, of which the batch sizes up to one were searched, and that one recommended."""
    trials = trials_of(*(t for t in run.trials if t.configuration.batch_size <= largest))
    best = trials.of_phase("search").of_batch_size(largest).best()
    one = Contender.of(best.trial, [best], run.answer.step_times)
    update = {"contenders": (one,), "recommended_trial": best.trial, "trials": len(trials)}
    return run.answer.model_copy(update=update | limits), trials


def fits(largest, asked=128):
    return MemoryLimit(
        memory_budget="1 GB",
        workers=1,
        device="CPU",
        largest_asked=asked,
        largest_batch_size=largest,
        conclusion="measured",
    )


@pytest.mark.parametrize(
    ("limits", "verdict"),
    [
        ({}, "FAIL"),
        ({"memory_limit": fits(64)}, "PASS"),
        ({"memory_limit": fits(100)}, "PASS"),  # the next size is 128
        ({"memory_limit": fits(64, asked=64)}, "FAIL"),  # nothing larger was asked
        ({"memory_limit": fits(512, asked=1024)}, "FAIL"),  # 128 fits, and was not searched
        (
            {
                "memory_used_up": MemoryUsedUp(
                    device="CPU", smallest_that_failed=128, largest_that_fits=64
                )
            },
            "PASS",
        ),
    ],
)
def test_the_largest_batch_size_is_no_edge_where_memory_ends(limits, verdict, run):
    assert checks.not_at_an_edge(*up_to(run, 64, **limits)).verdict == verdict


def test_the_smallest_batch_that_there_is_lies_at_no_edge(run):
    row = row_of("small", "search", 1, configuration(8, 0.1))
    rows = (row | {"trial": f"small-{size}", "batch_size": size} for size in (1, 2, 4))
    trials = trials_of(*map(read_row, rows))
    one = Contender.of("small-1", [trials[0]], run.answer.step_times)
    update = {"contenders": (one,), "recommended_trial": "small-1", "trials": 3}
    found = checks.not_at_an_edge(run.answer.model_copy(update=update), trials)

    assert found.verdict == "PASS"
    assert found.evidence == "Batch sizes 1, 2, 4; recommended 1; no batch is smaller than 1."

    larger = trials_of(*(t for t in trials if t.configuration.batch_size > 1))
    outside = checks.not_at_an_edge(run.answer.model_copy(update=update), larger)
    assert outside.verdict == "FAIL"
    assert "batch size 1 is smaller than all that were searched" in outside.evidence


def test_a_kept_baseline_outside_of_what_was_searched_is_found(run):
    answer = run.answer.model_copy(update={"recommended_trial": "baseline"})

    def searched_at(*sizes):
        return trials_of(
            *(t for t in run.trials if t.phase != "search" or t.configuration.batch_size in sizes)
        )

    for sizes, words in (
        ((64, 128), "smaller than all that were searched"),
        ((8, 16), "larger than all that were searched"),
        ((64,), "smaller than all that were searched"),
    ):
        found = checks.not_at_an_edge(answer, searched_at(*sizes))
        assert (found.verdict, words in found.evidence) == ("FAIL", True)
    assert checks.not_at_an_edge(answer, searched_at(32)).verdict == "NOT APPLICABLE"


def test_a_batch_size_of_which_nothing_trained_bounds_nothing(run):
    answer, trials = up_to(run, 64)
    failed = read_row(row_of("failed", "search", 1, configuration(128, 0.1), status="error"))

    assert checks.not_at_an_edge(answer, trials.with_one_more(failed)).verdict == "FAIL"


def test_seconds_that_were_measured_beside_others_are_found(run):
    seconds = run.answer.recommended.training_seconds
    beside = seconds.model_copy(update={"alone_on_the_device": False})
    answer = changed_contender(run.answer, training_seconds=beside)

    assert run.answer.recommended_trial in only_failure(checks.seconds_alone, answer, run.trials)


def at_two_lengths(run, winner_before):
    """The trials with shorter ones, among which another batch size is the best."""
    half = TOTAL_EXAMPLES // 2
    shorter = []
    for size in SIZES:
        trial = run.trials.of_batch_size(size).of_phase("search")[0]
        row = trial.row | {"trial": f"short-{size}", "total_examples": half, "examples": half}
        row["score"] = 0.5 if size == winner_before else 0.9
        shorter.append(row)
    return trials_of(*run.trials, *map(read_row, shorter))


def test_a_ranking_that_depends_on_the_length_is_found(run):
    best = run.trials.searched().best().configuration.batch_size
    stable, turned = at_two_lengths(run, best), at_two_lengths(run, 128)

    assert checks.ranking_stable(run.answer, stable).verdict == "PASS"
    assert "Best after 1,250 examples: 128" in only_failure(
        checks.ranking_stable, run.answer, turned
    )
    unverified = run.answer.model_copy(update={"verification": None})
    found = checks.ranking_stable(unverified, turned)  # one seed each, and no band is known
    assert (found.verdict, "nothing was verified" in found.evidence) == ("NOT APPLICABLE", True)
    assert checks.ranking_stable(unverified, stable).verdict == "PASS"


def test_steps_to_a_target_need_several_lengths(run, tmp_path):
    assert steps_to_target(run) is None
    assert "same length (2,500 examples)" in to_target_sentence(run)


def test_steps_to_a_target_are_read_from_the_ends_of_decays(tmp_path):
    """score = 40 / examples * (B + 64): a target of 1 takes 40 (B + 64) examples."""
    rows = [row_of("baseline", "baseline", 1, BASELINE)]
    for size in SIZES:
        for part, length in enumerate((1000, 4000, 16000)):
            row = row_of(f"s-{size}-{part}", "search", 1, configuration(size, 0.1))
            score = 40 / length * (size + 64)
            rows.append(row | {"total_examples": length, "examples": length, "score": score})
    run = read_recorded(write_run(tmp_path / "run", rows[1:], answer=False, chance=False))
    found = steps_to_target(run)

    assert found.target == pytest.approx(40 / 16000 * 192)
    expected = [40 * (size + 64) / (found.target * size) for size in SIZES]
    assert [one.steps for one in found.steps] == pytest.approx(expected)
    assert all(one.reached for one in found.steps)
    assert found.fit.hyperbola.critical_batch_size == pytest.approx(64, rel=1e-3)
    steps, examples, seconds = to_target_chart(run).charts
    assert steps.series[0].y[-1] == pytest.approx(125)
    assert examples.series[0].y[-1] == pytest.approx(16000)
    assert seconds.series[0].y[-1] == pytest.approx(125 * run.step_seconds.median(128))


def test_a_target_that_the_shortest_training_reached_is_a_bound(tmp_path):
    """The usual case of small sizes: the target is the worst of the best."""
    ends = {8: (0.3, 0.2, 0.1), 32: (0.5, 0.3, 0.2), 128: (0.9, 0.6, 0.4)}
    rows = []
    for size, scores in ends.items():
        for part, (length, score) in enumerate(zip((1000, 4000, 16000), scores, strict=True)):
            row = row_of(f"s-{size}-{part}", "search", 1, configuration(size, 0.1))
            rows.append(row | {"total_examples": length, "examples": length, "score": score})
    run = read_recorded(write_run(tmp_path / "run", rows, answer=False, chance=False))
    found = steps_to_target(run)

    assert [one.at_first for one in found.steps] == [True, False, False]
    assert found.fit is None
    assert "batch size 8 reached the target in the shortest training" in to_target_sentence(run)
    known, bound = to_target_chart(run).charts[0].series
    assert (known.x, bound.x) == ((32.0, 128.0), (8.0,))
    assert "at most" in bound.name


def no_success(path):
    rows = [row_of("baseline", "baseline", 1, BASELINE, status="diverged")]
    rows.append(row_of("search-0001", "search", 2, configuration(8, 0.1), status="error"))
    return write_run(path, rows, answer=False)


def one_success(path):
    return write_run(path, [row_of("baseline", "baseline", 1, BASELINE)], timed=())


def one_size(path):
    rows = [row_of("baseline", "baseline", 1, BASELINE)]
    rates = (0.02, 0.05, 0.1, 0.2)
    rows += [
        row_of(f"search-{n:04d}", "search", n, configuration(32, rate))
        for n, rate in enumerate(rates, start=1)
    ]
    return write_run(path, [*rows, *verified([configuration(32, 0.1)])], timed=(32,))


def out_of_memory(path):
    rows = [row_of("baseline", "baseline", 1, BASELINE, status="oom")]
    rows += [
        row_of(f"search-{size:04d}", "search", size, configuration(size, 0.1), status="oom")
        for size in SIZES
    ]
    return write_run(path, rows, answer=False, timed=())


def earlier_version(path):
    """Neither a budget nor a space that can be read, no answer, no chance level, no step times."""
    write_run(path, [row_of("baseline", "baseline", 1, BASELINE)], answer=False, timed=())
    (path / "chance_level.json").unlink()
    identity = {"dataset": "digits", "objective": "val_loss:min"}
    (path / "config.json").write_text(json.dumps({"identity": identity, "budget": {}}))
    return path


def nothing_learned(path):
    rows = [row_of("baseline", "baseline", 1, BASELINE)]
    rows = [row | {"score": 9.0, "metric_val_loss": 9.0} for row in rows]
    return write_run(path, rows, answer=False, timed=())


def damaged_answer(path):
    clean_run(path, count=10)
    (path / "recommendation.json").write_text("{")
    return path


ODD = {
    no_success: "None of 2 trials completed",
    one_success: "Keep your baseline: batch size 32",
    one_size: "Better than your baseline: batch size 32",
    out_of_memory: "Where memory ended",
    earlier_version: "an earlier version wrote them",
    nothing_learned: "Nothing was learned",
    damaged_answer: "The answer cannot be read",
}


@pytest.mark.parametrize("make", ODD)
def test_any_run_has_a_sensible_page(make, tmp_path):
    text = write_report(make(tmp_path / "run")).read_text(encoding="utf-8")
    page, data = re.sub(r"<[^>]+>", " ", text.split("<script")[0]), block_of(text)

    assert ODD[make] in re.sub(r"\s+", " ", page).replace("&#39;", "'")
    assert not re.search(r"\b1 (completed )?trials\b(?! \()", page)
    assert "nan" not in page.lower().split()
    assert len(data["tables"]) == 1
    if make is out_of_memory:
        assert re.search(r"8 1 1 0 CPU", said(text))
    if make is no_success:
        (table,) = data["tables"].values()
        assert [table["details"][n] for n in table["details_of"]] == [
            "diverged of baseline",
            "error of search-0001",
        ]


def test_parts_of_trainings_stand_apart_from_whole_ones(tmp_path):
    one = configuration(32, 0.1)
    trunk = TrialSpec("trunk", "search", 1, one, TOTAL_EXAMPLES, 1000, to_examples=1280)
    rows = [
        row_of("baseline", "baseline", 1, BASELINE),
        row_of("trunk", "search", 1, one, to_examples=1280),
        row_of("rest", "search", 1, one, parent=trunk),
    ]
    run = read_recorded(write_run(tmp_path / "run", rows))
    drawn = {series.name: series for series in landscape(run).series}

    assert drawn["trials of the run's length"].x == (32.0, 32.0)
    assert drawn["parts and other lengths"].about[0].startswith("trunk")
    assert cost_of(run).examples == 2 * TOTAL_EXAMPLES  # the parts make one training
    (table,) = report_page([run]).data()["tables"].values()
    assert "parent" in table["columns"]


def test_memory_is_drawn_where_it_was_measured(run):
    peaks = tuple(MemoryPeak(batch_size=b, megabytes=100 + b) for b in (8, 64))
    limit = MemoryLimit(
        memory_budget="1 GB",
        workers=1,
        device="CPU",
        largest_asked=128,
        largest_batch_size=64,
        conclusion="fits",
        peaks=peaks,
    )
    measured = dataclasses.replace(run, memory_limit=limit)
    chart = memory_chart(measured, (8.0, 64.0))

    assert chart.series[0].y == (108.0, 164.0)
    assert chart.marks[0].label == "largest that fits: 64"
    # An earlier version kept no peaks: the end of memory is drawn all the same.
    unkept = dataclasses.replace(run, memory_limit=limit.model_copy(update={"peaks": ()}))
    assert [chart.title for chart in by_batch_size(unkept).charts] == ["Throughput", "Tuned metric"]
    assert [(mark.x, mark.label) for mark in wall_marks(unkept)] == [(64, "largest that fits: 64")]
    assert not any("--memory_budget" in note for note in notes(unkept))
    whole = limit.model_copy(update={"largest_batch_size": 128})
    assert wall_marks(dataclasses.replace(run, memory_limit=whole)) == []
    assert isinstance(by_batch_size(measured), Stack)
    assert [c.title for c in by_batch_size(measured).charts] == [
        "Throughput",
        "Memory",
        "Tuned metric",
    ]


def cut(largest, failed, asked=1024):
    return fits(largest, asked).model_copy(
        update={"cut_short_after": 60.0, "smallest_that_failed": failed}
    )


@pytest.mark.parametrize(
    ("limit", "verdict"),
    [
        (cut(64, None), "FAIL"),  # 128 may fit
        (cut(64, 256), "FAIL"),  # 128 may fit
        (cut(64, 128), "PASS"),
        (cut(0, 100), "PASS"),
    ],
)
def test_an_edge_of_the_search_is_memorys_only_where_the_next_size_failed(limit, verdict, run):
    found = checks.not_at_an_edge(*up_to(run, 64, memory_limit=limit))

    assert found.verdict == verdict
    assert "largest that fits" not in found.evidence
    assert ("measured not to fit" in found.evidence) == (verdict == "PASS")


def test_a_report_draws_no_end_of_memory_where_none_was_measured(run):
    def drawn(limit: MemoryLimit):
        return [(m.x, m.label) for m in wall_marks(dataclasses.replace(run, memory_limit=limit))]

    assert drawn(cut(64, None)) == []
    assert drawn(cut(64, 256)) == [(256, "does not fit: 256")]
    limit = cut(0, None).model_copy(update={"conclusion": "The time was over."})
    assert "The time was over." in notes(dataclasses.replace(run, memory_limit=limit))


@pytest.mark.parametrize("count", [12, 500, pytest.param(2000, marks=pytest.mark.slow)])
def test_size_and_number_of_elements_are_bounded(count, tmp_path):
    rows = [row_of("baseline", "baseline", 1, BASELINE)]
    for number, one in enumerate(searched(count), start=1):
        status = "error" if number % 3 == 0 else "completed"
        message = f"{'x' * 20_000} {number}" if status == "error" else ""
        rows.append(
            row_of(f"search-{number:04d}", "search", number, one, status=status, message=message)
        )
    text = write_report(write_run(tmp_path / "run", rows)).read_text(encoding="utf-8")
    elements = len(re.findall(r"<[a-z]", text.split("<script")[0]))

    assert len(text) < 2_100_000 + 600 * count + 50 * 4_100
    assert elements < 400
    (table,) = block_of(text)["tables"].values()
    assert len(table["details"]) <= 51
    assert max(map(len, table["details"])) < 4_100


def test_what_was_trained_on_fresh_seeds_is_inside_of_the_picture(tmp_path):
    """Here most values are close to the best one, and the baseline is far."""
    run = read_recorded(one_size(tmp_path / "run"))
    chart = by_batch_size(run).charts[-1]
    shown = {series.name: series for series in chart.series}

    for name in ("baseline, fresh seeds", "recommended, fresh seeds"):
        assert chart.y_limits[0] < shown[name].y[0] < chart.y_limits[1]


def test_the_readmes_page_names_what_its_run_does_not_support(run):
    """Two trials of most batch sizes, and no higher rate than the recommended one at its size."""
    page = Path(__file__).parents[1] / "docs" / "run"
    shown = said(report_page([read_recorded(page)]).html())

    assert (
        "This run does not support (see Checks): the learning rate is bracketed at every" in shown
    )
    assert "nothing that the run itself points to" not in shown
    assert "1 of them fails." in shown
    assert "the best of so many trials of the run&#39;s length (8: 4, 16: 5, 32: 3," in shown
    assert (
        "at batch size 32, 64, 128, 256, 1,024 the best learning rate has no lower or no" in shown
    )
    assert "Diamonds: means on fresh seeds, with 95 % t intervals." in shown
    assert "open circles are medians of trials beside others, not comparable with it." in shown
    assert "In the table ± is the standard deviation between n seeds" in shown
    assert failed_checks(run) == []


def test_what_is_outside_of_the_picture_is_named(tmp_path):
    rows = [row_of("baseline", "baseline", 1, BASELINE)]
    scores = {8: 0.31, 16: 0.3, 32: 0.32, 64: 0.33, 128: 9.5}
    for size, score in scores.items():
        row = row_of(f"search-{size:04d}", "search", size, configuration(size, 0.1))
        rows.append(row | {"score": score})
    run = read_recorded(write_run(tmp_path / "run", rows, answer=False))

    (note,) = [text for text in notes(run) if text.startswith("Outside the picture")]
    assert "best of the search: batch size 128 (9.5)." in note


def test_memory_ends_where_it_ended_on_this_device(tmp_path):
    rows = [row_of("baseline", "baseline", 1, BASELINE)]
    for size, status, device in ((16, "oom", "other"), (32, "completed", None), (64, "oom", None)):
        row = row_of(f"search-{size}", "search", 1, configuration(size, 0.1), status=status)
        rows.append(row | ({"device": device} if device else {}))
    run = read_recorded(write_run(tmp_path / "run", rows, answer=False))

    assert [mark.x for mark in wall_marks(run)] == [64]


def test_several_runs_stand_on_one_page(run, tmp_path):
    other = read_recorded(one_success(tmp_path / "other"))
    page = report_page([run, other])
    headings = [section.heading for section in page.sections]

    assert headings[0] == "The runs"
    assert [row[0] for row in page.sections[0].rows] == ["clean", "other"]
    assert sum(heading.startswith(("clean: ", "other: ")) for heading in headings) == 2
    assert len(page.data()["tables"]) == 2


def test_runs_of_one_name_are_called_by_what_tells_them_apart(run, tmp_path):
    paths = [Path("/x/seed1/run"), Path("/x/seed2/run"), Path("/y/seed2/run"), Path("/x/other")]
    runs = [dataclasses.replace(run, path=path) for path in paths]
    page = report_page([*runs, runs[3]])

    names = ["seed1/run", "x/seed2/run", "y/seed2/run", "other", "other"]
    assert [row[0] for row in page.sections[0].rows] == names
    assert any(section.heading.startswith("seed1/run: ") for section in page.sections)


def test_the_command_draws_runs_and_refuses_what_is_none(run_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    assert tfbatch.report.main([str(run_dir), str(run_dir)]) == 0
    assert (tmp_path / "report.html").stat().st_size > 1_000_000
    assert "Written: report.html" in capsys.readouterr().out
    with pytest.raises(InputError, match="At least one run folder"):
        tfbatch.report.main([])
    with pytest.raises(InputError, match="must be a run folder"):
        tfbatch.report.main([str(tmp_path)])


def test_a_folder_that_cannot_be_written_may_have_its_page_elsewhere(run_dir, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    (copy / "report.html").unlink(missing_ok=True)
    (copy / "report.html").mkdir()  # as nobody can write, the superuser included

    with pytest.raises(RunFolderError, match=r"cannot be written: .* elsewhere with --page=FILE\."):
        tfbatch.report.main([str(copy)])


@pytest.mark.parametrize("page", ["absent/page.html", "."])
def test_a_page_that_cannot_be_written_is_refused_before_a_run_is_read(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged").mkdir()

    with pytest.raises(InputError, match=f"--page must be a file.* Received: {re.escape(page)}"):
        tfbatch.report.main(["damaged", f"--page={page}"])


def test_settings_without_an_objective_are_named_as_damaged(tmp_path):
    path = one_success(tmp_path / "run")
    (path / "config.json").write_text(json.dumps({"identity": {}, "budget": {}}))

    with pytest.raises(RunFolderError, match=r"config.json is damaged.*`objective`.*None"):
        read_recorded(path)


def test_a_report_is_drawn_without_tensorflow(run_dir, tmp_path):
    """Also where there are curves to read."""
    program = (
        "import sys; from pathlib import Path; from tfbatch.reporting.page import write_report\n"
        f"write_report(Path({str(run_dir)!r}))\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


class Told:
    """Stands in for the progress of a search."""

    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)

    def doing(self, text):
        pass


def test_a_run_that_fails_is_drawn_too_and_its_failure_stands(tmp_path):
    path, told = no_success(tmp_path / "run"), Told()

    with pytest.raises(InputError, match="the run's own"), report_at_the_end(path, told):
        raise InputError("the run's own")
    assert (path / "report.html").exists()
    assert told.said == []


def test_a_run_that_is_quit_at_once_draws_nothing(tmp_path):
    path = no_success(tmp_path / "run")

    with pytest.raises(KeyboardInterrupt), report_at_the_end(path, Told()):
        raise KeyboardInterrupt
    assert not (path / "report.html").exists()


def test_a_failure_to_draw_costs_one_sentence(tmp_path, monkeypatch):
    path, told = no_success(tmp_path / "run"), Told()

    def fails(run):
        raise ZeroDivisionError("a bug in a figure")

    monkeypatch.setattr("tfbatch.reporting.page.landscape", fails)
    with report_at_the_end(path, told):
        pass
    assert told.said == ["report.html could not be drawn: ZeroDivisionError: a bug in a figure"]


def test_everything_that_is_searched_is_on_the_page(tmp_path):
    """The loss follows the dropout; the baseline leaves the dropout to the model."""
    rows, used = [row_of("baseline", "baseline", 1, BASELINE)], []
    for number, one in enumerate(searched(60), start=1):
        dropout = (0.0, 0.3, 0.6)[number * 7 // 5 % 3]
        optimizer = Named(name="sgd", momentum=0.9, weight_decay=1e-4 * 10 ** (number % 2))
        one = one.model_copy(
            update={"model": {"dropout": dropout, "bias": True}, "optimizer": optimizer}
        )
        row = row_of(f"search-{number:04d}", "search", number, one)
        loss = 0.3 + dropout + 1e-3 * math.sin(number)
        rows.append(row | {"score": loss, "metric_val_loss": loss})
        used.append((dropout, optimizer.arguments["weight_decay"]))
    best = min(rows[1:], key=lambda row: row["score"])
    best = Configuration.from_flat(best)
    run = read_recorded(write_run(tmp_path / "run", [*rows, *verified([best])]))
    found = importance_of(run)
    lines, shown = parallel(run), table(run)
    columns = [column.name for column in shown.columns]
    axes = {axis.label: axis for axis in lines.axes}

    assert found.shares[0][0] == "model dropout"
    assert found.shares[0][1] > 0.5
    assert (found.trials, found.left_out) == (60, ())
    assert "model bias" not in columns  # all have the same one
    place = columns.index("model dropout"), columns.index("optimizer weight_decay")
    assert [tuple(row[n] for n in place) for row in shown.rows[1:61]] == used
    assert [shown.rows[0][n] for n in place] == [None, None]
    assert axes["model dropout"].values[:60] == tuple(dropout for dropout, _ in used)
    assert axes["optimizer weight_decay"].log
    assert "7 without a value on every axis" in lines.title  # the baseline, and its fresh seeds
    assert "dropout 0.0, bias True" in said(report_page([run]).html())


def test_arguments_of_one_schedule_among_others_are_left_out_and_named(tmp_path):
    rows = [row_of("baseline", "baseline", 1, BASELINE)]
    for number, one in enumerate(searched(30), start=1):
        if one.schedule.name == "wsd":
            schedule = Named(name="wsd", cooldown=(0.2, 0.4)[number % 2])
            one = one.model_copy(update={"schedule": schedule})
        rows.append(row_of(f"search-{number:04d}", "search", number, one))
    run = read_recorded(write_run(tmp_path / "run", rows, answer=False))
    found = importance_of(run)

    assert found.left_out == ("schedule cooldown",)
    assert found.trials == 31
    assert "has schedule cooldown: no bar shows it" in importance_sentence(found)
    assert "the best tenth, 4 trials, from all" in importance_sentence(found)
    assert "with 4 of them the order of the bars is weak" in importance_sentence(found)
    assert "weak" not in importance_sentence(dataclasses.replace(found, trials=41))


def test_importance_is_refused_of_few_trials(tmp_path):
    run = read_recorded(one_size(tmp_path / "run"))

    assert importance_of(run).shares == ()
    assert "it needs 20" in importance_of(run).reason


def test_importance_is_refused_of_equal_scores(tmp_path):
    rows = [row_of("baseline", "baseline", 1, BASELINE)]
    rows += [row_of(f"search-{n:04d}", "search", n, c) for n, c in enumerate(searched(30), start=1)]
    equal = [row | {"score": 0.5, "metric_val_loss": 0.5} for row in rows]
    run = read_recorded(write_run(tmp_path / "run", equal, answer=False))

    assert importance_of(run).reason == "all scores are equal"


def test_a_slope_is_fitted_to_what_is_marked_the_baseline_included(tmp_path):
    best = {32: BASELINE.base_learning_rate, 64: 0.02, 128: 0.04}
    rows = [row_of("baseline", "baseline", 1, BASELINE) | {"score": 0.1}]
    for size, rate in best.items():
        for factor in (0.5, 1.0, 2.0):
            if (size, factor) == (32, 1.0):
                continue
            one = configuration(size, factor * rate)
            row = row_of(f"search-{len(rows):04d}", "search", 1, one)
            rows.append(row | {"score": 0.1 if factor == 1.0 else 0.2})
    run = read_recorded(write_run(tmp_path / "run", rows, answer=False))
    (marked,) = (s for s in landscape(run).series if s.name == "best of each batch size")
    (line,) = (s for s in landscape(run).series if s.name == "fitted: exponent 1")

    assert dict(zip(marked.x, marked.y, strict=True)) == pytest.approx(best)
    assert dict(zip(line.x, line.y, strict=True)) == pytest.approx(best)
    assert "Fitted to the best of 32, 64, 128," in slope_note(run)


def test_the_forests_bar_is_recomputed_with_the_baselines_second_trainings(tmp_path):
    """Their noise is their own, so that they move the bar and none of the dots."""
    rows = [row_of("baseline", "baseline", 1, BASELINE)]
    best = configuration(64, 0.14)
    rows.append(row_of("search-0001", "search", 1, best))
    second = {again_name(BASELINE, number): noise for number, noise in ((1, 0.04), (2, -0.01))}
    for row in verified([best]):
        score = row["score"] + second.get(row["trial"], 0.0)
        rows.append(row | {"score": score, "metric_val_loss": score})
    run = read_recorded(write_run(tmp_path / "run", rows))
    scores = collections.defaultdict(list)
    for row in rows[2:]:
        scores[row["batch_size"], "again" in row["trial"]].append(row["score"])
    dots = [a - b for a, b in zip(scores[32, False], scores[64, False], strict=True)]
    middle = statistics.mean(scores[32, False] + scores[32, True]) - statistics.mean(
        scores[64, False]
    )

    series = {one.name: one for one in forest(run).series}
    assert series["one seed"].x == pytest.approx(dots)
    (bar,) = (one for name, one in series.items() if "mean and interval" in name)
    assert bar.x == pytest.approx((middle,))
    assert abs(middle - statistics.mean(dots)) > 0.003
    assert (bar.low[0] + bar.high[0]) / 2 == pytest.approx(middle)
    page = said(report_page([run]).html())
    assert "The baseline has 6 seeds in the bar, 3 of the dots and 3 second trainings" in page


def test_where_the_baseline_failed_on_a_seed_the_forest_is_of_the_best_mean(tmp_path):
    best, second = configuration(64, 0.14), configuration(16, 0.07)
    rows = [row_of("baseline", "baseline", 1, BASELINE)]
    rows += [row_of(f"search-000{n}", "search", n, one) for n, one in ((1, best), (2, second))]
    lost = row_of(trial_name(BASELINE, 1), "confirmation", 1001, BASELINE, status="diverged")
    rows += [lost if row["trial"] == lost["trial"] else row for row in verified([best, second])]
    run = read_recorded(write_run(tmp_path / "run", rows))

    assert run.answer.baseline.completed
    assert reference_of(run).key == run.answer.verification.best
    assert any(series.low for series in forest(run).series)


def test_an_answer_that_does_not_rest_on_all_trials_says_so(tmp_path):
    path = clean_run(tmp_path / "run", 12)
    (path / "wall_time.json").write_text('{"seconds": 123.4}')
    answered = len(read_recorded(path).trials)
    assert "It rests on the first" not in " ".join(two_sentences(read_recorded(path)))
    later = [row_of(f"search-{n:04d}", "search", n, BASELINE) for n in (91, 92)]
    with RunFolder(path, identity=IDENTITY, budget=BUDGET) as folder:
        for row in later:
            folder.journal.append(row)
    (path / "wall_time.json").write_text('{"seconds": 300.0}')
    run = read_recorded(path)

    assert f"rests on the first {answered} of {answered + 2} trials" in two_sentences(run)[0]
    assert f"It cost 5 min in all: {answered + 2} trials" in str(cost_of(run))


def test_a_curve_begins_where_its_training_began(tmp_path, monkeypatch):
    """Also where the trial went on with one, or branched off with another batch size."""
    one, other = configuration(32, 0.1), configuration(64, 0.1)
    trunk = TrialSpec("trunk", "search", 1, one, TOTAL_EXAMPLES, 1000, to_examples=1280)
    rows = [
        row_of("baseline", "baseline", 1, BASELINE),
        row_of("trunk", "search", 1, one, to_examples=1280),
        row_of("rest", "search", 1, one, parent=trunk),
        row_of("branch", "search", 1, other, parent=trunk, course_from=1280),
    ]
    path = write_run(tmp_path / "run", rows)
    write_curve(path, "trunk", [2.0, 1.9])
    write_curve(path, "rest", [1.0, 0.9])
    write_curve(path, "branch", [0.8, 0.7])
    run = read_recorded(path)
    names = ("rest", "branch")
    monkeypatch.setattr(
        "tfbatch.reporting.learning_curves.shown", lambda run: [run.trials.find(n) for n in names]
    )
    rest, branch = learning_curves(run).series

    assert rest.x == branch.x == (1024.0, 1280.0, 2304.0, 2500.0)
    assert rest.y == pytest.approx((2.0, 1.9, 1.0, 0.9))
    assert branch.y == pytest.approx((2.0, 1.9, 0.8, 0.7))
    assert rest.in_other_units[0] == (32.0, 40.0, 72.0, 79.0)
    assert branch.in_other_units[0] == (32.0, 40.0, 56.0, 60.0)
    step = {size: run.step_seconds.median(size) for size in (32, 64)}
    assert branch.in_other_units[1] == pytest.approx(
        [n * step[32] for n in (32, 40)] + [40 * step[32] + n * step[64] for n in (16, 20)]
    )
