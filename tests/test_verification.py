"""Verification: who is verified, on which seeds, in what order, and what counts."""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from types import SimpleNamespace

import pytest
from search_fixtures import (
    ACCURACY,
    BASELINE,
    TOTAL_EXAMPLES,
    Trainer,
    finished,
    make_request_of,
    make_runner,
    open_folder,
    outcome,
    trials_of,
)

from tfbatch.answer.candidates import (
    again_name,
    as_verified,
    choose_candidates,
    to_verify,
    trial_name,
    verified_groups,
)
from tfbatch.answer.find import RefutedError, find_answer
from tfbatch.answer.step_seconds import StepSeconds
from tfbatch.answer.summary import summary
from tfbatch.configuration import Configuration
from tfbatch.estimators.chance_level import ChanceLevel
from tfbatch.request.search_config import VerificationConfig
from tfbatch.search import verification
from tfbatch.search.clock import FINISHING_SECONDS, SearchClock
from tfbatch.search.run import Run
from tfbatch.search.trial_runner import InterruptedTrialError
from tfbatch.search.verification import Verification, verification_seed
from tfbatch.seeds import derive_seed
from tfbatch.trial.finished_trial import read_row


def configuration(batch_size, rate=0.1):
    return Configuration(batch_size=batch_size, base_learning_rate=rate)


SEARCHED = [
    finished("baseline", BASELINE, loss=0.9, phase="baseline"),
    finished("search-0001", configuration(16), loss=0.5),
    finished("search-0002", configuration(16, 0.2), loss=0.4),
    finished("search-0003", configuration(64), loss=0.3),
    finished("search-0004", configuration(128), loss=0.6),
    finished("search-0005", configuration(256), loss=0.1, status="diverged"),
    finished("search-0006", configuration(32), loss=0.7),
]


def search(runner, *sizes):
    """The baseline, and one trial of the search for each batch size."""
    runner.run(runner.spec("baseline", "baseline", 1, BASELINE))
    for number, size in enumerate(sizes, start=1):
        name = f"search-{number:04d}"
        runner.run(runner.spec(name, "search", number, configuration(size)))


def verify(runner, *, rounds=3, stop=False, seconds=None):
    race(runner, rounds).run(
        SearchClock(None if seconds is None else seconds / 60, now=lambda: 0.0),
        stop_requested=lambda: stop,
    )


def race(runner, rounds, step_seconds=StepSeconds(), **terms):  # noqa: B008 - frozen
    return Verification(
        to_verify(runner.trials, batch_sizes=3),
        VerificationConfig(batch_sizes=3, seeds=rounds, **terms),
        runner,
        seed=7,
        step_seconds=step_seconds,
    )


def groups(runner):
    """Number of verification trials by the key of the configuration."""
    found = verified_groups(runner.trials, batch_sizes=3)
    return {key: len(trials) for key, trials in found.items()}


def verifications(trainer):
    return [spec for spec in trainer.ran if spec.phase == "confirmation"]


def test_the_best_of_each_of_the_best_batch_sizes_and_the_baseline_are_verified():
    chosen = choose_candidates(trials_of(*SEARCHED), batch_sizes=3)

    assert [c.key for c in chosen] == ["search-0003", "search-0002", "search-0004", "baseline"]
    assert [c.configuration.batch_size for c in chosen] == [64, 16, 128, 32]
    assert {c.seconds for c in chosen} == {2.0}


def test_larger_is_better_where_the_objective_says_so():
    chosen = choose_candidates(trials_of(*SEARCHED, objective=ACCURACY), batch_sizes=2)

    assert [c.key for c in chosen] == ["baseline", "search-0006", "search-0004"]


def test_the_baseline_is_verified_once_also_when_it_is_among_the_best():
    trials = [finished("baseline", BASELINE, loss=0.2, phase="baseline"), *SEARCHED[1:]]
    chosen = choose_candidates(trials_of(*trials), batch_sizes=2)

    assert [c.key for c in chosen] == ["baseline", "search-0003", "search-0002"]


def test_the_best_of_the_search_is_verified_also_at_the_batch_size_of_the_baseline():
    """The best searched configuration was never verified where the baseline sat on its 32."""
    trials = [
        finished("baseline", BASELINE, loss=0.30, phase="baseline"),
        finished("search-0001", configuration(32), loss=0.31),
        finished("search-0002", configuration(64), loss=0.33),
        finished("search-0003", configuration(16), loss=0.35),
    ]
    chosen = choose_candidates(trials_of(*trials), batch_sizes=1)

    assert [c.key for c in chosen] == ["baseline", "search-0001"]


def test_the_baseline_found_again_by_the_search_is_verified_once():
    trials = [
        finished("baseline", BASELINE, loss=0.30, phase="baseline"),
        finished("search-0001", BASELINE, loss=0.30),
    ]

    assert len(choose_candidates(trials_of(*trials), batch_sizes=3)) == 1


@pytest.mark.parametrize(
    ("chance", "keys"),
    [
        (None, ["search-0001", "search-0002", "search-0003", "baseline"]),
        (2.3, ["search-0001", "search-0002", "baseline"]),  # a tenth of 2.3 - 0.3 is 0.2
        (0.8, ["search-0001", "baseline"]),
    ],
)
def test_what_is_hopelessly_behind_is_not_verified(chance, keys):
    trials = [
        finished("baseline", BASELINE, loss=0.9, phase="baseline"),
        finished("search-0001", configuration(32), loss=0.30),
        finished("search-0002", configuration(64), loss=0.49),
        finished("search-0003", configuration(256), loss=0.51),
    ]
    level = None if chance is None else ChanceLevel(chance)
    chosen = choose_candidates(trials_of(*trials), batch_sizes=3, chance=level)

    assert [c.key for c in chosen] == keys


def test_an_accuracy_that_is_hopelessly_behind_is_not_verified():
    """CIFAR-10: 0.4792 at 256 beside 0.6718, where chance is 0.1."""
    trials = [
        finished("search-0001", configuration(64), loss=0.6718),
        finished("search-0002", configuration(512), loss=0.6220),
        finished("search-0003", configuration(256), loss=0.4792),
    ]
    chosen = choose_candidates(
        trials_of(*trials, objective=ACCURACY), batch_sizes=3, chance=ChanceLevel(0.1)
    )

    assert [c.key for c in chosen] == ["search-0001", "search-0002"]


def test_a_baseline_without_a_score_is_not_verified():
    failed = finished("baseline", BASELINE, phase="baseline", status="error")
    chosen = choose_candidates(trials_of(failed, *SEARCHED[1:3]), batch_sizes=3)

    assert [c.key for c in chosen] == ["search-0002"]
    assert choose_candidates(trials_of(failed), batch_sizes=3) == []


def test_what_was_verified_does_not_change_who_is_verified():
    lucky = finished("confirm-x-1", configuration(128), loss=0.01, phase="confirmation")

    assert choose_candidates(trials_of(*SEARCHED, lucky), batch_sizes=3) == (
        choose_candidates(trials_of(*SEARCHED), batch_sizes=3)
    )


def test_all_candidates_of_a_round_have_the_same_fresh_seed(tmp_path):
    trainer = Trainer()
    with open_folder(tmp_path) as folder:
        runner = make_runner(folder, trainer)
        search(runner, 16, 64)
        verify(runner)

    ran = verifications(trainer)
    paired = [spec for spec in ran if "again" not in spec.trial]
    seeds = [{spec.seed for spec in paired[i : i + 3]} for i in (0, 3, 6)]
    assert seeds == [{verification_seed(7, n)} for n in (1, 2, 3)]
    assert len(set.union(*seeds)) == 3
    searched = {derive_seed(7, f"search-{n:04d}") for n in range(1, 999)}
    assert not set.union(*seeds) & (searched | {derive_seed(7, "baseline"), 7})


def test_the_baseline_is_trained_twice_in_each_round_the_second_time_with_a_seed_of_its_own(
    tmp_path,
):
    trainer = Trainer()
    with open_folder(tmp_path) as folder:
        runner = make_runner(folder, trainer)
        search(runner, 16, 64)
        verify(runner)
        verified = as_verified(verified_groups(runner.trials, batch_sizes=3))

    again = [spec for spec in verifications(trainer) if "again" in spec.trial]
    assert [spec.configuration for spec in again] == [BASELINE] * 3
    assert len({spec.seed for spec in verifications(trainer)}) == 3 + 3
    assert [sorted(v.again) for v in verified] == [[1, 2, 3], [], []]


def test_a_baseline_alone_is_trained_once_in_a_round(tmp_path):
    trainer = Trainer()
    with open_folder(tmp_path) as folder:
        runner = make_runner(folder, trainer)
        search(runner)
        verify(runner)

    assert len(verifications(trainer)) == 3


def test_a_baseline_that_is_compared_with_nothing_is_told_why():
    """What was only trained in part cannot be compared with it."""
    baseline = finished("baseline", BASELINE, phase="baseline")
    whole = finished("search-0001", configuration(16))
    part = read_row(whole.row | {"to_examples": 100})
    failed = finished("search-0001", configuration(16), status="diverged")

    def said(*trials):
        found = trials_of(baseline, *trials)
        run = SimpleNamespace(trials=found, request=make_request_of())
        return Run._announced(run, to_verify(found, batch_sizes=3))

    for nothing in (part, failed):
        assert "Verifying the baseline on up to 5 fresh seeds" in said(nothing)
        assert "compared with nothing: no whole training of the search" in said(nothing)
    assert "2 configurations, the baseline among them," in said(whole)
    assert "nothing" not in said(whole)


def test_no_candidate_is_always_first(tmp_path):
    trainer = Trainer()
    with open_folder(tmp_path) as folder:
        runner = make_runner(folder, trainer)
        search(runner, 16, 64)
        verify(runner)

    sizes = [s.configuration.batch_size for s in verifications(trainer) if "again" not in s.trial]
    assert [sorted(sizes[i : i + 3]) for i in (0, 3, 6)] == [[16, 32, 64]] * 3
    assert len({sizes[0], sizes[3], sizes[6]}) == 3


def test_names_depend_on_configuration_and_round_only():
    sizes, numbers = (16, 32), (1, 2)
    names = {trial_name(configuration(size), n) for size in sizes for n in numbers}
    names |= {again_name(configuration(size), n) for size in sizes for n in numbers}

    assert len(names) == 8


class NoisyTrainer(Trainer):
    """Losses by batch size, noise of 0.01 by seed, and training seconds by batch size."""

    def __init__(self, losses, seconds=None):
        super().__init__()
        self.losses, self.seconds = losses, seconds or {}

    def __call__(self, spec):
        done = super().__call__(spec)
        noise = math.sin(1e4 * spec.seed * spec.configuration.batch_size)
        loss = self.losses[spec.configuration.batch_size] + 0.01 * noise
        seconds = self.seconds.get(spec.configuration.batch_size, done.training_seconds)
        metrics = done.metrics | {"val_loss": loss}
        return dataclasses.replace(done, metrics=metrics, training_seconds=seconds)


def counts(trainer, *, again=False):
    sizes = [
        s.configuration.batch_size for s in verifications(trainer) if ("again" in s.trial) == again
    ]
    return dict(collections.Counter(sizes))


def test_who_is_hopelessly_behind_leaves_after_three_seeds_and_the_others_go_on(tmp_path):
    trainer = NoisyTrainer({32: 0.50, 16: 0.90, 64: 0.505})
    with open_folder(tmp_path) as folder:
        runner = make_runner(folder, trainer)
        search(runner, 16, 64)
        verify(runner, rounds=6)

    assert counts(trainer) == {16: 3, 32: 6, 64: 6}
    assert counts(trainer, again=True) == {32: 6}


def test_it_ends_where_all_is_decided(tmp_path):
    trainer = NoisyTrainer({32: 0.90, 16: 0.50, 64: 0.95})
    with open_folder(tmp_path) as folder:
        runner = make_runner(folder, trainer)
        search(runner, 16, 64)
        verify(runner, rounds=9)

        assert counts(trainer) == {16: 3, 32: 3, 64: 3}
        assert race(runner, 9).missing_seconds() == [0.0] * 3


def test_who_stays_is_judged_once_for_each_round(tmp_path, monkeypatch):
    trainer, judged = NoisyTrainer({32: 0.50, 16: 0.50, 64: 0.505}), []
    with open_folder(tmp_path) as folder:
        runner = make_runner(folder, trainer)
        search(runner, 16, 64)
        verify(runner, rounds=9)
        judge = verification.judge
        monkeypatch.setattr(
            verification, "judge", lambda *a, **k: judged.append(1) or judge(*a, **k)
        )
        race(runner, 9).missing_seconds()

    assert len(judged) <= 9 - 3


def test_a_race_that_was_interrupted_takes_the_same_course(tmp_path):
    losses = {32: 0.50, 16: 0.90, 64: 0.505}
    uninterrupted, trainer = NoisyTrainer(losses), NoisyTrainer(losses)
    with open_folder(tmp_path / "a") as folder:
        runner = make_runner(folder, uninterrupted)
        search(runner, 16, 64)
        verify(runner, rounds=6)
    names = [spec.trial for spec in uninterrupted.ran]

    trainer.interrupt_at = names[-4]
    with open_folder(tmp_path / "b") as folder:
        runner = make_runner(folder, trainer)
        search(runner, 16, 64)
        with pytest.raises(InterruptedTrialError):
            verify(runner, rounds=6)
    trainer.interrupt_at = None
    with open_folder(tmp_path / "b") as folder:
        verify(make_runner(folder, trainer), rounds=6)

    assert [spec.trial for spec in trainer.ran] == [*names[:-3], *names[-4:]]


def test_more_seeds_add_rounds(tmp_path):
    trainer = Trainer()
    for rounds, count in ((1, 3), (1, 3), (3, 9)):
        with open_folder(tmp_path) as folder:
            runner = make_runner(folder, trainer)
            search(runner, 16)
            verify(runner, rounds=rounds)
        assert len(verifications(trainer)) == count


def test_a_round_is_begun_only_if_it_fits_as_a_whole(tmp_path):
    """Each of its four trials takes 2 seconds."""
    trainer = Trainer()
    with open_folder(tmp_path) as folder:
        runner = make_runner(folder, trainer)
        search(runner, 16, 64)
        verify(runner, seconds=FINISHING_SECONDS + 7.9)
        assert verifications(trainer) == []
        verify(runner, seconds=FINISHING_SECONDS + 8.1)
        assert len(verifications(trainer)) == 12


@pytest.mark.parametrize(("left", "goes_on"), [(3.0, False), (5.0, True)])
def test_a_round_is_begun_only_if_it_fits_beside_what_runs(left, goes_on):
    """Eight places, five trainings of 2 s in a round: three of the next would begin at once."""
    now = 0.0
    trials = [finished("baseline", BASELINE, phase="baseline"), *SEARCHED[2:5]]
    runner = SimpleNamespace(
        trials=trials_of(*trials),
        at_once=8,
        spec=lambda name, phase, seed, one: SimpleNamespace(trial=name, configuration=one),
    )
    clock = SearchClock((FINISHING_SECONDS + left) / 60, now=lambda: now)
    plan = race(runner, 2)._plan(clock, stop_requested=lambda: False, rounds=None)
    first = [next(plan) for _ in range(5)]
    sixth = next(plan)

    assert {one.trial.rpartition("-")[2] for one in first} == {"1"}
    assert (sixth is not None) == goes_on
    if not goes_on:
        rounds = [finished(one.trial, one.configuration, phase="confirmation") for one in first]
        runner.trials = trials_of(*trials, *rounds)
        assert next(plan), "what runs was quicker than expected: there is time for all of them"
        now = 1.1
        again = race(runner, 2)._plan(clock, stop_requested=lambda: False, rounds=None)
        assert [one.trial for one in again] == [one.trial for one in first], "only what is whole"


def test_what_is_left_of_a_round_needs_only_its_own_time(tmp_path):
    trainer = Trainer()
    with open_folder(tmp_path) as folder:
        runner = make_runner(folder, trainer)
        search(runner, 16, 64)
        verify(runner, rounds=1)
        trainer.interrupt_at = trial_name(configuration(16), 2)
        with pytest.raises(InterruptedTrialError):
            verify(runner, rounds=2)
        left = 4 - (len(runner.trials) - 7)
        trainer.interrupt_at = None
        before = len(runner.trials)
        verify(runner, rounds=2, seconds=FINISHING_SECONDS + 2.0 * left + 0.1)
        assert len(runner.trials) - before == left


def test_no_round_is_begun_when_a_stop_is_asked_for(tmp_path):
    trainer = Trainer()
    with open_folder(tmp_path) as folder:
        runner = make_runner(folder, trainer)
        search(runner, 16)
        verify(runner, stop=True)
    assert verifications(trainer) == []


def test_nothing_counts_before_everybody_has_one_seed(tmp_path):
    trainer = Trainer()
    with open_folder(tmp_path) as folder:
        runner = make_runner(folder, trainer)
        search(runner, 16, 64)
        assert groups(runner) == {}
        trainer.interrupt_at = trial_name(configuration(16), 1)
        with pytest.raises(InterruptedTrialError):
            verify(runner)
        assert groups(runner) == {}
        trainer.interrupt_at = trial_name(configuration(16), 3)
        with pytest.raises(InterruptedTrialError):
            verify(runner)
        found = groups(runner)
        assert found["search-0001"] == 2
        assert found.keys() == {"baseline", "search-0001", "search-0002"}


def test_a_candidate_that_failed_on_a_seed_is_shown_but_not_compared(tmp_path):
    trainer = Trainer(ends={trial_name(configuration(16), 2): "diverged"})
    with open_folder(tmp_path) as folder:
        runner = make_runner(folder, trainer)
        search(runner, 16, 64)
        verify(runner)
        found = verified_groups(runner.trials, batch_sizes=3)

    assert {key: [t.status for t in trials] for key, trials in found.items()} == {
        "baseline": ["completed"] * 6,
        "search-0001": ["completed", "diverged"],
        "search-0002": ["completed"] * 3,
    }
    assert [v.key for v in as_verified(found)] == ["baseline", "search-0002"]


def test_configurations_of_one_batch_size_cost_the_same_whatever_ran_beside_them(tmp_path):
    """A baseline was replaced at its own batch size, as cheaper by 5 % and "as fast"."""
    with open_folder(tmp_path) as folder:
        runner = make_runner(folder, Trainer())
        search(runner, 16)
        verify(runner)
        found = verified_groups(runner.trials, batch_sizes=3)
    slower = [dataclasses.replace(t, training_seconds=9.0) for t in found["baseline"]]
    one, other = as_verified({"one": found["baseline"], "other": slower})

    assert set(one.seconds.values()) == set(other.seconds.values())
    assert len(set(one.seconds.values())) == 1


def test_a_race_ends_where_all_others_have_failed(tmp_path):
    """The baseline ran on alone, twice a round, and the failed one was trained on each seed."""
    trainer = NoisyTrainer({32: 0.50, 16: 0.60})
    trainer.ends = {trial_name(configuration(16), 1): "diverged"}
    with open_folder(tmp_path) as folder:
        runner = make_runner(folder, trainer)
        search(runner, 16)
        verify(runner, rounds=8)
        answer = find_answer(runner.trials, batch_sizes=3)

    assert counts(trainer) == {32: 3, 16: 1}
    assert counts(trainer, again=True) == {32: 1}
    assert "Nothing else completed on every fresh seed: batch size 16 diverged on 1" in (
        summary(answer)
    )


def test_who_leaves_for_its_cost_is_judged_by_the_step_times_of_the_answer(tmp_path):
    """Beside others 16 cost what the baseline did: it left, and the answer asked for more seeds."""
    trainer = NoisyTrainer({32: 0.50, 16: 0.505}, seconds={32: 1.0, 16: 1.0})
    alone = StepSeconds(rounds={32: (1e-3,) * 3, 16: (1e-4,) * 3})
    with open_folder(tmp_path) as folder:
        runner = make_runner(folder, trainer)
        search(runner, 16)
        verify(runner, rounds=6)
        assert counts(trainer)[16] == 3
        answer = find_answer(runner.trials, batch_sizes=3, step_seconds=alone)
        assert [one.question for one in answer.undecided] == ["as good"]
        race(runner, 10, alone).run(SearchClock(None), stop_requested=lambda: False)

    assert counts(trainer)[16] > 3


def test_what_was_verified_before_takes_part_until_it_leaves(tmp_path):
    """After a longer search it stayed undecided, and the baseline was trained on alone."""
    losses = {32: 0.50, 16: 0.90, 64: 0.504, 128: 0.90, 256: 0.90, 8: 0.90}
    trainer = NoisyTrainer(losses)
    with open_folder(tmp_path) as folder:
        runner = make_runner(folder, trainer)
        search(runner, 16, 64)
        verify(runner, rounds=3)
        trainer.losses = losses | {128: 0.3, 256: 0.3, 8: 0.3}  # luck of the search
        search(runner, 16, 64, 128, 256, 8)
        trainer.losses = losses
        verify(runner, rounds=6)
        answer = find_answer(runner.trials, batch_sizes=3)

    assert counts(trainer) == {32: 6, 64: 6} | dict.fromkeys((8, 16, 128, 256), 3)
    assert {answer.find(c.key).batch_size for c in answer.verification.comparisons} == set(losses)


def test_a_second_training_of_the_baseline_that_fails_is_only_missing(tmp_path):
    """One of them ran out of memory, and a worse and slower candidate was recommended."""
    trainer = NoisyTrainer({32: 0.50, 16: 0.52, 64: 0.505})
    trainer.ends = {again_name(BASELINE, 2): "oom"}
    with open_folder(tmp_path) as folder:
        runner = make_runner(folder, trainer)
        search(runner, 16, 64)
        verify(runner, rounds=5)
        answer = find_answer(runner.trials, batch_sizes=3)
        verified = as_verified(verified_groups(runner.trials, batch_sizes=3))

    assert answer.keeps_baseline
    assert "oom on 1 of 10 fresh seeds" in summary(answer)
    assert [sorted(v.again) for v in verified if v.key == "baseline"] == [[1, 3, 4, 5]]


def test_one_that_learned_nothing_is_not_recommended_for_being_cheaper():
    """Within the tolerance it is as good as a baseline that has learned something."""
    baseline = [finished("baseline", BASELINE, loss=0.14, phase="baseline")]
    trials = [*baseline, finished("search-0001", configuration(64), loss=0.15)]
    for one, mean in ((BASELINE, 0.14), (configuration(64), 0.115)):
        trials += [
            finished(trial_name(one, n), one, loss=mean + n * 1e-4, seed=n, phase="confirmation")
            for n in (1, 2, 3)
        ]

    def found(noise):
        return find_answer(
            trials_of(*trials, objective=ACCURACY),
            batch_sizes=3,
            chance=ChanceLevel(0.1, 0.1, noise),
            tolerance=0.05,
        )

    assert found(noise=0.01).recommended_trial == "search-0001"
    answer = found(noise=0.02)
    assert answer.keeps_baseline
    assert [one.key for one in answer.verification.comparisons] == ["baseline"]
    assert {one.key for one in answer.contenders} == {"baseline", "search-0001"}
    assert "Nothing else has learned anything on fresh seeds: batch size 64." in summary(answer)
    with pytest.raises(RefutedError, match=r"comes to val_accuracy 0\.1152 on average"):
        found(noise=0.045)


def test_a_failed_one_without_step_times_does_not_cost_the_others_theirs():
    """Seconds beside others decided, of two whose step times alone were known."""
    trials = [finished("baseline", BASELINE, phase="baseline")]
    for number, size in enumerate((16, 64), start=1):
        trials.append(finished(f"search-{number:04d}", configuration(size)))
    for one in (BASELINE, configuration(16), configuration(64)):
        status = "diverged" if one.batch_size == 64 else "completed"
        trials.append(finished(trial_name(one, 1), one, phase="confirmation", status=status))
    groups = verified_groups(trials_of(*trials), batch_sizes=3)
    alone = StepSeconds(device="CPU", rounds={16: (0.5,), 32: (0.25,)})

    for one in as_verified(groups, alone):
        (step,) = alone.rounds[one.batch_size]
        assert one.seconds == {1: step * groups[one.key][0].steps}
    assert groups.keys() - {one.key for one in as_verified(groups, alone)} == {"search-0002"}


def test_that_a_failed_baseline_was_better_where_it_completed_is_reported(tmp_path):
    trainer = NoisyTrainer({32: 0.50, 16: 0.90})
    trainer.ends = {trial_name(BASELINE, 2): "oom"}
    with open_folder(tmp_path) as folder:
        runner = make_runner(folder, trainer)
        search(runner, 16)
        verify(runner)
        answer = find_answer(runner.trials, batch_sizes=3)

    assert answer.recommended.batch_size == 16
    assert re.search(r"completed your baseline was better: val_loss 0\.[45]\d+, ", summary(answer))


def test_a_configuration_that_was_trained_in_parts_has_the_key_of_the_whole_training():
    """With the first part's key it lost its seeds in the table, and never left the race."""
    half = TOTAL_EXAMPLES // 2
    part = dataclasses.replace(finished("search-0001", configuration(16)), to_examples=half)
    whole = finished("search-0002", configuration(16), loss=0.4)
    whole = dataclasses.replace(whole, parent="search-0001", from_examples=half)
    again = finished("search-0003", BASELINE, loss=0.9)  # of a baseline that failed before
    fresh = [
        finished(trial_name(c, 1), c, loss=0.5, phase="confirmation")
        for c in (configuration(16), BASELINE)
    ]
    failed = finished("baseline", BASELINE, phase="baseline", status="oom")
    trials = trials_of(failed, part, whole, again, *fresh)
    chosen = choose_candidates(trials, batch_sizes=3)

    assert [c.key for c in chosen] == ["search-0002", "search-0003"]
    assert verified_groups(trials, batch_sizes=3).keys() == {"search-0002", "search-0003"}


def test_a_configuration_that_was_tried_twice_has_the_key_of_its_candidate():
    rows = [
        finished("search-0001", BASELINE, loss=0.1),
        finished("baseline", BASELINE, loss=0.9, phase="baseline"),
        finished("search-0002", configuration(16), loss=0.5),
        finished("search-0003", configuration(16), loss=0.4, seed=2),
    ]
    fresh = [
        finished(trial_name(c, 1), c, loss=0.5, phase="confirmation")
        for c in (configuration(16), BASELINE)
    ]
    trials = trials_of(*rows, *fresh)

    assert {c.key for c in choose_candidates(trials, batch_sizes=3)} == {"search-0003", "baseline"}
    assert verified_groups(trials, batch_sizes=3).keys() == {"search-0003", "baseline"}


def test_what_was_verified_stays_so_while_a_longer_search_has_better_candidates(tmp_path):
    trainer = Trainer()
    with open_folder(tmp_path) as folder:
        runner = make_runner(folder, trainer)
        search(runner, 256, 512)
        verify(runner)
        before = groups(runner)
        search(runner, 256, 512, 64, 48)
        assert groups(runner) == before == {"baseline": 6, "search-0001": 3, "search-0002": 3}

        verify(runner, rounds=1)
        assert groups(runner) == before | {"search-0003": 1, "search-0004": 1}


def test_scores_are_paired_by_round_and_seconds_are_those_of_the_batch_size(tmp_path):
    def numbered(spec):
        number = int(spec.trial[-1]) if spec.phase == "confirmation" else 1
        return outcome(spec, loss=number / spec.configuration.batch_size, seconds=number)

    with open_folder(tmp_path) as folder:
        runner = make_runner(folder, numbered)
        search(runner, 16, 64)
        verify(runner)
        verified = as_verified(verified_groups(runner.trials, batch_sizes=3))

    assert [v.key for v in verified] == ["baseline", "search-0001", "search-0002"]
    assert verified[0].scores == {1: 1 / 32, 2: 2 / 32, 3: 3 / 32}
    assert verified[0].seconds == {1: 1.0, 2: 1.0, 3: 1.0}


def disproving(*trials, chance=ChanceLevel(untrained=4.0)):  # noqa: B008 - frozen
    """What is chosen of some trials, and how fresh seeds of one of them are added."""
    known = list(trials)

    def chosen(**terms):
        terms = {"batch_sizes": 3, "chance": chance} | terms
        return {one.key for one in choose_candidates(trials_of(*known), **terms)}

    def add(trial, *numbers, **terms):
        for number in numbers:
            name = trial_name(trial.configuration, number)
            known.append(finished(name, trial.configuration, phase="confirmation", **terms))

    return known, chosen, add


def of_size(name, size, loss):
    one = BASELINE.model_copy(update={"batch_size": size, "base_learning_rate": 0.01 * loss})
    return finished(name, one, loss=loss)


@pytest.mark.parametrize(("seeds", "rounds"), [(1, 1), (2, 2), (3, 3), (5, 3)])
def test_one_unlucky_fresh_seed_brings_no_other_candidate(seeds, rounds):
    """A race that is resumed takes the course that it would have taken: nobody leaves before."""
    lucky = of_size("lucky", 32, 3.5)
    _, chosen, add = disproving(
        finished("baseline", BASELINE, loss=3.6, phase="baseline"),
        lucky,
        of_size("other", 32, 3.52),
    )
    for number in range(1, rounds):
        add(lucky, number, loss=4.1)
        assert chosen(seeds=seeds) == {"baseline", "lucky"}
    add(lucky, rounds, loss=4.1)
    assert chosen(seeds=seeds) == {"baseline", "other"}


def test_after_two_that_were_disproved_only_what_is_found_later_is_verified():
    one, two, three = (
        of_size(name, 32, loss) for name, loss in (("a", 3.5), ("b", 3.52), ("c", 3.54))
    )
    baseline = finished("baseline", BASELINE, loss=3.7, phase="baseline")
    known, chosen, add = disproving(baseline, one, two, three)
    add(finished("baseline", BASELINE), 1, loss=3.7)
    for disproved, expected in ((one, {"baseline", "b"}), (two, {"baseline"})):
        add(disproved, 1, 2, 3, loss=4.1)
        assert chosen() == expected
    known.append(of_size("later", 32, 3.6))
    assert chosen() == {"baseline", "later"}


def test_what_is_not_verified_any_more_neither_takes_a_place_nor_sets_the_mark():
    one, two, blocked = (
        of_size(name, 64, loss) for name, loss in (("a", 0.48), ("b", 0.49), ("c", 0.50))
    )
    baseline = finished("baseline", BASELINE, loss=1.5, phase="baseline")
    _, chosen, add = disproving(baseline, one, two, blocked, of_size("far", 32, 0.90))
    add(finished("baseline", BASELINE), 1, loss=1.5)
    for disproved in (one, two):
        add(disproved, 1, status="diverged")
    assert chosen(batch_sizes=1) == {"baseline", "far"}
