"""Verification: who is verified, on which seeds, in what order, and what counts."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from search_fixtures import (
    ACCURACY,
    BASELINE,
    LOSS,
    Trainer,
    finished,
    make_book,
    open_folder,
    outcome,
)

from tfbatch.configuration import Configuration
from tfbatch.search.clock import SearchClock
from tfbatch.search.config import Confirmation
from tfbatch.search.confirmation import (
    Candidate,
    as_verified,
    choose_candidates,
    confirmation_seed,
    run_rounds,
    trial_name,
    verified_by_rounds,
)
from tfbatch.search.trial_book import InterruptedTrialError, TrialBook
from tfbatch.seeds import derive_seed
from tfbatch.training.outcome import Outcome, TrialSpec

CANDIDATES = [
    Candidate(f"search-{number:04d}", BASELINE.model_copy(update={"batch_size": 8 << number}))
    for number in (1, 2, 3)
]


def configuration(batch_size: int, rate: float = 0.1) -> Configuration:
    return Configuration(batch_size=batch_size, base_learning_rate=rate)


def verify(book: TrialBook, *, seeds: int = 3, stop: bool = False, **clock: float) -> None:
    run_rounds(
        CANDIDATES,
        confirmation=Confirmation(seeds=seeds),
        book=book,
        clock=SearchClock(clock.get("minutes"), now=lambda: 0.0),
        seed=7,
        stop_requested=lambda: stop,
    )


SEARCHED = [
    finished("baseline", BASELINE, loss=0.9, phase="baseline"),
    finished("search-0001", configuration(16), loss=0.5),
    finished("search-0002", configuration(16, 0.2), loss=0.4),
    finished("search-0003", configuration(64), loss=0.3),
    finished("search-0004", configuration(128), loss=0.6),
    finished("search-0005", configuration(256), loss=0.1, status="diverged"),
    finished("search-0006", configuration(32), loss=0.7),
]


def test_the_best_of_each_of_the_best_batch_sizes_and_the_baseline_are_verified() -> None:
    chosen = choose_candidates(SEARCHED, objective=LOSS, batch_sizes=3)

    assert [c.key for c in chosen] == ["search-0003", "search-0002", "search-0004", "baseline"]
    assert [c.configuration.batch_size for c in chosen] == [64, 16, 128, 32]


def test_larger_is_better_where_the_objective_says_so() -> None:
    chosen = choose_candidates(SEARCHED, objective=ACCURACY, batch_sizes=1)

    assert [c.key for c in chosen] == ["baseline"]


def test_the_baseline_is_verified_once_also_when_it_is_among_the_best() -> None:
    trials = [finished("baseline", BASELINE, loss=0.2, phase="baseline"), *SEARCHED[1:]]
    chosen = choose_candidates(trials, objective=LOSS, batch_sizes=2)

    assert [c.key for c in chosen] == ["baseline", "search-0003"]


def test_a_baseline_without_a_score_is_not_verified() -> None:
    failed = finished("baseline", BASELINE, phase="baseline", status="error")
    chosen = choose_candidates([failed, *SEARCHED[1:3]], objective=LOSS, batch_sizes=3)

    assert [c.key for c in chosen] == ["search-0002"]
    assert choose_candidates([failed], objective=LOSS, batch_sizes=3) == []


def test_all_candidates_of_a_round_have_the_same_fresh_seed(tmp_path: Path) -> None:
    trainer = Trainer()
    with open_folder(tmp_path) as folder:
        verify(make_book(folder, trainer))

    rounds = [trainer.ran[i : i + 3] for i in (0, 3, 6)]
    seeds = [{spec.seed for spec in specs} for specs in rounds]
    assert [len(s) for s in seeds] == [1, 1, 1]
    assert len(set.union(*seeds)) == 3
    assert seeds == [{confirmation_seed(7, n)} for n in (1, 2, 3)]
    searched = {derive_seed(7, f"search-{n:04d}") for n in range(1, 999)}
    assert not set.union(*seeds) & (searched | {derive_seed(7, "baseline"), 7})
    assert {spec.phase for spec in trainer.ran} == {"confirmation"}


def test_no_candidate_is_always_first(tmp_path: Path) -> None:
    trainer = Trainer()
    with open_folder(tmp_path) as folder:
        verify(make_book(folder, trainer))

    sizes = [spec.configuration.batch_size for spec in trainer.ran]
    assert [sorted(sizes[i : i + 3]) for i in (0, 3, 6)] == [[16, 32, 64]] * 3
    assert len({sizes[0], sizes[3], sizes[6]}) == 3


def test_a_name_depends_on_configuration_and_round_only() -> None:
    first, second, _ = CANDIDATES
    other_key = Candidate("search-0099", first.configuration)

    assert trial_name(first, 1) == trial_name(other_key, 1)
    assert len({trial_name(first, 1), trial_name(first, 2), trial_name(second, 1)}) == 3


def test_an_interrupted_verification_is_continued_and_nothing_is_run_twice(tmp_path: Path) -> None:
    uninterrupted = Trainer()
    with open_folder(tmp_path / "a") as folder:
        verify(make_book(folder, uninterrupted))

    trainer = Trainer()
    trainer.interrupt_at = uninterrupted.ran[4].trial
    with open_folder(tmp_path / "b") as folder, pytest.raises(InterruptedTrialError):
        verify(make_book(folder, trainer))
    trainer.interrupt_at = None
    with open_folder(tmp_path / "b") as folder:
        verify(make_book(folder, trainer))

    names = [spec.trial for spec in uninterrupted.ran]
    assert [spec.trial for spec in trainer.ran] == [*names[:5], *names[4:]]


def test_more_seeds_add_rounds(tmp_path: Path) -> None:
    trainer = Trainer()
    for seeds, count in ((1, 3), (1, 3), (3, 9)):
        with open_folder(tmp_path) as folder:
            verify(make_book(folder, trainer), seeds=seeds)
        assert len(trainer.ran) == count


def test_a_round_is_begun_only_if_it_fits_as_a_whole(tmp_path: Path) -> None:
    """Each trial took 2 seconds and three of them make a round; 15 seconds are kept."""
    trainer = Trainer()
    with open_folder(tmp_path) as folder:
        book = make_book(folder, trainer)
        book.run("baseline", phase="baseline", seed=1, configuration=BASELINE)
        verify(book, minutes=20.9 / 60)
        assert len(trainer.ran) == 1
        verify(book, minutes=21.1 / 60)
        assert len(trainer.ran) == 1 + 9


def test_no_round_is_begun_when_a_stop_is_asked_for(tmp_path: Path) -> None:
    trainer = Trainer()
    with open_folder(tmp_path) as folder:
        verify(make_book(folder, trainer), stop=True)
    assert trainer.ran == []


def test_only_whole_rounds_count(tmp_path: Path) -> None:
    trainer = Trainer()
    with open_folder(tmp_path) as folder:
        book = make_book(folder, trainer)
        verify(book, seeds=2)
        book.run(
            trial_name(CANDIDATES[0], 3), phase="confirmation", seed=1, configuration=BASELINE
        )
        verified = verified_by_rounds(CANDIDATES, book)

    assert list(verified) == [c.key for c in CANDIDATES]
    assert {len(trials) for trials in verified.values()} == {2}
    assert verified_by_rounds([], book) == {}


def test_a_candidate_that_failed_on_any_seed_is_left_out(tmp_path: Path) -> None:
    trainer = Trainer(ends={trial_name(CANDIDATES[1], 2): "diverged"})
    with open_folder(tmp_path) as folder:
        book = make_book(folder, trainer)
        verify(book)
        verified = verified_by_rounds(CANDIDATES, book)

    assert list(verified) == ["search-0001", "search-0003"]
    assert {len(trials) for trials in verified.values()} == {3}


def test_scores_and_training_seconds_are_paired_by_round(tmp_path: Path) -> None:
    def numbered(spec: TrialSpec) -> Outcome:
        number = int(spec.trial[-1])
        return outcome(spec, loss=number / spec.configuration.batch_size, seconds=number)

    with open_folder(tmp_path) as folder:
        book = make_book(folder, numbered)
        verify(book)
        verified = as_verified(verified_by_rounds(CANDIDATES, book))

    assert [v.key for v in verified] == ["search-0001", "search-0002", "search-0003"]
    assert verified[1].scores == {0: 1 / 32, 1: 2 / 32, 2: 3 / 32}
    assert verified[1].seconds == {0: 0.5, 1: 1.0, 2: 1.5}
    assert not any(math.isnan(score) for v in verified for score in v.scores.values())
