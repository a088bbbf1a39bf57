"""KerasTuner's Hyperband on parts of trainings: what goes on from what, and what never does."""

import collections
import dataclasses
import math

import keras_tuner
import numpy as np
import pytest
import tiny_model
from search_fixtures import TOTAL_EXAMPLES
from test_budget import BUDGET
from test_oracle_in_parts import PartTrainer, config_of, content, search

import tfbatch
from tfbatch.errors import ConfigurationError
from tfbatch.oracles import Part, Premises, Proposal, Told, make_settings
from tfbatch.trial.trials import Trials

TOTAL = 9000
SIZES = (16, 32, 64, 128)
RATES = [0.01 * n for n in range(1, 21)]


class Rounds:
    """Asks an oracle, one trial at a time unless told otherwise; a small rate is good.

    Attributes:
        journal: The proposals, by the names of their trials.
        ends: Where each completed trial has stopped, in examples.
    """

    def __init__(
        self,
        *,
        rates=None,
        sizes=SIZES,
        total=TOTAL,
        direction="min",
        seed=3,
        most=None,
        **given,
    ):
        hp = keras_tuner.HyperParameters()
        if sizes:
            hp.Choice("batch_size", list(sizes), ordered=True)
        if rates:
            hp.Choice("rate", list(rates), ordered=True)
        else:
            hp.Float("rate", 0.001, 1.0, sampling="log")
        self.oracle = make_settings("hyperband", **given).make(
            hp,
            direction=direction,
            seed=seed,
            total_examples=total,
            premises=Premises(max_trials=most),
        )
        self.total, self.sign = total, 1.0 if direction == "min" else -1.0
        self.journal, self.ends = {}, {}

    def propose(self, *, known=None, bound=math.inf):
        """The name of the next trial, or None."""
        name = f"search-{len(self.journal) + 1:04d}"
        proposal = self.oracle.propose(name, known=known, bound=bound)
        if proposal is None:
            return None
        assert known in (None, proposal)
        self.journal[name] = proposal
        return name

    def train(self, name, *, fails=lambda values: False):
        """Trains and tells a trial, by the rules that a search has for parts."""
        proposal = self.journal[name]
        values, part = proposal.values, proposal.part or Part()
        size = values.get("batch_size", 1)
        start = 0
        if part.parent:
            assert proposal.seed is None
            assert self.journal[part.parent].values == values, "only a branch may change them"
            start = self.ends[part.parent]  # of one that has completed
        to = part.to_examples or self.total
        assert start < to, "it must end after it begins"
        if fails(values):
            self.oracle.tell(name, proposal, Told(self.sign * 9.0, "diverged"))
            return
        self.ends[name] = min(-(-to // size) * size, self.total)
        self.oracle.tell(name, proposal, Told(self.sign * values["rate"]))

    def run(self, count, **given):
        """Trial after trial; how many there were before none was left."""
        for number in range(count):
            name = self.propose()
            if name is None:
                return number
            self.train(name, **given)
        return count

    def lengths(self):
        """Of each trial: from where to where."""
        parts = [proposal.part or Part() for proposal in self.journal.values()]
        return [(bool(part.parent), part.to_examples) for part in parts]


def test_a_bracket_is_halved_to_whole_trainings_and_the_next_begins_longer():
    asked = Rounds()
    asked.run(17)

    first = [(False, 1000)] * 9 + [(True, 3000)] * 3 + [(True, None)]
    second = [(False, 3000)] * 4
    assert asked.lengths() == first + second
    rates = [proposal.values["rate"] for proposal in asked.journal.values()]
    assert sorted(rates[:9])[:3] == rates[9:12]
    assert rates[12] == min(rates)
    parents = [asked.journal[name].part.parent for name in list(asked.journal)[9:13]]
    assert parents[3] == "search-0010"
    assert [asked.journal[name].values["rate"] for name in parents[:3]] == rates[9:12]


def test_values_are_those_of_the_space_alone_and_plain_python():
    """KerasTuner adds five of its own, such as tuner/epochs."""
    asked = Rounds()
    asked.run(13)
    for proposal in asked.journal.values():
        assert {k: type(v) for k, v in proposal.values.items()} == {
            "batch_size": int,
            "rate": float,
        }


def test_a_large_score_may_be_good():
    asked = Rounds(direction="max")
    asked.run(13)
    rates = [proposal.values["rate"] for proposal in asked.journal.values()]
    assert rates[12] == min(rates), "the score is the negative rate"


@pytest.mark.parametrize(
    ("given", "ends"),
    [
        ({"factor": 2, "smallest_share": 0.25}, [2250, 4500, None]),
        ({"factor": 3, "smallest_share": 1 / 9}, [1000, 3000, None]),
        ({"factor": 5, "smallest_share": 1 / 125}, [72, 360, 1800, None]),
        ({"factor": 3, "smallest_share": 1 / 243}, [37, 111, 333, 1000, 3000, None]),
        ({"factor": 4, "smallest_share": 0.9}, [None]),
    ],
)
def test_rounds_are_as_many_as_the_smallest_share_allows(given, ends):
    asked = Rounds(sizes=None, **given)
    bracket = {1: 3, 3: 20, 4: 200, 6: 400}[len(ends)]
    asked.run(bracket)
    found = dict.fromkeys(end for _, end in asked.lengths())
    assert list(found)[: len(ends)] == ends


@pytest.mark.parametrize(
    "given",
    [{}, {"factor": 2, "smallest_share": 0.25}, {"factor": 5, "smallest_share": 1 / 125}],
    ids=str,
)
def test_what_a_search_needs_is_its_first_pass_through_all_brackets(given):
    """Up to the trial that begins the first bracket once more; of few trials what they come to."""
    asked = Rounds(sizes=None, **given)
    settings = make_settings("hyperband", **given)
    shortest, spent, begun, is_back = None, 0.0, 0, False
    longest = 0
    while not is_back:
        name = asked.propose()
        part = asked.journal[name].part or Part()
        start = asked.ends[part.parent] if part.parent else 0
        end = part.to_examples or TOTAL
        shortest = shortest or end
        is_back = longest == TOTAL and not part.parent and end == shortest
        if not part.parent and not is_back:
            longest = max(longest, end)
            begun += 1
        spent += 0 if is_back else end - start
        asked.train(name)
    assert settings.needed_trainings(begun) == pytest.approx(spent / TOTAL, rel=0.01)
    assert settings.needed_trainings(10 * begun) == settings.needed_trainings(begun)
    assert settings.needed_trainings(1) == pytest.approx(shortest / TOTAL, rel=0.01)


def test_a_time_limit_is_compared_with_what_the_rounds_of_a_search_cost():
    settings = make_settings("hyperband")
    assert settings.needed_trainings(34) == pytest.approx(25 / 3)
    assert settings.needed_trainings(9) == pytest.approx(7 / 3)
    budget = dataclasses.replace(BUDGET, needed_trainings=settings.needed_trainings(34))
    assert "needs 8.33 of them" in budget.shortage


@pytest.mark.parametrize("given", [{"factor": 1}, {"smallest_share": 0}, {"smallest_share": 1}])
def test_settings_without_rounds_are_refused(given):
    with pytest.raises(ConfigurationError, match=next(iter(given))):
        make_settings("hyperband", **given)


def test_a_failed_training_is_never_gone_on_from():
    """Where too many failed KerasTuner continues one of them."""
    asked = Rounds()
    asked.run(60, fails=lambda values: values["rate"] > 0.003)

    assert len(asked.journal) == 60
    assert (True, None) in asked.lengths()
    failed = [name for name in asked.journal if name not in asked.ends]
    parents = {p.part.parent for p in asked.journal.values() if p.part}
    assert len(failed) > 20
    assert not parents & set(failed)


def test_where_all_fail_the_search_goes_on_with_new_configurations():
    asked = Rounds()
    assert asked.run(40, fails=lambda values: True) == 40
    assert {parent for parent, _ in asked.lengths()} == {False}
    assert len({str(p.values) for p in asked.journal.values()}) == 40


def test_a_batch_that_has_reached_the_next_end_is_not_trained_again_for_it():
    """A single update of 512 passes a ninth of 2,500 examples, and of 2,048 all but the whole."""
    asked = Rounds(total=2500, sizes=(512, 1024, 2048))
    asked.run(60)  # `train` refuses a part without an update
    whole = [name for name, end in asked.ends.items() if end == 2500]
    assert whole
    parents = {p.part.parent for p in asked.journal.values() if p.part}
    assert not parents & set(whole)


def test_a_forgotten_trial_gives_its_place_to_another_and_ends_nothing():
    """KerasTuner would wait for a full round: nothing of the bracket would go on."""
    asked = Rounds()
    for number in range(16):
        name = asked.propose()
        if number in (2, 10, 14):
            asked.oracle.forget(name)
        else:
            asked.train(name)

    trained = [
        length
        for name, length in zip(asked.journal, asked.lengths(), strict=True)
        if name in asked.ends
    ]
    assert trained == [(False, 1000)] * 9 + [(True, 3000)] * 3 + [(True, None)]
    names = list(asked.journal)
    for forgotten, again in ((10, 11), (14, 15)):
        assert asked.journal[names[forgotten]] == asked.journal[names[again]]
    assert asked.journal[names[2]] not in list(asked.journal.values())[3:]


def test_the_last_training_of_a_bracket_is_repeated_if_it_teaches_nothing():
    """KerasTuner has left the bracket by then, since its last place was taken."""
    asked = Rounds()
    asked.run(12)
    last, other = asked.propose(), asked.propose()
    assert asked.journal[last].part.to_examples is None
    assert asked.journal[other].part.parent is None, "another bracket has begun"
    asked.oracle.forget(last)

    assert asked.journal[asked.propose()] == asked.journal[last]


def test_what_always_kills_its_process_is_gone_on_from_twice_and_then_counts_as_failed():
    asked, killed = Rounds(), collections.Counter()
    for _ in range(40):
        name = asked.propose()
        part = asked.journal[name].part
        if part and part.parent:
            killed[part.parent] += 1
            asked.oracle.forget(name)
        else:
            asked.train(name)
    assert killed
    assert set(killed.values()) == {2}
    assert len(asked.ends) > 20, "new ones are begun"


def test_a_search_that_was_stopped_anywhere_proposes_the_same():
    """With a bound from the sixth on, and failures that are told again without a training."""

    def session(asked, *, known, count):
        for number in range(count):
            bound = math.inf if number < 5 else 128
            name = asked.propose(known=known[number] if number < len(known) else None, bound=bound)
            if number % 7 == 4:
                asked.oracle.forget(name)
            else:
                asked.train(name, fails=lambda values: values["rate"] > 0.002)

    whole = Rounds()
    session(whole, known=(), count=48)
    proposals = list(whole.journal.values())
    for place in (1, 4, 5, 9, 13, 20, 33, 44):
        again = Rounds()
        session(again, known=proposals[:place], count=48)
        assert list(again.journal.values()) == proposals


@pytest.mark.parametrize("seed", [1, 2, 4])
def test_asking_in_vain_changes_nothing_that_follows(seed):
    """KerasTuner draws random numbers for it, which may find a configuration that is left."""

    def session(*, vain):
        """Two workers, as long as one finds something."""
        asked, running = Rounds(seed=seed, rates=RATES[:7]), []
        asked.oracle._oracle._max_collisions = 20  # so that some of the 28 are left
        while True:
            name = asked.propose()
            if name:
                running.append(name)
            for _ in range(vain if name is None else 0):
                assert asked.propose() is None
            if len(running) == 2 or (name is None and running):
                asked.train(running.pop(0))
            elif name is None:
                return list(asked.journal.values())

    assert session(vain=0) == session(vain=3)


def test_every_configuration_of_a_space_is_begun():
    asked = Rounds(seed=2, rates=RATES[:7])
    asked.run(200)
    begun = {str(p.values) for p in asked.journal.values()}
    assert len(begun) == 7 * len(SIZES)
    assert asked.propose() is None


@pytest.mark.parametrize("direction", ["min", "max"])
def test_a_space_of_few_configurations_ends_with_whole_trainings(direction):
    """A bracket of nine begins with the four that there are; KerasTuner's would wait for five."""
    asked = Rounds(rates=(0.1, 0.2), sizes=(16, 32), direction=direction)
    count = asked.run(50)
    begun = [p.values for p in asked.journal.values() if not (p.part and p.part.parent)]

    assert len(begun) == len({str(values) for values in begun}) == 4
    assert (True, None) in asked.lengths()
    assert count < 12
    assert asked.propose() is None


def test_what_no_longer_fits_is_not_gone_on_from():
    """With the bound KerasTuner's next round would have another batch size than its parent."""
    asked = Rounds()
    for number in range(60):
        name = asked.propose(bound=math.inf if number < 9 else 32)
        asked.train(name)  # refuses a parent of another batch size
        assert number < 9 or asked.journal[name].values["batch_size"] == 16
    assert (True, None) in asked.lengths()


def test_what_an_earlier_session_ran_is_returned_as_it_is():
    """Whatever this version would propose; what goes on from it goes on from where it is."""
    asked = Rounds()
    rates = np.geomspace(0.002, 0.9, 9)
    for number, rate in enumerate(rates):
        end = None if number == 0 else 4000 if number == 1 else 1500
        known = Proposal(
            {"batch_size": 16, "rate": float(rate)}, None if end is None else Part(to_examples=end)
        )
        name = asked.propose(known=known)
        assert asked.journal[name] is known
        asked.train(name)
    asked.run(20)

    parents = collections.Counter(p.part.parent for p in asked.journal.values() if p.part)
    assert "search-0001" not in parents, "it is whole"
    assert parents["search-0003"] == 1


@pytest.mark.parametrize("workers", [2, 5])
def test_several_workers_train_nothing_twice_and_wait_for_no_one(workers):
    asked, rng, running = Rounds(), np.random.default_rng(workers), []
    for _ in range(120):
        while len(running) < workers:
            name = asked.propose()
            assert name is not None
            running.append(name)
        asked.train(running.pop(int(rng.integers(workers))))

    made = [str((p.values, p.part and p.part.to_examples)) for p in asked.journal.values()]
    assert len(made) == len(set(made))
    assert asked.lengths().count((True, None)) >= 3


def slow_best():
    """Of a bracket of nine the best ends when the next two have been continued."""
    asked = Rounds()
    names = [asked.propose() for _ in range(9)]
    best, *others = sorted(names, key=lambda name: asked.journal[name].values["rate"])
    for name in names:
        if name != best:
            asked.train(name)
    continued = [asked.propose(), asked.propose()]
    assert [asked.journal[name].part.parent for name in continued] == others[:2]
    asked.train(best)
    return asked, best, continued


def test_a_search_of_several_workers_continues_once_more_what_it_had_not_continued():
    """Replayed in the order of names, the best has ended before the others are continued."""
    before, best, continued = slow_best()
    again = Rounds()
    for name, proposal in before.journal.items():
        assert again.propose(known=proposal) == name
        if name not in continued:  # they were running when the search was stopped
            again.train(name)

    for asked in (before, again):
        following = asked.journal[asked.propose()]
        assert following.part == Part(to_examples=3000, parent=best)
        for name in (*continued, list(asked.journal)[-1]):
            asked.train(name)
        asked.run(20)
        made = [str((p.values, p.part and p.part.to_examples)) for p in asked.journal.values()]
        assert len(made) == len(set(made))
    assert list(again.journal.values()) == list(before.journal.values())


@pytest.mark.parametrize("workers", [2, 3, 5])
def test_a_search_of_several_workers_that_goes_on_trains_nothing_twice(workers):
    """Whatever ran when it was stopped."""
    rng, running, asked = np.random.default_rng(workers), [], Rounds()
    for stop in (11, 23, 40, 70):
        again = Rounds()
        for name, proposal in asked.journal.items():
            assert again.propose(known=proposal) == name
            if name in asked.ends:
                again.train(name)
        asked = again
        while len(asked.journal) < stop:
            while len(running) < workers:
                running.append(asked.propose())
            asked.train(running.pop(int(rng.integers(workers))))

    made = [str((p.values, p.part and p.part.to_examples)) for p in asked.journal.values()]
    assert len(made) == len(set(made))
    assert asked.lengths().count((True, None)) >= 2


@pytest.mark.parametrize("workers", [1, 2, 4, 9])
def test_a_search_that_has_begun_all_it_may_waits_for_what_can_still_be_continued(workers):
    """KerasTuner begins another bracket, of which nothing may be tried: it would end the search."""
    asked, running = Rounds(most=9), []
    while True:
        while len(running) < workers and (name := asked.propose()):
            if len([p for p in asked.journal.values() if not (p.part and p.part.parent)]) > 9:
                break
            running.append(name)
        if not running:
            break
        asked.train(running.pop(0))

    *lengths, further = asked.lengths()
    assert sorted(lengths, key=str) == [(False, 1000)] * 9 + [(True, 3000)] * 3 + [(True, None)]
    assert further == (False, 3000), "proposed where nothing runs, for a larger limit"


def test_a_search_by_hyperband_that_was_stopped_anywhere_has_the_same_journal(tmp_path):
    """Through the loop of a search, with its journal and its rules for parts."""
    config = config_of("hyperband", base_learning_rate=RATES, batch_size=[32, 64])
    config = config.model_copy(update={"max_trials": 14})
    whole = search(tmp_path / "whole", PartTrainer(), config)
    assert sum(trial.length == TOTAL_EXAMPLES for trial in whole) >= 2
    for place in range(1, len(whole), 3):
        trainer, folder = PartTrainer(), tmp_path / f"stopped-{place}"
        search(folder, trainer, config, session=lambda n=place, t=trainer: len(t.ran) >= n)
        trainer.interrupt_at = whole[min(place + 2, len(whole) - 1)].trial
        search(folder, trainer, config)
        trainer.interrupt_at = None

        assert content(search(folder, trainer, config)) == content(whole)


SEARCH = """
description: two rounds of a tiny model
oracle: {name: hyperband, factor: 2, smallest_share: 0.5}
max_trials: 4
space:
  batch_size: [16, 64]
  base_learning_rate: [0.01, 0.03, 0.1, 0.3]
  learning_rate_octaves: 0.0
  warmup_fraction: 0.0
  schedules: [{name: cosine}]
  optimizer: {name: sgd, momentum: 0.9}
confirmation: {batch_sizes: 1, seeds: 1}
"""


@pytest.mark.slow
def test_a_search_for_real_continues_the_best_to_a_whole_training(tmp_path):
    path = tmp_path / "rounds.yaml"
    path.write_text(SEARCH, encoding="utf-8")
    tfbatch.find_batch_size(
        tiny_model.build,
        "digits",
        search=str(path),
        trial_length="2 epochs",
        workers=0,
        run_dir=tmp_path / "run",
        verbose=0,
    )
    trials = Trials.read(tmp_path / "run").of_phase("search")

    first, second, further, *others = trials
    assert {first.from_examples, second.from_examples} == {0}
    assert max(first.length, second.length) < further.length
    best = min((first, second), key=lambda trial: trial.score)  # a loss
    assert further.parent == best.trial
    assert further.configuration == best.configuration
    assert {other.length for other in others} == {further.length}
