"""Trunks first, then whole trainings: who proposes what, and what the second one knows."""

import dataclasses
import math

import keras
import keras_tuner
import pytest
import tiny_model
from test_trunks import TOTAL, World, hyperparameters, premises, regret

import tfbatch
from tfbatch.errors import ConfigurationError
from tfbatch.oracles import (
    Premises,
    Prices,
    Proposal,
    Setting,
    StagedOracle,
    Stop,
    Told,
    make_settings,
)
from tfbatch.oracles._cells import Cell
from tfbatch.request.search_config import load_search
from tfbatch.schema import Named
from tfbatch.search.progress import Progress
from tfbatch.search.session import _trainable
from tfbatch.training.description import ModelDescription
from tfbatch.trial.trials import Trials

GRID = {"name": "grid"}
"""It knows what was tried, and its order says what it was told."""


class Both(World):
    """The world of the trunks, in which a trial without a numbered seed has one of its own."""

    def make(self, *, then=GRID, whole_trainings=3, gain=0.0, **first):
        settings = make_settings(
            "trunks_first", first=first, then=then, whole_trainings=whole_trainings, gain=gain
        )
        return settings.make(
            hyperparameters(), direction="max", seed=1, total_examples=TOTAL, premises=self.known
        )

    def train(self, name, proposal):
        own = dataclasses.replace(proposal, seed=1000 + len(self.journal))
        is_own = proposal.seed is None and proposal.part is None
        told = super().train(name, own if is_own else proposal)
        self.journal[name] = proposal
        return told

    def wholes(self):
        """Names of the second one's trials."""
        return [n for n, p in self.journal.items() if p.part is None and p.seed is None]


def test_trunks_propose_until_they_stop_and_then_the_other_one_does():
    alone, world = World(), Both()
    alone.search(alone.make())
    reason = world.search(world.make())

    names = list(alone.journal)
    assert [world.journal[name] for name in names] == list(alone.journal.values())
    assert world.wholes() == list(world.journal)[len(names) :]
    assert len(world.wholes()) == 3
    assert "3 whole trainings" in reason


def test_the_second_one_knows_whole_trainings_of_the_first_and_what_diverged():
    world = Both(diverges=0.07)
    oracle = world.make(then={"name": "bayesian", "initial_trials": 4}, whole_trainings=3)
    world.search(oracle)
    known = [_sorted(t.hyperparameters.values) for t in oracle._then._oracle.trials.values()]

    first = [n for n in world.journal if n not in world.wholes()]
    whole = [n for n in first if world.trained[n].at == TOTAL and _is_uncooled(world.journal[n])]
    diverged = [n for n in first if _rate(world, n) >= 0.07]
    assert whole
    assert diverged
    told = {_key(world.journal[name]) for name in [*whole, *diverged]}
    assert told < set(known)
    assert len(known) == len(told) + 3, "each of them once"


def _is_uncooled(proposal):
    part = proposal.part
    return part is None or (part.to_examples, part.total_examples, part.schedule) == (None,) * 3


def _rate(world, name):
    return world.known.setting(world.journal[name].values).learning_rate


def _sorted(values):
    return tuple(sorted(values.items()))


def _key(proposal):
    return _sorted(proposal.values)


@pytest.mark.parametrize("then", [GRID, {"name": "bayesian", "initial_trials": 2}])
def test_a_search_of_both_that_was_stopped_anywhere_proposes_the_same(then):
    whole = Both()
    whole.search(whole.make(then=then))
    names = list(whole.journal)
    for place in (1, len(names) - 4, len(names) - 3, len(names) - 2, len(names) - 1):
        again = Both()
        known = {name: whole.journal[name] for name in names[:place]}
        again.search(again.make(then=then), known=known)

        assert again.journal == whole.journal


def test_parts_of_a_session_that_might_try_more_are_the_trunks_own():
    """With fewer than `fewest_trials` the second one begins, unless the first one has begun."""
    whole, few = Both(), Both()
    whole.search(whole.make())
    name, part = next(iter(whole.journal.items()))
    few.known = dataclasses.replace(few.known, max_trials=3)
    assert few.make().propose(name, known=None, bound=math.inf).seed is None
    oracle = few.make()
    assert oracle.propose(name, known=part, bound=math.inf) == part
    oracle.tell(name, part, few.train(name, part))
    following = oracle.propose("search-0002", known=None, bound=math.inf)

    assert following == whole.journal["search-0002"]


@pytest.mark.parametrize("workers", [2, 4])
def test_several_workers_make_every_whole_training_once(workers):
    world = Both()
    oracle = world.make(whole_trainings=5)
    assert isinstance(world.search_beside(oracle, workers), Stop)
    assert len({_key(world.journal[name]) for name in world.wholes()}) == 5


def knowing(world, score, **more):
    """A world in which the baseline came to a score, or failed."""
    told = Told(0.1, "diverged") if score is None else Told(score)
    world.known = dataclasses.replace(world.known, baseline_told=lambda: told, **more)
    return world


def best_of_the_first():
    """The score of the trunks' best whole training."""
    world = Both()
    oracle = world.make(whole_trainings=1)
    world.search(oracle)
    return -oracle._best_of_first


@pytest.mark.parametrize(
    ("behind", "gain", "follow"),
    [(0.004, 1.0, 0), (0.006, 1.0, 3), (-0.1, 1.0, 0), (0.006, 2.0, 0), (-0.1, None, 3)],
)
def test_whole_trainings_follow_where_the_trunks_have_found_something_better(behind, gain, follow):
    """The margin is half a point; a gain of one or two of them is asked for."""
    best = best_of_the_first()
    world = knowing(Both(), best - behind, margin=0.005)
    oracle = world.make(gain=gain)
    reason = world.search(oracle)

    assert len(world.wholes()) == follow
    last = oracle.stages()[-1]
    assert (last.done, last.planned) == (follow, follow)
    if not follow:
        assert f"came to {best:.4g}, the baseline to {best - behind:.4g}" in reason


@pytest.mark.parametrize("world", [knowing(Both(), None, margin=0.005), Both()])
def test_whole_trainings_follow_where_the_baseline_failed_or_is_not_trained(world):
    world.search(world.make())
    assert len(world.wholes()) == 3


def test_the_decision_waits_for_a_baseline_that_is_being_trained():
    """It would be another one when the search is resumed."""
    told, world = [None], Both()
    world.known = dataclasses.replace(world.known, baseline_told=lambda: told[0], margin=0.005)
    oracle = world.make(whole_trainings=1)
    assert world.search_beside(oracle, 1) is None
    assert not world.wholes()
    told[0] = Told(0.5)
    assert isinstance(oracle.propose("search-next", known=None, bound=math.inf), Proposal)


def test_a_search_that_was_stopped_behind_the_trunks_decides_the_same():
    world = knowing(Both(), best_of_the_first(), margin=0.005)
    world.search(world.make())
    again = knowing(Both(), best_of_the_first(), margin=0.005)
    reason = again.search(again.make(), known=dict(world.journal))

    assert again.journal == world.journal
    assert "no whole trainings" in reason


def test_few_trials_are_whole_trainings_alone():
    """Four configurations of trunks would be four beginnings and no answer."""
    world = knowing(Both(), 0.5, max_trials=4)
    world.search(world.make(whole_trainings=5), most=4)
    assert len(world.wholes()) == len(world.journal) == 4

    assert world.make(whole_trainings=5).stages()[-1].planned == 4
    more = knowing(Both(), 0.5, max_trials=20)
    more.search(more.make(whole_trainings=5), known=dict(world.journal))
    assert len(more.wholes()) == len(more.journal) == 5, "it goes on as it began"


def test_a_search_by_trunks_that_goes_on_with_few_trials_stays_one():
    world = knowing(Both(), 0.5, max_trials=20)
    world.search(world.make(whole_trainings=2))
    names = list(world.journal)
    known = {name: world.journal[name] for name in names[:-3]}
    again = knowing(Both(), 0.5, max_trials=4)
    again.search(again.make(whole_trainings=2), known=known)

    assert again.journal == world.journal


def test_a_search_does_not_end_while_a_whole_training_may_still_be_killed():
    world = Both()
    oracle = world.make(whole_trainings=2)
    world.search(oracle, most=len(_of_the_first()))
    for name in ("search-a", "search-b"):
        assert isinstance(oracle.propose(name, known=None, bound=math.inf), Proposal)
    assert oracle.propose("search-c", known=None, bound=math.inf) is None
    oracle.forget("search-a")

    assert isinstance(oracle.propose("search-c", known=None, bound=math.inf), Proposal)


@pytest.mark.parametrize("then", [{"name": "bayesian", "initial_trials": 2}, {"name": "tpe"}])
def test_the_second_one_knows_the_values_of_a_list_to_the_last_bit(then):
    hp = keras_tuner.HyperParameters()
    hp.Choice("batch_size", [32, 64], ordered=True)
    hp.Choice("base_learning_rate", [0.01, 0.02, 0.04, 0.08], ordered=True)
    hp.Choice("schedule", ["wsd", "cosine"])

    def setting(values):
        size, rate = values.get("batch_size", 32), values.get("base_learning_rate", 0.02)
        more = {"cooldown": 0.2} if values.get("schedule", "wsd") == "wsd" else {}
        return Setting(size, rate * size / 32, Named(name=values.get("schedule", "wsd"), **more))

    known = Premises(Prices(), Setting(32, 0.02, Named(name="cosine")), setting)
    settings = make_settings("trunks_first", then=then, whole_trainings=4)
    oracle = settings.make(hp, direction="min", seed=1, total_examples=TOTAL, premises=known)
    seen = []
    while isinstance(
        p := oracle.propose(f"t-{len(seen):02d}", known=None, bound=math.inf), Proposal
    ):
        loss = abs(math.log2(p.values["base_learning_rate"] / 0.03)) + len(seen) / 100
        oracle.tell(f"t-{len(seen):02d}", p, Told(loss))
        seen.append(p)

    wholes = [_key(p) for p in seen if _is_uncooled(p)]
    assert len(wholes) == len(set(wholes)) >= 5


@pytest.mark.parametrize("schedules", [("wsd", "cosine"), ("constant", "cosine")], ids=str)
def test_the_answer_of_the_first_one_stays_until_a_better_whole_training(schedules):
    world = Both()
    hp = hyperparameters(schedules=schedules)
    premises_ = premises(schedules=schedules)
    settings = make_settings("trunks_first", then=GRID, whole_trainings=2)
    oracle = settings.make(hp, direction="max", seed=1, total_examples=TOTAL, premises=premises_)
    world.known = premises_
    count = 0
    while not oracle.stages()[-2].done and count < 100:
        count += 1
        name = f"search-{count:04d}"
        proposal = oracle.propose(name, known=None, bound=math.inf)
        if proposal.part is None and proposal.seed is None:
            break
        oracle.tell(name, proposal, world.train(name, proposal))
    before = oracle.belief()
    oracle.tell(name, proposal, Told(0.5))

    assert oracle.belief() == before


def test_a_whole_training_whose_process_was_killed_does_not_count():
    world = Both()
    oracle = world.make(whole_trainings=1)
    world.search(oracle, most=len(_of_the_first()))
    killed = oracle.propose("search-killed", known=None, bound=math.inf)
    oracle.forget("search-killed")

    another = oracle.propose("search-more", known=None, bound=math.inf)
    assert isinstance(killed, Proposal)
    assert isinstance(another, Proposal)
    oracle.tell("search-more", another, Told(0.9))
    assert isinstance(oracle.propose("search-end", known=None, bound=math.inf), Stop)


def _of_the_first():
    alone = World()
    alone.search(alone.make())
    return alone.journal


def test_the_answer_changes_only_for_a_better_whole_training():
    world = Both()
    oracle = world.make(whole_trainings=2)
    world.search(oracle, most=len(_of_the_first()))
    before = oracle.belief()
    assert regret(Cell(before.values["batch_size"], before.values["learning_rate_octaves"])) < 0.2
    worse = oracle.propose("search-worse", known=None, bound=math.inf)
    oracle.tell("search-worse", worse, Told(0.5))
    assert oracle.belief() == before
    better = oracle.propose("search-better", known=None, bound=math.inf)
    oracle.tell("search-better", better, Told(0.999))

    assert oracle.belief().values == better.values
    assert "search-better" in oracle.belief().sentence


def test_a_seed_that_the_second_one_numbers_is_not_taken_for_one_of_the_trunks():
    world = Both()
    oracle = world.make(whole_trainings=2)
    inner = oracle._then.propose

    def numbered(trial, **asked):
        found = inner(trial, **asked)
        return dataclasses.replace(found, seed=3) if isinstance(found, Proposal) else found

    oracle._then.propose = numbered
    world.search(oracle)
    assert len(world.wholes()) == 2


def test_a_stage_that_ended_before_its_plan_is_over_when_the_second_one_begins():
    world = Both(noise=0.0)
    oracle = world.make(whole_trainings=2, trainings=50, worth=2.0)
    alone = World(noise=0.0)
    assert "nothing that could still be tried" in alone.search(alone.make(trainings=50, worth=2.0))
    world.search(oracle, most=len(alone.journal) + 1)

    assert all(stage.done == stage.planned for stage in oracle.stages()[:-1])


def test_its_plan_ends_with_the_whole_trainings():
    world = Both()
    oracle = world.make(whole_trainings=2)
    assert isinstance(oracle, StagedOracle)
    last = oracle.stages()[-1]
    assert (last.name, last.done, last.planned) == ("whole trainings, where trunks gain", 0, 2)
    assert (last.examples, last.cost) == (2 * TOTAL, 2 * TOTAL)
    world.search(oracle, most=len(_of_the_first()) + 1)
    stages = oracle.stages()

    assert all(stage.done == stage.planned for stage in stages[:-1])
    assert (stages[-1].done, stages[-1].planned) == (1, 2)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"then": "trunks"}, "must propose whole trainings, and trunks proposes parts"),
        ({"then": "annealing"}, "Unknown oracle"),
        ({"then": {"initial_trials": 8}}, "must name an oracle, such as bayesian"),
        ({"whole_trainings": 0}, "whole_trainings"),
        ({"first": {"trainings": -1}}, "trainings"),
        ({"first": {"name": "grid"}}, "must be settings of trunks"),
    ],
)
def test_settings_of_both_that_cannot_be_are_refused(given, says):
    with pytest.raises(ConfigurationError, match=says):
        make_settings("trunks_first", **given)


SEARCH = """
description: both on a tiny model
oracle:
  name: trunks_first
  first: {shares: [0.25, 1.0], fewest_updates: 10}
  then: {name: random}
  whole_trainings: 2
  gain: null
  fewest_trials: 0
max_trials: 20
space:
  batch_size: [16, 64]
  learning_rate_octaves: {min: -1, max: 1}
  warmup_fraction: [0.0, 0.03]
  schedules: [{name: wsd, cooldown: [0.1, 0.2], shape: linear}, {name: linear}]
  optimizer: {name: sgd, momentum: 0.9}
confirmation: {batch_sizes: 2, seeds: 1}
"""


@pytest.mark.slow
def test_a_search_for_real_ends_with_whole_trainings_and_is_continued(tmp_path):
    path = tmp_path / "both.yaml"
    path.write_text(SEARCH, encoding="utf-8")

    def run(**more):
        return tfbatch.find_batch_size(
            tiny_model.build,
            "digits",
            search=str(path),
            trial_length="2 epochs",
            workers=0,
            run_dir=tmp_path / "run",
            verbose=0,
            **more,
        )

    run(max_trials=3)
    first = [t.row for t in Trials.read(tmp_path / "run") if t.phase == "search"]
    result = run()
    trials = Trials.read(tmp_path / "run").of_phase("search")

    assert [t.row for t in trials][: len(first)] == first
    assert [t.parent for t in trials][-2:] == [None, None]
    assert [t.length for t in trials][-2:] == [trials.total_examples] * 2
    own = trials[len(trials) - 2 :]
    assert {t.seed for t in own}.isdisjoint(t.seed for t in trials[: len(trials) - 2])
    assert result.batch_size in (16, 32, 64)


@pytest.mark.slow
def test_trainings_that_cannot_go_on_in_parts_are_made_whole(tmp_path, capsys):
    """A callback that stops a part would make it worthless."""
    path = tmp_path / "both.yaml"
    path.write_text(SEARCH, encoding="utf-8")
    tfbatch.find_batch_size(
        tiny_model.build,
        "digits",
        search=str(path),
        trial_length="1 epoch",
        callbacks=lambda: [keras.callbacks.EarlyStopping(patience=3)],
        workers=0,
        max_trials=2,
        run_dir=tmp_path / "run",
    )
    said = " ".join(capsys.readouterr().out.split())
    trials = Trials.read(tmp_path / "run").of_phase("search")

    assert "(EarlyStopping may stop one before its end)" in said
    assert "whole ones alone, by random: up to 2 (" in said
    assert [t.length for t in trials] == [trials.total_examples] * 2
    assert [t.parent for t in trials] == [None, None]


def test_whole_trainings_to_come_are_those_that_the_trunks_have_left_room_for():
    world = Both()
    world.known = dataclasses.replace(world.known, max_trials=12)
    oracle = world.make(whole_trainings=12)
    world.search(oracle, most=len(_of_the_first()))
    begun = sum(p.part is None or p.part.parent is None for p in world.journal.values())
    assert 0 < begun < 12
    assert oracle.stages()[-1].planned == 12 - begun


def test_whole_trainings_in_its_place_cost_no_more_than_the_search_would():
    search = load_search("trunks_first")
    asked = dataclasses.replace(ModelDescription(), whole_only="of a test")
    said = []
    progress = Progress(None)
    progress.say = said.append
    found = _trainable(search, asked, progress)

    assert (found.oracle.name, found.max_trials) == ("bayesian", 16)
    assert "up to 16" in said[0]
    assert _trainable(search, ModelDescription(), progress) is search
    assert _trainable(load_search("trunks"), asked, progress).oracle.name == "trunks"


@pytest.mark.parametrize(("most", "needed"), [(11, None), (12, 2.5)])
def test_what_it_needs_for_an_answer_is_that_of_what_it_begins_with(most, needed):
    assert make_settings("trunks_first").needed_trainings(most) == needed
