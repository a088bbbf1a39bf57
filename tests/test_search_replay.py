"""Simulated searches: scores, prices and statuses of a table in closed form."""

import dataclasses
import math
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

from branches import branch_values, switched_deviations, tau, whole_values  # noqa: E402
from portfolio import cover, regrets, with_portfolio  # noqa: E402
from replay import kept  # noqa: E402
from replay.measures import Course, Judge, bootstrap_ratio, of_everything, splits  # noqa: E402
from replay.opponents import IEpoch, OptunaOracle, RandomSearch, grid, values_of  # noqa: E402
from replay.plan import TablePlan, Training  # noqa: E402
from replay.searches import ENGINES, Task, make_search  # noqa: E402
from replay.simulate import Cell, Engine, Replay, simulate  # noqa: E402
from replay.table import Curve, OutsideTableError, Table, Trained  # noqa: E402
from verified_replay import Racer, Truth, finalists, race  # noqa: E402

from tfbatch.oracles import Belief, Part, Proposal, Stop, Told  # noqa: E402
from tfbatch.schema import Named  # noqa: E402

PLAN = TablePlan(
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
    epoch_examples=1_000,
    shares=(0.5, 1.0),
)
BEST = Cell(128, 0.0, "wsd")
BAD = Cell(32, -1.0, "cosine")
"""It diverges after 640 of its examples, before its first evaluation."""
COOL_DOWN = Named(name="linear")
ENGINE = Engine("counted", start_up_seconds=100.0)
STEP = {32: 1.0, 128: 3.0}
EVALUATION = 10.0


def loss_at(cell, examples):
    """In closed form: 128 is the best batch size, 0 octaves the best rate, `wsd` the schedule."""
    worse = {32: 0.5, 128: 0.0}[cell.batch_size] - cell.octaves / 4 + (cell.schedule == "cosine")
    return 0.25 + worse + (4_000 - examples) / 4_000


def trained(training, seed):
    start, end = PLAN.start(training), PLAN.end(training)
    cell = Cell(training.batch_size, training.octaves, "wsd")
    points = sorted({*range(1_000 * (start // 1_000 + 1), end, 1_000), end})
    if training.kind == "cosine":
        cell = dataclasses.replace(cell, schedule="cosine")
    loss = [loss_at(cell, point) + seed / 16 for point in points]
    if training.kind == "cool_down" and training.length < 4_000:
        loss[-1] = loss_at(cell, training.length) - 0.125
    one = Trained(
        training=training,
        seed=seed,
        status="completed",
        loss=loss[-1],
        accuracy=1 - loss[-1] / 4,
        examples=end - start,
        steps=PLAN.updates(training),
        seconds=1.0,
        curve=Curve(np.array(points), np.array(loss), 1 - np.array(loss) / 4),
    )
    if cell != BAD:
        return one
    nothing = Curve(np.array([640]), np.array([math.inf]), np.array([0.1]))
    return dataclasses.replace(one, status="diverged", examples=640, steps=20, curve=nothing)


@pytest.fixture
def table():
    every = [trained(t, seed) for seed in (1, 2) for t in PLAN.trainings()]
    rounds = {size: (seconds,) for size, seconds in STEP.items()}
    return Table(PLAN, every, step_seconds=rounds, about={"validation_seconds": EVALUATION})


class Scripted:
    """Proposes a list, each when the trials before it have ended where it says so."""

    size = None

    def __init__(self, *proposals):
        self.waiting, self.told = list(proposals), {}

    def propose(self, trial, *, known, bound):
        if not self.waiting:
            return None
        proposal = self.waiting[0]
        part = proposal.part if isinstance(proposal, Proposal) else None
        if part and part.parent and part.parent not in self.told:
            return None
        return self.waiting.pop(0)

    def tell(self, trial, proposal, told):
        self.told[trial] = told

    def forget(self, trial):
        raise AssertionError


def replay_of(table, *, engine=ENGINE, seeds=(1,)):
    rng = np.random.default_rng(0)
    return Replay(table, engine=engine, metric="loss", seeds=seeds, rng=rng)


def value(moment):
    return moment.ended.value


def run(table, *proposals, workers=1, most=10**9):
    oracle = Scripted(*proposals)
    engine = dataclasses.replace(ENGINE, workers=workers)
    return simulate(oracle, replay_of(table, engine=engine), most_examples=most), oracle


def whole(cell, **part):
    return Proposal(values_of(cell), Part(**part) if part else None)


def test_a_whole_training_costs_its_updates_evaluations_and_start(table):
    (moment,), oracle = run(table, whole(BEST))

    # Trunk to 1,664 (13 updates), to 3,200; evaluated at 1,000 1,664 2,000 3,000 3,200 4,000.
    assert (moment.ended.examples, moment.ended.value) == (4_000, 0.25 + 1 / 16)
    assert moment.ended.seconds == 100 + 32 * 3.0 + 6 * EVALUATION
    assert (moment.answer, oracle.told["search-0001"].score) == (BEST, 0.3125)


def test_a_branch_costs_its_own_part_and_its_trunk_once(table):
    moments, oracle = run(
        table,
        whole(BEST, to_examples=1_600),
        whole(BEST, total_examples=2_000, parent="search-0001", schedule=COOL_DOWN),
        whole(BEST, to_examples=3_200, parent="search-0001"),
        whole(BEST, parent="search-0003"),
    )

    assert [m.ended.state.at for m in moments] == [1_664, 2_000, 3_200, 4_000]
    assert [m.ended.examples for m in moments] == [1_664, 2_000, 2_000 + 1_536, 4_000 + 336]
    own = np.diff([0, *(m.ended.seconds for m in moments)])
    # The branch: 3 updates and 1 evaluation.
    assert own.tolist() == [100 + 39 + 20, 100 + 9 + 10, 100 + 36 + 30, 100 + 21 + 10]
    assert oracle.told["search-0002"].score == loss_at(BEST, 2_000) - 0.125
    assert oracle.told["search-0004"].score == 0.3125


def test_a_part_stops_at_the_next_evaluation_and_is_paid_up_to_there(table):
    (moment,), oracle = run(table, whole(BEST, to_examples=1_001))

    assert (moment.ended.state.at, moment.ended.examples) == (1_664, 1_664)
    assert oracle.told["search-0001"].score == loss_at(BEST, 1_664) + 1 / 16


def test_what_diverges_is_told_and_costs_what_it_was_trained(table):
    moments, oracle = run(table, whole(BEST), whole(BAD))

    assert [m.ended.examples for m in moments] == [4_000, 4_640]
    assert moments[1].ended.seconds - moments[0].ended.seconds == 100 + 20 * 1.0
    told = oracle.told["search-0002"]
    assert (told.status, told.score) == ("diverged", math.log(10))
    assert moments[1].answer == BEST
    with pytest.raises(ValueError, match="Nothing goes on from search-0002, which diverged"):
        run(table, whole(BEST), whole(BAD), whole(BAD, parent="search-0002"))


def test_workers_are_a_queue_and_a_stop_lets_the_open_ones_end(table):
    small = Cell(32, 0.0, "wsd")
    moments, _ = run(table, whole(small), whole(BEST), whole(BEST), Stop("enough"), workers=2)

    # 125 updates of 1 s and 6 evaluations; 32 of 3 s: the second and third fit beside the first.
    assert [m.ended.trial for m in moments] == ["search-0002", "search-0001", "search-0003"]
    assert [m.ended.seconds for m in moments] == [256, 285, 512]
    assert [m.ended.examples for m in moments] == [4_000, 8_000, 12_000]


def test_no_trial_begins_beyond_the_budget(table):
    moments, _ = run(table, *[whole(BEST)] * 5, most=8_000)

    assert len(moments) == 2


def test_what_was_not_measured_cannot_be_asked(table):
    trunk = whole(BEST, to_examples=1_600)
    for wrong in (
        whole(BEST, total_examples=4_000, parent="search-0001", schedule=COOL_DOWN),
        whole(Cell(32, 0.0, "wsd"), parent="search-0001", schedule=COOL_DOWN),
        whole(Cell(32, 0.0, "wsd"), parent="search-0001"),
        whole(Cell(64, 0.0, "wsd")),
    ):
        with pytest.raises(OutsideTableError):
            run(table, trunk, wrong)


def test_numbered_seeds_are_shared_and_others_are_drawn_evenly(table):
    replay = replay_of(table, seeds=(2, 1))
    numbered = [replay.train(f"n{k}", Proposal(values_of(BEST), seed=k)) for k in (1, 2, 3)]
    drawn = [replay.train(f"d{k}", Proposal(values_of(BEST))).state.seed for k in range(4)]

    assert [one.state.seed for one in numbered] == [2, 1, 2]
    assert sorted(drawn[:2]) == sorted(drawn[2:]) == [1, 2]


def test_the_answer_is_the_best_whole_training_or_the_oracles_own_belief(table):
    small = Cell(32, 0.0, "wsd")
    proposals = whole(BEST, to_examples=1_000), whole(small), whole(BEST, parent="search-0001")
    moments, _ = run(table, *proposals)
    assert [m.answer for m in moments] == [BEST, small, BEST]

    moments = simulate(
        Scripted(*proposals), replay_of(table), most_examples=10**9, baseline=Cell(128, -1.0, "wsd")
    )
    # What has not been trained to its end does not take the baseline's place.
    assert [m.answer for m in moments] == [Cell(128, -1.0, "wsd")] * 2 + [BEST]

    class Believing(Scripted):
        def stages(self):
            return ()

        def belief(self):
            return Belief(values_of(small), "now batch size 32") if len(self.told) > 1 else None

    moments = simulate(Believing(*proposals), replay_of(table), most_examples=10**9)
    assert [m.answer for m in moments] == [None, small, small]


def test_regret_is_0_at_the_best_and_the_course_says_when_it_came_near(table):
    judge = Judge(table, (2,), "loss")
    assert (judge.best, judge.regret(BEST)) == (BEST, 0)
    assert judge.regret(BAD) == math.log(10) - (0.25 + 2 / 16)  # an untrained model
    assert judge.regret(Cell(32, -1.0, "wsd")) == pytest.approx(0.75)
    # Two seeds that differ by 1/16 in 7 configurations, and diverge in the eighth.
    assert judge.deviation == pytest.approx(math.sqrt(7 / 8 / 2) / 16)

    key = (Training(32, -1.0, "cool_down", 4_000), 2)
    late = dataclasses.replace(table._trained[key], status="timeout", loss=math.nan)
    table._trained[key] = late
    worse = Judge(table, (1, 2), "loss").regret(Cell(32, -1.0, "wsd"))
    assert worse == pytest.approx(0.75 - 1 / 32)  # of the first seed alone, which is 1/32 luckier
    del table._trained[key]
    table._trained[key] = trained(*key)

    small = Cell(32, 0.0, "wsd")
    moments, _ = run(table, whole(Cell(32, -1.0, "wsd")), whole(small), whole(BEST))
    course = Course.of(moments, judge, seconds=False)
    assert course.at(np.array([0.0, 4_000, 11_999, 12_000]), before=2.0) == pytest.approx(
        [2.0, 0.75, 0.5, 0.0]
    )
    assert (course.until(0.5), course.until(0.1), course.end) == (8_000, 12_000, 12_000)
    left = Course(np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.5, 0.25]), 3.0)
    assert (left.until(0.25), left.for_good(0.25), left.for_good(0.1)) == (1.0, 3.0, math.inf)


def test_all_splits_part_the_seeds(table):
    assert list(splits(table)) == [((1,), (2,)), ((2,), (1,))]


def test_who_trains_everything_has_no_regret_without_noise_and_some_with_it(table):
    assert of_everything(table, "loss", 1).tolist() == [0, 0]  # a seed shifts all alike
    lucky = (Training(32, 0.0, "cool_down", 4_000), 1)
    table._trained[lucky] = dataclasses.replace(table._trained[lucky], loss=0.0)
    tolerance = Judge(table, (2,), "loss").tolerance
    assert of_everything(table, "loss", 1).tolist() == pytest.approx([0.5 / tolerance, 0])


def test_the_ratio_of_paired_prices_has_an_interval_around_it():
    rng = np.random.default_rng(1)
    ours = rng.uniform(1, 3, size=200)
    found, low, high = bootstrap_ratio(ours, 2 * ours, rng=rng)

    assert (found, low, high) == pytest.approx((2, 2, 2))
    theirs = 2 * rng.uniform(1, 3, size=200)
    found, low, high = bootstrap_ratio(ours, theirs, rng=rng)
    assert low < found < high
    assert 0.1 < high - low < 0.6


def test_a_portfolio_covers_problems_and_is_no_longer_than_it_gains(table):
    a, b, c, d = (0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)
    problems = [{a: 0.0, b: 4.0, c: 1.0, d: 1.0}, {a: 4.0, b: 0.0, c: 1.5, d: 2.0}]
    assert cover(problems) == (c, b, a)
    assert cover(problems, cells=2) == (c, b)

    # Seeds lie 1/16 apart; all others are 0.25 and more from the best: cut off.
    for metric in ("loss", "accuracy"):
        found = regrets(table, metric, 4_000)
        assert found == {(2.0, 0.0): 0.0, (2.0, -1.0): 4.0, (0.0, 0.0): 4.0, (0.0, -1.0): 4.0}


def test_a_search_with_a_portfolio_trains_its_cells_first(table):
    task = Task(table, "loss", ENGINES["examples"], seed=1)
    oracle = with_portfolio([(2.0, -1.0), (0.0, -1.0)])(task)
    asked = []
    for trial in ("a", "b"):
        proposal = oracle.propose(trial, known=None, bound=math.inf)
        oracle.tell(trial, proposal, Told(1.0))
        asked.append((proposal.values["batch_size"], proposal.values["learning_rate_octaves"]))
    assert asked == [(128, -1.0), (32, -1.0)], "not the baseline's cell, with which it begins else"


def test_kendalls_tau_is_1_where_branches_rank_as_whole_runs_do(table):
    whole = whole_values(table, "loss")
    branches = branch_values(table, 2_000, "loss")

    assert tau(branches, whole, metric="loss") == (pytest.approx(1), 4)
    branches[0] = 0.0  # the worst of four is ranked first: 3 of 6 pairs are turned
    assert tau(branches, whole, metric="loss") == (pytest.approx(0), 4)
    branches[0] = math.inf  # one that diverged is left out
    assert tau(branches, whole, metric="loss") == (pytest.approx(1), 3)


def test_a_switched_training_is_compared_with_its_batch_size_from_the_beginning(table):
    plan = PLAN.model_copy(update={"switches": ((32, 128),), "switch_octaves": (0.0,)})
    (switched,) = (t for t in plan.trainings() if t.kind == "switched")
    for seed in (1, 2):
        whole = table.trained(Training(128, 0.0, "cool_down", 4_000), seed)
        worse = dataclasses.replace(whole, training=switched, loss=whole.loss + 0.5)
        table._trained[(switched, seed)] = worse
    table.plan = plan

    ((found, worse, deviation),) = switched_deviations(table, "loss")
    assert (found, worse) == (switched, pytest.approx(0.5))
    assert deviation == pytest.approx(1 / 16 / math.sqrt(2))


def test_what_is_kept_is_read_again_and_says_what_a_search_cost(tmp_path):
    courses = [
        Course(np.array([1.0, 2.0]), np.array([0.4, 0.1]), 3.0),
        Course(np.array([4.0]), np.array([0.3]), 4.0),
    ]
    results = kept.Results.of(
        courses, tolerances=[0.2, 0.2], before=[0.8, 0.8], unit=4_000.0, process_seconds=0.0
    )
    assert results.until.tolist() == [2.0, 25.0]
    assert results.found.tolist() == [True, False]
    assert results.end.tolist() == [3.0, 4.0]
    assert results.regret_at(1.0) == pytest.approx([2.0, 4.0])
    assert results.regret_at(25.0) == pytest.approx([0.5, 1.5])

    key = ("loss", "examples", "random")
    kept.write(tmp_path / "kept" / "tiny.npz", {key: results})
    again = kept.read(tmp_path / "kept" / "tiny.npz")
    assert list(again) == [key]
    assert again[key].until.tolist() == [2.0, 25.0]
    assert again[key].unit == 4_000
    assert kept.read(tmp_path / "nothing.npz") == {}


def test_the_page_names_every_search_and_the_figure_draws_it():
    from search_replay_page import figure, page, to_match

    one = kept.Results.of(
        [Course(np.array([1.0]), np.array([0.1]), 1.0)] * 4,
        tolerances=[0.2] * 4,
        before=[0.8] * 4,
        unit=60.0,
        process_seconds=0.0,
    )
    slow = dataclasses.replace(one, until=2 * one.until)
    of_table = {
        ("loss", engine, name): results
        for engine in ("examples", "tfbatch", "keras_tuner")
        for name, results in (("trunks", one), ("random", slow))
    }
    # Ours ends at 1 training with half a tolerance; the other one is there after 3.
    late = dataclasses.replace(one, regret=np.where(kept.BUDGETS < 3, 1.0, 0.5) * np.ones((4, 1)))
    first = float(kept.BUDGETS[kept.BUDGETS >= 3][0])
    assert to_match(one, late, rng=np.random.default_rng(1)) == pytest.approx((first,) * 3)
    text = "\n".join(page({"digits_mlp": of_table}, ours="trunks"))
    assert "| random | 4 | 2.00 | 2.00 | 100% |" in text
    assert "| 2.00 x [2.00, 2.00] |" in text
    svg = figure({"digits_mlp": of_table}, metric="loss", ours="trunks")
    assert svg.count("<title>trunks</title>") == svg.count("<title>random</title>") == 1


def test_a_fresh_seed_deviates_from_the_mean_as_seeds_do(table):
    random = np.random.default_rng(0)
    truth = Truth(table, "loss", (1, 2))

    drawn = np.array([truth.draw(BEST, random) for _ in range(1_000)])

    measured = np.array([loss_at(BEST, 4_000) + seed / 16 for seed in (1, 2)])
    assert sorted(set(drawn)) == pytest.approx(
        measured.mean() + math.sqrt(2) * (measured - measured.mean())
    )
    assert np.square(drawn - measured.mean()).mean() == pytest.approx(measured.var(ddof=1))
    assert truth.draw(BAD, random) is None


def test_finalists_are_the_best_whole_trainings_of_each_batch_size(table):
    own, second, worse = Cell(32, 0.0, "wsd"), Cell(128, 0.0, "cosine"), Cell(128, -1.0, "wsd")
    part = whole(Cell(32, -1.0, "wsd"), to_examples=1_000)
    moments, _ = run(table, *map(whole, (own, second, BEST, BAD, worse)), part)
    truth = Truth(table, "loss", (1, 2))

    assert finalists(moments, truth, own, None, 4_000) == [BEST]
    assert finalists(moments, truth, BAD, None, 4_000) == [BEST]  # 32 is too far behind
    assert finalists(moments, truth, BEST, loss_at(BEST, 4_000), 4_000) == []


@pytest.mark.parametrize(
    ("baseline", "candidate", "recommended", "trainings"),
    [
        (Cell(32, 0.0, "cosine"), BEST, "search-1", 9),
        (BEST, Cell(32, 0.0, "cosine"), "baseline", 9),
        (BEST, BAD, "baseline", 5),  # it fails once; then the baseline is alone
    ],
)
def test_a_race_costs_its_trainings_and_keeps_the_better(
    table, baseline, candidate, recommended, trainings
):
    racers = [Racer("baseline", baseline), Racer("search-1", candidate)]

    choice, trained = race(racers, Truth(table, "loss", (1, 2)), 3, np.random.default_rng(0))

    assert choice.recommended == recommended
    assert len(trained) == trainings


def test_random_search_tries_each_once_in_an_order_of_its_seed(table):
    moments = simulate(RandomSearch(PLAN, seed=3), replay_of(table), most_examples=10**9)

    assert {m.ended.state.cell for m in moments} == set(grid(PLAN))
    assert len(moments) == len(grid(PLAN)) == 8
    other = simulate(RandomSearch(PLAN, seed=4), replay_of(table), most_examples=10**9)
    assert [m.ended.state.cell for m in moments] != [m.ended.state.cell for m in other]


def test_i_epoch_goes_on_with_the_best_of_one_epoch(table):
    given = {"epochs": 1, "candidates": 8, "finalists": 2, "direction": "min", "seed": 1}
    moments = simulate(IEpoch(PLAN, **given), replay_of(table), most_examples=10**9)

    first, final = moments[:8], moments[8:]
    assert sum(m.ended.state.at == 1_000 for m in first) == 7  # and one diverged
    assert [m.ended.state.cell for m in final] == [BEST, Cell(128, -1.0, "wsd")]
    assert moments[-1].ended.examples == 7 * 1_000 + 640 + 2 * 3_000


def test_asha_goes_on_with_what_is_good_at_a_rung_and_hears_no_more_of_the_rest(table):
    optuna = pytest.importorskip("optuna")

    oracle = OptunaOracle(
        PLAN,
        sampler=optuna.samplers.RandomSampler(seed=1),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
        rungs=(1, 2),
        direction="min",
    )
    moments = simulate(oracle, replay_of(table), most_examples=60_000)

    ends = [m.ended.state.at for m in moments]
    assert ends.count(1_000) > ends.count(2_000) > ends.count(4_000) > 0
    assert moments[-1].answer == BEST
    worse = [m.ended.state.at for m in moments if m.ended.state.cell == Cell(128, -1.0, "cosine")]
    assert worse == [1_000]


def test_a_task_is_what_a_run_would_tell_an_oracle(table):
    tiny = ENGINES["tfbatch"]
    task = Task(table, "loss", tiny, seed=1)
    premises = task.premises()

    assert premises.baseline.batch_size == 32
    assert premises.baseline.learning_rate == pytest.approx(0.05)
    found = premises.setting(values_of(Cell(128, -1.0, "wsd")))
    assert (found.learning_rate, found.schedule.name) == (pytest.approx(0.1), "wsd")
    # The cool-down of the space's schedule is that of the table's trainings.
    assert found.schedule.arguments["cooldown"] * PLAN.total_examples == 800
    assert premises.prices.step_seconds == {32: 1.0 * tiny.slower, 128: 3.0 * tiny.slower}
    other = Task(table, "loss", ENGINES["examples"], seed=1, start=Cell(128, -1.0, "cosine"))
    assert other.premises().prices.unit == "examples"
    assert other.premises().baseline.batch_size == 128
    assert other.premises().baseline.learning_rate == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["keras_tuner_random", "keras_tuner_hyperband"])
def test_oracles_of_keras_tuner_search_the_same_space(table, name):
    task = Task(table, "loss", ENGINES["examples"], seed=1)
    replay = replay_of(table)
    moments = simulate(make_search(name)(task), replay, most_examples=40_000)

    assert {m.ended.state.cell for m in moments} <= set(grid(PLAN))
    if name.endswith("hyperband"):
        # 4 epochs, a factor of 3: 5 trials to 2 epochs, the best 2 of them go on to the end.
        first, further = moments[:5], moments[5:7]
        best = sorted((m for m in first if m.ended.status == "completed"), key=value)[:2]
        assert {m.ended.state.at for m in best} == {2_000}
        assert [m.ended.state.cell for m in further] == [m.ended.state.cell for m in best]
        assert further[1].ended.examples - first[4].ended.examples == 2 * 2_000


def test_the_figure_of_the_docs_is_what_its_command_draws():
    from search_replay_page import everything_kept, figure

    drawn = figure(everything_kept(), metric="loss", ours="trunks")
    stored = BENCHMARKS.parent / "docs" / "design" / "search_replay.svg"
    assert stored.read_text(encoding="utf-8") == drawn
