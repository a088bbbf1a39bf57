"""Replay tables: the plan, the oracle that proposes it, the stored form, and what a search asks."""

import dataclasses
import math
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

from replay.oracle import PlanOracle, Settings  # noqa: E402
from replay.plan import PLANS, TablePlan, Training  # noqa: E402
from replay.table import Curve, OutsideTableError, Price, Table, Trained  # noqa: E402

from tfbatch.oracles import Proposal, Stop, Told  # noqa: E402

TINY = TablePlan(
    name="tiny",
    role="development",
    reason="for tests",
    data="digits",
    model="mlp",
    base_learning_rate=0.05,
    batch_sizes=(32, 128),
    octaves=(-1.0, 0.0),
    seeds=2,
    search_seeds=1,
    total_examples=4_000,
    epoch_examples=1_085,
    shares=(0.5, 1.0),
    switches=((32, 128),),
    switch_octaves=(0.0,),
)
NAMES = {"batch_size", "learning_rate_octaves", "schedule"}


def test_a_plan_holds_every_cell_and_parents_come_first():
    every = TINY.trainings()

    assert len(every) == len(set(every)) == 2 * 2 * (2 + 2 + 1) + 1
    for place, training in enumerate(every):
        parent = TINY.parent(training)
        assert parent is None or parent in every[:place]
        assert TINY.start(training) < TINY.end(training)


def test_the_parts_of_a_training_end_where_the_plan_says():
    trunk = Training(128, 0.0, "trunk", 2_000)
    cool_down = Training(128, 0.0, "cool_down", 2_000)
    switched = Training(128, 0.0, "switched", 4_000, from_batch_size=32)

    assert TINY.end(trunk) == 13 * 128  # the first update beyond 80 % of 2,000
    assert TINY.part(trunk, None).to_examples == 1_600
    assert (TINY.start(cool_down), TINY.end(cool_down)) == (13 * 128, 2_000)
    assert TINY.updates(cool_down) == 3  # of 336 examples
    assert TINY.parent(switched) == Training(32, 0.0, "trunk", 2_000)
    share = TINY.part(switched, "a").schedule.arguments["cooldown"]
    assert TINY.start(switched) == 1_600
    assert share * (4_000 - 1_600) == pytest.approx(0.2 * 4_000)
    assert TINY.learning_rate(128, -1.0) == pytest.approx(0.05 * 4 / 2)
    assert TINY.seconds(cool_down, {128: 0.5}, 7.0) == 3 * 0.5 + 7.0


def test_what_is_proposed_says_which_training_it_is():
    for training in TINY.trainings():
        parent = TINY.parent(training)
        part = TINY.part(training, "the parent" if parent else None)

        assert TINY.training(TINY.values(training), part, parent) == training
    with pytest.raises(LookupError, match="has no Training"):
        TINY.training({"batch_size": 64, "learning_rate_octaves": 0.0}, None, None)
    cool_down = Training(128, 0.0, "cool_down", 2_000)
    other = Training(128, 0.0, "trunk", 4_000)
    with pytest.raises(LookupError, match=r"with the parent Training\(.*length=4000"):
        TINY.training(TINY.values(cool_down), TINY.part(cool_down, "a"), other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shares": (0.5, 0.25, 1.0)}, "ascend"),
        ({"search_seeds": 3}, "at most seeds"),
        ({"batch_sizes": (32, 512), "switches": ()}, "batch size 512: every length needs"),
        ({"switches": ((32, 64),)}, "between batch sizes of the grid"),
        ({"warmup_examples": 1_600}, "warm-up must end"),
    ],
)
def test_a_plan_that_cannot_be_made_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        TablePlan.model_validate({**TINY.model_dump(), **change})


def test_the_plans_are_those_of_the_benchmark():
    assert len({plan.name for plan in PLANS}) == len(PLANS) == 4
    assert [plan.name for plan in PLANS if plan.role == "held_out"] == ["cifar10_small_cnn"]
    for plan in PLANS:
        assert 0.0 in plan.octaves
        assert len(plan.octaves) >= 7
        # Updates: the largest batch size makes 50 at the full length.
        assert plan.total_examples / max(plan.batch_sizes) > 50
        if not plan.name.endswith("_long"):
            assert (len(plan.batch_sizes), len(plan.lengths), plan.seeds) == (6, 4, 6)


def make_oracle():
    """An oracle, and the trials that were proposed by it."""
    return PlanOracle(TINY, active=NAMES), {}


def drive(oracle, told, *, workers, rng, known=(), most=math.inf, diverges=frozenset()):
    """Runs proposals side by side, ending at random; the journal: trial, proposal, training.

    A trial that is open at the end is lost, as when a session is stopped.
    """
    journal, running, number = dict(known), {}, 1
    while True:
        while len(running) < workers:
            name = f"search-{number:04d}"
            before = journal.get(name)
            if before is None and len(journal) + len(running) >= most:
                break
            proposal = oracle.propose(name, known=before, bound=math.inf)
            if not isinstance(proposal, Proposal):
                break
            number += 1
            told[name] = oracle._training_of[name]
            if before is not None:
                oracle.tell(name, proposal, Told(1.0))
            else:
                parent = proposal.part and proposal.part.parent
                assert parent is None or told[parent] not in diverges
                running[name] = proposal
        if not running:
            return journal
        if len(journal) + len(running) >= most:
            keep = rng.choice(sorted(running))
            return {**journal, keep: running[keep]}
        ended = rng.choice(sorted(running))
        journal[ended] = running.pop(ended)
        oracle.tell(
            ended,
            journal[ended],
            Told(1.0, "diverged" if told[ended] in diverges else "completed"),
        )


def test_the_oracle_proposes_every_training_once_behind_its_trunk():
    oracle, told = make_oracle()
    drive(oracle, told, workers=3, rng=random.Random(1))

    assert sorted(told.values()) == sorted(TINY.trainings())
    assert isinstance(oracle.propose("one-more", known=None, bound=math.inf), Stop)


def test_what_would_go_on_from_a_trunk_that_diverged_is_left_out():
    diverges = {Training(32, 0.0, "trunk", 2_000)}
    oracle, told = make_oracle()
    drive(oracle, told, workers=2, rng=random.Random(2), diverges=diverges)

    absent = set(TINY.trainings()) - set(told.values())
    assert absent == {
        Training(32, 0.0, "cool_down", 2_000),
        Training(32, 0.0, "trunk", 4_000),
        Training(32, 0.0, "cool_down", 4_000),
        Training(128, 0.0, "switched", 4_000, 32),
    }


def test_a_plan_that_was_stopped_anywhere_is_completed():
    for place in range(1, len(TINY.trainings())):
        oracle, told = make_oracle()
        journal = drive(oracle, told, workers=2, rng=random.Random(place), most=place)
        first = {name: told[name] for name in journal}
        oracle, told = make_oracle()
        drive(oracle, told, workers=2, rng=random.Random(place), known=journal)

        assert {name: told[name] for name in journal} == first
        assert set(told.values()) == set(TINY.trainings())


def test_a_training_whose_process_was_killed_is_proposed_again():
    oracle, _ = make_oracle()
    first = oracle.propose("search-0001", known=None, bound=math.inf)
    oracle.forget("search-0001")

    assert oracle.propose("search-0002", known=None, bound=math.inf) == first


def test_a_training_that_ran_out_of_time_is_proposed_once_more():
    """Also when the journal is replayed: two cosines of a table were missing for good."""
    oracle, _ = make_oracle()
    first = oracle.propose("search-0001", known=None, bound=math.inf)
    oracle.tell("search-0001", first, Told(1.0, "timeout"))
    again = oracle.propose("search-0002", known=None, bound=math.inf)
    oracle.tell("search-0002", again, Told(1.0, "timeout"))

    assert again == first
    assert oracle.propose("search-0003", known=None, bound=math.inf) != first

    resumed, _ = make_oracle()
    resumed.propose("search-0001", known=first, bound=math.inf)
    resumed.tell("search-0001", first, Told(1.0, "timeout"))
    assert resumed.propose("search-0002", known=None, bound=math.inf) == first


def test_batch_sizes_that_do_not_fit_are_not_proposed():
    oracle, told = make_oracle()
    found = oracle.propose("search-0001", known=None, bound=33)
    assert found.values["batch_size"] == 32
    told["search-0001"] = None
    assert isinstance(oracle.propose("search-0002", known=None, bound=32), Stop)


def test_a_run_of_another_length_is_refused():
    settings = Settings(plan=TINY)
    space = SimpleNamespace(space=[SimpleNamespace(name="batch_size")])

    with pytest.raises(ValueError, match="must have the 4000 examples of the plan"):
        settings.make(space, direction="min", seed=1, total_examples=99)
    assert settings.make(space, direction="min", seed=1, total_examples=4_000)._active == {
        "batch_size"
    }


def curve(*points):
    examples, loss = zip(*points, strict=True)
    return Curve(
        np.array(examples, np.int32),
        np.array(loss, np.float32),
        1 - np.array(loss, np.float32) / 4,
    )


def loss_of(training, seed):
    """In closed form: best at 128, 0 octaves, the full length, by wsd; seeds differ by 1/8."""
    worse = {32: 1, 128: 0}[training.batch_size] - training.octaves
    length = 4_000 / training.length
    return 0.25 + worse / 2 + (length - 1) / 4 + (training.kind == "cosine") / 4 + seed / 8


def trained(training, seed):
    start, end = TINY.start(training), TINY.end(training)
    status = "completed"
    if (training.batch_size, training.octaves, training.kind) == (32, -1.0, "cosine"):
        status = "diverged"
    loss = loss_of(training, seed) if status == "completed" else math.nan
    middle = (start + end) // 2
    points = [(middle, 2.0)]
    if status == "completed":
        points.append((end, loss))
    return Trained(
        training=training,
        seed=seed,
        status=status,
        loss=loss,
        accuracy=1 - loss / 4,
        examples=end - start,
        steps=TINY.updates(training),
        seconds=1.5,
        curve=curve(*points),
        random_seed=1_000_000_000 + seed,
    )


@pytest.fixture
def table():
    every = [trained(t, seed) for seed in (1, 2) for t in TINY.trainings()]
    about = {"command": "none", "device": "none"}
    return Table(TINY, every, step_seconds={32: (2.0, 1.0, 9.0), 128: (3.0,)}, about=about)


def test_a_table_is_what_was_written(table, tmp_path):
    table.write(tmp_path / "tables" / "tiny.npz")
    again = Table.read(tmp_path / "tables" / "tiny.npz")

    assert (again.plan, again.about, again.step_seconds) == (
        table.plan,
        table.about,
        table.step_seconds,
    )
    assert again.missing() == []
    for seed in (1, 2):
        for training in TINY.trainings():
            ours, theirs = table.trained(training, seed), again.trained(training, seed)
            for field in dataclasses.fields(Trained):
                if field.name != "curve":
                    value = getattr(ours, field.name)
                    assert value == getattr(theirs, field.name) or math.isnan(value)
            for name in ("examples", "loss", "accuracy"):
                found = getattr(theirs.curve, name)
                np.testing.assert_array_equal(getattr(ours.curve, name), found)
                assert found.dtype == getattr(ours.curve, name).dtype


def test_a_file_of_another_schema_is_refused(table, tmp_path, monkeypatch):
    monkeypatch.setattr("replay.table.SCHEMA_VERSION", 0)
    table.write(tmp_path / "old.npz")
    monkeypatch.undo()
    np.savez(tmp_path / "other.npz", x=np.zeros(1))

    with pytest.raises(ValueError, match=r"has schema version 0, and this code reads 1"):
        Table.read(tmp_path / "old.npz")
    with pytest.raises(ValueError, match="is no replay table"):
        Table.read(tmp_path / "other.npz")


def test_a_curve_leads_through_the_trunk_into_the_cool_down(table):
    asked = {"schedule": "wsd", "length": 4_000, "seed": 1}
    whole = table.curve(32, 0.0, **asked)

    # Trunks end at 1,600 and 3,200, and each part has one evaluation in its middle.
    assert whole.examples.tolist() == [800, 1_600, 2_400, 3_200, 3_600, 4_000]
    assert table.curve(32, 0.0, **asked, up_to=2_400).examples.tolist() == [800, 1_600, 2_400]
    assert len(table.curve(32, 0.0, **asked, up_to=799).examples) == 0
    assert whole.loss[-1] == table.score(32, 0.0, **asked)


def test_a_price_is_updates_times_the_median_step_and_a_branch_costs_its_own_part(table):
    asked = {"schedule": "wsd", "length": 2_000, "seed": 2}

    assert table.price(32, 0.0, **asked) == Price(examples=2_000, steps=50 + 13, seconds=63 * 2.0)
    alone = table.price_of(table.trained(Training(32, 0.0, "cool_down", 2_000), 2))
    assert alone == Price(examples=400, steps=13, seconds=26.0)


def test_what_a_search_chose_is_judged_by_seeds_that_it_did_not_see(table):
    assert (table.search_seeds, table.judging_seeds) == ((1,), (2,))
    best = Training(128, 0.0, "cool_down", 4_000)
    assert table.best(length=4_000) == table.best(length=4_000, metric="accuracy") == best
    asked = {"schedule": "wsd", "length": 4_000}
    assert table.judged(128, 0.0, **asked) == loss_of(best, 2)
    assert table.regret(128, 0.0, **asked) == 0
    assert table.regret(32, -1.0, **asked) == pytest.approx(1.0)
    assert table.regret(32, -1.0, **asked, metric="accuracy") == pytest.approx(0.25)
    assert table.regret(32, -1.0, schedule="cosine", length=4_000) == math.inf


def test_what_diverged_is_as_bad_as_can_be(table):
    asked = {"schedule": "cosine", "length": 4_000, "seed": 1}
    assert table.score(32, -1.0, **asked) == math.inf
    assert table.score(32, -1.0, **asked, metric="accuracy") == 0.0


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 64},
        {"octaves": -0.5},
        {"length": 3_000},
        {"seed": 3},
        {"seed": 0},
        {"schedule": "linear"},
        {"schedule": "cosine", "length": 2_000},
    ],
)
def test_what_was_not_measured_is_no_answer(table, change):
    asked = {"batch_size": 32, "octaves": 0.0, "schedule": "wsd", "length": 2_000, "seed": 1}
    assert table.score(**asked) > 0
    for ask in (table.score, table.curve, table.price):
        with pytest.raises(OutsideTableError):
            ask(**{**asked, **change})


def test_a_table_says_what_it_lacks(table):
    kept = [one for one in table._trained.values() if one.training.kind != "switched"]
    part = Table(TINY, kept, step_seconds={32: (1.0,)}, about={})

    assert part.missing() == [(Training(128, 0.0, "switched", 4_000, 32), s) for s in (1, 2)]
    with pytest.raises(OutsideTableError, match="no step time of batch size 128"):
        part.price(128, 0.0, schedule="cosine", length=4_000, seed=1)
    with pytest.raises(OutsideTableError, match=r"has the lengths \(2000, 4000\)"):
        part.best(length=3_000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"examples": 401}, "401 examples and 13 updates are not those of the plan"),
        ({"steps": 12}, "400 examples and 12 updates are not those of the plan"),
        ({"loss": 0.5}, "does not end at 2000 examples with its final loss 0.5"),
        ({"curve": curve((1_900, 2.0), (1_900, 1.0))}, "do not ascend"),
        ({"curve": curve((1_999, 0.75))}, "does not end at 2000 examples"),
        ({"random_seed": 3}, "another random seed than its trunk's"),
    ],
)
def test_a_table_finds_what_contradicts_the_plan(table, change, message):
    key = (Training(32, 0.0, "cool_down", 2_000), 2)
    assert table.faults() == []
    table._trained[key] = dataclasses.replace(table._trained[key], **change)

    assert [f for f in table.faults() if message in f and "kind='cool_down'" in f]


def test_what_completed_goes_on_from_something_that_completed(table):
    key = (Training(32, 0.0, "trunk", 4_000), 1)
    table._trained[key] = dataclasses.replace(table._trained[key], status="diverged")

    assert [fault.split(": ")[1] for fault in table.faults()] == [
        "it completed, and its trunk did not"
    ]


def test_the_summary_of_a_table_names_noise_and_number_of_seeds(table):
    from replay_tables import described, summary

    text = "\n".join(summary(table))
    assert "missing: 0" in text
    assert "40 completed, 2 diverged" in text
    assert "best cool_down at batch size 128, +0 octaves, validation loss 0.4375 +- 0.0884" in text
    assert "42 trainings and parts" in described(TINY)


def test_what_never_began_has_the_status_of_its_trunk():
    from replay.make import _without_parent

    def ended(status):
        return SimpleNamespace(status=status, score=1.0 if status == "completed" else None)

    made = {
        Training(32, 0.0, "trunk", 2_000): ended("diverged"),
        Training(128, 0.0, "trunk", 2_000): ended("completed"),
        Training(128, -1.0, "trunk", 2_000): ended("oom"),
    }
    assert _without_parent(TINY, made) == {
        Training(32, 0.0, "cool_down", 2_000): "diverged",
        Training(32, 0.0, "trunk", 4_000): "diverged",
        Training(32, 0.0, "cool_down", 4_000): "diverged",
        Training(128, 0.0, "switched", 4_000, 32): "diverged",
        Training(128, -1.0, "cool_down", 2_000): "oom",
        Training(128, -1.0, "trunk", 4_000): "oom",
        Training(128, -1.0, "cool_down", 4_000): "oom",
    }


def test_check_fails_where_a_table_is_unsound(table, tmp_path, monkeypatch, capsys):
    import replay_tables

    monkeypatch.setattr(replay_tables, "TABLES", tmp_path)
    assert replay_tables.check([TINY]) == 0
    assert "tiny: not made yet" in capsys.readouterr().out
    table.write(tmp_path / "tiny.npz")
    assert replay_tables.check([TINY]) == 0
    assert "FAULT" not in capsys.readouterr().out
    assert replay_tables.check([TINY.model_copy(update={"seeds": 3})]) == 1
    assert "FAULT: its plan is not the one in" in capsys.readouterr().out
    key = (Training(32, 0.0, "cool_down", 2_000), 2)
    table._trained[key] = dataclasses.replace(table._trained[key], steps=1)
    table.write(tmp_path / "tiny.npz")
    assert replay_tables.check([TINY]) == 1
    assert "and 1 updates are not those of the plan" in capsys.readouterr().out


@pytest.mark.slow
def test_a_table_is_made_by_the_package_and_goes_on_where_it_was_stopped(
    tmp_path, monkeypatch, short_rounds
):
    """2 batch sizes x 2 rates x 1 length x 1 seed, each trunk with its cool-down and a cosine."""
    from replay import make
    from replay_tables import summary

    small = {"shares": (1.0,), "seeds": 1, "search_seeds": 0, "switches": ()}
    plan = TINY.model_copy(update=small)
    wrong = plan.model_copy(update={"epoch_examples": 7})
    with pytest.raises(ValueError, match=r"Received: 7, and digits has 1085"):
        make.measure_step_times(make.Place(tmp_path, wrong), "digits", workers=0, verbose=0)
    place = make.Place(tmp_path, plan)
    times = make.measure_step_times(place, "digits", workers=0, verbose=0)
    assert sorted(times.rounds) == [32, 128]

    def stop_after(count):
        return lambda: len(place.trials(1)) >= count

    run_request = make.run_request
    monkeypatch.setattr(
        make,
        "run_request",
        lambda *a, **k: run_request(*a, **{**k, "stop_requested": stop_after(4)}),
    )
    make.make_runs(place, "digits", seeds=(1,), workers=0, verbose=0)
    before = [t.row for t in place.trials(1)]
    assert len(before) == 4
    partial = make.collect(place, times, command="a test")
    assert len(partial.missing()) == 12 - 3
    assert make.estimate(place, times).done == 3
    monkeypatch.undo()

    assert make.make_runs(place, "digits", seeds=(1,), workers=0, verbose=0)
    assert [t.row for t in place.trials(1)][:4] == before
    table = make.collect(place, times, command="a test")
    table.write(tmp_path / "tiny.npz")
    table = Table.read(tmp_path / "tiny.npz")

    assert table.missing() == table.faults() == []
    assert "12 completed" in "\n".join(summary(table))
    for schedule in ("wsd", "cosine"):
        asked = {"schedule": schedule, "length": 4_000, "seed": 1}
        curve = table.curve(32, 0.0, **asked)
        assert curve.examples[-1] == 4_000
        assert list(curve.examples) == sorted(set(curve.examples))
        assert curve.loss[-1] == pytest.approx(table.score(32, 0.0, **asked), rel=1e-6)
        assert curve.loss[-1] < curve.loss[0]
        assert table.price(32, 0.0, **asked).examples == 4_000
        assert table.price(32, 0.0, **asked).steps == 125
    assert table.best(length=4_000).octaves in plan.octaves
