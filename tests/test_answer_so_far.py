"""From the first trial on there is an answer, shown when it changes and kept on disk."""

import dataclasses

import pytest
from search_fixtures import BASELINE, finished, trials_of

from tfbatch.oracles import Belief, Stage
from tfbatch.search.answer_so_far import AnswerSoFar
from tfbatch.search.progress import Progress


class Hands:
    def __init__(self):
        self.time = 0.0

    def __call__(self):
        return self.time


def of_size(name, size, loss):
    return finished(name, BASELINE.model_copy(update={"batch_size": size}), loss=loss)


@pytest.fixture
def watched():
    said, kept, hands = [], [], Hands()
    progress = Progress(None)
    progress.note = said.append

    def keep():
        kept.append(hands.time)
        hands.time += 0.1

    return AnswerSoFar(progress, keep, margin=0.06, now=hands), said, kept, hands


def test_a_batch_size_that_leads_is_shown_with_those_near_it(watched):
    so_far, said, _, _ = watched
    baseline = finished("baseline", BASELINE, loss=0.8, phase="baseline")
    trials = [
        baseline,
        of_size("one", 64, 0.5),
        of_size("two", 64, 0.4),
        of_size("three", 16, 0.45),
        of_size("four", 128, 0.35),
    ]
    for count in range(1, 6):
        so_far.look(trials_of(*trials[:count]), None)

    assert said == [
        "Now batch size 64 (one, val_loss 0.5000); each batch size was tried with few learning "
        "rates and one seed.",
        "Now batch size 128 (four, val_loss 0.3500); not told from 64, within 0.06 of it.",
    ]


def test_it_is_kept_when_it_changes_but_not_all_the_time(watched):
    so_far, _, kept, hands = watched
    trials = [of_size(f"t{n}", 64, 1.0 - n / 10) for n in range(4)]
    so_far.look(trials_of(*trials[:1]), None)
    so_far.look(trials_of(*trials[:1]), None)  # the same
    so_far.look(trials_of(*trials[:2]), None)  # too soon: it took 0.1 s
    assert kept == [0.0]
    hands.time = 6.0
    so_far.look(trials_of(*trials[:2]), None)
    assert kept == [0.0, 6.0]


def test_the_oracles_own_belief_goes_before(watched):
    so_far, said, kept, hands = watched
    trials = trials_of(finished("baseline", BASELINE, phase="baseline"))
    belief = Belief({"batch_size": 64}, "now batch size 64, not yet told from 32 to 256")
    so_far.look(trials, belief)
    so_far.look(trials, dataclasses.replace(belief, sentence="now 64, told from 256"))
    hands.time = 60.0
    so_far.look(trials, Belief({"batch_size": 32}, "now batch size 32"))

    assert said == ["Now batch size 64, not yet told from 32 to 256.", "Now batch size 32."]
    assert kept == [0.0, 60.0]


def test_nothing_is_kept_before_a_training_is_whole(watched):
    so_far, said, kept, _ = watched
    so_far.look(trials_of(finished("one", BASELINE, status="diverged")), None)

    assert (said, kept) == ([], [])


def test_a_stage_is_told_when_it_begins(watched):
    so_far, said, _, _ = watched
    bracket, trunks = Stage("bracket", 0, 5, 100, 100.0), Stage("trunks", 0, 9, 100, 100.0)
    done = dataclasses.replace(bracket, done=5)
    for stages in ([bracket, trunks], [bracket, trunks], [done, trunks], []):
        so_far.look(trials_of(), None, stages)

    assert said == ["Stage 1 of 2: bracket (5 trials).", "Stage 2 of 2: trunks (9 trials)."]
