"""The search by trunks on a surface that is known: it finds its optimum at a bounded price."""

import dataclasses
import math
import threading

import keras
import keras_tuner
import numpy as np
import pytest
import tiny_model

import tfbatch
from tfbatch.errors import ConfigurationError
from tfbatch.oracles import (
    Part,
    Premises,
    Prices,
    Proposal,
    Setting,
    StagedOracle,
    Stop,
    Told,
    make_settings,
)
from tfbatch.oracles._cells import Cell, Cells
from tfbatch.schema import Named
from tfbatch.trial.trials import Trials

TOTAL = 40_000
SIZES = (16, 32, 64, 128, 256, 512)
BASE = 0.02
"""At batch size 32, by the linear rule."""


def hyperparameters(sizes=SIZES, octaves=(-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0), schedules=None):
    hp = keras_tuner.HyperParameters()
    if len(sizes) > 1:
        hp.Choice("batch_size", list(sizes), ordered=True)
    if len(octaves) > 1:
        hp.Choice("learning_rate_octaves", list(octaves), ordered=True)
    if len(schedules or ("wsd", "cosine")) > 1:
        hp.Choice("schedule", list(schedules or ("wsd", "cosine")))
    return hp


def premises(*, sizes=SIZES, schedules=("wsd", "cosine"), prices=None, start=(32, 0.0)):
    def setting(values):
        size = int(values.get("batch_size", sizes[0]))
        rate = BASE * size / 32 * 2 ** values.get("learning_rate_octaves", 0.0)
        name = values.get("schedule", schedules[0])
        more = {"cooldown": 0.2} if name == "wsd" else {}
        return Setting(size, rate, Named(name=name, **more), warmup_fraction=0.02)

    size, octaves = start
    baseline = Setting(size, BASE * size / 32 * 2**octaves, Named(name="constant"))
    return Premises(prices or Prices(), baseline, setting)


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a trial of the fake training has behind it."""

    cell: Cell
    seed: int
    at: int
    schedule: str


class World:
    """A training without a model: the error is a known function of cell, length and seed.

    The optimum is at batch size 64 and one octave above the rule; rates diverge from 0.3 on.
    """

    def __init__(self, *, noise=0.03, diverges=0.3, best=64, **options):
        self.noise, self.diverges, self.best = noise, diverges, best
        self.trained = {}
        self.journal = {}
        self.costs = []
        self.known = premises(**{k: v for k, v in options.items() if k != "octaves"})
        self.prices = self.known.prices
        self.options = options

    def make(self, **settings):
        space = {k: v for k, v in self.options.items() if k not in ("prices", "start")}
        return make_settings("trunks", **settings).make(
            hyperparameters(**space),
            direction="max",
            seed=1,
            total_examples=TOTAL,
            premises=self.known,
        )

    def error(self, cell, length, seed, schedule="wsd"):
        batch = math.log2(cell.batch_size / self.best)
        away = cell.rate - 1.0 + 0.3 * math.log2(cell.batch_size / 32)
        remaining = math.log2(TOTAL / length)
        logarithm = 0.06 * away**2 + 0.03 * batch**2 + remaining * (0.2 + 0.04 * batch)
        drawn = np.random.default_rng([seed, cell.batch_size, round(8 * cell.rate) + 99])
        logarithm += self.noise * drawn.normal() + (0.05 if schedule == "cosine" else 0.0)
        return 0.03 * math.exp(logarithm)

    def train(self, name, proposal):
        """The trial's outcome, by the rules that the search has for parts."""
        part, values = proposal.part, proposal.values
        parent = self.trained[part.parent] if part and part.parent else None
        cell = Cell(
            int(values.get("batch_size", self.known.setting({}).batch_size)),
            values.get("learning_rate_octaves", 0.0),
        )
        assert parent is None or proposal.seed is None
        assert parent is None or parent.cell == cell, "no branch changes the cell"
        end = TOTAL
        if part:
            end = part.to_examples or part.total_examples or TOTAL
            if part.to_examples:
                end = -(-end // cell.batch_size) * cell.batch_size
        start = parent.at if parent else 0
        assert start < end
        schedule = str(values.get("schedule", self.known.setting({}).schedule.name))
        seed = parent.seed if parent else proposal.seed
        self.trained[name] = Trained(cell, seed, end, schedule)
        self.costs.append(self.prices.cost(cell.batch_size, end - start))
        self.journal[name] = proposal
        if self.known.setting(values).learning_rate >= self.diverges:
            return Told(0.1, "diverged")
        if part and part.to_examples and part.schedule is None:
            return Told(0.5)  # a trunk's own score may say anything
        return Told(1 - self.error(cell, end, seed, schedule))

    def search(self, oracle, *, known=None, most=200, bound=math.inf):
        """One worker, until the oracle ends the search; the reason."""
        for number in range(1, most + 1):
            name = f"search-{number:04d}"
            before = (known or {}).get(name)
            proposal = oracle.propose(name, known=before, bound=bound)
            if isinstance(proposal, Stop):
                return proposal.reason
            assert proposal is not None, "nothing is open: it must propose or stop"
            assert before in (None, proposal)
            oracle.tell(name, proposal, self.train(name, proposal))
        return None

    def search_killed(self, oracle, kills):
        """One worker, whose process some proposals end; those, each as often as it was made."""
        killed = []
        for number in range(1, 200):
            name = f"search-{number:04d}"
            proposal = oracle.propose(name, known=None, bound=math.inf)
            if isinstance(proposal, Stop):
                return killed
            if kills(proposal):
                killed.append(proposal)
                oracle.forget(name)
            else:
                oracle.tell(name, proposal, self.train(name, proposal))
        raise AssertionError(f"it never ends: {killed[-1]}")

    def search_beside(self, oracle, workers):
        """Several workers, whose trials end in any order; what was said when none was left."""
        running, number, rng = {}, 0, np.random.default_rng(workers)
        while True:
            proposal = None
            while len(running) < workers:
                name = f"search-{number + 1:04d}"
                proposal = oracle.propose(name, known=None, bound=math.inf)
                if not isinstance(proposal, Proposal):
                    break
                number += 1
                running[name] = (proposal, self.train(name, proposal))
            if not running:
                return proposal
            ended = rng.choice(sorted(running))
            oracle.tell(ended, *running.pop(ended))


def regret(chosen):
    """Of the log of the error of a cell, without noise."""
    quiet = World(noise=0.0)
    cells = [Cell(size, z) for size in SIZES for z in range(-3, 4)]
    best = min(quiet.error(cell, TOTAL, 1) for cell in cells)
    return math.log(quiet.error(chosen, TOTAL, 1) / best)


def answered_rate(oracle):
    return oracle.belief().values["learning_rate_octaves"]


def answered(oracle):
    values = oracle.belief().values
    return Cell(values["batch_size"], values["learning_rate_octaves"])


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_a_known_optimum_is_found_for_less_than_its_budget(noise):
    world = World(noise=noise)
    oracle = world.make()
    reason = world.search(oracle)

    assert regret(answered(oracle)) < 0.06 + 2 * noise
    assert sum(world.costs) <= 2.52 * TOTAL
    assert "whole trainings" in reason
    full = [one for one in world.trained.values() if one.at == TOTAL]
    answer = oracle.belief().values
    assert answer["batch_size"] in {one.cell.batch_size for one in full}


def test_no_cell_is_judged_by_a_trunk_or_before_it_has_made_enough_updates():
    world = World()
    world.search(world.make(trainings=5))
    for name, proposal in world.journal.items():
        one = world.trained[name]
        judged = not (proposal.part and proposal.part.to_examples)
        if judged and one.at < TOTAL:
            assert proposal.part.schedule == Named(name="linear")
            assert one.at // one.cell.batch_size >= 50


def test_all_that_begins_anew_has_the_same_seed():
    world = World()
    world.search(world.make())
    seeds = {p.seed for p in world.journal.values() if not (p.part and p.part.parent)}
    assert seeds == {1}


def test_a_search_that_was_stopped_anywhere_proposes_the_same():
    whole = World()
    whole.search(whole.make())
    names = list(whole.journal)
    for place in range(1, len(names), 3):
        again = World()
        reason = again.search(
            again.make(), known={name: whole.journal[name] for name in names[:place]}
        )
        assert again.journal == whole.journal
        assert reason


def test_a_rate_is_not_raised_far_above_what_has_trained():
    world = World(diverges=0.05)
    oracle = world.make()
    world.search(oracle)
    rates = {
        name: world.known.setting(proposal.values).learning_rate
        for name, proposal in world.journal.items()
    }
    failed = [name for name, rate in rates.items() if rate >= 0.05]
    assert len(failed) <= 3
    assert max(rates.values()) <= 0.08 + 1e-9
    assert world.known.setting(oracle.belief().values).learning_rate < 0.05


@pytest.mark.parametrize("workers", [1, 2])
def test_rates_of_a_list_that_stand_far_apart_are_all_within_reach(workers):
    """Twice the highest that has trained lies below the next one."""

    class Higher(World):
        def error(self, cell, length, seed, schedule="wsd"):
            return super().error(cell, length, seed, schedule) * 2.0 ** (-0.3 * cell.rate)

    world = Higher(octaves=(-3.3, 0.0, 3.3), sizes=(64,), diverges=math.inf)
    oracle = world.make()
    world.search_beside(oracle, workers)
    assert 3.3 in {one.cell.rate for one in world.trained.values()}
    assert answered_rate(oracle) == 3.3


def test_the_next_but_one_of_rates_that_stand_far_apart_waits_for_the_next():
    """By itself it could be tried eight octaves above all that has trained."""
    world = World(octaves=(-4.0, 0.0, 4.0), sizes=(64,), start=(64, -4.0), diverges=math.inf)
    oracle = world.make()
    world.search(oracle, most=2)
    assert {one.cell.rate for one in world.trained.values()} == {-4.0}
    assert {cell.rate for cell in oracle._ranking.allowed} == {-4.0, 0.0}


def test_batch_sizes_that_do_not_fit_are_never_proposed():
    world = World()
    oracle = world.make()
    world.search(oracle, bound=64)
    assert max(one.cell.batch_size for one in world.trained.values()) == 32
    nothing = World(sizes=(64, 128))
    assert "No cell" in nothing.search(nothing.make(), bound=64)


def is_whole(proposal):
    """Whether one schedule of the space leads to its end, in however many parts."""
    part = proposal.part or Part()
    return (part.to_examples, part.total_examples, part.schedule) == (None, None, None)


@pytest.mark.parametrize(
    "options",
    [
        {"sizes": (64,)},
        {"octaves": (0.0,)},
        {"schedules": ("constant",)},
        {"sizes": (64,), "octaves": (0.0,), "schedules": ("wsd",)},
        {"schedules": ("cosine",)},
        {"schedules": ("constant", "cosine")},
        {"schedules": ("linear", "cosine")},
    ],
    ids=str,
)
def test_small_spaces_and_spaces_without_a_trunk_are_searched_to_a_whole_training(options):
    world = World(**options)
    oracle = world.make()
    assert world.search(oracle)
    assert oracle.belief() is not None
    assert [p for p in world.journal.values() if is_whole(p)], "only it can be recommended"
    assert sum(world.costs) <= 2.52 * TOTAL


def test_dear_batch_sizes_are_tried_less_where_seconds_count():
    """Small batches take ten times as long for an example."""
    prices = Prices({16: 0.01, 512: 0.032}, start_seconds=0.2)
    world = World(prices=prices)
    oracle = world.make()
    world.search(oracle)
    assert sum(world.costs) <= 3.6 * prices.cost(32, TOTAL), "the price, and a faster one"
    assert regret(answered(oracle)) < 0.2


def test_parts_that_cost_as_much_as_a_whole_training_are_not_made():
    """Starting a trial takes as long as training it."""
    prices = Prices({16: 0.001, 512: 0.001}, start_seconds=TOTAL / 32 * 0.001)
    world = World(prices=prices)
    oracle = world.make()
    world.search(oracle)

    assert {one.at for one in world.trained.values()} == {TOTAL}
    assert sum(world.costs) <= 3.6 * prices.cost(32, TOTAL), "the price, and a faster one"
    assert oracle.belief() is not None


@pytest.mark.parametrize("workers", [2, 4])
def test_several_workers_do_nothing_twice(workers):
    world = World()
    oracle = world.make()
    assert isinstance(world.search_beside(oracle, workers), Stop)
    made = [
        (world.trained[name], p.part and p.part.to_examples, p.part and p.part.parent)
        for name, p in world.journal.items()
    ]
    assert len(made) == len(set(made))
    assert sum(world.costs) <= 2.52 * TOTAL
    assert regret(answered(oracle)) < 0.3


def test_a_trial_whose_process_was_killed_is_proposed_once_more():
    oracle = World().make()
    first = oracle.propose("search-0001", known=None, bound=math.inf)
    oracle.forget("search-0001")
    assert oracle.propose("search-0002", known=None, bound=math.inf) == first
    oracle.forget("search-0002")
    third = oracle.propose("search-0003", known=None, bound=math.inf)
    assert third.values != first.values


def test_what_was_begun_for_its_speed_stays_below_what_fits():
    prices = Prices({16: 0.001, 512: 0.004})
    world = World(schedules=("constant",), prices=prices)
    oracle = world.make()
    for number in range(1, 200):
        name = f"search-{number:04d}"
        size = (oracle._begun_for_its_speed() or Cell(1 << 20, 0.0)).batch_size
        proposal = oracle.propose(name, known=None, bound=size)
        if isinstance(proposal, Stop):
            break
        assert proposal.values["batch_size"] < size
        oracle.tell(name, proposal, world.train(name, proposal))
    assert size < 1 << 20
    assert isinstance(proposal, Stop)


def test_where_the_first_trainings_fail_another_is_made_while_something_is_left():
    """Nothing is judged then, and nothing is a favorite."""
    prices = Prices({16: 0.001, 512: 0.004}, start_seconds=1.0)
    oracle = World(schedules=("constant",), prices=prices, start=(512, 0.0)).make()
    first, second = (oracle.propose(f"search-000{k}", known=None, bound=math.inf) for k in (1, 2))
    assert first.values != second.values
    oracle.tell("search-0001", first, Told(0.1, "diverged"))
    oracle.tell("search-0002", second, Told(0.1, "diverged"))
    third = oracle.propose("search-0003", known=None, bound=math.inf)
    assert third.values["learning_rate_octaves"] < first.values["learning_rate_octaves"]


KILLS = {
    "a batch size": lambda p: p.values["batch_size"] == 128,
    "what goes on": lambda p: bool(p.part and p.part.parent and p.part.to_examples),
    "another schedule": lambda p: p.values["schedule"] == "cosine",
}


@pytest.mark.parametrize("dies", KILLS)
def test_a_training_that_always_kills_its_process_does_not_hold_up_the_search(dies):
    world = World()
    oracle = world.make(trainings=6)
    killed = world.search_killed(oracle, KILLS[dies])
    assert killed
    assert all(killed.count(one) == 2 for one in killed)
    if dies == "another schedule":
        assert regret(answered(oracle)) < 0.2, "it costs the trunk's cell nothing"


def test_what_is_made_for_its_speed_and_always_kills_its_process_does_not_hold_up_the_search():
    world = World(prices=Prices({16: 0.001, 512: 0.004}))
    oracle = world.make()

    def kills(proposal):
        cell = oracle._begun_for_its_speed()
        return bool(cell) and proposal.values["batch_size"] == cell.batch_size

    killed = world.search_killed(oracle, kills)
    assert killed
    assert all(killed.count(one) == 2 for one in killed)


@pytest.mark.parametrize("status", ["diverged", "oom", "timeout", "error"])
def test_a_rate_is_too_high_only_where_it_diverged(status):
    oracle = World().make()
    failed = Proposal({"batch_size": 256, "learning_rate_octaves": 0.0, "schedule": "wsd"})
    oracle.propose("search-0001", known=failed, bound=math.inf)
    oracle.tell("search-0001", failed, Told(0.1, status))
    allowed = oracle._ranking.allowed
    assert Cell(256, 0.0) not in allowed
    higher = [Cell(256, 1.0), Cell(256, 3.0), Cell(128, 1.0), Cell(64, 2.0)]
    assert [cell in allowed for cell in higher] == [status != "diverged"] * 4
    assert Cell(128, 0.0) in allowed


@pytest.mark.parametrize("most", [1, 2, 3, 8, 12])
@pytest.mark.parametrize("options", [{}, {"schedules": ("linear", "cosine")}], ids=str)
def test_with_few_trials_the_last_one_is_used_for_a_whole_training(most, options):
    world = World(**options)
    world.known = dataclasses.replace(world.known, max_trials=most)
    oracle = world.make()
    assert world.search(oracle)
    begun = [p for p in world.journal.values() if p.part is None or p.part.parent is None]
    assert len(begun) <= most
    assert max(one.at for one in world.trained.values()) == TOTAL
    assert oracle.belief() is not None


@pytest.mark.parametrize(("most", "diverges"), [(2, 0.0), (2, 0.3), (4, 0.3)])
def test_a_search_that_its_number_of_trials_ends_says_so(most, diverges):
    """Other cells were not tried: it does not say that they cannot be, or are worth nothing."""
    world = World(diverges=diverges)
    world.known = dataclasses.replace(world.known, max_trials=most)
    reason = world.search(world.make(trainings=9))
    assert f"The {most} configurations of --max_trials are begun" in reason


def test_a_search_that_has_begun_its_whole_space_does_not_ask_for_more_trials():
    world = World(sizes=(64,), octaves=(0.0, 1.0), schedules=("wsd",))
    world.known = dataclasses.replace(world.known, max_trials=2)
    assert "max_trials" not in world.search(world.make(trainings=9))


def test_what_runs_is_paid_once():
    """What a training takes that runs is not kept for it a second time."""
    oracle = World().make()
    first = oracle.propose("search-0001", known=None, bound=math.inf)
    cell = Cell(first.values["batch_size"], first.values["learning_rate_octaves"])
    assert first.part.to_examples < TOTAL
    assert oracle._made.spent() + oracle._made.cost(cell, TOTAL) == TOTAL
    oracle.tell("search-0001", first, Told(0.5))
    whole = dataclasses.replace(first, part=Part(parent="search-0001"), seed=None)
    assert oracle._made.cost(cell, TOTAL) > 0
    oracle.propose("search-0002", known=whole, bound=math.inf)
    assert oracle._made.cost(cell, TOTAL) == 0
    assert oracle._made.spent() == TOTAL


def cells_of(base, octaves, rate):
    hp = keras_tuner.HyperParameters()
    if isinstance(base, list):
        hp.Choice("base_learning_rate", base)
    elif base:
        hp.Float("base_learning_rate", *base, sampling="log")
    if isinstance(octaves, list):
        hp.Choice("learning_rate_octaves", octaves)
    elif octaves:
        hp.Float("learning_rate_octaves", *octaves)

    def setting(values):
        own = values.get("base_learning_rate", 0.01) * 2 ** values.get("learning_rate_octaves", 0)
        return Setting(32, own, Named(name="wsd", cooldown=0.2))

    baseline = Setting(32, rate, Named(name="constant"))
    return hp, Premises(Prices(), baseline, setting)


@pytest.mark.parametrize("rate", [1e-5, 0.0033, 0.01, 0.01 * 2**7e-7, 0.05, 0.1, 7.0])
@pytest.mark.parametrize(
    ("base", "octaves"),
    [
        ((1e-4, 0.05), None),
        ((0.003, 0.05), (-1.0, 1.0)),
        ([0.001, 0.01, 0.1], (-1.0, 1.0)),
        ([0.001, 0.01, 0.1], (-0.2, 0.3)),
        ((0.003, 0.007), [-5.0, 0.0, 5.0]),
        ([0.003, 0.03], [-1.0, 0.0, 1.0]),
        (None, (-0.7, 0.7)),
        (None, (-1.0, 1.0)),
    ],
    ids=str,
)
def test_every_rate_of_a_space_can_be_proposed_wherever_the_baseline_lies(base, octaves, rate):
    hp, known = cells_of(base, octaves, rate)
    cells = Cells(hp, known)
    rates = cells.rates(step=1.0)
    assert cells.start in rates
    for one in rates:
        values = cells.values(Cell(32, one))
        assert cells.cell(values) == Cell(32, one)
        for parameter in hp.space:
            value = values[parameter.name]
            if hasattr(parameter, "min_value"):
                assert parameter.min_value <= value <= parameter.max_value
            else:
                assert value in parameter.values
    nearest = min(rates, key=lambda one: abs(one - cells.start))
    own = known.setting(cells.values(Cell(32, nearest))).learning_rate
    others = [known.setting(cells.values(Cell(32, one))).learning_rate for one in rates]
    assert abs(math.log2(own / rate)) <= min(abs(math.log2(o / rate)) for o in others) + 1e-5


def test_its_plan_and_its_answer_are_known_at_any_time():
    world = World()
    oracle = world.make()
    assert isinstance(oracle, StagedOracle)
    assert oracle.belief() is None
    before = oracle.stages()
    assert [stage.name for stage in before] == [
        "learning rates",
        "batch sizes and learning rates",
        "schedules",
    ]
    assert [stage.planned for stage in before] == [8, 17, 0], "two for each length, and a whole one"
    assert sum(stage.cost for stage in before) == pytest.approx(2.51 * TOTAL)
    world.search(oracle, most=4)
    assert oracle.stages()[0].done == 4
    assert oracle.belief().sentence.startswith("now batch size 32; not yet told from ")
    world.search(oracle)
    left = [(stage.name, stage.planned - stage.done) for stage in oracle.stages()]
    assert left[-1] == ("schedules", 0), "it cannot be paid any more"
    assert sum(stage.cost for stage in oracle.stages()) <= 0.51 * TOTAL


@pytest.mark.parametrize("price", [2.5, 3.5, 5.0])
@pytest.mark.parametrize("first", ["wsd", "linear"])
def test_its_stages_come_one_after_another(price, first):
    """Schedules compete with a whole training: nothing is planned of them before there is one."""
    schedules = tuple(dict.fromkeys((first, "linear", "cosine")))
    world = World(schedules=schedules)
    oracle = world.make(trainings=price)
    current = []
    for number in range(1, 200):
        name = f"search-{number:04d}"
        stages = oracle.stages()
        left = [k for k, stage in enumerate(stages) if stage.done < stage.planned]
        current.append(left[0] if left else len(stages))
        assert sum(stage.done for stage in stages) == number - 1
        proposal = oracle.propose(name, known=None, bound=math.inf)
        if isinstance(proposal, Stop):
            break
        whole = any(one.at == TOTAL for one in world.trained.values())
        assert whole or not stages[2].planned
        oracle.tell(name, proposal, world.train(name, proposal))
    assert current == sorted(current)
    assert {0, 1} <= set(current)


@pytest.mark.parametrize("start", [0.0, 2.0, 20.0])
def test_there_is_a_whole_training_however_dear_parts_are(start):
    """A trial that takes long to start makes short trainings as dear as whole ones."""
    prices = Prices(dict.fromkeys(SIZES, 1e-3), start_seconds=start)
    world = World(prices=prices)
    oracle = world.make()
    world.search(oracle)

    favorite = oracle.belief().values["batch_size"]
    assert favorite in {one.cell.batch_size for one in world.trained.values() if one.at == TOTAL}


STARTS = [(size, octaves) for size in SIZES for octaves in (-3.0, -1.0, 0.0, 2.0)]


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_answer_was_trained_whole_wherever_it_starts(noise):
    """A favorite of the last moment may cost more to its end than what is left."""
    short = []
    for start in STARTS:
        world = World(noise=noise, start=start)
        oracle = world.make()
        world.search(oracle)
        whole = {one.cell for one in world.trained.values() if one.at == TOTAL}
        if answered(oracle) not in whole:
            short.append(start)
    assert short == []


def test_a_start_that_is_far_away_is_left():
    """Three octaves off, or at a batch size whose rates cost a whole training each."""
    left = {}
    for start in STARTS:
        world = World(noise=0.0, start=start)
        before = regret(Cell(*start))
        if before > 0.45:
            oracle = world.make()
            world.search(oracle)
            left[start] = regret(answered(oracle)) / before
    assert len(left) >= 6
    assert {start: share for start, share in left.items() if share > 0.6} == {}


def test_a_whole_training_that_failed_is_no_answer():
    """Another one is made, whatever it costs by then."""

    class Failing(World):
        failed = None

        def train(self, name, proposal):
            told = super().train(name, proposal)
            trained = self.trained[name]
            if trained.at == TOTAL and self.failed in (None, trained.cell):
                self.failed = trained.cell
                return Told(0.1, "diverged")
            return told

    world = Failing()
    oracle = world.make()
    world.search(oracle)
    whole = {one.cell for one in world.trained.values() if one.at == TOTAL}
    assert answered(oracle) in whole - {world.failed}


def test_a_bracket_is_where_a_batch_size_is_judged_early():
    """A batch of 512 makes fifty updates in the whole length only: a rate would cost a training."""
    world = World(start=(512, 0.0))
    oracle = world.make()
    world.search(oracle, most=6)
    assert {one.cell.batch_size for one in world.trained.values()} == {128}
    assert max(one.at for one in world.trained.values()) == TOTAL // 4


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ConfigurationError, match="shares"):
        make_settings("trunks", shares=[0.5, 0.25, 1.0])
    with pytest.raises(ConfigurationError, match="shares"):
        make_settings("trunks", shares=[0.5])


def test_every_batch_size_of_the_ladder_is_judged_before_any_cell_goes_on():
    world = World()
    world.search(world.make())
    judged = [
        world.trained[name]
        for name, proposal in world.journal.items()
        if not (proposal.part and proposal.part.to_examples)
    ]
    first_long = next(k for k, one in enumerate(judged) if one.at > TOTAL / 4)
    assert {32, 128} <= {one.cell.batch_size for one in judged[:first_long]}


SEARCH = """
description: trunks of a tiny model
oracle: {name: trunks, shares: [0.25, 1.0], fewest_updates: 10}
max_trials: 20
space:
  batch_size: [16, 64]
  learning_rate_octaves: 0.0
  warmup_fraction: 0.03
  schedules: [{name: wsd, cooldown: 0.2, shape: linear}, {name: linear}]
  optimizer: {name: sgd, momentum: 0.9}
confirmation: {batch_sizes: 2, seeds: 1}
"""


class Counts(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


@pytest.mark.slow
def test_a_search_for_real_is_continued_to_whole_trainings_and_an_answer(tmp_path, capsys):
    path = tmp_path / "trunks.yaml"
    path.write_text(SEARCH, encoding="utf-8")

    def run(**more):
        return tfbatch.find_batch_size(
            tiny_model.build,
            "digits",
            search=str(path),
            trial_length="2 epochs",
            callbacks=lambda: [Counts()],
            workers=0,
            run_dir=tmp_path / "run",
            **more,
        )

    run(max_trials=2)
    said = " ".join(capsys.readouterr().out.split())
    assert "what begins anew in each: Counts.lock" in said
    first = [t for t in Trials.read(tmp_path / "run") if t.phase == "search"]
    result = run()
    trials = Trials.read(tmp_path / "run")

    assert [t.row for t in trials.of_phase("search")][: len(first)] == [t.row for t in first]
    assert first
    whole = [t for t in trials.searched() if t.phase == "search"]
    assert "wsd" in {t.configuration.schedule.name for t in whole}
    assert result.batch_size in (16, 32, 64)
    identities = [(t.parent, t.seed, t.to_examples, t.configuration.identity()) for t in trials]
    assert len(set(identities)) == len(identities)


def faster_world(**options):
    """A world in which a training at 512 takes a quarter of the time of one at 32."""
    return World(prices=Prices({16: 0.001, 512: 0.004}), noise=0.0, **options)


def whole_sizes(world):
    return {one.cell.batch_size for one in world.trained.values() if one.at == TOTAL}


def test_a_faster_size_that_may_be_as_good_is_trained_whole_on_top_of_the_price():
    """What is recommended for its speed must have been trained to its end."""
    alone, world = faster_world(), faster_world()
    before = alone.make(faster=False)
    alone.search(before)
    world.search(world.make())
    favorite = before.belief().values["batch_size"]

    (faster,) = whole_sizes(world) - whole_sizes(alone)
    assert faster > favorite
    more = sum(world.costs) - sum(alone.costs)
    assert 0 < more <= world.prices.cost(favorite, TOTAL)


def test_one_faster_size_is_trained_and_no_other_when_it_disappoints():
    class Disappointing(World):
        def train(self, name, proposal):
            told = super().train(name, proposal)
            own = self.trained[name]
            return Told(0.95) if own.at == TOTAL and own.cell.batch_size > 32 else told

    prices = Prices({16: 0.001, 512: 0.004})
    worlds = [Disappointing(prices=prices, noise=0.0, best=128) for _ in range(2)]
    for world, faster in zip(worlds, (False, True), strict=True):
        world.search(world.make(faster=faster))
    alone, both = map(whole_sizes, worlds)
    assert len(both - alone) == 1


@pytest.mark.parametrize("place", [-3, -2, -1])
def test_a_search_that_was_stopped_before_its_faster_size_makes_it_once(place):
    whole = faster_world()
    whole.search(whole.make())
    known = {name: whole.journal[name] for name in list(whole.journal)[:place]}
    again = faster_world()
    again.search(again.make(), known=known)
    assert again.journal == whole.journal


def test_a_faster_size_that_cannot_be_as_good_is_not_trained_for_its_speed():
    """Larger batches lose more than the noise, which the judgements at short lengths have shown."""
    alone, world = faster_world(best=32), faster_world(best=32)
    alone.search(alone.make(faster=False))
    world.search(world.make())
    assert world.journal == alone.journal


def test_nothing_is_as_good_as_a_baseline_that_is_far_better_than_all():
    """What must be matched is the best that is known, the user's own score among it."""
    alone, world = faster_world(), faster_world()
    alone.search(alone.make(faster=False))
    world.known = dataclasses.replace(world.known, baseline_told=lambda: Told(0.999))
    world.search(world.make())
    assert world.journal == alone.journal


def test_a_faster_size_that_diverges_or_wins_is_the_only_one():
    """What it came to changes the favorite, or what may be tried; not that it was begun."""
    for outcome in (Told(0.1, "diverged"), Told(0.999)):

        class Surprising(World):
            def train(self, name, proposal, outcome=outcome):
                told = super().train(name, proposal)
                own = self.trained[name]
                behind = any(t.at == TOTAL and t.cell.batch_size == 32 for t in before(self, name))
                surprises = own.at == TOTAL and own.cell.batch_size > 32 and behind
                return outcome if surprises else told

        world = Surprising(prices=Prices({16: 0.001, 512: 0.004}), noise=0.0, best=128)
        assert isinstance(world.search(world.make()), str)
        names = [n for n, t in world.trained.items() if t.at == TOTAL]
        first = next(n for n in names if world.trained[n].cell.batch_size == 32)
        assert len(names) - 1 - names.index(first) == 1


def before(world, name):
    return [trained for other, trained in world.trained.items() if other != name]


def test_what_the_search_needs_is_less_than_what_it_may_cost():
    settings = make_settings("trunks")
    assert (settings.needed_trainings(24), settings.most_trainings()) == (2.5, 3.5)
    assert make_settings("trunks", faster=False).most_trainings() == 2.5


def test_the_plan_has_the_faster_size_until_it_is_made():
    world = faster_world()
    oracle = world.make()
    assert (oracle.stages()[-1].name, oracle.stages()[-1].planned) == ("a faster batch size", 1)
    world.search(oracle)
    assert (oracle.stages()[-1].done, oracle.stages()[-1].planned) == (1, 1)
    assert "a faster batch size" not in [stage.name for stage in World().make().stages()]


def test_a_faster_size_is_counted_once_and_when_it_has_ended():
    """A rehearsal takes the first stage whose count has risen."""
    world = faster_world()
    oracle = world.make()
    while not isinstance(
        proposal := oracle.propose(name := f"{len(world.journal)}", known=None, bound=math.inf),
        Stop,
    ):
        before = {stage.name: stage.done for stage in oracle.stages()}
        for_speed = oracle._begun_for_its_speed() is not None
        oracle.tell(name, proposal, world.train(name, proposal))
        risen = [stage.name for stage in oracle.stages() if stage.done > before[stage.name]]
        assert len(risen) == 1
        assert (risen == ["a faster batch size"]) == for_speed
    assert oracle.stages()[-1].done == 1


def test_where_all_sizes_cost_the_same_none_is_faster():
    world, alone = World(), World()
    world.search(world.make())
    alone.search(alone.make(faster=False))
    assert world.journal == alone.journal


def test_the_price_of_a_cheap_baseline_is_that_of_the_usual_size():
    """Two and a half trainings at 512 would not be one at the sizes that are worth a look."""
    prices = Prices({16: 0.001, 512: 0.002})
    world = World(prices=prices, start=(512, 0.0), noise=0.0)
    world.search(world.make(faster=False))

    usual = np.median([prices.cost(size, TOTAL) for size in SIZES])
    assert 2.51 * prices.cost(512, TOTAL) < sum(world.costs) <= 2.51 * usual
