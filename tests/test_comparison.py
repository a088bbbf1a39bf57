"""Is a difference noise? The estimator by closed forms and coverage, then run folders."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from search_fixtures import BASELINE, finished

import tfbatch
import tfbatch.compare
from tfbatch.answer.candidates import trial_name
from tfbatch.answer.find import find_answer
from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.estimators.difference import difference
from tfbatch.run_folder.files import RECOMMENDATION
from tfbatch.run_folder.folder import RunFolder
from tfbatch.trial.finished_trial import read_row
from tfbatch.trial.trials import Trials

RUN = Path(__file__).parents[1] / "docs" / "run"
FIRST = {1: 0.52, 2: 0.50, 3: 0.54}
SECOND = {4: 0.41, 5: 0.44, 6: 0.41, 7: 0.42}


def test_of_two_that_agree_the_interval_is_that_of_a_pooled_variance():
    """Both deviate alike here: Welch's degrees of freedom are then those of a pooled variance."""
    first, second = {1: 0.1, 2: 0.3}, {3: 0.7, 4: 0.9}
    found = difference(first, second, direction="min")

    exact = stats.ttest_ind([0.1, 0.3], [0.7, 0.9]).confidence_interval(0.95)
    assert found.gain == pytest.approx(0.6)
    assert (found.interval.low, found.interval.high) == pytest.approx((-exact.high, -exact.low))
    assert found.deviation == pytest.approx((math.sqrt(0.02),) * 2)


def test_a_difference_beyond_the_noise_names_the_better_one_in_either_direction():
    for direction, verdict in (("max", "first"), ("min", "second")):
        found = difference(FIRST, SECOND, direction=direction)
        back = difference(SECOND, FIRST, direction=direction)

        assert found.verdict == verdict
        assert back.verdict == ({"first": "second", "second": "first"}[verdict])
        assert back.gain == pytest.approx(-found.gain)
        assert found.seeds_to_decide is None
        assert (found.seeds, found.shared) == ((3, 4), 0)


def test_pairs_are_compared_within_themselves_where_seeds_have_much_in_common():
    levels = np.random.default_rng(1).normal(size=12)
    first = {seed: level + 0.1 + 0.02 * (-1) ** seed for seed, level in enumerate(levels)}
    second = dict(enumerate(levels))
    paired = difference(first, second, direction="max")
    apart = difference(first, {seed + 100: s for seed, s in second.items()}, direction="max")

    exact = stats.ttest_rel(list(first.values()), list(second.values())).confidence_interval()
    assert (paired.shared, paired.pairs) == (12, 12)
    assert (paired.interval.low, paired.interval.high) == pytest.approx((exact.low, exact.high))
    assert apart.interval.high - apart.interval.low > 1.5 * (
        paired.interval.high - paired.interval.low
    )
    assert apart.verdict == "undecided"


def test_without_pairs_it_is_welchs_interval_however_unequal_seeds_and_deviations():
    first, second = [0.1, 0.9, 0.4], [0.52, 0.50, 0.51, 0.53, 0.49]
    found = difference(dict(enumerate(first)), dict(enumerate(second, 10)), direction="max")

    exact = stats.ttest_ind(first, second, equal_var=False).confidence_interval()
    assert (found.interval.low, found.interval.high) == pytest.approx((exact.low, exact.high))
    assert (found.shared, found.pairs) == (0, 0)


def test_two_seeds_against_more_weigh_the_quantiles_of_both():
    """Variances of 2 and 4, of 2 and 5 seeds."""
    first, second = {1: 0.0, 2: 2.0}, dict(enumerate((3, 3, 5, 7, 7), 5))
    found = difference(first, second, direction="max")

    parts = (2 / 2, 4 / 5)
    quantiles = stats.t.ppf(0.975, [1, 4])
    half = np.dot(parts, quantiles) / math.sqrt(sum(parts))
    assert found.interval.high - found.gain == pytest.approx(half)


def test_scores_without_spread_are_told_apart_or_as_good():
    same = {1: 0.75, 2: 0.75, 3: 0.75}
    lower = {1: 0.25, 2: 0.25, 3: 0.25}

    assert difference(same, dict(same), direction="max").verdict == "as good"
    found = difference(same, lower, direction="max")
    assert (found.verdict, found.without_spread) == ("first", True)
    noisy = {1: 0.51, 2: 0.57, 3: 0.62, 4: 0.55}
    shifted = {seed: score - 0.01 for seed, score in noisy.items()}
    assert difference(noisy, shifted, direction="max").verdict == "first"


def test_within_the_band_is_as_good_and_a_wide_interval_is_undecided():
    close = difference({1: 0.500, 2: 0.501}, {3: 0.501, 4: 0.502}, direction="max", band=0.05)
    wide = difference({1: 0.50, 2: 0.60}, {3: 0.51, 4: 0.61}, direction="max", band=0.05)

    assert (close.verdict, wide.verdict) == ("as good", "undecided")


def test_one_seed_each_tells_nothing_and_others_tell_of_the_noise():
    alone = difference({1: 0.5}, {2: 0.4}, direction="max")
    others = [{1: 0.50, 2: 0.51, 3: 0.49}, {1: 0.3, 2: 0.31, 3: 0.29}]
    known = difference({1: 0.5}, {2: 0.4}, direction="max", others=others)

    assert not alone.interval.bounded
    assert (alone.verdict, alone.seeds_to_decide) == ("undecided", None)
    assert known.deviation == pytest.approx((0.01, 0.01))
    assert known.verdict == "first"


def test_the_seeds_that_decide_would_decide():
    first, second = {1: 0.50, 2: 0.56}, {1: 0.45, 2: 0.51}
    found = difference(first, second, direction="max")

    more = found.seeds_to_decide
    assert (found.verdict, more) == ("undecided", pytest.approx(8, abs=5))
    longer = [{seed: one[1 + seed % 2] for seed in range(more)} for one in (first, second)]
    assert difference(*longer, direction="max").verdict == "first"


def test_shared_seeds_are_expected_to_decide_with_fewer_where_they_have_much_in_common():
    """Three shared seeds are not paired yet, those that are asked for would be."""
    levels = {1: 0.50, 2: 0.60, 3: 0.70}
    first = {1: 0.512, 2: 0.611, 3: 0.713}
    shared = difference(first, levels, direction="max")
    apart = difference(first, {s + 9: v for s, v in levels.items()}, direction="max")

    assert (shared.verdict, shared.pairs, shared.seeds_to_decide) == ("undecided", 0, 4)
    assert apart.verdict == "undecided"
    assert apart.seeds_to_decide is None, "more than 80"


def test_an_interval_covers_a_difference_that_is_not_there():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        scores = rng.normal(size=(2, 3))
        rows = [dict(enumerate(row)) for row in scores]
        covered += 0.0 in difference(*rows, direction="max").interval
    assert covered / 300 >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / 300)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first": {}}, "need scores"),
        ({"first": {1: math.nan}}, "must be finite"),
        ({"band": -1.0}, "`band` must be >= 0"),
        ({"level": 1.0}, "`level` must be > 0 and < 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, message):
    arguments = {"first": FIRST, "second": SECOND, "direction": "max", **change}
    with pytest.raises(InputError, match=message):
        difference(arguments.pop("first"), arguments.pop("second"), **arguments)


SMALL = Configuration(batch_size=16, base_learning_rate=0.1)
LARGE = Configuration(batch_size=64, base_learning_rate=0.1)
LOSSES = ((BASELINE, (1.00, 1.02, 0.98)), (SMALL, (0.50, 0.51, 0.49)))


def write(path, *, scale=1.0, **identity):
    """A run whose baseline and one other configuration were verified on three shared seeds."""
    same = {"dataset": {"name": "digits"}, "objective": "val_loss:min", "seed": 1}
    with RunFolder(path, identity=same | identity, budget={}) as folder:
        rows = [
            finished("baseline", BASELINE, phase="baseline", loss=scale),
            finished("search-0001", SMALL, loss=0.4 * scale),
            finished("search-0002", LARGE, loss=0.45 * scale),
            finished("search-0003", LARGE.model_copy(update={"batch_size": 8}), status="oom"),
        ]
        for configuration, losses in LOSSES:
            rows += [
                finished(
                    trial_name(configuration, number),
                    configuration,
                    loss=loss * scale,
                    seed=100 + number,
                    phase="confirmation",
                )
                for number, loss in enumerate(losses, start=1)
            ]
        for row in rows:
            folder.journal.append(row.row)
    return path


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return write(tmp_path_factory.mktemp("runs") / "run")


def test_two_rows_of_a_run_are_compared_on_their_fresh_seeds(run_dir):
    found = tfbatch.compare_runs(run_dir, rows=["search-0001", "baseline"])

    assert (found.verdict, found.shared_seeds) == ("first", 3)
    assert found.gain == pytest.approx(0.5)
    assert found.first.on_fresh_seeds
    assert found.second.seeds == 3
    assert found.low > 0.4
    assert "The difference is not noise. A is better by 0.5000" in str(found)
    assert all(len(line) <= 80 for line in str(found).splitlines())


def test_the_interval_of_the_sentence_is_that_of_the_better_one(run_dir):
    found = tfbatch.compare_runs(run_dir, rows=["baseline", "search-0001"])
    (ends,) = re.findall(r"B is better by 0.5000 \(95% interval (\S+) to (\S+),", found.sentence())

    assert found.high < 0  # of A's lead
    assert [float(end) for end in ends] == pytest.approx([-found.high, -found.low], abs=1e-4)


@pytest.mark.parametrize(
    ("level", "said"), [(0.95, "95%"), (0.975, "97.5%"), (0.995, "99.5%"), (0.999, "99.9%")]
)
def test_an_interval_is_named_with_all_digits_of_its_level(run_dir, level, said):
    found = tfbatch.compare_runs(run_dir, rows=["search-0001", "baseline"], level=level)
    assert f"({said} interval " in found.sentence()


def test_a_trial_of_the_search_alone_borrows_the_noise_of_the_verified(run_dir):
    found = tfbatch.compare_runs(run_dir, rows=["search-0001", "search-0002"])

    assert (found.second.seeds, found.second.on_fresh_seeds) == (1, False)
    assert found.low is not None
    assert any("looks better than it is" in note for note in found.notes)
    assert found.command is None, "the same command does not verify it"


def test_two_runs_are_compared_by_what_was_named(run_dir, tmp_path):
    other = shutil.copytree(run_dir, tmp_path / "other")
    found = tfbatch.compare_runs(run_dir, other, rows=["baseline", "baseline"], tolerance=0.1)

    assert (found.gain, found.verdict, found.shared_seeds) == (0.0, "as good", 3)
    assert found.second.run == str(other)


def test_stored_arrays_are_the_same_wherever_they_lie(tmp_path):
    def data(folder):
        return {"name": "data", "kind": "stored", "where": f"{folder}/data/abc"}

    runs = [write(tmp_path / n, dataset=data(n), records=r) for n, r in ("ax", "bx", "cy")]

    assert tfbatch.compare_runs(*runs[:2], rows=["baseline", "baseline"]).gain == 0.0
    with pytest.raises(InputError, match="same records only"):
        tfbatch.compare_runs(runs[0], runs[2], rows=["baseline", "baseline"])


def test_runs_that_share_no_scale_are_refused_with_the_reason(run_dir, tmp_path):
    data = write(tmp_path / "data", dataset={"name": "cifar10"})
    objective = write(tmp_path / "objective", objective="val_accuracy:max")
    model = write(tmp_path / "model", model="resnet")

    with pytest.raises(InputError, match=r"on the same dataset only.* with digits.* cifar10"):
        tfbatch.compare_runs(run_dir, data, rows=["baseline", "baseline"])
    with pytest.raises(InputError, match=r"on the same objective only"):
        tfbatch.compare_runs(run_dir, objective, rows=["baseline", "baseline"])
    found = tfbatch.compare_runs(run_dir, model, rows=["baseline", "baseline"])
    assert found.notes[0] == "The runs differ in `model`: None and resnet."


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["baseline"], "`rows` must name two trials"),
        (["baseline", "baseline"], "must be two configurations"),
        (["baseline", "search-001"], "has no trial search-001.*Did you mean `search-0001`"),
        (["baseline", "search-0003"], "has no score, it ended as oom"),
    ],
)
def test_rows_that_cannot_be_compared_are_refused(rows, message, run_dir):
    with pytest.raises(InputError, match=message):
        tfbatch.compare_runs(run_dir, rows=rows)


def answered(path, **changes):
    """The run of README with another answer."""
    shutil.copytree(RUN, path)
    answer = json.loads((path / "recommendation.json").read_text())
    (path / "recommendation.json").write_text(json.dumps({**answer, **changes}))
    return path


def test_by_default_what_is_recommended_is_compared_and_it_says_that_it_was_picked():
    found = tfbatch.compare_runs(RUN)

    assert (found.first.trial, found.second.trial) == ("search-0006", "baseline")
    assert found.pairs == 5
    assert "that of the 5 shared seeds, not that of the means" in found.notes[0]
    assert "search-0006 was picked among 4 by the same scores" in found.notes[1]
    assert len(tfbatch.compare_runs(RUN, rows=["search-0006", "baseline"]).notes) == 1


def test_where_the_baseline_is_kept_the_best_of_its_rivals_is_compared_with_it(tmp_path):
    kept = answered(tmp_path / "kept", recommended_trial="baseline")
    found = tfbatch.compare_runs(kept)

    assert (found.first.trial, found.second.trial) == ("search-0006", "baseline")


def kept_baseline(path, *rows):
    """A run with these further rows that keeps its baseline."""
    same = {"dataset": {"name": "digits"}, "objective": "val_loss:min", "seed": 1}
    baseline = finished("baseline", BASELINE, phase="baseline", loss=1.0)
    with RunFolder(path, identity=same, budget={}) as folder:
        for row in (baseline, *rows):
            folder.journal.append(row.row)
    answer = find_answer(Trials.read(path), batch_sizes=2)
    kept = answer.model_copy(update={"recommended_trial": "baseline"})
    (path / RECOMMENDATION).write_text(kept.model_dump_json(), encoding="utf-8")
    return path


def test_where_all_rivals_failed_on_a_fresh_seed_the_best_of_the_search_is_compared(tmp_path):
    searched = [
        finished("search-0001", SMALL, loss=0.4),
        finished("search-0002", LARGE, loss=0.45),
        finished("search-0003", BASELINE, loss=0.3),  # the baseline's own configuration
    ]
    fresh = [
        finished(trial_name(one, 1), one, seed=101, phase="confirmation", status=status)
        for one, status in ((BASELINE, "completed"), (SMALL, "diverged"), (LARGE, "diverged"))
    ]
    found = tfbatch.compare_runs(kept_baseline(tmp_path / "run", *searched, *fresh))

    assert (found.first.trial, found.second.trial) == ("search-0001", "baseline")
    assert not found.first.on_fresh_seeds
    assert "search-0001 failed on a fresh seed, which is not in its mean." in found.notes


def test_without_a_verification_the_best_trial_of_full_length_is_compared(tmp_path):
    short = finished("search-0001", SMALL, loss=0.1)
    short = read_row({**short.row, "total_examples": short.total_examples // 2})
    whole = finished("search-0002", LARGE, loss=0.45)
    found = tfbatch.compare_runs(kept_baseline(tmp_path / "run", short, whole))
    assert found.first.trial == "search-0002"

    with pytest.raises(InputError, match="no other trial of full length has completed"):
        tfbatch.compare_runs(kept_baseline(tmp_path / "short", short))


def test_more_seeds_are_asked_of_a_verification_only_where_it_trains_them(tmp_path):
    rows = ["search-0006", "search-0024"]
    question = {
        "key": "search-0024",
        "question": "as good",
        "seeds": 9,
        "option": "",
        "minutes": 1.0,
    }
    ended = tfbatch.compare_runs(RUN, rows=rows)
    goes_on = answered(tmp_path / "open", undecided=[question])
    asked = tfbatch.compare_runs(goes_on, rows=rows)

    assert (ended.verdict, ended.command) == ("undecided", None)
    assert "trains no more seeds of both" in ended.notes[-1]
    look = next(one for one in (3, 5, 10, 20, 40, 80) if one >= asked.seeds_to_decide)
    assert asked.command == f"the same tfbatch tune with --verification_seeds={look}"
    assert tfbatch.compare_runs(goes_on, rows=rows, tolerance=0.001).command is None
    assert tfbatch.compare_runs(goes_on, rows=["search-0006", "search-0019"]).command is None


def test_the_command_prints_the_comparison_or_one_json_document(run_dir, capsys):
    rows = "--rows=search-0001,baseline"
    assert tfbatch.compare.main([str(run_dir), rows]) == 0
    found = tfbatch.compare_runs(run_dir, rows=["search-0001", "baseline"])
    assert capsys.readouterr().out == f"{found}\n"

    tfbatch.compare.main([str(run_dir), rows, "--json"])
    document = json.loads(capsys.readouterr().out)
    assert (document["schema_version"], document["command"]) == (1, "compare")
    assert document["result"] == found.model_dump(mode="json")
    with pytest.raises(InputError, match="A run folder is required"):
        tfbatch.compare.main([])
    with pytest.raises(InputError, match="Unexpected argument `c`"):
        tfbatch.compare.main(["a", "b", "c"])


def test_small_losses_are_told_apart_in_every_sentence(tmp_path):
    found = tfbatch.compare_runs(
        write(tmp_path / "run", scale=1e-5), rows=["search-0001", "baseline"]
    )

    assert "0.0000" not in str(found)
    assert "5e-06 ± 1e-07" in str(found)
    assert "A is better by 5e-06 (95% interval +4" in str(found)


def test_a_folder_that_is_named_in_two_ways_tells_of_its_noise_once(run_dir, tmp_path):
    (tmp_path / "link").symlink_to(run_dir)
    rows = ["search-0001", "search-0002"]
    found = tfbatch.compare_runs(run_dir, tmp_path / "link", rows=rows)

    assert found == tfbatch.compare_runs(run_dir, rows=rows)
