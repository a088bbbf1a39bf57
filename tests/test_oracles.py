"""KerasTuner's oracles behind `ask` and `tell`."""

from __future__ import annotations

import math
from typing import Any

import pytest
from search_fixtures import ACCURACY, LOSS, loss_of, make_space

from tfbatch.errors import InputError
from tfbatch.request.search_config import OracleChoice
from tfbatch.search.oracles import AskTell

EACH = pytest.mark.parametrize("name", ["random", "bayesian", "grid"])
ONE_NUMBER: dict[str, Any] = {
    "batch_size": [32],
    "warmup_fraction": 0.0,
    "schedules": [{"name": "constant"}],
}


def oracle(name, space, *, seed=5, objective=LOSS, initial=4):
    choice = OracleChoice(name=name, initial_trials=initial, values_of_range=12)  # type: ignore[arg-type]
    return AskTell(choice, space=space, objective=objective, seed=seed)


def proposals(asked, space, count):
    """What an oracle asks for when it is told a closed-form loss."""
    found = []
    for _ in range(count):
        values = asked.ask()
        assert values is not None
        found.append(values)
        asked.tell(loss_of(space.configuration(values)))
    return found


@EACH
def test_proposals_lie_in_the_space_and_are_plain_python(name):
    space = make_space()

    for values in proposals(oracle(name, space), space, 5):
        assert space.values(space.configuration(values)) == values
        assert {type(value) for value in values.values()} <= {int, float, str}
        assert values["batch_size"] in (16, 32, 64)
        assert 0.001 <= values["base_learning_rate"] <= 1.0
        assert ("schedule_wsd_cooldown" in values) == (values["schedule"] == "wsd")


@EACH
def test_the_same_seed_and_scores_give_the_same_proposals(name):
    space = make_space(**ONE_NUMBER | {"batch_size": [16, 32, 64]})
    first = proposals(oracle(name, space, seed=5), space, 6)

    assert proposals(oracle(name, space, seed=5), space, 6) == first
    assert proposals(oracle(name, space, seed=6), space, 4) != first[:4]


@EACH
def test_no_proposal_is_repeated(name):
    """KerasTuner's Gaussian process alone would: its favorite is not one that it has not seen."""
    space = make_space(**ONE_NUMBER | {"base_learning_rate": [0.01 * n for n in range(1, 13)]})
    found = proposals(oracle(name, space), space, 9)

    assert len({str(sorted(values.items())) for values in found}) == 9


@EACH
def test_an_exhausted_space_is_told_apart_from_a_proposal(name):
    space = make_space(**ONE_NUMBER | {"base_learning_rate": [0.01, 0.1], "batch_size": [16, 32]})
    asked = oracle(name, space)
    found = proposals(asked, space, 4)

    assert sorted((v["batch_size"], v["base_learning_rate"]) for v in found) == [
        (16, 0.01),
        (16, 0.1),
        (32, 0.01),
        (32, 0.1),
    ]
    assert asked.ask() is None


@EACH
def test_fewer_configurations_than_initial_trials_are_each_asked_once(name):
    space = make_space(**ONE_NUMBER | {"base_learning_rate": 0.1, "batch_size": [16, 32, 64]})
    asked = oracle(name, space, initial=8)

    assert sorted(v["batch_size"] for v in proposals(asked, space, 3)) == [16, 32, 64]
    assert asked.ask() is None


@EACH
def test_a_space_of_one_configuration_is_asked_once(name):
    space = make_space(**ONE_NUMBER | {"base_learning_rate": 0.1})
    asked = oracle(name, space, initial=1)

    assert asked.ask() == {}, "the one configuration, which has no values"
    asked.tell(1.0)
    assert asked.ask() is None


@EACH
def test_many_equally_bad_scores_do_not_end_a_search(name):
    """Three failed trials in a row end a search of KerasTuner's own loop."""
    space = make_space(**ONE_NUMBER)
    asked = oracle(name, space)

    for _ in range(10):
        values = asked.ask()
        assert values is not None
        asked.tell(2.3)


@pytest.mark.parametrize("objective", [LOSS, ACCURACY], ids=str)
def test_the_bayesian_oracle_moves_towards_the_better_scores(objective):
    space = make_space(**ONE_NUMBER)
    asked = oracle("bayesian", space, objective=objective, initial=6)
    sign = 1.0 if objective.direction == "min" else -1.0
    distances = []
    for _ in range(12):
        values = asked.ask()
        assert values is not None
        distance = abs(math.log10(values["base_learning_rate"] / 0.1))
        distances.append(distance)
        asked.tell(sign * distance)

    assert sum(distance < 0.15 for distance in distances[6:]) >= 2


def grid(*, seed=5, **space):
    """Everything that a grid of four values of a range asks for."""
    made = make_space(**space)
    choice = OracleChoice(name="grid", values_of_range=4)
    asked = AskTell(choice, space=made, objective=LOSS, seed=seed)
    found = proposals(asked, made, asked.size or 0)
    assert asked.ask() is None
    return found


def test_a_grid_is_every_combination_once():
    """3 batch sizes, 4 rates, 2 warm-ups, and linear or one of three wsd."""
    found = grid()
    rates = sorted({values["base_learning_rate"] for values in found})

    assert len(found) == len({str(sorted(v.items())) for v in found}) == 3 * 4 * 2 * (1 + 3)
    assert rates == pytest.approx([0.001, 0.01, 0.1, 1.0])
    assert (rates[0], rates[-1]) == (0.001, 1.0), "both ends, exactly"
    assert all(("schedule_wsd_cooldown" in v) == (v["schedule"] == "wsd") for v in found)


def test_every_beginning_of_a_grid_has_all_batch_sizes_alike():
    found = grid()
    for end in range(0, len(found), 3):
        assert sorted(v["batch_size"] for v in found[end : end + 3]) == [16, 32, 64]
        rest = [{k: v for k, v in p.items() if k != "batch_size"} for p in found[end : end + 3]]
        assert rest[0] == rest[1] == rest[2]
    rates = [v["base_learning_rate"] for v in found[::3]]
    assert rates != sorted(rates), "the rest is drawn"


def test_a_grid_does_not_depend_on_what_its_trials_came_to():
    """Asked again from the journal it continues: KerasTuner's own begins anew (issue 1055)."""
    space = make_space()
    choice = OracleChoice(name="grid", values_of_range=4)
    first = AskTell(choice, space=space, objective=LOSS, seed=5)
    whole = [first.ask(f"trial-{n}") for n in range(8)]  # none of them ended

    again = AskTell(choice, space=space, objective=LOSS, seed=5)
    continued = []
    for number in range(8):
        continued.append(again.ask())
        again.tell(float(number)) if number % 2 else again.forget()
    assert continued == whole


def test_a_grid_that_nobody_would_wait_for_is_refused():
    rates = {"base_learning_rate": [0.001 * n for n in range(1, 2002)]}
    with pytest.raises(InputError, match=r"at most 10,000 configurations\. .*values_of_range"):
        grid(**ONE_NUMBER | rates | {"batch_size": [8, 16, 32, 64, 128]})


def test_only_a_grid_knows_its_size():
    space = make_space()
    assert [oracle(name, space).size for name in ("random", "bayesian")] == [None, None]


def test_the_bayesian_oracle_stays_away_from_what_diverged():
    space = make_space(**ONE_NUMBER)
    asked = oracle("bayesian", space, initial=8)
    rates = []
    for _ in range(16):
        values = asked.ask()
        assert values is not None
        rates.append(values["base_learning_rate"])
        asked.tell(2.3 if rates[-1] > 0.1 else 1.0 - 0.1 * math.log10(rates[-1] / 0.001))

    assert sum(rate > 0.1 for rate in rates[:8]) >= 1
    assert sum(rate > 0.2 for rate in rates[8:]) <= 1


def test_what_was_tried_instead_is_what_is_learned_from():
    """The mirrored values are tried, and 0.9 is best: its own proposals would point to 0.0011."""
    space = make_space(**ONE_NUMBER)
    asked = oracle("bayesian", space, initial=16)
    for _ in range(16):
        values = asked.ask()
        assert values is not None
        rate = 0.001 / values["base_learning_rate"]
        asked.replace({"base_learning_rate": rate})
        asked.tell(abs(math.log10(rate / 0.9)))

    values = asked.ask()
    assert values is not None
    assert values["base_learning_rate"] > 0.3


@EACH
def test_what_was_tried_instead_may_be_of_another_schedule(name):
    """Then other hyperparameters are active than those that were proposed."""
    space = make_space()
    asked = oracle(name, space, initial=2)
    plain = {"batch_size": 16, "base_learning_rate": 0.1, "warmup_fraction": 0.0}
    for schedule in ({"schedule": "linear"}, {"schedule": "wsd", "schedule_wsd_cooldown": 0.1}):
        assert asked.ask() is not None
        asked.replace({**plain, **schedule})
        asked.tell(1.0)
    for values in proposals(asked, space, 1):
        assert space.values(space.configuration(values)) == values


@EACH
def test_an_oracle_writes_no_files(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = make_space()
    proposals(oracle(name, space), space, 3)

    assert list(tmp_path.iterdir()) == []
