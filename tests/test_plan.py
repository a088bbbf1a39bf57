"""What a run is going to take, without training anything."""

import dataclasses
import math
from types import SimpleNamespace

import pytest
from search_fixtures import (
    ACCURACY,
    BASELINE,
    LOSS,
    finished,
    make_config,
    make_request_of,
    outcome,
)
from search_fixtures import NUM_EXAMPLES as TRAIN
from search_fixtures import TOTAL_EXAMPLES as TOTAL

from tfbatch.answer.plan import Plan, PlannedStage
from tfbatch.oracles import NO_PRICES, Prices, Proposal
from tfbatch.request.search_config import load_search
from tfbatch.search.clock import FINISHING_SECONDS
from tfbatch.search.pace import Pace, measure_pace
from tfbatch.search.plan import Planner, disk_bytes, planned_stages
from tfbatch.search.progress import Progress
from tfbatch.search.rehearsal import Rehearsal, Rehearsed, RehearsedEngine, TimedOracle
from tfbatch.search.space import SearchSpace
from tfbatch.training.devices import Devices
from tfbatch.training.evaluation import Untrained
from tfbatch.trial.outcome import Outcome, TrialSpec

TWO = Devices("CPU", (), 2, 1)
PLAN = Plan(
    stages=(
        PlannedStage(name="preparing", seconds=10.0),
        PlannedStage(name="search", trials=8, examples=20_000, trainings=8.0, seconds=80.0),
    ),
    length="2.5 epochs",
    workers=2,
    training_seconds={32: 10.0, 64: 7.0, 128: 6.0},
    baseline=32,
    disk_bytes=5_000_000,
)


@pytest.fixture(autouse=True)
def no_time_to_think(monkeypatch):
    monkeypatch.setattr("tfbatch.search.rehearsal.time.thread_time", lambda: 0.0)


def rehearsal(config, *, objective=LOSS, seconds=lambda spec: 10.0, **changes):
    return Rehearsal(
        config,
        SearchSpace(config.space, num_examples=TRAIN),
        BASELINE,
        objective,
        2.3,
        TWO,
        TRAIN,
        TOTAL,
        NO_PRICES,
        seconds,
        7,
        **changes,
    )


@pytest.mark.parametrize("objective", [LOSS, ACCURACY])
def test_a_rehearsal_has_the_trials_of_the_search_and_of_a_race(objective):
    found = rehearsal(make_config(max_trials=8), objective=objective).run().trials
    counts = {one.name: one.trials for one in planned_stages(found)}

    assert (counts["baseline"], counts["search"]) == (1, 8)
    assert counts["verification"] == 2 * 4, "two rounds of two candidates, the baseline twice"
    assert {one.trial.status for one in found} <= {"completed", "diverged"}
    # two at a time, ten seconds each; the verification begins when the search has ended
    assert found[8].ended == 50.0
    assert found[-1].ended == 90.0


def test_a_rehearsal_keeps_the_limits():
    trials = rehearsal(make_config(max_trials=99), max_trainings=14.0).run().trials
    assert math.fsum(one.trainings for one in trials) <= 14.0
    assert any(one.stage == "verification" for one in trials)

    minutes = (
        rehearsal(make_config(max_trials=99), max_minutes=2.0, spent_seconds=20.0).run().trials
    )
    assert minutes[-1].ended <= 100.0
    assert any(one.stage == "verification" for one in minutes)


def test_stages_end_one_after_another():
    def at(stage, ended, phase, trainings=1.0):
        trial = dataclasses.replace(finished("t", BASELINE, phase=phase), examples=TOTAL)
        return Rehearsed(trial, stage, trainings, ended)

    found = planned_stages(
        [
            at("baseline", 5.0, "baseline"),
            at("search", 7.0, "search", 0.5),
            at("search", 11.0, "search"),
            at("verification", 20.0, "confirmation"),
            at("search", 22.0, "search"),
        ]
    )

    assert [(one.name, one.trials, one.trainings, one.seconds) for one in found] == [
        ("baseline", 1, 1.0, 5.0),
        ("search", 3, 2.5, 8.0),
        ("verification", 1, 1.0, 9.0),
    ]


def test_a_part_that_is_rehearsed_has_the_seconds_of_its_training_so_far():
    """As in a journal; on the clock it takes its own alone."""
    first = TrialSpec("search-0001", "search", 1, BASELINE, TOTAL, TRAIN, to_examples=640)
    second = dataclasses.replace(first, trial="search-0002", to_examples=1280, parent=first)
    engine = RehearsedEngine(TWO, lambda spec: 10.0, outcome)
    engine.start(second)
    ((_, ended),) = engine.wait()
    assert (ended.seconds, engine.time) == (20.0, 10.0)


class Slow:
    """Thinks for three seconds by a clock of the test."""

    size = 4

    def __init__(self, name, heard):
        self.name, self.heard = name, heard

    def propose(self, trial, *, known, bound):
        self.heard.append((self.name, trial))
        return Proposal({"batch_size": 32})

    def tell(self, trial, proposal, told):
        self.heard.append((self.name, "told", trial))

    forget = tell


def test_an_oracle_that_thinks_for_long_is_replaced_and_its_time_counts(monkeypatch):
    clock = iter(range(0, 3000, 3))
    monkeypatch.setattr("tfbatch.search.rehearsal.time.thread_time", lambda: next(clock))
    heard, passed = [], []
    oracle = TimedOracle(Slow("own", heard), Slow("other", heard), passed.append, patience=5.0)
    for trial in "abc":
        oracle.propose(trial, known=None, bound=math.inf)
    oracle.tell("c", Proposal({}), None)
    oracle.tell("a", Proposal({}), None)

    assert heard == [
        ("own", "a"),
        ("own", "b"),
        ("other", "c"),
        ("other", "told", "c"),
        ("own", "told", "a"),
    ]
    assert passed == [3, 3, 3]


def test_a_trial_beside_others_takes_its_slowdown_and_what_is_fixed():
    prices = Prices({32: 0.01}, evaluation_seconds=0.5, epoch_examples=TRAIN, start_seconds=9.0)
    pace = Pace(prices, TRAIN, slowdown=2.0, fixed_seconds=0.3)
    spec = TrialSpec("one", "search", 1, BASELINE, TOTAL, TRAIN)

    # 79 updates and 3 evaluations
    assert pace.of(spec) == pytest.approx(0.3 + 2.0 * (79 * 0.01 + 3 * 0.5))


def test_the_pace_is_measured_with_every_worker_busy(tmp_path, monkeypatch):
    """Updates take 3 times what they take alone; the rest of a trial 2 s, the first one 7 s."""
    prices = Prices({32: 0.1}, evaluation_seconds=0.0, epoch_examples=TRAIN)
    side_by_side = []

    def outcome(spec):
        return Outcome("completed", {}, 0, spec.steps, 0.0, spec.steps * 0.3)

    def seconds(spec):
        return spec.steps * 0.3 + (7.0 if spec.trial.startswith("pace-1") else 2.0)

    engine = RehearsedEngine(TWO, seconds, outcome)
    start = engine.start
    engine.start = lambda spec: (side_by_side.append(len(engine._ends)), start(spec))
    monkeypatch.setattr("tfbatch.search.pace.time.perf_counter", lambda: engine.time)
    pace = measure_pace(engine, BASELINE, prices, tmp_path, num_examples=TRAIN)

    assert side_by_side == [0, 1, 0, 1]
    assert pace.slowdown == pytest.approx(3.0)
    assert pace.fixed_seconds == pytest.approx(2.0)
    assert pace.first_seconds == pytest.approx(5.0)


def test_a_plan_says_what_it_costs_and_when_it_pays():
    length, pays, disk = PLAN.lines()

    assert PLAN.seconds == 90.0
    assert "Trials of 2.5 epochs, 2 side by side" in length
    # 90 s over 4 s saved
    assert "10 s at batch size 32" in pays
    assert "6 s at batch size 128, the fastest" in pays
    assert "the 90 s of tuning come back after 23 trainings" in pays
    assert "at most 5 MB" in disk
    assert [str(cell) for cell in PLAN.table().columns[0].cells] == ["preparing", "search", "all"]


def test_where_nothing_is_faster_time_cannot_pay():
    same = PLAN.model_copy(update={"training_seconds": {32: 10.0, 64: 9.8}})
    assert "no batch size is noticeably faster" in same.lines()[1]


def test_the_disk_that_weights_and_states_take():
    trials = [
        Rehearsed(finished("v", BASELINE, phase="confirmation"), "verification", 1.0, 1.0),
        Rehearsed(
            dataclasses.replace(finished("p", BASELINE), to_examples=640), "search", 0.2, 2.0
        ),
    ]
    of = {"weights_bytes": 100, "in_parts": True}

    assert disk_bytes(trials, most_state_bytes=10**9, **of) == 4 * 100 + 300
    assert disk_bytes(trials, most_state_bytes=50, **of) == 4 * 100 + 50
    assert disk_bytes(trials, most_state_bytes=50, weights_bytes=100, in_parts=False) == 400


def test_a_rehearsal_names_the_stages_of_an_oracle_that_has_some():
    found = rehearsal(load_search("trunks"), max_trainings=20.0).run().trials
    stages = {one.name: one for one in planned_stages(found)}

    assert {"baseline", "learning rates", "verification"} <= stages.keys()
    searched = [one for one in found if one.trial.phase == "search"]
    assert any(one.trial.parent for one in searched), "it trains in parts"
    assert any(one.trial.is_whole for one in searched)
    assert sum(one.trainings for one in found) <= 20.0


def test_a_search_that_has_begun_all_it_may_still_ends_with_a_whole_training():
    """The second of two workers finds nothing to continue while the first still trains."""
    config = load_search("hyperband").model_copy(update={"max_trials": 9})
    found = [one.trial for one in rehearsal(config).run().trials if one.trial.phase == "search"]
    assert sum(trial.parent is None for trial in found) == 9
    assert sum(trial.parent is not None for trial in found) == 4
    assert any(trial.is_whole for trial in found)


def test_a_plan_says_what_ends_a_search_in_parts_before_it_is_whole():
    """Two trainings pay for the baseline and some parts, and the run recommends the baseline."""
    cut = rehearsal(load_search("trunks"), max_trainings=2.0).run()
    assert (cut.is_cut, cut.has_whole) == (True, False)
    enough = rehearsal(load_search("trunks"), max_trainings=20.0).run()
    assert (enough.is_cut, enough.has_whole) == (False, True)
    few = rehearsal(load_search("hyperband").model_copy(update={"max_trials": 3})).run()
    assert (few.is_cut, few.has_whole) == (False, False), "no limit of time or trainings"

    text = PLAN.model_copy(update={"limit": "--max_trainings=2", "has_whole": False}).lines()[0]
    assert "--max_trainings=2 ends it early. No training of the search comes to its full" in text


@pytest.mark.parametrize(
    ("most", "limits"), [(8, {}), (99, {"max_trainings": 14.0}), (99, {"max_minutes": 2.0})]
)
def test_a_plan_names_the_limits_of_a_search_that_would_go_on(most, limits):
    config = make_config(max_trials=most)
    assert rehearsal(config, **limits).run().is_cut == bool(limits)
    planner = SimpleNamespace(request=make_request_of(**limits))
    named = " or ".join(f"--{name}={value:g}" for name, value in limits.items())
    assert Planner._limits(planner) == named


@pytest.mark.parametrize("objective", [LOSS, ACCURACY])
def test_the_plan_has_what_follows_where_the_baseline_is_poor(objective):
    """A run may end before it; the time and the disk must do for all of it."""
    asked = rehearsal(load_search("trunks_first"), objective=objective)
    found = dataclasses.replace(asked, seed=2).run().trials  # with some seeds chance makes it so
    stages = [one.stage for one in found if one.trial.phase == "search"]
    assert stages.count("whole trainings, where trunks gain") == 12, "whatever ended early before"


def test_a_plan_keeps_as_much_time_for_the_end_as_the_run_does(monkeypatch):
    class SeenError(Exception):
        pass

    def seen(*_, finishing_seconds, **__):
        raise SeenError(finishing_seconds)

    priced = SimpleNamespace(prices=lambda _: NO_PRICES, step_seconds={128: 0.001}, missing={})
    pace = SimpleNamespace(of=None, first_seconds=0.0)
    monkeypatch.setattr("tfbatch.search.plan.prices_of", lambda *_, **__: priced)
    monkeypatch.setattr("tfbatch.search.plan.measure_pace", lambda *_, **__: pace)
    monkeypatch.setattr("tfbatch.search.plan.Rehearsal", seen)
    request = make_request_of(max_minutes=15.0, baseline="batch_size=128")
    splits, untrained = (
        {"train": TRAIN, "validation": 100, "test": 200},
        Untrained({"accuracy": 0.1, "loss": 2.3}, 10.0, "hash"),
    )
    space = SearchSpace(request.search.space, num_examples=TRAIN)
    planner = Planner(
        request,
        space,
        SimpleNamespace(devices=TWO),
        None,
        Progress(None),
        untrained,
        splits,
        None,
        0,
    )
    with pytest.raises(SeenError) as found:
        planner.plan()
    # 3 batch sizes and the baseline twice, on 5 seeds, each on twice the validation examples
    assert found.value.args == (FINISHING_SECONDS + 25 * 20.0,)
